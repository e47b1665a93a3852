//! The storage seam: everything the server asks of a disk, in two traits. The only importer of RocksDB.
//!
//! A node's [`Disk`] holds its identity file, one log [`Engine`] for all its Raft groups and one data [`Engine`] for
//! each replica. Two implementations: [`rocks`] (RocksDB on a file system) and [`mem`] (maps in memory with the sync
//! boundary modelled: what was not synced is gone after a simulated crash). One conformance suite runs over both.
//!
//! What the two kinds of engine promise (`architecture` §5):
//! - *log*: a write with [`Durability::Synced`] is on disk when it returns, and so is everything written before it. A
//!   crash keeps a prefix of the batches that holds at least everything synced.
//! - *data*: nothing is durable but by [`Engine::flush`]. A crash keeps a prefix of the batches that holds at least
//!   everything written before the last finished flush began. A batch is never torn.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub mod keys;
pub mod log_store;
pub mod log_writer;
pub mod mem;
pub mod registry;
pub mod replica_store;
pub mod reserve;
pub mod rocks;
mod wal;

#[cfg(test)]
pub(crate) mod child;
#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod spy;

/// One change of a batch. Changes take effect in order: a put after a range delete over its key stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Bytes, Bytes),
    Delete(Bytes),
    /// From the first key to before the second.
    DeleteRange(Bytes, Bytes),
}

/// Changes that become visible and durable together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub changes: Vec<Change>,
}

impl Batch {
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push(Change::Put(key.into(), value.into()));
    }

    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.changes.push(Change::Delete(key.into()));
    }

    pub fn delete_range(&mut self, from: impl Into<Bytes>, before: impl Into<Bytes>) {
        self.changes.push(Change::DeleteRange(from.into(), before.into()));
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// How durable a write to the log engine is. A data engine makes no difference: there only a flush is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Durable on return, with everything written before.
    Synced,
    /// Durable with the next synced write or flush, or earlier.
    Buffered,
}

/// Half-open range of keys in byte order; `before: None` is the end of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub from: Bytes,
    pub before: Option<Bytes>,
}

impl KeyRange {
    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { from: Bytes::copy_from_slice(prefix), before: prefix_end(prefix) }
    }
}

/// The first key after all that start with `prefix`; none when every byte is 0xFF.
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let kept = prefix.iter().rposition(|&byte| byte != 0xFF)? + 1;
    let mut end = prefix[..kept].to_vec();
    end[kept - 1] += 1;
    Some(end.into())
}

/// A row as an iterator gives it.
pub type Row = (Bytes, Bytes);

/// An ordered key-value engine with atomic batches. Calls block; callers on an async runtime keep scans off its workers.
pub trait Engine: Send + Sync + 'static {
    /// After a failed write or flush every further one is refused: what reached the disk is unknown. Reads go on.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), Error>;
    /// Writes like [`Engine::write`] with [`Durability::Buffered`], but never waits for flushes and compactions that have
    /// fallen behind. False when it would have to: then nothing is written, and the batch can be given to `write` where
    /// waiting does no harm.
    fn write_if_no_stall(&self, batch: &Batch) -> Result<bool, Error> {
        self.write(batch.clone(), Durability::Buffered).map(|()| true)
    }
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;
    /// A consistent picture of this moment. Cheap.
    fn view(&self) -> Box<dyn View>;
    /// Everything written before the call is durable on return. Waits for the disk; on a data engine writes go on.
    fn flush(&self) -> Result<(), Error>;
    /// Makes a replica directory of this name that holds everything written before the call; durable on return. On a file
    /// system the two share their files as long as neither changes them. Data engines alone.
    ///
    /// An interrupted one may leave a directory of this name with `.tmp` behind it, for the next start to remove.
    ///
    /// # Errors
    /// When a directory of this name is there.
    fn checkpoint(&self, directory: &str) -> Result<(), Error>;
    /// Bytes held in memory and not yet flushed.
    fn unflushed_bytes(&self) -> u64;
    /// Bytes on disk, roughly.
    fn disk_bytes(&self) -> u64;
    /// What compression saves; nothing where nothing is compressed.
    fn table_bytes(&self) -> TableBytes {
        TableBytes::default()
    }
    /// Gives back space of deleted key ranges (best effort, background).
    fn compact(&self, range: &KeyRange);
}

/// A consistent picture of an engine at one moment. Holds space until dropped.
pub trait View: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;
    /// Rows in ascending key order.
    fn scan(&self, range: &KeyRange) -> Box<dyn Iterator<Item = Result<Row, Error>> + Send + '_>;
    /// Rows in descending key order.
    fn scan_reverse(&self, range: &KeyRange) -> Box<dyn Iterator<Item = Result<Row, Error>> + Send + '_>;
}

