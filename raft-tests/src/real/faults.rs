//! Faults: how each begins, how it ends, and what is looked at to be sure that it took place.
//!
//! A fault that nobody saw proves nothing. So [`end`] gives an observation for each: the process's state, the count of a
//! rule that dropped packets, a new leader's term, a clock that was read back. What could not be observed is unconfirmed,
//! and voids the run. Nothing here says anything about the cluster's answers; that is the checker's.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use ringraft::clock::{self, Moment};

pub use self::operation::Change;
use super::figures::Figures;
use super::look::{self, Leader, ShardId};
use super::probe::Probe;
use super::world::{Kind, Way, World};
use crate::fleet::until;
use crate::history::{Phase, Recorder};

mod clocks;
mod disk;
mod network;
pub(super) mod operation;
mod process;
mod snapshot;
mod trap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Leader,
    /// Not the leader of the shard that is aimed at.
    Follower,
    /// Any.
    One,
    Majority,
    All,
}

/// Of a pause, against the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Short,
    Long,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    IsolateLeader,
    Halves,
    /// Two sides that only share the node in the middle.
    Bridge,
    OneLink,
    /// Nothing reaches the leader.
    DeafLeader,
    /// The leader reaches nobody.
    MuteLeader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    DayAhead,
    DayBehind,
    /// Some 200 years.
    FarAhead,
    /// Back to soon after 1970.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    BitFlip,
    Eio,
    Full,
    SlowSync,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill(Who),
    Pause(Who, Length),
    Cut(Shape),
    Loss,
    Reset,
    Slow,
    Delay,
    Clock(Clock),
    LeaseTrap,
    Snapshot,
    Power(Who),
    /// Power lost on one node, of whose unsynced pages some survive, or parts of some.
    Torn,
    Disk(Disk),
    /// A change of the cluster.
    Change(Change),
}

impl Fault {
    /// Class and kind, as in a history and in `run.json`.
    pub fn name(self) -> String {
        let who = |who: Who| match who {
            Who::Leader => "leader",
            Who::Follower => "follower",
            Who::One => "one",
            Who::Majority => "majority",
            Who::All => "all",
        };
        let kind = match self {
            Fault::Kill(victims) | Fault::Power(victims) => who(victims).to_string(),
            Fault::Pause(victims, Length::Short) => format!("{}-short", who(victims)),
            Fault::Pause(victims, Length::Long) => format!("{}-long", who(victims)),
            Fault::Cut(Shape::IsolateLeader) => "leader".to_string(),
            Fault::Cut(Shape::Halves) => "halves".to_string(),
            Fault::Cut(Shape::Bridge) => "bridge".to_string(),
            Fault::Cut(Shape::OneLink) => "one-link".to_string(),
            Fault::Cut(Shape::DeafLeader) => "deaf-leader".to_string(),
            Fault::Cut(Shape::MuteLeader) => "mute-leader".to_string(),
            Fault::Clock(Clock::DayAhead) => "day-ahead".to_string(),
            Fault::Clock(Clock::DayBehind) => "day-behind".to_string(),
            Fault::Clock(Clock::FarAhead) => "far-ahead".to_string(),
            Fault::Clock(Clock::Reset) => "reset".to_string(),
            Fault::Torn => "torn".to_string(),
            Fault::Disk(_)
            | Fault::Loss
            | Fault::Reset
            | Fault::Slow
            | Fault::Delay
            | Fault::LeaseTrap
            | Fault::Snapshot
            | Fault::Change(_) => {
                return self.class().to_string();
            }
        };
        format!("{}/{kind}", self.class())
    }

    pub fn class(self) -> &'static str {
        match self {
            Fault::Kill(_) => "kill",
            Fault::Pause(..) => "pause",
            Fault::Cut(_) => "partition",
            Fault::Loss => "loss",
            Fault::Reset => "reset",
            Fault::Slow => "slow-link",
            Fault::Delay => "delay",
            Fault::Clock(_) => "clock",
            Fault::LeaseTrap => "lease-trap",
            Fault::Snapshot => "snapshot",
            Fault::Power(_) | Fault::Torn => "power-loss",
            Fault::Change(change) => change.name(),
            Fault::Disk(Disk::BitFlip) => "bit-flip",
            Fault::Disk(Disk::Eio) => "eio",
            Fault::Disk(Disk::Full) => "disk-full",
            Fault::Disk(Disk::SlowSync) => "slow-sync",
        }
    }

    pub fn aims_at_leader(self) -> bool {
        match self {
            Fault::Kill(who) | Fault::Power(who) | Fault::Pause(who, _) => who == Who::Leader,
            Fault::Cut(shape) => matches!(shape, Shape::IsolateLeader | Shape::DeafLeader | Shape::MuteLeader),
            Fault::LeaseTrap => true,
            _ => false,
        }
    }
}

