//! Half reads, half writes by many clients and no fault, counted once leaders are spread: no error, no change of leader.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::clock;
use tokio_util::sync::CancellationToken;

use super::{Options, Times, Verdict, ms, per_second};
use crate::client::{Client, Outcome, kv_path};
use crate::cluster::{Cluster, Plan};
use crate::fleet::{ShardView, shards, since, until};

const CLIENTS: usize = 64;
const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 256;
const CLIENT_LIMIT: Duration = Duration::from_secs(10);
/// How often terms and leaders are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const ERRORS_SHOWN: usize = 5;

#[derive(Default)]
struct Tally {
    gets: Times,
    puts: Times,
    errors: Vec<String>,
}

pub(super) async fn run(options: Options) -> Verdict {
    let minutes = options.minutes.unwrap_or(if options.short { 1 } else { 30 });
    let time = Duration::from_secs(60 * minutes);
    let cluster = Cluster::start(Plan { shards: 12, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    let addresses: Arc<[String]> = cluster.nodes.iter().map(|node| node.http.address.clone()).collect();
    let before = leaders(&cluster).await.ok_or("nobody lists the shards with their terms")?;
    let stop = CancellationToken::new();
    let began = clock::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(work(Arc::clone(&addresses), number, options.seed(), stop.clone())))
        .collect();

    let mut changes = Vec::new();
    let mut last = before;
    while since(began) < time {
        tokio::time::sleep(LOOK_EVERY.min(time.saturating_sub(since(began)))).await;
        let now = leaders(&cluster).await.ok_or("nobody lists the shards with their terms")?;
        for (old, new) in last.iter().zip(&now).filter(|(old, new)| old != new) {
            changes.push(format!(
                "shard {} at {:.0} s: term {} to {}, leader {:?} to {:?}",
                new.id,
                since(began).as_secs_f64(),
                old.term.as_deref().unwrap_or("?"),
                new.term.as_deref().unwrap_or("?"),
                old.leader,
                new.leader
            ));
        }
        last = now;
    }
    stop.cancel();
    let mut all = Tally::default();
    for client in clients {
        let tally = client.await.expect("a client does not panic");
        all.gets.0.extend(tally.gets.0);
        all.puts.0.extend(tally.puts.0);
        all.errors.extend(tally.errors);
    }
    let took = since(began);
    let operations = (all.gets.0.len() + all.puts.0.len()) as u64;
    println!(
        "  {CLIENTS} clients, {:.0} s: {operations} operations, {:.0} op/s, {} errors, {} changes of leader",
        took.as_secs_f64(),
        per_second(operations, took),
        all.errors.len(),
        changes.len()
    );
    for (what, times) in [("get", &mut all.gets), ("put", &mut all.puts)] {
        println!(
            "  {what}: p50 {}, p99 {}, p99.9 {}, max {}",
            ms(times.at(0.5)),
            ms(times.at(0.99)),
            ms(times.at(0.999)),
            ms(times.at(1.0))
        );
    }
    for problem in all.errors.iter().take(ERRORS_SHOWN).chain(changes.iter()) {
        println!("  {problem}");
    }
    if operations == 0 {
        return Err("nothing was done".to_string());
    }
    if all.errors.is_empty() && changes.is_empty() {
        return Ok(());
    }
    Err(format!("{} errors, {} changes of leader", all.errors.len(), changes.len()))
}

/// All shards with their terms and leaders, once every one has a leader that tells its term.
async fn leaders(cluster: &Cluster) -> Option<Vec<ShardView>> {
    until(Duration::from_secs(10), || async {
        let all = shards(cluster, 0).await?;
        all.iter().all(|shard| shard.leader.is_some() && shard.term.is_some()).then_some(all)
    })
    .await
}

async fn work(addresses: Arc<[String]>, number: usize, seed: u64, stop: CancellationToken) -> Tally {
    let mut rng = StdRng::seed_from_u64(seed ^ ((number as u64) << 32));
    let mut client = Client::new(&addresses[number % addresses.len()]);
    let mut tally = Tally::default();
    let value = bytes::Bytes::from(vec![b'v'; VALUE_BYTES]);
    while !stop.is_cancelled() {
        let path = kv_path(format!("steady/{}", rng.random_range(0..KEYS)).as_bytes());
        let is_get = rng.random::<bool>();
        let began = clock::now();
        let error = if is_get {
            match client.get(&path, CLIENT_LIMIT).await {
                Ok(reply) if matches!(reply.status, 200 | 404) => None,
                Ok(reply) => Some(format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body))),
                Err(trouble) => Some(format!("{trouble:?}")),
            }
        } else {
            match client.put(&path, value.clone(), CLIENT_LIMIT).await {
                Outcome::Acknowledged { .. } => None,
                other => Some(format!("{other:?}")),
            }
        };
        match error {
            None if is_get => tally.gets.add(since(began)),
            None => tally.puts.add(since(began)),
            Some(error) => tally.errors.push(format!(
                "{} {path} at {}: {error}",
                if is_get { "get" } else { "put" },
                client.address()
            )),
        }
    }
    tally
}
