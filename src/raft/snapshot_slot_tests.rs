//! Attempts at a snapshot that come to nothing: what they held is given back, and the next attempt is not harmed.

use std::sync::mpsc;

use futures::FutureExt;

use super::super::testing::{Stores, create, rows_of};
use super::tests::{chunks_of, filled};
use super::*;
use crate::clock;
use crate::storage::mem::MemDisk;
use crate::storage::spy::SpyDisk;

/// Longest time a test waits for something that should happen soon.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any test.
const NO_END: Duration = Duration::from_secs(3600);
/// The second directory of replica 2, which snapshots are written into.
const UNFINISHED: &str = "2.2";

/// Pieces of a snapshot: three at least.
async fn pieces_of(stream: u64) -> Vec<Chunk> {
    let from = filled(TokenRange::full(), 100_000).await;
    let chunks = chunks_of(&from.shared);
    assert!(chunks.len() > 2);
    chunks.into_iter().map(|chunk| Chunk { stream, ..chunk }).collect()
}

/// A replica whose disk has no threads, and its slot.
async fn receiving(silence_max: Duration) -> (MemDisk, Stores, SnapshotSlot) {
    let disk = MemDisk::new(1);
    let stores = create(Arc::new(disk.clone()), 2).await;
    (disk, stores, SnapshotSlot::with_silence_max(silence_max))
}

async fn give(slot: &SnapshotSlot, to: &Stores, chunk: &Chunk) -> io::Result<Option<Complete>> {
    slot.take(&to.shared.store, chunk.clone(), std::future::pending()).await
}

/// Gives every piece and uses the snapshot.
async fn give_all(slot: &SnapshotSlot, to: &Stores, chunks: &[Chunk]) {
    for chunk in chunks {
        if let Some(complete) = give(slot, to, chunk).await.unwrap() {
            assert_eq!(complete.received.install.directory, 2);
            to.shared.store.switch(complete.received.install);
            return;
        }
    }
    panic!("the last piece did not complete it");
}

