//! The report as one HTML page that needs nothing else: what the runs come to, and for each run with a history how many
//! requests were answered, refused and left unknown in each second, and which faults stood. All text is escaped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;

use super::{Found, totals};
use crate::checker::escape;
use crate::history::{self, History, Outcome, Phase};
use crate::record::{HISTORY_FILE_NAME, Run, Verdict};

/// Runs whose histories are drawn; of more, only the figures are told.
const RUNS_DRAWN_MAX: usize = 40;
/// Lines of each list of findings.
const FINDINGS_SHOWN: usize = 50;

const CHART_WIDTH_PX: f64 = 1_100.0;
const CHART_HEIGHT_PX: f64 = 160.0;
/// Room below for the names of the seconds, above for those of the faults.
const FOOT_PX: f64 = 20.0;
const HEAD_PX: f64 = 44.0;
/// Names of faults stand on so many lines, in turn, so that they do not cover each other.
const FAULT_LINES: usize = 3;
const SECONDS_BETWEEN_NAMES: usize = 5;
const MICROS_PER_SECOND: u64 = 1_000_000;

const STYLE: &str = "body{font:14px sans-serif;margin:1.5em;max-width:1200px;color:#222}table{border-collapse:collapse}\
td,th{border:1px solid #ccc;padding:3px 9px;text-align:left}td.n{text-align:right}svg{border:1px solid #ccc}\
text{font:10px sans-serif;fill:#333}.ok{fill:#7fbf7f}.fail{fill:#aaa}.info{fill:#f0ad4e}.fault{fill:#d33;opacity:.22}\
.fault,.void{pointer-events:none}.void{fill:none;stroke:#c66;stroke-dasharray:4 3}.good{color:#1b7a1b}.bad{color:#c00;font-weight:bold}\
code{background:#f4f4f4;padding:1px 4px}span.key{padding:1px 8px;margin-right:6px}";

pub(super) fn page(found: &[Found], sums: &[Run]) -> String {
    let worst = found.iter().map(|one| one.run.verdict()).max().unwrap_or(Verdict::Good);
    let commit = found.first().map_or("unknown", |one| one.run.commit.as_str());
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Ringraft fault tests: {}</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>Ringraft fault tests: {}</h1>\n<p>{} runs of commit <code>{}</code>.</p>\n",
        worst.name(),
        verdict(worst),
        found.len(),
        escape(commit)
    );
    for sum in sums {
        sum_of_kind(&mut html, sum);
    }
    html.push_str("<h2>Runs</h2>\n<table><tr><th>kind</th><th>profile</th><th>seed</th><th>s</th><th>operations</th><th>faults</th><th>verdict</th><th>again with</th></tr>\n");
    for Found { run, .. } in found {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{:.1}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td><code>{}</code></td></tr>",
            run.kind.name(),
            escape(&run.profile),
            run.seed,
            run.seconds,
            run.operations,
            run.faults.values().map(|count| count.confirmed).sum::<u64>(),
            verdict(run.verdict()),
            escape(&run.command)
        );
    }
    html.push_str("</table>\n");
    // What went wrong is drawn before what went well.
    let mut drawn: Vec<&Found> = found.iter().filter(|one| one.directory.join(HISTORY_FILE_NAME).is_file()).collect();
    drawn.sort_by_key(|one| std::cmp::Reverse(one.run.verdict()));
    if drawn.len() > RUNS_DRAWN_MAX {
        let _ = writeln!(html, "<p>{RUNS_DRAWN_MAX} of {} runs with a history are drawn.</p>", drawn.len());
    }
    if !drawn.is_empty() {
        html.push_str(
            "<p><span class=\"key\" style=\"background:#7fbf7f\">answered</span><span class=\"key\" style=\"background:#aaa\">not \
             applied</span><span class=\"key\" style=\"background:#f0ad4e\">unknown</span><span class=\"key\" \
             style=\"background:#f7cfcf\">a fault stands</span>requests in each second, by the time of their answer</p>\n",
        );
    }
    for one in drawn.into_iter().take(RUNS_DRAWN_MAX) {
        run_of(&mut html, one);
    }
    html.push_str("</body></html>\n");
    html
}

fn verdict(verdict: Verdict) -> String {
    let class = if verdict == Verdict::Good { "good" } else { "bad" };
    format!("<span class=\"{class}\">{}</span>", verdict.name())
}

