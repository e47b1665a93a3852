//! One running replica: the handle that everything above Raft uses.
//!
//! Every error says whether the entry may have been appended, because the outcome that a client is told hangs on it:
//! [`ProposeError::NotLeader`] and [`ProposeError::Refused`] mean certainly not, [`ProposeError::Unknown`] says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::raft::{Precondition, ReadPolicy};
use openraft::{ChangeMembers, Raft, RaftMetrics, ServerState};

use super::birth::Nursery;
use super::config::Timing;
use super::freshness::{Freshness, Proof};
use super::inbound::SnapshotSlot;
use super::log_store::RaftLog;
use super::members::MembershipView;
use super::meters::RaftMeters;
use super::network::Network;
use super::pace::Pace;
use super::responder::{Permit, Waiter};
use super::rooms::Rooms;
use super::state_machine::{MachineShared, StateMachine};
use super::{LogId, Place, TypeConfig};
use crate::clock::{self, Moment};
use crate::machine::{Command, Response};
use crate::meters::{self, Stage};
use crate::mutants::planted;
use crate::storage::log_store::LogStore;
use crate::storage::replica_store::ReplicaStore;
use crate::storage::reserve::Room;
use crate::storage::{Error, off_runtime};
use crate::transport::Peers;
use crate::types::{NodeId, ReplicaId, ShardId};

/// A member of a group and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    pub replica: ReplicaId,
    pub node: NodeId,
}

#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Not appended here: the leader is elsewhere, or nobody knows where.
    #[error("this replica is not the leader")]
    NotLeader { leader: Option<Member> },
    /// Appended, perhaps: what becomes of it is not known.
    #[error("{why}")]
    Unknown { why: &'static str },
    /// The group refuses the request as it is; nothing was appended.
    #[error("{why}")]
    Refused { why: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("this replica is not the leader")]
    NotLeader { leader: Option<Member> },
    /// No quorum confirmed the leadership in time.
    #[error("no quorum answered")]
    NoQuorum,
    #[error("the deadline passed")]
    DeadlineExceeded,
    #[error("the replica has stopped")]
    Stopped,
}

/// How a leader makes sure that it may answer a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadMode {
    /// A round of heartbeats, shared by all reads that wait for one.
    ReadIndex,
    /// The lease, when a quorum answered lately enough; else as `ReadIndex`.
    Lease,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
    Stopped,
}

/// A replica as it looks from within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub role: Role,
    /// Why the Raft stopped, when it did.
    pub failure: Option<String>,
    pub term: u64,
    pub leader: Option<Member>,
    pub last_index: Option<u64>,
    pub committed_index: Option<u64>,
    pub applied_index: Option<u64>,
    pub flushed_index: Option<u64>,
    pub purged_index: Option<u64>,
    pub members: MembershipView,
    /// Only at the leader: how far each member's log is known to agree.
    pub matched: BTreeMap<ReplicaId, Option<u64>>,
    /// Only at the leader: how long ago each other member last answered; none when it has not yet.
    pub silent_for: BTreeMap<ReplicaId, Option<Duration>>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    id: ReplicaId,
    node: NodeId,
    shard: ShardId,
    timing: Timing,
    raft: Raft<TypeConfig, StateMachine>,
    machine: Arc<MachineShared>,
    held_off_until: Option<Moment>,
    slot: SnapshotSlot,
    shard_clock: Mutex<ShardClock>,
    freshness: Freshness,
    rooms: Rooms,
    /// The term in which this replica last began to hand its leadership over: no lease is trusted in it.
    transfer_term: AtomicU64,
}

/// The leader's shard time: the replicated time it took over, plus its own elapsed time since.
#[derive(Clone, Copy)]
struct ShardClock {
    term: u64,
    base_ms: u64,
    since: Moment,
}

pub struct StartReplica {
    pub node: NodeId,
    pub timing: Timing,
    pub store: ReplicaStore,
    pub log: LogStore,
    pub peers: Peers,
    pub meters: RaftMeters,
    pub rooms: Rooms,
    /// Of the snapshots that this node sends.
    pub pace: Pace,
    pub nursery: Nursery,
}

