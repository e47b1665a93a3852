//! One key of a history: which of its operations count at a given cut, and where it stops being linearizable.
//!
//! A cut is a place in the history: everything from there on has not happened yet, so what is open there is as unknown
//! as an `info`. If a history has an order that explains it, so has each of its prefixes (leave out what the prefix
//! does not require, up to its last effect). So the shortest prefix without one is found by halving.

use std::collections::HashMap;

use super::UNKNOWN_WRITES_MAX;
use super::history::{Answer, At, Operation, Outcome, Request};
use super::model::{Act, ValueId};
use super::search::{Found, Step, search};

/// A write or a read that counts: what is asked several times under one idempotency key is one.
#[derive(Clone, Debug)]
pub(super) struct Logical<'a> {
    /// The first of its operations.
    pub(super) operation: &'a Operation,
    pub(super) invoked: At,
    /// The first answer's; with the answer, None as long as nobody knows.
    pub(super) ended: Option<At>,
    pub(super) answer: Option<&'a Answer>,
    /// The shard that gave it, as far as it says so: of a retry it may be another than the one that was asked first, for
    /// shards are split.
    pub(super) shard: Option<&'a str>,
    /// Two of its operations got different answers.
    pub(super) contradicts_itself: bool,
}

/// All operations of one key, by invocation.
pub(super) struct Key<'a> {
    pub(super) name: &'a str,
    pub(super) operations: Vec<&'a Operation>,
    values: HashMap<&'a str, ValueId>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Linearizable,
    /// The shortest prefix that has no order ends with this event; it is the shortest for certain when `is_shortest`.
    Violation {
        last_event: usize,
        is_shortest: bool,
    },
    TooManyUnknown {
        unknown: usize,
    },
    OutOfSteps,
}

impl<'a> Key<'a> {
    pub(super) fn new(name: &'a str, operations: Vec<&'a Operation>) -> Self {
        let mut values = HashMap::new();
        for operation in &operations {
            let asked = if let Request::Put { value, .. } = &operation.request { Some(value) } else { None };
            let told =
                if let Outcome::Ok(Answer::Found { value, .. }) = &operation.outcome { value.as_ref() } else { None };
            for value in asked.into_iter().chain(told) {
                let next = ValueId::try_from(values.len()).expect("a history has less than 4 billion values");
                values.entry(value.as_str()).or_insert(next);
            }
        }
        Self { name, operations, values }
    }

