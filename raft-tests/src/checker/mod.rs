//! Was what the clients were told possible? Each key for itself: linearizability of its reads, writes and refusals
//! ([`search`] over the [`model`]), the promise about revisions ([`revisions`]), and the promise of stale reads
//! ([`stale`]).
//!
//! No operation is left out but a read without an answer. What cannot be decided is said to be undecided, which is a
//! failed run: a key with more than [`UNKNOWN_WRITES_MAX`] writes of unknown outcome, or a search of more than
//! [`STEPS_MAX`] steps.

mod command;
mod key;
mod lines;
mod model;
mod picture;
mod revisions;
mod search;
mod stale;

use std::collections::BTreeMap;

pub use command::command;
pub(crate) use picture::escape;
pub use picture::picture;

use crate::history::{self, Answer, At, History, Mode, OpId, Operation, Outcome, Request};
use key::{Judgement, Key};

/// Writes of unknown outcome on one key: the search doubles with each. A runner leaves a key alone from here on.
pub const UNKNOWN_WRITES_MAX: usize = 8;

/// Steps of one search, each of them a state that is looked at; about 200 bytes are kept for each.
pub const STEPS_MAX: u64 = 2_000_000;

/// What came of a whole history.
#[derive(Debug, Default)]
pub struct Report {
    pub operations: usize,
    pub keys: usize,
    pub unknown_writes: usize,
    pub failed: usize,
    pub reads: BTreeMap<Mode, usize>,
    pub unanswered_reads: usize,
    pub refused_writes: usize,
    pub violations: Vec<Violation>,
    pub undecided: Vec<Undecided>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No order of the operations explains the answers.
    Order,
    Revisions,
    StaleRead,
}

#[derive(Debug)]
pub struct Violation {
    pub key: String,
    pub kind: Kind,
    pub why: String,
    /// Operations that cannot be true together with the rest.
    pub culprits: Vec<OpId>,
    /// Operations of the shortest bad prefix. Of revisions and stale reads, all that it takes to see the fault.
    pub shown: Vec<OpId>,
    /// The prefix ends with this event, and holds this many of the key's.
    pub last_event: usize,
    pub prefix_events: usize,
    pub key_events: usize,
    pub is_shortest: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Undecided {
    pub key: String,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    TooManyUnknown { unknown: usize },
    OutOfSteps,
}

/// What a history comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Violation,
    Undecided,
}

impl Report {
    /// A violation is one whatever else could not be decided.
    pub fn verdict(&self) -> Verdict {
        if !self.violations.is_empty() {
            Verdict::Violation
        } else if !self.undecided.is_empty() {
            Verdict::Undecided
        } else {
            Verdict::Good
        }
    }
}

/// Checks every key.
pub fn check(history: &History) -> Report {
    check_within(history, STEPS_MAX)
}

fn check_within(history: &History, steps: u64) -> Report {
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    let keys: Vec<Key<'_>> = by_key.into_iter().map(|(name, operations)| Key::new(name, operations)).collect();
    let mut report = Report { operations: history.operations.len(), keys: keys.len(), ..Report::default() };
    for operation in &history.operations {
        report.count(operation);
    }
    for key in &keys {
        report.unknown_writes += key.unknown_writes();
        report.check_order(key, steps);
        report.check_stale_reads(key);
        if let Some(found) = revisions::check_key(key) {
            report.contradiction(key.name, found);
        }
    }
    for found in revisions::check_shards(&keys) {
        report.contradiction(&found.second.key.clone(), found);
    }
    report
}

impl Report {
    fn count(&mut self, operation: &Operation) {
        let answered = matches!(operation.outcome, Outcome::Ok(_));
        match (&operation.request, &operation.outcome) {
            (Request::Get { mode }, _) if answered => {
                *self.reads.entry(operation.served.unwrap_or(*mode)).or_default() += 1;
            }
            (Request::Get { .. }, _) => self.unanswered_reads += 1,
            (_, Outcome::Fail) => self.failed += 1,
            (_, Outcome::Ok(Answer::Refused { .. })) => self.refused_writes += 1,
            _ => {}
        }
    }

    fn check_order(&mut self, key: &Key<'_>, steps: u64) {
        let (last_event, is_shortest) = match key.judge(steps) {
            Judgement::Linearizable => return,
            Judgement::Violation { last_event, is_shortest } => (last_event, is_shortest),
            Judgement::TooManyUnknown { unknown } => return self.undecided(key, Why::TooManyUnknown { unknown }),
            Judgement::OutOfSteps => return self.undecided(key, Why::OutOfSteps),
        };
        let counted = || key.operations.iter().filter(|operation| !operation.is_stale_read());
        let ends_it = |at: At| at.event == last_event;
        let culprit = counted()
            .find(|operation| ends_it(operation.invoked) || operation.ended.is_some_and(ends_it))
            .expect("an event of the key is one of its operations'");
        let events = key.events();
        self.violations.push(Violation {
            key: key.name.to_string(),
            kind: Kind::Order,
            why: lines::why_no_order(key, culprit),
            culprits: vec![culprit.id],
            shown: counted().filter(|one| one.invoked.event <= last_event).map(|one| one.id).collect(),
            last_event,
            prefix_events: events.iter().filter(|&&event| event <= last_event).count(),
            key_events: events.len(),
            is_shortest,
        });
    }

    fn undecided(&mut self, key: &Key<'_>, why: Why) {
        self.undecided.push(Undecided { key: key.name.to_string(), why });
    }

    fn check_stale_reads(&mut self, key: &Key<'_>) {
        let logical = key.logical(usize::MAX);
        for &read in key.operations.iter().filter(|operation| operation.is_stale_read()) {
            let Some(broken) = stale::check(read, &logical) else { continue };
            let Some(ended) = read.ended else { continue };
            let before = key.operations.iter().filter(|one| one.invoked.event <= ended.event && !one.is_stale_read());
            let shown = before.map(|one| one.id).chain([read.id]).collect();
            self.add_small(key.name, Kind::StaleRead, broken.to_string(), vec![read.id], shown, ended.event);
        }
    }

    fn contradiction(&mut self, key: &str, found: revisions::Contradiction<'_>) {
        let both = [found.first, found.second];
        let last = both.iter().filter_map(|operation| operation.ended).map(|at| at.event).max().unwrap_or_default();
        let ids = both.iter().map(|operation| operation.id).collect::<Vec<_>>();
        self.add_small(key, Kind::Revisions, found.why, ids.clone(), ids, last);
    }

    /// One that a few operations show.
    fn add_small(&mut self, key: &str, kind: Kind, why: String, culprits: Vec<OpId>, shown: Vec<OpId>, last: usize) {
        let events = 2 * shown.len();
        let key = key.to_string();
        self.violations.push(Violation {
            key,
            kind,
            why,
            culprits,
            shown,
            last_event: last,
            prefix_events: events,
            key_events: events,
            is_shortest: true,
        });
    }
}

#[cfg(test)]
mod tests;
