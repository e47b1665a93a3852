//! Changes of the cluster while it is under load and while other faults stand: shards split, replicas moved, leaders
//! transferred, nodes drained. They are no faults of the cluster; what they must not do to it is what is tested.
//!
//! Each is asked for with an idempotency key at any node that answers, until one has taken it, and followed to its end after
//! everything else is whole again: an operation that does not end then is a violation.

use std::time::Duration;

use rand::RngExt;
use ringraft::clock::{self, Moment};
use serde_json::{Value, json};

use super::{Fault, Field, Held, Observed, Standing};
use crate::admin;
use crate::fleet::until;
use crate::http::Http;
use crate::real::world::SPARED_REPLICATION;

/// Until some node has taken the request.
const TAKEN_LIMIT: Duration = Duration::from_secs(15);
/// Until the operation has ended, once nothing else is wrong: a node that is silent is waited for 60 s before a move is given
/// up.
const ENDED_LIMIT: Duration = Duration::from_secs(100);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Move,
    Transfer,
    /// A shard becomes two, at the median of its rows.
    Split,
    /// A node emptied, and undrained at the end.
    Drain,
}

impl Change {
    pub fn name(self) -> &'static str {
        match self {
            Change::Move => "move",
            Change::Transfer => "transfer",
            Change::Split => "split",
            Change::Drain => "drain",
        }
    }
}

/// An operation that was begun.
pub(in crate::real) struct Begun {
    change: Change,
    id: String,
    /// Of a drain: the node to be undrained.
    node: Option<String>,
    since: Moment,
}

pub(super) async fn begin(field: &mut Field, fault: Fault, change: Change) -> Result<Standing, String> {
    let deadline = clock::now().after(TAKEN_LIMIT);
    let key = format!("\"nemesis-{:016x}\"", field.rng.random::<u64>());
    loop {
        match try_to_begin(field, fault, change, &key).await {
            Ok(standing) => return Ok(standing),
            Err(why) if clock::now() >= deadline => return Err(why),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn try_to_begin(field: &mut Field, fault: Fault, change: Change, key: &str) -> Result<Standing, String> {
    let free = field.free();
    let asked = field.choose(&free)?;
    let http = field.world.nodes[asked].http.clone();
    let (path, body, node) = match change {
        Change::Drain => {
            let place = field.choose(&free)?;
            let node = admin::node_id(&field.world.nodes[place].http).await?;
            (format!("/v1/admin/nodes/{node}/drain"), json!({}), Some(node))
        }
        Change::Split => {
            let shards = shards(&http).await?;
            let data: Vec<&String> = shards.iter().filter(|shard| *shard != "0").collect();
            let shard = data[field.rng.random_range(0..data.len())];
            (format!("/v1/admin/shards/{shard}/split"), json!({ "auto": true }), None)
        }
        Change::Move | Change::Transfer => {
            let shards = shards(&http).await?;
            let shard = &shards[field.rng.random_range(0..shards.len())];
            let held = admin::nodes_of(&admin::shard(&http, shard).await?);
            let (path, body) = target(field, change, shard, &held).await?;
            (path, body, None)
        }
    };
    let since = clock::now();
    let reply = admin::post(&http, &path, &body, Some(key)).await?;
    if reply.status != 202 {
        return Err(format!("{path} {body}: {} {}", reply.status, String::from_utf8_lossy(&reply.body)));
    }
    let id = admin::text(&reply.json()["id"])?;
    field.announce(fault, &[asked])?;
    let begun = Begun { change, id, node, since };
    Ok(Standing { fault, on: vec![asked], hit_leader: false, hold: Duration::ZERO, held: Held::Operation(begun) })
}

/// The ids of all shards, those that splits have made among them, and the meta group's.
pub(in crate::real) async fn shards(http: &Http) -> Result<Vec<String>, String> {
    let shards = admin::get(http, "/v1/admin/shards").await?;
    let ids = shards["shards"].as_array().into_iter().flatten().map(|shard| admin::text(&shard["id"]));
    let ids: Vec<String> = ids.collect::<Result<_, _>>()?;
    if ids.len() < 2 { Err(format!("no shards in {shards}")) } else { Ok(ids) }
}

/// What to ask for: a voter that is to lead, or one that is to go and a node that has none.
async fn target(field: &mut Field, change: Change, shard: &str, held: &[String]) -> Result<(String, Value), String> {
    if held.is_empty() {
        return Err(format!("shard {shard} has no replicas"));
    }
    let one = held[field.rng.random_range(0..held.len())].clone();
    if change == Change::Transfer {
        return Ok((format!("/v1/admin/shards/{shard}/transfer-leader"), json!({ "to": one })));
    }
    let mut others = Vec::new();
    for place in field.free() {
        let node = admin::node_id(&field.world.nodes[place].http).await?;
        if !held.contains(&node) {
            others.push(node);
        }
    }
    if others.is_empty() {
        return Err(format!("every node that is not hit has a replica of shard {shard}"));
    }
    let to = others[field.rng.random_range(0..others.len())].clone();
    Ok((format!("/v1/admin/shards/{shard}/move"), json!({ "from": one, "to": to })))
}

/// Follows it to its end. Nothing else is wrong any more, but nodes may still be on their way up.
pub(super) async fn end(field: &mut Field, begun: &Begun) -> Observed {
    let name = begun.change.name();
    let operation = until(ENDED_LIMIT, || async { ended(field, &begun.id).await }).await;
    let Some(operation) = operation else {
        let what = format!("operation {} ({name}) has not ended {ENDED_LIMIT:?} after all was whole again", begun.id);
        field.figures.violations.push(what.clone());
        return Err(what);
    };
    let is_done = operation["state"] == "done";
    field.figures.count(&format!("operations_{name}_{}", if is_done { "done" } else { "failed" }), 1);
    if is_done {
        field.figures.time(&format!("{name}_ms"), clock::now().since(begun.since));
    }
    match &begun.node {
        Some(node) => undrain(field, node).await,
        None => Ok(()),
    }
}

async fn ended(field: &Field, id: &str) -> Option<Value> {
    for place in field.places() {
        if let Some(operation) = admin::ended(&field.world.nodes[place].http, id).await {
            return Some(operation);
        }
    }
    None
}

async fn undrain(field: &mut Field, node: &str) -> Observed {
    let key = format!("\"nemesis-{:016x}\"", field.rng.random::<u64>());
    let path = format!("/v1/admin/nodes/{node}/undrain");
    let asked = until(ENDED_LIMIT, || async {
        for place in field.places() {
            let reply = admin::post(&field.world.nodes[place].http, &path, &json!({}), Some(&key)).await;
            if reply.is_ok_and(|reply| reply.status == 202) {
                return Some(());
            }
        }
        None
    });
    asked.await.ok_or_else(|| format!("node {node} could not be undrained"))
}

/// Until nothing moves any more and every shard has all its voters, and those alone.
pub(in crate::real) async fn at_rest(field: &Field) -> Result<(), String> {
    let look = || async { admin::shares_at_rest(&field.world.nodes[0].http, SPARED_REPLICATION).await.ok() };
    match until(ENDED_LIMIT, look).await {
        Some(_) => Ok(()),
        None => Err(format!("operations still run, or a shard is not whole, {ENDED_LIMIT:?} after all faults")),
    }
}
