//! `raft-tests-mutants`: `raft-tests`, and with `serve` and `version` the node program, both with the planted bugs of
//! `ringraft::mutants`. Which one is planted says the environment variable RINGRAFT_MUTANT.

use std::process::ExitCode;

use raft_tests::mutants;

#[path = "../main.rs"]
mod raft_tests_program;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        // The node plants it itself, where its log goes.
        ["serve" | "version" | "--version", ..] => return ringraft::cli::main(),
        [mutants::RUN, rest @ ..] => return ExitCode::from(mutants::run::command(rest)),
        _ => {}
    }
    if let Err(error) = ringraft::mutants::select_from_environment() {
        eprintln!("raft-tests-mutants: {error}");
        return ExitCode::from(raft_tests::record::EXIT_BAD_INPUT);
    }
    if let Some(mutant) = ringraft::mutants::selected() {
        eprintln!("raft-tests-mutants: {mutant} is planted");
    }
    raft_tests_program::main()
}
