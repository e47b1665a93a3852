//! Committed entries into the replica's store, one batch at a time: rows, applied index, membership and shard state stand
//! in the same batch, so that a crash leaves a state that existed.
//!
//! Invariants: entries are applied without a gap (`openraft` §3.7: a short read would skip a write on this replica
//! alone); a responder is answered after its batch is written; what is reported as a snapshot is flushed (`architecture`
//! §5), because openraft purges the log up to it.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::watch;

use super::birth::{self, Newborn, Nursery};
use super::codec::AppliedRecord;
use super::meters::{RaftMeters, Timeline};
use super::snapshot::{Received, SnapshotData};
use super::{LogId, StoredMembership, TypeConfig};
use crate::catalog::Catalog;
use crate::machine::split::{Members, Place, child_state};
use crate::machine::{self, Command, LastSplit, Response, ShardState, Split, query, txn::Txn};
use crate::mutants::{crash_at, planted};
use crate::storage::log_store::LogStore;
use crate::storage::registry::{RegistryRecord, ReplicaLife, directory_name};
use crate::storage::replica_store::{ReplicaIdentity, ReplicaStore};
use crate::storage::{Batch, Durability, Error, View, blocking, keys};
use crate::wire::Wire;

/// Entries and value bytes that one batch holds at most.
const BATCH_ENTRIES_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Entries applied without handing this worker's other tasks over: each may read a row from disk, and heartbeats wait.
const BATCH_IN_PLACE_MAX: usize = 64;

/// What readers and the flusher see of a state machine. Shared between openraft's worker and the replica's handle.
pub struct MachineShared {
    pub store: ReplicaStore,
    /// Index of the last applied entry whose batch is written; none before the first.
    pub applied: watch::Sender<Option<u64>>,
    /// The catalog after the last applied entry; always none but in the meta group.
    pub catalog: watch::Sender<Option<Arc<Catalog>>>,
    /// The replicated shard state after the last written batch.
    pub state: Mutex<ShardState>,
    /// What the last finished flush is known to hold: the only thing that is ever reported as a snapshot.
    flushed: Mutex<AppliedRecord>,
    pub(super) log: LogStore,
    pub(super) nursery: Nursery,
    pub(super) timeline: Arc<Timeline>,
    pub(super) meters: RaftMeters,
}

pub struct StateMachine {
    shared: Arc<MachineShared>,
    record: AppliedRecord,
    state: ShardState,
    catalog: Option<Catalog>,
    /// openraft's suite applies made-up entries with holes between them, and expects a build to flush.
    #[cfg(test)]
    pub(super) in_suite: bool,
}

impl StateMachine {
    /// # Errors
    /// When the store is damaged, or holds records of a later format.
    pub fn open(
        store: ReplicaStore,
        log: LogStore,
        nursery: Nursery,
        meters: RaftMeters,
    ) -> Result<(Self, Arc<MachineShared>), Error> {
        // What an engine holds right after it was opened came from its files, unless it was closed and opened again without
        // a flush: only what is flushed may be reported as a snapshot.
        if store.engine().unflushed_bytes() > 0 {
            store.engine().flush()?;
        }
        let loaded = Loaded::from_view(store.view().as_ref(), &store)?;
        let shared = Arc::new(MachineShared {
            applied: watch::Sender::new(loaded.record.applied.map(|log_id| log_id.index())),
            catalog: watch::Sender::new(loaded.catalog.clone().map(Arc::new)),
            state: Mutex::new(loaded.state.clone()),
            flushed: Mutex::new(loaded.record.clone()),
            store,
            log,
            nursery,
            timeline: Arc::default(),
            meters,
        });
        shared.nursery.enter(shared.store.identity().replica, &shared);
        let machine = Self {
            shared: shared.clone(),
            record: loaded.record,
            state: loaded.state,
            catalog: loaded.catalog,
            #[cfg(test)]
            in_suite: false,
        };
        Ok((machine, shared))
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &MachineShared {
        &self.shared
    }

    fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        if batch.len() > BATCH_IN_PLACE_MAX { blocking(|| self.write_batch(batch)) } else { self.write_batch(batch) }
    }

