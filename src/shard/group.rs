//! Requests on one shard's local replica: writes through its log, reads from one view after the barrier that the asked
//! consistency needs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::limits::ShardGate;
use crate::catalog::Catalog;
use crate::clock::{self, Moment};
use crate::machine::query::{self, NotOwner, ScanAnswer, ScanRequest};
use crate::machine::row::RowValue;
use crate::machine::{Action, Command, Response, Write};
use crate::meters::{self, Stage};
use crate::mutants::planted;
use crate::raft::meters::ReadPath;
use crate::raft::{Member, ProposeError, ReadError, ReadMode, Replica};
use crate::storage::off_runtime;
use crate::storage::reserve::Room;
use crate::types::{META_SHARD, NodeId, Outcome, ReplicaId, ShardId};

/// What a read asks for (`http-api`, consistency of reads).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    Linearizable,
    /// The leader's lease, else as `Linearizable`.
    Lease,
    /// Whatever this replica has applied.
    Stale,
}
crate::wire_enum!(Consistency { 1 => Linearizable, 2 => Lease, 3 => Stale });

/// How old a stale answer may be; none when that is unknown.
pub type Staleness = Option<Duration>;

/// The age of what was complete at that moment.
pub fn staleness(fresh_at: Option<Moment>) -> Staleness {
    fresh_at.map(|fresh_at| clock::now().since(fresh_at))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    pub row: Option<RowValue>,
    /// What was really served: a lease that could not be used is `Linearizable`.
    pub served: Consistency,
    /// Only of a stale answer: it holds every write acknowledged before this moment. None when that is unknown.
    pub fresh_at: Option<Moment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedPart {
    pub answer: ScanAnswer,
    /// As in [`ReadAnswer`].
    pub served: Consistency,
    pub fresh_at: Option<Moment>,
}

/// A group's membership, as its leader had it after a quorum confirmed the leadership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    pub voters: Vec<ReplicaId>,
    pub learners: Vec<ReplicaId>,
    /// Committed, and no change of the voters half done.
    pub is_settled: bool,
}
crate::wire_struct!(Members { voters, learners, is_settled });

impl Members {
    /// The group is certainly without it. Of a replica that was never taken in that is true as well: whoever asks has made
    /// sure that it is not to come any more (`models` §17).
    #[must_use]
    pub fn are_without(&self, replica: ReplicaId) -> bool {
        self.is_settled && !self.voters.contains(&replica) && !self.learners.contains(&replica)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this node does not lead the shard")]
    NotLeader { leader: Option<Member> },
    #[error("the shard does not own the key")]
    NotOwner(NotOwner),
    #[error("too many writes are in flight")]
    Overloaded,
    /// A replica of the shard stands on that node, and what the write adds would have to go there too.
    #[error("the disk of node {node} is almost full: deletes and reads go on")]
    DiskFull { node: NodeId },
    /// Not even a delete has room there, or on a majority of the replicas: until the shard is led elsewhere, or room is made.
    #[error("the disk of node {node} has no room left: reads go on")]
    DiskSpent { node: NodeId },
    #[error("{why}")]
    Unknown { why: &'static str },
    #[error("no quorum answered in time")]
    NoQuorum,
    /// Before anything was proposed.
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("this node's replica of the shard has failed: {what}")]
    Failed { what: String },
}

impl Error {
    /// What became of a write that this answers.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::NotLeader { .. }
            | Error::NotOwner(_)
            | Error::Overloaded
            | Error::DiskFull { .. }
            | Error::DiskSpent { .. }
            | Error::NoQuorum
            | Error::DeadlineExceeded
            | Error::Failed { .. } => Outcome::NotApplied,
            Error::Unknown { .. } => Outcome::Unknown,
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Group {
    replica: Replica,
    gate: ShardGate,
}

impl Group {
    pub fn new(replica: Replica, gate: ShardGate) -> Self {
        Self { replica, gate }
    }

    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    pub fn shard(&self) -> ShardId {
        self.replica.shard()
    }

