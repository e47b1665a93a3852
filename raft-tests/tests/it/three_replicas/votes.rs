//! A group grows to three voters, and outlives its leader.

use std::time::Duration;

use ringraft::clock;
use ringraft::raft::{Member, ProposeError, ReadError, ReadMode, Role};
use ringraft::types::{NodeId, ReplicaId};

use super::cluster::{Cluster, put, soon, until};

/// From the end of a leader to the next one: a lease, an election timeout and a few rounds of votes.
const FAILOVER_MAX: Duration = Duration::from_secs(10);
const KEYS: u64 = 20;

pub(super) async fn growth(cluster: Cluster) {
    cluster.form().await;
    for key in 0..KEYS {
        cluster.put(&format!("k{key}"), format!("v{key}")).await;
    }
    let leader = cluster.leader().await;
    for key in 0..KEYS {
        let read = cluster.read(leader, &format!("k{key}"), ReadMode::ReadIndex, soon()).await.unwrap();
        assert_eq!(read.0.unwrap(), format!("v{key}"));
    }
    for follower in cluster.others(leader) {
        let heard = || cluster.replica(follower).leader() == Some(member(leader));
        until("a follower knows its leader", heard).await;
        let read = cluster.read(follower, "k0", ReadMode::ReadIndex, soon()).await;
        let Err(ReadError::NotLeader { leader: named }) = read else { panic!("read at a follower: {read:?}") };
        assert_eq!(named, Some(member(leader)));
        let written = cluster.replica(follower).propose(put("k0", "from a follower"), None, soon()).await;
        let Err(ProposeError::NotLeader { leader: named }) = written else { panic!("at a follower: {written:?}") };
        assert_eq!(named, Some(member(leader)));
    }
    cluster.expect("k0", b"v0").await;
    cluster.expect_equal_replicas().await;
}

fn member(number: u64) -> Member {
    Member { replica: ReplicaId(number), node: NodeId(number) }
}

pub(super) async fn failover(cluster: Cluster) {
    cluster.form().await;
    for key in 0..KEYS {
        cluster.put(&format!("before{key}"), format!("v{key}")).await;
    }
    let old = cluster.leader().await;
    let term = cluster.replica(old).status().term;
    let ended = clock::now();
    cluster.world.kill(old).await;
    let new = cluster.leader_among(&cluster.others(old)).await;
    let took = clock::now().since(ended);
    assert!(took < FAILOVER_MAX, "no leader for {took:?}");
    assert!(cluster.replica(new).status().term > term);
    for key in 0..KEYS {
        cluster.expect(&format!("before{key}"), format!("v{key}").as_bytes()).await;
        cluster.put(&format!("after{key}"), format!("w{key}")).await;
    }
    cluster.world.start(old).await;
    let replica = cluster.replica(old);
    let is_behind = || replica.status().applied_index < cluster.replica(new).status().committed_index;
    until("the old leader is a follower that has caught up", || {
        // Asked in this order: a hold-off that is not over now was not over when it led.
        assert!(!(replica.is_leader() && replica.is_held_off()), "{:?}", replica.status());
        replica.status().role == Role::Follower && !is_behind()
    })
    .await;
    drop(replica);
    cluster.expect_equal_replicas().await;
    for key in 0..KEYS {
        cluster.expect(&format!("before{key}"), format!("v{key}").as_bytes()).await;
        cluster.expect(&format!("after{key}"), format!("w{key}").as_bytes()).await;
    }
}
