//! A crash between any two steps of a move or of a split: of the process that has just taken the step, whichever it is. It
//! is started again, and both come to their ends all the same: the replica stands where it was to stand, the old one is
//! gone, the shard is two, and every key is there.
//!
//! The places are in the program with the planted bugs alone (`ringraft::mutants::crash`): RINGRAFT_BIN names it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ringraft::clock;
use serde_json::{Value, json};

use super::{Options, Verdict};
use crate::admin;
use crate::cluster::{self, Cluster, Plan};
use crate::fleet::since;

/// As many as a move and a split have steps that are told apart.
const PLACES_MIN: usize = 17;
const VARIABLE: &str = "RINGRAFT_CRASH_AT";
const KEYS: usize = 50;
const ENDED_LIMIT: Duration = Duration::from_secs(60);
/// Of one look at a process.
const NOW: Duration = Duration::from_millis(1);
/// The shard that is moved: any.
const SHARD: &str = "1";

pub(super) async fn run(_options: Options) -> Verdict {
    let places = places().await?;
    let mut wrong = Vec::new();
    for place in places.iter().map(String::as_str) {
        match one(place).await {
            Ok(took) => {
                println!("  {place:<18} crashed, and done {:>5.1} s after it was asked for", took.as_secs_f64())
            }
            Err(why) => {
                println!("  {place:<18} FALSE: {why}");
                wrong.push(place);
            }
        }
    }
    println!("  {} of {} places gone on from", places.len() - wrong.len(), places.len());
    if wrong.is_empty() { Ok(()) } else { Err(format!("not gone on from: {}", wrong.join(", "))) }
}

/// As the program under test has them: it refuses a place that is none, and lists those that are.
async fn places() -> Result<Vec<String>, String> {
    let mut command = tokio::process::Command::new(cluster::binary());
    // Without this program's own variables: a node refuses those that it does not know.
    command.args(["serve", "--bootstrap"]).env_clear().env(VARIABLE, "nowhere:/nowhere").stdin(Stdio::null());
    let output = command.output().await.map_err(|error| error.to_string())?;
    let told = String::from_utf8_lossy(&output.stderr);
    let listed =
        told.lines().find_map(|line| line.split_once("is no place to crash at; there are ")).map(|(_, all)| all);
    let places: Vec<String> = listed.unwrap_or_default().split(", ").map(|place| place.trim().to_string()).collect();
    if listed.is_none() || places.len() < PLACES_MIN {
        return Err("RINGRAFT_BIN is to name raft-tests-mutants: no other program has these places".to_string());
    }
    Ok(places)
}

async fn one(place: &str) -> Result<Duration, String> {
    let mut cluster = Cluster::prepare(Plan { nodes: 4, ..Plan::default() }).await;
    // All are told: the one that comes there dies.
    let armed = cluster.nodes[0].directory.join("armed");
    for node in &mut cluster.nodes {
        node.environment = vec![(VARIABLE.to_string(), format!("{place}:{}", armed.display()))];
        node.start();
    }
    cluster.wait_until_ready().await;
    cluster.wait_until_settled().await;
    for key in 0..KEYS {
        cluster.http(0).put(format!("/v1/kv/{key}?timeout=10s"), key.to_string()).send().await.expect(204);
    }
    let before = admin::shard(cluster.http(0), SHARD).await?;
    let from = admin::text(&before["leader"])?;
    let to = spare(&cluster, &before).await?;
    fs::write(&armed, "").map_err(|error| error.to_string())?;
    let began = clock::now();
    let steps = [("move", json!({ "from": from, "to": to })), ("split", json!({ "auto": true }))];
    for (what, body) in steps {
        let id = begin(&mut cluster, what, &body).await?;
        let ended = until_ended(&mut cluster, &id, &armed).await?;
        if ended["state"] != "done" {
            return Err(format!("it ended otherwise: {ended}"));
        }
    }
    let took = since(began);
    // The places behind the end of the operation: its process is started again there, too.
    let deadline = clock::now().after(ENDED_LIMIT);
    loop {
        revive(&mut cluster).await;
        if !armed.exists() && is_whole(&cluster, &from, &to).await {
            break;
        }
        if clock::now() >= deadline {
            let what = if armed.exists() { "nobody came there" } else { "the old replica is not gone" };
            return Err(format!("{what} after {ENDED_LIMIT:?}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.wait_until_ready().await;
    for key in 0..KEYS {
        let got = cluster.http(1).get(format!("/v1/kv/{key}?timeout=10s")).try_send().await?;
        if got.status != 200 || got.body != key.to_string() {
            return Err(format!("key {key}: {} {}", got.status, String::from_utf8_lossy(&got.body)));
        }
    }
    Ok(took)
}

async fn spare(cluster: &Cluster, shard: &Value) -> Result<String, String> {
    for node in &cluster.nodes {
        let id = admin::node_id(&node.http).await?;
        if !admin::nodes_of(shard).contains(&id) {
            return Ok(id);
        }
    }
    Err("every node has a replica".to_string())
}

async fn begin(cluster: &mut Cluster, what: &str, body: &Value) -> Result<String, String> {
    let path = format!("/v1/admin/shards/{SHARD}/{what}");
    let deadline = clock::now().after(ENDED_LIMIT);
    while clock::now() < deadline {
        revive(cluster).await;
        for node in &cluster.nodes {
            // With a key: the node that took it may be the one that dies before it answers.
            if let Ok(reply) = admin::post(&node.http, &path, body, Some(&format!("\"resume-{what}\""))).await
                && reply.status == 202
            {
                return admin::text(&reply.json()["id"]);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("no node took the {what}"))
}

/// Starts every node that has ended.
async fn revive(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        if node.pid().is_some() && node.ended(NOW).await.is_some() {
            node.start();
        }
    }
}

async fn until_ended(cluster: &mut Cluster, id: &str, armed: &Path) -> Result<Value, String> {
    let deadline = clock::now().after(ENDED_LIMIT);
    loop {
        revive(cluster).await;
        for node in &cluster.nodes {
            if let Some(operation) = admin::ended(&node.http, id).await {
                return Ok(operation);
            }
        }
        if clock::now() >= deadline {
            return Err(format!("it does not end (crashed: {})", !armed.exists()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The replica stands where it was to stand, and the node that it went from has as many directories as replicas.
async fn is_whole(cluster: &Cluster, from: &str, to: &str) -> bool {
    for node in &cluster.nodes {
        let Ok(shard) = admin::shard(&node.http, SHARD).await else { return false };
        let held = admin::nodes_of(&shard);
        if held.len() != 3 || !held.contains(&to.to_string()) || held.contains(&from.to_string()) {
            return false;
        }
        let Ok(status) = admin::get(&node.http, "/v1/status").await else { return false };
        let replicas = status["replicas"].as_array().map_or(0, Vec::len);
        if directories(&node.directory.join("data/replicas")).len() != replicas {
            return false;
        }
    }
    true
}

fn directories(replicas: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(replicas).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
