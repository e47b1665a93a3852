//! kill -9 of each node in turn while writes are acknowledged, then of all three at once: every acknowledged key has
//! its acknowledged value or a newer one that was also sent, and all replicas hold the same rows.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::clock;

use super::{Options, Verdict, per_second};
use crate::cluster::{Cluster, Plan};
use crate::fleet::{compare_digests, kill_all, since};
use crate::traffic::Traffic;

const WRITERS: usize = 24;
/// Writes that must be acknowledged in each second of a round, over the round.
const RATE_MIN: f64 = 100.0;
/// How long a killed node stays down: long enough that the others elect new leaders.
const DOWN: Duration = Duration::from_secs(3);
/// Writes between a ready cluster and the next kill, so that each kill meets writes under way.
const WRITES_BETWEEN: u64 = 300;
const WRITES_BETWEEN_LIMIT: Duration = Duration::from_secs(30);
/// The kill comes up to so long after the last condition, to meet every moment.
const JITTER_MS: u64 = 500;

pub(super) async fn run(options: Options) -> Verdict {
    let mut rng = StdRng::seed_from_u64(options.seed());
    let (rounds, all_at_once) = if options.short { (1, 2) } else { (5, 10) };
    let rounds = options.rounds.unwrap_or(rounds);
    let mut cluster = Cluster::start(Plan { shards: 12, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.http.address.clone()).collect();
    let traffic = Traffic::start(addresses.clone(), WRITERS, options.seed());
    written(&traffic).await?;
    let mut slow = Vec::new();

    for round in 1..=rounds {
        for place in 0..cluster.nodes.len() {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..JITTER_MS))).await;
            let (began, before) = (clock::now(), traffic.acknowledged());
            cluster.nodes[place].kill().await;
            tokio::time::sleep(DOWN).await;
            let started = clock::now();
            cluster.nodes[place].start();
            cluster.nodes[place].wait_until_ready().await;
            let ready = since(started);
            let rate = per_second(traffic.acknowledged() - before, since(began));
            println!(
                "  round {round}: {} killed, down {} s, ready {:.2} s after its start, {rate:.0} writes/s acknowledged",
                cluster.nodes[place].name,
                DOWN.as_secs(),
                ready.as_secs_f64()
            );
            if rate < RATE_MIN {
                slow.push(format!("{rate:.0} writes/s while {} was down", cluster.nodes[place].name));
            }
            written(&traffic).await?;
        }
    }
    for round in 1..=all_at_once {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..JITTER_MS))).await;
        kill_all(&mut cluster).await;
        let started = clock::now();
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.wait_until_ready().await;
        let ready = since(started);
        written(&traffic).await?;
        println!(
            "  all killed, {round} of {all_at_once}: all ready {:.2} s after their start, writes again within {:.2} s",
            ready.as_secs_f64(),
            since(started).as_secs_f64()
        );
    }

    let told = traffic.stop().await;
    told.print();
    let checked = told.check(&addresses, WRITERS).await?;
    println!("  {checked} keys hold what was acknowledged, or an unknown write sent after it");
    let compared = compare_digests(&cluster).await?;
    println!("  {compared} replicas compared: equal rows at one applied index in each shard");
    if slow.is_empty() { Ok(()) } else { Err(format!("fewer than {RATE_MIN} writes/s: {}", slow.join("; "))) }
}

/// Waits until more writes are acknowledged.
async fn written(traffic: &Traffic) -> Verdict {
    let wanted = traffic.acknowledged() + WRITES_BETWEEN;
    let deadline = clock::now().after(WRITES_BETWEEN_LIMIT);
    while traffic.acknowledged() < wanted {
        if clock::now() >= deadline {
            let missing = wanted - traffic.acknowledged();
            return Err(format!("{missing} of {WRITES_BETWEEN} writes are missing after {WRITES_BETWEEN_LIMIT:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
