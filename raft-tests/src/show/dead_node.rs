//! A node killed for good under load: once it is taken for dead, its replicas are replaced on the others, and every shard has
//! all its voters again without anybody doing anything. Prints how long that took and how many bytes were sent for it.

use std::time::Duration;

use bytes::Bytes;
use ringraft::clock;
use ringraft::types::ShardId;

use super::{Options, Verdict};
use crate::admin;
use crate::cluster::{Cluster, Plan};
use crate::fleet::{PeerOf, compare_digests_of, since, until};
use crate::traffic::Traffic;

const SHARDS: u32 = 12;
const REPLICATION_FACTOR: usize = 3;
const WRITERS: usize = 8;
/// Rows that are there before: a replica is to be filled with something.
const VALUE_BYTES: usize = 10_000;
const DEAD_AFTER_S: u64 = 5;
/// From the kill until every shard is whole, beyond the grace period.
const REPLACED_LIMIT: Duration = Duration::from_secs(120);
/// What may be sent, of what the dead node's replicas held: a replica that is filled twice shows.
const BYTES_RATIO_MAX: f64 = 1.2;
const SENT: &str = "ringraft_snapshot_sent_bytes_total";

pub(super) async fn run(options: Options) -> Verdict {
    let rows = if options.short { 2_000 } else { 20_000 };
    // Logs so small that replicas are filled by snapshots, as those of a cluster that has run for a while are.
    let storage = "disk_reserve_bytes = 16777216\nflush_log_bytes = 1048576\nlog_tail_bytes = 1048576\n";
    let placement = "dead_after_s = 5\n";
    let plan = Plan { nodes: 4, shards: SHARDS, storage, placement, ..Plan::default() };
    let mut cluster = Cluster::start(plan).await;
    cluster.wait_until_settled().await;
    fill(&cluster, rows).await?;
    let whole =
        until(REPLACED_LIMIT, || async { admin::shares_at_rest(cluster.http(0), REPLICATION_FACTOR).await.ok() });
    let shares = whole.await.ok_or("the cluster does not come to rest")?;
    let dead = admin::node_id(cluster.http(3)).await?;
    let share = shares.iter().find(|(node, _)| *node == dead).map_or(0, |(_, count)| *count);
    let addresses: Vec<String> = cluster.nodes[..3].iter().map(|node| node.http.address.clone()).collect();
    let traffic = Traffic::start(addresses.clone(), WRITERS, options.seed());
    let held = held_by(&cluster, &dead, rows).await?;
    let before = sent(&cluster).await?;

    let killed = clock::now();
    cluster.nodes[3].kill().await;
    let mut noticed = None;
    let replaced = loop {
        let look = admin::shares_at_rest(cluster.http(0), REPLICATION_FACTOR).await;
        let is_dead = admin::get(cluster.http(0), "/v1/admin/nodes").await?["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.iter().any(|node| node["id"] == *dead && node["state"] == "dead"));
        if is_dead && noticed.is_none() {
            noticed = Some(since(killed));
        }
        if look.as_ref().is_ok_and(|shares| shares.contains(&(dead.clone(), 0))) {
            break since(killed);
        }
        if since(killed) > REPLACED_LIMIT {
            return Err(format!("not replaced within {REPLACED_LIMIT:?}: {look:?}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let bytes = sent(&cluster).await? - before;
    println!("  node {dead} held {share} replicas with about {:.1} MB of rows", held / 1e6);
    println!(
        "  taken for dead {:.1} s after kill -9 (grace period {DEAD_AFTER_S} s), every shard whole {:.1} s after it",
        noticed.unwrap_or_default().as_secs_f64(),
        replaced.as_secs_f64()
    );
    println!("  {:.1} MB sent to replace them: {:.2} of what it held", bytes / 1e6, bytes / held);

    let told = traffic.stop().await;
    told.print();
    let checked = told.check(&addresses, WRITERS).await?;
    println!("  {checked} keys hold what was acknowledged, or an unknown write sent after it");
    let peers: Vec<PeerOf> =
        cluster.nodes[..3].iter().map(|node| PeerOf { name: node.name.clone(), address: node.peer.clone() }).collect();
    let shards: Vec<ShardId> = (0..=u64::from(SHARDS)).map(ShardId).collect();
    let compared = compare_digests_of(&shards, &peers, REPLICATION_FACTOR).await?;
    println!("  {compared} replicas compared: equal rows at one applied index in each shard");
    let ratio = bytes / held;
    if ratio > BYTES_RATIO_MAX {
        Err(format!("{ratio:.2} of the bytes were sent, not {BYTES_RATIO_MAX}"))
    } else {
        Ok(())
    }
}

async fn fill(cluster: &Cluster, rows: usize) -> Verdict {
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let http = cluster.http(writer % 3).clone();
        tasks.spawn(async move {
            for row in (writer..rows).step_by(WRITERS) {
                let value: Vec<u8> = (0..VALUE_BYTES).map(|_| (clock::random_u64() & 0xff) as u8).collect();
                http.put(format!("/v1/kv/row-{row}?timeout=10s"), Bytes::from(value)).send().await.expect(204);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Bytes of the rows in the node's replicas, by the part of the shards that it holds.
async fn held_by(cluster: &Cluster, node: &str, rows: usize) -> Result<f64, String> {
    let shards = admin::get(cluster.http(0), "/v1/admin/shards").await?;
    let data = || shards["shards"].as_array().into_iter().flatten().filter(|shard| shard["kind"] == "data");
    let held = data().filter(|shard| admin::nodes_of(shard).iter().any(|other| other == node)).count();
    #[expect(clippy::cast_precision_loss)]
    Ok(held as f64 / data().count() as f64 * rows as f64 * VALUE_BYTES as f64)
}

/// By the nodes that live.
async fn sent(cluster: &Cluster) -> Result<f64, String> {
    let mut sum = 0.0;
    for node in &cluster.nodes[..3] {
        sum += admin::metric(&node.http, SENT).await?;
    }
    Ok(sum)
}
