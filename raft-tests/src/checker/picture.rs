//! A history as a picture: one HTML file that needs nothing else. One lane for each process, a bar for each operation
//! from its invocation to its end, open to the right while its outcome is unknown; faults are bands behind the lanes.
//!
//! Across is the order of events, one step each, for a wait of 5 s beside an answer in 1 ms would leave nothing to see;
//! the times stand above. All text from the history is escaped: a key may hold anything.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use super::command::VIOLATIONS_SHOWN;
use super::history::{Answer, History, Micros, OpId, Operation, Outcome, Phase, ProcessId};
use super::{Report, Verdict, lines};

/// Operations drawn in one picture; the last ones are kept, for a violation is at the end of its prefix.
const OPERATIONS_DRAWN_MAX: usize = 1_500;

const STEP_PX: usize = 26;
/// Where there is room, bars are wide enough for their labels.
const WIDE_STEP_PX: usize = 70;
const WIDE_COLUMNS_MAX: usize = 200;
const LANE_PX: usize = 34;
const BAR_PX: usize = 24;
const LEFT_PX: usize = 60;
const TOP_PX: usize = 40;
/// About the width of a letter in a bar.
const LETTER_PX: usize = 7;
/// From one written time to the next.
const TIME_EVERY_PX: usize = 140;

const STYLE: &str = "body{font:14px sans-serif;margin:1em}h2{font-size:16px}div{overflow-x:auto;border:1px solid #ccc}\
text{font:11px monospace;fill:#222}.ok{fill:#b7dfb9}.read{fill:#bcd7f5}.refused{fill:#d9c8ef}.fail{fill:#d8d8d8}\
.info{fill:#f7d794}.open{fill:#fbe8c0}.bad{stroke:#c00;stroke-width:3}.fault{fill:#f4b6b6;opacity:.45}\
.unconfirmed{fill:none;stroke:#c66;stroke-dasharray:5 4}.lane{stroke:#eee}.key span{padding:2px 8px;margin-right:6px}";

/// The whole file.
pub fn picture(history: &History, report: &Report) -> String {
    let verdict = match report.verdict() {
        Verdict::Good => "good",
        Verdict::Violation => "bad",
        Verdict::Undecided => "undecided",
    };
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>History: {verdict}</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>History: {verdict}</h1>\n\
         <p>{} operations on {} keys, {} writes of unknown outcome, {} violations, {} undecided keys.</p>\n<p class=\"key\">",
        report.operations,
        report.keys,
        report.unknown_writes,
        report.violations.len(),
        report.undecided.len()
    );
    for (class, colour, meaning) in [
        ("ok", "#b7dfb9", "write applied"),
        ("read", "#bcd7f5", "read"),
        ("refused", "#d9c8ef", "refused (412)"),
        ("fail", "#d8d8d8", "not applied"),
        ("info", "#f7d794", "unknown"),
        ("fault", "#f4b6b6", "fault standing"),
    ] {
        let _ = write!(html, "<span style=\"background:{colour}\" title=\"{class}\">{meaning}</span>");
    }
    html.push_str("a red frame: impossible together with the rest</p>\n");
    for violation in report.violations.iter().take(VIOLATIONS_SHOWN) {
        let shown: HashSet<OpId> = violation.shown.iter().copied().collect();
        let bad: HashSet<OpId> = violation.culprits.iter().copied().collect();
        let key = escape(&lines::quoted(&violation.key));
        let _ = writeln!(html, "<h2>Key {key}: {}</h2>", escape(&violation.why));
        let operations = history.operations.iter().filter(|operation| shown.contains(&operation.id)).collect();
        draw(&mut html, history, operations, &bad, violation.last_event);
    }
    for undecided in &report.undecided {
        let _ = writeln!(html, "<h2>Undecided: {}</h2>", escape(&lines::undecided(undecided)));
        let operations = history.operations.iter().filter(|operation| operation.key == undecided.key).collect();
        draw(&mut html, history, operations, &HashSet::new(), usize::MAX);
    }
    let bad = report.violations.iter().flat_map(|violation| &violation.culprits).copied().collect();
    html.push_str("<h2>All keys</h2>\n");
    draw(&mut html, history, history.operations.iter().collect(), &bad, usize::MAX);
    html.push_str("</body></html>\n");
    html
}

