//! Disks that get full, in simulation: what is refused, what goes on, and that it passes by itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use raft_tests::sim::{self, Stage, World};
use serde_json::Value;

const NODES: u64 = 3;
const KEYS: usize = 24;
const RESERVE: u64 = 64 << 20;
/// Free beside the reserve, or where that is in use, free at all.
const BELOW_SOFT: u64 = RESERVE * 3 / 2;
const BELOW_HARD: u64 = RESERVE * 7 / 8;
const SPENT: u64 = RESERVE / 4;
const PLENTY: u64 = 1 << 40;

async fn write(node: u64, method: Method, key: usize) -> Result<(StatusCode, Value, Option<String>), String> {
    let value = if method == Method::PUT { Bytes::from_static(b"value") } else { Bytes::new() };
    let answer = sim::call(node, method, &format!("/v1/kv/key-{key}"), value).await?;
    let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_string);
    let body = serde_json::from_slice(answer.body()).unwrap_or_default();
    Ok((answer.status(), body, retry_after))
}

async fn status_of(node: u64) -> Result<Value, String> {
    let (_, body) = sim::request(node, Method::GET, "/v1/status", Bytes::new()).await?;
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

async fn until_room(node: u64, room: &str) -> Result<Value, String> {
    loop {
        let status = status_of(node).await?;
        if status["disk"]["room"] == room {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Until a value is refused for every key, through every node.
async fn until_values_are_refused() -> Result<(), String> {
    for key in 0..KEYS {
        let node = 1 + key as u64 % NODES;
        loop {
            let (status, body, retry_after) = write(node, Method::PUT, key).await?;
            if status == StatusCode::INSUFFICIENT_STORAGE {
                assert_eq!((&body["code"], &body["outcome"]), (&"disk-full".into(), &"not_applied".into()), "{body}");
                assert!(body["retryable"] == true && retry_after.is_some(), "{body} {retry_after:?}");
                break;
            }
            // Its leader has not heard of the disk yet.
            assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Reads, deletes of these keys and the admin API, through every node.
async fn all_else_goes_on(deleted: std::ops::Range<usize>) -> Result<(), String> {
    for node in 1..=NODES {
        for key in deleted.end..KEYS {
            let path = format!("/v1/kv/key-{key}");
            let (status, body) = sim::request(node, Method::GET, &path, Bytes::new()).await?;
            assert_eq!((status, body.as_ref()), (StatusCode::OK, b"value".as_slice()), "key-{key} through n{node}");
        }
        let (status, _) = sim::request(node, Method::GET, "/v1/admin/shards", Bytes::new()).await?;
        assert_eq!(status, StatusCode::OK);
    }
    for key in deleted {
        let (status, body, _) = write(1 + key as u64 % NODES, Method::DELETE, key).await?;
        assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    }
    Ok(())
}

async fn until_written(key: usize) -> Result<(), String> {
    while write(1, Method::PUT, key).await?.0 != StatusCode::NO_CONTENT {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// But for the meta group.
async fn until_leads_nothing(node: u64) -> Result<(), String> {
    let is_led = |replica: &Value| replica["shard"] != "0" && replica["role"] == "leader";
    while status_of(node).await?["replicas"].as_array().expect("a list of replicas").iter().any(is_led) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[test]
fn a_disk_that_gets_full_refuses_values_and_nothing_else_and_clears_by_itself() {
    const FORMED: u32 = 1;
    const ONE_BELOW_SOFT: u32 = 2;
    const ONE_BELOW_HARD: u32 = 4;
    const ONE_SPENT: u32 = 6;
    const TWO_BELOW_HARD: u32 = 8;
    const CLEARED: u32 = 10;
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        for key in 0..KEYS {
            assert_eq!(write(1, Method::PUT, key).await?.0, StatusCode::NO_CONTENT);
        }
        stage.reach(FORMED);

        stage.wait_for(ONE_BELOW_SOFT).await;
        until_values_are_refused().await?;
        let status = until_room(3, "below-soft-reserve").await?;
        assert_eq!(status["disk"]["reserve_bytes"], RESERVE, "{status}");
        all_else_goes_on(0..3).await?;
        stage.reach(ONE_BELOW_SOFT + 1);

        stage.wait_for(ONE_BELOW_HARD).await;
        let status = until_room(3, "below-hard-reserve").await?;
        assert_eq!(status["disk"]["reserve_bytes"], 0, "{status}");
        until_leads_nothing(3).await?;
        until_values_are_refused().await?;
        all_else_goes_on(3..6).await?;
        let gone = |status: StatusCode, _: &[u8]| status == StatusCode::NOT_FOUND;
        sim::until(3, "/v1/kv/key-5?consistency=stale&forward=never", gone).await?;
        stage.reach(ONE_BELOW_HARD + 1);

        stage.wait_for(ONE_SPENT).await;
        until_room(3, "spent").await?;
        all_else_goes_on(6..9).await?;
        until_values_are_refused().await?;
        let stale = "/v1/kv/key-8?consistency=stale&forward=never";
        let (status, _) = sim::request(3, Method::GET, stale, Bytes::new()).await?;
        assert_eq!(status, StatusCode::OK, "the delete went to the log of a node that has no room left");
        stage.reach(ONE_SPENT + 1);

        stage.wait_for(TWO_BELOW_HARD).await;
        until_room(2, "below-hard-reserve").await?;
        until_room(3, "below-hard-reserve").await?;
        until_leads_nothing(2).await?;
        until_values_are_refused().await?;
        all_else_goes_on(9..12).await?;
        sim::until(3, stale, gone).await?;
        stage.reach(TWO_BELOW_HARD + 1);

        stage.wait_for(CLEARED).await;
        for key in 0..KEYS {
            until_written(key).await?;
        }
        for node in 1..=NODES {
            let status = until_room(node, "ample").await?;
            assert_eq!(status["disk"]["reserve_bytes"], RESERVE, "{status}");
            sim::until(node, stale, |status, body| status == StatusCode::OK && body == b"value").await?;
        }
        Ok(())
    }
    for seed in 1..=3 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        world.add_cluster(seed, NODES, |config| config.storage.disk_reserve_bytes = RESERVE);
        world.sim.client("client", client(world.stage.clone()));
        world.run_until(FORMED);
        let steps: [(u32, &[u64], u64); 5] = [
            (ONE_BELOW_SOFT, &[3], BELOW_SOFT),
            (ONE_BELOW_HARD, &[3], BELOW_HARD),
            (ONE_SPENT, &[3], SPENT),
            (TWO_BELOW_HARD, &[2, 3], BELOW_HARD),
            (CLEARED, &[2, 3], PLENTY),
        ];
        for (stage, nodes, free) in steps {
            for node in nodes {
                world.disk(*node).set_free_bytes(free);
            }
            world.stage.reach(stage);
            if stage != CLEARED {
                world.run_until(stage + 1);
            }
        }
        world.finish();
    }
}

/// Also where its followers are short of room themselves: they have more than it.
#[test]
fn a_leader_that_has_no_room_left_hands_on_and_no_delete_is_refused_meanwhile() {
    const FORMED: u32 = 1;
    const FOLLOWERS_BELOW_HARD: u32 = 2;
    const LEADER_SPENT: u32 = 4;
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        for key in 0..KEYS {
            until_written(key).await?;
        }
        stage.reach(FORMED);
        stage.wait_for(FOLLOWERS_BELOW_HARD).await;
        for node in 2..=NODES {
            until_room(node, "below-hard-reserve").await?;
            until_leads_nothing(node).await?;
        }
        stage.reach(FOLLOWERS_BELOW_HARD + 1);
        stage.wait_for(LEADER_SPENT).await;
        until_room(1, "spent").await?;
        for key in 0..KEYS {
            let (status, body, _) = write(1 + key as u64 % NODES, Method::DELETE, key).await?;
            assert_eq!(status, StatusCode::NO_CONTENT, "key-{key}: {body}");
        }
        until_leads_nothing(1).await?;
        until_values_are_refused().await?;
        Ok(())
    }
    let seed = 5;
    let mut world = World::new(seed);
    world.add_cluster(seed, NODES, |config| config.storage.disk_reserve_bytes = RESERVE);
    world.sim.client("client", client(world.stage.clone()));
    world.run_until(FORMED);
    for node in 2..=NODES {
        world.disk(node).set_free_bytes(BELOW_HARD);
    }
    world.stage.reach(FOLLOWERS_BELOW_HARD);
    world.run_until(FOLLOWERS_BELOW_HARD + 1);
    world.disk(1).set_free_bytes(0);
    world.run_for(Duration::from_millis(250));
    world.disk(1).set_free_bytes(SPENT);
    world.stage.reach(LEADER_SPENT);
    world.finish();
}

/// A node whose disk filled while it was away starts all the same, and gives its reserve back before it writes anything.
#[test]
fn a_node_starts_on_a_full_disk() {
    const DOWN: u32 = 2;
    const UP: u32 = 4;
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        until_written(0).await?;
        stage.reach(1);
        stage.wait_for(DOWN).await;
        until_written(1).await?;
        stage.reach(DOWN + 1);
        stage.wait_for(UP).await;
        sim::until_ready(3).await?;
        let status = until_room(3, "below-hard-reserve").await?;
        assert_eq!(status["disk"]["reserve_bytes"], 0, "{status}");
        // It takes what is on its way, until half of what was kept is used.
        let there = |status: StatusCode, body: &[u8]| status == StatusCode::OK && body == b"value";
        sim::until(3, "/v1/kv/key-1?consistency=stale&forward=never", there).await?;
        until_values_are_refused().await?;
        Ok(())
    }
    let seed = 4;
    let mut world = World::new(seed);
    world.add_cluster(seed, NODES, |config| config.storage.disk_reserve_bytes = RESERVE);
    world.sim.client("client", client(world.stage.clone()));
    world.run_until(1);
    world.crash(3);
    world.disk(3).set_free_bytes(0);
    world.stage.reach(DOWN);
    world.run_until(DOWN + 1);
    world.restart(3);
    world.stage.reach(UP);
    world.finish();
}
