//! When what is broken: three tracks (network, processes, and what needs neither), each with one fault at a time and pauses
//! between them, so that faults of different kinds meet.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::fault::{Cut, Proof, Standing, both_ways, leaders, place};
use super::plan::{AsideFault, NetworkFault, Plan, ProcessFault, Stream, stream};
use super::probe::Probes;
use super::run::Log;
use super::world::{World, host};
use crate::history::{Phase, Recorder};
use crate::record::Run;

/// Shortest pause between two faults of a track.
const PAUSE_MIN: Duration = Duration::from_millis(150);

/// How long a failure waits for the step that it comes at.
const ARMED_LIMIT: Duration = Duration::from_secs(3);
/// Durable steps that still succeed.
const STEPS_MAX: u64 = 30;

pub(super) struct Nemesis {
    network: Track<NetworkFault>,
    process: Track<ProcessFault>,
    aside: Track<AsideFault>,
    probes: Probes,
    recorder: Recorder,
    latency: Duration,
    election_max: Duration,
    pause_max: Duration,
    clocks_stop: bool,
}

struct Track<F: 'static> {
    rng: StdRng,
    faults: &'static [(F, u32)],
    due: Duration,
    standing: Option<(About, Standing)>,
}

/// What is told of a fault.
struct About {
    class: String,
    on: Vec<u64>,
    hit_leader: bool,
}

impl<F: Copy> Track<F> {
    fn new(rng: StdRng, faults: &'static [(F, u32)]) -> Self {
        Self { rng, faults, due: Duration::ZERO, standing: None }
    }

    /// The next fault, if one is due.
    fn draw(&mut self, now: Duration) -> Option<F> {
        if self.standing.is_some() || self.faults.is_empty() || now < self.due {
            return None;
        }
        let total = self.faults.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.rng.random_range(0..total);
        self.faults.iter().find_map(|(fault, weight)| {
            let is_it = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            is_it.then_some(*fault)
        })
    }
}

fn between(rng: &mut StdRng, from: Duration, to: Duration) -> Duration {
    let micros = |time: Duration| u64::try_from(time.as_micros()).expect("a short time");
    // Whole milliseconds are what the simulation steps by; less would end late and look early.
    Duration::from_millis(rng.random_range(micros(from)..=micros(to)) / 1000)
}

fn one_of<T: Copy>(rng: &mut StdRng, of: &[T]) -> Option<T> {
    (!of.is_empty()).then(|| of[rng.random_range(0..of.len())])
}

fn shuffled(rng: &mut StdRng, mut numbers: Vec<u64>) -> Vec<u64> {
    for at in (1..numbers.len()).rev() {
        numbers.swap(at, rng.random_range(0..=at));
    }
    numbers
}

impl Nemesis {
    pub(super) fn new(plan: &Plan, probes: Probes, recorder: Recorder, begin: Duration) -> Self {
        let scenario = plan.scenario;
        let mut nemesis = Self {
            network: Track::new(stream(plan.seed, Stream::Network), scenario.network),
            process: Track::new(stream(plan.seed, Stream::Process), scenario.process),
            aside: Track::new(stream(plan.seed, Stream::Aside), scenario.aside),
            probes,
            recorder,
            latency: plan.weather.latency_max,
            election_max: plan.election_max(),
            pause_max: plan.pause_max,
            clocks_stop: scenario.clocks_stop,
        };
        nemesis.network.due = begin + nemesis.pause_max / 2;
        nemesis.process.due = begin + nemesis.pause_max;
        nemesis.aside.due = begin + nemesis.pause_max;
        nemesis
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.network.standing.is_none() && self.process.standing.is_none() && self.aside.standing.is_none()
    }

    /// Goes on with what stands, and begins what is due while `may_begin`.
    pub(super) fn step(&mut self, world: &mut World, run: &mut Run, log: &mut Log, may_begin: bool) {
        self.go_on(world, run, log);
        if !may_begin {
            return;
        }
        let now = world.sim.elapsed();
        if let Some(fault) = self.network.draw(now) {
            let begun = self.break_network(world, fault);
            self.began(world, log, |nemesis| &mut nemesis.network.standing, begun);
        }
        if let Some(fault) = self.process.draw(now) {
            let begun = self.break_process(world, fault);
            self.began(world, log, |nemesis| &mut nemesis.process.standing, begun);
        }
        if let Some(fault) = self.aside.draw(now) {
            let begun = self.break_aside(world, fault);
            self.began(world, log, |nemesis| &mut nemesis.aside.standing, begun);
        }
    }

    fn began(
        &mut self,
        world: &World,
        log: &mut Log,
        track: impl Fn(&mut Self) -> &mut Option<(About, Standing)>,
        begun: Option<(About, Standing)>,
    ) {
        let Some((about, standing)) = begun else { return };
        log.say(world.sim.elapsed(), format_args!("begin {} on {:?}: {standing:?}", about.class, about.on));
        self.tell(&about, Phase::Begin, false);
        *track(self) = Some((about, standing));
    }

