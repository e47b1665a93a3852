//! Commands that change the catalog, and what they are answered. Both travel in the meta group's log and over the wire.

use crate::ring::Token;
use crate::types::{ClusterId, Epoch, NodeId, OperationId, ReplicaId, Revision, ShardId};
use crate::wire_enum;

use super::descriptor::NodeProfile;
use super::operation::{OperationCause, OperationKind};

/// One change of the catalog. Commands marked idempotent may be sent again when their answer was lost; the others are
/// conditional, so a second one is refused and changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatalogCommand {
    /// The first command of a cluster: makes node 1 and the live meta shard with founder replica 1 on it.
    Found {
        cluster: ClusterId,
        replication_factor: u8,
        initial_shards: u32,
        revision_base: Revision,
        node: NodeProfile,
    },
    /// Idempotent by store id: a store that is known keeps its node id, and what it says of itself is brought up to date.
    JoinNode { node: NodeProfile, time_ms: u64 },
    /// Makes all initial data shards at once, one founder node per shard in ring order. Only once per cluster.
    CreateShards { placements: Vec<NodeId> },
    /// The founder has initialized its group. Idempotent.
    ShardLive { shard: ShardId },
    /// Orders one more replica of a live shard, under a fresh id.
    AddReplica { shard: ShardId, node: NodeId, expected_epoch: Epoch },
    /// The group counts the replica as a voter. Idempotent.
    ReplicaIsVoter { shard: ShardId, replica: ReplicaId },
    /// The replica is to go. Idempotent. Refused for the last voter that is to stay.
    ReplicaLeaving { shard: ShardId, replica: ReplicaId },
    /// A leaving replica is proved to be out of its group. Idempotent.
    ForgetReplica { shard: ShardId, replica: ReplicaId },
    /// Where the leaders should be: all of them are taken, or none. Shards that are not named keep what they have.
    PreferLeaders { leaders: Vec<(ShardId, NodeId)> },
    /// Lets commands of a later release into the logs. Never lowered. Idempotent.
    RaiseFeatureLevel { to: u32 },
    /// Takes an operation on, and with it the shards that it holds. With an idempotency key that is known it is answered
    /// with the operation that has it. `time_ms` is the proposer's wall clock, for people.
    BeginOperation {
        kind: OperationKind,
        cause: OperationCause,
        expected_epoch: Option<Epoch>,
        idempotency_key: Option<String>,
        time_ms: u64,
    },
    /// It is done, or it failed and what it had begun is taken back. Idempotent: the first end stands.
    EndOperation { operation: OperationId, failure: Option<String>, time_ms: u64 },
    /// A move will not be done, unless it is too late for that. Idempotent.
    GiveUpOperation { operation: OperationId, why: String },
    /// The parent of a split has split: its child is known from now on. Idempotent.
    PublishSplit { operation: OperationId },
    /// Most voters of the meta group have not heard of the node for the grace period, or hear of it again. Idempotent.
    MarkNode { node: NodeId, is_dead: bool, time_ms: u64 },
}
wire_enum!(CatalogCommand {
    1 => Found { cluster, replication_factor, initial_shards, revision_base, node },
    2 => JoinNode { node, time_ms },
    3 => CreateShards { placements },
    4 => ShardLive { shard },
    5 => AddReplica { shard, node, expected_epoch },
    6 => ReplicaIsVoter { shard, replica },
    7 => ReplicaLeaving { shard, replica },
    8 => ForgetReplica { shard, replica },
    9 => PreferLeaders { leaders },
    10 => RaiseFeatureLevel { to },
    11 => BeginOperation { kind, cause, expected_epoch, idempotency_key, time_ms },
    12 => EndOperation { operation, failure, time_ms },
    13 => GiveUpOperation { operation, why },
    14 => MarkNode { node, is_dead, time_ms },
    15 => PublishSplit { operation },
});

/// What a command did. `version` is the catalog's after the command; a command that found its work done changes nothing
/// and gets the version as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatalogResponse {
    Applied {
        version: u64,
    },
    /// Answer to [`CatalogCommand::Found`] and [`CatalogCommand::JoinNode`].
    Node {
        id: NodeId,
        version: u64,
    },
    /// Answer to [`CatalogCommand::AddReplica`].
    Replica {
        id: ReplicaId,
        version: u64,
    },
    /// Answer to [`CatalogCommand::BeginOperation`].
    Operation {
        id: OperationId,
        /// False: the same was asked for before.
        begun: bool,
        version: u64,
    },
    /// Nothing changed.
    Refused {
        why: Refusal,
    },
}
wire_enum!(CatalogResponse {
    1 => Applied { version },
    2 => Node { id, version },
    3 => Replica { id, version },
    4 => Refused { why },
    5 => Operation { id, begun, version },
});

