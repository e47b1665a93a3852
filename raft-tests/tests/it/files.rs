//! `ringraft import` and `export` against real nodes: cut off and gone on with, on full disks, with odd keys and lines.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use raft_tests::cluster::{Cluster, Plan};
use raft_tests::files::{ODD_LEFT_OUT, ODD_STORED, Ran, Running, compare, stage};
use raft_tests::fleet::{kill_all, signal};
use raft_tests::powerfs::Model;
use raft_tests::powerfs::control::Command;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::powerfs::support::Powered;

const LIMIT: Duration = Duration::from_secs(60);
/// What "at once" means on a machine that does other things too.
const AT_ONCE: Duration = Duration::from_secs(3);
/// Far more than are stored between two looks at [`SOME`].
const FILES: usize = 2_000;
/// So many more are stored when an import is cut off.
const SOME: usize = 50;
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// For a command to have begun its next request. Nothing tells that it has.
const NEXT_REQUEST: Duration = Duration::from_millis(200);

async fn run(cluster: &Cluster, words: &[&str]) -> Ran {
    Running::start(cluster, words).ended(LIMIT).await.unwrap_or_else(|| panic!("{words:?} does not end"))
}

/// All keys with a prefix, with their revisions.
async fn revisions(cluster: &Cluster, place: usize, prefix: &str) -> BTreeMap<String, u64> {
    let scan = format!("/v1/kv?prefix={prefix}&keys_only=true&limit=10000");
    let page = cluster.http(place).get(scan).send().await.expect(200).json();
    assert!(page["next_cursor"].is_null(), "one page is enough here");
    let revision = |item: &serde_json::Value| u64::from_str_radix(item["revision"].as_str().unwrap(), 16).unwrap();
    let items = page["items"].as_array().unwrap().iter();
    items.map(|item| (item["key"].as_str().unwrap().to_string(), revision(item))).collect()
}

/// Starts an import below `t/` and gives it back while it runs, with [`SOME`] more keys stored than were before.
async fn under_way<S: AsRef<OsStr>>(cluster: &Cluster, words: &[S]) -> Running {
    let wanted = revisions(cluster, 0, "t/").await.len() + SOME;
    let mut running = Running::start(cluster, words);
    let stored = async {
        while revisions(cluster, 0, "t/").await.len() < wanted {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    tokio::time::timeout(LIMIT, stored).await.unwrap_or_else(|_| panic!("{wanted} keys are not stored in time"));
    assert!(running.is_running(), "it was to be cut off before its end");
    running
}

fn tree(files: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..files {
        let directory = folder.path().join(format!("d{}", number % 17));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("file-{number}")), format!("content of {number}\n").repeat(number % 50))
            .unwrap();
    }
    folder
}

fn figure(ran: &Ran, name: &str) -> u64 {
    ran.summary()[name].as_u64().unwrap_or_else(|| panic!("no {name} in {ran:?}"))
}

