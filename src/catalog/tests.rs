//! Commands, one by one and in random sequences: what each does, refuses, and keeps.

mod formats;
mod nodes;
mod operations;
mod splits;

use proptest::prelude::*;

use self::operations::transfer;
use super::*;
use crate::types::{Epoch, EventId, OperationId, ProtocolRange};

fn profile(store: u128) -> NodeProfile {
    NodeProfile {
        store: StoreId(store),
        http: format!("node-{store}:8080"),
        peer: format!("node-{store}:9090"),
        weight: NODE_WEIGHT_DEFAULT,
        zone: String::new(),
        host: String::new(),
        protocol: ProtocolRange { min: 1, max: 2 },
        feature_level_max: 3,
    }
}

fn found(replication_factor: u8, initial_shards: u32) -> CatalogCommand {
    CatalogCommand::Found {
        cluster: ClusterId(0xC1),
        replication_factor,
        initial_shards,
        revision_base: Revision(0x0001_8f3c_5a20_0000),
        node: profile(1),
    }
}

/// A catalog that takes commands and checks its invariants after each.
struct Bench(Option<Catalog>);

impl Bench {
    /// A cluster of `nodes` nodes with live data shards, one replica each, on nodes in turn.
    fn with_shards(nodes: u64, initial_shards: u32) -> Self {
        let mut bench = Self::with_nodes(nodes, initial_shards);
        let placements = (0..u64::from(initial_shards)).map(|shard| NodeId(shard % nodes + 1)).collect();
        bench.accepted(CatalogCommand::CreateShards { placements });
        for shard in 1..=u64::from(initial_shards) {
            bench.accepted(CatalogCommand::ShardLive { shard: ShardId(shard) });
        }
        bench
    }

    fn with_nodes(nodes: u64, initial_shards: u32) -> Self {
        let mut bench = Self(None);
        bench.accepted(found(3, initial_shards));
        for store in 2..=nodes {
            bench.accepted(CatalogCommand::JoinNode { time_ms: 3, node: profile(u128::from(store)) });
        }
        bench
    }

    fn catalog(&self) -> &Catalog {
        self.0.as_ref().unwrap()
    }

    fn shard(&self, id: u64) -> &ShardDescriptor {
        &self.catalog().shards[&ShardId(id)]
    }

    fn send(&mut self, command: CatalogCommand) -> CatalogResponse {
        let response = apply(&mut self.0, &command);
        if let Some(catalog) = &self.0 {
            catalog.check().unwrap_or_else(|broken| panic!("{command:?}: {broken}"));
        }
        response
    }

    fn accepted(&mut self, command: CatalogCommand) -> CatalogResponse {
        match self.send(command.clone()) {
            CatalogResponse::Refused { why } => panic!("{command:?}: {why}"),
            response => response,
        }
    }

    /// A command that changes the catalog.
    fn changes(&mut self, command: CatalogCommand) -> CatalogResponse {
        let version = self.catalog().version;
        let response = self.accepted(command);
        assert_eq!(self.catalog().version, version + 1);
        response
    }

    /// A command that finds its work done.
    fn finds_done(&mut self, command: CatalogCommand) -> CatalogResponse {
        let before = self.0.clone();
        let response = self.accepted(command);
        assert_eq!(self.0, before);
        response
    }

    fn refused(&mut self, command: CatalogCommand) -> Refusal {
        let before = self.0.clone();
        match self.send(command.clone()) {
            CatalogResponse::Refused { why } => {
                assert_eq!(self.0, before, "{command:?}");
                why
            }
            response => panic!("{command:?} was not refused: {response:?}"),
        }
    }

    fn add(&mut self, shard: u64, node: u64) -> ReplicaId {
        let (shard, expected_epoch) = (ShardId(shard), self.shard(shard).epoch);
        match self.changes(CatalogCommand::AddReplica { shard, node: NodeId(node), expected_epoch }) {
            CatalogResponse::Replica { id, .. } => id,
            response => panic!("{response:?}"),
        }
    }
}

