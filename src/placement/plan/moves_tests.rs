//! The moves that a catalog asks for, and where they end.

use super::super::tests::{Node, catalog, equal_nodes, loads, node};
use super::*;
use crate::catalog::{CatalogCommand, CatalogResponse, OperationCause, apply};
use crate::ring::Token;
use crate::types::{OperationId, ReplicaId};

/// A catalog in which each shard has its replicas where they are wanted.
fn settled(shards: u32, nodes: &[Node]) -> Catalog {
    let mut catalog = catalog(3, shards, nodes);
    let plan = wanted(&catalog);
    for (shard, nodes) in plan {
        let descriptor = catalog.shards.get_mut(&shard).unwrap();
        descriptor.replicas.clear();
        for node in nodes {
            let id = ReplicaId(catalog.next_replica);
            descriptor.replicas.push(crate::catalog::ReplicaDescriptor { id, node, state: ReplicaState::Voter });
            catalog.next_replica += 1;
        }
    }
    assert_eq!(catalog.check(), Ok(()));
    catalog
}

fn send(catalog: &mut Catalog, command: CatalogCommand) -> CatalogResponse {
    let mut held = Some(catalog.clone());
    let response = apply(&mut held, &command);
    assert!(!matches!(response, CatalogResponse::Refused { .. }), "{command:?}: {response:?}");
    *catalog = held.unwrap();
    response
}

