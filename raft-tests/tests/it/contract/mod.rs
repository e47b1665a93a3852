//! The contract of the HTTP API, held against real processes: what any client may send, byte for byte, and what it gets.

mod errors;
mod keys;
mod measured;
mod moves;
mod nodes;
mod operations;
mod routing;
mod splits;
mod writes;

use raft_tests::cluster::Cluster;
use raft_tests::http::{Http, Reply};

/// A raw path of a key: every byte escaped, so that nothing between can take offence.
fn path_of(key: &[u8]) -> String {
    let escaped: String = key.iter().map(|byte| format!("%{byte:02X}")).collect();
    format!("/v1/kv/{escaped}")
}

/// The headers that must be the same however a request was routed.
fn comparable(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    let mut headers: Vec<_> = reply
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_string(), value.as_bytes().to_vec()))
        .filter(|(name, _)| !matches!(name.as_str(), "date" | "kv-served-by"))
        .collect();
    headers.sort();
    headers
}

fn etag(reply: &Reply) -> String {
    reply.header("etag").unwrap_or_else(|| panic!("no etag: {reply:?}")).to_string()
}

/// The node that leads the key's shard, and one that does not.
async fn leader_and_other(cluster: &Cluster, raw_key: &str) -> (Http, Http) {
    let leader = cluster.leader_of(raw_key).await;
    let other = (leader + 1) % cluster.nodes.len();
    (cluster.http(leader).clone(), cluster.http(other).clone())
}
