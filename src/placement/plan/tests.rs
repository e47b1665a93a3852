//! The plan over made-up clusters: distinct, balanced, sticky.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::catalog::{
    CatalogCommand, CatalogResponse, NodeProfile, Operations, ReplicaDescriptor, ReplicaState, ShardDescriptor,
    ShardState, apply,
};
use crate::types::{ClusterId, Epoch, ProtocolRange, ReplicaId, Revision, StoreId};

/// What the tests vary of a node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) weight: u32,
    pub(super) zone: String,
    pub(super) host: String,
}

pub(super) fn node(id: u64) -> Node {
    Node { id, weight: 100, zone: String::new(), host: String::new() }
}

pub(super) fn equal_nodes(ids: impl IntoIterator<Item = u64>) -> Vec<Node> {
    ids.into_iter().map(node).collect()
}

/// A catalog with live data shards, each with its one replica on the first node.
pub(super) fn catalog(replication_factor: u8, data_shards: u32, nodes: &[Node]) -> Catalog {
    let replica = |shard: u64| ReplicaDescriptor {
        id: ReplicaId(shard + 1),
        node: NodeId(nodes[0].id),
        state: ReplicaState::Voter,
    };
    let shard = |(id, range)| ShardDescriptor {
        id: ShardId(id),
        range,
        epoch: Epoch(1),
        state: ShardState::Live,
        replicas: vec![replica(id)],
        preferred_leader: None,
        leader_chosen: false,
        placement_chosen: false,
    };
    let ranges = TokenRange::full().split_evenly(data_shards).into_iter().map(Some);
    let shards: BTreeMap<_, _> =
        (0..).zip(std::iter::once(None).chain(ranges)).map(|item| (ShardId(item.0), shard(item))).collect();
    let descriptor = |node: &Node| {
        let profile = NodeProfile {
            store: StoreId(u128::from(node.id)),
            http: "http:1".into(),
            peer: "peer:1".into(),
            weight: node.weight,
            zone: node.zone.clone(),
            host: node.host.clone(),
            protocol: ProtocolRange { min: 1, max: 1 },
            feature_level_max: 1,
        };
        (NodeId(node.id), NodeDescriptor::new(NodeId(node.id), profile))
    };
    let catalog = Catalog {
        version: 1,
        cluster: ClusterId(1),
        replication_factor,
        initial_shards: data_shards,
        feature_level: 1,
        recovery_generation: 0,
        revision_base: Revision(1),
        next_node: 1 << 40,
        next_shard: shards.len() as u64,
        next_replica: shards.len() as u64 + 1,
        nodes: nodes.iter().map(descriptor).collect(),
        shards,
        departed: Vec::new(),
        events: Vec::new(),
        operations: Operations::default(),
    };
    assert_eq!(catalog.check(), Ok(()));
    catalog
}

pub(super) fn loads(plan: &BTreeMap<ShardId, Vec<NodeId>>) -> BTreeMap<NodeId, usize> {
    let mut loads = BTreeMap::new();
    for node in plan.values().flatten() {
        *loads.entry(*node).or_default() += 1;
    }
    loads
}

/// Every node's share by another way than the plan's: the level at which min(shards, level * weight) adds up, found by
/// halving.
fn fair_shares(nodes: &[Node], copies: usize, shards: usize) -> Vec<f64> {
    let at = |level: f64| nodes.iter().map(move |node| (f64::from(node.weight) * level).min(shards as f64));
    let (mut low, mut high) = (0.0, shards as f64);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if at(middle).sum::<f64>() < (copies * shards) as f64 { low = middle } else { high = middle }
    }
    at(high).collect()
}

fn assert_bounded(plan: &BTreeMap<ShardId, Vec<NodeId>>, nodes: &[Node], copies: usize) {
    let loads = loads(plan);
    let slack = LOAD_SLACK_PERCENT as f64 / 100.0;
    for (node, share) in nodes.iter().zip(fair_shares(nodes, copies, plan.len())) {
        let load = loads.get(&NodeId(node.id)).copied().unwrap_or(0) as f64;
        // A millionth for the rounding of both computations.
        let (least, most) = ((share * (1.0 - slack) - 1e-6).floor(), (share * (1.0 + slack) + 1e-6).ceil());
        assert!((least..=most).contains(&load), "node {} has {load}, its share is {share}: {loads:?}", node.id);
    }
}

