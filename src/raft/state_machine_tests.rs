//! Apply, flush and install on a disk that loses what was not flushed.

use std::time::Duration;

use futures::FutureExt;
use openraft::vote::RaftLeaderId;

use super::super::snapshot::{Receiver, Sender};
use super::super::testing::{Rows, SHARD, Stores, apply, blank, create, history, log_id, reopen, rows_of};
use super::super::{LeaderId, Vote};
use super::*;
use crate::clock;
use crate::raft::Entry;
use crate::storage::Disk;
use crate::storage::mem::MemDisk;
use crate::storage::spy::SpyDisk;
use crate::types::ReplicaId;
use crate::wire::golden;

fn index_of(meta: &SnapshotMeta<LeaderId, ReplicaId, super::super::Place>) -> Option<u64> {
    meta.last_log_id.map(|log_id| log_id.index())
}

fn vote() -> Vote {
    Vote { leader_id: LeaderId::new(1, ReplicaId(1)), committed: true }
}

#[tokio::test]
async fn an_entry_that_does_not_follow_the_last_one_is_refused() {
    let disk = Arc::new(MemDisk::new(1));
    let mut stores = create(disk, 1).await;
    apply(&mut stores.machine, history(0, 3)).await.unwrap();
    let rows = rows_of(stores.shared.store.view().as_ref());
    let older_leader = Entry { log_id: log_id(0, 3), payload: EntryPayload::Blank };
    for wrong in [vec![blank(4)], vec![blank(2)], vec![older_leader], vec![blank(3), blank(5)]] {
        // A replica stops at such an error; this one is made anew from its rows.
        let (mut machine, _) = StateMachine::open(
            stores.shared.store.clone(),
            stores.log.clone(),
            Nursery::new().0,
            RaftMeters::default(),
        )
        .unwrap();
        assert!(apply(&mut machine, wrong).await.is_err());
        assert_eq!(rows_of(stores.shared.store.view().as_ref()), rows, "nothing of the batch is written");
    }
    apply(&mut stores.machine, history(3, 5)).await.unwrap();
    assert_eq!(*stores.shared.applied.borrow(), Some(4));
}

