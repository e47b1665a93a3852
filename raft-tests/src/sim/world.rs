//! A cluster in a simulated world: its nodes can be started, crashed and looked into, and all time passes by
//! [`World::step`].

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ringraft::config::Config;
use ringraft::node::{Node, NodeParts};
use ringraft::router::Router;
use ringraft::storage::mem::MemDisk;
use tokio_util::sync::CancellationToken;

use super::clocks::{self, MILLION, NodeClock};
use super::net::SimNet;
use super::probe::Probes;

pub const HTTP_PORT: u16 = 7401;
pub const PEER_PORT: u16 = 7501;

/// Longest simulation, in simulated time.
const DURATION_MAX: Duration = Duration::from_secs(600);

/// Puts the simulation's clock and seed under this thread. The whole simulation runs on it.
pub fn simulate(seed: u64) {
    clocks::install(seed);
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

/// What is known of a node from outside: which of its lives this is, and its insides while it serves.
#[derive(Default)]
pub(super) struct Seat {
    pub(super) life: u64,
    pub(super) router: Option<Router>,
    /// Why the node's start failed, though its disk is sound.
    pub(super) refused: Option<String>,
}

/// How the simulated network is, before any fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) latency_min: Duration,
    pub(super) latency_max: Duration,
    /// Chance that a link that lost messages works again, at each message.
    pub(super) repair_rate: f64,
    /// Hosts run in another order at each step.
    pub(super) random_order: bool,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            latency_min: Duration::from_millis(1),
            latency_max: Duration::from_millis(3),
            repair_rate: 0.2,
            random_order: false,
        }
    }
}

/// A cluster in a simulated world. Nodes are counted from 1.
pub struct World {
    pub sim: turmoil::Sim<'static>,
    pub disks: Vec<MemDisk>,
    pub stage: Arc<Stage>,
    pub(super) seats: Vec<Rc<RefCell<Seat>>>,
}

impl World {
    /// Everything that happens follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_weather(seed, Weather::default())
    }

    pub(super) fn with_weather(seed: u64, weather: Weather) -> Self {
        simulate(seed);
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .simulation_duration(DURATION_MAX)
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(weather.latency_min)
            .max_message_latency(weather.latency_max)
            .repair_rate(weather.repair_rate)
            .tcp_capacity(65536)
            .udp_capacity(1024);
        if weather.random_order {
            builder.enable_random_order();
        }
        Self { sim: builder.build(), disks: Vec::new(), stage: Arc::default(), seats: Vec::new() }
    }

    /// Adds the next node.
    pub fn add_node(&mut self, seed: u64, config: Config) {
        self.seat_node(seed, config, NodeClock::new(Duration::ZERO, MILLION), None);
    }

    pub(super) fn seat_node(&mut self, seed: u64, config: Config, clock: NodeClock, probes: Option<Probes>) {
        let disk = MemDisk::new(seed);
        self.disks.push(disk.clone());
        let seat = Rc::new(RefCell::new(Seat::default()));
        self.seats.push(seat.clone());
        let number = self.disks.len() as u64;
        clocks::add_node(number, clock);
        self.sim.host(host(number), move || {
            clocks::runs_here(number);
            if let Some(probes) = probes.clone() {
                let place = usize::try_from(number - 1).expect("few nodes");
                tokio::task::spawn_local(probes.run(place));
            }
            run_node(config.clone(), disk.clone(), seat.clone())
        });
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
        self.end(number);
        self.disk(number).crash_losing_everything_unsynced();
    }

    /// The node's process ends, and of each store a random part of what it had not synced is gone.
    pub(super) fn crash_torn(&mut self, number: u64) {
        self.end(number);
        self.disk(number).crash();
    }

    fn end(&mut self, number: u64) {
        self.seat(number).borrow_mut().router = None;
        self.sim.crash(host(number));
    }

    pub fn restart(&mut self, number: u64) {
        self.sim.bounce(host(number));
    }

    pub(super) fn is_running(&mut self, number: u64) -> bool {
        self.sim.is_host_running(host(number))
    }

    pub fn disk(&self, number: u64) -> &MemDisk {
        &self.disks[usize::try_from(number - 1).expect("few nodes")]
    }

    pub(super) fn seat(&self, number: u64) -> &Rc<RefCell<Seat>> {
        &self.seats[usize::try_from(number - 1).expect("few nodes")]
    }

    /// The insides of a node that serves.
    pub(super) fn router(&self, number: u64) -> Option<Router> {
        self.seat(number).borrow().router.clone()
    }

    pub(super) fn numbers(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.disks.len() as u64
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
        match self.try_step() {
            Ok(ended) => ended,
            Err(error) => panic!("after {:?}: {error}", self.sim.elapsed()),
        }
    }

    /// A millisecond of everything. True when all clients have ended.
    ///
    /// # Errors
    /// What a client ended with, or that something panicked: then the world cannot go on.
    pub(super) fn try_step(&mut self) -> Result<bool, String> {
        let stepped = catch_unwind(AssertUnwindSafe(|| self.sim.step()));
        clocks::set_between(self.sim.elapsed());
        match stepped {
            Ok(stepped) => stepped.map_err(|error| error.to_string()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                Err(format!("a node or a client panicked: {}", text.unwrap_or_default()))
            }
        }
    }
}

/// Runs a node until its host is crashed.
async fn run_node(config: Config, disk: MemDisk, seat: Rc<RefCell<Seat>>) -> turmoil::Result {
    {
        let mut seat = seat.borrow_mut();
        (seat.life, seat.router, seat.refused) = (seat.life + 1, None, None);
    }
    let parts = NodeParts {
        config,
        disk: Arc::new(disk.clone()),
        net: Arc::new(SimNet),
        clients: tokio::runtime::Handle::current(),
    };
    let node = match Node::start(parts, CancellationToken::new()).await {
        // A process whose disk failed under it has ended; its host waits to be crashed.
        Err(_) if disk.has_lost_power() || disk.has_failed() => None,
        Err(error) => {
            seat.borrow_mut().refused = Some(error.to_string());
            return Err(error.into());
        }
        Ok(started) => started,
    };
    seat.borrow_mut().router = node.as_ref().map(|node| node.router().clone());
    std::future::pending::<()>().await;
    drop(node);
    Ok(())
}
