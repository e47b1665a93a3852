//! Whole nodes in one process under turmoil, on disks that lose what was not synced.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Response, StatusCode};
use raft_tests::sim::{self, Stage, World};

const NODES: u64 = 3;
const KEYS: usize = 40;

async fn put(node: u64, path: &str, value: impl Into<Bytes>) -> Result<(), String> {
    let (status, body) = sim::request(node, Method::PUT, path, value.into()).await?;
    if status != StatusCode::NO_CONTENT {
        return Err(format!("{path} through n{node}: {status} {}", String::from_utf8_lossy(&body)));
    }
    Ok(())
}

async fn put_all(stage: &'static str) -> Result<(), String> {
    for key in 0..KEYS {
        put(1 + key as u64 % NODES, &format!("/v1/kv/{stage}-{key}"), stage).await?;
    }
    Ok(())
}

async fn check_all(stage: &str, through: impl Fn(usize) -> u64) -> Result<(), String> {
    for key in 0..KEYS {
        let path = format!("/v1/kv/{stage}-{key}");
        let (status, body) = sim::request(through(key), Method::GET, &path, Bytes::new()).await?;
        if (status, body.as_ref()) != (StatusCode::OK, stage.as_bytes()) {
            return Err(format!("{path} through n{}: {status} {}", through(key), String::from_utf8_lossy(&body)));
        }
    }
    Ok(())
}

/// One node is crashed while the others serve on, then all three at once; each loses everything it had not synced.
#[test]
fn acknowledged_writes_survive_crashes_that_lose_what_was_not_synced() {
    const ONE_CRASHED: u32 = 2;
    const ALL_CRASHED: u32 = 4;
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        put_all("first").await?;
        stage.reach(1);
        stage.wait_for(ONE_CRASHED).await;
        check_all("first", |key| 2 + key as u64 % 2).await?;
        sim::until_ready(1).await?;
        check_all("first", |_| 1).await?;
        put_all("second").await?;
        stage.reach(3);
        stage.wait_for(ALL_CRASHED).await;
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        for stage in ["first", "second"] {
            check_all(stage, |key| 1 + key as u64 % NODES).await?;
        }
        Ok(())
    }
    for seed in 1..=5 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        world.add_cluster(seed, NODES, |_| {});
        world.sim.client("client", client(world.stage.clone()));
        world.run_until(1);
        world.crash(1);
        world.stage.reach(ONE_CRASHED);
        world.run_for(Duration::from_secs(20));
        world.restart(1);
        world.run_until(3);
        for number in 1..=NODES {
            world.crash(number);
        }
        for number in 1..=NODES {
            world.restart(number);
        }
        world.stage.reach(ALL_CRASHED);
        world.finish();
    }
}

/// The shards are made when there are as many nodes as replicas; a node beyond that gets its share of them.
#[test]
fn a_cluster_grows_to_its_replication_factor_and_a_further_node_gets_its_share() {
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for nodes in 1..NODES {
            sim::until(nodes, "/v1/status", |status, _| status == StatusCode::OK).await?;
            let (status, body) = sim::request(1, Method::PUT, "/v1/kv/early", Bytes::from_static(b"x")).await?;
            let body = String::from_utf8_lossy(&body).into_owned();
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "with {nodes} nodes: {body}");
            assert!(body.contains("\"starting\"") && body.contains("\"not_applied\""), "{body}");
            let (ready, _) = sim::request(1, Method::GET, "/readyz", Bytes::new()).await?;
            assert_eq!(ready, StatusCode::SERVICE_UNAVAILABLE);
            stage.reach(nodes as u32);
        }
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        put(1, "/v1/kv/k", "v").await?;
        stage.reach(3);
        // The fourth node serves every request, and soon has three of the twelve replicas.
        let answers = |status: StatusCode, body: &[u8]| status == StatusCode::OK && body == b"v";
        sim::until(4, "/v1/kv/k", answers).await?;
        let has_its_share = |_: StatusCode, body: &[u8]| {
            let status: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
            status["replicas"].as_array().is_some_and(|replicas| (2..=4).contains(&replicas.len()))
        };
        sim::until(4, "/v1/status", has_its_share).await?;
        sim::until(4, "/v1/kv/k", answers).await?;
        Ok(())
    }
    let seed = 7;
    let mut world = World::new(seed);
    for number in 1..=4 {
        let mut config = sim::config(number, NODES, 3);
        if number == 1 {
            // The others are not there yet, and a founder waits for its seeds.
            config.cluster.join.clear();
        }
        if number > 1 {
            world.run_until(number as u32 - 1);
        }
        world.add_node(seed + number, config);
        if number == 1 {
            world.sim.client("client", client(world.stage.clone()));
        }
    }
    world.finish();
}

