//! The nodes' points on the hash ring.

use super::Place;
use crate::ring::Token;

/// Points of the lightest node; the others have as many more as they are heavier. More points make shares by chance
/// alone closer to the weights, so that fewer replicas need to be moved for balance.
const POINTS_LIGHTEST: u64 = 128;
/// Most points of one node, which bounds the work where weights are far apart.
const POINTS_MAX: u64 = 4096;

/// Invariants: points are in the order of tokens; every node has at least one.
pub(super) struct NodeRing {
    points: Vec<(Token, usize)>,
    nodes: usize,
}

impl NodeRing {
    pub(super) fn new(places: &[Place]) -> Self {
        let lightest = places.iter().map(|place| place.weight).min().unwrap_or(1);
        let mut points = Vec::new();
        for (number, place) in places.iter().enumerate() {
            let count = u64::from(place.weight) * POINTS_LIGHTEST / u64::from(lightest);
            // A node's points depend on its id alone: more of them leave those that it had where they were.
            points.extend((0..count.min(POINTS_MAX)).map(|point| {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&place.id.0.to_be_bytes());
                bytes[8..].copy_from_slice(&point.to_be_bytes());
                (Token::of_bytes(&bytes), number)
            }));
        }
        points.sort_unstable();
        Self { points, nodes: places.len() }
    }

    /// All nodes, in the order in which they are first met clockwise from `start`.
    pub(super) fn clockwise_from(&self, start: Token) -> Vec<usize> {
        let begin = self.points.partition_point(|(token, _)| *token < start);
        let mut met = vec![false; self.nodes];
        let mut order = Vec::with_capacity(self.nodes);
        for (_, node) in self.points[begin..].iter().chain(&self.points[..begin]) {
            if !met[*node] {
                met[*node] = true;
                order.push(*node);
                if order.len() == self.nodes {
                    break;
                }
            }
        }
        order
    }
}