/// Where things stand in one drawing.
struct Layout {
    /// Column of each event that is drawn, and its time.
    columns: BTreeMap<usize, (usize, Micros)>,
    lanes: BTreeMap<ProcessId, usize>,
    step_px: usize,
    right: usize,
    bottom: usize,
    /// The last event that has happened here: what ends later is open.
    last: usize,
    /// With several keys, each bar says its own.
    one_key: bool,
}

impl Layout {
    fn new(history: &History, operations: &[&Operation], last: usize) -> Self {
        let first = operations.first().map_or(0, |operation| operation.invoked.event);
        let ends = |operation: &&Operation| [Some(operation.invoked), operation.ended];
        let mut columns: BTreeMap<usize, (usize, Micros)> = operations
            .iter()
            .flat_map(ends)
            .flatten()
            .chain(history.nemeses.iter().map(|(at, _)| *at).filter(|at| at.event >= first))
            .filter(|at| at.event <= last)
            .map(|at| (at.event, (0, at.time)))
            .collect();
        for (column, place) in columns.values_mut().enumerate() {
            place.0 = column;
        }
        let mut lanes: BTreeMap<ProcessId, usize> = operations.iter().map(|one| (one.process, 0)).collect();
        for (number, lane) in lanes.values_mut().enumerate() {
            *lane = TOP_PX + number * LANE_PX;
        }
        let step_px = if columns.len() <= WIDE_COLUMNS_MAX { WIDE_STEP_PX } else { STEP_PX };
        let right = LEFT_PX + (columns.len() + 1) * step_px;
        let bottom = TOP_PX + lanes.len() * LANE_PX + 20;
        let one_key = operations.windows(2).all(|pair| pair[0].key == pair[1].key);
        Self { columns, lanes, step_px, right, bottom, last, one_key }
    }

    /// None when the event is not drawn.
    fn x(&self, event: usize) -> Option<usize> {
        self.columns.get(&event).map(|&(column, _)| LEFT_PX + column * self.step_px)
    }
}

/// Draws what happened until the event `last`.
fn draw(html: &mut String, history: &History, mut operations: Vec<&Operation>, bad: &HashSet<OpId>, last: usize) {
    if let Some(left_out) = operations.len().checked_sub(OPERATIONS_DRAWN_MAX).filter(|&left_out| left_out > 0) {
        operations.drain(..left_out);
        let _ = writeln!(html, "<p>The first {left_out} operations are left out of this picture.</p>");
    }
    let layout = Layout::new(history, &operations, last);
    let Layout { right, bottom, step_px, .. } = layout;
    let _ = writeln!(html, "<div><svg width=\"{}\" height=\"{bottom}\" role=\"img\">", right + 40);
    draw_faults(html, history, &layout);
    for (process, lane) in &layout.lanes {
        let (middle, text) = (lane + BAR_PX / 2, lane + 16);
        let _ = writeln!(html, "<line class=\"lane\" x1=\"0\" x2=\"{right}\" y1=\"{middle}\" y2=\"{middle}\"/>");
        let _ = writeln!(html, "<text x=\"2\" y=\"{text}\">p{process}</text>");
    }
    for (column, time) in layout.columns.values().step_by(TIME_EVERY_PX / step_px) {
        let _ = writeln!(html, "<text x=\"{}\" y=\"12\">{time} ms</text>", LEFT_PX + column * step_px);
    }
    // From the last to the first, so that each bar knows where the next one of its lane begins.
    let mut next_in_lane: BTreeMap<ProcessId, usize> = BTreeMap::new();
    for operation in operations.into_iter().rev() {
        let Some(from) = layout.x(operation.invoked.event) else { continue };
        let room_px = next_in_lane.insert(operation.process, from).unwrap_or(right).saturating_sub(from);
        draw_bar(html, operation, &layout, from, room_px, bad.contains(&operation.id));
    }
    html.push_str("</svg></div>\n");
}