    fn tell(&self, about: &About, phase: Phase, confirmed: bool) {
        let on: Vec<String> = about.on.iter().map(|number| host(*number)).collect();
        // A history that cannot be written is noticed by the clients.
        let _ = self.recorder.nemesis(&about.class, phase, &on, confirmed);
    }

    fn go_on(&mut self, world: &mut World, run: &mut Run, log: &mut Log) {
        let now = world.sim.elapsed();
        let mut over = Vec::new();
        let pause_max = self.pause_max;
        macro_rules! poll {
            ($track:ident) => {
                if let Some((about, mut standing)) = self.$track.standing.take() {
                    match standing.poll(world, &self.probes, self.latency) {
                        None => self.$track.standing = Some((about, standing)),
                        Some(proof) => {
                            self.$track.due = now + between(&mut self.$track.rng, PAUSE_MIN, pause_max);
                            over.push((about, proof));
                        }
                    }
                }
            };
        }
        poll!(network);
        poll!(process);
        poll!(aside);
        for (about, Proof { confirmed, seen }) in over {
            let word = if confirmed { "confirmed" } else { "UNCONFIRMED" };
            log.say(now, format_args!("end {} on {:?}: {word}: {seen}", about.class, about.on));
            self.tell(&about, Phase::End, confirmed);
            run.fault(&about.class, confirmed, about.hit_leader);
        }
    }

