//! Operations: what they hold, refuse, remember and take back.

use super::*;

const ASKED: OperationCause = OperationCause::Asked;

pub(super) fn transfer(shard: u64, to: u64) -> OperationKind {
    OperationKind::TransferLeader { shard: ShardId(shard), to: NodeId(to) }
}

pub(super) fn begin(kind: OperationKind) -> CatalogCommand {
    CatalogCommand::BeginOperation { kind, cause: ASKED, expected_epoch: None, idempotency_key: None, time_ms: 1 }
}

fn begin_with_key(kind: OperationKind, key: &str) -> CatalogCommand {
    CatalogCommand::BeginOperation {
        kind,
        cause: ASKED,
        expected_epoch: None,
        idempotency_key: Some(key.into()),
        time_ms: 1,
    }
}

pub(super) fn end(operation: u64, failure: Option<&str>) -> CatalogCommand {
    CatalogCommand::EndOperation { operation: OperationId(operation), failure: failure.map(Into::into), time_ms: 2 }
}

impl Bench {
    /// Two live shards with voters on nodes 1 and 2 each.
    pub(super) fn with_two_voters() -> Self {
        let mut bench = Self::with_shards(3, 2);
        for shard in 1..=2 {
            let other = bench.shard(shard).replicas[0].node.0 % 2 + 1;
            let replica = bench.add(shard, other);
            bench.accepted(CatalogCommand::ReplicaIsVoter { shard: ShardId(shard), replica });
        }
        bench
    }