fn sum_of_kind(html: &mut String, sum: &Run) {
    let _ = writeln!(
        html,
        "<h2>{}</h2>\n<p>{} runs, {:.1} minutes, {} operations checked, {} writes of which {} of unknown outcome; {} \
         violations, {} undecided.</p>",
        sum.kind.name(),
        sum.runs,
        sum.seconds / 60.0,
        sum.operations,
        sum.writes,
        sum.unknown_writes,
        sum.violations.len(),
        sum.undecided.len()
    );
    if !sum.faults.is_empty() {
        html.push_str("<table><tr><th>fault</th><th>confirmed</th><th>on a leader</th><th>not confirmed</th></tr>\n");
        for (class, count) in &sum.faults {
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(class),
                count.confirmed,
                count.hit_leader,
                count.unconfirmed
            );
        }
        html.push_str("</table>\n");
    }
    let rows = sum.figures.iter().map(|(name, figure)| (escape(name), totals::number(*figure)));
    let codes =
        sum.fail_by_code.iter().map(|(code, count)| (format!("not applied: {}", escape(code)), count.to_string()));
    let mut rows = rows.chain(codes).peekable();
    if rows.peek().is_some() {
        html.push_str("<p></p><table><tr><th>figure</th><th></th></tr>\n");
        for (name, figure) in rows {
            let _ = writeln!(html, "<tr><td>{name}</td><td class=\"n\">{figure}</td></tr>");
        }
        html.push_str("</table>\n");
    }
}

fn run_of(html: &mut String, one: &Found) {
    let Found { directory, run } = one;
    let _ = writeln!(
        html,
        "<h2>{} {}, seed {}: {}</h2>",
        run.kind.name(),
        escape(&run.profile),
        run.seed,
        verdict(run.verdict())
    );
    let lists = [("violation", &run.violations), ("undecided", &run.undecided), ("void", &run.void)];
    for (name, list) in lists {
        for what in list.iter().take(FINDINGS_SHOWN) {
            let _ = writeln!(html, "<p class=\"bad\">{name}: {}</p>", escape(what));
        }
        if let Some(more) = list.len().checked_sub(FINDINGS_SHOWN).filter(|&more| more > 0) {
            let _ = writeln!(html, "<p>and {more} more of these</p>");
        }
    }
    let path = directory.join(HISTORY_FILE_NAME);
    let opened = File::open(&path).map_err(|error| error.to_string());
    match opened.and_then(|file| history::read(BufReader::new(file)).map_err(|why| why.to_string())) {
        Ok(history) => chart(html, &history),
        Err(why) => {
            let _ = writeln!(html, "<p class=\"bad\">its history: {}</p>", escape(&why));
        }
    }
}

/// Answers of one second.
#[derive(Clone, Copy, Default)]
struct Second {
    ok: u32,
    fail: u32,
    info: u32,
}

impl Second {
    fn all(self) -> u32 {
        self.ok + self.fail + self.info
    }
}

fn chart(html: &mut String, history: &History) {
    let mut seconds: BTreeMap<u64, Second> = BTreeMap::new();
    for operation in &history.operations {
        let Some(ended) = operation.ended else { continue };
        let second = seconds.entry(ended.time.0 / MICROS_PER_SECOND).or_default();
        match operation.outcome {
            Outcome::Ok(_) => second.ok += 1,
            Outcome::Fail => second.fail += 1,
            Outcome::Info => second.info += 1,
        }
    }
    let last_fault = history.nemeses.iter().map(|(at, _)| at.time.0 / MICROS_PER_SECOND).max();
    let Some(last) = seconds.keys().next_back().copied().max(last_fault) else { return };
    let highest = seconds.values().map(|second| second.all()).max().unwrap_or_default().max(1);
    #[expect(clippy::cast_precision_loss, reason = "a drawing of some minutes")]
    let x = |micros: u64| micros as f64 / MICROS_PER_SECOND as f64 * CHART_WIDTH_PX / (last + 1) as f64;
    let height = |count: u32| f64::from(count) * CHART_HEIGHT_PX / f64::from(highest);
    let (bottom, total) = (HEAD_PX + CHART_HEIGHT_PX, HEAD_PX + CHART_HEIGHT_PX + FOOT_PX);
    let _ = writeln!(html, "<svg width=\"{CHART_WIDTH_PX}\" height=\"{total}\" role=\"img\">");
    let width = (x(MICROS_PER_SECOND) - 1.0).max(1.0);
    for (&number, &second) in &seconds {
        let mut top = bottom;
        let left = x(number * MICROS_PER_SECOND);
        let title =
            format!("second {number}: {} answered, {} not applied, {} unknown", second.ok, second.fail, second.info);
        let _ = write!(html, "<g><title>{title}</title>");
        for (class, count) in [("ok", second.ok), ("fail", second.fail), ("info", second.info)] {
            top -= height(count);
            let _ = write!(
                html,
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
                height(count)
            );
        }
        html.push_str("</g>\n");
    }
    // In front, or the bars would hide them; they leave the titles of the bars within reach.
    faults(html, history, &x, bottom);
    for number in (0..=last).step_by(SECONDS_BETWEEN_NAMES) {
        let _ =
            writeln!(html, "<text x=\"{:.1}\" y=\"{}\">{number} s</text>", x(number * MICROS_PER_SECOND), total - 6.0);
    }
    let _ = writeln!(html, "<text x=\"2\" y=\"{}\">{highest}/s</text></svg>", HEAD_PX + 10.0);
}

