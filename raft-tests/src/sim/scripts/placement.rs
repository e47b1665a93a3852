//! Who comes to a shard, or to a replica, that is no longer what it was is refused, and what has left a group counts no more.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Method, StatusCode};
use ringraft::clock;
use ringraft::ring::token_of;
use ringraft::storage::registry::ReplicaLife;
use ringraft::types::ShardId;
use serde_json::{Value, json};

use super::super::{request, until};
use super::scene::{BY_ANY, NODES, Scene, itself, read};
use super::{Script, even, usual};
use crate::history::Mode;

pub(super) const OLD_ROUTE_AFTER_SPLIT: Script = Script {
    name: "old-route-after-split",
    about: "a shard that was split answers nothing of what its child has",
    spare_nodes: 0,
    config: usual,
    rate: even,
    play: |scene| old_route_after_split(scene).boxed_local(),
};

pub(super) const OLD_ROUTE_AFTER_MOVE: Script = Script {
    name: "old-route-after-move",
    about: "a replica that its group has let go, and that does not know it, answers nothing",
    spare_nodes: 0,
    config: |config| config.cluster.replication_factor = 1,
    rate: even,
    play: |scene| old_route_after_move(scene).boxed_local(),
};

pub(super) const VOTE_OF_A_DESTROYED_REPLICA: Script = Script {
    name: "vote-of-a-destroyed-replica",
    about: "a replica that was destroyed elects nobody, also not one that slept while it was moved away",
    spare_nodes: 1,
    config: usual,
    rate: even,
    play: |scene| vote_of_a_destroyed_replica(scene).boxed_local(),
};

const SHARD: ShardId = ShardId(1);

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

/// Asks a node for an operation until one is begun; gives its path.
async fn begin(node: u64, path: &str, body: &Value) -> Result<String, String> {
    const ATTEMPTS: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(50);
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match request(node, Method::POST, path, Bytes::from(body.to_string())).await {
            Ok((StatusCode::ACCEPTED, begun)) => {
                let id = parsed(&begun)["id"].as_str().unwrap_or_default().to_string();
                return Ok(format!("/v1/admin/operations/{id}"));
            }
            Ok((status, refused)) => last = format!("{status} {}", String::from_utf8_lossy(&refused)),
            Err(error) => last = error,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("n{node} begins nothing at {path}: {last}"))
}

async fn old_route_after_split(scene: Scene) -> Result<(), String> {
    const KEYS: usize = 16;
    scene.ready().await?;
    let keys: Vec<String> = (0..KEYS).map(|number| format!("k{number}")).collect();
    for key in &keys {
        scene.put(key, "before").await?;
    }
    let operation = begin(1, &format!("/v1/admin/shards/{SHARD}/split"), &json!({ "auto": true })).await?;
    until(1, &operation, |_, body| parsed(body)["state"] == "done").await?;
    let catalog = scene.router(1)?.catalog().ok_or("no catalog")?;
    let range = catalog.shards.get(&SHARD).and_then(|shard| shard.range).ok_or("no range")?;
    let of_child = keys.iter().find(|key| !range.contains(token_of(key.as_bytes()))).ok_or("the child has no key")?;
    scene.put(of_child, "after").await?;
    for node in 1..=NODES {
        scene.ask_by_old_route(node, SHARD, of_child).await?;
    }
    scene.settle().await
}

async fn old_route_after_move(scene: Scene) -> Result<(), String> {
    for number in 1..=NODES {
        super::super::until_ready(number).await?;
    }
    scene.put("k", "before").await?;
    let holds = |number: &u64| scene.replica(*number).is_some();
    let from = (1..=NODES).find(holds).ok_or("nobody has the shard")?;
    let [to, other] = Scene::others(from);
    let body = json!({ "from": scene.router(from)?.host().node(), "to": scene.router(to)?.host().node() });
    begin(to, &format!("/v1/admin/shards/{SHARD}/move"), &body).await?;
    let has_moved = |scene: &Scene| {
        let [old, new] = [from, to].map(|number| scene.replica(number));
        let members = new.filter(|new| new.is_leader()).map(|new| new.members());
        members.is_some_and(|members| !members.joint && old.is_some_and(|old| !members.voters.contains(&old.id())))
    };
    scene.until("the group has let the old replica go", has_moved).await?;
    // Before it hears of that, and is destroyed.
    scene.isolate(from);
    scene.put_at(&[to, other], "k", "after", &BY_ANY).await?;
    scene.ask_by_old_route(from, SHARD, "k").await?;
    scene.settle_elsewhere(NODES).await
}

async fn vote_of_a_destroyed_replica(scene: Scene) -> Result<(), String> {
    const SPARE: u64 = NODES + 1;
    /// Longer than some elections.
    const CAMPAIGNS: Duration = Duration::from_secs(5);
    const TIMEOUT: Duration = Duration::from_millis(500);
    const READS: u32 = 3;
    scene.crash(SPARE).await;
    scene.ready().await?;
    scene.put("k", "before").await?;
    scene.level().await?;
    let leader = scene.leader().await?;
    let [sleeps, goes] = Scene::others(leader);
    let old = scene.running(goes)?.id();
    for other in [leader, goes, SPARE] {
        scene.cut(sleeps, other);
    }
    scene.restart(SPARE).await;
    scene.until("the spare node serves", |scene| scene.router(SPARE).is_ok()).await?;
    let body = json!({ "from": scene.router(goes)?.host().node(), "to": scene.router(SPARE)?.host().node() });
    begin(leader, &format!("/v1/admin/shards/{SHARD}/move"), &body).await?;
    let is_destroyed = |scene: &Scene| {
        let record = scene.router(goes).ok().and_then(|router| router.host().log().record(old));
        record.is_some_and(|record| record.state == ReplicaLife::Tombstone)
    };
    scene.until("the old replica is destroyed", is_destroyed).await?;
    scene.put_at(&[leader, SPARE], "k", "after", &BY_ANY).await?;
    for (one, other) in [(goes, leader), (goes, SPARE)] {
        scene.cut(one, other);
    }
    scene.heal(sleeps, goes);
    let begun = clock::now();
    scene.until("it campaigns", |scene| scene.leads(sleeps) || clock::now().since(begun) > CAMPAIGNS).await?;
    for _ in 0..READS {
        scene.ask(sleeps, "k", read(Mode::Linearizable), &itself(TIMEOUT)).await;
    }
    scene.settle_elsewhere(SPARE).await
}