/// A shard that is aimed at, and who led it a moment ago.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    pub shard: ShardId,
    pub leader: Leader,
}

/// Where faults are made, and by which choices.
pub struct Field {
    pub world: World,
    pub rng: StdRng,
    pub probe: Probe,
    pub recorder: Recorder,
    pub figures: Figures,
    /// Nodes that a standing fault has stopped, killed or damaged.
    pub busy: BTreeSet<usize>,
    /// Whether another fault stands.
    pub paired: bool,
    /// Who is hit by the fault that begins, as the history was told.
    pub announced: Option<Vec<usize>>,
}

/// How long a shard may take to have a leader who can be aimed at.
const LEADER_LIMIT: Duration = Duration::from_secs(10);
/// How long a majority may take to acknowledge a write again. Far beyond what it needs, on a busy machine too.
const GOES_ON_LIMIT: Duration = Duration::from_secs(10);

impl Field {
    /// Writes into the history that a fault begins, before it does.
    pub fn announce(&mut self, fault: Fault, on: &[usize]) -> Result<(), String> {
        self.announced = Some(on.to_vec());
        self.note(fault, Phase::Begin, on, false)
    }

    pub fn note(&self, fault: Fault, phase: Phase, on: &[usize], confirmed: bool) -> Result<(), String> {
        let noted = self.recorder.nemesis(&fault.name(), phase, &self.world.names(on), confirmed);
        noted.map_err(|error| format!("the history: {error}"))
    }

    pub fn places(&self) -> Vec<usize> {
        (0..self.world.nodes.len()).collect()
    }

    pub fn free(&self) -> Vec<usize> {
        self.places().into_iter().filter(|place| !self.busy.contains(place)).collect()
    }

    pub fn majority(&self) -> usize {
        self.world.nodes.len() / 2 + 1
    }

    pub fn between(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from_ms..=to_ms))
    }

    /// A random one of these.
    pub fn choose(&mut self, of: &[usize]) -> Result<usize, String> {
        if of.is_empty() {
            return Err("every node is hit already".to_string());
        }
        Ok(of[self.rng.random_range(0..of.len())])
    }

    /// So many random ones of these, in their order.
    pub fn choose_some(&mut self, of: &[usize], count: usize) -> Vec<usize> {
        let mut left = of.to_vec();
        while left.len() > count {
            let out = self.rng.random_range(0..left.len());
            left.remove(out);
        }
        left
    }

    /// A random shard with its leader of this moment, who is not hit yet.
    pub async fn aim(&mut self) -> Result<Aim, String> {
        let found = until(LEADER_LIMIT, || async {
            let leaders = look::survey(&self.world.nodes).await.leaders();
            let free = |leader: &&Leader| !self.busy.contains(&leader.place);
            let aim = |shard| leaders.get(&shard).filter(free).map(|leader| Aim { shard, leader: *leader });
            let aims: Vec<Aim> = self.probe.shards().filter_map(aim).collect();
            (!aims.is_empty()).then_some(aims)
        });
        let aims = found.await.ok_or_else(|| format!("no shard has a leader to aim at within {LEADER_LIMIT:?}"))?;
        Ok(aims[self.rng.random_range(0..aims.len())])
    }

    /// Whether one of these leads a data shard at this moment.
    pub async fn any_leads(&self, places: &[usize]) -> bool {
        let leaders = look::survey(&self.world.nodes).await.leaders();
        self.probe.shards().any(|shard| leaders.get(&shard).is_some_and(|leader| places.contains(&leader.place)))
    }

    pub fn others(&self, places: &[usize]) -> Vec<usize> {
        self.places().into_iter().filter(|place| !places.contains(place)).collect()
    }

    /// Waits until the shard takes writes without its old leader, and notes how long it did not.
    async fn goes_on_without(&mut self, aim: Aim, since: Moment, figure: &str) -> Result<(), String> {
        let others = self.others(&[aim.leader.place]);
        let acknowledged = self.probe.first_acknowledged(&self.world, aim.shard, &others, GOES_ON_LIMIT).await;
        match acknowledged {
            Some(at) => {
                self.figures.time(figure, at.since(since));
                Ok(())
            }
            None => {
                let what =
                    format!("shard {} took no write within {GOES_ON_LIMIT:?} after it lost its leader", aim.shard);
                self.figures.violations.push(what.clone());
                Err(what)
            }
        }
    }
}

