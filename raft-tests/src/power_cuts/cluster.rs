//! Power cuts under a whole cluster: real nodes, each with its data directory on a disk of its own that loses power, one
//! node or all at once, while clients write. Every write that a client was told of must be there in the end, and all
//! replicas must be equal.
//!
//! This has all that a node keeps on the disks: the log, replicas without a write-ahead log and their flushes.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::clock;
use tempfile::TempDir;

use super::{Plant, Trouble};
use crate::cluster::{self, Cluster};
use crate::fleet;
use crate::powerfs::{Cut, Lie, Model, Options, Process, Torn};
use crate::record::Run;
use crate::traffic::Traffic;

/// The smallest log that a node may be told to keep, so that replicas are flushed and logs purged between the cuts.
const STORAGE: &str = "flush_log_bytes = 1048576\ndisk_reserve_bytes = 0\n";
const WRITERS: usize = 6;
const READERS: usize = 4;
/// Acknowledged since the cluster came back, before the power fails again.
const WRITES_BETWEEN_CUTS: u64 = 300;
const WRITES_LIMIT: Duration = Duration::from_secs(60);
const MORE_MS_MAX: u64 = 300;
/// How long a sync takes.
const SYNC_MS: [u64; 3] = [0, 2, 6];
/// The same before the first cut, which is to meet a log in the middle of a sync: with writers at work one is always under
/// way.
const FIRST_SYNC_MS: u64 = 30;
/// How long a node that got its power back may take to be ready, on a machine that does other things too.
const READY_LIMIT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The nodes go before their disks.
struct Powered {
    cluster: Cluster,
    disks: Vec<Process>,
    directory: TempDir,
    /// Whether the disks do.
    lies: bool,
}

/// Loses power so many times, and enters what happened. `program` is `raft-tests`; what the disks hold stays below `keep`.
pub(super) async fn run(
    cuts: u64,
    seed: u64,
    plant: Option<Plant>,
    keep: Option<&Path>,
    program: &Path,
    run: &mut Run,
) {
    match run_into(cuts, seed, plant, keep, program, run).await {
        Ok(()) => {}
        Err(Trouble::Violation(what)) => run.violations.push(what),
        Err(Trouble::Void(what)) => run.void.push(what),
    }
}

async fn run_into(
    cuts: u64,
    seed: u64,
    plant: Option<Plant>,
    keep: Option<&Path>,
    program: &Path,
    run: &mut Run,
) -> Result<(), Trouble> {
    let mut powered = Powered::start(program, seed, keep).await?;
    powered.lies = plant.is_some();
    for disk in &powered.disks {
        match plant {
            Some(Plant::LieSync) => disk.lie_about_sync(Some(Lie::Files)).await?,
            Some(Plant::LieDirsync) => disk.lie_about_sync(Some(Lie::Directories)).await?,
            Some(Plant::AckEarly) | None => {}
        }
    }
    let addresses: Vec<String> = powered.cluster.nodes.iter().map(|node| node.http.address.clone()).collect();
    let traffic = Traffic::start(addresses.clone(), WRITERS, seed);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut met_log = 0;
    let mut cut_short = Ok(());
    for number in 1..=cuts {
        cut_short = powered.cut_once(number, &traffic, &mut rng, &mut met_log, run).await;
        if cut_short.is_err() {
            break;
        }
    }
    let told = traffic.stop().await;
    told.print();
    run.ok = told.acknowledged + told.reads;
    run.operations = run.ok;
    run.writes = told.acknowledged;
    run.unknown_writes = told.unknown() as u64;
    #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
    run.figures.insert("disks_with_unsynced_log".to_string(), met_log as f64);
    cut_short?;
    told.check(&addresses, READERS).await.map_err(Trouble::Violation)?;
    let compared = fleet::compare_digests(&powered.cluster).await.map_err(Trouble::Violation)?;
    #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
    run.figures.insert("equal_replicas".to_string(), compared as f64);
    if met_log == 0 {
        run.void.push(format!("none of {cuts} cuts met anything unsynced of a log"));
    }
    fleet::kill_all(&mut powered.cluster).await;
    Ok(())
}

impl Powered {
    async fn start(program: &Path, seed: u64, keep: Option<&Path>) -> Result<Self, Trouble> {
        let directory = tempfile::tempdir()?;
        let cluster = Cluster::prepare(cluster::Plan { storage: STORAGE, ..cluster::Plan::default() }).await;
        let mut powered = Self { cluster, disks: Vec::new(), directory, lies: false };
        for node in &powered.cluster.nodes {
            let mount: PathBuf = powered.directory.path().join(&node.name);
            let backing = keep.unwrap_or(powered.directory.path()).join(format!("disk-{}", node.name));
            let options = Options { backing, mount, model: Model::Strict, seed };
            powered.disks.push(Process::start(program, &options).await?);
            symlink(&options.mount, node.directory.join("data"))?;
        }
        for node in &mut powered.cluster.nodes {
            node.start();
        }
        powered.wait_until_ready("at the start").await?;
        powered.cluster.wait_until_settled().await;
        Ok(powered)
    }

