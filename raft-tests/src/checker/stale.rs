//! What a stale read promises: a state of the past, and one no older than it says.
//!
//! Each is judged alone, and only what is certain counts against it:
//! - What it saw was written, by a write that did not fail and was asked before the read ended; at a revision that is
//!   that write's, if it was answered.
//! - If it told an age, what it saw had not been replaced for longer than that before it was asked. Replaced is: a
//!   larger revision was answered, to a write or to a read that is not stale; or the write had been answered, and a
//!   delete that was asked afterwards too.
//! - That the key was absent is always true of some past, for it began so. With an age it is false when a write was
//!   answered before that age began and no delete can have come after it.
//!
//! The age is what the node says of the moment of its answer, somewhere between the read's two ends, so it is counted
//! back from the invocation. An age that was not told allows any.

use std::fmt;

use super::history::{Answer, Micros, Operation, Outcome, Request};
use super::key::Logical;

const MICROS_IN_MS: u64 = 1000;

/// Why a stale read cannot be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// No write of this value at this revision was asked before the read ended, other than ones that failed.
    NeverWritten,
    /// Something newer had been answered too long before.
    TooOld,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Broken::NeverWritten => "a stale read saw what was not written by then, or only by a write that failed",
            Broken::TooOld => "a stale read is older than the age that it told",
        })
    }
}

/// `logical` is what else happened to the key, in all of the history. None: the promise was kept, or nothing was told.
pub(super) fn check(read: &Operation, logical: &[Logical<'_>]) -> Option<Broken> {
    let (Outcome::Ok(answer), Some(ended)) = (&read.outcome, read.ended) else { return None };
    // Nothing that was true until then, or later, is too old.
    let not_before = read.age_ms.map(|age| read.invoked.time.0.saturating_sub(age.saturating_mul(MICROS_IN_MS)));
    let over_by_then = |logical: &Logical<'_>| {
        not_before.is_some_and(|start| logical.ended.is_some_and(|ended| ended.time < Micros(start)))
    };
    let Answer::Found { ver, value } = answer else {
        let last_put = logical.iter().filter(|one| is_applied_put(one) && over_by_then(one));
        let last_put = last_put.max_by_key(|one| one.invoked.event)?;
        let may_delete = |one: &Logical<'_>| {
            matches!(one.operation.request, Request::Delete { .. })
                && !matches!(one.answer, Some(Answer::Refused { .. }))
                && one.invoked.event < ended.event
                && one.ended.is_none_or(|deleted| deleted.event > last_put.invoked.event)
        };
        return (!logical.iter().any(may_delete)).then_some(Broken::TooOld);
    };
    let wrote_it = |one: &&Logical<'_>| {
        let Request::Put { value: written, .. } = &one.operation.request else { return false };
        let same_value = value.as_ref().is_none_or(|value| value == written);
        let same_revision = match one.answer {
            Some(Answer::Written { ver: written }) => written == ver,
            Some(_) => false,
            None => true,
        };
        same_value && same_revision && one.invoked.event < ended.event
    };
    let writers: Vec<&Logical<'_>> = logical.iter().filter(wrote_it).collect();
    if writers.is_empty() {
        return Some(Broken::NeverWritten);
    }
    let newer_revision = |one: &Logical<'_>| match one.answer {
        Some(Answer::Written { ver: other } | Answer::Found { ver: other, .. }) => other > ver,
        Some(Answer::Deleted { ver: other }) => other.is_some_and(|other| other > *ver),
        Some(Answer::Refused { current }) => current.is_some_and(|current| current > *ver),
        Some(Answer::Absent) | None => false,
    };
    // The write itself was answered: a delete that was asked after that took its value away.
    let deleted_since = |one: &Logical<'_>| {
        matches!(one.answer, Some(Answer::Deleted { .. }))
            && writers.iter().all(|writer| writer.ended.is_some_and(|ended| ended.event < one.invoked.event))
    };
    let replaced = logical.iter().any(|one| over_by_then(one) && (newer_revision(one) || deleted_since(one)));
    replaced.then_some(Broken::TooOld)
}

fn is_applied_put(one: &Logical<'_>) -> bool {
    matches!(one.answer, Some(Answer::Written { .. }))
}
