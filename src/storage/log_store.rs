//! The logs of all groups of a node on one engine, as bytes: this layer knows indexes, not Raft.
//!
//! Invariants, per replica:
//! - entries are contiguous from `purged + 1` to `last`; a reader gets a contiguous run or an error, never a hole;
//! - an entry is readable as soon as `append` returns (from the tail in memory), durable when its callback fires;
//! - the tail holds every entry that the engine may not have yet; older ones may be read from either place.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::keys::{self, RaftState};
use super::log_writer::{Done, LogMeters, LogWrite, LogWriter};
use super::registry::{Registry, RegistryRecord};
use super::{Change, Disk, Durability, Engine, Error, blocking};
use crate::mutants::planted;
use crate::types::{ReplicaId, StoreId};

/// Entries of the tail that are kept for each replica however tight memory is: followers a few entries behind are served
/// without reading the disk.
const TAIL_ENTRIES_MIN: usize = 4;

/// The log store of a node. Cheap to clone.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    writer: LogWriter,
    registry: Mutex<Registry>,
    /// Bytes of all tails together, held near `tail_bytes_max` by each append trimming its own tail.
    tail_bytes: AtomicU64,
    tail_bytes_max: u64,
}

impl LogStore {
    /// Opens the node's log. `tail_bytes_max` bounds the entries kept in memory over all groups.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the log is damaged or does not belong to `store`: a lost or foreign log must never serve
    /// this node's replicas, because it has forgotten their votes.
    pub fn open(disk: &dyn Disk, store: StoreId, is_new: bool, tail_bytes_max: u64) -> Result<Self, Error> {
        let engine = disk.open_log()?;
        check_identity(engine.as_ref(), store, is_new)?;
        let registry = Registry::load(engine.as_ref())?;
        let writer = LogWriter::start(disk, engine.clone())?;
        let shared =
            Shared { engine, writer, registry: Mutex::new(registry), tail_bytes: AtomicU64::new(0), tail_bytes_max };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub fn meters(&self) -> &LogMeters {
        self.shared.writer.meters()
    }

    /// Every replica this node has or had.
    pub fn records(&self) -> BTreeMap<ReplicaId, RegistryRecord> {
        self.registry().records().clone()
    }

    pub fn record(&self, replica: ReplicaId) -> Option<RegistryRecord> {
        self.registry().records().get(&replica).cloned()
    }

    /// Durably records what a replica is. The order of states is checked: nothing comes back from a tombstone.
    pub async fn put_record(&self, replica: ReplicaId, record: RegistryRecord) -> Result<(), Error> {
        let change = self.registry().change(replica, record)?;
        self.shared.writer.write_synced(vec![change]).await
    }

    /// Durably forgets a replica that was being born and does not count. Harmless when there is no record.
    pub async fn forget_born(&self, replica: ReplicaId) -> Result<(), Error> {
        let change = self.registry().forget_born(replica)?;
        match change {
            Some(change) => self.shared.writer.write_synced(vec![change]).await,
            None => Ok(()),
        }
    }

    /// The point of no return of a destroyed replica: tombstone written, vote and log deleted, in one synced batch.
    pub async fn destroy(&self, replica: ReplicaId, tombstone: RegistryRecord) -> Result<(), Error> {
        let mut changes = vec![self.registry().change(replica, tombstone)?];
        for range in [keys::raft_state_range(replica), keys::entry_range(replica, 0, None)] {
            let before = range.before.expect("a replica's keys have an end");
            changes.push(Change::DeleteRange(range.from, before));
        }
        self.shared.writer.write_synced(changes).await
    }

    /// Gives back the space of purged entries, in the background.
    pub fn compact(&self) {
        self.shared.engine.compact(&keys::all_entries());
    }

    /// Bytes of all logs on disk, roughly.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.engine.disk_bytes()
    }

