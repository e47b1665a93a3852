//! The lease trap, again and again: one follower is cut off from the leader until it has forgotten it; then the leader is
//! cut off from everybody, and the other follower, which has just renewed the leader's lease, loses power and comes back at
//! once. If it has forgotten the lease it grants, the two elect another leader while the old one still answers reads by it.
//!
//! A second trap has no restart: there the old leader's clock is slow and the others' are fast, so that these forget it
//! early by its reckoning. The margin between the lease that is granted and the one that is trusted has to be enough.
//!
//! Clients read by lease at every node and write at every node while a trap is set ([`super::hammer`]), so that an old
//! answer is in the history.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use ringraft::types::{META_SHARD, ShardId};

use super::fault::{Cut, Standing, both_ways, leaders, place};
use super::hammer::Aim;
use super::plan::{Plan, Stream, Trap, stream};
use super::probe::{Probes, Way};
use super::run::Log;
use super::world::{World, host};
use crate::history::{Phase, Recorder};
use crate::record::Run;

/// A restart later than this after the cut would be no trap.
const BACK_WITHIN: Duration = Duration::from_millis(30);

/// How long before the leader is cut off from all its key is read and written.
const AIM_BEFORE: Duration = Duration::from_millis(150);
/// Names tried until one belongs to the shard.
const KEYS_TRIED_MAX: usize = 1_000;
/// Entries that a follower may lack when a trap is set.
const FOLLOWS_WITHIN: u64 = 10;

pub(super) struct Traps {
    kind: Trap,
    class: &'static str,
    rng: StdRng,
    probes: Probes,
    recorder: Recorder,
    latency: Duration,
    election_max: Duration,
    due: Duration,
    aim: Aim,
    rounds: u32,
    round: Option<Round>,
}

/// One trap on its way.
struct Round {
    shard: ShardId,
    leader: u64,
    /// The follower that restarts.
    voter: u64,
    key: String,
    /// All are cuts of [`Standing::Network`] that the round itself ends.
    cuts: Vec<(Standing, Vec<Way>)>,
    cut_all_at: Duration,
    is_cut: bool,
    /// The voter is back since then.
    back_at: Option<Duration>,
    /// Another than the old leader led, this long after the cut.
    successor_after: Option<Duration>,
    led_at_cut: bool,
    over_at: Duration,
}

