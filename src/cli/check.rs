//! `check disk`: whether a directory's disk is fast enough for a node's log, before a node runs on it. Asks no cluster.
//!
//! Parts: `disk` measures; `file_system` says what the directory is on; here stand the limits, the verdict, the output.

mod disk;
mod file_system;

use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Output, duration};
use super::bench::args::bytes;
use super::bench::tally::Latencies;
use super::exit::Failure;
use super::output::{self, Printer};
use disk::{Plan, Samples};
use file_system::{FileSystem, Kind};

/// What etcd asks of a disk: each write waits for one append at least.
const P99_MS_MAX: f64 = 10.0;
/// One heartbeat, with the default timing: slower appends leave followers behind, often enough to be seen.
const P999_MS_MAX: f64 = 100.0;
/// The shortest election time, with the default timing: a node that is stuck for longer loses its leaderships.
const MAX_MS_MAX: f64 = 400.0;
/// With fewer appends the highest percentiles say nothing.
const APPENDS_FOR_P999: u64 = 1000;
const APPEND_BYTES_MAX: usize = 16 << 20;
const DURATION_MAX: Duration = Duration::from_secs(3600);

const COLUMNS: &[&str] = &["appends", "per_second", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms"];
const CHECK_COLUMNS: &[&str] = &["check", "ms", "limit_ms", "verdict"];

/// Appends blocks to a file and syncs each, as a node's log does, and removes the file again.
///
/// Good is: p99 at most 10 ms (as etcd recommends), p99.9 at most 100 ms (a heartbeat), the slowest at most 400 ms (the
/// shortest election time), and no file system in memory. The exit code is 1 when the verdict is bad, and when the
/// check was interrupted, so that there is none.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DiskArgs {
    /// A directory on the disk that a node will have its data on.
    pub(super) dir: PathBuf,
    /// Bytes of one append. The default is that of etcd's recipe for fio.
    #[arg(long, value_name = "SIZE", default_value = "2300", value_parser = append_size)]
    pub(super) append_size: usize,
    /// Appends of each writer.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) appends: u64,
    /// Writers at the same time, each with a file of its own: as many nodes as will share the disk.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) writers: u16,
    /// Ends after this time at the latest.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub(super) duration: Duration,
}

pub(super) fn run(args: &DiskArgs, printer: &mut Printer) -> Result<(), Failure> {
    let file_system = check_directory(&args.dir)?;
    let (samples, interrupted) = super::block_on(async { measure(args, interruption()?).await })??;
    judge(args, &file_system, &samples, interrupted, printer)
}

/// Prints what was found and fails when it is not good.
fn judge(
    args: &DiskArgs,
    file_system: &FileSystem,
    samples: &Samples,
    interrupted: bool,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let verdict = Verdict::of(&samples.latencies, file_system, interrupted);
    match printer.format() {
        Output::Json => printer.line(&report(args, file_system, samples, &verdict).to_string())?,
        Output::Table => printer.emit(table(samples, &verdict, file_system).as_bytes())?,
    }
    if interrupted {
        let count = samples.latencies.count();
        return Err(Failure::Run(format!("interrupted after {count} appends: there is no verdict")));
    }
    if verdict.is_good() {
        return Ok(());
    }
    let wrong = verdict.wrong(file_system);
    Err(Failure::Run(format!("{} is not fit for a node's data: {wrong}", args.dir.display())))
}

