//! Three nodes on file systems of limited size, filled until one node is full, then a majority: values are refused with 507,
//! nothing that was acknowledged is lost, reads, deletes and the admin API go on, leaders leave the full nodes; deletes make
//! room, and writes go on by themselves.
//!
//! Each node has an ext4 of its own in a file, mounted in a mount namespace that ends with this program.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use ringraft::clock;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use super::{Options, Times, Verdict, ms};
use crate::client::{Client, Outcome, Trouble, kv_path};
use crate::cluster::{Cluster, Plan};
use crate::fleet::{compare_digests, since};
use crate::http::Reply;
use crate::real::world::tools::run as command;

const MIB: u64 = 1 << 20;
/// Of each node's file system. The first gets full first.
const SIZES: [u64; 3] = [384 * MIB, 448 * MIB, 512 * MIB];
const RESERVE: u64 = 32 * MIB;
const STORAGE: &str = "disk_reserve_bytes = 33554432\nwrite_buffer_bytes = 8388608\nlog_tail_bytes = 8388608\n\
                       flush_log_bytes = 16777216\nblock_cache_bytes = 16777216\n";
/// So many that each replica is small beside the reserve: a compaction needs room for what it writes.
const SHARDS: u32 = 24;
const VALUE_BYTES: usize = 10_000;
const WRITERS: usize = 12;
/// More than all three can hold.
const KEYS_MAX: u64 = 40_000;
const LIMIT: Duration = Duration::from_secs(10);
/// A refusal must not wait for anything.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);
/// From the last delete until values are taken again.
const CLEARS_WITHIN: Duration = Duration::from_secs(60);
/// A leader that a slow disk has cost its followers is followed by another.
const ELECTED_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
/// A disk on which nothing more is written is as it will be after so long.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
/// Requests of each kind, through every node, in each state of the disks.
const SAMPLES: usize = 60;
/// Of the keys, in hundredths, deleted at the end.
const DELETED_PERCENT: usize = 70;

/// What is known of one key: each of these may be its state.
#[derive(Clone, Copy, Default)]
struct Known {
    there: bool,
    absent: bool,
}

struct Fill {
    cluster: Cluster,
    disks: Vec<PathBuf>,
    known: BTreeMap<u64, Known>,
    refusals: Times,
    rng: StdRng,
}

