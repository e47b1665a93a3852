//! Linearizable reads need a quorum, and no more.

use std::time::Duration;

use ringraft::clock;
use ringraft::raft::ReadMode;

use super::cluster::{Cluster, pause, soon};

const READS: u64 = 20;
const DEADLINE: Duration = Duration::from_millis(300);
/// A read may end so long after its deadline on a machine that is busy.
const LATE_MAX: Duration = Duration::from_secs(5);

pub(super) async fn followers_cut_off(cluster: Cluster) {
    cluster.form().await;
    cluster.put("k", "old").await;
    let leader = cluster.leader().await;
    let [first, second] = cluster.others(leader);

    cluster.world.cut(leader, first);
    cluster.world.cut(second, first);
    for _ in 0..READS {
        let (value, served) = cluster.read(leader, "k", ReadMode::ReadIndex, soon()).await.unwrap();
        assert_eq!((value.unwrap().as_ref(), served), (b"old".as_slice(), ReadMode::ReadIndex));
    }

    cluster.world.cut(leader, second);
    // The two that are left make a leader, and the old one must not know better than they.
    cluster.world.heal(second, first);
    let reads = async {
        for _ in 0..READS {
            let begun = clock::now();
            let read = cluster.read(leader, "k", ReadMode::ReadIndex, begun.after(DEADLINE)).await;
            assert!(read.is_err(), "without a quorum: {read:?}");
            let took = clock::now().since(begun);
            assert!(took < DEADLINE + LATE_MAX, "it ended only after {took:?}");
            pause().await;
        }
    };
    let write = async {
        cluster.leader_among(&[first, second]).await;
        cluster.put("k", "new").await;
    };
    tokio::join!(reads, write);
    let read = cluster.read(leader, "k", ReadMode::ReadIndex, clock::now().after(DEADLINE)).await;
    assert!(read.is_err(), "without a quorum: {read:?}");

    cluster.rejoin(leader);
    cluster.expect("k", b"new").await;
    cluster.expect_equal_replicas().await;
}
