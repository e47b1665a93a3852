//! `raft-tests sim`: one seed in this process, or many, each in a process of its own.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::plan::{SCENARIOS, Scenario};
use super::run::{EVENTS_FILE_NAME, Options, run};
use crate::record::{EXIT_BAD_INPUT, FILE_NAME, HISTORY_FILE_NAME, Run, RunKind, Verdict};

pub(super) const SCENARIO_DEFAULT: &str = "mixed";
pub(super) const SAFETY_DEFAULT: Duration = Duration::from_secs(20);
/// Real time after which one seed is ended: it has hung.
const SEED_LIMIT: Duration = Duration::from_secs(240);
const JOBS_DEFAULT: usize = 2;

pub const USAGE: &str = "\
       raft-tests sim --seed N [--scenario NAME] [--seconds S] [--out DIR] [--mutant NAME]
       raft-tests sim --seeds N [--first N] [--jobs N] [--scenario NAME] [--seconds S] [--out DIR] [--mutant NAME]
       raft-tests sim --compare N [--first N] [--scenario NAME] [--seconds S]
       raft-tests sim --regressions | --scenarios";

/// What the words ask for.
#[derive(Debug, Default)]
struct Asked {
    seed: Option<u64>,
    seeds: Option<u64>,
    compare: Option<u64>,
    regressions: bool,
    scenarios: bool,
    first: Option<u64>,
    jobs: Option<usize>,
    scenario: Option<&'static Scenario>,
    seconds: Option<u64>,
    out: Option<PathBuf>,
    mutant: Option<String>,
}

impl Asked {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut asked = Self::default();
        let mut words = words.iter();
        while let Some(flag) = words.next() {
            match *flag {
                "--regressions" => asked.regressions = true,
                "--scenarios" => asked.scenarios = true,
                _ => {
                    let value = words.next().ok_or_else(|| format!("{flag} needs a value, or is not known"))?;
                    asked.take(flag, value)?;
                }
            }
        }
        let modes = [asked.seed.is_some(), asked.seeds.is_some(), asked.compare.is_some()];
        let modes = modes.into_iter().chain([asked.regressions, asked.scenarios]).filter(|is_asked| *is_asked).count();
        if modes != 1 {
            return Err("one of --seed, --seeds, --compare, --regressions and --scenarios says what to do".to_string());
        }
        Ok(asked)
    }

    fn take(&mut self, flag: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<u64>().map_err(|_| format!("{flag} takes a number, not {value:?}"));
        let positive = || number().and_then(|n| if n > 0 { Ok(n) } else { Err(format!("{flag} must be above 0")) });
        match flag {
            "--seed" => self.seed = Some(number()?),
            "--seeds" => self.seeds = Some(positive()?),
            "--compare" => self.compare = Some(positive()?),
            "--first" => self.first = Some(number()?),
            "--jobs" => self.jobs = Some(usize::try_from(positive()?).unwrap_or(usize::MAX)),
            "--seconds" => self.seconds = Some(positive()?),
            "--out" => self.out = Some(PathBuf::from(value)),
            "--mutant" => self.mutant = Some(value.to_string()),
            "--scenario" => {
                let known = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
                let found = Scenario::find(value);
                self.scenario =
                    Some(found.ok_or_else(|| format!("no scenario is named {value}; there are {}", known()))?);
            }
            _ => return Err(format!("{flag} is not known")),
        }
        Ok(())
    }

    fn scenario(&self) -> &'static Scenario {
        let default = || Scenario::find(SCENARIO_DEFAULT).expect("it is in the table");
        self.scenario.unwrap_or_else(default)
    }

    fn safety(&self) -> Duration {
        self.seconds.map_or(SAFETY_DEFAULT, Duration::from_secs)
    }

    fn options(&self, seed: u64, out: PathBuf) -> Options {
        Options { seed, scenario: self.scenario(), safety: self.safety(), out, mutant: self.mutant.clone() }
    }
}

/// Where files go: a directory that was asked for, or one that goes away unless something is wrong.
struct Place {
    path: PathBuf,
    passing: Option<TempDir>,
}

impl Place {
    fn new(asked: Option<&PathBuf>) -> Result<Self, String> {
        let passing = match asked {
            Some(_) => None,
            None => Some(TempDir::with_prefix("raft-tests-sim-").map_err(|error| error.to_string())?),
        };
        let path = asked.cloned().or_else(|| passing.as_ref().map(|dir| dir.path().to_path_buf()));
        let path = path.expect("one of the two");
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, passing })
    }

    /// Leaves the files where they are.
    fn keep(self) {
        if let Some(passing) = self.passing {
            println!("  left in {}", passing.keep().display());
        }
    }
}

/// Runs it and gives the exit code: that of the worst seed, or 3 for bad arguments.
pub fn command(words: &[&str]) -> u8 {
    let done = Asked::parse(words).and_then(|asked| asked.run());
    done.unwrap_or_else(|why| {
        eprintln!("raft-tests sim: {why}\nusage:\n{USAGE}");
        EXIT_BAD_INPUT
    })
}

