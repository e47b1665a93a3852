//! A data directory on a file system: one RocksDB for the log, one for each replica.
//!
//! ```text
//! LOCK            held with flock for the life of the process; names its pid
//! identity        replaced by rename
//! log/            the log engine
//! replicas/<name> the data engines
//! set-aside/      replica directories that no record knew
//! reserve         holds room on the file system until it is needed
//! ```
//!
//! Every change of a directory entry is followed by a sync of the directory. RocksDB does the same inside its own:
//! a flush syncs the table file, its directory and the MANIFEST before it returns.

mod compactor;
mod engine;
mod options;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};

use super::{BlockCache, Disk, Engine, Error, wal};
use compactor::Compactor;
use engine::{RocksEngine, Store};
pub use options::StorageOptions;
use options::{Kind, Shared};

const LOG_DIRECTORY: &str = "log";
const REPLICAS_DIRECTORY: &str = "replicas";
const SET_ASIDE_DIRECTORY: &str = "set-aside";
const RESERVE_FILE: &str = "reserve";
/// Written at a time where the file system cannot allocate without writing.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A node's data directory on a file system. Clones are handles of the same one.
#[derive(Clone)]
pub struct RocksDisk {
    root: Arc<Root>,
}

/// What all engines of a data directory hold on to.
///
/// Invariants: `lock` is held as long as any engine or view lives; a name is in `open` exactly while its RocksDB is.
struct Root {
    path: PathBuf,
    shared: Shared,
    open: Mutex<BTreeSet<String>>,
    /// Told whenever a name leaves `open`.
    closed: Condvar,
    compactor: Compactor,
    _lock: File,
}

impl Root {
    /// Where the replica directory of this name is to be, and what holds them all.
    fn replica_path(&self, directory: &str) -> Result<(PathBuf, PathBuf), Error> {
        Ok((self.path.join(RocksDisk::replica_name(directory)?), self.path.join(REPLICAS_DIRECTORY)))
    }
}

/// Takes a name out of the open ones when the RocksDB behind it has closed.
struct OpenMark {
    root: Arc<Root>,
    name: String,
}

impl Drop for OpenMark {
    fn drop(&mut self) {
        self.root.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.root.closed.notify_all();
    }
}

impl RocksDisk {
    /// Opens the data directory, creating it when absent, and takes its lock.
    pub fn open(root: &Path, options: &StorageOptions) -> Result<Self, Error> {
        let replicas = root.join(REPLICAS_DIRECTORY);
        let created = !root.exists();
        fs::create_dir_all(&replicas).map_err(|error| io("creating", &replicas, error))?;
        let root = root.canonicalize().map_err(|error| io("finding", root, error))?;
        let lock = take_lock(&root)?;
        sync_directory(&root)?;
        if let Some(parent) = root.parent().filter(|_| created) {
            sync_directory(parent)?;
        }
        let shared = Shared::new(options)?;
        let compactor = Compactor::start()?;
        let root = Root { path: root, shared, open: Mutex::default(), closed: Condvar::new(), compactor, _lock: lock };
        Ok(Self { root: Arc::new(root) })
    }