    /// Applies entries to one batch and writes it; then answers.
    fn write_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        self.shared.timeline.begin_to_apply();
        self.shared.meters.observe_batch(batch.len());
        let engine = self.shared.store.engine();
        let mut txn = Txn::new(engine.as_ref());
        let catalog_version = self.catalog.as_ref().map(|catalog| catalog.version);
        let mut answers = Vec::with_capacity(batch.len());
        planted!(ApplyTwiceAfterRestart => txn.put(Bytes::from_static(keys::APPLIED), self.record.to_bytes()));
        for (entry, responder) in batch {
            let log_id = entry.log_id();
            self.check_order(log_id)?;
            let response = match &entry.payload {
                EntryPayload::Blank => Response::Nothing,
                EntryPayload::Membership(membership) => {
                    self.record.membership = StoredMembership::new(Some(log_id), membership.clone());
                    Response::Nothing
                }
                EntryPayload::Normal(command) => {
                    let place = EntryPlace { log_id, membership: &self.record.membership };
                    machine::apply(&mut txn, &mut self.state, &mut self.catalog, command, &place)?
                }
            };
            self.record.applied = Some(log_id);
            answers.extend(responder.map(|responder| (responder, response)));
        }
        txn.put(Bytes::from_static(keys::SHARD_STATE), self.state.to_bytes());
        planted!(ApplyTwiceAfterRestart => (); txn.put(Bytes::from_static(keys::APPLIED), self.record.to_bytes()));
        let changes = txn.into_batch();
        if !engine.write_if_no_stall(&changes)? {
            blocking(|| engine.write(changes, Durability::Buffered))?;
        }
        self.publish(catalog_version);
        for (responder, response) in answers {
            responder.send(response);
        }
        Ok(())
    }

    /// A split is a batch of its own: the child begins with exactly what was applied in front of it. The order of the steps
    /// is that of `models` §5.
    async fn apply_split(&mut self, (entry, responder): EntryResponder<TypeConfig>, split: &Split) -> io::Result<()> {
        let log_id = entry.log_id();
        self.check_order(log_id)?;
        let engine = self.shared.store.engine();
        let before = self.state.clone();
        let place = EntryPlace { log_id, membership: &self.record.membership };
        let mut txn = Txn::new(engine.as_ref());
        let command = Command::Split(split.clone());
        let response = blocking(|| machine::apply(&mut txn, &mut self.state, &mut self.catalog, &command, &place))?;
        drop(txn);
        self.record.applied = Some(log_id);
        let taken = self.state.last_split.clone().filter(|_| response == Response::Split);
        let child = match &taken {
            Some(taken) => self.bear(&before, split, taken).await?,
            None => None,
        };
        let mut narrowed = if taken.is_some() { birth::left_overs(self.state.epoch) } else { Batch::default() };
        narrowed.put(Bytes::from_static(keys::SHARD_STATE), self.state.to_bytes());
        narrowed.put(Bytes::from_static(keys::APPLIED), self.record.to_bytes());
        blocking(|| engine.write(narrowed, Durability::Buffered))?;
        if taken.is_some() {
            crash_at!("parent-narrowed");
            blocking(|| self.shared.flush())?;
            crash_at!("parent-flushed");
        }
        if let Some(child) = child {
            let ReplicaIdentity { replica, shard, .. } = child.identity();
            let live = RegistryRecord { shard, state: ReplicaLife::Live { directory: child.directory() } };
            self.shared.log.put_record(replica, live).await?;
            crash_at!("child-live");
            self.shared.nursery.bring(Newborn { parent: self.shared.store.identity().replica, store: child });
        }
        self.publish(self.catalog.as_ref().map(|catalog| catalog.version));
        if let Some(responder) = responder {
            responder.send(response);
        }
        Ok(())
    }

    /// The replica that the split makes beside this one, with its record `Born`. None where the split names none, or where
    /// it was destroyed already: this one only narrows then.
    async fn bear(&self, before: &ShardState, split: &Split, taken: &LastSplit) -> Result<Option<ReplicaStore>, Error> {
        const FIRST_DIRECTORY: u64 = 1;
        let own = self.shared.store.identity();
        let Some(replica) = taken.child_of(own.replica) else { return Ok(None) };
        let known = self.shared.log.record(replica).map(|record| record.state);
        if !matches!(known, None | Some(ReplicaLife::Born { .. })) {
            return Ok(None);
        }
        let born = ReplicaLife::Born { directory: FIRST_DIRECTORY, parent: own.replica, index: taken.index };
        self.shared.log.put_record(replica, RegistryRecord { shard: taken.child, state: born }).await?;
        crash_at!("birth-recorded");
        let identity = ReplicaIdentity { replica, shard: taken.child, ..own };
        let changes = birth::child_changes(&child_state(before, &self.state, split), taken, &self.record.membership);
        let child = blocking(|| self.shared.store.bear(identity, FIRST_DIRECTORY, changes))?;
        crash_at!("child-made");
        Ok(Some(child))
    }

    fn check_order(&self, log_id: LogId) -> io::Result<()> {
        #[cfg(test)]
        if self.in_suite {
            return Ok(());
        }
        // The first entry of a log has index 0.
        let expected = self.record.applied.map_or(0, |applied| applied.index() + 1);
        if expected == log_id.index() && Some(log_id) > self.record.applied {
            return Ok(());
        }
        let what = format!("entry {log_id} cannot be applied after {:?}: entries are missing", self.record.applied);
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    fn publish(&self, catalog_version_before: Option<u64>) {
        *self.shared.state.lock().expect("no panic while the state is copied") = self.state.clone();
        if self.catalog.as_ref().map(|catalog| catalog.version) != catalog_version_before {
            self.shared.catalog.send_replace(self.catalog.clone().map(Arc::new));
        }
        self.shared.applied.send_replace(self.record.applied.map(|log_id| log_id.index()));
    }
}

