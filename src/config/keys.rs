//! Every key of the configuration with its kind and limits: the one place where a single value is judged, wherever it
//! came from. A test holds the table to the structs.

use std::net::SocketAddr;

use toml::Value;
use tracing_subscriber::EnvFilter;

use crate::types::VALUE_BYTES_MAX_CEILING;

/// Longest zone or host label, in bytes.
const LABEL_BYTES_MAX: usize = 64;

const KIB: i64 = 1 << 10;
const MIB: i64 = KIB << 10;
const GIB: i64 = MIB << 10;
const TIB: i64 = GIB << 10;

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Integer {
        min: i64,
        max: i64,
    },
    OneInteger(&'static [i64]),
    OneWord(&'static [&'static str]),
    /// A path that is not empty.
    Path,
    /// Empty, or letters, digits, `.`, `_` and `-`.
    Label,
    /// `ip:port` or `localhost:port`; port 0 is any free one.
    Listen,
    /// `host:port`, or empty.
    Advertise,
    /// A list of `host:port`.
    Addresses,
    /// `tracing` directives.
    Filter,
}

pub(super) struct Key {
    /// Section and field, `http.listen`; top-level keys have no section.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
}

const fn key(path: &'static str, kind: Kind) -> Key {
    Key { path, kind }
}

const fn integer(min: i64, max: i64) -> Kind {
    Kind::Integer { min, max }
}

const VALUE_BYTES_CEILING: i64 = VALUE_BYTES_MAX_CEILING as i64;

pub(super) const KEYS: &[Key] = &[
    key("data_dir", Kind::Path),
    key("insecure", Kind::Boolean),
    key("cluster.bootstrap", Kind::Boolean),
    key("cluster.join", Kind::Addresses),
    key("cluster.replication_factor", Kind::OneInteger(&[1, 3, 5])),
    key("cluster.shards", integer(1, 4096)),
    key("node.weight", integer(1, 10_000)),
    key("node.zone", Kind::Label),
    key("node.host", Kind::Label),
    key("http.listen", Kind::Listen),
    key("http.advertise", Kind::Advertise),
    key("http.value_bytes_max", integer(1, VALUE_BYTES_CEILING)),
    key("http.connections_max", integer(1, 1_000_000)),
    key("http.header_read_timeout_ms", integer(100, 600_000)),
    key("http.slow_request_ms", integer(0, 600_000)),
    key("peer.listen", Kind::Listen),
    key("peer.advertise", Kind::Advertise),
    key("raft.heartbeat_ms", integer(10, 10_000)),
    key("raft.election_min_ms", integer(50, 60_000)),
    key("raft.election_max_ms", integer(50, 60_000)),
    key("raft.quorum_loss_probe_ms", integer(100, 120_000)),
    key("storage.block_cache_bytes", integer(MIB, TIB)),
    key("storage.write_buffer_bytes", integer(MIB, 64 * GIB)),
    key("storage.log_tail_bytes", integer(MIB, 64 * GIB)),
    key("storage.flush_log_bytes", integer(MIB, TIB)),
    key("storage.background_threads", integer(1, 64)),
    key("storage.open_files_max", integer(64, 1_000_000)),
    key("storage.disk_reserve_bytes", integer(0, TIB)),
    key("limits.proposals_per_shard", integer(1, 65_536)),
    key("limits.proposals_per_node", integer(1, 1_048_576)),
    // Two of the longest values: one write must never be too much on its own.
    key("limits.proposal_bytes_per_node", integer(2 * VALUE_BYTES_CEILING, 64 * GIB)),
    key("placement.dead_after_s", integer(5, 604_800)),
    key("placement.snapshot_bytes_per_s", integer(MIB, TIB)),
    key("log.format", Kind::OneWord(&["text", "json"])),
    key("log.filter", Kind::Filter),
];

