//! The cluster's metadata: nodes, shards, replicas, and the ids that were given out. It is the replicated state of the
//! meta shard, so [`apply()`] is deterministic and reads nothing but the catalog and the command. Pure.
//!
//! Before the first command there is no catalog, hence `Option<Catalog>`; [`CatalogCommand::Found`] makes it, once.
//! `machine` applies; `router` and `placement` read copies, which may be old and say so by their version.

mod apply;
mod command;
mod descriptor;
mod event;
mod nodes;
mod operation;
mod split;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

pub use self::apply::{FEATURE_LEVEL_FIRST, INITIAL_SHARDS_MAX, REPLICATION_FACTORS, apply};
pub use self::command::{CatalogCommand, CatalogResponse, Refusal};
pub use self::descriptor::{
    DepartedNode, NODE_TEXT_BYTES_MAX, NODE_WEIGHT_DEFAULT, NODE_WEIGHT_MAX, NodeDescriptor, NodeProfile,
    ReplicaDescriptor, ReplicaState, ShardDescriptor, ShardState,
};
pub use self::event::{EVENTS_KEPT, Event, EventKind};
pub use self::operation::{
    ENDED_OPERATIONS_KEPT, OPERATION_KEY_BYTES_MAX, Operation, OperationCause, OperationKind, OperationState,
    Operations,
};
pub use self::split::{ReplicaBirth, SplitPlan};

use self::descriptor::{decode_map, encode_map};
use crate::ring::{Ring, Token, TokenRange};
use crate::types::{ClusterId, META_SHARD, NodeId, ReplicaId, Revision, ShardId, StoreId};
use crate::wire::{Wire, WireError, take_format};

/// The byte format that this release writes, and the newest it reads.
const CATALOG_FORMAT: u8 = 2;

/// The whole catalog.
///
/// Invariants, which [`Catalog::check`] verifies and decoding relies on:
/// - the meta shard exists; the other shards' ranges, once there are any, cover the ring exactly once;
/// - ids are unique, below their counter, and never given out again: counters only go up;
/// - every replica and preferred leader is on a node that exists; no two replicas of a shard are on one node;
/// - no store belongs to two nodes;
/// - the operations' own invariants ([`Operations`]);
/// - every node knows the cluster's feature level;
/// - the shards' own invariants ([`ShardDescriptor`]).
///
/// Over time: `version` goes up by one with every change and stays with every command that changes nothing; epochs,
/// counters, recovery generation and feature level never go down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Catalog {
    pub version: u64,
    pub cluster: ClusterId,
    /// Replicas wanted per shard: 1, 3 or 5.
    pub replication_factor: u8,
    /// Data shards made at the beginning.
    pub initial_shards: u32,
    /// Kinds of commands up to this level may be proposed.
    pub feature_level: u32,
    /// Raised when a lost quorum is given up by an operator. High bits of every new replica id.
    pub recovery_generation: u16,
    /// Where every initial shard's revision clock begins.
    pub revision_base: Revision,
    pub next_node: u64,
    pub next_shard: u64,
    pub next_replica: u64,
    pub nodes: BTreeMap<NodeId, NodeDescriptor>,
    pub shards: BTreeMap<ShardId, ShardDescriptor>,
    pub operations: Operations,
    /// In the order in which they went.
    pub departed: Vec<DepartedNode>,
    /// The newest, in the order in which they happened.
    pub events: Vec<Event>,
}

impl Catalog {
    /// The shards that keep user data, in the order of ids.
    pub fn data_shards(&self) -> impl Iterator<Item = &ShardDescriptor> {
        self.shards.values().filter(|shard| shard.range.is_some())
    }

    /// Which shard each token belongs to. None before the data shards exist.
    ///
    /// # Panics
    /// When the ranges do not cover the ring exactly once, which neither [`apply()`] nor decoding lets happen.
    #[must_use]
    pub fn ring(&self) -> Option<Ring<ShardId>> {
        let entries = self.ring_entries();
        (!entries.is_empty()).then(|| Ring::new(entries).expect("data shards cover the ring exactly once"))
    }

