//! Reads from one view: ownership and value of the same moment, so that an answer is never half old.

use bytes::Bytes;

use super::row::RowValue;
use super::state::ShardState;
use crate::ring::{TokenRange, token_of};
use crate::storage::{Error, View, keys};
use crate::types::{Epoch, ShardId};
use crate::wire::{Wire, WireError};

/// The shard does not own what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotOwner {
    /// None before the shard's birth.
    pub range: Option<TokenRange>,
    pub epoch: Epoch,
}

/// The state record of a view; an unborn shard has none yet.
pub fn shard_state(view: &dyn View, shard: ShardId) -> Result<ShardState, Error> {
    match view.get(keys::SHARD_STATE)? {
        None => Ok(ShardState::unborn(shard)),
        Some(record) => ShardState::from_bytes(record).map_err(|error| corrupt("shard state", &error)),
    }
}

pub fn get(view: &dyn View, shard: ShardId, key: &[u8]) -> Result<Result<Option<RowValue>, NotOwner>, Error> {
    let state = shard_state(view, shard)?;
    if !state.owns(key) {
        return Ok(Err(NotOwner { range: state.range, epoch: state.epoch }));
    }
    match view.get(&keys::row(key))? {
        None => Ok(Ok(None)),
        Some(row) => RowValue::decode(row).map(|row| Ok(Some(row))).map_err(|error| corrupt("row", &error)),
    }
}

/// What a scan of one shard asks for. Keys from `from` up to and without `before`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    pub from: Bytes,
    pub before: Option<Bytes>,
    /// Rows at most.
    pub rows_max: u32,
    /// Stop once this many bytes of keys and values are gathered; the first row is always given.
    pub bytes_max: u32,
    pub keys_only: bool,
}
crate::wire_struct!(ScanRequest { from, before, rows_max, bytes_max, keys_only });

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedRow {
    pub key: Bytes,
    pub revision: crate::types::Revision,
    pub content_type: Option<String>,
    /// Length of the value, also where the value itself was not asked for.
    pub value_bytes: u64,
    pub value: Option<Bytes>,
}
crate::wire_struct!(ScannedRow { key, revision, content_type, value_bytes, value });

/// Invariant: `rows` are all rows of the shard within the request's bounds, up to the last of them when `more`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanAnswer {
    /// The range the shard owned in the view this was read from.
    pub range: TokenRange,
    pub epoch: Epoch,
    pub rows: Vec<ScannedRow>,
    /// The shard stopped early: rows may follow after the last one given.
    pub more: bool,
}
crate::wire_struct!(ScanAnswer { range, epoch, rows, more });

pub fn scan(view: &dyn View, shard: ShardId, request: &ScanRequest) -> Result<Result<ScanAnswer, NotOwner>, Error> {
    let state = shard_state(view, shard)?;
    let Some(range) = state.range else {
        return Ok(Err(NotOwner { range: None, epoch: state.epoch }));
    };
    let mut answer = ScanAnswer { range, epoch: state.epoch, rows: Vec::new(), more: false };
    let mut bytes = 0;
    for row in view.scan(&keys::row_range(&request.from, request.before.as_deref())) {
        let (key, value) = row?;
        let key = keys::user_key(&key).ok_or_else(|| Error::Corrupt { what: format!("{key:?} is no row key") })?;
        // Rows outside the range are left-overs of a split and invisible.
        if !range.contains(token_of(&key)) {
            continue;
        }
        let is_full = !answer.rows.is_empty() && bytes >= request.bytes_max as usize;
        if is_full || answer.rows.len() as u64 >= u64::from(request.rows_max) {
            answer.more = true;
            break;
        }
        let row = RowValue::decode(value).map_err(|error| corrupt("row", &error))?;
        bytes += key.len() + if request.keys_only { 0 } else { row.value.len() };
        answer.rows.push(ScannedRow {
            key,
            revision: row.revision,
            content_type: row.content_type,
            value_bytes: row.value.len() as u64,
            value: (!request.keys_only).then_some(row.value),
        });
    }
    Ok(Ok(answer))
}

fn corrupt(what: &str, error: &WireError) -> Error {
    Error::Corrupt { what: format!("{what}: {error}") }
}
