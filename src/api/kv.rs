//! One key: PUT, GET, HEAD, DELETE. The value is the body, its revision the entity tag.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tracing::error;

use super::encoding::{base64_decode, insert_bytes, percent_decode};
use super::error::{Code, Phase, Problem};
use super::headers::{self, DEFAULT_TYPE, REPLAYED, etag};
use super::routes::{Query, bad_encoding};
use super::{Answer, Call, Response, body, empty, json_response, scan};
use crate::machine::row::RowValue;
use crate::machine::{self, Action, Match, Write};
use crate::router::{Read, Written};
use crate::shard::{Consistency, Staleness, staleness};
use crate::types::{KEY_BYTES_MAX, NodeId, Revision, ShardId};

/// When a full table of idempotency keys is worth another try: its oldest entries go after ten minutes.
const TABLE_FULL_RETRY: Duration = Duration::from_secs(30);

/// `/v1/kv/{key}`: the key stands in the path as it came.
pub(super) async fn by_path<B>(call: &Call<'_>, raw_key: &str, body: &mut B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let key = percent_decode(raw_key, false).map_err(|error| bad_encoding("the key in the path", &error))?;
    one_key(call, key, body).await
}

/// `/v1/kv`: one key by `key_b64`, else a scan.
pub(super) async fn by_query<B>(call: &Call<'_>, body: &mut B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    if let Some(encoded) = call.query.get("key_b64") {
        if let Some(name) = call.query.any_of(scan::PARAMETERS) {
            return Err(call.query.bad(name, "does not go with key_b64"));
        }
        let key = base64_decode(encoded).map_err(|error| bad_encoding("key_b64", &error))?;
        return one_key(call, key, body).await;
    }
    if matches!(*call.method, Method::GET | Method::HEAD) {
        return scan::page(call).await;
    }
    Err(call.query.bad("key_b64", "is missing"))
}

async fn one_key<B>(call: &Call<'_>, key: Bytes, body: &mut B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    check_key(&key)?;
    call.admit()?;
    match *call.method {
        Method::PUT => put(call, key, body).await,
        Method::DELETE => delete(call, key).await,
        _ => get(call, key).await,
    }
}

pub(super) fn check_key(key: &[u8]) -> Result<(), Box<Problem>> {
    if key.is_empty() {
        return Err(Problem::new(Code::BadKey, "a key has at least one byte"));
    }
    if key.len() > KEY_BYTES_MAX {
        let detail = format!("a key has at most {KEY_BYTES_MAX} bytes; this one has {}", key.len());
        return Err(Problem::new(Code::UriTooLong, detail).with_member("limit_bytes", json!(KEY_BYTES_MAX)));
    }
    Ok(())
}

pub(super) fn consistency(query: &Query) -> Result<Consistency, Box<Problem>> {
    match query.text("consistency")? {
        None | Some("linearizable") => Ok(Consistency::Linearizable),
        Some("lease") => Ok(Consistency::Lease),
        Some("stale") => Ok(Consistency::Stale),
        Some(_) => Err(query.bad("consistency", "takes linearizable, lease or stale")),
    }
}

pub(super) fn consistency_name(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Lease => "lease",
        Consistency::Stale => "stale",
    }
}

/// What every answer to a read says about itself.
pub(super) fn read_headers(served: Consistency, staleness: Staleness, served_by: NodeId) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("kv-consistency", HeaderValue::from_static(consistency_name(served)));
    headers.insert("kv-served-by", HeaderValue::from(served_by.0));
    if served == Consistency::Stale {
        // Rounded up: an answer is never older than it says.
        let in_ms = |age: Duration| u64::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let age = staleness.map(|age| HeaderValue::from(in_ms(age)));
        headers.insert("kv-staleness-ms", age.unwrap_or(HeaderValue::from_static("unknown")));
    }
    // A cache between may keep an answer, but has to ask before it gives it again.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers
}

async fn get(call: &Call<'_>, key: Bytes) -> Answer {
    let consistency = consistency(&call.query)?;
    let precondition = headers::precondition(call.headers)?;
    let _in_hand = call.take_in_hand()?;
    let read = call.router().read(key.clone(), consistency, call.options()?).await;
    let read = read.map_err(|error| Problem::from_router(error, call, false))?;
    let Read { row, consistency, fresh_at, shard, served_by } = read;
    let mut about = read_headers(consistency, staleness(fresh_at), served_by);
    // Of a key that is not there RFC 9110 §13.2.1 has the 404 before any precondition.
    let Some(row) = row else { return Err(Problem::key_not_found(shard).with_headers(about)) };
    let current = Some(row.revision);
    if precondition.if_match.is_some_and(|wanted| !wanted.matches(current)) {
        return Err(Problem::revision_mismatch(shard, current).with_headers(about));
    }
    about.insert(ETAG, etag(row.revision));
    about.insert("kv-shard", HeaderValue::from(shard.0));
    about.insert(VARY, HeaderValue::from_static("accept"));
    let mut response = if precondition.if_none_match.is_some_and(|known| known.matches(current)) {
        empty(StatusCode::NOT_MODIFIED)
    } else if headers::prefers_json(call.headers) {
        as_json(&key, &row, shard)
    } else {
        as_stored(row)
    };
    response.headers_mut().extend(about);
    Ok(response)
}

