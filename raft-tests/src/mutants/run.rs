//! Plays the scripts with and without their planted bugs, each in a process of its own, and says which bug was noticed.
//!
//! A mutant is killed when a script reports a violation that is expected of it. A process that crashes, takes too long
//! or has nothing to say kills nothing, and neither does a script that did not come to its end. Without the mutant the
//! same scripts and seeds must be good.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::StreamExt;
use ringraft::clock;
use ringraft::mutants::{Mutant, VARIABLE};

use super::marked;
use super::table::{KILLS, Kill};
use crate::record::{EXIT_BAD_INPUT, Run, RunKind, Verdict};
use crate::sim::scripts::{Sign, Summary};

const USAGE: &str = "\
usage: raft-tests mutants [--only NAME] [--seeds NUMBER] [--jobs NUMBER] [--out DIRECTORY]
       raft-tests mutants --list

Plants each known bug in turn and lets a script of `raft-tests script` look for it, with the seeds from 1 to --seeds
(4 when left out), --jobs processes at a time (2). Leaves run.json in a directory. Exits with 0 when every bug was
noticed and the same scripts are good without it, 1 when one was not, 3 for bad arguments.";

/// The node program that is released, beside this one.
const RELEASED: &str = "ringraft";
const SEEDS: u64 = 4;
const SEEDS_MAX: u64 = 10_000;
const JOBS: u64 = 2;
const JOBS_MAX: u64 = 64;
/// Of real time, for one play: they take a second.
const PLAY_MAX: Duration = Duration::from_secs(60);

/// Gives the exit code.
pub fn command(words: &[&str]) -> u8 {
    if words == ["--list"] {
        for Kill { mutant, script, .. } in &KILLS {
            println!("{:<28} {script}", mutant.name());
        }
        return Verdict::Good.exit_code();
    }
    let options = match Options::parse(words) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("raft-tests: {why}\n{USAGE}");
            return EXIT_BAD_INPUT;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(run(&options)));
    match done {
        Ok(verdict) => verdict.exit_code(),
        Err(why) => {
            eprintln!("raft-tests: {why}");
            EXIT_BAD_INPUT
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    only: Option<Mutant>,
    seeds: u64,
    jobs: u64,
    out: PathBuf,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { only: None, seeds: SEEDS, jobs: JOBS, out: PathBuf::from("mutants") };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(|| format!("{word} wants a value"));
            match word {
                "--only" => {
                    let name = value()?;
                    let mutant = Mutant::find(name);
                    options.only = Some(mutant.ok_or_else(|| {
                        let names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
                        format!("no mutant is named {name}; there are {}", names.join(", "))
                    })?);
                }
                "--seeds" => options.seeds = number(word, value()?, SEEDS_MAX)?,
                "--jobs" => options.jobs = number(word, value()?, JOBS_MAX)?,
                "--out" => options.out = PathBuf::from(value()?),
                other => return Err(format!("{other} is no option")),
            }
        }
        Ok(options)
    }

    fn command(&self) -> String {
        let mut command = format!("raft-tests mutants --seeds {}", self.seeds);
        if let Some(mutant) = self.only {
            command += &format!(" --only {mutant}");
        }
        command
    }
}

fn number(word: &str, text: &str, max: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| format!("{word} takes a whole number from 1 to {max}, not {text:?}"))
}

/// One script with one seed, with or without its mutant.
#[derive(Clone, Copy)]
struct Play<'a> {
    kill: &'a Kill,
    seed: u64,
    planted: bool,
}

/// What came of it; or why nothing did.
struct Ended<'a> {
    play: Play<'a>,
    summary: Result<Summary, String>,
    seconds: f64,
}

