//! Bytes on disk and on the wire.

use super::*;
use crate::wire::golden;

#[test]
fn formats_are_pinned() {
    let mut bench = Bench::with_shards(3, 2);
    let (shard, replica) = (ShardId(1), bench.add(1, 2));
    bench.accepted(CatalogCommand::ReplicaIsVoter { shard, replica });
    let founder = bench.shard(1).replicas[0].id;
    bench.accepted(CatalogCommand::ReplicaLeaving { shard, replica: founder });
    bench.accepted(CatalogCommand::PreferLeaders { leaders: vec![(shard, NodeId(2))] });
    let mut creating = Bench::with_nodes(3, 1);
    creating.accepted(CatalogCommand::CreateShards { placements: vec![NodeId(3)] });
    golden::check("catalog", &[bench.0.unwrap(), creating.0.unwrap()]);

    // What is empty or alike in the catalogs above differs here, so that no two fields can change places unseen.
    let node = NodeDescriptor::new(
        NodeId(0x0102),
        NodeProfile { weight: 50, zone: "zone-a".into(), host: "rack-7".into(), ..profile(4) },
    );
    golden::check("catalog_node", &[node]);
    let descriptor = |id, node, state| ReplicaDescriptor { id: ReplicaId(id), node: NodeId(node), state };
    let meta = ShardDescriptor {
        id: META_SHARD,
        range: None,
        epoch: Epoch(9),
        state: ShardState::Live,
        replicas: vec![
            descriptor(0x11, 1, ReplicaState::Voter),
            descriptor(0x12, 2, ReplicaState::Joining),
            descriptor(0x13, 3, ReplicaState::Leaving),
        ],
        preferred_leader: Some(NodeId(1)),
        leader_chosen: false,
        placement_chosen: false,
    };
    let creating = ShardDescriptor {
        id: ShardId(2),
        range: Some(TokenRange { first: Token(3), last: Token(4) }),
        epoch: Epoch(5),
        state: ShardState::Creating { founder: ReplicaId(0x14) },
        replicas: vec![descriptor(0x14, 6, ReplicaState::Joining)],
        preferred_leader: None,
        leader_chosen: false,
        placement_chosen: false,
    };
    golden::check("catalog_shard", &[meta, creating]);
    golden::has_every_tag(&[ShardState::Live, ShardState::Creating { founder: ReplicaId(1) }]);
    golden::has_every_tag(&[ReplicaState::Joining, ReplicaState::Voter, ReplicaState::Leaving]);
    let operation = |id, state, key: Option<&str>, ended_ms| Operation {
        id: OperationId(id),
        kind: transfer(0x0102, 3),
        state,
        cause: OperationCause::Asked,
        split: None,
        idempotency_key: key.map(Into::into),
        begun_ms: 0x0405,
        ended_ms,
    };
    let operations = [
        operation(1, OperationState::Running, Some("key"), None),
        operation(2, OperationState::Done, None, Some(6)),
        operation(3, OperationState::Failed { why: "why".into() }, None, Some(7)),
        Operation {
            kind: OperationKind::Drain { node: NodeId(5) },
            ..operation(5, OperationState::Done, None, Some(8))
        },
        Operation {
            kind: OperationKind::Undrain { node: NodeId(5) },
            ..operation(6, OperationState::Done, None, Some(8))
        },
        Operation {
            kind: OperationKind::Decommission { node: NodeId(5) },
            ..operation(7, OperationState::Done, None, Some(8))
        },
        Operation {
            kind: OperationKind::Split { shard: ShardId(0x0102), at: Token(0x0304) },
            split: Some(SplitPlan {
                child: ShardId(0x0506),
                births: vec![ReplicaBirth { parent: ReplicaId(0x07), child: ReplicaId(0x08) }],
                is_published: true,
            }),
            ..operation(8, OperationState::Done, None, Some(8))
        },
        Operation {
            kind: OperationKind::Move { shard: ShardId(0x0102), from: NodeId(3), to: NodeId(4) },
            cause: OperationCause::Placement,
            ..operation(4, OperationState::GivingUp { why: "why".into() }, None, None)
        },
    ];
    let event = |what| Event { id: EventId(0x0102), time_ms: 0x0304, what };
    let node = NodeId(5);
    let events = [
        EventKind::NodeJoined { node },
        EventKind::NodeDead { node },
        EventKind::NodeReturned { node },
        EventKind::NodeLeft { node },
        EventKind::begun(&operations[0]),
        EventKind::ended(OperationId(9), None),
        EventKind::ended(OperationId(9), Some(&"why".into())),
    ];
    golden::check("catalog_event", &events.clone().map(event));
    golden::has_every_tag(&events);
    golden::check("catalog_operation", &operations);
    golden::has_every_tag(&operations.clone().map(|operation| operation.state));
    golden::has_every_tag(&operations.clone().map(|operation| operation.cause));
    golden::has_every_tag(&operations.map(|operation| operation.kind));

    let labelled = NodeProfile { zone: "zone-a".into(), host: "rack-7".into(), ..profile(2) };
    let (node, expected_epoch) = (NodeId(3), Epoch(5));
    let commands = [
        found(3, 12),
        CatalogCommand::JoinNode { time_ms: 3, node: labelled },
        CatalogCommand::CreateShards { placements: vec![NodeId(1), node] },
        CatalogCommand::ShardLive { shard },
        CatalogCommand::AddReplica { shard, node, expected_epoch },
        CatalogCommand::ReplicaIsVoter { shard, replica },
        CatalogCommand::ReplicaLeaving { shard, replica },
        CatalogCommand::ForgetReplica { shard, replica },
        CatalogCommand::PreferLeaders { leaders: vec![(shard, node)] },
        CatalogCommand::RaiseFeatureLevel { to: 2 },
        CatalogCommand::BeginOperation {
            kind: transfer(1, 3),
            cause: OperationCause::Asked,
            expected_epoch: Some(expected_epoch),
            idempotency_key: Some("key".into()),
            time_ms: 0x0102,
        },
        CatalogCommand::EndOperation { operation: OperationId(9), failure: Some("why".into()), time_ms: 0x0304 },
        CatalogCommand::GiveUpOperation { operation: OperationId(9), why: "why".into() },
        CatalogCommand::MarkNode { time_ms: 4, node, is_dead: true },
        CatalogCommand::PublishSplit { operation: OperationId(9) },
    ];
    golden::check("catalog_command", &commands);
    golden::has_every_tag(&commands);
    let version = 7;
    let refusals = [
        Refusal::NotFounded,
        Refusal::AlreadyFounded { cluster: ClusterId(0xC1) },
        Refusal::BadParameter { parameter: "weight".into(), why: "it is 0".into() },
        Refusal::NoSuchNode { node },
        Refusal::NoSuchShard { shard },
        Refusal::NoSuchReplica { shard, replica },
        Refusal::ShardsExist,
        Refusal::TooFewNodes { nodes: 2, wanted: 3 },
        Refusal::ShardNotLive { shard },
        Refusal::EpochMismatch { shard, epoch: expected_epoch },
        Refusal::NodeHoldsReplica { shard, node, replica },
        Refusal::NodeHoldsNoReplica { shard, node },
        Refusal::ReplicaIsLeaving { shard, replica },
        Refusal::ReplicaNotLeaving { shard, replica },
        Refusal::LastVoter { shard, replica },
        Refusal::FeatureLevelLower { level: 2 },
        Refusal::FeatureLevelUnknown { node, known: 2 },
        Refusal::ReleaseTooOld { level: 2, known: 1 },
        Refusal::ReplicaIdsUsedUp,
        Refusal::OperationRunning { shard, operation: OperationId(9) },
        Refusal::NoSuchOperation { operation: OperationId(9) },
        Refusal::OperationKeyReused { operation: OperationId(9) },
        Refusal::ReplicaNotVoter { shard, replica },
        Refusal::NothingToTakeBack { operation: OperationId(9) },
        Refusal::NotGivenUp { operation: OperationId(9) },
        Refusal::Decommissioned { node },
        Refusal::TooFewNodesLeft { node, left: 2, wanted: 3 },
        Refusal::NodeNotDraining { node },
        Refusal::NodeNotEmpty { node, replicas: 4 },
        Refusal::NodeTakesNoReplicas { node },
        Refusal::NodeEpochMismatch { node, epoch: Epoch(5) },
        Refusal::NodeOperationRunning { node, operation: OperationId(9) },
        Refusal::NotToBeSplit { shard },
        Refusal::TokenOutside { shard, first: Token(6), last: Token(7) },
        Refusal::NoSplit { operation: OperationId(9) },
    ];
    golden::has_every_tag(&refusals);
    let mut responses = vec![
        CatalogResponse::Applied { version },
        CatalogResponse::Node { id: node, version },
        CatalogResponse::Replica { id: replica, version },
        CatalogResponse::Operation { id: OperationId(9), begun: true, version },
    ];
    responses.extend(refusals.map(|why| CatalogResponse::Refused { why }));
    golden::check("catalog_response", &responses);
    golden::has_every_tag(&responses);
}
