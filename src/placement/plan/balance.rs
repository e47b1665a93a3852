//! Choosing nodes along each shard's clockwise order, then moving replicas until every node is near its weighted share.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use super::Place;

/// How far a node may be from its weighted share of all replicas, in percent (the ε of bounded loads); fractions of a
/// replica are rounded in the node's favour. Less makes loads more even, but moves more replicas when nodes change.
/// Passed only where distinct nodes, hosts and zones leave no other choice.
pub const LOAD_SLACK_PERCENT: u64 = 5;

/// Shares are kept in millionths of a replica.
const MICRO: u64 = 1_000_000;

/// A plan in the making. Shards are numbered in the order given, nodes as in `places`.
///
/// Invariants: every shard has `copies` distinct nodes; no move makes any shard's spread worse than it was when its
/// nodes were chosen; `loads` counts what `sets` holds.
pub(super) struct Balance<'a> {
    places: &'a [Place],
    /// Chosen nodes of each shard.
    sets: Vec<Vec<usize>>,
    /// Rank of each node in each shard's clockwise order: lower is better.
    ranks: Vec<Vec<usize>>,
    loads: Vec<u64>,
    bounds: Vec<Bounds>,
}

/// Load limits of one node, in replicas: `least <= low <= high <= most`.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    least: u64,
    /// The share, rounded down and up.
    low: u64,
    high: u64,
    most: u64,
}

/// A replica of `shard` moves away from `from`.
#[derive(Clone, Copy)]
struct Step {
    shard: usize,
    from: usize,
}

impl<'a> Balance<'a> {
    /// `orders`: for each shard, all nodes in the order of preference.
    pub(super) fn new(places: &'a [Place], copies: usize, orders: Vec<Vec<usize>>) -> Self {
        let sets: Vec<Vec<usize>> = orders.iter().map(|order| choose(places, copies, order)).collect();
        let mut loads = vec![0; places.len()];
        for node in sets.iter().flatten() {
            loads[*node] += 1;
        }
        let rank = |order: Vec<usize>| {
            let mut ranks = vec![0; order.len()];
            for (rank, node) in order.into_iter().enumerate() {
                ranks[node] = rank;
            }
            ranks
        };
        let bounds = shares(places, copies, sets.len()).into_iter().map(Bounds::around).collect();
        Self { places, sets, ranks: orders.into_iter().map(rank).collect(), loads, bounds }
    }

    /// The sets of all shards, each in its clockwise order.
    pub(super) fn balanced(mut self) -> Vec<Vec<usize>> {
        self.relieve_full_nodes();
        self.fill_empty_nodes();
        for (set, ranks) in self.sets.iter_mut().zip(&self.ranks) {
            set.sort_by_key(|node| ranks[*node]);
        }
        self.sets
    }

    fn relieve_full_nodes(&mut self) {
        for node in 0..self.places.len() {
            while self.loads[node] > self.bounds[node].most {
                // Best to a node that lacks some, else to any that has room, else it stays as it is.
                let moved = self.shift(node, |this, to| this.loads[to] < this.bounds[to].low)
                    || self.shift(node, |this, to| this.loads[to] < this.bounds[to].most);
                if !moved {
                    break;
                }
            }
        }
    }

    fn fill_empty_nodes(&mut self) {
        for node in 0..self.places.len() {
            while self.loads[node] < self.bounds[node].least {
                let spare = |bound: fn(&Bounds) -> u64| {
                    let over = |giver: usize| self.loads[giver].saturating_sub(bound(&self.bounds[giver]));
                    let mut givers: Vec<usize> = (0..self.places.len()).filter(|giver| over(*giver) > 0).collect();
                    givers.sort_by_key(|giver| Reverse(over(*giver)));
                    givers
                };
                let (richest, others) = (spare(|bounds| bounds.high), spare(|bounds| bounds.least));
                let moved = richest.into_iter().chain(others).any(|giver| self.shift(giver, |_, to| to == node));
                if !moved {
                    break;
                }
            }
        }
    }

