//! A disk for tests that notes what is asked of its engines, can be held up, and lets a test act at the worst moment.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::mem::MemDisk;
use super::{Batch, Change, Disk, Durability, Engine, Error, KeyRange, View};

type Hook = Box<dyn FnOnce() + Send>;

/// What was asked of all engines of one [`SpyDisk`].
#[derive(Default)]
pub(crate) struct Spy {
    pub(crate) gets: AtomicUsize,
    pub(crate) views: AtomicUsize,
    pub(crate) writes: AtomicUsize,
    /// Keys that were put by a write since which a sync has returned.
    durable: Mutex<BTreeSet<Bytes>>,
    buffered: Mutex<BTreeSet<Bytes>>,
    after_next_view: Mutex<Option<Hook>>,
    during_next_flush: Mutex<Option<Hook>>,
    before_next_write: Mutex<Option<Hook>>,
    hooks_running: AtomicUsize,
    stalled: AtomicBool,
}

impl Spy {
    /// Wraps one engine.
    pub(crate) fn on(engine: Arc<dyn Engine>) -> (Arc<dyn Engine>, Arc<Self>) {
        let spy = Arc::new(Self::default());
        (Arc::new(SpyEngine { inner: engine, spy: spy.clone() }), spy)
    }

    pub(crate) fn is_durable(&self, key: &[u8]) -> bool {
        self.durable.lock().unwrap().contains(key)
    }

    /// Runs once, right after the next view was taken and before its taker sees it.
    pub(crate) fn after_next_view(&self, hook: impl FnOnce() + Send + 'static) {
        *self.after_next_view.lock().unwrap() = Some(Box::new(hook));
    }

    /// Runs once inside the next flush: what it writes was not there when the flush began, and is not made durable by it.
    pub(crate) fn during_next_flush(&self, hook: impl FnOnce() + Send + 'static) {
        *self.during_next_flush.lock().unwrap() = Some(Box::new(hook));
    }

    /// Runs once, before the next write reaches the engine.
    pub(crate) fn before_next_write(&self, hook: impl FnOnce() + Send + 'static) {
        *self.before_next_write.lock().unwrap() = Some(Box::new(hook));
    }

    /// Until the next write that waits, data engines say that they would have to wait.
    pub(crate) fn stall(&self) {
        self.stalled.store(true, Ordering::SeqCst);
    }

    /// A hook is running.
    pub(crate) fn is_held(&self) -> bool {
        self.hooks_running.load(Ordering::SeqCst) > 0
    }

    fn run(&self, hook: &Mutex<Option<Hook>>) {
        // Taken out first: the hook itself may use the engine.
        let hook = hook.lock().unwrap().take();
        if let Some(hook) = hook {
            self.hooks_running.fetch_add(1, Ordering::SeqCst);
            hook();
            self.hooks_running.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A [`MemDisk`] whose engines are watched.
pub(crate) struct SpyDisk {
    pub(crate) inner: MemDisk,
    pub(crate) spy: Arc<Spy>,
    /// Whether blocking work gets threads, as on a real disk.
    pub(crate) threads: bool,
}

impl SpyDisk {
    pub(crate) fn new(seed: u64, threads: bool) -> Self {
        Self { inner: MemDisk::new(seed), spy: Arc::default(), threads }
    }

    fn watched(&self, inner: Arc<dyn Engine>) -> Arc<dyn Engine> {
        Arc::new(SpyEngine { inner, spy: self.spy.clone() })
    }
}

impl Disk for SpyDisk {
    fn read_identity(&self) -> Result<Option<Vec<u8>>, Error> {
        self.inner.read_identity()
    }
    fn write_identity(&self, content: &[u8]) -> Result<(), Error> {
        self.inner.write_identity(content)
    }
    fn open_log(&self) -> Result<Arc<dyn Engine>, Error> {
        Ok(self.watched(self.inner.open_log()?))
    }
    fn open_replica(&self, directory: &str) -> Result<Arc<dyn Engine>, Error> {
        Ok(self.watched(self.inner.open_replica(directory)?))
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
    /// The threads end once their writers' stores are dropped; nobody waits for them.
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

struct SpyEngine {
    inner: Arc<dyn Engine>,
    spy: Arc<Spy>,
}

impl Engine for SpyEngine {
    fn write_if_no_stall(&self, batch: &Batch) -> Result<bool, Error> {
        if self.spy.stalled.load(Ordering::SeqCst) {
            return Ok(false);
        }
        self.write(batch.clone(), Durability::Buffered).map(|()| true)
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), Error> {
        self.spy.stalled.store(false, Ordering::SeqCst);
        self.spy.run(&self.spy.before_next_write);
        self.spy.writes.fetch_add(1, Ordering::SeqCst);
        let put = batch.changes.iter().filter_map(|change| match change {
            Change::Put(key, _) => Some(key.clone()),
            _ => None,
        });
        let put: Vec<Bytes> = put.collect();
        self.inner.write(batch, durability)?;
        let mut buffered = self.spy.buffered.lock().unwrap();
        buffered.extend(put);
        if durability == Durability::Synced {
            self.spy.durable.lock().unwrap().append(&mut buffered);
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.spy.gets.fetch_add(1, Ordering::SeqCst);
        self.inner.get(key)
    }

    fn view(&self) -> Box<dyn View> {
        self.spy.views.fetch_add(1, Ordering::SeqCst);
        let view = self.inner.view();
        self.spy.run(&self.spy.after_next_view);
        view
    }

    fn flush(&self) -> Result<(), Error> {
        // A flush holds what was written before it began; what is written meanwhile is not made durable by it.
        self.inner.flush()?;
        self.spy.run(&self.spy.during_next_flush);
        Ok(())
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