    /// The node's last copy of the catalog, as bytes.
    pub fn catalog_copy(&self) -> Result<Option<Bytes>, Error> {
        self.shared.engine.get(keys::LOG_CATALOG_COPY)
    }

    /// Stores a copy of the catalog; durable with the next sync, which is soon enough for a copy.
    pub async fn put_catalog_copy(&self, catalog: Bytes) -> Result<(), Error> {
        let changes = vec![Change::Put(Bytes::from_static(keys::LOG_CATALOG_COPY), catalog)];
        self.shared.writer.submit(LogWrite { changes, durability: Durability::Buffered, done: None }).await
    }

    /// Opens one replica's log.
    pub fn open_group(&self, replica: ReplicaId) -> Result<GroupLog, Error> {
        let purged = self.shared.engine.get(&keys::raft_state(replica, RaftState::Purged))?;
        let (purged_index, purged_marker) = match purged {
            None => (None, None),
            Some(value) => {
                let (index, marker) = split_marker(&value)?;
                (Some(index), Some(marker))
            }
        };
        let view = self.shared.engine.view();
        let last_stored = match view.scan_reverse(&keys::entry_range(replica, 0, None)).next() {
            None => None,
            Some(row) => entry_index(&row?.0)?.into(),
        };
        let first = purged_index.map_or(0, |index| index + 1);
        let last = last_stored.max(purged_index);
        let tail = Tail {
            first,
            last,
            next_in_memory: last.map_or(first, |last| last + 1),
            entries: VecDeque::new(),
            bytes: 0,
            written: last,
            cuts: 0,
        };
        let state = GroupState { tail, purged: purged_index.zip(purged_marker) };
        let group = GroupLogShared { shared: self.shared.clone(), state: Mutex::new(state) };
        Ok(GroupLog { replica, group: Arc::new(group) })
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.shared.registry.lock().expect("no panic while the registry is locked")
    }
}

