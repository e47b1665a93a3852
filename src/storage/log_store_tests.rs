//! The log store one promise at a time: what is durable when, what readers may see while others write, and who is let in.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use futures::FutureExt;
use futures::executor::block_on;

use super::*;
use crate::clock;
use crate::storage::mem::MemDisk;
use crate::storage::registry::ReplicaLife;
use crate::storage::rocks::{RocksDisk, StorageOptions};
use crate::storage::spy::SpyDisk;
use crate::types::ShardId;

const STORE: StoreId = StoreId(7);
const ONE: ReplicaId = ReplicaId(1);
const TWO: ReplicaId = ReplicaId(2);
const AMPLE: u64 = 64 << 20;
/// Longest time a test waits for something that should happen soon.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Entries that say who wrote them.
pub(super) fn entries(from: u64, to: u64, writer: &str) -> Vec<(u64, Bytes)> {
    (from..to).map(|index| (index, bytes(&format!("{writer} {index}")))).collect()
}

fn ignored() -> Done {
    Box::new(|_| {})
}

/// Appends and waits for the callback.
pub(super) async fn append_durably(log: &GroupLog, entries: Vec<(u64, Bytes)>) {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    log.append(entries, Box::new(move |result| sender.send(result).unwrap())).await.unwrap();
    receiver.await.expect("a callback is called").unwrap();
}

pub(super) fn live(directory: u64) -> RegistryRecord {
    RegistryRecord { shard: ShardId(3), state: ReplicaLife::Live { directory } }
}

fn tombstone() -> RegistryRecord {
    RegistryRecord { shard: ShardId(3), state: ReplicaLife::Tombstone }
}

fn corrupt<T>(result: Result<T, Error>) -> String {
    let error = result.err().expect("it is refused");
    assert!(error.is_corruption(), "{error}");
    error.to_string()
}

/// Waits for another thread.
pub(super) fn eventually(condition: impl Fn() -> bool) {
    let begun = clock::now();
    while !condition() {
        assert!(clock::now().since(begun) < PATIENCE);
        std::thread::yield_now();
    }
}

