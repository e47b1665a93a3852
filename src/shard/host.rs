//! The replicas that run on this node: opened at start, made by order of the catalog, flushed within the node's budget.
//!
//! A replica is made in three ways only: as the founder of a shard in creation, as an empty one ordered by the catalog, or
//! by a split, beside a replica of its parent (`raft/birth`). A Raft message never makes one. Its registry record is
//! durable before its Raft runs, and its tombstone before anything of it is removed.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::group::Group;
use super::left_overs;
use super::limits::{InFlight, Limits, NodeGate};
use crate::catalog::Catalog;
use crate::clock::{self, Moment};
use crate::machine::{Birth, Command, Response};
use crate::mutants::crash_at;
use crate::raft::birth::{self, Newborn, Nursery};
use crate::raft::meters::RaftMeters;
use crate::raft::pace::Pace;
use crate::raft::replica::StartReplica;
use crate::raft::rooms::Rooms;
use crate::raft::{Replica, Timing};
use crate::ring::TokenRange;
use crate::storage::log_store::LogStore;
use crate::storage::registry::{RegistryRecord, ReplicaLife, directory_name};
use crate::storage::replica_store::{ReplicaIdentity, ReplicaStore};
use crate::storage::reserve::Room;
use crate::storage::{Disk, Error, KeyRange, off_runtime};
use crate::transport::Peers;
use crate::types::{META_SHARD, NodeId, ReplicaId, ShardId, StoreId};

/// Replicas opened at the same time at start.
const OPENED_AT_ONCE: usize = 4;
/// What the name of a directory that a checkpoint is being made in ends with: one that a crash left holds nothing of its own.
const CHECKPOINT_DRAFT: &str = ".tmp";
/// How often the flusher looks at the budget.
const FLUSH_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two compactions of a log that is over its budget.
const LOG_COMPACTION_PAUSE: Duration = Duration::from_secs(60);
/// Between two compactions of the log, or of one replica, while the disk is almost full.
const RECLAIM_PAUSE: Duration = Duration::from_secs(5);
const RECLAIM_PAUSE_MAX: Duration = Duration::from_secs(60);
/// What one step of a compaction writes before it removes its input, about (`storage::rocks::options`).
const COMPACTED_BYTES_MAX: u64 = 256 << 20;
/// How long a founder may take to become leader of a group of one and to write its birth.
const FOUNDING_TIMEOUT: Duration = Duration::from_secs(10);

/// When the flusher acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushBudget {
    /// Rows of all replicas that are only in memory, in bytes.
    pub unflushed_bytes: u64,
    /// Log of all replicas on disk, in bytes: over it the ones with the most to purge are flushed.
    pub log_bytes: u64,
    /// Log entries of one replica that only wait for a flush to be purged.
    pub purgeable_entries: u64,
}

impl Default for FlushBudget {
    fn default() -> Self {
        Self { unflushed_bytes: 64 << 20, log_bytes: 256 << 20, purgeable_entries: 100_000 }
    }
}

pub struct HostParts {
    pub node: NodeId,
    pub store: StoreId,
    pub timing: Timing,
    pub limits: Limits,
    pub flush: FlushBudget,
    pub disk: Arc<dyn Disk>,
    pub log: LogStore,
    pub peers: Peers,
    pub rooms: Rooms,
    pub pace: Pace,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    parts: HostParts,
    meters: RaftMeters,
    gate: NodeGate,
    groups: RwLock<Groups>,
    /// One replica is made or given up at a time.
    making: Mutex<()>,
    /// The meta group's catalog, where its replica runs here.
    meta_catalog: watch::Sender<Option<Arc<Catalog>>>,
    nursery: Nursery,
}

#[derive(Default)]
struct Groups {
    by_replica: BTreeMap<ReplicaId, Group>,
    /// Replicas that the registry names and that do not run, with the reason.
    failed: BTreeMap<ReplicaId, (ShardId, String)>,
    /// Replicas that are being destroyed: they are asked nothing any more, and their Raft may still run.
    ending: BTreeMap<ReplicaId, Group>,
    /// All have been stopped, or are about to be: nobody is started any more.
    has_ended: bool,
}

