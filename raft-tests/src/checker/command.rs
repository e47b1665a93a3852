//! `raft-tests check FILE [--picture OUT.html]`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use super::history::{self, History};
use super::{Report, Verdict, check, lines, picture};

const USAGE: &str = "\
usage: raft-tests check FILE [--picture OUT.html]
                  judges a recorded history (JSON lines); exits with 0 when it is good, 1 when it is not, 2 when it
                  could not be decided, 3 when the file or the arguments are bad";

const EXIT_GOOD: u8 = 0;
const EXIT_VIOLATION: u8 = 1;
const EXIT_UNDECIDED: u8 = 2;
const EXIT_BAD_INPUT: u8 = 3;

/// Violations that are printed and drawn in full; the rest are counted.
pub(super) const VIOLATIONS_SHOWN: usize = 10;

/// Gives the exit code.
pub fn command(words: &[&str]) -> u8 {
    let (file, out) = match words {
        [file] if !file.starts_with("--") => (file, None),
        [file, "--picture", out] | ["--picture", out, file] => (file, Some(out)),
        _ => {
            eprintln!("raft-tests: check takes one file\n{USAGE}");
            return EXIT_BAD_INPUT;
        }
    };
    let history = match read(Path::new(file)) {
        Ok(history) => history,
        Err(why) => {
            eprintln!("raft-tests: {file}: {why}");
            return EXIT_BAD_INPUT;
        }
    };
    let report = check(&history);
    print!("{file}: {}", summary(&history, &report));
    if let Some(out) = out {
        if let Err(error) = fs::write(out, picture(&history, &report)) {
            eprintln!("raft-tests: {out}: {error}");
            // What was found comes first: a script must not take a violation for a full disk.
            return if report.verdict() == Verdict::Good { EXIT_BAD_INPUT } else { exit_code(&report) };
        }
        println!("picture: {out}");
    }
    exit_code(&report)
}

fn read(path: &Path) -> Result<History, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    history::read(BufReader::new(file)).map_err(|malformed| malformed.to_string())
}

fn exit_code(report: &Report) -> u8 {
    match report.verdict() {
        Verdict::Good => EXIT_GOOD,
        Verdict::Violation => EXIT_VIOLATION,
        Verdict::Undecided => EXIT_UNDECIDED,
    }
}

/// The counts, then each violation and what is undecided, then the verdict.
pub(super) fn summary(history: &History, report: &Report) -> String {
    let mut text = format!("{} operations on {} keys\n", report.operations, report.keys);
    let (unknown, failed, refused) = (report.unknown_writes, report.failed, report.refused_writes);
    let _ = writeln!(text, "  writes: {unknown} of unknown outcome, {failed} failed, {refused} refused (412)");
    let mut reads: Vec<String> =
        report.reads.iter().map(|(mode, count)| format!("{count} {}", lines::mode_name(*mode))).collect();
    reads.push(format!("{} without an answer, not checked", report.unanswered_reads));
    let _ = writeln!(text, "  reads: {}", reads.join(", "));
    let (violations, undecided) = (report.violations.len(), report.undecided.len());
    let _ = writeln!(text, "  violations: {violations}, undecided keys: {undecided}");
    for violation in report.violations.iter().take(VIOLATIONS_SHOWN) {
        let _ = write!(text, "\nVIOLATION {}", lines::violation(history, violation));
    }
    if violations > VIOLATIONS_SHOWN {
        let _ = writeln!(text, "\nand {} violations more", violations - VIOLATIONS_SHOWN);
    }
    for undecided in &report.undecided {
        let _ = writeln!(text, "UNDECIDED {}", lines::undecided(undecided));
    }
    let verdict = match report.verdict() {
        Verdict::Good => "good: every answer was possible",
        Verdict::Violation => "bad",
        Verdict::Undecided => "undecided, which is not good",
    };
    let _ = writeln!(text, "{verdict}");
    text
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
