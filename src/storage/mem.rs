//! A data directory in memory, with the boundary between what is synced and what is not: what a crash may take, a
//! simulated crash does take. It lets the whole server run in deterministic simulation, on one thread and one seed.
//!
//! A store is two maps: what readers see, and what is durable. The batches between the two are kept, in order; a crash
//! applies a random number of them, from the first on, and forgets the rest.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{Batch, Change, Disk, Durability, Engine, Error, KeyRange, Row, SyncDelay, View};
use super::{batch_bytes, check_directory_name};

/// What an untouched simulated disk has free, in bytes.
const FREE_BYTES: u64 = 1 << 40;

/// A simulated disk. Clones are handles of the same one, and it outlives the crashes of the node it belongs to.
#[derive(Clone)]
pub struct MemDisk {
    state: Arc<Mutex<DiskState>>,
}

struct DiskState {
    identity: Option<Vec<u8>>,
    log: Option<Shared>,
    replicas: BTreeMap<String, Shared>,
    set_aside: BTreeMap<String, Shared>,
    free_bytes: u64,
    reserve_bytes: u64,
    rng: SmallRng,
    /// Steps that still become durable before the power fails; none while no failure is due.
    steps_left: Option<u64>,
    /// How long a sync of the log takes, in microseconds.
    sync_micros: RangeInclusive<u64>,
    /// The longest that one took.
    slowest_micros: u64,
}

