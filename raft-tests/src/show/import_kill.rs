//! A real source tree imported while each node in turn is killed with SIGKILL and started again, exported, and compared:
//! only what the import listed as left out differs. Under a new prefix again until each node was killed often enough.

use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::clock;
use serde_json::Value;
use tempfile::TempDir;

use super::real_input::default_trees;
use super::{Options, Verdict, per_second};
use crate::cluster::{Cluster, Plan};
use crate::files::{ODD_LEFT_OUT, Ran, Running, compare, stage};
use crate::fleet::{compare_digests, since};

const FILES_MIN: usize = 20_000;
/// Of --short: every so many-th file of the trees.
const SHORT_STEP: usize = 6;
const FILES_SHORT: usize = 3_000;
/// Kills of each node while an import runs, over all prefixes.
const KILLS_EACH: usize = 5;
/// Kills in all, of --short: then the import is left in peace.
const KILLS_SHORT: usize = 4;
/// Prefixes at most. Each sees several kills, so that more are not needed.
const PREFIXES_MAX: usize = 12;
/// How long a killed node stays down: long enough that the others elect new leaders.
const DOWN: Duration = Duration::from_secs(2);
const DOWN_SHORT: Duration = Duration::from_millis(800);
/// A kill comes up to so long after the node before is ready again, to meet every moment.
const JITTER_MS: u64 = 500;
/// From start to end of one import.
const IMPORT_LIMIT: Duration = Duration::from_secs(900);
const EXPORT_LIMIT: Duration = Duration::from_secs(300);

/// What the kills have come to.
struct Kills {
    /// Of each node, while an import ran.
    of: Vec<usize>,
    next: usize,
}

pub(super) async fn run(options: Options) -> Verdict {
    let mut rng = StdRng::seed_from_u64(options.seed());
    let folder = TempDir::new().map_err(|error| format!("a temporary directory: {error}"))?;
    let staged = folder.path().join("staged");
    let trees = if options.trees.is_empty() { default_trees() } else { options.trees.clone() };
    let (files_wanted, step) = if options.short { (FILES_SHORT, SHORT_STEP) } else { (FILES_MIN, 1) };
    let files =
        stage(&staged, &trees, files_wanted, step).map_err(|error| format!("a tree cannot be made: {error}"))?;
    if files < files_wanted {
        return Err(format!(
            "only {files} files, {files_wanted} are wanted: `cargo fetch` unpacks all dependencies; or name more source \
             trees with --tree DIRECTORY"
        ));
    }
    println!("  {files} files staged");
    let mut cluster = Cluster::start(Plan { shards: 12, ..Plan::default() }).await;
    cluster.wait_until_settled().await;

    let mut kills = Kills { of: vec![0; cluster.nodes.len()], next: 0 };
    let enough = |kills: &Kills| {
        if options.short {
            kills.of.iter().sum::<usize>() >= KILLS_SHORT
        } else {
            kills.of.iter().all(|of| *of >= KILLS_EACH)
        }
    };
    let (mut retries, mut prefixes) = (0, 0);
    while !enough(&kills) {
        prefixes += 1;
        if prefixes > PREFIXES_MAX {
            return Err(format!("{PREFIXES_MAX} imports met only {:?} kills of the nodes", kills.of));
        }
        let prefix = format!("tree-{prefixes}/");
        let ran = import(&mut cluster, &staged, &prefix, &mut kills, &mut rng, options.short).await?;
        retries += figure(&ran.summary(), "retries");
        let exported = folder.path().join("exported");
        let differences = export(&cluster, &prefix, &exported, &staged, &ran).await?;
        println!("  {prefix}: diff -r tells {differences} lines, all of them of what was listed as left out");
        std::fs::remove_dir_all(&exported).map_err(|error| format!("{}: {error}", exported.display()))?;
    }
    let compared = compare_digests(&cluster).await?;
    println!(
        "  {prefixes} imports of {files} files, {} kills ({:?} of n1, n2, n3), {retries} requests tried again; {compared} \
         replicas are equal",
        kills.of.iter().sum::<usize>(),
        kills.of
    );
    if retries == 0 {
        return Err("no request had to be tried again: the kills met nothing".to_string());
    }
    Ok(())
}

