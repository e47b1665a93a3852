//! Changes of the cluster that somebody asks for: begun by POST or by the command line, followed, resumed, refused.

use std::time::Duration;

use raft_tests::cluster::{Cluster, Plan, binary};
use raft_tests::http::{Http, Reply};
use ringraft::clock;
use serde_json::{Value, json};
use tokio::process::Command;

const ENDS_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

#[tokio::test]
async fn leaders_are_transferred_to_whom_they_are_asked_to_be() {
    let mut cluster = Cluster::start(Plan::default()).await;
    cluster.wait_until_settled().await;
    what_cannot_be_done_is_refused(cluster.http(0)).await;
    a_transfer_goes_where_it_is_asked_to_and_stays(&cluster).await;
    the_same_key_begins_one_operation(&cluster).await;
    the_command_line_waits_for_the_end(&cluster).await;
    a_transfer_goes_on_when_the_leader_of_the_meta_group_dies(&mut cluster).await;
}

pub(super) async fn shard(http: &Http, id: &str) -> Value {
    http.get(format!("/v1/admin/shards/{id}")).send().await.expect(200).json()
}

pub(super) async fn node_id(http: &Http) -> Value {
    http.get("/v1/status").send().await.expect(200).json()["node"].clone()
}

/// A voter of the shard that does not lead it.
fn another_voter(shard: &Value) -> String {
    let replicas = shard["replicas"].as_array().unwrap();
    let other = replicas.iter().find(|replica| replica["node"] != shard["leader"] && replica["state"] == "voter");
    other.expect("three voters")["node"].as_str().unwrap().to_string()
}

