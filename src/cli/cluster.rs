//! `status`, `route`, `shard` and `node`: the reads of the admin API.

use serde_json::Value;

use super::args::{Key, Output};
use super::client::{Client, Request};
use super::exit::Failure;
use super::output::{self, Printer};
use super::target;
use crate::types::ShardId;

/// Columns of the lists, in this order, as far as the server gives them.
const SHARD_COLUMNS: &[&str] =
    &["id", "kind", "state", "range", "epoch", "leader", "leader_http", "term", "replicas", "disk_bytes"];
const NODE_COLUMNS: &[&str] = &[
    "id",
    "state",
    "epoch",
    "answers",
    "http",
    "peer",
    "zone",
    "host",
    "weight",
    "replicas",
    "groups_led",
    "disk_bytes",
    "silent_because",
];
/// Columns of the replicas within a node or a shard.
const REPLICA_COLUMNS: &[&str] = &[
    "id",
    "shard",
    "node",
    "role",
    "state",
    "term",
    "leader",
    "committed_index",
    "applied_index",
    "flushed_index",
    "lag",
    "disk_bytes",
    "failure",
];

pub(super) async fn status(client: &Client, printer: &mut Printer) -> Result<(), Failure> {
    one(client, "/v1/status".to_string(), printer).await
}

pub(super) async fn route(client: &Client, key: &Key, printer: &mut Printer) -> Result<(), Failure> {
    one(client, target::of_route(&key.0), printer).await
}

pub(super) async fn shard_list(client: &Client, printer: &mut Printer) -> Result<(), Failure> {
    many(client, "/v1/admin/shards", "shards", SHARD_COLUMNS, printer).await
}

pub(super) async fn shard_show(client: &Client, id: ShardId, printer: &mut Printer) -> Result<(), Failure> {
    one(client, format!("/v1/admin/shards/{id}"), printer).await
}

pub(super) async fn node_list(client: &Client, printer: &mut Printer) -> Result<(), Failure> {
    many(client, "/v1/admin/nodes", "nodes", NODE_COLUMNS, printer).await
}

pub(super) async fn one(client: &Client, target: String, printer: &mut Printer) -> Result<(), Failure> {
    let answer = client.send(&Request::get(target)).await?;
    match printer.format() {
        Output::Json => printer.raw_json(&answer),
        Output::Table => printer.emit(output::facts(&answer.json()?, REPLICA_COLUMNS).as_bytes()),
    }
}

pub(super) async fn many(
    client: &Client,
    path: &str,
    name: &str,
    columns: &[&str],
    printer: &mut Printer,
) -> Result<(), Failure> {
    let answer = client.send(&Request::get(path)).await?;
    match printer.format() {
        Output::Json => printer.raw_json(&answer),
        Output::Table => {
            let json = answer.json()?;
            let items: Vec<Value> = output::list(&json, name).iter().cloned().map(in_one_line).collect();
            printer.emit(output::records(&items, columns, true).as_bytes())
        }
    }
}

/// A shard with its range, and the nodes of its replicas with what is out of the ordinary there, as short texts.
fn in_one_line(mut item: Value) -> Value {
    if let (Some(first), Some(last)) = (item["range"]["first"].as_str(), item["range"]["last"].as_str()) {
        item["range"] = Value::String(format!("{first}..={last}"));
    }
    if let Some(replicas) = item["replicas"].as_array() {
        let short = replicas.iter().map(|replica| {
            let node = output::cell(&replica["node"]);
            match replica["role"].as_str() {
                None | Some("leader" | "follower") => node,
                Some(role) => format!("{node} ({})", output::printable(role)),
            }
        });
        let short = short.collect::<Vec<_>>().join(", ");
        item["replicas"] = Value::String(short);
    }
    item
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::exit::Exit;
    use super::super::testing::{Canned, Captured, Server, problem};
    use super::*;
    use crate::transport::dial::TcpNet;

    fn client(server: &Server) -> Client {
        Client::new(Arc::new(TcpNet), vec![server.endpoint().clone()], None)
    }

    fn printer(format: Output) -> (Printer, Captured) {
        let captured = Captured::default();
        (Printer::new(format, Box::new(captured.clone())), captured)
    }

    #[tokio::test]
    async fn each_command_asks_its_route_and_gives_the_servers_json_as_it_is() {
        let server = Server::start([Canned::answer(200, &[], r#"{"z": 1,  "a":2}"#)]).await;
        let client = client(&server);
        let (mut printer, printed) = printer(Output::Json);
        status(&client, &mut printer).await.unwrap();
        route(&client, &Key(b"a/b".to_vec()), &mut printer).await.unwrap();
        shard_list(&client, &mut printer).await.unwrap();
        shard_show(&client, ShardId(7), &mut printer).await.unwrap();
        node_list(&client, &mut printer).await.unwrap();
        let lines: Vec<String> = server.requests().into_iter().map(|request| request.line).collect();
        assert_eq!(
            lines,
            [
                "GET /v1/status",
                "GET /v1/admin/route?key=a%2Fb",
                "GET /v1/admin/shards",
                "GET /v1/admin/shards/7",
                "GET /v1/admin/nodes",
            ]
        );
        assert_eq!(printed.text(), "{\"z\": 1,  \"a\":2}\n".repeat(5));
    }

    #[tokio::test]
    async fn shards_are_listed_with_the_nodes_of_their_replicas() {
        let shards = r#"{"shards": [{"id": "4", "state": "live", "leader": "2", "term": "3", "range": {"first": "00", "last": "0f"}, "voters": [], "replicas": [
            {"id": "11", "node": "1", "role": "follower"}, {"id": "12", "node": "2", "role": "leader"},
            {"id": "13", "node": "3", "role": "silent"}]}]}"#;
        let server = Server::start([Canned::answer(200, &[], shards)]).await;
        let (mut printer, printed) = printer(Output::Table);
        shard_list(&client(&server), &mut printer).await.unwrap();
        let lines: Vec<String> =
            printed.text().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines, ["ID STATE RANGE LEADER TERM REPLICAS", "4 live 00..=0f 2 3 1, 2, 3 (silent)"]);
    }

    #[tokio::test]
    async fn a_shard_that_is_not_there_is_not_found_and_nonsense_is_a_bad_answer() {
        let server = Server::start([problem(404, "no-such-shard", ""), Canned::answer(200, &[], "<html>")]).await;
        let client = client(&server);
        let (mut table, _) = printer(Output::Table);
        assert_eq!(shard_show(&client, ShardId(99), &mut table).await.unwrap_err().exit(), Exit::NotFound);
        let (mut json, printed) = printer(Output::Json);
        assert_eq!(node_list(&client, &mut json).await.unwrap_err().exit(), Exit::Other);
        assert_eq!(printed.text(), "");
    }
}
