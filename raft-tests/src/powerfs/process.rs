//! The file system as a process of its own, `raft-tests powerfs`, and the handle of the one who starts it: [`Process`].
//!
//! It outlives the process under test, and ends, unmounting, on SIGTERM, on SIGINT, and when its standard input ends: with
//! the process that started it, however that went. It has a process group of its own, so that an interrupt from a
//! terminal does not take the disk away before those who use it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use ringraft::clock;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command as Program};
use tokio::sync::Mutex;

use super::Cut;
use super::control::{self, Answer, Command, Reply, Request};
use super::damage::{Damage, Damaged};
use super::faults::{Failure, Lie};
use super::figures::{Lost, Stats};
use super::mount::{Mount, Options, sleep, unmount_stale};
use super::names::Model;

const USAGE: &str = "raft-tests powerfs --backing DIRECTORY --mount DIRECTORY [--journal] [--seed NUMBER]";
const EXIT_USAGE: u8 = 3;
/// Written to standard output once files and commands are served.
const READY: &str = "ready";
/// How long one command may take: a cut of gigabytes, on a busy machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to unmount; then it is killed, and the mount taken away.
const END_LIMIT: Duration = Duration::from_secs(20);
const END_POLL: Duration = Duration::from_millis(2);

/// `raft-tests powerfs …`: mounts, serves, unmounts.
pub fn main(arguments: &[&str]) -> ExitCode {
    let Some(options) = parse(arguments) else {
        eprintln!("usage: {USAGE}");
        return ExitCode::from(EXIT_USAGE);
    };
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powerfs: {}: {error}", options.mount.display());
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[&str]) -> Option<Options> {
    let (mut backing, mut mount) = (None, None);
    let (mut model, mut seed) = (Model::Strict, 0);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--backing" => backing = Some(PathBuf::from(rest.next()?)),
            "--mount" => mount = Some(PathBuf::from(rest.next()?)),
            "--journal" => model = Model::Journal,
            "--seed" => seed = rest.next()?.parse().ok()?,
            _ => return None,
        }
    }
    Some(Options { backing: backing?, mount: mount?, model, seed })
}

fn serve(options: &Options) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mount = Mount::start(options)?;
    let shared = mount.shared().clone();
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (ended, end) = tokio::sync::oneshot::channel();
        println!("{READY}");
        io::stdout().flush()?;
        let commands = move || {
            // Whoever started this is gone when nothing more can come.
            let served = control::serve(&shared, io::stdin().lock(), io::stdout().lock());
            let _stopped_already = ended.send(served);
        };
        std::thread::Builder::new().name("powerfs-commands".to_string()).spawn(commands)?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            served = end => served.unwrap_or_else(|_| Err(io::Error::other("a command failed badly"))),
        }
    })?;
    mount.stop()
}

/// A running file system process over one directory. Dropped, it is told to end and awaited: it makes everything durable,
/// unless the power is off, and unmounts. A test that panics drops it too, and a program that is killed closes its input.
///
/// All commands but [`cut`](Self::cut) leave the files as they are. Each is carried out when its future gives the answer;
/// faults that are set so hold for everything that begins after that.
pub struct Process {
    child: Child,
    talk: Mutex<Talk>,
    options: Options,
}

/// The command that is under way, one at a time.
struct Talk {
    requests: Option<ChildStdin>,
    replies: Lines<tokio::io::BufReader<ChildStdout>>,
    next: u64,
}