impl Replica {
    /// Starts the replica's Raft. Its registry record is durable, its store open.
    ///
    /// # Errors
    /// When log or store are damaged: this replica then does not run.
    pub async fn start(parts: StartReplica) -> Result<Self, Error> {
        let StartReplica { node, timing, store, log, peers, meters, rooms, pace, nursery } = parts;
        let identity = store.identity();
        let (id, shard) = (identity.replica, identity.shard);
        let disk = store.disk().clone();
        let group_log = log.open_group(id)?;
        let has_vote = planted!(LeaseKeptOverRestart => false; group_log.read_vote()?.is_some());
        let (machine, shared) = StateMachine::open(store, log, nursery, meters.clone())?;
        let held_off_until = has_vote.then(|| clock::now().after(timing.hold_off()));
        let freshness = Freshness::at_start();
        let network = Network {
            peers,
            disk,
            shard,
            replica: id,
            freshness: freshness.clone(),
            rooms: rooms.clone(),
            pace,
            machine: shared.clone(),
        };
        let config = timing.openraft(shard, has_vote);
        let group_log = RaftLog::new(group_log, shared.timeline.clone(), meters);
        let raft = Raft::new(id, config, network, group_log, machine)
            .await
            .map_err(|error| Error::Corrupt { what: format!("replica {id} of shard {shard}: {error}") })?;
        let metrics = raft.metrics();
        freshness.prove_by(Box::new(move || proof_for_others(&metrics.borrow_watched())));
        let inner = Inner {
            id,
            node,
            shard,
            timing,
            raft,
            machine: shared,
            held_off_until,
            slot: SnapshotSlot::default(),
            shard_clock: Mutex::new(ShardClock { term: 0, base_ms: 0, since: clock::now() }),
            freshness,
            rooms,
            transfer_term: AtomicU64::new(0),
        };
        let replica = Self { inner: Arc::new(inner) };
        replica.end_hold_off_in_time();
        Ok(replica)
    }