fn distinct(set: &[NodeId], label: impl Fn(NodeId) -> String) -> usize {
    set.iter().map(|node| label(*node)).collect::<BTreeSet<_>>().len()
}

/// Labels by the rules of the catalog: none given is one of its own.
fn host_of(node: &Node) -> String {
    if node.host.is_empty() { format!("only node {}", node.id) } else { node.host.clone() }
}

fn zone_of(node: &Node) -> String {
    if node.zone.is_empty() { format!("zone of {}", host_of(node)) } else { node.zone.clone() }
}

/// Nodes with gaps in their ids; hosts lie in one zone, as they do when labels are right.
fn any_nodes() -> impl Strategy<Value = Vec<Node>> {
    let labels = (0usize..4, 0usize..3);
    prop::collection::btree_map(1u64..10_000, (labels, 50u32..400), 1..14).prop_map(|nodes| {
        let label = |prefix: &str, number: usize| if number == 0 { String::new() } else { format!("{prefix}{number}") };
        let of = |(id, ((zone, host), weight))| {
            let (zone, host) = (label("zone ", zone), label("host ", host));
            let host = if host.is_empty() { host } else { format!("{zone}/{host}") };
            Node { id, weight, zone, host }
        };
        nodes.into_iter().map(of).collect()
    })
}

fn any_factor() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![1u8, 3, 5])
}

proptest! {
    #[test]
    fn replicas_are_on_distinct_nodes_and_as_many_hosts_and_zones_as_there_are(
        nodes in any_nodes(), factor in any_factor(), shards in 1u32..40,
    ) {
        let plan = wanted(&catalog(factor, shards, &nodes));
        let copies = usize::from(factor).min(nodes.len());
        let by_id: BTreeMap<_, _> = nodes.iter().map(|node| (NodeId(node.id), node)).collect();
        let all: Vec<_> = by_id.keys().copied().collect();
        let (host, zone) = (|node| host_of(by_id[&node]), |node| zone_of(by_id[&node]));
        prop_assert_eq!(plan.len(), shards as usize + 1);
        for set in plan.values() {
            prop_assert_eq!(set.len(), copies);
            prop_assert_eq!(distinct(set, |node| node.to_string()), copies);
            prop_assert_eq!(distinct(set, host), copies.min(distinct(&all, host)), "hosts of {:?}", set);
            prop_assert_eq!(distinct(set, zone), copies.min(distinct(&all, zone)), "zones of {:?}", set);
        }
    }

    #[test]
    fn contradicting_labels_still_give_distinct_hosts(
        labels in prop::collection::vec((0u8..4, 0u8..4), 3..12), shards in 1u32..40,
    ) {
        let nodes: Vec<_> = (1..).zip(labels).map(|(id, (zone, host))| {
            Node { zone: zone.to_string(), host: host.to_string(), ..node(id) }
        }).collect();
        let host = |id: NodeId| nodes[id.0 as usize - 1].host.clone();
        let all: Vec<_> = nodes.iter().map(|node| NodeId(node.id)).collect();
        for set in wanted(&catalog(3, shards, &nodes)).values() {
            prop_assert_eq!(distinct(set, host), 3.min(distinct(&all, host)));
        }
    }

    #[test]
    fn every_node_is_near_its_weighted_share(
        weights in prop::collection::vec(1u32..20, 1..14), factor in any_factor(), shards in 1u32..130,
    ) {
        let nodes: Vec<_> = (1..).zip(weights).map(|(id, weight)| Node { weight, ..node(id) }).collect();
        assert_bounded(&wanted(&catalog(factor, shards, &nodes)), &nodes, usize::from(factor).min(nodes.len()));
    }

    #[test]
    fn zones_of_one_size_do_not_cost_balance(zones in 3u64..6, each in 1u64..5, shards in 1u32..100) {
        let nodes: Vec<_> = (0..zones * each).map(|number| {
            Node { zone: format!("zone {}", number % zones), ..node(number + 1) }
        }).collect();
        assert_bounded(&wanted(&catalog(3, shards, &nodes)), &nodes, 3);
    }

    #[test]
    fn a_new_node_takes_little_more_than_its_share_of_replicas(
        first in 1u64..100_000, n in 3u64..9, shards in 48u32..130,
    ) {
        let before = wanted(&catalog(3, shards, &equal_nodes(first..first + n)));
        let after = wanted(&catalog(3, shards, &equal_nodes(first..=first + n)));
        let moved = moved(&before, &after);
        prop_assert!(moved <= 1.0 / (n + 1) as f64 + MOVEMENT_MARGIN, "{moved} of the replicas moved, n = {n}");
    }
}

