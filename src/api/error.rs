//! The only mapping from what went wrong to HTTP: one code for each fact, and what a code promises.
//!
//! A problem is answered as RFC 9457 `application/problem+json`. Its `outcome` is a promise about the write it answers;
//! [`Code::outcome`] is the one place where that is decided, and a test holds the table to the documented one.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value, json};

use super::{Call, Response};
use crate::clock;
use crate::router;
use crate::types::{Outcome, Revision, ShardId};

/// What became of a request before it failed, as far as the code alone does not say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// It would have changed nothing.
    Read,
    /// A write, refused before it was proposed.
    NotProposed,
    /// A write that was proposed, or may have been.
    Proposed,
}

macro_rules! codes {
    ($($code:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// The `code` of a problem: stable, for programs.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub(super) enum Code {
            $($code,)*
        }

        impl Code {
            #[cfg(test)]
            pub(super) const ALL: &[Code] = &[$(Code::$code,)*];

            pub(super) fn text(self) -> &'static str {
                match self {
                    $(Code::$code => $text,)*
                }
            }

            pub(super) fn status(self) -> StatusCode {
                match self {
                    $(Code::$code => StatusCode::$status,)*
                }
            }

            fn title(self) -> &'static str {
                match self {
                    $(Code::$code => $title,)*
                }
            }
        }
    };
}

codes! {
    BadParameter = "bad-parameter", BAD_REQUEST, "A parameter or header is not understood";
    BadKey = "bad-key", BAD_REQUEST, "The key is not valid";
    BadEncoding = "bad-encoding", BAD_REQUEST, "The request is not encoded as it should be";
    KeyNotFound = "key-not-found", NOT_FOUND, "There is no such key";
    NoSuchShard = "no-such-shard", NOT_FOUND, "There is no such shard";
    NoSuchNode = "no-such-node", NOT_FOUND, "There is no such node";
    NoSuchOperation = "no-such-operation", NOT_FOUND, "There is no such operation";
    NoSuchRoute = "no-such-route", NOT_FOUND, "There is nothing at this path";
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "This path does not take this method";
    LengthRequired = "length-required", LENGTH_REQUIRED, "The request does not say where its body ends";
    TooLarge = "too-large", PAYLOAD_TOO_LARGE, "The value is too large";
    UriTooLong = "uri-too-long", URI_TOO_LONG, "The key is too long";
    ContentType = "content-type", UNSUPPORTED_MEDIA_TYPE, "The body has not the type that is asked for";
    OperationRunning = "operation-running", CONFLICT, "Another operation has the shard";
    EpochMismatch = "epoch-mismatch", CONFLICT, "The shard is not at the epoch asked for";
    CannotTransfer = "cannot-transfer", UNPROCESSABLE_ENTITY, "The node cannot lead the shard";
    CannotDrain = "cannot-drain", UNPROCESSABLE_ENTITY, "The node cannot be drained, or is not";
    CannotMove = "cannot-move", UNPROCESSABLE_ENTITY, "The replica cannot be moved as asked for";
    CannotSplit = "cannot-split", UNPROCESSABLE_ENTITY, "The shard cannot be split as asked for";
    IdempotencyKeyReuse = "idempotency-key-reuse", UNPROCESSABLE_ENTITY, "The idempotency key belongs to another request";
    RevisionMismatch = "revision-mismatch", PRECONDITION_FAILED, "The key is not at the revision asked for";
    WrongNode = "wrong-node", MISDIRECTED_REQUEST, "Another node leads the key's shard";
    NoLeader = "no-leader", SERVICE_UNAVAILABLE, "The shard has no leader that can be reached";
    NoQuorum = "no-quorum", SERVICE_UNAVAILABLE, "The shard has no quorum";
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Too much is in flight";
    Draining = "draining", SERVICE_UNAVAILABLE, "The node is shutting down";
    Starting = "starting", SERVICE_UNAVAILABLE, "The node or its cluster is starting";
    DeadlineExceeded = "deadline-exceeded", GATEWAY_TIMEOUT, "The deadline passed";
    LeadershipLost = "leadership-lost", GATEWAY_TIMEOUT, "The leader was lost before it answered";
    DiskFull = "disk-full", INSUFFICIENT_STORAGE, "A disk is almost full";
    Internal = "internal", INTERNAL_SERVER_ERROR, "The server failed";
}