    pub(super) fn begun(&mut self, command: CatalogCommand) -> (u64, bool) {
        match self.accepted(command) {
            CatalogResponse::Operation { id, begun, .. } => (id.0, begun),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_operation_holds_its_shard_from_its_beginning_to_its_end() {
    let mut bench = Bench::with_two_voters();
    assert_eq!(bench.begun(begin(transfer(1, 2))), (1, true));
    let (shard, operation) = (ShardId(1), OperationId(1));
    assert_eq!(bench.refused(begin(transfer(1, 1))), Refusal::OperationRunning { shard, operation });
    assert_eq!(bench.begun(begin(transfer(2, 1))), (2, true), "another shard is free");
    assert_eq!(bench.shard(1).preferred_leader, Some(NodeId(2)));

    bench.accepted(end(1, None));
    assert_eq!(bench.catalog().operations.get(operation).unwrap().state, OperationState::Done);
    assert!(matches!(bench.accepted(end(1, Some("late"))), CatalogResponse::Applied { .. }));
    assert_eq!(bench.catalog().operations.get(operation).unwrap().state, OperationState::Done, "the first end stands");
    assert_eq!(bench.begun(begin(transfer(1, 1))), (3, true), "the shard is free again");
    assert_eq!(bench.refused(end(4, None)), Refusal::NoSuchOperation { operation: OperationId(4) });
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason_and_leaves_no_trace() {
    let mut bench = Bench::with_two_voters();
    let joining = bench.add(2, 3);
    let before = bench.catalog().clone();
    let shard = ShardId(1);
    assert_eq!(bench.refused(begin(transfer(9, 1))), Refusal::NoSuchShard { shard: ShardId(9) });
    assert_eq!(bench.refused(begin(transfer(1, 9))), Refusal::NoSuchNode { node: NodeId(9) });
    assert_eq!(bench.refused(begin(transfer(1, 3))), Refusal::NodeHoldsNoReplica { shard, node: NodeId(3) });
    let not_yet = Refusal::ReplicaNotVoter { shard: ShardId(2), replica: joining };
    assert_eq!(bench.refused(begin(transfer(2, 3))), not_yet);
    let epoch = bench.shard(1).epoch;
    let at_another = CatalogCommand::BeginOperation {
        kind: transfer(1, 2),
        cause: ASKED,
        expected_epoch: Some(Epoch(epoch.0 + 1)),
        idempotency_key: None,
        time_ms: 1,
    };
    assert_eq!(bench.refused(at_another), Refusal::EpochMismatch { shard, epoch });
    for key in [String::new(), "k".repeat(OPERATION_KEY_BYTES_MAX + 1)] {
        assert!(matches!(bench.refused(begin_with_key(transfer(1, 2), &key)), Refusal::BadParameter { .. }));
    }
    assert_eq!(*bench.catalog(), before);
}

#[test]
fn the_same_key_is_answered_with_the_same_operation_and_with_no_other_work() {
    let mut bench = Bench::with_two_voters();
    let (shard, operation) = (ShardId(1), OperationId(1));
    assert_eq!(bench.begun(begin_with_key(transfer(1, 2), "a")), (1, true));
    assert_eq!(bench.begun(begin_with_key(transfer(1, 2), "a")), (1, false), "it still runs, and nothing is refused");
    assert_eq!(bench.refused(begin_with_key(transfer(1, 1), "a")), Refusal::OperationKeyReused { operation });
    assert_eq!(bench.refused(begin_with_key(transfer(1, 2), "b")), Refusal::OperationRunning { shard, operation });
    bench.accepted(end(1, Some("nobody was ready")));
    assert_eq!(bench.begun(begin_with_key(transfer(1, 2), "a")), (1, false), "also when it has ended");
    assert_eq!(bench.begun(begin_with_key(transfer(1, 2), "b")), (2, true));
}

#[test]
fn a_leader_that_was_chosen_is_not_balanced_away_until_its_replica_leaves() {
    let mut bench = Bench::with_two_voters();
    bench.begun(begin(transfer(1, 2)));
    bench.accepted(end(1, None));
    let shard = ShardId(1);
    bench.accepted(CatalogCommand::PreferLeaders { leaders: vec![(shard, NodeId(1)), (ShardId(2), NodeId(1))] });
    assert_eq!(bench.shard(1).preferred_leader, Some(NodeId(2)));
    assert_eq!(bench.shard(2).preferred_leader, Some(NodeId(1)), "nobody chose that one");

    let replica = bench.shard(1).replica_on(NodeId(2)).unwrap().id;
    bench.accepted(CatalogCommand::ReplicaLeaving { shard, replica });
    assert_eq!((bench.shard(1).preferred_leader, bench.shard(1).leader_chosen), (None, false));
    bench.accepted(CatalogCommand::PreferLeaders { leaders: vec![(shard, NodeId(1))] });
    assert_eq!(bench.shard(1).preferred_leader, Some(NodeId(1)));
}

#[test]
fn a_failed_transfer_takes_its_choice_back() {
    let mut bench = Bench::with_two_voters();
    bench.begun(begin(transfer(1, 2)));
    bench.accepted(end(1, Some("node 2 did not take it over")));
    assert_eq!((bench.shard(1).preferred_leader, bench.shard(1).leader_chosen), (None, false));
}

#[test]
fn ended_operations_are_forgotten_the_oldest_first_and_running_ones_never() {
    let mut bench = Bench::with_two_voters();
    bench.begun(begin(transfer(2, 1)));
    for number in 0..=ENDED_OPERATIONS_KEPT as u64 {
        assert_eq!(bench.begun(begin(transfer(1, number % 2 + 1))), (number + 2, true));
        bench.accepted(end(number + 2, None));
    }
    let kept: Vec<u64> = bench.catalog().operations.iter().map(|operation| operation.id.0).collect();
    assert_eq!(kept.len(), ENDED_OPERATIONS_KEPT + 1);
    assert_eq!(kept[..2], [1, 3], "the running one stays, the oldest that ended went");
}

pub(super) fn exchange(shard: u64, from: u64, to: u64) -> OperationKind {
    OperationKind::Move { shard: ShardId(shard), from: NodeId(from), to: NodeId(to) }
}

fn give_up(operation: u64) -> CatalogCommand {
    CatalogCommand::GiveUpOperation { operation: OperationId(operation), why: "node 3 is away".into() }
}

/// Nodes and states of a shard's replicas.
fn replicas(bench: &Bench, shard: u64) -> Vec<(u64, ReplicaState)> {
    bench.shard(shard).replicas.iter().map(|replica| (replica.node.0, replica.state)).collect()
}

#[test]
fn a_move_brings_a_fresh_replica_first_and_takes_the_old_one_away_at_its_end() {
    use ReplicaState::{Joining, Voter};
    let mut bench = Bench::with_two_voters();
    let (epoch, next) = (bench.shard(1).epoch, bench.catalog().next_replica);
    let before = replicas(&bench, 1);
    bench.begun(begin(exchange(1, 1, 3)));
    assert_eq!(replicas(&bench, 1), [before.as_slice(), &[(3, Joining)]].concat());
    assert_eq!(bench.shard(1).replica_on(NodeId(3)).unwrap().id, ReplicaId(next), "an id that nobody had");
    assert_eq!(bench.catalog().moves_away_from(ShardId(1)), Some(NodeId(1)));
    let order = CatalogCommand::AddReplica { shard: ShardId(1), node: NodeId(3), expected_epoch: bench.shard(1).epoch };
    assert_eq!(
        bench.refused(order),
        Refusal::NodeHoldsReplica { shard: ShardId(1), node: NodeId(3), replica: ReplicaId(next) }
    );
    let not_given_up = Refusal::NotGivenUp { operation: OperationId(1) };
    assert_eq!(bench.refused(end(1, Some("no"))), not_given_up, "its learner may still stand in the group");

    bench.accepted(end(1, None));
    assert_eq!(replicas(&bench, 1), [(2, Voter), (3, Voter)]);
    assert_eq!(bench.shard(1).epoch, Epoch(epoch.0 + 2));
    assert!(bench.shard(1).placement_chosen, "somebody asked for it");
    assert_eq!(bench.catalog().moves_away_from(ShardId(1)), None);
}

#[test]
fn a_move_that_is_given_up_ends_without_its_replica_or_done_when_that_is_too_late() {
    use ReplicaState::{Leaving, Voter};
    let mut bench = Bench::with_two_voters();
    let before = replicas(&bench, 1);
    bench.begun(begin(exchange(1, 1, 3)));
    bench.accepted(CatalogCommand::PreferLeaders { leaders: vec![(ShardId(1), NodeId(3))] });
    bench.accepted(give_up(1));
    assert_eq!(bench.shard(1).preferred_leader, None, "it is not to lead what it leaves");
    bench.accepted(give_up(1));
    assert_eq!(replicas(&bench, 1), [before.as_slice(), &[(3, Leaving)]].concat());
    assert!(bench.catalog().operations.get(OperationId(1)).unwrap().is_running(), "the shard is still held");
    bench.accepted(end(1, Some("node 3 is away")));
    assert_eq!(replicas(&bench, 1), before);

    bench.begun(begin(exchange(1, 1, 3)));
    bench.accepted(give_up(2));
    bench.accepted(end(2, None));
    assert_eq!(replicas(&bench, 1), [(2, Voter), (3, Voter)], "the group had it as a voter already");

    bench.begun(begin(transfer(1, 2)));
    assert_eq!(bench.refused(give_up(3)), Refusal::NothingToTakeBack { operation: OperationId(3) });
    assert_eq!(bench.refused(give_up(4)), Refusal::NoSuchOperation { operation: OperationId(4) });
}

#[test]
fn the_replicas_of_a_shard_are_the_moves_until_it_ends() {
    let mut bench = Bench::with_two_voters();
    bench.accepted(CatalogCommand::JoinNode { time_ms: 3, node: profile(4) });
    let shard = ShardId(1);
    let stays = bench.shard(1).replica_on(NodeId(2)).unwrap().id;
    bench.begun(begin(exchange(1, 1, 3)));
    let running = Refusal::OperationRunning { shard, operation: OperationId(1) };
    let expected_epoch = bench.shard(1).epoch;
    assert_eq!(bench.refused(CatalogCommand::AddReplica { shard, node: NodeId(4), expected_epoch }), running);
    assert_eq!(bench.refused(CatalogCommand::ReplicaLeaving { shard, replica: stays }), running);
    bench.accepted(give_up(1));
    let comes = bench.shard(1).replica_on(NodeId(3)).unwrap().id;
    assert_eq!(bench.refused(CatalogCommand::ForgetReplica { shard, replica: comes }), running);
    bench.accepted(end(1, Some("node 3 is away")));
    bench.add(1, 4);
}

#[test]
fn a_move_that_cannot_be_is_refused_and_leaves_no_trace() {
    let mut bench = Bench::with_two_voters();
    let joining = bench.add(2, 3);
    let before = bench.catalog().clone();
    let (shard, node) = (ShardId(1), NodeId);
    assert_eq!(bench.refused(begin(exchange(1, 9, 3))), Refusal::NoSuchNode { node: node(9) });
    assert_eq!(bench.refused(begin(exchange(1, 1, 9))), Refusal::NoSuchNode { node: node(9) });
    assert_eq!(bench.refused(begin(exchange(1, 3, 3))), Refusal::NodeHoldsNoReplica { shard, node: node(3) });
    let there = bench.shard(1).replica_on(node(2)).unwrap().id;
    let holds = Refusal::NodeHoldsReplica { shard, node: node(2), replica: there };
    assert_eq!(bench.refused(begin(exchange(1, 1, 2))), holds);
    let holds = Refusal::NodeHoldsReplica { shard: ShardId(2), node: node(3), replica: joining };
    assert_eq!(bench.refused(begin(exchange(2, 1, 3))), holds);
    assert_eq!(*bench.catalog(), before);
}

#[test]
fn a_leader_that_is_moved_away_is_preferred_no_longer() {
    let mut bench = Bench::with_two_voters();
    bench.begun(begin(transfer(1, 1)));
    bench.accepted(end(1, None));
    bench.begun(begin(exchange(1, 1, 3)));
    assert_eq!(bench.shard(1).preferred_leader, Some(NodeId(1)), "not before it is done");
    bench.accepted(end(2, None));
    assert_eq!((bench.shard(1).preferred_leader, bench.shard(1).leader_chosen), (None, false));
}

#[test]
fn what_the_placement_moves_is_not_chosen_by_anybody() {
    let mut bench = Bench::with_two_voters();
    bench.begun(CatalogCommand::BeginOperation {
        kind: exchange(1, 1, 3),
        cause: OperationCause::Placement,
        expected_epoch: None,
        idempotency_key: None,
        time_ms: 1,
    });
    bench.accepted(end(1, None));
    assert!(!bench.shard(1).placement_chosen);
}
