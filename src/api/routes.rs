//! The one table of what this API has: paths, methods, and the parameters each takes. Finding a route, refusing a
//! method or a parameter, and the test of `/openapi.json` all read it.
//!
//! Paths are matched as they came, before any decoding: a key is whatever stands after `/v1/kv/`, dots, slashes and all.

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderValue, Method};
use serde_json::json;

use super::encoding::percent_decode;
use super::error::{Code, Problem};

/// What answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Endpoint {
    KvKey,
    /// A scan, or one key by `key_b64`.
    Kv,
    ShardMap,
    Status,
    AdminCluster,
    AdminNodes,
    AdminShards,
    AdminShard,
    AdminTransferLeader,
    AdminMove,
    AdminSplit,
    AdminDrain,
    AdminUndrain,
    AdminDecommission,
    AdminEvents,
    AdminOperations,
    AdminOperation,
    AdminRoute,
    Livez,
    Readyz,
    Version,
    Metrics,
    OpenApi,
}

pub(super) struct Route {
    /// A `{key}` at the end takes all that is left, also nothing; an `{id}` takes one segment, wherever it stands.
    pub(super) path: &'static str,
    pub(super) endpoint: Endpoint,
    pub(super) operations: &'static [Operation],
}

/// A method with the query parameters it takes.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) parameters: &'static [&'static str],
}

const fn operation(method: &'static str, parameters: &'static [&'static str]) -> Operation {
    Operation { method, parameters }
}

const fn route(path: &'static str, endpoint: Endpoint, operations: &'static [Operation]) -> Route {
    Route { path, endpoint, operations }
}

const READ: &[&str] = &["consistency", "timeout", "forward", "trace"];
const WRITE: &[&str] = &["timeout", "forward", "trace"];
const READ_OR_SCAN: &[&str] = &[
    "key_b64",
    "prefix",
    "start",
    "end",
    "limit",
    "cursor",
    "keys_only",
    "consistency",
    "timeout",
    "forward",
    "trace",
];
const WRITE_BY_QUERY: &[&str] = &["key_b64", "timeout", "forward", "trace"];

/// Of what begins an operation.
const BEGIN: &[&str] = &["dry_run", "timeout"];

const PLAIN_GET: &[Operation] = &[operation("GET", &[]), operation("HEAD", &[])];

pub(super) const ROUTES: &[Route] = &[
    route(
        "/v1/kv/{key}",
        Endpoint::KvKey,
        &[operation("GET", READ), operation("HEAD", READ), operation("PUT", WRITE), operation("DELETE", WRITE)],
    ),
    route(
        "/v1/kv",
        Endpoint::Kv,
        &[
            operation("GET", READ_OR_SCAN),
            operation("HEAD", READ_OR_SCAN),
            operation("PUT", WRITE_BY_QUERY),
            operation("DELETE", WRITE_BY_QUERY),
        ],
    ),
    route("/v1/shardmap", Endpoint::ShardMap, PLAIN_GET),
    route("/v1/status", Endpoint::Status, PLAIN_GET),
    route("/v1/admin/cluster", Endpoint::AdminCluster, PLAIN_GET),
    route("/v1/admin/nodes", Endpoint::AdminNodes, PLAIN_GET),
    route("/v1/admin/shards", Endpoint::AdminShards, PLAIN_GET),
    route("/v1/admin/shards/{id}", Endpoint::AdminShard, PLAIN_GET),
    route("/v1/admin/shards/{id}/transfer-leader", Endpoint::AdminTransferLeader, &[operation("POST", BEGIN)]),
    route("/v1/admin/shards/{id}/move", Endpoint::AdminMove, &[operation("POST", BEGIN)]),
    route("/v1/admin/shards/{id}/split", Endpoint::AdminSplit, &[operation("POST", BEGIN)]),
    route("/v1/admin/nodes/{id}/drain", Endpoint::AdminDrain, &[operation("POST", BEGIN)]),
    route("/v1/admin/nodes/{id}/undrain", Endpoint::AdminUndrain, &[operation("POST", BEGIN)]),
    route("/v1/admin/nodes/{id}/decommission", Endpoint::AdminDecommission, &[operation("POST", BEGIN)]),
    route("/v1/admin/events", Endpoint::AdminEvents, PLAIN_GET),
    route("/v1/admin/operations", Endpoint::AdminOperations, PLAIN_GET),
    route("/v1/admin/operations/{id}", Endpoint::AdminOperation, PLAIN_GET),
    route(
        "/v1/admin/route",
        Endpoint::AdminRoute,
        &[operation("GET", &["key", "key_b64"]), operation("HEAD", &["key", "key_b64"])],
    ),
    route("/livez", Endpoint::Livez, PLAIN_GET),
    route("/readyz", Endpoint::Readyz, &[operation("GET", &["verbose"]), operation("HEAD", &["verbose"])]),
    route("/version", Endpoint::Version, PLAIN_GET),
    route("/metrics", Endpoint::Metrics, &[operation("GET", &["shards"]), operation("HEAD", &["shards"])]),
    route("/openapi.json", Endpoint::OpenApi, PLAIN_GET),
];

impl Route {
    /// The route of a raw path, with what stands in the place of its variable.
    pub(super) fn find(raw_path: &str) -> Option<(&'static Route, &str)> {
        ROUTES.iter().find_map(|route| Some((route, route.variable(raw_path)?)))
    }

    fn variable<'p>(&self, raw_path: &'p str) -> Option<&'p str> {
        if let Some(before) = self.path.strip_suffix("{key}") {
            return raw_path.strip_prefix(before);
        }
        if let Some((before, after)) = self.path.split_once("{id}") {
            let segment = raw_path.strip_prefix(before)?.strip_suffix(after)?;
            return (!segment.is_empty() && !segment.contains('/')).then_some(segment);
        }
        (self.path == raw_path).then_some("")
    }

    pub(super) fn operation(&self, method: &Method) -> Result<&'static Operation, Box<Problem>> {
        if let Some(operation) = self.operations.iter().find(|operation| operation.method == method.as_str()) {
            return Ok(operation);
        }
        let allowed: Vec<&str> = self.operations.iter().map(|operation| operation.method).collect();
        let allowed = allowed.join(", ");
        let header = HeaderValue::from_str(&allowed).expect("method names are header text");
        let detail = format!("{} takes {allowed}", self.path);
        Err(Problem::new(Code::MethodNotAllowed, detail).with_header(ALLOW, header))
    }
}

