//! Whole nodes under turmoil: simulated time and network, disks in memory with the sync boundary modelled. The server's
//! code is the one that runs in production; only its three seams (clock, network, disk) are others.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
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

/// Runs a node until its host is crashed.
pub async fn run_node(config: Config, disk: MemDisk) -> turmoil::Result {
    let parts = NodeParts { config, disk: Arc::new(disk), net: Arc::new(SimNet) };
    let node = Node::start(parts, CancellationToken::new()).await?;
    std::future::pending::<()>().await;
    drop(node);
    Ok(())
}
