//! A cluster of real `ringraft` processes on this machine: started, killed and started again, one by one.
//!
//! Invariants: only processes that were started here are ended, all of them when the [`Cluster`] is dropped; one cluster
//! runs at a time, so that tests do not take each other's processors. A test that panics gets the nodes' last log lines.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, MutexGuard};

use crate::http::Http;

/// How long a cluster may take to be ready, with hundreds of shards on a machine that does other things too.
const READY_TIMEOUT: Duration = Duration::from_secs(240);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of each log that a failed test prints.
const LOG_LINES_SHOWN: usize = 60;

/// When it is set, the nodes' directories are left behind.
const KEEP_VARIABLE: &str = "KEEP_NODES";

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub nodes: usize,
    pub replication_factor: u8,
    pub shards: u32,
    /// Of each node's configuration, the `[storage]` section.
    pub storage: &'static str,
    /// And the `[placement]` section.
    pub placement: &'static str,
    /// And the `[node]` section of each, by its place.
    pub node: fn(usize) -> String,
    /// The first nodes, that form the cluster when they are started; the others may be started later, and join it.
    pub founders: usize,
}

impl Default for Plan {
    fn default() -> Self {
        // Small: all nodes are on one file system, and more than one cluster may be.
        let storage = "disk_reserve_bytes = 16777216\n";
        Self {
            nodes: 3,
            replication_factor: 3,
            shards: 4,
            storage,
            placement: "",
            node: |_| String::new(),
            founders: usize::MAX,
        }
    }
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    _directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

pub struct Node {
    pub name: String,
    pub http: Http,
    /// Where other nodes reach it.
    pub peer: String,
    /// With its configuration, its log and its data.
    pub directory: PathBuf,
    /// Variables of the processes that are started from now on.
    pub environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Cluster {
    /// Starts all nodes and waits until each is ready.
    pub async fn start(plan: Plan) -> Self {
        let mut cluster = Self::prepare(plan).await;
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.wait_until_ready().await;
        cluster
    }

    /// With their directories and configurations, and not started: each keeps its data in `data` below its directory.
    pub async fn prepare(plan: Plan) -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let mut directory = TempDir::new().expect("a temporary directory");
        if std::env::var_os(KEEP_VARIABLE).is_some() {
            directory.disable_cleanup(true);
            eprintln!("the nodes' data and logs stay in {}", directory.path().display());
        }
        let addresses = free_addresses(2 * plan.nodes);
        let (https, peers) = addresses.split_at(plan.nodes);
        let nodes = (0..plan.nodes).map(|place| {
            let name = format!("n{}", place + 1);
            let directory = directory.path().join(&name);
            fs::create_dir(&directory).expect("a node's directory");
            fs::write(directory.join("node.toml"), config(&plan, place, &directory, https, peers)).expect("a file");
            let (http, peer) = (Http::new(&https[place]), peers[place].clone());
            Node { name, http, peer, directory, environment: Vec::new(), child: None }
        });
        let nodes = nodes.collect();
        Self { nodes, _directory: directory, _turn: turn }
    }

    pub fn http(&self, place: usize) -> &Http {
        &self.nodes[place].http
    }

    /// # Panics
    /// When a running node is not ready in time.
    pub async fn wait_until_ready(&mut self) {
        for node in &mut self.nodes {
            node.wait_until_ready().await;
        }
    }