    /// What counts before `cut`. Left out are: what failed, for it never happened; reads without an answer, for they
    /// tell nothing; stale reads, which promise something else.
    pub(super) fn logical(&self, cut: usize) -> Vec<Logical<'a>> {
        let mut all: Vec<Logical<'a>> = Vec::new();
        let mut under_one_key = HashMap::new();
        for &operation in &self.operations {
            if operation.invoked.event >= cut || operation.is_stale_read() {
                continue;
            }
            let ended = operation.ended.filter(|ended| ended.event < cut);
            let (ended, answer) = match (&operation.outcome, ended) {
                (Outcome::Fail, Some(_)) => continue,
                (Outcome::Ok(answer), Some(ended)) => (Some(ended), Some(answer)),
                _ if !operation.is_write() => continue,
                _ => (None, None),
            };
            let shard = operation.shard.as_deref().filter(|_| answer.is_some());
            if let Some(idempotency) = operation.idempotency.as_deref().filter(|_| operation.is_write()) {
                let place = *under_one_key.entry((idempotency, &operation.request)).or_insert(all.len());
                if let Some(first) = all.get_mut(place) {
                    first.contradicts_itself |= answer.is_some() && first.answer.is_some() && answer != first.answer;
                    if let Some(ended) = ended
                        && first.ended.is_none_or(|known| ended.event < known.event)
                    {
                        (first.ended, first.answer, first.shard) = (Some(ended), answer, shard);
                    }
                    continue;
                }
            }
            let invoked = operation.invoked;
            all.push(Logical { operation, invoked, ended, answer, shard, contradicts_itself: false });
        }
        all
    }

    fn steps(&self, cut: usize) -> Vec<Step> {
        let step = |logical: &Logical<'_>| Step {
            invoked: logical.invoked.event,
            ended: logical.ended.map(|ended| ended.event),
            act: self.act(logical),
        };
        self.logical(cut).iter().map(step).collect()
    }

    fn act(&self, logical: &Logical<'_>) -> Act {
        if logical.contradicts_itself {
            return Act::Impossible;
        }
        let id = |value: &String| self.values[value.as_str()];
        match (&logical.operation.request, logical.answer) {
            (_, Some(Answer::Found { ver, value })) => {
                Act::SeePresent { revision: ver.0, value: value.as_ref().map(id) }
            }
            (_, Some(Answer::Absent)) => Act::SeeAbsent,
            (request, Some(Answer::Refused { current })) => {
                // A condition that holds for the very revision that it was refused for.
                if request.expect().is_none_or(|expect| expect.holds(*current)) {
                    return Act::Impossible;
                }
                current.map_or(Act::SeeAbsent, |current| Act::SeePresent { revision: current.0, value: None })
            }
            (Request::Put { value, expect }, Some(Answer::Written { ver })) => {
                Act::Put { value: id(value), expect: *expect, revision: Some(ver.0) }
            }
            (Request::Delete { expect }, Some(Answer::Deleted { ver })) => {
                Act::Delete { expect: *expect, revision: ver.map(|ver| ver.0) }
            }
            (Request::Put { value, expect }, None) => Act::Put { value: id(value), expect: *expect, revision: None },
            (Request::Delete { expect }, None) => Act::Delete { expect: *expect, revision: None },
            // The reader lets no other answer through, and reads without one do not count.
            _ => Act::Impossible,
        }
    }

    /// Writes that nobody knows the outcome of, at the end of the history.
    pub(super) fn unknown_writes(&self) -> usize {
        self.logical(usize::MAX).iter().filter(|logical| logical.ended.is_none()).count()
    }

    /// Whether what happened before `cut` has an order.
    pub(super) fn found(&self, cut: usize, mut steps: u64) -> (Found, u64) {
        let found = search(&self.steps(cut), &mut steps);
        (found, steps)
    }

    /// Each search may take so many steps.
    pub(super) fn judge(&self, steps: u64) -> Judgement {
        let unknown = self.unknown_writes();
        if unknown > UNKNOWN_WRITES_MAX {
            return Judgement::TooManyUnknown { unknown };
        }
        match self.found(usize::MAX, steps).0 {
            Found::Order => Judgement::Linearizable,
            Found::Undecided => Judgement::OutOfSteps,
            Found::NoOrder => self.shortest_bad_prefix(steps),
        }
    }

    /// Invariant of the halving: the first `good` events have an order or were not decided, the first `bad` have none.
    fn shortest_bad_prefix(&self, steps: u64) -> Judgement {
        let events = self.events();
        let (mut good, mut bad) = (0, events.len());
        let mut is_shortest = true;
        while bad - good > 1 {
            let middle = good.midpoint(bad);
            match self.found(events[middle - 1] + 1, steps).0 {
                Found::NoOrder => bad = middle,
                // What has an order has shorter prefixes that have one too, decided or not.
                Found::Order => (good, is_shortest) = (middle, true),
                Found::Undecided => (good, is_shortest) = (middle, false),
            }
        }
        Judgement::Violation { last_event: events[bad - 1], is_shortest }
    }

    /// Places of all events of the key that count, in order.
    pub(super) fn events(&self) -> Vec<usize> {
        let counted = self.operations.iter().filter(|operation| !operation.is_stale_read());
        let mut events: Vec<usize> = counted
            .flat_map(|operation| [Some(operation.invoked), operation.ended].into_iter().flatten())
            .map(|at| at.event)
            .collect();
        events.sort_unstable();
        events
    }
}