/// That files can be made in it, and what it is on.
fn check_directory(directory: &Path) -> Result<FileSystem, Failure> {
    let failed = |source: io::Error| Failure::Io { what: directory.display().to_string(), source };
    let file = File::open(directory).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_dir() {
        return Err(failed(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    FileSystem::of(&file).map_err(failed)
}

/// Ends when the process is told to end, in any of the usual ways.
fn interruption() -> Result<impl Future<Output = ()>, Failure> {
    let listen =
        |kind| signal(kind).map_err(|source| Failure::Io { what: "cannot listen for signals".to_string(), source });
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

/// Also says whether it was interrupted; its files are removed then too.
async fn measure(args: &DiskArgs, interruption: impl Future<Output = ()>) -> Result<(Samples, bool), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let plan = Plan {
        directory: args.dir.clone(),
        append_bytes: args.append_size,
        appends: args.appends,
        writers: args.writers,
        duration: args.duration,
    };
    let interrupted = stop.clone();
    let measuring = disk::measure(plan, stop);
    tokio::pin!(measuring);
    let samples = tokio::select! {
        samples = &mut measuring => samples,
        () = interruption => {
            interrupted.store(true, Ordering::Relaxed);
            measuring.await
        }
    };
    let samples = samples.map_err(|source| Failure::Io { what: args.dir.display().to_string(), source })?;
    if samples.latencies.count() == 0 {
        return Err(Failure::Run("interrupted before anything was measured".to_string()));
    }
    Ok((samples, interrupted.load(Ordering::Relaxed)))
}

struct Check {
    name: &'static str,
    ms: f64,
    limit_ms: f64,
}

impl Check {
    fn is_passed(&self) -> bool {
        self.ms <= self.limit_ms
    }
}

struct Verdict {
    checks: [Check; 3],
    /// What was written would survive a crash of the machine.
    durable: bool,
    /// What was measured may be too little to be fair.
    interrupted: bool,
}

impl Verdict {
    fn of(latencies: &Latencies, file_system: &FileSystem, interrupted: bool) -> Self {
        let checks = [
            Check { name: "p99", ms: latencies.ms_at(0.99), limit_ms: P99_MS_MAX },
            Check { name: "p99.9", ms: latencies.ms_at(0.999), limit_ms: P999_MS_MAX },
            Check { name: "max", ms: latencies.max_ms(), limit_ms: MAX_MS_MAX },
        ];
        Self { checks, durable: file_system.kind != Kind::Memory, interrupted }
    }

    fn is_good(&self) -> bool {
        !self.interrupted && self.durable && self.checks.iter().all(Check::is_passed)
    }

    fn word(&self) -> &'static str {
        match (self.interrupted, self.is_good()) {
            (true, _) => "none",
            (false, true) => "good",
            (false, false) => "bad",
        }
    }

    fn wrong(&self, file_system: &FileSystem) -> String {
        let slow = self.checks.iter().filter(|check| !check.is_passed());
        let mut wrong: Vec<String> = slow
            .map(|Check { name, ms, limit_ms }| format!("{name} of a synced append is {ms} ms, above {limit_ms} ms"))
            .collect();
        if !self.durable {
            wrong.push(format!("{} is in memory, and nothing in it survives the machine", file_system.name));
        }
        wrong.join("; ")
    }
}

fn warnings(file_system: &FileSystem, samples: &Samples) -> Vec<String> {
    let mut warnings: Vec<String> = file_system.warning().into_iter().collect();
    let count = samples.latencies.count();
    if count < APPENDS_FOR_P999 {
        warnings.push(format!("{count} appends are too few for p99.9: {APPENDS_FOR_P999} and more say something"));
    }
    warnings
}

/// Of a stable shape, as `bench`'s.
fn report(args: &DiskArgs, file_system: &FileSystem, samples: &Samples, verdict: &Verdict) -> Value {
    let checks: Vec<Value> = verdict
        .checks
        .iter()
        .map(|check| {
            json!({ "name": check.name, "ms": check.ms, "limit_ms": check.limit_ms, "passed": check.is_passed() })
        })
        .collect();
    json!({
        "directory": args.dir.to_string_lossy(),
        "file_system": file_system.name,
        "append_bytes": args.append_size,
        "writers": args.writers,
        "interrupted": verdict.interrupted,
        "appends": samples.latencies.count(),
        "seconds": samples.elapsed.as_secs_f64(),
        "appends_per_second": samples.per_second(),
        "latency_ms": samples.latencies.json(),
        "checks": checks,
        "warnings": warnings(file_system, samples),
        "verdict": verdict.word(),
    })
}

fn table(samples: &Samples, verdict: &Verdict, file_system: &FileSystem) -> String {
    let latencies = &samples.latencies;
    let row = json!({
        "appends": latencies.count(),
        "per_second": samples.per_second(),
        "mean_ms": latencies.json()["mean"],
        "p50_ms": latencies.ms_at(0.5),
        "p90_ms": latencies.ms_at(0.9),
        "p99_ms": latencies.ms_at(0.99),
        "p99.9_ms": latencies.ms_at(0.999),
        "max_ms": latencies.max_ms(),
    });
    let checks: Vec<Value> = verdict
        .checks
        .iter()
        .map(|check| {
            let passed = if check.is_passed() { "good" } else { "bad" };
            json!({ "check": check.name, "ms": check.ms, "limit_ms": check.limit_ms, "verdict": passed })
        })
        .collect();
    let mut text = format!("append and fdatasync, on {}\n", file_system.name);
    text += &output::records(&[row], COLUMNS, true);
    text += &format!("\n{}", output::records(&checks, CHECK_COLUMNS, true));
    for warning in warnings(file_system, samples) {
        text += &format!("warning: {warning}\n");
    }
    text += &format!("verdict: {}\n", verdict.word());
    text
}

fn append_size(text: &str) -> Result<usize, String> {
    match bytes(text)? {
        size @ 1..=APPEND_BYTES_MAX => Ok(size),
        _ => Err(format!("expected 1 byte to {} MiB", APPEND_BYTES_MAX >> 20)),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() || time > DURATION_MAX {
        return Err("expected a time above 0 and up to 60m".to_string());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Args, CheckCommand, Command};
    use super::super::exit::Exit;
    use super::super::testing::Captured;
    use super::*;

    fn parse(line: &[&str]) -> Result<DiskArgs, clap::Error> {
        let args = Args::try_parse_from([&["ringraft", "check", "disk"], line].concat())?;
        let Command::Check(CheckCommand::Disk(disk)) = args.command else { panic!("it is no other command") };
        Ok(disk)
    }

    fn latencies(ms: &[u64]) -> Latencies {
        let mut latencies = Latencies::new();
        ms.iter().for_each(|ms| latencies.record(Duration::from_millis(*ms)));
        latencies
    }

    fn on(kind: Kind) -> FileSystem {
        FileSystem { name: "afs".to_string(), kind }
    }

    #[test]
    fn each_limit_is_held_against_its_percentile() {
        let good = |ms: &[u64], kind| Verdict::of(&latencies(ms), &on(kind), false).is_good();
        let mut fast = vec![1; 10_000];
        assert!(good(&fast, Kind::Local));
        fast[0] = 399;
        assert!(good(&fast, Kind::Local), "one stall below an election time");
        fast[0] = 500;
        assert!(!good(&fast, Kind::Local), "one above");
        fast[0] = 1;
        fast[..20].fill(150);
        assert!(!good(&fast, Kind::Local), "two of a thousand are slower than a heartbeat");
        fast[..20].fill(1);
        fast[..150].fill(12);
        assert!(!good(&fast, Kind::Local), "three of two hundred above 10 ms");
        fast[..150].fill(9);
        assert!(good(&fast, Kind::Local));
        assert!(!good(&fast, Kind::Memory), "memory is fast, and gone");
        assert!(good(&fast, Kind::Network), "which is a warning, not a verdict");
    }

    #[test]
    fn a_verdict_says_what_is_wrong() {
        let verdict = Verdict::of(&latencies(&[20; 100]), &on(Kind::Memory), false);
        let wrong = verdict.wrong(&on(Kind::Memory));
        assert!(wrong.contains("p99 of a synced append is 2") && wrong.contains("above 10 ms"), "{wrong}");
        assert!(wrong.contains("in memory") && !wrong.contains("p99.9"), "{wrong}");
    }

    #[test]
    fn what_was_interrupted_is_no_good_verdict_however_fast_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let args = parse(&[directory.path().to_str().unwrap()]).unwrap();
        let samples = Samples { latencies: latencies(&[1; 2000]), elapsed: Duration::from_secs(2) };
        for (format, says) in [(Output::Json, r#""verdict":"none""#), (Output::Table, "verdict: none\n")] {
            let captured = Captured::default();
            let printer = &mut Printer::new(format, Box::new(captured.clone()));
            let refused = judge(&args, &on(Kind::Local), &samples, true, printer).unwrap_err();
            assert_eq!((refused.exit(), captured.text().contains(says)), (Exit::Other, true), "{}", captured.text());
            assert!(refused.to_string().contains("interrupted after 2000 appends"), "{refused}");
            judge(&args, &on(Kind::Local), &samples, false, printer).unwrap();
        }
    }

    #[tokio::test]
    async fn a_check_that_is_interrupted_ends_and_removes_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_path_buf();
        let args = parse(&[path.to_str().unwrap(), "--appends", "1000000000", "--duration", "60m"]).unwrap();
        let has_begun = async {
            while path.read_dir().unwrap().count() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let measured = tokio::time::timeout(Duration::from_secs(60), measure(&args, has_begun)).await;
        match measured.expect("it ends when it is told to") {
            Ok((_, interrupted)) => assert!(interrupted),
            Err(failure) => assert!(failure.to_string().contains("before anything was measured"), "{failure}"),
        }
        assert_eq!(directory.path().read_dir().unwrap().count(), 0, "its files are gone");
    }

    #[test]
    fn a_directory_is_measured_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let args = parse(&[path, "--appends", "20", "--writers", "2", "--append-size", "1KiB"]).unwrap();
        let captured = Captured::default();
        let printer = &mut Printer::new(Output::Json, Box::new(captured.clone()));
        let judged = run(&args, printer);
        let report: Value = serde_json::from_str(&captured.text()).unwrap();
        assert_eq!(
            (&report["appends"], &report["writers"], &report["append_bytes"]),
            (&40.into(), &2.into(), &1024.into())
        );
        assert_eq!(report["verdict"] == "good", judged.is_ok(), "{report}: {judged:?}");
        assert!(report["latency_ms"]["p99"].as_f64().unwrap() > 0.0);
        assert!(report["warnings"].to_string().contains("too few"), "{report}");
        assert_eq!(directory.path().read_dir().unwrap().count(), 0, "its files are gone");
        let captured = Captured::default();
        let _ = run(&args, &mut Printer::new(Output::Table, Box::new(captured.clone())));
        assert!(captured.text().contains("verdict: ") && captured.text().contains("P99.9 MS"), "{}", captured.text());
    }

    #[test]
    fn what_is_no_directory_or_cannot_be_written_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (path, why) in [
            ("/no/such/directory", "No such file"),
            (file.path().to_str().unwrap(), "not a directory"),
            ("/proc/self", ""),
        ] {
            let printer = &mut Printer::new(Output::Table, Box::new(io::sink()));
            let refused = run(&parse(&[path, "--appends", "1"]).unwrap(), printer).unwrap_err();
            assert_eq!(refused.exit(), Exit::Other, "{path}");
            assert!(refused.to_string().contains(why) && refused.to_string().contains(path), "{refused}");
        }
        for bad in [
            &["."; 0][..],
            &[".", "--appends", "0"],
            &[".", "--writers", "0"],
            &[".", "--writers", "65"],
            &[".", "--append-size", "0"],
            &[".", "--append-size", "17MiB"],
            &[".", "--duration", "0s"],
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }
}
