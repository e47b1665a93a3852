//! What one run of a fault test leaves behind: `run.json`, with its seed, its faults, its figures and what was wrong.
//!
//! `sim`, `real`, `power-cuts` and `mutants` write one; `raft-tests report` adds them up. Unknown fields are refused: a
//! report that leaves out what it does not understand would vouch for it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Name of the file in a run's directory.
pub const FILE_NAME: &str = "run.json";

/// Name of the history beside it, where a run leaves one.
pub const HISTORY_FILE_NAME: &str = "history.jsonl";

/// When it is set, it is taken for the commit: for a program that runs far from its source.
const COMMIT_VARIABLE: &str = "RINGRAFT_COMMIT";

/// What kind of run it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// Real processes.
    Real,
    Sim,
    /// Power cuts on the log store alone.
    PowerCuts,
    /// A planted bug. Its violations are wanted, and stand in its figures and not in `violations`.
    Mutants,
}

impl RunKind {
    pub fn name(self) -> &'static str {
        match self {
            RunKind::Real => "real",
            RunKind::Sim => "sim",
            RunKind::PowerCuts => "power-cuts",
            RunKind::Mutants => "mutants",
        }
    }
}

/// One run, or several of one kind and commit that were added up by the program that ran them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub kind: RunKind,
    /// Name of the profile or scenario.
    pub profile: String,
    /// The first one's, where several runs are added up.
    pub seed: u64,
    /// How many runs (for `sim`: seeds) this record counts.
    pub runs: u64,
    /// See [`commit`].
    pub commit: String,
    /// Repeats it.
    pub command: String,
    pub started_unix_ms: u64,
    /// Of real time.
    pub seconds: f64,
    pub simulated_seconds: f64,
    /// Operations that were checked.
    pub operations: u64,
    /// Operations with an answer.
    pub ok: u64,
    pub writes: u64,
    pub unknown_writes: u64,
    /// Operations that were not carried out, by the code of their answer.
    pub fail_by_code: BTreeMap<String, u64>,
    /// By class, like `kill/leader` or `power-loss/all`.
    pub faults: BTreeMap<String, FaultCount>,
    /// What was measured, each with its unit in its name, like `stale_window_ms_max`. Of several runs a figure whose name
    /// ends in `_max` is the largest, one that ends in `_min` the smallest; any other is the sum.
    pub figures: BTreeMap<String, f64>,
    /// What must not be.
    pub violations: Vec<String>,
    /// What could not be decided, which is a failed run.
    pub undecided: Vec<String>,
    /// Why the run proves nothing, though nothing is wrong.
    pub void: Vec<String>,
}

/// How often faults of one class were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultCount {
    /// Seen to have taken place.
    pub confirmed: u64,
    pub unconfirmed: u64,
    /// Of the confirmed ones, those that met a shard's leader.
    pub hit_leader: u64,
}

/// What a run comes to. The worst counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Good,
    /// It proves nothing.
    Void,
    Undecided,
    Violation,
}

impl Verdict {
    /// 0 good, 1 violation, 2 undecided, 4 void. 3 is kept for bad arguments, as in `raft-tests check`.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Good => 0,
            Verdict::Violation => 1,
            Verdict::Undecided => 2,
            Verdict::Void => 4,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Violation => "VIOLATION",
            Verdict::Undecided => "undecided, which is not good",
            Verdict::Void => "void: it proves nothing",
        }
    }
}

/// Exit code for arguments or files that are bad.
pub const EXIT_BAD_INPUT: u8 = 3;

impl Run {
    /// One that has seen nothing yet.
    pub fn new(kind: RunKind, profile: impl Into<String>, seed: u64, command: impl Into<String>) -> Self {
        Self {
            kind,
            profile: profile.into(),
            seed,
            runs: 1,
            commit: commit(),
            command: command.into(),
            started_unix_ms: ringraft::clock::wall_ms(),
            seconds: 0.0,
            simulated_seconds: 0.0,
            operations: 0,
            ok: 0,
            writes: 0,
            unknown_writes: 0,
            fail_by_code: BTreeMap::new(),
            faults: BTreeMap::new(),
            figures: BTreeMap::new(),
            violations: Vec::new(),
            undecided: Vec::new(),
            void: Vec::new(),
        }
    }

    pub fn verdict(&self) -> Verdict {
        if !self.violations.is_empty() {
            Verdict::Violation
        } else if !self.undecided.is_empty() {
            Verdict::Undecided
        } else if !self.void.is_empty() {
            Verdict::Void
        } else {
            Verdict::Good
        }
    }

    /// Counts one fault.
    pub fn fault(&mut self, class: &str, confirmed: bool, hit_leader: bool) {
        let count = self.faults.entry(class.to_string()).or_default();
        match confirmed {
            true => count.confirmed += 1,
            false => count.unconfirmed += 1,
        }
        count.hit_leader += u64::from(confirmed && hit_leader);
    }

