//! Whole nodes under turmoil: simulated time and network, disks in memory with the sync boundary modelled. The server's
//! code is the one that runs in production; only its three seams (clock, network, disk) are others.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringraft::clock;
use ringraft::config::Config;
use ringraft::node::{Node, NodeParts};
use ringraft::storage::mem::MemDisk;
use ringraft::transport::dial::{BoxedIo, Listener, Net};
use tokio_util::sync::CancellationToken;

/// Wall clock at the start of every simulation, in milliseconds since 1970.
const WALL_START_MS: u64 = 1_750_000_000_000;

pub const HTTP_PORT: u16 = 7401;
pub const PEER_PORT: u16 = 7501;

/// turmoil's network behind the server's seam.
pub struct SimNet;

impl Net for SimNet {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedIo>> {
        async move {
            let stream = turmoil::net::TcpStream::connect(address).await?;
            Ok(Box::new(stream) as BoxedIo)
        }
        .boxed()
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        async move {
            let listener = turmoil::net::TcpListener::bind(address).await?;
            Ok(Box::new(SimListener(listener)) as Box<dyn Listener>)
        }
        .boxed()
    }
}

struct SimListener(turmoil::net::TcpListener);

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedIo, String)>> {
        async move {
            let (stream, remote) = self.0.accept().await?;
            Ok((Box::new(stream) as BoxedIo, remote.to_string()))
        }
        .boxed()
    }

    fn local_address(&self) -> io::Result<String> {
        self.0.local_addr().map(|address| address.to_string())
    }
}

/// Puts the simulation's clock and seed under this thread. The whole simulation runs on it.
pub fn simulate(seed: u64) {
    clock::simulate(sim_time, sim_wall_ms, seed);
}

fn sim_time() -> Duration {
    // Outside a host there is no simulated time; nothing is measured there.
    turmoil::sim_elapsed().unwrap_or_default()
}

fn sim_wall_ms() -> u64 {
    WALL_START_MS + sim_time().as_millis() as u64
}

/// Host name of node `number`.
pub fn host(number: u64) -> String {
    format!("n{number}")
}

/// The configuration of node `number` of `nodes`: the first one founds, all know all.
pub fn config(number: u64, nodes: u64, shards: u32) -> Config {
    let mut config = Config { insecure: true, ..Config::default() };
    config.cluster.bootstrap = number == 1;
    config.cluster.shards = shards;
    config.cluster.join = (1..=nodes).map(|other| format!("{}:{PEER_PORT}", host(other))).collect();
    config.http.listen = format!("{}:{HTTP_PORT}", IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    config.http.advertise = Some(format!("{}:{HTTP_PORT}", host(number)));
    config.peer.listen = format!("{}:{PEER_PORT}", IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    config.peer.advertise = Some(format!("{}:{PEER_PORT}", host(number)));
    config
}

/// One request on a connection of its own, from whatever simulated host calls it.
///
/// # Errors
/// When there was no answer within ten simulated seconds.
pub async fn request(node: u64, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
    let response = call(node, method, path, body).await?;
    Ok((response.status(), response.into_body()))
}

/// Like [`request`], with the answer's headers.
///
/// # Errors
/// See [`request`].
pub async fn call(node: u64, method: Method, path: &str, body: Bytes) -> Result<Response<Bytes>, String> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let asked = async {
        let stream = turmoil::net::TcpStream::connect((host(node), HTTP_PORT)).await.map_err(|error| text(&error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "ringraft");
        let request = request.body(Full::new(body)).map_err(|error| text(&error))?;
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| text(&error))?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    tokio::time::timeout(TIMEOUT, asked).await.map_err(|error| text(&error))?
}

/// Asks until the answer is as wanted, for at most a simulated minute.
///
/// # Errors
/// The last answer, when it never was.
pub async fn until(node: u64, path: &str, wanted: impl Fn(StatusCode, &[u8]) -> bool) -> Result<(), String> {
    const PAUSE: Duration = Duration::from_millis(50);
    const ATTEMPTS: u32 = 1200;
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match request(node, Method::GET, path, Bytes::new()).await {
            Ok((status, body)) if wanted(status, &body) => return Ok(()),
            Ok((status, body)) => last = format!("{status} {}", String::from_utf8_lossy(&body)),
            Err(error) => last = error,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("n{node} {path}: not as wanted after a minute: {last}"))
}

/// Until a node says that it serves everything.
///
/// # Errors
/// See [`until`].
pub async fn until_ready(node: u64) -> Result<(), String> {
    until(node, "/readyz?verbose", |status, _| status == StatusCode::OK).await
}

/// Values that the driver of a simulation and its client hand each other.
#[derive(Default)]
pub struct Stage(AtomicU32);

impl Stage {
    pub fn reach(&self, stage: u32) {
        self.0.store(stage, Ordering::SeqCst);
    }

    pub fn has_reached(&self, stage: u32) -> bool {
        self.0.load(Ordering::SeqCst) >= stage
    }

    pub async fn wait_for(&self, stage: u32) {
        while !self.has_reached(stage) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A cluster in a simulated world. Nodes are counted from 1.
pub struct World {
    pub sim: turmoil::Sim<'static>,
    pub disks: Vec<MemDisk>,
    pub stage: Arc<Stage>,
}

impl World {
    /// Everything that happens follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        simulate(seed);
        let sim = turmoil::Builder::new()
            .rng_seed(seed)
            .simulation_duration(Duration::from_secs(600))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(3))
            .tcp_capacity(65536)
            .build();
        Self { sim, disks: Vec::new(), stage: Arc::default() }
    }

    /// Adds the next node.
    pub fn add_node(&mut self, seed: u64, config: Config) {
        let disk = MemDisk::new(seed);
        self.disks.push(disk.clone());
        let number = self.disks.len() as u64;
        self.sim.host(host(number), move || run_node(config.clone(), disk.clone()));
    }

    /// Adds `nodes` nodes of one cluster.
    pub fn add_cluster(&mut self, seed: u64, nodes: u64, change: impl Fn(&mut Config)) {
        for number in 1..=nodes {
            let mut config = config(number, nodes, 3);
            change(&mut config);
            self.add_node(seed + number, config);
        }
    }

    /// The node's process ends and everything it had not synced is gone.
    pub fn crash(&mut self, number: u64) {
        self.sim.crash(host(number));
        self.disks[number as usize - 1].crash_losing_everything_unsynced();
    }

    pub fn restart(&mut self, number: u64) {
        self.sim.bounce(host(number));
    }

    /// Runs on until the client has reached a stage.
    ///
    /// # Panics
    /// When the client ends before, or fails.
    pub fn run_until(&mut self, stage: u32) {
        while !self.stage.has_reached(stage) {
            assert!(!self.step(), "the client ended before stage {stage}");
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
            self.step();
        }
    }

    /// # Panics
    /// When the client fails.
    pub fn finish(&mut self) {
        while !self.step() {}
    }

    fn step(&mut self) -> bool {
        match self.sim.step() {
            Ok(ended) => ended,
            Err(error) => panic!("after {:?}: {error}", self.sim.elapsed()),
        }
    }
}

/// Runs a node until its host is crashed.
pub async fn run_node(config: Config, disk: MemDisk) -> turmoil::Result {
    let parts = NodeParts { config, disk: Arc::new(disk.clone()), net: Arc::new(SimNet) };
    let node = match Node::start(parts, CancellationToken::new()).await {
        // A process whose disk failed under it has ended; its host waits to be crashed.
        Err(_) if disk.has_lost_power() => None,
        started => started?,
    };
    std::future::pending::<()>().await;
    drop(node);
    Ok(())
}
