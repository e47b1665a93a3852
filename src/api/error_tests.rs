//! Every code of the documented table: its status and what it says about a write.

use super::*;

type Row = (u16, &'static str, Option<&'static str>, Option<&'static str>, Option<&'static str>);

/// The table of errors as it is documented, for the codes that this release answers with: status, code, and the outcome
/// of a read, of a write before it was proposed, and of one after.
const TABLE: &[Row] = &[
    (400, "bad-parameter", NOT, NOT, NOT),
    (400, "bad-key", NOT, NOT, NOT),
    (400, "bad-encoding", NOT, NOT, NOT),
    (404, "key-not-found", None, None, None),
    (404, "no-such-shard", None, NOT, NOT),
    (404, "no-such-node", None, NOT, NOT),
    (404, "no-such-operation", None, NOT, NOT),
    (404, "no-such-route", None, None, None),
    (405, "method-not-allowed", NOT, NOT, NOT),
    (411, "length-required", NOT, NOT, NOT),
    (413, "too-large", NOT, NOT, NOT),
    (414, "uri-too-long", NOT, NOT, NOT),
    (415, "content-type", NOT, NOT, NOT),
    (409, "operation-running", NOT, NOT, NOT),
    (409, "epoch-mismatch", NOT, NOT, NOT),
    (422, "cannot-transfer", NOT, NOT, NOT),
    (422, "cannot-drain", NOT, NOT, NOT),
    (422, "cannot-move", NOT, NOT, NOT),
    (422, "cannot-split", NOT, NOT, NOT),
    (422, "idempotency-key-reuse", NOT, NOT, NOT),
    (412, "revision-mismatch", NOT, NOT, NOT),
    (421, "wrong-node", NOT, NOT, NOT),
    (503, "no-leader", NOT, NOT, NOT),
    (503, "no-quorum", NOT, NOT, NOT),
    (503, "overloaded", NOT, NOT, NOT),
    (503, "draining", NOT, NOT, NOT),
    (503, "starting", NOT, NOT, NOT),
    (504, "deadline-exceeded", None, NOT, UNKNOWN),
    (504, "leadership-lost", None, NOT, UNKNOWN),
    (507, "disk-full", NOT, NOT, NOT),
    (500, "internal", None, UNKNOWN, UNKNOWN),
];
const NOT: Option<&str> = Some("not_applied");
const UNKNOWN: Option<&str> = Some("unknown");

#[test]
fn every_code_is_in_the_table_with_its_status_and_outcome() {
    assert_eq!(Code::ALL.len(), TABLE.len());
    for (code, row) in Code::ALL.iter().zip(TABLE) {
        let outcome = |phase| {
            let body = Problem::in_phase(*code, phase, "").body();
            body.get("outcome").map(|outcome| outcome.as_str().unwrap().to_string())
        };
        let told = (
            code.status().as_u16(),
            code.text(),
            outcome(Phase::Read),
            outcome(Phase::NotProposed),
            outcome(Phase::Proposed),
        );
        let (status, text, read, refused, proposed) = *row;
        let owned = |outcome: Option<&str>| outcome.map(str::to_string);
        assert_eq!(told, (status, text, owned(read), owned(refused), owned(proposed)));
    }
}

#[test]
fn only_what_may_pass_by_itself_is_retryable() {
    for code in Code::ALL {
        let passes = matches!(code.status().as_u16(), 503 | 504 | 507);
        assert_eq!(code.retryable(), passes, "{code:?}");
    }
}

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn a_refusal_that_passes_says_when_in_seconds_and_milliseconds() {
    for code in Code::ALL {
        let problem = Problem::new(*code, "");
        let milliseconds = problem.body().get("retry_after_ms").and_then(Value::as_u64);
        let response = problem.into_response();
        let seconds = header(&response, "retry-after").map(|seconds| seconds.parse::<u64>().unwrap());
        assert_eq!(seconds.is_some(), matches!(response.status().as_u16(), 503 | 507), "{code:?}");
        assert_eq!(seconds, milliseconds.map(|milliseconds| milliseconds.div_ceil(1000)), "{code:?}");
    }
}

#[test]
fn a_problem_is_json_with_its_own_type() {
    let response = Problem::new(Code::Overloaded, "full").with_shard(ShardId(7)).into_response();
    assert_eq!(response.status(), 503);
    assert_eq!(header(&response, "content-type"), Some("application/problem+json"));
    assert_eq!(header(&response, "kv-shard"), Some("7"));
    let problem = Problem::new(Code::Overloaded, "full").with_shard(ShardId(7)).body();
    let expected = json!({
        "type": "urn:ringraft:problem:overloaded",
        "title": "Too much is in flight",
        "status": 503,
        "detail": "full",
        "code": "overloaded",
        "outcome": "not_applied",
        "retryable": true,
        "retry_after_ms": 200,
        "shard": "7",
    });
    assert_eq!(problem, expected);
}

#[test]
fn a_lost_race_carries_the_revision_that_won() {
    let lost = Problem::revision_mismatch(ShardId(1), Some(Revision(255)));
    assert_eq!(lost.body()["current_revision"], "00000000000000ff");
    assert_eq!(header(&lost.into_response(), "etag"), Some("\"00000000000000ff\""));
    let absent = Problem::revision_mismatch(ShardId(1), None);
    assert_eq!(absent.body()["current_revision"], Value::Null);
    assert_eq!(header(&absent.into_response(), "etag"), None);
}
