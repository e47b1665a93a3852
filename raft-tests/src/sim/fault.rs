//! What can be broken, how it is begun, ended, and seen to have been: one value stands for one fault while it stands.
//!
//! A fault of the network is confirmed by the probes (what should not arrive did not, though it was sent), one of a process
//! by the simulation, one of a disk by the disk, a transfer by who leads afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use ringraft::types::{ReplicaId, ShardId};

use super::clocks;
use super::probe::{Probes, Way};
use super::world::{World, host};

/// The client's host.
pub(super) const CLIENT: &str = "c1";

/// How links are broken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cut {
    /// Messages are lost, both ways.
    Drop,
    /// Messages are lost on these ways alone.
    DropOneWay,
    /// Messages wait until the end.
    Hold,
    /// With this chance a message breaks its link, until one of the next mends it.
    Loss(f64),
    /// Messages take up to this long.
    Latency(Duration),
    /// The node stands still until the end: all of its messages wait, both ways, and no timer of its Raft fires. Its
    /// clock goes on. What it had received before it still works through.
    Suspend { node: u64, time: Duration, clock_stops: bool },
}

/// A fault that stands.
#[derive(Debug)]
pub(super) enum Standing {
    Network {
        cut: Cut,
        ways: Vec<Way>,
        begun: Duration,
        until: Duration,
        late_timers: u64,
    },
    /// Nodes that are down, each until its time.
    Down {
        nodes: Vec<(u64, Duration)>,
    },
    /// Something is about to end this node's process, or has.
    Doomed {
        node: u64,
        /// What has not come by then is given up.
        armed_until: Duration,
        down_for: Duration,
        down_since: Option<Duration>,
    },
    LeftBehind {
        node: u64,
        /// Last index and directory of each of its replicas when it went.
        had: BTreeMap<ShardId, (Option<u64>, u64)>,
        until: Duration,
        is_back: bool,
    },
    SlowDisk {
        node: u64,
        until: Duration,
        /// A sync must have taken this long.
        wanted: Duration,
        usual: (Duration, Duration),
    },
    Transfer {
        shard: ShardId,
        to: ReplicaId,
        until: Duration,
    },
}

/// Whether a fault took place, and what that is taken from.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) confirmed: bool,
    pub(super) seen: String,
}

impl Proof {
    fn new(confirmed: bool, seen: impl Into<String>) -> Self {
        Self { confirmed, seen: seen.into() }
    }
}

/// Longest that a node which was left behind may take to get a snapshot.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(10);

fn name(world: &World, place: usize) -> String {
    if place == world.disks.len() { CLIENT.to_string() } else { host(place as u64 + 1) }
}

pub(super) fn place(number: u64) -> usize {
    usize::try_from(number - 1).expect("few nodes")
}

/// Both ways between each of some and each of others.
pub(super) fn both_ways(some: &[usize], others: &[usize]) -> Vec<Way> {
    let ways = some.iter().flat_map(|one| others.iter().map(move |other| (*one, *other)));
    ways.filter(|(one, other)| one != other).flat_map(|(one, other)| [(one, other), (other, one)]).collect()
}

/// Where each shard is led, as far as its leader knows.
pub(super) fn leaders(world: &World) -> BTreeMap<ShardId, u64> {
    let mut leaders = BTreeMap::new();
    for number in world.numbers() {
        let Some(router) = world.router(number) else { continue };
        for group in router.host().groups() {
            if group.replica().is_leader() {
                leaders.insert(group.shard(), number);
            }
        }
    }
    leaders
}

impl Standing {
    pub(super) fn cut(world: &World, cut: Cut, ways: Vec<Way>, until: Duration) -> Self {
        let begun = world.sim.elapsed();
        let mut late_timers = 0;
        for (from, to) in &ways {
            let (from, to) = (name(world, *from), name(world, *to));
            match cut {
                Cut::Drop => world.sim.partition(from, to),
                Cut::DropOneWay => world.sim.partition_oneway(from, to),
                Cut::Hold | Cut::Suspend { .. } => world.sim.hold(from, to),
                Cut::Latency(longest) => world.sim.set_link_max_message_latency(from, to, longest),
                Cut::Loss(_) => {}
            }
        }
        if let Cut::Suspend { node, time, clock_stops } = cut {
            late_timers = clocks::late_timers(node);
            clocks::suspend(node, begun, time, clock_stops);
        }
        Self::Network { cut, ways, begun, until, late_timers }
    }

    /// The part of [`Standing::cut`] that changes the simulation itself.
    pub(super) fn set_loss(world: &mut World, ways: &[Way], chance: f64) {
        for (from, to) in ways {
            let (from, to) = (name(world, *from), name(world, *to));
            world.sim.set_link_fail_rate(from, to, chance);
        }
    }

    /// Power of these nodes fails now.
    pub(super) fn power_loss(world: &mut World, nodes: Vec<(u64, Duration)>, torn: bool) -> Self {
        for (node, _) in &nodes {
            match torn {
                true => world.crash_torn(*node),
                false => world.crash(*node),
            }
        }
        Self::Down { nodes }
    }

    pub(super) fn left_behind(world: &mut World, node: u64, until: Duration) -> Self {
        let groups = world.router(node).map(|router| router.host().groups()).unwrap_or_default();
        let had = groups.iter().map(|group| {
            let replica = group.replica();
            (group.shard(), (replica.observe().last_index, replica.machine().store.directory()))
        });
        let had = had.collect();
        drop(groups);
        world.crash(node);
        Self::LeftBehind { node, had, until, is_back: false }
    }

