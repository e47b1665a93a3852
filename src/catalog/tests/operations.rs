//! Operations: what they hold, refuse, remember and take back.

use super::*;

fn begin(kind: OperationKind) -> CatalogCommand {
    CatalogCommand::BeginOperation { kind, expected_epoch: None, idempotency_key: None, time_ms: 1 }
}

fn begin_with_key(kind: OperationKind, key: &str) -> CatalogCommand {
    CatalogCommand::BeginOperation { kind, expected_epoch: None, idempotency_key: Some(key.into()), time_ms: 1 }
}

fn end(operation: u64, failure: Option<&str>) -> CatalogCommand {
    CatalogCommand::EndOperation { operation: OperationId(operation), failure: failure.map(Into::into), time_ms: 2 }
}

impl Bench {
    /// Two live shards with voters on nodes 1 and 2 each.
    fn with_two_voters() -> Self {
        let mut bench = Self::with_shards(3, 2);
        for shard in 1..=2 {
            let other = bench.shard(shard).replicas[0].node.0 % 2 + 1;
            let replica = bench.add(shard, other);
            bench.accepted(CatalogCommand::ReplicaIsVoter { shard: ShardId(shard), replica });
        }
        bench
    }

    fn begun(&mut self, command: CatalogCommand) -> (u64, bool) {
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
