//! openraft's readers are strict: what is missing is an error or an empty answer, never a shorter or later one.

use openraft::EntryPayload;

use super::super::testing::{SHARD, STORE, TAIL_BYTES, blank, entry, log_id, put, rows_of};
use super::*;
use crate::storage::log_store::LogStore;
use crate::storage::mem::MemDisk;
use crate::storage::registry::{RegistryRecord, ReplicaLife};
use crate::storage::{Batch, Disk, Durability, keys};
use crate::types::ReplicaId;
use crate::wire::golden;

const REPLICA: ReplicaId = ReplicaId(1);

fn new_log() -> RaftLog {
    let store = LogStore::open(&MemDisk::new(1), STORE, true, TAIL_BYTES).unwrap();
    RaftLog::new(store.open_group(REPLICA).unwrap(), Arc::default(), RaftMeters::default())
}

/// A log as it may be found at a start, damaged or not.
fn found(entries: &[(u64, Entry)]) -> RaftLog {
    let disk = MemDisk::new(1);
    let engine = disk.open_log().unwrap();
    let mut batch = Batch::default();
    batch.put(keys::LOG_IDENTITY, Bytes::copy_from_slice(&STORE.0.to_be_bytes()));
    for (index, entry) in entries {
        batch.put(keys::entry(REPLICA, *index), entry.to_bytes());
    }
    engine.write(batch, Durability::Synced).unwrap();
    drop(engine);
    let store = LogStore::open(&disk, STORE, false, TAIL_BYTES).unwrap();
    RaftLog::new(store.open_group(REPLICA).unwrap(), Arc::default(), RaftMeters::default())
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(RaftEntry::index).collect()
}

/// What a stream gives before it ends, and whether it ends with an error.
async fn streamed(log: &mut RaftLog, start: u64, end: u64) -> (Vec<u64>, bool) {
    let items: Vec<io::Result<Entry>> = futures::StreamExt::collect(log.entries_stream(start..end).await).await;
    let failed = items.last().is_some_and(Result::is_err);
    let entries: Vec<Entry> = items.into_iter().map_while(Result::ok).collect();
    (indexes(&entries), failed)
}

#[tokio::test]
async fn replication_reads_from_exactly_where_it_asked_or_nothing() {
    let mut log = new_log();
    log.append((0..20).map(blank), IOFlushed::noop()).await.unwrap();
    log.purge(log_id(1, 5)).await.unwrap();
    for start in [0, 3, 5] {
        assert!(log.limited_get_log_entries(start, 10).await.unwrap().is_empty(), "{start} is purged");
    }
    assert_eq!(indexes(&log.limited_get_log_entries(6, 10).await.unwrap()), [6, 7, 8, 9]);
    assert_eq!(indexes(&log.limited_get_log_entries(18, 30).await.unwrap()), [18, 19]);
    assert!(log.limited_get_log_entries(20, 30).await.unwrap().is_empty());
    assert_eq!(indexes(&log.try_get_log_entries(3..8).await.unwrap()), [6, 7]);
}

#[tokio::test]
async fn replication_reads_a_bounded_number_of_bytes_and_apply_all_of_them_in_pieces() {
    let mut log = new_log();
    let large = |index| entry(1, index, EntryPayload::Normal(put("k", vec![7; 600_000])));
    log.append((0..9).map(large), IOFlushed::noop()).await.unwrap();
    assert_eq!(indexes(&log.limited_get_log_entries(2, 9).await.unwrap()), [2, 3]);
    assert_eq!(streamed(&mut log, 1, 9).await, ((1..9).collect(), false));
}

#[tokio::test]
async fn a_hole_ends_the_stream_for_apply_with_an_error() {
    let with_hole: Vec<(u64, Entry)> = (0..20).filter(|index| *index != 7).map(|index| (index, blank(index))).collect();
    let mut log = found(&with_hole);
    assert_eq!(streamed(&mut log, 0, 7).await, ((0..7).collect(), false));
    assert!(streamed(&mut log, 0, 20).await.1);
    let (before, failed) = streamed(&mut log, 7, 20).await;
    assert!(before.is_empty() && failed);
    assert!(log.limited_get_log_entries(3, 20).await.is_err());
    assert!(log.try_get_log_entries(3..=7).await.is_err());
    assert_eq!(streamed(&mut log, 8, 20).await, ((8..20).collect(), false));
}