fn json(body: &[u8]) -> serde_json::Value {
    serde_json::from_slice(body).unwrap_or_default()
}

/// Three voters that answer, and nothing else: no replica on its way, no learner in any group.
fn are_whole(shards: &[u8]) -> bool {
    let shards = json(shards);
    let is_whole = |shard: &serde_json::Value| {
        let replicas = shard["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_right = |replica: &serde_json::Value| {
            replica["state"] == "voter" && replica["role"] != "silent" && replica["learners"] == serde_json::json!([])
        };
        replicas.len() == NODES as usize && replicas.iter().all(is_right)
    };
    shards["shards"].as_array().is_some_and(|shards| shards.len() == 4 && shards.iter().all(is_whole))
}

/// A node that is to get a replica and stays away does not get it: after a minute the move is given up, the group is as it
/// was, and so it is once the node is back.
#[test]
fn a_move_to_a_node_that_stays_away_is_given_up_and_leaves_nothing() {
    const AWAY: u32 = 1;
    const GIVEN_UP: u32 = 3;
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for node in 1..=4 {
            sim::until_ready(node).await?;
        }
        put_all("before").await?;
        sim::until(1, "/v1/admin/shards", |_, body| are_whole(body)).await?;
        let rests = |_: StatusCode, body: &[u8]| !String::from_utf8_lossy(body).contains("running");
        sim::until(1, "/v1/admin/operations", rests).await?;
        let (_, status) = sim::request(4, Method::GET, "/v1/status", Bytes::new()).await?;
        let to = json(&status)["node"].clone();
        let (_, shards) = sim::request(1, Method::GET, "/v1/admin/shards", Bytes::new()).await?;
        let shards = json(&shards);
        let has_none = |shard: &&serde_json::Value| {
            shard["replicas"].as_array().is_some_and(|replicas| replicas.iter().all(|replica| replica["node"] != to))
        };
        let shard = shards["shards"].as_array().and_then(|shards| shards.iter().find(has_none)).expect("one without");
        let (id, from) = (shard["id"].as_str().expect("an id"), &shard["replicas"][0]["node"]);
        stage.reach(AWAY);
        stage.wait_for(AWAY + 1).await;
        let body = serde_json::json!({ "from": from, "to": to }).to_string();
        let (status, begun) =
            sim::request(1, Method::POST, &format!("/v1/admin/shards/{id}/move"), body.into()).await?;
        assert_eq!(status, StatusCode::ACCEPTED, "{}", String::from_utf8_lossy(&begun));
        let path = format!("/v1/admin/operations/{}", json(&begun)["id"].as_str().expect("an id"));
        let is_given_up = |_: StatusCode, body: &[u8]| {
            let operation = json(body);
            operation["state"] == "failed" && operation["why"].to_string().contains("did not answer for 60 s")
        };
        // It is waited for longer than one wait lasts.
        if sim::until(1, &path, is_given_up).await.is_err() {
            sim::until(1, &path, is_given_up).await?;
        }
        let is_as_before = |_: StatusCode, body: &[u8]| {
            let now = json(body);
            let replicas = now["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
            replicas.len() == 3
                && replicas.iter().all(|one| one["node"] != to && one["learners"] == serde_json::json!([]))
        };
        sim::until(1, &format!("/v1/admin/shards/{id}"), is_as_before).await?;
        stage.reach(GIVEN_UP);
        sim::until_ready(4).await?;
        sim::until(1, "/v1/admin/shards", |_, body| are_whole(body)).await?;
        sim::until(4, &format!("/v1/admin/shards/{id}"), is_as_before).await?;
        check_all("before", |key| 1 + key as u64 % 4).await?;
        Ok(())
    }
    let seed = 11;
    let mut world = World::new(seed);
    world.add_cluster(seed, 4, |_| {});
    world.sim.client("client", client(world.stage.clone()));
    world.run_until(AWAY);
    world.crash(4);
    world.stage.reach(AWAY + 1);
    world.run_until(GIVEN_UP);
    world.restart(4);
    world.finish();
}

