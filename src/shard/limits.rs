//! Bounds on what is proposed and not yet resolved: per group and per node, in entries and in bytes. What is over a bound is
//! refused before it is proposed (`architecture` §8), because openraft itself bounds nothing.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::raft::responder::Permit;

/// Limits of one node. Defaults are those of the configuration's `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries in flight in one group.
    pub proposals_per_shard: usize,
    /// Entries in flight on the node.
    pub proposals_per_node: usize,
    /// Bytes of keys and values in flight on the node.
    pub proposal_bytes_per_node: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { proposals_per_shard: 1024, proposals_per_node: 8192, proposal_bytes_per_node: 256 << 20 }
    }
}

/// Bytes are counted in units of this many, because a semaphore counts in 32 bits.
const BYTES_UNIT: usize = 1024;

/// The node's share of the bounds. Cheap to clone.
#[derive(Clone)]
pub struct NodeGate {
    entries: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    limits: Limits,
}

/// What is in flight on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    pub entries: usize,
    pub entries_max: usize,
    pub bytes: usize,
    pub bytes_max: usize,
}

impl NodeGate {
    pub fn new(limits: &Limits) -> Self {
        Self {
            entries: Arc::new(Semaphore::new(limits.proposals_per_node)),
            bytes: Arc::new(Semaphore::new(limits.proposal_bytes_per_node / BYTES_UNIT)),
            limits: *limits,
        }
    }

    pub fn in_flight(&self) -> InFlight {
        let Limits { proposals_per_node, proposal_bytes_per_node, .. } = self.limits;
        let units = proposal_bytes_per_node / BYTES_UNIT;
        InFlight {
            entries: proposals_per_node - self.entries.available_permits(),
            entries_max: proposals_per_node,
            bytes: (units - self.bytes.available_permits()) * BYTES_UNIT,
            bytes_max: proposal_bytes_per_node,
        }
    }

    pub fn for_shard(&self) -> ShardGate {
        ShardGate { node: self.clone(), entries: Arc::new(Semaphore::new(self.limits.proposals_per_shard)) }
    }
}

/// One group's way into the log.
#[derive(Clone)]
pub struct ShardGate {
    node: NodeGate,
    entries: Arc<Semaphore>,
}

struct Held {
    _permits: [OwnedSemaphorePermit; 3],
}

impl ShardGate {
    /// Room for one entry of `bytes`, or none when a bound is reached. Never waits: a queue here would only hide overload.
    pub fn enter(&self, bytes: usize) -> Option<Permit> {
        let units = u32::try_from(bytes.div_ceil(BYTES_UNIT).max(1)).ok()?;
        let permits = [
            self.entries.clone().try_acquire_owned().ok()?,
            self.node.entries.clone().try_acquire_owned().ok()?,
            self.node.bytes.clone().try_acquire_many_owned(units).ok()?,
        ];
        Some(Box::new(Held { _permits: permits }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(per_shard: usize, per_node: usize, bytes: usize) -> NodeGate {
        NodeGate::new(&Limits {
            proposals_per_shard: per_shard,
            proposals_per_node: per_node,
            proposal_bytes_per_node: bytes,
        })
    }

    #[test]
    fn each_bound_refuses_and_clears_when_an_entry_is_resolved() {
        let shard = limits(1, 10, 1 << 20).for_shard();
        let held = shard.enter(1).unwrap();
        assert!(shard.enter(1).is_none(), "the shard's bound");
        drop(held);
        assert!(shard.enter(1).is_some());

        let node = limits(10, 1, 1 << 20);
        let held = node.for_shard().enter(1).unwrap();
        assert!(node.for_shard().enter(1).is_none(), "the node's bound holds over shards");
        drop(held);

        let node = limits(10, 10, 4096);
        let held = node.for_shard().enter(4000).unwrap();
        assert_eq!(node.in_flight(), InFlight { entries: 1, entries_max: 10, bytes: 4096, bytes_max: 4096 });
        assert!(node.for_shard().enter(100).is_none(), "the bound on bytes");
        drop(held);
        assert!(node.for_shard().enter(100).is_some());
    }
}
