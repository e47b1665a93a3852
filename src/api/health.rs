//! What a supervisor, a load balancer and a monitor ask: alive, ready, which version, which numbers. All of it is
//! answered by this node alone, also without a quorum.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use tracing::warn;

use super::error::{Code, Phase, Problem};
use super::gauges::{self, count, number};
use super::routes::Query;
use super::{Answer, Context, Response, json_response, with_type};
use crate::catalog::{Catalog, ReplicaState, ShardState};
use crate::clock;
use crate::shard::{ReplicaReport, ReportedRole};
use crate::storage::off_runtime;
use crate::transport::PROTOCOL;
use crate::types::NodeId;

const OPENAPI: &str = include_str!("openapi.json");
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The process runs and answers. Nothing else: a node without a quorum must not be restarted for it.
pub(super) fn livez() -> Response {
    json_response(StatusCode::OK, &json!({ "live": true }))
}

/// One condition of being ready.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    /// What is missing; none when it holds.
    missing: Option<String>,
    /// What it means for a client when it is missing.
    code: Code,
}

/// Also before the node is in a cluster, and then it says what the node waits for.
pub(super) fn readyz(context: &Context, query: &Query) -> Answer {
    let verbose = query.flag("verbose")?;
    let checks = match context.serving() {
        None => vec![started(Some(context.awaited()))],
        Some(serving) => {
            let (router, node) = (&serving.router, serving.router.host().node());
            checks(router.catalog().as_deref(), &router.host().reports(), node, context.is_draining())
        }
    };
    answer(&checks, verbose)
}

fn answer(checks: &[Check], verbose: bool) -> Answer {
    let told: Vec<Value> = checks
        .iter()
        .filter(|check| verbose || check.missing.is_some())
        .map(|check| match &check.missing {
            None => json!({ "name": check.name, "ok": true }),
            Some(missing) => json!({ "name": check.name, "ok": false, "missing": missing }),
        })
        .collect();
    let Some(first) = checks.iter().find(|check| check.missing.is_some()) else {
        let body = if verbose { json!({ "ready": true, "checks": told }) } else { json!({ "ready": true }) };
        return Ok(json_response(StatusCode::OK, &body));
    };
    let missing: Vec<&str> = checks.iter().filter_map(|check| check.missing.as_deref()).collect();
    let problem = Problem::in_phase(first.code, Phase::Read, missing.join("; "));
    Err(problem.with_member("ready", json!(false)).with_member("checks", json!(told)))
}

/// The one condition that can be looked at before there is a router.
fn started(awaited: Option<String>) -> Check {
    Check { name: "started", missing: awaited, code: Code::Starting }
}

/// All conditions of a node in a cluster, the most telling first.
fn checks(catalog: Option<&Catalog>, reports: &[ReplicaReport], node: NodeId, draining: bool) -> Vec<Check> {
    let check = |name, code, missing: Option<String>| Check { name, missing, code };
    vec![
        started(None),
        check("not-draining", Code::Draining, draining.then(|| "this node is shutting down".to_string())),
        check(
            "catalog",
            Code::Starting,
            catalog.is_none().then(|| "this node has not heard the catalog yet".to_string()),
        ),
        check("member", Code::Draining, catalog.and_then(|catalog| departed(catalog, node))),
        check("shards", Code::Starting, catalog.and_then(missing_shards)),
        check("replicas", Code::NoLeader, catalog.and_then(|catalog| missing_replicas(catalog, reports, node))),
    ]
}

fn departed(catalog: &Catalog, node: NodeId) -> Option<String> {
    let is_gone = catalog.departed.iter().any(|gone| gone.id == node);
    is_gone.then(|| format!("node {node} was decommissioned: stop it; its data directory is of no use any more"))
}