/// Why a command was refused: the same on every replica, for it depends on the catalog and the command alone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("there is no cluster yet")]
    NotFounded,
    #[error("the catalog already belongs to cluster {cluster}")]
    AlreadyFounded { cluster: ClusterId },
    #[error("{parameter} is not allowed: {why}")]
    BadParameter { parameter: String, why: String },
    #[error("there is no node {node}")]
    NoSuchNode { node: NodeId },
    #[error("there is no shard {shard}")]
    NoSuchShard { shard: ShardId },
    #[error("shard {shard} has no replica {replica}")]
    NoSuchReplica { shard: ShardId, replica: ReplicaId },
    #[error("the data shards exist already")]
    ShardsExist,
    #[error("{wanted} replicas of a shard need as many nodes; there are {nodes}")]
    TooFewNodes { nodes: u32, wanted: u32 },
    #[error("shard {shard} is not live yet")]
    ShardNotLive { shard: ShardId },
    #[error("shard {shard} is at epoch {epoch}")]
    EpochMismatch { shard: ShardId, epoch: Epoch },
    #[error("shard {shard} already has replica {replica} on node {node}")]
    NodeHoldsReplica { shard: ShardId, node: NodeId, replica: ReplicaId },
    #[error("node {node} holds no replica of shard {shard} that is to stay")]
    NodeHoldsNoReplica { shard: ShardId, node: NodeId },
    #[error("replica {replica} of shard {shard} is leaving")]
    ReplicaIsLeaving { shard: ShardId, replica: ReplicaId },
    #[error("replica {replica} of shard {shard} is not leaving")]
    ReplicaNotLeaving { shard: ShardId, replica: ReplicaId },
    #[error("replica {replica} is the last voter of shard {shard}")]
    LastVoter { shard: ShardId, replica: ReplicaId },
    #[error("the cluster is at feature level {level}, which is never lowered")]
    FeatureLevelLower { level: u32 },
    #[error("node {node} knows feature levels up to {known}")]
    FeatureLevelUnknown { node: NodeId, known: u32 },
    #[error("the cluster is at feature level {level}; this release knows levels up to {known}")]
    ReleaseTooOld { level: u32, known: u32 },
    #[error("all replica ids are used up")]
    ReplicaIdsUsedUp,
    #[error("shard {shard} is in the hands of operation {operation}")]
    OperationRunning { shard: ShardId, operation: OperationId },
    #[error("there is no operation {operation}, or it ended long ago")]
    NoSuchOperation { operation: OperationId },
    #[error("the idempotency key belongs to operation {operation}, which is another")]
    OperationKeyReused { operation: OperationId },
    #[error("replica {replica} of shard {shard} is no voter yet")]
    ReplicaNotVoter { shard: ShardId, replica: ReplicaId },
    #[error("operation {operation} has nothing to take back")]
    NothingToTakeBack { operation: OperationId },
    #[error("operation {operation} was not given up")]
    NotGivenUp { operation: OperationId },
    #[error("node {node} was decommissioned: its data directory is not taken in again")]
    Decommissioned { node: NodeId },
    #[error("without node {node} there are {left} nodes that take replicas, and each shard needs {wanted}")]
    TooFewNodesLeft { node: NodeId, left: u32, wanted: u32 },
    #[error("node {node} is not draining")]
    NodeNotDraining { node: NodeId },
    #[error("node {node} still holds {replicas} replicas")]
    NodeNotEmpty { node: NodeId, replicas: u32 },
    #[error("node {node} is draining or dead, and takes no replicas")]
    NodeTakesNoReplicas { node: NodeId },
    #[error("node {node} is at epoch {epoch}")]
    NodeEpochMismatch { node: NodeId, epoch: Epoch },
    #[error("node {node} is in the hands of operation {operation}")]
    NodeOperationRunning { node: NodeId, operation: OperationId },
    #[error("shard {shard} keeps the catalog and is never split")]
    NotToBeSplit { shard: ShardId },
    #[error("a split of shard {shard} is at a token behind {first} and up to {last}")]
    TokenOutside { shard: ShardId, first: Token, last: Token },
    #[error("operation {operation} has not split its shard")]
    NoSplit { operation: OperationId },
}
wire_enum!(Refusal {
    1 => NotFounded,
    2 => AlreadyFounded { cluster },
    3 => BadParameter { parameter, why },
    4 => NoSuchNode { node },
    5 => NoSuchShard { shard },
    6 => NoSuchReplica { shard, replica },
    7 => ShardsExist,
    8 => TooFewNodes { nodes, wanted },
    9 => ShardNotLive { shard },
    10 => EpochMismatch { shard, epoch },
    11 => NodeHoldsReplica { shard, node, replica },
    12 => NodeHoldsNoReplica { shard, node },
    13 => ReplicaIsLeaving { shard, replica },
    14 => ReplicaNotLeaving { shard, replica },
    15 => LastVoter { shard, replica },
    16 => FeatureLevelLower { level },
    17 => FeatureLevelUnknown { node, known },
    18 => ReleaseTooOld { level, known },
    19 => ReplicaIdsUsedUp,
    20 => OperationRunning { shard, operation },
    21 => NoSuchOperation { operation },
    22 => OperationKeyReused { operation },
    23 => ReplicaNotVoter { shard, replica },
    24 => NothingToTakeBack { operation },
    25 => NotGivenUp { operation },
    26 => Decommissioned { node },
    27 => TooFewNodesLeft { node, left, wanted },
    28 => NodeNotDraining { node },
    29 => NodeNotEmpty { node, replicas },
    30 => NodeTakesNoReplicas { node },
    31 => NodeEpochMismatch { node, epoch },
    32 => NodeOperationRunning { node, operation },
    33 => NotToBeSplit { shard },
    34 => TokenOutside { shard, first, last },
    35 => NoSplit { operation },
});
