//! What the shows do to a [`Cluster`] from outside: signals, the digests of replicas, who leads what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringraft::api::peer::{ReplicaDigest, status};
use ringraft::clock::{self, Moment};
use ringraft::method::Method;
use ringraft::transport::dial::TcpNet;
use ringraft::transport::{AddressBook, CallError, Gatekeeper, Hello, Lane, PROTOCOL, Peers, Refusal};
use ringraft::types::{NodeId, ShardId, StoreId};
use ringraft::wire::Wire;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::{Cluster, Node};

/// How long a cluster that is not written to may take until all replicas of a shard have applied the same.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long hashing one replica may take.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Sends a signal to a node's process.
///
/// # Panics
/// When it does not run.
pub fn signal(node: &Node, signal: Signal) {
    let pid = node.pid().unwrap_or_else(|| panic!("{} does not run", node.name));
    let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are small")).expect("no process has the id 0");
    kill_process(pid, signal).unwrap_or_else(|error| panic!("{}: {error}", node.name));
}

/// SIGKILL to all of them before any is waited for.
pub async fn kill_all(cluster: &mut Cluster) {
    for node in cluster.nodes.iter().filter(|node| node.pid().is_some()) {
        signal(node, Signal::KILL);
    }
    for node in &mut cluster.nodes {
        node.kill().await;
    }
}

/// One shard as `/v1/admin/shards` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardView {
    pub id: u64,
    pub is_meta: bool,
    /// Place of the leader in the cluster, when one is known.
    pub leader: Option<usize>,
    pub term: Option<String>,
}

/// All shards, the meta group among them, as the node at `place` knows them. None when it does not answer.
pub async fn shards(cluster: &Cluster, place: usize) -> Option<Vec<ShardView>> {
    let reply = cluster.http(place).get("/v1/admin/shards").try_send().await.ok()?;
    let body: Value = serde_json::from_slice(&reply.body).ok()?;
    let view = |shard: &Value| {
        let leader = shard["leader_http"].as_str();
        Some(ShardView {
            id: number(&shard["id"])?,
            is_meta: shard["kind"] == "meta",
            leader: leader.and_then(|http| cluster.nodes.iter().position(|node| node.http.address == http)),
            term: shard["term"].as_str().map(str::to_string),
        })
    };
    body["shards"].as_array()?.iter().map(view).collect()
}

/// The shard that holds a key.
///
/// # Panics
/// When the node does not tell.
pub async fn shard_of(cluster: &Cluster, place: usize, key: &str) -> u64 {
    let route = cluster.http(place).get(format!("/v1/admin/route?key={key}")).send().await.expect(200).json();
    number(&route["shard"]).unwrap_or_else(|| panic!("no shard in {route}"))
}

/// Ids are strings in JSON.
fn number(value: &Value) -> Option<u64> {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64())
}

/// Waits until `check` gives a value.
pub async fn until<T, F: Future<Output = Option<T>>>(limit: Duration, mut check: impl FnMut() -> F) -> Option<T> {
    let deadline = clock::now().after(limit);
    loop {
        if let Some(value) = check().await {
            return Some(value);
        }
        if clock::now() >= deadline {
            return None;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A node as its peers know it.
#[derive(Clone, Debug)]
pub struct PeerOf {
    pub name: String,
    /// `host:port` of its peers' listener.
    pub address: String,
}

/// [`compare_digests_of`] all shards and nodes of a cluster.
pub async fn compare_digests(cluster: &Cluster) -> Result<usize, String> {
    let shards = shards(cluster, 0).await.ok_or("no node lists the shards")?;
    let shards: Vec<ShardId> = shards.iter().map(|shard| ShardId(shard.id)).collect();
    let peers = cluster.nodes.iter().map(|node| PeerOf { name: node.name.clone(), address: node.peer.clone() });
    let peers: Vec<PeerOf> = peers.collect();
    compare_digests_of(&shards, &peers, peers.len()).await
}

/// Asks every node for the digest of its replica of each shard until so many have one, all at the same applied index, and
/// compares. Nobody may write meanwhile. Gives the number of replicas compared.
pub async fn compare_digests_of(shards: &[ShardId], nodes: &[PeerOf], replicas: usize) -> Result<usize, String> {
    let guest = Guest::new();
    let mut compared = 0;
    for &shard in shards {
        let deadline = clock::now().after(AGREEMENT_TIMEOUT);
        loop {
            let mut digests = BTreeMap::new();
            let mut silent = Vec::new();
            for node in nodes {
                match guest.digest(&node.address, shard).await {
                    Ok(Some(digest)) => drop(digests.insert(node.name.clone(), digest)),
                    Ok(None) => {}
                    Err(why) => silent.push(format!("{}: {why}", node.name)),
                }
            }
            let told: Vec<String> = digests
                .iter()
                .map(|(name, digest)| format!("{name} applied {:?} hash {:016x}", digest.applied_index, digest.hash))
                .collect();
            let first = digests.values().next();
            let same_index = first.is_some_and(|first| {
                silent.is_empty()
                    && digests.len() == replicas
                    && digests.values().all(|other| other.applied_index == first.applied_index)
            });
            if same_index {
                if digests.values().any(|other| first.is_some_and(|first| other.hash != first.hash)) {
                    return Err(format!("replicas of shard {shard} differ at one index: {}", told.join(", ")));
                }
                compared += digests.len();
                break;
            }
            if clock::now() >= deadline {
                let told = [told, silent].concat().join(", ");
                return Err(format!("shard {shard} not at one index after {AGREEMENT_TIMEOUT:?}: {told}"));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    Ok(compared)
}

/// Someone who belongs to no cluster, but speaks the peers' language.
struct Guest {
    peers: Peers,
}

struct NoOne(StoreId);

impl Gatekeeper for NoOne {
    fn hello(&self, lane: Lane) -> Hello {
        Hello {
            versions: PROTOCOL,
            lane,
            cluster: None,
            node: None,
            store: self.0,
            start_counter: 1,
            peer_address: String::new(),
            http_address: String::new(),
            catalog_version: 0,
            timing_hash: 0,
        }
    }

    fn check(&self, _remote: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    fn heard(&self, _remote: &Hello) {}

    fn catalog_version(&self) -> u64 {
        0
    }

    fn heard_catalog_version(&self, _remote: &Hello, _version: u64) {}
}

impl AddressBook for NoOne {
    fn peer_address(&self, _node: NodeId) -> Option<String> {
        None
    }
}

impl Guest {
    fn new() -> Self {
        let no_one = Arc::new(NoOne(StoreId(clock::random_u128())));
        Self { peers: Peers::new(Arc::new(TcpNet), no_one.clone(), no_one) }
    }

    /// None where the node has no replica of the shard.
    async fn digest(&self, peer: &str, shard: ShardId) -> Result<Option<ReplicaDigest>, String> {
        let body: Bytes = shard.to_bytes();
        let call = self.peers.call_address(peer, Lane::Control, Method::Digest as u8, body, DIGEST_TIMEOUT);
        match call.await {
            Ok(reply) => ReplicaDigest::from_bytes(reply.body).map(Some).map_err(|error| error.to_string()),
            Err(CallError::Refused { status: status::NO_SUCH_REPLICA, .. }) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Memory that a process has now; None when it does not run.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Time since an earlier moment.
pub fn since(earlier: Moment) -> Duration {
    clock::now().since(earlier)
}