fn begin(catalog: &mut Catalog, kind: OperationKind, cause: OperationCause) -> OperationId {
    let begin = CatalogCommand::BeginOperation { kind, cause, expected_epoch: None, idempotency_key: None, time_ms: 1 };
    match send(catalog, begin) {
        CatalogResponse::Operation { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

fn begin_move(catalog: &mut Catalog, Move { shard, from, to }: Move) -> OperationId {
    begin(catalog, OperationKind::Move { shard, from, to }, OperationCause::Placement)
}

fn end(catalog: &mut Catalog, operation: OperationId) {
    send(catalog, CatalogCommand::EndOperation { operation, failure: None, time_ms: 2 });
}

/// Makes moves until there are none; gives back how many replicas came.
fn move_all(catalog: &mut Catalog) -> usize {
    let mut count = 0;
    loop {
        let moves = next_moves(catalog);
        if moves.is_empty() {
            return count;
        }
        let begun: Vec<OperationId> = moves.into_iter().map(|step| begin_move(catalog, step)).collect();
        count += begun.len();
        assert!(count < 10_000, "it does not come to rest");
        begun.into_iter().for_each(|operation| end(catalog, operation));
    }
}

fn held(catalog: &Catalog) -> BTreeMap<ShardId, BTreeSet<NodeId>> {
    let nodes = |shard: &ShardDescriptor| shard.replicas.iter().map(|replica| replica.node).collect();
    catalog.shards.values().map(|shard| (shard.id, nodes(shard))).collect()
}

fn as_sets(plan: BTreeMap<ShardId, Vec<NodeId>>) -> BTreeMap<ShardId, BTreeSet<NodeId>> {
    plan.into_iter().map(|(shard, nodes)| (shard, nodes.into_iter().collect())).collect()
}

#[test]
fn what_is_as_it_is_wanted_is_left_alone() {
    assert_eq!(next_moves(&settled(12, &equal_nodes(1..=5))), []);
}

#[test]
fn a_new_node_gets_its_share_and_then_all_rests() {
    let mut catalog = settled(24, &equal_nodes(1..=3));
    let fourth = NodeDescriptor { id: NodeId(4), ..catalog.nodes[&NodeId(3)].clone() };
    let store = crate::types::StoreId(99);
    catalog.nodes.insert(NodeId(4), NodeDescriptor { store, ..fourth });
    catalog.next_node = 5;
    assert_eq!(catalog.check(), Ok(()));
    let moved = move_all(&mut catalog);
    assert_eq!(held(&catalog), as_sets(wanted(&catalog)));
    let share = loads(&wanted(&catalog))[&NodeId(4)];
    assert!((17..=21).contains(&share), "75 replicas on four nodes: {share}");
    assert!(moved <= share + 8, "{moved} moves for {share} replicas");
}

#[test]
fn few_replicas_come_to_one_node_at_the_same_time() {
    let mut catalog = settled(24, &equal_nodes(1..=5));
    begin(&mut catalog, OperationKind::Drain { node: NodeId(5) }, OperationCause::Asked);
    let moves = next_moves(&catalog);
    assert!(!moves.is_empty());
    for step in moves {
        begin_move(&mut catalog, step);
    }
    let mut coming: BTreeMap<NodeId, usize> = BTreeMap::new();
    for operation in catalog.operations.running() {
        if let OperationKind::Move { to, .. } = operation.kind {
            *coming.entry(to).or_default() += 1;
        }
    }
    assert!(coming.values().all(|count| *count == COMING_PER_NODE_MAX), "{coming:?}");
    assert_eq!(next_moves(&catalog), [], "none beside those that run");
}

#[test]
fn a_draining_node_is_emptied_also_of_what_somebody_put_there() {
    let mut catalog = settled(12, &equal_nodes(1..=5));
    let plan = held(&catalog);
    let (shard, nodes) = plan.iter().find(|(_, nodes)| !nodes.contains(&NodeId(5))).unwrap();
    let from = *nodes.first().unwrap();
    let kind = OperationKind::Move { shard: *shard, from, to: NodeId(5) };
    let asked = begin(&mut catalog, kind, OperationCause::Asked);
    end(&mut catalog, asked);
    assert_eq!(next_moves(&catalog), [], "what somebody asked for is not undone");
    let drained = begin(&mut catalog, OperationKind::Decommission { node: NodeId(5) }, OperationCause::Asked);
    move_all(&mut catalog);
    assert_eq!(catalog.replicas_on(NodeId(5)).count(), 0);
    end(&mut catalog, drained);
    assert_eq!(next_moves(&catalog), []);
}

#[test]
fn the_dead_are_replaced_before_the_draining_and_those_before_balance() {
    let mut catalog = settled(24, &equal_nodes(1..=6));
    begin(&mut catalog, OperationKind::Drain { node: NodeId(5) }, OperationCause::Asked);
    send(&mut catalog, CatalogCommand::MarkNode { time_ms: 4, node: NodeId(6), is_dead: true });
    let needs: Vec<Need> = next_moves(&catalog).into_iter().map(|step| need(&catalog, step.from)).collect();
    assert!(needs.is_sorted() && needs[0] == Need::Dead, "{needs:?}");
    move_all(&mut catalog);
    assert_eq!(held(&catalog), as_sets(wanted(&catalog)));
}

#[test]
fn half_way_through_no_two_replicas_share_a_zone_without_need() {
    // Two nodes in each of three zones; one of each drains, so that every replica on it goes to its neighbour.
    let zoned = |id: u64| Node { zone: format!("zone {}", id % 3), ..node(id) };
    let nodes: Vec<Node> = (1..=6).map(zoned).collect();
    let mut catalog = settled(24, &nodes);
    for id in 1..=3 {
        begin(&mut catalog, OperationKind::Drain { node: NodeId(id) }, OperationCause::Asked);
    }
    loop {
        let moves = next_moves(&catalog);
        if moves.is_empty() {
            break;
        }
        for step in moves {
            let operation = begin_move(&mut catalog, step);
            end(&mut catalog, operation);
            let zones: BTreeSet<u64> = held(&catalog)[&step.shard].iter().map(|node| node.0 % 3).collect();
            assert_eq!(zones.len(), 3, "shard {} after {step:?}", step.shard);
        }
    }
    assert_eq!(held(&catalog), as_sets(wanted(&catalog)));
}

#[test]
fn nothing_is_balanced_while_shards_are_formed() {
    let mut catalog = settled(12, &equal_nodes(1..=4));
    let joining = catalog.shards.values_mut().nth(3).unwrap();
    joining.replicas[1].state = ReplicaState::Joining;
    // Another shard's replica stands where it is not wanted.
    let wanted = wanted(&catalog);
    let strayed = catalog.shards.values_mut().nth(5).unwrap();
    let elsewhere = (1..=4).map(NodeId).find(|node| !wanted[&strayed.id].contains(node)).unwrap();
    strayed.replicas[0].node = elsewhere;
    assert_eq!(next_moves(&catalog), []);
    catalog.shards.values_mut().nth(3).unwrap().replicas[1].state = ReplicaState::Voter;
    assert_eq!(next_moves(&catalog).len(), 1);
}

/// Each split changes where some shards are wanted. That is no reason to move what every node has its share of anyway.
#[test]
fn splits_move_little_and_leave_every_node_its_share() {
    let mut catalog = settled(12, &equal_nodes(1..=6));
    let mut moved = 0;
    for _round in 0..2 {
        let shards: Vec<(ShardId, Token)> = catalog
            .shards
            .values()
            .filter_map(|shard| shard.range.map(|range| (shard.id, range)))
            .map(|(shard, range)| (shard, Token(range.first.0 + (range.last.0 - range.first.0) / 2)))
            .collect();
        for (shard, at) in shards {
            let operation = begin(&mut catalog, OperationKind::Split { shard, at }, OperationCause::Asked);
            send(&mut catalog, CatalogCommand::PublishSplit { operation });
            end(&mut catalog, operation);
            moved += move_all(&mut catalog);
        }
    }
    let mut loads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for replica in catalog.shards.values().flat_map(|shard| &shard.replicas) {
        *loads.entry(replica.node).or_default() += 1;
    }
    // 147 replicas on six nodes.
    assert!(loads.values().all(|held| (23..=26).contains(held)), "{loads:?}");
    // More than twice as many when every replica follows the plan.
    assert!(moved <= 60, "{moved} moves for 36 splits");
}