impl Traps {
    pub(super) fn new(plan: &Plan, probes: Probes, recorder: Recorder, begin: Duration, aim: Aim) -> Self {
        let kind = plan.scenario.trap.expect("only such a scenario sets traps");
        Self {
            kind,
            class: match kind {
                Trap::Restart => "lease-trap",
                Trap::Rates => "lease-trap/clock-rates",
            },
            rng: stream(plan.seed, Stream::Trap),
            probes,
            recorder,
            latency: plan.weather.latency_max,
            election_max: plan.election_max(),
            due: begin + plan.election_max() * 2,
            aim,
            rounds: 0,
            round: None,
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.round.is_none()
    }

    pub(super) fn step(&mut self, world: &mut World, run: &mut Run, log: &mut Log, may_begin: bool) {
        if let Some(round) = self.round.take() {
            self.round = self.go_on(world, round, run, log);
        } else if may_begin && world.sim.elapsed() >= self.due {
            self.round = self.begin(world, log);
        }
    }

    fn begin(&mut self, world: &World, log: &mut Log) -> Option<Round> {
        let class = self.class;
        let now = world.sim.elapsed();
        let leaders: Vec<(ShardId, u64)> = leaders(world).into_iter().collect();
        let all: Vec<u64> = world.numbers().collect();
        // Clients read no catalog. The first node has the slow clock.
        let fits =
            |(shard, number): &(ShardId, u64)| *shard != META_SHARD && (self.kind != Trap::Rates || *number == 1);
        let leaders: Vec<_> = leaders.into_iter().filter(fits).collect();
        if leaders.is_empty() {
            return None;
        }
        let (shard, leader) = leaders[self.rng.random_range(0..leaders.len())];
        if !is_followed(world, shard, leader) {
            return None;
        }
        let others: Vec<u64> = all.into_iter().filter(|number| *number != leader).collect();
        let first = self.rng.random_range(0..others.len());
        let (forgets, voter) = (others[first], others[(first + 1) % others.len()]);
        self.rounds += 1;
        let key = (0_u32..).map(|number| format!("trap/{}/{number}", self.rounds));
        let router = world.router(leader)?;
        let key = key.take(KEYS_TRIED_MAX).find(|key| router.shard_of(key.as_bytes()) == Some(shard))?;
        // The round ends its cuts itself.
        let (alone, cuts) = match self.kind {
            Trap::Restart => {
                let ways = both_ways(&[place(leader)], &[place(forgets)]);
                let cut = Standing::cut(world, Cut::Drop, ways.clone(), Duration::MAX);
                (self.election_max * self.rng.random_range(20..=35) / 10, vec![(cut, ways)])
            }
            // With all entries either of them may be elected.
            Trap::Rates => (AIM_BEFORE * 2, Vec::new()),
        };
        log.say(now, format_args!("begin {class} of shard {shard}: n{leader} leads, n{forgets} and n{voter} follow"));
        let _ = self.recorder.nemesis(class, Phase::Begin, &[host(leader), host(voter)], false);
        Some(Round {
            shard,
            leader,
            voter,
            key,
            cuts,
            cut_all_at: now + alone,
            is_cut: false,
            back_at: None,
            successor_after: None,
            led_at_cut: false,
            over_at: now + alone + self.election_max * 3,
        })
    }

    fn go_on(&mut self, world: &mut World, mut round: Round, run: &mut Run, log: &mut Log) -> Option<Round> {
        let now = world.sim.elapsed();
        let is_aimed = (round.cut_all_at - AIM_BEFORE..round.cut_all_at + self.election_max * 2).contains(&now);
        self.aim.at(is_aimed.then(|| round.key.clone()));
        if now < round.cut_all_at {
            return Some(round);
        }
        if !round.is_cut {
            round.is_cut = true;
            round.led_at_cut = leaders(world).get(&round.shard) == Some(&round.leader);
            let left = match self.kind {
                Trap::Restart => vec![round.voter],
                Trap::Rates => world.numbers().filter(|number| *number != round.leader).collect(),
            };
            let left: Vec<_> = left.into_iter().map(place).collect();
            let ways = both_ways(&[place(round.leader)], &left);
            let cut = Standing::cut(world, Cut::Drop, ways.clone(), Duration::MAX);
            round.cuts.push((cut, ways));
            log.say(now, format_args!("n{} is cut off", round.leader));
            if self.kind == Trap::Restart {
                world.crash(round.voter);
                world.restart(round.voter);
                log.say(now, format_args!("n{} restarts", round.voter));
            }
            return Some(round);
        }
        if round.back_at.is_none() && world.router(round.voter).is_some() {
            round.back_at = Some(now);
        }
        if round.successor_after.is_none() {
            let leads = world.numbers().filter(|number| *number != round.leader).any(|number| {
                let group = world.router(number).and_then(|router| router.host().group(round.shard));
                group.is_some_and(|group| group.replica().is_leader())
            });
            round.successor_after = leads.then(|| now.saturating_sub(round.cut_all_at));
        }
        if now < round.over_at {
            return Some(round);
        }
        self.end(world, round, run, log);
        None
    }

    fn end(&mut self, world: &mut World, round: Round, run: &mut Run, log: &mut Log) {
        let class = self.class;
        let now = world.sim.elapsed();
        let mut nothing_arrived = true;
        for (mut cut, ways) in round.cuts {
            let seen = self.probes.tally(&ways, round.cut_all_at + self.latency, now);
            nothing_arrived &= seen.sent > 0 && seen.arrived == 0;
            cut.expire(now);
            nothing_arrived &= cut.poll(world, &self.probes, self.latency).is_some_and(|proof| proof.confirmed);
        }
        let back_after = round.back_at.map(|back| back.saturating_sub(round.cut_all_at));
        let was_back = back_after.is_some_and(|after| after <= BACK_WITHIN);
        let confirmed = round.led_at_cut && nothing_arrived && was_back && round.successor_after.is_some();
        let word = if confirmed { "confirmed" } else { "UNCONFIRMED" };
        let successor = round.successor_after;
        log.say(now, format_args!("end {class}: {word}, back after {back_after:?}, a successor after {successor:?}"));
        let _ = self.recorder.nemesis(class, Phase::End, &[host(round.leader), host(round.voter)], confirmed);
        run.fault(class, confirmed, round.led_at_cut);
        if let Some(successor) = successor {
            let earliest = run.figures.entry("successor_after_trap_ms_min".to_string()).or_insert(f64::MAX);
            *earliest = earliest.min(successor.as_millis() as f64);
        }
        self.due = now + self.election_max;
    }
}

/// Every node follows this leader, closely: connections that lost messages are given up only after seconds of silence.
fn is_followed(world: &World, shard: ShardId, leader: u64) -> bool {
    let observed = |number: u64| {
        let group = world.router(number)?.host().group(shard)?;
        Some((group.replica().id(), group.replica().observe()))
    };
    let Some((id, leading)) = observed(leader) else { return false };
    world.numbers().all(|number| {
        let near =
            |index: Option<u64>| index.map_or(0, |index| index + FOLLOWS_WITHIN) >= leading.last_index.unwrap_or(0);
        observed(number).is_some_and(|(_, follower)| follower.vote.candidate == id && near(follower.last_index))
    })
}
