//! One RocksDB as an [`Engine`], and its views.
//!
//! How the log engine keeps every record of its write-ahead log synced before the next is begun, which the check at the
//! next start rests on (`wal`): a synced batch is written and synced in one go, under a lock. A buffered batch goes to
//! the memtable alone and is kept; the next synced batch carries it along, in front of its own changes. The changes then
//! are made twice, with nothing in between, which comes to the same. An unsynced record in the write-ahead log would save
//! nothing and cost that certainty: a crash could lose it and keep the record behind it, and that looks like rot.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{CompactOptions, DB, ErrorKind, IteratorMode, ReadOptions, Snapshot, WriteBatch, properties};

use super::super::wal::Found;
use super::super::{Batch, Change, Durability, Engine, Error, KeyRange, Row, TableBytes, View};
use super::compactor::Closed;
use super::options::{Kind, Shared, read_options};
use super::{OpenMark, sync_directory};

/// Buffered changes that the log engine keeps before it syncs them of its own accord, in bytes.
const BUFFERED_BYTES_MAX: usize = 1 << 20;

/// An open RocksDB. Engine and views share it; it closes when the last of them is gone.
pub(super) struct Store {
    db: DB,
    path: PathBuf,
    kind: Kind,
    reads: ReadOptions,
    #[cfg(test)]
    options: rocksdb::Options,
    // After `db`: the directory is free only when RocksDB has closed.
    mark: OpenMark,
}

impl Store {
    pub(super) fn open(
        path: &Path,
        kind: Kind,
        found: Found,
        shared: &Shared,
        mark: OpenMark,
    ) -> Result<Arc<Self>, Error> {
        let mut options = shared.for_store(kind);
        // Never when a store is there: RocksDB would begin anew where it cannot see the old one.
        options.create_if_missing(found == Found::Nothing);
        let db = DB::open(&options, path).map_err(|error| translate("opening", path, &error))?;
        Ok(Arc::new(Self {
            db,
            path: path.to_path_buf(),
            kind,
            reads: read_options(),
            #[cfg(test)]
            options,
            mark,
        }))
    }

    pub(super) fn compact(&self, range: &KeyRange) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        self.db.compact_range_opt(Some(&range.from), range.before.as_ref(), &options);
    }

    fn property(&self, name: &properties::PropName) -> u64 {
        self.db.property_int_value(name).ok().flatten().unwrap_or_default()
    }

    fn found(&self, result: Result<Option<Vec<u8>>, rocksdb::Error>) -> Result<Option<Bytes>, Error> {
        result.map(|value| value.map(Bytes::from)).map_err(|error| translate("reading", &self.path, &error))
    }
}

/// What the writers of an engine take turns at.
#[derive(Default)]
struct Writer {
    /// Set by the first failed write or flush. What reached the disk is unknown then, so nothing more is written.
    failed: Option<String>,
    /// The log engine's buffered changes that its write-ahead log does not hold yet.
    buffered: Batch,
    buffered_bytes: usize,
}

/// An open store as the server sees it.
///
/// Invariants: all writes go through `writer`, one at a time; after a failure there are none; when `closed` is set, the
/// compactor has let go of the store.
pub(super) struct RocksEngine {
    store: Arc<Store>,
    writer: Mutex<Writer>,
    closed: Closed,
}

