//! `bench`: puts load on a cluster and says how it bore it. A client like any other: plain HTTP, nothing of the node.
//!
//! The order of a run: claim the prefix, write the keys that will be read, send the load (warm-up, then the measured
//! part), report, remove the keys; as JSON the report comes last, because it tells of the removal too. As many tasks as
//! there may be requests at the same time, each with one request after the other: nothing is spawned per request, and
//! nothing queues but in the schedule (`schedule`), which costs nothing.
//!
//! Parts: `args` what is asked for; `draw` what each request is; `schedule` when it is due; `route` whom it goes to;
//! `line` the connections; `ask` one request to its outcome; `tally` the counts; `keyspace` the keys before and after;
//! `report` what is printed.

pub(super) mod args;
mod ask;
mod draw;
mod keyspace;
mod line;
mod report;
mod route;
mod schedule;
pub(super) mod tally;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timer;

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::try_join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::args::{ClientArgs, Output};
use super::client::{Client, Request};
use super::exit::Failure;
use super::output::Printer;
use args::{BenchArgs, Settings};
use ask::{Asker, Ended};
use draw::Draw;
use keyspace::{Claim, Keyspace, Removed};
use report::Loaded;
use route::{Route, SHARD_MAP};
use schedule::Source;
use tally::Tally;

/// Descriptors besides the connections that requests are on: idle ones of other nodes, files, the runtime's own.
const DESCRIPTORS_SPARE: u64 = 256;
/// Descriptors taken at most, where the process may have more: what Linux allows a process unless it is told otherwise.
const DESCRIPTORS_MAX: u64 = 1 << 20;
/// After a failure a client of a closed loop waits so long, or as long as the node asks for within the limit: hammering
/// on a node that is down would measure nothing.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(1);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Runs `bench` with a runtime of its own.
pub(super) fn run(client: &ClientArgs, args: &BenchArgs) -> Result<(), Failure> {
    let settings = Settings::from_args(args)?;
    let printer = &mut Printer::standard(client.output());
    let client = Client::from_args(client)?;
    allow_connections(settings.pattern.requests_at_once())?;
    // By default half of the machine: the nodes may be on the other half.
    let threads = args.threads.map_or_else(
        || std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
        |threads| threads.into(),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|source| Failure::Io { what: "cannot start the runtime".to_string(), source })?;
    runtime.block_on(async {
        let stop = Stop::default();
        let _signals = AbortOnDropHandle::new(tokio::spawn(stop_on_signals(stop.clone())?));
        let mut watch = Watch::new(io::stderr().is_terminal());
        tokio::select! {
            // The run first: where it has figures, it tells them before it ends.
            biased;
            ended = bench(&client, settings, printer, &mut watch, stop.clone()) => ended,
            () = stop.at_once.cancelled() => Err(stopped_at_once()),
        }
    })
}

/// How a run is told to end early.
#[derive(Clone, Default)]
struct Stop {
    /// What was measured is told, and the keys are removed.
    in_order: CancellationToken,
    /// The keys stay where they are.
    at_once: CancellationToken,
}

fn stopped_at_once() -> Failure {
    Failure::Run("stopped at once: keys may be left, which a run with --take-over removes".to_string())
}

fn say_that_keys_are_left(prefix: &str) {
    let _ = writeln!(io::stderr(), "keys are left under {prefix:?}: a run with --take-over removes them");
}

