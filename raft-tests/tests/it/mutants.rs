//! The program that is released has no planted bugs. That the one which is built for them has them, and says so, is
//! shown by `raft-tests mutants` before it runs any (`raft_tests::mutants`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const VARIABLE: &str = "RINGRAFT_MUTANT";
/// What the search must find in any node program, so that it is known to search.
const IN_EVERY_PROGRAM: &str = "Exit codes: 0 ok, 1 other, 2 usage";
const PLANTED: [&str; 16] = [
    "ack-before-fsync",
    "vote-not-synced",
    "ack-before-quorum",
    "read-without-read-index",
    "lease-without-margin",
    "lease-kept-over-restart",
    "check-outside-apply",
    "apply-twice-after-restart",
    "snapshot-not-atomic",
    "dedup-left-out-of-snapshot",
    "not-applied-after-proposal",
    "split-without-fence",
    "move-leaves-source-serving",
    "removed-still-votes",
    "WITH PLANTED BUGS",
    VARIABLE,
];

/// The node program that is released: beside `raft-tests`, as `cargo build --release` makes it.
fn released() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_raft-tests")).with_file_name("ringraft");
    assert!(program.is_file(), "no {}: run `cargo build --release` first", program.display());
    program
}

fn found_in(program: &Path, wanted: &[&'static str]) -> Vec<&'static str> {
    let bytes = fs::read(program).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    wanted.iter().copied().filter(|text| holds(text)).collect()
}

/// As far as `serve` comes with a data directory that cannot be made.
fn serve(program: &Path, mutant: &str) -> Output {
    Command::new(program).args(["serve", "--data", "/dev/null/data"]).env(VARIABLE, mutant).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_released_program_has_no_planted_bugs_and_refuses_to_be_asked_for_one() {
    let program = released();
    assert_eq!(found_in(&program, &[IN_EVERY_PROGRAM]), [IN_EVERY_PROGRAM]);
    assert_eq!(found_in(&program, &PLANTED), [] as [&str; 0]);
    let refused = said(&serve(&program, "ack-before-fsync"));
    assert!(refused.contains("unknown environment variable RINGRAFT_MUTANT"), "{refused}");
}
