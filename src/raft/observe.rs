//! A replica's Raft as seen from outside, for whoever checks the invariants of Raft over all replicas of a group at once:
//! `raft-tests sim`. Nothing in a node asks for it.

use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::codec::ENTRY_FORMAT;
use super::replica::Replica;
use super::{LogId, Vote};
use crate::types::ReplicaId;
use crate::wire::{Wire, WireError};

/// Name of a log entry: no two entries of a group have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    pub term: u64,
    pub leader: ReplicaId,
    pub index: u64,
}

/// A vote, ordered as Raft orders them: a later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ballot {
    pub term: u64,
    pub candidate: ReplicaId,
    /// The candidate is known to have won.
    pub won: bool,
}

/// A replica at one moment, as its Raft last reported itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Its Raft runs, and it leads its group in `vote.term`.
    pub leads: bool,
    /// Why its Raft has stopped, when it has.
    pub failure: Option<String>,
    /// The last vote that is on disk.
    pub vote: Ballot,
    pub last_index: Option<u64>,
    /// Up to where this replica knows its own log to be committed.
    pub committed: Option<EntryId>,
    /// Up to where its state machine is.
    pub applied_index: Option<u64>,
    pub purged_index: Option<u64>,
    /// The sets of voters, each of which needs a majority: two while the membership changes.
    pub voters: Vec<BTreeSet<ReplicaId>>,
}

impl Replica {
    pub fn observe(&self) -> Observation {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        Observation {
            leads: metrics.running_state.is_ok() && metrics.state == ServerState::Leader,
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
            vote: ballot(&metrics.vote),
            last_index: metrics.last_log_index,
            committed: metrics.local_committed.as_ref().map(entry_id),
            applied_index: self.applied_index(),
            purged_index: metrics.purged.as_ref().map(LogId::index),
            voters: metrics.membership_config.membership().get_joint_config().clone(),
        }
    }
}

/// The name of an entry as the log engine holds it.
///
/// # Errors
/// When these are not the bytes of an entry.
pub fn stored_entry_id(mut entry: Bytes) -> Result<EntryId, WireError> {
    crate::wire::take_format(&mut entry, "log entry", ENTRY_FORMAT)?;
    LogId::decode(&mut entry).map(|log_id| entry_id(&log_id))
}

/// A vote as the log engine holds it.
///
/// # Errors
/// When these are not the bytes of a vote.
pub fn stored_vote(vote: Bytes) -> Result<Ballot, WireError> {
    Vote::from_bytes(vote).map(|vote| ballot(&vote))
}

fn entry_id(log_id: &LogId) -> EntryId {
    let leader = log_id.committed_leader_id();
    EntryId { term: leader.term, leader: leader.node_id, index: log_id.index() }
}

fn ballot(vote: &Vote) -> Ballot {
    Ballot { term: vote.leader_id.term, candidate: vote.leader_id.node_id, won: vote.committed }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{blank, log_id};
    use super::*;

    #[test]
    fn what_stands_in_the_log_is_read_as_it_was_written() {
        let wanted = EntryId { term: 1, leader: ReplicaId(1), index: 7 };
        assert_eq!(stored_entry_id(blank(7).to_bytes()).unwrap(), wanted);
        assert_eq!(entry_id(&log_id(1, 7)), wanted);
        assert!(stored_entry_id(Bytes::from_static(&[1])).is_err());
        let won = Ballot { term: 2, candidate: ReplicaId(1), won: true };
        let vote = Vote { leader_id: super::super::LeaderId { term: 2, node_id: ReplicaId(1) }, committed: true };
        assert_eq!(stored_vote(vote.to_bytes()).unwrap(), won);
        assert!(Ballot { won: false, ..won } < won && won < Ballot { term: 3, candidate: ReplicaId(0), won: false });
    }
}