/// What a fault that stands needs to be ended and judged.
pub struct Standing {
    pub fault: Fault,
    pub on: Vec<usize>,
    pub hit_leader: bool,
    /// How long it is to stand from here on.
    pub hold: Duration,
    held: Held,
}

enum Held {
    /// Killed; to be started. Whether SIGKILL ended each.
    Dead {
        killed: bool,
    },
    Stopped,
    /// Stopped for so long that somebody else must come to lead.
    Deposed {
        aim: Aim,
    },
    Ways {
        ways: Vec<Way>,
        kind: Kind,
        before: Vec<u64>,
        deposed: Option<Aim>,
    },
    Clock {
        seconds: i64,
    },
    /// Over already; what was seen.
    Over {
        seen: Observed,
    },
    Starved(snapshot::Starved),
    Disk(disk::Sick),
    Operation(operation::Begun),
}

/// What was seen of a fault: nothing, or why it is not sure that it took place.
pub type Observed = Result<(), String>;

/// Makes a fault. An error is one that did not come about, and stands for nothing.
pub async fn begin(field: &mut Field, fault: Fault) -> Result<Standing, String> {
    let standing = match fault {
        Fault::Kill(who) => process::kill(field, fault, who).await,
        Fault::Pause(who, length) => process::pause(field, fault, who, length).await,
        Fault::Cut(shape) => network::cut(field, fault, shape).await,
        Fault::Loss | Fault::Reset | Fault::Slow | Fault::Delay => network::spoil(field, fault).await,
        Fault::Clock(step) => clocks::step(field, fault, step).await,
        Fault::LeaseTrap => trap::spring(field).await,
        Fault::Snapshot => snapshot::starve(field).await,
        Fault::Power(who) => disk::lose_power(field, fault, who).await,
        Fault::Torn => disk::lose_power_torn(field).await,
        Fault::Disk(kind) => disk::harm(field, fault, kind).await,
        Fault::Change(change) => operation::begin(field, fault, change).await,
    }?;
    let hits_nodes = match &standing.held {
        Held::Dead { .. } | Held::Stopped | Held::Deposed { .. } | Held::Starved(_) => true,
        Held::Ways { .. } | Held::Clock { .. } | Held::Over { .. } | Held::Operation(_) => false,
        Held::Disk(sick) => !sick.goes_on(),
    };
    if hits_nodes {
        field.busy.extend(&standing.on);
    }
    Ok(standing)
}

/// Takes it back and says what was seen. Every node runs again afterwards, but need not be ready.
pub async fn end(field: &mut Field, standing: &mut Standing) -> Observed {
    let seen = match &mut standing.held {
        Held::Dead { killed } => process::revive(field, &standing.on, *killed),
        Held::Stopped => process::resume(field, &standing.on, None).await,
        Held::Deposed { aim } => process::resume(field, &standing.on, Some(*aim)).await,
        Held::Ways { ways, kind, before, deposed } => network::mend(field, ways, *kind, before, *deposed).await,
        Held::Clock { seconds } => clocks::back(field, &standing.on, *seconds).await,
        Held::Over { seen } => seen.clone(),
        Held::Starved(starved) => snapshot::feed(field, starved).await,
        Held::Disk(sick) => disk::cure(field, &standing.on, sick).await,
        Held::Operation(begun) => operation::end(field, begun).await,
    };
    for place in standing.on.iter().filter(|_| !matches!(standing.held, Held::Operation(_))) {
        field.busy.remove(place);
    }
    seen
}

/// Time since an earlier moment.
fn since(earlier: Moment) -> Duration {
    clock::now().since(earlier)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::profile;

    #[test]
    fn a_name_begins_with_its_class_and_no_two_faults_have_one() {
        let mut names: std::collections::BTreeMap<String, Fault> = std::collections::BTreeMap::new();
        for fault in profile::ALL.iter().flat_map(|profile| profile.cards).flat_map(|card| card.iter()) {
            let name = fault.name();
            assert_eq!(name.split('/').next(), Some(fault.class()));
            assert_eq!(*names.entry(name).or_insert(*fault), *fault);
        }
    }
}
