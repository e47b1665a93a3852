//! `raft-tests power-cuts`: what was acknowledged survives a loss of power, on the file system that loses power.
//!
//! [`log_store`] runs Ringraft's log store alone, with what [`model`] says it owes and the [`writer`] that it owes it to;
//! with `--whole-cluster`, [`cluster`] runs real nodes, each on a disk of its own. With a bug planted the same must fail: `--plant` makes the writer acknowledge before the sync, or the disk lie about
//! the syncs of files or of directories.
//!
//! The seed decides everything but the moment, which is when the power fails in real time.

mod cluster;
mod log_store;
pub mod model;
pub mod writer;

use std::io;
use std::path::{Path, PathBuf};

use ringraft::clock;

use crate::powerfs::{self, Model, Process};
use crate::record::{EXIT_BAD_INPUT, Run, RunKind};

pub const USAGE: &str = "raft-tests power-cuts [--whole-cluster] [--cuts NUMBER] [--seed NUMBER] [--out DIRECTORY] \
     [--plant ack-early|lie-sync|lie-dirsync]";
const CUTS: u64 = 100;
/// Under a whole cluster a cut takes seconds.
const CLUSTER_CUTS: u64 = 12;
const CUTS_MAX: u64 = 1_000_000;

/// A bug that must be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// The writer says that a write is acknowledged before it is.
    AckEarly,
    /// The disk's syncs of files do nothing.
    LieSync,
    /// The disk's syncs of directories do nothing.
    LieDirsync,
}

impl Plant {
    pub const ALL: [(&str, Self); 3] =
        [("ack-early", Self::AckEarly), ("lie-sync", Self::LieSync), ("lie-dirsync", Self::LieDirsync)];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, plant)| *plant == self).map(|(name, _)| *name).expect("all are listed")
    }
}

/// What a run of cuts is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Real nodes, and not the log store alone.
    pub whole_cluster: bool,
    pub cuts: u64,
    pub seed: u64,
    pub plant: Option<Plant>,
    /// Where the record goes, and what the disk holds after a violation.
    pub out: Option<PathBuf>,
}

/// What ends a run before its cuts are done.
enum Trouble {
    Violation(String),
    Void(String),
}

impl Trouble {
    fn at(self, place: &str) -> Self {
        match self {
            Self::Violation(what) => Self::Violation(format!("{place}: {what}")),
            Self::Void(what) => Self::Void(format!("{place}: {what}")),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Void(error.to_string())
    }
}

impl Plan {
    /// # Errors
    /// Which argument is wrong, and what is allowed.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let whole_cluster = words.contains(&"--whole-cluster");
        let cuts = if whole_cluster { CLUSTER_CUTS } else { CUTS };
        let mut plan = Self { whole_cluster, cuts, seed: clock::random_u64() >> 32, plant: None, out: None };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(|| format!("{word} wants a value"));
            let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{word} takes a number, not {text:?}"));
            match word {
                "--cuts" => {
                    plan.cuts = number(value()?)?;
                    if !(1..=CUTS_MAX).contains(&plan.cuts) {
                        return Err(format!("--cuts takes 1 to {CUTS_MAX}, not {}", plan.cuts));
                    }
                }
                "--whole-cluster" => {}
                "--seed" => plan.seed = number(value()?)?,
                "--out" => plan.out = Some(PathBuf::from(value()?)),
                "--plant" => {
                    let name = value()?;
                    let found = Plant::ALL.iter().find(|(known, _)| *known == name);
                    plan.plant = Some(found.ok_or_else(|| format!("--plant takes {}, not {name:?}", plants()))?.1);
                }
                other => return Err(format!("{other} is no option")),
            }
        }
        if plan.plant.is_some() && plan.out.is_some() {
            return Err("a run with a planted bug leaves no record: --plant and --out exclude each other".to_string());
        }
        if plan.plant == Some(Plant::AckEarly) && plan.whole_cluster {
            return Err("--plant ack-early is of the log store's writer: a whole cluster takes the others".to_string());
        }
        Ok(plan)
    }

    fn profile(&self) -> &'static str {
        if self.whole_cluster { "whole-cluster" } else { "log-store" }
    }

    fn command(&self) -> String {
        let plant = self.plant.map(|plant| format!(" --plant {}", plant.name())).unwrap_or_default();
        let whole = if self.whole_cluster { " --whole-cluster" } else { "" };
        format!("raft-tests power-cuts{whole} --cuts {} --seed {}{plant}", self.cuts, self.seed)
    }
}