    /// Waits until every engine and view is gone, for at most `time`; says whether they are. A RocksDB that is still open when
    /// the process ends brings it down.
    pub fn wait_until_closed(&self, time: Duration) -> bool {
        let open = self.root.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.root.closed.wait_timeout_while(open, time, |open| !open.is_empty());
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn open_engine(&self, name: String, kind: Kind) -> Result<Arc<RocksEngine>, Error> {
        let path = self.root.path.join(&name);
        let mark = self.mark_open(name)?;
        if !path.exists() {
            fs::create_dir(&path).map_err(|error| io("creating", &path, error))?;
        }
        // Also when it is there: a crash may have come between its creation and this.
        sync_directory(path.parent().expect("a store's directory has a parent"))?;
        let found = wal::check(&path)?;
        let store = Store::open(&path, kind, found, &self.root.shared, mark)?;
        Ok(Arc::new(RocksEngine::new(store)))
    }

    /// Marks this directory as open, refusing when it is.
    fn mark_open(&self, name: String) -> Result<OpenMark, Error> {
        let mut open = self.root.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.insert(name.clone()) {
            let path = self.root.path.join(&name).display().to_string();
            return Err(Error::InUse { path, holder: "this process".to_string() });
        }
        Ok(OpenMark { root: self.root.clone(), name })
    }

    /// The log engine, and a count of the syncs of its write-ahead log.
    #[cfg(test)]
    pub(super) fn open_log_counting_syncs(&self) -> Result<(Arc<dyn Engine>, impl Fn() -> u64 + use<>), Error> {
        let engine = self.open_engine(LOG_DIRECTORY.to_string(), Kind::Log)?;
        Ok((engine.clone() as Arc<dyn Engine>, move || engine.log_syncs()))
    }

    fn replica_name(directory: &str) -> Result<String, Error> {
        super::check_directory_name(directory)?;
        Ok(format!("{REPLICAS_DIRECTORY}/{directory}"))
    }
}

impl Disk for RocksDisk {
    fn read_identity(&self) -> Result<Option<Vec<u8>>, Error> {
        let path = self.root.path.join("identity");
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("reading", &path, error)),
        }
    }

    fn write_identity(&self, content: &[u8]) -> Result<(), Error> {
        let path = self.root.path.join("identity");
        let draft = self.root.path.join("identity.new");
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
        written.map_err(|error| io("writing", &draft, error))?;
        fs::rename(&draft, &path).map_err(|error| io("replacing", &path, error))?;
        sync_directory(&self.root.path)
    }

    fn open_log(&self) -> Result<Arc<dyn Engine>, Error> {
        Ok(self.open_engine(LOG_DIRECTORY.to_string(), Kind::Log)?)
    }

    fn open_replica(&self, directory: &str) -> Result<Arc<dyn Engine>, Error> {
        Ok(self.open_engine(Self::replica_name(directory)?, Kind::Data)?)
    }

    fn replica_directories(&self) -> Result<Vec<String>, Error> {
        let path = self.root.path.join(REPLICAS_DIRECTORY);
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(|error| io("listing", &path, error))? {
            let entry = entry.map_err(|error| io("listing", &path, error))?;
            if entry.file_type().map_err(|error| io("listing", &path, error))?.is_dir() {
                match entry.file_name().into_string() {
                    Ok(name) if !name.starts_with('.') => names.push(name),
                    Ok(_) => {}
                    Err(name) => tracing::warn!(?name, "ignoring a directory that no replica can have"),
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove_replica(&self, directory: &str) -> Result<(), Error> {
        let name = Self::replica_name(directory)?;
        let path = self.root.path.join(&name);
        let _mark = self.mark_open(name)?;
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("removing", &path, error)),
            _ => {}
        }
        sync_directory(&self.root.path.join(REPLICAS_DIRECTORY))
    }

    fn set_aside(&self, directory: &str) -> Result<(), Error> {
        let name = Self::replica_name(directory)?;
        let from = self.root.path.join(&name);
        let _mark = self.mark_open(name)?;
        let shelf = self.root.path.join(SET_ASIDE_DIRECTORY);
        fs::create_dir_all(&shelf).map_err(|error| io("creating", &shelf, error))?;
        sync_directory(&self.root.path)?;
        let to = (0_u32..)
            .map(|taken| if taken == 0 { directory.to_string() } else { format!("{directory}.{taken}") })
            .map(|name| shelf.join(name))
            .find(|path| !path.exists())
            .expect("one of four billion names is free");
        fs::rename(&from, &to).map_err(|error| io("setting aside", &from, error))?;
        sync_directory(&shelf)?;
        sync_directory(&self.root.path.join(REPLICAS_DIRECTORY))
    }

    fn uses_threads(&self) -> bool {
        true
    }

    fn spawn_thread(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Result<(), Error> {
        let spawned = std::thread::Builder::new().name(name.to_string()).spawn(work);
        spawned.map(drop).map_err(|error| Error::Io { doing: format!("starting {name}"), what: error.to_string() })
    }

    fn free_bytes(&self) -> Result<u64, Error> {
        let stat = statvfs(&self.root.path).map_err(|error| io("measuring", &self.root.path, error))?;
        // What is free to this process, not what is kept back for root.
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn size_bytes(&self) -> Result<u64, Error> {
        let stat = statvfs(&self.root.path).map_err(|error| io("measuring", &self.root.path, error))?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    fn reserve_bytes(&self) -> Result<u64, Error> {
        let path = self.root.path.join(RESERVE_FILE);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(io("measuring", &path, error)),
        }
    }

    fn set_reserve(&self, bytes: u64) -> Result<(), Error> {
        let path = self.root.path.join(RESERVE_FILE);
        let removed = || match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io("removing", &path, error)),
            _ => Ok(()),
        };
        removed()?;
        if bytes > 0
            && let Err(error) = File::create(&path).and_then(|file| allocate(file, bytes))
        {
            removed()?;
            return Err(io("allocating", &path, error));
        }
        sync_directory(&self.root.path)
    }

    fn block_cache(&self) -> BlockCache {
        self.root.shared.block_cache()
    }
}

/// Makes the file take up so many bytes of the file system.
fn allocate(mut file: File, bytes: u64) -> std::io::Result<()> {
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        done => return Ok(done?),
    }
    let mut left = bytes;
    while left > 0 {
        let some = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all(&ZEROS[..some])?;
        left -= some as u64;
    }
    file.sync_all()
}

/// Locks the directory for this process. The file is never removed: removing it would let two processes lock two files.
fn take_lock(root: &Path) -> Result<File, Error> {
    let path = root.join("LOCK");
    let fail = |error: std::io::Error| io("locking", &path, error);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            // The pid is a help for people; the refusal stands without it.
            let _unreadable = file.read_to_string(&mut pid);
            let holder = match pid.trim() {
                "" => "another process".to_string(),
                pid => format!("process {pid}"),
            };
            return Err(Error::InUse { path: root.display().to_string(), holder });
        }
        Err(error) => return Err(fail(error.into())),
    }
    file.set_len(0).map_err(fail)?;
    file.rewind().map_err(fail)?;
    match writeln!(file, "{}", std::process::id()) {
        // On a full disk the node starts all the same, and makes room: the lock holds without the pid.
        Err(error) if error.kind() == ErrorKind::StorageFull => {}
        written => written.map_err(fail)?,
    }
    Ok(file)
}

fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| io("syncing", path, error))
}

fn io(doing: &str, path: &Path, error: impl std::fmt::Display) -> Error {
    Error::Io { doing: format!("{doing} {}", path.display()), what: error.to_string() }
}