    pub(super) fn slow_disk(world: &World, node: u64, until: Duration, slow: (Duration, Duration)) -> Self {
        let usual = world.disk(node).sync_time();
        world.disk(node).set_sync_time(slow.0, slow.1);
        Self::SlowDisk { node, until, wanted: slow.0, usual }
    }

    pub(super) fn transfer(world: &World, shard: ShardId, at: u64, to: ReplicaId, until: Duration) -> Self {
        let group = world.router(at).and_then(|router| router.host().group(shard));
        if let Some(group) = group {
            // Only hands the order to the replica's Raft, which does not wait.
            let _ = group.replica().transfer_leader(to).now_or_never();
        }
        Self::Transfer { shard, to, until }
    }

    /// A fault of the network ends with the next [`Standing::poll`].
    pub(super) fn expire(&mut self, now: Duration) {
        if let Self::Network { until, .. } = self {
            *until = now;
        }
    }

    /// Goes on with the fault. Whether it took place, once it is over; then nothing of it is left.
    pub(super) fn poll(&mut self, world: &mut World, probes: &Probes, usual_latency: Duration) -> Option<Proof> {
        let now = world.sim.elapsed();
        match self {
            Self::Network { until, .. } if now < *until => None,
            Self::Network { cut, ways, begun, late_timers, .. } => {
                let seen = probes.tally(ways, *begun, now);
                let late = match *cut {
                    Cut::Suspend { node, .. } => clocks::late_timers(node) - *late_timers,
                    _ => 0,
                };
                let confirmed = match *cut {
                    Cut::Drop | Cut::DropOneWay | Cut::Hold => seen.sent > 0 && seen.arrived == 0,
                    // At most one of each way is still on it.
                    Cut::Loss(_) => seen.sent > seen.arrived + ways.len() as u64,
                    Cut::Latency(_) => seen.slowest > usual_latency * 2,
                    Cut::Suspend { .. } => seen.sent > 0 && seen.arrived == 0 && late > 0,
                };
                mend(world, *cut, ways, usual_latency);
                let (sent, arrived, slowest) = (seen.sent, seen.arrived, seen.slowest);
                let told =
                    format!("{arrived} of {sent} datagrams arrived, in up to {slowest:?}; {late} timers were late");
                Some(Proof::new(confirmed, told))
            }
            Self::Down { nodes } => {
                nodes.retain(|(node, until)| {
                    let is_over = now >= *until;
                    if is_over {
                        world.restart(*node);
                    }
                    !is_over
                });
                nodes.is_empty().then(|| Proof::new(true, "the processes ended"))
            }
            Self::Doomed { node, armed_until, down_for, down_since } => match down_since {
                Some(since) if now >= *since + *down_for => {
                    world.restart(*node);
                    Some(Proof::new(true, "the process ended at a write"))
                }
                Some(_) => None,
                None if !world.is_running(*node) => {
                    *down_since = Some(now);
                    None
                }
                // What it was armed with goes with the process.
                None if now >= *armed_until => {
                    world.crash(*node);
                    world.restart(*node);
                    Some(Proof::new(false, "there was no write to fail"))
                }
                None => None,
            },
            Self::LeftBehind { node, had, until, is_back } => {
                if *is_back {
                    let groups = world.router(*node).map(|router| router.host().groups()).unwrap_or_default();
                    let installed = groups.iter().any(|group| {
                        let before = had.get(&group.shard()).map(|(_, directory)| *directory);
                        before.is_some_and(|before| group.replica().machine().store.directory() > before)
                    });
                    let told = if installed { "a snapshot was installed" } else { "no snapshot was installed" };
                    return (installed || now >= *until).then(|| Proof::new(installed, told));
                }
                if now >= *until || is_purged(world, *node, had) {
                    world.restart(*node);
                    (*is_back, *until) = (true, now + SNAPSHOT_LIMIT);
                }
                None
            }
            Self::SlowDisk { node, until, wanted, usual } => {
                if now < *until {
                    return None;
                }
                let slowest = world.disk(*node).slowest_sync();
                world.disk(*node).set_sync_time(usual.0, usual.1);
                Some(Proof::new(slowest >= *wanted, format!("a sync took {slowest:?}")))
            }
            Self::Transfer { shard, to, until } => {
                let leads = world.numbers().any(|number| {
                    let group = world.router(number).and_then(|router| router.host().group(*shard));
                    group.is_some_and(|group| group.replica().id() == *to && group.replica().is_leader())
                });
                let told = if leads { "the target leads" } else { "the target does not lead" };
                (leads || now >= *until).then(|| Proof::new(leads, told))
            }
        }
    }
}

fn mend(world: &mut World, cut: Cut, ways: &[Way], usual_latency: Duration) {
    for (from, to) in ways {
        let (from, to) = (name(world, *from), name(world, *to));
        match cut {
            Cut::Drop => world.sim.repair(from, to),
            Cut::DropOneWay => world.sim.repair_oneway(from, to),
            Cut::Hold | Cut::Suspend { .. } => world.sim.release(from, to),
            Cut::Latency(_) => world.sim.set_link_max_message_latency(from, to, usual_latency),
            Cut::Loss(_) => {
                world.sim.set_link_fail_rate(from.clone(), to.clone(), 0.0);
                world.sim.repair(from, to);
            }
        }
    }
}

/// Somebody has purged what a replica of this node would need next.
fn is_purged(world: &World, node: u64, had: &BTreeMap<ShardId, (Option<u64>, u64)>) -> bool {
    let others = world.numbers().filter(|number| *number != node).filter_map(|number| world.router(number));
    others.flat_map(|router| router.host().groups()).any(|group| {
        let last = had.get(&group.shard()).map(|(last, _)| *last);
        let observed = group.replica().observe();
        last.is_some_and(|last| observed.leads && observed.purged_index > last)
    })
}
