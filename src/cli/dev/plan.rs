//! What a `dev` cluster consists of: its nodes with their folders, ports and configurations, and whether that agrees with
//! what the directory holds from an earlier run.
//!
//! Invariants: nothing is written before the whole plan is known to be good; a configuration file that is there keeps
//! what `dev` does not decide; the number of nodes, replicas and shards of a directory never changes.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::super::args::DevArgs;
use super::{as_typed, shell_word};
use crate::config::{Config, ConfigError};

const NODES_DEFAULT: u32 = 3;
/// Each node keeps its own on the disk that they share.
const DISK_RESERVE_BYTES: u64 = 64 << 20;
const PORT_DEFAULT: u16 = 7400;
/// From a node's HTTP port to its peers' port.
const PEER_PORT_OFFSET: u16 = 100;
const CONFIG_FILE: &str = "node.toml";
const PID_FILE: &str = "ringraft.pid";
const DATA_FOLDER: &str = "data";

#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{} holds a cluster of {found} {what}, and {wanted} were asked for: use the same number, or another --data", folder.display())]
    Shape { folder: PathBuf, what: &'static str, found: u32, wanted: u32 },
    #[error("{} has {key} = {found}, where {wanted} belongs: put that right, or use another --data", path.display())]
    Changed { path: PathBuf, key: &'static str, found: String, wanted: String },
    #[error("{replicas} replicas of each shard need as many nodes, and there are {nodes}")]
    TooFewNodes { replicas: u8, nodes: u32 },
    #[error(
        "port {port} leaves no room for {nodes} nodes, which need ports up to {port} + {PEER_PORT_OFFSET} + {nodes}"
    )]
    Ports { port: u16, nodes: u32 },
}

/// One node: where it lives and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodePlan {
    /// `n1`, `n2`, …
    pub(super) name: String,
    /// As the user named the directory, for printing; relative ones are good in the working directory alone.
    pub(super) config_path: PathBuf,
    pub(super) pid_path: PathBuf,
    pub(super) http: String,
    pub(super) peer: String,
    config: Config,
    /// The file is there already and says the same.
    kept: bool,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) folder: PathBuf,
    pub(super) nodes: Vec<NodePlan>,
    replicas: u8,
    shards: u32,
}

/// What an earlier run left behind.
struct Found {
    nodes: u32,
    replicas: u8,
    shards: u32,
    port: Option<u16>,
}

impl Plan {
    pub(super) fn make(args: &DevArgs) -> Result<Self, PlanError> {
        let folder = args.data.clone();
        let found = find(&folder)?;
        let nodes = chosen(&folder, "nodes", args.nodes, found.as_ref().map(|found| found.nodes), NODES_DEFAULT)?;
        let replicas_default = if nodes < 3 { 1 } else { 3 };
        let found_replicas = found.as_ref().map(|found| u32::from(found.replicas));
        let replicas = chosen(&folder, "replicas", args.rf.map(u32::from), found_replicas, replicas_default)?;
        let replicas = u8::try_from(replicas).expect("replicas were an u8 or a small default");
        let shards_default = Config::default().cluster.shards;
        let shards = chosen(&folder, "shards", args.shards, found.as_ref().map(|found| found.shards), shards_default)?;
        // Ports alone may change: nodes find each other under new addresses by the seeds.
        let port = args.port.or(found.and_then(|found| found.port)).unwrap_or(PORT_DEFAULT);
        if u32::from(replicas) > nodes {
            return Err(PlanError::TooFewNodes { replicas, nodes });
        }
        if u32::from(port) + u32::from(PEER_PORT_OFFSET) + nodes > u32::from(u16::MAX) {
            return Err(PlanError::Ports { port, nodes });
        }
        let absolute = std::path::absolute(&folder).map_err(|source| io_error(&folder, source))?;
        let mut plan = Self { folder, nodes: Vec::new(), replicas, shards };
        for number in 1..=nodes {
            let node = plan.node(number, nodes, port, &absolute)?;
            plan.nodes.push(node);
        }
        Ok(plan)
    }

