//! What can be written on the command line. Flags of `serve` are texts here: `config` judges them, as it judges the file
//! and the environment, so that one value has one error wherever it came from.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand, ValueEnum};

use super::bench::args::BenchArgs;
use super::check::DiskArgs;
use super::exit::Failure;
use crate::ring::Token;
use crate::types::{Epoch, NodeId, OperationId, ShardId};

mod files;

pub(super) use files::{ExportArgs, ImportArgs};

/// Longest `--timeout`, as the API has it.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Most nodes of a `dev` cluster. Below 100, so that HTTP and peer ports never meet.
pub(super) const DEV_NODES_MAX: i64 = 32;

/// Where help lists the flags of all client commands.
const CLIENT_HEADING: &str = "Options of the client commands";

#[derive(Debug, Parser)]
#[command(
    name = "ringraft",
    version,
    about = "A strongly consistent, sharded key-value store",
    after_help = "Exit codes: 0 ok, 1 other, 2 usage, 3 not found, 4 precondition, 5 unavailable, 6 outcome unknown."
)]
#[cfg_attr(feature = "mutants", command(version = concat!(env!("CARGO_PKG_VERSION"), " WITH PLANTED BUGS")))]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) client: ClientArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// How the client commands reach the cluster and what they print. Optional all, so that giving one to a command that is
/// no client can be refused.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ClientArgs {
    /// Output: a table for people, or the server's JSON. [default: table]
    #[arg(short = 'o', long = "output", global = true, help_heading = CLIENT_HEADING, value_name = "FORMAT")]
    output: Option<Output>,
    /// Nodes to ask, in this order, separated by commas. [default: RINGRAFT_ENDPOINTS, else http://127.0.0.1:7401]
    #[arg(long, global = true, help_heading = CLIENT_HEADING, value_name = "URL,…", value_parser = NonEmptyStringValueParser::new())]
    pub(super) endpoints: Option<String>,
    /// Longest wait for an answer: 1ms to 60s. [default: 5s]
    #[arg(long, global = true, help_heading = CLIENT_HEADING, value_name = "TIME", value_parser = timeout)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Table,
    Json,
}

impl ClientArgs {
    pub(super) fn output(&self) -> Output {
        self.output.unwrap_or(Output::Table)
    }

    /// A flag that would do nothing must not be taken in silence.
    pub(super) fn refuse_for(&self, command: &str) -> Result<(), Failure> {
        if self.output.is_some() {
            return Err(Failure::Usage(format!("--output has no meaning for `ringraft {command}`")));
        }
        self.refuse_cluster_for(command)
    }

    /// The same for a command that prints and asks no cluster.
    pub(super) fn refuse_cluster_for(&self, command: &str) -> Result<(), Failure> {
        let given = [("--endpoints", self.endpoints.is_some()), ("--timeout", self.timeout.is_some())];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Failure::Usage(format!("{flag} has no meaning for `ringraft {command}`"))),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node until SIGTERM or Ctrl-C.
    Serve(Box<ServeArgs>),
    /// Run a local cluster of node processes, with its data on disk, until Ctrl-C.
    Dev(DevArgs),
    /// Write a value under a key.
    Put(PutArgs),
    /// Read a key: its raw value to standard output, or with `-o json` its metadata and value.
    Get(GetArgs),
    /// Delete a key; one that is not there is no error.
    Del(DelArgs),
    /// List keys and values in byte order of the keys.
    Scan(ScanArgs),
    /// Store every file below a directory under its path, or the lines of an NDJSON file.
    Import(ImportArgs),
    /// Write every key with a prefix to a file of its own, or to lines of NDJSON.
    Export(ExportArgs),
    /// The whole cluster on one screen: nodes, shards in trouble, operations that run.
    Status {
        /// Again every second, until Ctrl-C.
        #[arg(long, conflicts_with = "local")]
        watch: bool,
        /// What the asked node knows of itself, without asking any other.
        #[arg(long)]
        local: bool,
    },
    /// Where a key lives: its token, shard, replicas and leader.
    Route {
        #[arg(value_parser = KeyParser)]
        key: Key,
    },
    /// Shards of the cluster.
    #[command(subcommand)]
    Shard(ShardCommand),
    /// Nodes of the cluster.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Changes of the cluster that were asked for: all that run or ended lately, or one.
    Operations { id: Option<OperationId> },
    /// Measure a cluster under load: throughput and latencies.
    Bench(Box<BenchArgs>),
    /// Check what a node will run on.
    #[command(subcommand)]
    Check(CheckCommand),
    /// The version of this program.
    Version,
}