#[test]
fn founding_makes_node_one_and_the_meta_shard_once() {
    let mut bench = Bench(None);
    assert_eq!(bench.refused(CatalogCommand::JoinNode { time_ms: 3, node: profile(2) }), Refusal::NotFounded);
    for bad in [found(2, 4), found(0, 4), found(7, 4), found(3, 0), found(3, INITIAL_SHARDS_MAX + 1)] {
        assert!(matches!(bench.refused(bad), Refusal::BadParameter { .. }));
    }
    assert_eq!(bench.accepted(found(3, 4)), CatalogResponse::Node { id: NodeId(1), version: 1 });
    let meta = bench.shard(0);
    assert_eq!((meta.state, meta.range), (ShardState::Live, None));
    let founder = ReplicaDescriptor { id: ReplicaId(1), node: NodeId(1), state: ReplicaState::Voter };
    assert_eq!(meta.replicas, [founder]);
    assert_eq!(bench.refused(found(3, 4)), Refusal::AlreadyFounded { cluster: ClusterId(0xC1) });
    assert!(bench.catalog().ring().is_none());
}

#[test]
fn a_store_that_joins_again_keeps_its_node_and_only_news_raise_the_version() {
    let mut bench = Bench::with_nodes(1, 4);
    let join = CatalogCommand::JoinNode { time_ms: 3, node: profile(2) };
    assert_eq!(bench.changes(join.clone()), CatalogResponse::Node { id: NodeId(2), version: 2 });
    assert_eq!(bench.finds_done(join), CatalogResponse::Node { id: NodeId(2), version: 2 });
    let moved = NodeProfile { peer: "elsewhere:9090".into(), zone: "b".into(), ..profile(2) };
    let node = CatalogCommand::JoinNode { time_ms: 3, node: moved };
    assert_eq!(bench.changes(node), CatalogResponse::Node { id: NodeId(2), version: 3 });
    assert_eq!(bench.catalog().node_by_store(StoreId(2)).unwrap().peer, "elsewhere:9090");
    let other = CatalogCommand::JoinNode { time_ms: 3, node: profile(3) };
    assert_eq!(bench.changes(other), CatalogResponse::Node { id: NodeId(3), version: 4 });
}

#[test]
fn a_profile_that_nobody_could_work_with_is_refused() {
    let mut bench = Bench::with_nodes(1, 4);
    let long = "x".repeat(NODE_TEXT_BYTES_MAX + 1);
    for bad in [
        NodeProfile { weight: 0, ..profile(2) },
        NodeProfile { weight: NODE_WEIGHT_MAX + 1, ..profile(2) },
        NodeProfile { http: String::new(), ..profile(2) },
        NodeProfile { peer: String::new(), ..profile(2) },
        NodeProfile { zone: long.clone(), ..profile(2) },
        NodeProfile { host: long, ..profile(2) },
        NodeProfile { protocol: ProtocolRange { min: 2, max: 1 }, ..profile(2) },
    ] {
        assert!(matches!(
            bench.refused(CatalogCommand::JoinNode { time_ms: 3, node: bad }),
            Refusal::BadParameter { .. }
        ));
    }
}

#[test]
fn the_data_shards_tile_the_ring_and_are_made_once() {
    let mut bench = Bench::with_nodes(2, 3);
    let create = |nodes: [u64; 3]| CatalogCommand::CreateShards { placements: nodes.map(NodeId).to_vec() };
    assert_eq!(bench.refused(create([1, 2, 1])), Refusal::TooFewNodes { nodes: 2, wanted: 3 });
    bench.accepted(CatalogCommand::JoinNode { time_ms: 3, node: profile(3) });
    assert_eq!(bench.refused(create([1, 2, 4])), Refusal::NoSuchNode { node: NodeId(4) });
    let short = CatalogCommand::CreateShards { placements: vec![NodeId(1)] };
    assert!(matches!(bench.refused(short), Refusal::BadParameter { .. }));
    bench.changes(create([1, 2, 3]));
    assert_eq!(bench.refused(create([1, 2, 3])), Refusal::ShardsExist);
    let ring = bench.catalog().ring().unwrap();
    let evenly = TokenRange::full().split_evenly(3);
    assert!(ring.iter().map(|(range, _)| range).eq(evenly.iter().copied()));
    for token in evenly.iter().flat_map(|range| [range.first, range.last]) {
        assert_eq!(bench.catalog().shard_of(token).unwrap().id, *ring.find(token));
    }
    let shard = bench.shard(2);
    let founder = ReplicaId(3);
    assert_eq!(shard.state, ShardState::Creating { founder });
    assert_eq!(shard.replicas, [ReplicaDescriptor { id: founder, node: NodeId(2), state: ReplicaState::Joining }]);
}