/// Opens a store again whose writer has just been told to end.
pub(super) async fn reopen(disk: &dyn Disk, tail_bytes_max: u64) -> LogStore {
    let begun = clock::now();
    loop {
        match LogStore::open(disk, STORE, false, tail_bytes_max) {
            Err(Error::InUse { .. }) if clock::now().since(begun) < PATIENCE => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

/// A log whose blocking writer has a thread, so that a test may act in the middle of a read.
fn watched(tail_bytes_max: u64) -> (SpyDisk, LogStore, GroupLog) {
    let disk = SpyDisk::new(1, true);
    let store = LogStore::open(&disk, STORE, true, tail_bytes_max).unwrap();
    let log = store.open_group(ONE).unwrap();
    (disk, store, log)
}

/// Entries 0 to 299, of which the first 200 are in the engine alone (the tail's budget is none).
fn filled(log: &GroupLog, writer: &str) {
    block_on(append_durably(log, entries(0, 200, writer)));
    block_on(append_durably(log, entries(200, 300, writer)));
}

#[tokio::test]
async fn a_callback_comes_after_the_sync_of_its_entries() {
    for threads in [false, true] {
        let disk = SpyDisk::new(1, threads);
        let store = LogStore::open(&disk, STORE, true, AMPLE).unwrap();
        let log = store.open_group(ONE).unwrap();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        for index in 0..200 {
            let (spy, told) = (disk.spy.clone(), told.clone());
            let done: Done = Box::new(move |result| {
                result.unwrap();
                told.send((index, spy.is_durable(&keys::entry(ONE, index)))).unwrap();
            });
            log.append(entries(index, index + 1, "a"), done).await.unwrap();
        }
        for index in 0..200 {
            let answer = tokio::time::timeout(PATIENCE, heard.recv()).await.expect("all are called");
            assert_eq!(answer, Some((index, true)), "in order, each once, none before its sync");
        }
    }
}

#[tokio::test]
async fn votes_truncations_records_and_tombstones_are_durable_on_return() {
    let disk = MemDisk::new(1);
    let reopened = || {
        disk.crash_losing_everything_unsynced();
        let store = LogStore::open(&disk, STORE, false, AMPLE).unwrap();
        let log = store.open_group(ONE).unwrap();
        (store, log)
    };
    drop(LogStore::open(&disk, STORE, true, AMPLE).unwrap());
    let (store, _) = reopened();
    store.put_record(ONE, live(1)).await.unwrap();
    let (store, log) = reopened();
    assert_eq!(store.record(ONE), Some(live(1)));
    log.save_vote(bytes("vote")).await.unwrap();
    let (_, log) = reopened();
    assert_eq!(log.read_vote().unwrap(), Some(bytes("vote")));
    append_durably(&log, entries(0, 10, "old")).await;
    log.truncate_after(Some(3)).await.unwrap();
    let (_, log) = reopened();
    assert_eq!(log.read(0, 100, usize::MAX).unwrap(), entries(0, 4, "old"));
    log.truncate_after(None).await.unwrap();
    let (_, log) = reopened();
    assert_eq!((log.last_index(), log.read(0, 100, usize::MAX).unwrap()), (None, Vec::new()));
}

#[tokio::test]
async fn what_many_groups_queue_is_one_write_and_one_sync() {
    let disk = SpyDisk::new(1, false);
    let store = LogStore::open(&disk, STORE, true, AMPLE).unwrap();
    let before = disk.spy.writes.load(Ordering::SeqCst);
    let called = Arc::new(AtomicUsize::new(0));
    let logs: Vec<GroupLog> = (1..=50).map(|id| store.open_group(ReplicaId(id)).unwrap()).collect();
    for log in &logs {
        let called = called.clone();
        let done: Done = Box::new(move |result| {
            result.unwrap();
            called.fetch_add(1, Ordering::SeqCst);
        });
        log.append(entries(0, 3, "a"), done).await.unwrap();
    }
    assert_eq!(called.load(Ordering::SeqCst), 0, "the writer has not run yet");
    logs[0].save_vote(bytes("vote")).await.unwrap();
    assert_eq!(called.load(Ordering::SeqCst), 50, "a vote waits for everything queued before it");
    assert_eq!(disk.spy.writes.load(Ordering::SeqCst) - before, 1);
}

#[tokio::test]
async fn a_large_queue_is_cut_into_writes_of_bounded_size() {
    let disk = SpyDisk::new(1, false);
    let store = LogStore::open(&disk, STORE, true, AMPLE).unwrap();
    let log = store.open_group(ONE).unwrap();
    let before = disk.spy.writes.load(Ordering::SeqCst);
    for index in 0..20 {
        log.append(vec![(index, Bytes::from(vec![0; 1 << 20]))], ignored()).await.unwrap();
    }
    log.save_vote(bytes("vote")).await.unwrap();
    assert_eq!(disk.spy.writes.load(Ordering::SeqCst) - before, 3, "8 MiB at a time");
}

#[tokio::test]
async fn a_failed_write_is_told_to_all_who_wait_and_refuses_what_follows() {
    let disk = MemDisk::new(1);
    let store = LogStore::open(&disk, STORE, true, AMPLE).unwrap();
    let logs = [store.open_group(ONE).unwrap(), store.open_group(TWO).unwrap()];
    disk.fail_next_log_write();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    for log in &logs {
        let told = told.clone();
        log.append(entries(0, 1, "a"), Box::new(move |result| told.send(result.is_err()).unwrap())).await.unwrap();
    }
    assert_eq!((heard.recv().await, heard.recv().await), (Some(true), Some(true)));
    assert!(logs[0].save_vote(bytes("vote")).await.is_err());
}

#[tokio::test]
async fn an_empty_append_is_done_at_once() {
    let (_disk, _store, log) = watched(AMPLE);
    append_durably(&log, Vec::new()).await;
    assert_eq!(log.last_index(), None);
}

#[tokio::test]
async fn a_purge_beyond_the_last_entry_moves_the_log_there() {
    let disk = MemDisk::new(1);
    let store = LogStore::open(&disk, STORE, true, AMPLE).unwrap();
    let log = store.open_group(ONE).unwrap();
    append_durably(&log, entries(0, 5, "a")).await;
    log.purge(100, bytes("marker")).await.unwrap();
    let expected = (Some(100), Some((100, bytes("marker"))));
    assert_eq!((log.last_index(), log.purged()), expected);
    assert!(log.read(0, 200, usize::MAX).unwrap().is_empty());
    append_durably(&log, entries(101, 103, "b")).await;
    drop((store, log));
    disk.crash_losing_everything_unsynced();
    let log = LogStore::open(&disk, STORE, false, AMPLE).unwrap().open_group(ONE).unwrap();
    assert_eq!((log.last_index(), log.purged()), (Some(102), expected.1));
    assert_eq!(log.read(0, 200, usize::MAX).unwrap(), entries(101, 103, "b"));
}

#[tokio::test]
async fn a_purge_below_an_earlier_one_changes_nothing() {
    let disk = MemDisk::new(1);
    let store = LogStore::open(&disk, STORE, true, AMPLE).unwrap();
    let log = store.open_group(ONE).unwrap();
    append_durably(&log, entries(0, 10, "a")).await;
    log.purge(6, bytes("six")).await.unwrap();
    log.purge(3, bytes("three")).await.unwrap();
    log.save_vote(bytes("vote")).await.unwrap();
    drop((store, log));
    let log = reopen(&disk, AMPLE).await.open_group(ONE).unwrap();
    assert_eq!(log.purged(), Some((6, bytes("six"))));
    assert_eq!(log.read(0, 100, usize::MAX).unwrap(), entries(7, 10, "a"));
}

#[test]
fn a_purge_in_the_middle_of_a_read_takes_only_the_head() {
    let (disk, _store, log) = watched(0);
    filled(&log, "a");
    for (view, kept_from) in [("before", 100), ("after", 150)] {
        let other = log.clone();
        if view == "after" {
            disk.spy.after_next_view(move || block_on(other.purge(149, bytes("marker"))).unwrap());
        } else {
            block_on(other.purge(99, bytes("marker"))).unwrap();
        }
        assert_eq!(log.read(0, 300, usize::MAX).unwrap(), entries(kept_from, 300, "a"), "purged {view} the view");
    }
    // Everything that was asked for is purged meanwhile: nothing is left, and that is no hole.
    let other = log.clone();
    disk.spy.after_next_view(move || block_on(other.purge(250, bytes("marker"))).unwrap());
    assert!(log.read(160, 200, usize::MAX).unwrap().is_empty());
}

#[test]
fn entries_replaced_in_the_middle_of_a_read_are_not_handed_out() {
    let (disk, _store, log) = watched(0);
    filled(&log, "old");
    let other = log.clone();
    disk.spy.after_next_view(move || {
        block_on(other.truncate_after(Some(49))).unwrap();
        block_on(append_durably(&other, entries(50, 300, "new")));
    });
    let read = log.read(0, 300, usize::MAX).unwrap();
    let now = [entries(0, 50, "old"), entries(50, 300, "new")].concat();
    assert_eq!(read, now[..read.len()], "what is read is one log, never the head of one and the tail of another");
    assert_eq!(log.read(0, 300, usize::MAX).unwrap(), now);
}

#[test]
fn a_cut_in_the_middle_of_a_read_shortens_it() {
    let (disk, _store, log) = watched(0);
    filled(&log, "old");
    let other = log.clone();
    disk.spy.after_next_view(move || block_on(other.truncate_after(Some(49))).unwrap());
    assert_eq!(log.read(0, 300, usize::MAX).unwrap(), entries(0, 50, "old"));
}

#[test]
fn a_hole_in_the_engine_is_an_error_and_never_a_shorter_or_later_answer() {
    for (gone, asked) in [(10, 0), (10, 10), (0, 0)] {
        let disk = MemDisk::new(1);
        let log_engine = disk.open_log().unwrap();
        let mut batch = crate::storage::Batch::default();
        batch.put(keys::LOG_IDENTITY, Bytes::copy_from_slice(&STORE.0.to_be_bytes()));
        for (index, entry) in entries(0, 300, "a").into_iter().filter(|(index, _)| *index != gone) {
            batch.put(keys::entry(ONE, index), entry);
        }
        log_engine.write(batch, Durability::Synced).unwrap();
        drop(log_engine);
        let threads = SpyDisk { inner: disk, spy: Arc::default(), threads: true };
        let log = LogStore::open(&threads, STORE, false, 0).unwrap().open_group(ONE).unwrap();
        let what = corrupt(log.read(asked, 300, usize::MAX));
        assert!(what.contains(&format!("entry {gone} is missing")), "{what}");
        corrupt(log.read(asked, gone + 1, usize::MAX));
    }
}

#[test]
fn a_completion_from_before_a_cut_says_nothing_about_what_stands_there_now() {
    let (disk, _store, log) = watched(0);
    block_on(append_durably(&log, entries(0, 100, "old")));
    // The writer waits before the write of the old entries; meanwhile they are cut off and others stand in their place.
    let (release, held) = mpsc::channel::<()>();
    disk.spy.before_next_write(move || held.recv().unwrap());
    let (release_again, held_again) = mpsc::channel::<()>();
    let (told, heard) = mpsc::channel();
    let spy = disk.spy.clone();
    let done: Done = Box::new(move |result| {
        // It waits once more, before cut and new entries reach the engine.
        spy.before_next_write(move || held_again.recv().unwrap());
        told.send(result.is_ok()).unwrap();
    });
    block_on(log.append(entries(100, 300, "old"), done)).unwrap();
    // By now the writer holds the old entries alone, or it would take the cut into the same write.
    let mut cut = Box::pin(async {
        eventually(|| disk.spy.is_held());
        log.truncate_after(Some(149)).await
    });
    assert!((&mut cut).now_or_never().is_none(), "it waits for the writer");
    block_on(log.append(entries(150, 400, "new"), ignored())).unwrap();
    release.send(()).unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(true));
    // This append trims the tail of what is known to be in the engine.
    block_on(log.append(entries(400, 401, "new"), ignored())).unwrap();
    let now = [entries(0, 150, "old"), entries(150, 401, "new")].concat();
    assert_eq!(log.read(0, 500, usize::MAX).unwrap(), now);
    release_again.send(()).unwrap();
    block_on(cut).unwrap();
    assert_eq!(log.read(0, 500, usize::MAX).unwrap(), now);
}

#[tokio::test]
async fn a_destroyed_replica_leaves_a_tombstone_and_nothing_else() {
    let disk = MemDisk::new(1);
    let store = LogStore::open(&disk, STORE, true, AMPLE).unwrap();
    for replica in [ONE, TWO] {
        let log = store.open_group(replica).unwrap();
        store.put_record(replica, live(1)).await.unwrap();
        append_durably(&log, entries(0, 10, "a")).await;
        log.purge(4, bytes("marker")).await.unwrap();
        log.save_committed(bytes("committed")).await.unwrap();
        log.save_vote(bytes("vote")).await.unwrap();
    }
    store.destroy(ONE, tombstone()).await.unwrap();
    drop(store);
    disk.crash_losing_everything_unsynced();
    let store = LogStore::open(&disk, STORE, false, AMPLE).unwrap();
    assert_eq!(store.records(), BTreeMap::from([(ONE, tombstone()), (TWO, live(1))]));
    let log = store.open_group(ONE).unwrap();
    assert_eq!((log.read_vote().unwrap(), log.purged(), log.last_index()), (None, None, None));
    assert_eq!(log.read_committed().unwrap(), None);
    assert!(store.put_record(ONE, live(2)).await.is_err(), "out of its grave");
    let other = store.open_group(TWO).unwrap();
    assert_eq!(other.read_vote().unwrap(), Some(bytes("vote")));
    assert_eq!(other.read(0, 100, usize::MAX).unwrap(), entries(5, 10, "a"));
}

#[tokio::test]
async fn a_lost_log_and_a_foreign_one_are_refused() {
    let disk = MemDisk::new(1);
    let lost = corrupt(LogStore::open(&disk, STORE, false, AMPLE));
    assert!(lost.contains("is gone"), "{lost}");
    drop(LogStore::open(&disk, STORE, true, AMPLE).unwrap());
    tokio::task::yield_now().await;
    disk.crash_losing_everything_unsynced();
    for is_new in [false, true] {
        let foreign = corrupt(LogStore::open(&disk, StoreId(8), is_new, AMPLE));
        assert!(foreign.contains("belongs to another store"), "{foreign}");
    }
    LogStore::open(&disk, STORE, false, AMPLE).unwrap();
}

#[tokio::test]
async fn the_copy_of_the_catalog_is_there_after_the_next_sync() {
    let disk = MemDisk::new(1);
    let store = LogStore::open(&disk, STORE, true, AMPLE).unwrap();
    store.put_catalog_copy(bytes("catalog")).await.unwrap();
    store.put_record(ONE, live(1)).await.unwrap();
    drop(store);
    disk.crash_losing_everything_unsynced();
    let store = LogStore::open(&disk, STORE, false, AMPLE).unwrap();
    assert_eq!(store.catalog_copy().unwrap(), Some(bytes("catalog")));
}

#[test]
fn memory_held_by_tails_stays_near_its_bound_and_is_given_back() {
    let (_disk, store, log) = watched(100_000);
    for index in 0..3000 {
        block_on(append_durably(&log, vec![(index, Bytes::from(vec![0; 1000]))]));
        assert!(store.shared.tail_bytes.load(Ordering::Relaxed) <= 101_000);
    }
    assert_eq!(log.read(0, 3000, usize::MAX).unwrap().len(), 3000, "the rest is in the engine");
    block_on(log.purge(2990, bytes("marker"))).unwrap();
    assert_eq!(store.shared.tail_bytes.load(Ordering::Relaxed), 9000);
    block_on(log.truncate_after(Some(2995))).unwrap();
    assert_eq!(store.shared.tail_bytes.load(Ordering::Relaxed), 5000);
    drop(log);
    assert_eq!(store.shared.tail_bytes.load(Ordering::Relaxed), 0);
}

/// Readers never see a hole, a stranger's entry or a late start that no purge explains, while other threads append,
/// purge and truncate.
#[test]
fn readers_beside_writers_see_one_contiguous_log_on_a_real_disk() {
    const ROUNDS: u64 = 60;
    const BATCH: u64 = 50;
    let directory = tempfile::tempdir().unwrap();
    let disk = RocksDisk::open(directory.path(), &StorageOptions::default()).unwrap();
    let store = LogStore::open(&disk, STORE, true, 0).unwrap();
    let logs = [store.open_group(ONE).unwrap(), store.open_group(TWO).unwrap()];
    let finished = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (log, name) in logs.iter().zip(["one", "two"]) {
            let finished = &finished;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let from = log.last_index().map_or(0, |last| last + 1);
                    block_on(append_durably(log, entries(from, from + BATCH, name)));
                    if round % 3 == 1 {
                        block_on(log.purge(from - 10, bytes("marker"))).unwrap();
                    }
                    if round % 4 == 3 {
                        block_on(log.truncate_after(Some(from + BATCH / 2))).unwrap();
                    }
                }
                finished.fetch_add(1, Ordering::SeqCst);
            });
            scope.spawn(move || {
                let mut reads = 0;
                while finished.load(Ordering::SeqCst) < 2 || reads < 100 {
                    let start = log.purged().map_or(0, |(index, _)| index.saturating_sub(5));
                    let read = log.read(start, u64::MAX, 1 << 14).unwrap();
                    let first = read.first().map_or(start, |(index, _)| *index);
                    let purged_since = log.purged().map_or(0, |(index, _)| index + 1);
                    assert!(first == start || first <= purged_since, "{first} after {start}");
                    assert_eq!(read, entries(first, first + read.len() as u64, name));
                    reads += 1;
                }
            });
        }
    });
    let expected: Vec<_> = logs.iter().map(|log| (log.last_index(), log.purged())).collect();
    drop((logs, store));
    let store = block_on(reopen(&disk, 0));
    for ((replica, name), (last, purged)) in [(ONE, "one"), (TWO, "two")].into_iter().zip(expected) {
        let log = store.open_group(replica).unwrap();
        assert_eq!((log.last_index(), log.purged()), (last, purged.clone()));
        let first = purged.map_or(0, |(index, _)| index + 1);
        assert_eq!(log.read(0, u64::MAX, usize::MAX).unwrap(), entries(first, last.unwrap() + 1, name));
    }
}