/// The power of a node fails between any two durable steps of a split, and what was not synced is lost: it is started again,
/// and the shard is two.
#[test]
fn a_split_goes_on_when_a_node_loses_its_power_between_any_two_durable_steps() {
    const BEGUN: u32 = 1;
    const BACK: u32 = 2;
    async fn client(stage: Arc<Stage>, asked: u64) -> turmoil::Result {
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        put_all("before").await?;
        let body = Bytes::from_static(b"{\"auto\":true}");
        let (status, begun) = sim::request(asked, Method::POST, "/v1/admin/shards/1/split", body).await?;
        assert_eq!(status, StatusCode::ACCEPTED, "{}", String::from_utf8_lossy(&begun));
        stage.reach(BEGUN);
        let path = format!("/v1/admin/operations/{}", json(&begun)["id"].as_str().expect("an id"));
        sim::until(asked, &path, |_, body| json(body)["state"] == "done").await?;
        stage.wait_for(BACK).await;
        for node in 1..=NODES {
            sim::until_ready(node).await?;
            check_all("before", |_| node).await?;
        }
        put_all("after").await?;
        check_all("after", |key| 1 + key as u64 % NODES).await?;
        let (_, shards) = sim::request(asked, Method::GET, "/v1/shardmap", Bytes::new()).await?;
        assert_eq!(json(&shards)["shards"].as_array().map(Vec::len), Some(4), "{}", String::from_utf8_lossy(&shards));
        Ok(())
    }
    const STEPS: u64 = 16;
    let mut losses = 0;
    for crashed in 1..=NODES {
        for steps in 0..STEPS {
            println!("n{crashed} loses its power after {steps} durable steps");
            let seed = 100 * crashed + steps;
            let mut world = World::new(seed);
            world.add_cluster(seed, NODES, |_| {});
            // Another one than the one that crashes.
            world.sim.client("client", client(world.stage.clone(), 1 + crashed % NODES));
            world.run_until(BEGUN);
            let disk = world.disks[usize::try_from(crashed - 1).expect("few nodes")].clone();
            disk.lose_power_after(steps);
            let given_up = world.sim.elapsed() + Duration::from_secs(2);
            while !disk.has_lost_power() && world.sim.elapsed() < given_up {
                world.run_for(Duration::from_millis(1));
            }
            losses += u64::from(disk.has_lost_power());
            world.crash(crashed);
            world.run_for(Duration::from_secs(1));
            world.restart(crashed);
            world.stage.reach(BACK);
            world.finish();
        }
    }
    assert!(
        losses > NODES * STEPS / 2,
        "the power was lost only {losses} times: a split takes fewer steps than thought"
    );
}

