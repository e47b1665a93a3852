//! Operations: changes of the cluster that somebody asked for and that take more than one step. They are kept in the
//! catalog, so that the next leader of the meta group goes on where the last one stopped (`architecture` §6).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::apply::{Done, Result};
use super::command::Refusal;
use super::descriptor::{Described, ReplicaDescriptor, ReplicaState};
use super::event::EventKind;
use super::split::SplitPlan;
use super::{Catalog, decode_map, encode_map};
use crate::ring::Token;
use crate::types::{Epoch, NodeId, OperationId, ShardId};
use crate::wire::{Wire, WireError};
use crate::{wire_enum, wire_struct};

/// Ended operations that are kept, the newest ones: each copy of the catalog carries them.
pub const ENDED_OPERATIONS_KEPT: usize = 256;
/// Longest idempotency key of an operation, in bytes: as of a write.
pub const OPERATION_KEY_BYTES_MAX: usize = 255;

/// What is to be done. A kind holds its shards from the beginning to the end: no other operation may have them meanwhile.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum OperationKind {
    /// `to` leads the shard, and goes on leading it until it can no more or somebody chooses another node.
    TransferLeader { shard: ShardId, to: NodeId },
    /// A replica of the shard on `to`, filled and made a voter, in place of the one on `from`.
    Move { shard: ShardId, from: NodeId, to: NodeId },
    /// Two shards out of one: tokens from `at` on become a child's, on the same nodes.
    Split { shard: ShardId, at: Token },
    /// The node gives its leaderships and its replicas away and gets none.
    Drain { node: NodeId },
    /// The node takes replicas again. Ends what drains it, and is over at once.
    Undrain { node: NodeId },
    /// Drained, then out of the cluster for good.
    Decommission { node: NodeId },
}
wire_enum!(OperationKind {
    1 => TransferLeader { shard, to },
    2 => Move { shard, from, to },
    3 => Drain { node },
    4 => Undrain { node },
    5 => Decommission { node },
    6 => Split { shard, at },
});

impl OperationKind {
    /// The shards that nobody else may work on.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        match self {
            OperationKind::TransferLeader { shard, .. }
            | OperationKind::Move { shard, .. }
            | OperationKind::Split { shard, .. } => Some(*shard),
            OperationKind::Drain { .. } | OperationKind::Undrain { .. } | OperationKind::Decommission { .. } => None,
        }
        .into_iter()
    }

    /// The node that it is about, of which nobody else may decide.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self {
            OperationKind::Drain { node } | OperationKind::Undrain { node } | OperationKind::Decommission { node } => {
                Some(*node)
            }
            OperationKind::TransferLeader { .. } | OperationKind::Move { .. } | OperationKind::Split { .. } => None,
        }
    }
}

/// Who wants an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationCause {
    /// Somebody asked for it. What was asked for is not undone to balance the cluster.
    Asked,
    /// The wanted placement is another one, because nodes came, changed or are to go.
    Placement,
}
wire_enum!(OperationCause { 1 => Asked, 2 => Placement });

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OperationState {
    Running,
    Done,
    /// It will not be done; what it had begun is taken back.
    Failed {
        why: String,
    },
    /// It was given up, and what it had begun is being taken back. Where that is too late it will be done all the same.
    GivingUp {
        why: String,
    },
}
wire_enum!(OperationState { 1 => Running, 2 => Done, 3 => Failed { why }, 4 => GivingUp { why } });

/// One operation. Times are wall-clock milliseconds of the node that proposed, for people alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operation {
    pub id: OperationId,
    #[serde(flatten)]
    pub kind: OperationKind,
    #[serde(flatten)]
    pub state: OperationState,
    pub cause: OperationCause,
    /// Of a split alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitPlan>,
    /// Whoever asks again with the same key gets this operation again, as long as it is kept.
    pub idempotency_key: Option<String>,
    pub begun_ms: u64,
    pub ended_ms: Option<u64>,
}
wire_struct!(Operation { id, kind, state, cause, split, idempotency_key, begun_ms, ended_ms });

impl Operation {
    /// It has not ended: it goes on, or what it had begun is being taken back.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, OperationState::Running | OperationState::GivingUp { .. })
    }

    /// The shards that nobody else may work on: a split has its child too (`models` §11).
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        self.kind.shards().chain(self.split.as_ref().map(|plan| plan.child))
    }
}