pub(super) async fn run(options: Options) -> Verdict {
    command(&["ip", "link", "set", "lo", "up"], "").await?;
    let mut cluster = Cluster::prepare(Plan { shards: SHARDS, storage: STORAGE, ..Plan::default() }).await;
    let mut disks = Vec::new();
    for (node, size) in cluster.nodes.iter().zip(SIZES) {
        disks.push(mount(&node.directory, size).await?);
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.wait_until_ready().await;
    cluster.wait_until_settled().await;
    let all_ran_since = clock::now();
    let (least, _watched) = watch(&disks);

    let rng = StdRng::seed_from_u64(options.seed());
    let mut fill = Fill { cluster, disks, known: BTreeMap::new(), refusals: Times::default(), rng };
    let began = clock::now();
    let stored = fill.until_full().await?;
    println!("  {stored} values of {VALUE_BYTES} bytes in {:.1} s until the first 507", since(began).as_secs_f64());
    // Logs that are let go of, and compactions, may have made some room again.
    let first = fill.take_room(0, RESERVE * 5 / 2).await?;
    fill.until_room(0, &["below-soft-reserve"]).await?;
    fill.values_are_refused_and_all_else_goes_on("one disk below its soft reserve").await?;

    drop(first);
    let stranger = fill.take_room(0, RESERVE * 5 / 4).await?;
    fill.until_room(0, &["below-hard-reserve"]).await?;
    fill.until_leads_nothing(0).await?;
    fill.values_are_refused_and_all_else_goes_on("one disk below its hard reserve, led elsewhere").await?;

    // Spent, with room for the flushes and compactions that are under way: nothing but the stranger may fill this disk.
    let second = fill.take_room(0, RESERVE * 3 / 8).await?;
    fill.until_room(0, &["spent"]).await?;
    fill.values_are_refused_and_all_else_goes_on("one disk spent").await?;
    drop(second);

    let other = fill.take_room(1, RESERVE * 5 / 4).await?;
    fill.until_room(1, &["below-hard-reserve"]).await?;
    fill.until_room(0, &["below-hard-reserve"]).await?;
    fill.values_are_refused_and_all_else_goes_on("a majority of the disks below their hard reserve").await?;

    let deleted = fill.delete_most().await?;
    let began = clock::now();
    fill.until_values_are_taken().await?;
    println!(
        "  {deleted} values deleted; values are taken again {:.1} s later, with what others took still taken",
        since(began).as_secs_f64()
    );
    drop((stranger, other));
    for place in 0..fill.cluster.nodes.len() {
        fill.until_room(place, &["ample"]).await?;
    }
    let checked = fill.check_all().await?;
    let compared = compare_digests(&fill.cluster).await?;
    if least.iter().any(|least| least.load(Ordering::SeqCst) == 0) {
        return Err("a disk was full to the last byte".to_string());
    }
    let least: Vec<String> = least.iter().map(|least| format!("{} KiB", least.load(Ordering::SeqCst) >> 10)).collect();
    println!("  {checked} keys are as acknowledged; {compared} replicas are equal; least free: {}", least.join(", "));
    let (p50, max) = (fill.refusals.at(0.5), fill.refusals.at(1.0));
    println!("  refusals: p50 {}, max {}", ms(p50), ms(max));
    for place in 0..fill.cluster.nodes.len() {
        let name = fill.cluster.nodes[place].name.clone();
        let uptime = Duration::from_millis(fill.status(place).await?["uptime_ms"].as_u64().unwrap_or_default());
        if uptime < since(all_ran_since) {
            return Err(format!("{name} was started again"));
        }
        if let Some(line) = told_of_no_space(&fill.cluster.nodes[place].directory) {
            return Err(format!("{name} met a disk without any space: {line}"));
        }
    }
    if max > REFUSED_WITHIN {
        return Err(format!("a refusal took {}", ms(max)));
    }
    Ok(())
}

/// A line of the node's log, or of RocksDB's own ones, about a write that found no space.
fn told_of_no_space(directory: &Path) -> Option<String> {
    let mut left = vec![directory.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.file_name().is_some_and(|name| name == "log" || name.as_encoded_bytes().starts_with(b"LOG"))
            {
                let text = std::fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                if let Some(line) = text.lines().find(|line| line.contains("No space left")) {
                    return Some(format!("{}: {line}", path.display()));
                }
            }
        }
    }
    None
}

/// A file system of its own below a node's directory, where its data will be.
async fn mount(directory: &Path, bytes: u64) -> Result<PathBuf, String> {
    let (image, data) = (directory.join("image"), directory.join("data"));
    let file = File::create(&image).and_then(|file| file.set_len(bytes));
    file.and_then(|()| std::fs::create_dir(&data)).map_err(|error| format!("{}: {error}", image.display()))?;
    let (image, at) = (image.display().to_string(), data.display().to_string());
    command(&["mkfs.ext4", "-q", "-F", "-m", "0", &image], "").await?;
    command(&["mount", "-o", "loop", &image, &at], "").await?;
    Ok(data)
}

/// What others may use of a file system, in bytes.
fn free(disk: &Path) -> u64 {
    rustix::fs::statvfs(disk).map_or(u64::MAX, |stat| stat.f_bavail * stat.f_frsize)
}

