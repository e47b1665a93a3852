//! Power cuts on the log store alone: a [`writer`](super::writer) writes until the power fails at a random moment, and
//! then everything that it was told is acknowledged must be there.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::clock;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::model::{Held, Owed};
use super::writer::{NODE, Said};
use super::{Plant, Trouble};
use crate::powerfs::{Cut, Lie, Lost, Process, Torn};
use crate::record::Run;

/// Answers before the power fails: from none, in the middle of the store's making, to some flushes.
const ANSWERS_MAX: u64 = 150;
const MICROSECONDS_MORE_MAX: u64 = 4000;
/// How long a sync takes, in milliseconds: this disk's are so quick that a cut seldom comes between a write and its sync.
const SYNC_MS: [u64; 4] = [0, 1, 3, 8];
/// Each so many cuts a new store is begun, so that its making is met too and none grows large.
const CUTS_PER_STORE: u64 = 10;
/// For a writer that gives no answer, or a check that does not end.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Rig {
    disk: Process,
    program: PathBuf,
    seed: u64,
    plant: Option<Plant>,
    cut: u64,
    owed: Vec<Owed>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    writing: Duration,
    lost: Lost,
    /// Cuts that met unsynced bytes of the write-ahead log.
    met_log: u64,
    /// Requests that were under way at a cut and took effect, and all that were.
    taken: u64,
    under_way: u64,
}

impl Rig {
    pub(super) async fn new(disk: Process, program: PathBuf, seed: u64, plant: Option<Plant>) -> std::io::Result<Self> {
        match plant {
            Some(Plant::LieSync) => disk.lie_about_sync(Some(Lie::Files)).await?,
            Some(Plant::LieDirsync) => disk.lie_about_sync(Some(Lie::Directories)).await?,
            Some(Plant::AckEarly) | None => {}
        }
        Ok(Self { disk, program, seed, plant, cut: 0, owed: Vec::new(), counts: Counts::default() })
    }

    /// Cuts until the first violation, and enters what happened.
    pub(super) async fn run(mut self, cuts: u64, run: &mut Run) {
        for _ in 0..cuts {
            match self.cut_once(run).await {
                Ok(()) => {}
                Err(Trouble::Violation(what)) => {
                    run.violations.push(what);
                    break;
                }
                Err(Trouble::Void(what)) => {
                    run.void.push(what);
                    break;
                }
            }
        }
        let Counts { writing, lost, met_log, taken, under_way } = &self.counts;
        #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
        run.figures.extend([
            ("cuts".to_string(), self.cut as f64),
            ("cuts_with_unsynced_log".to_string(), *met_log as f64),
            ("acknowledged_per_second".to_string(), run.ok as f64 / writing.as_secs_f64().max(f64::EPSILON)),
            ("under_way".to_string(), *under_way as f64),
            ("under_way_survived".to_string(), *taken as f64),
            ("pages_dropped".to_string(), lost.pages_dropped as f64),
            ("pages_survived".to_string(), lost.pages_survived as f64),
            ("names_dropped".to_string(), lost.names_dropped as f64),
            ("names_survived".to_string(), lost.names_survived as f64),
        ]);
        if run.violations.is_empty() {
            if run.ok < self.cut * 10 {
                run.void.push(format!("{} acknowledged writes over {} cuts are too few", run.ok, self.cut));
            }
            if met_log * 10 < self.cut {
                run.void.push(format!("only {met_log} of {} cuts met anything unsynced of the log", self.cut));
            }
        }
    }