impl Host {
    /// Opens every live replica of the registry. One that is damaged does not run and is reported; the others do.
    pub async fn open(parts: HostParts) -> Result<Self, Error> {
        let gate = NodeGate::new(&parts.limits);
        let (nursery, newborns) = Nursery::new();
        birth::settle(parts.disk.clone(), &parts.log, parts.store).await?;
        let inner = Inner {
            gate,
            nursery,
            groups: RwLock::new(Groups::default()),
            making: Mutex::new(()),
            meta_catalog: watch::Sender::new(None),
            meters: RaftMeters::default(),
            parts,
        };
        let host = Self { inner: Arc::new(inner) };
        host.clean_directories()?;
        let at_once = Arc::new(Semaphore::new(OPENED_AT_ONCE));
        let mut opening = tokio::task::JoinSet::new();
        for (replica, record) in host.inner.parts.log.records() {
            let ReplicaLife::Live { directory } = record.state else { continue };
            let (host, at_once) = (host.clone(), at_once.clone());
            opening.spawn(async move {
                let _turn = at_once.acquire().await;
                host.open_replica(replica, record.shard, directory).await;
            });
        }
        while opening.join_next().await.is_some() {}
        host.report_undecided_births();
        host.start_newborns(newborns);
        Ok(host)
    }

    /// Removes directories that the registry no longer needs; sets those aside that it never knew.
    fn clean_directories(&self) -> Result<(), Error> {
        let records = self.inner.parts.log.records();
        for name in self.inner.parts.disk.replica_directories()? {
            if name.strip_suffix(CHECKPOINT_DRAFT).and_then(parse_directory).is_some() {
                self.inner.parts.disk.remove_replica(&name)?;
                continue;
            }
            let known = parse_directory(&name).and_then(|(replica, number)| Some((records.get(&replica)?, number)));
            match known {
                Some((
                    RegistryRecord {
                        state: ReplicaLife::Live { directory } | ReplicaLife::Born { directory, .. }, ..
                    },
                    number,
                )) if number == *directory => {}
                // An older directory, an unfinished snapshot, or what a tombstone left.
                Some(_) => self.inner.parts.disk.remove_replica(&name)?,
                None => {
                    warn!(directory = %name, "no record knows this directory; it is set aside, not deleted");
                    self.inner.parts.disk.set_aside(&name)?;
                }
            }
        }
        Ok(())
    }

    async fn open_replica(&self, replica: ReplicaId, shard: ShardId, directory: u64) {
        let identity = ReplicaIdentity { store: self.inner.parts.store, replica, shard };
        let disk = self.inner.parts.disk.clone();
        let opened = {
            let disk = disk.clone();
            off_runtime(disk.clone().as_ref(), move || ReplicaStore::open(disk, identity, directory)).await
        };
        let started = match opened {
            Ok(store) => self.start(store).await,
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            error!(%shard, %replica, %error, "this replica does not run; the others do");
            self.write_groups(|groups| groups.failed.insert(replica, (shard, error.to_string())));
        }
    }

    /// What is left of them: the parent cannot be opened, so nobody can say whether they count.
    fn report_undecided_births(&self) {
        for (replica, record) in self.inner.parts.log.records() {
            if let ReplicaLife::Born { parent, .. } = record.state {
                let what = format!("it was born by a split of replica {parent}, which does not run");
                self.write_groups(|groups| groups.failed.insert(replica, (record.shard, what)));
            }
        }
    }

