//! How this node's replicas stand, in numbers that a monitor samples: none of it is on any request's way.

use std::time::Duration;

use super::host::Host;
use crate::raft::{ReplicaStatus, Role};
use crate::storage::reserve::{Measured, Room};
use crate::storage::{BlockCache, Error, TableBytes};
use crate::types::{ReplicaId, ShardId};

/// A voter that has not answered its leader for so many of the longest election time-outs counts as away.
const AWAY_AFTER_ELECTIONS: u32 = 2;

/// Of one running replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaGauges {
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub leads: bool,
    pub knows_leader: bool,
    pub term: u64,
    pub applied_index: u64,
    /// Entries that are committed here and not applied.
    pub apply_lag: u64,
    /// Only of a leader: how far the voter that is furthest behind is, in entries.
    pub follower_lag: u64,
    /// Only of a leader: voters that answer, itself among them.
    pub voters_heard: usize,
    pub disk_bytes: u64,
    pub unflushed_bytes: u64,
}

/// Of the node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskGauges {
    pub free_bytes: u64,
    pub size_bytes: u64,
    /// Kept back now.
    pub reserve_bytes: u64,
    pub room: Room,
    /// The log and all replicas' tables.
    pub stored_bytes: u64,
    pub tables: TableBytes,
    pub cache: BlockCache,
}

impl Host {
    /// Every running replica, by shard.
    pub fn replica_gauges(&self) -> Vec<ReplicaGauges> {
        let away_after = AWAY_AFTER_ELECTIONS * self.timing().election_max;
        let running = self.groups().into_iter().filter(|group| !group.replica().has_stopped());
        let mut all: Vec<ReplicaGauges> = running.map(|group| gauges(&group, away_after)).collect();
        all.sort_by_key(|gauges| (gauges.shard, gauges.replica));
        all
    }

    /// Blocks: RocksDB and the file system are asked.
    ///
    /// # Errors
    /// When the file system does not tell its size.
    pub fn disk_gauges(&self) -> Result<DiskGauges, Error> {
        let disk = self.disk();
        let mut tables = TableBytes::default();
        let mut stored_bytes = self.log().disk_bytes();
        for group in self.groups() {
            let engine = group.replica().machine().store.engine();
            let own = engine.table_bytes();
            tables.raw += own.raw;
            tables.stored += own.stored;
            tables.deletions += own.deletions;
            stored_bytes += engine.disk_bytes();
        }
        let (free_bytes, size_bytes) = (disk.free_bytes()?, disk.size_bytes()?);
        let Measured { room, reserve_bytes, .. } = self.rooms().reserve().measured();
        let cache = disk.block_cache();
        Ok(DiskGauges { free_bytes, size_bytes, reserve_bytes, room, stored_bytes, tables, cache })
    }
}

fn gauges(group: &super::Group, away_after: Duration) -> ReplicaGauges {
    let replica = group.replica();
    let status = replica.status();
    let engine = replica.machine().store.engine();
    let leads = status.role == Role::Leader;
    ReplicaGauges {
        shard: replica.shard(),
        replica: replica.id(),
        leads,
        knows_leader: status.leader.is_some(),
        term: status.term,
        applied_index: status.applied_index.unwrap_or(0),
        apply_lag: behind(status.committed_index, status.applied_index),
        follower_lag: if leads { follower_lag(&status, replica.id()) } else { 0 },
        voters_heard: if leads { voters_heard(&status, replica.id(), away_after) } else { 0 },
        disk_bytes: engine.disk_bytes(),
        unflushed_bytes: engine.unflushed_bytes(),
    }
}

/// Entries from after `done` to `to`; an index counts from 0, and none is before it.
fn behind(to: Option<u64>, done: Option<u64>) -> u64 {
    let count = |index: Option<u64>| index.map_or(0, |index| index + 1);
    count(to).saturating_sub(count(done))
}

fn others(status: &ReplicaStatus, own: ReplicaId) -> impl Iterator<Item = &ReplicaId> {
    status.members.voters.iter().filter(move |voter| **voter != own)
}

fn follower_lag(status: &ReplicaStatus, own: ReplicaId) -> u64 {
    let lag = |voter: &ReplicaId| behind(status.last_index, status.matched.get(voter).copied().flatten());
    others(status, own).map(lag).max().unwrap_or(0)
}

fn voters_heard(status: &ReplicaStatus, own: ReplicaId, away_after: Duration) -> usize {
    let silent_for = |voter: &ReplicaId| status.silent_for.get(voter).copied().flatten();
    let is_heard = |voter: &&ReplicaId| silent_for(voter).is_some_and(|silent| silent < away_after);
    let itself = usize::from(status.members.voters.contains(&own));
    itself + others(status, own).filter(is_heard).count()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::raft::MembershipView;

    fn status() -> ReplicaStatus {
        let voters = BTreeSet::from([ReplicaId(1), ReplicaId(2), ReplicaId(3)]);
        let mut members = MembershipView::default();
        members.voters = voters;
        ReplicaStatus {
            role: Role::Leader,
            failure: None,
            term: 1,
            leader: None,
            last_index: Some(9),
            committed_index: Some(8),
            applied_index: Some(6),
            flushed_index: None,
            purged_index: None,
            members,
            matched: BTreeMap::from([(ReplicaId(1), Some(9)), (ReplicaId(2), Some(7)), (ReplicaId(4), None)]),
            silent_for: BTreeMap::from([
                (ReplicaId(2), Some(Duration::from_millis(100))),
                (ReplicaId(3), Some(Duration::from_secs(3))),
                (ReplicaId(4), Some(Duration::ZERO)),
            ]),
        }
    }

    #[test]
    fn the_voter_furthest_behind_tells_the_lag_and_silent_ones_do_not_count_as_heard() {
        let status = status();
        assert_eq!(follower_lag(&status, ReplicaId(1)), 10, "nothing is known of replica 3");
        let heard = voters_heard(&status, ReplicaId(1), Duration::from_secs(2));
        assert_eq!(heard, 2, "itself and replica 2; a learner is no voter");
        assert_eq!(voters_heard(&status, ReplicaId(9), Duration::from_secs(2)), 1, "it is no voter any more");
    }

    #[test]
    fn a_lag_counts_entries() {
        assert_eq!(behind(Some(8), Some(6)), 2);
        assert_eq!((behind(Some(0), None), behind(None, None), behind(Some(1), Some(5))), (1, 0, 0));
    }
}
