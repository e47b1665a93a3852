//! Splits: what they hold from the beginning, when their child is known, and when they are over.

use super::operations::{begin, end, exchange};
use super::*;

fn split(shard: u64, at: u64) -> OperationKind {
    OperationKind::Split { shard: ShardId(shard), at: Token(at) }
}

fn publish(operation: u64) -> CatalogCommand {
    CatalogCommand::PublishSplit { operation: OperationId(operation) }
}

fn give_up(operation: u64) -> CatalogCommand {
    CatalogCommand::GiveUpOperation { operation: OperationId(operation), why: "it takes too long".into() }
}

/// In the middle of the first of two shards.
const AT: u64 = 1 << 62;

#[test]
fn a_split_gives_its_ids_out_at_once_and_its_child_is_known_when_the_parent_has_split() {
    let mut bench = Bench::with_two_voters();
    let (before, next) = (bench.catalog().shards.clone(), bench.catalog().next_replica);
    bench.begun(begin(split(1, AT)));
    assert_eq!(bench.catalog().shards, before, "nobody goes to the child yet, nor makes a replica of it");
    let plan = bench.catalog().operations.get(OperationId(1)).unwrap().split.clone().unwrap();
    assert_eq!((plan.child, plan.is_published), (ShardId(3), false));
    let parents: Vec<ReplicaId> = plan.births.iter().map(|birth| birth.parent).collect();
    assert_eq!(parents, before[&ShardId(1)].replicas.iter().map(|replica| replica.id).collect::<Vec<_>>());
    let children: Vec<u64> = plan.births.iter().map(|birth| birth.child.0).collect();
    assert_eq!(children, [next, next + 1], "ids that nobody had");
    assert_eq!(bench.refused(end(1, None)), Refusal::NoSplit { operation: OperationId(1) });

    bench.changes(publish(1));
    bench.finds_done(publish(1));
    let (parent, child) = (bench.shard(1), bench.shard(3));
    let whole = before[&ShardId(1)].range.unwrap();
    assert_eq!(parent.range, Some(TokenRange { first: whole.first, last: Token(AT - 1) }));
    assert_eq!(child.range, Some(TokenRange { first: Token(AT), last: whole.last }));
    assert_eq!(parent.epoch.0, before[&ShardId(1)].epoch.0 + 1);
    let places = |shard: &ShardDescriptor| shard.replicas.iter().map(|replica| replica.node).collect::<Vec<_>>();
    assert_eq!(places(child), places(parent));
    assert!(child.replicas.iter().all(|replica| replica.state == ReplicaState::Voter));
    bench.accepted(end(1, None));
    assert_eq!(bench.catalog().ring().unwrap().iter().count(), 3);
}

#[test]
fn parent_and_child_are_the_splits_until_it_ends() {
    let mut bench = Bench::with_two_voters();
    bench.begun(begin(split(1, AT)));
    bench.accepted(publish(1));
    for shard in [1, 3] {
        let running = Refusal::OperationRunning { shard: ShardId(shard), operation: OperationId(1) };
        assert_eq!(bench.refused(begin(exchange(shard, 1, 3))), running);
    }
    bench.accepted(end(1, None));
    bench.begun(begin(exchange(3, 1, 3)));
}

#[test]
fn a_split_that_is_given_up_leaves_nothing_and_one_that_is_published_cannot_be() {
    let mut bench = Bench::with_two_voters();
    let before = bench.catalog().shards.clone();
    bench.begun(begin(split(1, AT)));
    let operation = OperationId(1);
    assert_eq!(bench.refused(end(1, Some("no"))), Refusal::NotGivenUp { operation }, "a copy may be on its way");
    bench.changes(give_up(1));
    bench.finds_done(give_up(1));
    bench.accepted(end(1, Some("the parent is fenced")));
    assert_eq!(bench.catalog().shards, before);
    assert_eq!(bench.refused(publish(1)), Refusal::NoSplit { operation }, "it is over");

    bench.begun(begin(split(1, AT)));
    bench.changes(give_up(2));
    bench.accepted(publish(2));
    let operation = OperationId(2);
    assert_eq!(bench.refused(end(2, Some("no"))), Refusal::NothingToTakeBack { operation }, "the parent had split");
    assert_eq!(bench.refused(give_up(2)), Refusal::NothingToTakeBack { operation });
    bench.accepted(end(2, None));
}

#[test]
fn what_cannot_be_split_is_refused_and_leaves_no_trace() {
    let mut bench = Bench::with_two_voters();
    let joining = bench.add(2, 3);
    let before = bench.catalog().clone();
    let range = bench.shard(1).range.unwrap();
    let outside = Refusal::TokenOutside { shard: ShardId(1), first: range.first, last: range.last };
    for at in [0, range.last.0 + 1, u64::MAX] {
        assert_eq!(bench.refused(begin(split(1, at))), outside, "at {at}");
    }
    assert_eq!(bench.refused(begin(split(0, AT))), Refusal::NotToBeSplit { shard: META_SHARD });
    assert_eq!(bench.refused(begin(split(9, AT))), Refusal::NoSuchShard { shard: ShardId(9) });
    let not_yet = Refusal::ReplicaNotVoter { shard: ShardId(2), replica: joining };
    assert_eq!(bench.refused(begin(split(2, u64::MAX))), not_yet);
    bench.begun(begin(exchange(1, 1, 3)));
    assert_eq!(bench.refused(publish(1)), Refusal::NoSplit { operation: OperationId(1) });
    assert_eq!(bench.refused(publish(9)), Refusal::NoSuchOperation { operation: OperationId(9) });
    assert_eq!(bench.catalog().shards[&ShardId(2)], before.shards[&ShardId(2)]);
}
