//! What a seed comes to: cluster, thresholds, timing, network, disks, load and the mix of faults. Every choice is drawn
//! here or from a stream of random numbers that is begun here.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::config::{Config, RaftConfig};

use super::clocks::{MILLION, NodeClock};
use super::world::{Weather, config};
use crate::workload::{Kind, Load};

/// How much faster or slower than the simulation a node's clock may run, in parts of a thousand. At the extremes a lease
/// of 0.7 × `election_max` is still shorter than the patience of the followers: 1.15 × 0.7 < 0.85.
pub(super) const RATE_ERROR_MAX: u64 = 150;

/// Shards of a cluster of three that traps are set in: leaders are spread, the catalog's too, so that every node leads one
/// of these.
const TRAP_SHARDS: u32 = 5;

/// What is broken in a run, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// Weights of the faults on each track; a track without any is quiet.
    pub(super) network: &'static [(NetworkFault, u32)],
    pub(super) process: &'static [(ProcessFault, u32)],
    pub(super) aside: &'static [(AsideFault, u32)],
    /// Clocks that do not run alike.
    pub(super) rates: Option<Rates>,
    /// It goes by the script of the lease trap.
    pub(super) trap: Option<Trap>,
    /// Clients read by lease most of the time.
    pub(super) is_about_leases: bool,
    /// Clocks stand still in a suspend, as CLOCK_MONOTONIC does and Ringraft's clock does not: this has to be noticed.
    pub(super) clocks_stop: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rates {
    Any,
    /// The first node's clock is as slow as may be, all others' as fast: the worst for its leases.
    FirstSlow,
}

/// What makes the followers forget the leader before its lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trap {
    /// One of them restarts.
    Restart,
    /// Their clocks are faster.
    Rates,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NetworkFault {
    IsolateLeader,
    Halves,
    /// Two halves that only one node in the middle reaches.
    Bridge,
    OneLink,
    /// A leader that nobody is heard by.
    Deaf,
    /// A leader that nobody hears.
    Mute,
    Clients,
    /// Messages wait and all arrive in the end.
    Hold,
    Loss,
    Latency,
    SuspendShort,
    SuspendLong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessFault {
    PowerLossOne,
    PowerLossLeader,
    PowerLossMajority,
    PowerLossAll,
    /// Between two steps that become durable.
    PowerLossAtStep,
    /// A failed write of the log ends the process.
    WriteFails,
    /// Down until the others have purged what it needs.
    LeftBehind,
}

/// Faults that end no process and cut no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AsideFault {
    SlowDisk,
    Transfer,
}

use AsideFault as A;
use NetworkFault as N;
use ProcessFault as P;

const NETWORK: &[(N, u32)] = &[
    (N::IsolateLeader, 4),
    (N::Halves, 3),
    (N::Bridge, 3),
    (N::OneLink, 3),
    (N::Deaf, 2),
    (N::Mute, 2),
    (N::Clients, 2),
    (N::Hold, 3),
    (N::Loss, 3),
    (N::Latency, 3),
];
const SUSPENDS: &[(N, u32)] = &[(N::SuspendShort, 1), (N::SuspendLong, 1)];
const ALL_NETWORK: &[(N, u32)] = &[
    (N::IsolateLeader, 4),
    (N::Halves, 3),
    (N::Bridge, 3),
    (N::OneLink, 3),
    (N::Deaf, 2),
    (N::Mute, 2),
    (N::Clients, 2),
    (N::Hold, 3),
    (N::Loss, 3),
    (N::Latency, 3),
    (N::SuspendShort, 3),
    (N::SuspendLong, 3),
];
const POWER: &[(P, u32)] = &[
    (P::PowerLossOne, 2),
    (P::PowerLossLeader, 4),
    (P::PowerLossMajority, 2),
    (P::PowerLossAll, 3),
    (P::PowerLossAtStep, 4),
];
const DISK: &[(P, u32)] = &[(P::WriteFails, 3), (P::PowerLossAtStep, 1)];
const BEHIND: &[(P, u32)] = &[(P::LeftBehind, 3), (P::PowerLossAll, 1), (P::PowerLossAtStep, 1)];
const ALL_PROCESS: &[(P, u32)] = &[
    (P::PowerLossOne, 2),
    (P::PowerLossLeader, 4),
    (P::PowerLossMajority, 2),
    (P::PowerLossAll, 3),
    (P::PowerLossAtStep, 4),
    (P::WriteFails, 2),
    (P::LeftBehind, 1),
];
const ALL_ASIDE: &[(A, u32)] = &[(A::SlowDisk, 1), (A::Transfer, 2)];