#[test]
fn a_shard_takes_no_second_replica_before_it_is_live() {
    let mut bench = Bench::with_nodes(3, 1);
    let shard = ShardId(1);
    bench.accepted(CatalogCommand::CreateShards { placements: vec![NodeId(2)] });
    let add = CatalogCommand::AddReplica { shard, node: NodeId(1), expected_epoch: Epoch(1) };
    assert_eq!(bench.refused(add.clone()), Refusal::ShardNotLive { shard });
    let founder = bench.shard(1).replicas[0].id;
    let voter = CatalogCommand::ReplicaIsVoter { shard, replica: founder };
    assert_eq!(bench.refused(voter.clone()), Refusal::ShardNotLive { shard });
    bench.changes(CatalogCommand::ShardLive { shard });
    bench.finds_done(CatalogCommand::ShardLive { shard });
    bench.finds_done(voter);
    bench.changes(add);
    let missing = CatalogCommand::ShardLive { shard: ShardId(9) };
    assert_eq!(bench.refused(missing), Refusal::NoSuchShard { shard: ShardId(9) });
}

#[test]
fn adding_a_replica_is_a_compare_and_set_on_the_epoch() {
    let mut bench = Bench::with_shards(4, 1);
    let shard = ShardId(1);
    let add = |node, epoch| CatalogCommand::AddReplica { shard, node: NodeId(node), expected_epoch: Epoch(epoch) };
    let first = bench.add(1, 2);
    assert_eq!(bench.shard(1).epoch, Epoch(2));
    assert_eq!(bench.refused(add(3, 1)), Refusal::EpochMismatch { shard, epoch: Epoch(2) });
    assert_eq!(bench.refused(add(2, 2)), Refusal::NodeHoldsReplica { shard, node: NodeId(2), replica: first });
    assert_eq!(bench.refused(add(9, 2)), Refusal::NoSuchNode { node: NodeId(9) });
    assert!(bench.add(1, 3) > first);
    assert_eq!(bench.catalog().replica(first).unwrap().0.id, shard);
    assert_eq!(bench.catalog().replicas_on(NodeId(2)).map(|(shard, _)| shard.id).collect::<Vec<_>>(), [shard]);
}

#[test]
fn a_replica_that_left_never_comes_back_under_its_id() {
    let mut bench = Bench::with_shards(3, 1);
    let shard = ShardId(1);
    let founder = bench.shard(1).replicas[0].id;
    let leaving = |replica| CatalogCommand::ReplicaLeaving { shard, replica };
    let forget = |replica| CatalogCommand::ForgetReplica { shard, replica };
    let voter = |replica| CatalogCommand::ReplicaIsVoter { shard, replica };
    assert_eq!(bench.refused(leaving(founder)), Refusal::LastVoter { shard, replica: founder });
    let second = bench.add(1, 2);
    // A joining replica is no voter: the founder is still the last one.
    assert_eq!(bench.refused(leaving(founder)), Refusal::LastVoter { shard, replica: founder });
    bench.changes(voter(second));
    bench.finds_done(voter(second));
    bench.changes(CatalogCommand::PreferLeaders { leaders: vec![(shard, NodeId(1))] });
    assert_eq!(bench.refused(forget(founder)), Refusal::ReplicaNotLeaving { shard, replica: founder });
    bench.changes(leaving(founder));
    bench.finds_done(leaving(founder));
    assert_eq!(bench.shard(1).preferred_leader, None);
    assert_eq!(bench.refused(voter(founder)), Refusal::ReplicaIsLeaving { shard, replica: founder });
    let epoch = bench.shard(1).epoch;
    bench.changes(forget(founder));
    assert_eq!(bench.shard(1).epoch, Epoch(epoch.0 + 1));
    bench.finds_done(forget(founder));
    assert_eq!(bench.refused(voter(founder)), Refusal::NoSuchReplica { shard, replica: founder });
    let unborn = ReplicaId(bench.catalog().next_replica);
    assert_eq!(bench.refused(forget(unborn)), Refusal::NoSuchReplica { shard, replica: unborn });
    let meta = ReplicaId(1);
    assert_eq!(bench.refused(forget(meta)), Refusal::NoSuchReplica { shard, replica: meta });
    let again = bench.add(1, 1);
    assert!(again > second, "the node gets a fresh replica");
}

