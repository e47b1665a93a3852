//! One seed from its plan to its verdict: the cluster forms, faults stand while clients work (the safety phase), then all is
//! healed and everything must serve again, be equal and have kept what it promised (the liveness phase).

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;

use super::clocks;
use super::fault::CLIENT;
use super::hammer::{self, Aim};
use super::http;
use super::invariants::Invariants;
use super::nemesis::Nemesis;
use super::net::SimNet;
use super::plan::{Plan, RATE_ERROR_MAX, Scenario};
use super::probe::Probes;
use super::trap::Traps;
use super::world::{HTTP_PORT, Stage, World, host};
use crate::checker;
use crate::history::{self, Recorder};
use crate::record::{HISTORY_FILE_NAME, Run, RunKind};
use crate::workload::{self, Finished, Ground, Target};

/// What happened, beside the history, and told by simulated time.
pub(super) const EVENTS_FILE_NAME: &str = "events.log";

/// Within this a cluster without faults must be whole.
const FORMING_LIMIT: Duration = Duration::from_secs(40);
/// After healing, every node must be ready and every shard take a write within this.
const SERVING_LIMIT: Duration = Duration::from_secs(10);
/// Then everything must be read back within this.
const READING_LIMIT: Duration = Duration::from_secs(30);
/// Then all replicas must have the same rows within this.
const SETTLING_LIMIT: Duration = Duration::from_secs(10);
/// Fewer answered operations than this prove nothing.
const OPERATIONS_MIN: u64 = 100;
/// What one run is asked for.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) seed: u64,
    pub(super) scenario: &'static Scenario,
    pub(super) safety: Duration,
    /// Where `run.json`, the history and the events go. It is there.
    pub(super) out: PathBuf,
    pub(super) mutant: Option<String>,
}

impl Options {
    /// Repeats the run.
    pub(super) fn command(&self) -> String {
        let mut command = format!("raft-tests sim --seed {}", self.seed);
        let mut add = |flag: &str, value: &str| write!(command, " {flag} {value}").expect("text takes all");
        if self.scenario.name != super::command::SCENARIO_DEFAULT {
            add("--scenario", self.scenario.name);
        }
        if self.safety != super::command::SAFETY_DEFAULT {
            add("--seconds", &self.safety.as_secs().to_string());
        }
        if let Some(mutant) = &self.mutant {
            add("--mutant", mutant);
        }
        command
    }
}

/// Lines about what happened, each with the simulated time.
#[derive(Default)]
pub(super) struct Log {
    text: String,
}

impl Log {
    pub(super) fn say(&mut self, time: Duration, what: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{:>10.3} {what}", time.as_secs_f64()).expect("text takes all");
    }
}

/// Stages of the client, in order.
const READY: u32 = 1;
const HEALED: u32 = 2;
const SERVES: u32 = 3;
const FINISHED: u32 = 4;
const SETTLED: u32 = 5;

/// What the client found out.
#[derive(Default)]
struct Found {
    finished: Option<Finished>,
}

/// Runs one seed to its end and writes what it leaves. Uses up this process: see the module.
///
/// # Errors
/// When the files cannot be written.
pub(super) fn run(options: &Options) -> Result<Run, String> {
    let started = clocks::real_now();
    let mut run = Run::new(RunKind::Sim, options.scenario.name, options.seed, options.command());
    let plan = Plan::new(options.seed, options.scenario, options.safety);
    let history = options.out.join(HISTORY_FILE_NAME);
    let mut log = Log::default();
    log.say(Duration::ZERO, format_args!("seed {} {}: {}", plan.seed, plan.scenario.name, plan.describe()));
    let world = World::with_weather(plan.seed, plan.weather);
    let recorder = Recorder::create(&history).map_err(|error| format!("{}: {error}", history.display()))?;
    let mut course = Course::new(&plan, world, recorder);
    course.go(&plan, &mut run, &mut log);
    let simulated = course.world.sim.elapsed();
    course.invariants.tell(simulated, &mut log);
    run.simulated_seconds = simulated.as_secs_f64();
    let counts = course.invariants.counts;
    // The world ends before its history is read: what is dropped ends its operations.
    let finished = course.found.borrow_mut().finished.take();
    drop(course);
    figures(&mut run, &counts);
    judge(&mut run, &plan, &history, finished);
    for violation in &run.violations {
        log.say(simulated, format_args!("VIOLATION {violation}"));
    }
    let events = options.out.join(EVENTS_FILE_NAME);
    fs::write(&events, log.text).map_err(|error| format!("{}: {error}", events.display()))?;
    run.seconds = started.elapsed().as_secs_f64();
    run.write(&options.out).map_err(|error| format!("{}: {error}", options.out.display()))?;
    Ok(run)
}