    fn node(&self, number: u32, nodes: u32, port: u16, absolute: &Path) -> Result<NodePlan, PlanError> {
        let name = format!("n{number}");
        let address = |number: u32, offset: u16| format!("127.0.0.1:{}", u32::from(port) + u32::from(offset) + number);
        let config_path = self.folder.join(&name).join(CONFIG_FILE);
        let existing = read_config(&config_path)?;
        let mut config = existing.clone().unwrap_or_default();
        let data = absolute.join(&name).join(DATA_FOLDER);
        if existing.is_some() {
            let changed = |key, found: String, wanted: String| {
                let path = config_path.clone();
                if found == wanted { Ok(()) } else { Err(PlanError::Changed { path, key, found, wanted }) }
            };
            let cluster = &config.cluster;
            // A directory that was moved or copied must not run on the data of the one it came from.
            if !same_place(&config.data_dir, &data) {
                changed("data_dir", config.data_dir.display().to_string(), data.display().to_string())?;
            }
            let replicas = (cluster.replication_factor.to_string(), self.replicas.to_string());
            changed("cluster.replication_factor", replicas.0, replicas.1)?;
            changed("cluster.shards", cluster.shards.to_string(), self.shards.to_string())?;
        }
        if existing.is_none() {
            config.data_dir = data;
            config.storage.disk_reserve_bytes = DISK_RESERVE_BYTES;
        }
        config.cluster.replication_factor = self.replicas;
        config.cluster.shards = self.shards;
        // The founder has seeds too: should it lose its disk later, it joins the others instead of founding a second
        // cluster beside them.
        config.cluster.bootstrap = number == 1;
        config.cluster.join =
            (1..=nodes).filter(|other| *other != number).map(|other| address(other, PEER_PORT_OFFSET)).collect();
        config.http.listen = address(number, 0);
        config.peer.listen = address(number, PEER_PORT_OFFSET);
        config.validate()?;
        Ok(NodePlan {
            kept: existing.as_ref() == Some(&config),
            pid_path: self.folder.join(&name).join(PID_FILE),
            http: config.http.listen.clone(),
            peer: config.peer.listen.clone(),
            config_path,
            config,
            name,
        })
    }

    /// Writes the configurations that are not there as they should be.
    pub(super) fn write(&self) -> Result<(), PlanError> {
        for node in self.nodes.iter().filter(|node| !node.kept) {
            let folder = self.folder.join(&node.name);
            fs::create_dir_all(&folder).map_err(|source| io_error(&folder, source))?;
            // Under another name first, so that there is never half a file.
            let unfinished = node.config_path.with_extension("toml.new");
            let written = fs::write(&unfinished, node_toml(&node.name, &node.config))
                .and_then(|()| fs::rename(&unfinished, &node.config_path));
            written.map_err(|source| io_error(&node.config_path, source))?;
        }
        Ok(())
    }

    pub(super) fn summary(&self) -> String {
        format!(
            "starting {} nodes, {} shards, replicas of each: {}; data in {}",
            self.nodes.len(),
            self.shards,
            self.replicas,
            self.folder.display()
        )
    }

    /// The addresses and three lines to try.
    pub(super) fn welcome(&self) -> String {
        let http = |number: usize| format!("http://{}", self.nodes[number % self.nodes.len()].http);
        let mut text = "\nRingraft is ready. Any node answers any request:\n\n".to_string();
        for node in &self.nodes {
            text += &format!("  {:<4} http://{}\n", node.name, node.http);
        }
        text += &format!(
            "\nTry: a put, a get at another node, and a compare-and-set that loses (412)\n\n  \
             curl -i -X PUT --data-binary 'hello' {}/v1/kv/greeting\n  \
             curl -i {}/v1/kv/greeting\n  \
             curl -i -X PUT -H 'If-Match: \"0000000000000000\"' --data-binary 'lost' {}/v1/kv/greeting\n\n\
             Kill a node and read again: kill -9 $(cat {})\nCtrl-C stops all nodes and keeps the data.\n\n",
            http(0),
            http(1),
            http(2),
            shell_word(&self.nodes[self.nodes.len() - 1].pid_path.display().to_string()),
        );
        text
    }
}

