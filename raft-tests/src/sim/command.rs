//! `raft-tests sim`: one seed in this process, or many, each in a process of its own.

use std::path::{Path, PathBuf};
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

/// Runs it and gives the exit code.
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
        let place = Place::new(self.out.as_ref())?;
        let first = self.first.unwrap_or(1);
        let wanted = (first..first + seeds).map(|seed| (self.scenario(), seed)).collect();
        let sum = self.each(wanted, &place.path).await?;
        sum.write(&place.path).map_err(|error| error.to_string())?;
        if sum.verdict() != Verdict::Good {
            place.keep();
        }
        Ok(sum.verdict().exit_code())
    }

    async fn regressions(&self) -> Result<u8, String> {
        let place = Place::new(self.out.as_ref())?;
        let wanted = super::regressions::all();
        let sum = self.each(wanted, &place.path).await?;
        sum.write(&place.path).map_err(|error| error.to_string())?;
        if sum.verdict() != Verdict::Good {
            place.keep();
        }
        Ok(sum.verdict().exit_code())
    }

    /// Runs each in a process of its own and adds them up.
    async fn each(&self, wanted: Vec<(&'static Scenario, u64)>, out: &Path) -> Result<Run, String> {
        let started = ringraft::clock::now();
        let jobs = self.jobs.unwrap_or(JOBS_DEFAULT).min(wanted.len());
        let total = wanted.len();
        let first = wanted.first().map_or(0, |(_, seed)| *seed);
        let mut sum = Run::new(RunKind::Sim, self.scenario().name, first, "");
        sum.command = std::env::args().skip(1).fold("raft-tests".to_string(), |all, word| format!("{all} {word}"));
        sum.runs = 0;
        let mut waiting = wanted.into_iter();
        let mut running = JoinSet::new();
        let mut done = 0;
        loop {
            while running.len() < jobs
                && let Some((scenario, seed)) = waiting.next()
            {
                let options = Options { scenario, ..self.options(seed, out.join(format!("{}-{seed}", scenario.name))) };
                running.spawn(in_own_process(options));
            }
            let Some(ended) = running.join_next().await else { break };
            let run = ended.map_err(|error| error.to_string())?;
            done += 1;
            if run.verdict() == Verdict::Good {
                println!("{done}/{total} {}", line(&run));
            } else {
                println!("{done}/{total} FAILED");
                tell(&run);
            }
            sum.add(&run);
        }
        sum.seconds = ringraft::clock::now().since(started).as_secs_f64();
        println!("---");
        tell(&sum);
        Ok(sum)
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
            for run in runs.join_all().await {
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

/// Runs one seed in a fresh process, whatever becomes of it.
async fn in_own_process(options: Options) -> Run {
    let failed = |why: String| {
        let mut run = Run::new(RunKind::Sim, options.scenario.name, options.seed, options.command());
        run.violations.push(why);
        run
    };
    let out = options.out.clone();
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
    command.args(["--seconds", &options.safety.as_secs().to_string()]).arg("--out").arg(&out);
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
