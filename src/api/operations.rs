//! Operations: asked for by POST, followed by GET. What is asked for is checked by the catalog's own rules, here on a copy
//! for `?dry_run=true`, else by the meta group.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};
use hyper::body::Body;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{Code, Phase, Problem};
use super::{Answer, Call, body, headers, json_response, not_ready_yet};
use crate::catalog::{
    self, Catalog, CatalogCommand, CatalogResponse, Operation, OperationCause, OperationKind, OperationState, Refusal,
};
use crate::clock;
use crate::ring::Token;
use crate::shard::SplitPoint;
use crate::types::{NodeId, OperationId, ShardId};

/// `/v1/admin/operations`: those that run, and the newest of those that have ended; the newest first.
pub(super) fn list(call: &Call<'_>) -> Answer {
    let catalog = call.router().catalog().ok_or_else(not_ready_yet)?;
    let operations: Vec<Value> = catalog.operations.iter().rev().map(|one| told(&catalog, one)).collect();
    Ok(json_response(StatusCode::OK, &json!({ "operations": operations })))
}

/// `/v1/admin/events`: the newest first.
pub(super) fn events(call: &Call<'_>) -> Answer {
    let catalog = call.router().catalog().ok_or_else(not_ready_yet)?;
    let events: Vec<Value> = catalog.events.iter().rev().map(|event| json!(event)).collect();
    Ok(json_response(StatusCode::OK, &json!({ "events": events })))
}

/// `/v1/admin/operations/{id}`
pub(super) fn one(call: &Call<'_>, id: &str) -> Answer {
    let catalog = call.router().catalog().ok_or_else(not_ready_yet)?;
    let operation = id.parse::<OperationId>().ok().and_then(|id| catalog.operations.get(id));
    let Some(operation) = operation else {
        let detail = format!("{id} is no operation of this cluster, or it ended long ago");
        return Err(Problem::in_phase(Code::NoSuchOperation, Phase::Read, detail));
    };
    Ok(json_response(StatusCode::OK, &told(&catalog, operation)))
}

