//! `raft-tests report DIRECTORY...`: adds up the runs whose records lie below the directories, says what they come to,
//! and writes it as one HTML page. With `--totals` it holds the sum against what a
//! release must have survived ([`totals`]).
//!
//! Only runs of one commit are added up: figures of two programs say nothing about either. A void run proves nothing, so
//! it is listed and left out of every sum.

mod html;
mod totals;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::record::{self, EXIT_BAD_INPUT, Run, RunKind, Verdict};

const USAGE: &str = "\
usage: raft-tests report DIRECTORY... [--html OUT.html] [--totals] [--operations]
                  adds up the runs (run.json) below the directories, which must be of one commit; --totals also holds the
                  sum against what a release must have survived, --operations its splits, moves and transfers. Exits with 0 when all is good, 1 for a violation or a
                  total that is not reached, 2 when something is undecided, 3 when files or arguments are bad, 4 when a
                  run is void (where totals are asked for it is only left out)";

/// Directories below a given one that are looked into.
const DEPTH_MAX: usize = 6;

/// One run, and where it lies.
pub(crate) struct Found {
    pub(crate) directory: PathBuf,
    pub(crate) run: Run,
}

struct Arguments {
    directories: Vec<PathBuf>,
    html: Option<PathBuf>,
    totals: bool,
    operations: bool,
}

impl Arguments {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut arguments = Self { directories: Vec::new(), html: None, totals: false, operations: false };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            match word {
                "--html" => arguments.html = Some(words.next().ok_or("--html wants a file name")?.into()),
                "--totals" => arguments.totals = true,
                "--operations" => arguments.operations = true,
                other if other.starts_with("--") => {
                    return Err(format!("{other} is no option of report: there are --html, --totals and --operations"));
                }
                directory => arguments.directories.push(directory.into()),
            }
        }
        if arguments.directories.is_empty() {
            return Err("report wants a directory with runs".to_string());
        }
        Ok(arguments)
    }
}

/// Gives the exit code.
pub fn command(words: &[&str]) -> u8 {
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("raft-tests: {why}\n{USAGE}");
            return EXIT_BAD_INPUT;
        }
    };
    let found = match gather(&arguments.directories) {
        Ok(found) => found,
        Err(why) => {
            eprintln!("raft-tests: {why}");
            return EXIT_BAD_INPUT;
        }
    };
    for one in &found {
        println!("{}", line(one));
    }
    let sums = sums(&found);
    print!("{}", totals::table(&sums));
    let verdict = found.iter().map(|one| one.run.verdict()).max().unwrap_or(Verdict::Good);
    let mut code = verdict.exit_code();
    if arguments.totals || arguments.operations {
        let mut goals = if arguments.totals { totals::check(&sums) } else { Vec::new() };
        if arguments.operations {
            goals.extend(totals::check_operations(&sums));
        }
        for goal in &goals {
            println!("{goal}");
        }
        let enough = goals.iter().all(|goal| goal.is_met);
        code = match verdict {
            Verdict::Violation | Verdict::Undecided => code,
            Verdict::Good | Verdict::Void => u8::from(!enough),
        };
    }
    for one in &found {
        for what in one.run.violations.iter().chain(&one.run.undecided) {
            println!("{}: {what}", one.directory.display());
        }
    }
    if let Some(out) = &arguments.html {
        if let Err(error) = fs::write(out, html::page(&found, &sums)) {
            eprintln!("raft-tests: {}: {error}", out.display());
            return if code == 0 { EXIT_BAD_INPUT } else { code };
        }
        println!("report: {}", out.display());
    }
    code
}

/// Writes the page of one run into its directory, from the record and the history that lie there.
///
/// # Errors
/// What could not be read or written.
pub fn write_page(directory: &Path) -> Result<PathBuf, String> {
    let found = gather(&[directory.to_path_buf()])?;
    let out = directory.join("report.html");
    let sums = sums(&found);
    fs::write(&out, html::page(&found, &sums)).map_err(|error| format!("{}: {error}", out.display()))?;
    Ok(out)
}

/// All runs below the directories, in the order of their beginnings.
fn gather(directories: &[PathBuf]) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    for directory in directories {
        look_into(directory, DEPTH_MAX, &mut found)?;
    }
    if found.is_empty() {
        let names: Vec<String> = directories.iter().map(|directory| directory.display().to_string()).collect();
        return Err(format!("no run ({}) below {}", record::FILE_NAME, names.join(", ")));
    }
    let commits: BTreeSet<&str> = found.iter().map(|one| one.run.commit.as_str()).collect();
    if commits.len() > 1 {
        let commits: Vec<&str> = commits.into_iter().collect();
        return Err(format!("runs of different commits are not added up: {}", commits.join(", ")));
    }
    // The path settles the order of runs that began in one millisecond.
    found.sort_by(|a, b| (a.run.started_unix_ms, &a.directory).cmp(&(b.run.started_unix_ms, &b.directory)));
    Ok(found)
}