/// A crash of any node at any step of the cluster's coming into being is resumed.
#[test]
fn a_crash_at_any_step_of_founding_and_joining_is_resumed() {
    const CRASHES: u64 = 6;
    /// The cluster forms within about this time when nothing fails.
    const FORMING_MS: u64 = 3000;
    async fn client(_: Arc<Stage>) -> turmoil::Result {
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        put_all("formed").await?;
        check_all("formed", |key| 1 + key as u64 % NODES).await?;
        let (_, shards) = sim::request(1, Method::GET, "/v1/admin/shards", Bytes::new()).await?;
        let shards: serde_json::Value = serde_json::from_slice(&shards)?;
        let shards = shards["shards"].as_array().expect("a list of shards");
        assert_eq!(shards.len(), 4, "three data shards and the meta group");
        for shard in shards {
            assert_eq!(shard["replicas"].as_array().map(Vec::len), Some(NODES as usize), "{shard}");
        }
        Ok(())
    }
    for seed in 100..130 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        world.add_cluster(seed, NODES, |_| {});
        let mut draw = seed;
        let mut next = move |below: u64| {
            // A step of a linear congruential generator: the crashes follow from the seed alone.
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (draw >> 33) % below
        };
        for _ in 0..CRASHES {
            world.run_for(Duration::from_millis(1 + next(FORMING_MS)));
            let node = 1 + next(NODES);
            world.crash(node);
            world.run_for(Duration::from_millis(1 + next(500)));
            world.restart(node);
        }
        world.sim.client("client", client(world.stage.clone()));
        world.finish();
    }
}

/// The founder's power fails between any two of its first durable steps: identity, log, meta group, the catalog's first
/// entry, the founding of the shards.
#[test]
fn a_founder_that_loses_power_between_any_two_durable_steps_founds_all_the_same() {
    async fn client(_: Arc<Stage>) -> turmoil::Result {
        sim::until_ready(1).await?;
        put(1, "/v1/kv/k", "v").await?;
        Ok(())
    }
    const STEPS: u64 = 40;
    let mut losses = 0;
    for steps in 0..STEPS {
        println!("power lost after {steps} durable steps");
        let mut world = World::new(steps);
        world.add_cluster(steps, 1, |config| {
            config.cluster.replication_factor = 1;
            config.cluster.join.clear();
        });
        world.disks[0].lose_power_after(steps);
        world.run_for(Duration::from_secs(3));
        losses += u64::from(world.disks[0].has_lost_power());
        world.crash(1);
        world.restart(1);
        world.sim.client("client", client(world.stage.clone()));
        world.finish();
    }
    assert!(losses > STEPS / 2, "the power was lost only {losses} times: founding takes fewer steps than thought");
}

/// Five replicas go on serving with two nodes gone.
#[test]
fn five_replicas_survive_the_loss_of_two_nodes() {
    const DOWN: u32 = 2;
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for node in 1..=5 {
            sim::until_ready(node).await?;
        }
        put_all("before").await?;
        stage.reach(1);
        stage.wait_for(DOWN).await;
        check_all("before", |key| 1 + key as u64 % NODES).await?;
        put_all("after").await?;
        check_all("after", |key| 1 + key as u64 % NODES).await?;
        Ok(())
    }
    let seed = 5;
    let mut world = World::new(seed);
    world.add_cluster(seed, 5, |config| {
        config.cluster.replication_factor = 5;
        config.cluster.join = (1..=5).map(|node| format!("{}:{}", sim::host(node), sim::PEER_PORT)).collect();
    });
    world.sim.client("client", client(world.stage.clone()));
    world.run_until(1);
    world.crash(4);
    world.crash(5);
    world.stage.reach(DOWN);
    world.finish();
}

/// The logs that a crashed node needs are purged while it is down: it is filled by a snapshot.
#[test]
fn a_node_that_comes_back_after_the_log_was_purged_is_filled_by_a_snapshot() {
    const DOWN: u32 = 2;
    const BACK: u32 = 4;
    const VALUE_BYTES: usize = 100_000;
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        put_all("before").await?;
        stage.reach(1);
        stage.wait_for(DOWN).await;
        for round in 0..100 {
            put(1, &format!("/v1/kv/large-{round}"), vec![b'x'; VALUE_BYTES]).await?;
        }
        sim::until(1, "/v1/status", |_, body| purged_somewhere(body)).await?;
        stage.reach(3);
        stage.wait_for(BACK).await;
        sim::until_ready(3).await?;
        // From the restarted node's own rows.
        for round in 0..100 {
            let path = format!("/v1/kv/large-{round}?consistency=stale&forward=never");
            sim::until(3, &path, |status, body| status == StatusCode::OK && body.len() == VALUE_BYTES).await?;
        }
        check_all("before", |_| 3).await?;
        Ok(())
    }
    let seed = 11;
    let mut world = World::new(seed);
    world.add_cluster(seed, NODES, |config| config.storage.flush_log_bytes = 1 << 20);
    world.sim.client("client", client(world.stage.clone()));
    world.run_until(1);
    world.crash(3);
    world.stage.reach(DOWN);
    world.run_until(3);
    world.restart(3);
    world.stage.reach(BACK);
    world.finish();
}

