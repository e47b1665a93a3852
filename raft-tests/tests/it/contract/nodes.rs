//! Nodes that join, are drained, die, return and go for good: where replicas stand follows, and nothing is lost.

use std::time::Duration;

use raft_tests::admin;
use raft_tests::cluster::{Cluster, Plan};
use raft_tests::http::{Http, Reply};
use ringraft::clock;
use serde_json::Value;

use super::moves::{assert_all, put_all};
use super::operations::{ended, node_id};

const SETTLED_WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// Looks in a row that must show the same.
const LOOKS: u32 = 15;
const REPLICATION_FACTOR: usize = 3;
/// Data shards, and the meta shard.
const SHARDS: usize = 7;

#[tokio::test]
async fn replicas_follow_the_nodes_that_come_drain_die_return_and_go() {
    let plan =
        Plan { nodes: 5, founders: 4, shards: SHARDS as u32 - 1, placement: "dead_after_s = 5\n", ..Plan::default() };
    let mut cluster = Cluster::prepare(plan).await;
    for node in &mut cluster.nodes[..4] {
        node.start();
    }
    cluster.wait_until_ready().await;
    settled(cluster.http(0), 4).await;
    put_all(cluster.http(0), "first").await;

    a_new_node_gets_its_share(&mut cluster).await;
    a_drained_node_is_empty_until_it_is_undrained(&cluster).await;
    a_dead_node_is_replaced_and_what_it_still_has_goes_when_it_returns(&mut cluster).await;
    a_decommissioned_node_is_out_for_good(&mut cluster).await;
    assert_all(cluster.http(0), "first").await;
    put_all(cluster.http(1), "second").await;
    assert_all(cluster.http(0), "second").await;
}

/// Until nothing moves any more, every shard has all its voters, and each of so many nodes holds its share of them. Gives
/// back how many each node holds.
async fn settled(http: &Http, nodes: usize) -> Vec<(String, usize)> {
    let deadline = clock::now().after(SETTLED_WITHIN);
    let (mut same, mut last) = (0, String::new());
    loop {
        let look = admin::shares_at_rest(http, REPLICATION_FACTOR).await;
        if let Ok(shares) = &look {
            let text = format!("{shares:?}");
            same = if text == last { same + 1 } else { 0 };
            last = text;
            let holding = shares.iter().filter(|(_, count)| *count > 0).count();
            if same >= LOOKS && holding == nodes {
                let fair = (REPLICATION_FACTOR * SHARDS) as f64 / nodes as f64;
                for (node, count) in shares.iter().filter(|(_, count)| *count > 0) {
                    assert!((*count as f64 - fair).abs() <= 2.0, "node {node} holds {count} of {fair}: {shares:?}");
                }
                return shares.clone();
            }
        } else {
            same = 0;
        }
        assert!(clock::now() < deadline, "it does not settle on {nodes} nodes: {look:?}");
        tokio::time::sleep(POLL).await;
    }
}

async fn state_of(http: &Http, node: &str) -> Value {
    let nodes = http.get("/v1/admin/nodes").send().await.expect(200).json();
    let found = nodes["nodes"].as_array().unwrap().iter().find(|one| one["id"] == node).cloned();
    found.unwrap_or(Value::Null)["state"].clone()
}

async fn ask(http: &Http, node: &str, what: &str) -> Reply {
    admin::change_node(http, node, what).await.expect("an answer")
}

async fn id_of(cluster: &Cluster, place: usize) -> String {
    node_id(cluster.http(place)).await.as_str().unwrap().to_string()
}

async fn a_new_node_gets_its_share(cluster: &mut Cluster) {
    cluster.nodes[4].start();
    cluster.wait_until_ready().await;
    settled(cluster.http(0), 5).await;
    assert_all(cluster.http(4), "first").await;
}