impl Key {
    pub(super) fn find(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// `RINGRAFT_HTTP_LISTEN` for `http.listen`.
    pub(super) fn variable(&self) -> String {
        format!("{}{}", super::load::VARIABLE_PREFIX, self.path.to_uppercase().replace('.', "_"))
    }
}

/// The names a section takes; the empty section is the top level, with the sections themselves.
pub(super) fn names_in(section: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in KEYS {
        let name = match key.path.split_once('.') {
            None if section.is_empty() => key.path,
            Some((first, _)) if section.is_empty() => first,
            Some((first, rest)) if first == section => rest,
            _ => continue,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.path.split_once('.').is_some_and(|(section, _)| section == name))
}

impl Kind {
    /// What is allowed, to be read after "expected".
    pub(super) fn expected(self) -> String {
        let joined = |words: Vec<String>| words.join(" or ");
        match self {
            Self::Boolean => "true or false".to_string(),
            Self::Integer { min, max } => format!("an integer from {min} to {max}"),
            Self::OneInteger(values) => joined(values.iter().map(ToString::to_string).collect()),
            Self::OneWord(words) => joined(words.iter().map(|word| format!("{word:?}")).collect()),
            Self::Path => "a path".to_string(),
            Self::Label => {
                format!("a label of at most {LABEL_BYTES_MAX} letters, digits, '.', '_' and '-', or nothing")
            }
            Self::Listen => "ip:port or localhost:port".to_string(),
            Self::Advertise => "host:port, or nothing for the address listened on".to_string(),
            Self::Addresses => "a list of host:port".to_string(),
            Self::Filter => "log directives such as \"info\" or \"info,ringraft::raft=debug\"".to_string(),
        }
    }

    /// A value from the environment or a flag, in the type of its key. `None` when it is not of that type at all.
    pub(super) fn read(self, text: &str) -> Option<Value> {
        match self {
            Self::Boolean => text.parse().ok().map(Value::Boolean),
            Self::Integer { .. } | Self::OneInteger(_) => {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse().ok().filter(|_| digits).map(Value::Integer)
            }
            Self::Addresses => {
                let parts = text.split(',').map(str::trim).filter(|_| !text.trim().is_empty());
                Some(Value::Array(parts.map(|part| Value::String(part.to_string())).collect()))
            }
            _ => Some(Value::String(text.to_string())),
        }
    }

    pub(super) fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Boolean, Value::Boolean(_)) => true,
            (Self::Integer { min, max }, Value::Integer(number)) => (min..=max).contains(number),
            (Self::OneInteger(values), Value::Integer(number)) => values.contains(number),
            (Self::OneWord(words), Value::String(text)) => words.contains(&text.as_str()),
            (Self::Path, Value::String(text)) => !text.is_empty() && !text.contains('\0'),
            (Self::Label, Value::String(text)) => {
                text.len() <= LABEL_BYTES_MAX
                    && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            }
            (Self::Listen, Value::String(text)) => listen_address(text).is_some(),
            (Self::Advertise, Value::String(text)) => text.is_empty() || is_host_and_port(text),
            (Self::Addresses, Value::Array(items)) => {
                items.iter().all(|item| item.as_str().is_some_and(is_host_and_port))
            }
            // An empty filter would be silence by accident.
            (Self::Filter, Value::String(text)) => !text.trim().is_empty() && EnvFilter::builder().parse(text).is_ok(),
            _ => false,
        }
    }
}

/// The address of a `listen` value. A name other than localhost could be any interface, so that it is not taken.
pub(super) fn listen_address(text: &str) -> Option<SocketAddr> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().ok()
}

/// An address that others can dial: a name or an IP address (IPv6 in brackets) with a port above 0. Nobody can dial
/// the unspecified address.
fn is_host_and_port(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0 && !address.ip().is_unspecified();
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        // Digits and dots alone are an IP address that did not parse.
        && host.bytes().any(|byte| byte.is_ascii_alphabetic());
    digits && name && port.parse::<u16>().is_ok_and(|port| port != 0)
}
