//! A cluster that grows and moves house under a constant load: 12 shards are split to 48, nodes 4, 5 and 6 join and get their
//! share, nodes 1, 2 and 3 are drained and leave. Nothing is killed, so no client may see an error.
//!
//! Each key has one writer and many readers. Revisions order a key's writes, so it is linearizable exactly if every answer's
//! revision is at or above all that anybody was told before it was asked for, each write's is above, and no revision is told
//! with two values. That is checked at each answer; in the end every key is read back, and scanned once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringraft::clock::{self, Moment};
use ringraft::ring::{Token, TokenRange};
use ringraft::types::ShardId;
use rustix::process::Signal;
use serde_json::{Value, json};

use self::load::{Acknowledged, Load, Told};
use super::{Options, Times, Verdict, ms, per_second};
use crate::admin;
use crate::cluster::{Cluster, Plan};
use crate::fleet::{PeerOf, compare_digests_of, signal, since, until};
use crate::http::Http;

mod load;

const NODES: usize = 6;
const FOUNDERS: usize = 3;
const REPLICATION_FACTOR: usize = 3;
const SHARDS: usize = 12;
/// Each shard is split so often.
const ROUNDS: usize = 2;
const SPLIT_AT_ONCE: usize = 3;
const RATE_MIN: f64 = 2_000.0;
/// Of what the new nodes must hold.
const BYTES_RATIO_MAX: f64 = 1.2;
/// The goal for the 99th percentile; said to be met or missed.
const GAP_GOAL: Duration = Duration::from_millis(500);
const OPERATION_LIMIT: Duration = Duration::from_secs(60);
const REST_LIMIT: Duration = Duration::from_secs(600);
/// A write gap of a split is looked for from its begin until so long after its end.
const AFTERMATH: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const END_LIMIT: Duration = Duration::from_secs(30);
const PAGE: usize = 1_000;
const SENT: &str = "ringraft_snapshot_sent_bytes_total";
const SHOWN: usize = 10;