impl Code {
    /// What is promised about the write. None where there is nothing to promise: nothing was there to be written, or
    /// the request was a read that a failure cut off.
    pub(super) fn outcome(self, phase: Phase) -> Option<Outcome> {
        match self {
            Code::KeyNotFound | Code::NoSuchRoute => None,
            Code::BadParameter
            | Code::BadKey
            | Code::BadEncoding
            | Code::MethodNotAllowed
            | Code::LengthRequired
            | Code::TooLarge
            | Code::UriTooLong
            | Code::ContentType
            | Code::OperationRunning
            | Code::EpochMismatch
            | Code::CannotTransfer
            | Code::CannotMove
            | Code::CannotSplit
            | Code::CannotDrain
            | Code::IdempotencyKeyReuse
            | Code::RevisionMismatch
            | Code::WrongNode
            | Code::NoLeader
            | Code::NoQuorum
            | Code::Overloaded
            | Code::Draining
            | Code::Starting
            | Code::DiskFull => Some(Outcome::NotApplied),
            Code::NoSuchShard | Code::NoSuchNode | Code::NoSuchOperation => {
                (phase != Phase::Read).then_some(Outcome::NotApplied)
            }
            Code::DeadlineExceeded | Code::LeadershipLost => match phase {
                Phase::Read => None,
                Phase::NotProposed => Some(Outcome::NotApplied),
                Phase::Proposed => Some(Outcome::Unknown),
            },
            Code::Internal => (phase != Phase::Read).then_some(Outcome::Unknown),
        }
    }

    /// Whether the same request to the same node may be answered otherwise a little later. After an unknown outcome it
    /// may be carried out twice, unless it has an idempotency key or a precondition.
    pub(super) fn retryable(self) -> bool {
        self.retry_after().is_some() || matches!(self, Code::DeadlineExceeded | Code::LeadershipLost)
    }

    /// When that is worth a try. Given with every refusal that passes by itself.
    fn retry_after(self) -> Option<Duration> {
        match self {
            Code::Overloaded => Some(Duration::from_millis(200)),
            Code::NoLeader => Some(Duration::from_millis(500)),
            Code::NoQuorum | Code::Draining | Code::Starting => Some(Duration::from_secs(1)),
            // Somebody has to delete something first.
            Code::DiskFull => Some(Duration::from_secs(5)),
            _ => None,
        }
    }
}

/// An error on its way to the client.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) code: Code,
    detail: String,
    outcome: Option<Outcome>,
    retry_after: Option<Duration>,
    shard: Option<ShardId>,
    leader: Option<String>,
    members: Map<String, Value>,
    headers: HeaderMap,
}

impl Problem {
    /// Of a request that was refused before anything was proposed.
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Box<Self> {
        Self::in_phase(code, Phase::NotProposed, detail)
    }

