use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::*;
use crate::history::Expect;

const TAG: (&str, &str) = ("etag", "\"00000000000000ff\"");
const LINEARIZABLE: (&str, &str) = ("kv-consistency", "linearizable");

type Headers<'h> = &'h [(&'static str, &'static str)];

fn reply(status: u16, headers: Headers<'_>, body: &'static str) -> Result<Reply, Trouble> {
    let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    Ok(Reply { status, headers: headers.collect(), body: Bytes::from_static(body.as_bytes()) })
}

fn get(mode: Mode) -> Request {
    Request::Get { mode }
}

fn put(expect: Option<Expect>) -> Request {
    Request::Put { value: "v".into(), expect }
}

fn delete(expect: Option<Expect>) -> Request {
    Request::Delete { expect }
}

/// The promise was kept.
#[track_caller]
fn kept(request: &Request, result: Result<Reply, Trouble>) -> Judged {
    let judged = judge(request, result);
    assert_eq!(judged.broken_promise, None, "{judged:?}");
    judged
}

#[test]
fn a_read_is_answered_by_a_value_by_its_revision_or_by_its_absence() {
    let ver = Revision(255);
    let asked = get(Mode::Linearizable);
    let found = kept(&asked, reply(200, &[TAG, LINEARIZABLE, ("kv-shard", "2")], "v1"));
    assert_eq!(found.ended, Ended::Ok(Answer::Found { ver, value: Some("v1".into()) }));
    assert_eq!((found.about.status, found.about.shard.as_deref()), (Some(200), Some("2")));
    assert_eq!((found.about.served, found.code.as_str()), (Some(Mode::Linearizable), "200"));
    let unchanged = kept(&asked, reply(304, &[TAG, LINEARIZABLE], ""));
    assert_eq!(unchanged.ended, Ended::Ok(Answer::Found { ver, value: None }));
    let absent = kept(&asked, reply(404, &[LINEARIZABLE], r#"{"code":"key-not-found"}"#));
    assert_eq!(absent.ended, Ended::Ok(Answer::Absent));
    // Not every 404 speaks of the key.
    let elsewhere = kept(&asked, reply(404, &[], r#"{"code":"no-such-route"}"#));
    assert_eq!((elsewhere.ended, elsewhere.code.as_str()), (Ended::Fail, "no-such-route"));
}

#[test]
fn a_write_is_answered_by_its_revision() {
    let ver = Revision(255);
    for status in [201, 204] {
        assert_eq!(kept(&put(None), reply(status, &[TAG], "")).ended, Ended::Ok(Answer::Written { ver }));
    }
    assert_eq!(kept(&delete(None), reply(204, &[], "")).ended, Ended::Ok(Answer::Deleted { ver: None }));
    let replayed = kept(&put(None), reply(204, &[TAG, ("kv-replayed", "true")], ""));
    assert!(replayed.replayed && !kept(&put(None), reply(204, &[TAG], "")).replayed);
    // Without a revision nobody knows what became of it.
    let judged = judge(&put(None), reply(204, &[], ""));
    assert_eq!(judged.ended, Ended::Info);
    assert!(judged.broken_promise.is_some());
}

#[test]
fn a_412_is_an_answer_where_there_was_a_condition() {
    let current = Some(Revision(255));
    let at = r#"{"code":"revision-mismatch","outcome":"not_applied","current_revision":"00000000000000ff"}"#;
    let none = r#"{"code":"revision-mismatch","outcome":"not_applied","current_revision":null}"#;
    for request in [put(Some(Expect::Absent)), delete(Some(Expect::Revision(Revision(3))))] {
        assert_eq!(kept(&request, reply(412, &[TAG], at)).ended, Ended::Ok(Answer::Refused { current }));
        assert_eq!(kept(&request, reply(412, &[], none)).ended, Ended::Ok(Answer::Refused { current: None }));
        assert!(judge(&request, reply(412, &[TAG], none)).broken_promise.is_some(), "tag and body disagree");
    }
    for request in [put(None), delete(None), get(Mode::Lease)] {
        let judged = judge(&request, reply(412, &[TAG], at));
        assert!(judged.broken_promise.is_some(), "{judged:?}");
        assert_eq!((judged.ended, judged.about.status), (Ended::Info, None), "as the reader of histories wants it");
    }
}

#[test]
fn what_certainly_did_not_happen_failed() {
    for request in [put(None), delete(None), get(Mode::Linearizable)] {
        let unsent = kept(&request, Err(Trouble::NotSent("refused".into())));
        assert_eq!((unsent.ended, unsent.code.as_str()), (Ended::Fail, "not-sent"));
        for (status, code) in [(503, "no-quorum"), (421, "wrong-node"), (504, "deadline-exceeded"), (422, "x")] {
            let body = format!(r#"{{"code":"{code}","outcome":"not_applied"}}"#);
            let judged = kept(&request, reply(status, &[("kv-leader", "n2:1")], body.leak()));
            assert_eq!((judged.ended, judged.code.as_str()), (Ended::Fail, code));
            assert_eq!(judged.about.leader_hint.as_deref(), Some("n2:1"));
            assert_eq!(judged.about.why, Some(format!("{status} {code}")));
        }
    }
    // A read changes nothing, so nothing is said about it.
    let judged = kept(&get(Mode::Lease), reply(504, &[], r#"{"code":"leadership-lost"}"#));
    assert_eq!(judged.ended, Ended::Fail);
}

#[test]
fn what_nobody_knows_is_unknown() {
    for request in [put(None), delete(Some(Expect::Exists))] {
        for body in [r#"{"code":"deadline-exceeded","outcome":"unknown"}"#, r#"{"code":"internal"}"#, "", "<html>"] {
            for status in [500, 502, 503, 504] {
                assert_eq!(kept(&request, reply(status, &[], body)).ended, Ended::Info, "{status} {body}");
            }
        }
    }
    for request in [put(None), get(Mode::Stale)] {
        let late = kept(&request, Err(Trouble::Late));
        assert_eq!((late.ended, late.code.as_str()), (Ended::Info, "late"));
        let broken = kept(&request, Err(Trouble::Broken("reset".into())));
        assert_eq!((broken.ended, broken.code.as_str()), (Ended::Info, "broken"));
    }
}

#[test]
fn a_read_says_by_what_it_was_served_and_never_by_less_than_it_asked_for() {
    let served = |mode, headers: Headers<'_>| {
        let judged = judge(&get(mode), reply(200, &[&[TAG], headers].concat(), "v"));
        (judged.about.served, judged.about.age_ms, judged.broken_promise.is_some())
    };
    let lease = ("kv-consistency", "lease");
    let stale = ("kv-consistency", "stale");
    assert_eq!(served(Mode::Lease, &[lease]), (Some(Mode::Lease), None, false));
    assert_eq!(served(Mode::Lease, &[LINEARIZABLE]), (Some(Mode::Linearizable), None, false));
    assert_eq!(served(Mode::Stale, &[stale, ("kv-staleness-ms", "12")]), (Some(Mode::Stale), Some(12), false));
    assert_eq!(served(Mode::Stale, &[stale, ("kv-staleness-ms", "unknown")]), (Some(Mode::Stale), None, false));
    assert!(served(Mode::Linearizable, &[lease]).2);
    assert!(served(Mode::Lease, &[stale, ("kv-staleness-ms", "12")]).2);
    assert!(served(Mode::Lease, &[]).2);
    assert!(served(Mode::Stale, &[stale]).2);
    assert!(served(Mode::Stale, &[stale, ("kv-staleness-ms", "old")]).2);
}