/// A band from each fault's begin to its end.
fn faults(html: &mut String, history: &History, x: &dyn Fn(u64) -> f64, bottom: f64) {
    let began = history.nemeses.iter().enumerate().filter(|(_, (_, nemesis))| nemesis.what == Phase::Begin);
    for (number, (place, (at, nemesis))) in began.enumerate() {
        let is_its_end = |other: &history::Nemesis| {
            other.what == Phase::End && other.fault == nemesis.fault && other.on == nemesis.on
        };
        let end = history.nemeses[place..].iter().find(|(_, other)| is_its_end(other));
        let from = x(at.time.0);
        let to = end.map_or(CHART_WIDTH_PX, |(at, _)| x(at.time.0));
        let confirmed = nemesis.confirmed || end.is_some_and(|(_, end)| end.confirmed);
        let class = if confirmed { "fault" } else { "void" };
        let name = format!("{} {}", nemesis.fault, nemesis.on.join(" "));
        #[expect(clippy::cast_precision_loss, reason = "one of a few lines")]
        let line = 12.0 + (number % FAULT_LINES) as f64 * 13.0;
        let _ = writeln!(
            html,
            "<g><title>{0}</title><rect class=\"{class}\" x=\"{from:.1}\" y=\"{HEAD_PX}\" width=\"{1:.1}\" height=\"{2:.1}\"/>\
             <text x=\"{from:.1}\" y=\"{line}\">{0}</text></g>",
            escape(&name),
            (to - from).max(2.0),
            bottom - HEAD_PX
        );
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::history::{About, Answer, Call, Mode, Recorder, Request};
    use crate::record::RunKind;

    #[test]
    fn a_run_is_drawn_with_its_faults_and_names_from_outside_are_escaped() {
        let directory = tempfile::TempDir::new().unwrap();
        let recorder = Recorder::create(&directory.path().join(HISTORY_FILE_NAME)).unwrap();
        recorder.nemesis("kill/<leader>", Phase::Begin, &["n1".to_string()], true).unwrap();
        let mut session = recorder.session();
        let running = session.invoke(Call::new("k", Request::Get { mode: Mode::Linearizable })).unwrap();
        running.ok(Answer::Absent, About::default()).unwrap();
        recorder.nemesis("kill/<leader>", Phase::End, &["n1".to_string()], true).unwrap();
        let mut run = Run::new(RunKind::Real, "a<b", 1, "raft-tests real");
        run.violations.push("<lost>".to_string());
        let html = page(&[Found { directory: directory.path().to_path_buf(), run: run.clone() }], &[run]);
        assert!(html.contains("<svg") && html.contains("kill/&lt;leader&gt; n1") && html.contains("1 answered"));
        assert!(!html.contains("<lost>") && !html.contains("a<b"), "{html}");
    }

    #[test]
    fn a_history_that_cannot_be_read_is_told() {
        let directory = tempfile::TempDir::new().unwrap();
        std::fs::write(directory.path().join(HISTORY_FILE_NAME), "torn").unwrap();
        let run = Run::new(RunKind::Sim, "random", 1, "raft-tests sim");
        let found = Found { directory: PathBuf::from(directory.path()), run };
        assert!(page(&[found], &[]).contains("its history: line 1"));
    }
}