pub(super) fn no_such_route(raw_path: &str) -> Box<Problem> {
    Problem::new(Code::NoSuchRoute, format!("{raw_path} is nothing here; /openapi.json lists what is"))
}

/// A query string whose parameters are known and stand there once.
#[derive(Debug, Default)]
pub(super) struct Query {
    values: Vec<(&'static str, Bytes)>,
    allowed: &'static [&'static str],
}

impl Query {
    /// Reads `a=b&c`, where values are percent-encoded bytes and `+` is a space, as forms and other stores have it.
    pub(super) fn parse(raw: Option<&str>, allowed: &'static [&'static str]) -> Result<Self, Box<Problem>> {
        let mut query = Self { values: Vec::new(), allowed };
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decode(name, true).map_err(|error| bad_encoding("a parameter's name", &error))?;
            let Some(known) = allowed.iter().copied().find(|known| known.as_bytes() == name) else {
                let name = String::from_utf8_lossy(&name).into_owned();
                return Err(query.bad(&name, "is not a parameter of this call"));
            };
            if query.get(known).is_some() {
                return Err(query.bad(known, "is given twice"));
            }
            let value =
                percent_decode(value, true).map_err(|error| bad_encoding(&format!("the parameter {known}"), &error))?;
            query.values.push((known, value));
        }
        Ok(query)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Bytes> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Box<Problem>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        std::str::from_utf8(value).map(Some).map_err(|_| self.bad(name, "is not UTF-8"))
    }

    /// A parameter that is on as `name`, `name=true`, and off as `name=false` or when it is not there.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Box<Problem>> {
        match self.text(name)? {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(_) => Err(self.bad(name, "takes true or false")),
        }
    }

    /// The first of `names` that is given.
    pub(super) fn any_of(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.get(name).is_some())
    }

    /// A complaint about one parameter, with all that this call takes.
    pub(super) fn bad(&self, name: &str, why: impl std::fmt::Display) -> Box<Problem> {
        let allowed = if self.allowed.is_empty() { "none".to_string() } else { self.allowed.join(", ") };
        Problem::new(Code::BadParameter, format!("{name} {why}; parameters of this call: {allowed}"))
            .with_member("parameter", json!(name))
            .with_member("allowed", json!(self.allowed))
    }
}

pub(super) fn bad_encoding(what: &str, why: &impl std::fmt::Display) -> Box<Problem> {
    Problem::new(Code::BadEncoding, format!("{what} is not encoded as it should be: {why}"))
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
