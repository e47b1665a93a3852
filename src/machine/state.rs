//! A shard's replicated state beside its rows: what it owns and its clocks. One record, written in the same batch as the
//! rows it belongs to.

use bytes::{Bytes, BytesMut};

use crate::catalog::ReplicaBirth;
use crate::ring::{Token, TokenRange, token_of};
use crate::types::{Epoch, ReplicaId, Revision, ShardId};
use crate::wire::{Wire, WireError, take_format};
use crate::wire_struct;

/// Format 1 knew nothing of splits.
const FORMAT: u8 = 2;

/// The last split of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastSplit {
    pub child: ShardId,
    /// Its entry in the shard's log.
    pub index: u64,
    /// One for each voter of that moment.
    pub births: Vec<ReplicaBirth>,
}
wire_struct!(LastSplit { child, index, births });

impl LastSplit {
    /// The replica that was born beside this one, or is to be made there.
    pub fn child_of(&self, parent: ReplicaId) -> Option<ReplicaId> {
        self.births.iter().find(|birth| birth.parent == parent).map(|birth| birth.child)
    }
}

/// Invariants: `revision` and `time_ms` never go down; `range` is none before the shard's birth, and always in the meta
/// group; `dedup_count` is the number of the range's dedup records that stand in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    pub shard: ShardId,
    pub range: Option<TokenRange>,
    pub epoch: Epoch,
    /// The last revision given out.
    pub revision: Revision,
    /// Shard time in milliseconds (see [`super::command::Write::time_ms`]).
    pub time_ms: u64,
    pub dedup_count: u64,
    /// An operation holds the shard until every replica of the child runs, so one is enough.
    pub last_split: Option<LastSplit>,
    /// The child of the split that was last given up: no entry makes it any more.
    pub fenced: Option<ShardId>,
}

impl ShardState {
    /// Before the first entry.
    pub fn unborn(shard: ShardId) -> Self {
        Self {
            shard,
            range: None,
            epoch: Epoch(0),
            revision: Revision(0),
            time_ms: 0,
            dedup_count: 0,
            last_split: None,
            fenced: None,
        }
    }

    pub fn owns(&self, key: &[u8]) -> bool {
        self.owns_token(token_of(key))
    }

    pub fn owns_token(&self, token: Token) -> bool {
        self.range.is_some_and(|range| range.contains(token))
    }
}

impl Wire for ShardState {
    fn encode(&self, out: &mut BytesMut) {
        FORMAT.encode(out);
        self.shard.encode(out);
        self.range.encode(out);
        self.epoch.encode(out);
        self.revision.encode(out);
        self.time_ms.encode(out);
        self.dedup_count.encode(out);
        self.last_split.encode(out);
        self.fenced.encode(out);
    }

    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let found = take_format(input, "shard state", FORMAT)?;
        let mut state = Self {
            shard: Wire::decode(input)?,
            range: Wire::decode(input)?,
            epoch: Wire::decode(input)?,
            revision: Wire::decode(input)?,
            time_ms: Wire::decode(input)?,
            dedup_count: Wire::decode(input)?,
            last_split: None,
            fenced: None,
        };
        if found == FORMAT {
            state.last_split = Wire::decode(input)?;
            state.fenced = Wire::decode(input)?;
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::golden;

    #[test]
    fn the_record_keeps_its_bytes() {
        let born = ShardState {
            shard: ShardId(3),
            range: Some(TokenRange::full()),
            epoch: Epoch(2),
            revision: Revision(0x18f3c5a2b0001),
            time_ms: 77,
            dedup_count: 5,
            last_split: None,
            fenced: Some(ShardId(0x0102)),
        };
        let births = vec![ReplicaBirth { parent: ReplicaId(0x0203), child: ReplicaId(0x0304) }];
        let last_split = Some(LastSplit { child: ShardId(0x0405), index: 0x0506, births });
        let split = ShardState { last_split, fenced: None, ..born.clone() };
        golden::check("shard_state", &[ShardState::unborn(ShardId(1)), born, split]);
    }

    #[test]
    fn a_record_from_before_there_were_splits_is_read() {
        let mut record = BytesMut::from(&ShardState::unborn(ShardId(1)).to_bytes()[..]);
        // Two options that are none stand at its end.
        record.truncate(record.len() - 2);
        record[0] = 1;
        assert_eq!(ShardState::from_bytes(record.freeze()), Ok(ShardState::unborn(ShardId(1))));
    }
}