#[tokio::test]
async fn a_purged_start_is_an_error_for_apply() {
    let mut log = new_log();
    log.append((0..20).map(blank), IOFlushed::noop()).await.unwrap();
    log.purge(log_id(1, 5)).await.unwrap();
    let (before, failed) = streamed(&mut log, 4, 20).await;
    assert!(before.is_empty() && failed);
}

#[tokio::test]
async fn an_entry_under_another_s_index_is_refused() {
    let mut log = found(&[(0, blank(0)), (1, blank(2))]);
    assert!(log.try_get_log_entries(0..2).await.is_err());
}

#[tokio::test]
async fn a_purged_and_empty_log_ends_at_its_purge_marker() {
    let mut log = new_log();
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (None, None));
    log.append((0..3).map(blank), IOFlushed::noop()).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (None, Some(log_id(1, 2))));
    for beyond in [log_id(1, 2), log_id(4, 90)] {
        log.purge(beyond).await.unwrap();
        let state = log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(beyond), Some(beyond)));
    }
    log.append([entry(5, 91, EntryPayload::Blank)], IOFlushed::noop()).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(4, 90)), Some(log_id(5, 91))));
}

#[tokio::test]
async fn a_committed_hint_beyond_the_last_entry_is_not_believed() {
    let mut log = new_log();
    let vote = Vote { leader_id: LeaderId { term: 1, node_id: REPLICA }, committed: true };
    log.append((0..3).map(blank), IOFlushed::noop()).await.unwrap();
    for (hint, believed) in [(log_id(1, 2), Some(log_id(1, 2))), (log_id(1, 3), None)] {
        log.save_committed(Some(hint)).await.unwrap();
        log.save_vote(&vote).await.unwrap();
        assert_eq!(log.read_committed().await.unwrap(), believed);
    }
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
}

/// Everything the log engine holds, key by key, as openraft and the node write it.
#[tokio::test]
async fn the_log_engine_keeps_its_bytes() {
    let replica = ReplicaId(0x0102);
    let disk = MemDisk::new(1);
    let store = LogStore::open(&disk, STORE, true, TAIL_BYTES).unwrap();
    store
        .put_record(replica, RegistryRecord { shard: SHARD, state: ReplicaLife::Live { directory: 2 } })
        .await
        .unwrap();
    store.put_catalog_copy(Bytes::from_static(b"catalog")).await.unwrap();
    let mut log = RaftLog::new(store.open_group(replica).unwrap(), Arc::default(), RaftMeters::default());
    log.append((0..5).map(blank), IOFlushed::noop()).await.unwrap();
    log.purge(log_id(1, 2)).await.unwrap();
    log.save_committed(Some(log_id(1, 3))).await.unwrap();
    // Last, because it is synced, and with it what was written before.
    let vote = Vote { leader_id: LeaderId { term: 3, node_id: replica }, committed: false };
    log.save_vote(&vote).await.unwrap();
    disk.crash_losing_everything_unsynced();
    let rows = rows_of(disk.open_log().unwrap().view().as_ref());
    golden::check("log_engine", &rows.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_leader_that_is_voted_in_is_counted_once() {
    let store = LogStore::open(&MemDisk::new(1), STORE, true, TAIL_BYTES).unwrap();
    let meters = RaftMeters::default();
    let mut log = RaftLog::new(store.open_group(REPLICA).unwrap(), Arc::default(), meters.clone());
    let vote = |term, committed| Vote { leader_id: LeaderId { term, node_id: REPLICA }, committed };
    for (vote, counted) in
        [(vote(1, false), 0), (vote(1, true), 1), (vote(1, true), 1), (vote(2, false), 1), (vote(2, true), 2)]
    {
        log.save_vote(&vote).await.unwrap();
        assert_eq!(meters.leader_changes(), counted, "{vote}");
    }
}
