//! How a command fails: what it says on standard error and the code it exits with.
//!
//! One rule stands above the table of codes: a write that may have happened exits with 6, whatever the status was, and
//! an answer that does not say counts as "may have happened" when the server failed.

use std::fmt::Write as _;
use std::io;

use http::StatusCode;
use serde_json::Value;

use crate::types::Outcome;

/// Exit codes, part of the program's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Ok,
    Other,
    Usage,
    NotFound,
    Precondition,
    Unavailable,
    OutcomeUnknown,
}

impl Exit {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Other => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Precondition => 4,
            Self::Unavailable => 5,
            Self::OutcomeUnknown => 6,
        }
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Usage(String),
    /// The command could not go on, was told to stop, or found what it checked not to be well.
    #[error("{0}")]
    Run(String),
    /// A node could not go on, and its log says why.
    #[error("the node stopped with an error")]
    Logged,
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// Nobody reads our output any more: not a failure of the command.
    #[error("standard output was closed")]
    OutputClosed,
    /// No endpoint took the request, or, for a read, none answered it.
    #[error("no node answered: {}", listed(tried))]
    Unreachable { tried: Vec<(String, String)>, is_write: bool },
    /// A write was sent and its answer never came.
    #[error("the connection to {endpoint} was lost after the write was sent: {reason}")]
    Lost { endpoint: String, reason: String },
    #[error("{0}")]
    Refused(Box<Problem>),
    /// `import` or `export` ended before it was through.
    #[error("{what}")]
    Unfinished { what: String, exit: Exit, advice: String },
    /// `bench` sent, and not one request succeeded.
    #[error("no request succeeded; the first one failed with: {first}")]
    NothingSucceeded { first: Box<Failure> },
    /// An answer of status 2xx that is not what the API promises.
    #[error("{endpoint} gave an answer that is none: {reason}")]
    BadAnswer { endpoint: String, reason: String },
}

fn listed(tried: &[(String, String)]) -> String {
    tried.iter().map(|(endpoint, reason)| format!("{endpoint} ({reason})")).collect::<Vec<_>>().join(", ")
}

impl Failure {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::OutputClosed => Exit::Ok,
            Self::Usage(_) => Exit::Usage,
            Self::Run(_) | Self::Logged | Self::Io { .. } | Self::BadAnswer { .. } => Exit::Other,
            Self::Unreachable { .. } => Exit::Unavailable,
            Self::Lost { .. } => Exit::OutcomeUnknown,
            Self::Refused(problem) => problem.exit(),
            Self::Unfinished { exit, .. } => *exit,
            Self::NothingSucceeded { first } => first.exit(),
        }
    }

    /// What to do about it.
    fn advice(&self) -> Option<String> {
        match self {
            Self::Unreachable { is_write, .. } => Some(format!(
                "{}is a node running there? --endpoints or RINGRAFT_ENDPOINTS name others",
                if *is_write { "nothing was written; " } else { "" }
            )),
            Self::Lost { .. } => Some(OUTCOME_UNKNOWN.to_string()),
            Self::Refused(problem) => problem.advice(),
            Self::Unfinished { advice, .. } if !advice.is_empty() => Some(advice.clone()),
            // Of one write among many nothing is to be repeated; what to do about its cause stands in the error.
            Self::NothingSucceeded { .. } => None,
            _ => None,
        }
    }

    /// Says it on standard error.
    pub(super) fn report(&self) {
        if matches!(self, Self::OutputClosed | Self::Logged) {
            return;
        }
        let mut text = format!("error: {self}\n");
        if let Some(advice) = self.advice() {
            text += &format!("       {advice}\n");
        }
        // When standard error is gone too, the exit code still tells.
        let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
    }
}

const OUTCOME_UNKNOWN: &str = "outcome unknown: the write may have happened, or may yet. Read the key before repeating \
     it; with --idempotency-key the same command can be repeated safely";

