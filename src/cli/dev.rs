//! `dev`: a local cluster of real node processes of this very program, in the foreground.
//!
//! [`plan`] says what stands in the directory and on which ports, [`keeper`] runs one node's process, [`processes`] finds
//! nodes that somebody started by hand, [`console`] puts all their lines into one stream.
//!
//! How the processes hang together: each node is `serve --config DIR/nK/node.toml --supervised`, in a process group of
//! its own, so that Ctrl-C reaches `dev` alone and `dev` decides. `--supervised` makes the node stop in order when its
//! standard input, a pipe held by `dev`, ends. So nodes end with `dev` even when that is killed with SIGKILL; only nodes
//! that were started by hand live on, and the next `dev` names their pids.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::args::DevArgs;
use super::client::{Client, Endpoint, Request};
use super::exit::Failure;
use crate::transport::dial::{Net, TcpNet};

mod console;
mod keeper;
mod plan;
mod processes;
#[cfg(test)]
mod tests;

use console::Console;
use keeper::{Keeper, Stopping};
use plan::{NodePlan, Plan};

/// Pause between two looks whether all nodes are ready.
const READY_POLL: Duration = Duration::from_millis(200);
/// Longest wait for one node to say whether it is ready.
const READY_ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How often it is said what is still missing.
const STILL_WAITING_EVERY: Duration = Duration::from_secs(10);
/// Messages of keepers that are not read yet. Each keeper sends at most one.
const GAVE_UP_QUEUE: usize = 64;

pub(super) fn run(args: &DevArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Io { what: "cannot start the runtime".to_string(), source })?;
    runtime.block_on(cluster(args))
}

async fn cluster(args: &DevArgs) -> Result<(), Failure> {
    let program = std::env::current_exe()
        .map_err(|source| Failure::Io { what: "cannot find this program's own file".to_string(), source })?;
    let plan = Plan::make(args).map_err(|error| Failure::Run(error.to_string()))?;
    refuse_held_directories(&plan)?;
    refuse_taken_ports(&plan, &TcpNet).await?;
    plan.write().map_err(|error| Failure::Run(error.to_string()))?;

    let stopping = Stopping::default();
    spawn_signals(stopping.clone())?;
    let console = Arc::new(Console::standard());
    console.notice(&plan.summary());
    let (gave_up, mut given_up) = mpsc::channel(GAVE_UP_QUEUE);
    let keepers: Vec<_> = plan
        .nodes
        .iter()
        .map(|node| Keeper {
            node: node.clone(),
            program: program.clone(),
            restart_after: args.restart_after,
            console: console.clone(),
            stopping: stopping.clone(),
            gave_up: gave_up.clone(),
            net: Arc::new(TcpNet),
        })
        .map(|keeper| tokio::spawn(keeper.run()))
        .collect();
    drop(gave_up);

    // Until all are ready, a node that ends by itself cannot be what anybody wanted: the start has failed.
    let failed = tokio::select! {
        () = all_ready(&plan, &console) => None,
        name = given_up.recv() => name,
        () = stopping.in_order.cancelled() => None,
    };
    match &failed {
        Some(name) => {
            console.notice(&format!("{name} ended by itself before the cluster was ready: stopping the others"))
        }
        None if stopping.in_order.is_cancelled() => {}
        None => {
            console.plain(&plan.welcome());
            // From here on nodes may come and go.
            tokio::spawn(async move { while given_up.recv().await.is_some() {} });
            stopping.in_order.cancelled().await;
        }
    }
    stopping.in_order.cancel();
    join_all(keepers).await;
    match failed {
        Some(name) => Err(Failure::Run(format!("{name} did not start: its log above says why"))),
        None => {
            console.notice("all nodes have stopped");
            Ok(())
        }
    }
}

/// Ctrl-C, SIGTERM or a closed terminal stops the nodes in order, a second one kills them.
fn spawn_signals(stopping: Stopping) -> Result<(), Failure> {
    let no_signals = |source| Failure::Io { what: "cannot listen for signals".to_string(), source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    tokio::spawn(async move {
        for stop in [&stopping.in_order, &stopping.at_once] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            CancellationToken::cancel(stop);
        }
    });
    Ok(())
}

/// A node that runs already, left over or started by hand, would make every second one fail on its lock.
fn refuse_held_directories(plan: &Plan) -> Result<(), Failure> {
    let held: Vec<(String, u32)> = plan
        .nodes
        .iter()
        .flat_map(|node| processes::serving(&node.config_path).into_iter().map(|pid| (node.name.clone(), pid)))
        .collect();
    if held.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = held.iter().map(|(name, pid)| format!("{name} (pid {pid})")).collect();
    let pids: Vec<String> = held.iter().map(|(_, pid)| pid.to_string()).collect();
    Err(Failure::Run(format!(
        "nodes of {} are running already: {}. Stop them with: kill {}",
        plan.folder.display(),
        named.join(", "),
        pids.join(" ")
    )))
}

async fn refuse_taken_ports(plan: &Plan, net: &dyn Net) -> Result<(), Failure> {
    let mut taken = Vec::new();
    for node in &plan.nodes {
        for (purpose, address) in [("HTTP", &node.http), ("peers", &node.peer)] {
            if let Err(error) = net.listen(address).await {
                taken.push(format!("{address} ({purpose} of {}): {error}", node.name));
            }
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    Err(Failure::Run(format!(
        "cannot listen on {}. Another cluster may be running; --port moves this one (with another --data)",
        taken.join(", ")
    )))
}

async fn all_ready(plan: &Plan, console: &Console) {
    let clients: Vec<_> = plan.nodes.iter().map(|node| (node, client_of(node))).collect();
    let mut since_said = crate::clock::now();
    loop {
        let missing = join_all(clients.iter().map(|(node, client)| not_ready(node, client))).await;
        let missing: Vec<String> = missing.into_iter().flatten().collect();
        if missing.is_empty() {
            return;
        }
        if crate::clock::now().since(since_said) >= STILL_WAITING_EVERY {
            console.notice(&format!("still waiting for {}", missing.join("; ")));
            since_said = crate::clock::now();
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

fn client_of(node: &NodePlan) -> Client {
    let endpoint = Endpoint::parse(&node.http).expect("a plan's addresses are host:port");
    Client::new(Arc::new(TcpNet), vec![endpoint], Some(READY_ANSWER_WAIT))
}

/// Why a node is not ready, if it is not.
async fn not_ready(node: &NodePlan, client: &Client) -> Option<String> {
    match client.ask_first(&Request::get("/readyz")).await {
        Ok(answer) if answer.status.is_success() => None,
        Ok(answer) => {
            let text = String::from_utf8_lossy(&answer.body);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let reason = json["detail"].as_str().or(text.lines().next()).unwrap_or_default();
            Some(format!("{} ({} {})", node.name, answer.status.as_u16(), super::output::printable(reason)))
        }
        Err(reason) => Some(format!("{} ({reason})", node.name)),
    }
}

/// A word of a command line as a shell reads it back.
fn shell_word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_string();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A path as a person in the working directory would write it.
fn as_typed(path: &std::path::Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(&here) {
        Ok(below) if !here.as_os_str().is_empty() && below.components().count() > 1 => below.to_path_buf(),
        Ok(below) if !here.as_os_str().is_empty() => std::path::Path::new(".").join(below),
        _ => path.to_path_buf(),
    }
}