    /// Takes another run's counts, figures and faults into this one, which keeps its own name and seed.
    pub fn add(&mut self, other: &Run) {
        self.runs += other.runs;
        self.seconds += other.seconds;
        self.simulated_seconds += other.simulated_seconds;
        self.operations += other.operations;
        self.ok += other.ok;
        self.writes += other.writes;
        self.unknown_writes += other.unknown_writes;
        self.started_unix_ms = self.started_unix_ms.min(other.started_unix_ms);
        for (code, count) in &other.fail_by_code {
            *self.fail_by_code.entry(code.clone()).or_default() += count;
        }
        for (class, count) in &other.faults {
            let sum = self.faults.entry(class.clone()).or_default();
            sum.confirmed += count.confirmed;
            sum.unconfirmed += count.unconfirmed;
            sum.hit_leader += count.hit_leader;
        }
        for (name, &figure) in &other.figures {
            let mine = self.figures.entry(name.clone());
            mine.and_modify(|mine| {
                *mine = if name.ends_with("_max") {
                    mine.max(figure)
                } else if name.ends_with("_min") {
                    mine.min(figure)
                } else {
                    *mine + figure
                }
            })
            .or_insert(figure);
        }
        self.violations.extend_from_slice(&other.violations);
        self.undecided.extend_from_slice(&other.undecided);
        self.void.extend_from_slice(&other.void);
    }

    /// Writes `run.json` into a directory that is there, whole or not at all.
    pub fn write(&self, directory: &Path) -> io::Result<PathBuf> {
        let path = directory.join(FILE_NAME);
        let unfinished = directory.join(format!("{FILE_NAME}.unfinished"));
        let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        text.push('\n');
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, &path)?;
        Ok(path)
    }

    /// # Errors
    /// The path and what is wrong with what is there.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: not the record of a run: {error}", path.display()))
    }
}

/// The commit of the source that this program was built from, with `-dirty` when the source has changed since that
/// commit: the environment's word for it, else git's, else `unknown`. Only runs of one commit are added up.
pub fn commit() -> String {
    if let Ok(commit) = std::env::var(COMMIT_VARIABLE) {
        return commit;
    }
    let described = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .output();
    match described {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_string(),
        _ => "unknown".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let mut run = Run::new(RunKind::Real, "kill-pause", 7, "raft-tests real --profile kill-pause --seed 7");
        run.operations = 10;
        run.fault("kill/leader", true, true);
        run.fault("kill/leader", false, true);
        run.figures = BTreeMap::from([
            ("gap_ms_max".to_string(), 3.0),
            ("rate_min".to_string(), 3.0),
            ("reads".to_string(), 3.0),
        ]);
        run
    }

    #[test]
    fn a_record_comes_back_as_it_was_written_and_one_with_an_unknown_field_is_refused() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = run().write(directory.path()).unwrap();
        let read = Run::read(&path).unwrap();
        assert_eq!(read, Run { started_unix_ms: read.started_unix_ms, ..run() });
        let text = fs::read_to_string(&path).unwrap().replacen('{', "{\"new\": 1,", 1);
        fs::write(&path, text).unwrap();
        assert!(Run::read(&path).unwrap_err().contains("unknown field"));
    }

    #[test]
    fn a_fault_that_was_not_confirmed_hit_nobody() {
        let count = run().faults["kill/leader"];
        assert_eq!(count, FaultCount { confirmed: 1, unconfirmed: 1, hit_leader: 1 });
    }

    #[test]
    fn added_runs_sum_their_counts_and_keep_the_worst_figures() {
        let mut sum = run();
        let mut other = run();
        other.figures.insert("gap_ms_max".to_string(), 2.0);
        other.figures.insert("rate_min".to_string(), 2.0);
        other.violations.push("lost".to_string());
        sum.add(&other);
        assert_eq!((sum.runs, sum.operations, sum.faults["kill/leader"].confirmed), (2, 20, 2));
        assert_eq!((sum.figures["gap_ms_max"], sum.figures["rate_min"], sum.figures["reads"]), (3.0, 2.0, 6.0));
        assert_eq!(sum.verdict(), Verdict::Violation);
    }

    #[test]
    fn the_worst_finding_is_the_verdict() {
        let mut run = run();
        assert_eq!(run.verdict(), Verdict::Good);
        run.void.push("slow".to_string());
        assert_eq!(run.verdict(), Verdict::Void);
        run.undecided.push("k".to_string());
        assert_eq!(run.verdict(), Verdict::Undecided);
        run.violations.push("lost".to_string());
        assert_eq!(run.verdict(), Verdict::Violation);
    }
}