/// An error answer, read leniently: what it does not say is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) is_write: bool,
    pub(super) endpoint: String,
    pub(super) code: String,
    pub(super) detail: String,
    pub(super) outcome: Option<Outcome>,
    pub(super) retryable: bool,
    pub(super) retry_after_ms: Option<u64>,
    /// The key's current revision, where the answer carries it.
    pub(super) revision: Option<String>,
}

impl Problem {
    pub(super) fn read(
        status: StatusCode,
        is_write: bool,
        endpoint: &str,
        revision: Option<String>,
        body: &[u8],
    ) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_string();
        let mut detail = text("detail");
        if detail.is_empty() {
            detail = text("title");
        }
        if detail.is_empty() {
            detail = status.canonical_reason().unwrap_or("no reason given").to_string();
        }
        Self {
            status: status.as_u16(),
            is_write,
            endpoint: endpoint.to_string(),
            code: text("code"),
            detail,
            outcome: serde_json::from_value(json["outcome"].clone()).ok(),
            retryable: json["retryable"].as_bool().unwrap_or(false),
            retry_after_ms: json["retry_after_ms"].as_u64(),
            revision,
        }
    }

    /// Whether a write may have happened. A server that failed without saying so may have done anything.
    pub(super) fn outcome_unknown(&self) -> bool {
        self.is_write
            && match self.outcome {
                Some(outcome) => outcome == Outcome::Unknown,
                None => self.status >= 500,
            }
    }

    /// Whether the same request may be tried at another node.
    pub(super) fn may_try_elsewhere(&self) -> bool {
        self.retryable && !self.outcome_unknown()
    }

    fn exit(&self) -> Exit {
        if self.outcome_unknown() {
            return Exit::OutcomeUnknown;
        }
        match self.status {
            // A route that is not there is a matter of versions, not of keys.
            404 if self.code == "no-such-route" || self.code.is_empty() => Exit::Other,
            404 => Exit::NotFound,
            412 => Exit::Precondition,
            421 | 429 | 503 | 504 | 507 => Exit::Unavailable,
            _ => Exit::Other,
        }
    }

    fn advice(&self) -> Option<String> {
        if self.outcome_unknown() {
            return Some(OUTCOME_UNKNOWN.to_string());
        }
        let mut advice = match self.code.as_str() {
            "revision-mismatch" => match &self.revision {
                Some(revision) => format!(
                    "the key's revision is {revision} now: read it again, then repeat with --if-match {revision}"
                ),
                None => "the key does not have that revision now: read it again before repeating".to_string(),
            },
            "no-leader" | "no-quorum" | "leadership-lost" | "deadline-exceeded" => {
                "try again; `ringraft status` and `ringraft route KEY` show which nodes are missing".to_string()
            }
            "starting" => "the cluster is not complete yet: start the other nodes, or wait for them".to_string(),
            "draining" => "that node is stopping: ask another one (--endpoints)".to_string(),
            "overloaded" | "rate-limited" => "try again, more slowly".to_string(),
            "disk-full" => "delete keys or add space; reads and deletes go on".to_string(),
            "too-large" => "store it in pieces, or raise http.value_bytes_max on every node".to_string(),
            "idempotency-key-reuse" => "take a new --idempotency-key for a new write".to_string(),
            _ => String::new(),
        };
        if let Some(wait) = self.retry_after_ms {
            let separator = if advice.is_empty() { "" } else { "; " };
            let _ = write!(advice, "{separator}the node asks to wait {wait} ms first");
        }
        if self.is_write && self.status != 412 {
            let separator = if advice.is_empty() { "" } else { ". " };
            advice = format!("nothing was written{separator}{advice}");
        }
        (!advice.is_empty()).then_some(advice)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, code, detail, endpoint, .. } = self;
        if code.is_empty() {
            write!(f, "status {status} from {endpoint}: {detail}")
        } else {
            write!(f, "{code} ({status} from {endpoint}): {detail}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, is_write: bool, body: &str) -> Problem {
        Problem::read(StatusCode::from_u16(status).unwrap(), is_write, "n", None, body.as_bytes())
    }

    fn exit(status: u16, is_write: bool, body: &str) -> u8 {
        Failure::Refused(Box::new(problem(status, is_write, body))).exit().code()
    }

    #[test]
    fn each_kind_of_answer_has_its_exit_code() {
        let not_applied = r#"{"code":"some-code","outcome":"not_applied"}"#;
        for (status, wanted) in [
            (400, 1),
            (401, 1),
            (404, 3),
            (409, 1),
            (412, 4),
            (413, 1),
            (421, 5),
            (422, 1),
            (429, 5),
            (503, 5),
            (504, 5),
            (507, 5),
            (500, 1),
        ] {
            assert_eq!(exit(status, true, not_applied), wanted, "write, {status}");
            assert_eq!(exit(status, false, r#"{"code":"some-code"}"#), wanted, "read, {status}");
        }
        assert_eq!(exit(404, false, r#"{"code":"no-such-route"}"#), 1);
        assert_eq!(exit(404, false, "<html>"), 1);
    }

    #[test]
    fn a_write_that_may_have_happened_is_6_whatever_the_status() {
        for status in [500, 503, 504, 412, 409] {
            assert_eq!(exit(status, true, r#"{"code":"c","outcome":"unknown"}"#), 6, "{status}");
        }
        // A failed server that says nothing, or something unheard of, is not believed to have done nothing.
        for body in ["", "<html>", "{}", r#"{"outcome":"perhaps"}"#] {
            assert_eq!(exit(502, true, body), 6, "{body}");
            assert_eq!(exit(503, false, body), 5, "{body}");
        }
        assert_eq!(exit(400, true, ""), 1);
        assert_eq!(Failure::Lost { endpoint: String::new(), reason: String::new() }.exit().code(), 6);
    }

    #[test]
    fn other_failures_have_their_codes() {
        assert_eq!(Failure::Usage(String::new()).exit().code(), 2);
        assert_eq!(Failure::Unreachable { tried: Vec::new(), is_write: true }.exit().code(), 5);
        assert_eq!(Failure::OutputClosed.exit().code(), 0);
        assert_eq!(Failure::Run(String::new()).exit().code(), 1);
    }

    #[test]
    fn only_a_retryable_refusal_of_known_outcome_goes_elsewhere() {
        let elsewhere = |is_write, body| problem(503, is_write, body).may_try_elsewhere();
        assert!(elsewhere(true, r#"{"outcome":"not_applied","retryable":true}"#));
        assert!(!elsewhere(true, r#"{"outcome":"not_applied","retryable":false}"#));
        assert!(!elsewhere(true, r#"{"outcome":"unknown","retryable":true}"#));
        assert!(!elsewhere(true, r#"{"retryable":true}"#));
        assert!(elsewhere(false, r#"{"retryable":true}"#));
        assert!(!elsewhere(false, "{}"));
    }

    #[test]
    fn an_error_says_code_detail_and_what_to_do() {
        let mut lost =
            problem(412, true, r#"{"code":"revision-mismatch","detail":"it is newer","outcome":"not_applied"}"#);
        lost.revision = Some("00018f3c5a2b0001".to_string());
        assert_eq!(lost.to_string(), "revision-mismatch (412 from n): it is newer");
        assert!(lost.advice().unwrap().contains("--if-match 00018f3c5a2b0001"));
        let refused = problem(503, true, r#"{"code":"no-quorum","outcome":"not_applied","retry_after_ms":250}"#);
        let advice = refused.advice().unwrap();
        assert!(advice.starts_with("nothing was written. try again") && advice.contains("250 ms"), "{advice}");
        let unknown = problem(504, true, r#"{"code":"deadline-exceeded","outcome":"unknown"}"#);
        assert!(unknown.advice().unwrap().contains("may have happened"));
        assert_eq!(problem(502, false, "").to_string(), "status 502 from n: Bad Gateway");
        assert_eq!(problem(404, false, r#"{"code":"key-not-found"}"#).advice(), None);
    }
}
