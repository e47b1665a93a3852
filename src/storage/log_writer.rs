//! Group commit over all Raft groups of a node: one writer drains the queue of every group's appends, votes, truncations
//! in FIFO order into one batch, one sync, then tells all who wait. The time of a sync is the linger.
//!
//! Invariants: operations become durable in the order in which they were queued; nobody is told before the sync is done;
//! a failed write or sync is never retried: its scope is unknown, so the process ends (the supervisor restarts it).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::mpsc;
use tracing::error;

use super::{Batch, Change, Disk, Durability, Engine, Error, SyncDelay};
use crate::clock;
use crate::meters::{COUNTS, Meters, SHORT_TIMES, SIZES};

/// Operations waiting for the writer; a full queue makes the proposer wait.
const QUEUE_OPERATIONS_MAX: usize = 4096;
/// One batch holds at most about this many bytes, so that a sync stays short.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Called once with the result, after the sync where one was asked for.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Changes of one group, applied in order with everything queued before and after.
pub struct LogWrite {
    pub changes: Vec<Change>,
    pub durability: Durability,
    pub done: Option<Done>,
}

/// Cheap to clone. The writer ends when the last handle is dropped and the queue is empty.
#[derive(Clone)]
pub struct LogWriter {
    queue: mpsc::Sender<LogWrite>,
    meters: LogMeters,
}

/// What the writer measures. Cheap to clone.
#[derive(Clone)]
pub struct LogMeters {
    sync: Histogram,
    batch_operations: Histogram,
    batch_bytes: Histogram,
}

impl Default for LogMeters {
    fn default() -> Self {
        Self {
            sync: Histogram::new(SHORT_TIMES),
            batch_operations: Histogram::new(COUNTS),
            batch_bytes: Histogram::new(SIZES),
        }
    }
}

impl Meters for LogMeters {
    fn register(&self, registry: &mut Registry) {
        let help = "Time to write and sync one batch of the log: the fsync that every acknowledged write waits for";
        registry.register_with_unit("log_sync_duration", help, Unit::Seconds, self.sync.clone());
        let help = "Appends, votes and truncations, of all groups of the node, in one synced batch of the log";
        registry.register("log_batch_operations", help, self.batch_operations.clone());
        let help = "Bytes in one synced batch of the log";
        registry.register_with_unit("log_batch", help, Unit::Bytes, self.batch_bytes.clone());
    }
}

impl LogWriter {
    /// Starts the writer: a thread of its own on a real disk, a task in simulation.
    pub fn start(disk: &dyn Disk, engine: Arc<dyn Engine>) -> Result<Self, Error> {
        let (queue, waiting) = mpsc::channel(QUEUE_OPERATIONS_MAX);
        let aborts = disk.uses_threads();
        let meters = LogMeters::default();
        let worker = Worker { engine, waiting, aborts, sync_delay: disk.sync_delay(), meters: meters.clone() };
        if disk.uses_threads() {
            disk.spawn_thread("log-writer", Box::new(move || worker.run_on_thread()))?;
        } else {
            tokio::spawn(worker.run_as_task());
        }
        Ok(Self { queue, meters })
    }

    pub fn meters(&self) -> &LogMeters {
        &self.meters
    }

    /// Queues a write behind everything queued before. Waits while the queue is full.
    ///
    /// # Errors
    /// When the writer has ended; `done` is then called with the error.
    pub async fn submit(&self, write: LogWrite) -> Result<(), Error> {
        match self.queue.send(write).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendError(write)) => {
                let error = stopped();
                if let Some(done) = write.done {
                    done(Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    /// Queues a synced write and waits until it is durable.
    pub async fn write_synced(&self, changes: Vec<Change>) -> Result<(), Error> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done: Done = Box::new(move |result| {
            // The waiter may be gone (a dropped future); the write stands all the same.
            let _ = sender.send(result);
        });
        self.submit(LogWrite { changes, durability: Durability::Synced, done: Some(done) }).await?;
        receiver.await.unwrap_or_else(|_| Err(stopped()))
    }

    pub async fn put_synced(&self, key: Bytes, value: Bytes) -> Result<(), Error> {
        self.write_synced(vec![Change::Put(key, value)]).await
    }
}

struct Worker {
    engine: Arc<dyn Engine>,
    waiting: mpsc::Receiver<LogWrite>,
    aborts: bool,
    /// Only in simulation: until it is over the batch is in memory alone, as during a real sync.
    sync_delay: Option<SyncDelay>,
    meters: LogMeters,
}

impl Worker {
    fn run_on_thread(mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            self.write_with_all_queued(first);
        }
    }

    async fn run_as_task(mut self) {
        while let Some(first) = self.waiting.recv().await {
            let delay = self.sync_delay.as_mut().map_or(Duration::ZERO, |draw| draw());
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            self.write_with_all_queued(first);
        }
    }

    fn write_with_all_queued(&mut self, first: LogWrite) {
        let mut batch = Batch::default();
        let mut durability = Durability::Buffered;
        let mut waiters = Vec::new();
        let mut bytes = 0;
        let mut operations: u32 = 0;
        let mut next = Some(first);
        while let Some(write) = next {
            operations = operations.saturating_add(1);
            bytes += write.changes.iter().map(change_bytes).sum::<usize>();
            batch.changes.extend(write.changes);
            if write.durability == Durability::Synced {
                durability = Durability::Synced;
            }
            waiters.extend(write.done);
            next = if bytes < BATCH_BYTES_MAX { self.waiting.try_recv().ok() } else { None };
        }
        let begun = clock::now();
        let result = self.engine.write(batch, durability);
        if durability == Durability::Synced {
            self.meters.sync.observe(clock::now().since(begun).as_secs_f64());
            self.meters.batch_operations.observe(f64::from(operations));
            self.meters.batch_bytes.observe(u32::try_from(bytes).map_or(f64::MAX, f64::from));
        }
        if let Err(error) = &result {
            error!(%error, "the log could not be written: what is on disk is unknown, so this process ends");
            if self.aborts {
                std::process::abort();
            }
        }
        for done in waiters {
            done(result.clone());
        }
    }
}

fn change_bytes(change: &Change) -> usize {
    match change {
        Change::Put(key, value) => key.len() + value.len(),
        Change::Delete(key) => key.len(),
        Change::DeleteRange(from, before) => from.len() + before.len(),
    }
}

fn stopped() -> Error {
    Error::Io { doing: "writing the log".into(), what: "the log writer has stopped".into() }
}

#[cfg(test)]
#[path = "log_writer_tests.rs"]
mod tests;
