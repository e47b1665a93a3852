//! Keeps one node of a `dev` cluster: starts its process, carries its output, notices its end, says how to start it
//! again, sees when somebody did, and stops it in the end.
//!
//! Invariants: at most one process of the node runs, as far as this can be seen from outside; `ringraft.pid` names the
//! process that runs, also one started by hand, and is gone while none does; a process started by hand is never stopped
//! from here.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::args::RestartAfter;
use super::console::Console;
use super::plan::NodePlan;
use super::processes;
use crate::clock;
use crate::transport::dial::Net;

/// Longest time that a node is given to hand over, drain and flush.
const STOP_WAIT: Duration = Duration::from_secs(30);
/// Pause between two looks for a process started by hand.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Longest wait for a local port to answer.
const PORT_WAIT: Duration = Duration::from_millis(500);
/// Longest wait for the last lines of a process that has ended. Its output stays open while it has children.
const LAST_LINES_WAIT: Duration = Duration::from_secs(1);
/// Variables that would give all nodes the same value of what makes them different.
const PER_NODE_VARIABLES: [&str; 9] = [
    "RINGRAFT_DATA_DIR",
    "RINGRAFT_CLUSTER_BOOTSTRAP",
    "RINGRAFT_CLUSTER_JOIN",
    "RINGRAFT_CLUSTER_REPLICATION_FACTOR",
    "RINGRAFT_CLUSTER_SHARDS",
    "RINGRAFT_HTTP_LISTEN",
    "RINGRAFT_HTTP_ADVERTISE",
    "RINGRAFT_PEER_LISTEN",
    "RINGRAFT_PEER_ADVERTISE",
];

/// How the cluster ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopping {
    /// Each node hands over, drains and flushes.
    pub(super) in_order: CancellationToken,
    /// Each node is killed, once it was told to stop in order.
    pub(super) at_once: CancellationToken,
}

pub(super) struct Keeper {
    pub(super) node: NodePlan,
    pub(super) program: PathBuf,
    pub(super) restart_after: RestartAfter,
    pub(super) console: Arc<Console>,
    pub(super) stopping: Stopping,
    /// Told the node's name when its process ends without being stopped or killed by anybody.
    pub(super) gave_up: mpsc::Sender<String>,
    pub(super) net: Arc<dyn Net>,
}

/// Who serves the node's addresses although `dev` did not start it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stranger {
    /// Unknown for a process that is not to be seen, of another user or container.
    pid: Option<u32>,
}

impl Keeper {
    /// Runs until the cluster is told to stop.
    pub(super) async fn run(self) {
        while !self.stopping.in_order.is_cancelled() {
            if let Err(error) = self.run_process().await {
                self.say(&format!("cannot be started: {error}"));
                let _ = self.gave_up.try_send(self.node.name.clone());
            }
            if self.stopping.in_order.is_cancelled() {
                break;
            }
            self.wait_while_down().await;
        }
    }

