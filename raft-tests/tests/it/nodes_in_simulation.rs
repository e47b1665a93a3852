//! Three whole nodes in one process under turmoil, on disks that lose what was not synced.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use raft_tests::sim;
use ringraft::storage::mem::MemDisk;

const NODES: u64 = 3;
const KEYS: usize = 40;

/// One request on a connection of its own, as a client on its own host sends it.
async fn request(node: u64, method: Method, path: &str, body: &str) -> Result<(StatusCode, String), String> {
    let asked = async {
        let stream = turmoil::net::TcpStream::connect((sim::host(node), sim::HTTP_PORT)).await.map_err(text)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "ringraft");
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).map_err(text)?;
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(text)?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.map_err(text)?
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn until_ready(node: u64) {
    let deadline = Duration::from_secs(60);
    let ready = async {
        while request(node, Method::GET, "/readyz", "").await.ok().map(|(status, _)| status) != Some(StatusCode::OK) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(deadline, ready).await.unwrap_or_else(|_| panic!("n{node} is not ready after {deadline:?}"));
}

/// Values that the simulation's driver and its client hand each other.
#[derive(Default)]
struct Stage(Mutex<u32>);

impl Stage {
    fn reach(&self, stage: u32) {
        *self.0.lock().unwrap() = stage;
    }

    fn has_reached(&self, stage: u32) -> bool {
        *self.0.lock().unwrap() >= stage
    }

    async fn wait_for(&self, stage: u32) {
        while !self.has_reached(stage) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn put_all(stage: &str) -> Result<(), String> {
    for key in 0..KEYS {
        let path = format!("/v1/kv/{stage}-{key}");
        let (status, body) = request(1 + key as u64 % NODES, Method::PUT, &path, stage).await?;
        assert_eq!(status, StatusCode::NO_CONTENT, "{path}: {body}");
    }
    Ok(())
}

async fn check_all(stage: &str, through: impl Fn(usize) -> u64) -> Result<(), String> {
    for key in 0..KEYS {
        let path = format!("/v1/kv/{stage}-{key}");
        let (status, body) = request(through(key), Method::GET, &path, "").await?;
        assert_eq!((status, body.as_str()), (StatusCode::OK, stage), "{path} through n{}", through(key));
    }
    Ok(())
}

const ONE_CRASHED: u32 = 2;
const ALL_CRASHED: u32 = 4;

async fn client(stage: Arc<Stage>) -> turmoil::Result {
    for node in 1..=NODES {
        until_ready(node).await;
    }
    put_all("first").await?;
    stage.reach(1);
    stage.wait_for(ONE_CRASHED).await;
    check_all("first", |key| 2 + key as u64 % 2).await?;
    until_ready(1).await;
    check_all("first", |_| 1).await?;
    put_all("second").await?;
    stage.reach(3);
    stage.wait_for(ALL_CRASHED).await;
    for node in 1..=NODES {
        until_ready(node).await;
    }
    for stage in ["first", "second"] {
        check_all(stage, |key| 1 + key as u64 % NODES).await?;
    }
    Ok(())
}

fn run(seed: u64) {
    sim::simulate(seed);
    let mut world = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(300))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(3))
        .tcp_capacity(4096)
        .build();
    let disks: Vec<MemDisk> = (1..=NODES).map(|number| MemDisk::new(seed + number)).collect();
    for number in 1..=NODES {
        let disk = disks[number as usize - 1].clone();
        world.host(sim::host(number), move || sim::run_node(sim::config(number, NODES, 3), disk.clone()));
    }
    let stage = Arc::new(Stage::default());
    world.client("client", client(stage.clone()));

    let crash = |world: &mut turmoil::Sim<'_>, number: u64| {
        world.crash(sim::host(number));
        disks[number as usize - 1].crash_losing_everything_unsynced();
    };
    let run_until = |world: &mut turmoil::Sim<'_>, wanted: u32| {
        while !stage.has_reached(wanted) {
            assert!(!world.step().unwrap(), "the client ended before stage {wanted}");
        }
    };
    run_until(&mut world, 1);
    crash(&mut world, 1);
    stage.reach(ONE_CRASHED);
    let down_until = world.elapsed() + Duration::from_secs(20);
    while world.elapsed() < down_until {
        world.step().unwrap();
    }
    world.bounce(sim::host(1));
    run_until(&mut world, 3);
    for number in 1..=NODES {
        crash(&mut world, number);
    }
    for number in 1..=NODES {
        world.bounce(sim::host(number));
    }
    stage.reach(ALL_CRASHED);
    world.run().unwrap();
}

/// One node is crashed while the others serve on, then all three at once; each loses everything it had not synced.
#[test]
fn acknowledged_writes_survive_crashes_that_lose_what_was_not_synced() {
    for seed in 1..=5 {
        println!("seed {seed}");
        run(seed);
    }
}