/// What balance costs: the part of all replicas that may move beyond the newcomer's own share, from 48 shards on.
const MOVEMENT_MARGIN: f64 = 0.10;

fn moved(before: &BTreeMap<ShardId, Vec<NodeId>>, after: &BTreeMap<ShardId, Vec<NodeId>>) -> f64 {
    let come = |(shard, set): (&ShardId, &Vec<NodeId>)| set.iter().filter(|node| !before[shard].contains(node)).count();
    after.iter().map(come).sum::<usize>() as f64 / after.values().map(Vec::len).sum::<usize>() as f64
}

#[test]
fn loads_follow_weights_one_two_four() {
    let nodes: Vec<_> = (1..).zip([1, 2, 4, 1, 2, 4]).map(|(id, weight)| Node { weight, ..node(id) }).collect();
    // 95 data shards and the meta shard.
    let plan = wanted(&catalog(3, 95, &nodes));
    let loads = loads(&plan);
    for node in &nodes {
        let share = 3.0 * 96.0 * f64::from(node.weight) / 14.0;
        let load = loads[&NodeId(node.id)] as f64;
        assert!((load - share).abs() <= (0.1 * share).max(1.0), "node {} has {load} of {share}", node.id);
    }
}

#[test]
fn a_small_zone_holds_a_replica_of_every_shard_when_it_is_the_third_one() {
    let zone = |id: u64| {
        if id <= 4 {
            "a"
        } else if id <= 8 {
            "b"
        } else {
            "c"
        }
    };
    let nodes: Vec<_> = (1..=9).map(|id| Node { zone: zone(id).into(), ..node(id) }).collect();
    let plan = wanted(&catalog(3, 23, &nodes));
    let loads = loads(&plan);
    assert_eq!(loads[&NodeId(9)], 24);
    // The others share what is left: 24 replicas in each zone, on four nodes.
    assert!((1..=8).all(|id| (5..=7).contains(&loads[&NodeId(id)])), "{loads:?}");
}

#[test]
fn what_a_heavy_node_cannot_hold_the_others_share_by_their_weights() {
    let labelled = |id, host: &str, weight| Node { host: host.into(), weight, ..node(id) };
    // Two hosts for three copies. The heavy node cannot hold more than all 24 shards; 48 replicas are left for weights
    // 1, 2 and 2. Chance may come out right by itself, so other ids try it again.
    for id in (0..100).step_by(4) {
        let [heavy, light] = [labelled(id + 1, "a", 400), labelled(id + 2, "a", 50)];
        let nodes = [heavy, light, labelled(id + 3, "b", 100), labelled(id + 4, "b", 100)];
        let loads = loads(&wanted(&catalog(3, 23, &nodes)));
        assert!((22..=24).contains(&loads[&NodeId(id + 1)]), "{loads:?}");
        assert!((9..=11).contains(&loads[&NodeId(id + 2)]), "{loads:?}");
        assert!([3, 4].iter().all(|more| (18..=21).contains(&loads[&NodeId(id + more)])), "{loads:?}");
    }
}

#[test]
fn the_plan_does_not_depend_on_where_replicas_are() {
    let nodes = equal_nodes(1..=5);
    let still = catalog(3, 12, &nodes);
    let plan = wanted(&still);
    assert_eq!(wanted(&still), plan);
    let mut catalog = Some(still);
    for shard in 0..=12 {
        let add = CatalogCommand::AddReplica { shard: ShardId(shard), node: NodeId(3), expected_epoch: Epoch(1) };
        assert!(matches!(apply(&mut catalog, &add), CatalogResponse::Replica { .. }));
    }
    assert_eq!(wanted(&catalog.unwrap()), plan);
}

