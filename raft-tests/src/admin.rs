//! What the admin API says of a cluster's placement, and how its changes are asked for. A node that does not answer, or says
//! something else, is an error and no panic: in the tests that use this nodes die.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::http::{Http, Reply};

/// Limit of one question. Longer than a node waits for the others that it asks.
const ASK_LIMIT: Duration = Duration::from_secs(6);

pub async fn get(http: &Http, path: &str) -> Result<Value, String> {
    let sent = tokio::time::timeout(ASK_LIMIT, http.get(path).try_send()).await;
    let reply = sent.map_err(|_elapsed| format!("{path}: no answer in {ASK_LIMIT:?}"))??;
    serde_json::from_slice(&reply.body).map_err(|error| format!("{path}: no JSON in the answer: {error}"))
}

/// Asks for an operation. With a key it may be asked for again, elsewhere too.
pub async fn post(http: &Http, path: &str, body: &Value, key: Option<&str>) -> Result<Reply, String> {
    let mut call = http.call("POST", path).header("content-type", "application/json");
    if let Some(key) = key {
        call = call.header("idempotency-key", key);
    }
    let sent = tokio::time::timeout(ASK_LIMIT, call.chunks(vec![Bytes::from(body.to_string())]).try_send()).await;
    sent.map_err(|_elapsed| format!("{path}: no answer in {ASK_LIMIT:?}"))?
}

pub fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_string).ok_or_else(|| format!("{value} is no text"))
}

pub async fn node_id(http: &Http) -> Result<String, String> {
    text(&get(http, "/v1/status").await?["node"])
}

pub async fn shard(http: &Http, id: &str) -> Result<Value, String> {
    get(http, &format!("/v1/admin/shards/{id}")).await
}

/// The nodes of a shard's replicas, in the order of ids.
pub fn nodes_of(shard: &Value) -> Vec<String> {
    let replicas = shard["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut nodes: Vec<String> =
        replicas.iter().filter_map(|replica| replica["node"].as_str().map(str::to_string)).collect();
    nodes.sort();
    nodes
}

/// The operation once it has ended; none while it runs, or while the node has not heard of it.
pub async fn ended(http: &Http, operation: &str) -> Option<Value> {
    let operation = get(http, &format!("/v1/admin/operations/{operation}")).await.ok()?;
    operation["ended_ms"].is_number().then_some(operation)
}

/// `what`: drain, undrain or decommission.
pub async fn change_node(http: &Http, node: &str, what: &str) -> Result<Reply, String> {
    post(http, &format!("/v1/admin/nodes/{node}/{what}"), &json!({}), None).await
}

/// How many replicas each node holds, when nothing moves and every shard has so many voters and no other replicas; else what
/// is in the way.
pub async fn shares_at_rest(http: &Http, replication_factor: usize) -> Result<Vec<(String, usize)>, String> {
    let operations = get(http, "/v1/admin/operations").await?;
    let running = |operation: &&Value| operation["ended_ms"].is_null() && operation["kind"] == "move";
    if let Some(runs) = operations["operations"].as_array().into_iter().flatten().find(running) {
        return Err(format!("it runs: {runs}"));
    }
    let shards = get(http, "/v1/admin/shards").await?;
    for shard in shards["shards"].as_array().ok_or_else(|| format!("no shards in {shards}"))? {
        let replicas = shard["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
        let voters = replicas.iter().filter(|replica| replica["state"] == "voter").count();
        if voters != replication_factor || replicas.len() != replication_factor {
            return Err(format!("it is not whole: {shard}"));
        }
    }
    let nodes = get(http, "/v1/admin/nodes").await?;
    let share =
        |node: &Value| Some((node["id"].as_str()?.to_string(), usize::try_from(node["replicas"].as_u64()?).ok()?));
    nodes["nodes"].as_array().ok_or("no nodes")?.iter().map(|node| share(node).ok_or("no share".to_string())).collect()
}

/// Of `/metrics`: the sum of a counter's or gauge's series. 0 when there is none.
pub async fn metric(http: &Http, name: &str) -> Result<f64, String> {
    let reply = http.get("/metrics").try_send().await?;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let is_of_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    Ok(text.lines().filter(is_of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
