//! Idempotency: a write with a key is answered once, however often it is sent.
//!
//! A record holds the payload's hash and the first answer (status and revision, never bodies). It is found again by the
//! second of two racing attempts, because both enter the log. Records age by shard time alone and go after ten minutes;
//! a full table refuses keyed writes rather than forget early (`architecture` §7).

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_128;

use super::command::{Response, Write};
use super::state::ShardState;
use super::txn::Txn;
use crate::ring::{Token, TokenRange, token_of};
use crate::storage::{Error, keys};
use crate::types::Revision;
use crate::wire::{Wire, WireError, take_format};
use crate::{wire_enum, wire_struct};

/// How long an answer is kept, in milliseconds of shard time.
pub const RETENTION_MS: u64 = 10 * 60 * 1000;
/// Records a shard keeps at most. Part of the replicated behaviour: it may change only with the feature level.
pub const RECORDS_MAX: u64 = 1_000_000;
/// Aged records removed with each keyed write, so that the work of one entry stays bounded.
const EVICTED_PER_WRITE_MAX: usize = 64;

const FORMAT: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    payload_hash: u128,
    time_ms: u64,
    answer: Answer,
}
wire_struct!(Record { payload_hash, time_ms, answer });

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Written { revision: Revision, created: bool },
    Deleted { revision: Option<Revision> },
    PreconditionFailed { current: Option<Revision> },
}
wire_enum!(Answer {
    1 => Written { revision, created },
    2 => Deleted { revision },
    3 => PreconditionFailed { current },
});

/// What the table says of a keyed write before it is carried out.
pub(super) enum Verdict {
    /// Carry it out, then [`remember`] it.
    First,
    /// Answer this instead.
    Answered(Response),
}

pub(super) fn look_up(txn: &mut Txn<'_>, state: &mut ShardState, write: &Write, key: &Bytes) -> Result<Verdict, Error> {
    evict(txn, state)?;
    let record_key = keys::dedup(token_of(&write.key).0, key);
    if let Some(stored) = txn.get(&record_key)? {
        let record = decode(stored).map_err(corrupt)?;
        if !is_aged(&record, state.time_ms) {
            return Ok(Verdict::Answered(replay(&record, payload_hash(write))));
        }
        forget(txn, state, &record_key, record.time_ms);
    }
    if state.dedup_count >= RECORDS_MAX {
        return Ok(Verdict::Answered(Response::IdempotencyTableFull));
    }
    Ok(Verdict::First)
}

pub(super) fn remember(txn: &mut Txn<'_>, state: &mut ShardState, write: &Write, key: &Bytes, response: &Response) {
    let answer = match response {
        Response::Written { revision, created, .. } => Answer::Written { revision: *revision, created: *created },
        Response::Deleted { revision, .. } => Answer::Deleted { revision: *revision },
        Response::PreconditionFailed { current, .. } => Answer::PreconditionFailed { current: *current },
        // Ownership refusals are not recorded: the owner answers.
        _ => return,
    };
    let record = Record { payload_hash: payload_hash(write), time_ms: state.time_ms, answer };
    let record_key = keys::dedup(token_of(&write.key).0, key);
    txn.put(keys::dedup_age(record.time_ms, &record_key), Bytes::new());
    txn.put(record_key, encode(&record));
    state.dedup_count += 1;
}

fn evict(txn: &mut Txn<'_>, state: &mut ShardState) -> Result<(), Error> {
    let Some(aged_before) = state.time_ms.checked_sub(RETENTION_MS) else { return Ok(()) };
    let mut aged = keys::dedup_age_before(aged_before);
    let mut evicted = 0;
    // Left-overs of a split do not count: replicas differ in them. What is met of them goes as well.
    while evicted < EVICTED_PER_WRITE_MAX {
        let first = txn.first_keys(&aged, EVICTED_PER_WRITE_MAX - evicted)?;
        let Some(last) = first.last() else { break };
        // What stands in front of it is gone by then; reading over it again would cost more with each round.
        aged.from = last.clone();
        for age_key in first {
            let record_key = keys::dedup_of_age(&age_key)
                .ok_or_else(|| Error::Corrupt { what: format!("dedup age key {age_key:?} is malformed") })?;
            let is_own = state.owns_token(token_of_record(&record_key)?);
            txn.delete(age_key);
            txn.delete(record_key);
            if is_own {
                state.dedup_count -= 1;
                evicted += 1;
            }
        }
    }
    Ok(())
}