fn told(catalog: &Catalog, operation: &Operation) -> Value {
    let done = u8::from(!operation.is_running());
    let step = match (&operation.state, &operation.kind) {
        (OperationState::Done | OperationState::Failed { .. }, _) => "ended",
        (OperationState::GivingUp { .. }, _) => "taking-back",
        (OperationState::Running, OperationKind::TransferLeader { .. }) => "handing-over",
        (OperationState::Running, OperationKind::Move { .. }) => "moving",
        (OperationState::Running, OperationKind::Split { .. }) => match &operation.split {
            Some(plan) if plan.is_published => "starting-replicas",
            _ => "splitting",
        },
        (OperationState::Running, _) => "emptying",
    };
    let mut body = json!(operation);
    body["step"] = json!(step);
    body["done"] = json!(done);
    body["total"] = json!(1);
    if let (Some(node), true) = (operation.kind.node(), operation.is_running()) {
        body["replicas_left"] = json!(catalog.replicas_on(node).count());
    }
    body
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferLeader {
    to: NodeId,
}

/// `POST /v1/admin/shards/{id}/transfer-leader`
pub(super) async fn transfer_leader<B>(call: &Call<'_>, shard: &str, body: &mut B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let shard = shard_id(shard)?;
    let TransferLeader { to } = arguments(call, body, r#"{"to": "<node id>"}"#).await?;
    begin(call, OperationKind::TransferLeader { shard, to }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    from: NodeId,
    to: NodeId,
}

/// `POST /v1/admin/shards/{id}/move`
pub(super) async fn move_replica<B>(call: &Call<'_>, shard: &str, body: &mut B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let shard = shard_id(shard)?;
    let Move { from, to } = arguments(call, body, r#"{"from": "<node id>", "to": "<node id>"}"#).await?;
    begin(call, OperationKind::Move { shard, from, to }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    at_token: Option<Token>,
    #[serde(default)]
    auto: bool,
}

/// `POST /v1/admin/shards/{id}/split`
pub(super) async fn split<B>(call: &Call<'_>, shard: &str, body: &mut B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    const EXPECTED: &str = r#"{"at_token": "<16 hex digits>"} or {"auto": true}"#;
    let shard = shard_id(shard)?;
    let Split { at_token, auto } = arguments(call, body, EXPECTED).await?;
    if at_token.is_some() == auto {
        return Err(Problem::new(Code::BadEncoding, format!("the body is to be {EXPECTED}: one of the two")));
    }
    let unread = |error| Problem::from_router(error, call, false);
    let newest = call.router().newest_catalog(call.deadline).await.map_err(unread)?;
    let before = begun_before(call, &newest, shard)?;
    let at = match before.filter(|at| at_token.is_none_or(|wanted| wanted == *at)) {
        Some(at) => at,
        None => {
            let range = newest.shards.get(&shard).and_then(|shard| shard.range);
            let at = at_token.or(range.map(|range| range.last)).unwrap_or_default();
            let mut copy = Some(Catalog::clone(&newest));
            // What stands in the way of any token is said before the rows are read.
            if let CatalogResponse::Refused { why } =
                catalog::apply(&mut copy, &command(call, OperationKind::Split { shard, at })?)
            {
                return Err(refused(&why, Code::CannotSplit));
            }
            match call.router().split_point(shard, at_token, call.deadline).await.map_err(unread)? {
                SplitPoint::At { token } => token,
                SplitPoint::None { why } => return Err(Problem::new(Code::CannotSplit, why).with_shard(shard)),
            }
        }
    };
    begin(call, OperationKind::Split { shard, at }).await
}

/// The token of the split that was begun with the same idempotency key: the median may be another one by now.
fn begun_before(call: &Call<'_>, catalog: &Catalog, shard: ShardId) -> Result<Option<Token>, Box<Problem>> {
    let Some(key) = headers::idempotency_key(call.headers)? else { return Ok(None) };
    let same_key = |operation: &&Operation| operation.idempotency_key.as_ref().map(String::as_bytes) == Some(&key);
    Ok(catalog.operations.iter().find(same_key).and_then(|operation| match operation.kind {
        OperationKind::Split { shard: split, at } if split == shard => Some(at),
        _ => None,
    }))
}

/// `POST /v1/admin/nodes/{id}/drain`, `…/undrain` and `…/decommission`
pub(super) async fn of_node<B>(call: &Call<'_>, node: &str, kind: fn(NodeId) -> OperationKind, body: &mut B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    let known = node.parse().map_err(|_| Problem::new(Code::NoSuchNode, format!("{node} is no node of this cluster")));
    let node = known?;
    let Nothing {} = arguments(call, body, "{}").await?;
    begin(call, kind(node)).await
}

fn shard_id(text: &str) -> Result<ShardId, Box<Problem>> {
    text.parse().map_err(|_| Problem::new(Code::NoSuchShard, format!("{text} is no shard of this cluster")))
}

/// A JSON body, and nothing else: a page of another origin can send a form, but not this type.
async fn arguments<T, B>(call: &Call<'_>, body: &mut B, expected: &str) -> Result<T, Box<Problem>>
where
    T: for<'de> Deserialize<'de>,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    if !headers::is_json(call.headers)? {
        let detail = format!("the body is {expected}, as {CONTENT_TYPE}: application/json");
        return Err(Problem::new(Code::ContentType, detail));
    }
    let held = body::read(call, body).await?;
    serde_json::from_slice(&held.bytes)
        .map_err(|error| Problem::new(Code::BadEncoding, format!("the body is to be {expected}: {error}")))
}

fn command(call: &Call<'_>, kind: OperationKind) -> Result<CatalogCommand, Box<Problem>> {
    let key = headers::idempotency_key(call.headers)?;
    Ok(CatalogCommand::BeginOperation {
        kind,
        cause: OperationCause::Asked,
        expected_epoch: headers::expected_epoch(call.headers)?,
        // It was found to be printable ASCII.
        idempotency_key: key.map(|key| String::from_utf8_lossy(&key).into_owned()),
        time_ms: clock::wall_ms(),
    })
}

async fn begin(call: &Call<'_>, kind: OperationKind) -> Answer {
    let cannot = match &kind {
        OperationKind::TransferLeader { .. } => Code::CannotTransfer,
        OperationKind::Move { .. } => Code::CannotMove,
        OperationKind::Split { .. } => Code::CannotSplit,
        OperationKind::Drain { .. } | OperationKind::Undrain { .. } | OperationKind::Decommission { .. } => {
            Code::CannotDrain
        }
    };
    let command = command(call, kind)?;
    if call.query.flag("dry_run")? {
        return dry_run(call, &command, cannot);
    }
    let response = call.router().propose_catalog(command, call.deadline).await;
    let response = response.map_err(|error| Problem::from_router(error, call, true))?;
    let (id, begun, version) = match response {
        CatalogResponse::Operation { id, begun, version } => (id, begun, version),
        CatalogResponse::Refused { why } => return Err(refused(&why, cannot)),
        other => return Err(Problem::in_phase(Code::Internal, Phase::Proposed, format!("answered {other:?}"))),
    };
    let operation = heard(call, id, version).await;
    let heard = operation.zip(call.router().catalog());
    let body = heard.map_or_else(|| json!({ "id": id }), |(operation, catalog)| told(&catalog, &operation));
    let mut response = json_response(StatusCode::ACCEPTED, &body);
    let location = HeaderValue::try_from(format!("/v1/admin/operations/{id}")).expect("digits are header text");
    response.headers_mut().insert(LOCATION, location);
    if !begun {
        response.headers_mut().insert(headers::REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The operation as this node knows it once it has heard of it: so that who follows `Location` here finds it. None at the
/// deadline.
async fn heard(call: &Call<'_>, id: OperationId, version: u64) -> Option<Operation> {
    let mut catalog = call.router().watch_catalog();
    let is_new = |catalog: &Option<std::sync::Arc<Catalog>>| catalog.as_ref().is_some_and(|it| it.version >= version);
    let left = call.deadline.since(clock::now());
    let catalog = tokio::time::timeout(left, catalog.wait_for(is_new)).await.ok()?.ok()?;
    catalog.as_ref()?.operations.get(id).cloned()
}

/// What would be answered now, by this node's copy of the catalog.
fn dry_run(call: &Call<'_>, command: &CatalogCommand, cannot: Code) -> Answer {
    let catalog = call.router().catalog().ok_or_else(not_ready_yet)?;
    let mut copy = Some(Catalog::clone(&catalog));
    let id = match catalog::apply(&mut copy, command) {
        CatalogResponse::Operation { id, .. } => id,
        CatalogResponse::Refused { why } => return Err(refused(&why, cannot)),
        other => return Err(Problem::in_phase(Code::Internal, Phase::Read, format!("answered {other:?}"))),
    };
    let operation = copy.as_ref().and_then(|copy| Some(told(copy, copy.operations.get(id)?)));
    Ok(json_response(StatusCode::OK, &json!({ "dry_run": true, "operation": operation })))
}

/// Nothing was changed, and why not. `cannot`: what is said where the state of the shard does not allow it.
fn refused(why: &Refusal, cannot: Code) -> Box<Problem> {
    let problem = |code| Problem::new(code, why.to_string());
    match why {
        Refusal::NoSuchShard { shard } => problem(Code::NoSuchShard).with_shard(*shard),
        Refusal::NoSuchNode { .. } => problem(Code::NoSuchNode),
        Refusal::OperationRunning { shard, operation } => {
            problem(Code::OperationRunning).with_shard(*shard).with_member("operation", json!(operation))
        }
        Refusal::EpochMismatch { shard, epoch } => {
            problem(Code::EpochMismatch).with_shard(*shard).with_member("current_epoch", json!(epoch))
        }
        Refusal::NodeOperationRunning { operation, .. } => {
            problem(Code::OperationRunning).with_member("operation", json!(operation))
        }
        Refusal::NodeEpochMismatch { epoch, .. } => {
            problem(Code::EpochMismatch).with_member("current_epoch", json!(epoch))
        }
        Refusal::TooFewNodesLeft { .. } | Refusal::NodeNotDraining { .. } | Refusal::NodeTakesNoReplicas { .. } => {
            problem(cannot)
        }
        Refusal::OperationKeyReused { operation } => {
            problem(Code::IdempotencyKeyReuse).with_member("operation", json!(operation))
        }
        Refusal::ShardNotLive { shard }
        | Refusal::NodeHoldsNoReplica { shard, .. }
        | Refusal::NodeHoldsReplica { shard, .. }
        | Refusal::NotToBeSplit { shard }
        | Refusal::TokenOutside { shard, .. }
        | Refusal::ReplicaNotVoter { shard, .. } => problem(cannot).with_shard(*shard),
        Refusal::NotFounded => Problem::starting(),
        _ => problem(Code::Internal),
    }
}

#[cfg(test)]
#[path = "operations_tests.rs"]
mod tests;