/// `room_px` is what the label may take, also beyond a short bar.
fn draw_bar(html: &mut String, operation: &Operation, layout: &Layout, from: usize, room_px: usize, is_bad: bool) {
    // Of an unknown outcome the end says nothing: the bar stays open.
    let is_told = operation.outcome != Outcome::Info;
    let to = operation.ended.filter(|at| is_told && at.event <= layout.last).and_then(|at| layout.x(at.event));
    let width = to.unwrap_or(layout.right).saturating_sub(from).max(STEP_PX - 4);
    let (class, frame) = (class(operation, to.is_some()), if is_bad { " bad" } else { "" });
    let key = if layout.one_key { String::new() } else { format!("{} ", operation.key) };
    let asked = lines::asked(&operation.request);
    let label = match &operation.outcome {
        Outcome::Ok(answer) if to.is_some() => format!("{key}{asked} → {}", lines::answered(answer)),
        _ => format!("{key}{asked}"),
    };
    // Revisions share their leading zeros; in full they are in the title.
    let label: String = label.replace("00000000", "").chars().take(room_px.saturating_sub(6) / LETTER_PX).collect();
    let node = operation.node.as_deref().map(|node| format!(" at {node}")).unwrap_or_default();
    let end = if to.is_some() || !is_told { lines::ended(operation) } else { "open here".to_string() };
    let title = format!(
        "operation {}{node}, key {}, from {} ms\n{asked}\n{end}",
        operation.id,
        lines::quoted(&operation.key),
        operation.invoked.time,
    );
    let y = layout.lanes[&operation.process];
    let _ = writeln!(
        html,
        "<g><title>{}</title><rect class=\"{class}{frame}\" x=\"{from}\" y=\"{y}\" width=\"{width}\" \
         height=\"{BAR_PX}\" rx=\"3\"/><text x=\"{}\" y=\"{}\">{}</text></g>",
        escape(&title),
        from + 3,
        y + 16,
        escape(&label)
    );
}

fn class(operation: &Operation, has_ended: bool) -> &'static str {
    match &operation.outcome {
        Outcome::Info if operation.ended.is_some() => "info",
        _ if !has_ended => "open",
        Outcome::Ok(Answer::Refused { .. }) => "refused",
        Outcome::Ok(Answer::Found { .. } | Answer::Absent) => "read",
        Outcome::Ok(Answer::Written { .. } | Answer::Deleted { .. }) => "ok",
        Outcome::Fail => "fail",
        Outcome::Info => "open",
    }
}

/// A band from each fault's begin to its end, over all lanes. One that began before the picture starts at its left.
fn draw_faults(html: &mut String, history: &History, layout: &Layout) {
    let Some(&first) = layout.columns.keys().next() else { return };
    for (place, (began, nemesis)) in history.nemeses.iter().enumerate() {
        if nemesis.what != Phase::Begin || began.event > layout.last {
            continue;
        }
        let end = history.nemeses[place..]
            .iter()
            .find(|(_, other)| other.what == Phase::End && other.fault == nemesis.fault && other.on == nemesis.on);
        if end.is_some_and(|(at, _)| at.event < first) {
            continue;
        }
        let from = layout.x(began.event).unwrap_or(LEFT_PX);
        let to = end.and_then(|(at, _)| layout.x(at.event)).unwrap_or(layout.right);
        let width = to.saturating_sub(from).max(2);
        // The end says whether it took place in the end.
        let confirmed = nemesis.confirmed || end.is_some_and(|(_, end)| end.confirmed);
        let class = if confirmed { "fault" } else { "fault unconfirmed" };
        let name = format!("{} {}", nemesis.fault, nemesis.on.join(" "));
        let title = format!("fault {name}, from {} ms{}", began.time, if confirmed { "" } else { ", unconfirmed" });
        let _ = writeln!(
            html,
            "<g><title>{}</title><rect class=\"{class}\" x=\"{from}\" y=\"18\" width=\"{width}\" height=\"{}\"/>\
             <text x=\"{}\" y=\"30\">{}</text></g>",
            escape(&title),
            layout.bottom - 18,
            from + 3,
            escape(&name)
        );
    }
}

/// For element text and quoted attributes. Control characters, which no browser takes, become a visible mark.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push('\n'),
            other if other.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
#[path = "picture_tests.rs"]
mod tests;
