//! Reads of one view: limits of a scan against a model, and left-overs of a split that no read shows.

use bytes::Bytes;
use proptest::prelude::*;

use super::ShardState;
use super::query::{self, NotOwner, ScanRequest};
use super::row::RowValue;
use super::tests::{born, engine};
use crate::ring::{Token, TokenRange, token_of};
use crate::storage::{Batch, Durability, Engine, keys};
use crate::types::{Epoch, Revision, ShardId};
use crate::wire::Wire;

const SHARD: ShardId = ShardId(3);

fn lower_half() -> TokenRange {
    TokenRange { first: Token::FIRST, last: Token(u64::MAX / 2) }
}

/// Stores rows whatever their tokens, as a split leaves them.
fn store(engine: &dyn Engine, state: &ShardState, rows: &[(Bytes, Bytes)]) {
    let mut batch = Batch::default();
    batch.put(Bytes::from_static(keys::SHARD_STATE), state.to_bytes());
    for (number, (key, value)) in rows.iter().enumerate() {
        let content_type = number.is_multiple_of(2).then_some("text/plain");
        batch.put(keys::row(key), RowValue::encode(Revision(number as u64), content_type, value));
    }
    // Neighbours of the rows in the layout are no rows.
    batch.put(keys::dedup(0, b"k"), Bytes::from_static(b"no row"));
    batch.put(Bytes::from_static(keys::CATALOG), Bytes::from_static(b"no row"));
    engine.write(batch, Durability::Buffered).unwrap();
}

fn keys_and_values() -> impl Strategy<Value = Vec<(Bytes, Bytes)>> {
    let key = proptest::collection::vec(prop_oneof![Just(0_u8), Just(b'a'), Just(b'b'), Just(0xff)], 1..5);
    proptest::collection::btree_map(key, proptest::collection::vec(any::<u8>(), 0..6), 0..60)
        .prop_map(|rows| rows.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_scan_gives_the_owned_rows_within_its_bounds_and_says_when_it_stopped_early(
        rows in keys_and_values(),
        from in proptest::collection::vec(prop_oneof![Just(0_u8), Just(b'a'), Just(0xff)], 0..3),
        before in proptest::option::of(proptest::collection::vec(prop_oneof![Just(b'a'), Just(0xff)], 1..3)),
        rows_max in 1..20_u32,
        bytes_max in 0..60_u32,
        keys_only in any::<bool>(),
    ) {
        let engine = engine();
        store(engine.as_ref(), &born(lower_half()), &rows);
        let request = ScanRequest {
            from: from.clone().into(),
            before: before.clone().map(Bytes::from),
            rows_max,
            bytes_max,
            keys_only,
        };
        let answer = query::scan(engine.view().as_ref(), SHARD, &request).unwrap().unwrap();

        let wanted = rows.iter().enumerate().filter(|(_, (key, _))| {
            lower_half().contains(token_of(key))
                && key.as_ref() >= from.as_slice()
                && before.as_ref().is_none_or(|before| key.as_ref() < before.as_slice())
        });
        let (mut expected, mut bytes, mut more) = (Vec::new(), 0, false);
        for (number, (key, value)) in wanted {
            // The first row is always given, so that a reader gets on.
            if expected.len() as u32 >= rows_max || (!expected.is_empty() && bytes >= bytes_max as usize) {
                more = true;
                break;
            }
            bytes += key.len() + if keys_only { 0 } else { value.len() };
            expected.push((number, key.clone(), value.clone()));
        }
        prop_assert_eq!((answer.range, answer.epoch, answer.more), (lower_half(), Epoch(1), more));
        prop_assert_eq!(answer.rows.len(), expected.len());
        for (given, (number, key, value)) in answer.rows.iter().zip(expected) {
            prop_assert_eq!(&given.key, &key);
            prop_assert_eq!(given.revision, Revision(number as u64));
            prop_assert_eq!(given.content_type.as_deref(), number.is_multiple_of(2).then_some("text/plain"));
            prop_assert_eq!(given.value_bytes, value.len() as u64);
            prop_assert_eq!(given.value.as_ref(), (!keys_only).then_some(&value));
        }
    }

    #[test]
    fn left_overs_outside_the_range_are_not_found_and_refused(rows in keys_and_values()) {
        let engine = engine();
        store(engine.as_ref(), &born(lower_half()), &rows);
        let view = engine.view();
        for (key, value) in &rows {
            let found = query::get(view.as_ref(), SHARD, key).unwrap();
            if lower_half().contains(token_of(key)) {
                prop_assert_eq!(found.unwrap().unwrap().value, value);
            } else {
                prop_assert_eq!(found, Err(NotOwner { range: Some(lower_half()), epoch: Epoch(1) }));
            }
        }
    }
}

#[test]
fn an_unborn_shard_owns_nothing_and_scans_nothing() {
    let engine = engine();
    let request = ScanRequest { from: Bytes::new(), before: None, rows_max: 10, bytes_max: 10, keys_only: false };
    let unborn = NotOwner { range: None, epoch: Epoch(0) };
    assert_eq!(query::scan(engine.view().as_ref(), SHARD, &request).unwrap(), Err(unborn.clone()));
    assert_eq!(query::get(engine.view().as_ref(), SHARD, b"a").unwrap(), Err(unborn));
}

#[test]
fn a_damaged_row_is_an_error_and_not_an_absence() {
    let engine = engine();
    store(engine.as_ref(), &born(TokenRange::full()), &[(Bytes::from_static(b"a"), Bytes::new())]);
    let mut batch = Batch::default();
    batch.put(keys::row(b"a"), Bytes::from_static(b"\x09rot"));
    engine.write(batch, Durability::Buffered).unwrap();
    let request = ScanRequest { from: Bytes::new(), before: None, rows_max: 10, bytes_max: 10, keys_only: true };
    assert!(query::get(engine.view().as_ref(), SHARD, b"a").unwrap_err().is_corruption());
    assert!(query::scan(engine.view().as_ref(), SHARD, &request).unwrap_err().is_corruption());
}
