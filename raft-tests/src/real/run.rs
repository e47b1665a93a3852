//! One run from its first process to its verdict.
//!
//! Cluster up → clients → a while without faults → faults, each taken back and recovered from before the next → all
//! whole again → everything read back → replicas compared → history checked → `run.json`.

use std::collections::BTreeSet;
use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use ringraft::clock::{self, Moment};
use ringraft::transport::dial::TcpNet;
use ringraft::types::ShardId;

use super::faults::{self, Fault, Field, Observed, Standing};
use super::figures::{self, Figures};
use super::judge::{self, Wanted};
use super::look;
use super::options::Options;
use super::probe::Probe;
use super::profile::{self, Card, Dealer};
use super::world::{self, World};
use crate::checker;
use crate::fleet::{compare_digests_of, until};
use crate::history::{self, History, Outcome, Phase, Recorder};
use crate::record::{HISTORY_FILE_NAME, Run, RunKind};
use crate::report;
use crate::workload::{self, Finished, Load, Refusals, Target, Work};

/// From the first start of all nodes until each is ready.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Until every shard has a leader who stays.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// Load without a fault, in which the rate is measured.
const BEFORE_FAULTS: Duration = Duration::from_secs(4);
/// Until all nodes are ready again after a fault.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// Between a recovery and the next fault.
const BETWEEN_MS: (u64, u64) = (300, 1_200);
/// No fault begins so shortly before the end.
const LAST_FAULT: Duration = Duration::from_secs(4);
/// The second of a pair begins so much later.
const PAIR_MS: (u64, u64) = (100, 900);
const CHANGE_PAIR_MS: (u64, u64) = (0, 300);
/// Until every key is read back.
const FINISH_LIMIT: Duration = Duration::from_secs(60);
/// When it is set, the nodes' data is left behind after a good run, too.
const KEEP_VARIABLE: &str = "KEEP_NODES";

/// Runs it. An error is a machine or a harness that could not; what the cluster did wrong stands in the record.
pub async fn run(options: &Options) -> Result<Run, String> {
    let cards = options.profile.playable(|fault| super::can(options.ground, fault));
    if cards.is_empty() {
        return Err(format!("none of the faults of {} can be made without root", options.profile.name));
    }
    let started = clock::now();
    let mut run = Run::new(RunKind::Real, options.profile.name, options.seed, options.command());
    let directory = make_directory(&options.out)?;
    println!("{}: {}", options.profile.name, options.profile.about);
    println!("  again with: {}", options.command());
    super::tell_left_out(options);

    let plan = world::Plan {
        ground: options.ground,
        nodes: options.nodes,
        needs: profile::needs(&cards),
        directory: directory.clone(),
        seed: options.seed,
    };
    let mut world = World::build(&plan).await?;
    let everybody: Vec<usize> = (0..options.nodes).collect();
    world.start(&everybody)?;
    world.ready_within(START_LIMIT).await?;
    let probe = Probe::find(&world).await?;
    settle(&world, &probe).await?;
    println!("  {} nodes ready after {:.1} s", options.nodes, clock::now().since(started).as_secs_f64());

    let path = directory.join(HISTORY_FILE_NAME);
    let recorder = Recorder::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let targets =
        world.nodes.iter().map(|node| Target { name: node.name.clone(), address: node.http.address.clone() }).collect();
    let ground = workload::Ground { net: Arc::new(TcpNet), targets, recorder: recorder.clone(), seed: options.seed };
    let work = workload::start(ground, Load::default());
    let began = clock::now();
    tokio::time::sleep(BEFORE_FAULTS).await;
    let rate_before = figures::count(work.counts().ops.ok) / clock::now().since(began).as_secs_f64();

    let rng = StdRng::seed_from_u64(options.seed);
    let figures = Figures::default();
    let mut field =
        Field { world, rng, probe, recorder, figures, busy: BTreeSet::new(), paired: false, announced: None };
    let end = began.after(Duration::from_secs(options.seconds));
    make_faults(options, &cards, &mut field, &mut run, began, end, &work).await?;
    let seconds = clock::now().since(began).as_secs_f64();

    heal(&mut field, &mut run).await?;
    let finished = work.finish(FINISH_LIMIT).await;
    compare(&mut field).await;
    run.seconds = clock::now().since(started).as_secs_f64();
    let wanted = Wanted {
        classes: classes(&cards),
        aims_at_leaders: cards.iter().any(|card| card.iter().any(|fault| fault.aims_at_leader())),
        seconds,
        rate_before,
        times: options.times,
    };
    let Field { world, figures, recorder, .. } = field;
    drop((world, recorder));
    let history = read_history(&path)?;
    count(&mut run, &history, &finished);
    run.figures = figures.all();
    run.figures.insert("answers_per_second_before_faults_min".to_string(), rate_before);
    let stale = workload::stale_windows(&history);
    run.figures.insert("stale_window_ms_max".to_string(), stale.window_ms_max());
    run.figures.insert("lease_reads_answered".to_string(), figures::count(stale.answered));
    run.figures.insert("lease_reads_served_by_lease".to_string(), figures::count(stale.served_by_lease));
    run.figures.insert("lease_reads_answered_per_second_per_node_min".to_string(), stale.answered_per_second_min());
    for (code, refused) in workload::refusals(&history).into_iter().filter(|(_, refused)| refused.shown_up > 0) {
        let Refusals { count, shown_up } = refused;
        run.violations.push(format!("{shown_up} of {count} writes refused with {code} were carried out all the same"));
    }
    run.violations.extend(figures.violations);
    run.violations.extend(finished.violations);
    run.undecided.extend(finished.unverified);
    let report = checker::check(&history);
    run.violations.extend(report.violations.iter().map(|found| format!("{}: {}", found.key, found.why)));
    run.undecided.extend(report.undecided.iter().map(|key| format!("{}: {:?}", key.key, key.why)));
    run.void = judge::void(&run, &wanted);
    let written = run.write(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let page = report::write_page(&directory)?;
    super::print(&run, &written, &page);
    if run.verdict() == crate::record::Verdict::Good && std::env::var_os(KEEP_VARIABLE).is_none() {
        remove_data(&directory, options.nodes);
    }
    Ok(run)
}

fn make_directory(out: &Path) -> Result<std::path::PathBuf, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", out.display());
    fs::create_dir_all(out).map_err(failed)?;
    let directory = out.canonicalize().map_err(failed)?;
    if fs::read_dir(&directory).map_err(failed)?.next().is_some() {
        return Err(format!("{} is not empty: what an earlier run left is its evidence", directory.display()));
    }
    Ok(directory)
}

