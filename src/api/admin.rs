//! What the cluster looks like: the catalog as this node knows it, and what each node says of its replicas.
//!
//! Nothing here needs a quorum. A node that does not answer in time is shown as silent; it never makes a call fail.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::encoding::{base64_decode, insert_bytes};
use super::error::{Code, Phase, Problem};
use super::kv::check_key;
use super::routes::bad_encoding;
use super::{Answer, Call, empty, json_response, not_ready_yet};
use crate::catalog::{Catalog, NodeDescriptor, ShardDescriptor, ShardState};
use crate::clock;
use crate::ring::token_of;
use crate::shard::{ReplicaReport, ReportedRole};
use crate::types::{KEY_BYTES_MAX, META_SHARD, NodeId, ReplicaId, ShardId};

/// How long another node is waited for. A healthy one answers within milliseconds.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// `/v1/shardmap`: all that a client needs to route by itself.
pub(super) fn shard_map(call: &Call<'_>) -> Answer {
    let catalog = call.router().catalog().ok_or_else(not_ready_yet)?;
    // Weak: leaders change without a new version. A client learns of those from the 421 it gets.
    let etag = format!("W/\"{:016x}\"", catalog.version);
    let mut response = if names(call.headers, &etag) {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        let nodes: Map<String, Value> = catalog
            .nodes
            .values()
            .map(|node| (node.id.to_string(), json!({ "http": node.http, "zone": node.zone, "host": node.host })))
            .collect();
        let shards: Vec<Value> = catalog.data_shards().map(|shard| shard_summary(call, &catalog, shard)).collect();
        let body = json!({
            "cluster": catalog.cluster,
            "version": catalog.version.to_string(),
            "hash": "xxh3-64",
            "nodes": nodes,
            "shards": shards,
        });
        json_response(StatusCode::OK, &body)
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::try_from(etag).expect("quoted hex digits are header text"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Whether `If-None-Match` names this tag. A tag that is not understood names nothing: the answer is then given in full.
fn names(headers: &HeaderMap, etag: &str) -> bool {
    let opaque = etag.trim_start_matches("W/");
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == opaque)
}

/// A shard as the catalog has it, with the leader as far as this node knows.
fn shard_summary(call: &Call<'_>, catalog: &Catalog, shard: &ShardDescriptor) -> Value {
    let leader = call.router().leader_hint(shard.id);
    let state = match shard.state {
        ShardState::Creating { .. } => "creating",
        ShardState::Live => "live",
    };
    let replicas: Vec<Value> = shard
        .replicas
        .iter()
        .map(|replica| json!({ "id": replica.id, "node": replica.node, "state": replica.state }))
        .collect();
    json!({
        "id": shard.id,
        "kind": if shard.id == META_SHARD { "meta" } else { "data" },
        "range": shard.range,
        "epoch": shard.epoch,
        "state": state,
        "leader": leader,
        "preferred_leader": shard.preferred_leader,
        "leader_chosen": shard.leader_chosen,
        "leader_http": leader.and_then(|leader| catalog.nodes.get(&leader)).map(|node| node.http.as_str()),
        "replicas": replicas,
    })
}

/// `/v1/status`: this node, from itself alone.
pub(super) fn status(call: &Call<'_>) -> Answer {
    let router = call.router();
    let catalog = router.catalog();
    let reports = router.host().reports();
    let led = reports.iter().filter(|report| report.role == ReportedRole::Leader).count();
    let replicas: Vec<Value> = reports.iter().map(replica_body).collect();
    let uptime = clock::now().since(call.context.inner.started);
    let disk = router.host().rooms().reserve().measured();
    let body = json!({
        "cluster": call.serving.cluster,
        "node": router.host().node(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        "draining": call.context.is_draining(),
        "catalog_version": catalog.map(|catalog| catalog.version.to_string()),
        // What a client that stores many values checks them against, before it sends the first.
        "limits": { "key_bytes_max": KEY_BYTES_MAX, "value_bytes_max": call.context.inner.limits.value_bytes_max },
        "groups_led": led,
        "disk": { "room": disk.room.name(), "free_bytes": disk.free_bytes, "reserve_bytes": disk.reserve_bytes },
        "replicas": replicas,
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// `/v1/admin/cluster`
pub(super) fn cluster(call: &Call<'_>) -> Answer {
    let catalog = call.router().catalog().ok_or_else(not_ready_yet)?;
    let meta = catalog.shards.get(&META_SHARD).map(|shard| shard_summary(call, &catalog, shard));
    let body = json!({
        "cluster": catalog.cluster,
        "catalog_version": catalog.version.to_string(),
        "replication_factor": catalog.replication_factor,
        "initial_shards": catalog.initial_shards,
        "feature_level": catalog.feature_level,
        "recovery_generation": catalog.recovery_generation,
        "nodes": catalog.nodes.len(),
        "shards": catalog.data_shards().count(),
        "meta": meta,
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// What each node said of its replicas, or why it said nothing.
struct Survey {
    answers: BTreeMap<NodeId, Result<Vec<ReplicaReport>, String>>,
}

impl Survey {
    /// Asks all nodes at the same time.
    async fn of(call: &Call<'_>, catalog: &Catalog) -> Self {
        let deadline = clock::now().after(REPORT_TIMEOUT);
        let asked = catalog.nodes.keys().map(|node| async move {
            let answer = call.router().reports(*node, deadline).await;
            (*node, answer.map_err(|error| error.to_string()))
        });
        Self { answers: futures::future::join_all(asked).await.into_iter().collect() }
    }

    fn report(&self, node: NodeId, replica: ReplicaId) -> Option<&ReplicaReport> {
        self.answers.get(&node)?.as_ref().ok()?.iter().find(|report| report.replica == replica)
    }

    /// The replica that leads, by its own word; of two that say so the one with the higher term is right.
    fn leader(&self, shard: &ShardDescriptor) -> Option<(NodeId, &ReplicaReport)> {
        let reports =
            shard.replicas.iter().filter_map(|replica| Some((replica.node, self.report(replica.node, replica.id)?)));
        reports.filter(|(_, report)| report.role == ReportedRole::Leader).max_by_key(|(_, report)| report.term)
    }
}

/// `/v1/admin/nodes`
pub(super) async fn nodes(call: &Call<'_>) -> Answer {
    let catalog = call.router().catalog().ok_or_else(not_ready_yet)?;
    let survey = Survey::of(call, &catalog).await;
    let nodes: Vec<Value> = catalog.nodes.values().map(|node| node_body(&catalog, node, &survey)).collect();
    Ok(json_response(StatusCode::OK, &json!({ "nodes": nodes })))
}

fn node_state(node: &NodeDescriptor) -> &'static str {
    match (node.is_dead, node.is_draining) {
        (true, _) => "dead",
        (false, true) => "draining",
        (false, false) => "active",
    }
}

fn node_body(catalog: &Catalog, node: &NodeDescriptor, survey: &Survey) -> Value {
    let mut body = json!({
        "id": node.id,
        "http": node.http,
        "peer": node.peer,
        "weight": node.weight,
        "zone": node.zone,
        "host": node.host,
        "store": node.store,
        "epoch": node.epoch,
        "state": node_state(node),
        "replicas": catalog.replicas_on(node.id).count(),
    });
    match survey.answers.get(&node.id) {
        Some(Ok(reports)) => {
            body["answers"] = json!(true);
            body["groups_led"] = json!(reports.iter().filter(|report| report.role == ReportedRole::Leader).count());
            body["disk_bytes"] = json!(reports.iter().map(|report| report.disk_bytes).sum::<u64>());
        }
        Some(Err(why)) => {
            body["answers"] = json!(false);
            body["silent_because"] = json!(why);
        }
        None => body["answers"] = json!(false),
    }
    body
}

/// `/v1/admin/shards`
pub(super) async fn shards(call: &Call<'_>) -> Answer {
    let catalog = call.router().catalog().ok_or_else(not_ready_yet)?;
    let survey = Survey::of(call, &catalog).await;
    let shards: Vec<Value> = catalog.shards.values().map(|shard| shard_body(call, &catalog, shard, &survey)).collect();
    Ok(json_response(StatusCode::OK, &json!({ "shards": shards })))
}

/// `/v1/admin/shards/{id}`
pub(super) async fn shard(call: &Call<'_>, id: &str) -> Answer {
    let catalog = call.router().catalog().ok_or_else(not_ready_yet)?;
    let shard = id.parse::<ShardId>().ok().and_then(|id| catalog.shards.get(&id));
    let Some(shard) = shard else {
        return Err(Problem::in_phase(Code::NoSuchShard, Phase::Read, format!("{id} is no shard of this cluster")));
    };
    let survey = Survey::of(call, &catalog).await;
    Ok(json_response(StatusCode::OK, &shard_body(call, &catalog, shard, &survey)))
}

fn shard_body(call: &Call<'_>, catalog: &Catalog, shard: &ShardDescriptor, survey: &Survey) -> Value {
    let mut body = shard_summary(call, catalog, shard);
    let leader = survey.leader(shard);
    if let Some((node, report)) = leader {
        body["leader"] = json!(node);
        body["leader_http"] = json!(catalog.nodes.get(&node).map(|node| node.http.as_str()));
        body["term"] = json!(report.term.to_string());
        body["disk_bytes"] = json!(report.disk_bytes);
    }
    let committed = leader.and_then(|(_, report)| report.committed_index);
    let replicas: Vec<Value> = shard
        .replicas
        .iter()
        .map(|replica| {
            let mut body = match survey.report(replica.node, replica.id) {
                Some(report) => replica_body(report),
                None => json!({ "id": replica.id, "role": "silent" }),
            };
            body["node"] = json!(replica.node);
            body["state"] = json!(replica.state);
            let applied = body["applied_index"].as_u64();
            // Entries that the leader has committed and this replica has not applied.
            body["lag"] = json!(committed.zip(applied).map(|(committed, applied)| committed.saturating_sub(applied)));
            body
        })
        .collect();
    body["replicas"] = json!(replicas);
    body
}

fn replica_body(report: &ReplicaReport) -> Value {
    json!({
        "id": report.replica,
        "shard": report.shard,
        "role": report.role.name(),
        "failure": report.failure,
        "term": report.term.to_string(),
        "leader": report.leader,
        "voters": report.voters,
        "learners": report.learners,
        "last_index": report.last_index,
        "committed_index": report.committed_index,
        "applied_index": report.applied_index,
        "flushed_index": report.flushed_index,
        "purged_index": report.purged_index,
        "range": report.range,
        "epoch": report.epoch,
        "revision": report.revision,
        "disk_bytes": report.disk_bytes,
        "memory_bytes": report.memory_bytes,
    })
}

/// `/v1/admin/route`: where a key is, by this node's catalog.
pub(super) fn route(call: &Call<'_>) -> Answer {
    let query = &call.query;
    let key = match (query.get("key"), query.get("key_b64")) {
        (Some(key), None) => key.clone(),
        (None, Some(encoded)) => base64_decode(encoded).map_err(|error| bad_encoding("key_b64", &error))?,
        (Some(_), Some(_)) => return Err(query.bad("key_b64", "does not go with key")),
        (None, None) => return Err(query.bad("key", "is missing (or key_b64)")),
    };
    check_key(&key)?;
    let catalog = call.router().catalog().ok_or_else(not_ready_yet)?;
    let token = token_of(&key);
    let shard = catalog.shard_of(token).ok_or_else(Problem::starting)?;
    let mut body = Map::new();
    insert_bytes(&mut body, "key", &key);
    body.insert("token".into(), json!(token));
    body.insert("shard".into(), json!(shard.id));
    body.extend(shard_summary(call, &catalog, shard).as_object().cloned().unwrap_or_default());
    body.remove("id");
    Ok(json_response(StatusCode::OK, &Value::Object(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_catalog_is_not_sent_again() {
        let headers = |value: &'static str| HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static(value))]);
        let etag = "W/\"000000000000000a\"";
        assert!(names(&headers("W/\"000000000000000a\""), etag));
        assert!(names(&headers("\"x\", \"000000000000000a\""), etag), "compared weakly");
        assert!(names(&headers("*"), etag));
        assert!(!names(&headers("\"000000000000000b\""), etag) && !names(&HeaderMap::new(), etag));
    }
}