fn token_of_record(record_key: &[u8]) -> Result<Token, Error> {
    let token = keys::dedup_token(record_key).map(Token);
    token.ok_or_else(|| Error::Corrupt { what: format!("dedup key {record_key:?} is malformed") })
}

/// How many records of these tokens there are.
pub(super) fn count(txn: &mut Txn<'_>, range: TokenRange) -> Result<u64, Error> {
    txn.count_keys(&keys::dedup_range(range.first.0, range.last.0))
}

fn forget(txn: &mut Txn<'_>, state: &mut ShardState, record_key: &Bytes, time_ms: u64) {
    txn.delete(keys::dedup_age(time_ms, record_key));
    txn.delete(record_key.clone());
    state.dedup_count -= 1;
}

fn is_aged(record: &Record, now_ms: u64) -> bool {
    record.time_ms.saturating_add(RETENTION_MS) < now_ms
}

fn replay(record: &Record, payload_hash: u128) -> Response {
    if record.payload_hash != payload_hash {
        return Response::IdempotencyKeyReuse;
    }
    match record.answer {
        Answer::Written { revision, created } => Response::Written { revision, created, replayed: true },
        Answer::Deleted { revision } => Response::Deleted { revision, replayed: true },
        Answer::PreconditionFailed { current } => Response::PreconditionFailed { current, replayed: true },
    }
}

/// Everything that makes two requests the same one: not the time at which a leader proposed them.
fn payload_hash(write: &Write) -> u128 {
    let mut payload = BytesMut::new();
    write.key.encode(&mut payload);
    write.precondition.encode(&mut payload);
    write.action.encode(&mut payload);
    xxh3_128(&payload)
}

fn encode(record: &Record) -> Bytes {
    let mut out = BytesMut::new();
    FORMAT.encode(&mut out);
    record.encode(&mut out);
    out.freeze()
}

fn decode(mut stored: Bytes) -> Result<Record, WireError> {
    take_format(&mut stored, "dedup record", FORMAT)?;
    Record::from_bytes(stored)
}

fn corrupt(error: WireError) -> Error {
    Error::Corrupt { what: format!("dedup record: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Action, Match, Precondition};
    use crate::wire::golden;

    #[test]
    fn records_keep_their_bytes() {
        let record = |answer| Record { payload_hash: 0x0102, time_ms: 9, answer };
        golden::check(
            "dedup_record",
            &[
                record(Answer::Written { revision: Revision(1), created: true }),
                record(Answer::Deleted { revision: None }),
                record(Answer::PreconditionFailed { current: Some(Revision(2)) }),
            ],
        );
        // As they stand under their keys: with their version in front.
        let values = [
            record(Answer::Written { revision: Revision(1), created: false }),
            record(Answer::Deleted { revision: Some(Revision(3)) }),
            record(Answer::PreconditionFailed { current: None }),
        ];
        golden::check_record("dedup_value", &values, encode, decode);
        golden::has_every_tag(&values.map(|record| record.answer));
    }

    /// Replicas of two releases must agree on what is the same request.
    #[test]
    fn the_hash_of_a_payload_never_changes() {
        let write = |action| Write {
            key: Bytes::from_static(b"k"),
            time_ms: 7,
            precondition: Precondition { if_match: Some(Match::Revisions(vec![Revision(1)])), if_none_match: None },
            idempotency_key: Some(Bytes::from_static(b"retry-1")),
            action,
        };
        let put = Action::Put { content_type: Some("text/plain".into()), value: Bytes::from_static(b"v") };
        assert_eq!(payload_hash(&write(put)), 0xb964fdcb_5cf28687_b4fe5707_b8ff47d3);
        assert_eq!(payload_hash(&write(Action::Delete)), 0x9cdeba2b_7816146d_2f0718b8_a59d15ec);
        let later = Write { time_ms: 8, idempotency_key: None, ..write(Action::Delete) };
        assert_eq!(
            payload_hash(&later),
            0x9cdeba2b_7816146d_2f0718b8_a59d15ec,
            "when it was proposed, and under which key, is no part of it"
        );
    }
}
