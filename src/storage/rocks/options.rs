//! How RocksDB is set up: what all stores of a node share, and what the two kinds of engine differ in.

use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Env, Options, ReadOptions, WriteBufferManager,
    WriteOptions,
};

use super::super::{BlockCache, Durability, Error};

const MIB: usize = 1 << 20;
/// A data engine's memtable. Small, since there are many engines.
const DATA_WRITE_BUFFER_BYTES: usize = 4 * MIB;
const LOG_WRITE_BUFFER_BYTES: usize = 16 * MIB;
/// One that takes writes and two on their way to disk.
const WRITE_BUFFERS_MAX: i32 = 3;
const TABLE_FILE_BYTES: u64 = 16 << 20;
/// What a compaction writes stands beside its input until it ends, also on a disk that is almost full: so the first level is
/// small, and what a compaction of later levels takes is bounded.
const FIRST_LEVEL_BYTES: u64 = 4 * TABLE_FILE_BYTES;
const COMPACTION_BYTES_MAX: u64 = 4 * TABLE_FILE_BYTES;
const BLOCK_BYTES: usize = 16 << 10;
const FILTER_BITS_PER_KEY: f64 = 10.0;
/// What flushes and compactions of all stores together may write, so that they leave room for the log's syncs.
const BACKGROUND_BYTES_PER_SECOND: i64 = 128 << 20;
const RATE_REFILL_MICROS: i64 = 100_000;
const RATE_FAIRNESS: i32 = 10;
/// Each store keeps at most this part of the node's open files.
const OPEN_FILES_DIVISOR: u32 = 64;
const OPEN_FILES_PER_STORE_MIN: u32 = 16;
const INFO_LOG_BYTES_MAX: usize = MIB;
const INFO_LOGS_KEPT: usize = 2;
const MANIFEST_PREALLOCATION_BYTES: usize = 64 << 10;

/// What the stores of a node may use together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageOptions {
    /// Memory for blocks read from disk, indexes and filters, in bytes. Default 256 MiB.
    pub block_cache_bytes: usize,
    /// Memory for what is written and not yet flushed, in bytes. Default 128 MiB. A store is flushed to stay within it.
    pub write_buffer_bytes: usize,
    /// Threads for compactions; flushes have one of their own. Default 2. RocksDB keeps them per process.
    pub background_threads: u32,
    /// Table files held open. Default 4096. Each store has a 64th of it, so with more stores than that it is exceeded.
    pub open_files_max: u32,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 256 * MIB,
            write_buffer_bytes: 128 * MIB,
            background_threads: 2,
            open_files_max: 4096,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Log,
    Data,
}

impl Kind {
    /// With `Synced` the write-ahead log is written and synced; with `Buffered` it is not written (see `engine`).
    /// A data engine has none at all.
    pub(super) fn write_options(self, durability: Durability) -> WriteOptions {
        let logged = self == Kind::Log && durability == Durability::Synced;
        let mut options = WriteOptions::default();
        options.disable_wal(!logged);
        options.set_sync(logged);
        options
    }
}

/// The options that every store's are copied from. Copies share cache, write-buffer budget, threads, rate limiter and
/// counters.
pub(super) struct Shared {
    base: Options,
    cache: Cache,
}

impl Shared {
    pub(super) fn new(limits: &StorageOptions) -> Result<Self, Error> {
        let threads = i32::try_from(limits.background_threads.max(1)).unwrap_or(i32::MAX);
        let mut env =
            Env::new().map_err(|error| Error::Io { doing: "starting RocksDB".to_string(), what: error.to_string() })?;
        env.set_background_threads(threads);
        env.set_high_priority_background_threads(1);

        let mut table = BlockBasedOptions::default();
        let cache = Cache::new_lru_cache(limits.block_cache_bytes);
        table.set_block_cache(&cache);
        table.set_block_size(BLOCK_BYTES);
        table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);

        let mut base = Options::default();
        base.set_env(&env);
        base.set_block_based_table_factory(&table);
        // Without stalls: the node's own flusher and limits act long before.
        base.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(limits.write_buffer_bytes, false));
        base.set_ratelimiter(BACKGROUND_BYTES_PER_SECOND, RATE_REFILL_MICROS, RATE_FAIRNESS);
        base.set_max_background_jobs(threads.saturating_add(1));
        let open_files = (limits.open_files_max / OPEN_FILES_DIVISOR).max(OPEN_FILES_PER_STORE_MIN);
        base.set_max_open_files(i32::try_from(open_files).unwrap_or(i32::MAX));
        base.set_paranoid_checks(true);
        base.set_max_write_buffer_number(WRITE_BUFFERS_MAX);
        base.set_target_file_size_base(TABLE_FILE_BYTES);
        base.set_max_bytes_for_level_base(FIRST_LEVEL_BYTES);
        base.set_max_compaction_bytes(COMPACTION_BYTES_MAX);
        base.set_compression_type(DBCompressionType::Lz4);
        base.set_keep_log_file_num(INFO_LOGS_KEPT);
        base.set_max_log_file_size(INFO_LOG_BYTES_MAX);
        base.set_manifest_preallocation_size(MANIFEST_PREALLOCATION_BYTES);
        base.set_skip_stats_update_on_db_open(true);
        base.set_stats_dump_period_sec(0);
        base.set_stats_persist_period_sec(0);
        // Our own reader has cut off what a crash may leave, so anything odd that is left is rot.
        base.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
        // Finds a write-ahead log that is missing or was cut at a record's end.
        base.set_track_and_verify_wals_in_manifest(true);
        // Counters alone: timers and histograms would cost a little on every operation.
        base.enable_statistics();
        base.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        Ok(Self { base, cache })
    }

    pub(super) fn block_cache(&self) -> BlockCache {
        BlockCache {
            hits: self.base.get_ticker_count(Ticker::BlockCacheHit),
            misses: self.base.get_ticker_count(Ticker::BlockCacheMiss),
            bytes: self.cache.get_usage() as u64,
        }
    }

    pub(super) fn for_store(&self, kind: Kind) -> Options {
        let mut options = self.base.clone();
        match kind {
            Kind::Log => options.set_write_buffer_size(LOG_WRITE_BUFFER_BYTES),
            Kind::Data => {
                options.set_write_buffer_size(DATA_WRITE_BUFFER_BYTES);
                options.set_bottommost_compression_type(DBCompressionType::Zstd);
            }
        }
        options
    }
}

pub(super) fn read_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options
}