    /// Starts the replicas that splits make, for as long as this node's replicas run.
    fn start_newborns(&self, mut newborns: mpsc::UnboundedReceiver<Newborn>) {
        let host = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while let Some(newborn) = newborns.recv().await {
                let Some(inner) = host.upgrade() else { return };
                Self { inner }.start_newborn(newborn).await;
            }
        });
    }

    async fn start_newborn(&self, Newborn { parent, store }: Newborn) {
        let _one_at_a_time = self.inner.making.lock().await;
        if self.write_groups(|groups| groups.has_ended) {
            return;
        }
        let ReplicaIdentity { shard, replica, .. } = store.identity();
        let is_live = |record: RegistryRecord| matches!(record.state, ReplicaLife::Live { .. });
        if !self.inner.parts.log.record(replica).is_some_and(is_live) {
            // Destroyed before its turn came.
            return;
        }
        match self.start(store).await {
            Ok(group) => {
                info!(%shard, %replica, %parent, "replica born by a split");
                if self.by_replica(parent).is_some_and(|parent| parent.replica().is_leader()) {
                    tokio::spawn(birth::lead(group.replica().clone()));
                }
            }
            Err(error) => {
                error!(%shard, %replica, %error, "this replica does not run; the others do");
                self.write_groups(|groups| groups.failed.insert(replica, (shard, error.to_string())));
            }
        }
    }

    async fn start(&self, store: ReplicaStore) -> Result<Group, Error> {
        let parts = &self.inner.parts;
        let start = StartReplica {
            node: parts.node,
            timing: parts.timing,
            store,
            log: parts.log.clone(),
            peers: parts.peers.clone(),
            meters: self.inner.meters.clone(),
            rooms: parts.rooms.clone(),
            pace: parts.pace.clone(),
            nursery: self.inner.nursery.clone(),
        };
        let group = Group::new(Replica::start(start).await?, self.inner.gate.for_shard());
        if group.shard() == META_SHARD {
            self.follow_meta_catalog(&group);
        }
        self.write_groups(|groups| {
            groups.failed.remove(&group.replica().id());
            groups.by_replica.insert(group.replica().id(), group.clone())
        });
        Ok(group)
    }

    fn follow_meta_catalog(&self, group: &Group) {
        let mut catalog = group.replica().machine().catalog.subscribe();
        let host = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                let newest = catalog.borrow_and_update().clone();
                let Some(host) = host.upgrade() else { return };
                host.meta_catalog.send_replace(newest);
                drop(host);
                if catalog.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Makes the replica that founds its shard: alone in its group, with the shard's birth as first command.
    /// Does again what a crash interrupted.
    pub async fn found(&self, shard: ShardId, replica: ReplicaId, first: Command) -> Result<(), Error> {
        let _one_at_a_time = self.inner.making.lock().await;
        let group = match self.by_replica(replica) {
            Some(group) => group,
            None => self.make(shard, replica).await?,
        };
        group.replica().initialize().await?;
        let deadline = clock::now().after(FOUNDING_TIMEOUT);
        loop {
            match group.propose(first.clone(), 0, deadline).await {
                Ok(Response::Misdirected) => {
                    let what = format!("replica {replica} was given a first command of another shard");
                    return Err(Error::Io { doing: format!("founding shard {shard}"), what });
                }
                Ok(_) => return Ok(()),
                Err(error) if clock::now() >= deadline => {
                    return Err(Error::Io { doing: format!("founding shard {shard}"), what: error.to_string() });
                }
                // Not leader yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Makes an empty replica that its group will fill. Harmless when it is there already.
    pub async fn add_empty(&self, shard: ShardId, replica: ReplicaId) -> Result<(), Error> {
        let _one_at_a_time = self.inner.making.lock().await;
        if self.inner.parts.log.record(replica).is_some() {
            return Ok(());
        }
        self.make(shard, replica).await.map(|_| ())
    }

    /// A voter of a shard with this range that has no record here, and that no split will make here any more: its parent's
    /// replica was filled from behind the split, or is gone without ever having come to it. Its id never ran, so an empty
    /// one may be made under it (`models` §8). While anything here might still own these tokens, or cannot say what it owns, it
    /// may be the parent, and the birth is waited for.
    pub fn missed_birth(&self, replica: ReplicaId, range: TokenRange) -> bool {
        if self.inner.parts.log.record(replica).is_some() {
            return false;
        }
        let overlaps = |other: TokenRange| other.first <= range.last && range.first <= other.last;
        let may_be_parent = |group: &Group| {
            let state = group.replica().machine().state.lock().expect("no panic while the state is read");
            state.shard != META_SHARD && state.range.is_none_or(overlaps)
        };
        let is_unclear = |(_, (shard, _)): (&ReplicaId, &(ShardId, String))| *shard != META_SHARD;
        !self.groups().iter().any(may_be_parent) && !self.failed().iter().any(is_unclear)
    }

    /// Destroys a replica for good. Whoever calls has the proof that its group is without it and that it is not to come any
    /// more (`models` §17): its id never runs here again. Its directories go later ([`Host::remove_destroyed`]).
    ///
    /// # Errors
    /// When its Raft does not stop in time: nothing is destroyed then.
    pub async fn destroy(&self, replica: ReplicaId) -> Result<(), Error> {
        let _one_at_a_time = self.inner.making.lock().await;
        let log = &self.inner.parts.log;
        let Some(RegistryRecord { shard, state: ReplicaLife::Live { .. } }) = log.record(replica) else {
            return Ok(());
        };
        let ending = self.write_groups(|groups| {
            let running = groups.by_replica.remove(&replica);
            groups.ending.extend(running.map(|group| (replica, group)));
            groups.ending.get(&replica).cloned()
        });
        if let Some(group) = ending
            && !group.replica().shutdown().await
        {
            let what = "its Raft did not stop in time".to_string();
            return Err(Error::Io { doing: format!("destroying replica {replica} of shard {shard}"), what });
        }
        // Durable before anything of it is gone.
        log.destroy(replica, RegistryRecord { shard, state: ReplicaLife::Tombstone }).await?;
        crash_at!("tombstone-written");
        self.write_groups(|groups| {
            groups.ending.remove(&replica);
            groups.failed.remove(&replica);
        });
        info!(%shard, %replica, "replica destroyed: its group is without it");
        Ok(())
    }

    /// Removes the directories of destroyed replicas, but those that something still reads. Says whether all are gone; a
    /// start removes what is left.
    pub async fn remove_destroyed(&self) -> Result<bool, Error> {
        let records = self.inner.parts.log.records();
        let is_destroyed = |record: &RegistryRecord| record.state == ReplicaLife::Tombstone;
        let disk = self.inner.parts.disk.clone();
        off_runtime(disk.clone().as_ref(), move || {
            let mut are_gone = true;
            for name in disk.replica_directories()? {
                let replica = parse_directory(&name).map(|(replica, _)| replica);
                if replica.and_then(|replica| records.get(&replica)).is_some_and(is_destroyed) {
                    match disk.remove_replica(&name) {
                        Err(Error::InUse { .. }) => are_gone = false,
                        done => {
                            done?;
                            crash_at!("directory-removed");
                        }
                    }
                }
            }
            Ok(are_gone)
        })
        .await
    }

    /// Out of its grave, and empty.
    #[cfg(feature = "mutants")]
    pub async fn make_again(&self, shard: ShardId, replica: ReplicaId) {
        let _one_at_a_time = self.inner.making.lock().await;
        let is_tombstone = |record: RegistryRecord| record.state == ReplicaLife::Tombstone;
        if self.by_replica(replica).is_none() && self.inner.parts.log.record(replica).is_some_and(is_tombstone) {
            let identity = ReplicaIdentity { store: self.inner.parts.store, replica, shard };
            if let Ok(store) = ReplicaStore::create(self.inner.parts.disk.clone(), identity, 1) {
                // Its record stays a tombstone: who is to be caught is whoever does not look at it.
                let _runs = self.start(store).await;
            }
        }
    }

    async fn make(&self, shard: ShardId, replica: ReplicaId) -> Result<Group, Error> {
        const FIRST_DIRECTORY: u64 = 1;
        let parts = &self.inner.parts;
        if let Some(record) = parts.log.record(replica) {
            let what = format!("replica {replica} is {record:?} here and is not made again");
            return Err(Error::Io { doing: format!("making a replica of shard {shard}"), what });
        }
        let identity = ReplicaIdentity { store: parts.store, replica, shard };
        let disk = parts.disk.clone();
        let store = {
            let disk = disk.clone();
            off_runtime(disk.clone().as_ref(), move || ReplicaStore::create(disk, identity, FIRST_DIRECTORY)).await?
        };
        let record = RegistryRecord { shard, state: ReplicaLife::Live { directory: FIRST_DIRECTORY } };
        parts.log.put_record(replica, record).await?;
        info!(%shard, %replica, "replica made");
        crash_at!("replica-made");
        self.start(store).await
    }

    pub fn node(&self) -> NodeId {
        self.inner.parts.node
    }

    pub fn timing(&self) -> Timing {
        self.inner.parts.timing
    }

    pub fn in_flight(&self) -> InFlight {
        self.inner.gate.in_flight()
    }

    /// Of all groups here together.
    pub fn meters(&self) -> &RaftMeters {
        &self.inner.meters
    }

    pub fn peers(&self) -> &Peers {
        &self.inner.parts.peers
    }

    /// How much room this node's disk has, and the others' as far as they have said so.
    pub fn rooms(&self) -> &Rooms {
        &self.inner.parts.rooms
    }

    pub fn log(&self) -> &LogStore {
        &self.inner.parts.log
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.parts.disk
    }

    /// The running replica of a shard: the newest, should an outdated one still be here. One whose Raft has stopped is none.
    pub fn group(&self, shard: ShardId) -> Option<Group> {
        let groups = self.inner.groups.read().expect("no panic while groups are looked up");
        let running = |group: &&Group| group.shard() == shard && !group.replica().has_stopped();
        groups.by_replica.values().rev().find(running).cloned()
    }

    pub fn by_replica(&self, replica: ReplicaId) -> Option<Group> {
        self.inner.groups.read().expect("no panic while groups are looked up").by_replica.get(&replica).cloned()
    }

    pub fn groups(&self) -> Vec<Group> {
        let groups = self.inner.groups.read().expect("no panic while groups are looked up");
        groups.by_replica.values().cloned().collect()
    }

    /// Replicas that the registry names and that do not run, with the reason.
    pub fn failed(&self) -> BTreeMap<ReplicaId, (ShardId, String)> {
        self.inner.groups.read().expect("no panic while groups are looked up").failed.clone()
    }

    /// The catalog as this node's meta replica has applied it; none where no meta replica runs.
    pub fn meta_catalog(&self) -> watch::Receiver<Option<Arc<Catalog>>> {
        self.inner.meta_catalog.subscribe()
    }

    fn write_groups<T>(&self, change: impl FnOnce(&mut Groups) -> T) -> T {
        change(&mut self.inner.groups.write().expect("no panic while groups are changed"))
    }

    /// Flushes replicas as memory and logs grow, until cancelled. On a disk that is almost full also lets go of all that can
    /// be let go of.
    pub async fn run_flusher(&self, stop: CancellationToken) {
        let mut compact_again_at = clock::now();
        let mut reclaimer = Reclaimer::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(FLUSH_CHECK_INTERVAL) => {}
            }
            let is_tight = self.rooms().own() > Room::Ample;
            let log_is_full = self.inner.parts.log.disk_bytes() > self.inner.parts.flush.log_bytes;
            if (log_is_full || is_tight) && clock::now() >= compact_again_at {
                // Purged entries still take space until RocksDB is told to give it back.
                self.inner.parts.log.compact();
                compact_again_at = clock::now().after(if is_tight { RECLAIM_PAUSE } else { LOG_COMPACTION_PAUSE });
            }
            for group in self.groups_to_flush(log_is_full) {
                if stop.is_cancelled() {
                    return;
                }
                if let Err(error) = group.replica().flush(log_is_full).await {
                    error!(shard = %group.shard(), %error, "a replica could not be flushed");
                }
            }
            if !is_tight {
                reclaimer = Reclaimer::default();
            }
            if is_tight && self.rooms().own() < Room::Spent {
                reclaimer.compact_one(self).await;
            }
        }
    }

    /// The replicas whose logs wait for a flush, and the largest ones while memory is over its budget. When the log is over
    /// its budget, all that hold any of it back.
    fn groups_to_flush(&self, log_is_full: bool) -> Vec<Group> {
        let budget = self.inner.parts.flush;
        let unflushed = |group: &Group| group.replica().machine().store.engine().unflushed_bytes();
        let mut groups = self.groups();
        groups.sort_by_cached_key(|group| std::cmp::Reverse(unflushed(group)));
        let mut held: u64 = groups.iter().map(unflushed).sum();
        groups.retain(|group| {
            let over = held > budget.unflushed_bytes;
            if over {
                held = held.saturating_sub(unflushed(group));
            }
            let purgeable = group.replica().purgeable_entries();
            over || purgeable > budget.purgeable_entries || (log_is_full && purgeable > 0)
        });
        groups
    }

    /// Removes what splits leave, until cancelled.
    pub async fn run_cleaner(&self, stop: CancellationToken) {
        left_overs::run(self.clone(), stop).await;
    }

    /// Flushes every replica, so that the next start replays little.
    pub async fn flush_all(&self) {
        for group in self.groups() {
            if let Err(error) = group.replica().flush(false).await {
                error!(shard = %group.shard(), %error, "a replica could not be flushed");
            }
        }
    }

    /// Stops all Raft tasks.
    pub async fn shutdown(&self) {
        self.write_groups(|groups| groups.has_ended = true);
        let _one_at_a_time = self.inner.making.lock().await;
        let mut groups = self.groups();
        groups.extend(self.write_groups(|groups| groups.ending.values().cloned().collect::<Vec<_>>()));
        futures::future::join_all(groups.iter().map(|group| group.replica().shutdown())).await;
        self.write_groups(|groups| {
            groups.by_replica.clear();
            groups.ending.clear();
        });
    }
}

/// Gives the room of deleted rows back to the file system: RocksDB does so by itself too, but only when more is written.
#[derive(Default)]
struct Reclaimer {
    /// When each replica may be compacted again, and how long that was put off.
    put_off: BTreeMap<ReplicaId, (Moment, Duration)>,
}

impl Reclaimer {
    /// Flushes and compacts the smallest replica that has deleted rows, if its turn has come and there is room for what a
    /// compaction writes before it removes anything. One at a time: the room is measured again before the next.
    async fn compact_one(&mut self, host: &Host) {
        let now = clock::now();
        let mut groups = host.groups();
        self.put_off.retain(|replica, _| groups.iter().any(|group| group.replica().id() == *replica));
        groups.retain(|group| self.put_off.get(&group.replica().id()).is_none_or(|(again_at, _)| now >= *again_at));
        groups.sort_by_cached_key(|group| group.replica().machine().store.engine().disk_bytes());
        for group in groups {
            if let Err(error) = group.replica().flush(false).await {
                error!(shard = %group.shard(), %error, "a replica could not be flushed");
                continue;
            }
            let store = group.replica().machine().store.clone();
            let has_deletions = {
                let store = store.clone();
                off_runtime(host.disk().as_ref(), move || store.engine().table_bytes().deletions > 0).await
            };
            let bytes = store.engine().disk_bytes().min(COMPACTED_BYTES_MAX);
            let compacts = has_deletions && host.rooms().reserve().has_room_for(bytes);
            if compacts {
                store.engine().compact(&KeyRange::prefix(&[]));
            }
            let replica = group.replica().id();
            // One that gives nothing back, because something still reads what was deleted, is tried less and less often.
            let pause =
                self.put_off.get(&replica).map_or(RECLAIM_PAUSE, |(_, pause)| (*pause * 2).min(RECLAIM_PAUSE_MAX));
            self.put_off.insert(replica, (now.after(pause), pause));
            if compacts {
                return;
            }
        }
    }
}

/// Replica and number of a directory named by [`directory_name`].
fn parse_directory(name: &str) -> Option<(ReplicaId, u64)> {
    let (replica, number) = name.split_once('.')?;
    let parsed = (replica.parse().ok()?, number.parse().ok()?);
    (directory_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// The first command of a data shard.
pub fn birth_command(catalog: &Catalog, shard: ShardId) -> Option<Command> {
    let descriptor = catalog.shards.get(&shard)?;
    let birth =
        Birth { shard, range: descriptor.range?, epoch: descriptor.epoch, revision_base: catalog.revision_base };
    Some(Command::Birth(birth))
}
