//! A replica that was away while the others purged what it misses is filled by a stream of the rows.

use bytes::Bytes;
use ringraft::raft::snapshot::CHUNK_BYTES;

use super::cluster::{Cluster, until};
use super::node::Piece;

/// Four pieces and more together.
const ROWS: u64 = 40;
const ROW_BYTES: usize = CHUNK_BYTES / 10;
/// Larger than a piece by itself.
const LARGE_ROW_BYTES: usize = CHUNK_BYTES * 3 / 2;

fn value(row: u64) -> Bytes {
    let bytes = if row == 0 { LARGE_ROW_BYTES } else { ROW_BYTES };
    let start = row.to_be_bytes().into_iter();
    start.chain((0..bytes).map(|at| u8::try_from(at % 251).unwrap())).collect()
}

/// Ends a follower; writes, flushes and purges without it. Gives its number.
async fn purge_without_one(cluster: &Cluster) -> u64 {
    cluster.form().await;
    cluster.put("before", "old").await;
    let leader = cluster.leader().await;
    let [away, _] = cluster.others(leader);
    cluster.expect_equal_replicas().await;
    let had = cluster.replica(away).status().applied_index;
    cluster.world.kill(away).await;
    for row in 0..ROWS {
        cluster.put(&format!("row{row}"), value(row)).await;
    }
    // Whoever leads when it comes back has no entry that it misses.
    for replica in cluster.up().into_values() {
        let applied = replica.status().applied_index;
        replica.flush(true).await.unwrap();
        until("the log is purged up to what is flushed", || replica.status().purged_index >= applied).await;
        assert!(replica.status().purged_index > had, "{:?} against {had:?}", replica.status());
    }
    assert_eq!(cluster.pieces_to(away), []);
    away
}

async fn expect_filled(cluster: &Cluster, away: u64) {
    cluster.expect_equal_replicas().await;
    assert!(cluster.replica(away).machine().store.directory() > 1, "the rows came in a directory of their own");
    cluster.expect("before", b"old").await;
    for row in 0..ROWS {
        cluster.expect(&format!("row{row}"), &value(row)).await;
    }
    // It goes on from there.
    cluster.put("after", "new").await;
    cluster.expect_equal_replicas().await;
}

pub(super) async fn away(cluster: Cluster) {
    let away = purge_without_one(&cluster).await;
    cluster.world.start(away).await;
    expect_filled(&cluster, away).await;
    let pieces = cluster.pieces_to(away);
    assert!(pieces.iter().any(|piece| piece.is_last && piece.position >= 3), "{pieces:?}");
}

pub(super) async fn severed(cluster: Cluster) {
    const SEVERED_AT: u64 = 2;
    let away = purge_without_one(&cluster).await;
    cluster.sever_snapshot(away, SEVERED_AT);
    cluster.world.start(away).await;
    expect_filled(&cluster, away).await;
    let pieces = cluster.pieces_to(away);
    let first = pieces[0].stream;
    let (broken, again): (Vec<Piece>, Vec<Piece>) = pieces.iter().partition(|piece| piece.stream == first);
    assert_eq!(broken.last().map(|piece| (piece.position, piece.is_last)), Some((SEVERED_AT, false)), "{pieces:?}");
    assert_eq!(again.first().map(|piece| piece.position), Some(0), "{pieces:?}");
    assert!(again.iter().any(|piece| piece.is_last), "{pieces:?}");
}