fn check_identity(engine: &dyn Engine, store: StoreId, is_new: bool) -> Result<(), Error> {
    match engine.get(keys::LOG_IDENTITY)? {
        Some(found) if found.as_ref() == store.0.to_be_bytes() => Ok(()),
        Some(found) => {
            Err(Error::Corrupt { what: format!("the log belongs to another store ({}), not to {store}", hex(&found)) })
        }
        None if is_new => {
            let mut batch = super::Batch::default();
            batch.put(keys::LOG_IDENTITY, Bytes::copy_from_slice(&store.0.to_be_bytes()));
            engine.write(batch, Durability::Synced)
        }
        None => Err(Error::Corrupt {
            what: format!("the log of store {store} is gone: its votes and entries cannot be known any more"),
        }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One replica's log. Clones share it.
#[derive(Clone)]
pub struct GroupLog {
    replica: ReplicaId,
    group: Arc<GroupLogShared>,
}

struct GroupLogShared {
    shared: Arc<Shared>,
    state: Mutex<GroupState>,
}

struct GroupState {
    tail: Tail,
    /// Index and marker (an encoded log id) of the last purged entry.
    purged: Option<(u64, Bytes)>,
}

/// The newest entries. Those with index ≥ `next_in_memory - entries.len()` are here, older ones in the engine.
struct Tail {
    /// The first index that was not purged.
    first: u64,
    /// The last index, none for an empty log that was never purged.
    last: Option<u64>,
    /// One past the last entry of the tail.
    next_in_memory: u64,
    entries: VecDeque<Bytes>,
    bytes: u64,
    /// The engine has every entry up to here.
    written: Option<u64>,
    /// How often the end was cut off: the completion of an append from before a cut says nothing about what stands now
    /// at the same indexes.
    cuts: u64,
}

impl Tail {
    fn first_in_memory(&self) -> u64 {
        self.next_in_memory - self.entries.len() as u64
    }
}

impl GroupLog {
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// Index of the last entry, or of the purge marker when the log is empty.
    pub fn last_index(&self) -> Option<u64> {
        self.lock().tail.last
    }

    /// Index and encoded log id of the last purged entry.
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        self.lock().purged.clone()
    }

    /// Appends entries; the first follows `last_index` without a hole. Readable on return; `done` fires once, when they
    /// are durable or the write failed.
    pub async fn append(&self, entries: Vec<(u64, Bytes)>, done: Done) -> Result<(), Error> {
        let Some(&(first_index, _)) = entries.first() else {
            done(Ok(()));
            return Ok(());
        };
        let last_index = first_index + entries.len() as u64 - 1;
        let changes = entries
            .iter()
            .map(|(index, entry)| Change::Put(keys::entry(self.replica, *index), entry.clone()))
            .collect();
        let cuts = {
            let mut state = self.lock();
            state.append(&self.group.shared, entries);
            state.tail.cuts
        };
        let group = self.group.clone();
        let done: Done = Box::new(move |result| {
            if result.is_ok() {
                let tail = &mut group.state.lock().expect("no panic while a log is locked").tail;
                if tail.cuts == cuts {
                    tail.written = tail.written.max(Some(last_index));
                }
            }
            done(result);
        });
        let durability = planted!(AckBeforeFsync => Durability::Buffered; Durability::Synced);
        self.group.shared.writer.submit(LogWrite { changes, durability, done: Some(done) }).await
    }

    /// Removes every entry after `after` (all of them when `None`). Durable on return, and ordered before any later append:
    /// otherwise a crash could bring back an entry that was replaced (`openraft` §3.6).
    pub async fn truncate_after(&self, after: Option<u64>) -> Result<(), Error> {
        let from = after.map_or(0, |index| index + 1);
        self.lock().truncate_from(&self.group.shared, from, after);
        let range = keys::entry_range(self.replica, from, None);
        let before = range.before.expect("a replica's keys have an end");
        self.group.shared.writer.write_synced(vec![Change::DeleteRange(range.from, before)]).await
    }

    /// Forgets every entry up to and with `index`, whose encoded log id is `marker`. May lie beyond the last entry (after a
    /// snapshot). Marker and deletion are one batch; they need no sync of their own.
    pub async fn purge(&self, index: u64, marker: Bytes) -> Result<(), Error> {
        let mut value = index.to_be_bytes().to_vec();
        value.extend_from_slice(&marker);
        {
            let mut state = self.lock();
            // A marker never goes back: what it says is gone is gone.
            if state.purged.as_ref().is_some_and(|(purged, _)| *purged >= index) {
                return Ok(());
            }
            state.purge(&self.group.shared, index, marker);
        }
        let range = keys::entry_range(self.replica, 0, Some(index + 1));
        let before = range.before.expect("given above");
        let changes = vec![
            Change::Put(keys::raft_state(self.replica, RaftState::Purged), value.into()),
            Change::DeleteRange(range.from, before),
        ];
        self.group.shared.writer.submit(LogWrite { changes, durability: Durability::Buffered, done: None }).await
    }

    /// Stores the vote; durable on return.
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), Error> {
        planted!(VoteNotSynced => return self.put_buffered(RaftState::Vote, vote).await);
        self.group.shared.writer.put_synced(keys::raft_state(self.replica, RaftState::Vote), vote).await
    }

    pub fn read_vote(&self) -> Result<Option<Bytes>, Error> {
        self.group.shared.engine.get(&keys::raft_state(self.replica, RaftState::Vote))
    }

    /// A hint for the next start; ordered after the entries it names, durable with the next sync.
    pub async fn save_committed(&self, committed: Bytes) -> Result<(), Error> {
        self.put_buffered(RaftState::Committed, committed).await
    }

    async fn put_buffered(&self, state: RaftState, value: Bytes) -> Result<(), Error> {
        let changes = vec![Change::Put(keys::raft_state(self.replica, state), value)];
        self.group.shared.writer.submit(LogWrite { changes, durability: Durability::Buffered, done: None }).await
    }

    pub fn read_committed(&self) -> Result<Option<Bytes>, Error> {
        self.group.shared.engine.get(&keys::raft_state(self.replica, RaftState::Committed))
    }

    /// Entries from `start` up to and without `end`, at most about `bytes_max` bytes but at least one. Contiguous. Begins
    /// later than `start` only where the head was purged, ends earlier only at the last entry or the byte limit.
    pub fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, Error> {
        loop {
            if let Some(found) = self.try_read(start, end, bytes_max)? {
                return Ok(found);
            }
        }
    }

    /// One attempt; none when the log changed meanwhile so that what was read may not be one log.
    fn try_read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Option<Vec<(u64, Bytes)>>, Error> {
        let (start, engine_end, end, cuts) = {
            let state = self.lock();
            let start = start.max(state.tail.first);
            let end = end.min(state.tail.last.map_or(0, |last| last + 1));
            if start >= end {
                return Ok(Some(Vec::new()));
            }
            let first_in_memory = state.tail.first_in_memory();
            if start >= first_in_memory {
                return Ok(Some(take_bytes(state.tail.range(start, end), bytes_max)));
            }
            (start, end.min(first_in_memory), end, state.tail.cuts)
        };
        let FromEngine { mut found, bytes, is_full } = blocking(|| self.read_engine(start, engine_end, bytes_max))?;
        let state = self.lock();
        let tail = &state.tail;
        // The end was cut off meanwhile: the view may hold what was replaced, memory what replaced it.
        if tail.cuts != cuts {
            return Ok(None);
        }
        found.retain(|(index, _)| *index >= tail.first);
        let first = start.max(tail.first);
        let next = first + found.len() as u64;
        let missing = (first..next).zip(&found).find(|(expected, (index, _))| expected != index);
        let missing = missing.map(|(expected, _)| expected).or((!is_full && next < engine_end).then_some(next));
        if let Some(index) = missing {
            return Err(Error::Corrupt { what: format!("log of replica {}: entry {index} is missing", self.replica) });
        }
        // What was in memory may have been trimmed since; then the caller simply asks again.
        if !is_full && (found.is_empty() || bytes < bytes_max) && tail.first_in_memory() <= next {
            found.extend(take_bytes(tail.range(next, end), bytes_max.saturating_sub(bytes)));
        }
        Ok((!found.is_empty()).then_some(found))
    }

    fn read_engine(&self, start: u64, end: u64, bytes_max: usize) -> Result<FromEngine, Error> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let view = self.group.shared.engine.view();
        for row in view.scan(&keys::entry_range(self.replica, start, Some(end))) {
            let (key, entry) = row?;
            if bytes >= bytes_max && !found.is_empty() {
                return Ok(FromEngine { found, bytes, is_full: true });
            }
            bytes += entry.len();
            found.push((entry_index(&key)?, entry));
        }
        Ok(FromEngine { found, bytes, is_full: false })
    }

    fn lock(&self) -> MutexGuard<'_, GroupState> {
        self.group.state.lock().expect("no panic while a log is locked")
    }
}