async fn run(options: &Options) -> Result<Verdict, String> {
    let own = std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
    marked::expect_planted_in(&own)?;
    marked::expect_clean(&own.with_file_name(RELEASED))?;
    fs::create_dir_all(&options.out).map_err(|error| format!("{}: {error}", options.out.display()))?;
    let begun = clock::now();
    let mut record = Run::new(RunKind::Mutants, "scripts", 1, options.command());
    record.runs = 0;
    let plays = KILLS
        .iter()
        .filter(|kill| options.only.is_none_or(|only| only == kill.mutant))
        .flat_map(|kill| (1..=options.seeds).map(move |seed| (kill, seed)))
        .flat_map(|(kill, seed)| [true, false].map(|planted| Play { kill, seed, planted }));
    let jobs = usize::try_from(options.jobs).expect("at most JOBS_MAX");
    let ended: Vec<Ended<'_>> =
        futures::stream::iter(plays).map(|play| carry_out(&own, play)).buffered(jobs).collect().await;

    println!("{:<28} {:<18} {:<36} {:>7} {:>6}", "planted", "noticed by", "script", "seeds", "s");
    let mut killed = 0;
    for kill in KILLS.iter().filter(|kill| options.only.is_none_or(|only| only == kill.mutant)) {
        let of_this: Vec<&Ended<'_>> = ended.iter().filter(|one| one.play.kill.mutant == kill.mutant).collect();
        killed += u64::from(tell(kill, &of_this, &mut record));
    }
    let mutants = ended.iter().map(|one| one.play.kill.mutant).collect::<BTreeSet<_>>().len() as u64;
    record.figures.insert("mutants".to_string(), mutants as f64);
    record.figures.insert("mutants_killed".to_string(), killed as f64);
    record.seconds = clock::now().since(begun).as_secs_f64();
    let path = record.write(&options.out).map_err(|error| format!("{}: {error}", options.out.display()))?;
    for violation in &record.violations {
        println!("VIOLATION {violation}");
    }
    println!("{killed} of {mutants} noticed, in {:.0} s; {}", record.seconds, path.display());
    Ok(record.verdict())
}

