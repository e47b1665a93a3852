//! Commands to the file system: of this process by [`run`], of another over its standard input and output, a line of JSON
//! each way ([`Request`], [`Reply`]).

use std::io::{self, BufRead, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cut;
use super::damage::{Damage, Damaged};
use super::faults::{Failure, Faults, Lie};
use super::figures::{Lost, Stats};
use super::fuse::Shared;
use super::names::Ino;

/// What can be asked of the file system; [`Process`](super::Process) has a method for each.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Cut(Cut),
    Resume,
    SyncDelay(Duration),
    FailSync(Option<Failure>),
    FailWrite(Option<Failure>),
    LieAboutSync(Option<Lie>),
    Space(Option<u64>),
    Damage { paths: String, damage: Damage, seed: u64 },
    Stats,
    FilesHit,
    Clear,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Lost(Lost),
    Damaged(Damaged),
    Stats(Stats),
    Files(Vec<String>),
}

/// A command with a number, which its reply has too: a caller that gave up leaves a reply behind that nobody waits for.
#[derive(Serialize, Deserialize, Debug)]
pub struct Request {
    pub number: u64,
    pub command: Command,
}

#[derive(Serialize, Deserialize, Debug)]
pub struct Reply {
    pub number: u64,
    pub answer: Result<Answer, String>,
}

/// Carries one command out.
///
/// # Errors
/// When it cannot be: the power is off already, no file is meant, or the backing directory fails.
pub fn run(shared: &Shared, command: &Command) -> Result<Answer, String> {
    let (stale, answer) = run_locked(shared, command).map_err(|error| error.to_string())?;
    shared.forget_cached(&stale);
    Ok(answer)
}

/// Gives the nodes that the kernel must not have in its caches any more, and the answer.
fn run_locked(shared: &Shared, command: &Command) -> io::Result<(Vec<Ino>, Answer)> {
    let mut state = shared.lock();
    match command {
        Command::Cut(cut) => {
            let (gone, lost) = state.cut(*cut)?;
            return Ok((gone, Answer::Lost(lost)));
        }
        Command::Damage { paths, damage, seed } => {
            let (changed, damaged) = state.damage(paths, *damage, *seed)?;
            return Ok((vec![changed], Answer::Damaged(damaged)));
        }
        Command::Stats => return Ok((Vec::new(), Answer::Stats(state.stats()))),
        Command::FilesHit => return Ok((Vec::new(), Answer::Files(state.files_hit().to_vec()))),
        Command::Resume => state.resume(),
        Command::SyncDelay(delay) => state.faults.sync_delay = *delay,
        Command::FailSync(failure) => state.faults.fail_sync.clone_from(failure),
        Command::FailWrite(failure) => state.faults.fail_write.clone_from(failure),
        Command::LieAboutSync(lie) => state.faults.lie = *lie,
        Command::Space(space) => state.faults.space = *space,
        Command::Clear => state.faults = Faults::default(),
    }
    Ok((Vec::new(), Answer::Done))
}

/// Answers requests until they end.
///
/// # Errors
/// When a line is no request, or the answers cannot be written.
pub fn serve(shared: &Shared, requests: impl BufRead, mut replies: impl Write) -> io::Result<()> {
    for line in requests.lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let reply = Reply { number: request.number, answer: run(shared, &request.command) };
        writeln!(replies, "{}", serde_json::to_string(&reply)?)?;
        replies.flush()?;
    }
    Ok(())
}
