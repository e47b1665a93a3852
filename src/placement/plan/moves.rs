//! From the placement that is to the wanted one: which replicas are to be moved next. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{Place, places, wanted};
use crate::catalog::{Catalog, NodeDescriptor, OperationKind, ReplicaState, ShardDescriptor, ShardState};
use crate::types::{NodeId, ShardId};

/// Replicas that come to one node at the same time: each is a whole snapshot over the network and onto the disk.
const COMING_PER_NODE_MAX: usize = 2;

/// One replica of `shard` that should stand on `to` and not on `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub shard: ShardId,
    pub from: NodeId,
    pub to: NodeId,
}

/// How much a move matters; the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// One failure more may cost the quorum.
    Dead,
    Draining,
    Balance,
}

/// The moves that may be begun now, beside those that run. The most needed first; none of a shard that an operation has.
#[must_use]
pub fn next_moves(catalog: &Catalog) -> Vec<Move> {
    let wanted = wanted(catalog);
    let labels = Labels::of(catalog);
    let loads = Loads::of(catalog);
    let is_forming = catalog.shards.values().any(|shard| !is_whole(catalog, shard));
    let mut moves: Vec<(Need, Move)> = catalog
        .shards
        .values()
        .filter(|shard| is_whole(catalog, shard) && catalog.operations.on_shard(shard.id).is_none())
        .filter_map(|shard| next_move(catalog, shard, wanted.get(&shard.id)?, &labels, &loads))
        // Replicas are moved for balance once each shard has all of them.
        .filter(|(need, _)| *need < Need::Balance || !is_forming)
        .collect();
    moves.sort_by_key(|(need, step)| (*need, step.shard));
    let mut coming: BTreeMap<NodeId, usize> = BTreeMap::new();
    for operation in catalog.operations.running() {
        if let OperationKind::Move { to, .. } = operation.kind {
            *coming.entry(to).or_default() += 1;
        }
    }
    let mut takes_one_more = |node: NodeId| {
        let coming = coming.entry(node).or_default();
        *coming += 1;
        *coming <= COMING_PER_NODE_MAX
    };
    moves.into_iter().map(|(_, step)| step).filter(|step| takes_one_more(step.to)).collect()
}

/// Live, and none of its replicas on its way, but one that a move brings.
fn is_whole(catalog: &Catalog, shard: &ShardDescriptor) -> bool {
    let is_moved = catalog.moves_away_from(shard.id).is_some();
    let takers = catalog.nodes.values().filter(|node| node.takes_replicas()).count();
    let has_all = shard.replicas.len() >= usize::from(catalog.replication_factor).min(takers);
    let all_vote = shard.replicas.iter().all(|replica| replica.state == ReplicaState::Voter);
    shard.state == ShardState::Live && (is_moved || (has_all && all_vote))
}

fn next_move(
    catalog: &Catalog,
    shard: &ShardDescriptor,
    wanted: &[NodeId],
    labels: &Labels,
    loads: &Loads,
) -> Option<(Need, Move)> {
    let held: Vec<NodeId> = shard.replicas.iter().map(|replica| replica.node).collect();
    let to_go = held.iter().filter(|node| !wanted.contains(node)).map(|node| (need(catalog, *node), *node));
    let to_come: Vec<NodeId> = wanted.iter().copied().filter(|node| !held.contains(node)).collect();
    let candidates = to_go
        // Where somebody chose a replica's place, only nodes that cannot keep theirs lose it.
        .filter(|(need, _)| *need < Need::Balance || !shard.placement_chosen)
        .flat_map(|(need, from)| to_come.iter().map(move |to| (need, from, *to)))
        // A shard that comes or goes changes where others are wanted. That alone moves nothing: whole replicas would go to
        // and fro, and every node would hold as many as before.
        .filter(|(need, from, to)| {
            let after = held.iter().copied().filter(|node| node != from).chain([*to]);
            *need < Need::Balance
                || loads.are_evened_by(*from, *to)
                || labels.spread(after) > labels.spread(held.iter().copied())
        });
    // Of those that matter most the one after which the replicas share the fewest zones and hosts: also half way through,
    // the loss of a zone is not to cost the quorum.
    candidates
        .min_by_key(|(need, from, to)| {
            let after = held.iter().copied().filter(|node| node != from).chain([*to]);
            (*need, std::cmp::Reverse(labels.spread(after)))
        })
        .map(|(need, from, to)| (need, Move { shard: shard.id, from, to }))
}

/// How many replicas the nodes hold, those that come to them counted and those that leave not, and what is theirs by weight.
struct Loads {
    held: BTreeMap<NodeId, u64>,
    weights: BTreeMap<NodeId, u64>,
    replicas: u64,
}

impl Loads {
    fn of(catalog: &Catalog) -> Self {
        let takers = catalog.nodes.values().filter(|node| node.takes_replicas());
        let weights: BTreeMap<NodeId, u64> = takers.map(|node| (node.id, u64::from(node.weight))).collect();
        let copies = u64::from(catalog.replication_factor).min(weights.len() as u64);
        let mut held: BTreeMap<NodeId, u64> = BTreeMap::new();
        for shard in catalog.shards.values() {
            let goes = catalog.moves_away_from(shard.id);
            for replica in shard.replicas.iter().filter(|replica| Some(replica.node) != goes) {
                *held.entry(replica.node).or_default() += 1;
            }
        }
        Self { held, replicas: copies * catalog.shards.len() as u64, weights }
    }

    /// One of them is off its share by more than a tenth of it, or than one replica where that is more, and the move brings it
    /// nearer.
    fn are_evened_by(&self, from: NodeId, to: NodeId) -> bool {
        // All times the sum of the weights, so that nothing is rounded but the tenth.
        let all: u64 = self.weights.values().sum();
        let held = |node| self.held.get(&node).copied().unwrap_or_default() * all;
        let share = |node| self.replicas * self.weights.get(&node).copied().unwrap_or_default();
        let slack = |node| (share(node) / 10).max(all);
        held(from) > share(from) + slack(from) || held(to) + slack(to) < share(to)
    }
}

fn need(catalog: &Catalog, node: NodeId) -> Need {
    match catalog.nodes.get(&node) {
        Some(NodeDescriptor { is_dead: true, .. }) => Need::Dead,
        Some(NodeDescriptor { is_draining: true, .. }) => Need::Draining,
        _ => Need::Balance,
    }
}

/// Failure domains of all nodes, those that take no replicas too: they still hold some.
struct Labels(BTreeMap<NodeId, Place>);

impl Labels {
    fn of(catalog: &Catalog) -> Self {
        Self(places(catalog.nodes.values()).into_iter().map(|place| (place.id, place)).collect())
    }

    /// Distinct zones, then distinct hosts.
    fn spread(&self, nodes: impl Iterator<Item = NodeId>) -> (usize, usize) {
        let places: Vec<&Place> = nodes.filter_map(|node| self.0.get(&node)).collect();
        let distinct =
            |domain: fn(&Place) -> usize| places.iter().map(|place| domain(place)).collect::<BTreeSet<_>>().len();
        (distinct(|place| place.zone), distinct(|place| place.host))
    }
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
