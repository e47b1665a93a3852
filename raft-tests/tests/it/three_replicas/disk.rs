//! A disk in memory whose log can be made to fall behind: what the node writes from then on is on no disk when its power
//! fails, while all it sends goes on.
//!
//! With threads, as on a real disk, the log writer hangs in its write, so that no flush is ever reported. A simulation
//! has no thread that could hang; there the write is reported as done and lost all the same. What the two have in common
//! is what matters after the power failure: the other replicas have entries that this one lost.

use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use ringraft::storage::mem::MemDisk;
use ringraft::storage::{Batch, Disk, Durability, Engine, Error, KeyRange, View};

#[derive(Clone)]
pub(super) struct LaggingDisk {
    inner: MemDisk,
    threads: bool,
    lag: Arc<Lag>,
}

#[derive(Default)]
struct Lag {
    state: Mutex<LagState>,
    changed: Condvar,
}

#[derive(Default)]
struct LagState {
    lags: bool,
    /// Counts power failures: an engine of an earlier life writes nothing any more.
    life: u64,
}

impl LaggingDisk {
    pub(super) fn new(seed: u64, threads: bool) -> Self {
        Self { inner: MemDisk::new(seed), threads, lag: Arc::default() }
    }

    /// From now on nothing more of the log becomes durable, until the power fails.
    pub(super) fn lag(&self) {
        self.lag.state.lock().unwrap().lags = true;
    }

    /// The power fails: nothing that was not synced is left. What still hangs in a write has ended with its process.
    pub(super) fn lose_power(&self) {
        let mut state = self.lag.state.lock().unwrap();
        self.inner.crash_losing_everything_unsynced();
        state.life += 1;
        state.lags = false;
        self.lag.changed.notify_all();
    }
}

impl Disk for LaggingDisk {
    fn read_identity(&self) -> Result<Option<Vec<u8>>, Error> {
        self.inner.read_identity()
    }
    fn write_identity(&self, content: &[u8]) -> Result<(), Error> {
        self.inner.write_identity(content)
    }
    fn open_log(&self) -> Result<Arc<dyn Engine>, Error> {
        let life = self.lag.state.lock().unwrap().life;
        let inner = self.inner.open_log()?;
        Ok(Arc::new(LaggingLog { inner, threads: self.threads, life, lag: self.lag.clone() }))
    }
    fn open_replica(&self, directory: &str) -> Result<Arc<dyn Engine>, Error> {
        self.inner.open_replica(directory)
    }
    fn replica_directories(&self) -> Result<Vec<String>, Error> {
        self.inner.replica_directories()
    }
    fn remove_replica(&self, directory: &str) -> Result<(), Error> {
        self.inner.remove_replica(directory)
    }
    fn set_aside(&self, directory: &str) -> Result<(), Error> {
        self.inner.set_aside(directory)
    }
    fn uses_threads(&self) -> bool {
        self.threads
    }
    fn spawn_thread(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Result<(), Error> {
        std::thread::Builder::new().name(name.to_string()).spawn(work).map(drop).expect("a thread starts");
        Ok(())
    }
    fn free_bytes(&self) -> Result<u64, Error> {
        self.inner.free_bytes()
    }
    fn size_bytes(&self) -> Result<u64, Error> {
        self.inner.size_bytes()
    }
    fn reserve_bytes(&self) -> Result<u64, Error> {
        self.inner.reserve_bytes()
    }
    fn set_reserve(&self, bytes: u64) -> Result<(), Error> {
        self.inner.set_reserve(bytes)
    }
}

struct LaggingLog {
    inner: Arc<dyn Engine>,
    threads: bool,
    life: u64,
    lag: Arc<Lag>,
}

impl Engine for LaggingLog {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), Error> {
        let mut state = self.lag.state.lock().unwrap();
        if self.threads {
            let hangs = |state: &mut LagState| state.lags && state.life == self.life;
            state = self.lag.changed.wait_while(state, hangs).unwrap();
        }
        if state.life != self.life {
            // A thread of a process that has ended.
            return Ok(());
        }
        let durability = if state.lags { Durability::Buffered } else { durability };
        self.inner.write(batch, durability)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.inner.get(key)
    }
    fn view(&self) -> Box<dyn View> {
        self.inner.view()
    }
    fn flush(&self) -> Result<(), Error> {
        self.inner.flush()
    }
    fn checkpoint(&self, directory: &str) -> Result<(), Error> {
        self.inner.checkpoint(directory)
    }

    fn unflushed_bytes(&self) -> u64 {
        self.inner.unflushed_bytes()
    }
    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }
    fn compact(&self, range: &KeyRange) {
        self.inner.compact(range);
    }
}
