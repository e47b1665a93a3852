//! `cargo run --release -p ringraft-models`: explores the models and prints what holds, with the figures, and a
//! counterexample for each planted bug.

use std::process::ExitCode;

use ringraft_models::suite::Selection;
use ringraft_models::suites;

const USAGE: &str = "\
usage: ringraft-models [--deep] [--only TEXT]
       ringraft-models --list

--deep       also the cases that take minutes and gigabytes
--only TEXT  only the cases whose name contains TEXT, deep ones too
--list       the cases with their bounds, without running them

Exit codes: 0 everything is as it should be, 1 something is not, 2 bad arguments.";

/// As for every program: wrong arguments are not a failure of what is tested.
const EXIT_USAGE: u8 = 2;

pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let selection = match words.as_slice() {
        ["--list"] => return list(),
        [] => Selection::default(),
        ["--deep"] => Selection { deep: true, only: None },
        ["--only", text] => Selection { deep: false, only: Some((*text).to_string()) },
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let named = |only: &String| suites().iter().any(|suite| suite.cases.iter().any(|case| case.name.contains(only)));
    if selection.only.as_ref().is_some_and(|only| !named(only)) {
        eprintln!("no case has that in its name; `ringraft-models --list` names them all");
        return ExitCode::from(EXIT_USAGE);
    }
    let mut complaints = Vec::new();
    for suite in suites() {
        complaints.extend(suite.run(&selection, |line| println!("{line}")));
    }
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list() -> ExitCode {
    for case in suites().iter().flat_map(|suite| &suite.cases) {
        let deep = if case.is_deep { "deep: " } else { "" };
        println!("{deep}{} ({}): {:?}", case.name, case.bounds, case.expected);
    }
    ExitCode::SUCCESS
}
