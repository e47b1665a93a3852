//! What routers say to each other, byte by byte, and that no outcome changes on the way.

use super::*;
use crate::machine::query::{NotOwner, ScannedRow};
use crate::machine::{Action, Match, Precondition, Response};
use crate::ring::{Token, TokenRange};
use crate::types::{Epoch, Outcome, ReplicaId};
use crate::wire::golden;

const SHARD: ShardId = ShardId(0x0102);
const CONSISTENCIES: [Consistency; 3] = [Consistency::Linearizable, Consistency::Lease, Consistency::Stale];

/// Every answer of a peer that is no success.
fn refusals<T>() -> Vec<RemoteAnswer<T>> {
    vec![
        RemoteAnswer::NotLeader { leader: Some(NodeId(0x0304)) },
        RemoteAnswer::NotLeader { leader: None },
        RemoteAnswer::NotHere,
        RemoteAnswer::Overloaded,
        RemoteAnswer::Unknown { why: "the leader changed".into() },
        RemoteAnswer::NoQuorum,
        RemoteAnswer::DeadlineExceeded,
        RemoteAnswer::Failed { what: "its directory is gone".into() },
        RemoteAnswer::DiskFull { node: NodeId(0x0506) },
        RemoteAnswer::DiskSpent { node: NodeId(0x0708) },
    ]
}

/// Pins these successes and every refusal.
fn check_answers<T: Wire + PartialEq + std::fmt::Debug>(name: &str, done: Vec<T>) {
    let mut answers: Vec<RemoteAnswer<T>> = done.into_iter().map(RemoteAnswer::Done).collect();
    answers.extend(refusals());
    golden::check(name, &answers);
    golden::has_every_tag(&answers);
}

#[test]
fn requests_keep_their_bytes() {
    let precondition =
        Precondition { if_match: Some(Match::Revisions(vec![Revision(5)])), if_none_match: Some(Match::Any) };
    let write = Write {
        key: Bytes::from_static(b"key"),
        time_ms: 6,
        precondition,
        idempotency_key: Some(Bytes::from_static(b"retry-1")),
        action: Action::Put { content_type: Some("text/plain".into()), value: Bytes::from_static(b"value") },
    };
    golden::check("write_request", &[WriteRequest { shard: SHARD, write }]);
    let read = |consistency| ReadRequest { shard: SHARD, key: Bytes::from_static(b"key"), consistency };
    golden::check("read_request", &CONSISTENCIES.map(read));
    golden::has_every_tag(&CONSISTENCIES);
    let scan = ScanRequest {
        from: Bytes::from_static(b"a"),
        before: Some(Bytes::from_static(b"b")),
        rows_max: 0x0304,
        bytes_max: 0x0506,
        keys_only: true,
    };
    let to_the_end = ScanRequest { before: None, keys_only: false, ..scan.clone() };
    golden::check(
        "scan_request",
        &[
            ScanShardRequest { shard: SHARD, scan, consistency: Consistency::Lease },
            ScanShardRequest { shard: SHARD, scan: to_the_end, consistency: Consistency::Stale },
        ],
    );
}

#[test]
fn answers_keep_their_bytes() {
    check_answers(
        "write_answer",
        vec![
            Response::Written { revision: Revision(7), created: true, replayed: false },
            Response::PreconditionFailed { current: Some(Revision(8)), replayed: false },
        ],
    );
    let row = |content_type: Option<&str>| RemoteRow {
        revision: Revision(9),
        content_type: content_type.map(str::to_string),
        value: Bytes::from_static(b"value"),
    };
    check_answers(
        "read_answer",
        vec![
            RemoteRead { row: Some(row(Some("text/plain"))), consistency: Consistency::Lease, staleness_ms: None },
            RemoteRead { row: Some(row(None)), consistency: Consistency::Stale, staleness_ms: Some(0x0304) },
            RemoteRead { row: None, consistency: Consistency::Linearizable, staleness_ms: None },
        ],
    );
    let scanned = |key: &'static [u8], value: Option<&'static [u8]>| ScannedRow {
        key: Bytes::from_static(key),
        revision: Revision(9),
        content_type: value.map(|_| "text/plain".to_string()),
        value_bytes: 5,
        value: value.map(Bytes::from_static),
    };
    let answer = ScanAnswer {
        range: TokenRange { first: Token(1), last: Token(2) },
        epoch: Epoch(3),
        rows: vec![scanned(b"k1", Some(b"value")), scanned(b"k2", None)],
        more: true,
    };
    let empty = ScanAnswer { rows: Vec::new(), more: false, ..answer.clone() };
    check_answers(
        "scan_answer",
        vec![
            RemoteScan { answer, consistency: Consistency::Linearizable, staleness_ms: None },
            RemoteScan { answer: empty, consistency: Consistency::Stale, staleness_ms: Some(0x0304) },
        ],
    );
}

#[test]
fn an_outcome_stays_what_it_was_on_its_way_to_the_asker() {
    let leader = crate::raft::Member { replica: ReplicaId(2), node: NodeId(3) };
    let errors = [
        shard::Error::NotLeader { leader: Some(leader) },
        shard::Error::NotLeader { leader: None },
        shard::Error::NotOwner(NotOwner { range: None, epoch: Epoch(1) }),
        shard::Error::Overloaded,
        shard::Error::Unknown { why: "the deadline passed" },
        shard::Error::NoQuorum,
        shard::Error::DeadlineExceeded,
        shard::Error::Failed { what: "damaged".into() },
        shard::Error::DiskFull { node: NodeId(4) },
        shard::Error::DiskSpent { node: NodeId(5) },
    ];
    for error in errors {
        let (name, outcome) = (format!("{error:?}"), error.outcome());
        let known_leader = matches!(error, shard::Error::NotLeader { leader: Some(_) }).then_some(NodeId(3));
        let sent = RemoteAnswer::<Response>::from_result(Err(error)).to_bytes();
        match RemoteAnswer::<Response>::from_bytes(sent).unwrap().into_attempt(SHARD) {
            Attempt::Done(done) => panic!("{name} became {done:?}"),
            Attempt::Again { leader, error } => {
                assert_eq!((outcome, error.outcome()), (Outcome::NotApplied, Outcome::NotApplied), "{name}");
                assert_eq!(leader, known_leader, "{name}");
            }
            Attempt::Final(error) => {
                assert_eq!(error.outcome(), outcome, "{name}");
                assert_eq!(error.shard(), Some(SHARD), "{name}");
            }
        }
    }
}
