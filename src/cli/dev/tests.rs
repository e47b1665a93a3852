//! Keepers with processes that only look like nodes, and what is looked at before anything starts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::super::args::RestartAfter;
use super::super::testing::{Canned, Captured, Server, problem};
use super::*;

/// Longest wait for what must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waiting for a notice or a line of a log.
impl Captured {
    async fn wait_for(&self, wanted: &str) {
        self.wait_for_nth(wanted, 1).await;
    }

    async fn wait_for_nth(&self, wanted: &str, times: usize) {
        let seen = async {
            while self.text().matches(wanted).count() < times {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(DEADLINE, seen).await.is_ok(), "never said {wanted:?} {times} times: {}", self.text());
    }
}

/// One node of a plan under its keeper.
struct Kept {
    node: NodePlan,
    notices: Captured,
    logs: Captured,
    stopping: Stopping,
    given_up: mpsc::Receiver<String>,
    task: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// A port base whose first node's ports nobody listens on, below those that the system gives out by itself: a keeper
/// takes whoever answers there for its node.
async fn free_port_base() -> u16 {
    loop {
        let base = u16::try_from(10_000 + crate::clock::random_u64() % 20_000).unwrap();
        let (http, peer) = (format!("127.0.0.1:{}", base + 1), format!("127.0.0.1:{}", base + 101));
        if TcpNet.listen(&http).await.is_ok() && TcpNet.listen(&peer).await.is_ok() {
            return base;
        }
    }
}

fn fake_node() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cli/fake-node.sh")
}

async fn keep(folder_name: &str, restart_after: RestartAfter) -> Kept {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join(folder_name);
    let args = DevArgs { nodes: Some(1), port: Some(free_port_base().await), data, ..DevArgs::default() };
    let plan = Plan::make(&args).unwrap();
    plan.write().unwrap();
    let node = plan.nodes[0].clone();
    let (notices, logs, stopping) = (Captured::default(), Captured::default(), Stopping::default());
    let (gave_up, given_up) = mpsc::channel(GAVE_UP_QUEUE);
    let keeper = Keeper {
        node: node.clone(),
        program: fake_node(),
        restart_after,
        console: Arc::new(Console::new(Box::new(notices.clone()), Box::new(logs.clone()))),
        stopping: stopping.clone(),
        gave_up,
        net: Arc::new(TcpNet),
    };
    let task = tokio::spawn(keeper.run());
    Kept { node, notices, logs, stopping, given_up, task, _folder: folder }
}

impl Kept {
    fn pid(&self) -> u32 {
        std::fs::read_to_string(&self.node.pid_path).unwrap().trim().parse().unwrap()
    }

