//! The clients of the fault tests on a whole simulated cluster: with nothing wrong they find nothing wrong, the same
//! seed gives the same history byte for byte, and each kind of lie that a server could tell is caught by its check.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft_tests::checker::{self, Verdict};
use raft_tests::history::{self, History, Recorder};
use raft_tests::sim::{self, HTTP_PORT, SimNet, Stage, World};
use raft_tests::workload::{self, Finished, Ground, Kind, Load, Target};
use ringraft::transport::dial::Net;

const NODES: u64 = 3;
const VERIFY_LIMIT: Duration = Duration::from_secs(60);

/// A history in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a run left.
struct Left {
    lines: Vec<u8>,
    finished: Finished,
}

impl Left {
    fn history(&self) -> History {
        history::read(self.lines.as_slice()).unwrap()
    }

    /// Nothing was wrong, and everything could be told.
    #[track_caller]
    fn assert_good(&self) -> History {
        let history = self.history();
        let report = checker::check(&history);
        println!("{} operations, {:?}", report.operations, self.finished.counts);
        assert_eq!(self.finished.violations, Vec::<String>::new());
        assert_eq!(self.finished.unverified, Vec::<String>::new());
        assert_eq!(report.verdict(), Verdict::Good, "{:?} {:?}", report.violations, report.undecided);
        history
    }
}

const CRASH: u32 = 1;
const CRASHED: u32 = 2;
const RESTARTED: u32 = 3;

/// Runs the load for some simulated seconds; with `crash`, a node is down for a while in the middle.
fn run(seed: u64, load: Load, net: Arc<dyn Net>, seconds: u64, crash: Option<u64>) -> Left {
    let mut world = World::new(seed);
    world.add_cluster(seed, NODES, |_| {});
    let (lines, finished) = (Lines::default(), Arc::new(Mutex::new(None)));
    let client = {
        let (lines, finished, stage) = (lines.clone(), Arc::clone(&finished), Arc::clone(&world.stage));
        async move {
            for node in 1..=NODES {
                sim::until_ready(node).await?;
            }
            let targets = (1..=NODES).map(sim::host);
            let targets = targets.map(|name| Target { address: format!("{name}:{HTTP_PORT}"), name }).collect();
            let ground = Ground { net, targets, recorder: Recorder::new(lines), seed };
            let work = workload::start(ground, load);
            let part = Duration::from_secs(seconds) / 3;
            tokio::time::sleep(part).await;
            if crash.is_some() {
                crash_and_restart(&stage, part).await;
            }
            tokio::time::sleep(part).await;
            *finished.lock().unwrap() = Some(work.finish(VERIFY_LIMIT).await);
            Ok(())
        }
    };
    world.sim.client("client", client);
    if let Some(node) = crash {
        world.run_until(CRASH);
        world.crash(node);
        world.stage.reach(CRASHED);
        world.run_for(Duration::from_secs(seconds) / 3);
        world.restart(node);
        world.stage.reach(RESTARTED);
    }
    world.finish();
    let finished = finished.lock().unwrap().take().unwrap();
    let lines = std::mem::take(&mut *lines.0.lock().unwrap());
    Left { lines, finished }
}

async fn crash_and_restart(stage: &Stage, _down: Duration) {
    stage.reach(CRASH);
    stage.wait_for(RESTARTED).await;
    for node in 1..=NODES {
        sim::until_ready(node).await.unwrap();
    }
}

fn every_kind() -> Load {
    Load { clients_per_target: 2, ..Load::default() }
}

#[test]
fn without_faults_every_kind_works_and_nothing_is_found() {
    let left = run(1, every_kind(), Arc::new(SimNet), 6, None);
    let history = left.assert_good();
    let counts = &left.finished.counts;
    for kind in Kind::ALL {
        assert!(counts.kind(kind).ok > 100, "{}: {counts:?}", kind.name());
    }
    assert!(counts.pages > 50 && left.finished.scanned > 100 && left.finished.replayed > 50, "{:?}", left.finished);
    assert_eq!(counts.by_shard.len(), 3, "every shard is used");
    assert_eq!(left.finished.scanned as u64, counts.kind(Kind::Set).ok / 2, "each is inserted and read back");
    let windows = workload::stale_windows(&history);
    println!("{windows:?}");
    assert_eq!((windows.stale, windows.window_ms_max()), (0, 0.0));
    assert!(windows.answered_per_second_min() >= 200.0, "{windows:?}");
    assert!(windows.served_by_lease > windows.answered / 2, "{windows:?}");
}

#[test]
fn a_crash_of_any_node_is_survived_and_nothing_is_found() {
    for node in 1..=NODES {
        let left = run(10 + node, every_kind(), Arc::new(SimNet), 9, Some(node));
        let history = left.assert_good();
        assert!(left.finished.counts.ops.fail > 0, "{:?}", left.finished.counts);
        let refusals = workload::refusals(&history);
        println!("{refusals:?}");
        assert!(!refusals.is_empty() && refusals.values().all(|refusals| refusals.shown_up == 0), "{refusals:?}");
        let windows = workload::stale_windows(&history);
        assert_eq!(windows.window_ms_max(), 0.0);
        assert!(windows.asked_per_second.values().all(|rate| *rate > 100.0), "{windows:?}");
    }
}

/// Where a process of the test below leaves its history.
const HISTORY_OUT: &str = "RAFT_TESTS_HISTORY_OUT";

/// In fresh processes: counters of a process (tokio's task ids among them) decide in which order a crashed host's
/// connections break.
#[test]
fn the_same_seed_gives_the_same_history_in_two_fresh_processes() {
    if let Some(out) = std::env::var_os(HISTORY_OUT) {
        std::fs::write(out, run(4, every_kind(), Arc::new(SimNet), 6, Some(2)).lines).unwrap();
        return;
    }
    let directory = tempfile::TempDir::new().unwrap();
    let history = |name: &str| {
        let out = directory.path().join(name);
        let this_test = "the_same_seed_gives_the_same_history_in_two_fresh_processes";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([this_test, "--test-threads", "1"])
            .env(HISTORY_OUT, &out)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        std::fs::read_to_string(out).unwrap()
    };
    let (first, second) = (history("first"), history("second"));
    assert!(first.lines().count() > 5000);
    let differ = first.lines().zip(second.lines()).find(|(first, second)| first != second);
    assert_eq!(differ, None);
    assert_eq!(first.len(), second.len());
}

#[path = "workloads/lies.rs"]
mod lies;