/// The whole run.
async fn bench(
    client: &Client,
    settings: Settings,
    printer: &mut Printer,
    watch: &mut Watch,
    stop: Stop,
) -> Result<(), Failure> {
    let draw = Arc::new(Draw::new(&settings));
    let route = Route::new(settings.route, client.endpoints(), client.net());
    if route.is_leader_aware() {
        route.install_first(&client.send(&Request::get(SHARD_MAP)).await?)?;
    }
    let asker = Arc::new(Asker::new(route, draw.clone(), client, settings.consistency));
    let refresher = asker.clone();
    let _refresher = AbortOnDropHandle::new(tokio::spawn(async move { refresher.route.keep_fresh().await }));
    let keys = Keyspace { client, asker: asker.clone(), draw: draw.clone(), settings: &settings };
    watch.say(&format!("seed {}", settings.seed));
    let claim = keys.claim().await?;
    let measured = measure(&keys, &claim, watch, &stop.in_order).await;
    let is_json = printer.format() == Output::Json;
    let told = match &measured {
        // The removal may take long, and its end need not be waited for.
        Ok(measured) if !is_json => printer.emit(measured.table.as_bytes()),
        _ => Ok(()),
    };
    let loaded = measured.as_ref().ok().and_then(|measured| measured.keys_loaded);
    let cleaned = tokio::select! {
        biased;
        () = stop.at_once.cancelled() => {
            if measured.is_err() {
                // That error is the one that is returned.
                say_that_keys_are_left(&settings.prefix);
            }
            Err(stopped_at_once())
        }
        cleaned = clean_up(&keys, &claim, loaded, watch) => cleaned,
    };
    // What was found is told even when the keys could not be removed, or were left.
    let mut measured = measured?;
    if is_json {
        report::add_cleanup(&mut measured.report, cleaned.as_ref().ok().copied().flatten());
        printer.line(&measured.report.to_string())?;
    }
    told?;
    if let Some(failure) = measured.failure {
        return Err(failure);
    }
    cleaned.map(|_| ())
}

struct Measured {
    report: Value,
    table: String,
    /// Keys that exist for certain, from the first one on.
    keys_loaded: Option<u64>,
    /// Why the run as a whole did not succeed.
    failure: Option<Failure>,
}

async fn measure(
    keys: &Keyspace<'_>,
    claim: &Claim,
    watch: &mut Watch,
    stop: &CancellationToken,
) -> Result<Measured, Failure> {
    let settings = keys.settings;
    if settings.read_percent < 100 {
        keys.try_longest_value().await?;
    }
    let (mut loaded, mut keys_loaded) = (None, claim.loaded);
    if settings.reads() && claim.loaded < settings.keys {
        let count = settings.keys - claim.loaded;
        watch.say(&format!("writing {count} keys below {:?}", settings.prefix));
        let begin = crate::clock::now();
        let written = keys.load(claim.loaded, stop).await?;
        if written < count {
            return Err(Failure::Run("interrupted while the keys were written".to_string()));
        }
        keys_loaded = settings.keys;
        loaded = Some(Loaded { keys: written, seconds: crate::clock::now().since(begin).as_secs_f64() });
    }
    let patience = keys.client.timeout();
    let source = Source::start(settings, patience, stop.clone())
        .map_err(|source| Failure::Io { what: "cannot make a timer".to_string(), source })?;
    let run =
        Arc::new(Run { source, asker: keys.asker.clone(), draw: keys.draw.clone(), tally: Mutex::new(Tally::new()) });
    {
        let senders = (0..settings.pattern.requests_at_once()).map(|seat| {
            let task = AbortOnDropHandle::new(tokio::spawn(run.clone().send(seat as usize)));
            async move { task.await.map_err(|error| Failure::Run(format!("a sender ended: {error}")))? }
        });
        watch.during(&run, try_join_all(senders)).await?;
    }
    let tally = run.tally();
    let report = report::json(settings, &run.source, &tally, loaded.as_ref(), stop.is_cancelled());
    let table = report::table(settings, &run.source, &tally, &report);
    drop(tally);
    let failure = run.verdict();
    Ok(Measured { report, table, keys_loaded: Some(keys_loaded), failure })
}

/// Removes the keys, or leaves them for the next run. Returns what was removed.
async fn clean_up(
    keys: &Keyspace<'_>,
    claim: &Claim,
    loaded: Option<u64>,
    watch: &mut Watch,
) -> Result<Option<Removed>, Failure> {
    let settings = keys.settings;
    if settings.keep {
        keys.release(claim, Some(loaded.unwrap_or(claim.loaded))).await?;
        return Ok(None);
    }
    watch.say("removing the keys");
    let removed = async {
        let removed = keys.remove().await?;
        keys.release(claim, None).await?;
        Ok(removed)
    };
    let removed: Removed = removed.await.inspect_err(|_: &Failure| say_that_keys_are_left(&settings.prefix))?;
    if removed.foreign > 0 {
        let (count, prefix) = (removed.foreign, &settings.prefix);
        let _ = writeln!(io::stderr(), "{count} keys under {prefix:?} are no bench's and were left");
    }
    Ok(Some(removed))
}

/// What all senders share.
struct Run {
    source: Source,
    asker: Arc<Asker>,
    draw: Arc<Draw>,
    tally: Mutex<Tally>,
}