async fn a_drained_node_is_empty_until_it_is_undrained(cluster: &Cluster) {
    let node = id_of(cluster, 4).await;
    let http = cluster.http(0);
    for (node, what, status, code) in [
        ("99", "drain", 404, "no-such-node"),
        ("x", "decommission", 404, "no-such-node"),
        (node.as_str(), "undrain", 422, "cannot-drain"),
    ] {
        let reply = ask(http, node, what).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{what} {node}");
    }
    let begun = ask(http, &node, "drain").await.expect(202).json();
    let end = ended(http, begun["id"].as_str().unwrap()).await;
    assert_eq!((&end["state"], &end["kind"]), (&"done".into(), &"drain".into()), "{end}");
    let shares = settled(http, 4).await;
    assert!(shares.contains(&(node.clone(), 0)), "{shares:?}");
    assert_eq!(state_of(http, &node).await, "draining");
    assert_all(cluster.http(4), "first").await;

    let another = id_of(cluster, 1).await;
    let begun = ask(http, &another, "drain").await.expect(202).json();
    // Three nodes are left, and each shard needs as many.
    let refused = ask(http, &id_of(cluster, 2).await, "drain").await;
    assert_eq!((refused.status, refused.code().as_str()), (422, "cannot-drain"), "{refused:?}");
    ask(http, &another, "undrain").await.expect(202);
    let end = ended(http, begun["id"].as_str().unwrap()).await;
    assert!(end["state"] == "failed" || end["state"] == "done", "undrained before its end, or after: {end}");
    ask(http, &node, "undrain").await.expect(202);
    settled(http, 5).await;
}

async fn a_dead_node_is_replaced_and_what_it_still_has_goes_when_it_returns(cluster: &mut Cluster) {
    let node = id_of(cluster, 4).await;
    cluster.nodes[4].kill().await;
    settled_without(cluster.http(0), &node).await;
    assert_eq!(state_of(cluster.http(0), &node).await, "dead");
    let before = directories(cluster, 4);
    assert!(!before.is_empty());
    cluster.nodes[4].start();
    cluster.wait_until_ready().await;
    let shares = settled(cluster.http(0), 5).await;
    assert_eq!(state_of(cluster.http(0), &node).await, "active");
    // Of what it held none lives on: what it holds now came under fresh ids.
    let deadline = clock::now().after(SETTLED_WITHIN);
    let held = shares.iter().find(|(id, _)| *id == node).unwrap().1;
    loop {
        let now = directories(cluster, 4);
        if now.len() == held && now.iter().all(|directory| !before.contains(directory)) {
            return;
        }
        assert!(clock::now() < deadline, "{before:?} became {now:?}, and it holds {held}");
        tokio::time::sleep(POLL).await;
    }
}

/// Until the node holds nothing by the catalog, and the others have what it had.
async fn settled_without(http: &Http, node: &str) {
    let deadline = clock::now().after(SETTLED_WITHIN);
    loop {
        let look = admin::shares_at_rest(http, REPLICATION_FACTOR).await;
        if look.as_ref().is_ok_and(|shares| shares.contains(&(node.to_string(), 0))) {
            return;
        }
        assert!(clock::now() < deadline, "it is not replaced: {look:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// The replicas' directories of a node, one for each replica.
fn directories(cluster: &Cluster, place: usize) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.nodes[place].directory.join("data/replicas")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().split('.').next().unwrap().to_string())
        .collect();
    names.sort();
    names.dedup();
    names
}

async fn a_decommissioned_node_is_out_for_good(cluster: &mut Cluster) {
    let node = id_of(cluster, 3).await;
    let begun = ask(cluster.http(0), &node, "decommission").await.expect(202).json();
    let end = ended(cluster.http(0), begun["id"].as_str().unwrap()).await;
    assert_eq!(end["state"], "done", "{end}");
    assert_eq!(state_of(cluster.http(0), &node).await, Value::Null, "nobody knows it any more");
    settled(cluster.http(0), 4).await;
    let again = ask(cluster.http(0), &node, "undrain").await;
    assert_eq!((again.status, again.code().as_str()), (404, "no-such-node"));

    cluster.nodes[3].kill().await;
    cluster.nodes[3].start();
    let deadline = clock::now().after(SETTLED_WITHIN);
    loop {
        if let Ok(reply) = cluster.http(3).get("/readyz").try_send().await
            && reply.json()["detail"].as_str().is_some_and(|detail| detail.contains("was decommissioned"))
        {
            assert_eq!(reply.status, 503);
            break;
        }
        assert!(clock::now() < deadline, "it does not say that it is out");
        tokio::time::sleep(POLL).await;
    }
    assert_eq!(state_of(cluster.http(0), &node).await, Value::Null, "nor does it come back");
    cluster.nodes[3].kill().await;
}