/// Kills one node after the other, as long as the import runs.
async fn import(
    cluster: &mut Cluster,
    staged: &Path,
    prefix: &str,
    kills: &mut Kills,
    rng: &mut StdRng,
    short: bool,
) -> Result<Ran, String> {
    let began = clock::now();
    let staged = staged.to_str().ok_or("the temporary directory has an odd name")?;
    // Few at a time where the tree is small, so that it is not through before the kills.
    let jobs = if short { "4" } else { "32" };
    let words = ["import", staged, "--prefix", prefix, "--skip", "--jobs", jobs, "-o", "json"];
    let mut running = Running::start(cluster, &words);
    let mut met = 0;
    while running.is_running() {
        if since(began) > IMPORT_LIMIT {
            return Err(format!("the import runs for more than {IMPORT_LIMIT:?}"));
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..JITTER_MS))).await;
        if !running.is_running() {
            break;
        }
        if short && met == KILLS_SHORT {
            continue;
        }
        let place = kills.next % cluster.nodes.len();
        kills.next += 1;
        kills.of[place] += 1;
        met += 1;
        cluster.nodes[place].kill().await;
        tokio::time::sleep(if short { DOWN_SHORT } else { DOWN }).await;
        cluster.nodes[place].start();
        cluster.nodes[place].wait_until_ready().await;
    }
    let ran = running.ended(Duration::from_secs(10)).await.ok_or("an import that has ended does not end")?;
    let (took, summary) = (since(began), ran.summary());
    if ran.code != Some(0) || summary["complete"] != true {
        return Err(format!("the import ended with {:?}: {}{}", ran.code, ran.output, tail(&ran.errors)));
    }
    let (written, unchanged) = (figure(&summary, "written"), figure(&summary, "unchanged"));
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let mib = figure(&summary, "bytes") as f64 / f64::from(1 << 20);
    println!(
        "  {prefix}: {written} files, {mib:.1} MiB imported in {:.1} s ({:.0} files/s) through {met} kills, {} tried again, \
         {unchanged} found to be stored after an answer was lost, {} left out",
        took.as_secs_f64(),
        per_second(written, took),
        figure(&summary, "retries"),
        ran.left_out().len()
    );
    let left_out = ran.left_out();
    for (name, reason) in ODD_LEFT_OUT {
        let path = format!("odd/{name}").into_bytes();
        if !left_out.iter().any(|(listed, why)| *listed == path && why.contains(reason)) {
            return Err(format!("odd/{name} is not listed as left out for {reason:?}"));
        }
    }
    Ok(ran)
}

async fn export(
    cluster: &Cluster,
    prefix: &str,
    exported: &Path,
    staged: &Path,
    imported: &Ran,
) -> Result<usize, String> {
    let began = clock::now();
    let to = exported.to_str().ok_or("the temporary directory has an odd name")?;
    let running = Running::start(cluster, &["export", to, "--prefix", prefix, "-o", "json"]);
    let ran = running.ended(EXPORT_LIMIT).await.ok_or_else(|| format!("the export took more than {EXPORT_LIMIT:?}"))?;
    let (took, summary) = (since(began), ran.summary());
    if ran.code != Some(0) || summary["complete"] != true {
        return Err(format!("the export ended with {:?}: {}{}", ran.code, ran.output, tail(&ran.errors)));
    }
    let (written, imported_files) = (figure(&summary, "written"), imported.summary());
    let wanted = figure(&imported_files, "written") + figure(&imported_files, "unchanged");
    println!(
        "  {prefix}: {written} files exported in {:.1} s ({:.0} files/s)",
        took.as_secs_f64(),
        per_second(written, took)
    );
    if written != wanted {
        return Err(format!("{written} files were exported of {wanted} that were imported"));
    }
    compare(staged, exported, &imported.left_out()).await
}

fn figure(summary: &Value, name: &str) -> u64 {
    summary[name].as_u64().unwrap_or_default()
}

/// The last lines of what a program said.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