/// The least that was ever free on each.
fn watch(disks: &[PathBuf]) -> (Arc<Vec<AtomicU64>>, AbortOnDropHandle<()>) {
    let least: Arc<Vec<AtomicU64>> = Arc::new(disks.iter().map(|_| AtomicU64::new(u64::MAX)).collect());
    let (disks, seen) = (disks.to_vec(), least.clone());
    let watching = tokio::spawn(async move {
        loop {
            for (disk, least) in disks.iter().zip(seen.iter()) {
                least.fetch_min(free(disk), Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    (least, AbortOnDropHandle::new(watching))
}

/// A file of somebody else on a node's disk; gone when this is dropped.
struct Stranger(PathBuf);

impl Drop for Stranger {
    fn drop(&mut self) {
        // It is on a file system that ends with the show.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn path_of(key: u64) -> String {
    kv_path(format!("full-{key}").as_bytes())
}

/// Bytes that no compression makes less of, the same for each key every time.
fn value_of(key: u64) -> Bytes {
    let mut value = vec![0; VALUE_BYTES];
    StdRng::seed_from_u64(key).fill_bytes(&mut value);
    value.into()
}

fn is_disk_full(why: &str) -> bool {
    why == "507 disk-full"
}

impl Fill {
    fn clients(&self, count: usize) -> Vec<Client> {
        (0..count).map(|number| Client::new(&self.cluster.http(number % self.cluster.nodes.len()).address)).collect()
    }

    /// Puts one value after the other, until each writer is refused.
    async fn until_full(&mut self) -> Result<usize, String> {
        let next = Arc::new(AtomicU64::new(0));
        let writers = self.clients(WRITERS).into_iter().map(|mut client| {
            let next = next.clone();
            tokio::spawn(async move {
                let mut wrote = Vec::new();
                loop {
                    let key = next.fetch_add(1, Ordering::SeqCst);
                    if key >= KEYS_MAX {
                        return Err(format!("{KEYS_MAX} values fit"));
                    }
                    match client.put(&path_of(key), value_of(key), LIMIT).await {
                        Outcome::Acknowledged { .. } => wrote.push((key, Known { there: true, absent: false })),
                        Outcome::Unknown { .. } => wrote.push((key, Known { there: true, absent: true })),
                        Outcome::NotApplied { why } => {
                            wrote.push((key, Known { there: false, absent: true }));
                            if is_disk_full(&why) {
                                return Ok(wrote);
                            }
                        }
                    }
                }
            })
        });
        for writer in futures::future::join_all(writers).await {
            self.known.extend(writer.map_err(|error| error.to_string())??);
        }
        Ok(self.known.values().filter(|known| known.there).count())
    }

    async fn status(&self, place: usize) -> Result<Value, String> {
        let reply = self.cluster.http(place).get("/v1/status").try_send().await?;
        serde_json::from_slice(&reply.body).map_err(|error| error.to_string())
    }

    /// # Errors
    /// When none of these is the node's room in time.
    async fn until_room(&self, place: usize, rooms: &[&str]) -> Result<(), String> {
        let began = clock::now();
        loop {
            let disk = self.status(place).await?["disk"].clone();
            if rooms.iter().any(|room| disk["room"] == *room) {
                return Ok(());
            }
            if since(began) > PATIENCE {
                return Err(format!("the disk of {} is {disk}, not {rooms:?}", self.cluster.nodes[place].name));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn until_leads_nothing(&self, place: usize) -> Result<(), String> {
        let began = clock::now();
        loop {
            let status = self.status(place).await?;
            let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
            let is_led = |replica: &&Value| replica["shard"] != "0" && replica["role"] == "leader";
            let led = replicas.iter().filter(is_led).count();
            if led == 0 {
                return Ok(());
            }
            if since(began) > PATIENCE {
                return Err(format!("{} still leads {led} shards", self.cluster.nodes[place].name));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Somebody else takes all but so much of a node's disk, what it keeps in reserve counted as free; again, until the node's
    /// own logs and compactions leave it so.
    async fn take_room(&self, place: usize, left: u64) -> Result<Stranger, String> {
        let began = clock::now();
        loop {
            let stranger = self.take_once(place, left).await?;
            tokio::time::sleep(SETTLED_AFTER).await;
            if self.room_bytes(place).await?.abs_diff(left) < RESERVE / 8 {
                return Ok(stranger);
            }
            if since(began) > PATIENCE {
                return Err(format!("what {} has on its disk does not settle", self.cluster.nodes[place].name));
            }
        }
    }

    async fn take_once(&self, place: usize, left: u64) -> Result<Stranger, String> {
        let bytes = self.room_bytes(place).await?.saturating_sub(left).max(1);
        let stranger = Stranger(self.disks[place].join(format!("stranger-{left}")));
        let taken = File::create(&stranger.0).map_err(|error| error.to_string()).and_then(|file| {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, bytes).map_err(|error| error.to_string())
        });
        taken.map_err(|error| format!("{bytes} bytes of {}: {error}", stranger.0.display()))?;
        Ok(stranger)
    }

    async fn room_bytes(&self, place: usize) -> Result<u64, String> {
        let kept = self.status(place).await?["disk"]["reserve_bytes"].as_u64().unwrap_or_default();
        Ok(free(&self.disks[place]) + kept)
    }

    async fn values_are_refused_and_all_else_goes_on(&mut self, state: &str) -> Verdict {
        self.until_values_are_refused().await.map_err(|why| format!("{state}: {why}"))?;
        let there = |known: &Known| known.there && !known.absent;
        let mut keys: Vec<u64> = self.known.iter().filter(|(_, known)| there(known)).map(|(key, _)| *key).collect();
        keys.shuffle(&mut self.rng);
        for (place, mut client) in self.clients(self.cluster.nodes.len()).into_iter().enumerate() {
            for number in 0..SAMPLES {
                self.refuses(&mut client, KEYS_MAX + number as u64).await.map_err(|why| format!("{state}: {why}"))?;
            }
            for key in keys.iter().take(SAMPLES) {
                let read = client.get(&path_of(*key), LIMIT).await;
                check(*key, Known { there: true, absent: false }, read).map_err(|why| format!("{state}: {why}"))?;
            }
            for admin in ["/v1/admin/shards", "/v1/admin/nodes", "/v1/status"] {
                let reply = self.cluster.http(place).get(admin).try_send().await?;
                if reply.status != 200 {
                    return Err(format!("{state}: {admin} is {reply:?}"));
                }
            }
            self.until_ready(place, state).await?;
            for key in keys.drain(..SAMPLES) {
                self.delete(&mut client, key).await.map_err(|why| format!("{state}: {why}"))?;
            }
        }
        println!("  {state}: {SAMPLES} values refused with 507, {SAMPLES} read, {SAMPLES} deleted through each node");
        Ok(())
    }

    /// A node whose disk is full stays ready: it is asked again only while a replica looks for its leader, which it says.
    async fn until_ready(&self, place: usize, state: &str) -> Verdict {
        let began = clock::now();
        loop {
            let reply = self.cluster.http(place).get("/readyz").try_send().await?;
            if reply.status == 200 {
                return Ok(());
            }
            let why = reply.json()["detail"].to_string();
            if !why.contains("knows no leader") || since(began) > ELECTED_WITHIN {
                return Err(format!("{state}: /readyz is {reply:?}"));
            }
            println!("  {state}: {} was asked while {why}", self.cluster.nodes[place].name);
            tokio::time::sleep(ELECTED_WITHIN / 10).await;
        }
    }

    async fn refuses(&mut self, client: &mut Client, key: u64) -> Verdict {
        let began = clock::now();
        match client.put(&path_of(key), value_of(key), LIMIT).await {
            Outcome::NotApplied { why } if is_disk_full(&why) => {
                self.refusals.add(since(began));
                self.known.insert(key, Known { there: false, absent: true });
                Ok(())
            }
            other => Err(format!("a value is not refused with 507: {other:?}")),
        }
    }

    /// After a change of leaders it takes a heartbeat until the new ones have heard of the full disk.
    async fn until_values_are_refused(&mut self) -> Verdict {
        let began = clock::now();
        let mut client = self.clients(1).remove(0);
        let mut in_a_row = 0;
        while in_a_row < SAMPLES as u64 {
            let key = 2 * KEYS_MAX + in_a_row;
            match client.put(&path_of(key), value_of(key), LIMIT).await {
                Outcome::NotApplied { why } if is_disk_full(&why) => in_a_row += 1,
                Outcome::NotApplied { .. } => in_a_row = 0,
                Outcome::Acknowledged { .. } => {
                    self.known.insert(key, Known { there: true, absent: false });
                    in_a_row = 0;
                }
                Outcome::Unknown { .. } => {
                    self.known.insert(key, Known { there: true, absent: true });
                    in_a_row = 0;
                }
            }
            if since(began) > PATIENCE {
                return Err("values are still taken".to_string());
            }
        }
        Ok(())
    }

    async fn delete(&mut self, client: &mut Client, key: u64) -> Verdict {
        delete(client, key).await?;
        self.known.insert(key, Known { there: false, absent: true });
        Ok(())
    }

    async fn delete_most(&mut self) -> Result<usize, String> {
        let mut keys: Vec<u64> = self.known.iter().filter(|(_, known)| known.there).map(|(key, _)| *key).collect();
        keys.shuffle(&mut self.rng);
        keys.truncate(keys.len() * DELETED_PERCENT / 100);
        let parts = keys.chunks(keys.len().div_ceil(WRITERS).max(1)).map(<[u64]>::to_vec).zip(self.clients(WRITERS));
        let deleting = parts.map(|(part, mut client)| {
            tokio::spawn(async move {
                for key in part {
                    delete(&mut client, key).await?;
                }
                Ok::<(), String>(())
            })
        });
        for done in futures::future::join_all(deleting).await {
            done.map_err(|error| error.to_string())??;
        }
        for key in &keys {
            self.known.insert(*key, Known { there: false, absent: true });
        }
        Ok(keys.len())
    }

    async fn until_values_are_taken(&mut self) -> Verdict {
        let began = clock::now();
        for (place, mut client) in self.clients(self.cluster.nodes.len()).into_iter().enumerate() {
            let mut in_a_row = 0;
            while in_a_row < SAMPLES {
                let key = 3 * KEYS_MAX + (place * SAMPLES + in_a_row) as u64;
                match client.put(&path_of(key), value_of(key), LIMIT).await {
                    Outcome::Acknowledged { .. } => {
                        self.known.insert(key, Known { there: true, absent: false });
                        in_a_row += 1;
                    }
                    Outcome::Unknown { .. } => drop(self.known.insert(key, Known { there: true, absent: true })),
                    Outcome::NotApplied { why } => {
                        if since(began) > CLEARS_WITHIN {
                            let mut rooms = Vec::new();
                            for place in 0..self.cluster.nodes.len() {
                                rooms.push(self.status(place).await?["disk"].to_string());
                            }
                            return Err(format!("values are not taken again: {why}; disks: {}", rooms.join(", ")));
                        }
                        tokio::time::sleep(POLL).await;
                    }
                }
            }
        }
        Ok(())
    }

    async fn check_all(&self) -> Result<usize, String> {
        let known: Vec<(u64, Known)> = self.known.iter().map(|(key, known)| (*key, *known)).collect();
        let parts = known.chunks(known.len().div_ceil(WRITERS).max(1)).map(<[_]>::to_vec).zip(self.clients(WRITERS));
        let checking = parts.map(|(part, mut client)| {
            tokio::spawn(async move {
                for (key, known) in part {
                    check(key, known, client.get(&path_of(key), LIMIT).await)?;
                }
                Ok::<(), String>(())
            })
        });
        for done in futures::future::join_all(checking).await {
            done.map_err(|error| error.to_string())??;
        }
        Ok(known.len())
    }
}

async fn delete(client: &mut Client, key: u64) -> Verdict {
    match client.send(Method::DELETE, &path_of(key), Bytes::new(), LIMIT).await {
        Ok(reply) if reply.status == 204 => Ok(()),
        other => Err(format!("a delete was not done: {other:?}")),
    }
}

fn check(key: u64, known: Known, read: Result<Reply, Trouble>) -> Verdict {
    let reply = read.map_err(|trouble| format!("key {key}: {trouble:?}"))?;
    match reply.status {
        200 if known.there && reply.body == value_of(key) => Ok(()),
        404 if known.absent => Ok(()),
        200 if known.there => Err(format!("key {key} has another value than was acknowledged")),
        200 => Err(format!("key {key} has a value that was deleted, or was never acknowledged")),
        404 => Err(format!("key {key} is gone, though its value was acknowledged")),
        other => Err(format!("key {key} is answered with {other}")),
    }
}