async fn ask(http: &Http, id: &str, query: &str, body: &Value, header: Option<(&'static str, &str)>) -> Reply {
    let target = format!("/v1/admin/shards/{id}/transfer-leader{query}");
    let mut call = http.call("POST", target).chunks(vec![body.to_string().into()]);
    if header.is_none_or(|(name, _)| name != "content-type") {
        call = call.header("content-type", "application/json");
    }
    if let Some((name, value)) = header {
        call = call.header(name, value);
    }
    call.send().await
}

pub(super) async fn ended(http: &Http, id: &str) -> Value {
    let deadline = clock::now().after(ENDS_WITHIN);
    loop {
        // A node may answer 404 until it has heard of the operation, and not at all while it goes down.
        if let Ok(reply) = http.get(format!("/v1/admin/operations/{id}")).try_send().await
            && reply.status == 200
            && !reply.json()["ended_ms"].is_null()
        {
            return reply.json();
        }
        assert!(clock::now() < deadline, "operation {id} does not end");
        tokio::time::sleep(POLL).await;
    }
}

async fn what_cannot_be_done_is_refused(http: &Http) {
    let before = http.get("/v1/admin/operations").send().await.expect(200).json();
    assert_eq!(before, json!({ "operations": [] }));
    let (to, nobody) = (json!({ "to": "1" }), json!({ "to": "99" }));
    let cases = [
        ("77", "", to.clone(), None, 404, "no-such-shard"),
        ("x", "", to.clone(), None, 404, "no-such-shard"),
        ("1", "", nobody, None, 404, "no-such-node"),
        ("1", "", json!({ "to": "one" }), None, 400, "bad-encoding"),
        ("1", "", json!({}), None, 400, "bad-encoding"),
        ("1", "", json!({ "to": "1", "by": "2" }), None, 400, "bad-encoding"),
        ("1", "?wait=true", to.clone(), None, 400, "bad-parameter"),
        ("1", "", to.clone(), Some(("content-type", "text/plain")), 415, "content-type"),
        ("1", "", to.clone(), Some(("if-match", "\"999\"")), 409, "epoch-mismatch"),
        ("1", "", to.clone(), Some(("if-match", "999")), 400, "bad-parameter"),
        ("1", "", to.clone(), Some(("idempotency-key", "unquoted")), 400, "bad-parameter"),
    ];
    for (id, query, body, header, status, code) in cases {
        let reply = ask(http, id, query, &body, header).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{id}{query} {body} {header:?}: {reply:?}");
        assert_eq!(reply.json()["outcome"], "not_applied");
    }
    let at = shard(http, "1").await["epoch"].clone();
    let mismatch = ask(http, "1", "", &to, Some(("if-match", "\"999\""))).await.json();
    assert_eq!(mismatch["current_epoch"], at, "it says what would have been right");
    for target in ["/v1/admin/operations/1", "/v1/admin/operations/x"] {
        assert_eq!(http.get(target).send().await.expect(404).code(), "no-such-operation");
    }
    let dry = ask(http, "1", "?dry_run=true", &to, None).await.expect(200).json();
    assert_eq!((&dry["dry_run"], &dry["operation"]["kind"]), (&json!(true), &json!("transfer-leader")));
    let after = http.get("/v1/admin/operations").send().await.expect(200).json();
    assert_eq!(after, before, "nothing of it was begun");
}

async fn a_transfer_goes_where_it_is_asked_to_and_stays(cluster: &Cluster) {
    let http = cluster.http(1);
    for id in ["1", "2", "0"] {
        let now = shard(http, id).await;
        let to = another_voter(&now);
        let epoch = format!("\"{}\"", now["epoch"].as_str().unwrap());
        let reply = ask(http, id, "", &json!({ "to": to }), Some(("if-match", &epoch))).await.expect(202);
        let location = reply.header("location").unwrap().to_string();
        let begun = http.get(&location).send().await.expect(200).json();
        assert_eq!((&begun["shard"], &begun["to"]), (&json!(id), &json!(to)), "who asked can follow it at once");
        let end = ended(http, begun["id"].as_str().unwrap()).await;
        assert_eq!(end["state"], "done", "{end}");
        let after = shard(http, id).await;
        assert_eq!(after["leader"], json!(to), "shard {id}");
    }
    // The balance of leaders is looked at in every round: what was chosen stands against it.
    let chosen: Vec<Value> = futures::future::join_all(["1", "2"].map(|id| shard(http, id))).await;
    let version = http.get("/v1/admin/cluster").send().await.json()["catalog_version"].clone();
    tokio::time::sleep(Duration::from_secs(2)).await;
    for before in chosen {
        let now = shard(http, before["id"].as_str().unwrap()).await;
        assert_eq!((&now["leader"], &now["preferred_leader"]), (&before["leader"], &before["leader"]));
    }
    let later = http.get("/v1/admin/cluster").send().await.json()["catalog_version"].clone();
    assert_eq!(later, version, "nothing is decided to and fro");
}

async fn the_same_key_begins_one_operation(cluster: &Cluster) {
    let to = another_voter(&shard(cluster.http(0), "3").await);
    let key = Some(("idempotency-key", "\"move it\""));
    let first = ask(cluster.http(0), "3", "", &json!({ "to": to }), key).await.expect(202);
    let again = ask(cluster.http(2), "3", "", &json!({ "to": to }), key).await.expect(202);
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!((first.header("kv-replayed"), again.header("kv-replayed")), (None, Some("true")));
    let other = ask(cluster.http(2), "4", "", &json!({ "to": to }), key).await;
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency-key-reuse"));
    ended(cluster.http(0), first.json()["id"].as_str().unwrap()).await;
}

async fn the_command_line_waits_for_the_end(cluster: &Cluster) {
    let address = &cluster.http(0).address;
    let ringraft = async |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["--endpoints", address]).args(arguments).env_remove("RINGRAFT_ENDPOINTS");
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let to = another_voter(&shard(cluster.http(0), "4").await);
    let transfer = ["shard", "transfer-leader", "4", "--to", &to];
    let (code, out, err) = ringraft(&[&transfer[..], &["--dry-run"]].concat()).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_ne!(shard(cluster.http(0), "4").await["leader"], json!(to), "a dry run changes nothing");
    let (code, out, err) = ringraft(&[&["-o", "json"], &transfer[..], &["--wait"]].concat()).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let end: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(end["state"], "done");
    assert_eq!(shard(cluster.http(0), "4").await["leader"], json!(to));

    let (code, out, _) = ringraft(&["operations"]).await;
    assert!(code == Some(0) && out.contains("transfer-leader") && out.contains("done"), "{out}");
    let (code, out, _) = ringraft(&["operations", end["id"].as_str().unwrap()]).await;
    assert!(code == Some(0) && out.contains("transfer-leader"), "{out}");
    let (code, _, err) = ringraft(&["shard", "transfer-leader", "4", "--to", "99"]).await;
    assert!(code != Some(0) && err.contains("there is no node 99"), "{code:?} {err}");
    let (code, _, err) = ringraft(&["operations", "99"]).await;
    assert!(code != Some(0) && err.contains("99 is no operation"), "{code:?} {err}");
}

async fn a_transfer_goes_on_when_the_leader_of_the_meta_group_dies(cluster: &mut Cluster) {
    let leads_meta = shard(cluster.http(0), "0").await["leader"].clone();
    let mut meta = 0;
    while node_id(cluster.http(meta)).await != leads_meta {
        meta += 1;
    }
    // The shard's next leader, and who is asked about it, live.
    let witness = (meta + 1) % cluster.nodes.len();
    let to = node_id(cluster.http(witness)).await;
    let reply = ask(cluster.http(witness), "3", "", &json!({ "to": to }), None).await.expect(202);
    cluster.nodes[meta].kill().await;
    let end = ended(cluster.http(witness), reply.json()["id"].as_str().unwrap()).await;
    assert_eq!(end["state"], "done", "{end}");
    assert_eq!(shard(cluster.http(witness), "3").await["leader"], to);
}
