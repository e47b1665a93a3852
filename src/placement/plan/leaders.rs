//! Spreading leaders over the nodes by weight.
//!
//! The measure of unevenness is the sum of leaders² / weight over all nodes. One leader more on a node raises it by
//! (2 × leaders + 1) / weight, the node's *price*. A leader passed along a chain of shards from one node to another pays
//! off when the price at the far end is below what leaving gives back; with no such chain left, the spread is the best
//! there is (a convex cost over a flow: Harvey et al., "Semi-matchings for bipartite graphs and load balancing"). With equal
//! weights the numbers of leaders then differ by at most one wherever the voters allow that at all.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use crate::catalog::{Catalog, NodeDescriptor};
use crate::types::{NodeId, ShardId};

/// The node that should lead each shard, out of `voters`: the nodes of each shard's voters as its group counts them.
/// Preferred leaders of the catalog stay where balance allows, those that somebody chose in any case. Shards of which no voter may lead are left out, so that
/// `PreferLeaders` takes the result as it is.
#[must_use]
pub fn wanted_leaders(catalog: &Catalog, voters: &BTreeMap<ShardId, Vec<NodeId>>) -> Vec<(ShardId, NodeId)> {
    let known = |shard: &ShardId| catalog.shards.get(shard);
    let candidates = voters
        .iter()
        .filter_map(|(shard, nodes)| {
            let descriptor = known(shard)?;
            // A leader that somebody chose is counted where it is, and not moved.
            let chosen = descriptor.preferred_leader.filter(|_| descriptor.leader_chosen);
            let may_lead = |node: &NodeId| chosen.unwrap_or(*node) == *node && descriptor.may_lead(*node);
            let able: Vec<_> = nodes.iter().copied().filter(may_lead).collect();
            // A node that drains or is dead leads only what nobody else can.
            let stays = |node: &NodeId| catalog.nodes.get(node).is_some_and(NodeDescriptor::takes_replicas);
            let staying: Vec<_> = able.iter().copied().filter(stays).collect();
            let nodes = if staying.is_empty() { able } else { staying };
            (!nodes.is_empty()).then_some((*shard, nodes))
        })
        .collect();
    let preferred = voters.keys().filter_map(|shard| Some((*shard, known(shard)?.preferred_leader?))).collect();
    spread(&catalog.nodes, &candidates, &preferred)
}

/// One of the candidates for each shard. Every candidate is one of `nodes`, and no list is empty.
pub(super) fn spread(
    nodes: &BTreeMap<NodeId, NodeDescriptor>,
    candidates: &BTreeMap<ShardId, Vec<NodeId>>,
    preferred: &BTreeMap<ShardId, NodeId>,
) -> Vec<(ShardId, NodeId)> {
    let mut spread = Spread {
        leaders: nodes.iter().map(|(id, node)| (*id, (0, node.weight))).collect(),
        candidates,
        preferred,
        leader_of: BTreeMap::new(),
    };
    // First those who lead by preference, so that the others fill the gaps.
    for (shard, nodes) in candidates {
        if let Some(node) = preferred.get(shard).filter(|node| nodes.contains(node)) {
            spread.put(*shard, *node);
        }
    }
    for (shard, nodes) in candidates {
        if !spread.leader_of.contains_key(shard) {
            // The first of the cheapest: candidates are in the order of preference.
            let node = nodes.iter().copied().min_by(|a, b| spread.compare_prices(*a, *b));
            spread.put(*shard, node.expect("every shard has a candidate"));
        }
    }
    while spread.pass_one_on() {}
    spread.leader_of.into_iter().collect()
}

struct Spread<'a> {
    /// Number of leaders, and weight.
    leaders: BTreeMap<NodeId, (u64, u32)>,
    candidates: &'a BTreeMap<ShardId, Vec<NodeId>>,
    preferred: &'a BTreeMap<ShardId, NodeId>,
    leader_of: BTreeMap<ShardId, NodeId>,
}

impl Spread<'_> {
    fn put(&mut self, shard: ShardId, node: NodeId) {
        if let Some(before) = self.leader_of.insert(shard, node) {
            self.count(before).0 -= 1;
        }
        self.count(node).0 += 1;
    }

    fn count(&mut self, node: NodeId) -> &mut (u64, u32) {
        self.leaders.get_mut(&node).expect("leaders are on nodes of the catalog")
    }

    /// Compares what one leader more would cost: (2 × leaders + 1) / weight, without dividing.
    fn compare_prices(&self, a: NodeId, b: NodeId) -> Ordering {
        let ((a_leaders, a_weight), (b_leaders, b_weight)) = (self.leaders[&a], self.leaders[&b]);
        let price = |leaders: u64, other_weight: u32| u128::from(2 * leaders + 1) * u128::from(other_weight);
        price(a_leaders, b_weight).cmp(&price(b_leaders, a_weight))
    }

    /// Whether it pays that `to` has one leader more and `from` one less.
    fn pays(&self, from: NodeId, to: NodeId) -> bool {
        let ((from_leaders, from_weight), (to_leaders, to_weight)) = (self.leaders[&from], self.leaders[&to]);
        let Some(given_back) = (2 * from_leaders).checked_sub(1) else { return false };
        u128::from(2 * to_leaders + 1) * u128::from(from_weight) < u128::from(given_back) * u128::from(to_weight)
    }

    /// Passes one leader along a shortest chain that pays; the most loaded nodes give first. False when none pays.
    fn pass_one_on(&mut self) -> bool {
        let mut givers: Vec<NodeId> = self.leaders.keys().copied().collect();
        givers.sort_by(|a, b| self.compare_prices(*b, *a));
        let Some(chain) = givers.into_iter().find_map(|giver| self.chain_from(giver)) else { return false };
        for (shard, node) in chain {
            self.put(shard, node);
        }
        true
    }

    /// Shards and their new leaders: each node of the chain takes a shard from the one before and gives the next to the
    /// one after.
    fn chain_from(&self, giver: NodeId) -> Option<Vec<(ShardId, NodeId)>> {
        let mut reached: BTreeMap<NodeId, (ShardId, NodeId)> = BTreeMap::new();
        let mut queue = VecDeque::from([giver]);
        while let Some(from) = queue.pop_front() {
            // A shard that does not stand where it is preferred is the first to go.
            let mut led: Vec<_> = self.leader_of.iter().filter(|(_, leader)| **leader == from).collect();
            led.sort_by_key(|(shard, leader)| self.preferred.get(shard) == Some(*leader));
            for (shard, _) in led {
                for to in &self.candidates[shard] {
                    if *to == giver || reached.contains_key(to) {
                        continue;
                    }
                    reached.insert(*to, (*shard, from));
                    if self.pays(giver, *to) {
                        return Some(trace(&reached, giver, *to));
                    }
                    queue.push_back(*to);
                }
            }
        }
        None
    }
}

fn trace(reached: &BTreeMap<NodeId, (ShardId, NodeId)>, giver: NodeId, end: NodeId) -> Vec<(ShardId, NodeId)> {
    let mut chain = Vec::new();
    let mut node = end;
    while node != giver {
        let (shard, from) = reached[&node];
        chain.push((shard, node));
        node = from;
    }
    chain
}
