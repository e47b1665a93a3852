//! Replicas that move from node to node, while keys are written and nodes die.

use std::time::Duration;

use raft_tests::admin::{self, nodes_of};
use raft_tests::cluster::{Cluster, Plan};
use raft_tests::http::{Http, Reply};
use ringraft::clock;
use serde_json::{Value, json};

use super::operations::{ended, node_id, shard};

const KEYS: usize = 200;
const POLL: Duration = Duration::from_millis(50);
const CLEARED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_replica_moves_and_the_old_one_is_destroyed() {
    let mut cluster = Cluster::start(Plan { nodes: 4, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    put_all(cluster.http(0), "before").await;
    what_cannot_be_moved_is_refused(&cluster).await;
    // The meta group moves like any other; of each shard its leader is the one that goes.
    for id in ["1", "0"] {
        let now = shard(cluster.http(0), id).await;
        let (from, to) = (text(&now["leader"]), other_node(&cluster, &now).await);
        let old = replica_on(&now, &from);
        let end = moved(&cluster, id, &from, &to).await;
        assert_eq!(end["state"], "done", "{end}");
        // The node that has told of the end: others may hear of it a moment later.
        let after = shard(cluster.http(0), id).await;
        assert_eq!(nodes_of(&after), expected(&now, &from, &to), "shard {id}");
        assert_ne!(replica_on(&after, &to), old, "a fresh id");
        wait_until_destroyed(&cluster, &old).await;
    }
    assert_all(cluster.http(2), "before").await;
    put_all(cluster.http(3), "after").await;
    a_move_goes_on_when_nodes_die(&mut cluster).await;
    assert_all(cluster.http(0), "after").await;
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_string()
}

pub(super) async fn put_all(http: &Http, value: &str) {
    for key in 0..KEYS {
        http.put(format!("/v1/kv/key-{key}?timeout=10s"), format!("{value} {key}")).send().await.expect(204);
    }
}

pub(super) async fn assert_all(http: &Http, value: &str) {
    for key in 0..KEYS {
        let reply = http.get(format!("/v1/kv/key-{key}?timeout=10s")).send().await.expect(200);
        assert_eq!(reply.body, format!("{value} {key}"));
    }
}

fn expected(before: &Value, from: &str, to: &str) -> Vec<String> {
    let mut nodes: Vec<String> = nodes_of(before).into_iter().filter(|node| node != from).chain([to.into()]).collect();
    nodes.sort();
    nodes
}

fn replica_on(shard: &Value, node: &str) -> String {
    let replica = shard["replicas"].as_array().unwrap().iter().find(|replica| replica["node"] == node);
    text(&replica.expect("a replica there")["id"])
}

/// The node that has no replica of the shard.
async fn other_node(cluster: &Cluster, shard: &Value) -> String {
    let held = nodes_of(shard);
    for place in 0..cluster.nodes.len() {
        let node = text(&node_id(cluster.http(place)).await);
        if !held.contains(&node) {
            return node;
        }
    }
    panic!("every node has a replica: {shard}");
}

async fn begin(http: &Http, id: &str, from: &str, to: &str) -> Reply {
    let body = json!({ "from": from, "to": to });
    admin::post(http, &format!("/v1/admin/shards/{id}/move"), &body, None).await.expect("an answer")
}

async fn moved(cluster: &Cluster, id: &str, from: &str, to: &str) -> Value {
    let begun = begin(cluster.http(0), id, from, to).await.expect(202).json();
    ended(cluster.http(0), &text(&begun["id"])).await
}

async fn what_cannot_be_moved_is_refused(cluster: &Cluster) {
    let http = cluster.http(0);
    let before = shard(http, "1").await;
    let (has, also_has) = (nodes_of(&before)[0].clone(), nodes_of(&before)[1].clone());
    let has_not = other_node(cluster, &before).await;
    let cases = [
        ("77", has.as_str(), has_not.as_str(), 404, "no-such-shard"),
        ("1", "99", &has_not, 404, "no-such-node"),
        ("1", &has, "99", 404, "no-such-node"),
        ("1", &has, &also_has, 422, "cannot-move"),
        ("1", &has, &has, 422, "cannot-move"),
        ("1", &has_not, &has_not, 422, "cannot-move"),
    ];
    for (id, from, to, status, code) in cases {
        let reply = begin(http, id, from, to).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{id} {from} {to}: {reply:?}");
        assert_eq!(reply.json()["outcome"], "not_applied");
    }
    assert_eq!(nodes_of(&shard(http, "1").await), nodes_of(&before));
}

/// Until no node has a directory of the replica any more.
async fn wait_until_destroyed(cluster: &Cluster, replica: &str) {
    let deadline = clock::now().after(CLEARED_WITHIN);
    let is_left = |name: &str| name.split('.').next() == Some(replica);
    loop {
        let left = cluster.nodes.iter().any(|node| {
            let directories = std::fs::read_dir(node.directory.join("data/replicas")).unwrap();
            directories.into_iter().any(|entry| is_left(&entry.unwrap().file_name().to_string_lossy()))
        });
        if !left {
            return;
        }
        assert!(clock::now() < deadline, "replica {replica} is still somewhere");
        tokio::time::sleep(POLL).await;
    }
}

/// First the leader of the meta group, then the node that loses its replica, is killed as soon as a move has begun.
async fn a_move_goes_on_when_nodes_die(cluster: &mut Cluster) {
    for (id, kills_source) in [("2", false), ("3", true)] {
        let now = shard(cluster.http(0), id).await;
        let to = other_node(cluster, &now).await;
        let leads_meta = text(&shard(cluster.http(0), "0").await["leader"]);
        let from = if kills_source { nodes_of(&now)[0].clone() } else { nodes_of(&now).pop().unwrap() };
        let dies = if kills_source { from.clone() } else { leads_meta };
        let mut place = 0;
        while node_id(cluster.http(place)).await != json!(dies) {
            place += 1;
        }
        let witness = (0..cluster.nodes.len()).find(|other| *other != place).unwrap();
        let old = replica_on(&now, &from);
        let begun = begin(cluster.http(witness), id, &from, &to).await.expect(202).json();
        cluster.nodes[place].kill().await;
        if dies == to {
            // It waits for the node that is to have the replica.
            cluster.nodes[place].start();
        }
        let end = ended(cluster.http(witness), &text(&begun["id"])).await;
        assert_eq!(end["state"], "done", "{end}");
        if dies != to {
            cluster.nodes[place].start();
        }
        cluster.wait_until_ready().await;
        assert_eq!(nodes_of(&shard(cluster.http(witness), id).await), expected(&now, &from, &to), "shard {id}");
        // Also on the node that was away when its group let it go.
        wait_until_destroyed(cluster, &old).await;
    }
}
