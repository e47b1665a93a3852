//! How old the answers of lease reads were, exactly: over all of them, how long a newer write had been acknowledged when
//! the read began. Zero for every read is what a lease promises.

use std::collections::{BTreeMap, BTreeSet};

use ringraft::types::Revision;

use crate::history::{Answer, At, History, Micros, Mode, OpId, Operation, Outcome, Request};

const MICROS_IN_MS: f64 = 1000.0;
const MICROS_IN_SECOND: f64 = 1_000_000.0;

/// What the lease reads of a history come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StaleWindows {
    /// Reads that asked for a lease and were answered.
    pub answered: u64,
    /// Of them, those that the leader answered without asking anyone.
    pub served_by_lease: u64,
    /// Answered ones that missed a write which had been acknowledged before they began.
    pub stale: u64,
    /// The stale read with the largest window.
    pub worst: Option<StaleRead>,
    /// By node, over the time from the first lease read to the last.
    pub asked_per_second: BTreeMap<String, f64>,
    pub answered_per_second: BTreeMap<String, f64>,
}

/// A lease read that broke its promise.
#[derive(Clone, Debug, PartialEq)]
pub struct StaleRead {
    pub op: OpId,
    pub key: String,
    pub node: Option<String>,
    /// Since the first of the writes that it missed was acknowledged: how long what it saw had been replaced.
    pub window_ms: f64,
    /// The same since the last of them.
    pub last_missed_ms: f64,
}

impl StaleWindows {
    /// 0 when no read was stale.
    pub fn window_ms_max(&self) -> f64 {
        self.worst.as_ref().map_or(0.0, |worst| worst.window_ms)
    }

    /// Of the node with the fewest answers. 0 when there was no lease read.
    pub fn answered_per_second_min(&self) -> f64 {
        self.answered_per_second.values().copied().reduce(f64::min).unwrap_or_default()
    }
}

/// Over all lease reads of a history.
pub fn stale_windows(history: &History) -> StaleWindows {
    let keys = Keys::of(history);
    let mut windows = StaleWindows::default();
    let reads = || history.operations.iter().filter(|one| one.request == Request::Get { mode: Mode::Lease });
    for read in reads() {
        let Outcome::Ok(answer) = &read.outcome else { continue };
        windows.answered += 1;
        windows.served_by_lease += u64::from(read.served == Some(Mode::Lease));
        let Some(stale) = keys.missed(read, answer) else { continue };
        windows.stale += 1;
        if windows.worst.as_ref().is_none_or(|worst| worst.window_ms < stale.window_ms) {
            windows.worst = Some(stale);
        }
    }
    let first = reads().map(|read| read.invoked.time).min().unwrap_or_default();
    let last = reads().map(|read| read.invoked.time).max().unwrap_or_default();
    let seconds = (last.0 - first.0) as f64 / MICROS_IN_SECOND;
    for read in reads() {
        let node = read.node.clone().unwrap_or_default();
        let is_answered = matches!(read.outcome, Outcome::Ok(_));
        *windows.answered_per_second.entry(node.clone()).or_default() += f64::from(u8::from(is_answered));
        *windows.asked_per_second.entry(node).or_default() += 1.0;
    }
    let rates = windows.asked_per_second.values_mut().chain(windows.answered_per_second.values_mut());
    // One read has no pace.
    rates.for_each(|rate| *rate = if seconds > 0.0 { *rate / seconds } else { 0.0 });
    windows
}

struct Keys<'a> {
    /// Acknowledged writes with their revisions, in the order in which they were acknowledged.
    written: BTreeMap<&'a str, Vec<(At, Revision)>>,
    /// Keys that may have been deleted: of them an absent value says nothing here.
    deleted: BTreeSet<&'a str>,
}

impl<'a> Keys<'a> {
    fn of(history: &'a History) -> Self {
        let mut keys = Self { written: BTreeMap::new(), deleted: BTreeSet::new() };
        for operation in &history.operations {
            if matches!(operation.request, Request::Delete { .. }) && operation.outcome != Outcome::Fail {
                keys.deleted.insert(&operation.key);
            }
            if let (Outcome::Ok(Answer::Written { ver }), Some(ended)) = (&operation.outcome, operation.ended) {
                keys.written.entry(&operation.key).or_default().push((ended, *ver));
            }
        }
        keys.written.values_mut().for_each(|written| written.sort_by_key(|(ended, _)| ended.event));
        keys
    }

    fn missed(&self, read: &Operation, answer: &Answer) -> Option<StaleRead> {
        let seen = match answer {
            Answer::Found { ver, .. } => *ver,
            Answer::Absent if !self.deleted.contains(read.key.as_str()) => Revision(0),
            _ => return None,
        };
        let written = self.written.get(read.key.as_str())?;
        let before = written.partition_point(|(ended, _)| ended.event < read.invoked.event);
        let mut missed = written[..before].iter().filter(|(_, ver)| *ver > seen).map(|(ended, _)| ended.time);
        let first = missed.next()?;
        let last = missed.next_back().unwrap_or(first);
        let since = |time: Micros| (read.invoked.time.0 - time.0) as f64 / MICROS_IN_MS;
        Some(StaleRead {
            op: read.id,
            key: read.key.clone(),
            node: read.node.clone(),
            window_ms: since(first),
            last_missed_ms: since(last),
        })
    }
}

#[cfg(test)]
#[path = "stale_windows_tests.rs"]
mod tests;
