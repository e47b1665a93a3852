//! The file system as a process of its own: `raft-tests powerfs`, and the handle of the one who starts it.
//!
//! It outlives the process under test, and ends, unmounting, on SIGTERM, on SIGINT, and when its standard input ends: with
//! the process that started it, however that went.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use super::control::{self, Control};
use super::mount::{Mount, Options};
use super::names::Model;

const USAGE: &str =
    "raft-tests powerfs --backing DIRECTORY --mount DIRECTORY --control SOCKET [--journal] [--seed NUMBER]";
/// Written to standard output once commands and files are served.
const READY: &str = "ready";

/// `raft-tests powerfs …`: mounts, serves, unmounts.
pub fn main(arguments: &[&str]) -> ExitCode {
    let Some((options, control)) = parse(arguments) else {
        eprintln!("usage: {USAGE}");
        return ExitCode::from(2);
    };
    match serve(&options, &control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powerfs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[&str]) -> Option<(Options, PathBuf)> {
    let (mut backing, mut mount, mut control) = (None, None, None);
    let (mut model, mut seed) = (Model::Strict, 0);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--backing" => backing = Some(PathBuf::from(rest.next()?)),
            "--mount" => mount = Some(PathBuf::from(rest.next()?)),
            "--control" => control = Some(PathBuf::from(rest.next()?)),
            "--journal" => model = Model::Journal,
            "--seed" => seed = rest.next()?.parse().ok()?,
            _ => return None,
        }
    }
    Some((Options { backing: backing?, mount: mount?, model, seed }, control?))
}

fn serve(options: &Options, socket: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mount = Mount::start(options)?;
    // Left behind by one that crashed; a live one would have been found mounted.
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    control::serve(mount.shared(), socket)?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (ended, mut end) = tokio::sync::mpsc::channel(1);
        let watch = move || {
            // Whoever started this is gone when nothing more can come.
            let _until_the_end = io::copy(&mut io::stdin().lock(), &mut io::sink());
            let _stopped_already = ended.blocking_send(());
        };
        std::thread::Builder::new().name("powerfs-stdin".to_string()).spawn(watch)?;
        println!("{READY}");
        io::stdout().flush()?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = end.recv() => {}
        }
        io::Result::Ok(())
    })?;
    let stopped = mount.stop();
    std::fs::remove_file(socket)?;
    stopped
}

/// A running file system process. Dropped, it is told to end, and awaited.
pub struct Process {
    child: Child,
    control: Control,
}

impl Process {
    /// Starts `program powerfs …` and waits until it serves.
    pub fn start(program: &Path, options: &Options, socket: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("powerfs").arg("--backing").arg(&options.backing).arg("--mount").arg(&options.mount);
        command.arg("--control").arg(socket).arg("--seed").arg(options.seed.to_string());
        if options.model == Model::Journal {
            command.arg("--journal");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().expect("its output is a pipe");
        BufReader::new(output).read_line(&mut line)?;
        let process = Self { child, control: Control::new(socket) };
        if line.trim_end() == READY {
            Ok(process)
        } else {
            Err(io::Error::other("the file system did not start; its errors say why"))
        }
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Ends it without unmounting: what a crash of the file system itself leaves.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.child.stdin.take());
        if let Err(error) = self.child.wait() {
            eprintln!("powerfs: waiting for the file system: {error}");
        }
    }
}
