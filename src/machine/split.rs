//! A shard that becomes two: what changes in the parent's state, and what the child's begins with (`architecture` §6).
//!
//! Everything is decided here, from replicated state (`models` §1). What a replica does on its disk by it is in
//! `raft/birth`.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::command::{Fence, Response, Split, SplitRefusal};
use super::dedup;
use super::state::{LastSplit, ShardState};
use super::txn::Txn;
use crate::mutants::planted;
use crate::ring::{Token, TokenRange, token_of};
use crate::storage::{Error, keys};
use crate::types::{Epoch, ReplicaId};

/// Where an entry stands in its log. The same on every replica.
pub trait Place {
    fn index(&self) -> u64;
    fn members(&self) -> Members;
}

/// A group's membership in front of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The entry that made it; none before the first.
    pub index: Option<u64>,
    pub voters: BTreeSet<ReplicaId>,
    /// No change is half done, and there are no learners.
    pub are_settled: bool,
}

pub(super) fn apply_split(
    txn: &mut Txn<'_>,
    state: &mut ShardState,
    split: &Split,
    place: &impl Place,
) -> Result<Response, Error> {
    let refused = |why| Ok(Response::NotSplit { why });
    if split.epoch != state.epoch {
        return refused(SplitRefusal::Epoch { epoch: state.epoch });
    }
    if state.fenced == Some(split.child) {
        return refused(SplitRefusal::Fenced);
    }
    let members = place.members();
    let parents: BTreeSet<ReplicaId> = split.births.iter().map(|birth| birth.parent).collect();
    if !members.are_settled || members.index != Some(split.membership) || members.voters != parents {
        return refused(SplitRefusal::Membership);
    }
    let Some(range) = state.range.filter(|range| range.first < split.at && range.contains(split.at)) else {
        return refused(SplitRefusal::Token);
    };
    let goes = dedup::count(txn, TokenRange { first: split.at, last: range.last })?;
    let stays = TokenRange { first: range.first, last: Token(split.at.0 - 1) };
    state.range = Some(planted!(SplitWithoutFence => range; stays));
    state.epoch.0 += 1;
    state.dedup_count -= goes;
    state.last_split = Some(LastSplit { child: split.child, index: place.index(), births: split.births.clone() });
    Ok(Response::Split)
}

/// What the child begins with: revision clock, shard time and idempotency records are carried over (`models` §4). `before`
/// is the parent's state in front of the split, `after` the one behind it.
pub fn child_state(before: &ShardState, after: &ShardState, split: &Split) -> ShardState {
    let last = before.range.map_or(Token::LAST, |range| range.last);
    ShardState {
        shard: split.child,
        range: Some(TokenRange { first: split.at, last }),
        epoch: Epoch(1),
        revision: before.revision,
        time_ms: before.time_ms,
        dedup_count: before.dedup_count - after.dedup_count,
        last_split: None,
        fenced: None,
    }
}

/// Raises the epoch, so that no copy of the split that is still on its way is taken (`models` §10).
pub(super) fn apply_fence(state: &mut ShardState, fence: &Fence) -> Response {
    let has_split = state.last_split.as_ref().is_some_and(|split| split.child == fence.child);
    if !has_split && state.fenced != Some(fence.child) {
        state.fenced = Some(fence.child);
        state.epoch.0 += 1;
    }
    Response::Fenced
}

/// A row, or a record of an idempotency key, of a token that is not the shard's: a split left it here.
pub fn is_left_over(key: &Bytes, range: Option<TokenRange>) -> bool {
    let dedup_key = keys::dedup_of_age(key).unwrap_or_else(|| key.clone());
    let token = keys::user_key(key).map(|key| token_of(&key)).or(keys::dedup_token(&dedup_key).map(Token));
    token.is_some_and(|token| !range.is_some_and(|range| range.contains(token)))
}
