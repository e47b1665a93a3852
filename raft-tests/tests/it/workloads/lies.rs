//! Lies, and the check that catches each.

#[path = "liar.rs"]
mod liar;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ETAG, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use raft_tests::checker::{self, Report};
use raft_tests::client;
use raft_tests::history::History;
use raft_tests::http::Reply;
use raft_tests::sim::SimNet;
use raft_tests::workload::{self, Kind, Load};
use ringraft::types::Revision;

use super::{Left, every_kind, run};
use liar::{Asked, Liar, Lie};

/// Counts chances for a lie, and takes one in so many.
struct OneIn {
    every: u64,
    met: AtomicU64,
}

impl OneIn {
    fn new(every: u64) -> Self {
        Self { every, met: AtomicU64::new(0) }
    }

    fn now(&self) -> bool {
        (self.met.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(self.every)
    }
}

/// A run of one kind with a liar in the network: its history and the checker's report.
fn lied_to(kind: Kind, lie: impl Lie) -> (Left, History, Report) {
    let load = Load { kinds: vec![kind], ..every_kind() };
    let left = run(77, load, Arc::new(Liar { net: Arc::new(SimNet), lie: Arc::new(lie) }), 4, None);
    let history = left.history();
    let report = checker::check(&history);
    let found: Vec<&String> = report.violations.iter().map(|violation| &violation.why).take(3).collect();
    println!("{kind:?}: {:?} {found:?}", left.finished.violations.iter().take(3).collect::<Vec<_>>());
    (left, history, report)
}

#[track_caller]
fn told(left: &Left, what: &str) {
    let violations = &left.finished.violations;
    assert!(violations.iter().any(|violation| violation.contains(what)), "{violations:?}");
}

struct Honest;

impl Lie for Honest {}

#[test]
fn somebody_in_the_network_who_does_not_lie_is_not_noticed() {
    for kind in Kind::ALL {
        lied_to(kind, Honest).0.assert_good();
    }
}

fn path(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// Acknowledges a write with the revision that would have been next, and sends it to nobody.
struct Unsent {
    chance: OneIn,
    revisions: Mutex<BTreeMap<String, u64>>,
}

impl Unsent {
    fn new(every: u64) -> Self {
        Self { chance: OneIn::new(every), revisions: Mutex::default() }
    }
}

impl Lie for Unsent {
    fn request(&self, asked: &mut Asked) -> Option<Reply> {
        // A refusal by a condition would be as good an answer.
        let is_put = asked.method == Method::PUT && !asked.headers.contains_key(IF_NONE_MATCH);
        let revision = *self.revisions.lock().unwrap().get(path(&asked.target))?;
        let is_last = asked.headers.get(IF_MATCH).is_none_or(|tag| *tag == format!("\"{}\"", Revision(revision)));
        if !is_put || !is_last || !self.chance.now() {
            return None;
        }
        let tag = HeaderValue::try_from(format!("\"{}\"", Revision(revision + 1))).unwrap();
        Some(Reply { status: 204, headers: HeaderMap::from_iter([(ETAG, tag)]), body: Bytes::new() })
    }

    fn reply(&self, asked: &Asked, reply: Reply) -> Reply {
        if let Some(revision) = client::revision(&reply) {
            self.revisions.lock().unwrap().insert(path(&asked.target).to_string(), revision);
        }
        reply
    }
}

#[test]
fn a_write_that_was_acknowledged_and_never_sent_is_found_by_the_checker() {
    let (_, _, report) = lied_to(Kind::Register, Unsent::new(20));
    assert!(!report.violations.is_empty());
}

#[test]
fn an_increment_that_was_acknowledged_and_never_sent_is_found_by_the_sum() {
    let (left, _, report) = lied_to(Kind::Counter, Unsent::new(20));
    told(&left, "acknowledged increments");
    assert!(!report.violations.is_empty());
}

/// Answers reads of one mode with what was the answer at first, now and then.
struct Old {
    mode: &'static str,
    chance: OneIn,
    first: Mutex<BTreeMap<String, Reply>>,
}

impl Lie for Old {
    fn reply(&self, asked: &Asked, mut reply: Reply) -> Reply {
        if !asked.target.contains(self.mode) || reply.status != 200 {
            return reply;
        }
        let old = self.first.lock().unwrap().entry(asked.target.clone()).or_insert_with(|| reply.clone()).clone();
        // Every answer but the old one's body and revision is as it would be.
        if self.chance.now() {
            reply.headers.insert(ETAG, old.headers[ETAG].clone());
            reply.body = old.body;
        }
        reply
    }
}

#[test]
fn an_old_answer_to_a_lease_read_has_a_window() {
    let lie = Old { mode: "consistency=lease", chance: OneIn::new(50), first: Mutex::default() };
    let (_, history, report) = lied_to(Kind::LeaseReads, lie);
    let windows = workload::stale_windows(&history);
    println!("{windows:?}");
    assert!(windows.stale > 10 && windows.window_ms_max() > 100.0, "{windows:?}");
    assert!(!report.violations.is_empty());
}

#[test]
fn a_stale_read_that_says_it_is_younger_than_it_is_is_found_by_the_checker() {
    let lie = Old { mode: "consistency=stale", chance: OneIn::new(2), first: Mutex::default() };
    let (_, _, report) = lied_to(Kind::Register, lie);
    assert!(report.violations.iter().any(|violation| violation.kind == checker::Kind::StaleRead));
}

/// Serves reads by less than they asked for, and says so.
struct Weaker;

impl Lie for Weaker {
    fn reply(&self, _asked: &Asked, mut reply: Reply) -> Reply {
        if reply.headers.get("kv-consistency").is_some_and(|served| served == "linearizable") {
            reply.headers.insert("kv-consistency", HeaderValue::from_static("lease"));
        }
        reply
    }
}

#[test]
fn a_read_or_a_page_that_is_served_by_less_than_was_asked_for_is_told() {
    told(&lied_to(Kind::Counter, Weaker).0, "a read that asked for Linearizable was served as Lease");
    told(&lied_to(Kind::Set, Weaker).0, "a page from n1: a read that asked for Linearizable was served as Lease");
}

/// Takes the second attempt under an idempotency key for a request of its own.
#[derive(Default)]
struct Forgetful(Mutex<HashSet<HeaderValue>>);

impl Lie for Forgetful {
    fn request(&self, asked: &mut Asked) -> Option<Reply> {
        let key = asked.headers.get("idempotency-key")?.clone();
        if !self.0.lock().unwrap().insert(key.clone()) {
            let other = key.to_str().unwrap().trim_matches('"').to_string();
            asked.headers.insert("idempotency-key", HeaderValue::try_from(format!("\"{other}-again\"")).unwrap());
        }
        None
    }
}

#[test]
fn a_write_that_is_carried_out_for_each_attempt_is_told() {
    let (left, _, report) = lied_to(Kind::Idempotence, Forgetful::default());
    told(&left, "answered Written");
    told(&left, "two attempts were answered as the first one");
    assert!(!report.violations.is_empty(), "the checker takes them for one write, too");
}

/// Leaves the middle one out of a page.
struct Gap;

impl Lie for Gap {
    fn reply(&self, asked: &Asked, mut reply: Reply) -> Reply {
        if asked.target.starts_with("/v1/kv?") && reply.status == 200 {
            let mut page = reply.json();
            let items = page["items"].as_array_mut().unwrap();
            if items.len() > 2 {
                items.remove(items.len() / 2);
            }
            reply.body = Bytes::from(page.to_string());
        }
        reply
    }
}

#[test]
fn a_key_that_a_page_leaves_out_is_told() {
    let (left, _, report) = lied_to(Kind::Set, Gap);
    told(&left, "before the page was asked for, and is not in it");
    assert!(report.violations.is_empty(), "a history has no pages: {:?}", report.violations);
}

/// Refuses now and then what was carried out.
struct Dirty(OneIn);

impl Lie for Dirty {
    fn reply(&self, asked: &Asked, reply: Reply) -> Reply {
        if asked.method != Method::PUT || reply.status != 204 || !self.0.now() {
            return reply;
        }
        let body = Bytes::from_static(br#"{"code":"no-leader","outcome":"not_applied"}"#);
        Reply { status: 503, headers: HeaderMap::new(), body }
    }
}

#[test]
fn a_refused_write_that_shows_up_is_found_and_counted_under_its_code() {
    let (_, history, report) = lied_to(Kind::Register, Dirty(OneIn::new(10)));
    let refusals = workload::refusals(&history);
    println!("{refusals:?}");
    assert!(refusals["no-leader"].shown_up > 0, "{refusals:?}");
    assert!(!report.violations.is_empty());
    let (left, ..) = lied_to(Kind::Counter, Dirty(OneIn::new(10)));
    told(&left, "acknowledged increments");
    let (left, ..) = lied_to(Kind::Set, Dirty(OneIn::new(10)));
    told(&left, "was refused");
}