impl RocksEngine {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, writer: Mutex::default(), closed: Closed::default() }
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>, Error> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match &writer.failed {
            Some(first) => Err(Error::Io {
                doing: format!("writing {}", self.store.path.display()),
                what: format!("it takes no more writes since this failed: {first}"),
            }),
            None => Ok(writer),
        }
    }

    fn write_through(&self, writer: &mut Writer, batches: [&Batch; 2], durability: Durability) -> Result<(), Error> {
        let mut together = WriteBatch::default();
        batches.iter().flat_map(|batch| &batch.changes).for_each(|change| add(&mut together, change));
        if together.is_empty() {
            return Ok(());
        }
        let options = self.store.kind.write_options(durability);
        let result = self.store.db.write_opt(together, &options);
        self.settle(writer, "writing", result)
    }

    /// Writes to the write-ahead log, and syncs, what it does not hold yet, and then `batch`.
    fn write_synced(&self, writer: &mut Writer, batch: &Batch) -> Result<(), Error> {
        let buffered = std::mem::take(&mut writer.buffered);
        writer.buffered_bytes = 0;
        self.write_through(writer, [&buffered, batch], Durability::Synced)
    }

    fn settle(&self, writer: &mut Writer, doing: &str, result: Result<(), rocksdb::Error>) -> Result<(), Error> {
        result.map_err(|error| {
            let error = translate(doing, &self.store.path, &error);
            writer.failed = Some(error.to_string());
            error
        })
    }

    #[cfg(test)]
    pub(super) fn log_syncs(&self) -> u64 {
        self.store.options.get_ticker_count(rocksdb::statistics::Ticker::WalFileSynced)
    }
}

impl Drop for RocksEngine {
    fn drop(&mut self) {
        // Waits for a compaction of this store that is under way.
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), Error> {
        let mut writer = self.writer()?;
        match (self.store.kind, durability) {
            (Kind::Data, _) => self.write_through(&mut writer, [&batch, &Batch::default()], durability),
            (Kind::Log, Durability::Synced) => self.write_synced(&mut writer, &batch),
            (Kind::Log, Durability::Buffered) => {
                let bytes = super::super::batch_bytes(&batch);
                if writer.buffered_bytes + bytes > BUFFERED_BYTES_MAX {
                    return self.write_synced(&mut writer, &batch);
                }
                self.write_through(&mut writer, [&batch, &Batch::default()], durability)?;
                writer.buffered.changes.extend(batch.changes);
                writer.buffered_bytes += bytes;
                Ok(())
            }
        }
    }

    fn write_if_no_stall(&self, batch: &Batch) -> Result<bool, Error> {
        if self.store.kind == Kind::Log {
            return self.write(batch.clone(), Durability::Buffered).map(|()| true);
        }
        let mut writer = self.writer()?;
        let mut changes = WriteBatch::default();
        batch.changes.iter().for_each(|change| add(&mut changes, change));
        let mut options = self.store.kind.write_options(Durability::Buffered);
        options.set_no_slowdown(true);
        match self.store.db.write_opt(changes, &options) {
            Err(stalled) if stalled.kind() == ErrorKind::Incomplete => Ok(false),
            result => self.settle(&mut writer, "writing", result).map(|()| true),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.store.found(self.store.db.get_opt(key, &self.store.reads))
    }

    fn view(&self) -> Box<dyn View> {
        Box::new(RocksView::new(self.store.clone()))
    }

    fn flush(&self) -> Result<(), Error> {
        match self.store.kind {
            Kind::Log => {
                let mut writer = self.writer()?;
                self.write_synced(&mut writer, &Batch::default())
            }
            Kind::Data => {
                // Without the writers' lock: they go on during the flush.
                drop(self.writer()?);
                let result = self.store.db.flush();
                let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
                self.settle(&mut writer, "flushing", result)
            }
        }
    }

    fn checkpoint(&self, directory: &str) -> Result<(), Error> {
        // Flushed by the engine and not by RocksDB on the way: so a failure is this engine's.
        self.flush()?;
        let (path, replicas) = self.store.mark.root.replica_path(directory)?;
        let made = Checkpoint::new(&self.store.db).and_then(|checkpoint| checkpoint.create_checkpoint(&path));
        made.map_err(|error| translate("copying into", &path, &error))?;
        sync_directory(&replicas)
    }

    fn unflushed_bytes(&self) -> u64 {
        let entries = self.store.property(properties::NUM_ENTRIES_ACTIVE_MEM_TABLE)
            + self.store.property(properties::NUM_ENTRIES_IMM_MEM_TABLES);
        // An empty memtable has a size too; it must not ask for a flush.
        if entries == 0 { 0 } else { self.store.property(properties::CUR_SIZE_ALL_MEM_TABLES) }
    }

    fn disk_bytes(&self) -> u64 {
        let tables = self.store.property(properties::TOTAL_SST_FILES_SIZE);
        match self.store.kind {
            Kind::Log => tables + write_ahead_log_bytes(&self.store.path),
            Kind::Data => tables,
        }
    }

    fn table_bytes(&self) -> TableBytes {
        let tables = self.store.db.property_value(properties::AGGREGATED_TABLE_PROPERTIES);
        tables.ok().flatten().map_or_else(TableBytes::default, |text| table_bytes(&text))
    }

    fn compact(&self, range: &KeyRange) {
        self.store.mark.root.compactor.request(&self.store, &self.closed, range.clone());
    }
}

/// Reads `name=value; ` pairs, as RocksDB tells of its tables.
fn table_bytes(text: &str) -> TableBytes {
    let value = |name: &str| {
        let pair = text.split(';').find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='));
        pair.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or_default()
    };
    TableBytes {
        raw: value("raw key size") + value("raw value size"),
        stored: value("data block size"),
        deletions: value("# deletions"),
    }
}

/// A RocksDB snapshot that keeps its database open.
struct RocksView {
    // Before `store`: fields are dropped in order, and the snapshot is given back to the database.
    snapshot: Snapshot<'static>,
    store: Arc<Store>,
}

impl RocksView {
    #[expect(unsafe_code, reason = "the snapshot borrows from the database in the Arc beside it")]
    fn new(store: Arc<Store>) -> Self {
        let db: *const DB = &raw const store.db;
        // SAFETY: the database lives on the heap behind `store`, which never moves or changes it and which this view
        // holds until after the snapshot is dropped. The reference does not leave the view: iterators borrow the view.
        let snapshot = unsafe { &*db }.snapshot();
        Self { snapshot, store }
    }

