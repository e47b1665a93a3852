//! The wanted placement: which nodes should hold each shard, and which of them should lead. Pure: the same catalog gives
//! the same plan everywhere. The reconciler walks there from what is, one safe step at a time.
//!
//! How replicas are placed (`wanted`):
//! 1. Consistent hashing: every node has points on a ring in proportion to its weight, and a shard takes the first
//!    distinct nodes clockwise from its start token ([`ring`]). A node that comes or goes thereby concerns its share of
//!    the shards alone.
//! 2. Spread: among those it takes the nodes that share as few hosts, then as few zones, as the cluster allows.
//! 3. Bounded loads: chance leaves some nodes with too many or too few; [`balance`] moves replicas, at the same spread,
//!    until every node is near its weighted share. Spread goes before balance, for it is what keeps data alive.
//!
//! The plan depends on the nodes that take replicas, ranges and the replication factor alone, never on where replicas are now: half way through
//! a move it is still the same.

mod balance;
mod leaders;
mod moves;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::balance::LOAD_SLACK_PERCENT;
pub use self::leaders::wanted_leaders;
pub use self::moves::{Move, next_moves};

use self::balance::Balance;
use self::ring::NodeRing;
use crate::catalog::{Catalog, NodeDescriptor};
use crate::ring::{Token, TokenRange};
use crate::types::{META_SHARD, NodeId, ShardId};

/// The meta shard has no range; it stands on the ring where these bytes hash to. Part of the plan: never to be changed.
const META_SHARD_NAME: &[u8] = b"ringraft meta shard";

/// The nodes that should hold each shard, in the order of preference: as many as the replication factor, or all where
/// fewer take replicas. Always distinct.
#[must_use]
pub fn wanted(catalog: &Catalog) -> BTreeMap<ShardId, Vec<NodeId>> {
    let shards: Vec<_> = catalog.shards.values().map(|shard| (shard.id, shard.range)).collect();
    place(catalog, &shards)
}

/// The founder of each initial data shard, in ring order, as `CreateShards` takes them: a node of the shard's wanted set,
/// so that it need not move at once, and the founders spread as leaders are, because that is what they become.
#[must_use]
pub fn founders(catalog: &Catalog) -> Vec<NodeId> {
    let ranges = TokenRange::full().split_evenly(catalog.initial_shards);
    let first = META_SHARD.0 + 1;
    let mut shards: Vec<_> = (first..).map(ShardId).zip(ranges.into_iter().map(Some)).collect();
    shards.insert(0, (META_SHARD, None));
    let mut wanted = place(catalog, &shards);
    // The meta shard is founded already, and led by whom it has.
    wanted.remove(&META_SHARD);
    leaders::spread(&catalog.nodes, &wanted, &BTreeMap::new()).into_iter().map(|(_, node)| node).collect()
}

fn place(catalog: &Catalog, shards: &[(ShardId, Option<TokenRange>)]) -> BTreeMap<ShardId, Vec<NodeId>> {
    let places = places(catalog.nodes.values().filter(|node| node.takes_replicas()));
    if places.is_empty() {
        return shards.iter().map(|(shard, _)| (*shard, Vec::new())).collect();
    }
    let copies = usize::from(catalog.replication_factor).min(places.len());
    let ring = NodeRing::new(&places);
    let orders = shards.iter().map(|(_, range)| {
        let start = range.map_or(Token::of_bytes(META_SHARD_NAME), |range| range.first);
        ring.clockwise_from(start)
    });
    let balanced = Balance::new(&places, copies, orders.collect()).balanced();
    let sets = balanced.into_iter().map(|set| set.into_iter().map(|place| places[place].id).collect());
    shards.iter().map(|(shard, _)| *shard).zip(sets).collect()
}

/// A node as placement sees it. Within the planner nodes are numbered in the order of ids.
#[derive(Clone, Debug)]
struct Place {
    id: NodeId,
    weight: u32,
    /// Numbers of its failure domains: equal numbers fail together.
    host: usize,
    zone: usize,
}

/// Nodes with their failure domains numbered. A node without a host label is a host of its own. A host lies in one zone,
/// that of its first node that names one, else a zone of its own: so zones are made of whole hosts, also where labels
/// contradict each other.
fn places<'a>(nodes: impl Iterator<Item = &'a NodeDescriptor> + Clone) -> Vec<Place> {
    let mut hosts_by_label = BTreeMap::new();
    let mut hosts: Vec<&str> = Vec::new();
    let host_of: Vec<usize> = nodes
        .clone()
        .map(|node| {
            let fresh = hosts.len();
            let host = if node.host.is_empty() { fresh } else { *hosts_by_label.entry(&node.host).or_insert(fresh) };
            if host == fresh {
                hosts.push("");
            }
            if hosts[host].is_empty() {
                hosts[host] = &node.zone;
            }
            host
        })
        .collect();
    let mut zones_by_label = BTreeMap::new();
    let mut zones = 0;
    let zone_of: Vec<usize> = hosts
        .iter()
        .map(|label| {
            let zone = if label.is_empty() { zones } else { *zones_by_label.entry(*label).or_insert(zones) };
            zones += usize::from(zone == zones);
            zone
        })
        .collect();
    nodes
        .zip(host_of)
        .map(|(node, host)| Place { id: node.id, weight: node.weight, host, zone: zone_of[host] })
        .collect()
}