impl DiskState {
    /// Counts a step that becomes durable now.
    fn step(&mut self, doing: &str) -> Result<(), Error> {
        match &mut self.steps_left {
            Some(0) => Err(Error::Io { doing: doing.to_string(), what: "the power is out".to_string() }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

type Shared = Arc<Mutex<Store>>;
type Rows = BTreeMap<Bytes, Bytes>;

/// How much of what was not synced a crash leaves.
#[derive(Clone, Copy)]
enum Keep {
    Some,
    Nothing,
}

/// Invariant: `rows` is `durable` with the batches of `unsynced` applied in order.
struct Store {
    name: String,
    is_log: bool,
    /// Shared with views; copied by the first write after one was taken.
    rows: Arc<Rows>,
    durable: Rows,
    unsynced: Vec<Batch>,
    /// Handles of an earlier life are dead.
    life: u64,
    /// An engine or view of this life exists.
    open: bool,
    fail_next_write: bool,
    failed: bool,
}

impl Store {
    fn new(name: &str, is_log: bool) -> Shared {
        Arc::new(Mutex::new(Self {
            name: name.to_string(),
            is_log,
            rows: Arc::default(),
            durable: Rows::default(),
            unsynced: Vec::new(),
            life: 0,
            open: false,
            fail_next_write: false,
            failed: false,
        }))
    }

    fn sync(&mut self) {
        for batch in self.unsynced.drain(..) {
            apply(&mut self.durable, &batch);
        }
    }

    fn crash(&mut self, keep: Keep, rng: &mut SmallRng) {
        let kept = match keep {
            Keep::Some => rng.random_range(0..=self.unsynced.len()),
            Keep::Nothing => 0,
        };
        self.unsynced.truncate(kept);
        self.sync();
        self.rows = Arc::new(self.durable.clone());
        self.life += 1;
        self.open = false;
        self.fail_next_write = false;
        self.failed = false;
    }

    fn error(&self, doing: &str, what: &str) -> Error {
        Error::Io { doing: format!("{doing} {}", self.name), what: what.to_string() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn apply(rows: &mut Rows, batch: &Batch) {
    for change in &batch.changes {
        match change {
            Change::Put(key, value) => {
                rows.insert(key.clone(), value.clone());
            }
            Change::Delete(key) => {
                rows.remove(key);
            }
            Change::DeleteRange(from, before) => {
                if from < before {
                    let doomed: Vec<Bytes> = rows.range::<Bytes, _>(from..before).map(|(key, _)| key.clone()).collect();
                    doomed.iter().for_each(|key| drop(rows.remove(key)));
                }
            }
        }
    }
}

impl MemDisk {
    /// An empty disk. The seed decides what its crashes leave.
    pub fn new(seed: u64) -> Self {
        let state = DiskState {
            identity: None,
            log: None,
            replicas: BTreeMap::new(),
            set_aside: BTreeMap::new(),
            free_bytes: FREE_BYTES,
            reserve_bytes: 0,
            rng: SmallRng::seed_from_u64(seed),
            steps_left: None,
            sync_micros: 0..=0,
            slowest_micros: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The power fails: every store keeps a random prefix of what was not synced. All open engines and views die.
    pub fn crash(&self) {
        self.crash_keeping(Keep::Some);
    }

    /// The power fails, and nothing that was not synced is left.
    pub fn crash_losing_everything_unsynced(&self) {
        self.crash_keeping(Keep::Nothing);
    }

    /// After so many more steps (synced writes, flushes, identities, directories) nothing becomes durable any more and every
    /// further one fails, until a crash: the power fails exactly between two of them.
    pub fn lose_power_after(&self, steps: u64) {
        lock(&self.state).steps_left = Some(steps);
    }

    /// Whether [`MemDisk::lose_power_after`] has come true.
    pub fn has_lost_power(&self) -> bool {
        lock(&self.state).steps_left == Some(0)
    }

    fn crash_keeping(&self, keep: Keep) {
        let state = &mut *lock(&self.state);
        state.steps_left = None;
        for store in state.log.iter().chain(state.replicas.values()) {
            lock(store).crash(keep, &mut state.rng);
        }
    }

    /// What [`Disk::free_bytes`] says from now on, but for what [`Disk::set_reserve`] takes or gives back later.
    pub fn set_free_bytes(&self, bytes: u64) {
        lock(&self.state).free_bytes = bytes;
    }

    /// The next write or flush of the log fails, and it is left open whether its batch reached the disk.
    pub fn fail_next_log_write(&self) {
        if let Some(log) = &lock(&self.state).log {
            lock(log).fail_next_write = true;
        }
    }

    /// The next write or flush of this replica's store fails, and it is left open whether its batch reached the disk.
    pub fn fail_next_replica_write(&self, directory: &str) {
        if let Some(store) = lock(&self.state).replicas.get(directory) {
            lock(store).fail_next_write = true;
        }
    }

    /// A write of the log, or of any replica's store, has failed: a real process would have ended.
    pub fn has_failed(&self) -> bool {
        let state = lock(&self.state);
        state.log.iter().chain(state.replicas.values()).any(|store| lock(store).failed)
    }

    /// From now on a sync of the log takes a random time between these.
    pub fn set_sync_time(&self, shortest: Duration, longest: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let state = &mut *lock(&self.state);
        state.sync_micros = micros(shortest)..=micros(longest);
        state.slowest_micros = 0;
    }

    /// The times last given to [`MemDisk::set_sync_time`].
    pub fn sync_time(&self) -> (Duration, Duration) {
        let state = lock(&self.state);
        (Duration::from_micros(*state.sync_micros.start()), Duration::from_micros(*state.sync_micros.end()))
    }

    /// The longest sync since these times were set.
    pub fn slowest_sync(&self) -> Duration {
        Duration::from_micros(lock(&self.state).slowest_micros)
    }

    /// The log as readers see it, and what of it is durable. Both are empty before the first start.
    pub fn with_log<T>(&self, look: impl FnOnce(&BTreeMap<Bytes, Bytes>, &BTreeMap<Bytes, Bytes>) -> T) -> T {
        let log = lock(&self.state).log.clone();
        match log {
            Some(log) => {
                let store = lock(&log);
                look(&store.rows, &store.durable)
            }
            None => look(&Rows::new(), &Rows::new()),
        }
    }

    /// Changes of all stores that a crash may take, each counted as a batch.
    pub fn unsynced_batches(&self) -> usize {
        let state = lock(&self.state);
        state.log.iter().chain(state.replicas.values()).map(|store| lock(store).unsynced.len()).sum()
    }

    /// Names of the directories that were set aside, sorted.
    pub fn set_aside_directories(&self) -> Vec<String> {
        lock(&self.state).set_aside.keys().cloned().collect()
    }

    fn open(&self, store: &Shared) -> Result<Arc<dyn Engine>, Error> {
        refuse_open(store)?;
        let mut state = lock(store);
        state.open = true;
        state.failed = false;
        let life = state.life;
        drop(state);
        let handle = Arc::new(Handle { store: store.clone(), life });
        Ok(Arc::new(MemEngine { handle, disk: self.state.clone() }))
    }
}

fn refuse_open(store: &Shared) -> Result<(), Error> {
    let state = lock(store);
    if state.open {
        return Err(Error::InUse { path: state.name.clone(), holder: "this process".to_string() });
    }
    Ok(())
}

impl Disk for MemDisk {
    fn read_identity(&self) -> Result<Option<Vec<u8>>, Error> {
        Ok(lock(&self.state).identity.clone())
    }

    fn write_identity(&self, content: &[u8]) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.step("writing the identity")?;
        state.identity = Some(content.to_vec());
        Ok(())
    }

    fn open_log(&self) -> Result<Arc<dyn Engine>, Error> {
        let store = lock(&self.state).log.get_or_insert_with(|| Store::new("log", true)).clone();
        self.open(&store)
    }

    fn open_replica(&self, directory: &str) -> Result<Arc<dyn Engine>, Error> {
        check_directory_name(directory)?;
        let mut state = lock(&self.state);
        if !state.replicas.contains_key(directory) {
            state.step("making a directory")?;
        }
        let fresh = || Store::new(&format!("replicas/{directory}"), false);
        let store = state.replicas.entry(directory.to_string()).or_insert_with(fresh).clone();
        drop(state);
        self.open(&store)
    }

    fn replica_directories(&self) -> Result<Vec<String>, Error> {
        Ok(lock(&self.state).replicas.keys().cloned().collect())
    }

    fn remove_replica(&self, directory: &str) -> Result<(), Error> {
        check_directory_name(directory)?;
        let mut state = lock(&self.state);
        if let Some(store) = state.replicas.get(directory) {
            refuse_open(store)?;
        }
        if state.replicas.contains_key(directory) {
            state.step("removing a directory")?;
        }
        state.replicas.remove(directory);
        Ok(())
    }

    fn set_aside(&self, directory: &str) -> Result<(), Error> {
        check_directory_name(directory)?;
        let mut state = lock(&self.state);
        if let Some(store) = state.replicas.get(directory) {
            refuse_open(store)?;
        }
        let Some(store) = state.replicas.remove(directory) else {
            let doing = format!("setting aside {directory}");
            return Err(Error::Io { doing, what: "no such directory".to_string() });
        };
        let name = (0_u32..)
            .map(|taken| if taken == 0 { directory.to_string() } else { format!("{directory}.{taken}") })
            .find(|name| !state.set_aside.contains_key(name))
            .expect("one of four billion names is free");
        state.set_aside.insert(name, store);
        Ok(())
    }

    fn uses_threads(&self) -> bool {
        false
    }

    fn spawn_thread(&self, name: &str, _work: Box<dyn FnOnce() + Send>) -> Result<(), Error> {
        unreachable!("{name}: a simulated disk has no threads")
    }

    fn sync_delay(&self) -> Option<SyncDelay> {
        let state = self.state.clone();
        Some(Box::new(move || {
            let state = &mut *lock(&state);
            if *state.sync_micros.end() == 0 {
                return Duration::ZERO;
            }
            let micros = state.rng.random_range(state.sync_micros.clone());
            state.slowest_micros = state.slowest_micros.max(micros);
            Duration::from_micros(micros)
        }))
    }

    fn free_bytes(&self) -> Result<u64, Error> {
        Ok(lock(&self.state).free_bytes)
    }

    /// As large as one can be: what is free is set, and nothing is used up.
    fn size_bytes(&self) -> Result<u64, Error> {
        Ok(u64::MAX)
    }

    fn reserve_bytes(&self) -> Result<u64, Error> {
        Ok(lock(&self.state).reserve_bytes)
    }

    fn set_reserve(&self, bytes: u64) -> Result<(), Error> {
        let state = &mut *lock(&self.state);
        state.free_bytes += std::mem::take(&mut state.reserve_bytes);
        let Some(left) = state.free_bytes.checked_sub(bytes) else {
            let what = format!("{} bytes are free", state.free_bytes);
            return Err(Error::Io { doing: format!("reserving {bytes} bytes"), what });
        };
        (state.free_bytes, state.reserve_bytes) = (left, bytes);
        Ok(())
    }
}

/// Keeps a store open in one of its lives; engine and views share it.
struct Handle {
    store: Shared,
    life: u64,
}

impl Handle {
    /// The store, unless it has crashed since.
    fn store(&self, doing: &str) -> Result<MutexGuard<'_, Store>, Error> {
        let store = lock(&self.store);
        if store.life == self.life { Ok(store) } else { Err(store.error(doing, "crashed")) }
    }

    fn writable(&self, doing: &str) -> Result<MutexGuard<'_, Store>, Error> {
        let store = self.store(doing)?;
        if store.failed {
            return Err(store.error(doing, "it takes no more writes since one failed"));
        }
        Ok(store)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut store = lock(&self.store);
        if store.life == self.life {
            store.open = false;
        }
    }
}

struct MemEngine {
    handle: Arc<Handle>,
    disk: Arc<Mutex<DiskState>>,
}

impl Engine for MemEngine {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), Error> {
        let mut disk = lock(&self.disk);
        let mut store = self.handle.writable("writing")?;
        if store.is_log && durability == Durability::Synced {
            disk.step("writing")?;
        }
        if std::mem::take(&mut store.fail_next_write) {
            store.failed = true;
            // Nobody sees the batch, yet after a crash it may turn out to have been written.
            if disk.rng.random() {
                store.unsynced.push(batch);
            }
            return Err(store.error("writing", "failed as ordered"));
        }
        apply(Arc::make_mut(&mut store.rows), &batch);
        store.unsynced.push(batch);
        if store.is_log && durability == Durability::Synced {
            store.sync();
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.handle.store("reading")?.rows.get(key).cloned())
    }

    fn view(&self) -> Box<dyn View> {
        // After a crash the view is empty, and its every read says so.
        let rows = self.handle.store("viewing").map(|store| store.rows.clone()).unwrap_or_default();
        Box::new(MemView { rows, handle: self.handle.clone() })
    }

    fn flush(&self) -> Result<(), Error> {
        let mut disk = lock(&self.disk);
        let mut store = self.handle.writable("flushing")?;
        disk.step("flushing")?;
        if std::mem::take(&mut store.fail_next_write) {
            store.failed = true;
            return Err(store.error("flushing", "failed as ordered"));
        }
        store.sync();
        Ok(())
    }

    fn checkpoint(&self, directory: &str) -> Result<(), Error> {
        check_directory_name(directory)?;
        self.flush()?;
        let mut disk = lock(&self.disk);
        let rows = self.handle.store("copying")?.rows.clone();
        if disk.replicas.contains_key(directory) {
            let what = "it is there".to_string();
            return Err(Error::Io { doing: format!("copying into replicas/{directory}"), what });
        }
        disk.step("copying a directory")?;
        let copy = Store::new(&format!("replicas/{directory}"), false);
        {
            let mut copy = lock(&copy);
            copy.durable = rows.as_ref().clone();
            copy.rows = rows;
        }
        disk.replicas.insert(directory.to_string(), copy);
        Ok(())
    }

    fn unflushed_bytes(&self) -> u64 {
        let Ok(store) = self.handle.store("measuring") else { return 0 };
        store.unsynced.iter().map(batch_bytes).map(as_u64).sum()
    }

    fn disk_bytes(&self) -> u64 {
        let Ok(store) = self.handle.store("measuring") else { return 0 };
        store.durable.iter().map(|(key, value)| as_u64(key.len() + value.len())).sum()
    }

    fn compact(&self, _range: &KeyRange) {}
}

fn as_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length fits 64 bits")
}

struct MemView {
    rows: Arc<Rows>,
    handle: Arc<Handle>,
}

impl MemView {
    fn rows(&self, range: &KeyRange) -> Result<std::collections::btree_map::Range<'_, Bytes, Bytes>, Error> {
        drop(self.handle.store("reading a view of")?);
        let empty = range.before.as_ref().is_some_and(|before| *before <= range.from);
        let before = match &range.before {
            Some(before) if !empty => Bound::Excluded(before),
            // BTreeMap panics at an inverted range; this one is empty.
            Some(_) => Bound::Excluded(&range.from),
            None => Bound::Unbounded,
        };
        Ok(self.rows.range::<Bytes, _>((Bound::Included(&range.from), before)))
    }
}

fn row((key, value): (&Bytes, &Bytes)) -> Result<Row, Error> {
    Ok((key.clone(), value.clone()))
}

impl View for MemView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        drop(self.handle.store("reading a view of")?);
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange) -> Box<dyn Iterator<Item = Result<Row, Error>> + Send + '_> {
        match self.rows(range) {
            Ok(rows) => Box::new(rows.map(row)),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn scan_reverse(&self, range: &KeyRange) -> Box<dyn Iterator<Item = Result<Row, Error>> + Send + '_> {
        match self.rows(range) {
            Ok(rows) => Box::new(rows.rev().map(row)),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }
}
