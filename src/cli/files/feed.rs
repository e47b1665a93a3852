//! Keeps many values on their way to the cluster at the same time, and never two for one key.
//!
//! Invariants: at most `jobs` are under way; of two for one key the later waits for the earlier, so that the last line of
//! a file wins; each that was begun is waited for, and its end is in the summary. After the first failure, or when told
//! to stop, nothing more is begun.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Session;
use super::caller::{GaveUp, Line};
use super::progress::Progress;
use super::store::{Run, Seen, Stored, Wanted, store};
use super::summary::{Summary, listed};
use super::walk::{self, Found, LeftOut};
use crate::cli::exit::Failure;

/// What comes next.
pub(super) enum Next {
    File(Found, Seen),
    Line(u64, Wanted),
    /// Found out late: with `--skip` this one is left out, else it ends the command.
    Bad(LeftOut),
    Failed(Failure),
}

/// Why not everything was stored.
pub(super) struct Ended {
    /// None: told to stop.
    pub(super) why: Option<Failure>,
    /// The file or line it was about.
    pub(super) what: Vec<u8>,
    /// Writes that may have been, or may yet be, carried out.
    pub(super) outcomes_unknown: u64,
}

pub(super) struct Feed {
    /// Of the files.
    pub(super) root: PathBuf,
    pub(super) skip: bool,
    pub(super) jobs: usize,
    pub(super) progress: Arc<Progress>,
}

struct Shared {
    run: Run,
    root: PathBuf,
    value_bytes_max: u64,
    query: Vec<String>,
}

enum Outcome {
    Done(Stored, u64),
    Bad(LeftOut),
    GaveUp(Vec<u8>, GaveUp),
}

impl Feed {
    pub(super) async fn store_all(
        self,
        session: &Session,
        mut source: mpsc::Receiver<Next>,
        summary: &mut Summary,
    ) -> Result<(), Ended> {
        let shared = Arc::new(Shared {
            run: Run::new(),
            root: self.root.clone(),
            value_bytes_max: session.value_bytes_max,
            query: session.query.clone(),
        });
        let mut free: Vec<Line> = (0..self.jobs).map(|number| Line::new(&session.caller, number)).collect();
        let mut running = JoinSet::new();
        let mut keys_running = HashSet::new();
        let mut held: Option<(Vec<u8>, Next)> = None;
        let mut is_open = true;
        let mut ended: Option<Ended> = None;
        loop {
            if ended.is_some() || (session.stop.is_cancelled() && (is_open || held.is_some())) {
                ended.get_or_insert(Ended { why: None, what: Vec::new(), outcomes_unknown: 0 });
                (is_open, held) = (false, None);
            }
            if held.as_ref().is_some_and(|(key, _)| !keys_running.contains(key))
                && let Some(line) = free.pop()
                && let Some((key, next)) = held.take()
            {
                keys_running.insert(key.clone());
                running.spawn(store_one(line, shared.clone(), key, next));
            }
            if !is_open && held.is_none() && running.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                () = session.stop.cancelled(), if is_open || held.is_some() => {}
                Some(done) = running.join_next(), if !running.is_empty() => {
                    let (line, key, outcome) = done.expect("storing a value does not panic");
                    free.push(line);
                    keys_running.remove(&key);
                    self.count(outcome, summary, &mut ended);
                }
                next = source.recv(), if is_open && held.is_none() && !free.is_empty() => match next {
                    None => is_open = false,
                    Some(Next::Bad(left_out)) => self.count(Outcome::Bad(left_out), summary, &mut ended),
                    Some(Next::Failed(why)) => end(&mut ended, Vec::new(), why.into()),
                    Some(next) => held = Some((next.key().to_vec(), next)),
                },
            }
        }
        ended.map_or(Ok(()), Err)
    }

    fn count(&self, outcome: Outcome, summary: &mut Summary, ended: &mut Option<Ended>) {
        match outcome {
            Outcome::Done(stored, bytes) => {
                match stored {
                    Stored::Written => {
                        summary.written += 1;
                        summary.bytes += bytes;
                    }
                    Stored::Unchanged => summary.unchanged += 1,
                }
                self.progress.add(bytes);
            }
            Outcome::Bad(left_out) if self.skip => {
                self.progress.say(&listed(std::slice::from_ref(&left_out), "left out"));
                summary.left_out.push(left_out);
            }
            Outcome::Bad(LeftOut { what, why }) => {
                end(ended, what, Failure::Run(format!("{why} (--skip would leave it out)")).into());
            }
            Outcome::GaveUp(what, gave_up) => end(ended, what, gave_up),
        }
    }
}

/// The first failure is told; of the others only what they leave in doubt.
fn end(ended: &mut Option<Ended>, what: Vec<u8>, gave_up: GaveUp) {
    let doubt = u64::from(gave_up.outcome_unknown);
    match ended {
        Some(ended) => ended.outcomes_unknown += doubt,
        None => *ended = Some(Ended { why: Some(gave_up.why), what, outcomes_unknown: doubt }),
    }
}

impl Next {
    fn key(&self) -> &[u8] {
        match self {
            Next::File(found, _) => &found.key,
            Next::Line(_, wanted) => &wanted.key,
            Next::Bad(_) | Next::Failed(_) => &[],
        }
    }
}

async fn store_one(mut line: Line, shared: Arc<Shared>, key: Vec<u8>, next: Next) -> (Line, Vec<u8>, Outcome) {
    let (what, wanted, seen) = match next {
        Next::File(found, seen) => {
            use std::os::unix::ffi::OsStrExt;
            let what = found.path.as_os_str().as_bytes().to_vec();
            let (from, path) = (shared.clone(), found.path);
            let read = move || walk::read(&from.root, &path, from.value_bytes_max);
            let content = tokio::task::spawn_blocking(read).await.expect("reading a file does not panic");
            match content {
                Ok(content) => (what, Wanted { key: found.key, value: Bytes::from(content), content_type: None }, seen),
                Err(why) => return (line, key, Outcome::Bad(LeftOut { what, why })),
            }
        }
        Next::Line(number, wanted) => (format!("line {number}").into_bytes(), wanted, Seen::Unknown),
        Next::Bad(_) | Next::Failed(_) => unreachable!("these are counted and never stored"),
    };
    let bytes = wanted.value.len() as u64;
    let outcome = match store(&mut line, &shared.run, &wanted, seen, &shared.query).await {
        Ok(stored) => Outcome::Done(stored, bytes),
        Err(gave_up) => Outcome::GaveUp(what, gave_up),
    };
    (line, key, outcome)
}
