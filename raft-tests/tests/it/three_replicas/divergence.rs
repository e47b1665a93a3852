//! A leader sends entries to its followers before its own flush (`openraft` §3.1). When its power fails in between, they
//! have what it lost, and it must not lead on as if those ids were free.

use ringraft::storage::keys;
use ringraft::types::ReplicaId;

use super::cluster::{Cluster, until};

const KEYS: u64 = 5;

pub(super) async fn leader_loses_its_tail(cluster: Cluster) {
    cluster.form().await;
    cluster.put("before", "old").await;
    cluster.expect_equal_replicas().await;
    let leader = cluster.leader().await;
    let kept = cluster.replica(leader).status().applied_index.unwrap();

    cluster.world.lag_log(leader);
    for key in 0..KEYS {
        cluster.put(&format!("lost{key}"), format!("v{key}")).await;
    }
    assert!(cluster.replica(leader).is_leader(), "another leader would have entries of other ids");
    let last = cluster.replica(leader).status().applied_index.unwrap();
    assert!(last >= kept + KEYS);
    // The followers apply nothing that is not acknowledged by both of them: the leader's own flush does not count yet.
    for follower in cluster.others(leader) {
        let replica = cluster.replica(follower);
        until("a follower has what the leader has", || replica.status().applied_index >= Some(last)).await;
    }
    cluster.world.kill(leader).await;
    {
        let log = cluster.world.disk(leader).open_log().unwrap();
        let has = |index| log.get(&keys::entry(ReplicaId(leader), index)).unwrap().is_some();
        assert!(has(kept) && !has(kept + 1), "it lost exactly what it wrote since entry {kept}");
    }
    cluster.world.start(leader).await;
    // Whoever leads now gives these the next ids.
    for key in 0..KEYS {
        cluster.put(&format!("next{key}"), format!("w{key}")).await;
    }
    cluster.expect_equal_replicas().await;
    for key in 0..KEYS {
        cluster.expect(&format!("lost{key}"), format!("v{key}").as_bytes()).await;
        cluster.expect(&format!("next{key}"), format!("w{key}").as_bytes()).await;
    }
}
