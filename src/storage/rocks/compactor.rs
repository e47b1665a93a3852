//! One thread that compacts deleted key ranges, store after store, so that no caller waits for it.
//!
//! Best effort: when the queue is full a request is dropped; RocksDB's own compactions get there in time.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use super::super::{Error, KeyRange};
use super::engine::Store;

/// Ranges waiting to be compacted, over all stores.
const REQUESTS_MAX: usize = 256;

/// Stands between a store's engine and the thread. True once the engine has been dropped. The thread holds it while it
/// holds the store, so that whoever sets it knows that the thread has let go.
pub(super) type Closed = Arc<Mutex<bool>>;

struct Request {
    store: Weak<Store>,
    closed: Closed,
    range: KeyRange,
}

pub(super) struct Compactor {
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Compactor {
    pub(super) fn start() -> Result<Self, Error> {
        let (requests, queue) = sync_channel(REQUESTS_MAX);
        let thread = std::thread::Builder::new()
            .name("compactor".to_string())
            .spawn(move || run(&queue))
            .map_err(|error| Error::Io { doing: "starting the compactor".to_string(), what: error.to_string() })?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    pub(super) fn request(&self, store: &Arc<Store>, closed: &Closed, range: KeyRange) {
        let request = Request { store: Arc::downgrade(store), closed: closed.clone(), range };
        if let Some(requests) = &self.requests
            && requests.try_send(request).is_err()
        {
            tracing::debug!("the compactor has too much to do; a range is left to RocksDB");
        }
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.requests = None;
        // The thread never holds the last handle of a store, and so never drops the compactor it would wait for here.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the compactor panicked");
        }
    }
}

fn run(queue: &Receiver<Request>) {
    while let Ok(request) = queue.recv() {
        let closed = request.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            continue;
        }
        if let Some(store) = request.store.upgrade() {
            store.compact(&request.range);
        }
    }
}