/// What the engine has of a range.
struct FromEngine {
    found: Vec<(u64, Bytes)>,
    bytes: usize,
    /// There is more, but it was cut at the byte limit.
    is_full: bool,
}

impl Tail {
    fn range(&self, start: u64, end: u64) -> Vec<(u64, Bytes)> {
        let first = self.first_in_memory();
        let from = usize::try_from(start.saturating_sub(first)).expect("an offset in memory");
        let count = usize::try_from(end.min(self.next_in_memory).saturating_sub(start.max(first))).expect("in memory");
        self.entries
            .iter()
            .skip(from)
            .take(count)
            .cloned()
            .enumerate()
            .map(|(at, entry)| (first + (from + at) as u64, entry))
            .collect()
    }
}

impl GroupState {
    fn append(&mut self, shared: &Shared, entries: Vec<(u64, Bytes)>) {
        for (index, entry) in entries {
            let tail = &mut self.tail;
            if tail.last.is_none() && tail.entries.is_empty() {
                // The very first entry of a log: Raft begins at 0 or 1.
                tail.first = tail.first.max(index);
                tail.next_in_memory = index;
            }
            assert_eq!(index, tail.next_in_memory, "an append leaves no hole");
            tail.bytes += entry.len() as u64;
            shared.tail_bytes.fetch_add(entry.len() as u64, Ordering::Relaxed);
            tail.entries.push_back(entry);
            tail.next_in_memory = index + 1;
            tail.last = Some(index);
        }
        while shared.tail_bytes.load(Ordering::Relaxed) > shared.tail_bytes_max
            && self.tail.entries.len() > TAIL_ENTRIES_MIN
            && self.tail.written >= Some(self.tail.first_in_memory())
        {
            self.tail.pop_front(shared);
        }
    }