/// One shard: its revisions have no gap exactly when no key was written twice.
#[tokio::test]
async fn an_import_that_was_cut_off_in_any_way_is_gone_on_with_and_writes_nothing_twice() {
    let tree = tree(FILES);
    let path = tree.path().to_str().unwrap();
    let mut cluster = Cluster::start(Plan { shards: 1, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    // One after the other, so that it can be cut off in time however fast the disks are.
    let words = ["import", path, "--prefix", "t/", "--jobs", "1", "-o", "json"];

    // Ctrl-C: what is under way ends, and the account is right.
    let running = under_way(&cluster, &words).await;
    running.signal(Signal::INT);
    let ran = running.ended(LIMIT).await.expect("the first Ctrl-C ends it");
    assert_eq!((ran.code, &ran.summary()["complete"]), (Some(1), &false.into()), "{ran:?}");
    assert!(ran.errors.contains("goes on from there"), "{}", ran.errors);
    let first = figure(&ran, "written");
    assert_eq!(revisions(&cluster, 0, "t/").await.len() as u64, first);
    assert!(first >= SOME as u64 && first < FILES as u64, "{first}");

    // A second Ctrl-C while nobody answers ends it at once.
    let mut running = under_way(&cluster, &words).await;
    cluster.nodes.iter().for_each(|node| signal(node, Signal::STOP));
    tokio::time::sleep(NEXT_REQUEST).await;
    running.signal(Signal::INT);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(running.is_running(), "writes under way are waited for");
    running.signal(Signal::INT);
    let ran = running.ended(AT_ONCE).await.expect("the second Ctrl-C ends it at once");
    cluster.nodes.iter().for_each(|node| signal(node, Signal::CONT));
    assert_eq!(ran.code, Some(6), "{ran:?}");

    // A cluster that dies, for longer than is tried.
    cluster.wait_until_ready().await;
    let running = under_way(&cluster, &[&words[..], &["--retry-for", "1s"]].concat()).await;
    kill_all(&mut cluster).await;
    let ran = running.ended(LIMIT).await.expect("a dead cluster ends it");
    assert!(matches!(ran.code, Some(5 | 6)), "{ran:?}");
    assert_eq!(ran.summary()["complete"], false);
    let ran = run(&cluster, &words).await;
    assert_eq!((ran.code, ran.output.as_str()), (Some(5), ""), "nobody is there at all: {ran:?}");
    cluster.nodes.iter_mut().for_each(raft_tests::cluster::Node::start);
    cluster.wait_until_ready().await;

    // A leader that dies is nothing to speak of.
    let leader = cluster.leader_of("t%2Fany").await;
    let running = under_way(&cluster, &words).await;
    cluster.nodes[leader].kill().await;
    let ran = running.ended(LIMIT).await.expect("two nodes of three are enough");
    assert_eq!((ran.code, &ran.summary()["complete"]), (Some(0), &true.into()), "{ran:?}");
    assert_eq!(figure(&ran, "written") + figure(&ran, "unchanged"), FILES as u64);
    assert!(figure(&ran, "unchanged") >= 3 * SOME as u64 && figure(&ran, "retries") > 0, "{ran:?}");
    cluster.nodes[leader].start();
    cluster.nodes[leader].wait_until_ready().await;

    let all = revisions(&cluster, 0, "t/").await;
    let (least, most) = (all.values().min().unwrap(), all.values().max().unwrap());
    assert_eq!(all.len(), FILES);
    assert_eq!(most - least + 1, FILES as u64, "a key was written twice");

    // Once more writes nothing; then only what is new.
    let ran = run(&cluster, &words).await;
    assert_eq!((ran.code, figure(&ran, "written"), figure(&ran, "unchanged")), (Some(0), 0, FILES as u64));
    // Changed without a change of its size.
    let changed = fs::read_to_string(tree.path().join("d3/file-3")).unwrap().replace("content", "CONTENT");
    fs::write(tree.path().join("d3/file-3"), changed).unwrap();
    fs::write(tree.path().join("d3/new"), "new").unwrap();
    let ran = run(&cluster, &words).await;
    assert_eq!((ran.code, figure(&ran, "written"), figure(&ran, "unchanged")), (Some(0), 2, FILES as u64 - 1));

    let folder = tempfile::tempdir().unwrap();
    let exported = folder.path().join("out");
    let words = ["export", exported.to_str().unwrap(), "--prefix", "t/", "-o", "json"];
    let ran = run(&cluster, &words).await;
    assert_eq!((ran.code, figure(&ran, "written")), (Some(0), FILES as u64 + 1), "{ran:?}");
    assert_eq!(compare(tree.path(), &exported, &[]).await, Ok(0));
    // An export is gone on with too.
    fs::remove_file(exported.join("d3/new")).unwrap();
    let changed = fs::read_to_string(tree.path().join("d3/file-3")).unwrap().replace("CONTENT", "cOnTeNt");
    fs::write(exported.join("d3/file-3"), changed).unwrap();
    let ran = run(&cluster, &words).await;
    assert_eq!((ran.code, figure(&ran, "written"), figure(&ran, "unchanged")), (Some(0), 2, FILES as u64 - 1));
    assert_eq!(compare(tree.path(), &exported, &[]).await, Ok(0));
}

#[tokio::test]
async fn what_cannot_be_stored_or_written_is_named_before_anything_is_changed() {
    let cluster = Cluster::start(Plan { nodes: 1, replication_factor: 1, shards: 2, ..Plan::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let staged = folder.path().join("staged");
    stage(&staged, &[], 1000, 1).unwrap();
    let path = staged.to_str().unwrap();

    let ran = run(&cluster, &["import", path, "--prefix", "p/"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let refused = ODD_LEFT_OUT.iter().filter(|(name, _)| *name != "empty");
    for (name, reason) in refused.clone() {
        let line = ran.errors.lines().find(|line| line.starts_with(&format!("refused: odd/{name}: ")));
        assert!(line.is_some_and(|line| line.contains(reason)), "{name}: {}", ran.errors);
    }
    assert!(ran.errors.contains(&format!("{} of", refused.count())) && ran.errors.contains("nothing was sent"));
    assert!(revisions(&cluster, 0, "").await.is_empty(), "nothing was sent");

    let ran = run(&cluster, &["import", path, "--prefix", "p/", "--skip", "-o", "json"]).await;
    assert_eq!((ran.code, figure(&ran, "written")), (Some(0), ODD_STORED.len() as u64), "{ran:?}");
    assert_eq!(ran.left_out().len(), ODD_LEFT_OUT.len());
    let exported = folder.path().join("out");
    let ran_export = run(&cluster, &["export", exported.to_str().unwrap(), "--prefix", "p/"]).await;
    assert_eq!(ran_export.code, Some(0), "{ran_export:?}");
    assert_eq!(compare(&staged, &exported, &ran.left_out()).await, Ok(ODD_LEFT_OUT.len()));

    for key in ["q%2F..%2Fescaped", "q%2F%2Fetc", "q%2Fa", "q%2Fa%2Fb", "q%2Fc%00", "q%2Flink%2Fx", "q%2Fgood", "q%2F"]
    {
        cluster.http(0).put(format!("/v1/kv/{key}"), "v").send().await.expect(204);
    }
    let out = folder.path().join("odd-keys");
    fs::create_dir(&out).unwrap();
    symlink(folder.path(), out.join("link")).unwrap();
    let words = ["export", out.to_str().unwrap(), "--prefix", "q/"];
    let ran = run(&cluster, &words).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let bad = ["q/../escaped", "q//etc", "q/a", "q/c\\0", "q/link/x", "q/"];
    for key in bad {
        assert!(ran.errors.contains(&format!("refused: {key}: ")), "{key}: {}", ran.errors);
    }
    assert!(ran.errors.contains("6 of 8 keys") && ran.errors.contains("nothing was written"), "{}", ran.errors);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "nothing was written");
    let ran = run(&cluster, &[&words[..], &["--skip", "-o", "json"]].concat()).await;
    assert_eq!((ran.code, figure(&ran, "written"), ran.left_out().len()), (Some(0), 2, bad.len()), "{ran:?}");
    assert!(out.join("a/b").is_file() && out.join("good").is_file());
    assert!(!folder.path().join("x").exists() && !folder.path().join("escaped").exists());

    let ran = run(&cluster, &["import", folder.path().join("nowhere").to_str().unwrap(), "--prefix", "p/"]).await;
    assert!(ran.code == Some(1) && ran.errors.contains("nowhere"), "{ran:?}");
}

#[tokio::test]
async fn lines_come_back_as_they_went_in_and_a_bad_one_is_named_by_its_number() {
    let cluster = Cluster::start(Plan { nodes: 1, replication_factor: 1, shards: 2, ..Plan::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let (input_path, output_path) = (input.to_str().unwrap(), output.to_str().unwrap());
    let mut lines: Vec<String> = (0..500)
        .map(|number| {
            format!("{{\"content_type\":\"text/plain\",\"key\":\"l/{number:04}\",\"value\":\"v\\n{number}\"}}\n")
        })
        .collect();
    lines.push("{\"content_type\":\"application/x\",\"key_b64\":\"bC__\",\"value_b64\":\"AP8\"}\n".to_string());
    fs::write(&input, lines.concat()).unwrap();
    let ran = run(&cluster, &["import", "--ndjson", input_path, "-o", "json"]).await;
    assert_eq!((ran.code, figure(&ran, "written")), (Some(0), 501), "{ran:?}");
    let ran = run(&cluster, &["export", "--ndjson", output_path, "--prefix", "l/"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(fs::read_to_string(&output).unwrap(), lines.concat());
    let ran = run(&cluster, &["export", "--ndjson", "-", "--prefix", "l/"]).await;
    assert_eq!((ran.code, ran.output), (Some(0), lines.concat()));
    let ran = run(&cluster, &["import", "--ndjson", input_path, "-o", "json"]).await;
    assert_eq!((ran.code, figure(&ran, "written"), figure(&ran, "unchanged")), (Some(0), 0, 501));

    // The last line of a key wins, whatever is in flight.
    let same: String = (0..300).map(|number| format!("{{\"key\":\"same\",\"value\":\"{number}\"}}\n")).collect();
    fs::write(&input, same).unwrap();
    assert_eq!(run(&cluster, &["import", "--ndjson", input_path]).await.code, Some(0));
    assert_eq!(cluster.http(0).get("/v1/kv/same").send().await.expect(200).body, "299");

    let bad = "{\"key\":\"b/1\",\"value\":\"\"}\n\n{\"key\":\"b/3\",\"valeu\":\"\"}\nno json\n{\"key\":\"b/5\",\"value\":\"\"}\n";
    fs::write(&input, bad).unwrap();
    let ran = run(&cluster, &["import", "--ndjson", input_path]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.errors.contains("refused: line 3: unknown field `valeu`") && ran.errors.contains("refused: line 4: "));
    assert!(revisions(&cluster, 0, "b%2F").await.is_empty(), "a file is checked to its end first");
    let ran = run(&cluster, &["import", "--ndjson", input_path, "--skip", "-o", "json"]).await;
    assert_eq!((ran.code, figure(&ran, "written"), ran.left_out().len()), (Some(0), 2, 2), "{ran:?}");

    let ran = run(&cluster, &["export", "--ndjson", "/dev/full"]).await;
    assert!(ran.code == Some(1) && ran.errors.contains("cannot write to /dev/full"), "{ran:?}");
    let ran = run(&cluster, &["export", "--ndjson", "-", "-o", "json"]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

#[tokio::test]
async fn a_full_target_disk_ends_an_export_with_the_name_of_the_file_and_nothing_half_written() {
    if crate::powerfs::skipped() {
        return;
    }
    let cluster = Cluster::start(Plan { nodes: 1, replication_factor: 1, shards: 2, ..Plan::default() }).await;
    let source = tree(0);
    for number in 0..60 {
        fs::write(source.path().join(format!("f{number:02}")), vec![b'x'; 50_000]).unwrap();
    }
    let words = ["import", source.path().to_str().unwrap(), "--prefix", "f/"];
    assert_eq!(run(&cluster, &words).await.code, Some(0));

    let powered = Powered::new(Model::Strict);
    powered.run(Command::Space(Some(1_000_000)));
    let out = powered.path("out");
    let words = ["export", out.to_str().unwrap(), "--prefix", "f/", "-o", "json"];
    let ran = run(&cluster, &words).await;
    assert_eq!((ran.code, &ran.summary()["complete"]), (Some(1), &false.into()), "{ran:?}");
    assert!(ran.errors.contains(&format!("cannot write {}/f", out.display())), "{}", ran.errors);
    assert!(ran.errors.contains("No space left on device"), "{}", ran.errors);
    let written = whole_files(&out);
    assert_eq!(written as u64, figure(&ran, "written"));
    assert!(written > 0 && written < 60, "{written}");

    powered.run(Command::Space(None));
    let ran = run(&cluster, &words).await;
    assert_eq!((ran.code, figure(&ran, "unchanged")), (Some(0), written as u64), "{ran:?}");
    assert_eq!(compare(source.path(), &out, &[]).await, Ok(0));

    let whole = powered.path("lines");
    fs::write(&whole, "before").unwrap();
    powered.run(Command::Space(Some(4_000_000)));
    let ran = run(&cluster, &["export", "--ndjson", whole.to_str().unwrap(), "--prefix", "f/"]).await;
    assert!(ran.code == Some(1) && ran.errors.contains("is as it was before"), "{ran:?}");
    assert_eq!(fs::read(&whole).unwrap(), b"before");
}

/// Every file there is whole, and none is temporary.
fn whole_files(directory: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.file_name().to_str().unwrap().starts_with('f'), "{:?} is left", entry.file_name());
        assert_eq!(entry.metadata().unwrap().size(), 50_000, "{:?} is half written", entry.file_name());
        count += 1;
    }
    count
}
