//! The promise about revisions, by itself: one counter for each shard, never lowered, never reused.
//!
//! Each rule needs two answers to be seen broken, so it speaks plainly where the search only says "no order", and it
//! reaches further: over the keys of a shard, over stale reads, and over keys with too much unknown for a search.
//! - Two writes never get one revision: not of one key, and not of one shard either, where answers name the shard.
//! - A write gets a revision above every one that was answered before it was asked; a read does not see a lower one.
//! - A revision has one value: what the write that got it wrote, and what every read of it sees; a delete's has none.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use ringraft::types::Revision;

use super::history::{Answer, Operation, Outcome, Request};
use super::key::{Key, Logical};

/// Two answers that cannot both be true.
pub(super) struct Contradiction<'a> {
    pub(super) first: &'a Operation,
    pub(super) second: &'a Operation,
    pub(super) why: String,
}

/// What is known to be at a revision.
#[derive(PartialEq, Eq)]
enum Content<'a> {
    Value(&'a str),
    Deleted,
}

/// The first contradiction among the answers about one key.
pub(super) fn check_key<'a>(key: &Key<'a>) -> Option<Contradiction<'a>> {
    let logical = key.logical(usize::MAX);
    reused(&logical).or_else(|| lowered(&logical)).or_else(|| two_values(key, &logical))
}

/// Writes of different keys with one revision in one shard.
pub(super) fn check_shards<'a>(keys: &[Key<'a>]) -> Vec<Contradiction<'a>> {
    let mut writers: BTreeMap<(&str, Revision), &Operation> = BTreeMap::new();
    let mut contradictions = Vec::new();
    for logical in keys.iter().flat_map(|key| key.logical(usize::MAX)) {
        let operation = logical.operation;
        let (Some(shard), Some(revision)) = (logical.shard, written(&logical)) else { continue };
        let first = *writers.entry((shard, revision)).or_insert(operation);
        // Of one key it is the key's own fault.
        if first.key != operation.key {
            let why = format!("two keys of shard {shard} were written at one revision, {revision}");
            contradictions.push(Contradiction { first, second: operation, why });
        }
    }
    contradictions
}

fn written(logical: &Logical<'_>) -> Option<Revision> {
    match logical.answer {
        Some(Answer::Written { ver }) => Some(*ver),
        Some(Answer::Deleted { ver }) => *ver,
        _ => None,
    }
}

fn seen(answer: &Answer) -> Option<Revision> {
    match answer {
        Answer::Found { ver, .. } => Some(*ver),
        Answer::Refused { current } => *current,
        Answer::Written { .. } | Answer::Deleted { .. } | Answer::Absent => None,
    }
}

fn reused<'a>(logical: &[Logical<'a>]) -> Option<Contradiction<'a>> {
    let mut writers: BTreeMap<Revision, &Operation> = BTreeMap::new();
    for write in logical {
        let Some(revision) = written(write) else { continue };
        let second = write.operation;
        match writers.entry(revision) {
            Entry::Vacant(vacant) => drop(vacant.insert(second)),
            Entry::Occupied(first) => {
                let why = format!("two writes got one revision, {revision}");
                return Some(Contradiction { first: first.get(), second, why });
            }
        }
    }
    None
}

fn lowered<'a>(logical: &[Logical<'a>]) -> Option<Contradiction<'a>> {
    // The largest revision answered by each event, in the order of the events.
    let mut answered: Vec<(usize, Revision, &Operation)> = logical
        .iter()
        .filter_map(|one| {
            let revision = written(one).or_else(|| one.answer.and_then(seen))?;
            Some((one.ended?.event, revision, one.operation))
        })
        .collect();
    answered.sort_by_key(|&(event, ..)| event);
    for place in 1..answered.len() {
        if answered[place].1 < answered[place - 1].1 {
            (answered[place].1, answered[place].2) = (answered[place - 1].1, answered[place - 1].2);
        }
    }
    for one in logical {
        let before = answered.partition_point(|&(event, ..)| event < one.invoked.event);
        let Some(&(_, highest, first)) = before.checked_sub(1).and_then(|place| answered.get(place)) else { continue };
        let second = one.operation;
        if let Some(revision) = written(one)
            && revision <= highest
        {
            let why = format!("a write got revision {revision} after {highest} had been answered");
            return Some(Contradiction { first, second, why });
        }
        if let Some(revision) = one.answer.and_then(seen)
            && revision < highest
        {
            let why = format!("revision {revision} was seen after {highest} had been answered");
            return Some(Contradiction { first, second, why });
        }
    }
    None
}

fn two_values<'a>(key: &Key<'a>, logical: &[Logical<'a>]) -> Option<Contradiction<'a>> {
    let mut contents: BTreeMap<Revision, (Content<'a>, &'a Operation)> = BTreeMap::new();
    for write in logical {
        let Some(revision) = written(write) else { continue };
        let content = match &write.operation.request {
            Request::Put { value, .. } => Content::Value(value),
            Request::Delete { .. } | Request::Get { .. } => Content::Deleted,
        };
        contents.entry(revision).or_insert((content, write.operation));
    }
    for &operation in &key.operations {
        let Outcome::Ok(answer) = &operation.outcome else { continue };
        let Some(revision) = seen(answer) else { continue };
        let value = if let Answer::Found { value, .. } = answer { value.as_deref() } else { None };
        let Some(value) = value else {
            if let Some((Content::Deleted, first)) = contents.get(&revision) {
                let why = format!("the key was seen at {revision}, the revision of a delete");
                return Some(Contradiction { first, second: operation, why });
            }
            continue;
        };
        let (known, first) = contents.entry(revision).or_insert((Content::Value(value), operation));
        if *known != Content::Value(value) {
            let why = format!("revision {revision} was seen with another value than it has");
            return Some(Contradiction { first, second: operation, why });
        }
    }
    None
}