/// A released plan is part of the product: another one would move replicas in every cluster that upgrades.
#[test]
fn the_plan_of_a_small_cluster_is_pinned() {
    let nodes = equal_nodes(1..=5);
    let text: Vec<String> = wanted(&catalog(3, 12, &nodes))
        .iter()
        .map(|(shard, set)| format!("{shard}:{}", set.iter().map(|node| format!(" {node}")).collect::<String>()))
        .collect();
    let pinned = include_str!("../../../testdata/golden/plan_5_nodes_12_shards.txt");
    assert_eq!(text.join("\n") + "\n", pinned);
}

#[test]
fn founders_are_wanted_where_they_are_and_spread_evenly() {
    for (n, shards) in [(1, 4), (3, 4), (3, 12), (4, 12), (5, 12), (5, 16), (6, 48), (8, 96)] {
        let factor = if n < 3 { 1 } else { 3 };
        let mut planned = catalog(factor, shards, &equal_nodes(1..=n));
        planned.shards.retain(|id, _| *id == META_SHARD);
        planned.next_shard = 1;
        let placements = founders(&planned);
        let mut created = Some(planned);
        let response = apply(&mut created, &CatalogCommand::CreateShards { placements: placements.clone() });
        assert_eq!(response, CatalogResponse::Applied { version: 2 });
        let plan = wanted(&created.unwrap());
        for (shard, founder) in (1..).map(ShardId).zip(&placements) {
            assert!(plan[&shard].contains(founder), "{n} nodes, {shards} shards: {founder} founds shard {shard}");
        }
        let counts = (1..=n).map(|node| placements.iter().filter(|founder| founder.0 == node).count());
        let (most, least) = (counts.clone().max().unwrap(), counts.min().unwrap());
        assert!(most - least <= 1, "{n} nodes, {shards} shards: {least} to {most} founders on a node");
    }
}

mod leading {
    use super::*;

    type Voters = BTreeMap<ShardId, Vec<NodeId>>;

    /// A catalog in which every shard has live replicas on exactly the nodes of its voters.
    fn with_voters(weights: &[u32], voters: &Voters, preferred: &BTreeMap<ShardId, NodeId>) -> Catalog {
        let nodes: Vec<_> = (1..).zip(weights).map(|(id, weight)| Node { weight: *weight, ..node(id) }).collect();
        let mut catalog = catalog(3, voters.len() as u32 - 1, &nodes);
        for (shard, nodes) in voters {
            let shard = catalog.shards.get_mut(shard).unwrap();
            shard.replicas.clear();
            for node in nodes {
                let id = ReplicaId(catalog.next_replica);
                shard.replicas.push(ReplicaDescriptor { id, node: *node, state: ReplicaState::Voter });
                catalog.next_replica += 1;
            }
            shard.preferred_leader = preferred.get(&shard.id).copied();
        }
        assert_eq!(catalog.check(), Ok(()));
        catalog
    }

    fn any_voters(shards: std::ops::Range<usize>) -> impl Strategy<Value = (Vec<u32>, Voters)> {
        prop::collection::vec(1u32..5, 3..7).prop_flat_map(move |weights| {
            let ids: Vec<_> = (1..=weights.len() as u64).map(NodeId).collect();
            let sets = prop::collection::vec(prop::sample::subsequence(ids, 1..=3), shards.clone());
            (Just(weights), sets.prop_map(|sets| (0..).map(ShardId).zip(sets).collect()))
        })
    }

    /// Sum of leaders² / weight, times 12 so that it is whole for weights 1 to 4.
    fn cost(weights: &[u32], leaders: impl Iterator<Item = NodeId>) -> u64 {
        let mut counts = vec![0u64; weights.len()];
        leaders.for_each(|node| counts[node.0 as usize - 1] += 1);
        counts.iter().zip(weights).map(|(count, weight)| count * count * 12 / u64::from(*weight)).sum()
    }

