//! A shard's replicated state beside its rows: what it owns and its clocks. One record, written in the same batch as the
//! rows it belongs to.

use bytes::{Bytes, BytesMut};

use crate::ring::{TokenRange, token_of};
use crate::types::{Epoch, Revision, ShardId};
use crate::wire::{Wire, WireError, take_format};

const FORMAT: u8 = 1;

/// Invariants: `revision` and `time_ms` never go down; `range` is none before the shard's birth, and always in the meta
/// group; `dedup_count` is the number of dedup records that stand in the store.
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
}

impl ShardState {
    /// Before the first entry.
    pub fn unborn(shard: ShardId) -> Self {
        Self { shard, range: None, epoch: Epoch(0), revision: Revision(0), time_ms: 0, dedup_count: 0 }
    }

    pub fn owns(&self, key: &[u8]) -> bool {
        self.range.is_some_and(|range| range.contains(token_of(key)))
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
    }

    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        take_format(input, "shard state", FORMAT)?;
        Ok(Self {
            shard: Wire::decode(input)?,
            range: Wire::decode(input)?,
            epoch: Wire::decode(input)?,
            revision: Wire::decode(input)?,
            time_ms: Wire::decode(input)?,
            dedup_count: Wire::decode(input)?,
        })
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
        };
        golden::check("shard_state", &[ShardState::unborn(ShardId(1)), born]);
    }
}
