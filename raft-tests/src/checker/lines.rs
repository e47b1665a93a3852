//! A history in words: one line for each event, and what is known of why something is impossible.

use std::fmt::Write as _;

use super::history::{Answer, Expect, History, Mode, Operation, Outcome, Phase, Request};
use super::key::Key;
use super::{Kind, Undecided, Violation, Why};

/// Longest piece of a key or a value that is printed.
const TEXT_CHARS_MAX: usize = 60;

/// What an operation asks, as `cas "3.9" if 0000000000000004`.
pub(super) fn asked(request: &Request) -> String {
    let condition = match request.expect() {
        None => String::new(),
        Some(Expect::Revision(revision)) => format!(" if at {revision}"),
        Some(Expect::Exists) => " if it exists".to_string(),
        Some(Expect::Absent) => " if it is absent".to_string(),
    };
    match request {
        Request::Get { mode: Mode::Linearizable } => "get".to_string(),
        Request::Get { mode } => format!("get {}", mode_name(*mode)),
        Request::Put { value, expect: None } => format!("put {}", quoted(value)),
        Request::Put { value, .. } => format!("cas {}{condition}", quoted(value)),
        Request::Delete { .. } => format!("delete{condition}"),
    }
}

pub(super) fn answered(answer: &Answer) -> String {
    match answer {
        Answer::Found { ver, value: Some(value) } => format!("{} at {ver}", quoted(value)),
        Answer::Found { ver, value: None } => format!("at {ver}"),
        Answer::Absent => "absent".to_string(),
        Answer::Written { ver } => format!("written at {ver}"),
        Answer::Deleted { ver: Some(ver) } => format!("deleted at {ver}"),
        Answer::Deleted { ver: None } => "deleted".to_string(),
        Answer::Refused { current: Some(ver) } => format!("412, it is at {ver}"),
        Answer::Refused { current: None } => "412, it is absent".to_string(),
    }
}

/// How an operation ended, in one or two words and its facts.
pub(super) fn ended(operation: &Operation) -> String {
    let why = || operation.why.as_deref().map(|why| format!(": {}", shortened(why))).unwrap_or_default();
    match (&operation.outcome, operation.ended) {
        (Outcome::Ok(answer), _) => {
            let age = operation.age_ms.map(|age| format!(", {age} ms old")).unwrap_or_default();
            format!("ok    {}{age}", answered(answer))
        }
        (Outcome::Fail, _) => format!("fail  certainly not applied{}", why()),
        (Outcome::Info, Some(_)) => format!("info  unknown{}", why()),
        (Outcome::Info, None) => "open  no end was recorded".to_string(),
    }
}

pub(super) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Linearizable => "linearizable",
        Mode::Lease => "lease",
        Mode::Stale => "stale",
    }
}

pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let mut short: String = chars.by_ref().take(TEXT_CHARS_MAX).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}

/// What makes the last answer of a bad prefix impossible, as far as that can be said in a sentence.
pub(super) fn why_no_order(key: &Key<'_>, culprit: &Operation) -> String {
    let writers = |wanted: &str| {
        let writes = key.operations.iter().copied();
        let writes = writes.filter(|one| matches!(&one.request, Request::Put { value, .. } if value == wanted));
        writes.collect::<Vec<&Operation>>()
    };
    let Outcome::Ok(answer) = &culprit.outcome else {
        return format!("operation {} was said not to be applied, and what was answered before needs it", culprit.id);
    };
    let ended = culprit.ended.map_or(usize::MAX, |at| at.event);
    if let Answer::Found { value: Some(value), .. } = answer {
        let writers = writers(value);
        if writers.is_empty() {
            return format!("operation {} read {}, which nobody ever wrote", culprit.id, quoted(value));
        }
        if writers.iter().all(|one| one.invoked.event > ended) {
            return format!("operation {} read {} before anybody asked to write it", culprit.id, quoted(value));
        }
        if writers.iter().all(|one| one.outcome == Outcome::Fail) {
            return format!("operation {} read {}, which only a failed write carried", culprit.id, quoted(value));
        }
    }
    if let Answer::Refused { current } = answer
        && culprit.request.expect().is_none_or(|expect| expect.holds(*current))
    {
        return format!("operation {} was refused for a condition that holds", culprit.id);
    }
    format!("no order of the operations before it lets operation {} be answered: {}", culprit.id, answered(answer))
}

pub(super) fn undecided(undecided: &Undecided) -> String {
    let key = quoted(&undecided.key);
    match undecided.why {
        Why::TooManyUnknown { unknown } => {
            format!("key {key}: {unknown} writes of unknown outcome, more than {}", super::UNKNOWN_WRITES_MAX)
        }
        Why::OutOfSteps => format!("key {key}: not decided within {} steps", super::STEPS_MAX),
    }
}

/// A violation with the events that show it, the impossible one marked.
pub(super) fn violation(history: &History, violation: &Violation) -> String {
    let mut text = format!("key {}: {}\n", quoted(&violation.key), violation.why);
    match (violation.kind, violation.is_shortest) {
        (Kind::Order, true) => {
            let (prefix, all) = (violation.prefix_events, violation.key_events);
            let _ = writeln!(text, "  the shortest bad prefix, {prefix} of {all} events of the key:");
        }
        (Kind::Order, false) => {
            let (prefix, all) = (violation.prefix_events, violation.key_events);
            let _ = writeln!(text, "  a bad prefix, {prefix} of {all} events of the key; shorter ones are undecided:");
        }
        (Kind::Revisions, _) => text.push_str("  the answers that contradict each other:\n"),
        (Kind::StaleRead, _) => text.push_str("  the read and what was asked before it ended:\n"),
    }
    text.push_str("        ms  process      op  event\n");
    let mut events: Vec<(usize, String)> = Vec::new();
    for operation in history.operations.iter().filter(|operation| violation.shown.contains(&operation.id)) {
        let mut line = |at: super::At, said: &str| {
            let is_culprit = violation.culprits.contains(&operation.id);
            let is_impossible = match violation.kind {
                Kind::Order => at.event == violation.last_event,
                Kind::Revisions | Kind::StaleRead => Some(at) == operation.ended,
            };
            let marked = is_culprit && is_impossible;
            let (mark, time) = (if marked { ">>" } else { "  " }, at.time.to_string());
            let (process, id) = (operation.process.0, operation.id.0);
            let line = format!("{mark}{time:>8}  {process:>7}  {id:>6}  {said}\n");
            events.push((at.event, line));
        };
        let shard_or_key = if operation.key == violation.key { String::new() } else { format!(" {}", operation.key) };
        line(operation.invoked, &format!("      {}{shard_or_key}", asked(&operation.request)));
        if let Some(at) = operation.ended.filter(|at| at.event <= violation.last_event) {
            line(at, &ended(operation));
        }
    }
    for (at, nemesis) in history.nemeses.iter().filter(|(at, _)| at.event < violation.last_event) {
        let what = if nemesis.what == Phase::Begin { "begins" } else { "ends" };
        let time = at.time.to_string();
        let on = nemesis.on.join(" ");
        events.push((at.event, format!("  {time:>8}        -       -  fault {} {what} {on}\n", nemesis.fault)));
    }
    events.sort_by_key(|&(event, _)| event);
    text.extend(events.into_iter().map(|(_, line)| line));
    text
}