    /// Lets the replica campaign once its hold-off is over.
    fn end_hold_off_in_time(&self) {
        let Some(until) = self.inner.held_off_until else { return };
        let weak = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            clock::sleep(until.since(clock::now())).await;
            if let Some(inner) = weak.upgrade() {
                inner.raft.runtime_config().elect(true);
            }
        });
    }

    pub fn id(&self) -> ReplicaId {
        self.inner.id
    }

    pub fn shard(&self) -> ShardId {
        self.inner.shard
    }

    pub fn machine(&self) -> &MachineShared {
        &self.inner.machine
    }

    pub fn meters(&self) -> &RaftMeters {
        &self.inner.machine.meters
    }

    pub(super) fn raft(&self) -> &Raft<TypeConfig, StateMachine> {
        &self.inner.raft
    }

    pub(super) fn snapshot_slot(&self) -> &SnapshotSlot {
        &self.inner.slot
    }

    pub fn is_held_off(&self) -> bool {
        self.inner.held_off_until.is_some_and(|until| clock::now() < until)
    }

    /// Makes this replica the first and only member of its group. Harmless when it already was.
    pub async fn initialize(&self) -> Result<(), Error> {
        let members = BTreeMap::from([(self.inner.id, Place { node: self.inner.node })]);
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => {
                Err(Error::Io { doing: format!("founding shard {}", self.inner.shard), what: error.to_string() })
            }
        }
    }

    /// Proposes a command and waits for its answer until the deadline. The permit is held until the entry is resolved, also
    /// when nobody waits any more.
    pub async fn propose(
        &self,
        command: Command,
        permit: Option<Permit>,
        deadline: Moment,
    ) -> Result<Response, ProposeError> {
        let (waiter, answer) = Waiter::new(permit, self.inner.machine.timeline.clone());
        if self.inner.raft.client_write_ff(command, Some(waiter)).await.is_err() {
            return Err(ProposeError::Unknown { why: "the replica stopped while it took the entry" });
        }
        match tokio::time::timeout(deadline.since(clock::now()), answer).await {
            Err(_elapsed) => Err(ProposeError::Unknown { why: "the deadline passed before the entry was resolved" }),
            Ok(Err(_dropped)) => {
                Err(ProposeError::Unknown { why: "the replica stopped before the entry was resolved" })
            }
            Ok(Ok((Ok(written), passed))) => {
                let stages = self.inner.machine.timeline.stages(written.log_id.index(), passed);
                self.meters().observe_write(&stages);
                meters::note_all(&stages);
                Ok(written.data)
            }
            Ok(Ok((Err(error), _))) => Err(self.propose_error(error)),
        }
    }

    fn propose_error(&self, error: ClientWriteError<TypeConfig>) -> ProposeError {
        match error {
            ClientWriteError::ForwardToLeader(forward) => ProposeError::NotLeader { leader: self.leader_in(&forward) },
            ClientWriteError::LogEntryDiscarded(_) => {
                ProposeError::Unknown { why: "the leader changed before the entry was resolved" }
            }
            refused => ProposeError::Refused { why: refused.to_string() },
        }
    }

    fn leader_in(&self, forward: &ForwardToLeader<TypeConfig>) -> Option<Member> {
        let replica = forward.leader_id?;
        if replica == self.inner.id {
            // It leads but may not answer: its lease is over, or it is handing over.
            return None;
        }
        let place = forward.leader_node.or_else(|| self.member_place(replica))?;
        Some(Member { replica, node: place.node })
    }

    /// The shard time to stamp a command with, in milliseconds.
    pub fn shard_time_ms(&self) -> u64 {
        let term = self.inner.raft.metrics().borrow_watched().current_term;
        let mut shard_clock = self.inner.shard_clock.lock().expect("no panic while the clock is read");
        if shard_clock.term != term {
            let base_ms = self.inner.machine.state.lock().expect("no panic while the state is copied").time_ms;
            *shard_clock = ShardClock { term, base_ms, since: clock::now() };
        }
        let elapsed = clock::now().since(shard_clock.since);
        shard_clock.base_ms.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    /// Returns once a view taken afterwards answers linearizably. At the leader only.
    pub async fn read_barrier(&self, mode: ReadMode, deadline: Moment) -> Result<ReadMode, ReadError> {
        let asked = clock::now();
        let (index, served) = self.read_index(mode, deadline).await?;
        let confirmed = clock::now();
        meters::note(Stage::Quorum, confirmed.since(asked));
        self.wait_applied(index, deadline).await?;
        meters::note(Stage::Apply, clock::now().since(confirmed));
        Ok(served)
    }

    /// The leader's answer to "up to where must a read see": an index that covers every write acknowledged before the call.
    pub async fn read_index(&self, mode: ReadMode, deadline: Moment) -> Result<(u64, ReadMode), ReadError> {
        let left = deadline.since(clock::now());
        if left.is_zero() {
            return Err(ReadError::DeadlineExceeded);
        }
        planted!(MoveLeavesSourceServing => if !self.members().target.contains(&self.inner.id) {
            return Ok((self.applied_index().unwrap_or(0), mode));
        });
        planted!(ReadWithoutReadIndex => if self.is_leader() { return Ok((self.applied_index().unwrap_or(0), mode)) });
        let mode = if self.may_trust_lease() && self.has_fresh_lease() { mode } else { ReadMode::ReadIndex };
        let option = match mode {
            ReadMode::Lease => LinearizerOption::new(Some(self.inner.timing.read_lease()), true),
            ReadMode::ReadIndex => LinearizerOption::from(ReadPolicy::ReadIndex),
        };
        let asked = self.inner.raft.get_read_log_id(option.with_wait_timeout(left));
        match tokio::time::timeout(left, asked).await {
            Err(_elapsed) => Err(ReadError::DeadlineExceeded),
            Ok(Ok((read_log_id, _applied))) => Ok((read_log_id.index(), mode)),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(ReadError::NotLeader { leader: self.leader_in(&forward) })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => Err(ReadError::NoQuorum),
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
        }
    }

    /// No lease in a term in which a transfer was begun: the successor is elected past the followers' patience.
    fn may_trust_lease(&self) -> bool {
        self.inner.transfer_term.load(Ordering::Acquire) != self.inner.raft.metrics().borrow_watched().current_term
    }

    /// A quorum answered lately enough; if not, a read by lease would be a round of heartbeats all the same, and says so.
    fn has_fresh_lease(&self) -> bool {
        let lease = self.inner.timing.read_lease();
        self.last_quorum_ack().is_some_and(|acked| clock::now().since(acked) < lease)
    }

    pub async fn wait_applied(&self, index: u64, deadline: Moment) -> Result<(), ReadError> {
        let mut applied = self.inner.machine.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= Some(index));
        match tokio::time::timeout(deadline.since(clock::now()), reached).await {
            Err(_elapsed) => Err(ReadError::DeadlineExceeded),
            Ok(Err(_closed)) => Err(ReadError::Stopped),
            Ok(Ok(_)) => Ok(()),
        }
    }

    pub(super) fn freshness(&self) -> &Freshness {
        &self.inner.freshness
    }

    pub fn rooms(&self) -> &Rooms {
        &self.inner.rooms
    }

    /// The node among the voters' with the fullest disk, when that is not ample. A leader alone has heard of the others'.
    pub fn tightest_voter(&self) -> Option<(NodeId, Room)> {
        if self.inner.rooms.all_ample() {
            return None;
        }
        let rooms = self.voters_rooms().into_iter();
        rooms.filter(|(_, room)| *room > Room::Ample).max_by_key(|(_, room)| *room)
    }

    /// Whether this leader and a majority have room for what they append, as far as the others have said so.
    pub fn can_append(&self) -> bool {
        let rooms = self.voters_rooms();
        let can = rooms.iter().filter(|(_, room)| *room < Room::Spent).count();
        self.inner.rooms.own() < Room::Spent && can > rooms.len() / 2
    }

    fn voters_rooms(&self) -> Vec<(NodeId, Room)> {
        let members = self.members();
        let rooms = &self.inner.rooms;
        let room_of = |node: NodeId| if node == self.inner.node { rooms.own() } else { rooms.of(node) };
        let nodes = members.voters.iter().filter_map(|voter| members.places.get(voter));
        nodes.map(|node| (*node, room_of(*node))).collect()
    }

    pub(super) fn applied_index(&self) -> Option<u64> {
        *self.inner.machine.applied.borrow()
    }

    /// The moment up to which a view taken afterwards is known to be complete: it holds every write that was acknowledged
    /// before, by whatever leader (see [`super::freshness`]). None when nothing has been proven since the start.
    pub fn fresh_at(&self) -> Option<Moment> {
        let own = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            known_commit(&metrics).zip(quorum_ack(&metrics)).map(|(commit, confirmed)| Proof { commit, confirmed })
        };
        self.inner.freshness.fresh_at(own, self.applied_index())
    }

    fn last_quorum_ack(&self) -> Option<Moment> {
        quorum_ack(&self.inner.raft.metrics().borrow_watched())
    }

    pub fn is_leader(&self) -> bool {
        self.inner.raft.metrics().borrow_watched().state == ServerState::Leader
    }

    /// The shard's birth is applied here.
    pub fn is_born(&self) -> bool {
        self.inner.machine.state.lock().expect("no panic while the state is copied").range.is_some()
    }

    /// Its Raft has stopped for good: it serves nothing, whatever its last status says.
    pub fn has_stopped(&self) -> bool {
        self.inner.raft.metrics().borrow_watched().running_state.is_err()
    }

    pub fn leader(&self) -> Option<Member> {
        let leader = self.inner.raft.metrics().borrow_watched().current_leader?;
        Some(Member { replica: leader, node: self.member_place(leader)?.node })
    }

    fn member_place(&self, replica: ReplicaId) -> Option<Place> {
        self.inner.raft.metrics().borrow_watched().membership_config.membership().get_node(&replica).copied()
    }

    pub fn members(&self) -> MembershipView {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let membership = stored.membership();
        MembershipView {
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            places: membership.nodes().map(|(id, place)| (*id, place.node)).collect(),
            joint: membership.get_joint_config().len() > 1,
            target: membership.get_joint_config().last().cloned().unwrap_or_default(),
            committed: *stored.log_id() <= metrics.local_committed.max(metrics.cluster_committed),
            log_id: *stored.log_id(),
        }
    }

    pub fn status(&self) -> ReplicaStatus {
        let members = self.members();
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let role = match (&metrics.running_state, metrics.state) {
            (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
            (_, ServerState::Leader) => Role::Leader,
            (_, ServerState::Candidate) => Role::Candidate,
            (_, ServerState::Follower) => Role::Follower,
            (_, ServerState::Learner) => Role::Learner,
        };
        let leader = metrics.current_leader.and_then(|replica| {
            let node = *members.places.get(&replica)?;
            Some(Member { replica, node })
        });
        let index = |log_id: &Option<LogId>| log_id.map(|log_id| log_id.index());
        let now = clock::now();
        ReplicaStatus {
            role,
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
            term: metrics.current_term,
            leader,
            last_index: metrics.last_log_index,
            committed_index: index(&metrics.local_committed),
            applied_index: *self.inner.machine.applied.borrow(),
            flushed_index: self.inner.machine.flushed_index(),
            purged_index: index(&metrics.purged),
            matched: metrics
                .replication
                .iter()
                .flatten()
                .map(|(replica, matched)| (*replica, index(matched)))
                .collect(),
            silent_for: metrics
                .heartbeat
                .iter()
                .flatten()
                .map(|(replica, heard)| (*replica, heard.as_ref().map(|heard| now.since(heard.moment()))))
                .collect(),
            members,
        }
    }

    /// Takes a learner in, provided the membership is still the one given.
    pub async fn add_learner(
        &self,
        member: Member,
        seen: &MembershipView,
        deadline: Moment,
    ) -> Result<(), ProposeError> {
        let nodes = BTreeMap::from([(member.replica, Place { node: member.node })]);
        self.change_members(ChangeMembers::AddNodes(nodes), seen, deadline).await
    }

    /// Takes learners out, provided the membership is still the one given.
    pub async fn remove_learners(
        &self,
        learners: BTreeSet<ReplicaId>,
        seen: &MembershipView,
        deadline: Moment,
    ) -> Result<(), ProposeError> {
        self.change_members(ChangeMembers::RemoveNodes(learners), seen, deadline).await
    }

    /// A change of the membership may be begun: the last one is committed, and an entry of this leader's own term is
    /// (`models` §12).
    pub fn may_change_members(&self) -> bool {
        known_commit(&self.inner.raft.metrics().borrow_watched()).is_some() && self.members().committed
    }

    /// Makes exactly these the voters (joint change, completed), provided the membership is still the one given. Voters that
    /// are not among them are members no longer.
    pub async fn set_voters(
        &self,
        voters: BTreeSet<ReplicaId>,
        seen: &MembershipView,
        deadline: Moment,
    ) -> Result<(), ProposeError> {
        self.change_members(ChangeMembers::ReplaceAllVoters(voters), seen, deadline).await
    }

    async fn change_members(
        &self,
        change: ChangeMembers<ReplicaId, Place>,
        seen: &MembershipView,
        deadline: Moment,
    ) -> Result<(), ProposeError> {
        let precondition = Precondition::LastMembershipLogId { last_membership_log_id: seen.log_id };
        // A voter that goes is not kept as a learner: nobody would ever take it out.
        const KEEP_AS_LEARNER: bool = false;
        let changed = self.inner.raft.change_membership_if(change, KEEP_AS_LEARNER, [precondition]);
        match tokio::time::timeout(deadline.since(clock::now()), changed).await {
            Err(_elapsed) => Err(ProposeError::Unknown { why: "the deadline passed during a membership change" }),
            Ok(Ok(_)) => Ok(()),
            // Even "not the leader" may come after the joint entry was committed: the caller reads the membership again.
            Ok(Err(RaftError::APIError(error))) => Err(self.propose_error(error)),
            Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Unknown { why: "the replica stopped" }),
        }
    }

    /// Asks the others whether they would elect this replica, and stands for election if so. Where they would not, no term is
    /// spent.
    pub async fn campaign(&self) {
        // A replica that has stopped campaigns no more.
        let _stopped = self.inner.raft.trigger().elect(true).await;
    }

    /// Begins to hand leadership over. Whether it arrives shows in the status of the target.
    pub async fn transfer_leader(&self, to: ReplicaId) -> Result<(), ReadError> {
        let term = self.inner.raft.metrics().borrow_watched().current_term;
        self.inner.transfer_term.store(term, Ordering::Release);
        self.inner.raft.trigger().transfer_leader(to).await.map_err(|_| ReadError::Stopped)
    }

    /// The voter that is best placed to take over: a caught-up one. None when nobody is close enough.
    pub fn transfer_candidates(&self) -> Vec<Member> {
        /// A target further behind would keep the shard without a leader while it catches up (`openraft` #2088).
        const LAG_MAX: u64 = 1000;
        let status = self.status();
        let last = status.last_index.unwrap_or(0);
        let voters = status.members.voters.iter().filter(|voter| **voter != self.inner.id);
        let mut near: Vec<(u64, Member)> = voters
            .filter_map(|voter| {
                let matched = (*status.matched.get(voter)?)?;
                let lag = last.saturating_sub(matched);
                let node = *status.members.places.get(voter)?;
                (lag <= LAG_MAX).then_some((lag, Member { replica: *voter, node }))
            })
            .collect();
        near.sort_unstable();
        near.into_iter().map(|(_, member)| member).collect()
    }

    /// Flushes the rows and lets the log be purged up to what is flushed; of that the newest entries are kept for followers a
    /// little behind, unless `purge_all`.
    pub async fn flush(&self, purge_all: bool) -> Result<(), Error> {
        const REPORT_PATIENCE: Duration = Duration::from_secs(1);
        let machine = self.inner.machine.clone();
        let disk = machine.store.disk().clone();
        let flushed = off_runtime(disk.as_ref(), move || machine.flush()).await?;
        let Some(flushed) = flushed else { return Ok(()) };
        if self.inner.machine.holds_snapshots_back() {
            // Whoever lags is to be fed from the log, and applies the split itself.
            return Ok(());
        }
        let reported = self.inner.raft.metrics().borrow_watched().snapshot.map(|log_id| log_id.index());
        // After a start openraft's snapshot id is the applied index of that moment; it purges nothing by itself until a
        // higher one is reported, and `purge_log` is obeyed, so it must never name more than is flushed.
        let trigger = self.inner.raft.trigger();
        let mut done = Ok(());
        if reported < Some(flushed) {
            done = trigger.snapshot().await;
        }
        if done.is_ok() && (purge_all || reported >= Some(flushed)) {
            // The report is made on another task, and a purge reaches no further than what was reported before it.
            let wait = self.inner.raft.wait(Some(REPORT_PATIENCE));
            let is_reported = |snapshot: Option<LogId>| snapshot.map(|log_id| log_id.index()) >= Some(flushed);
            // When it comes too late, less is purged now; the next flush makes up for it.
            let _ = wait.metrics(|metrics| is_reported(metrics.snapshot), "what is flushed is reported").await;
            done = trigger.purge_log(flushed).await;
        }
        done.map_err(|error| Error::Io { doing: "purging the log".into(), what: error.to_string() })
    }

    /// Log entries that a flush would let go.
    pub fn purgeable_entries(&self) -> u64 {
        let status = self.status();
        let from = status.purged_index.map_or(0, |index| index + 1);
        status.applied_index.map_or(0, |applied| (applied + 1).saturating_sub(from))
    }

    /// Stops the Raft tasks and waits for them. Says whether they have stopped.
    pub async fn shutdown(&self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(10);
        let stopped = tokio::time::timeout(PATIENCE, self.inner.raft.shutdown()).await.is_ok();
        if !stopped {
            tracing::warn!(shard = %self.inner.shard, "the replica did not stop in time");
        }
        stopped
    }
}

/// When a message was sent that a quorum has answered; now, where this replica is the only voter.
fn quorum_ack(metrics: &RaftMetrics<TypeConfig>) -> Option<Moment> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    if metrics.membership_config.membership().voter_ids().count() == 1 {
        return Some(clock::now());
    }
    metrics.last_quorum_acked.as_ref().map(|acked| acked.moment())
}

/// A leader's commit index. None before an entry of its own term is committed: it may not know of all that earlier leaders
/// committed.
fn known_commit(metrics: &RaftMetrics<TypeConfig>) -> Option<u64> {
    let commit = metrics.local_committed.max(metrics.cluster_committed)?;
    let knows_all = metrics.state == ServerState::Leader && commit.committed_leader_id().term == metrics.current_term;
    knows_all.then(|| commit.index())
}

/// Commit index and moment are of one picture of the Raft, taken some time ago: so the moment cannot be now, not even where
/// this replica is the only voter.
fn proof_for_others(metrics: &RaftMetrics<TypeConfig>) -> Option<Proof> {
    let commit = known_commit(metrics)?;
    let acked = metrics.last_quorum_acked.as_ref()?;
    Some(Proof { commit, confirmed: acked.moment() })
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
