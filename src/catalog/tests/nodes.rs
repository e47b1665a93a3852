//! Nodes that drain, die, return and go.

use super::operations::{begin, end, exchange};
use super::*;

fn drain(node: u64) -> OperationKind {
    OperationKind::Drain { node: NodeId(node) }
}

fn undrain(node: u64) -> OperationKind {
    OperationKind::Undrain { node: NodeId(node) }
}

fn decommission(node: u64) -> OperationKind {
    OperationKind::Decommission { node: NodeId(node) }
}

fn mark(node: u64, is_dead: bool) -> CatalogCommand {
    CatalogCommand::MarkNode { time_ms: 4, node: NodeId(node), is_dead }
}

impl Bench {
    fn node(&self, id: u64) -> &NodeDescriptor {
        &self.catalog().nodes[&NodeId(id)]
    }

    fn state(&self, operation: u64) -> &OperationState {
        &self.catalog().operations.get(OperationId(operation)).unwrap().state
    }
}

#[test]
fn a_draining_node_takes_nothing_until_it_is_undrained() {
    let mut bench = Bench::with_shards(4, 2);
    let epoch = bench.node(4).epoch;
    bench.begun(begin(drain(4)));
    assert!(bench.node(4).is_draining && bench.node(4).epoch > epoch);
    let takes_none = Refusal::NodeTakesNoReplicas { node: NodeId(4) };
    let order = CatalogCommand::AddReplica { shard: ShardId(1), node: NodeId(4), expected_epoch: bench.shard(1).epoch };
    assert_eq!(bench.refused(order), takes_none);
    assert_eq!(bench.refused(begin(exchange(1, 1, 4))), takes_none);
    let running = Refusal::NodeOperationRunning { node: NodeId(4), operation: OperationId(1) };
    assert_eq!(bench.refused(begin(drain(4))), running);
    assert_eq!(bench.refused(begin(decommission(4))), running);

    assert_eq!(bench.begun(begin(undrain(4))), (2, true));
    assert_eq!(*bench.state(2), OperationState::Done, "there is nothing to wait for");
    assert!(matches!(bench.state(1), OperationState::Failed { why } if why.contains("operation 2")));
    assert!(bench.node(4).takes_replicas());
    assert_eq!(bench.refused(begin(undrain(4))), Refusal::NodeNotDraining { node: NodeId(4) });
    bench.add(1, 4);
}

#[test]
fn a_drained_node_stays_drained_and_can_be_drained_again_or_undrained() {
    let mut bench = Bench::with_shards(4, 2);
    bench.begun(begin(drain(4)));
    bench.accepted(end(1, None));
    assert!(bench.node(4).is_draining, "it is empty, and is to stay so");
    assert_eq!(bench.begun(begin(drain(4))), (2, true));
    bench.accepted(end(2, None));
    bench.begun(begin(undrain(4)));
    assert!(bench.node(4).takes_replicas());
}

#[test]
fn no_node_is_drained_that_the_replication_factor_needs() {
    let mut bench = Bench::with_shards(4, 2);
    assert_eq!(bench.refused(begin(drain(9))), Refusal::NoSuchNode { node: NodeId(9) });
    bench.accepted(mark(3, true));
    let node = NodeId(4);
    assert_eq!(bench.refused(begin(drain(4))), Refusal::TooFewNodesLeft { node, left: 2, wanted: 3 });
    assert_eq!(bench.refused(begin(decommission(4))), Refusal::TooFewNodesLeft { node, left: 2, wanted: 3 });
    bench.begun(begin(drain(3)));
    bench.accepted(mark(3, false));
    assert!(bench.node(3).is_draining, "a node that returns is still to be emptied");
    assert_eq!(bench.refused(begin(drain(4))), Refusal::TooFewNodesLeft { node, left: 2, wanted: 3 });
}

#[test]
fn a_node_goes_for_good_once_it_is_empty() {
    let mut bench = Bench::with_shards(4, 4);
    let node = NodeId(4);
    bench.begun(begin(decommission(4)));
    assert_eq!(bench.refused(end(1, None)), Refusal::NodeNotEmpty { node, replicas: 1 });
    bench.begun(begin(exchange(4, 4, 1)));
    bench.accepted(end(2, None));
    bench.accepted(end(1, None));
    assert!(!bench.catalog().nodes.contains_key(&node));
    assert_eq!(bench.catalog().departed, [DepartedNode { id: node, store: StoreId(4) }]);
    let again = CatalogCommand::JoinNode { time_ms: 3, node: profile(4) };
    assert_eq!(bench.refused(again), Refusal::Decommissioned { node });
    let other = CatalogCommand::JoinNode { time_ms: 3, node: profile(5) };
    assert!(matches!(bench.changes(other), CatalogResponse::Node { id: NodeId(5), .. }), "its id is not given again");
    assert_eq!(bench.refused(begin(drain(4))), Refusal::NoSuchNode { node });
}