    fn ring_entries(&self) -> Vec<(TokenRange, ShardId)> {
        self.shards.values().filter_map(|shard| Some((shard.range?, shard.id))).collect()
    }

    /// The shard whose range holds `token`. Whoever asks for every request keeps a [`Catalog::ring`] instead.
    #[must_use]
    pub fn shard_of(&self, token: Token) -> Option<&ShardDescriptor> {
        self.shards.values().find(|shard| shard.range.is_some_and(|range| range.contains(token)))
    }

    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<(&ShardDescriptor, &ReplicaDescriptor)> {
        self.shards.values().find_map(|shard| Some((shard, shard.replica(id)?)))
    }

    #[must_use]
    pub fn node_by_store(&self, store: StoreId) -> Option<&NodeDescriptor> {
        self.nodes.values().find(|node| node.store == store)
    }

    /// Everything that the catalog places on `node`, whatever its state.
    pub fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = (&ShardDescriptor, &ReplicaDescriptor)> {
        self.shards.values().filter_map(move |shard| Some((shard, shard.replica_on(node)?)))
    }

    /// Whether the invariants hold; if not, which one is broken.
    pub fn check(&self) -> Result<(), String> {
        let ensure = |holds: bool, why: &dyn Fn() -> String| if holds { Ok(()) } else { Err(why()) };
        ensure(self.version > 0, &|| "version 0".into())?;
        ensure(REPLICATION_FACTORS.contains(&self.replication_factor), &|| {
            format!("replication factor {}", self.replication_factor)
        })?;
        ensure((1..=INITIAL_SHARDS_MAX).contains(&self.initial_shards), &|| {
            format!("{} initial shards", self.initial_shards)
        })?;
        let mut stores = BTreeSet::new();
        for (id, node) in &self.nodes {
            ensure(*id == node.id && id.0 > 0 && id.0 < self.next_node, &|| {
                format!("node {} under id {id}, the next node is {}", node.id, self.next_node)
            })?;
            ensure(stores.insert(node.store), &|| format!("node {id} has the store {} of another", node.store))?;
            ensure((1..=NODE_WEIGHT_MAX).contains(&node.weight), &|| format!("node {id} has weight {}", node.weight))?;
            ensure(node.feature_level_max >= self.feature_level, &|| {
                format!("node {id} does not know feature level {}", self.feature_level)
            })?;
        }
        for gone in &self.departed {
            ensure(
                stores.insert(gone.store) && !self.nodes.contains_key(&gone.id) && gone.id.0 < self.next_node,
                &|| format!("node {} with store {} has departed, and is known", gone.id, gone.store),
            )?;
        }
        ensure(self.shards.contains_key(&META_SHARD), &|| "no meta shard".into())?;
        let mut replicas = BTreeSet::new();
        for (id, shard) in &self.shards {
            ensure(*id == shard.id && id.0 < self.next_shard, &|| {
                format!("shard {} under id {id}, the next shard is {}", shard.id, self.next_shard)
            })?;
            ensure(shard.range.is_none() == (*id == META_SHARD), &|| {
                format!("shard {id} has range {:?}", shard.range)
            })?;
            self.check_shard(shard)?;
            for replica in &shard.replicas {
                ensure(replicas.insert(replica.id), &|| format!("two replicas have id {}", replica.id))?;
            }
        }
        let entries = self.ring_entries();
        if !entries.is_empty() {
            Ring::new(entries).map_err(|error| error.to_string())?;
        }
        let in_order = self.events.windows(2).all(|pair| pair[0].id.0 + 1 == pair[1].id.0);
        ensure(in_order && self.events.len() <= EVENTS_KEPT, &|| "events out of order, or too many".into())?;
        self.operations.check()
    }

