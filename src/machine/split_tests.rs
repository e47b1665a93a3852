//! What a split changes in the state of the parent, what the child begins with, and that no replica can be told from another
//! by what a split left on its disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::dedup::RETENTION_MS;
use super::split::{Members, Place, child_state, is_left_over};
use super::tests::{born, engine, put, write};
use super::txn::Txn;
use super::*;
use crate::catalog::ReplicaBirth;
use crate::ring::{Token, TokenRange, token_of};
use crate::storage::{Batch, Durability, Engine, KeyRange, keys};
use crate::types::{Epoch, ReplicaId, ShardId};

const CHILD: ShardId = ShardId(9);
const MEMBERSHIP: u64 = 5;
/// The index of the split's entry.
const INDEX: u64 = 77;
/// Both sides of the whole ring.
const AT: Token = Token(1 << 63);

struct Here {
    are_settled: bool,
}

impl Place for Here {
    fn index(&self) -> u64 {
        INDEX
    }

    fn members(&self) -> Members {
        let voters = BTreeSet::from([ReplicaId(1), ReplicaId(2)]);
        Members { index: Some(MEMBERSHIP), voters, are_settled: self.are_settled }
    }
}

const SETTLED: Here = Here { are_settled: true };

fn births() -> Vec<ReplicaBirth> {
    [1, 2].map(|parent| ReplicaBirth { parent: ReplicaId(parent), child: ReplicaId(parent + 10) }).to_vec()
}

fn split() -> Split {
    Split { epoch: Epoch(1), membership: MEMBERSHIP, at: AT, child: CHILD, births: births() }
}

/// One replica of a shard.
struct Replica {
    engine: Arc<dyn Engine>,
    state: ShardState,
}

impl Replica {
    fn new() -> Self {
        Self { engine: engine(), state: born(TokenRange::full()) }
    }

    fn apply_at(&mut self, command: &Command, place: &impl Place) -> Response {
        let mut txn = Txn::new(self.engine.as_ref());
        let answer = apply(&mut txn, &mut self.state, &mut None, command, place).unwrap();
        self.engine.write(txn.into_batch(), Durability::Buffered).unwrap();
        answer
    }

    fn apply(&mut self, command: &Command) -> Response {
        self.apply_at(command, &SETTLED)
    }

    fn put(&mut self, key: &str, time_ms: u64, idempotency_key: Option<&str>) -> Response {
        let idempotency_key = idempotency_key.map(|key| Bytes::copy_from_slice(key.as_bytes()));
        self.apply(&Command::Write(Write { idempotency_key, ..write(key, time_ms, put("v")) }))
    }

    /// The child beside this replica, with all of its rows.
    fn split(&mut self) -> Self {
        let before = self.state.clone();
        assert_eq!(self.apply(&Command::Split(split())), Response::Split);
        let mut rows = Batch::default();
        for row in self.engine.view().scan(&KeyRange { from: Bytes::new(), before: None }) {
            let (key, value) = row.unwrap();
            rows.put(key, value);
        }
        let child = engine();
        child.write(rows, Durability::Buffered).unwrap();
        Self { engine: child, state: child_state(&before, &self.state, &split()) }
    }

    /// As a snapshot fills a replica: without what is not the shard's.
    fn without_left_overs(&self) -> Self {
        let mut rows = Batch::default();
        for row in self.engine.view().scan(&KeyRange { from: Bytes::new(), before: None }) {
            let (key, value) = row.unwrap();
            if !is_left_over(&key, self.state.range) {
                rows.put(key, value);
            }
        }
        let engine = engine();
        engine.write(rows, Durability::Buffered).unwrap();
        Self { engine, state: self.state.clone() }
    }
}

/// A key of the parent's side, and one of the child's.
fn keys_of_both() -> (String, String) {
    let find = |is_right: bool| {
        (0..).map(|number| format!("k{number}")).find(|key| (token_of(key.as_bytes()) >= AT) == is_right).unwrap()
    };
    (find(false), find(true))
}