/// Waits until every shard has a leader, so that the first fault finds one.
async fn settle(world: &World, probe: &Probe) -> Result<(), String> {
    let settled = until(SETTLE_LIMIT, || async {
        let leaders = look::survey(&world.nodes).await.leaders();
        probe.shards().all(|shard| leaders.contains_key(&shard)).then_some(())
    });
    settled.await.ok_or_else(|| format!("not every shard has a leader after {SETTLE_LIMIT:?}"))
}

async fn make_faults(
    options: &Options,
    cards: &[Card],
    field: &mut Field,
    run: &mut Run,
    began: Moment,
    end: Moment,
    work: &Work,
) -> Result<(), String> {
    let mut dealer = Dealer::new(cards.to_vec());
    let mut dealt = 0;
    loop {
        let between = field.between(BETWEEN_MS.0, BETWEEN_MS.1);
        tokio::time::sleep(between).await;
        let over = match options.times {
            Some(times) => dealt >= times,
            None => clock::now().after(LAST_FAULT) >= end,
        };
        if over {
            return Ok(());
        }
        let Some(card) = dealer.deal(&mut field.rng) else { return Ok(()) };
        dealt += 1;
        let at = clock::now().since(began).as_secs_f64();
        let names: Vec<String> = card.iter().map(|fault| fault.name()).collect();
        let seen = play(card, field, run).await?;
        let ready = field.world.ready_within(RECOVERY_LIMIT).await;
        let took = clock::now().since(began).as_secs_f64() - at;
        println!("  {at:6.1} s  {:<40} {took:4.1} s  {}", names.join(" and "), seen.join("; "));
        if let Err(why) = ready {
            run.violations.push(format!("after {}: {why}", names.join(" and ")));
            return Ok(());
        }
        if note_crashes(&mut field.world, run) {
            return Ok(());
        }
        if !work.violations().is_empty() {
            println!("  a violation was seen: no more faults");
            return Ok(());
        }
    }
}

/// Makes a card's faults, each within the one before it. Says what was seen of each.
async fn play(card: Card, field: &mut Field, run: &mut Run) -> Result<Vec<String>, String> {
    field.paired = card.len() > 1;
    let mut standing: Vec<Standing> = Vec::new();
    let mut told = Vec::new();
    for (number, fault) in card.iter().enumerate() {
        if number > 0 {
            // A change is over soon: what is to meet it comes at once.
            let (from, to) = if matches!(card[0], Fault::Change(_)) { CHANGE_PAIR_MS } else { PAIR_MS };
            let pause = field.between(from, to);
            tokio::time::sleep(pause).await;
        }
        field.announced = None;
        match faults::begin(field, *fault).await {
            Ok(stands) => standing.push(stands),
            Err(why) => {
                let on = field.announced.take().unwrap_or_default();
                told.push(judge_fault(field, run, *fault, &on, false, Err(why))?);
            }
        }
    }
    while let Some(mut stands) = standing.pop() {
        tokio::time::sleep(stands.hold).await;
        let seen = faults::end(field, &mut stands).await;
        told.push(judge_fault(field, run, stands.fault, &stands.on, stands.hit_leader, seen)?);
    }
    field.paired = false;
    // A fault that broke off half-way may have left something.
    field.busy.clear();
    note_crashes(&mut field.world, run);
    let down: Vec<usize> = field.places().into_iter().filter(|place| !field.world.nodes[*place].is_running()).collect();
    field.world.start(&down)?;
    Ok(told)
}