impl Process {
    /// Starts `program powerfs …`, where `program` is `raft-tests`, and waits until it serves. Both directories are made.
    /// What the backing directory holds from an earlier mount that ended in order is there again.
    ///
    /// # Errors
    /// When it does not start; what it wrote to standard error says why. See [`why_not_here`](super::why_not_here).
    pub async fn start(program: &Path, options: &Options) -> io::Result<Self> {
        let mut command = Program::new(program);
        command.arg("powerfs").arg("--backing").arg(&options.backing).arg("--mount").arg(&options.mount);
        command.arg("--seed").arg(options.seed.to_string());
        if options.model == Model::Journal {
            command.arg("--journal");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn()?;
        let requests = child.stdin.take();
        let output = child.stdout.take().expect("its output is a pipe");
        let replies = tokio::io::BufReader::new(output).lines();
        let talk = Mutex::new(Talk { requests, replies, next: 0 });
        let mut process = Self { child, talk, options: options.clone() };
        match process.talk.get_mut().replies.next_line().await? {
            Some(line) if line == READY => Ok(process),
            _ => Err(io::Error::other(format!("no file system at {}; its errors say why", options.mount.display()))),
        }
    }

    /// Where its files are seen.
    pub fn path(&self) -> &Path {
        &self.options.mount
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The power fails: from now until [`resume`](Self::resume) every call answers EIO, and handles from before do so for
    /// ever. Whoever wrote must be killed too, before or after. Says what was lost; the cut took effect when that is not
    /// nothing.
    ///
    /// # Errors
    /// When the power is off already.
    pub async fn cut(&self, cut: Cut) -> io::Result<Lost> {
        match self.run(Command::Cut(cut)).await? {
            Answer::Lost(lost) => Ok(lost),
            other => Err(unexpected(&other)),
        }
    }

    /// The power is back.
    pub async fn resume(&self) -> io::Result<()> {
        self.order(Command::Resume).await
    }

    /// Every sync takes that much longer, those under way too; zero takes it back. A process that waits for one cannot be
    /// killed before: take the delay back, or cut.
    pub async fn sync_delay(&self, delay: Duration) -> io::Result<()> {
        self.order(Command::SyncDelay(delay)).await
    }

    /// Syncs fail, and lose their pages as on Linux.
    pub async fn fail_sync(&self, failure: Option<Failure>) -> io::Result<()> {
        self.order(Command::FailSync(failure)).await
    }

    /// Writes, allocations and truncations fail.
    pub async fn fail_write(&self, failure: Option<Failure>) -> io::Result<()> {
        self.order(Command::FailWrite(failure)).await
    }

    /// Syncs answer that all is well and make nothing durable.
    pub async fn lie_about_sync(&self, lie: Option<Lie>) -> io::Result<()> {
        self.order(Command::LieAboutSync(lie)).await
    }

    /// All files together may have so many bytes; ENOSPC beyond. [`Stats::used_bytes`] is what they have.
    pub async fn space(&self, bytes: Option<u64>) -> io::Result<()> {
        self.order(Command::Space(bytes)).await
    }

    /// Damages what is durable of one file, chosen by the seed among those with content whose path below the mount the
    /// pattern means (`*` is any run of characters, also with slashes, `?` any one). [`Stats::damage_read`] tells whether
    /// anyone was given the damaged bytes since.
    ///
    /// # Errors
    /// When no file is meant.
    pub async fn damage(&self, paths: &str, damage: Damage, seed: u64) -> io::Result<Damaged> {
        match self.run(Command::Damage { paths: paths.to_string(), damage, seed }).await? {
            Answer::Damaged(damaged) => Ok(damaged),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn stats(&self) -> io::Result<Stats> {
        match self.run(Command::Stats).await? {
            Answer::Stats(stats) => Ok(stats),
            other => Err(unexpected(&other)),
        }
    }

    /// Paths of the files of which the last cut met something unsynced, gone or not; at most
    /// [`FILES_HIT_MAX`](super::state::FILES_HIT_MAX).
    pub async fn files_hit(&self) -> io::Result<Vec<String>> {
        match self.run(Command::FilesHit).await? {
            Answer::Files(files) => Ok(files),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes back every fault that was set. Neither turns the power on nor mends damage.
    pub async fn clear(&self) -> io::Result<()> {
        self.order(Command::Clear).await
    }

    /// Unmounts, as a drop does, and says whether that went well.
    pub async fn stop(mut self) -> io::Result<()> {
        self.talk.get_mut().requests = None;
        match tokio::time::timeout(END_LIMIT, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(()),
            Ok(status) => Err(io::Error::other(format!("the file system ended with {}", status?))),
            Err(_) => Err(io::Error::other(format!("the file system did not end in {END_LIMIT:?}"))),
        }
    }

    /// Ends it without unmounting: what a crash of the file system itself leaves.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    async fn order(&self, command: Command) -> io::Result<()> {
        match self.run(command).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Carries a command out.
    ///
    /// # Errors
    /// When it cannot be, and when the file system is gone or does not answer in time.
    pub async fn run(&self, command: Command) -> io::Result<Answer> {
        let shown = format!("{command:?}");
        let failed = |why: String| io::Error::other(format!("{}: {shown}: {why}", self.options.mount.display()));
        let answer = tokio::time::timeout(COMMAND_LIMIT, async {
            let mut talk = self.talk.lock().await;
            talk.ask(command).await
        });
        match answer.await {
            Ok(answer) => answer?.map_err(failed),
            Err(_) => Err(failed(format!("no answer in {COMMAND_LIMIT:?}"))),
        }
    }
}

impl Talk {
    async fn ask(&mut self, command: Command) -> io::Result<Result<Answer, String>> {
        let number = self.next;
        self.next += 1;
        let request = format!("{}\n", serde_json::to_string(&Request { number, command })?);
        let gone = || io::Error::other("the file system is gone");
        self.requests.as_mut().ok_or_else(gone)?.write_all(request.as_bytes()).await?;
        loop {
            let line = self.replies.next_line().await?.ok_or_else(gone)?;
            let reply: Reply = serde_json::from_str(&line)?;
            if reply.number == number {
                return Ok(reply.answer);
            }
        }
    }
}

impl Process {
    /// Without a runtime: also when one is being torn down.
    fn ends_within(&mut self, limit: Duration) -> bool {
        let deadline = clock::now().after(limit);
        while matches!(self.child.try_wait(), Ok(None)) {
            if clock::now() >= deadline {
                return false;
            }
            sleep(END_POLL);
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.talk.get_mut().requests = None;
        if !self.ends_within(END_LIMIT) {
            eprintln!("powerfs: {} did not unmount in {END_LIMIT:?}, killed", self.options.mount.display());
            // It may have ended meanwhile.
            let _ended = self.child.start_kill();
            let _mount_is_in_use_if_not = self.ends_within(END_LIMIT);
        }
        // Nothing is there unless it crashed or was killed.
        if let Err(error) = unmount_stale(&self.options.mount) {
            eprintln!("powerfs: {}: {error}", self.options.mount.display());
        }
    }
}

fn unexpected(answer: &Answer) -> io::Error {
    io::Error::other(format!("the file system answered something else: {answer:?}"))
}