#[test]
fn each_key_is_one_shard_s_and_revisions_and_answers_go_on() {
    let (left, right) = keys_of_both();
    let mut parent = Replica::new();
    let first = parent.put(&right, 7, Some("retry"));
    parent.put(&left, 8, Some("other"));
    let revision = parent.state.revision;
    let mut child = parent.split();

    let not_owner = |state: &ShardState| Response::NotOwner { range: state.range, epoch: state.epoch };
    assert_eq!(parent.put(&right, 9, None), not_owner(&parent.state));
    assert_eq!(child.put(&left, 9, None), not_owner(&child.state));
    let Response::Written { revision: first, created, .. } = first else { panic!("{first:?}") };
    assert_eq!(
        child.put(&right, 9, Some("retry")),
        Response::Written { revision: first, created, replayed: true },
        "the child gives the parent's answer"
    );
    for (replica, key) in [(&mut parent, &left), (&mut child, &right)] {
        let Response::Written { revision: next, .. } = replica.put(key, 9, None) else { panic!("it is its own") };
        assert!(next > revision, "a revision that was given out is not given again");
        assert_eq!((replica.state.dedup_count, replica.state.time_ms), (1, 9));
    }
    assert_eq!((parent.state.epoch, child.state.epoch), (Epoch(2), Epoch(1)));
    assert_eq!(parent.state.range, Some(TokenRange { first: Token::FIRST, last: Token(AT.0 - 1) }));
    assert_eq!(child.state.range, Some(TokenRange { first: AT, last: Token::LAST }));
    assert_eq!(parent.state.last_split, Some(LastSplit { child: CHILD, index: INDEX, births: births() }));
}

#[test]
fn a_split_that_is_not_as_it_was_planned_changes_nothing() {
    let refused = |split: Split, place: &Here| {
        let mut replica = Replica::new();
        let before = replica.state.clone();
        let answer = replica.apply_at(&Command::Split(split), place);
        assert_eq!(replica.state, before);
        let Response::NotSplit { why } = answer else { panic!("{answer:?}") };
        why
    };
    assert_eq!(refused(Split { epoch: Epoch(2), ..split() }, &SETTLED), SplitRefusal::Epoch { epoch: Epoch(1) });
    assert_eq!(refused(Split { membership: 4, ..split() }, &SETTLED), SplitRefusal::Membership);
    assert_eq!(refused(split(), &Here { are_settled: false }), SplitRefusal::Membership);
    assert_eq!(refused(Split { births: births()[..1].to_vec(), ..split() }, &SETTLED), SplitRefusal::Membership);
    assert_eq!(refused(Split { at: Token::FIRST, ..split() }, &SETTLED), SplitRefusal::Token);
}

#[test]
fn of_two_copies_of_a_split_one_is_taken() {
    let mut parent = Replica::new();
    parent.split();
    let once = parent.state.clone();
    let again = parent.apply(&Command::Split(split()));
    assert_eq!(again, Response::NotSplit { why: SplitRefusal::Epoch { epoch: Epoch(2) } });
    assert_eq!(parent.state, once);
}

#[test]
fn a_split_that_was_fenced_is_never_taken_and_a_fence_that_comes_late_changes_nothing() {
    let fence = Command::Fence(Fence { child: CHILD });
    let mut parent = Replica::new();
    for _copy in 0..2 {
        assert_eq!(parent.apply(&fence), Response::Fenced);
        assert_eq!((parent.state.epoch, parent.state.fenced), (Epoch(2), Some(CHILD)));
    }
    let refused = |why| Response::NotSplit { why };
    assert_eq!(parent.apply(&Command::Split(split())), refused(SplitRefusal::Epoch { epoch: Epoch(2) }));
    // Not even planned anew, by somebody who has not heard that it was given up.
    let anew = Command::Split(Split { epoch: Epoch(2), ..split() });
    assert_eq!(parent.apply(&anew), refused(SplitRefusal::Fenced));

    let mut parent = Replica::new();
    parent.split();
    let split = parent.state.clone();
    assert_eq!(parent.apply(&fence), Response::Fenced);
    assert_eq!(parent.state, split);
}

/// One replica has what the split left, another was filled by a snapshot: they must go on the same.
#[test]
fn left_over_records_neither_count_nor_take_the_place_of_others() {
    let (left, right) = keys_of_both();
    let mut parent = Replica::new();
    for number in 0..200 {
        // The child's are older, so they are met first.
        parent.put(&right, number, Some(&format!("right {number}")));
        parent.put(&left, 1_000 + number, Some(&format!("left {number}")));
    }
    let mut child = parent.split();
    assert_eq!((parent.state.dedup_count, child.state.dedup_count), (200, 200));
    for (replica, key) in [(&mut parent, &left), (&mut child, &right)] {
        let mut filled = replica.without_left_overs();
        for turn in 0..5 {
            let time_ms = 2_000 + RETENTION_MS + turn;
            let has = filled.put(key, time_ms, Some(&format!("new {turn}")));
            assert_eq!(replica.put(key, time_ms, Some(&format!("new {turn}"))), has);
            assert_eq!(replica.state, filled.state);
        }
        assert_eq!(filled.state.dedup_count, 5);
        let records = |replica: &Replica| replica.engine.view().scan(&keys::dedup_range(0, u64::MAX)).count();
        assert_eq!(records(&filled), 5);
    }
}
