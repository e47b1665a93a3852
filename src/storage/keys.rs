//! The whole disk layout: every key of the log engine and of a replica's data engine. First bytes are never reused.
//!
//! Log engine (one per node, all groups):
//!
//! | key | value |
//! |---|---|
//! | `01` | store identity: the [`StoreId`](crate::types::StoreId) this log belongs to |
//! | `02` ‖ replica | registry record: what this replica is and where its rows stand |
//! | `03` ‖ replica ‖ `01` | Raft vote |
//! | `03` ‖ replica ‖ `02` | purge marker: the last log id that was purged |
//! | `03` ‖ replica ‖ `03` | committed log id (a hint, unsynced) |
//! | `04` ‖ replica ‖ index | log entry |
//! | `05` | this node's last copy of the catalog |
//!
//! Data engine (one per replica):
//!
//! | key | value |
//! |---|---|
//! | `01` | replica identity: store, replica, shard. A snapshot does not carry it |
//! | `02` | applied log id and membership |
//! | `03` | shard state: range, epoch, revision clock, shard time, dedup count |
//! | `04` | catalog (meta group only) |
//! | `05` | epoch with which the last split left rows here that are the shard's no more. A snapshot does not carry it |
//! | `06` | the same, once those are removed |
//! | `10` ‖ user key | row |
//! | `20` ‖ token ‖ idempotency key | dedup record (the position in a batch will follow the key, so its length stands first) |
//! | `21` ‖ shard time ‖ dedup key | index of dedup records by age, no value |
//!
//! Integers are big-endian. Rows stand in user-key order, so a prefix scan is a seek (`architecture` §5).

use bytes::{BufMut, Bytes, BytesMut};

use super::KeyRange;
use crate::types::ReplicaId;

pub const LOG_IDENTITY: &[u8] = &[0x01];
const LOG_REGISTRY: u8 = 0x02;
const LOG_STATE: u8 = 0x03;
const LOG_ENTRY: u8 = 0x04;

pub const LOG_CATALOG_COPY: &[u8] = &[0x05];

/// The single-valued Raft state of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RaftState {
    Vote = 1,
    Purged = 2,
    Committed = 3,
}

pub fn registry(replica: ReplicaId) -> Bytes {
    keyed(LOG_REGISTRY, replica, &[])
}

pub fn registry_range() -> KeyRange {
    KeyRange::prefix(&[LOG_REGISTRY])
}

/// The replica of a registry key.
pub fn registry_replica(key: &[u8]) -> Option<ReplicaId> {
    let id = key.strip_prefix(&[LOG_REGISTRY])?;
    Some(ReplicaId(u64::from_be_bytes(id.try_into().ok()?)))
}

pub fn raft_state(replica: ReplicaId, kind: RaftState) -> Bytes {
    keyed(LOG_STATE, replica, &[kind as u8])
}

pub fn raft_state_range(replica: ReplicaId) -> KeyRange {
    KeyRange::prefix(&keyed(LOG_STATE, replica, &[]))
}

pub fn entry(replica: ReplicaId, index: u64) -> Bytes {
    keyed(LOG_ENTRY, replica, &index.to_be_bytes())
}

pub fn all_entries() -> KeyRange {
    KeyRange::prefix(&[LOG_ENTRY])
}

/// Entries from `from` up to and without `before`; to the end of the replica's log when `None`.
pub fn entry_range(replica: ReplicaId, from: u64, before: Option<u64>) -> KeyRange {
    let before = match before {
        Some(before) => Some(entry(replica, before)),
        None => super::prefix_end(&keyed(LOG_ENTRY, replica, &[])),
    };
    KeyRange { from: entry(replica, from), before }
}

/// The index of an entry key.
pub fn entry_index(key: &[u8]) -> Option<u64> {
    let index = key.get(9..)?;
    Some(u64::from_be_bytes(index.try_into().ok()?))
}

pub const REPLICA_IDENTITY: &[u8] = &[0x01];
pub const APPLIED: &[u8] = &[0x02];
pub const SHARD_STATE: &[u8] = &[0x03];
pub const CATALOG: &[u8] = &[0x04];
pub const LEFT_OVERS: &[u8] = &[0x05];
pub const LEFT_OVERS_REMOVED: &[u8] = &[0x06];
const ROW: u8 = 0x10;
const DEDUP: u8 = 0x20;
const DEDUP_AGE: u8 = 0x21;

pub fn row(user_key: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + user_key.len());
    key.put_u8(ROW);
    key.put_slice(user_key);
    key.freeze()
}

/// The user key of a row's key.
pub fn user_key(key: &Bytes) -> Option<Bytes> {
    (key.first() == Some(&ROW)).then(|| key.slice(1..))
}

/// Rows from the user key `from` up to and without `before`; to the last row when `None`.
pub fn row_range(from: &[u8], before: Option<&[u8]>) -> KeyRange {
    let before = before.map_or_else(|| Bytes::from_static(&[ROW + 1]), row);
    KeyRange { from: row(from), before: Some(before) }
}

pub fn dedup(token: u64, idempotency_key: &[u8]) -> Bytes {
    let length = u8::try_from(idempotency_key.len()).expect("idempotency keys are limited to 255 bytes");
    let mut key = BytesMut::with_capacity(10 + idempotency_key.len());
    key.put_u8(DEDUP);
    key.put_u64(token);
    key.put_u8(length);
    key.put_slice(idempotency_key);
    key.freeze()
}

