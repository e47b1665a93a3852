//! What a node costs that has nothing to do, and how long a start with data takes.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringraft::clock;

use super::{Options, Verdict, per_second};
use crate::client::{Client, Outcome};
use crate::cluster::{Cluster, Node, Plan};
use crate::fleet::{kill_all, resident_bytes, since};

const SHARDS: [u32; 2] = [12, 256];
/// What a cluster does after its start is over by then.
const REST: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(30);
const VALUE_BYTES: usize = 100 << 10;
const DATA_BYTES: usize = 1 << 30;
const DATA_BYTES_SHORT: usize = 128 << 20;
const CLIENTS: usize = 16;
const CLIENT_LIMIT: Duration = Duration::from_secs(30);
const ATTEMPTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(options: Options) -> Verdict {
    for shards in SHARDS {
        let began = clock::now();
        let cluster = Cluster::start(Plan { shards, ..Plan::default() }).await;
        let ready = since(began);
        cluster.wait_until_settled().await;
        println!(
            "  {shards} shards: ready {:.1} s after the first start, leaders spread after {:.1} s",
            ready.as_secs_f64(),
            since(began).as_secs_f64()
        );
        tokio::time::sleep(REST).await;
        let before: Vec<Duration> = cluster.nodes.iter().map(processor_time).collect::<Result<_, _>>()?;
        let began = clock::now();
        tokio::time::sleep(MEASURED).await;
        let took = since(began);
        for (node, before) in cluster.nodes.iter().zip(before) {
            let used = processor_time(node)?.saturating_sub(before).as_secs_f64() / took.as_secs_f64();
            println!(
                "  {shards} shards, {} idle for {} s: {:.1} % of one processor, {:.0} MiB resident",
                node.name,
                MEASURED.as_secs(),
                100.0 * used,
                resident_mib(node)?
            );
        }
    }
    starts(&options).await
}

async fn starts(options: &Options) -> Verdict {
    let mut cluster = Cluster::start(Plan { shards: 12, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    let bytes = if options.short { DATA_BYTES_SHORT } else { DATA_BYTES };
    fill(&cluster, bytes / VALUE_BYTES, options.seed()).await?;
    let mib = bytes >> 20;
    for place in 0..cluster.nodes.len() {
        cluster.nodes[place].kill().await;
        let began = clock::now();
        cluster.nodes[place].start();
        cluster.nodes[place].wait_until_ready().await;
        println!(
            "  {mib} MiB of data: {} ready {:.2} s after its start, {:.0} MiB resident",
            cluster.nodes[place].name,
            since(began).as_secs_f64(),
            resident_mib(&cluster.nodes[place])?
        );
    }
    kill_all(&mut cluster).await;
    let began = clock::now();
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.wait_until_ready().await;
    println!("  {mib} MiB of data: all three ready {:.2} s after their start at once", since(began).as_secs_f64());
    Ok(())
}

/// Stores so many values that do not compress.
async fn fill(cluster: &Cluster, values: usize, seed: u64) -> Verdict {
    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.http.address.clone()).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let began = clock::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (mut client, next) = (Client::new(&addresses[number % addresses.len()]), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= values {
                        return Ok::<(), String>(());
                    }
                    let mut value = vec![0; VALUE_BYTES];
                    StdRng::seed_from_u64(seed ^ number as u64).fill_bytes(&mut value);
                    put(&mut client, number, Bytes::from(value)).await?;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client does not panic")?;
    }
    let took = since(began);
    println!(
        "  {values} values of 100 KiB stored in {:.1} s, {:.0}/s",
        took.as_secs_f64(),
        per_second(values as u64, took)
    );
    Ok(())
}

async fn put(client: &mut Client, number: usize, value: Bytes) -> Verdict {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match client.put(&format!("/v1/kv/fill-{number}"), value.clone(), CLIENT_LIMIT).await {
            Outcome::Acknowledged { .. } => return Ok(()),
            // The value is the same each time: an unknown one may be sent again.
            Outcome::NotApplied { why } | Outcome::Unknown { why } => last = why,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("value {number} refused {ATTEMPTS} times: {last}"))
}

fn process_file(node: &Node, name: &str) -> Result<String, String> {
    let pid = node.pid().ok_or_else(|| format!("{} does not run", node.name))?;
    let path = format!("/proc/{pid}/{name}");
    fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
}

/// User and system time of a node's process.
fn processor_time(node: &Node) -> Result<Duration, String> {
    ticks(&process_file(node, "stat")?).ok_or("a stat file is not understood".to_string())
}

/// Fields 14 and 15 of a `stat` file, in clock ticks of 10 ms; the name before them may contain anything.
fn ticks(stat: &str) -> Option<Duration> {
    const TICK: Duration = Duration::from_millis(10);
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

fn resident_mib(node: &Node) -> Result<f64, String> {
    let bytes = node.pid().and_then(resident_bytes).ok_or("a node does not run")?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    Ok(bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_an_odd_name() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(ticks(stat), Some(Duration::from_secs(2)));
    }
}