pub(super) async fn run(options: Options) -> Verdict {
    let keys = if options.short { 5_000 } else { 40_000 };
    // Logs so small that replicas are filled by snapshots, as those of a cluster that has run for a while are.
    let storage = "disk_reserve_bytes = 16777216\nflush_log_bytes = 4194304\nlog_tail_bytes = 1048576\n";
    #[expect(clippy::cast_possible_truncation)]
    let plan = Plan { nodes: NODES, founders: FOUNDERS, shards: SHARDS as u32, storage, ..Plan::default() };
    let mut cluster = Cluster::prepare(plan).await;
    for node in &mut cluster.nodes[..FOUNDERS] {
        node.start();
    }
    cluster.wait_until_ready().await;
    cluster.wait_until_settled().await;
    let load = Load::begin(addresses(&cluster, 0..FOUNDERS), keys, options.seed()).await?;

    let began = clock::now();
    let splits = split_all(cluster.http(0)).await?;
    println!(
        "  {} splits, {SHARDS} to {} shards in {}",
        splits.len(),
        shards(cluster.http(0)).await?.len(),
        secs(began)
    );
    let sent_before = sent(&cluster, FOUNDERS).await?;
    let moving = clock::now();
    for node in &mut cluster.nodes[FOUNDERS..] {
        node.start();
    }
    for node in &mut cluster.nodes[FOUNDERS..] {
        node.wait_until_ready().await;
    }
    let shares = at_rest(&cluster, 0).await?;
    println!("  nodes 4, 5 and 6 joined and hold their share after {}: {shares:?}", secs(moving));
    let leaving = clock::now();
    let old = ids(&cluster, 0..FOUNDERS).await?;
    change_all(cluster.http(FOUNDERS), &old, "drain").await?;
    at_rest(&cluster, FOUNDERS).await?;
    let bytes = sent(&cluster, NODES).await? - sent_before;
    load.go_to(addresses(&cluster, FOUNDERS..NODES));
    change_all(cluster.http(FOUNDERS), &old, "decommission").await?;
    for node in &mut cluster.nodes[..FOUNDERS] {
        signal(node, Signal::TERM);
        if node.ended(END_LIMIT).await.is_none() {
            return Err(format!("{} has not ended {END_LIMIT:?} after SIGTERM", node.name));
        }
    }
    println!("  nodes 1, 2 and 3 drained and gone after {}", secs(leaving));
    let moved = clock::now();
    let told = load.stop().await;
    let took = told.took;
    let rate = per_second(told.operations, took);
    println!(
        "  {} operations in {:.0} s: {rate:.0} op/s, {} errors",
        told.operations,
        took.as_secs_f64(),
        told.errors.len()
    );

    print_gaps(&told, &splits, (moving, moved), cluster.http(FOUNDERS)).await?;
    #[expect(clippy::cast_precision_loss)]
    let ratio = bytes / (told.live_bytes as f64 * REPLICATION_FACTOR as f64);
    println!("  {:.1} MB sent to fill replicas: {ratio:.2} of what the new nodes must hold", bytes / 1e6);
    let mut wrong = held_against(&cluster, &told).await?;
    if rate < RATE_MIN {
        wrong.push(format!("{rate:.0} op/s, not {RATE_MIN}"));
    }
    if ratio > BYTES_RATIO_MAX {
        wrong.push(format!("{ratio:.2} of the bytes were sent, not {BYTES_RATIO_MAX}"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn secs(began: Moment) -> String {
    format!("{:.1} s", since(began).as_secs_f64())
}

fn addresses(cluster: &Cluster, places: std::ops::Range<usize>) -> Vec<String> {
    cluster.nodes[places].iter().map(|node| node.http.address.clone()).collect()
}

async fn ids(cluster: &Cluster, places: std::ops::Range<usize>) -> Result<Vec<String>, String> {
    let mut ids = Vec::new();
    for node in &cluster.nodes[places] {
        ids.push(admin::node_id(&node.http).await?);
    }
    Ok(ids)
}

/// The data shards with their ranges.
async fn shards(http: &Http) -> Result<BTreeMap<String, TokenRange>, String> {
    let listed = admin::get(http, "/v1/admin/shards").await?;
    let data = listed["shards"].as_array().into_iter().flatten().filter(|shard| shard["kind"] == "data");
    data.map(|shard| Ok((admin::text(&shard["id"])?, range_of(&shard["range"])?))).collect()
}

fn range_of(range: &Value) -> Result<TokenRange, String> {
    serde_json::from_value(range.clone()).map_err(|error| format!("{range}: {error}"))
}

/// One split as it was seen from outside.
struct Split {
    parent: TokenRange,
    begun: Moment,
    ended: Moment,
}

async fn split_all(http: &Http) -> Result<Vec<Split>, String> {
    let mut splits = Vec::new();
    for _ in 0..ROUNDS {
        let due: Vec<(String, TokenRange)> = shards(http).await?.into_iter().collect();
        for some in due.chunks(SPLIT_AT_ONCE) {
            let at_once = some.iter().map(|(shard, parent)| split(http, shard, *parent));
            for split in futures::future::join_all(at_once).await {
                splits.push(split?);
            }
        }
    }
    Ok(splits)
}

async fn split(http: &Http, shard: &str, parent: TokenRange) -> Result<Split, String> {
    let begun = clock::now();
    let path = format!("/v1/admin/shards/{shard}/split");
    ended(http, &path, &json!({ "auto": true })).await?;
    Ok(Split { parent, begun, ended: clock::now() })
}

/// Asks for an operation and waits until it is done.
async fn ended(http: &Http, path: &str, body: &Value) -> Result<(), String> {
    let reply = admin::post(http, path, body, None).await?;
    if reply.status != 202 {
        return Err(format!("{path}: {} {}", reply.status, String::from_utf8_lossy(&reply.body)));
    }
    let id = admin::text(&reply.json()["id"])?;
    let limit = if path.contains("/nodes/") { REST_LIMIT } else { OPERATION_LIMIT };
    let look = || async { admin::ended(http, &id).await };
    let end = if limit > OPERATION_LIMIT { slowly(limit, look).await } else { until(limit, look).await };
    match end {
        Some(end) if end["state"] == "done" => Ok(()),
        Some(end) => Err(format!("{path}: {end}")),
        None => Err(format!("{path}: operation {id} has not ended after {limit:?}")),
    }
}

async fn change_all(http: &Http, nodes: &[String], what: &str) -> Verdict {
    let changes = nodes.iter().map(|node| async move {
        let path = format!("/v1/admin/nodes/{node}/{what}");
        ended(http, &path, &json!({})).await
    });
    futures::future::join_all(changes).await.into_iter().collect()
}

/// Like [`until`], with pauses so long that the looks are no part of the load: one at all shards asks every node.
async fn slowly<T, F: Future<Output = Option<T>>>(limit: Duration, mut look: impl FnMut() -> F) -> Option<T> {
    let deadline = clock::now().after(limit);
    while clock::now() < deadline {
        if let Some(found) = look().await {
            return Some(found);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    None
}

/// Every node that takes replicas has some, and nothing moves.
async fn at_rest(cluster: &Cluster, ask: usize) -> Result<Vec<(String, usize)>, String> {
    let look = || async {
        let shares = admin::shares_at_rest(cluster.http(ask), REPLICATION_FACTOR).await.ok()?;
        let held = shares.iter().filter(|(_, held)| *held > 0).count();
        (held == if ask == 0 { NODES } else { NODES - FOUNDERS }).then_some(shares)
    };
    slowly(REST_LIMIT, look).await.ok_or_else(|| format!("not at rest after {REST_LIMIT:?}"))
}

async fn sent(cluster: &Cluster, nodes: usize) -> Result<f64, String> {
    let mut sum = 0.0;
    for node in &cluster.nodes[..nodes] {
        sum += admin::metric(&node.http, SENT).await?;
    }
    Ok(sum)
}

/// Prints the longest times without an acknowledged write while one was waited for: of each split shard while it was split, of each shard while
/// replicas moved. A percentile above the goal is said, and is no failure.
async fn print_gaps(told: &Told, splits: &[Split], (moving, moved): (Moment, Moment), http: &Http) -> Verdict {
    let mut of_splits = Times::default();
    for split in splits {
        of_splits.add(longest_gap(&told.acknowledged, split.parent, split.begun, split.ended.after(AFTERMATH)));
    }
    let mut of_moves = Times::default();
    for range in shards(http).await?.into_values() {
        of_moves.add(longest_gap(&told.acknowledged, range, moving, moved));
    }
    for (what, times) in [("split shards", &mut of_splits), ("shards that moved", &mut of_moves)] {
        let p99 = times.at(0.99);
        let goal = if p99 <= GAP_GOAL { "met" } else { "missed" };
        println!("  write gap of {what}: p50 {}, p99 {} (goal {GAP_GOAL:?}: {goal})", ms(times.at(0.5)), ms(p99));
    }
    Ok(())
}

/// Only while a write of these tokens waits for its answer: nothing is said of times when nobody asks.
fn longest_gap(acknowledged: &[Acknowledged], range: TokenRange, from: Moment, to: Moment) -> Duration {
    let is_within = |one: &&Acknowledged| range.contains(one.token) && one.at >= from && one.at <= to;
    let mut last = from;
    let mut longest = Duration::ZERO;
    for one in acknowledged.iter().filter(is_within) {
        longest = longest.max(one.at.since(last.max(one.asked)));
        last = one.at;
    }
    longest
}

/// What is wrong with what the cluster holds in the end, and with what it answered.
async fn held_against(cluster: &Cluster, told: &Told) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    for (what, found) in [("errors", &told.errors), ("violations", &told.violations)] {
        for one in found.iter().take(SHOWN) {
            println!("  {what}: {one}");
        }
        if !found.is_empty() {
            wrong.push(format!("{} {what}", found.len()));
        }
    }
    let http = cluster.http(NODES - 1);
    let read = told.read_back(&addresses(cluster, FOUNDERS..NODES)).await;
    println!("  {} keys read back, {} wrong", told.keys(), read.len());
    wrong.extend(read.into_iter().take(SHOWN));
    let (listed, double) = scanned(http).await?;
    println!("  {} keys by scan, {double} of them twice", listed.len());
    if listed != told.names() || double > 0 {
        wrong.push(format!("{} keys scanned, {double} twice, of {}", listed.len(), told.keys()));
    }
    let peers: Vec<PeerOf> = cluster.nodes[FOUNDERS..]
        .iter()
        .map(|node| PeerOf { name: node.name.clone(), address: node.peer.clone() })
        .collect();
    let mut ids: Vec<ShardId> = vec![ShardId(0)];
    for id in shards(http).await?.into_keys() {
        ids.push(id.parse().map_err(|error| format!("{id}: {error}"))?);
    }
    if ids.len() != 1 + SHARDS * (1 << ROUNDS) {
        wrong.push(format!("{} shards", ids.len() - 1));
    }
    let compared = compare_digests_of(&ids, &peers, REPLICATION_FACTOR).await?;
    println!("  {compared} replicas compared: equal rows at one applied index in each shard");
    Ok(wrong)
}

async fn scanned(http: &Http) -> Result<(BTreeSet<String>, usize), String> {
    let mut found = BTreeSet::new();
    let mut double = 0;
    let mut cursor = String::new();
    loop {
        let page = admin::get(http, &format!("/v1/kv?keys_only=true&limit={PAGE}{cursor}")).await?;
        for item in page["items"].as_array().ok_or_else(|| format!("no items in {page}"))? {
            double += usize::from(!found.insert(admin::text(&item["key"])?));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok((found, double)),
        }
    }
}

/// The token of a key that has no `{tag}`.
fn token(key: &str) -> Token {
    ringraft::ring::token_of(key.as_bytes())
}