impl Run {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("nobody panics while holding it")
    }

    /// One sender: one request after the other until the run is over.
    async fn send(self: Arc<Self>, mut seat: usize) -> Result<(), Failure> {
        let is_open = self.source.is_open();
        loop {
            let due = self.source.next().await;
            let due = due.map_err(|source| Failure::Io { what: "the timer failed".to_string(), source })?;
            let Some(mut due) = due else { return Ok(()) };
            // The clock is always read before the lock is taken: waiting for it is none of the cluster's time.
            if is_open {
                let now = crate::clock::now();
                self.tally().started(&due, now);
            }
            let drawn = self.draw.request(due.number);
            if !is_open {
                // Nor is drawing a value.
                due.at = crate::clock::now();
            }
            let (ended, redirects) = self.asker.ask(&drawn, &mut seat).await;
            let now = crate::clock::now();
            let pause = match &ended {
                Ended::Failed(failed) if !is_open => {
                    Some(failed.retry_after.unwrap_or(FAILURE_PAUSE).min(FAILURE_PAUSE_MAX))
                }
                _ => None,
            };
            self.tally().ended(&due, drawn.kind, ended, redirects, now);
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Why the run as a whole failed, when it did.
    fn verdict(&self) -> Option<Failure> {
        let mut tally = self.tally();
        if tally.wrong_values > 0 {
            return Some(Failure::Run(format!("{} reads gave the value of another key", tally.wrong_values)));
        }
        if tally.puts.count() + tally.gets.count() > 0 {
            return None;
        }
        Some(match tally.first_failure.take() {
            Some(first) => Failure::NothingSucceeded { first: Box::new(first) },
            None => Failure::Run("no request was sent in the measured time".to_string()),
        })
    }
}

/// Lines for those who watch a terminal. Standard output stays the results' alone.
struct Watch {
    on: bool,
}

impl Watch {
    fn new(on: bool) -> Self {
        Self { on }
    }

    fn say(&self, text: &str) {
        if self.on {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Waits for `work`, with a line each second.
    async fn during<T>(&self, run: &Run, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::pin!(work);
        let begin = crate::clock::now();
        let mut seconds = tokio::time::interval(PROGRESS_INTERVAL);
        seconds.tick().await;
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = seconds.tick() => {}
            }
            let now = crate::clock::now();
            let interval = run.tally().take_interval();
            let phase = if now < run.source.measured_from() { " warm-up" } else { "" };
            self.say(&format!(
                "{:>5.0} s {:>9}/s  p50 {:>8.2} ms  p99 {:>8.2} ms  max {:>8.2} ms  failed {}{phase}",
                now.since(begin).as_secs_f64(),
                interval.succeeded.count(),
                interval.succeeded.ms_at(0.5),
                interval.succeeded.ms_at(0.99),
                interval.succeeded.max_ms(),
                interval.failed,
            ));
        }
    }
}

/// Takes as many descriptors as the process may have. One for each request at the same time is what the connections
/// need at least; each node keeps some idle ones besides, and how many nodes there are is not known yet.
fn allow_connections(requests_at_once: u32) -> Result<(), Failure> {
    let needed = u64::from(requests_at_once) + DESCRIPTORS_SPARE;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|maximum| maximum < needed) {
        return Err(Failure::Usage(format!(
            "{requests_at_once} requests at the same time need {needed} descriptors, and the process may have {} \
             (`ulimit -Hn`): take fewer --clients or --outstanding",
            maximum.unwrap_or_default()
        )));
    }
    let wanted = maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
    let Some(current) = current.filter(|current| *current < wanted) else { return Ok(()) };
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Err(error) if current < needed => {
            Err(Failure::Io { what: "cannot raise the limit of open files".to_string(), source: error.into() })
        }
        _ => Ok(()),
    }
}

/// The first signal ends the run in order: what was measured is told, the keys are removed. The second leaves the keys.
fn stop_on_signals(stop: Stop) -> Result<impl Future<Output = ()>, Failure> {
    let listen =
        |kind| signal(kind).map_err(|source| Failure::Io { what: "cannot listen for signals".to_string(), source });
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        for token in [&stop.in_order, &stop.at_once] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !stop.in_order.is_cancelled() {
                let _ = writeln!(io::stderr(), "stopping: a second signal stops at once and leaves the keys");
            }
            token.cancel();
        }
    })
}