fn has_unfinished(disk: &dyn Disk) -> bool {
    disk.replica_directories().unwrap().iter().any(|name| name == UNFINISHED)
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = clock::now().after(PATIENCE);
    while !condition() {
        assert!(clock::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_attempt_is_removed_when_it_was_silent_for_long_enough_and_not_before() {
    let (first, other) = (pieces_of(5).await, pieces_of(6).await);
    // What ends the silence: the next piece, or another attempt, whose own silence then counts.
    for second in [&first[1], &other[0]] {
        let mut silence = Duration::from_millis(200);
        loop {
            let (disk, to, slot) = receiving(silence).await;
            give(&slot, &to, &first[0]).await.unwrap();
            let begun = clock::now();
            tokio::time::sleep(silence.mul_f64(0.75)).await;
            let last_piece = clock::now();
            if give(&slot, &to, second).await.is_err() {
                // On a busy machine the piece may come too late; then there was silence indeed.
                assert!(clock::now().since(begun) >= silence);
                silence *= 2;
                continue;
            }
            until(|| !has_unfinished(&disk)).await;
            let silent_for = clock::now().since(last_piece);
            assert!(silent_for >= silence, "given up after {silent_for:?} instead of {silence:?}");
            let late = give(&slot, &to, &Chunk { position: 2, ..first[2].clone() }).await;
            assert!(late.is_err(), "it was given up");
            give_all(&slot, &to, &other).await;
            break;
        }
    }
}

#[tokio::test]
async fn a_snapshot_that_came_whole_is_left_alone_and_nobody_waits_for_its_silence() {
    let (disk, to, slot) = receiving(NO_END).await;
    give_all(&slot, &to, &pieces_of(5).await).await;
    until(|| Arc::weak_count(&slot.attempt) == 0).await;
    assert!(has_unfinished(&disk), "it is the replica's directory now");
    assert!(rows_of(to.shared.store.view().as_ref()).len() > 40);
}

#[tokio::test]
async fn an_attempt_ends_with_its_replica() {
    let (disk, to, slot) = receiving(NO_END).await;
    let chunks = pieces_of(5).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    slot.take(&to.shared.store, chunks[0].clone(), stopped.map(drop)).await.unwrap();
    give(&slot, &to, &chunks[1]).await.unwrap();
    assert!(has_unfinished(&disk));
    stop.send(()).unwrap();
    until(|| !has_unfinished(&disk)).await;
    assert!(give(&slot, &to, &chunks[2]).await.is_err());
}

#[tokio::test]
async fn a_wrong_piece_removes_its_own_attempt_and_no_other() {
    let (disk, to, slot) = receiving(NO_END).await;
    let (first, other) = (pieces_of(5).await, pieces_of(6).await);
    let last = |chunk: &Chunk| chunk.end.is_some();
    let mut wrong_hash = first.iter().find(|chunk| last(chunk)).unwrap().clone();
    wrong_hash.end.as_mut().unwrap().hash ^= 1;
    for wrong in [&first[2], &Chunk { position: 1, ..wrong_hash }] {
        give(&slot, &to, &first[0]).await.unwrap();
        assert!(has_unfinished(&disk));
        assert!(give(&slot, &to, wrong).await.is_err());
        assert!(!has_unfinished(&disk), "its directory goes with it");
    }
    // A late piece of an attempt that was replaced.
    give(&slot, &to, &first[0]).await.unwrap();
    give(&slot, &to, &other[0]).await.unwrap();
    assert!(give(&slot, &to, &first[1]).await.is_err());
    for chunk in &other[1..] {
        assert_eq!(give(&slot, &to, chunk).await.unwrap().is_some(), last(chunk));
    }
}

/// A replica whose disk has threads, and its slot, with the first piece of an attempt held on the way to the disk. Whoever
/// gave it is gone. The piece goes on once the sender here is dropped.
async fn abandoned(silence_max: Duration, first: &Chunk) -> (Arc<SpyDisk>, Stores, SnapshotSlot, mpsc::Sender<()>) {
    let disk = Arc::new(SpyDisk::new(1, true));
    let to = create(disk.clone(), 2).await;
    let slot = SnapshotSlot::with_silence_max(silence_max);
    let (go_on, held) = mpsc::channel::<()>();
    disk.spy.before_next_write(move || held.recv().unwrap_or_default());
    tokio::select! {
        _ = give(&slot, &to, first) => panic!("it is held"),
        () = until(|| disk.spy.is_held()) => {}
    }
    (disk, to, slot, go_on)
}

#[tokio::test]
async fn an_attempt_waits_for_the_piece_of_another_that_nobody_waits_for() {
    let (first, other) = (pieces_of(5).await, pieces_of(6).await);
    let (_disk, to, slot, go_on) = abandoned(NO_END, &first[0]).await;
    let mut begins = Box::pin(give(&slot, &to, &other[0]));
    assert!((&mut begins).now_or_never().is_none(), "the directory is still being written");
    drop(go_on);
    assert!(begins.await.unwrap().is_none());
    give_all(&slot, &to, &other[1..]).await;
}

#[tokio::test]
async fn an_attempt_whose_first_piece_nobody_waited_for_is_removed_too() {
    let first = pieces_of(5).await;
    let (disk, _to, _slot, go_on) = abandoned(Duration::from_millis(100), &first[0]).await;
    assert!(has_unfinished(disk.as_ref()));
    drop(go_on);
    until(|| !has_unfinished(disk.as_ref())).await;
}

#[tokio::test]
async fn a_piece_that_the_disk_takes_long_for_is_no_silence() {
    let chunks = pieces_of(5).await;
    let mut silence = Duration::from_millis(200);
    loop {
        let (disk, to, slot, go_on) = abandoned(silence, &chunks[0]).await;
        tokio::time::sleep(silence.mul_f64(1.5)).await;
        let written = clock::now();
        drop(go_on);
        match give(&slot, &to, &chunks[1]).await {
            Ok(_) => break until(|| !has_unfinished(disk.as_ref())).await,
            // On a busy machine this piece may come too late; then there was silence indeed.
            Err(error) => assert!(clock::now().since(written) >= silence, "{error}"),
        }
        silence *= 2;
    }
}