#[test]
fn leaders_are_preferred_all_or_none() {
    let mut bench = Bench::with_shards(3, 3);
    let prefer = |leaders: &[(u64, u64)]| CatalogCommand::PreferLeaders {
        leaders: leaders.iter().map(|(shard, node)| (ShardId(*shard), NodeId(*node))).collect(),
    };
    let why = Refusal::NodeHoldsNoReplica { shard: ShardId(2), node: NodeId(1) };
    assert_eq!(bench.refused(prefer(&[(1, 1), (2, 1)])), why);
    assert_eq!(bench.refused(prefer(&[(1, 1), (9, 1)])), Refusal::NoSuchShard { shard: ShardId(9) });
    bench.changes(prefer(&[(1, 1), (2, 2)]));
    bench.finds_done(prefer(&[(2, 2)]));
    bench.finds_done(prefer(&[]));
    assert_eq!(bench.shard(1).preferred_leader, Some(NodeId(1)));
    let joining = bench.add(1, 2);
    bench.accepted(prefer(&[(1, 2)]));
    bench.accepted(CatalogCommand::ReplicaLeaving { shard: ShardId(1), replica: joining });
    let why = Refusal::NodeHoldsNoReplica { shard: ShardId(1), node: NodeId(2) };
    assert_eq!(bench.refused(prefer(&[(1, 2)])), why);
}

#[test]
fn the_feature_level_is_one_that_every_node_knows_and_never_goes_down() {
    let mut bench = Bench::with_nodes(2, 1);
    let node = NodeProfile { feature_level_max: 2, ..profile(3) };
    bench.accepted(CatalogCommand::JoinNode { time_ms: 3, node: node.clone() });
    let raise = |to| CatalogCommand::RaiseFeatureLevel { to };
    assert_eq!(bench.refused(raise(3)), Refusal::FeatureLevelUnknown { node: NodeId(3), known: 2 });
    bench.changes(raise(2));
    bench.finds_done(raise(2));
    assert_eq!(bench.refused(raise(1)), Refusal::FeatureLevelLower { level: 2 });
    let older = NodeProfile { feature_level_max: 1, ..node };
    let why = Refusal::ReleaseTooOld { level: 2, known: 1 };
    assert_eq!(bench.refused(CatalogCommand::JoinNode { time_ms: 3, node: older }), why);
    let newcomer = NodeProfile { feature_level_max: 1, ..profile(4) };
    assert_eq!(bench.refused(CatalogCommand::JoinNode { time_ms: 3, node: newcomer }), why);
}

#[test]
fn ids_that_run_out_are_refused_and_a_new_generation_only_has_higher_ones() {
    let mut bench = Bench::with_shards(4, 1);
    let last = bench.add(1, 2);
    bench.0.as_mut().unwrap().recovery_generation = 1;
    let next = bench.add(1, 3);
    assert!(next > last && next.0 >> 48 == 1);
    bench.0.as_mut().unwrap().next_replica = apply::REPLICA_COUNTER_MAX;
    let add = CatalogCommand::AddReplica { shard: ShardId(1), node: NodeId(4), expected_epoch: bench.shard(1).epoch };
    assert_eq!(bench.refused(add), Refusal::ReplicaIdsUsedUp);
}

