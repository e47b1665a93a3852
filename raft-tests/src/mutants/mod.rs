//! `raft-tests mutants`: shows that the fault tests notice bugs, by planting some (`ringraft::mutants`).
//!
//! The planted bugs stand in a program of their own, `raft-tests-mutants`, built beside this one with the feature
//! `mutants`. It is this program and a node program in one; this module only finds it and hands over.

#[cfg(feature = "mutants")]
mod marked;
#[cfg(feature = "mutants")]
pub mod run;
#[cfg(feature = "mutants")]
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::record::EXIT_BAD_INPUT;

/// The program with the planted bugs.
pub const PROGRAM: &str = "raft-tests-mutants";

/// The word by which it is told to run all of them.
pub const RUN: &str = "run-mutants";

const BUILD: &str = "cargo build --release --locked -p raft-tests --features mutants --bin raft-tests-mutants";

/// Gives the exit code.
pub fn command(words: &[&str]) -> u8 {
    let beside = std::env::current_exe().ok().as_deref().and_then(beside);
    let Some(program) = beside else {
        eprintln!("raft-tests: there is no {PROGRAM} beside this program; build it with\n  {BUILD}");
        return EXIT_BAD_INPUT;
    };
    match Command::new(&program).arg(RUN).args(words).status() {
        // Ended by a signal: it proves nothing.
        Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        Err(error) => {
            eprintln!("raft-tests: {}: {error}", program.display());
            EXIT_BAD_INPUT
        }
    }
}

fn beside(program: &Path) -> Option<PathBuf> {
    let beside = program.with_file_name(PROGRAM);
    beside.is_file().then_some(beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_with_the_planted_bugs_is_the_one_beside_this_one() {
        let directory = tempfile::TempDir::new().unwrap();
        let own = directory.path().join("raft-tests");
        assert_eq!(beside(&own), None);
        std::fs::write(directory.path().join(PROGRAM), "").unwrap();
        assert_eq!(beside(&own), Some(directory.path().join(PROGRAM)));
    }
}