fn plants() -> String {
    Plant::ALL.map(|(name, _)| name).join(", ")
}

/// `raft-tests power-cuts …`: the exit code is that of the verdict.
pub fn command(words: &[&str]) -> u8 {
    let plan = match Plan::parse(words) {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("raft-tests power-cuts: {why}\nusage: {USAGE}");
            return EXIT_BAD_INPUT;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let program = std::env::current_exe().expect("this program has a path");
    let run = runtime.block_on(run(&plan, &program));
    print(&run);
    if let Some(out) = &plan.out
        && let Err(error) = std::fs::create_dir_all(out).and_then(|()| run.write(out))
    {
        eprintln!("raft-tests power-cuts: {}: {error}", out.display());
        return EXIT_BAD_INPUT;
    }
    run.verdict().exit_code()
}

/// Carries a plan out. `program` is `raft-tests`.
pub async fn run(plan: &Plan, program: &Path) -> Run {
    let began = clock::now();
    let mut run = Run::new(RunKind::PowerCuts, plan.profile(), plan.seed, plan.command());
    if let Err(error) = run_into(plan, program, &mut run).await {
        run.void.push(error.to_string());
    }
    run.seconds = clock::now().since(began).as_secs_f64();
    run
}

async fn run_into(plan: &Plan, program: &Path, run: &mut Run) -> io::Result<()> {
    if let Some(why) = powerfs::why_not_here() {
        return Err(io::Error::other(why));
    }
    if let Some(out) = &plan.out {
        std::fs::create_dir_all(out)?;
    }
    if plan.whole_cluster {
        cluster::run(plan.cuts, plan.seed, plan.plant, plan.out.as_deref(), program, run).await;
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let backing = match &plan.out {
        Some(out) => out.join("disk"),
        None => directory.path().join("disk"),
    };
    let options = powerfs::Options {
        backing: backing.clone(),
        mount: directory.path().join("mount"),
        model: Model::Strict,
        seed: plan.seed,
    };
    let disk = Process::start(program, &options).await?;
    log_store::Rig::new(disk, program.to_path_buf(), plan.seed, plan.plant).await?.run(plan.cuts, run).await;
    if plan.out.is_some() && run.violations.is_empty() {
        std::fs::remove_dir_all(&backing)?;
    }
    Ok(())
}

fn print(run: &Run) {
    println!("{}: {} in {:.1} s", run.command, run.verdict().name(), run.seconds);
    println!("  {} writes acknowledged and looked for, {} more under way", run.ok, run.unknown_writes);
    for (class, count) in &run.faults {
        println!("  {class}: {} confirmed, {} not", count.confirmed, count.unconfirmed);
    }
    for (name, figure) in &run.figures {
        println!("  {name}: {figure:.0}");
    }
    for (what, findings) in [("VIOLATION", &run.violations), ("undecided", &run.undecided), ("void", &run.void)] {
        for finding in findings {
            println!("  {what}: {finding}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_and_wrong_ones_are_told_what_is_allowed() {
        let plan = Plan::parse(&["--cuts", "7", "--seed", "3", "--plant", "lie-sync"]).unwrap();
        assert_eq!((plan.cuts, plan.seed, plan.plant), (7, 3, Some(Plant::LieSync)));
        assert_eq!(plan.command(), "raft-tests power-cuts --cuts 7 --seed 3 --plant lie-sync");
        for (words, told) in [
            (&["--cuts", "0"][..], "1 to"),
            (&["--cuts", "x"], "takes a number"),
            (&["--seed"], "wants a value"),
            (&["--plant", "x"], "ack-early, lie-sync, lie-dirsync"),
            (&["--plant", "lie-sync", "--out", "x"], "exclude"),
            (&["--cutz"], "no option"),
            (&["--whole-cluster", "--plant", "ack-early"], "takes the others"),
        ] {
            assert!(Plan::parse(words).unwrap_err().contains(told), "{words:?}");
        }
    }
}