    fn check_shard(&self, shard: &ShardDescriptor) -> Result<(), String> {
        let ensure = |holds: bool, why: &str| if holds { Ok(()) } else { Err(format!("shard {}: {why}", shard.id)) };
        ensure(shard.epoch.0 > 0, "epoch 0")?;
        ensure(shard.replicas.is_sorted_by(|a, b| a.id < b.id), "replicas out of order")?;
        let next = self.next_replica_id().ok_or_else(|| format!("replica counter {}", self.next_replica))?;
        let mut nodes = BTreeSet::new();
        for replica in &shard.replicas {
            ensure(ReplicaId(0) < replica.id && replica.id < next, "a replica id that was never given out")?;
            ensure(self.nodes.contains_key(&replica.node), "a replica on an unknown node")?;
            ensure(nodes.insert(replica.node), "two replicas on one node")?;
        }
        match shard.state {
            ShardState::Creating { founder } => {
                let alone = shard.replicas.len() == 1
                    && shard.replica(founder).is_some_and(|replica| replica.state == ReplicaState::Joining);
                ensure(alone, "in creation, but not with its joining founder alone")?;
            }
            ShardState::Live => ensure(shard.voters().next().is_some(), "live without a voter")?,
        }
        ensure(shard.preferred_leader.is_none_or(|node| shard.may_lead(node)), "its preferred leader cannot lead")?;
        ensure(!shard.leader_chosen || shard.preferred_leader.is_some(), "a leader was chosen, and there is none")
    }

    /// The node that a running move takes a replica of the shard away from.
    #[must_use]
    pub fn moves_away_from(&self, shard: ShardId) -> Option<NodeId> {
        match self.operations.on_shard(shard)?.kind {
            OperationKind::Move { from, .. } => Some(from),
            _ => None,
        }
    }

    /// This catalog has given the id out, or an older one has: where it names no such replica, the replica is gone for good.
    #[must_use]
    pub fn has_given_out(&self, replica: ReplicaId) -> bool {
        ReplicaId(0) < replica && self.next_replica_id().is_none_or(|next| replica < next)
    }

    /// The id that the next replica gets. Every id given out so far is lower, for neither part of it ever goes down.
    fn next_replica_id(&self) -> Option<ReplicaId> {
        (1..=apply::REPLICA_COUNTER_MAX)
            .contains(&self.next_replica)
            .then(|| ReplicaId::new(self.recovery_generation, self.next_replica))
    }
}

impl Wire for Catalog {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(CATALOG_FORMAT);
        self.version.encode(out);
        self.cluster.encode(out);
        self.replication_factor.encode(out);
        self.initial_shards.encode(out);
        self.feature_level.encode(out);
        self.recovery_generation.encode(out);
        self.revision_base.encode(out);
        self.next_node.encode(out);
        self.next_shard.encode(out);
        self.next_replica.encode(out);
        encode_map(&self.nodes, out);
        encode_map(&self.shards, out);
        self.operations.encode(out);
        self.departed.encode(out);
        self.events.encode(out);
    }

    /// Refuses a catalog whose invariants do not hold: nothing good comes of serving by it.
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let found = take_format(input, "catalog", CATALOG_FORMAT)?;
        if found < CATALOG_FORMAT {
            // Written by no release: there were no operations yet.
            return Err(WireError::UnknownFormat { what: "catalog", found, known: CATALOG_FORMAT });
        }
        let catalog = Self {
            version: u64::decode(input)?,
            cluster: ClusterId::decode(input)?,
            replication_factor: u8::decode(input)?,
            initial_shards: u32::decode(input)?,
            feature_level: u32::decode(input)?,
            recovery_generation: u16::decode(input)?,
            revision_base: Revision::decode(input)?,
            next_node: u64::decode(input)?,
            next_shard: u64::decode(input)?,
            next_replica: u64::decode(input)?,
            nodes: decode_map(input)?,
            shards: decode_map(input)?,
            operations: Operations::decode(input)?,
            departed: Vec::decode(input)?,
            events: Vec::decode(input)?,
        };
        catalog.check().map_err(|why| WireError::Invalid { what: "catalog", why })?;
        Ok(catalog)
    }
}