fn look_into(directory: &Path, depth: usize, found: &mut Vec<Found>) -> Result<(), String> {
    let at = |error: std::io::Error| format!("{}: {error}", directory.display());
    let record = directory.join(record::FILE_NAME);
    if record.is_file() {
        found.push(Found { directory: directory.to_path_buf(), run: Run::read(&record)? });
    }
    if depth == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(directory).map_err(at)? {
        let entry = entry.map_err(at)?;
        if entry.file_type().map_err(at)?.is_dir() {
            look_into(&entry.path(), depth - 1, found)?;
        }
    }
    Ok(())
}

/// One sum for each kind, of the runs that count.
fn sums(found: &[Found]) -> Vec<Run> {
    let mut sums: Vec<Run> = Vec::new();
    for kind in [RunKind::Real, RunKind::Sim, RunKind::PowerCuts, RunKind::Mutants] {
        let mut counted = found.iter().map(|one| &one.run).filter(|run| run.kind == kind && run.void.is_empty());
        if let Some(first) = counted.next() {
            let mut sum = first.clone();
            counted.for_each(|run| sum.add(run));
            sums.push(sum);
        }
    }
    sums
}

fn line(one: &Found) -> String {
    let run = &one.run;
    let faults: u64 = run.faults.values().map(|count| count.confirmed).sum();
    let mut line = format!(
        "{:<10} {:<14} seed {:<12} {:>6} runs {:>8.1} s {:>9} operations {:>6} faults  {}",
        run.kind.name(),
        run.profile,
        run.seed,
        run.runs,
        run.seconds,
        run.operations,
        faults,
        run.verdict().name()
    );
    for why in &run.void {
        line.push_str("\n    void: ");
        line.push_str(why);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, change: impl FnOnce(&mut Run)) {
        let directory = directory.join(name);
        fs::create_dir(&directory).unwrap();
        let mut run = Run::new(RunKind::Real, name, 1, "raft-tests real");
        run.commit = "abc".to_string();
        run.operations = 5;
        change(&mut run);
        run.write(&directory).unwrap();
    }

    fn report(directory: &Path, more: &[&str]) -> u8 {
        let path = directory.to_str().unwrap();
        command(&[&[path], more].concat())
    }

    #[test]
    fn the_worst_run_decides_the_exit_code() {
        let directory = tempfile::TempDir::new().unwrap();
        write(directory.path(), "good", |_| {});
        assert_eq!(report(directory.path(), &[]), 0);
        write(directory.path(), "void", |run| run.void.push("slow".to_string()));
        assert_eq!(report(directory.path(), &[]), 4);
        write(directory.path(), "undecided", |run| run.undecided.push("k".to_string()));
        assert_eq!(report(directory.path(), &[]), 2);
        write(directory.path(), "bad", |run| run.violations.push("lost".to_string()));
        assert_eq!(report(directory.path(), &[]), 1);
        assert_eq!(report(directory.path(), &["--totals"]), 1);
    }

    #[test]
    fn a_void_run_is_in_no_sum() {
        let directory = tempfile::TempDir::new().unwrap();
        write(directory.path(), "good", |_| {});
        write(directory.path(), "void", |run| run.void.push("slow".to_string()));
        let found = gather(&[directory.path().to_path_buf()]).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(sums(&found)[0].operations, 5);
    }

    #[test]
    fn runs_of_two_commits_or_none_at_all_are_refused() {
        let directory = tempfile::TempDir::new().unwrap();
        assert_eq!(report(directory.path(), &[]), EXIT_BAD_INPUT);
        write(directory.path(), "one", |_| {});
        write(directory.path(), "other", |run| run.commit = "def".to_string());
        assert_eq!(report(directory.path(), &[]), EXIT_BAD_INPUT);
        assert_eq!(command(&["--html"]), EXIT_BAD_INPUT);
        assert_eq!(command(&[]), EXIT_BAD_INPUT);
    }

    #[test]
    fn too_little_is_not_enough_for_a_release() {
        let directory = tempfile::TempDir::new().unwrap();
        write(directory.path(), "good", |_| {});
        assert_eq!(report(directory.path(), &["--totals"]), 1);
        write(directory.path(), "much", |run| {
            run.seconds = 91.0 * 60.0;
            for (class, count) in [("power-loss/all", 60), ("power-loss/leader", 140), ("lease-trap", 200)] {
                (0..count).for_each(|_| run.fault(class, true, true));
            }
            run.figures.insert("stale_window_ms_max".to_string(), 0.0);
        });
        write(directory.path(), "sim", |run| (run.kind, run.runs) = (RunKind::Sim, 2000));
        assert_eq!(report(directory.path(), &["--totals"]), 0);
        // One stale window is a reason to fail whatever the rest says.
        write(directory.path(), "stale", |run| {
            run.figures.insert("stale_window_ms_max".to_string(), 0.5);
        });
        assert_eq!(report(directory.path(), &["--totals"]), 1);
    }
}