fn figures(run: &mut Run, counts: &super::invariants::Counts) {
    let mut add = |name: &str, count: u64| {
        run.figures.insert(name.to_string(), count as f64);
    };
    add("observations", counts.observations);
    add("entries_compared", counts.entries_compared);
    add("commits_found_durable", counts.commits_found_durable);
    add("digests_compared", counts.digests_compared);
    add("leaders_elected", counts.leaders);
    add("votes_checked", counts.votes);
    add("snapshots_installed", counts.snapshots);
}

/// The longest true time, in milliseconds, that a node's clock takes for this long: what an age told by it stands for.
fn on_any_clock(age_ms: u64) -> u64 {
    // Both were cut to whole milliseconds.
    age_ms.saturating_add(1).saturating_mul(1000) / (1000 - RATE_ERROR_MAX) + 1
}

/// What the clients and the checker say of the history.
fn judge(run: &mut Run, plan: &Plan, history: &Path, finished: Option<Finished>) {
    if let Some(finished) = finished {
        run.violations.extend(finished.violations);
        run.undecided.extend(finished.unverified);
        let counts = finished.counts;
        (run.ok, run.writes, run.unknown_writes) = (counts.ops.ok, counts.writes.all(), counts.writes.info);
        run.fail_by_code = counts.fail_by_code;
    } else if run.violations.is_empty() {
        run.violations.push("the clients did not come to their end".to_string());
    }
    let read = File::open(history).map_err(|error| error.to_string());
    let read = read.and_then(|file| history::read(BufReader::new(file)).map_err(|error| error.to_string()));
    match read {
        Ok(mut read) => {
            if plan.scenario.rates.is_some() {
                read.operations.iter_mut().for_each(|operation| operation.age_ms = operation.age_ms.map(on_any_clock));
            }
            let report = checker::check(&read);
            run.operations = report.operations as u64;
            let windows = workload::stale_windows(&read);
            run.figures.insert("lease_reads_answered".to_string(), windows.answered as f64);
            run.figures.insert("lease_reads_by_lease".to_string(), windows.served_by_lease as f64);
            run.figures.insert("stale_window_ms_max".to_string(), windows.window_ms_max());
            run.violations.extend(report.violations.iter().map(|found| format!("key {}: {}", found.key, found.why)));
            run.undecided.extend(report.undecided.iter().map(|open| format!("key {}: {:?}", open.key, open.why)));
        }
        Err(_) if !run.violations.is_empty() => {}
        Err(error) => run.undecided.push(format!("the history cannot be checked: {error}")),
    }
    let breaks =
        |scenario: &Scenario| !scenario.network.is_empty() || !scenario.process.is_empty() || scenario.trap.is_some();
    if breaks(plan.scenario) && run.faults.values().all(|count| count.confirmed == 0) {
        run.void.push("no fault was confirmed".to_string());
    }
    if run.ok < OPERATIONS_MIN {
        run.void.push(format!("only {} operations were answered", run.ok));
    }
}

/// A run under way.
struct Course {
    world: World,
    invariants: Invariants,
    probes: Probes,
    recorder: Recorder,
    found: Rc<RefCell<Found>>,
    aim: Aim,
}

