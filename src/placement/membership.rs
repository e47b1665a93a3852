//! What the leader of a shard does to its group's membership: one change at a time, towards what the catalog says. The
//! decision is pure.

use std::collections::BTreeSet;

use crate::catalog::{Catalog, OperationKind, ReplicaDescriptor, ReplicaState, ShardDescriptor};
use crate::raft::{Member, MembershipView};
use crate::types::{ReplicaId, ShardId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// Whoever began a change of the voters is gone; half done it needs two majorities (`models` §13).
    Complete,
    AddLearner(Member),
    RemoveLearners(BTreeSet<ReplicaId>),
    SetVoters(BTreeSet<ReplicaId>),
    /// This leader is to go: another voter than it is to lead first.
    HandOver,
    /// The group counts it as a voter already, and the catalog does not know.
    TellVoter(ReplicaId),
}

impl Change {
    /// Decided by the catalog, which must then be the newest one, read after the membership (`models` §14).
    pub(super) fn hangs_on_the_catalog(&self) -> bool {
        matches!(self, Change::AddLearner(_) | Change::RemoveLearners(_) | Change::SetVoters(_))
    }
}

/// The next change. `own` is the leader's replica, `seen` its group's membership; a learner that is caught up may vote.
pub(super) fn next_change(
    own: ReplicaId,
    seen: &MembershipView,
    catalog: &Catalog,
    shard: ShardId,
    is_caught_up: impl Fn(ReplicaId) -> bool,
) -> Change {
    if seen.joint {
        return Change::Complete;
    }
    let Some(descriptor) = catalog.shards.get(&shard) else { return Change::Nothing };
    let is_wanted = |id: &ReplicaId| descriptor.replica(*id).is_some_and(|known| known.state != ReplicaState::Leaving);
    // Nobody wants them: a move was given up, or an order came late.
    let strangers: BTreeSet<ReplicaId> = seen
        .learners
        .iter()
        .copied()
        .filter(|learner| !is_wanted(learner) && catalog.has_given_out(*learner))
        .collect();
    if !strangers.is_empty() {
        return Change::RemoveLearners(strangers);
    }
    if let Some((goes, comes)) = exchange(catalog, descriptor) {
        return change_of_exchange(own, seen, goes, comes, is_caught_up);
    }
    let mut ordered = descriptor.replicas.iter().filter(|replica| replica.state == ReplicaState::Joining);
    let change = ordered.find_map(|comes| {
        if seen.voters.contains(&comes.id) {
            Some(Change::TellVoter(comes.id))
        } else if !seen.learners.contains(&comes.id) {
            Some(Change::AddLearner(member(comes)))
        } else {
            is_caught_up(comes.id).then(|| Change::SetVoters(with(&seen.voters, comes.id)))
        }
    });
    change.unwrap_or(Change::Nothing)
}

/// The replica that goes and the one that comes in its place, while a move of the shard runs.
fn exchange<'a>(
    catalog: &Catalog,
    descriptor: &'a ShardDescriptor,
) -> Option<(&'a ReplicaDescriptor, &'a ReplicaDescriptor)> {
    match catalog.operations.on_shard(descriptor.id)?.kind {
        OperationKind::Move { from, to, .. } => Some((descriptor.replica_on(from)?, descriptor.replica_on(to)?)),
        _ => None,
    }
}

/// Both in one joint change, so that the group never has fewer voters, nor an even number of them. A group of one grows
/// first: its only voter cannot hand over to nobody.
fn change_of_exchange(
    own: ReplicaId,
    seen: &MembershipView,
    goes: &ReplicaDescriptor,
    comes: &ReplicaDescriptor,
    is_caught_up: impl Fn(ReplicaId) -> bool,
) -> Change {
    if seen.voters.contains(&comes.id) {
        // Also when the move was given up meanwhile: it is too late for that (`models` §15).
        return match (seen.voters.contains(&goes.id), own == goes.id) {
            (false, _) => Change::Nothing,
            (true, true) => Change::HandOver,
            (true, false) => Change::SetVoters(without(&seen.voters, goes.id)),
        };
    }
    if comes.state == ReplicaState::Leaving {
        return Change::Nothing;
    }
    if !seen.learners.contains(&comes.id) {
        return Change::AddLearner(member(comes));
    }
    match (is_caught_up(comes.id), own == goes.id, seen.voters.len()) {
        (false, ..) => Change::Nothing,
        (true, true, 1) => Change::SetVoters(with(&seen.voters, comes.id)),
        (true, true, _) => Change::HandOver,
        (true, false, _) => Change::SetVoters(with(&without(&seen.voters, goes.id), comes.id)),
    }
}

fn member(replica: &ReplicaDescriptor) -> Member {
    Member { replica: replica.id, node: replica.node }
}

fn with(voters: &BTreeSet<ReplicaId>, comes: ReplicaId) -> BTreeSet<ReplicaId> {
    voters.iter().copied().chain([comes]).collect()
}

fn without(voters: &BTreeSet<ReplicaId>, goes: ReplicaId) -> BTreeSet<ReplicaId> {
    voters.iter().copied().filter(|voter| *voter != goes).collect()
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