    fn truncate_from(&mut self, shared: &Shared, from: u64, after: Option<u64>) {
        let tail = &mut self.tail;
        tail.cuts += 1;
        if tail.next_in_memory <= from {
            return;
        }
        while tail.next_in_memory > from
            && let Some(entry) = tail.entries.pop_back()
        {
            tail.next_in_memory -= 1;
            tail.release(shared, &entry);
        }
        tail.next_in_memory = tail.next_in_memory.min(from);
        tail.last = after.max(self.purged.as_ref().map(|(index, _)| *index));
        tail.written = tail.written.min(tail.last);
    }

    fn purge(&mut self, shared: &Shared, index: u64, marker: Bytes) {
        let tail = &mut self.tail;
        tail.first = tail.first.max(index + 1);
        while tail.first_in_memory() <= index && !tail.entries.is_empty() {
            tail.pop_front(shared);
        }
        if tail.last <= Some(index) {
            tail.last = Some(index);
            tail.next_in_memory = index + 1;
            tail.written = Some(index);
        }
        if self.purged.as_ref().is_none_or(|(purged, _)| *purged < index) {
            self.purged = Some((index, marker));
        }
    }
}

impl Tail {
    fn pop_front(&mut self, shared: &Shared) {
        if let Some(entry) = self.entries.pop_front() {
            self.release(shared, &entry);
        }
    }

    fn release(&mut self, shared: &Shared, entry: &Bytes) {
        self.bytes -= entry.len() as u64;
        shared.tail_bytes.fetch_sub(entry.len() as u64, Ordering::Relaxed);
    }
}

impl Drop for GroupLogShared {
    fn drop(&mut self) {
        let state = self.state.get_mut().expect("no panic while a log is locked");
        self.shared.tail_bytes.fetch_sub(state.tail.bytes, Ordering::Relaxed);
    }
}

fn take_bytes(entries: Vec<(u64, Bytes)>, bytes_max: usize) -> Vec<(u64, Bytes)> {
    let mut bytes = 0;
    entries
        .into_iter()
        .enumerate()
        .take_while(|(position, (_, entry))| {
            let fits = *position == 0 || bytes < bytes_max;
            bytes += entry.len();
            fits
        })
        .map(|(_, entry)| entry)
        .collect()
}

fn entry_index(key: &Bytes) -> Result<u64, Error> {
    keys::entry_index(key).ok_or_else(|| Error::Corrupt { what: format!("{key:?} is no log entry key") })
}

fn split_marker(value: &Bytes) -> Result<(u64, Bytes), Error> {
    let index = value.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    let index = index.ok_or_else(|| Error::Corrupt { what: "purge marker is too short".into() })?;
    Ok((index, value.slice(8..)))
}

#[cfg(test)]
#[path = "log_store_crash_tests.rs"]
mod crash_tests;
#[cfg(test)]
#[path = "log_store_tests.rs"]
mod tests;