    /// The power fails on one node or on all, and comes back.
    async fn cut_once(
        &mut self,
        number: u64,
        traffic: &Traffic,
        rng: &mut StdRng,
        met_log: &mut u64,
        run: &mut Run,
    ) -> Result<(), Trouble> {
        let drawn = SYNC_MS[rng.random_range(0..SYNC_MS.len())];
        let delay = Duration::from_millis(if number == 1 { FIRST_SYNC_MS } else { drawn });
        try_join_all(self.disks.iter().map(|disk| disk.sync_delay(delay))).await?;
        let wanted = traffic.acknowledged() + WRITES_BETWEEN_CUTS;
        let written = fleet::until(WRITES_LIMIT, || async { (traffic.acknowledged() >= wanted).then_some(()) }).await;
        written.ok_or_else(|| Trouble::Void(format!("cut {number}: too few writes in {WRITES_LIMIT:?}")))?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..=MORE_MS_MAX))).await;

        // Of three cuts two are of all nodes at once, one of one.
        let victims: Vec<usize> = if number.is_multiple_of(3) {
            vec![rng.random_range(0..self.disks.len())]
        } else {
            (0..self.disks.len()).collect()
        };
        let (class, hit_leader) = match victims.as_slice() {
            [one] => {
                let shards = fleet::shards(&self.cluster, *one).await.unwrap_or_default();
                ("power-loss/one", shards.iter().any(|shard| shard.leader == Some(*one)))
            }
            _ => ("power-loss/all", true),
        };
        // Under a disk that lies a clean one, which ends each file where it was truly synced last: the nodes start on that, and
        // what is missing shows in what clients read, and not only in a node that finds its files torn.
        let lies = self.lies;
        let cuts: Vec<Cut> = victims.iter().map(|_| if lies { Cut::clean() } else { any_cut(rng) }).collect();
        // A sync that is under way ends all the same when its process is killed: the first cut comes before that.
        let killed_first = rng.random_bool(0.5) && number > 1;
        if killed_first {
            self.kill(&victims).await;
        }
        let cutting = victims.iter().zip(&cuts).map(|(place, cut)| self.disks[*place].cut(*cut));
        let lost = try_join_all(cutting).await?;
        self.kill(&victims).await;
        run.fault(class, lost.iter().all(|lost| lost.dropped() + lost.survived() > 0), hit_leader);
        for place in victims {
            let hit = self.disks[place].files_hit().await?;
            *met_log += u64::from(hit.iter().any(|path| path.starts_with("log/") && path.ends_with(".log")));
            self.disks[place].resume().await?;
            self.disks[place].sync_delay(Duration::ZERO).await?;
            self.cluster.nodes[place].start();
        }
        self.wait_until_ready(&format!("after cut {number} ({class}, {cuts:?})")).await
    }

    async fn kill(&mut self, victims: &[usize]) {
        for place in victims {
            if self.cluster.nodes[*place].pid().is_some() {
                fleet::signal(&self.cluster.nodes[*place], rustix::process::Signal::KILL);
            }
        }
        for place in victims {
            self.cluster.nodes[*place].kill().await;
        }
    }

    /// A node that does not come back has lost what it needs.
    async fn wait_until_ready(&mut self, when: &str) -> Result<(), Trouble> {
        let deadline = clock::now().after(READY_LIMIT);
        for node in &mut self.cluster.nodes {
            loop {
                let reply = node.http.get("/readyz").try_send().await;
                if reply.as_ref().is_ok_and(|reply| reply.status == 200) {
                    break;
                }
                if let Some(status) = node.ended(POLL_INTERVAL).await {
                    return Err(Trouble::Violation(format!("{} ended {when}: {status}", node.name)));
                }
                if clock::now() >= deadline {
                    let told = reply.map(|reply| String::from_utf8_lossy(&reply.body).into_owned());
                    let told = told.unwrap_or_else(|error| error);
                    let what = format!("{} is not ready {READY_LIMIT:?} {when}: {told}", node.name);
                    return Err(Trouble::Violation(what));
                }
            }
        }
        Ok(())
    }
}

fn any_cut(rng: &mut StdRng) -> Cut {
    let seed = rng.random();
    match rng.random_range(0..3) {
        0 => Cut::clean(),
        1 => Cut::torn(Torn::Pages, seed),
        _ => Cut::torn(Torn::Sectors, seed),
    }
}
