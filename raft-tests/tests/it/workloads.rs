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
    Load { pause: Duration::from_millis(20), clients_per_target: 2, ..Load::default() }
}

#[test]
fn without_faults_every_kind_works_and_nothing_is_found() {
    let left = run(1, every_kind(), Arc::new(SimNet), 6, None);
    left.assert_good();
    for kind in Kind::ALL {
        assert!(left.finished.counts.kind(kind).ok > 100, "{}: {:?}", kind.name(), left.finished.counts);
    }
}

#[test]
fn a_crash_of_any_node_is_survived_and_nothing_is_found() {
    for node in 1..=NODES {
        let left = run(10 + node, every_kind(), Arc::new(SimNet), 9, Some(node));
        left.assert_good();
        assert!(left.finished.counts.ops.fail > 0, "{:?}", left.finished.counts);
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let lines = |seed| run(seed, every_kind(), Arc::new(SimNet), 6, Some(2)).lines;
    assert_eq!(lines(4), lines(4));
}
