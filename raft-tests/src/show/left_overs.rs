//! What splits leave behind is given back: each shard of a cluster with data is split twice, so that most of the rows in each
//! replica are another shard's, and the bytes on disk return to little more than the data that lives.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringraft::clock;
use serde_json::json;

use super::{Options, Verdict};
use crate::admin;
use crate::cluster::{Cluster, Plan};
use crate::fleet::{compare_digests, since, until};

const SHARDS: u32 = 4;
const ROUNDS: usize = 2;
const VALUE_BYTES: usize = 5_000;
const WRITERS: usize = 8;
/// Of the bytes of all keys and values, on each node.
const RATIO_MAX: f64 = 1.3;
const SPLIT_LIMIT: Duration = Duration::from_secs(60);
const GIVEN_BACK_LIMIT: Duration = Duration::from_secs(180);

pub(super) async fn run(options: Options) -> Verdict {
    let rows = if options.short { 24_000 } else { 80_000 };
    let cluster = Cluster::start(Plan { shards: SHARDS, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    fill(&cluster, rows, options.seed()).await?;
    #[expect(clippy::cast_precision_loss)]
    let live = (rows * VALUE_BYTES) as f64;
    println!("  {:.1} MB of rows in {SHARDS} shards, on disk: {}", live / 1e6, told(&cluster, live));
    let began = clock::now();
    for _ in 0..ROUNDS {
        for shard in data_shards(&cluster).await? {
            split(&cluster, &shard).await?;
        }
    }
    println!("  {} shards after {:.1} s", data_shards(&cluster).await?.len(), since(began).as_secs_f64());
    println!("  right after the last split: {}", told(&cluster, live));
    let given_back = until(GIVEN_BACK_LIMIT, || async {
        let all = cluster.nodes.iter().all(|node| on_disk(&node.directory) <= RATIO_MAX * live);
        all.then_some(())
    });
    let is_given_back = given_back.await.is_some();
    println!("  {:.1} s after the first split: {}", since(began).as_secs_f64(), told(&cluster, live));
    let compared = compare_digests(&cluster).await?;
    println!("  {compared} replicas compared: equal rows at one applied index in each shard");
    if is_given_back { Ok(()) } else { Err(format!("more than {RATIO_MAX} of the data after {GIVEN_BACK_LIMIT:?}")) }
}

fn told(cluster: &Cluster, live: f64) -> String {
    let parts = cluster.nodes.iter().map(|node| format!("{:.2}", on_disk(&node.directory) / live));
    format!("{} of it on the nodes", parts.collect::<Vec<_>>().join(", "))
}

/// Bytes of everything in the replicas' directories; what two of them share counts once.
fn on_disk(node: &Path) -> f64 {
    let mut files = BTreeMap::new();
    let replicas = fs::read_dir(node.join("data/replicas")).into_iter().flatten().flatten();
    // One that goes away meanwhile counts as gone.
    for file in replicas.flat_map(|replica| fs::read_dir(replica.path()).into_iter().flatten().flatten()) {
        if let Ok(metadata) = file.metadata() {
            files.insert(metadata.ino(), metadata.blocks() * 512);
        }
    }
    #[expect(clippy::cast_precision_loss)]
    let bytes = files.into_values().sum::<u64>() as f64;
    bytes
}

async fn data_shards(cluster: &Cluster) -> Result<Vec<String>, String> {
    let listed = admin::get(cluster.http(0), "/v1/admin/shards").await?;
    let data = listed["shards"].as_array().into_iter().flatten().filter(|shard| shard["kind"] == "data");
    data.map(|shard| admin::text(&shard["id"])).collect()
}

async fn split(cluster: &Cluster, shard: &str) -> Verdict {
    let path = format!("/v1/admin/shards/{shard}/split");
    let reply = admin::post(cluster.http(0), &path, &json!({ "auto": true }), None).await?;
    let id = admin::text(&reply.json()["id"])?;
    let ended = until(SPLIT_LIMIT, || async { admin::ended(cluster.http(0), &id).await });
    match ended.await {
        Some(end) if end["state"] == "done" => Ok(()),
        other => Err(format!("shard {shard} is not split: {other:?}")),
    }
}

/// Rows that cannot be compressed.
async fn fill(cluster: &Cluster, rows: usize, seed: u64) -> Verdict {
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let http = cluster.http(writer % cluster.nodes.len()).clone();
        tasks.spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed ^ ((writer as u64) << 32));
            for row in (writer..rows).step_by(WRITERS) {
                let mut value = vec![0; VALUE_BYTES];
                rng.fill_bytes(&mut value);
                http.put(format!("/v1/kv/row-{row}?timeout=30s"), Bytes::from(value)).send().await.expect(204);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| error.to_string())?;
    }
    Ok(())
}