    fn break_network(&mut self, world: &mut World, fault: NetworkFault) -> Option<(About, Standing)> {
        use NetworkFault as N;
        let leaders = leaders(world);
        let rng = &mut self.network.rng;
        let all: Vec<u64> = shuffled(rng, world.numbers().collect());
        let leading: Vec<u64> = leaders.values().copied().collect();
        let leader = one_of(rng, &leading).unwrap_or(all[0]);
        let client = all.len();
        let places = |numbers: &[u64]| numbers.iter().map(|number| place(*number)).collect::<Vec<_>>();
        let others = |of: u64| places(&all.iter().copied().filter(|number| *number != of).collect::<Vec<_>>());
        let minority = (all.len() - 1) / 2;
        let (few, many) = all.split_at(minority);
        let short = between(rng, self.election_max / 2, self.election_max * 4);
        let from_to = |from: &[usize], to: &[usize]| {
            from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to))).collect::<Vec<_>>()
        };
        let at = [place(leader)];
        let (class, on, cut, ways) = match fault {
            N::IsolateLeader => {
                let mut others = others(leader);
                // Sometimes from its clients too, else they go on asking it.
                others.extend(rng.random_bool(0.2).then_some(client));
                ("partition/isolate-leader", vec![leader], Cut::Drop, both_ways(&at, &others))
            }
            N::Halves => ("partition/halves", few.to_vec(), Cut::Drop, both_ways(&places(few), &places(many))),
            N::Bridge => {
                let (middle, rest) = all.split_first().expect("there are nodes");
                let (one, other) = rest.split_at(rest.len() / 2);
                ("partition/bridge", vec![*middle], Cut::Drop, both_ways(&places(one), &places(other)))
            }
            N::OneLink => {
                let ways = both_ways(&[place(all[0])], &[place(all[1])]);
                ("partition/one-link", all[..2].to_vec(), Cut::Drop, ways)
            }
            N::Deaf => ("partition/deaf-leader", vec![leader], Cut::DropOneWay, from_to(&others(leader), &at)),
            N::Mute => ("partition/mute-leader", vec![leader], Cut::DropOneWay, from_to(&at, &others(leader))),
            N::Clients => ("partition/clients", few.to_vec(), Cut::Drop, both_ways(&places(few), &[client])),
            N::Hold => ("hold", vec![all[0]], Cut::Hold, both_ways(&[place(all[0])], &others(all[0]))),
            N::Loss => {
                let everyone = places(&all);
                let mut ways = both_ways(&everyone, &everyone);
                ways.sort_unstable();
                ways.dedup();
                let chance = f64::from(rng.random_range(5..60)) / 1000.0;
                Standing::set_loss(world, &ways, chance);
                ("loss", all.clone(), Cut::Loss(chance), ways)
            }
            N::Latency => {
                let longest = between(rng, self.election_max / 8, self.election_max);
                ("latency", vec![all[0]], Cut::Latency(longest), both_ways(&[place(all[0])], &others(all[0])))
            }
            N::SuspendShort | N::SuspendLong => {
                let node = if rng.random_bool(0.7) { leader } else { all[0] };
                let mut ways = others(node);
                ways.push(client);
                let ways = both_ways(&[place(node)], &ways);
                let (class, time) = match fault {
                    N::SuspendShort => {
                        ("suspend/shorter-than-lease", between(rng, self.election_max / 5, self.election_max * 6 / 10))
                    }
                    _ => ("suspend/longer-than-lease", between(rng, self.election_max, self.election_max * 5)),
                };
                let cut = Cut::Suspend { node, time, clock_stops: self.clocks_stop };
                let until = world.sim.elapsed() + time;
                let about = About { class: class.to_string(), on: vec![node], hit_leader: leading.contains(&node) };
                return Some((about, Standing::cut(world, cut, ways, until)));
            }
        };
        let hit_leader = on.iter().any(|number| leading.contains(number));
        let until = world.sim.elapsed() + short;
        Some((About { class: class.to_string(), on, hit_leader }, Standing::cut(world, cut, ways, until)))
    }

    fn break_process(&mut self, world: &mut World, fault: ProcessFault) -> Option<(About, Standing)> {
        use ProcessFault as P;
        let leaders = leaders(world);
        let now = world.sim.elapsed();
        let rng = &mut self.process.rng;
        let all: Vec<u64> = shuffled(rng, world.numbers().collect());
        let leading: Vec<u64> = leaders.values().copied().collect();
        let leader = one_of(rng, &leading).unwrap_or(all[0]);
        let down = |rng: &mut StdRng| match rng.random_range(0..3) {
            // Back before anyone noticed; within an election; after one.
            0 => between(rng, Duration::from_millis(2), Duration::from_millis(60)),
            1 => between(rng, Duration::from_millis(60), Duration::from_millis(700)),
            _ => between(rng, Duration::from_millis(700), Duration::from_millis(3_000)),
        };
        let (class, on) = match fault {
            P::PowerLossOne => ("power-loss/one", vec![all[0]]),
            P::PowerLossLeader => ("power-loss/leader", vec![leader]),
            P::PowerLossMajority => ("power-loss/majority", all[..all.len() / 2 + 1].to_vec()),
            P::PowerLossAll => ("power-loss/all", all.clone()),
            P::PowerLossAtStep | P::WriteFails => {
                let node = if rng.random() { leader } else { all[0] };
                let armed_until = now + ARMED_LIMIT;
                let down_for = down(rng);
                let class = if fault == P::WriteFails {
                    world.disk(node).fail_next_log_write();
                    "disk/write-fails"
                } else {
                    world.disk(node).lose_power_after(rng.random_range(0..STEPS_MAX));
                    "power-loss/at-step"
                };
                let hit_leader = leading.contains(&node);
                let standing = Standing::Doomed { node, armed_until, down_for, down_since: None };
                return Some((About { class: class.to_string(), on: vec![node], hit_leader }, standing));
            }
            P::LeftBehind => {
                let node = all[0];
                let hit_leader = leading.contains(&node);
                let standing = Standing::left_behind(world, node, now + Duration::from_secs(6));
                return Some((About { class: "left-behind".to_string(), on: vec![node], hit_leader }, standing));
            }
        };
        let torn = rng.random_bool(0.4);
        let together = rng.random_bool(0.5);
        let first = down(rng);
        let nodes = on.iter().map(|number| (*number, now + if together { first } else { down(rng) })).collect();
        let hit_leader = on.iter().any(|number| leading.contains(number));
        let class = if torn { format!("torn-{class}") } else { class.to_string() };
        let standing = Standing::power_loss(world, nodes, torn);
        Some((About { class, on, hit_leader }, standing))
    }

    fn break_aside(&mut self, world: &World, fault: AsideFault) -> Option<(About, Standing)> {
        let leaders = leaders(world);
        let now = world.sim.elapsed();
        let rng = &mut self.aside.rng;
        let leading: Vec<_> = leaders.into_iter().collect();
        match fault {
            AsideFault::SlowDisk => {
                let all: Vec<u64> = world.numbers().collect();
                let node = one_of(rng, &all)?;
                let shortest = between(rng, Duration::from_millis(20), self.election_max / 2);
                let until = now + between(rng, self.election_max * 2, self.election_max * 6);
                let hit_leader = leading.iter().any(|(_, leader)| *leader == node);
                let standing = Standing::slow_disk(world, node, until, (shortest, shortest * 2));
                Some((About { class: "disk/slow".to_string(), on: vec![node], hit_leader }, standing))
            }
            AsideFault::Transfer => {
                let (shard, at) = one_of(rng, &leading)?;
                let group = world.router(at)?.host().group(shard)?;
                let voters: Vec<_> =
                    group.replica().transfer_candidates().iter().map(|member| member.replica).collect();
                let to = one_of(rng, &voters)?;
                let standing = Standing::transfer(world, shard, at, to, now + Duration::from_secs(2));
                Some((About { class: "transfer".to_string(), on: vec![at], hit_leader: true }, standing))
            }
        }
    }
}
