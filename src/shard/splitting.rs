//! What a shard's leader says of splits: whether the shard has split, and where it could.

use super::group::{Consistency, Error, Group, failed};
use crate::clock::Moment;
use crate::machine::query;
use crate::ring::{Token, TokenRange, token_of};
use crate::storage::{self, View, keys, off_runtime};
use crate::types::{Epoch, ShardId};
use crate::wire_struct;

/// Tokens of rows that are looked at for a median: 16 MB of them.
const SAMPLE_ROWS_MAX: usize = 2_000_000;

/// Of the state that holds everything committed before it was asked for (`models` §9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitState {
    pub epoch: Epoch,
    /// The child of the last split.
    pub last_child: Option<ShardId>,
    /// The child of the split that was last given up.
    pub fenced: Option<ShardId>,
}
wire_struct!(SplitState { epoch, last_child, fenced });

/// Where a shard can be split so that both sides have rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitPoint {
    At {
        token: Token,
    },
    /// No token, or not the one that was asked about.
    None {
        why: String,
    },
}
crate::wire_enum!(SplitPoint { 1 => At { token }, 2 => None { why } });

impl Group {
    /// At the leader alone.
    pub async fn split_state(&self, deadline: Moment) -> Result<SplitState, Error> {
        self.passed_barrier(Consistency::Linearizable, deadline).await?;
        let state = self.replica().machine().state.lock().expect("no panic while the state is copied").clone();
        let last_child = state.last_split.map(|split| split.child);
        Ok(SplitState { epoch: state.epoch, last_child, fenced: state.fenced })
    }

    /// The token asked about, or the median of the rows' tokens, if it leaves rows on both sides. At the leader alone. Reads
    /// many rows: of a large shard the median is that of its first [`SAMPLE_ROWS_MAX`] rows in key order.
    pub async fn split_point(&self, wanted: Option<Token>, deadline: Moment) -> Result<SplitPoint, Error> {
        self.passed_barrier(Consistency::Linearizable, deadline).await?;
        let store = self.replica().machine().store.clone();
        let shard = self.shard();
        let disk = store.disk().clone();
        let found = off_runtime(disk.as_ref(), move || find_point(store.view().as_ref(), shard, wanted)).await;
        found.map_err(failed)
    }
}

fn find_point(view: &dyn View, shard: ShardId, wanted: Option<Token>) -> Result<SplitPoint, storage::Error> {
    let Some(range) = query::shard_state(view, shard)?.range else {
        return Ok(SplitPoint::None { why: "the shard has no range yet".into() });
    };
    let rows = view.scan(&keys::row_range(&[], None)).map(|row| row.map(|(key, _)| token_of(&key[1..])));
    // Left-overs of an earlier split are no rows of the shard.
    let tokens = rows.filter(|token| token.as_ref().map_or(true, |token| range.contains(*token)));
    match wanted {
        Some(token) => check_point(tokens, token, range),
        None => median(tokens.take(SAMPLE_ROWS_MAX).collect::<Result<_, _>>()?),
    }
}

fn check_point(
    tokens: impl Iterator<Item = Result<Token, storage::Error>>,
    wanted: Token,
    range: TokenRange,
) -> Result<SplitPoint, storage::Error> {
    if wanted <= range.first || wanted > range.last {
        let why = format!("the shard has the tokens {} to {}", range.first, range.last);
        return Ok(SplitPoint::None { why });
    }
    let (mut is_below, mut is_above) = (false, false);
    for token in tokens {
        if token? < wanted {
            is_below = true
        } else {
            is_above = true
        }
        if is_below && is_above {
            return Ok(SplitPoint::At { token: wanted });
        }
    }
    let empty = if is_above { "below it" } else { "at it or above" };
    Ok(SplitPoint::None { why: format!("the shard has no rows {empty}") })
}

/// The token with as many rows below it as there can be up to half of them; rows of one token stay together.
fn median(mut tokens: Vec<Token>) -> Result<SplitPoint, storage::Error> {
    tokens.sort_unstable();
    let middle = tokens.get(tokens.len() / 2).copied();
    let lowest = tokens.first().copied();
    let above = |token: Token| tokens.iter().copied().find(|other| *other > token);
    let point = middle.and_then(|middle| if lowest < Some(middle) { Some(middle) } else { above(middle) });
    Ok(point.map_or_else(
        || SplitPoint::None { why: "its rows do not have two tokens".into() },
        |token| SplitPoint::At { token },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::golden;

    fn tokens(tokens: &[u64]) -> Vec<Token> {
        tokens.iter().copied().map(Token).collect()
    }

    #[test]
    fn what_a_leader_says_of_splits_keeps_its_bytes() {
        let state = SplitState { epoch: Epoch(0x0102), last_child: Some(ShardId(0x0304)), fenced: None };
        golden::check("split_state", &[state]);
        let points = [SplitPoint::At { token: Token(0x0102) }, SplitPoint::None { why: "no".into() }];
        golden::check("split_point", &points);
        golden::has_every_tag(&points);
    }

    #[test]
    fn a_median_leaves_rows_on_both_sides() {
        let at = |found: Vec<Token>| match median(found).unwrap() {
            SplitPoint::At { token } => Some(token.0),
            SplitPoint::None { .. } => None,
        };
        assert_eq!(at(tokens(&[4, 1, 3, 2])), Some(3));
        assert_eq!(at(tokens(&[1, 1, 1, 5])), Some(5), "the middle is the lowest token");
        assert_eq!(at(tokens(&[1, 5, 5, 5])), Some(5));
        assert_eq!(at(tokens(&[7, 7])), None, "one hash tag");
        assert_eq!(at(tokens(&[7])), None);
        assert_eq!(at(tokens(&[])), None);
    }

    #[test]
    fn a_token_is_taken_only_with_rows_on_both_sides() {
        let range = TokenRange { first: Token(10), last: Token(20) };
        let at = |wanted| {
            let rows = tokens(&[12, 18]).into_iter().map(Ok);
            check_point(rows, Token(wanted), range).unwrap()
        };
        assert_eq!(at(13), SplitPoint::At { token: Token(13) });
        assert_eq!(at(18), SplitPoint::At { token: Token(18) });
        for (wanted, why) in [
            (10, "has the tokens"),
            (9, "has the tokens"),
            (21, "has the tokens"),
            (12, "no rows below it"),
            (19, "no rows at it or above"),
        ] {
            let SplitPoint::None { why: said } = at(wanted) else { panic!("{wanted} was taken") };
            assert!(said.contains(why), "{wanted}: {said}");
        }
    }
}