impl Asked {
    fn run(&self) -> Result<u8, String> {
        if self.scenarios {
            for scenario in SCENARIOS {
                println!("{:<12} {}", scenario.name, scenario.what);
            }
            return Ok(0);
        }
        if let Some(seed) = self.seed {
            return self.one(seed);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        match (self.seeds, self.compare) {
            (Some(seeds), _) => runtime.block_on(self.many(seeds)),
            (_, Some(seeds)) => runtime.block_on(self.compare(seeds)),
            _ => runtime.block_on(self.regressions()),
        }
    }

    fn one(&self, seed: u64) -> Result<u8, String> {
        if let Some(mutant) = &self.mutant {
            select(mutant)?;
        }
        let place = Place::new(self.out.as_ref())?;
        let run = run(&self.options(seed, place.path.clone()))?;
        tell(&run);
        if run.verdict() != Verdict::Good {
            place.keep();
        }
        Ok(run.verdict().exit_code())
    }

    async fn many(&self, seeds: u64) -> Result<u8, String> {
        let first = self.first.unwrap_or(1);
        let wanted = (first..first + seeds).map(|seed| (self.scenario(), seed)).collect();
        self.each(self.scenario().name, wanted).await
    }

    async fn regressions(&self) -> Result<u8, String> {
        self.each("regressions", super::regressions::all()).await
    }

    /// Runs each in a process of its own. What is good is added up in one record and its files are removed; of what is not,
    /// all is left in a directory of its own beside that record.
    async fn each(&self, profile: &str, wanted: Vec<(&'static Scenario, u64)>) -> Result<u8, String> {
        let place = Place::new(self.out.as_ref())?;
        let started = ringraft::clock::now();
        let jobs = self.jobs.unwrap_or(JOBS_DEFAULT).min(wanted.len());
        let total = wanted.len();
        let first = wanted.first().map_or(0, |(_, seed)| *seed);
        let command = std::env::args().skip(1).fold("raft-tests".to_string(), |all, word| format!("{all} {word}"));
        let mut sum = Run::new(RunKind::Sim, profile, first, command);
        sum.runs = 0;
        let mut waiting = wanted.into_iter();
        let mut running = JoinSet::new();
        let mut failed = Vec::new();
        let mut worst = Verdict::Good;
        for done in 1..=total {
            while running.len() < jobs
                && let Some((scenario, seed)) = waiting.next()
            {
                let out = place.path.join(format!("{}-{seed}", scenario.name));
                running.spawn(in_own_process(Options { scenario, ..self.options(seed, out) }));
            }
            let ended = running.join_next().await.expect("one runs for each that is not done");
            let (out, run) = ended.map_err(|error| error.to_string())?;
            worst = worst.max(run.verdict());
            if run.verdict() == Verdict::Good {
                println!("{done}/{total} {}", line(&run));
                sum.add(&run);
                std::fs::remove_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
            } else {
                println!("{done}/{total} FAILED");
                tell(&run);
                // A seed that died has left no record.
                run.write(&out).map_err(|error| format!("{}: {error}", out.display()))?;
                failed.push(run.command);
            }
        }
        sum.seconds = ringraft::clock::now().since(started).as_secs_f64();
        println!("--- {} of {total} are good, in {:.0} s:", sum.runs, sum.seconds);
        tell(&sum);
        if sum.runs > 0 {
            sum.write(&place.path).map_err(|error| format!("{}: {error}", place.path.display()))?;
        }
        if !failed.is_empty() {
            println!("--- {} failed:", failed.len());
            failed.iter().for_each(|command| println!("  {command}"));
            place.keep();
        }
        Ok(worst.exit_code())
    }

    /// Runs each seed twice and compares all that was written, byte for byte.
    async fn compare(&self, seeds: u64) -> Result<u8, String> {
        let first = self.first.unwrap_or(1);
        let mut verdict = Verdict::Good;
        for seed in first..first + seeds {
            let places = [Place::new(None)?, Place::new(None)?];
            let mut runs = JoinSet::new();
            for place in &places {
                runs.spawn(in_own_process(self.options(seed, place.path.clone())));
            }
            for (_, run) in runs.join_all().await {
                if run.verdict() != Verdict::Good {
                    tell(&run);
                }
                verdict = verdict.max(run.verdict());
            }
            let mut bytes = 0;
            let mut same = true;
            for name in [EVENTS_FILE_NAME, HISTORY_FILE_NAME] {
                let read = |place: &Place| std::fs::read(place.path.join(name)).map_err(|error| error.to_string());
                let (one, other) = (read(&places[0])?, read(&places[1])?);
                bytes += one.len();
                if one != other {
                    same = false;
                    let at = one.split(|byte| *byte == b'\n').zip(other.split(|byte| *byte == b'\n'));
                    let at = at.take_while(|(one, other)| one == other).count() + 1;
                    println!("seed {seed}: {name} differs from line {at} on");
                }
            }
            if same {
                println!("seed {seed}: twice the same {bytes} bytes");
            } else {
                verdict = Verdict::Violation;
                let [one, other] = places;
                one.keep();
                other.keep();
            }
        }
        Ok(verdict.exit_code())
    }
}

/// Runs one seed in a fresh process, whatever becomes of it. With the place of its files.
async fn in_own_process(options: Options) -> (PathBuf, Run) {
    let out = options.out.clone();
    let run = run_in_own_process(&options).await;
    (out, run)
}

async fn run_in_own_process(options: &Options) -> Run {
    let failed = |why: String| {
        let mut run = Run::new(RunKind::Sim, options.scenario.name, options.seed, options.command());
        run.violations.push(why);
        run
    };
    let out = &options.out;
    if let Err(error) = std::fs::create_dir_all(out) {
        return failed(format!("{}: {error}", out.display()));
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(format!("this program cannot be found: {error}")),
    };
    // A file of an earlier run must not be taken for this one's.
    for name in [FILE_NAME, HISTORY_FILE_NAME, EVENTS_FILE_NAME] {
        let _ = std::fs::remove_file(out.join(name));
    }
    let mut command = Command::new(program);
    command.args(["sim", "--seed", &options.seed.to_string(), "--scenario", options.scenario.name]);
    command.args(["--seconds", &options.safety.as_secs().to_string()]).arg("--out").arg(out);
    if let Some(mutant) = &options.mutant {
        command.args(["--mutant", mutant]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    match tokio::time::timeout(SEED_LIMIT, command.output()).await {
        Err(_elapsed) => failed(format!("it did not end within {} s of real time", SEED_LIMIT.as_secs())),
        Ok(Err(error)) => failed(format!("it could not be run: {error}")),
        Ok(Ok(output)) => Run::read(&out.join(FILE_NAME)).unwrap_or_else(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            failed(format!("it ended with {} and left no record ({error}): {}", output.status, last.join(" / ")))
        }),
    }
}

fn line(run: &Run) -> String {
    let faults: u64 = run.faults.values().map(|count| count.confirmed).sum();
    format!(
        "{} {} seed {}: {} operations, {} faults, {:.1} simulated s in {:.1} s",
        run.verdict().name(),
        run.profile,
        run.seed,
        run.operations,
        faults,
        run.simulated_seconds,
        run.seconds
    )
}

/// Prints a run in words.
fn tell(run: &Run) {
    println!("{}", line(run));
    println!("  {} runs, {} answered, {} writes of which {} unknown", run.runs, run.ok, run.writes, run.unknown_writes);
    for (class, count) in &run.faults {
        println!(
            "  {class}: {} confirmed, {} unconfirmed, {} hit a leader",
            count.confirmed, count.unconfirmed, count.hit_leader
        );
    }
    for (name, figure) in &run.figures {
        println!("  {name}: {figure:.0}");
    }
    for (word, all) in [("VIOLATION", &run.violations), ("undecided", &run.undecided), ("void", &run.void)] {
        for what in all {
            println!("  {word}: {what}");
        }
    }
    if run.verdict() != Verdict::Good {
        println!("  repeat it: {}", run.command);
    }
}

#[cfg(feature = "mutants")]
fn select(name: &str) -> Result<(), String> {
    ringraft::mutants::select(name).map_err(|error| error.to_string())
}

#[cfg(not(feature = "mutants"))]
fn select(name: &str) -> Result<(), String> {
    Err(format!("this program carries no planted bug, so {name} cannot be planted: build it with --features mutants"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_arguments_are_told_what_is_allowed() {
        let refused = |words: &[&str]| Asked::parse(words).unwrap_err();
        assert!(refused(&[]).contains("--seeds"));
        assert!(refused(&["--seed", "1", "--seeds", "2"]).contains("one of"));
        assert!(refused(&["--seeds", "0"]).contains("above 0"));
        assert!(refused(&["--seed", "many"]).contains("takes a number, not \"many\""));
        assert!(refused(&["--seed", "1", "--scenario", "quake"]).contains("lease-trap"));
        assert!(refused(&["--seed", "1", "--speed", "9"]).contains("--speed is not known"));
        assert_eq!(command(&["--seed"]), EXIT_BAD_INPUT);
    }

    #[test]
    fn a_run_tells_the_command_that_repeats_it() {
        let asked = Asked::parse(&["--seed", "7"]).unwrap();
        assert_eq!(asked.options(7, PathBuf::new()).command(), "raft-tests sim --seed 7");
        let asked = Asked::parse(&["--seed", "7", "--scenario", "power", "--seconds", "5"]).unwrap();
        assert_eq!(asked.options(7, PathBuf::new()).command(), "raft-tests sim --seed 7 --scenario power --seconds 5");
    }
}
