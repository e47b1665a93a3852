//! Asks a shard for a write until it is acknowledged: how long a shard could not be written, and proof that it can be.
//!
//! Its keys belong to no workload and stand in no history.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ringraft::clock::{self, Moment};
use ringraft::types::ShardId;
use serde_json::Value;

use super::world::{SHARDS, World};
use crate::client::{Client, Outcome, kv_path};

/// Keys that are tried until each shard has one; one hits a given shard of a few with a chance of at least some percent.
const KEYS_TRIED_MAX: u32 = 10_000;
/// Deadline of one write, at the server and here. Shorter than an election, so that the next one is soon.
const WRITE_TIMEOUT: &str = "250ms";
const WRITE_LIMIT: Duration = Duration::from_millis(400);
const PAUSE: Duration = Duration::from_millis(10);
/// Deadline and limit of a write that only fills.
const FILL_TIMEOUT: &str = "2s";
const FILL_LIMIT: Duration = Duration::from_secs(3);

/// A key in every data shard.
#[derive(Clone, Debug)]
pub struct Probe {
    keys: BTreeMap<ShardId, String>,
}

impl Probe {
    /// Asks a node that is ready.
    pub async fn find(world: &World) -> Result<Self, String> {
        let http = &world.nodes[0].http;
        let mut keys = BTreeMap::new();
        for number in 0..KEYS_TRIED_MAX {
            let key = format!("probe-{number}");
            let reply = http.get(format!("/v1/admin/route?key={key}")).try_send().await?;
            let route: Value = serde_json::from_slice(&reply.body).map_err(|error| format!("the route: {error}"))?;
            let shard = route["shard"].as_str().and_then(|text| text.parse().ok()).or_else(|| route["shard"].as_u64());
            keys.entry(ShardId(shard.ok_or_else(|| format!("no shard in {route}"))?)).or_insert(key);
            if keys.len() == SHARDS as usize {
                return Ok(Self { keys });
            }
        }
        Err(format!("{KEYS_TRIED_MAX} keys are all in {} of {SHARDS} shards", keys.len()))
    }

    pub fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.keys.keys().copied()
    }

    /// A key of the shard that begins with another one's, and so lies in the same shard when that is its `{tag}`.
    pub fn key(&self, shard: ShardId) -> &str {
        &self.keys[&shard]
    }

    /// Writes to the shard through these nodes in turn until one write is acknowledged. Gives when it was.
    pub async fn first_acknowledged(
        &self,
        world: &World,
        shard: ShardId,
        through: &[usize],
        limit: Duration,
    ) -> Option<Moment> {
        let target = format!("{}?timeout={WRITE_TIMEOUT}", kv_path(self.key(shard).as_bytes()));
        let deadline = clock::now().after(limit);
        let asked = through.iter().map(|place| {
            let mut client = Client::new(&world.nodes[*place].http.address);
            let target = target.clone();
            Box::pin(async move {
                loop {
                    if let Outcome::Acknowledged { .. } =
                        client.put(&target, Bytes::from_static(b"probe"), WRITE_LIMIT).await
                    {
                        return clock::now();
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            })
        });
        let first = futures::future::select_all(asked);
        Some(tokio::time::timeout(deadline.since(clock::now()), first).await.ok()?.0)
    }

    /// One write of so many bytes to a shard. Says whether it was acknowledged.
    pub async fn fill(&self, world: &World, shard: ShardId, through: usize, bytes: usize) -> bool {
        let target = format!("{}?timeout={FILL_TIMEOUT}", kv_path(self.key(shard).as_bytes()));
        let mut client = Client::new(&world.nodes[through].http.address);
        // Nothing that compresses: log and rows are to grow.
        let mut state = clock::random_u64() | 1;
        let content: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .take(bytes)
        .collect();
        matches!(client.put(&target, content.into(), FILL_LIMIT).await, Outcome::Acknowledged { .. })
    }
}