/// A node sleeps through two splits of one shard, is given up, and the log that it needs is purged behind them: its replica of the
/// parent is filled by a snapshot, and its replicas of the children, which no split makes there any more, are made empty
/// and filled, too.
#[test]
fn a_node_that_slept_through_splits_gets_its_replicas_of_the_children() {
    const DOWN: u32 = 2;
    const BACK: u32 = 4;
    const VALUE_BYTES: usize = 100_000;
    const ROWS: usize = 400;
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        put_all("before").await?;
        stage.reach(1);
        stage.wait_for(DOWN).await;
        for _ in 0..2 {
            let body = Bytes::from_static(b"{\"auto\":true}");
            let (status, begun) = sim::request(1, Method::POST, "/v1/admin/shards/1/split", body).await?;
            assert_eq!(status, StatusCode::ACCEPTED, "{}", String::from_utf8_lossy(&begun));
            // Once the node is taken for dead.
            let path = format!("/v1/admin/operations/{}", json(&begun)["id"].as_str().expect("an id"));
            sim::until(1, &path, |_, body| json(body)["state"] == "done").await?;
        }
        for row in 0..ROWS {
            put(1, &format!("/v1/kv/large-{row}"), vec![b'x'; VALUE_BYTES]).await?;
        }
        let is_purged = |replica: &serde_json::Value| {
            // Far behind the entry of the split.
            replica["shard"] == "1" && replica["purged_index"].as_u64().is_some_and(|index| index > 30)
        };
        let parent_is_purged =
            |_: StatusCode, body: &[u8]| json(body)["replicas"].as_array().is_some_and(|all| all.iter().any(is_purged));
        for node in [1, 2] {
            sim::until(node, "/v1/status", parent_is_purged).await?;
        }
        stage.reach(3);
        stage.wait_for(BACK).await;
        sim::until_ready(3).await?;
        // From the restarted node's own rows.
        for row in 0..ROWS {
            let path = format!("/v1/kv/large-{row}?consistency=stale&forward=never");
            sim::until(3, &path, |status, body| status == StatusCode::OK && body.len() == VALUE_BYTES).await?;
        }
        check_all("before", |_| 3).await?;
        Ok(())
    }
    let seed = 12;
    let mut world = World::new(seed);
    world.add_cluster(seed, NODES, |config| {
        config.storage.flush_log_bytes = 1 << 20;
        config.placement.dead_after_s = 5;
    });
    world.sim.client("client", client(world.stage.clone()));
    world.run_until(1);
    world.crash(3);
    world.stage.reach(DOWN);
    world.run_until(3);
    world.restart(3);
    world.stage.reach(BACK);
    world.finish();
}

fn purged_somewhere(status: &[u8]) -> bool {
    let status: serde_json::Value = serde_json::from_slice(status).unwrap_or_default();
    let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
    let index = |replica: &serde_json::Value| replica["purged_index"].as_u64().unwrap_or(0);
    replicas.iter().filter(|replica| replica["shard"] != "0").all(|replica| index(replica) > 20)
}

/// The age that a stale answer tells, in milliseconds; none when it is unknown.
fn age_of(stale: Response<Bytes>) -> Option<u64> {
    stale.headers()["kv-staleness-ms"].to_str().ok()?.parse().ok()
}

