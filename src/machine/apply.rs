//! One entry's change of a shard's state. Order: ownership, then dedup, then preconditions, then the write
//! (`architecture` §7).

use bytes::Bytes;

use super::command::{Action, Birth, Command, IDEMPOTENCY_KEY_BYTES_MAX, Response, Write};
use super::dedup::{self, Verdict};
use super::row::RowValue;
use super::split::{Place, apply_fence, apply_split};
use super::state::ShardState;
use super::txn::Txn;
use crate::catalog::{self, Catalog};
use crate::mutants::planted;
use crate::storage::{Error, keys};
use crate::types::{META_SHARD, Revision};
use crate::wire::Wire;

/// Applies a command. `cluster` is the catalog, in the meta group alone; `place` is where the entry stands. The caller
/// writes `state` in the same batch as the rows.
///
/// # Errors
/// Only those of this replica's own store: the replica must stop, because going on would make it differ.
pub fn apply(
    txn: &mut Txn<'_>,
    state: &mut ShardState,
    cluster: &mut Option<Catalog>,
    command: &Command,
    place: &impl Place,
) -> Result<Response, Error> {
    match command {
        Command::Write(_) | Command::Birth(_) | Command::Split(_) | Command::Fence(_) if state.shard == META_SHARD => {
            Ok(Response::Misdirected)
        }
        Command::Catalog(_) if state.shard != META_SHARD => Ok(Response::Misdirected),
        Command::Write(write) => apply_write(txn, state, write),
        Command::Birth(birth) => Ok(apply_birth(state, birth)),
        Command::Split(split) => apply_split(txn, state, split, place),
        Command::Fence(fence) => Ok(apply_fence(state, fence)),
        Command::Catalog(command) => {
            let before = cluster.as_ref().map(|catalog| catalog.version);
            let response = catalog::apply(cluster, command);
            if let Some(catalog) = cluster
                && before != Some(catalog.version)
            {
                txn.put(Bytes::from_static(keys::CATALOG), catalog.to_bytes());
            }
            Ok(Response::Catalog(response))
        }
    }
}

fn apply_birth(state: &mut ShardState, birth: &Birth) -> Response {
    if birth.shard != state.shard {
        return Response::Misdirected;
    }
    // A second birth (the founder proposed again after a crash) changes nothing.
    if state.range.is_none() {
        state.range = Some(birth.range);
        state.epoch = birth.epoch;
        state.revision = birth.revision_base;
    }
    Response::Born
}

fn apply_write(txn: &mut Txn<'_>, state: &mut ShardState, write: &Write) -> Result<Response, Error> {
    state.time_ms = state.time_ms.max(write.time_ms);
    if !state.owns(&write.key) {
        return Ok(Response::NotOwner { range: state.range, epoch: state.epoch });
    }
    let Some(idempotency_key) = &write.idempotency_key else {
        return carry_out(txn, state, write);
    };
    if idempotency_key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        // The API refuses it; a peer that sends it all the same must not bring every replica down.
        return Ok(Response::Misdirected);
    }
    match dedup::look_up(txn, state, write, idempotency_key)? {
        Verdict::Answered(response) => Ok(response),
        Verdict::First => {
            let response = carry_out(txn, state, write)?;
            dedup::remember(txn, state, write, idempotency_key, &response);
            Ok(response)
        }
    }
}

fn carry_out(txn: &mut Txn<'_>, state: &mut ShardState, write: &Write) -> Result<Response, Error> {
    let row_key = keys::row(&write.key);
    // A blind put reads nothing; whether it created the key is then not known and not asked.
    let blind_put = write.precondition.is_none() && matches!(write.action, Action::Put { .. });
    let current = if blind_put { None } else { current_revision(txn, &row_key)? };
    let holds = planted!(CheckOutsideApply => true; write.precondition.holds(current));
    if !holds {
        return Ok(Response::PreconditionFailed { current, replayed: false });
    }
    match &write.action {
        Action::Put { content_type, value } => {
            state.revision = state.revision.next();
            txn.put(row_key, RowValue::encode(state.revision, content_type.as_deref(), value));
            let created = !blind_put && current.is_none();
            Ok(Response::Written { revision: state.revision, created, replayed: false })
        }
        Action::Delete if current.is_none() => Ok(Response::Deleted { revision: None, replayed: false }),
        Action::Delete => {
            state.revision = state.revision.next();
            txn.delete(row_key);
            Ok(Response::Deleted { revision: Some(state.revision), replayed: false })
        }
    }
}

fn current_revision(txn: &Txn<'_>, row_key: &Bytes) -> Result<Option<Revision>, Error> {
    txn.get(row_key)?
        .map(|row| RowValue::revision(row).map_err(|error| Error::Corrupt { what: format!("row: {error}") }))
        .transpose()
}
