//! `raft-tests script NAME [--seed NUMBER]`: plays one script and judges it.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use super::{ALL, Found, Played, find, play};
use crate::history::Outcome;
use crate::record::{EXIT_BAD_INPUT, FaultCount, Verdict};

const USAGE: &str = "\
usage: raft-tests script --list
       raft-tests script NAME [--seed NUMBER] [--history OUT.jsonl] [--json]

Plays a script of faults on a simulated cluster and judges what its clients were told. --history leaves what they were
told in a file; --json says what came of it in one line. Exits with 0 good, 1 violation, 2 undecided, 3 bad arguments,
4 when the script did not come to its end, which proves nothing.";

/// What a play came to, in one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    pub script: String,
    pub seed: u64,
    pub violations: Vec<Found>,
    /// Keys.
    pub undecided: Vec<String>,
    pub void: Option<String>,
    pub operations: u64,
    pub ok: u64,
    pub writes: u64,
    pub unknown_writes: u64,
    pub faults: BTreeMap<String, FaultCount>,
    pub simulated_seconds: f64,
}

impl Summary {
    fn of(script: &str, seed: u64, played: &Played) -> Self {
        let operations = &played.history.operations;
        let count = |wanted: &dyn Fn(&crate::history::Operation) -> bool| {
            operations.iter().filter(|operation| wanted(operation)).count() as u64
        };
        Self {
            script: script.to_string(),
            seed,
            violations: played.violations.clone(),
            undecided: played.report.undecided.iter().map(|undecided| undecided.key.clone()).collect(),
            void: played.void.clone(),
            operations: operations.len() as u64,
            ok: count(&|operation| matches!(operation.outcome, Outcome::Ok(_))),
            writes: count(&|operation| operation.is_write()),
            unknown_writes: played.report.unknown_writes as u64,
            faults: played.faults.clone(),
            simulated_seconds: played.simulated_seconds,
        }
    }

    pub fn verdict(&self) -> Verdict {
        if !self.violations.is_empty() {
            Verdict::Violation
        } else if !self.undecided.is_empty() {
            Verdict::Undecided
        } else if self.void.is_some() {
            Verdict::Void
        } else {
            Verdict::Good
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Options<'a> {
    name: &'a str,
    seed: u64,
    history: Option<&'a str>,
    json: bool,
}

fn parse<'a>(words: &[&'a str]) -> Result<Options<'a>, String> {
    let [name, rest @ ..] = words else { return Err("a name is missing; --list lists them".to_string()) };
    let mut options = Options { name, seed: 1, history: None, json: false };
    let mut rest = rest.iter();
    while let Some(&word) = rest.next() {
        let mut value = || rest.next().copied().ok_or_else(|| format!("{word} wants a value"));
        match word {
            "--seed" => {
                let text = value()?;
                options.seed = text.parse().map_err(|_| format!("--seed takes a whole number, not {text:?}"))?;
            }
            "--history" => options.history = Some(value()?),
            "--json" => options.json = true,
            other => return Err(format!("{other} is no option")),
        }
    }
    Ok(options)
}

/// Gives the exit code.
pub fn command(words: &[&str]) -> u8 {
    if words == ["--list"] {
        for script in ALL {
            println!("{:<28} {}", script.name, script.about);
        }
        return Verdict::Good.exit_code();
    }
    let found = parse(words).and_then(|options| {
        let script = find(options.name);
        let script = script.ok_or_else(|| format!("no script is named {}; --list lists them", options.name))?;
        Ok((script, options))
    });
    let (script, options) = match found {
        Ok(found) => found,
        Err(why) => {
            eprintln!("raft-tests: {why}\n{USAGE}");
            return EXIT_BAD_INPUT;
        }
    };
    let played = play(script, options.seed);
    if let Some(path) = options.history
        && let Err(error) = fs::write(path, &played.lines)
    {
        eprintln!("raft-tests: {path}: {error}");
        return EXIT_BAD_INPUT;
    }
    let summary = Summary::of(script.name, options.seed, &played);
    if options.json {
        println!("{}", serde_json::to_string(&summary).expect("names, numbers and texts are always JSON"));
    } else {
        tell(&summary);
    }
    summary.verdict().exit_code()
}

fn tell(summary: &Summary) {
    let Summary { script, seed, operations, ok, simulated_seconds, .. } = summary;
    println!("{script} seed {seed}: {operations} operations, {ok} answered, in {simulated_seconds:.1} simulated s");
    for (class, count) in &summary.faults {
        println!("  {class}: {}, of them {} of a leader", count.confirmed, count.hit_leader);
    }
    for Found { sign, why } in &summary.violations {
        println!("VIOLATION {sign}: {why}");
    }
    for key in &summary.undecided {
        println!("UNDECIDED key {key:?}");
    }
    if let Some(why) = &summary.void {
        println!("void: {why}");
    }
    println!("{}", summary.verdict().name());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_or_refused() {
        let options = Options { name: "late-answer", seed: 7, history: Some("h"), json: true };
        assert_eq!(parse(&["late-answer", "--seed", "7", "--json", "--history", "h"]), Ok(options));
        for (words, wanted) in [
            (&["x", "--seed"] as &[&str], "wants a value"),
            (&["x", "--seed", "a"], "a whole number"),
            (&["x", "--sed"], "is no option"),
            (&[], "a name is missing"),
        ] {
            assert!(parse(words).unwrap_err().contains(wanted), "{words:?}");
        }
    }
}