    pub(super) fn in_phase(code: Code, phase: Phase, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            code,
            detail: detail.into(),
            outcome: code.outcome(phase),
            retry_after: code.retry_after(),
            shard: None,
            leader: None,
            members: Map::new(),
            headers: HeaderMap::new(),
        })
    }

    /// A header that cannot be understood.
    pub(super) fn bad_header(name: &HeaderName, why: impl std::fmt::Display) -> Box<Self> {
        Self::new(Code::BadParameter, format!("header {name}: {why}")).with_member("header", json!(name.as_str()))
    }

    pub(super) fn key_not_found(shard: ShardId) -> Box<Self> {
        let mut problem = Self::in_phase(Code::KeyNotFound, Phase::Read, "the key has no value");
        problem.shard = Some(shard);
        problem
    }

    /// `current` is the revision that the key is at, none when it is not there.
    pub(super) fn revision_mismatch(shard: ShardId, current: Option<Revision>) -> Box<Self> {
        let detail = match current {
            Some(revision) => format!("the key is at revision {revision}"),
            None => "the key has no value".to_string(),
        };
        let mut problem = Self::new(Code::RevisionMismatch, detail).with_member("current_revision", json!(current));
        problem.shard = Some(shard);
        if let Some(revision) = current {
            problem = problem.with_header(ETAG, super::headers::etag(revision));
        }
        problem
    }

    pub(super) fn too_large(limit_bytes: usize) -> Box<Self> {
        Self::new(Code::TooLarge, format!("a value has at most {limit_bytes} bytes"))
            .with_member("limit_bytes", json!(limit_bytes))
    }

    pub(super) fn starting() -> Box<Self> {
        Self::new(Code::Starting, "the shards do not exist yet: the cluster waits for its nodes")
    }

    /// The router's answer. A read is never applied, so nothing is said about it.
    pub(super) fn from_router(error: router::Error, call: &Call<'_>, is_write: bool) -> Box<Self> {
        let shard = error.shard();
        let (code, detail) = match &error {
            router::Error::Starting => return Self::starting(),
            router::Error::WrongNode { leader: None, .. } => {
                (Code::NoLeader, "this node does not lead the shard and knows of no leader".to_string())
            }
            router::Error::WrongNode { leader: Some(leader), .. } => {
                return Self::wrong_node(call, shard, &leader.http);
            }
            router::Error::NoLeader { .. } => (Code::NoLeader, error.to_string()),
            router::Error::NoQuorum { .. } => (Code::NoQuorum, error.to_string()),
            router::Error::Overloaded { .. } => (Code::Overloaded, error.to_string()),
            router::Error::DiskFull { .. } => (Code::DiskFull, error.to_string()),
            router::Error::DeadlineExceeded { .. } => (Code::DeadlineExceeded, error.to_string()),
            // The router says "unknown" both of a leader that was lost and of one that was silent for too long.
            router::Error::Unknown { why, .. } => {
                let late = clock::now() >= call.deadline;
                (if late { Code::DeadlineExceeded } else { Code::LeadershipLost }, why.clone())
            }
            // Refused before it was proposed, by every replica that was asked until the deadline: nobody leads. What
            // failed there is in that node's log.
            router::Error::Failed { .. } => (
                Code::NoLeader,
                "the shard's replica has failed where it was asked for, and no other leads".to_string(),
            ),
        };
        let phase = match (is_write, error.outcome()) {
            (false, _) => Phase::Read,
            (true, Outcome::NotApplied) => Phase::NotProposed,
            (true, Outcome::Unknown) => Phase::Proposed,
        };
        let mut problem = Self::in_phase(code, phase, detail);
        problem.shard = shard;
        problem
    }

    fn wrong_node(call: &Call<'_>, shard: Option<ShardId>, leader: &str) -> Box<Self> {
        let mut problem = Self::new(Code::WrongNode, format!("the shard is led by the node at {leader}"));
        problem.shard = shard;
        problem.leader = Some(leader.to_string());
        // Path and query as they came: a cleaned path would name another key.
        let same = call.uri.path_and_query().map_or("/", |path| path.as_str());
        for (name, value) in
            [(HeaderName::from_static("kv-leader"), leader.to_string()), (LOCATION, format!("http://{leader}{same}"))]
        {
            // An address that is no header value was refused when its node joined.
            if let Ok(value) = HeaderValue::try_from(value) {
                problem.headers.insert(name, value);
            }
        }
        problem
    }

    pub(super) fn with_shard(mut self: Box<Self>, shard: ShardId) -> Box<Self> {
        self.shard = Some(shard);
        self
    }

    pub(super) fn with_retry_after(mut self: Box<Self>, pause: Duration) -> Box<Self> {
        self.retry_after = Some(pause);
        self
    }

    pub(super) fn with_member(mut self: Box<Self>, name: &str, value: Value) -> Box<Self> {
        self.members.insert(name.to_string(), value);
        self
    }

    pub(super) fn with_header(mut self: Box<Self>, name: HeaderName, value: HeaderValue) -> Box<Self> {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn with_headers(mut self: Box<Self>, headers: HeaderMap) -> Box<Self> {
        self.headers.extend(headers);
        self
    }

    pub(super) fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("type".into(), json!(format!("urn:ringraft:problem:{}", self.code.text())));
        body.insert("title".into(), json!(self.code.title()));
        body.insert("status".into(), json!(self.code.status().as_u16()));
        body.insert("detail".into(), json!(self.detail));
        body.insert("code".into(), json!(self.code.text()));
        if let Some(outcome) = self.outcome {
            body.insert("outcome".into(), json!(outcome));
        }
        body.insert("retryable".into(), json!(self.code.retryable()));
        if let Some(pause) = self.retry_after {
            body.insert("retry_after_ms".into(), json!(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)));
        }
        if let Some(shard) = self.shard {
            body.insert("shard".into(), json!(shard));
        }
        if let Some(leader) = &self.leader {
            body.insert("leader".into(), json!(leader));
        }
        body.extend(self.members.clone());
        Value::Object(body)
    }

    pub(super) fn into_response(self) -> Response {
        let body = self.body().to_string();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.extend(self.headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(shard) = self.shard {
            headers.insert("kv-shard", HeaderValue::from(shard.0));
        }
        if let Some(pause) = self.retry_after {
            // The header counts in whole seconds; the body says it exactly.
            let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
