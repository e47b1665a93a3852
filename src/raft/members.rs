//! A group's membership as one of its replicas sees it.

use std::collections::{BTreeMap, BTreeSet};

use super::LogId;
use crate::types::{NodeId, ReplicaId};

/// The effective membership.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MembershipView {
    pub voters: BTreeSet<ReplicaId>,
    pub learners: BTreeSet<ReplicaId>,
    pub places: BTreeMap<ReplicaId, NodeId>,
    /// A change is half done and must be completed: `target` is where it was going.
    pub joint: bool,
    /// The voters that a change under way leads to; the voters themselves when there is none.
    pub target: BTreeSet<ReplicaId>,
    /// The entry that made it is committed, as far as this replica knows.
    pub committed: bool,
    pub(super) log_id: Option<LogId>,
}

impl MembershipView {
    /// Index of the entry that made it.
    pub fn index(&self) -> Option<u64> {
        self.log_id.map(|log_id| log_id.index())
    }
}

#[cfg(test)]
impl MembershipView {
    /// Committed, and no change half done.
    pub fn settled(voters: &[u64], learners: &[u64]) -> Self {
        let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect::<BTreeSet<_>>();
        let (voters, learners) = (ids(voters), ids(learners));
        Self { target: voters.clone(), voters, learners, committed: true, ..Self::default() }
    }
}
