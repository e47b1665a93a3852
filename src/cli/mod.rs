//! The command line: `serve` runs a node, `dev` a local cluster of such processes, and every other command is a client
//! of the HTTP API, like any other client. `main` calls [`main`] and nothing else here is public.
//!
//! Invariants: what was asked for goes to standard output, everything else to standard error; the exit code says what
//! kind of failure it was ([`exit::Exit`]); a write whose outcome is unknown is never sent again by a client command
//! ([`client`]) but by `import`, whose writes are made to be ([`files`]), and by `bench`, for its own keys before and
//! after a run.

use std::future::Future;
use std::process::ExitCode;

use clap::Parser;

mod args;
mod bench;
mod check;
mod client;
mod cluster;
mod dev;
mod exit;
mod files;
mod kv;
mod operations;
mod output;
mod serve;
mod status;
mod target;
#[cfg(test)]
mod testing;

use args::{Args, CheckCommand, ClientArgs, Command, NodeCommand, ShardCommand};
use client::Client;
use exit::{Exit, Failure};
use output::Printer;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are "errors" of clap's with exit code 0; when nobody reads them, so be it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()));
        }
    };
    match run(args) {
        Ok(()) => ExitCode::from(Exit::Ok.code()),
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.exit().code())
        }
    }
}

fn run(args: Args) -> Result<(), Failure> {
    let Args { client, command } = args;
    match &command {
        Command::Serve(serve) => {
            client.refuse_for("serve")?;
            serve::run(serve)
        }
        Command::Dev(dev) => {
            client.refuse_for("dev")?;
            dev::run(dev)
        }
        Command::Bench(args) => bench::run(&client, args),
        Command::Check(CheckCommand::Disk(args)) => {
            client.refuse_cluster_for("check disk")?;
            check::run(args, &mut Printer::standard(client.output()))
        }
        Command::Version => Printer::standard(client.output()).version(),
        Command::Import(import) => files::run_import(&client, import),
        Command::Export(export) => files::run_export(&client, export),
        _ => block_on(run_client(&client, command))?,
    }
}

async fn run_client(args: &ClientArgs, command: Command) -> Result<(), Failure> {
    let client = Client::from_args(args)?;
    let printer = &mut Printer::standard(args.output());
    match command {
        Command::Put(put) => kv::put(&client, &put, printer).await,
        Command::Get(get) => kv::get(&client, &get, printer).await,
        Command::Del(del) => kv::del(&client, &del, printer).await,
        Command::Scan(scan) => kv::scan(&client, &scan, printer).await,
        Command::Status { local: true, .. } => cluster::status(&client, printer).await,
        Command::Status { watch, .. } => status::run(&client, watch, printer).await,
        Command::Route { key } => cluster::route(&client, &key, printer).await,
        Command::Shard(ShardCommand::List) => cluster::shard_list(&client, printer).await,
        Command::Shard(ShardCommand::Show { id }) => cluster::shard_show(&client, id, printer).await,
        Command::Shard(ShardCommand::TransferLeader { id, to, begin }) => {
            operations::transfer_leader(&client, id, to, &begin, printer).await
        }
        Command::Shard(ShardCommand::Split { id, at, begin }) => {
            operations::split(&client, id, &at, &begin, printer).await
        }
        Command::Shard(ShardCommand::Move { id, from, to, begin }) => {
            operations::move_replica(&client, id, (from, to), &begin, printer).await
        }
        Command::Operations { id: None } => operations::list(&client, printer).await,
        Command::Operations { id: Some(id) } => operations::show(&client, id, printer).await,
        Command::Node(NodeCommand::List) => cluster::node_list(&client, printer).await,
        Command::Node(NodeCommand::Drain { id, begin }) => {
            operations::of_node(&client, id, "drain", &begin, printer).await
        }
        Command::Node(NodeCommand::Undrain { id, begin }) => {
            operations::of_node(&client, id, "undrain", &begin, printer).await
        }
        Command::Node(NodeCommand::Decommission { id, begin }) => {
            operations::of_node(&client, id, "decommission", &begin, printer).await
        }
        Command::Serve(_)
        | Command::Dev(_)
        | Command::Bench(_)
        | Command::Check(_)
        | Command::Version
        | Command::Import(_)
        | Command::Export(_) => {
            unreachable!("these commands have a runtime of their own, or none, and were run before")
        }
    }
}

/// One thread is enough for a client, which does one thing after another.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Io { what: "cannot start the runtime".to_string(), source })?;
    Ok(runtime.block_on(work))
}