/// An entry's place, for `apply`.
struct EntryPlace<'a> {
    log_id: LogId,
    membership: &'a StoredMembership,
}

impl Place for EntryPlace<'_> {
    fn index(&self) -> u64 {
        self.log_id.index()
    }

    fn members(&self) -> Members {
        let membership = self.membership.membership();
        Members {
            index: self.membership.log_id().map(|log_id| log_id.index()),
            voters: membership.voter_ids().collect(),
            are_settled: membership.get_joint_config().len() == 1 && membership.learner_ids().next().is_none(),
        }
    }
}

struct Loaded {
    record: AppliedRecord,
    state: ShardState,
    catalog: Option<Catalog>,
}

impl Loaded {
    fn from_view(view: &dyn View, store: &ReplicaStore) -> Result<Self, Error> {
        let corrupt = |what: &str, error: &dyn std::fmt::Display| Error::Corrupt {
            what: format!("{what} of replica {}: {error}", store.identity().replica),
        };
        let catalog = view.get(keys::CATALOG)?.map(Catalog::from_bytes).transpose();
        Ok(Self {
            record: applied_record(view)?,
            state: query::shard_state(view, store.identity().shard)?,
            catalog: catalog.map_err(|error| corrupt("catalog", &error))?,
        })
    }
}

pub(super) fn applied_record(view: &dyn View) -> Result<AppliedRecord, Error> {
    match view.get(keys::APPLIED)? {
        None => Ok(AppliedRecord::default()),
        Some(record) => AppliedRecord::from_bytes(record)
            .map_err(|error| Error::Corrupt { what: format!("applied record: {error}") }),
    }
}

fn meta_of(record: AppliedRecord) -> SnapshotMeta<super::LeaderId, crate::types::ReplicaId, super::Place> {
    SnapshotMeta { last_log_id: record.applied, last_membership: record.membership }
}

impl MachineShared {
    /// Flushes the store and gives the index up to which it is now durable. Blocks: call it off the runtime's workers.
    pub fn flush(&self) -> Result<Option<u64>, Error> {
        let engine = self.store.engine();
        // Captured before the flush begins: what is applied meanwhile may or may not be in it.
        let record = applied_record(engine.view().as_ref())?;
        engine.flush()?;
        let mut flushed = self.flushed.lock().expect("no panic while the record is copied");
        if record.applied > flushed.applied {
            *flushed = record;
        }
        Ok(flushed.applied.map(|log_id| log_id.index()))
    }

    pub fn flushed_index(&self) -> Option<u64> {
        self.flushed.lock().expect("no panic while the record is copied").applied.map(|log_id| log_id.index())
    }

    async fn install(&self, received: Received) -> Result<(), Error> {
        let record = RegistryRecord {
            shard: self.store.identity().shard,
            state: ReplicaLife::Live { directory: received.install.directory },
        };
        let old = (self.store.engine(), self.store.directory());
        // The switch: before this record is durable the old directory counts, after it the new one.
        self.log.put_record(self.store.identity().replica, record).await?;
        let flushed = received.record.clone();
        self.store.switch(received.install);
        *self.flushed.lock().expect("no panic while the record is copied") = flushed;
        self.remove_when_unused(old);
        Ok(())
    }