/// A node cut off from the others refuses writes and linearizable reads with a true outcome, and answers stale reads.
#[test]
fn a_minority_refuses_and_says_so() {
    const CUT: u32 = 2;
    const HEALED: u32 = 4;
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        put(2, "/v1/kv/k", "old").await?;
        let local = |status: StatusCode, body: &[u8]| status == StatusCode::OK && body == b"old";
        let stale = "/v1/kv/k?consistency=stale";
        sim::until(1, stale, local).await?;
        // A proof takes a round or two of heartbeats; simulated nodes are ready sooner.
        while age_of(sim::call(1, Method::GET, stale, Bytes::new()).await?).is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stage.reach(1);
        stage.wait_for(CUT).await;
        let cut = ringraft::clock::now();
        let deadline = Duration::from_millis(2500);
        for (method, path) in [(Method::PUT, "/v1/kv/k?timeout=2s"), (Method::GET, "/v1/kv/k?timeout=2s")] {
            let begun = ringraft::clock::now();
            let (status, body) = sim::request(1, method.clone(), path, Bytes::from_static(b"lost")).await?;
            let body = String::from_utf8_lossy(&body).into_owned();
            assert!(matches!(status.as_u16(), 503 | 504), "{method}: {status} {body}");
            let took = ringraft::clock::now().since(begun);
            assert!(took <= deadline, "{method} took {took:?}");
        }
        let stale = sim::call(1, Method::GET, stale, Bytes::new()).await?;
        assert_eq!((stale.status(), stale.body().as_ref()), (StatusCode::OK, b"old".as_slice()));
        let age = age_of(stale).expect("it was known before");
        let away = u64::try_from(ringraft::clock::now().since(cut).as_millis())?;
        assert!((away..away + 1000).contains(&age), "cut off for {away} ms, and the age is {age} ms");
        // The majority goes on.
        let path = "/v1/kv/k";
        while put(2, path, "new").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Never something old by lease either.
        let (status, body) =
            sim::request(1, Method::GET, "/v1/kv/k?consistency=lease&timeout=1s", Bytes::new()).await?;
        assert!(matches!(status.as_u16(), 503 | 504), "{status} {}", String::from_utf8_lossy(&body));
        stage.reach(3);
        stage.wait_for(HEALED).await;
        sim::until(1, path, |status, body| status == StatusCode::OK && body == b"new").await?;
        Ok(())
    }
    for seed in 21..26 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        world.add_cluster(seed, NODES, |_| {});
        world.sim.client("client", client(world.stage.clone()));
        world.run_until(1);
        for other in 2..=NODES {
            world.sim.partition(sim::host(1), sim::host(other));
        }
        world.stage.reach(CUT);
        world.run_until(3);
        for other in 2..=NODES {
            world.sim.repair(sim::host(1), sim::host(other));
        }
        world.stage.reach(HEALED);
        world.finish();
    }
}

/// Seeds that drop what they are sent keep a node that is back from nothing: it serves, and would vote, as soon as it has
/// opened its replicas.
#[test]
fn a_node_that_is_back_waits_for_no_seed() {
    const BACK: u32 = 2;
    /// Far below the two seconds that a seed is waited for.
    const OPEN_LIMIT: Duration = Duration::from_millis(500);
    async fn client(stage: Arc<Stage>) -> turmoil::Result {
        for node in 1..=NODES {
            sim::until_ready(node).await?;
        }
        stage.reach(1);
        stage.wait_for(BACK).await;
        let back = ringraft::clock::now();
        // An answer from its own rows, in which there is no such key.
        let path = "/v1/kv/k?consistency=stale&forward=never";
        sim::until(3, path, |status, _| status == StatusCode::NOT_FOUND).await?;
        let took = ringraft::clock::now().since(back);
        assert!(took < OPEN_LIMIT, "served after {took:?}");
        Ok(())
    }
    let seed = 31;
    let mut world = World::new(seed);
    world.add_cluster(seed, NODES, |_| {});
    world.sim.client("client", client(world.stage.clone()));
    world.run_until(1);
    world.crash(3);
    for other in 1..NODES {
        world.sim.hold(sim::host(3), sim::host(other));
    }
    world.restart(3);
    world.stage.reach(BACK);
    world.finish();
}