    fn rows(
        &self,
        range: &KeyRange,
        from: IteratorMode<'_>,
    ) -> Box<dyn Iterator<Item = Result<Row, Error>> + Send + '_> {
        if range.before.as_ref().is_some_and(|before| *before <= range.from) {
            return Box::new(std::iter::empty());
        }
        let mut options = read_options();
        options.set_iterate_lower_bound(range.from.as_ref());
        if let Some(before) = &range.before {
            options.set_iterate_upper_bound(before.as_ref());
        }
        let path = &self.store.path;
        Box::new(self.snapshot.iterator_opt(from, options).map(move |row| match row {
            Ok((key, value)) => Ok((Bytes::from(key), Bytes::from(value))),
            Err(error) => Err(translate("scanning", path, &error)),
        }))
    }
}

impl View for RocksView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.store.found(self.snapshot.get_opt(key, read_options()))
    }

    fn scan(&self, range: &KeyRange) -> Box<dyn Iterator<Item = Result<Row, Error>> + Send + '_> {
        self.rows(range, IteratorMode::Start)
    }

    fn scan_reverse(&self, range: &KeyRange) -> Box<dyn Iterator<Item = Result<Row, Error>> + Send + '_> {
        self.rows(range, IteratorMode::End)
    }
}

fn add(batch: &mut WriteBatch, change: &Change) {
    match change {
        Change::Put(key, value) => batch.put(key, value),
        Change::Delete(key) => batch.delete(key),
        // RocksDB takes an inverted range for an error, and only after it has written it to the log.
        Change::DeleteRange(from, before) if from >= before => {}
        Change::DeleteRange(from, before) => batch.delete_range(from, before),
    }
}

fn write_ahead_log_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"))
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// RocksDB's errors in the words of the seam. Its messages name file and offset.
fn translate(doing: &str, path: &Path, error: &rocksdb::Error) -> Error {
    let doing = format!("{doing} {}", path.display());
    let message = error.to_string();
    // A table that the MANIFEST names and that is gone is damage, whatever RocksDB calls it.
    let missing = message.contains("No such file") && message.contains("for random read");
    if error.kind() == ErrorKind::Corruption || missing {
        Error::Corrupt { what: format!("{doing}: {message}") }
    } else {
        Error::Io { doing, what: message }
    }
}