impl Described for Operation {
    type Id = OperationId;
    const WHAT: &'static str = "catalog's operations";
    fn id(&self) -> OperationId {
        self.id
    }
}

/// All operations that the catalog knows.
///
/// Invariants: ids are below `next`; a shard has at most one running operation; `ended_ms` is there exactly when an
/// operation has ended; of idempotency keys no two are alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operations {
    next: u64,
    by_id: BTreeMap<OperationId, Operation>,
}

impl Default for Operations {
    fn default() -> Self {
        Self { next: 1, by_id: BTreeMap::new() }
    }
}

impl Operations {
    #[must_use]
    pub fn get(&self, id: OperationId) -> Option<&Operation> {
        self.by_id.get(&id)
    }

    /// In the order in which they began.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Operation> {
        self.by_id.values()
    }

    pub fn running(&self) -> impl Iterator<Item = &Operation> {
        self.iter().filter(|operation| operation.is_running())
    }

    /// The operation that holds a shard.
    #[must_use]
    pub fn on_shard(&self, shard: ShardId) -> Option<&Operation> {
        self.running().find(|operation| operation.shards().any(|held| held == shard))
    }

    /// The operation that drains a node.
    #[must_use]
    pub fn on_node(&self, node: NodeId) -> Option<&Operation> {
        self.running().find(|operation| operation.kind.node() == Some(node))
    }

    pub(super) fn split_is_published(&mut self, id: OperationId) {
        if let Some(plan) = self.by_id.get_mut(&id).and_then(|operation| operation.split.as_mut()) {
            plan.is_published = true;
        }
    }

    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let mut held = std::collections::BTreeSet::new();
        let mut nodes = std::collections::BTreeSet::new();
        let mut keys = std::collections::BTreeSet::new();
        for (id, operation) in &self.by_id {
            if *id != operation.id || id.0 == 0 || id.0 >= self.next {
                return Err(format!("operation {} under id {id}, the next one is {}", operation.id, self.next));
            }
            if operation.is_running() != operation.ended_ms.is_none() {
                return Err(format!("operation {id} is {:?} and ended at {:?}", operation.state, operation.ended_ms));
            }
            if operation.is_running() && !operation.shards().all(|shard| held.insert(shard)) {
                return Err(format!("operation {id} holds a shard of another"));
            }
            if operation.is_running() && operation.kind.node().is_some_and(|node| !nodes.insert(node)) {
                return Err(format!("operation {id} has the node of another"));
            }
            if operation.idempotency_key.as_ref().is_some_and(|key| !keys.insert(key)) {
                return Err(format!("operation {id} has the idempotency key of another"));
            }
        }
        Ok(())
    }

    /// The oldest ended ones go first; one that runs stays however many there are.
    fn forget_the_oldest(&mut self) {
        let ended: Vec<OperationId> = self.iter().filter(|one| !one.is_running()).map(|one| one.id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(ENDED_OPERATIONS_KEPT)) {
            self.by_id.remove(id);
        }
    }
}

impl Wire for Operations {
    fn encode(&self, out: &mut BytesMut) {
        self.next.encode(out);
        encode_map(&self.by_id, out);
    }

    fn decode(input: &mut Bytes) -> std::result::Result<Self, WireError> {
        Ok(Self { next: u64::decode(input)?, by_id: decode_map(input)? })
    }
}