    /// Waits until every data shard is led by the node that is to lead it, after which leaders stay where they are.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub async fn wait_until_settled(&self) {
        let settled = async {
            loop {
                let reply = self.http(0).get("/v1/admin/shards").try_send().await;
                let shards = reply.map(|reply| reply.json()["shards"].clone()).unwrap_or_default();
                let mut data =
                    shards.as_array().into_iter().flatten().filter(|shard| shard["kind"] == "data").peekable();
                if data.peek().is_some()
                    && data.all(|shard| shard["leader"].is_string() && shard["leader"] == shard["preferred_leader"])
                {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::time::timeout(READY_TIMEOUT, settled).await.expect("leaders where they are wanted in time");
    }

    /// The place of the node that leads a key's shard, as soon as one does.
    ///
    /// # Panics
    /// When none does in time.
    pub async fn leader_of(&self, raw_key: &str) -> usize {
        let asked = async {
            loop {
                for (place, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.child.is_some()) {
                    let answer = node.http.get(format!("/v1/kv/{raw_key}?forward=never")).try_send().await;
                    if answer.is_ok_and(|answer| matches!(answer.status, 200 | 404)) {
                        return place;
                    }
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        tokio::time::timeout(READY_TIMEOUT, asked).await.expect("a leader in time")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- {} ({})\n{}", node.name, node.http.address, node.log_tail());
            }
        }
    }
}

impl Node {
    /// # Panics
    /// When it runs already, or cannot be started.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        let log = File::options().create(true).append(true).open(self.directory.join("log")).expect("a log file");
        let mut command = Command::new(binary());
        // The nodes are told everything by their file: what this program's user has set is not for them.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGRAFT_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let child = command
            .arg("serve")
            .arg("--config")
            .arg(self.directory.join("node.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.expect("the program starts"));
    }

    /// The process, while it was started and not killed since.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// SIGKILL, and gone when this returns.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("a child can be killed");
        }
    }

    /// How the process ended by itself. None when it still runs after `limit`.
    ///
    /// # Panics
    /// When it was not started.
    pub async fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut().expect("a node that runs");
        let status = tokio::time::timeout(limit, child.wait()).await.ok()?.expect("a child can be waited for");
        self.child = None;
        Some(status)
    }

    /// # Panics
    /// When it is not ready in time, or has ended.
    pub async fn wait_until_ready(&mut self) {
        let Some(child) = &mut self.child else { return };
        let http = self.http.clone();
        let mut last = String::new();
        let ready = async {
            loop {
                if let Ok(Some(status)) = child.try_wait() {
                    panic!("{} ended: {status}", self.name);
                }
                match http.get("/readyz").try_send().await {
                    Ok(reply) if reply.status == 200 => return,
                    Ok(reply) => last = String::from_utf8_lossy(&reply.body).into_owned(),
                    Err(error) => last = error,
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        if tokio::time::timeout(READY_TIMEOUT, ready).await.is_err() {
            panic!("{} is not ready after {READY_TIMEOUT:?}: {last}", self.name);
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

fn config(plan: &Plan, place: usize, directory: &Path, https: &[String], peers: &[String]) -> String {
    let join: Vec<String> = peers.iter().take(plan.founders).map(|peer| format!("{peer:?}")).collect();
    format!(
        "data_dir = {data:?}\n\
         [cluster]\nbootstrap = {bootstrap}\njoin = [{join}]\nreplication_factor = {factor}\nshards = {shards}\n\
         [http]\nlisten = {http:?}\n\
         [peer]\nlisten = {peer:?}\n\
         [storage]\n{storage}[placement]\n{placement}[node]\n{node}[log]\nfilter = \"info,openraft=warn\"\n",
        data = directory.join("data"),
        bootstrap = place == 0,
        join = join.join(", "),
        factor = plan.replication_factor,
        shards = plan.shards,
        storage = plan.storage,
        placement = plan.placement,
        node = (plan.node)(place),
        http = https[place],
        peer = peers[place],
    )
}

/// Addresses that were free a moment ago. All are held until the last is found, so that no two are the same.
pub(crate) fn free_addresses(count: usize) -> Vec<String> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("a bound address").to_string()).collect()
}

/// The program under test: `RINGRAFT_BIN`, or the one built next to this test or program.
pub fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("RINGRAFT_BIN") {
        return binary.into();
    }
    let test = std::env::current_exe().expect("this program has a path");
    // From target/release/deps/main-… or target/release/raft-tests to target/release/ringraft.
    let beside = test.ancestors().skip(1).take(2).map(|directory| directory.join("ringraft"));
    beside.into_iter().find(|binary| binary.is_file()).expect("no ringraft program: run `cargo build --release` first")
}