#[test]
fn a_catalog_that_breaks_an_invariant_is_not_decoded() {
    let good = Bench::with_shards(3, 2).0.unwrap();
    assert_eq!(Catalog::from_bytes(good.to_bytes()).unwrap(), good);
    type Break = fn(&mut Catalog);
    let breaks: [(&str, Break); 11] = [
        ("no entry covers", |it| it.shards.remove(&ShardId(1)).map(drop).unwrap()),
        ("no meta shard", |it| it.shards.remove(&META_SHARD).map(drop).unwrap()),
        ("the next node is", |it| it.next_node = 3),
        ("the next shard is", |it| it.next_shard = 2),
        ("never given out", |it| it.next_replica = 3),
        ("unknown node", |it| it.nodes.remove(&NodeId(2)).map(drop).unwrap()),
        ("the store", |it| it.nodes.get_mut(&NodeId(2)).unwrap().store = StoreId(1)),
        ("live without a voter", |it| it.shards.get_mut(&ShardId(1)).unwrap().replicas.clear()),
        ("cannot lead", |it| it.shards.get_mut(&ShardId(1)).unwrap().preferred_leader = Some(NodeId(3))),
        ("a leader was chosen", |it| it.shards.get_mut(&ShardId(1)).unwrap().leader_chosen = true),
        ("two replicas on one node", |it| {
            let shard = it.shards.get_mut(&ShardId(1)).unwrap();
            let copy = ReplicaDescriptor { id: ReplicaId(3), ..shard.replicas[0] };
            shard.replicas.push(copy);
        }),
    ];
    for (why, break_it) in breaks {
        let mut bad = good.clone();
        break_it(&mut bad);
        let error = Catalog::from_bytes(bad.to_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}, expected {why}");
    }
    for found in [CATALOG_FORMAT - 1, CATALOG_FORMAT + 1] {
        let mut other = good.to_bytes().to_vec();
        other[0] = found;
        assert!(matches!(Catalog::from_bytes(other), Err(WireError::UnknownFormat { found: it, .. }) if it == found));
    }
}

#[test]
fn ids_in_json_are_strings() {
    let json = serde_json::to_value(Bench::with_shards(3, 1).shard(1)).unwrap();
    assert_eq!(json["id"], "1");
    assert_eq!(json["replicas"][0]["node"], "1");
    assert_eq!(json["range"]["last"], "ffffffffffffffff");
    assert_eq!(json["state"], "live");
}