impl Course {
    fn new(plan: &Plan, mut world: World, recorder: Recorder) -> Self {
        let names = (1..=plan.nodes).map(host).chain([CLIENT.to_string()]).collect();
        let probes = Probes::new(names);
        for number in 1..=plan.nodes {
            let clock = plan.clocks[super::fault::place(number)];
            world.seat_node(plan.node_seed(number), plan.config(number), clock, Some(probes.clone()));
            world.disk(number).set_sync_time(plan.sync.0, plan.sync.1);
        }
        let found = Rc::new(RefCell::new(Found::default()));
        let aim = Aim::default();
        let client = Client {
            aim: aim.clone(),
            is_trap: plan.scenario.trap.is_some(),
            nodes: plan.nodes,
            shards: plan.shards,
            ground: Ground {
                net: Arc::new(SimNet),
                targets: (1..=plan.nodes).map(target).collect(),
                recorder: recorder.clone(),
                seed: plan.seed,
            },
            load: plan.load.clone(),
            stage: world.stage.clone(),
            found: found.clone(),
            probes: probes.clone(),
        };
        world.sim.client(CLIENT, client.run());
        Self { world, invariants: Invariants::default(), probes, recorder, found, aim }
    }

    fn go(&mut self, plan: &Plan, run: &mut Run, log: &mut Log) {
        if let Err(why) = self.phases(plan, run, log) {
            run.violations.push(why);
        }
        run.violations.append(&mut self.invariants.violations);
    }

    /// # Errors
    /// What ended the run early.
    fn phases(&mut self, plan: &Plan, run: &mut Run, log: &mut Log) -> Result<(), String> {
        self.until(FORMING_LIMIT, log, "the cluster did not form", |course| course.world.stage.has_reached(READY))?;
        log.say(self.now(), format_args!("formed"));
        let formed = self.now();
        run.figures.insert("forming_ms_max".to_string(), formed.as_millis() as f64);
        if plan.scenario.trap.is_some() {
            let aim = self.aim.clone();
            let mut traps = Traps::new(plan, self.probes.clone(), self.recorder.clone(), formed, aim);
            while self.now() < formed + plan.safety || !traps.is_quiet() {
                self.step(log)?;
                let may_begin = self.now() < formed + plan.safety;
                traps.step(&mut self.world, run, log, may_begin);
            }
        } else {
            let mut nemesis = Nemesis::new(plan, self.probes.clone(), self.recorder.clone(), formed);
            while self.now() < formed + plan.safety || !nemesis.is_quiet() {
                self.step(log)?;
                let may_begin = self.now() < formed + plan.safety;
                nemesis.step(&mut self.world, run, log, may_begin);
            }
        }
        if plan.scenario.rates.is_some() {
            self.confirm_rates(plan, run);
        }
        let healed = self.now();
        log.say(healed, format_args!("healed"));
        self.world.stage.reach(HEALED);
        let serves = |course: &mut Self| course.world.stage.has_reached(SERVES);
        self.until(SERVING_LIMIT, log, "not everything served again after healing", serves)?;
        let took = self.now() - healed;
        run.figures.insert("serving_after_healing_ms_max".to_string(), took.as_millis() as f64);
        log.say(self.now(), format_args!("serves"));
        let finished = |course: &mut Self| course.world.stage.has_reached(FINISHED);
        self.until(READING_LIMIT * 2, log, "not everything was read back", finished)?;
        let replicas = usize::from(plan.replicas);
        let mut why = String::new();
        let settled = |course: &mut Self| {
            let open = course.invariants.unsettled(&course.world, replicas);
            why = open.clone().unwrap_or_default();
            open.is_none()
        };
        let ended = self.until(SETTLING_LIMIT, log, "the replicas did not become equal", settled);
        ended.map_err(|error| format!("{error}: {why}"))?;
        self.invariants.compare_rows(&self.world);
        log.say(self.now(), format_args!("settled"));
        Ok(())
    }

    fn now(&self) -> Duration {
        self.world.sim.elapsed()
    }