impl Catalog {
    pub(super) fn begin_operation(
        &mut self,
        kind: &OperationKind,
        cause: OperationCause,
        expected_epoch: Option<Epoch>,
        idempotency_key: Option<&String>,
        time_ms: u64,
    ) -> Result<Done> {
        let with_key = |operation: &&Operation| operation.idempotency_key.as_ref() == idempotency_key;
        if let Some(known) = idempotency_key.and_then(|_| self.operations.iter().find(with_key)) {
            let operation = known.id;
            if known.kind != *kind {
                return Err(Refusal::OperationKeyReused { operation });
            }
            return Ok(Done::operation(false, operation));
        }
        if let Some(key) = idempotency_key.filter(|key| key.is_empty() || key.len() > OPERATION_KEY_BYTES_MAX) {
            let why = format!("it has 1 to {OPERATION_KEY_BYTES_MAX} bytes, not {}", key.len());
            return Err(Refusal::BadParameter { parameter: "idempotency_key".into(), why });
        }
        for shard in kind.shards() {
            let epoch = self.live_shard_mut(shard)?.epoch;
            if expected_epoch.is_some_and(|expected| expected != epoch) {
                return Err(Refusal::EpochMismatch { shard, epoch });
            }
            if let Some(running) = self.operations.on_shard(shard) {
                return Err(Refusal::OperationRunning { shard, operation: running.id });
            }
        }
        if let Some(node) = kind.node() {
            self.check_node_epoch(node, expected_epoch)?;
            let running = self.operations.on_node(node).filter(|_| !matches!(kind, OperationKind::Undrain { .. }));
            if let Some(running) = running {
                return Err(Refusal::NodeOperationRunning { node, operation: running.id });
            }
        }
        let split = self.first_step(kind, cause)?;
        let id = OperationId(self.operations.next);
        self.operations.next += 1;
        let operation = Operation {
            id,
            kind: kind.clone(),
            state: OperationState::Running,
            cause,
            split,
            idempotency_key: idempotency_key.cloned(),
            begun_ms: time_ms,
            ended_ms: None,
        };
        self.record(EventKind::begun(&operation), time_ms);
        self.operations.by_id.insert(id, operation);
        if let OperationKind::Undrain { node } = kind {
            let drains: Vec<OperationId> =
                self.operations.running().filter(|one| one.kind.node() == Some(*node)).map(|one| one.id).collect();
            for one in drains {
                let failure = (one != id).then(|| format!("operation {id} ended it: node {node} takes replicas again"));
                self.end_operation(one, failure.as_ref(), time_ms)?;
            }
        }
        Ok(Done::operation(true, id))
    }

    /// What the catalog itself changes at the beginning: checked in full before anything is changed.
    fn first_step(&mut self, kind: &OperationKind, cause: OperationCause) -> Result<Option<SplitPlan>> {
        match kind {
            OperationKind::Split { shard, at } => return self.begin_split(*shard, *at).map(Some),
            OperationKind::Move { shard, from, to } => self.begin_move(*shard, *from, *to, cause),
            OperationKind::Drain { node } | OperationKind::Decommission { node } => self.begin_drain(*node),
            OperationKind::Undrain { node } => {
                self.check_draining(*node)?;
                self.set_draining(*node, false)
            }
            OperationKind::TransferLeader { shard, to } => {
                if !self.nodes.contains_key(to) {
                    return Err(Refusal::NoSuchNode { node: *to });
                }
                let descriptor = self.live_shard_mut(*shard)?;
                match descriptor.replica_on(*to) {
                    Some(replica) if replica.state == ReplicaState::Voter => {}
                    Some(replica) if replica.state == ReplicaState::Joining => {
                        return Err(Refusal::ReplicaNotVoter { shard: *shard, replica: replica.id });
                    }
                    _ => return Err(Refusal::NodeHoldsNoReplica { shard: *shard, node: *to }),
                }
                descriptor.preferred_leader = Some(*to);
                descriptor.leader_chosen = true;
                Ok(())
            }
        }
        .map(|()| None)
    }

    /// Orders the replica that is to come, under a fresh id; the one that is to go stays until it is replaced.
    fn begin_move(&mut self, shard: ShardId, from: NodeId, to: NodeId, cause: OperationCause) -> Result<()> {
        if !self.nodes.contains_key(&from) {
            return Err(Refusal::NoSuchNode { node: from });
        }
        self.check_takes_replicas(to)?;
        let descriptor = self.live_shard_mut(shard)?;
        if descriptor.replica_on(from).is_none() {
            return Err(Refusal::NodeHoldsNoReplica { shard, node: from });
        }
        if let Some(replica) = descriptor.replica_on(to) {
            return Err(Refusal::NodeHoldsReplica { shard, node: to, replica: replica.id });
        }
        if let Some(replica) = descriptor.replicas.iter().find(|replica| replica.state != ReplicaState::Voter) {
            return Err(Refusal::ReplicaNotVoter { shard, replica: replica.id });
        }
        self.check_replica_ids(1)?;
        let id = self.take_replica_id();
        let descriptor = self.live_shard_mut(shard)?;
        // Fresh ids are the highest, so the list stays in order.
        descriptor.replicas.push(ReplicaDescriptor { id, node: to, state: ReplicaState::Joining });
        descriptor.epoch.0 += 1;
        descriptor.placement_chosen = cause == OperationCause::Asked;
        Ok(())
    }