const CALM: Scenario = Scenario {
    name: "calm",
    what: "no fault at all",
    network: &[],
    process: &[],
    aside: &[],
    rates: None,
    trap: None,
    is_about_leases: false,
    clocks_stop: false,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "mixed",
        what: "everything at once",
        network: ALL_NETWORK,
        process: ALL_PROCESS,
        aside: ALL_ASIDE,
        rates: Some(Rates::Any),
        ..CALM
    },
    Scenario { name: "power", what: "power losses, also between any two durable steps", process: POWER, ..CALM },
    Scenario { name: "partitions", what: "partitions, loss, delay", network: NETWORK, ..CALM },
    Scenario {
        name: "clocks",
        what: "clock rates, suspends and cut-off leaders under lease reads",
        network: &[(N::SuspendShort, 2), (N::SuspendLong, 2), (N::IsolateLeader, 3), (N::Mute, 1), (N::Deaf, 1)],
        rates: Some(Rates::Any),
        is_about_leases: true,
        ..CALM
    },
    Scenario { name: "suspends", what: "nodes that stop and go on", network: SUSPENDS, is_about_leases: true, ..CALM },
    Scenario { name: "disks", what: "failed writes and slow disks", process: DISK, aside: &[(A::SlowDisk, 1)], ..CALM },
    Scenario { name: "snapshots", what: "nodes that come back after the log was purged", process: BEHIND, ..CALM },
    Scenario {
        name: "transfers",
        what: "leaderships handed over under partitions and power losses",
        network: NETWORK,
        process: POWER,
        aside: &[(A::Transfer, 1)],
        ..CALM
    },
    Scenario {
        name: "lease-trap",
        what: "a voter restarted inside the lease it granted",
        trap: Some(Trap::Restart),
        is_about_leases: true,
        ..CALM
    },
    Scenario {
        name: "lease-margin",
        what: "a leader with a slow clock cut off from followers with fast ones",
        rates: Some(Rates::FirstSlow),
        trap: Some(Trap::Rates),
        is_about_leases: true,
        ..CALM
    },
    Scenario {
        name: "stopped-clocks",
        what: "suspends that stop the clock too, which no lease survives: must end in a violation",
        network: &[(N::SuspendLong, 1)],
        is_about_leases: true,
        clocks_stop: true,
        ..CALM
    },
    CALM,
];

impl Scenario {
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }
}

/// A run before it begins.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) scenario: &'static Scenario,
    pub(super) nodes: u64,
    pub(super) replicas: u8,
    pub(super) shards: u32,
    pub(super) raft: RaftConfig,
    pub(super) flush_log_bytes: u64,
    pub(super) log_tail_bytes: usize,
    pub(super) weather: Weather,
    /// How long a sync of the log takes when nothing is wrong.
    pub(super) sync: (Duration, Duration),
    pub(super) clocks: Vec<NodeClock>,
    pub(super) load: Load,
    /// How long faults go on.
    pub(super) safety: Duration,
    /// Longest pause between two faults of a track.
    pub(super) pause_max: Duration,
}

/// Streams of random numbers, which do not disturb each other.
#[derive(Clone, Copy)]
pub(super) enum Stream {
    Plan = 1,
    Network = 2,
    Process = 3,
    Aside = 4,
    Trap = 5,
}

pub(super) fn stream(seed: u64, stream: Stream) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream as u64)
}

fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Plan {
    pub(super) fn new(seed: u64, scenario: &'static Scenario, safety: Duration) -> Self {
        let rng = &mut stream(seed, Stream::Plan);
        let nodes = if scenario.trap.is_some() || rng.random_bool(0.6) { 3 } else { 5 };
        let replicas = if nodes == 5 && rng.random() { 5 } else { 3 };
        let raft = if scenario.trap.is_some() { trap_timing(rng) } else { timing(rng) };
        let clocks = (1..=nodes).map(|number| node_clock(rng, scenario.rates, number)).collect();
        let latency_min = millis(1);
        let latency_max = millis(rng.random_range(2..=(raft.heartbeat_ms / 4).clamp(3, 15)));
        let weather = Weather { latency_min, latency_max, random_order: rng.random(), ..Weather::default() };
        let sync_longest = Duration::from_micros(rng.random_range(500..=8_000));
        let load = load(rng, scenario);
        Self {
            seed,
            scenario,
            nodes,
            replicas,
            shards: if scenario.trap.is_some() { TRAP_SHARDS } else { rng.random_range(1..=4) },
            raft,
            // Little in a scenario about what happens when it is over.
            flush_log_bytes: 1 << rng.random_range(12..=if scenario.process == BEHIND { 13 } else { 17 }),
            log_tail_bytes: 1 << rng.random_range(10..=20),
            weather,
            sync: (sync_longest / 8, sync_longest),
            clocks,
            load,
            safety,
            pause_max: millis(rng.random_range(400..=2_000)),
        }
    }

    pub(super) fn config(&self, number: u64) -> Config {
        let mut config = config(number, self.nodes, self.shards);
        config.cluster.replication_factor = self.replicas;
        config.raft = self.raft.clone();
        config.storage.flush_log_bytes = self.flush_log_bytes;
        config.storage.log_tail_bytes = self.log_tail_bytes;
        config
    }

    pub(super) fn election_max(&self) -> Duration {
        millis(self.raft.election_max_ms)
    }

    pub(super) fn node_seed(&self, number: u64) -> u64 {
        self.seed.wrapping_mul(31).wrapping_add(number)
    }

    /// In words, for people.
    pub(super) fn describe(&self) -> String {
        let rates: Vec<String> = self.clocks.iter().map(|clock| format!("{:.3}", clock.rate as f64 / 1e6)).collect();
        format!(
            "{} nodes, {} replicas, {} shards; heartbeat {} ms, election {}-{} ms, probe {} ms; log {} KiB, tail {} KiB; \
             latency 1-{} ms, sync up to {} us; clocks {}",
            self.nodes,
            self.replicas,
            self.shards,
            self.raft.heartbeat_ms,
            self.raft.election_min_ms,
            self.raft.election_max_ms,
            self.raft.quorum_loss_probe_ms,
            self.flush_log_bytes >> 10,
            self.log_tail_bytes >> 10,
            self.weather.latency_max.as_millis(),
            self.sync.1.as_micros(),
            rates.join(" "),
        )
    }
}

/// Some hundred operations a second in all, of several kinds; in a scenario about leases mostly reads by lease, because an
/// old answer is possible for some hundred milliseconds alone.
fn load(rng: &mut StdRng, scenario: &Scenario) -> Load {
    let kinds = Kind::ALL.into_iter();
    let leases = scenario.is_about_leases;
    let kinds = kinds.filter(|kind| match kind {
        Kind::Register => true,
        Kind::LeaseReads if leases => true,
        _ => rng.random_bool(0.6),
    });
    let kinds = kinds.collect();
    Load {
        kinds,
        clients_per_target: rng.random_range(2..=4),
        pause: millis(rng.random_range(15..=60)),
        register_keys: rng.random_range(6..=20),
        lease_reads_per_second: if scenario.trap.is_some() {
            20
        } else if leases {
            200
        } else {
            rng.random_range(10..=50)
        },
        lease_keys: 3,
        lease_write_pause: millis(if leases && scenario.trap.is_none() { 8 } else { rng.random_range(15..=60) }),
        insert_pause: millis(rng.random_range(50..=200)),
        scan_pause: millis(rng.random_range(300..=1_200)),
        ..Load::default()
    }
}

/// Within `config/rules.rs`, and with room for clocks of different rates: a follower's patience is longer than three
/// heartbeats of the slowest leader.
fn timing(rng: &mut StdRng) -> RaftConfig {
    let heartbeat_ms = rng.random_range(20..=120);
    let election_min_ms = heartbeat_ms * rng.random_range(40..=60) / 10 + 20;
    let election_max_ms = election_min_ms * rng.random_range(13..=20) / 10;
    let quorum_loss_probe_ms = election_max_ms * rng.random_range(20..=35) / 10;
    RaftConfig { heartbeat_ms, election_min_ms, election_max_ms, quorum_loss_probe_ms }
}

/// A lease much longer than it takes to elect, which a follower begins that long after it has forgotten the leader.
fn trap_timing(rng: &mut StdRng) -> RaftConfig {
    let election_max_ms = rng.random_range(800..=1_200);
    RaftConfig { heartbeat_ms: 20, election_min_ms: 60, election_max_ms, quorum_loss_probe_ms: election_max_ms * 3 }
}

fn node_clock(rng: &mut StdRng, rates: Option<Rates>, number: u64) -> NodeClock {
    let origin = Duration::from_secs(rng.random_range(0..100_000));
    let error = RATE_ERROR_MAX * (MILLION / 1000);
    let (slowest, fastest) = (MILLION - error, MILLION + error);
    let any = match rng.random_range(0..4) {
        // The extremes matter most, and a cluster of them most of all.
        0 => slowest,
        1 => fastest,
        _ => rng.random_range(slowest..=fastest),
    };
    let rate = match rates {
        None => MILLION,
        Some(Rates::Any) => any,
        Some(Rates::FirstSlow) => {
            if number == 1 {
                slowest
            } else {
                fastest
            }
        }
    };
    let mut clock = NodeClock::new(origin, rate);
    clock.wall_ahead_ms = rng.random_range(-86_400_000..=86_400_000);
    clock
}