/// Everything a replica's engine holds, key by key, as `apply` writes it.
#[tokio::test]
async fn the_replica_engine_keeps_its_bytes() {
    let mut stores = create(Arc::new(MemDisk::new(1)), 0x0102).await;
    apply(&mut stores.machine, history(0, 4)).await.unwrap();
    let rows = rows_of(stores.shared.store.view().as_ref());
    golden::check("replica_engine", &rows.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn an_error_of_the_log_is_passed_on_and_nothing_after_it_is_applied() {
    let mut stores = create(Arc::new(MemDisk::new(1)), 1).await;
    let mut items: Vec<io::Result<EntryResponder<TypeConfig>>> =
        history(0, 5).into_iter().map(|entry| Ok((entry, None))).collect();
    items.insert(3, Err(io::Error::other("hole")));
    assert!(stores.machine.apply(futures::stream::iter(items)).await.is_err());
    assert!(*stores.shared.applied.borrow() <= Some(2));
}

#[tokio::test]
async fn a_crash_leaves_rows_clocks_and_applied_index_of_one_moment_not_before_the_last_flush() {
    for seed in 0..60 {
        let disk = MemDisk::new(seed);
        let Stores { mut machine, shared, .. } = create(Arc::new(disk.clone()), 1).await;
        let mut moments: Vec<(Option<u64>, Rows)> = vec![(None, rows_of(shared.store.view().as_ref()))];
        let mut next = 0;
        for round in 0..12 {
            let to = next + 1 + (seed * 7 + round) % 5;
            apply(&mut machine, history(next, to)).await.unwrap();
            next = to;
            moments.push((Some(to - 1), rows_of(shared.store.view().as_ref())));
            if (seed + round).is_multiple_of(5) {
                assert_eq!(shared.flush().unwrap(), Some(to - 1));
            }
        }
        let flushed = shared.flushed_index();
        if seed.is_multiple_of(3) {
            disk.crash_losing_everything_unsynced();
        } else {
            disk.crash();
        }
        let mut after = reopen(Arc::new(disk.clone()), 1);
        let (applied, _) = after.machine.applied_state().await.unwrap();
        let applied = applied.map(|log_id| log_id.index());
        assert!(applied >= flushed, "{applied:?} after a flush of {flushed:?}");
        let found = (applied, rows_of(after.shared.store.view().as_ref()));
        assert!(moments.contains(&found), "seed {seed}: {applied:?} with rows of another moment");
        // The log replays the rest, to the same bytes.
        let from = applied.map_or(0, |applied| applied + 1);
        apply(&mut after.machine, history(from, next)).await.unwrap();
        assert_eq!(&rows_of(after.shared.store.view().as_ref()), &moments.last().unwrap().1);
    }
}

#[tokio::test]
async fn a_flush_reports_what_was_applied_before_it_began() {
    let disk = SpyDisk::new(1, false);
    let (mem, spy) = (disk.inner.clone(), disk.spy.clone());
    let Stores { mut machine, shared, .. } = create(Arc::new(disk), 1).await;
    apply(&mut machine, history(0, 10)).await.unwrap();
    let machine = Arc::new(tokio::sync::Mutex::new(machine));
    let applying = machine.clone();
    spy.during_next_flush(move || {
        let mut machine = applying.try_lock().unwrap();
        apply(&mut machine, history(10, 20)).now_or_never().expect("apply waits for nothing").unwrap();
    });
    assert_eq!(shared.flush().unwrap(), Some(9));
    assert_eq!((*shared.applied.borrow(), shared.flushed_index()), (Some(19), Some(9)));
    let mut machine = machine.lock().await;
    let mut builder = machine.try_create_snapshot_builder(true).await.expect("always a builder");
    assert_eq!(index_of(&builder.build_snapshot().await.unwrap().meta), Some(9), "openraft purges up to here");
    let current = machine.get_current_snapshot().await.unwrap().expect("something is applied");
    assert_eq!(index_of(&current.meta), Some(19));
    mem.crash_losing_everything_unsynced();
    let mut after = reopen(Arc::new(mem), 1);
    assert_eq!(after.machine.applied_state().await.unwrap().0, Some(log_id(1, 9)));
}

#[tokio::test]
async fn a_failed_flush_reports_nothing_new() {
    let disk = MemDisk::new(1);
    let Stores { mut machine, shared, .. } = create(Arc::new(disk.clone()), 1).await;
    apply(&mut machine, history(0, 10)).await.unwrap();
    disk.fail_next_replica_write(&directory_name(ReplicaId(1), 1));
    shared.flush().unwrap_err();
    assert_eq!(shared.flushed_index(), None);
}

#[tokio::test]
async fn the_current_snapshot_is_none_before_the_first_entry_alone_and_matches_its_meta() {
    let Stores { mut machine, shared, .. } = create(Arc::new(MemDisk::new(1)), 1).await;
    assert!(machine.get_current_snapshot().await.unwrap().is_none());
    for to in 1..6 {
        apply(&mut machine, history(to - 1, to)).await.unwrap();
        if to == 3 {
            shared.flush().unwrap();
        }
        let current = machine.get_current_snapshot().await.unwrap().expect("something is applied");
        assert_eq!(index_of(&current.meta), Some(to - 1));
        assert!(index_of(&current.meta) >= shared.flushed_index());
        let SnapshotData::View(view) = current.snapshot else { panic!("a view") };
        let record = applied_record(view.as_ref()).unwrap();
        assert_eq!((record.applied, record.membership), (current.meta.last_log_id, current.meta.last_membership));
    }
}

/// Opened again without a crash, a store may hold rows in memory that only a flush makes durable.
#[tokio::test]
async fn what_counts_as_flushed_after_a_start_survives_a_crash() {
    let disk = MemDisk::new(1);
    let Stores { mut machine, shared, log } = create(Arc::new(disk.clone()), 1).await;
    apply(&mut machine, history(0, 10)).await.unwrap();
    let identity = shared.store.identity();
    drop((machine, shared));
    let opened = ReplicaStore::open(Arc::new(disk.clone()), identity, 1).unwrap();
    let (_, shared) = StateMachine::open(opened, log, Nursery::new().0, RaftMeters::default()).unwrap();
    let flushed = shared.flushed_index();
    disk.crash_losing_everything_unsynced();
    let mut after = reopen(Arc::new(disk), 1);
    let applied = after.machine.applied_state().await.unwrap().0.map(|log_id| log_id.index());
    assert!(applied >= flushed, "{flushed:?} counted as flushed, {applied:?} is left");
}

/// A snapshot of `of` as it arrives at `at`.
fn received(
    of: &MachineShared,
    at: &MachineShared,
) -> (SnapshotMeta<LeaderId, ReplicaId, super::super::Place>, Box<Received>) {
    let mut sender = Sender::new(Arc::from(of.store.view()), SHARD).unwrap();
    let mut receiver = Receiver::begin(&at.store, 5, at.store.directory() + 1).unwrap();
    let (rows, last) = sender.next_rows().unwrap();
    assert!(last);
    let end = sender.end(vote());
    receiver.take(&super::super::snapshot::Chunk { stream: 5, position: 0, rows, end: None }).unwrap();
    let received = receiver.finish(&end).unwrap();
    (meta_of(received.record.clone()), Box::new(received))
}

#[tokio::test]
async fn a_crash_within_an_install_leaves_the_old_rows_and_after_it_the_new() {
    for finished in [false, true] {
        for lose_all in [false, true] {
            let leader = create(Arc::new(MemDisk::new(2)), 1).await;
            let mut leader_machine = leader.machine;
            apply(&mut leader_machine, history(0, 50)).await.unwrap();
            let disk = MemDisk::new(1);
            let Stores { mut machine, shared, log } = create(Arc::new(disk.clone()), 2).await;
            apply(&mut machine, history(0, 5)).await.unwrap();
            shared.flush().unwrap();
            let old = rows_of(shared.store.view().as_ref());
            let (meta, snapshot) = received(&leader.shared, &shared);
            let mut install = Box::pin(machine.install_snapshot(&meta, SnapshotData::Received(snapshot)));
            assert!((&mut install).now_or_never().is_none(), "it waits for the registry");
            assert_eq!(shared.store.directory(), 1, "nothing is switched before the record is durable");
            if finished {
                install.as_mut().await.unwrap();
                assert_eq!((shared.store.directory(), shared.flushed_index()), (2, Some(49)));
                assert_eq!(*shared.applied.borrow(), Some(49));
            }
            if lose_all {
                disk.crash_losing_everything_unsynced();
            } else {
                disk.crash();
            }
            drop((install, log));
            let mut after = reopen(Arc::new(disk), 2);
            let rows = rows_of(after.shared.store.view().as_ref());
            if finished {
                let (applied, _) = after.machine.applied_state().await.unwrap();
                assert_eq!(applied, Some(log_id(1, 49)));
                let digest =
                    |shared: &MachineShared| super::super::snapshot::digest(shared.store.view().as_ref(), SHARD);
                assert_eq!(digest(&after.shared).unwrap(), digest(&leader.shared).unwrap());
                apply(&mut after.machine, history(50, 55)).await.unwrap();
            } else {
                assert_eq!(rows, old);
                apply(&mut after.machine, history(5, 10)).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_replaced_directory_is_removed_once_its_views_are_gone() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let leader = create(Arc::new(MemDisk::new(2)), 1).await;
    let mut leader_machine = leader.machine;
    apply(&mut leader_machine, history(0, 50)).await.unwrap();
    let disk = MemDisk::new(1);
    let Stores { mut machine, shared, .. } = create(Arc::new(disk.clone()), 2).await;
    apply(&mut machine, history(0, 5)).await.unwrap();
    let view = shared.store.view();
    let before = rows_of(view.as_ref());
    let (meta, snapshot) = received(&leader.shared, &shared);
    machine.install_snapshot(&meta, SnapshotData::Received(snapshot)).await.unwrap();
    assert_eq!(rows_of(view.as_ref()), before, "a view from before the switch stays whole");
    drop(view);
    let begun = clock::now();
    while disk.replica_directories().unwrap() != ["2.2"] {
        assert!(clock::now().since(begun) < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_its_meta_says_is_refused() {
    let leader = create(Arc::new(MemDisk::new(2)), 1).await;
    let mut leader_machine = leader.machine;
    apply(&mut leader_machine, history(0, 50)).await.unwrap();
    let Stores { mut machine, shared, log } = create(Arc::new(MemDisk::new(1)), 2).await;
    apply(&mut machine, history(0, 5)).await.unwrap();
    let (meta, _) = received(&leader.shared, &shared);
    let other_index = SnapshotMeta { last_log_id: Some(log_id(1, 48)), ..meta.clone() };
    let other_members = SnapshotMeta { last_membership: StoredMembership::default(), ..meta };
    for wrong in [other_index, other_members] {
        let (_, snapshot) = received(&leader.shared, &shared);
        machine.install_snapshot(&wrong, SnapshotData::Received(snapshot)).await.unwrap_err();
    }
    assert_eq!((shared.store.directory(), *shared.applied.borrow()), (1, Some(4)));
    let RegistryRecord { state, .. } = log.record(ReplicaId(2)).unwrap();
    assert_eq!(state, ReplicaLife::Live { directory: 1 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_store_that_has_to_wait_holds_up_no_other_task() {
    const PATIENCE: Duration = Duration::from_secs(10);
    let disk = Arc::new(SpyDisk::new(1, true));
    let Stores { mut machine, shared, .. } = create(disk.clone(), 1).await;
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    disk.spy.stall();
    disk.spy.before_next_write(move || {
        let _ = held.recv_timeout(PATIENCE);
    });
    // On the one worker of this runtime, like the heartbeats of all groups on a node's few.
    let applying = tokio::spawn(async move { apply(&mut machine, history(0, 3)).await });
    let spy = disk.spy.clone();
    let began = clock::now();
    let other = tokio::spawn(async move {
        while !spy.is_held() && clock::now().since(began) < PATIENCE {
            tokio::task::yield_now().await;
        }
        clock::now()
    });
    let ran = other.await.unwrap();
    assert!(ran.since(began) < PATIENCE / 2, "the other task ran only after the write");
    assert_eq!(*shared.applied.borrow(), None, "the write is still waiting");
    let_go.send(()).unwrap();
    applying.await.unwrap().unwrap();
    assert_eq!(*shared.applied.borrow(), Some(2));
}