#[derive(Debug, Subcommand)]
pub(super) enum CheckCommand {
    /// Whether a directory's disk is fast enough for the log: how long small synced appends take.
    Disk(DiskArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum ShardCommand {
    /// All shards.
    List,
    /// One shard with its replicas.
    Show { id: ShardId },
    /// Let a node lead a shard, and go on leading it.
    TransferLeader {
        id: ShardId,
        /// The node that is to lead.
        #[arg(long, value_name = "NODE")]
        to: NodeId,
        #[command(flatten)]
        begin: BeginArgs,
    },
    /// Make two shards out of one, on the same nodes.
    Split {
        id: ShardId,
        #[command(flatten)]
        at: SplitAt,
        #[command(flatten)]
        begin: BeginArgs,
    },
    /// Put a replica on another node, in place of one that the shard has.
    Move {
        id: ShardId,
        /// The node that is to lose its replica.
        #[arg(long, value_name = "NODE")]
        from: NodeId,
        /// The node that is to get one.
        #[arg(long, value_name = "NODE")]
        to: NodeId,
        #[command(flatten)]
        begin: BeginArgs,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct SplitAt {
    /// The first token of the new shard, as 16 hex digits; there must be keys on both sides of it.
    #[arg(long, value_name = "TOKEN")]
    pub(super) at_token: Option<Token>,
    /// At the median of the shard's keys.
    #[arg(long)]
    pub(super) auto: bool,
}

/// Of everything that changes the cluster.
#[derive(Debug, clap::Args)]
pub(super) struct BeginArgs {
    /// Waits until the operation has ended; one that failed is an error.
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) wait: bool,
    /// Checks what is asked for and changes nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Only while the shard or node is at this epoch, as `shard show` and `node list` tell it.
    #[arg(long, value_name = "EPOCH")]
    pub(super) if_epoch: Option<Epoch>,
    /// Makes repeating this very command safe: it is begun at most once.
    #[arg(long, value_name = "TEXT", value_parser = idempotency_key)]
    pub(super) idempotency_key: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// All nodes.
    List,
    /// Empty a node: its leaderships go, then its replicas. It stays in the cluster and gets none.
    Drain {
        id: NodeId,
        #[command(flatten)]
        begin: BeginArgs,
    },
    /// Let a node take replicas again.
    Undrain {
        id: NodeId,
        #[command(flatten)]
        begin: BeginArgs,
    },
    /// Empty a node, then take it out of the cluster for good.
    Decommission {
        id: NodeId,
        #[command(flatten)]
        begin: BeginArgs,
    },
}

/// A key as given: any bytes that the shell can pass on, within the limits of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) Vec<u8>);

#[derive(Debug, clap::Args)]
pub(super) struct PutArgs {
    #[arg(value_parser = KeyParser)]
    pub(super) key: Key,
    /// The value; `-` or none reads standard input.
    #[arg(allow_negative_numbers = true)]
    pub(super) value: Option<OsString>,
    /// Reads the value from a file.
    #[arg(long, conflicts_with = "value")]
    pub(super) file: Option<PathBuf>,
    /// Compare-and-set: writes only when this is the key's revision; `*` when it has any.
    #[arg(long, value_name = "REV", value_parser = precondition)]
    pub(super) if_match: Option<Precondition>,
    /// Create only: writes only when the key does not exist.
    #[arg(long, conflicts_with = "if_match")]
    pub(super) if_none_match: bool,
    /// Kept with the value and given back. [default: application/octet-stream]
    #[arg(long, value_name = "TYPE", value_parser = NonEmptyStringValueParser::new())]
    pub(super) content_type: Option<String>,
    /// Makes repeating this very write safe for ten minutes: it is done at most once.
    #[arg(long, value_name = "TEXT", value_parser = idempotency_key)]
    pub(super) idempotency_key: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    #[arg(value_parser = KeyParser)]
    pub(super) key: Key,
    #[arg(long)]
    pub(super) consistency: Option<Consistency>,
}

#[derive(Debug, clap::Args)]
pub(super) struct DelArgs {
    #[arg(value_parser = KeyParser)]
    pub(super) key: Key,
    /// Compare-and-delete: deletes only when this is the key's revision; `*` when it has any.
    #[arg(long, value_name = "REV", value_parser = precondition)]
    pub(super) if_match: Option<Precondition>,
    /// Makes repeating this very delete safe for ten minutes: it is done at most once.
    #[arg(long, value_name = "TEXT", value_parser = idempotency_key)]
    pub(super) idempotency_key: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ScanArgs {
    /// Only keys that begin so.
    #[arg(long, value_name = "P", conflicts_with_all = ["start", "end"])]
    pub(super) prefix: Option<OsString>,
    /// From this key on.
    #[arg(long, value_name = "A")]
    pub(super) start: Option<OsString>,
    /// Before this key.
    #[arg(long, value_name = "B")]
    pub(super) end: Option<OsString>,
    /// Stops after so many keys. [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
    /// Leaves the values out.
    #[arg(long)]
    pub(super) keys_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Consistency {
    /// The newest committed value.
    Linearizable,
    /// The same by the leader's lease, without a round trip.
    Lease,
    /// Whatever the nearest replica has; its age goes to standard error.
    Stale,
}

impl Consistency {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Lease => "lease",
            Self::Stale => "stale",
        }
    }
}

/// What `If-Match` takes: any revision, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Precondition {
    Exists,
    Revision(crate::types::Revision),
}

#[derive(Debug, Default, clap::Args)]
pub(super) struct ServeArgs {
    /// TOML file; over it the environment (RINGRAFT_…), over that these flags.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Create the cluster, once.
    #[arg(long)]
    pub(super) bootstrap: bool,
    /// Replicas of each shard, with --bootstrap: 1, 3 or 5.
    #[arg(long, value_name = "N")]
    pub(super) rf: Option<String>,
    /// Shards the cluster begins with, with --bootstrap.
    #[arg(long, value_name = "N")]
    pub(super) shards: Option<String>,
    /// Peer addresses of other nodes of the cluster.
    #[arg(long, value_name = "PEER,…")]
    pub(super) join: Option<String>,
    /// Directory of the node's identity, log and replicas.
    #[arg(long, value_name = "DIR")]
    pub(super) data: Option<String>,
    /// Address to listen on for clients.
    #[arg(long, value_name = "IP:PORT")]
    pub(super) http_listen: Option<String>,
    /// Address told to clients.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) http_advertise: Option<String>,
    /// Address to listen on for other nodes.
    #[arg(long, value_name = "IP:PORT")]
    pub(super) peer_listen: Option<String>,
    /// Address told to other nodes.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) peer_advertise: Option<String>,
    /// Accept plain, unauthenticated TCP beyond loopback.
    #[arg(long)]
    pub(super) insecure: bool,
    /// Share of the replicas, relative to the other nodes' weights.
    #[arg(long, value_name = "N")]
    pub(super) weight: Option<String>,
    /// Failure domain above the host: a rack, a data centre.
    #[arg(long, value_name = "LABEL")]
    pub(super) zone: Option<String>,
    /// Failure domain: a machine.
    #[arg(long, value_name = "LABEL")]
    pub(super) host_label: Option<String>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    pub(super) log_format: Option<String>,
    /// `tracing` directives, such as info,ringraft::raft=debug.
    #[arg(long, value_name = "DIRECTIVES")]
    pub(super) log_filter: Option<String>,
    /// Stop when standard input, a pipe, ends: `dev` starts its nodes so, to take them along however it ends.
    #[arg(long, hide = true)]
    pub(super) supervised: bool,
}

impl ServeArgs {
    /// The flags that were given, as dotted paths of configuration keys.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let on = |given: bool| given.then(|| "true".to_string());
        let flags = [
            ("cluster.bootstrap", on(self.bootstrap)),
            ("cluster.replication_factor", self.rf.clone()),
            ("cluster.shards", self.shards.clone()),
            ("cluster.join", self.join.clone()),
            ("data_dir", self.data.clone()),
            ("http.listen", self.http_listen.clone()),
            ("http.advertise", self.http_advertise.clone()),
            ("peer.listen", self.peer_listen.clone()),
            ("peer.advertise", self.peer_advertise.clone()),
            ("insecure", on(self.insecure)),
            ("node.weight", self.weight.clone()),
            ("node.zone", self.zone.clone()),
            ("node.host", self.host_label.clone()),
            ("log.format", self.log_format.clone()),
            ("log.filter", self.log_filter.clone()),
        ];
        flags.into_iter().filter_map(|(path, value)| Some((path.to_string(), value?))).collect()
    }
}

/// Options left out are taken from the directory, where it holds a cluster, else from the defaults.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct DevArgs {
    /// Nodes n1…nN. [default: what DIR holds, else 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=DEV_NODES_MAX))]
    pub(super) nodes: Option<u32>,
    /// Replicas of each shard: 1, 3 or 5. [default: what DIR holds, else 3, or 1 with fewer than 3 nodes]
    #[arg(long, value_name = "N")]
    pub(super) rf: Option<u8>,
    /// Data shards. [default: what DIR holds, else 12]
    #[arg(long, value_name = "N")]
    pub(super) shards: Option<u32>,
    /// Node nK serves HTTP on PORT+K and its peers on PORT+100+K. [default: as DIR has it, else 7400]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(super) port: Option<u16>,
    /// Directory of the cluster. A later run with the same one finds its data.
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub(super) data: PathBuf,
    /// When a node that died is started again: never (the command that does it is printed), or after a time as 5s.
    #[arg(long, value_name = "never|TIME", default_value = "never", value_parser = restart_after)]
    pub(super) restart_after: RestartAfter,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RestartAfter {
    #[default]
    Never,
    After(Duration),
}

fn restart_after(text: &str) -> Result<RestartAfter, String> {
    if text == "never" { Ok(RestartAfter::Never) } else { duration(text).map(RestartAfter::After) }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    if timeout.is_zero() || timeout > TIMEOUT_MAX {
        return Err("expected a time from 1ms to 60s".to_string());
    }
    Ok(timeout)
}

/// `500ms`, `5s` or `2m`, as the API writes times.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "expected a time such as 500ms, 5s or 2m".to_string();
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let ms_per_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(bad()),
    };
    number.checked_mul(ms_per_unit).map(Duration::from_millis).ok_or_else(bad)
}

/// A revision as `ringraft` prints it, with or without the quotes of an ETag.
fn precondition(text: &str) -> Result<Precondition, String> {
    if text == "*" {
        return Ok(Precondition::Exists);
    }
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    bare.parse()
        .map(Precondition::Revision)
        .map_err(|_| "expected a revision of 16 hex digits, as get and put print it, or *".to_string())
}

/// The draft's quoted string: printable ASCII.
fn idempotency_key(text: &str) -> Result<String, String> {
    if text.is_empty() || !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err("expected printable ASCII characters".to_string());
    }
    Ok(text.to_string())
}

#[derive(Clone)]
struct KeyParser;

impl clap::builder::TypedValueParser for KeyParser {
    type Value = Key;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Key, clap::Error> {
        use std::os::unix::ffi::OsStrExt;
        let bytes = value.as_bytes();
        if bytes.is_empty() || bytes.len() > crate::types::KEY_BYTES_MAX {
            let message =
                format!("a key has 1 to {} bytes, this one has {}\n", crate::types::KEY_BYTES_MAX, bytes.len());
            return Err(clap::Error::raw(clap::error::ErrorKind::ValueValidation, message).with_cmd(command));
        }
        Ok(Key(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests;