#[test]
fn a_dead_node_is_marked_once_and_leads_by_choice_no_longer() {
    let mut bench = Bench::with_shards(4, 2);
    bench.begun(begin(transfer(1, 1)));
    bench.accepted(end(1, None));
    bench.changes(mark(1, true));
    bench.finds_done(mark(1, true));
    assert!(bench.node(1).is_dead && !bench.node(1).takes_replicas());
    assert_eq!((bench.shard(1).preferred_leader, bench.shard(1).leader_chosen), (None, false));
    // Its restart tells of itself what it always told, and does not make it live.
    bench.accepted(CatalogCommand::JoinNode { time_ms: 3, node: NodeProfile { zone: "z".into(), ..profile(1) } });
    assert!(bench.node(1).is_dead);
    bench.changes(mark(1, false));
    assert!(bench.node(1).takes_replicas());
    assert_eq!(bench.refused(mark(9, true)), Refusal::NoSuchNode { node: NodeId(9) });
}

#[test]
fn an_operation_on_a_node_may_name_its_epoch() {
    let mut bench = Bench::with_shards(4, 2);
    let at = |epoch| CatalogCommand::BeginOperation {
        kind: drain(4),
        cause: OperationCause::Asked,
        expected_epoch: Some(epoch),
        idempotency_key: None,
        time_ms: 1,
    };
    let epoch = bench.node(4).epoch;
    let mismatch = Refusal::NodeEpochMismatch { node: NodeId(4), epoch };
    assert_eq!(bench.refused(at(Epoch(epoch.0 + 1))), mismatch);
    assert_eq!(bench.begun(at(epoch)), (1, true));
}

#[test]
fn what_happens_is_recorded_with_its_time_and_its_cause() {
    let mut bench = Bench::with_nodes(3, 4);
    bench.accepted(mark(3, true));
    bench.accepted(mark(3, true));
    bench.accepted(mark(3, false));
    bench.accepted(CatalogCommand::JoinNode { time_ms: 9, node: profile(4) });
    bench.begun(begin(decommission(4)));
    bench.begun(begin(undrain(4)));
    bench.begun(begin(decommission(4)));
    bench.accepted(end(3, None));
    let node = NodeId(4);
    let begun = |operation, kind| EventKind::OperationBegun {
        operation: OperationId(operation),
        cause: OperationCause::Asked,
        kind,
    };
    let why = "operation 2 ended it: node 4 takes replicas again".to_string();
    let expected = [
        (3, EventKind::NodeJoined { node: NodeId(2) }),
        (3, EventKind::NodeJoined { node: NodeId(3) }),
        (4, EventKind::NodeDead { node: NodeId(3) }),
        (4, EventKind::NodeReturned { node: NodeId(3) }),
        (9, EventKind::NodeJoined { node }),
        (1, begun(1, decommission(4))),
        (1, begun(2, undrain(4))),
        (1, EventKind::OperationFailed { operation: OperationId(1), why }),
        (1, EventKind::OperationDone { operation: OperationId(2) }),
        (1, begun(3, decommission(4))),
        (2, EventKind::NodeLeft { node }),
        (2, EventKind::OperationDone { operation: OperationId(3) }),
    ];
    let events = &bench.catalog().events;
    let recorded: Vec<(u64, EventKind)> = events.iter().map(|event| (event.time_ms, event.what.clone())).collect();
    assert_eq!(recorded, expected);
    assert_eq!(events.last().unwrap().id, EventId(12));
}

#[test]
fn the_newest_events_are_kept_and_their_ids_go_on() {
    let mut bench = Bench::with_nodes(3, 4);
    for number in 0..EVENTS_KEPT {
        bench.changes(mark(3, number % 2 == 0));
    }
    let events = &bench.catalog().events;
    assert_eq!((events.len(), events[0].id), (EVENTS_KEPT, EventId(3)));
}
