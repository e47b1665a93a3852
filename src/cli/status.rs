//! `status`: the whole cluster on one screen, as the asked node hears of it. With `--watch` again and again.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::Output;
use super::client::{Client, Request};
use super::exit::Failure;
use super::output::{self, Printer};

/// Between two looks of `--watch`.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shards that are told of one by one; of more the number is said.
const SHARDS_SHOWN_MAX: usize = 20;
/// Moves the cursor home and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

const NODE_COLUMNS: &[&str] =
    &["id", "state", "answers", "http", "zone", "weight", "replicas", "groups_led", "disk_bytes", "silent_because"];
const SHARD_COLUMNS: &[&str] = &["id", "state", "leader", "replicas", "trouble"];
const OPERATION_COLUMNS: &[&str] = &["id", "kind", "shard", "node", "from", "to", "state", "step", "cause"];

/// What one look has found.
struct Look {
    cluster: Value,
    nodes: Vec<Value>,
    shards: Vec<Value>,
    /// Those that run.
    operations: Vec<Value>,
}

pub(super) async fn run(client: &Client, watch: bool, printer: &mut Printer) -> Result<(), Failure> {
    if !watch {
        return show(client, printer).await;
    }
    let clears = io::stdout().is_terminal() && printer.format() == Output::Table;
    loop {
        if clears {
            printer.emit(CLEAR.as_bytes())?;
        }
        match show(client, printer).await {
            // What is watched may be away for a while.
            Err(failure @ (Failure::OutputClosed | Failure::Usage(_) | Failure::Io { .. })) => return Err(failure),
            Err(failure) => eprintln!("{failure}"),
            Ok(()) if !clears => printer.line("")?,
            Ok(()) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn show(client: &Client, printer: &mut Printer) -> Result<(), Failure> {
    let look = look(client).await?;
    match printer.format() {
        Output::Json => printer.line(&look.json().to_string()),
        Output::Table => printer.emit(look.screen().as_bytes()),
    }
}

async fn look(client: &Client) -> Result<Look, Failure> {
    let get = async |path: &str| client.send(&Request::get(path)).await?.json();
    let cluster = get("/v1/admin/cluster").await?;
    let list = |answer: &Value, name| output::list(answer, name).to_vec();
    let nodes = list(&get("/v1/admin/nodes").await?, "nodes");
    let shards = list(&get("/v1/admin/shards").await?, "shards");
    let mut operations = list(&get("/v1/admin/operations").await?, "operations");
    operations.retain(|operation| operation["ended_ms"].is_null());
    Ok(Look { cluster, nodes, shards, operations })
}

impl Look {
    fn json(&self) -> Value {
        let Self { cluster, nodes, shards, operations } = self;
        json!({ "cluster": cluster, "nodes": nodes, "shards": shards, "operations": operations })
    }

    fn screen(&self) -> String {
        let troubled = self.troubled();
        let led: usize = self.shards.iter().filter(|shard| shard["leader"].is_string()).count();
        let mut screen = format!(
            "cluster {}, replication factor {}, catalog version {}\n{} nodes, {} answer; {} shards, {led} with a leader, {} in trouble; {} operations run\n\n",
            output::cell(&self.cluster["cluster"]),
            output::cell(&self.cluster["replication_factor"]),
            output::cell(&self.cluster["catalog_version"]),
            self.nodes.len(),
            self.nodes.iter().filter(|node| node["answers"] == true).count(),
            self.shards.len(),
            troubled.len(),
            self.operations.len(),
        );
        screen += &output::records(&self.nodes, NODE_COLUMNS, true);
        if !troubled.is_empty() {
            let shown = &troubled[..troubled.len().min(SHARDS_SHOWN_MAX)];
            screen += &format!("\nshards in trouble:\n{}", output::records(shown, SHARD_COLUMNS, true));
            if shown.len() < troubled.len() {
                screen += &format!("and {} more\n", troubled.len() - shown.len());
            }
        }
        if !self.operations.is_empty() {
            screen += &format!("\noperations:\n{}", output::records(&self.operations, OPERATION_COLUMNS, true));
        }
        screen
    }

    /// Shards that are not as they should be, with what is wrong.
    fn troubled(&self) -> Vec<Value> {
        let factor = self.cluster["replication_factor"].as_u64().unwrap_or_default();
        let troubled = self.shards.iter().filter_map(|shard| {
            let troubles = troubles(shard, factor);
            let nodes =
                shard["replicas"].as_array().into_iter().flatten().map(|replica| output::cell(&replica["node"]));
            (!troubles.is_empty()).then(|| {
                json!({
                    "id": shard["id"],
                    "state": shard["state"],
                    "leader": shard["leader"],
                    "replicas": nodes.collect::<Vec<_>>().join(", "),
                    "trouble": troubles.join("; "),
                })
            })
        });
        troubled.collect()
    }
}

fn troubles(shard: &Value, replication_factor: u64) -> Vec<String> {
    let mut troubles = Vec::new();
    if !shard["leader"].is_string() {
        troubles.push("no leader".to_string());
    }
    let replicas = shard["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    let voters = replicas.iter().filter(|replica| replica["state"] == "voter").count() as u64;
    if voters < replication_factor {
        troubles.push(format!("{voters} of {replication_factor} voters"));
    }
    let mut roles: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for replica in replicas {
        if let Some(role @ ("silent" | "failed")) = replica["role"].as_str() {
            roles.entry(role).or_default().push(output::cell(&replica["node"]));
        }
    }
    troubles.extend(roles.into_iter().map(|(role, nodes)| format!("{role} on {}", nodes.join(", "))));
    troubles
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::{Canned, Captured, Server};
    use super::*;
    use crate::transport::dial::TcpNet;

    const CLUSTER: &str = r#"{"cluster": "c", "replication_factor": 3, "catalog_version": "9"}"#;
    const NODES: &str = r#"{"nodes": [{"id": "1", "state": "active", "answers": true, "replicas": 2},
        {"id": "2", "state": "dead", "answers": false, "replicas": 1, "silent_because": "no connection"}]}"#;
    const SHARDS: &str = r#"{"shards": [
        {"id": "0", "state": "live", "leader": "1", "replicas": [{"node": "1", "state": "voter", "role": "leader"},
            {"node": "3", "state": "voter", "role": "follower"}, {"node": "4", "state": "voter", "role": "follower"}]},
        {"id": "1", "state": "live", "leader": null, "replicas": [{"node": "1", "state": "voter", "role": "follower"},
            {"node": "2", "state": "voter", "role": "silent"}, {"node": "3", "state": "joining", "role": "learner"}]}]}"#;
    const OPERATIONS: &str = r#"{"operations": [{"id": "2", "kind": "drain", "node": "2", "state": "running", "ended_ms": null},
        {"id": "1", "kind": "move", "state": "done", "ended_ms": 5}]}"#;

    async fn shown(format: Output) -> String {
        let answers = [CLUSTER, NODES, SHARDS, OPERATIONS].map(|body| Canned::answer(200, &[], body));
        let server = Server::start(answers).await;
        let client = Client::new(Arc::new(TcpNet), vec![server.endpoint().clone()], None);
        let captured = Captured::default();
        run(&client, false, &mut Printer::new(format, Box::new(captured.clone()))).await.unwrap();
        captured.text()
    }

    #[tokio::test]
    async fn one_screen_says_what_is_wrong_and_what_runs() {
        let screen = shown(Output::Table).await;
        let lines: Vec<String> =
            screen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], "cluster c, replication factor 3, catalog version 9");
        assert_eq!(lines[1], "2 nodes, 1 answer; 2 shards, 1 with a leader, 1 in trouble; 1 operations run");
        assert!(lines.contains(&"2 dead false 1 no connection".to_string()), "{screen}");
        assert!(lines.contains(&"1 live - 1, 2, 3 no leader; 2 of 3 voters; silent on 2".to_string()), "{screen}");
        assert!(lines.contains(&"2 drain 2 running".to_string()), "{screen}");
        assert!(!screen.contains("move"), "what has ended is not shown: {screen}");
    }

    #[tokio::test]
    async fn json_has_all_of_it() {
        let all: Value = serde_json::from_str(&shown(Output::Json).await).unwrap();
        assert_eq!(all["cluster"]["cluster"], "c");
        assert_eq!(all["shards"].as_array().map(Vec::len), Some(2));
        assert_eq!(all["operations"].as_array().map(Vec::len), Some(1));
    }
}