/// A node's data directory.
pub trait Disk: Send + Sync + 'static {
    /// The identity file's content, `None` in an empty directory.
    fn read_identity(&self) -> Result<Option<Vec<u8>>, Error>;
    /// Replaces the identity file atomically; durable on return.
    fn write_identity(&self, content: &[u8]) -> Result<(), Error>;
    /// Opens the log engine, creating it when absent. Damage anywhere but in the last batch is
    /// [`Error::Corrupt`] naming file and offset; a torn last batch is cut off.
    fn open_log(&self) -> Result<Arc<dyn Engine>, Error>;
    /// Opens the data engine in the directory of this name, creating it when absent. While the engine or a view of it
    /// lives, opening, removing or setting aside the same directory is refused with [`Error::InUse`]; likewise the log.
    fn open_replica(&self, directory: &str) -> Result<Arc<dyn Engine>, Error>;
    /// Names of all replica directories present, sorted. Hidden ones are nobody's replicas.
    fn replica_directories(&self) -> Result<Vec<String>, Error>;
    /// Removes a replica directory that is not open; durable on return. Absent is fine.
    fn remove_replica(&self, directory: &str) -> Result<(), Error>;
    /// Moves a directory that no record knows to `set-aside/`, never deleting it. Durable on return.
    fn set_aside(&self, directory: &str) -> Result<(), Error>;
    /// Whether blocking work gets threads of its own. In simulation everything runs on the caller's task.
    fn uses_threads(&self) -> bool;
    /// Runs work on a thread of its own. Only where [`Disk::uses_threads`].
    fn spawn_thread(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Result<(), Error>;
    /// In simulation, what says how long the next sync of the log takes; none where the disk itself takes its time.
    fn sync_delay(&self) -> Option<SyncDelay> {
        None
    }
    /// Free bytes on the file system.
    fn free_bytes(&self) -> Result<u64, Error>;
    /// All bytes of the file system.
    fn size_bytes(&self) -> Result<u64, Error>;
    /// Bytes kept in reserve on the file system by [`Disk::set_reserve`]; no part of [`Disk::free_bytes`].
    fn reserve_bytes(&self) -> Result<u64, Error>;
    /// Keeps so many bytes of the file system in reserve, so that nothing else takes them; with 0, gives them back. When it
    /// fails, nothing is kept.
    fn set_reserve(&self, bytes: u64) -> Result<(), Error>;
    /// How the cache of blocks read from table files does; nothing where there is none.
    fn block_cache(&self) -> BlockCache {
        BlockCache::default()
    }
}

/// Of all engines together, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCache {
    pub hits: u64,
    pub misses: u64,
    pub bytes: u64,
}

/// Keys and values in table files: their bytes as they were written and as they are stored, compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableBytes {
    pub raw: u64,
    pub stored: u64,
    /// Rows that only say that a key is gone; compaction takes them out, with what they hide.
    pub deletions: u64,
}

/// Draws the length of one sync.
pub type SyncDelay = Box<dyn FnMut() -> Duration + Send>;

/// The size of a batch's keys and values.
fn batch_bytes(batch: &Batch) -> usize {
    let sizes = batch.changes.iter().map(|change| match change {
        Change::Put(key, value) => key.len() + value.len(),
        Change::Delete(key) => key.len(),
        Change::DeleteRange(from, before) => from.len() + before.len(),
    });
    sizes.sum()
}

/// Refuses a replica directory's name that would lead elsewhere. Names come from records, and records can be damaged.
fn check_directory_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        let what = format!("{name:?} is not the name of a replica's directory");
        return Err(Error::Io { doing: "finding a replica".to_string(), what });
    }
    Ok(())
}

/// Runs work that blocks on the disk off the runtime's workers; in simulation, where blocking takes no time, in place.
pub async fn off_runtime<T: Send + 'static>(disk: &dyn Disk, work: impl FnOnce() -> T + Send + 'static) -> T {
    if !disk.uses_threads() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Runs work that may wait for the disk in place, while another thread takes over this worker's other tasks: heartbeats of
/// all groups run on the same few workers. The hand-over costs some microseconds. Where the runtime has a single thread,
/// in simulation and in tests, it is a plain call.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let is_worker = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if is_worker { tokio::task::block_in_place(work) } else { work() }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The data is damaged: a checksum that does not match, a file that is missing.
    #[error("{what}")]
    Corrupt { what: String },
    /// The directory is open already: `holder` is this process, or another with its id if that is known.
    #[error("{path} is in use by {holder}")]
    InUse { path: String, holder: String },
    /// Reading, writing or syncing failed. Its scope is unknown: the engine takes no more writes.
    #[error("{doing}: {what}")]
    Io { doing: String, what: String },
}

impl Error {
    pub fn is_corruption(&self) -> bool {
        matches!(self, Error::Corrupt { .. })
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = if error.is_corruption() { std::io::ErrorKind::InvalidData } else { std::io::ErrorKind::Other };
        std::io::Error::new(kind, error)
    }
}
