//! A shard that becomes two, as the catalog sees it: ids decided at the beginning, the child known once the parent has
//! split. What a shard owns is decided in its own group alone; this only says where to look (`models` §8 to §11).

use serde::{Deserialize, Serialize};

use super::Catalog;
use super::apply::{Done, Result};
use super::command::Refusal;
use super::descriptor::{ReplicaDescriptor, ReplicaState, ShardDescriptor, ShardState};
use super::operation::{OperationKind, OperationState};
use crate::ring::{Token, TokenRange};
use crate::types::{Epoch, META_SHARD, OperationId, ReplicaId, ShardId};
use crate::wire_struct;

/// What a split makes: decided when it begins, so that everybody who goes on with it makes the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SplitPlan {
    pub child: ShardId,
    /// One for each replica of the parent.
    pub births: Vec<ReplicaBirth>,
    /// The child is in the catalog.
    pub is_published: bool,
}
wire_struct!(SplitPlan { child, births, is_published });

/// The replica that is born beside one of the parent's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaBirth {
    pub parent: ReplicaId,
    pub child: ReplicaId,
}
wire_struct!(ReplicaBirth { parent, child });

impl Catalog {
    /// Gives out the ids; nothing else changes yet. Checked in full before anything is changed.
    pub(super) fn begin_split(&mut self, shard: ShardId, at: Token) -> Result<SplitPlan> {
        let descriptor = self.live_shard_mut(shard)?;
        let Some(range) = descriptor.range.filter(|_| shard != META_SHARD) else {
            return Err(Refusal::NotToBeSplit { shard });
        };
        // Both sides get a token at least.
        if at <= range.first || !range.contains(at) {
            return Err(Refusal::TokenOutside { shard, first: range.first, last: range.last });
        }
        if let Some(replica) = descriptor.replicas.iter().find(|replica| replica.state != ReplicaState::Voter) {
            return Err(Refusal::ReplicaNotVoter { shard, replica: replica.id });
        }
        let parents: Vec<ReplicaId> = descriptor.replicas.iter().map(|replica| replica.id).collect();
        self.check_replica_ids(parents.len() as u64)?;
        let child = ShardId(self.next_shard);
        self.next_shard += 1;
        let births = parents.into_iter().map(|parent| ReplicaBirth { parent, child: self.take_replica_id() }).collect();
        Ok(SplitPlan { child, births, is_published: false })
    }

    /// The parent has split: the child is where its replicas were born, and the parent has what is left. Whoever proposes this
    /// has read it in the parent's own state (`models` §8, §9).
    pub(super) fn publish_split(&mut self, id: OperationId) -> Result<Done> {
        let operation = self.operations.get(id).ok_or(Refusal::NoSuchOperation { operation: id })?;
        let (OperationKind::Split { shard, at }, Some(plan)) = (operation.kind.clone(), operation.split.clone()) else {
            return Err(Refusal::NoSplit { operation: id });
        };
        if plan.is_published {
            return Ok(Done::NOTHING_TO_DO);
        }
        if !operation.is_running() {
            return Err(Refusal::NoSplit { operation: id });
        }
        let parent = self.live_shard_mut(shard)?;
        let range = parent.range.ok_or(Refusal::NotToBeSplit { shard })?;
        parent.range = Some(TokenRange { first: range.first, last: Token(at.0 - 1) });
        parent.epoch.0 += 1;
        let born = |replica: &ReplicaDescriptor| {
            let birth = plan.births.iter().find(|birth| birth.parent == replica.id)?;
            Some(ReplicaDescriptor { id: birth.child, ..*replica })
        };
        let child = ShardDescriptor {
            id: plan.child,
            range: Some(TokenRange { first: at, last: range.last }),
            epoch: Epoch(1),
            state: ShardState::Live,
            replicas: parent.replicas.iter().filter_map(born).collect(),
            preferred_leader: None,
            leader_chosen: false,
            placement_chosen: false,
        };
        self.shards.insert(plan.child, child);
        self.operations.split_is_published(id);
        Ok(Done::CHANGED)
    }

    /// A split that is published is past giving up; one that is not is over only when the parent was fenced (`models` §10).
    pub(super) fn check_split_end(&self, id: OperationId, is_failure: bool) -> Result<()> {
        let Some(operation) = self.operations.get(id) else { return Ok(()) };
        let Some(plan) = &operation.split else { return Ok(()) };
        match (is_failure, plan.is_published) {
            (false, false) => Err(Refusal::NoSplit { operation: id }),
            (true, true) => Err(Refusal::NothingToTakeBack { operation: id }),
            (true, false) if operation.state == OperationState::Running => Err(Refusal::NotGivenUp { operation: id }),
            _ => Ok(()),
        }
    }
}
