//! What a node says of its replicas, to itself and to peers: the raw material of the admin API.

use super::host::Host;
use crate::raft::Role;
use crate::ring::TokenRange;
use crate::storage::registry::ReplicaLife;
use crate::types::{Epoch, ReplicaId, Revision, ShardId};
use crate::{wire_enum, wire_struct};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportedRole {
    Leader,
    Follower,
    Candidate,
    Learner,
    /// Its Raft has stopped, or it never started: `failure` says why.
    Failed,
}
wire_enum!(ReportedRole { 1 => Leader, 2 => Follower, 3 => Candidate, 4 => Learner, 5 => Failed });

impl ReportedRole {
    pub fn name(self) -> &'static str {
        match self {
            ReportedRole::Leader => "leader",
            ReportedRole::Follower => "follower",
            ReportedRole::Candidate => "candidate",
            ReportedRole::Learner => "learner",
            ReportedRole::Failed => "failed",
        }
    }
}

/// One replica as it looks from within. Log indexes are none where nothing is there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub role: ReportedRole,
    pub failure: Option<String>,
    pub term: u64,
    /// The leader that this replica knows of.
    pub leader: Option<ReplicaId>,
    pub voters: Vec<ReplicaId>,
    pub learners: Vec<ReplicaId>,
    pub last_index: Option<u64>,
    pub committed_index: Option<u64>,
    pub applied_index: Option<u64>,
    pub flushed_index: Option<u64>,
    pub purged_index: Option<u64>,
    pub range: Option<TokenRange>,
    pub epoch: Epoch,
    pub revision: Revision,
    /// Bytes on disk, roughly, and bytes only in memory.
    pub disk_bytes: u64,
    pub memory_bytes: u64,
}
wire_struct!(ReplicaReport {
    shard,
    replica,
    role,
    failure,
    term,
    leader,
    voters,
    learners,
    last_index,
    committed_index,
    applied_index,
    flushed_index,
    purged_index,
    range,
    epoch,
    revision,
    disk_bytes,
    memory_bytes,
});

impl Host {
    /// Every replica that the registry names as live, by shard.
    pub fn reports(&self) -> Vec<ReplicaReport> {
        let mut reports: Vec<ReplicaReport> = self.groups().iter().map(running).collect();
        for (replica, (shard, what)) in self.failed() {
            if self.log().record(replica).is_some_and(|record| record.state != ReplicaLife::Tombstone) {
                reports.push(failed(shard, replica, what));
            }
        }
        reports.sort_by_key(|report| (report.shard, report.replica));
        reports
    }
}

fn running(group: &super::Group) -> ReplicaReport {
    let replica = group.replica();
    let status = replica.status();
    let machine = replica.machine();
    let state = machine.state.lock().expect("no panic while the state is copied").clone();
    let engine = machine.store.engine();
    let role = match status.role {
        Role::Leader => ReportedRole::Leader,
        Role::Follower => ReportedRole::Follower,
        Role::Candidate => ReportedRole::Candidate,
        Role::Learner => ReportedRole::Learner,
        Role::Stopped => ReportedRole::Failed,
    };
    ReplicaReport {
        shard: replica.shard(),
        replica: replica.id(),
        role,
        failure: status.failure,
        term: status.term,
        leader: status.leader.map(|leader| leader.replica),
        voters: status.members.voters.iter().copied().collect(),
        learners: status.members.learners.iter().copied().collect(),
        last_index: status.last_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        flushed_index: status.flushed_index,
        purged_index: status.purged_index,
        range: state.range,
        epoch: state.epoch,
        revision: state.revision,
        disk_bytes: engine.disk_bytes(),
        memory_bytes: engine.unflushed_bytes(),
    }
}

fn failed(shard: ShardId, replica: ReplicaId, what: String) -> ReplicaReport {
    ReplicaReport {
        shard,
        replica,
        role: ReportedRole::Failed,
        failure: Some(what),
        term: 0,
        leader: None,
        voters: Vec::new(),
        learners: Vec::new(),
        last_index: None,
        committed_index: None,
        applied_index: None,
        flushed_index: None,
        purged_index: None,
        range: None,
        epoch: Epoch(0),
        revision: Revision(0),
        disk_bytes: 0,
        memory_bytes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Token;
    use crate::wire::golden;

    #[test]
    fn reports_keep_their_bytes() {
        let full = ReplicaReport {
            shard: ShardId(0x01),
            replica: ReplicaId(0x02),
            role: ReportedRole::Leader,
            failure: None,
            term: 0x03,
            leader: Some(ReplicaId(0x04)),
            voters: vec![ReplicaId(0x05), ReplicaId(0x06)],
            learners: vec![ReplicaId(0x07)],
            last_index: Some(0x08),
            committed_index: Some(0x09),
            applied_index: Some(0x0a),
            flushed_index: Some(0x0b),
            purged_index: Some(0x0c),
            range: Some(TokenRange { first: Token(0x0d), last: Token(0x0e) }),
            epoch: Epoch(0x0f),
            revision: Revision(0x10),
            disk_bytes: 0x11,
            memory_bytes: 0x12,
        };
        let mut reports = vec![full.clone(), failed(ShardId(0x21), ReplicaId(0x22), "its directory is gone".into())];
        let others = [ReportedRole::Follower, ReportedRole::Candidate, ReportedRole::Learner];
        reports.extend(others.map(|role| ReplicaReport { role, leader: None, ..full.clone() }));
        golden::check("replica_report", &reports);
        let roles: Vec<ReportedRole> = reports.iter().map(|report| report.role).collect();
        golden::has_every_tag(&roles);
        // What one node answers: all of its reports.
        golden::check("replica_reports", &[reports, Vec::new()]);
    }
}
