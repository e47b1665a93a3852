//! Statements about a cluster of real processes on this machine, each shown by a program that prints its figures and
//! fails when the statement is false. `raft-tests show NAME` and `make show-NAME` run them.
//!
//! What they have in common is here: the options, the seed, the report of figures, and the exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use ringraft::clock;
use tokio::signal::unix::{SignalKind, signal};

use crate::real::world::bridge;

mod dead_node;
mod failover;
mod full_disks;
mod grow;
mod idle;
mod import_kill;
mod kill_each;
mod left_overs;
mod majority_down;
mod overload;
mod real_input;
mod resume;
mod rolling_stop;
mod spread;
mod steady;

/// Exit code of a show that this machine cannot run.
const NOT_HERE: u8 = 77;

/// What a false statement comes to: which part was false, with the figure.
pub type Verdict = Result<(), String>;

/// One statement.
pub struct Show {
    pub name: &'static str,
    pub statement: &'static str,
    /// It mounts file systems: it runs as root, in namespaces of its own.
    mounts: bool,
    run: fn(Options) -> LocalBoxFuture<'static, Verdict>,
}

macro_rules! show {
    ($name:literal, $module:ident, $statement:literal) => {
        Show { name: $name, statement: $statement, mounts: false, run: |options| $module::run(options).boxed_local() }
    };
    ($name:literal, $module:ident, mounts, $statement:literal) => {
        Show { mounts: true, ..show!($name, $module, $statement) }
    };
}

pub const ALL: &[Show] = &[
    show!("real-input", real_input, "20,000 files of a real source tree come back equal through another node"),
    show!("import-kill", import_kill, "a tree imported through kills of every node comes back equal by diff -r"),
    show!("kill-each", kill_each, "no acknowledged write is lost to kill -9 of each node, and of all at once"),
    show!("majority-down", majority_down, "a minority refuses in time and truthfully, and serves stale reads"),
    show!("failover", failover, "writes go on within 1.5 s of kill -9 of a leader under load"),
    show!("rolling-stop", rolling_stop, "SIGTERM under load ends each node in order and loses nothing"),
    show!("steady", steady, "64 clients without a fault see no error and no change of leader"),
    show!("dead-node", dead_node, "a node killed for good is replaced by itself, and nothing is lost"),
    show!(
        "spread",
        spread,
        "six nodes hold what their weights say, and a zone that is killed costs no shard its quorum"
    ),
    show!(
        "grow",
        grow,
        "12 shards become 48 and three nodes take over from three, under load, and no client sees an error"
    ),
    show!("left-overs", left_overs, "after splits the bytes on disk return to at most 1.3 of the data that lives"),
    show!("resume", resume, "a move and a split go on to their ends after a crash between any two of their steps"),
    show!("full-disks", full_disks, mounts, "full disks refuse values alone, lose nothing, and clear by themselves"),
    show!("overload", overload, "three times the load that can be borne costs a tenth of what is done, and no leader"),
    show!("idle", idle, "processor and memory of an idle node, and the time of a start with data"),
];

pub fn find(name: &str) -> Option<&'static Show> {
    ALL.iter().find(|show| show.name == name)
}

/// How a show is run. Without any, it is the full one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Fewer rounds, or less data: for CI.
    pub short: bool,
    /// Of what is random; drawn when it is not given.
    pub seed: Option<u64>,
    pub rounds: Option<usize>,
    pub minutes: Option<u64>,
    /// Source trees to read.
    pub trees: Vec<PathBuf>,
}

impl Options {
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            let bad = |value: &str| format!("{word} takes a number, not {value:?}");
            match word {
                "--short" => options.short = true,
                "--seed" => options.seed = Some(value().and_then(|text| text.parse().map_err(|_| bad(text)))?),
                "--rounds" => options.rounds = Some(value().and_then(|text| text.parse().map_err(|_| bad(text)))?),
                "--minutes" => options.minutes = Some(value().and_then(|text| text.parse().map_err(|_| bad(text)))?),
                "--tree" => options.trees.push(PathBuf::from(value()?)),
                other => return Err(format!("{other} is no option")),
            }
        }
        Ok(options)
    }

    fn seed(&self) -> u64 {
        self.seed.expect("drawn before the show runs")
    }
}

/// Runs a show on a runtime of its own and says how it went.
pub fn run(show: &Show, options: &Options) -> ExitCode {
    if show.mounts && !bridge::inside() {
        println!("{}: cannot run here: {}", show.name, why_not_in_namespaces());
        return ExitCode::from(NOT_HERE);
    }
    let mut options = options.clone();
    let seed = *options.seed.get_or_insert_with(|| clock::random_u64() >> 32);
    let short = if options.short { " --short" } else { "" };
    println!("{}: {}", show.name, show.statement);
    println!("  again with: raft-tests show {}{short} --seed {seed}", show.name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let began = clock::now();
    let verdict = runtime.block_on(async {
        tokio::select! {
            verdict = (show.run)(options) => verdict,
            // The nodes that were started end with the show that is dropped here.
            () = told_to_end() => Err("told to end".to_string()),
        }
    });
    let took = clock::now().since(began);
    match verdict {
        Ok(()) => {
            println!("{}: true ({:.1} s)", show.name, took.as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("{}: FALSE after {:.1} s: {why}", show.name, took.as_secs_f64());
            println!("  with KEEP_NODES=1 the nodes' data and logs are left behind");
            ExitCode::FAILURE
        }
    }
}

/// Goes on in namespaces of its own in the place of this process, and returns only when that cannot be done.
fn why_not_in_namespaces() -> String {
    bridge::why_not_here().unwrap_or_else(bridge::enter_private_namespaces)
}

/// SIGINT or SIGTERM.
async fn told_to_end() {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be waited for");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Times that were measured, for percentiles.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The time that `part` of them do not exceed (nearest rank). Zero when there are none.
    fn at(&mut self, part: f64) -> Duration {
        self.0.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn per_second(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss)]
    let count = count as f64;
    count / time.as_secs_f64().max(f64::EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let options = Options::parse(&["--short", "--seed", "7", "--tree", "a", "--tree", "b"]).unwrap();
        assert!(options.short && options.seed == Some(7) && options.trees.len() == 2);
        for bad in [&["--seed"][..], &["--seed", "x"], &["--shorter"]] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut times = Times((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(times.at(0.5), Duration::from_millis(50));
        assert_eq!(times.at(0.99), Duration::from_millis(99));
        assert_eq!(times.at(1.0), Duration::from_millis(100));
        assert_eq!(Times::default().at(0.5), Duration::ZERO);
    }
}