/// Mostly commands that fit a small cluster, with ids a little beyond what exists.
fn any_command() -> impl Strategy<Value = CatalogCommand> {
    let shard = || (0u64..6).prop_map(ShardId);
    let node = || (0u64..7).prop_map(NodeId);
    let replica = || (0u64..24).prop_map(ReplicaId);
    prop_oneof![
        1 => (prop::sample::select(vec![0u8, 1, 3, 5]), 0u32..6).prop_map(|(factor, shards)| found(factor, shards)),
        4 => (1u128..7, 0u32..3, 1u32..4).prop_map(|(store, weight, level)| CatalogCommand::JoinNode {
            time_ms: 3,
            node: NodeProfile { weight, feature_level_max: level, ..profile(store) }
        }),
        3 => prop::collection::vec(node(), 3..5).prop_map(|placements| CatalogCommand::CreateShards { placements }),
        4 => shard().prop_map(|shard| CatalogCommand::ShardLive { shard }),
        6 => (shard(), node(), 1u64..5).prop_map(|(shard, node, epoch)| {
            CatalogCommand::AddReplica { shard, node, expected_epoch: Epoch(epoch) }
        }),
        5 => (shard(), replica()).prop_map(|(shard, replica)| CatalogCommand::ReplicaIsVoter { shard, replica }),
        4 => (shard(), replica()).prop_map(|(shard, replica)| CatalogCommand::ReplicaLeaving { shard, replica }),
        4 => (shard(), replica()).prop_map(|(shard, replica)| CatalogCommand::ForgetReplica { shard, replica }),
        3 => prop::collection::vec((shard(), node()), 0..3)
            .prop_map(|leaders| CatalogCommand::PreferLeaders { leaders }),
        1 => (0u32..4).prop_map(|to| CatalogCommand::RaiseFeatureLevel { to }),
        3 => (shard(), node(), prop::option::of(1u64..5), prop::option::of(0u8..4)).prop_map(|(shard, to, epoch, key)| {
            CatalogCommand::BeginOperation {
                kind: OperationKind::TransferLeader { shard, to },
                cause: OperationCause::Asked,
                expected_epoch: epoch.map(Epoch),
                idempotency_key: key.map(|key| format!("key {key}")),
                time_ms: 1,
            }
        }),
        3 => (0u64..8, any::<bool>()).prop_map(|(id, fails)| CatalogCommand::EndOperation {
            operation: OperationId(id),
            failure: fails.then(|| "why".into()),
            time_ms: 2,
        }),
        3 => (shard(), node(), node()).prop_map(|(shard, from, to)| CatalogCommand::BeginOperation {
            kind: OperationKind::Move { shard, from, to },
            cause: OperationCause::Placement,
            expected_epoch: None,
            idempotency_key: None,
            time_ms: 1,
        }),
        2 => (node(), any::<bool>()).prop_map(|(node, is_dead)| CatalogCommand::MarkNode { time_ms: 4, node, is_dead }),
        2 => (node(), 0..3).prop_map(|(node, which)| CatalogCommand::BeginOperation {
            kind: match which {
                0 => OperationKind::Drain { node },
                1 => OperationKind::Undrain { node },
                _ => OperationKind::Decommission { node },
            },
            cause: OperationCause::Asked,
            expected_epoch: None,
            idempotency_key: None,
            time_ms: 1,
        }),
        2 => (shard(), any::<u64>()).prop_map(|(shard, at)| CatalogCommand::BeginOperation {
            kind: OperationKind::Split { shard, at: Token(at) },
            cause: OperationCause::Asked,
            expected_epoch: None,
            idempotency_key: None,
            time_ms: 1,
        }),
        3 => (0u64..8).prop_map(|id| CatalogCommand::PublishSplit { operation: OperationId(id) }),
        2 => (0u64..8).prop_map(|id| CatalogCommand::GiveUpOperation {
            operation: OperationId(id),
            why: "why".into(),
        }),
    ]
}

/// A command, or one that fits what the catalog holds when its turn comes: so that sequences get far.
#[derive(Clone, Debug)]
enum Move {
    Blind(CatalogCommand),
    Add { shard: ShardId, node: NodeId },
    OnReplica { pick: prop::sample::Index, command: fn(ShardId, ReplicaId) -> CatalogCommand },
}

fn any_move() -> impl Strategy<Value = Move> {
    let on_replica: [fn(ShardId, ReplicaId) -> CatalogCommand; 3] = [
        |shard, replica| CatalogCommand::ReplicaIsVoter { shard, replica },
        |shard, replica| CatalogCommand::ReplicaLeaving { shard, replica },
        |shard, replica| CatalogCommand::ForgetReplica { shard, replica },
    ];
    prop_oneof![
        4 => any_command().prop_map(Move::Blind),
        3 => (0u64..5, 1u64..7).prop_map(|(shard, node)| Move::Add { shard: ShardId(shard), node: NodeId(node) }),
        5 => (any::<prop::sample::Index>(), prop::sample::select(on_replica.to_vec()))
            .prop_map(|(pick, command)| Move::OnReplica { pick, command }),
    ]
}

