//! kill -9 of a node under load, restarted later: for each shard it led, the time until a write to that shard is
//! acknowledged again.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::clock::{self, Moment};
use tokio::task::JoinSet;

use super::{Options, Times, Verdict, ms};
use crate::client::{Client, Outcome, kv_path};
use crate::cluster::{Cluster, Plan};
use crate::fleet::{shard_of, shards, since, until};
use crate::traffic::Traffic;

const WRITERS: usize = 16;
/// The goal for every shard, with the default timing of elections.
const GOAL: Duration = Duration::from_millis(1500);
/// From the kill until the node is started again.
const DOWN: Duration = Duration::from_secs(5);
/// A shard that takes no write for so long is stuck.
const PROBE_LIMIT: Duration = Duration::from_secs(30);
/// Between two probes of a shard: the resolution of what is measured.
const PROBE_EVERY: Duration = Duration::from_millis(25);
/// Deadline of one probe. Later probes are not held up by it: they overlap.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The kill comes up to so long after leaders are spread, to meet every moment.
const JITTER_MS: u64 = 700;
/// Keys that are tried until every shard has one.
const KEYS_TRIED: usize = 2000;

pub(super) async fn run(options: Options) -> Verdict {
    let mut rng = StdRng::seed_from_u64(options.seed());
    let rounds = options.rounds.unwrap_or(if options.short { 3 } else { 20 });
    let mut cluster = Cluster::start(Plan { shards: 12, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.http.address.clone()).collect();
    let probes = probe_keys(&cluster).await?;
    let traffic = Traffic::start(addresses.clone(), WRITERS, options.seed());
    let mut times = Times::default();

    for round in 1..=rounds {
        cluster.wait_until_settled().await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..JITTER_MS))).await;
        let victim = (round - 1) % cluster.nodes.len();
        let led = led_by(&cluster, victim).await.ok_or("nobody lists the shards")?;
        let survivors: Vec<&str> =
            addresses.iter().enumerate().filter(|(place, _)| *place != victim).map(|(_, a)| a.as_str()).collect();

        let killed = clock::now();
        cluster.nodes[victim].kill().await;
        let mut waiting = JoinSet::new();
        for (number, &shard) in led.iter().enumerate() {
            let key = probes.get(&shard).ok_or_else(|| format!("no probe key for shard {shard}"))?;
            let address = survivors[number % survivors.len()].to_string();
            waiting.spawn(first_acknowledged(address, kv_path(key.as_bytes()), shard, killed));
        }
        let mut line = Vec::new();
        while let Some(probed) = waiting.join_next().await {
            let (shard, time) = probed.expect("a probe does not panic");
            let time =
                time.ok_or_else(|| format!("round {round}: shard {shard} takes no write for {PROBE_LIMIT:?}"))?;
            times.add(time);
            line.push(format!("{shard}: {}", ms(time)));
        }
        println!("  round {round}: {} led {} shards; writes again after {}", victim + 1, led.len(), line.join(", "));
        tokio::time::sleep(DOWN.saturating_sub(since(killed))).await;
        cluster.nodes[victim].start();
        cluster.nodes[victim].wait_until_ready().await;
    }

    let told = traffic.stop().await;
    told.print();
    let checked = told.check(&addresses, WRITERS).await?;
    println!("  {checked} keys hold what was acknowledged");
    let (count, p50, max) = (times.0.len(), times.at(0.5), times.at(1.0));
    println!(
        "  {count} shards lost their leader: writes again after p50 {}, p90 {}, max {}",
        ms(p50),
        ms(times.at(0.9)),
        ms(max)
    );
    if count == 0 {
        return Err("no killed node led a shard".to_string());
    }
    if max > GOAL {
        let misses = times.0.iter().filter(|time| **time > GOAL).count();
        return Err(format!("max {} is {} above {}; {misses} of {count} missed", ms(max), ms(max - GOAL), ms(GOAL)));
    }
    Ok(())
}

/// One key in each data shard.
async fn probe_keys(cluster: &Cluster) -> Result<BTreeMap<u64, String>, String> {
    let wanted = shards(cluster, 0).await.ok_or("nobody lists the shards")?;
    let wanted = wanted.iter().filter(|shard| !shard.is_meta).count();
    let mut keys = BTreeMap::new();
    for number in 0..KEYS_TRIED {
        if keys.len() == wanted {
            return Ok(keys);
        }
        let key = format!("probe-{number}");
        keys.entry(shard_of(cluster, 0, &key).await).or_insert(key);
    }
    Err(format!("{KEYS_TRIED} keys reach only {} of {wanted} shards", keys.len()))
}

/// The data shards that a node leads, as it says itself.
async fn led_by(cluster: &Cluster, place: usize) -> Option<Vec<u64>> {
    until(Duration::from_secs(5), || async move {
        let all = shards(cluster, place).await?;
        Some(all.iter().filter(|shard| !shard.is_meta && shard.leader == Some(place)).map(|shard| shard.id).collect())
    })
    .await
}

/// Time from `killed` until a write that was sent after it is acknowledged. A probe is sent every few milliseconds
/// whether or not the one before has its answer, so that one that waits for the dead leader does not hide a new one.
async fn first_acknowledged(address: String, path: String, shard: u64, killed: Moment) -> (u64, Option<Duration>) {
    let target = format!("{path}?timeout={}ms", PROBE_TIMEOUT.as_millis());
    let mut sent = JoinSet::new();
    let mut pace = tokio::time::interval(PROBE_EVERY);
    while since(killed) < PROBE_LIMIT {
        tokio::select! {
            biased;
            Some(answer) = sent.join_next() => {
                if let Ok(Some(at)) = answer {
                    return (shard, Some(Moment::since(at, killed)));
                }
            }
            _ = pace.tick() => {
                let (address, target) = (address.clone(), target.clone());
                sent.spawn(async move {
                    let outcome = Client::new(address).put(&target, "probe".into(), 2 * PROBE_TIMEOUT).await;
                    matches!(outcome, Outcome::Acknowledged { .. }).then(clock::now)
                });
            }
        }
    }
    (shard, None)
}
