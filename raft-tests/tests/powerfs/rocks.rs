//! Ringraft's own log engine on it, in a process that is killed as the power fails: what was acknowledged is there. And
//! the same with bugs planted, each of which must be seen.

use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use raft_tests::powerfs::control::figure;
use raft_tests::powerfs::writer::IDENTITY_EVERY;
use raft_tests::powerfs::{Model, Process};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use crate::life::PROGRAM;
use crate::support::{now, options};

/// Acknowledged writes before the power fails: from none, in the middle of the store's making, to some flushes.
const WRITES_MAX: u64 = 60;
const MICROSECONDS_MORE: u64 = 4000;
/// Cuts in which a planted bug must have shown.
const CUTS_WITH_A_BUG: u64 = 24;

struct Rig {
    files: Process,
    directory: TempDir,
    seed: u64,
    /// Of the writer.
    unsynced: bool,
    acknowledged: u64,
    writing: Duration,
    dropped: u64,
    survived: u64,
}

impl Rig {
    fn new(unsynced: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control");
        let files = Process::start(Path::new(PROGRAM), &options(directory.path(), Model::Strict), &socket).unwrap();
        let (writing, dropped, survived) = (Duration::ZERO, 0, 0);
        Self { files, directory, seed: 0, unsynced, acknowledged: 0, writing, dropped, survived }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("mount/data")
    }

    fn run(&self, command: &str) -> String {
        self.files.control().run(command).unwrap()
    }

    fn writer(&self, what: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("powerfs-writer").arg(what).arg(self.data());
        command
    }

    /// Writes, loses power, comes back. What is wrong then, if anything is.
    fn cut_once(&mut self) -> Result<(), String> {
        self.seed += 1;
        let mut rng = StdRng::seed_from_u64(self.seed);
        let writes = rng.random_range(0..=WRITES_MAX);
        let mut command = self.writer("write");
        if self.unsynced {
            command.arg("--unsynced");
        }
        let mut writer = Killed(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(writer.0.stdout.take().unwrap()).lines();
        let started = now();
        let mut last = self.acknowledged;
        for _ in 0..writes {
            match next(&mut lines) {
                Some(number) => last = number,
                None => return Err(format!("the writer ended by itself after {last}: {}", writer.said())),
            }
        }
        self.writing += started.elapsed();
        pause(Duration::from_micros(rng.random_range(0..=MICROSECONDS_MORE)));
        let how = match self.seed % 3 {
            0 => "cut clean".to_string(),
            1 => format!("cut pages {}", self.seed),
            _ => format!("cut sectors {}", self.seed),
        };
        self.run(&how);
        writer.kill();
        while let Some(number) = next(&mut lines) {
            last = number;
        }
        let stats = self.run("stats");
        assert_eq!(figure(&stats, "cuts"), Some(self.seed), "the cut took place");
        let sum = |kind: &str| {
            ["pages", "names"].iter().map(|what| figure(&stats, &format!("cut_{what}_{kind}")).unwrap()).sum::<u64>()
        };
        self.dropped += sum("dropped");
        self.survived += sum("survived");
        self.run("resume");

        let check = self.writer("check").output().unwrap();
        let (said, why) = (String::from_utf8_lossy(&check.stdout), String::from_utf8_lossy(&check.stderr));
        if !check.status.success() {
            return Err(format!("cut {} ({how}): acknowledged {last}, but: {}", self.seed, why.trim_end()));
        }
        let (held, identity) = said.trim_end().split_once(' ').unwrap();
        let (held, identity): (u64, u64) = (held.parse().unwrap(), identity.parse().unwrap());
        // One write may have been under way.
        if held < last || held > last + 1 {
            return Err(format!("cut {} ({how}): acknowledged {last}, but {held} are there", self.seed));
        }
        if identity < last / IDENTITY_EVERY * IDENTITY_EVERY {
            return Err(format!("cut {} ({how}): acknowledged {last}, but the identity is of {identity}", self.seed));
        }
        self.acknowledged = held;
        Ok(())
    }

    /// Cuts until the bug shows. Says what it looked like, and after how many cuts.
    fn must_be_caught(mut self) {
        for cut in 1..=CUTS_WITH_A_BUG {
            if let Err(what) = self.cut_once() {
                println!("caught at cut {cut}: {what}");
                return;
            }
        }
        panic!("{CUTS_WITH_A_BUG} cuts and the planted bug did not show");
    }
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Killed {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Its errors, once it has ended.
    fn said(&mut self) -> String {
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _awaited = self.0.wait();
    }
}

fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<u64> {
    // A line that the kill cut short has no end, and was not said.
    lines.next()?.unwrap().parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "the power fails at a random moment")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub(crate) fn acknowledged_survives(cuts: u64) {
    let mut rig = Rig::new(false);
    for _ in 0..cuts {
        rig.cut_once().unwrap_or_else(|what| panic!("{what}"));
    }
    println!(
        "{cuts} cuts, {} writes acknowledged and all there, {:.0}/s while writing, of what was not synced {} pages and \
         names dropped and {} survived",
        rig.acknowledged,
        rig.acknowledged as f64 / rig.writing.as_secs_f64(),
        rig.dropped,
        rig.survived,
    );
    assert!(rig.acknowledged >= cuts * 10, "too few writes to show anything");
    assert!(rig.dropped > cuts && rig.survived > 0, "the cuts took nothing");
}

pub(crate) fn unsynced_is_caught(_: u64) {
    Rig::new(true).must_be_caught();
}

pub(crate) fn lying_file_sync_is_caught(_: u64) {
    let rig = Rig::new(false);
    rig.run("lie-sync files");
    rig.must_be_caught();
}

pub(crate) fn lying_directory_sync_is_caught(_: u64) {
    let rig = Rig::new(false);
    rig.run("lie-sync directories");
    rig.must_be_caught();
}
