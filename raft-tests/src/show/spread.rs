//! Where replicas stand: on six nodes of weights 1, 2, 4, 1, 2 and 4 each holds its share of them, within a tenth or one
//! replica; and with two nodes in each of three zones a whole zone is killed, and every shard goes on.

use std::time::Duration;

use ringraft::clock;

use super::{Options, Verdict};
use crate::admin;
use crate::cluster::{Cluster, Plan};
use crate::fleet::{since, until};

const NODES: usize = 6;
const REPLICATION_FACTOR: usize = 3;
const WEIGHTS: [u32; NODES] = [1, 2, 4, 1, 2, 4];
const FORMED_LIMIT: Duration = Duration::from_secs(240);
/// From the death of a zone until every shard has taken a write.
const GOES_ON_LIMIT: Duration = Duration::from_secs(30);
const KEYS_TRIED_MAX: usize = 20_000;

/// With fewer, a tenth of a share is less than what the placement rounds to whole replicas.
const SHARDS: u32 = 96;

pub(super) async fn run(_options: Options) -> Verdict {
    by_weight().await?;
    a_zone_dies().await
}

async fn by_weight() -> Verdict {
    let node = |place: usize| format!("weight = {}\n", WEIGHTS[place]);
    let began = clock::now();
    let cluster = Cluster::start(Plan { nodes: NODES, shards: SHARDS, node, ..Plan::default() }).await;
    let shares = at_rest(&cluster).await?;
    println!("  weights: {SHARDS} shards at rest {:.1} s after the start of {NODES} nodes", since(began).as_secs_f64());
    // The meta group has replicas, too.
    let replicas = REPLICATION_FACTOR * (SHARDS as usize + 1);
    let mut off = Vec::new();
    for (place, weight) in WEIGHTS.into_iter().enumerate() {
        let node = admin::node_id(cluster.http(place)).await?;
        let held = shares.iter().find(|(id, _)| *id == node).map_or(0, |(_, held)| *held);
        let share = replicas as f64 * f64::from(weight) / f64::from(WEIGHTS.iter().sum::<u32>());
        println!("    node of weight {weight}: {held} replicas, its share is {share:.1}");
        if (held as f64 - share).abs() > (0.1 * share).max(1.0) {
            off.push(format!("{held} of {share:.1}"));
        }
    }
    if off.is_empty() { Ok(()) } else { Err(format!("not within a tenth or one replica: {}", off.join(", "))) }
}

async fn a_zone_dies() -> Verdict {
    let node = |place: usize| format!("zone = \"zone-{}\"\n", place % 3);
    let mut cluster = Cluster::start(Plan { nodes: NODES, shards: SHARDS, node, ..Plan::default() }).await;
    at_rest(&cluster).await?;
    let keys = a_key_of_each(&cluster, SHARDS as usize).await?;
    for zone in 0..3 {
        let (dead, witness) = ([zone, zone + 3], (zone + 1) % 3);
        let killed = clock::now();
        for place in dead {
            cluster.nodes[place].kill().await;
        }
        let http = cluster.http(witness);
        let writes = keys.iter().map(|key| format!("/v1/kv/{key}?timeout=1s")).map(|path| async move {
            let written = until(GOES_ON_LIMIT, || async {
                let reply = http.put(path.clone(), "after").try_send().await.ok()?;
                (reply.status == 204).then_some(())
            });
            written.await.is_some()
        });
        let without = futures::future::join_all(writes).await.into_iter().filter(|goes_on| !goes_on).count();
        let took = since(killed);
        for place in dead {
            cluster.nodes[place].start();
        }
        cluster.wait_until_ready().await;
        if without > 0 {
            return Err(format!("zone-{zone} was killed, and {without} of {SHARDS} shards took no write"));
        }
        println!("  zone-{zone} killed: all {SHARDS} shards took a write within {:.1} s", took.as_secs_f64());
    }
    Ok(())
}

async fn at_rest(cluster: &Cluster) -> Result<Vec<(String, usize)>, String> {
    let shares =
        until(FORMED_LIMIT, || async { admin::shares_at_rest(cluster.http(0), REPLICATION_FACTOR).await.ok() }).await;
    shares.ok_or_else(|| format!("the cluster is not at rest after {FORMED_LIMIT:?}"))
}

async fn a_key_of_each(cluster: &Cluster, shards: usize) -> Result<Vec<String>, String> {
    let mut keys = std::collections::BTreeMap::new();
    for number in 0..KEYS_TRIED_MAX {
        let key = format!("zone-{number}");
        let route = admin::get(cluster.http(0), &format!("/v1/admin/route?key={key}")).await?;
        keys.entry(admin::text(&route["shard"])?).or_insert(key);
        if keys.len() == shards {
            return Ok(keys.into_values().collect());
        }
    }
    Err(format!("{KEYS_TRIED_MAX} keys are in {} of {shards} shards", keys.len()))
}
