//! Three times what the cluster can do, for a minute, from clients that do not wait for each other: nearly as much is done as
//! without the excess, the excess is refused at once and truthfully, nobody stops leading, and memory stays as it is.
//!
//! The load is `ringraft bench`, on a processor of its own where there are two: what a generator costs would otherwise be
//! taken for a cost of the overload. Values have the 10 KiB that the store is made for.

use std::time::Duration;

use ringraft::clock;
use serde_json::Value;
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;

use super::{Options, Verdict};
use crate::cluster::{Cluster, Plan, binary};
use crate::fleet::{resident_bytes, since};

const TIMES: f64 = 3.0;
const SECONDS: u64 = 60;
const SECONDS_SHORT: u64 = 20;
/// Caches that are full before memory is looked at: one that fills is no growth.
const STORAGE: &str = "block_cache_bytes = 33554432\n";
/// Of each closed loop that looks for the maximum.
const SEARCH_SECONDS: u64 = 20;
const SEARCH_SECONDS_SHORT: u64 = 6;
const SEARCH_CLIENTS: [u32; 3] = [32, 64, 128];
/// Of the requests, in a load that can be borne.
const FAILED_MAX: f64 = 0.01;
/// More than the nodes let stand in their queues.
const OUTSTANDING: u32 = 4096;
const VALUE_SIZE: &str = "10KiB";
const GOODPUT_MIN: f64 = 0.9;
const REFUSED_WITHIN_MS: f64 = 50.0;
/// The last third of the time against the third before: more than this is growth.
const MEMORY_GROWTH_MAX: f64 = 1.1;
const MEMORY_GROWTH_FREE: u64 = 16 << 20;
/// Beside the time that a bench measures: its keys, its warm-up, its last answers.
const BENCH_GRACE: Duration = Duration::from_secs(60);

