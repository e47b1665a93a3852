//! What a node is told at its start: plain structs with their defaults, one sub-struct for each component, which gets
//! that and never the whole.
//!
//! Values come from a TOML file, over that from `RINGRAFT_…` environment variables, over that from flags ([`load`]).
//! The limits of each single value stand in one table ([`keys`]), the rules between values in [`rules`]; `deploy/node.toml`
//! is the commented reference, and a test holds it to this file. `cli` loads, `node` hands the parts out.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::types::VALUE_BYTES_MAX_DEFAULT;

mod keys;
mod load;
mod rules;
#[cfg(test)]
mod tests;

pub use load::{ConfigError, Origin, environment};

/// Everything a node is told. Values loaded by [`Config::load`] are within their limits and keep the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the node's identity, log and replicas. Relative to the working directory.
    pub data_dir: PathBuf,
    /// Accepts that both listeners speak plain, unauthenticated TCP beyond loopback.
    pub insecure: bool,
    pub cluster: ClusterConfig,
    pub node: NodeConfig,
    pub http: HttpConfig,
    pub peer: PeerConfig,
    pub raft: RaftConfig,
    pub storage: StorageConfig,
    pub limits: LimitsConfig,
    pub placement: PlacementConfig,
    pub log: LogConfig,
}

/// How the node comes into a cluster. Read only while its data directory has no cluster yet, but for `join`, whose
/// addresses are always dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Creates the cluster, once, when none of `join` has one.
    pub bootstrap: bool,
    /// Peer addresses (`host:port`) of other nodes of the cluster.
    pub join: Vec<String>,
    /// Replicas of each shard: 1, 3 or 5. Fixed by the bootstrap.
    pub replication_factor: u8,
    /// Data shards the cluster begins with: 1 to 4096. Fixed by the bootstrap.
    pub shards: u32,
}

/// What the placement knows about this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Share of the replicas, relative to the other nodes' weights: 1 to 10,000.
    pub weight: u32,
    /// Failure domain above `host` (a rack, a data centre): a label of up to 64 bytes, or empty.
    pub zone: String,
    /// Failure domain below `zone` (a machine): a label of up to 64 bytes, or empty.
    pub host: String,
}

/// The clients' listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// `ip:port` (or `localhost:port`) to listen on; port 0 takes any free one.
    pub listen: String,
    /// `host:port` told to clients and other nodes. `None` is the address listened on. Empty in TOML.
    #[serde(with = "empty_is_none")]
    pub advertise: Option<String>,
    /// Longest value, in bytes: 1 to 8 MiB.
    pub value_bytes_max: usize,
    /// Client connections open at once: 1 to 1,000,000.
    pub connections_max: u32,
    /// Longest wait for a request's headers, in milliseconds: 100 to 600,000.
    pub header_read_timeout_ms: u64,
    /// A request on keys that takes so many milliseconds is logged, with where its time went: 1 to 600,000, 0 for none.
    pub slow_request_ms: u64,
}

/// The other nodes' listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// `ip:port` (or `localhost:port`) to listen on; port 0 takes any free one.
    pub listen: String,
    /// `host:port` told to other nodes. `None` is the address listened on. Empty in TOML.
    #[serde(with = "empty_is_none")]
    pub advertise: Option<String>,
}

/// Raft's timing. The same on every node of a cluster: the handshake refuses a peer with another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftConfig {
    /// Time between heartbeats of an idle leader, in milliseconds: 10 to 10,000.
    pub heartbeat_ms: u64,
    /// Shortest silence before a follower campaigns, in milliseconds: 50 to 60,000.
    pub election_min_ms: u64,
    /// Longest such silence, in milliseconds, and the length of a leader's lease: 50 to 60,000.
    pub election_max_ms: u64,
    /// Time without a quorum after which a leader steps down, in milliseconds: 100 to 120,000.
    pub quorum_loss_probe_ms: u64,
}

/// Memory and files of the stores, shared by all replicas of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Memory for hot data read from disk, in bytes: 1 MiB to 1 TiB.
    pub block_cache_bytes: usize,
    /// Memory for rows not yet flushed, in bytes: 1 MiB to 64 GiB.
    pub write_buffer_bytes: usize,
    /// Memory for the newest log entries of all groups, in bytes: 1 MiB to 64 GiB.
    pub log_tail_bytes: usize,
    /// Log kept on disk before replicas are flushed to let it go, in bytes: 1 MiB to 1 TiB.
    pub flush_log_bytes: u64,
    /// Threads for flushes and compactions: 1 to 64.
    pub background_threads: u32,
    /// Files all stores keep open at once: 64 to 1,000,000.
    pub open_files_max: u32,
    /// Kept back on the file system of the data, in bytes: up to 1 TiB, 0 for nothing. With less than twice as much free
    /// beside it, the shards that the node votes in take no more values.
    pub disk_reserve_bytes: u64,
}

/// Writes in flight. Over a limit a write is refused as `overloaded`, before it is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Proposals in flight for one shard: 1 to 65,536.
    pub proposals_per_shard: u32,
    /// Proposals in flight for all shards of the node: 1 to 1,048,576.
    pub proposals_per_node: u32,
    /// Bytes of those proposals: 16 MiB (two of the longest values) to 64 GiB.
    pub proposal_bytes_per_node: usize,
}

/// How replicas are moved and replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementConfig {
    /// A node that most voters of the meta group have not heard of for so many seconds is dead, and its replicas are
    /// replaced: 5 to 604,800. The setting of the node that leads the meta group counts.
    pub dead_after_s: u64,
    /// Bytes a second that this node sends to fill replicas elsewhere: 1 MiB to 1 TiB.
    pub snapshot_bytes_per_s: u64,
}

/// What is logged, to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub format: LogFormat,
    /// `tracing` directives: `info`, or `info,ringraft::raft=debug`.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line, for collectors.
    Json,
}

const MIB: usize = 1 << 20;

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            insecure: false,
            cluster: ClusterConfig::default(),
            node: NodeConfig::default(),
            http: HttpConfig::default(),
            peer: PeerConfig::default(),
            raft: RaftConfig::default(),
            storage: StorageConfig::default(),
            limits: LimitsConfig::default(),
            placement: PlacementConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { bootstrap: false, join: Vec::new(), replication_factor: 3, shards: 12 }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { weight: 100, zone: String::new(), host: String::new() }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7401".to_string(),
            advertise: None,
            value_bytes_max: VALUE_BYTES_MAX_DEFAULT,
            connections_max: 10_000,
            header_read_timeout_ms: 10_000,
            slow_request_ms: 500,
        }
    }
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7501".to_string(), advertise: None }
    }
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 600, quorum_loss_probe_ms: 1200 }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            block_cache_bytes: 256 * MIB,
            write_buffer_bytes: 128 * MIB,
            log_tail_bytes: 64 * MIB,
            flush_log_bytes: 256 << 20,
            background_threads: 2,
            open_files_max: 4096,
            disk_reserve_bytes: 512 << 20,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { proposals_per_shard: 1024, proposals_per_node: 8192, proposal_bytes_per_node: 256 * MIB }
    }
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self { dead_after_s: 300, snapshot_bytes_per_s: 64 << 20 }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info,openraft=error".to_string() }
    }
}

impl Config {
    /// This configuration as a TOML file that loads to the same.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("plain structs of strings, numbers and lists are always TOML")
    }
}

/// TOML has no null: a key that is always there, as in the reference file, is empty instead.
mod empty_is_none {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.as_deref().unwrap_or(""))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(if text.is_empty() { None } else { Some(text) })
    }
}