/// A node that ended without being asked to is a bug. Says whether one did.
fn note_crashes(world: &mut World, run: &mut Run) -> bool {
    let before = run.violations.len();
    for node in &mut world.nodes {
        node.ended_by_itself();
        run.violations.extend(node.take_crashes());
    }
    run.violations.len() > before
}

fn judge_fault(
    field: &mut Field,
    run: &mut Run,
    fault: Fault,
    on: &[usize],
    hit_leader: bool,
    seen: Observed,
) -> Result<String, String> {
    run.fault(&fault.name(), seen.is_ok(), hit_leader);
    if !on.is_empty() {
        field.note(fault, Phase::End, on, seen.is_ok())?;
    }
    let nodes = field.world.names(on).join(" ");
    Ok(match seen {
        Ok(()) => format!("{nodes} confirmed"),
        Err(why) => format!("{nodes} NOT CONFIRMED: {why}"),
    })
}

/// Nothing is wrong any more, and every node is ready.
async fn heal(field: &mut Field, run: &mut Run) -> Result<(), String> {
    field.world.mend_all().await?;
    for node in &field.world.nodes {
        if node.is_running() {
            node.signal(rustix::process::Signal::CONT)?;
        }
    }
    let down: Vec<usize> = field.places().into_iter().filter(|place| !field.world.nodes[*place].is_running()).collect();
    field.world.start(&down)?;
    if let Err(why) = field.world.ready_within(RECOVERY_LIMIT).await {
        run.violations.push(format!("after all faults: {why}"));
    }
    note_crashes(&mut field.world, run);
    if field.world.spare_nodes
        && let Err(why) = faults::operation::at_rest(field).await
    {
        run.violations.push(why);
    }
    Ok(())
}

/// Every replica of every shard holds the same at one applied index.
async fn compare(field: &mut Field) {
    let shards = match faults::operation::shards(&field.world.nodes[0].http).await {
        Ok(shards) => shards,
        Err(why) => {
            field.figures.violations.push(format!("the shards cannot be listed: {why}"));
            return;
        }
    };
    let shards: Vec<ShardId> = shards.iter().filter_map(|shard| shard.parse().ok()).collect();
    let replicas = if field.world.spare_nodes { world::SPARED_REPLICATION } else { field.world.nodes.len() };
    match compare_digests_of(&shards, &field.world.peers(), replicas).await {
        Ok(compared) => field.figures.count("replicas_compared", compared as u64),
        Err(why) => field.figures.violations.push(why),
    }
}

fn read_history(path: &Path) -> Result<History, String> {
    let file = fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    history::read(BufReader::new(file)).map_err(|error| format!("{}: {error}", path.display()))
}

fn count(run: &mut Run, history: &History, finished: &Finished) {
    run.operations = history.operations.len() as u64;
    let ok = |outcome: &Outcome| matches!(outcome, Outcome::Ok(_));
    run.ok = history.operations.iter().filter(|operation| ok(&operation.outcome)).count() as u64;
    let writes = || history.operations.iter().filter(|operation| operation.is_write());
    run.writes = writes().count() as u64;
    run.unknown_writes = writes().filter(|write| matches!(write.outcome, Outcome::Info)).count() as u64;
    run.fail_by_code.clone_from(&finished.counts.fail_by_code);
    run.figures.insert("keys_read_back".to_string(), figures::count(finished.read_back as u64));
}

fn classes(cards: &[Card]) -> Vec<&'static str> {
    let mut classes: Vec<&str> = cards.iter().flat_map(|card| card.iter()).map(|fault| fault.class()).collect();
    classes.sort_unstable();
    classes.dedup();
    classes
}

/// What is large and, after a good run, of no more use.
fn remove_data(directory: &Path, nodes: usize) {
    for place in 0..nodes {
        for name in ["data", "backing"] {
            let path = directory.join(format!("n{}", place + 1)).join(name);
            if path.is_dir()
                && let Err(error) = fs::remove_dir_all(&path)
            {
                eprintln!("{}: {error}", path.display());
            }
        }
    }
}