/// One line of the table; whether the mutant is dead. Counts what was played without it.
fn tell(kill: &Kill, ended: &[&Ended<'_>], record: &mut Run) -> bool {
    let seconds: f64 = ended.iter().map(|one| one.seconds).sum();
    let (with, without): (Vec<&Ended<'_>>, Vec<&Ended<'_>>) = ended.iter().partition(|one| one.play.planted);
    for one in without {
        count_clean(kill, one, record);
    }
    let kills: Vec<(u64, Sign)> = with.iter().filter_map(|one| Some((one.play.seed, killer(kill, one)?))).collect();
    let name = kill.mutant.name();
    let Some((seed, sign)) = kills.first() else {
        println!(
            "{name:<28} {:<18} {:<36} {:>7} {seconds:>6.1}",
            "NOT AT ALL",
            kill.script,
            format!("0/{}", with.len())
        );
        let said: Vec<String> = with.iter().map(|one| format!("seed {}: {}", one.play.seed, said(one))).collect();
        record.violations.push(format!("{name} survived {}: {}", kill.script, said.join("; ")));
        return false;
    };
    let (script, seeds) = (format!("{} --seed {seed}", kill.script), format!("{}/{}", kills.len(), with.len()));
    println!("{name:<28} {:<18} {script:<36} {seeds:>7} {seconds:>6.1}", sign.name());
    record.figures.insert(format!("{name}_killed_by_seeds"), kills.len() as f64);
    true
}

/// The expected violation that was reported, if one was.
fn killer(kill: &Kill, ended: &Ended<'_>) -> Option<Sign> {
    let summary = ended.summary.as_ref().ok()?;
    summary.violations.iter().map(|found| found.sign).find(|sign| kill.signs.contains(sign))
}

fn said(ended: &Ended<'_>) -> String {
    match &ended.summary {
        Err(why) => why.clone(),
        Ok(summary) => match (summary.violations.first(), &summary.void) {
            (Some(found), _) => format!("an unexpected violation, {}: {}", found.sign, found.why),
            (None, Some(void)) => format!("void: {void}"),
            (None, None) => "good".to_string(),
        },
    }
}

fn count_clean(kill: &Kill, ended: &Ended<'_>, record: &mut Run) {
    record.runs += 1;
    let (script, seed) = (kill.script, ended.play.seed);
    let repeat = format!("raft-tests script {script} --seed {seed}");
    let summary = match &ended.summary {
        Ok(summary) => summary,
        Err(why) => return record.violations.push(format!("{repeat}, without a planted bug: {why}")),
    };
    let about = |what: &str| format!("{repeat}, without a planted bug: {what}");
    record.violations.extend(summary.violations.iter().map(|found| about(&format!("{}: {}", found.sign, found.why))));
    record.undecided.extend(summary.undecided.iter().map(|key| about(key)));
    record.void.extend(summary.void.iter().map(|why| about(why)));
    record.operations += summary.operations;
    record.ok += summary.ok;
    record.writes += summary.writes;
    record.unknown_writes += summary.unknown_writes;
    record.simulated_seconds += summary.simulated_seconds;
    for (class, count) in &summary.faults {
        let sum = record.faults.entry(class.clone()).or_default();
        sum.confirmed += count.confirmed;
        sum.unconfirmed += count.unconfirmed;
        sum.hit_leader += count.hit_leader;
    }
}

async fn carry_out<'a>(own: &Path, play: Play<'a>) -> Ended<'a> {
    let begun = clock::now();
    let mut command = tokio::process::Command::new(own);
    command.args(["script", play.kill.script, "--seed", &play.seed.to_string(), "--json"]);
    command.env_remove(VARIABLE).env("RUST_BACKTRACE", "0");
    if play.planted {
        command.env(VARIABLE, play.kill.mutant.name());
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let summary = match tokio::time::timeout(PLAY_MAX, command.output()).await {
        Err(_elapsed) => Err(format!("it took longer than {} s", PLAY_MAX.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(output)) => summary_of(&output),
    };
    Ended { play, summary, seconds: clock::now().since(begun).as_secs_f64() }
}

/// The summary is believed when the exit code says the same.
fn summary_of(output: &std::process::Output) -> Result<Summary, String> {
    let line = String::from_utf8_lossy(&output.stdout);
    let summary = line.lines().last().and_then(|line| serde_json::from_str::<Summary>(line).ok());
    match summary {
        Some(summary) if output.status.code() == Some(i32::from(summary.verdict().exit_code())) => Ok(summary),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            Err(format!("it ended with {} and no verdict: {last}", output.status))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scripts::Found;

    fn summary(signs: &[Sign], void: Option<&str>) -> Summary {
        Summary {
            script: "late-answer".to_string(),
            seed: 1,
            violations: signs.iter().map(|sign| Found { sign: *sign, why: "seen".to_string() }).collect(),
            undecided: Vec::new(),
            void: void.map(str::to_string),
            operations: 3,
            ok: 2,
            writes: 1,
            unknown_writes: 0,
            faults: std::collections::BTreeMap::new(),
            simulated_seconds: 1.0,
        }
    }

    fn table(with: Result<Summary, String>, without: Result<Summary, String>) -> (bool, Run) {
        let kill = KILLS.iter().find(|kill| kill.script == "late-answer").unwrap();
        let ended = |planted, summary| Ended { play: Play { kill, seed: 1, planted }, summary, seconds: 0.1 };
        let (with, without) = (ended(true, with), ended(false, without));
        let mut record = Run::new(RunKind::Mutants, "scripts", 1, "");
        let killed = tell(kill, &[&with, &without], &mut record);
        (killed, record)
    }

    #[test]
    fn only_the_expected_violation_kills() {
        let good = || Ok(summary(&[], None));
        assert!(table(Ok(summary(&[Sign::FailedWriteSeen], None)), good()).0);
        for (with, why) in [
            (Ok(summary(&[Sign::Revisions], None)), "an unexpected violation"),
            (Ok(summary(&[], Some("no leader"))), "void: no leader"),
            (Ok(summary(&[], None)), "seed 1: good"),
            (Err("it took longer than 60 s".to_string()), "longer"),
        ] {
            let (killed, record) = table(with, good());
            assert!(!killed && record.verdict() == Verdict::Violation, "{why}");
            assert!(record.violations[0].contains(why), "{:?}", record.violations);
        }
    }

    #[test]
    fn a_script_that_is_not_good_without_the_bug_spoils_the_run() {
        let killed = || Ok(summary(&[Sign::FailedWriteSeen], None));
        assert_eq!(table(killed(), Ok(summary(&[], None))).1.verdict(), Verdict::Good);
        assert_eq!(table(killed(), Ok(summary(&[Sign::Read], None))).1.verdict(), Verdict::Violation);
        assert_eq!(table(killed(), Ok(summary(&[], Some("no leader")))).1.verdict(), Verdict::Void);
        assert_eq!(table(killed(), Err("crashed".to_string())).1.verdict(), Verdict::Violation);
    }

    #[test]
    fn words_are_understood_or_refused() {
        let options = Options::parse(&["--only", "check-outside-apply", "--seeds", "9", "--jobs", "1"]).unwrap();
        assert_eq!((options.only, options.seeds, options.jobs), (Some(Mutant::CheckOutsideApply), 9, 1));
        for (words, wanted) in [
            (&["--only", "x"] as &[&str], "no mutant is named x; there are ack-before-fsync"),
            (&["--seeds", "0"], "from 1 to 10000"),
            (&["--jobs", "65"], "from 1 to 64"),
            (&["--jobs"], "wants a value"),
            (&["x"], "is no option"),
        ] {
            let refused = Options::parse(words).unwrap_err();
            assert!(refused.contains(wanted), "{refused}");
        }
    }
}