    fn best_cost(weights: &[u32], voters: &Voters) -> u64 {
        let mut choices: Vec<Vec<NodeId>> = vec![vec![]];
        for nodes in voters.values() {
            let longer =
                |choice: &Vec<NodeId>| nodes.iter().map(|node| [choice.as_slice(), &[*node]].concat()).collect();
            choices = choices.iter().flat_map(|choice| -> Vec<_> { longer(choice) }).collect();
        }
        choices.into_iter().map(|choice| cost(weights, choice.into_iter())).min().unwrap()
    }

    proptest! {
        #[test]
        fn no_other_choice_of_voters_spreads_leaders_better(
            (weights, voters) in any_voters(2..8), preferences in prop::collection::vec(any::<prop::sample::Index>(), 8),
        ) {
            let preferred = voters.iter().zip(&preferences)
                .map(|((shard, nodes), pick)| (*shard, nodes[pick.index(nodes.len())])).collect();
            let catalog = with_voters(&weights, &voters, &preferred);
            let leaders = wanted_leaders(&catalog, &voters);
            prop_assert_eq!(leaders.len(), voters.len());
            for (shard, leader) in &leaders {
                prop_assert!(voters[shard].contains(leader));
            }
            let best = best_cost(&weights, &voters);
            prop_assert_eq!(cost(&weights, leaders.iter().map(|(_, node)| *node)), best);
            // Preferences that are as good as any stay untouched.
            if cost(&weights, preferred.values().copied()) == best {
                prop_assert_eq!(leaders, preferred.into_iter().collect::<Vec<_>>());
            }
        }

        #[test]
        fn leaders_once_preferred_stay((weights, voters) in any_voters(2..60)) {
            let mut catalog = Some(with_voters(&weights, &voters, &BTreeMap::new()));
            let leaders = wanted_leaders(catalog.as_ref().unwrap(), &voters);
            let response = apply(&mut catalog, &CatalogCommand::PreferLeaders { leaders: leaders.clone() });
            prop_assert_eq!(response, CatalogResponse::Applied { version: 2 });
            prop_assert_eq!(wanted_leaders(&catalog.unwrap(), &voters), leaders);
        }

        #[test]
        fn leaders_of_wanted_placements_differ_by_at_most_one(n in 3u64..10, shards in 1u32..100) {
            let catalog = catalog(3, shards, &equal_nodes(1..=n));
            let plan = wanted(&catalog);
            let catalog = with_voters(&vec![100; n as usize], &plan, &BTreeMap::new());
            let leaders = wanted_leaders(&catalog, &plan);
            let counts = (1..=n).map(|node| leaders.iter().filter(|(_, leader)| leader.0 == node).count());
            prop_assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_leaving_replica_and_an_unknown_shard_get_no_leader() {
        let node = NodeId;
        let mut voters: Voters = (0..3).map(|shard| (ShardId(shard), vec![node(1), node(2)])).collect();
        let mut catalog = with_voters(&[1, 1, 1], &voters, &BTreeMap::new());
        for shard in catalog.shards.values_mut() {
            shard.replicas[0].state = ReplicaState::Leaving;
        }
        // Its group has a voter that the catalog does not place there, and none that may lead.
        voters.insert(ShardId(1), vec![node(1), node(3)]);
        voters.insert(ShardId(9), vec![node(1)]);
        assert_eq!(wanted_leaders(&catalog, &voters), [(ShardId(0), node(2)), (ShardId(2), node(2))]);
    }

    #[test]
    fn a_node_that_drains_or_is_dead_leads_only_what_nobody_else_can() {
        let node = NodeId;
        let voters: Voters = [(0, vec![1, 2]), (1, vec![2]), (2, vec![3])]
            .map(|(shard, nodes)| (ShardId(shard), nodes.into_iter().map(node).collect()))
            .into();
        let preferred = voters.iter().map(|(shard, nodes)| (*shard, nodes[0])).collect();
        let mut catalog = with_voters(&[1, 1, 1], &voters, &preferred);
        catalog.nodes.get_mut(&node(1)).unwrap().is_draining = true;
        catalog.nodes.get_mut(&node(3)).unwrap().is_dead = true;
        let leaders = wanted_leaders(&catalog, &voters);
        assert_eq!(leaders[0], (ShardId(0), node(2)), "though node 1 leads nothing");
        assert_eq!(leaders[2], (ShardId(2), node(3)), "there is no other voter");
    }
}
