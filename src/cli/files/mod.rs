//! `import` and `export`: many files, or lines of NDJSON, into the cluster and out of it.
//!
//! | module | job |
//! |---|---|
//! | [`walk`] | a tree → what is stored and what cannot be, before anything is sent |
//! | [`names`], [`beneath`] | keys → files below a directory; writing them there and nowhere else |
//! | [`ndjson`] | lines → keys and values, and back |
//! | [`caller`], [`store`], [`pages`] | requests that are tried again; one value, safely; a scan |
//! | [`import`], [`export`], [`feed`] | the commands |
//! | [`progress`], [`summary`] | what is said |
//!
//! Invariants: what cannot be done is named before anything is changed, and ends the command, or with `--skip` is left
//! out and listed; nothing is dropped without a word. A command that was cut off, by Ctrl-C, a dead cluster or a full
//! disk, is gone on with by running it again: what is there already is found and not written again.
//!
//! The first Ctrl-C, SIGTERM or hang-up lets what is under way end and begins nothing more; the second ends at once.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::{ClientArgs, ExportArgs, ImportArgs};
use super::client::{Client, Request};
use super::exit::{Exit, Failure};
use super::output::Printer;
use crate::types::VALUE_BYTES_MAX_DEFAULT;
use caller::{Caller, Line};

mod beneath;
mod caller;
mod export;
mod feed;
mod import;
mod names;
mod ndjson;
mod pages;
mod progress;
mod store;
mod summary;
#[cfg(test)]
mod tests;
mod walk;

/// For what still reads or writes files when the command is over: a pipe that gives nothing is not waited for.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(1);

pub(super) fn run_import(args: &ClientArgs, import: &ImportArgs) -> Result<(), Failure> {
    run("import", Exit::OutcomeUnknown, async |stop| {
        let session = Session::begin(&Client::from_args(args)?, import.pace.retry_for, stop).await?;
        import::run(&session, import, &mut Printer::standard(args.output())).await
    })
}

pub(super) fn run_export(args: &ClientArgs, export: &ExportArgs) -> Result<(), Failure> {
    run("export", Exit::Other, async |stop| {
        let session = Session::begin(&Client::from_args(args)?, export.pace.retry_for, stop).await?;
        export::run(&session, export, &mut Printer::standard(args.output())).await
    })
}

/// What a command has of the cluster.
struct Session {
    caller: std::sync::Arc<Caller>,
    /// The longest value that the cluster takes, in bytes.
    value_bytes_max: u64,
    /// Goes with every request on keys.
    query: Vec<String>,
    stop: CancellationToken,
}

impl Session {
    /// A cluster that cannot be reached at all is said at once, and not tried for long.
    async fn begin(client: &Client, retry_for: Duration, stop: CancellationToken) -> Result<Self, Failure> {
        let caller = Caller::new(client, retry_for, stop.clone());
        let request = Request::get("/v1/status");
        let answer = match client.send(&request).await {
            Err(Failure::Refused(problem)) if problem.may_try_elsewhere() => {
                // Starting, or stopping: worth the wait.
                let answer = Line::new(&caller, 0).call(&request).await.map_err(|gave_up| gave_up.why)?;
                if !answer.status.is_success() {
                    return Err(Failure::Refused(Box::new(caller::problem(&answer, &request))));
                }
                answer
            }
            other => other?,
        };
        let status = answer.json()?;
        if status["cluster"].is_null() {
            let reason = "no Ringraft node answers like that".to_string();
            return Err(Failure::BadAnswer { endpoint: answer.endpoint.to_string(), reason });
        }
        // A node of an older release does not tell; it has the default, or refuses what is too large.
        let told = status["limits"]["value_bytes_max"].as_u64();
        let value_bytes_max = told.unwrap_or(VALUE_BYTES_MAX_DEFAULT as u64);
        Ok(Self { caller, value_bytes_max, query: client.timeout_pair().into_iter().collect(), stop })
    }

    /// Opens a file apart from this thread, which hears Ctrl-C: a pipe is open only once its other end is.
    async fn open<T: Send + 'static>(&self, open: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        tokio::select! {
            opened = tokio::task::spawn_blocking(open) => opened.expect("opening a file does not panic"),
            () = self.stop.cancelled() => Err(io::Error::new(io::ErrorKind::Interrupted, "stopped")),
        }
    }
}

/// Runs a command until it ends or is told to twice; `cut_off` is how it exits then.
fn run<F: Future<Output = Result<(), Failure>>>(
    name: &str,
    cut_off: Exit,
    work: impl FnOnce(CancellationToken) -> F,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Io { what: "cannot start the runtime".to_string(), source })?;
    let result = runtime.block_on(async {
        let (stop, at_once) = (CancellationToken::new(), CancellationToken::new());
        listen_for_signals(stop.clone(), at_once.clone())?;
        tokio::select! {
            biased;
            () = at_once.cancelled() => Err(Failure::Unfinished {
                what: format!("{name} was ended at once"),
                exit: cut_off,
                advice: "the same command goes on from where it was".to_string(),
            }),
            result = work(stop) => result,
        }
    });
    runtime.shutdown_timeout(SHUTDOWN_WAIT);
    result
}

fn listen_for_signals(stop: CancellationToken, at_once: CancellationToken) -> Result<(), Failure> {
    let no_signals = |source| Failure::Io { what: "cannot listen for signals".to_string(), source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    tokio::spawn(async move {
        for token in [&stop, &at_once] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if !stop.is_cancelled() {
                progress::say("stopping: what is under way is finished; a second time ends at once");
            }
            token.cancel();
        }
    });
    Ok(())
}