    async fn stop(self) -> (String, String) {
        self.stopping.in_order.cancel();
        timeout(DEADLINE, self.task).await.expect("the keeper ends").unwrap();
        assert!(!self.node.pid_path.exists());
        (self.notices.text(), self.logs.text())
    }
}

/// A process that looks like the node started by somebody else. `read` ends with its input, so with the test at last.
fn start_by_hand(node: &NodePlan) -> std::process::Child {
    std::process::Command::new("sh")
        .args(["-c", "read line", "sh", "serve", "--config"])
        .arg(&node.config_path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_node_is_started_with_its_configuration_and_stopped_in_order() {
    let kept = keep("dev", RestartAfter::Never).await;
    kept.logs.wait_for("running").await;
    assert_eq!(processes::serving(&kept.node.config_path), [kept.pid()]);
    let config = kept.node.config_path.display().to_string();
    let (notices, logs) = kept.stop().await;
    assert!(logs.contains(&format!("n1 | running serve --config {config} --supervised\n")), "{logs}");
    assert!(logs.contains("n1 | handing over\n"), "{logs}");
    assert!(!logs.contains("input ended"), "the end of its input is for the death of `dev` alone: {logs}");
    assert!(notices.contains("n1 stopped (exit code 0)") && !notices.contains("is down"), "{notices}");
}

#[tokio::test]
async fn a_killed_node_stays_down_until_it_is_started_by_hand_and_no_second_one_is_started() {
    let mut kept = keep("dev", RestartAfter::Never).await;
    kept.logs.wait_for("running").await;
    kill(kept.pid());
    kept.notices.wait_for("n1 is down (signal 9)").await;
    let command = format!("\n  {}\n", kept.node.command(&fake_node()));
    assert!(kept.notices.text().contains(&command), "{}", kept.notices.text());
    assert!(!kept.node.pid_path.exists());

    // Twice, because what follows the end of the first one must not be another start from here.
    for time in 1..=2 {
        let mut by_hand = start_by_hand(&kept.node);
        kept.notices.wait_for(&format!("n1 runs again, started by hand, pid {}", by_hand.id())).await;
        assert_eq!(kept.pid(), by_hand.id());
        by_hand.kill().unwrap();
        by_hand.wait().unwrap();
        kept.notices.wait_for_nth("n1 is down again", time).await;
    }
    assert!(kept.given_up.try_recv().is_err(), "a killed node has not given up");
    let (_, logs) = kept.stop().await;
    assert_eq!(logs.matches("running").count(), 1, "{logs}");
}

#[tokio::test]
async fn a_killed_node_is_started_again_after_the_time_that_was_asked_for() {
    let kept = keep("dev", RestartAfter::After(Duration::from_millis(100))).await;
    kept.logs.wait_for("running").await;
    let first = kept.pid();
    kill(first);
    kept.logs.wait_for_nth("running", 2).await;
    assert_ne!(kept.pid(), first);
    kept.stop().await;
}

#[tokio::test]
async fn a_node_that_somebody_else_serves_is_not_started_a_second_time_and_not_stopped_at_the_end() {
    let kept = keep("dev", RestartAfter::After(Duration::from_millis(600))).await;
    kept.logs.wait_for("running").await;
    kill(kept.pid());
    let mut by_hand = start_by_hand(&kept.node);
    kept.notices.wait_for("started by hand").await;
    let (notices, logs) = {
        kept.stopping.in_order.cancel();
        timeout(DEADLINE, kept.task).await.expect("the keeper ends").unwrap();
        (kept.notices.text(), kept.logs.text())
    };
    assert!(by_hand.try_wait().unwrap().is_none(), "it goes on");
    assert!(notices.contains(&format!("stop it with: kill {}", by_hand.id())), "{notices}");
    assert_eq!(logs.matches("running").count(), 1, "{logs}");
    by_hand.kill().unwrap();
    by_hand.wait().unwrap();
}

#[tokio::test]
async fn a_node_whose_port_answers_is_not_started_a_second_time() {
    let kept = keep("dev", RestartAfter::After(Duration::from_millis(600))).await;
    kept.logs.wait_for("running").await;
    let port = TcpNet.listen(&kept.node.http).await.unwrap();
    kill(kept.pid());
    kept.notices.wait_for(&format!("n1 {} answers, so that no second one is started", kept.node.http)).await;
    assert_eq!(kept.logs.text().matches("running").count(), 1);
    drop(port);
    kept.notices.wait_for("n1 is down again").await;
    kept.logs.wait_for_nth("running", 2).await;
    kept.stop().await;
}

#[tokio::test]
async fn a_node_that_ends_by_itself_has_given_up() {
    let mut kept = keep("exit-3", RestartAfter::Never).await;
    let name = timeout(DEADLINE, kept.given_up.recv()).await.unwrap();
    assert_eq!(name.as_deref(), Some("n1"));
    let (notices, _) = kept.stop().await;
    assert!(notices.contains("n1 is down (exit code 3)"), "{notices}");
}

#[tokio::test]
async fn taken_ports_and_running_nodes_are_named_before_anything_starts() {
    let kept = keep("dev", RestartAfter::Never).await;
    kept.logs.wait_for("running").await;
    let folder = kept.node.config_path.parent().unwrap().parent().unwrap().to_path_buf();
    let plan = Plan::make(&DevArgs { data: folder, ..DevArgs::default() }).unwrap();
    let held = refuse_held_directories(&plan).unwrap_err().to_string();
    assert!(held.contains(&format!("n1 (pid {0}). Stop them with: kill {0}", kept.pid())), "{held}");
    kept.stop().await;
    refuse_held_directories(&plan).unwrap();

    refuse_taken_ports(&plan, &TcpNet).await.unwrap();
    let _taken = TcpNet.listen(&plan.nodes[0].peer).await.unwrap();
    let taken = refuse_taken_ports(&plan, &TcpNet).await.unwrap_err().to_string();
    assert!(taken.contains(&format!("{} (peers of n1)", plan.nodes[0].peer)), "{taken}");
    assert!(!taken.contains("(HTTP of n1)"), "{taken}");
}

#[tokio::test]
async fn a_node_is_ready_when_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let plan =
        Plan::make(&DevArgs { nodes: Some(1), data: folder.path().to_path_buf(), ..DevArgs::default() }).unwrap();
    let server = Server::start([problem(503, "starting", ""), Canned::answer(200, &[], "ok")]).await;
    let client = Client::new(Arc::new(TcpNet), vec![server.endpoint().clone()], None);
    assert_eq!(not_ready(&plan.nodes[0], &client).await.as_deref(), Some("n1 (503 as canned)"));
    assert_eq!(not_ready(&plan.nodes[0], &client).await, None);
    assert_eq!(server.requests()[0].line, "GET /readyz");
}

#[test]
fn commands_are_printed_as_a_shell_reads_them() {
    assert_eq!(shell_word("data/dev/n1/node.toml"), "data/dev/n1/node.toml");
    assert_eq!(shell_word("my data/it's"), r"'my data/it'\''s'");
    assert_eq!(shell_word(""), "''");
    let here = std::env::current_dir().unwrap();
    assert_eq!(as_typed(&here.join("target/release/ringraft")), Path::new("target/release/ringraft"));
    assert_eq!(as_typed(&here.join("ringraft")), Path::new("./ringraft"));
    assert_eq!(as_typed(Path::new("/usr/bin/ringraft")), Path::new("/usr/bin/ringraft"));
}
