//! What the catalog knows of one node, one shard, one replica.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::ring::TokenRange;
use crate::types::{Epoch, NodeId, ProtocolRange, ReplicaId, ShardId, StoreId};
use crate::wire::{Wire, WireError};
use crate::{wire_enum, wire_struct};

/// Weight of a node whose configuration names none.
pub const NODE_WEIGHT_DEFAULT: u32 = 100;
/// Highest weight. Placement gives a node points on its ring in proportion to its weight.
pub const NODE_WEIGHT_MAX: u32 = 10_000;
/// Longest address or label, in bytes.
pub const NODE_TEXT_BYTES_MAX: usize = 512;

/// What a node says of itself when it joins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeProfile {
    /// The disk, which is what joins: the same store always gets the same node id.
    pub store: StoreId,
    /// Advertised `host:port` for clients.
    pub http: String,
    /// Advertised `host:port` for peers.
    pub peer: String,
    /// Share of the load, against the other nodes' weights.
    pub weight: u32,
    /// Nodes of one zone may fail together. Empty: not given.
    pub zone: String,
    /// Nodes of one host fail together. Empty: not given.
    pub host: String,
    pub protocol: ProtocolRange,
    /// Highest feature level that its release knows.
    pub feature_level_max: u32,
}
wire_struct!(NodeProfile { store, http, peer, weight, zone, host, protocol, feature_level_max });

/// One node. Without a `host` label the node counts as a host of its own, and its zone, when not given, as a zone of its
/// own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeDescriptor {
    pub id: NodeId,
    pub store: StoreId,
    pub http: String,
    pub peer: String,
    pub weight: u32,
    pub zone: String,
    pub host: String,
    pub protocol: ProtocolRange,
    pub feature_level_max: u32,
    /// Goes up with every change of the node's state.
    pub epoch: Epoch,
    /// Somebody wants it empty.
    pub is_draining: bool,
    /// Most voters of the meta group have not heard of it for the grace period.
    pub is_dead: bool,
}
wire_struct!(NodeDescriptor {
    id,
    store,
    http,
    peer,
    weight,
    zone,
    host,
    protocol,
    feature_level_max,
    epoch,
    is_draining,
    is_dead,
});

impl NodeDescriptor {
    #[must_use]
    pub fn new(id: NodeId, profile: NodeProfile) -> Self {
        let NodeProfile { store, http, peer, weight, zone, host, protocol, feature_level_max } = profile;
        Self {
            id,
            store,
            http,
            peer,
            weight,
            zone,
            host,
            protocol,
            feature_level_max,
            epoch: Epoch(1),
            is_draining: false,
            is_dead: false,
        }
    }

    /// The same node with what it now says of itself.
    #[must_use]
    pub fn with_profile(&self, profile: NodeProfile) -> Self {
        let Self { id, epoch, is_draining, is_dead, .. } = *self;
        Self { epoch, is_draining, is_dead, ..Self::new(id, profile) }
    }

    /// Replicas may be put there, and leaders.
    #[must_use]
    pub fn takes_replicas(&self) -> bool {
        !self.is_draining && !self.is_dead
    }
}

/// A node that was decommissioned: its store never comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DepartedNode {
    pub id: NodeId,
    pub store: StoreId,
}
wire_struct!(DepartedNode { id, store });

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// Its founder, the one replica it has, may initialize the group; nobody else ever may.
    Creating { founder: ReplicaId },
    /// The group exists.
    Live,
}
wire_enum!(ShardState { 1 => Creating { founder }, 2 => Live });

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Ordered, on its way to be a voter: founder, learner, or voter that the catalog has not heard of yet.
    Joining,
    Voter,
    /// On its way out. It stays in the catalog until its group is known to be without it.
    Leaving,
}
wire_enum!(ReplicaState { 1 => Joining, 2 => Voter, 3 => Leaving });

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaDescriptor {
    pub id: ReplicaId,
    pub node: NodeId,
    pub state: ReplicaState,
}
wire_struct!(ReplicaDescriptor { id, node, state });

/// One shard as the catalog last heard of it: the catalog says where to look, the group says what it owns.
///
/// Invariants:
/// - the meta shard alone has no range;
/// - `replicas` is in the order of ids, no two on one node;
/// - `Creating`: the founder is the only replica, `Joining`; `Live`: at least one replica is a `Voter`;
/// - `epoch` only goes up, with every change of the range or of the set of replicas;
/// - the preferred leader holds a replica that is not `Leaving`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardDescriptor {
    pub id: ShardId,
    pub range: Option<TokenRange>,
    pub epoch: Epoch,
    pub state: ShardState,
    pub replicas: Vec<ReplicaDescriptor>,
    pub preferred_leader: Option<NodeId>,
    /// Somebody chose the preferred leader: it is not balanced away.
    pub leader_chosen: bool,
    /// Somebody chose where a replica stands: none is moved to balance the cluster.
    pub placement_chosen: bool,
}
wire_struct!(ShardDescriptor { id, range, epoch, state, replicas, preferred_leader, leader_chosen, placement_chosen });

impl ShardDescriptor {
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<&ReplicaDescriptor> {
        self.replicas.iter().find(|replica| replica.id == id)
    }

    #[must_use]
    pub fn replica_on(&self, node: NodeId) -> Option<&ReplicaDescriptor> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// Whether `node` holds a replica here that is to stay.
    #[must_use]
    pub fn may_lead(&self, node: NodeId) -> bool {
        self.replica_on(node).is_some_and(|replica| replica.state != ReplicaState::Leaving)
    }

    pub fn voters(&self) -> impl Iterator<Item = &ReplicaDescriptor> {
        self.replicas.iter().filter(|replica| replica.state == ReplicaState::Voter)
    }
}

/// A descriptor under its own id, as the catalog's maps hold it. Their byte format is the list of descriptors in the
/// order of ids.
pub(super) trait Described: Wire + Clone {
    type Id: Ord + Copy + std::fmt::Display;
    const WHAT: &'static str;
    fn id(&self) -> Self::Id;
}

impl Described for NodeDescriptor {
    type Id = NodeId;
    const WHAT: &'static str = "catalog's nodes";
    fn id(&self) -> NodeId {
        self.id
    }
}

impl Described for ShardDescriptor {
    type Id = ShardId;
    const WHAT: &'static str = "catalog's shards";
    fn id(&self) -> ShardId {
        self.id
    }
}

pub(super) fn encode_map<D: Described>(map: &BTreeMap<D::Id, D>, out: &mut BytesMut) {
    map.values().cloned().collect::<Vec<D>>().encode(out);
}

/// Refuses ids out of order, so that a map has one byte form.
pub(super) fn decode_map<D: Described>(input: &mut Bytes) -> Result<BTreeMap<D::Id, D>, WireError> {
    let items = Vec::<D>::decode(input)?;
    if let Some(pair) = items.windows(2).find(|pair| pair[0].id() >= pair[1].id()) {
        let why = format!("{} stands before {}", pair[0].id(), pair[1].id());
        return Err(WireError::Invalid { what: D::WHAT, why });
    }
    Ok(items.into_iter().map(|item| (item.id(), item)).collect())
}