    /// A millisecond, and what must hold after it.
    fn step(&mut self, log: &mut Log) -> Result<(), String> {
        let stepped = self.world.try_step();
        for number in self.world.numbers() {
            let disk = self.world.disk(number);
            // A real process would have ended at the failed write itself.
            if (disk.has_failed() || disk.has_lost_power()) && self.world.is_running(number) {
                let steps = if self.world.disk(number).has_failed() { "a write failed" } else { "the power failed" };
                log.say(self.now(), format_args!("n{number} ends: {steps}"));
                self.world.crash_torn(number);
            }
        }
        if let Err(error) = stepped {
            let refused = self.world.numbers().find_map(|number| {
                let refused = self.world.seat(number).borrow().refused.clone();
                refused.map(|why| format!("n{number} did not start: {why}"))
            });
            return Err(format!("at {} ms: {}", self.now().as_millis(), refused.unwrap_or(error)));
        }
        self.invariants.step(&self.world, log);
        match self.invariants.violations.first() {
            None => Ok(()),
            Some(_) => Err(self.invariants.violations.remove(0)),
        }
    }

    fn until(
        &mut self,
        limit: Duration,
        log: &mut Log,
        otherwise: &str,
        mut reached: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        let deadline = self.now() + limit;
        while !reached(self) {
            if self.now() >= deadline {
                return Err(format!("{otherwise} within {} s", limit.as_secs()));
            }
            self.step(log)?;
        }
        Ok(())
    }

    /// The rates are a fault that stands all the time: seen in what the clocks show in the end.
    fn confirm_rates(&self, plan: &Plan, run: &mut Run) {
        let now = self.now();
        let shown = (1..=plan.nodes).map(|number| {
            let origin = plan.clocks[super::fault::place(number)].origin;
            clocks::shown(number, now).saturating_sub(origin)
        });
        let (least, most) =
            shown.fold((Duration::MAX, Duration::ZERO), |(least, most), shown| (least.min(shown), most.max(shown)));
        let apart = most.as_secs_f64() / least.as_secs_f64() - 1.0;
        run.fault("clock/rates", apart > 0.01, true);
        run.figures.insert("clock_rates_apart_percent_max".to_string(), apart * 100.0);
    }
}

fn target(number: u64) -> Target {
    Target { name: host(number), address: format!("{}:{HTTP_PORT}", host(number)) }
}

/// The host that all clients run on.
struct Client {
    nodes: u64,
    shards: u32,
    ground: Ground,
    load: workload::Load,
    stage: Arc<Stage>,
    found: Rc<RefCell<Found>>,
    probes: Probes,
    aim: Aim,
    is_trap: bool,
}

impl Client {
    async fn run(self) -> turmoil::Result {
        let place = usize::try_from(self.nodes).expect("few nodes");
        tokio::task::spawn_local(self.probes.run(place));
        for node in 1..=self.nodes {
            http::until_ready(node).await?;
        }
        self.stage.reach(READY);
        if self.is_trap {
            hammer::start(&self.ground, &self.aim);
        }
        let work = workload::start(self.ground, self.load);
        self.stage.wait_for(HEALED).await;
        for node in 1..=self.nodes {
            http::until_ready(node).await?;
        }
        write_to_every_shard(self.nodes, self.shards).await?;
        self.stage.reach(SERVES);
        let finished = work.finish(READING_LIMIT).await;
        self.found.borrow_mut().finished = Some(finished);
        self.stage.reach(FINISHED);
        // The driver goes on until all is settled.
        self.stage.wait_for(SETTLED).await;
        Ok(())
    }
}

/// Writes through every node until every shard has taken a write through each.
async fn write_to_every_shard(nodes: u64, shards: u32) -> Result<(), String> {
    const PAUSE: Duration = Duration::from_millis(20);
    for node in 1..=nodes {
        let mut taken = std::collections::BTreeSet::new();
        let mut number = 0;
        while taken.len() < shards as usize {
            number += 1;
            let path = format!("/v1/kv/alive/{node}/{number}");
            match http::call(node, Method::PUT, &path, Bytes::from_static(b"alive")).await {
                Ok(answer) if answer.status().is_success() => {
                    let shard = answer.headers().get("kv-shard").and_then(|shard| shard.to_str().ok());
                    taken.insert(shard.ok_or_else(|| format!("{path}: an answer without kv-shard"))?.to_string());
                }
                // The limit of the phase ends this.
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }
    Ok(())
}
