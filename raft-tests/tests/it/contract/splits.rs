//! Shards that become two, while keys are written and nodes die.

use std::collections::BTreeMap;

use raft_tests::admin;
use raft_tests::cluster::{Cluster, Plan};
use raft_tests::http::{Http, Reply};
use serde_json::{Value, json};

use super::moves::{assert_all, put_all};
use super::operations::{ended, node_id, shard};
use super::routing::pages;

#[tokio::test]
async fn a_shard_becomes_two_and_every_key_is_in_one_of_them() {
    let mut cluster = Cluster::start(Plan { shards: 2, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    let http = cluster.http(0).clone();
    what_has_no_rows_is_not_split(&http).await;
    put_all(&http, "before").await;
    what_cannot_be_split_is_refused(&http).await;
    let revisions = scanned(&http).await;

    let parent = shard(&http, "1").await;
    let ended = split(&http, "1", &json!({ "auto": true })).await;
    assert_eq!(ended["state"], "done", "{ended}");
    let child = text(&ended["split"]["child"]);
    let (left, right) = (shard(&http, "1").await, shard(&http, &child).await);
    assert_eq!(left["range"]["first"], parent["range"]["first"]);
    assert_eq!(right["range"]["last"], parent["range"]["last"]);
    assert_eq!(right["range"]["first"], ended["at"]);
    assert_eq!(admin::nodes_of(&left), admin::nodes_of(&right), "beside each other");
    for place in 0..3 {
        assert_all(cluster.http(place), "before").await;
    }
    assert_eq!(scanned(&http).await, revisions, "nothing was written");
    put_all(cluster.http(1), "after").await;
    for (key, after) in scanned(&http).await {
        // Hex digits of one length.
        assert!(after > revisions[&key], "{key}: {after} came after {}", revisions[&key]);
    }

    // The child is a shard like any other.
    let again = split(&http, &child, &json!({ "auto": true })).await;
    assert_eq!(again["state"], "done", "{again}");
    a_split_goes_on_when_nodes_die(&mut cluster).await;
    for place in 0..3 {
        assert_all(cluster.http(place), "after").await;
    }
    assert_eq!(scanned(cluster.http(1)).await.len(), revisions.len(), "each key once");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_string()
}

async fn begin(http: &Http, id: &str, body: &Value, key: Option<&str>) -> Reply {
    admin::post(http, &format!("/v1/admin/shards/{id}/split"), body, key).await.expect("an answer")
}

async fn split(http: &Http, id: &str, body: &Value) -> Value {
    let begun = begin(http, id, body, None).await.expect(202).json();
    ended(http, &text(&begun["id"])).await
}

async fn what_has_no_rows_is_not_split(http: &Http) {
    let reply = begin(http, "1", &json!({ "auto": true }), None).await;
    assert_eq!((reply.status, reply.code().as_str()), (422, "cannot-split"), "{reply:?}");
}

async fn what_cannot_be_split_is_refused(http: &Http) {
    let before = admin::get(http, "/v1/shardmap").await.unwrap();
    let range = shard(http, "1").await["range"].clone();
    let auto = json!({ "auto": true });
    let at = |token: &Value| json!({ "at_token": token });
    let cases = [
        ("77", auto.clone(), 404, "no-such-shard"),
        ("0", auto.clone(), 422, "cannot-split"),
        ("1", at(&range["first"]), 422, "cannot-split"),
        ("1", at(&json!("ffffffffffffffff")), 422, "cannot-split"),
        // No key has this token or a higher one.
        ("1", at(&range["last"]), 422, "cannot-split"),
        ("1", json!({}), 400, "bad-encoding"),
        ("1", json!({ "auto": true, "at_token": range["last"] }), 400, "bad-encoding"),
        ("1", json!({ "at_token": "12" }), 400, "bad-encoding"),
        ("1", json!({ "auto": "yes" }), 400, "bad-encoding"),
    ];
    for (id, body, status, code) in cases {
        let reply = begin(http, id, &body, None).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{id} {body}: {reply:?}");
        assert_eq!(reply.json()["outcome"], "not_applied");
    }
    let dry = admin::post(http, "/v1/admin/shards/1/split?dry_run=true", &auto, None).await.unwrap();
    assert_eq!((dry.status, &dry.json()["operation"]["kind"]), (200, &json!("split")), "{dry:?}");
    assert_eq!(admin::get(http, "/v1/shardmap").await.unwrap(), before, "nothing changed");
}

/// A split by a key that was used, sent again, is the same one. Whoever leads the parent, or the meta group, dies as soon as
/// it has begun.
async fn a_split_goes_on_when_nodes_die(cluster: &mut Cluster) {
    for whose in ["2", "0"] {
        let leader = text(&shard(cluster.http(0), whose).await["leader"]);
        let mut place = 0;
        while text(&node_id(cluster.http(place)).await) != leader {
            place += 1;
        }
        let alive = cluster.http((place + 1) % 3).clone();
        let key = format!("\"split-{whose}\"");
        let begun = begin(&alive, "2", &json!({ "auto": true }), Some(&key)).await.expect(202).json();
        cluster.nodes[place].kill().await;
        let again = begin(&alive, "2", &json!({ "auto": true }), Some(&key)).await;
        assert_eq!((again.status, &again.json()["id"]), (202, &begun["id"]), "{again:?}");
        cluster.nodes[place].start();
        let ended = ended(&alive, &text(&begun["id"])).await;
        assert_eq!(ended["state"], "done", "{ended}");
        cluster.wait_until_ready().await;
    }
}

/// Every key with its revision by scan, which must give none twice.
async fn scanned(http: &Http) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for item in pages(http, "keys_only=true", 50).await {
        let before = found.insert(text(&item["key"]), text(&item["revision"]));
        assert_eq!(before, None, "{item} twice");
    }
    found
}