    /// Takes one replica off `from` by a shortest chain of moves that ends on a node which `accepts` one more; every node
    /// between gives one and gets one. False, and nothing changed, where there is no such chain.
    fn shift(&mut self, from: usize, accepts: impl Fn(&Self, usize) -> bool) -> bool {
        let mut reached: Vec<Option<Step>> = vec![None; self.places.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(giver) = queue.pop_front() {
            let mut moves = self.moves_from(giver, from, &reached);
            // Clockwise nearest first, as consistent hashing would have it.
            if let Some(&(_, shard, to)) = moves.iter().filter(|(_, _, to)| accepts(self, *to)).min() {
                reached[to] = Some(Step { shard, from: giver });
                self.follow(&reached, from, to);
                return true;
            }
            moves.sort_unstable();
            for (_, shard, to) in moves {
                if reached[to].is_none() {
                    reached[to] = Some(Step { shard, from: giver });
                    queue.push_back(to);
                }
            }
        }
        false
    }

    /// Moves (rank, shard, to) of one replica from `giver` to a node not reached yet.
    fn moves_from(&self, giver: usize, start: usize, reached: &[Option<Step>]) -> Vec<(usize, usize, usize)> {
        let mut on_the_way = Vec::new();
        let mut node = giver;
        while let Some(step) = reached[node] {
            on_the_way.push(step.shard);
            node = step.from;
        }
        let mut moves = Vec::new();
        for (shard, set) in self.sets.iter().enumerate() {
            // A shard moves once in a chain, so that each move can be judged by the set as it is now.
            if !set.contains(&giver) || on_the_way.contains(&shard) {
                continue;
            }
            let free = (0..self.places.len()).filter(|to| *to != start && reached[*to].is_none() && !set.contains(to));
            let equal = free.filter(|to| self.keeps_spread(set, giver, *to));
            moves.extend(equal.map(|to| (self.ranks[shard][to], shard, to)));
        }
        moves
    }

    fn follow(&mut self, reached: &[Option<Step>], from: usize, end: usize) {
        let mut to = end;
        while to != from {
            let Step { shard, from: giver } = reached[to].expect("a chain leads back to its start");
            let slot = self.sets[shard].iter_mut().find(|node| **node == giver).expect("the giver holds the shard");
            *slot = to;
            self.loads[giver] -= 1;
            self.loads[to] += 1;
            to = giver;
        }
    }

    /// Whether the set is spread as well with `to` in the place of `giver`.
    fn keeps_spread(&self, set: &[usize], giver: usize, to: usize) -> bool {
        let crowd = |node| {
            let others = set.iter().copied().filter(|other| *other != giver);
            crowding(self.places, others, node)
        };
        crowd(to) <= crowd(giver)
    }
}

/// How many of `others` share the node's host, then its zone.
fn crowding(places: &[Place], others: impl Iterator<Item = usize>, node: usize) -> (usize, usize) {
    let place = &places[node];
    others.fold((0, 0), |(hosts, zones), other| {
        let other = &places[other];
        (hosts + usize::from(other.host == place.host), zones + usize::from(other.zone == place.zone))
    })
}

/// The first nodes of the order, each time among those that share the fewest hosts, then zones, with what is chosen.
fn choose(places: &[Place], copies: usize, order: &[usize]) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::with_capacity(copies);
    for _ in 0..copies {
        let left = order.iter().copied().filter(|node| !chosen.contains(node));
        // Of equal ones `min_by_key` takes the first, which is the clockwise nearest.
        let best = left.min_by_key(|node| crowding(places, chosen.iter().copied(), *node));
        chosen.push(best.expect("there are at least as many nodes as copies"));
    }
    chosen
}

impl Bounds {
    fn around(share_micro: u64) -> Self {
        let part = |percent: u64| share_micro * percent;
        let whole = 100 * MICRO;
        Self {
            least: part(100 - LOAD_SLACK_PERCENT) / whole,
            low: share_micro / MICRO,
            high: share_micro.div_ceil(MICRO),
            most: part(100 + LOAD_SLACK_PERCENT).div_ceil(whole),
        }
    }
}

/// Nodes that together hold at most `limit` (in millionths).
struct Group {
    members: Vec<usize>,
    limit: u64,
}

/// Each node's share of all replicas, in millionths: in proportion to its weight, except where a node cannot hold so
/// many, because a shard puts no more than one replica on a node and only so many on a host or in a zone. What such a
/// group cannot hold, the others share by their weights.
fn shares(places: &[Place], copies: usize, shards: usize) -> Vec<u64> {
    let shards = u64::try_from(shards).unwrap_or(u64::MAX / MICRO);
    let limit = |per_shard: usize| per_shard as u64 * shards * MICRO;
    let hosts = gather(places, |place| place.host);
    let per_host = level(hosts.iter().map(Vec::len), copies);
    let zones = gather(places, |place| place.zone);
    let room = |zone: &Vec<usize>| -> usize {
        let within = hosts.iter().filter(|host| zone.contains(&host[0]));
        within.map(|host| host.len().min(per_host)).sum()
    };
    let per_zone = level(zones.iter().map(room), copies);
    let mut groups = vec![Group { members: (0..places.len()).collect(), limit: limit(copies) }];
    groups.extend((0..places.len()).map(|node| Group { members: vec![node], limit: limit(1) }));
    groups.extend(hosts.into_iter().map(|members| Group { members, limit: limit(per_host) }));
    groups.extend(zones.into_iter().map(|members| Group { members, limit: limit(per_zone) }));

    // Progressive filling: all shares grow in proportion to weight until a group is full; its nodes keep what they have
    // and the others grow on.
    let mut share: Vec<Option<u64>> = vec![None; places.len()];
    loop {
        let growing = |node: &usize| share[*node].is_none();
        let fullest = groups
            .iter()
            .filter_map(|group| {
                let weight: u128 = group
                    .members
                    .iter()
                    .filter(|node| growing(node))
                    .map(|node| u128::from(places[*node].weight))
                    .sum();
                let taken: u64 = group.members.iter().filter_map(|node| share[*node]).sum();
                (weight > 0).then(|| (u128::from(group.limit.saturating_sub(taken)), weight, group))
            })
            // Least room per weight; compared without dividing.
            .min_by(|(a_room, a_weight, _), (b_room, b_weight, _)| (a_room * b_weight).cmp(&(b_room * a_weight)));
        let Some((room, weight, group)) = fullest else { break };
        for node in &group.members {
            if share[*node].is_none() {
                let part = room * u128::from(places[*node].weight) / weight;
                share[*node] = Some(u64::try_from(part).expect("a share is part of a limit"));
            }
        }
    }
    share.into_iter().map(|share| share.expect("the group of all nodes fills up at last")).collect()
}

/// Lists of the nodes that have the same number.
fn gather(places: &[Place], number: impl Fn(&Place) -> usize) -> Vec<Vec<usize>> {
    let mut lists = BTreeMap::<usize, Vec<usize>>::new();
    for (node, place) in places.iter().enumerate() {
        lists.entry(number(place)).or_default().push(node);
    }
    lists.into_values().collect()
}

/// The most replicas of one shard that a group must hold when `copies` are spread evenly over groups with that much room.
fn level(room: impl Iterator<Item = usize> + Clone, copies: usize) -> usize {
    (1..copies).find(|level| room.clone().map(|room| room.min(*level)).sum::<usize>() >= copies).unwrap_or(copies)
}