impl Move {
    fn command(self, catalog: &Catalog) -> CatalogCommand {
        match self {
            Move::Blind(command) => command,
            Move::Add { shard, node } => {
                let expected_epoch = catalog.shards.get(&shard).map_or(Epoch(1), |shard| shard.epoch);
                CatalogCommand::AddReplica { shard, node, expected_epoch }
            }
            Move::OnReplica { pick, command } => {
                let of =
                    |shard: &ShardDescriptor| shard.replicas.iter().map(|it| (shard.id, it.id)).collect::<Vec<_>>();
                let all: Vec<_> = catalog.shards.values().flat_map(of).collect();
                let (shard, replica) = all[pick.index(all.len())];
                command(shard, replica)
            }
        }
    }
}

/// Everything of an earlier catalog that a later one may not take back.
fn assert_follows(after: &Catalog, before: &Catalog) {
    assert_eq!(after.version, before.version + u64::from(after != before));
    assert!(after.next_node >= before.next_node && after.next_shard >= before.next_shard);
    assert!(after.next_replica >= before.next_replica && after.feature_level >= before.feature_level);
    for old in before.operations.iter() {
        let now = after.operations.get(old.id);
        let is_kept = now.is_some_and(|now| if old.is_running() { now.kind == old.kind } else { now == old });
        assert!(is_kept, "{old:?} became {now:?}");
    }
    for node in after.nodes.values() {
        let old = before.nodes.get(&node.id);
        assert!(old.map_or(node.id.0 >= before.next_node, |old| old.store == node.store), "{node:?} was another");
    }
    for shard in after.shards.values() {
        let Some(old) = before.shards.get(&shard.id) else {
            let is_born = before.operations.running().any(|one| one.shards().any(|held| held == shard.id));
            assert!(is_born || shard.id.0 >= before.next_shard, "{shard:?} has a used id");
            continue;
        };
        let members = |shard: &ShardDescriptor| shard.replicas.iter().map(|replica| replica.id).collect::<Vec<_>>();
        let same = old.range == shard.range && members(old) == members(shard);
        assert!(if same { shard.epoch == old.epoch } else { shard.epoch > old.epoch }, "{old:?} became {shard:?}");
        for replica in &shard.replicas {
            let known = old.replica(replica.id);
            assert!(known.map_or(replica.id.0 >= before.next_replica, |known| known.node == replica.node));
        }
    }
}

proptest! {
    #[test]
    fn no_sequence_of_commands_breaks_an_invariant(moves in prop::collection::vec(any_move(), 0..150)) {
        let mut catalog = Bench::with_shards(3, 4).0;
        for (step, next) in moves.into_iter().enumerate() {
            let before = catalog.clone().unwrap();
            let command = next.command(&before);
            let response = apply(&mut catalog, &command);
            let after = catalog.as_ref().unwrap();
            prop_assert_eq!(after.check(), Ok(()), "step {}: {:?}", step, command);
            if let CatalogResponse::Refused { .. } = response {
                prop_assert_eq!(after, &before);
            }
            assert_follows(after, &before);
            prop_assert_eq!(&Catalog::from_bytes(after.to_bytes()).unwrap(), after);
        }
    }

    #[test]
    fn no_sequence_from_the_very_beginning_breaks_an_invariant(
        commands in prop::collection::vec(any_command(), 0..120),
    ) {
        let mut catalog = None;
        let start = [found(3, 4), CatalogCommand::JoinNode { time_ms: 3, node: profile(2) }];
        for (step, command) in start.into_iter().chain(commands).enumerate() {
            let before = catalog.clone();
            let response = apply(&mut catalog, &command);
            let after = catalog.as_ref().unwrap();
            prop_assert_eq!(after.check(), Ok(()), "step {}: {:?}", step, command);
            match before {
                None => prop_assert_eq!(response, CatalogResponse::Node { id: NodeId(1), version: 1 }),
                Some(before) => assert_follows(after, &before),
            }
            prop_assert_eq!(&Catalog::from_bytes(after.to_bytes()).unwrap(), after);
        }
    }

    #[test]
    fn damaged_bytes_are_refused_without_a_panic(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = Bench::with_shards(3, 2).0.unwrap().to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(catalog) = Catalog::from_bytes(bytes) {
            prop_assert_eq!(catalog.check(), Ok(()));
            prop_assert!(catalog.ring().is_some());
        }
    }
}