    /// The replaced directory goes when its last view is gone; at the next start otherwise.
    fn remove_when_unused(&self, (engine, directory): (Arc<dyn crate::storage::Engine>, u64)) {
        let store = self.store.clone();
        let weak = Arc::downgrade(&engine);
        drop(engine);
        tokio::spawn(async move {
            const CHECK: std::time::Duration = std::time::Duration::from_millis(200);
            const CHECKS_MAX: u32 = 1500;
            for _ in 0..CHECKS_MAX {
                if weak.strong_count() == 0 {
                    let name = directory_name(store.identity().replica, directory);
                    if let Err(error) = store.disk().remove_replica(&name) {
                        tracing::warn!(%error, name, "a replaced directory could not be removed; the next start will");
                    }
                    return;
                }
                tokio::time::sleep(CHECK).await;
            }
        });
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = FlushedSnapshot;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.record.applied, self.record.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if let EntryPayload::Normal(Command::Split(split)) = &entry.0.payload {
                let split = split.clone();
                if !batch.is_empty() {
                    self.apply_batch(std::mem::take(&mut batch))?;
                    bytes = 0;
                }
                self.apply_split(entry, &split).await?;
                continue;
            }
            bytes += value_bytes(&entry.0.payload);
            batch.push(entry);
            if batch.len() >= BATCH_ENTRIES_MAX || bytes >= BATCH_BYTES_MAX {
                self.apply_batch(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.apply_batch(batch) }
    }

    /// Always a builder: openraft panics at start without one, and the flusher alone decides when to ask.
    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Self::SnapshotBuilder> {
        #[cfg(test)]
        if self.in_suite {
            self.shared.flush().expect("the suite's disk is sound");
        }
        Some(FlushedSnapshot { shared: self.shared.clone() })
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        FlushedSnapshot { shared: self.shared.clone() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<super::LeaderId, crate::types::ReplicaId, super::Place>,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        #[cfg(test)]
        let snapshot = self.received_in_suite(snapshot)?;
        let SnapshotData::Received(received) = snapshot else {
            return Err(io::Error::other("a view of this replica cannot be installed into it"));
        };
        if (received.record.applied, &received.record.membership) != (meta.last_log_id, &meta.last_membership) {
            let what =
                format!("the snapshot holds {:?}, its meta says {:?}", received.record.applied, meta.last_log_id);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let before = self.catalog.as_ref().map(|catalog| catalog.version);
        self.shared.install(*received).await?;
        let loaded = Loaded::from_view(self.shared.store.view().as_ref(), &self.shared.store)?;
        (self.record, self.state, self.catalog) = (loaded.record, loaded.state, loaded.catalog);
        self.publish(before);
        Ok(())
    }

    /// The rows of this moment: cheap, and never older than the purge marker, because nothing is purged that is not
    /// flushed and nothing is flushed that is not applied.
    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<super::LeaderId, crate::types::ReplicaId, super::Place, SnapshotData>>> {
        if self.record.applied.is_none() {
            return Ok(None);
        }
        let view = self.shared.store.view();
        // Of the view itself: the receiver holds its rows against it.
        let meta = meta_of(applied_record(view.as_ref())?);
        Ok(Some(Snapshot { meta, snapshot: SnapshotData::View(Arc::from(view)) }))
    }
}

fn value_bytes(payload: &<TypeConfig as openraft::RaftTypeConfig>::Payload) -> usize {
    match payload {
        EntryPayload::Normal(Command::Write(machine::Write { action: machine::Action::Put { value, .. }, .. })) => {
            value.len()
        }
        _ => 0,
    }
}

/// Reports the last finished flush; never flushes itself.
pub struct FlushedSnapshot {
    shared: Arc<MachineShared>,
}

impl RaftSnapshotBuilder<TypeConfig> for FlushedSnapshot {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(
        &mut self,
    ) -> io::Result<Snapshot<super::LeaderId, crate::types::ReplicaId, super::Place, SnapshotData>> {
        let record = self.shared.flushed.lock().expect("no panic while the record is copied").clone();
        let snapshot = SnapshotData::View(Arc::from(self.shared.store.view()));
        Ok(Snapshot { meta: meta_of(record), snapshot })
    }
}

#[cfg(test)]
#[path = "state_machine_tests.rs"]
mod tests;
