//! What came of one request, in the words of a history: `ok`, `fail` or `info`, and why. The one place where that is
//! decided for workloads.
//!
//! | what came | it is |
//! |---|---|
//! | 200 with a revision, 304 with one, 404 `key-not-found`, to a read | `ok` |
//! | 201 or 204 with a revision to a PUT, 204 to a DELETE | `ok` |
//! | 412 to a write with a condition | `ok`: refused, for this is what the key was at |
//! | nothing was sent; a refused connection | `fail` |
//! | `"outcome":"not_applied"`; any other refusal of a read | `fail` |
//! | time-out, or a connection that broke after the request left | `info` |
//! | everything else, whatever it may mean | `info` |
//!
//! What the API promises and the answer does not keep (a read served by less than it asked for, an answer without the
//! header that says so) is told besides, as a violation: a history has no words for it.

use http::HeaderMap;
use ringraft::types::Revision;
use serde_json::Value;

use super::values;
use crate::client::{Trouble, revision};
use crate::history::{About, Answer, Mode, Request};
use crate::http::Reply;

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Ok(Answer),
    Fail,
    Info,
}

/// All that one answer, or its absence, says.
#[derive(Clone, Debug)]
pub struct Judged {
    pub ended: Ended,
    pub about: About,
    /// The `code` of a problem, `not-sent`, `broken`, `late`; of an `ok` its status.
    pub code: String,
    /// `Kv-Replayed`: this is the answer that another attempt got before.
    pub replayed: bool,
    pub broken_promise: Option<String>,
}

impl Judged {
    pub fn answer(&self) -> Option<&Answer> {
        if let Ended::Ok(answer) = &self.ended { Some(answer) } else { None }
    }

    /// The revision that the key was at, or was brought to, as far as the answer tells.
    pub fn revision(&self) -> Option<Revision> {
        match self.answer()? {
            Answer::Found { ver, .. } | Answer::Written { ver } => Some(*ver),
            Answer::Deleted { ver } => *ver,
            Answer::Refused { current } => *current,
            Answer::Absent => None,
        }
    }

    fn unanswered(ended: Ended, code: impl Into<String>, why: String) -> Self {
        let about = About { why: Some(why), ..About::default() };
        Self { ended, about, code: code.into(), replayed: false, broken_promise: None }
    }
}

/// What a request came to.
pub fn judge(request: &Request, result: Result<Reply, Trouble>) -> Judged {
    match result {
        Ok(reply) => judge_reply(request, &reply),
        Err(Trouble::NotSent(why)) => Judged::unanswered(Ended::Fail, "not-sent", format!("not sent: {why}")),
        Err(Trouble::Broken(why)) => Judged::unanswered(Ended::Info, "broken", format!("connection broke: {why}")),
        Err(Trouble::Late) => {
            Judged::unanswered(Ended::Info, "late", "no answer within the client's limit".to_string())
        }
    }
}

fn judge_reply(request: &Request, reply: &Reply) -> Judged {
    let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let code = problem["code"].as_str();
    let is_read = matches!(request, Request::Get { .. });
    let answer = if is_read { read_answer(reply, code) } else { write_answer(request, reply) };
    let header = |name| text(&reply.headers, name);
    let mut about = About {
        status: Some(reply.status),
        shard: header("kv-shard").map(str::to_string),
        leader_hint: header("kv-leader").map(str::to_string),
        ..About::default()
    };
    let mut broken_promise = None;
    let ended = match answer {
        Some(answer) => {
            if let Request::Get { mode } = request {
                let (served, age_ms, broken) = service(*mode, &reply.headers);
                (about.served, about.age_ms, broken_promise) = (served, age_ms, broken);
            }
            if let Answer::Refused { current } = answer {
                broken_promise = contradicts(&problem, current);
            }
            Ended::Ok(answer)
        }
        None => {
            about.why = Some(format!("{} {}", reply.status, code.unwrap_or("without a code")));
            if reply.status < 300 || reply.status == 412 {
                // A history takes no status of an answer that is none to its request.
                about.status = None;
                broken_promise = Some(format!("{} is no answer to {}", reply.status, asked(request)));
            }
            let is_refused = problem["outcome"].as_str() == Some("not_applied") || (is_read && reply.status >= 400);
            if is_refused && reply.status != 412 { Ended::Fail } else { Ended::Info }
        }
    };
    let code = match (&ended, code) {
        (Ended::Fail | Ended::Info, Some(code)) => code.to_string(),
        _ => reply.status.to_string(),
    };
    Judged { ended, about, code, replayed: header("kv-replayed") == Some("true"), broken_promise }
}

fn read_answer(reply: &Reply, code: Option<&str>) -> Option<Answer> {
    let ver = revision(reply).map(Revision);
    match (reply.status, code) {
        (200, _) => Some(Answer::Found { ver: ver?, value: Some(values::id(&reply.body)) }),
        (304, _) => Some(Answer::Found { ver: ver?, value: None }),
        (404, Some("key-not-found")) => Some(Answer::Absent),
        _ => None,
    }
}

fn write_answer(request: &Request, reply: &Reply) -> Option<Answer> {
    let ver = revision(reply).map(Revision);
    match (request, reply.status) {
        (Request::Put { .. }, 201 | 204) => Some(Answer::Written { ver: ver? }),
        (Request::Delete { .. }, 204) => Some(Answer::Deleted { ver }),
        (_, 412) if request.expect().is_some() => Some(Answer::Refused { current: ver }),
        _ => None,
    }
}

/// By what a read was served and how old it says that it is; and what is wrong with that.
pub(super) fn service(asked: Mode, headers: &HeaderMap) -> (Option<Mode>, Option<u64>, Option<String>) {
    let served = match text(headers, "kv-consistency") {
        Some("linearizable") => Mode::Linearizable,
        Some("lease") => Mode::Lease,
        Some("stale") => Mode::Stale,
        other => return (None, None, Some(format!("a read says of its consistency {other:?}"))),
    };
    // The order of the modes is from the strongest down.
    let weaker = (served > asked).then(|| format!("a read that asked for {asked:?} was served as {served:?}"));
    if served != Mode::Stale {
        return (Some(served), None, weaker);
    }
    match text(headers, "kv-staleness-ms") {
        Some("unknown") => (Some(served), None, weaker),
        Some(age) if age.parse::<u64>().is_ok() => (Some(served), age.parse().ok(), weaker),
        other => (Some(served), None, Some(format!("a stale read says of its age {other:?}"))),
    }
}

/// The body of a 412 names the same revision as its `ETag`.
fn contradicts(problem: &Value, current: Option<Revision>) -> Option<String> {
    let told = problem["current_revision"].as_str().map(str::to_string);
    let tag = current.map(|current| current.to_string());
    (told != tag).then(|| format!("a 412 has revision {tag:?} in its ETag and {told:?} in its body"))
}

fn asked(request: &Request) -> &'static str {
    match request {
        Request::Get { .. } => "a read",
        Request::Put { expect: None, .. } => "a put without a condition",
        Request::Put { .. } => "a put with a condition",
        Request::Delete { expect: None } => "a delete without a condition",
        Request::Delete { .. } => "a delete with a condition",
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