fn missing_shards(catalog: &Catalog) -> Option<String> {
    if catalog.data_shards().next().is_none() {
        let (nodes, wanted) = (catalog.nodes.len(), catalog.replication_factor);
        return Some(format!("no data shards yet: {nodes} of {wanted} nodes have joined"));
    }
    let creating: Vec<String> = catalog
        .data_shards()
        .filter(|shard| shard.state != ShardState::Live)
        .map(|shard| shard.id.to_string())
        .collect();
    if !creating.is_empty() {
        return Some(format!("shards in creation: {}", creating.join(", ")));
    }
    // A shard begins with its founder alone. Once it is whole it stays so: a voter that leaves is replaced first.
    let wanted = usize::from(catalog.replication_factor);
    let filling: Vec<String> = catalog
        .shards
        .values()
        .filter(|shard| shard.replicas.iter().filter(|replica| replica.state != ReplicaState::Joining).count() < wanted)
        .map(|shard| shard.id.to_string())
        .collect();
    (!filling.is_empty()).then(|| format!("shards with fewer than {wanted} voters: {}", filling.join(", ")))
}

/// Replicas that the catalog counts on here and that do not serve. One that is on its way in or out may be missing.
fn missing_replicas(catalog: &Catalog, reports: &[ReplicaReport], node: NodeId) -> Option<String> {
    let missing: Vec<String> = catalog
        .replicas_on(node)
        .filter_map(|(shard, replica)| {
            let report = reports.iter().find(|report| report.replica == replica.id);
            let why = match (report, replica.state) {
                (None, ReplicaState::Voter) => "is not here",
                (None, ReplicaState::Joining | ReplicaState::Leaving) | (Some(_), ReplicaState::Leaving) => {
                    return None;
                }
                (Some(report), _) if report.role == ReportedRole::Failed => "has failed",
                // One that is on its way in has a leader once its group has taken it in.
                (Some(report), ReplicaState::Voter) if report.leader.is_none() => "knows no leader",
                (Some(_), _) => return None,
            };
            Some(format!("the replica of shard {} {why}", shard.id))
        })
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

pub(super) fn version() -> Response {
    let body = json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": { "min": PROTOCOL.min, "max": PROTOCOL.max },
    });
    json_response(StatusCode::OK, &body)
}

/// Before the node is in a cluster it has no replicas and no catalog, and the numbers say so.
pub(super) async fn metrics(context: &Context, query: &Query) -> Answer {
    let with_shards = query.flag("shards")?;
    let gauges = context.inner.metrics.node();
    let mut running = Vec::new();
    if let Some(router) = context.serving().map(|serving| &serving.router) {
        let host = router.host();
        running = host.replica_gauges();
        let catalog = router.catalog();
        let replication_factor = catalog.as_ref().map_or(0, |catalog| usize::from(catalog.replication_factor));
        gauges.set_replicas(&running, replication_factor);
        let reports = host.reports();
        let has_failed = |report: &&ReplicaReport| report.role == ReportedRole::Failed;
        gauges.replicas_failed.set(count(reports.iter().filter(has_failed).count()));
        gauges.replicas.set(count(reports.len()));
        gauges.set_in_flight(host.in_flight());
        gauges.catalog_version.set(number(catalog.map_or(0, |catalog| catalog.version)));
        let asked = host.clone();
        match off_runtime(host.disk().as_ref(), move || asked.disk_gauges()).await {
            Ok(disk) => gauges.set_disk(&disk),
            Err(error) => warn!(%error, "the disk does not tell how it stands; its metrics are those of before"),
        }
    }
    gauges.set_admission(&context.inner.admission);
    gauges.uptime_seconds.set(number(clock::now().since(context.inner.started).as_secs()));
    let of_shards = with_shards.then(|| gauges::of_shards(&running));
    Ok(with_type(StatusCode::OK, METRICS_TYPE, context.inner.metrics.text(of_shards.as_ref())))
}

pub(super) fn openapi() -> Response {
    with_type(StatusCode::OK, "application/json", Bytes::from_static(OPENAPI.as_bytes()))
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