pub(super) async fn run(options: Options) -> Verdict {
    let generator = set_apart().await?;
    let cluster = Cluster::start(Plan { shards: 12, storage: STORAGE, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    let (seconds, search) =
        if options.short { (SECONDS_SHORT, SEARCH_SECONDS_SHORT) } else { (SECONDS, SEARCH_SECONDS) };

    let mut most = 0.0_f64;
    for clients in SEARCH_CLIENTS {
        let load = format!("--clients {clients} --prefix search-{clients}/");
        let report = bench(&cluster, generator, &load, search).await?;
        let rate = number(&report, "/throughput_per_second");
        let failed = number(&report, "/requests/failed") / (rate * number(&report, "/seconds")).max(1.0);
        let is_borne = failed <= FAILED_MAX;
        println!(
            "  closed loop of {clients} clients: {rate:.0} puts/s of {VALUE_SIZE}, p99 {:.0} ms, {:.1} % failed{}",
            number(&report, "/latency_ms/put/p99"),
            failed * 100.0,
            if is_borne { "" } else { ": not borne" },
        );
        if is_borne {
            most = most.max(rate);
        }
    }
    if most == 0.0 {
        return Err("no load is borne".to_string());
    }

    let changes_before = leader_changes(&cluster).await?;
    let memory = Memory::watch(&cluster);
    let load = format!("--rate {:.0} --outstanding {OUTSTANDING} --prefix overload/", most * TIMES);
    let report = bench(&cluster, generator, &load, seconds).await?;
    let memory = memory.ended(seconds);
    let changes = leader_changes(&cluster).await? - changes_before;

    let goodput = number(&report, "/throughput_per_second");
    let part = goodput / most;
    let (refused_p99, refused_max) =
        (number(&report, "/latency_ms/failed/p99"), number(&report, "/latency_ms/failed/max"));
    println!(
        "  open loop of {:.0} puts/s for {seconds} s: {goodput:.0} puts/s done ({:.0} % of the maximum), p50 {:.0} ms, p99 {:.0} ms",
        most * TIMES,
        part * 100.0,
        number(&report, "/latency_ms/put/p50"),
        number(&report, "/latency_ms/put/p99"),
    );
    println!(
        "  {} refused: p50 {:.1} ms, p99 {refused_p99:.1} ms, max {refused_max:.1} ms; {} not started; errors: {}",
        number(&report, "/requests/failed"),
        number(&report, "/latency_ms/failed/p50"),
        number(&report, "/requests/not_started"),
        report["errors"]
    );
    println!("  {changes} changes of leader; memory of the nodes: {memory}");

    // Both are refusals of what was not applied: a follower that is late itself may believe for a moment that nobody leads.
    let is_refusal = |error: &Value| ["overloaded", "no-leader"].iter().any(|code| error["code"] == *code);
    let other_error = report["errors"].as_array().into_iter().flatten().find(|error| !is_refusal(error));
    if let Some(error) = other_error {
        return Err(format!("not all that failed was refused: {error}"));
    }
    if number(&report, "/requests/failed") == 0.0 {
        return Err("nothing was refused: the load was none too high".to_string());
    }
    if part < GOODPUT_MIN {
        return Err(format!("only {:.0} % of the maximum is done", part * 100.0));
    }
    if refused_p99 > REFUSED_WITHIN_MS {
        return Err(format!("one refusal in a hundred takes longer than {refused_p99:.0} ms"));
    }
    if changes > 0 {
        return Err(format!("leaders changed {changes} times"));
    }
    memory.is_flat()
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_default()
}

/// Keeps this process, and so the nodes that it starts, off the last processor, where there are more, and gives the generator
/// that one.
async fn set_apart() -> Result<Option<usize>, String> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if processors < 2 {
        println!("  one processor for nodes and generator together");
        return Ok(None);
    }
    let last = processors - 1;
    let others = format!("0-{}", last - 1);
    let own = std::process::id().to_string();
    let set = Command::new("taskset").args(["-a", "-c", "-p", &others, &own]).output().await;
    let set = set.map_err(|error| format!("taskset (Debian package util-linux): {error}"))?;
    if !set.status.success() {
        return Err(format!("taskset: {}", String::from_utf8_lossy(&set.stderr)));
    }
    println!("  the nodes have processors {others}, the generator has processor {last}");
    Ok(Some(last))
}

async fn bench(cluster: &Cluster, processor: Option<usize>, load: &str, seconds: u64) -> Result<Value, String> {
    let endpoints: Vec<&str> = cluster.nodes.iter().map(|node| node.http.address.as_str()).collect();
    let mut command = match processor {
        Some(processor) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &processor.to_string()]).arg(binary());
            command
        }
        None => Command::new(binary()),
    };
    command.args(["--endpoints", &endpoints.join(","), "-o", "json", "bench", "put", "--threads", "1"]);
    command.args(["--value-size", VALUE_SIZE, "--duration", &format!("{seconds}s"), "--warmup", "3s"]);
    command.args(load.split(' ')).env_remove("RINGRAFT_ENDPOINTS").kill_on_drop(true);
    let limit = Duration::from_secs(seconds) + BENCH_GRACE;
    let output = tokio::time::timeout(limit, command.output()).await;
    let output = output.map_err(|_| format!("bench {load} did not end within {limit:?}"))?;
    let output = output.map_err(|error| format!("bench: {error}"))?;
    if !output.status.success() {
        return Err(format!("bench {load}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("bench {load}: {error}"))
}

/// Of all nodes together.
async fn leader_changes(cluster: &Cluster) -> Result<u64, String> {
    let mut changes = 0;
    for node in &cluster.nodes {
        let metrics = node.http.get("/metrics").try_send().await?;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("ringraft_leader_changes_total "));
        changes += line.and_then(|count| count.parse::<u64>().ok()).ok_or("no count of changes of leader")?;
    }
    Ok(changes)
}

/// Resident memory of all nodes together, each second.
struct Memory {
    samples: std::sync::Arc<std::sync::Mutex<Vec<u64>>>,
    _watching: AbortOnDropHandle<()>,
}

impl Memory {
    fn watch(cluster: &Cluster) -> Self {
        let pids: Vec<u32> = cluster.nodes.iter().filter_map(|node| node.pid()).collect();
        let samples = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = samples.clone();
        let watching = tokio::spawn(async move {
            let began = clock::now();
            for second in 0.. {
                let resident = pids.iter().filter_map(|pid| resident_bytes(*pid)).sum();
                seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(resident);
                tokio::time::sleep(Duration::from_secs(second + 1).saturating_sub(since(began))).await;
            }
        });
        Self { samples, _watching: AbortOnDropHandle::new(watching) }
    }

    fn ended(&self, seconds: u64) -> Thirds {
        let samples = self.samples.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let third = usize::try_from(seconds / 3).unwrap_or(usize::MAX).max(1);
        let most = |part: usize| samples.iter().skip(part * third).take(third).max().copied().unwrap_or_default();
        Thirds([most(0), most(1), most(2)])
    }
}

/// The most that was resident in each third of the time.
struct Thirds([u64; 3]);

impl std::fmt::Display for Thirds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, second, third] = self.0.map(|bytes| bytes >> 20);
        write!(out, "{first}, {second} and {third} MiB in the thirds of the time")
    }
}

impl Thirds {
    fn is_flat(&self) -> Verdict {
        let [_, second, third] = self.0;
        #[expect(clippy::cast_precision_loss, reason = "a ratio of sizes")]
        let limit = second as f64 * MEMORY_GROWTH_MAX + MEMORY_GROWTH_FREE as f64;
        #[expect(clippy::cast_precision_loss, reason = "a ratio of sizes")]
        let is_flat = (third as f64) <= limit;
        if is_flat { Ok(()) } else { Err(format!("memory grows: {self}")) }
    }
}