    /// The replica that was to come is not wanted any more (`models` §15): the group lets it go, then the operation ends.
    pub(super) fn give_up_operation(&mut self, id: OperationId, why: &str) -> Result<Done> {
        let operation = self.operations.by_id.get_mut(&id).ok_or(Refusal::NoSuchOperation { operation: id })?;
        let is_published = operation.split.as_ref().is_some_and(|plan| plan.is_published);
        let can_be_given_up = matches!(operation.kind, OperationKind::Move { .. } | OperationKind::Split { .. });
        if !can_be_given_up || is_published {
            return Err(Refusal::NothingToTakeBack { operation: id });
        }
        if operation.state != OperationState::Running {
            return Ok(Done::NOTHING_TO_DO);
        }
        operation.state = OperationState::GivingUp { why: why.to_string() };
        // What a split has begun is fenced in the parent's log, and nothing of it is here yet.
        let OperationKind::Move { shard, to, .. } = operation.kind else { return Ok(Done::CHANGED) };
        self.prefer_no_longer(shard, to);
        let comes = self.live_shard_mut(shard)?.replicas.iter_mut().find(|replica| replica.node == to);
        if let Some(replica) = comes {
            replica.state = ReplicaState::Leaving;
        }
        Ok(Done::CHANGED)
    }

    pub(super) fn end_operation(&mut self, id: OperationId, failure: Option<&String>, time_ms: u64) -> Result<Done> {
        let operation = self.operations.by_id.get_mut(&id).ok_or(Refusal::NoSuchOperation { operation: id })?;
        if !operation.is_running() {
            return Ok(Done::NOTHING_TO_DO);
        }
        self.check_split_end(id, failure.is_some())?;
        let operation = self.operations.by_id.get_mut(&id).expect("found above");
        let is_a_move = matches!(operation.kind, OperationKind::Move { .. });
        if is_a_move && failure.is_some() && operation.state == OperationState::Running {
            return Err(Refusal::NotGivenUp { operation: id });
        }
        if let (OperationKind::Decommission { node }, None) = (operation.kind.clone(), failure) {
            self.remove_node(node, time_ms)?;
        }
        let operation = self.operations.by_id.get_mut(&id).expect("found above");
        operation.ended_ms = Some(time_ms);
        operation.state = match failure {
            None => OperationState::Done,
            Some(why) => OperationState::Failed { why: why.clone() },
        };
        let kind = operation.kind.clone();
        self.record(EventKind::ended(id, failure), time_ms);
        match (kind, failure.is_some()) {
            (
                OperationKind::TransferLeader { .. } | OperationKind::Drain { .. } | OperationKind::Decommission { .. },
                false,
            )
            | (OperationKind::Undrain { .. } | OperationKind::Split { .. }, _) => {}
            (OperationKind::Drain { node } | OperationKind::Decommission { node }, true) => {
                self.set_draining(node, false)?;
            }
            (OperationKind::TransferLeader { shard, to }, true) => self.prefer_no_longer(shard, to),
            // Whoever proposed this has read the group's committed membership (`models` §16).
            (OperationKind::Move { shard, from, to }, false) => self.end_move(shard, from, to),
            (OperationKind::Move { shard, to, .. }, true) => self.remove_replica(shard, to),
        }
        self.operations.forget_the_oldest();
        Ok(Done::CHANGED)
    }

    fn prefer_no_longer(&mut self, shard: ShardId, node: NodeId) {
        let preferring = self.shards.get_mut(&shard).filter(|shard| shard.preferred_leader == Some(node));
        if let Some(shard) = preferring {
            (shard.preferred_leader, shard.leader_chosen) = (None, false);
        }
    }

    fn end_move(&mut self, shard: ShardId, from: NodeId, to: NodeId) {
        let descriptor = self.shards.get_mut(&shard);
        let comes = descriptor.and_then(|shard| shard.replicas.iter_mut().find(|replica| replica.node == to));
        if let Some(replica) = comes {
            replica.state = ReplicaState::Voter;
        }
        self.remove_replica(shard, from);
    }

    fn remove_replica(&mut self, shard: ShardId, node: NodeId) {
        self.prefer_no_longer(shard, node);
        if let Some(descriptor) = self.shards.get_mut(&shard) {
            descriptor.replicas.retain(|replica| replica.node != node);
            descriptor.epoch.0 += 1;
        }
    }
}