    /// Proposes a write and waits until it is applied here. The leader alone accepts it.
    pub async fn write(&self, mut write: Write, deadline: Moment) -> Result<Response, Error> {
        planted!(CheckOutsideApply => if let Some(refused) = self.refused_early(&write)? { return Ok(refused) });
        self.refuse_others_keys(&write)?;
        if matches!(write.action, Action::Put { .. }) {
            self.refuse_to_grow()?;
        }
        write.time_ms = self.replica.shard_time_ms();
        let bytes = write.key.len()
            + match &write.action {
                Action::Put { value, .. } => value.len(),
                Action::Delete => 0,
            };
        self.propose(Command::Write(write), bytes, deadline).await
    }

    /// Proposes any command under the bounds on what is in flight.
    pub async fn propose(&self, command: Command, bytes: usize, deadline: Moment) -> Result<Response, Error> {
        if clock::now() >= deadline {
            return Err(Error::DeadlineExceeded);
        }
        self.refuse_when_spent()?;
        let Some(permit) = self.gate.enter(bytes) else { return Err(Error::Overloaded) };
        match self.replica.propose(command, Some(permit), deadline).await {
            Ok(Response::NotOwner { range, epoch }) => Err(Error::NotOwner(NotOwner { range, epoch })),
            Ok(response) => Ok(response),
            Err(ProposeError::NotLeader { leader }) => Err(Error::NotLeader { leader }),
            Err(ProposeError::Unknown { why }) => {
                planted!(NotAppliedAfterProposal => return Err(Error::DeadlineExceeded));
                Err(Error::Unknown { why })
            }
            Err(ProposeError::Refused { why }) => Err(Error::Failed { what: why }),
        }
    }

    /// Whose key it is is decided when the entry is applied. What this replica has applied already says that it is another
    /// shard's need not enter the log: a range only ever gets smaller.
    fn refuse_others_keys(&self, write: &Write) -> Result<(), Error> {
        let state = self.replica.machine().state.lock().expect("no panic while the state is read");
        if state.range.is_some() && !state.owns(&write.key) {
            return Err(Error::NotOwner(NotOwner { range: state.range, epoch: state.epoch }));
        }
        Ok(())
    }

    /// No growing write to a shard that a node with a tight disk votes in: it would have to be stored there too, or the shard
    /// would do without that voter (`architecture` §8). Only the leader has heard how the others' disks stand.
    fn refuse_to_grow(&self) -> Result<(), Error> {
        match self.replica.tightest_voter() {
            Some((node, _)) if self.shard() != META_SHARD && self.replica.is_leader() => Err(Error::DiskFull { node }),
            _ => Ok(()),
        }
    }

    /// Nothing at all where the leader, or a majority, could not append it. The meta group goes on.
    fn refuse_when_spent(&self) -> Result<(), Error> {
        match self.replica.tightest_voter() {
            Some((node, Room::Spent))
                if self.shard() != META_SHARD && self.replica.is_leader() && !self.replica.can_append() =>
            {
                Err(Error::DiskSpent { node })
            }
            _ => Ok(()),
        }
    }

    /// The answer to a write whose condition does not hold on the rows as they are now.
    #[cfg(feature = "mutants")]
    fn refused_early(&self, write: &Write) -> Result<Option<Response>, Error> {
        let view = self.replica.machine().store.view();
        let row = query::get(view.as_ref(), self.shard(), &write.key).map_err(failed)?.map_err(Error::NotOwner)?;
        let current = row.map(|row| row.revision);
        let is_refused = self.replica.is_leader() && !write.precondition.holds(current);
        Ok(is_refused.then_some(Response::PreconditionFailed { current, replayed: false }))
    }