/// The value as it was stored, in words that keep a browser from running it as a page of this origin.
fn as_stored(row: RowValue) -> Response {
    let content_type = row.content_type.as_deref().unwrap_or(DEFAULT_TYPE);
    let is_active = headers::is_active_content(content_type);
    let header = HeaderValue::from_bytes(content_type.as_bytes()).unwrap_or(HeaderValue::from_static(DEFAULT_TYPE));
    let mut response = Response::new(Full::new(row.value));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, header);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    if is_active {
        headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
    response
}

fn as_json(key: &[u8], row: &RowValue, shard: ShardId) -> Response {
    let mut body = metadata(key, row.revision, row.content_type.as_deref(), row.value.len(), shard);
    insert_bytes(&mut body, "value", &row.value);
    let mut response = json_response(StatusCode::OK, &Value::Object(body));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn metadata(
    key: &[u8],
    revision: Revision,
    content_type: Option<&str>,
    size: usize,
    shard: ShardId,
) -> Map<String, Value> {
    let mut body = Map::new();
    insert_bytes(&mut body, "key", key);
    body.insert("revision".into(), json!(revision));
    body.insert("shard".into(), json!(shard));
    body.insert("content_type".into(), json!(content_type.unwrap_or(DEFAULT_TYPE)));
    body.insert("size".into(), json!(size));
    body
}

async fn put<B>(call: &Call<'_>, key: Bytes, body: &mut B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let content_type = headers::content_type(call.headers)?;
    let precondition = headers::precondition(call.headers)?;
    let idempotency_key = headers::idempotency_key(call.headers)?;
    let create_only = precondition.if_none_match == Some(Match::Any);
    // A blind put does not look whether the key was there, so it cannot say.
    let says_created = !precondition.is_none();
    // Refused before the body is read.
    call.options()?;
    let held = body::read(call, body).await?;
    let size = held.bytes.len();
    let action = Action::Put { content_type: content_type.clone(), value: held.bytes.clone() };
    let write = Write { key: key.clone(), time_ms: 0, precondition, idempotency_key, action };
    let Written { response, shard, .. } = send(call, write).await?;
    let machine::Response::Written { revision, created, replayed } = response else {
        return Err(refusal(response, shard));
    };
    let status = if created && create_only { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    let mut answer = if headers::prefers_representation(call.headers) {
        let mut body = metadata(&key, revision, content_type.as_deref(), size, shard);
        if says_created {
            body.insert("created".into(), json!(created));
        }
        let status = if status == StatusCode::CREATED { status } else { StatusCode::OK };
        let mut answer = json_response(status, &Value::Object(body));
        answer.headers_mut().insert("preference-applied", HeaderValue::from_static("return=representation"));
        answer
    } else {
        empty(status)
    };
    answer.headers_mut().insert(ETAG, etag(revision));
    finish_write(&mut answer, shard, replayed);
    Ok(answer)
}

async fn delete(call: &Call<'_>, key: Bytes) -> Answer {
    let precondition = headers::precondition(call.headers)?;
    let idempotency_key = headers::idempotency_key(call.headers)?;
    let write = Write { key, time_ms: 0, precondition, idempotency_key, action: Action::Delete };
    let Written { response, shard, .. } = send(call, write).await?;
    let machine::Response::Deleted { replayed, .. } = response else { return Err(refusal(response, shard)) };
    let mut answer = empty(StatusCode::NO_CONTENT);
    finish_write(&mut answer, shard, replayed);
    Ok(answer)
}

async fn send(call: &Call<'_>, write: Write) -> Result<Written, Box<Problem>> {
    let _in_hand = call.take_in_hand()?;
    let written = call.router().write(write, call.options()?).await;
    written.map_err(|error| Problem::from_router(error, call, true))
}

fn finish_write(answer: &mut Response, shard: ShardId, replayed: bool) {
    let headers = answer.headers_mut();
    headers.insert("kv-shard", HeaderValue::from(shard.0));
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

/// An answer of `apply` that is not the one hoped for. All of them changed nothing.
fn refusal(response: machine::Response, shard: ShardId) -> Box<Problem> {
    match response {
        machine::Response::PreconditionFailed { current, replayed } => {
            let problem = Problem::revision_mismatch(shard, current);
            if replayed { problem.with_header(REPLAYED, HeaderValue::from_static("true")) } else { problem }
        }
        machine::Response::IdempotencyKeyReuse => {
            let detail = "this Idempotency-Key came with another request within the last ten minutes";
            Problem::new(Code::IdempotencyKeyReuse, detail).with_shard(shard)
        }
        machine::Response::IdempotencyTableFull => {
            let detail = "the shard remembers as many idempotency keys as it may; writes without one go on";
            Problem::new(Code::Overloaded, detail).with_shard(shard).with_retry_after(TABLE_FULL_RETRY)
        }
        other => {
            error!(%shard, response = ?other, "a write was answered with something that is no answer to a write");
            Problem::in_phase(Code::Internal, Phase::Proposed, "the shard gave no answer to this write")
                .with_shard(shard)
        }
    }
}

#[cfg(test)]
#[path = "kv_tests.rs"]
mod tests;
