//! `serve`: one node in this process, from its configuration to its last flush.
//!
//! What belongs to the process and not to the node is set up here: logs, the panic hook, the runtime, the signals.

use std::backtrace::Backtrace;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::exit::Failure;
use crate::config::{Config, environment};
use crate::storage::rocks::RocksDisk;
use crate::{node, telemetry};

/// Longest wait for work that is left on blocking threads once the node has stopped.
const RUNTIME_SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = Config::load(args.config.as_deref(), environment(), &args.settings())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    telemetry::init(&config.log).map_err(|error| Failure::Usage(error.to_string()))?;
    #[cfg(feature = "mutants")]
    {
        crate::mutants::select_from_environment().map_err(|error| Failure::Usage(error.to_string()))?;
        crate::mutants::crash::choose_from_environment().map_err(Failure::Usage)?;
    }
    abort_on_panic();
    let (runtime, clients) = (start_runtime("node")?, start_runtime("clients")?);
    let disk = node::open_disk(&config).map_err(|error| Failure::Run(error.to_string()))?;
    let result = runtime.block_on(until_stopped(config, disk.clone(), clients.handle().clone(), args.supervised));
    clients.shutdown_timeout(RUNTIME_SHUTDOWN_WAIT);
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_WAIT);
    if !disk.wait_until_closed(RUNTIME_SHUTDOWN_WAIT) {
        tracing::warn!("the stores are not closed in time; what was acknowledged is on disk");
    }
    result
}

/// With a worker for each processor.
fn start_runtime(name: &'static str) -> Result<Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(name).build();
    runtime.map_err(|source| Failure::Io { what: format!("cannot start the runtime `{name}`"), source })
}

async fn until_stopped(config: Config, disk: RocksDisk, clients: Handle, supervised: bool) -> Result<(), Failure> {
    let no_signals = |source| Failure::Io { what: "cannot listen for signals".to_string(), source };
    let terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signals(terminate, interrupt, stop.clone()));
    if supervised {
        let input = supervisor_pipe().map_err(|source| Failure::Io {
            what: "--supervised needs a pipe as standard input".to_string(),
            source,
        })?;
        tokio::spawn(stop_at_end_of(input, stop.clone()));
    }
    node::run(config, disk, clients, stop).await.map_err(|error| {
        // In the format that was asked for, where a collector looks for it.
        tracing::error!("the node stops: {error}");
        Failure::Logged
    })
}

/// The first signal stops the node in order, the second at once: what was acknowledged is on disk either way.
async fn stop_on_signals(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let name = next().await;
    tracing::info!(signal = name, "stopping: a second signal stops at once");
    stop.cancel();
    let name = next().await;
    tracing::warn!(signal = name, "stopped at once by a second signal");
    std::process::exit(i32::from(super::exit::Exit::Other.code()));
}

/// Standard input without a blocking thread, which would outlive everything else. Only a pipe can be read so.
fn supervisor_pipe() -> std::io::Result<tokio::net::unix::pipe::Receiver> {
    tokio::net::unix::pipe::Receiver::from_owned_fd(std::io::stdin().as_fd().try_clone_to_owned()?)
}

/// The supervisor holds the other end and writes nothing: the end comes with its death, however it dies.
async fn stop_at_end_of(mut input: tokio::net::unix::pipe::Receiver, stop: CancellationToken) {
    let mut ignored = [0; 64];
    while !matches!(input.read(&mut ignored).await, Ok(0) | Err(_)) {}
    stop.cancel();
}

/// A panicked task of a shard would leave it looking like a healthy leader that answers nobody. The process ends
/// instead, and whoever supervises it starts it again; acknowledged writes are on disk.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let message = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let message = message.unwrap_or("no message");
        let backtrace = Backtrace::force_capture();
        tracing::error!("panic at {place}: {message}; the process ends\n{backtrace}");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Args, Command};
    use super::*;
    use crate::storage::child;

    /// In a child: `serve` as far as it comes with a data directory that cannot be made, then a task that panics.
    fn serve_and_panic() {
        let args = Args::try_parse_from(["ringraft", "serve", "--data", "/dev/null/data"]).unwrap();
        let Command::Serve(args) = args.command else { panic!("it is no other command") };
        let refused = run(&args).expect_err("the node is not started");
        assert!(matches!(refused, Failure::Run(_)), "the process is set up by then: {refused:?}");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let failed = runtime.block_on(async { tokio::spawn(async { panic!("a planted panic") }).await });
        eprintln!("the process goes on: {failed:?}");
    }

    #[test]
    fn a_panic_in_a_task_is_logged_and_ends_the_process() {
        const TEST: &str = "cli::serve::tests::a_panic_in_a_task_is_logged_and_ends_the_process";
        if child::role().is_some() {
            return serve_and_panic();
        }
        let ended = child::run(TEST, "serve");
        assert!(ended.aborted, "{}", ended.said);
        assert!(!ended.said.contains("the process goes on"), "{}", ended.said);
        let logged = ended.said.lines().find(|line| line.contains("a planted panic")).expect("it is logged");
        assert!(logged.contains("ERROR") && logged.contains("panic at src/cli/serve.rs:"), "{logged}");
        assert!(logged.ends_with("a planted panic; the process ends"), "{logged}");
        assert!(ended.said.contains("serve_and_panic"), "with a backtrace: {}", ended.said);
    }
}
