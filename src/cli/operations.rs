//! `operations` and what begins them: a mutation of the cluster is asked for, and followed until it is over.

use std::io::{self, IsTerminal};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, IF_MATCH};
use http::{HeaderName, Method};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::args::{BeginArgs, Output, SplitAt};
use super::client::{Client, Request};
use super::cluster;
use super::exit::Failure;
use super::output::{self, Printer};
use super::target::with_query;
use crate::types::{NodeId, OperationId, ShardId};

const COLUMNS: &[&str] = &["id", "kind", "shard", "node", "from", "to", "at", "state", "step", "cause", "why"];
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Between two looks at an operation that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn list(client: &Client, printer: &mut Printer) -> Result<(), Failure> {
    cluster::many(client, "/v1/admin/operations", "operations", COLUMNS, printer).await
}

pub(super) async fn show(client: &Client, id: OperationId, printer: &mut Printer) -> Result<(), Failure> {
    cluster::one(client, path(&id.to_string()), printer).await
}

pub(super) async fn transfer_leader(
    client: &Client,
    shard: ShardId,
    to: NodeId,
    args: &BeginArgs,
    printer: &mut Printer,
) -> Result<(), Failure> {
    begin(client, &format!("/v1/admin/shards/{shard}/transfer-leader"), &json!({ "to": to }), args, printer).await
}

pub(super) async fn move_replica(
    client: &Client,
    shard: ShardId,
    (from, to): (NodeId, NodeId),
    args: &BeginArgs,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let arguments = json!({ "from": from, "to": to });
    begin(client, &format!("/v1/admin/shards/{shard}/move"), &arguments, args, printer).await
}

pub(super) async fn split(
    client: &Client,
    shard: ShardId,
    at: &SplitAt,
    args: &BeginArgs,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let arguments = at.at_token.map_or_else(|| json!({ "auto": true }), |token| json!({ "at_token": token }));
    begin(client, &format!("/v1/admin/shards/{shard}/split"), &arguments, args, printer).await
}

pub(super) async fn of_node(
    client: &Client,
    node: NodeId,
    what: &str,
    args: &BeginArgs,
    printer: &mut Printer,
) -> Result<(), Failure> {
    begin(client, &format!("/v1/admin/nodes/{node}/{what}"), &json!({}), args, printer).await
}

/// Prints the operation as it was begun, or with `--wait` as it ended.
async fn begin(
    client: &Client,
    path: &str,
    arguments: &Value,
    args: &BeginArgs,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut query: Vec<String> = client.timeout_pair().into_iter().collect();
    if args.dry_run {
        query.push("dry_run=true".to_string());
    }
    let mut request = Request::new(Method::POST, with_query(path, &query))
        .header(CONTENT_TYPE, "application/json")?
        .body(Bytes::from(arguments.to_string()));
    if let Some(epoch) = args.if_epoch {
        request = request.header(IF_MATCH, &format!("\"{epoch}\""))?;
    }
    if let Some(key) = &args.idempotency_key {
        request = request.header(IDEMPOTENCY_KEY, key)?;
    }
    let answer = client.send(&request).await?;
    let begun = answer.json()?;
    if args.dry_run {
        return print(printer, &begun["operation"], "would begin");
    }
    if !args.wait {
        return print(printer, &begun, "begun");
    }
    let id = begun["id"].as_str().unwrap_or_default().to_string();
    let bar = Bar::new(&id);
    let ended = wait(client, &id, &bar).await;
    bar.finish();
    let ended = ended?;
    print(printer, &ended, "ended")?;
    match ended["state"].as_str() {
        Some("done") => Ok(()),
        _ => Err(Failure::Run(format!("operation {id} failed: {}", output::cell(&ended["why"])))),
    }
}

/// A node that is asked may not have heard of the operation yet, or go away meanwhile: the next look finds another one.
async fn wait(client: &Client, id: &str, bar: &Bar) -> Result<Value, Failure> {
    loop {
        match client.send(&Request::get(path(id))).await {
            Ok(answer) => {
                let operation = answer.json()?;
                if !operation["ended_ms"].is_null() {
                    return Ok(operation);
                }
                bar.show(&operation);
            }
            Err(Failure::Refused(problem)) if problem.code == "no-such-operation" => {}
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How far an operation is, on a terminal.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new(id: &str) -> Self {
        let template = "{spinner} operation {prefix}: {wide_msg} {elapsed}";
        let style = ProgressStyle::with_template(template).expect("the template is right");
        let draws = io::stderr().is_terminal();
        Self(draws.then(|| ProgressBar::new_spinner().with_style(style).with_prefix(output::printable(id))))
    }

    fn show(&self, operation: &Value) {
        let Some(bar) = &self.0 else { return };
        let left =
            operation["replicas_left"].as_u64().map(|left| format!(", {left} replicas left")).unwrap_or_default();
        bar.set_message(format!("{}, {}{left}", output::cell(&operation["kind"]), output::cell(&operation["step"])));
        bar.tick();
    }

    fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn path(id: &str) -> String {
    format!("/v1/admin/operations/{id}")
}

fn print(printer: &mut Printer, operation: &Value, what: &str) -> Result<(), Failure> {
    match printer.format() {
        Output::Json => printer.line(&operation.to_string()),
        Output::Table => {
            printer.line(&format!("operation {} {what}", output::cell(&operation["id"])))?;
            printer.emit(output::records(std::slice::from_ref(operation), COLUMNS, true).as_bytes())
        }
    }
}