/// Dedup records of the tokens from `first` to `last`.
pub fn dedup_range(first: u64, last: u64) -> KeyRange {
    let from = |token: u64| {
        let mut key = BytesMut::with_capacity(9);
        key.put_u8(DEDUP);
        key.put_u64(token);
        key.freeze()
    };
    let before = last.checked_add(1).map_or_else(|| Bytes::from_static(&[DEDUP + 1]), from);
    KeyRange { from: from(first), before: Some(before) }
}

/// The token in a dedup record's key, by which a record belongs to a shard.
pub fn dedup_token(key: &[u8]) -> Option<u64> {
    let rest = key.strip_prefix(&[DEDUP])?;
    Some(u64::from_be_bytes(rest.get(..8)?.try_into().ok()?))
}

#[cfg(feature = "mutants")]
pub fn is_dedup(key: &Bytes) -> bool {
    dedup_token(key).or(dedup_of_age(key).and_then(|key| dedup_token(&key))).is_some()
}

pub fn dedup_age(shard_time_ms: u64, dedup_key: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(9 + dedup_key.len());
    key.put_u8(DEDUP_AGE);
    key.put_u64(shard_time_ms);
    key.put_slice(dedup_key);
    key.freeze()
}

/// Age index keys of every record made before `shard_time_ms`.
pub fn dedup_age_before(shard_time_ms: u64) -> KeyRange {
    KeyRange { from: Bytes::from_static(&[DEDUP_AGE]), before: Some(dedup_age(shard_time_ms, &[])) }
}

/// The dedup record's key in an age index key.
pub fn dedup_of_age(key: &Bytes) -> Option<Bytes> {
    (key.first() == Some(&DEDUP_AGE) && key.len() > 9).then(|| key.slice(9..))
}

fn keyed(kind: u8, replica: ReplicaId, rest: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(9 + rest.len());
    key.put_u8(kind);
    key.put_u64(replica.0);
    key.put_slice(rest);
    key.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let replica = ReplicaId(0x0102);
        assert_eq!(hex(LOG_IDENTITY), "01");
        assert_eq!(hex(&registry(replica)), "020000000000000102");
        assert_eq!(hex(&raft_state(replica, RaftState::Vote)), "03000000000000010201");
        assert_eq!(hex(&raft_state(replica, RaftState::Purged)), "03000000000000010202");
        assert_eq!(hex(&raft_state(replica, RaftState::Committed)), "03000000000000010203");
        assert_eq!(hex(&entry(replica, 7)), "0400000000000001020000000000000007");
        assert_eq!(hex(LOG_CATALOG_COPY), "05");
        assert_eq!([REPLICA_IDENTITY, APPLIED, SHARD_STATE, CATALOG].map(hex), ["01", "02", "03", "04"]);
        assert_eq!([LEFT_OVERS, LEFT_OVERS_REMOVED].map(hex), ["05", "06"]);
        assert_eq!(hex(&row(b"a/b")), "10612f62");
        assert_eq!(hex(&dedup(9, b"k")), "200000000000000009016b");
        assert_eq!(hex(&dedup_age(1, &dedup(9, b"k"))), "210000000000000001200000000000000009016b");
    }

    #[test]
    fn keys_give_back_what_they_were_made_of() {
        assert_eq!(registry_replica(&registry(ReplicaId(5))), Some(ReplicaId(5)));
        assert_eq!(entry_index(&entry(ReplicaId(5), u64::MAX)), Some(u64::MAX));
        assert_eq!(user_key(&row(b"\x00\xff")).as_deref(), Some(b"\x00\xff".as_slice()));
        let dedup_key = dedup(3, b"");
        assert_eq!(dedup_token(&dedup_key), Some(3));
        assert_eq!(dedup_of_age(&dedup_age(8, &dedup_key)), Some(dedup_key));
    }

    #[test]
    fn ranges_hold_their_own_kind_and_nothing_else() {
        let ends = |range: KeyRange| (hex(&range.from), range.before.map(|before| hex(&before)));
        let both = |from: &str, before: &str| (from.to_string(), Some(before.to_string()));
        let replica = ReplicaId(0x0102);
        assert_eq!(ends(registry_range()), both("02", "03"));
        assert_eq!(ends(raft_state_range(replica)), both("030000000000000102", "030000000000000103"));
        assert_eq!(ends(all_entries()), both("04", "05"));
        let entries = both("0400000000000001020000000000000007", "0400000000000001020000000000000009");
        assert_eq!(ends(entry_range(replica, 7, Some(9))), entries);
        assert_eq!(ends(row_range(b"a", Some(b"b"))), both("1061", "1062"));
        assert_eq!(ends(row_range(b"", None)), both("10", "11"));
        assert_eq!(ends(dedup_age_before(0x0102)), both("21", "210000000000000102"));
        assert_eq!(ends(dedup_range(1, 0x0102)), both("200000000000000001", "200000000000000103"));
        assert_eq!(ends(dedup_range(1, u64::MAX)), both("200000000000000001", "21"));
    }

    #[test]
    fn a_replica_s_entries_end_where_the_next_replica_s_begin() {
        let all = entry_range(ReplicaId(5), 0, None);
        assert!(entry(ReplicaId(5), u64::MAX) < all.before.clone().unwrap());
        assert!(entry(ReplicaId(6), 0) >= all.before.unwrap());
        let last = entry_range(ReplicaId(u64::MAX), 0, None);
        assert!(entry(ReplicaId(u64::MAX), u64::MAX) < last.before.unwrap());
    }

    #[test]
    fn all_rows_lie_in_the_whole_row_range() {
        let all = row_range(&[], None);
        for key in [&b"\x00"[..], b"\xff\xff", &[0xff; 2048]] {
            assert!(row(key) >= all.from && row(key) < *all.before.as_ref().unwrap());
        }
    }
}
