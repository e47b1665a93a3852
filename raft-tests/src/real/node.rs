//! One `ringraft serve` as the runner holds it: started, signalled, killed, looked at.
//!
//! Invariants: only processes that were started here are signalled; a process that is running when its [`Node`] is
//! dropped is killed; and one whose runner dies in any way ends too, because its standard input ends with it
//! (`serve --supervised`). Nothing here panics over what a node does: that is what is being tested.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ringraft::clock;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use crate::fleet::until;
use crate::http::Http;

/// Between two looks at a process that is to change.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a process may take to be gone after SIGKILL, or stopped after SIGSTOP.
const SIGNAL_LIMIT: Duration = Duration::from_secs(5);
/// Limit of one question whether a node is ready.
const READY_ASK_LIMIT: Duration = Duration::from_secs(1);

const SIGKILL: i32 = 9;

/// How a node's process is started, besides the program and its arguments.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Stands in front of the program: what brings it into its network namespace.
    pub before: Vec<String>,
    pub environment: Vec<(String, String)>,
}

pub struct Node {
    pub name: String,
    pub http: Http,
    /// Where its peers' listener is. Other nodes may be told another address.
    pub peer: String,
    /// With its configuration and its log.
    pub directory: PathBuf,
    /// With its stores.
    pub data: PathBuf,
    launch: Launch,
    running: Option<Running>,
    /// How it ended when nobody had asked for that.
    crashes: Vec<String>,
    /// Of every process that it had.
    pids: Vec<u32>,
}

struct Running {
    child: Child,
    /// Held open: its end is the node's sign that the runner is gone.
    _input: Option<ChildStdin>,
}

impl Node {
    /// `directory` is there, with `node.toml` in it.
    pub fn new(name: String, http: Http, peer: String, directory: PathBuf, data: PathBuf, launch: Launch) -> Self {
        let (crashes, pids) = (Vec::new(), Vec::new());
        Self { name, http, peer, directory, data, launch, running: None, crashes, pids }
    }

    pub fn start(&mut self) -> Result<(), String> {
        if self.running.is_some() {
            return Err(format!("{} runs already", self.name));
        }
        let failed = |what: &str, error: std::io::Error| format!("{}: {what}: {error}", self.name);
        let log = File::options().create(true).append(true).open(self.log_path());
        let log = log.map_err(|error| failed("its log", error))?;
        let second = log.try_clone().map_err(|error| failed("its log", error))?;
        let mut words = self.launch.before.clone();
        words.push(crate::cluster::binary().display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        // The nodes are told everything by their file; a planted bug is what is tested, and passes.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.envs(self.launch.environment.iter().map(|(name, value)| (name, value)));
        let child = command
            .args(["serve", "--supervised", "--config"])
            .arg(self.directory.join("node.toml"))
            .stdin(Stdio::piped())
            .stdout(second)
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|error| failed(&words[0], error))?;
        let _input = child.stdin.take();
        self.pids.extend(child.id());
        self.running = Some(Running { child, _input });
        Ok(())
    }

    /// Of the running process.
    pub fn pid(&self) -> Option<Pid> {
        let pid = self.running.as_ref()?.child.id()?;
        Pid::from_raw(i32::try_from(pid).ok()?)
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub fn signal(&self, signal: Signal) -> Result<(), String> {
        let pid = self.pid().ok_or_else(|| format!("{} does not run", self.name))?;
        kill_process(pid, signal).map_err(|error| format!("{}: {error}", self.name))
    }

    /// Waits for the end of a process that was sent SIGKILL. Says whether that is what ended it.
    pub async fn killed(&mut self) -> Result<bool, String> {
        let status = self.ended_within(SIGNAL_LIMIT).await?;
        let status = status.ok_or_else(|| format!("{} still runs {SIGNAL_LIMIT:?} after SIGKILL", self.name))?;
        let killed = status.signal() == Some(SIGKILL);
        if !killed {
            self.crashed(status);
        }
        Ok(killed)
    }

    fn crashed(&mut self, status: ExitStatus) {
        self.crashes.push(format!("{} ended by itself with {status}: {}", self.name, self.last_words()));
    }

    /// Ends that nobody asked for, since this was last called. They are a bug, but where a fault makes them right.
    pub fn take_crashes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.crashes)
    }

    /// How the process ended, when it ends within `limit`.
    pub async fn ended_within(&mut self, limit: Duration) -> Result<Option<ExitStatus>, String> {
        let running = self.running.as_mut().ok_or_else(|| format!("{} does not run", self.name))?;
        let Ok(ended) = tokio::time::timeout(limit, running.child.wait()).await else { return Ok(None) };
        let status = ended.map_err(|error| format!("{}: {error}", self.name))?;
        self.running = None;
        Ok(Some(status))
    }

    /// Whether it has ended without being asked to. It counts as not running from then on.
    pub fn ended_by_itself(&mut self) -> bool {
        let ended = self.running.as_mut().and_then(|running| running.child.try_wait().ok().flatten());
        if let Some(status) = ended {
            self.running = None;
            self.crashed(status);
        }
        ended.is_some()
    }

    /// The letter of the process's state, `T` when it is stopped.
    pub fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?.as_raw_nonzero())).ok()?;
        // The name before it is in parentheses and may hold any character.
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Waits until the process is, or is no longer, stopped.
    pub async fn until_stopped(&self, stopped: bool) -> bool {
        let deadline = clock::now().after(SIGNAL_LIMIT);
        loop {
            if self.state().is_some_and(|state| (state == 'T') == stopped) {
                return true;
            }
            if clock::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until it says that it is ready.
    pub async fn ready_within(&mut self, limit: Duration) -> Result<(), String> {
        let deadline = clock::now().after(limit);
        loop {
            if self.ended_by_itself() {
                return Err(format!("{} ended: {}", self.name, self.last_words()));
            }
            let last = match tokio::time::timeout(READY_ASK_LIMIT, self.http.get("/readyz").try_send()).await {
                Ok(Ok(reply)) if reply.status == 200 => return Ok(()),
                Ok(Ok(reply)) => String::from_utf8_lossy(&reply.body).into_owned(),
                Ok(Err(error)) => error,
                Err(_) => "no answer".to_string(),
            };
            if clock::now() >= deadline {
                return Err(format!("{} is not ready after {limit:?}: {last}", self.name));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until its log has a line with all of `words` that was not there at `from` bytes.
    pub async fn logs(&self, from: u64, words: &[&str], limit: Duration) -> Option<String> {
        until(limit, || async {
            let text = fs::read(self.log_path()).ok()?;
            let text = String::from_utf8_lossy(text.get(usize::try_from(from).ok()?..)?).into_owned();
            text.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_string)
        })
        .await
    }

    /// Bytes in its log.
    pub fn log_length(&self) -> u64 {
        fs::metadata(self.log_path()).map_or(0, |metadata| metadata.len())
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The last error in its log, else the last line.
    pub fn last_words(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let error = log.lines().rev().find(|line| line.contains(" ERROR "));
        error.or_else(|| log.lines().next_back()).unwrap_or_default().to_string()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running = None;
        if self.launch.environment.is_empty() {
            return;
        }
        // What libfaketime shares among the threads of a process, and leaves behind when that is killed.
        for pid in &self.pids {
            for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
                // Most have taken it away themselves.
                let _ = fs::remove_file(Path::new("/dev/shm").join(name));
            }
        }
    }
}

fn is_foreign(variable: &str) -> bool {
    variable.starts_with("RINGRAFT_") && variable != "RINGRAFT_MUTANT"
}