impl NodePlan {
    /// The command that starts this node by hand.
    pub(super) fn command(&self, program: &Path) -> String {
        let program = as_typed(program).display().to_string();
        format!("{} serve --config {}", shell_word(&program), shell_word(&self.config_path.display().to_string()))
    }
}

/// Whether two paths are one, also through symbolic links.
fn same_place(left: &Path, right: &Path) -> bool {
    left == right || fs::canonicalize(left).is_ok_and(|left| fs::canonicalize(right).is_ok_and(|right| left == right))
}

fn io_error(path: &Path, source: std::io::Error) -> PlanError {
    PlanError::Io { path: path.to_path_buf(), source }
}

/// What was asked for, else what is there, else the default; what was asked for must not contradict what is there.
fn chosen(
    folder: &Path,
    what: &'static str,
    asked: Option<u32>,
    found: Option<u32>,
    default: u32,
) -> Result<u32, PlanError> {
    match (asked, found) {
        (Some(wanted), Some(found)) if wanted != found => {
            Err(PlanError::Shape { folder: folder.to_path_buf(), what, found, wanted })
        }
        _ => Ok(asked.or(found).unwrap_or(default)),
    }
}

/// Looks for the nodes of an earlier run. The highest number counts them, so that a node whose folder was removed comes
/// back, empty, and joins again.
fn find(folder: &Path) -> Result<Option<Found>, PlanError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(folder, source)),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| io_error(folder, source))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix('n')?.parse::<u32>().ok());
        if let Some(number) = number.filter(|number| *number > 0 && name.to_str() == Some(&format!("n{number}"))) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    for number in &numbers {
        let Some(config) = read_config(&folder.join(format!("n{number}")).join(CONFIG_FILE))? else { continue };
        let listen = config.http.listen.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let port = listen.zip(u16::try_from(*number).ok()).and_then(|(port, number)| port.checked_sub(number));
        return Ok(Some(Found {
            nodes: *numbers.last().expect("there is at least this one"),
            replicas: config.cluster.replication_factor,
            shards: config.cluster.shards,
            port,
        }));
    }
    Ok(None)
}

fn read_config(path: &Path) -> Result<Option<Config>, PlanError> {
    match fs::exists(path) {
        Ok(true) => Ok(Some(Config::load(Some(path), std::iter::empty(), &[])?)),
        Ok(false) => Ok(None),
        Err(source) => Err(io_error(path, source)),
    }
}

/// The file of one node: what `dev` decides, and what differs from the defaults.
fn node_toml(name: &str, config: &Config) -> String {
    const DECIDED: [&str; 7] = [
        "data_dir",
        "cluster.bootstrap",
        "cluster.join",
        "cluster.replication_factor",
        "cluster.shards",
        "http.listen",
        "peer.listen",
    ];
    let table = |config: &Config| Table::try_from(config).expect("plain structs of strings and numbers are TOML");
    let defaults = table(&Config::default());
    let mut written = Table::new();
    for (name, value) in table(config) {
        match value {
            Value::Table(section) => {
                let default = |field: &str| defaults.get(&name).and_then(|section| section.get(field));
                let decided = |field: &str| DECIDED.contains(&format!("{name}.{field}").as_str());
                let section: Table = section
                    .into_iter()
                    .filter(|(field, value)| decided(field) || default(field) != Some(value))
                    .collect();
                if !section.is_empty() {
                    written.insert(name, Value::Table(section));
                }
            }
            value if DECIDED.contains(&name.as_str()) || defaults.get(&name) != Some(&value) => {
                written.insert(name, value);
            }
            _ => {}
        }
    }
    format!(
        "# Node {name} of a local cluster, written by `ringraft dev` and kept by later runs.\n\
         # What is not here has its default; deploy/node.toml lists it all.\n\n{}",
        toml::to_string(&written).expect("a table of strings, numbers and lists is TOML")
    )
}

#[cfg(test)]
mod tests;