    /// Reads one key. Ownership and value come from the same view, taken after the barrier.
    pub async fn read(&self, key: Bytes, consistency: Consistency, deadline: Moment) -> Result<ReadAnswer, Error> {
        let served = self.barrier(consistency, deadline).await?;
        let begun = clock::now();
        let fresh_at = self.fresh_at(served);
        // A point read of one key: memory or one short disk read, cheaper in place than a hop to another thread.
        let view = self.replica.machine().store.view();
        let row = query::get(view.as_ref(), self.shard(), &key).map_err(failed)?.map_err(Error::NotOwner)?;
        meters::note(Stage::Read, clock::now().since(begun));
        Ok(ReadAnswer { row, served, fresh_at })
    }

    /// Reads a page of this shard's rows from one view.
    pub async fn scan(
        &self,
        request: ScanRequest,
        consistency: Consistency,
        deadline: Moment,
    ) -> Result<ScannedPart, Error> {
        let served = self.barrier(consistency, deadline).await?;
        let begun = clock::now();
        let fresh_at = self.fresh_at(served);
        let store = self.replica.machine().store.clone();
        let shard = self.shard();
        let disk = store.disk().clone();
        let answer = off_runtime(disk.as_ref(), move || query::scan(store.view().as_ref(), shard, &request)).await;
        meters::note(Stage::Read, clock::now().since(begun));
        Ok(ScannedPart { answer: answer.map_err(failed)?.map_err(Error::NotOwner)?, served, fresh_at })
    }

    /// Who belongs to the group. At the leader alone.
    pub async fn members(&self, deadline: Moment) -> Result<Members, Error> {
        self.passed_barrier(Consistency::Linearizable, deadline).await?;
        let seen = self.replica.members();
        Ok(Members {
            voters: seen.voters.into_iter().collect(),
            learners: seen.learners.into_iter().collect(),
            is_settled: seen.committed && !seen.joint,
        })
    }

    /// The catalog, with everything that was acknowledged before. At the meta group's leader alone.
    pub async fn catalog(&self, deadline: Moment) -> Result<Option<Arc<Catalog>>, Error> {
        self.passed_barrier(Consistency::Linearizable, deadline).await?;
        Ok(self.replica.machine().catalog.borrow().clone())
    }

    async fn barrier(&self, consistency: Consistency, deadline: Moment) -> Result<Consistency, Error> {
        let served = self.passed_barrier(consistency, deadline).await?;
        self.replica.meters().count_read(match served {
            Consistency::Linearizable => ReadPath::ReadIndex,
            Consistency::Lease => ReadPath::Lease,
            Consistency::Stale => ReadPath::Stale,
        });
        Ok(served)
    }

    pub(super) async fn passed_barrier(
        &self,
        consistency: Consistency,
        deadline: Moment,
    ) -> Result<Consistency, Error> {
        let mode = match consistency {
            Consistency::Linearizable => ReadMode::ReadIndex,
            Consistency::Lease => ReadMode::Lease,
            Consistency::Stale => return Ok(Consistency::Stale),
        };
        match self.replica.read_barrier(mode, deadline).await {
            Ok(ReadMode::ReadIndex) => Ok(Consistency::Linearizable),
            Ok(ReadMode::Lease) => Ok(Consistency::Lease),
            Err(ReadError::NotLeader { leader }) => Err(Error::NotLeader { leader }),
            Err(ReadError::NoQuorum) => Err(Error::NoQuorum),
            Err(ReadError::DeadlineExceeded) => Err(Error::DeadlineExceeded),
            Err(ReadError::Stopped) => Err(Error::Failed { what: "its Raft has stopped".into() }),
        }
    }

    /// Asked before the view is taken: what is proven later may speak of rows that the view does not hold.
    fn fresh_at(&self, served: Consistency) -> Option<Moment> {
        if served == Consistency::Stale { self.replica.fresh_at() } else { None }
    }
}

pub(super) fn failed(error: crate::storage::Error) -> Error {
    Error::Failed { what: error.to_string() }
}