    /// One process of the node from its start to its end.
    async fn run_process(&self) -> std::io::Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--config").arg(&self.node.config_path).arg("--supervised");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        for name in PER_NODE_VARIABLES {
            command.env_remove(name);
        }
        let mut child = command.spawn()?;
        // Waiting for a child closes its input, which would tell the node that we are gone.
        let _held = child.stdin.take();
        let lines = tokio::spawn({
            let (console, name) = (self.console.clone(), self.node.name.clone());
            let (out, err) = (child.stdout.take(), child.stderr.take());
            async move {
                let out = async {
                    if let Some(out) = out {
                        console.carry(&name, out).await
                    }
                };
                let err = async {
                    if let Some(err) = err {
                        console.carry(&name, err).await
                    }
                };
                tokio::join!(out, err);
            }
        });
        if let Some(pid) = child.id() {
            self.write_pid(pid);
            self.say(&format!("started, pid {pid}"));
        }
        let status = tokio::select! {
            status = child.wait() => status?,
            () = self.stopping.in_order.cancelled() => self.stop(&mut child).await?,
        };
        let _ = timeout(LAST_LINES_WAIT, lines).await;
        self.remove_pid();
        if self.stopping.in_order.is_cancelled() {
            self.say(&format!("stopped ({})", ending(status)));
        } else {
            self.say(&format!("is down ({}). {}", ending(status), self.how_to_start()));
            if !was_stopped(status) {
                let _ = self.gave_up.try_send(self.node.name.clone());
            }
        }
        Ok(())
    }

    async fn stop(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        // No id means that it was waited for, so that the signal never reaches a stranger with the same pid.
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            // The process may be ending at this moment; waiting tells.
            let _ = kill_process(pid, Signal::TERM);
        }
        tokio::select! {
            status = child.wait() => return status,
            () = sleep(STOP_WAIT) => self.say(&format!("has not stopped after {} s and is killed", STOP_WAIT.as_secs())),
            () = self.stopping.at_once.cancelled() => self.say("is killed"),
        }
        child.start_kill()?;
        child.wait().await
    }

    /// Returns when the node is to be started from here again, or the cluster stops. While a process started by hand
    /// serves the node, neither a second one is started nor does the time until a restart run.
    async fn wait_while_down(&self) {
        let mut down_since = clock::now();
        loop {
            if let Some(stranger) = self.stranger().await {
                self.while_strange(stranger).await;
                down_since = clock::now();
            }
            if let RestartAfter::After(wait) = self.restart_after {
                let left = wait.saturating_sub(clock::now().since(down_since));
                if left.is_zero() {
                    return;
                }
                if self.pause(left.min(LOOK_EVERY)).await {
                    return;
                }
            } else if self.pause(LOOK_EVERY).await {
                return;
            }
        }
    }

    /// While somebody else's process serves the node.
    async fn while_strange(&self, stranger: Stranger) {
        match stranger.pid {
            Some(pid) => {
                self.write_pid(pid);
                self.say(&format!("runs again, started by hand, pid {pid}"));
            }
            None => self.say(&format!("{} answers, so that no second one is started", self.node.http)),
        }
        loop {
            if self.pause(LOOK_EVERY).await {
                if let Some(pid) = stranger.pid {
                    self.say(&format!("was started by hand and goes on; stop it with: kill {pid}"));
                }
                return;
            }
            let now = self.stranger().await;
            if now != Some(stranger) && now.is_none_or(|now| now.pid.is_some()) {
                break;
            }
        }
        self.remove_pid();
        self.say(&format!("is down again. {}", self.how_to_start()));
    }

    async fn stranger(&self) -> Option<Stranger> {
        if let Some(pid) = processes::serving(&self.node.config_path).first() {
            return Some(Stranger { pid: Some(*pid) });
        }
        // By dialling, not by listening: that would be in the way of somebody who starts the node at this moment.
        let dialled = timeout(PORT_WAIT, self.net.dial(&self.node.http)).await;
        matches!(dialled, Ok(Ok(_))).then_some(Stranger { pid: None })
    }

    /// Waits; true when the cluster stops meanwhile.
    async fn pause(&self, time: Duration) -> bool {
        timeout(time, self.stopping.in_order.cancelled()).await.is_ok()
    }

    fn how_to_start(&self) -> String {
        let command = self.node.command(&self.program);
        match self.restart_after {
            RestartAfter::Never => format!("Start it again with:\n  {command}"),
            RestartAfter::After(wait) => {
                format!("It starts again in {} ms, or now with:\n  {command}", wait.as_millis())
            }
        }
    }

    fn say(&self, text: &str) {
        self.console.notice(&format!("{} {text}", self.node.name));
    }

    fn write_pid(&self, pid: u32) {
        if let Err(error) = fs::write(&self.node.pid_path, format!("{pid}\n")) {
            self.say(&format!("has pid {pid}, but {} cannot be written: {error}", self.node.pid_path.display()));
        }
    }

    fn remove_pid(&self) {
        // It may be gone with its whole folder.
        let _ = fs::remove_file(&self.node.pid_path);
    }
}

/// Whether somebody ended the process; else it ended by itself, an abort included.
fn was_stopped(status: ExitStatus) -> bool {
    [Signal::KILL, Signal::TERM, Signal::INT].map(Signal::as_raw).iter().any(|signal| status.signal() == Some(*signal))
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (_, Some(signal)) => format!("signal {signal}"),
        (Some(code), None) => format!("exit code {code}"),
        (None, None) => "no exit code".to_string(),
    }
}