    /// Writes, loses power, comes back.
    async fn cut_once(&mut self, run: &mut Run) -> Result<(), Trouble> {
        self.begin_store().await?;
        self.cut += 1;
        let number = self.cut;
        let mut rng = StdRng::seed_from_u64(self.seed.wrapping_add(number));
        let seed = rng.random();
        let (how, cut) = match number % 3 {
            0 => ("clean", Cut::clean()),
            1 => ("pages", Cut::torn(Torn::Pages, seed)),
            _ => ("sectors", Cut::torn(Torn::Sectors, seed)),
        };
        self.disk.sync_delay(Duration::from_millis(SYNC_MS[rng.random_range(0..SYNC_MS.len())])).await?;
        let mut writer = self.start_writer()?;
        let answers = rng.random_range(0..=ANSWERS_MAX);
        let (mut answered, began) = (0, clock::now());
        while answered < answers {
            match tokio::time::timeout(PATIENCE, writer.said.next_line()).await {
                Ok(Ok(Some(line))) => answered += self.hear(&line)?,
                Ok(_) => {
                    return Err(Trouble::Violation(format!("cut {number}: no more writes: {}", writer.end().await)));
                }
                Err(_) => return Err(Trouble::Void(format!("the writer said nothing for {PATIENCE:?}"))),
            }
        }
        self.counts.writing += clock::now().since(began);
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..=MICROSECONDS_MORE_MAX))).await;
        // Killed first, it leaves what it wrote to a system that loses power a moment later.
        let killed_first = rng.random_bool(0.5);
        if killed_first {
            writer.child.kill().await?;
        }
        let lost = self.disk.cut(cut).await?;
        writer.child.kill().await?;
        while let Some(line) = writer.said.next_line().await? {
            answered += self.hear(&line)?;
        }
        self.counts.lost += lost;
        let log = format!("{}/log/", self.store());
        let hit = self.disk.files_hit().await?;
        self.counts.met_log += u64::from(hit.iter().any(|path| path.starts_with(&log) && path.ends_with(".log")));
        // There is always something unsynced: RocksDB's own diary at least.
        run.fault(&format!("power-loss/{how}"), lost.dropped() + lost.survived() > 0, false);
        self.disk.resume().await?;
        self.disk.sync_delay(Duration::ZERO).await?;

        let told = format!("cut {number} ({how}{})", if killed_first { ", killed before it" } else { "" });
        let held = self.check().await.map_err(|trouble| trouble.at(&told))?;
        for (user, (owed, held)) in self.owed.iter_mut().zip(held).enumerate() {
            let under_way = owed.under_way();
            let settled = owed.settle(held);
            self.counts.taken += settled.map_err(|what| Trouble::Violation(format!("{told}, user {user}: {what}")))?;
            self.counts.under_way += under_way;
            run.unknown_writes += under_way;
        }
        run.operations += answered;
        run.ok += answered;
        run.writes += answered;
        Ok(())
    }

    fn store(&self) -> String {
        format!("store-{}", self.cut.saturating_sub(1) / CUTS_PER_STORE)
    }

    /// In place of one that had its cuts.
    async fn begin_store(&mut self) -> Result<(), Trouble> {
        if !self.cut.is_multiple_of(CUTS_PER_STORE) {
            return Ok(());
        }
        self.owed = (0..=NODE).map(|_| Owed::default()).collect();
        let (mount, old) = (self.disk.path().to_path_buf(), self.disk.path().join(self.store()));
        tokio::task::spawn_blocking(move || {
            if old.exists() {
                std::fs::remove_dir_all(old)?;
            }
            std::fs::File::open(mount)?.sync_all()
        })
        .await
        .expect("it does not panic")?;
        Ok(())
    }

    fn writer(&self, what: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("power-cuts-writer").arg(what).arg(self.disk.path().join(self.store()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    fn start_writer(&self) -> Result<Writer, Trouble> {
        let mut command = self.writer("write");
        // Numbers that no other writer to this store has, and short enough to carry a number behind them.
        command.arg((((self.seed % (1 << 20)) << 20) | (self.cut % (1 << 20))).to_string());
        if self.plant == Some(Plant::AckEarly) {
            command.arg("--ack-early");
        }
        let mut child = command.spawn()?;
        let said = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
        Ok(Writer { child, said })
    }

    /// Counts the requests that this line acknowledges.
    fn hear(&mut self, line: &str) -> Result<u64, Trouble> {
        let Ok(said) = serde_json::from_str(line) else {
            // The kill may have cut the last line short.
            return Ok(0);
        };
        let (Said::Asks { user, .. } | Said::Answered { user, .. }) = said;
        let owed = usize::try_from(user).ok().and_then(|user| self.owed.get_mut(user));
        let owed = owed.ok_or_else(|| Trouble::Void(format!("the writer has no user {user}")))?;
        match said {
            Said::Asks { number, request, .. } => {
                owed.asks(number, request);
                Ok(0)
            }
            Said::Answered { number, .. } => Ok(owed.answered(number)),
        }
    }

    /// What each user's part of the store holds.
    async fn check(&self) -> Result<Vec<Held>, Trouble> {
        let output = tokio::time::timeout(PATIENCE, self.writer("check").output()).await;
        let output = output.map_err(|_| Trouble::Void(format!("the check took more than {PATIENCE:?}")))??;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim_end().to_string();
            return Err(Trouble::Violation(format!("the store does not come back: {}: {why}", output.status)));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| Trouble::Void(format!("the check's answer: {error}")))
    }
}

struct Writer {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Writer {
    /// How it ended, which it did by itself.
    async fn end(&mut self) -> String {
        let mut errors = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _unreadable = stderr.read_to_string(&mut errors).await;
        }
        let status = self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
        format!("{status}: {}", errors.trim_end())
    }
}
