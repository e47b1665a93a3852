//! What routers of two nodes say to each other. The answer carries the outcome in so many words; nothing is read into
//! a closed connection but "unknown".

use std::time::Duration;

use bytes::Bytes;

use super::{Attempt, Error, Read};
use crate::clock::Moment;
use crate::machine::Write;
use crate::machine::query::{ScanAnswer, ScanRequest};
use crate::machine::row::RowValue;
use crate::meters::{self, Stage, Stages};
use crate::ring::Token;
use crate::shard::{self, Consistency, ScannedPart};
use crate::types::{NodeId, Revision, ShardId};
use crate::wire::{Wire, WireError};
use crate::wire_struct;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRequest {
    pub shard: ShardId,
    pub write: Write,
}
wire_struct!(WriteRequest { shard, write });

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub shard: ShardId,
    pub key: Bytes,
    pub consistency: Consistency,
}
wire_struct!(ReadRequest { shard, key, consistency });

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanShardRequest {
    pub shard: ShardId,
    pub scan: ScanRequest,
    pub consistency: Consistency,
}
wire_struct!(ScanShardRequest { shard, scan, consistency });

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPointRequest {
    pub shard: ShardId,
    pub wanted: Option<Token>,
}
wire_struct!(SplitPointRequest { shard, wanted });

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRead {
    pub row: Option<RemoteRow>,
    pub consistency: Consistency,
    /// Milliseconds, rounded up, when the answer was sent; only of a stale one.
    pub staleness_ms: Option<u64>,
}
wire_struct!(RemoteRead { row, consistency, staleness_ms });

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRow {
    pub revision: Revision,
    pub content_type: Option<String>,
    pub value: Bytes,
}
wire_struct!(RemoteRow { revision, content_type, value });

impl RemoteRead {
    pub fn new(answer: shard::ReadAnswer) -> Self {
        let row =
            answer.row.map(|RowValue { revision, content_type, value }| RemoteRow { revision, content_type, value });
        Self { row, consistency: answer.served, staleness_ms: staleness_ms(answer.fresh_at) }
    }

    pub(super) fn into_read(self, asked: Moment, shard: ShardId, served_by: NodeId) -> Read {
        let row =
            self.row.map(|RemoteRow { revision, content_type, value }| RowValue { revision, content_type, value });
        Read { row, consistency: self.consistency, fresh_at: fresh_at(self.staleness_ms, asked), shard, served_by }
    }
}

fn staleness_ms(fresh_at: Option<Moment>) -> Option<u64> {
    shard::staleness(fresh_at).map(|age| u64::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// The same moment on this node's clock, or an earlier one: the answer was not sent before it was asked for.
fn fresh_at(staleness_ms: Option<u64>, asked: Moment) -> Option<Moment> {
    asked.before(Duration::from_millis(staleness_ms?))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteScan {
    pub answer: ScanAnswer,
    pub consistency: Consistency,
    /// As in [`RemoteRead`].
    pub staleness_ms: Option<u64>,
}
wire_struct!(RemoteScan { answer, consistency, staleness_ms });

impl RemoteScan {
    pub fn new(part: ScannedPart) -> Self {
        let ScannedPart { answer, served, fresh_at } = part;
        Self { answer, consistency: served, staleness_ms: staleness_ms(fresh_at) }
    }

    pub(super) fn into_part(self, asked: Moment) -> ScannedPart {
        let fresh_at = fresh_at(self.staleness_ms, asked);
        ScannedPart { answer: self.answer, served: self.consistency, fresh_at }
    }
}

/// A peer's answer to a routed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteAnswer<T> {
    Done(T),
    NotLeader {
        leader: Option<NodeId>,
    },
    /// No replica of the shard runs on that node, or it does not own what was asked for.
    NotHere,
    Overloaded,
    Unknown {
        why: String,
    },
    NoQuorum,
    DeadlineExceeded,
    Failed {
        what: String,
    },
    DiskFull {
        node: NodeId,
    },
    DiskSpent {
        node: NodeId,
    },
}

impl<T: Wire> Wire for RemoteAnswer<T> {
    fn encode(&self, out: &mut bytes::BytesMut) {
        match self {
            Self::Done(done) => {
                1_u8.encode(out);
                done.encode(out);
            }
            Self::NotLeader { leader } => {
                2_u8.encode(out);
                leader.encode(out);
            }
            Self::NotHere => 3_u8.encode(out),
            Self::Overloaded => 4_u8.encode(out),
            Self::Unknown { why } => {
                5_u8.encode(out);
                why.encode(out);
            }
            Self::NoQuorum => 6_u8.encode(out),
            Self::DeadlineExceeded => 7_u8.encode(out),
            Self::Failed { what } => {
                8_u8.encode(out);
                what.encode(out);
            }
            Self::DiskFull { node } => {
                9_u8.encode(out);
                node.encode(out);
            }
            Self::DiskSpent { node } => {
                10_u8.encode(out);
                node.encode(out);
            }
        }
    }

    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        Ok(match u8::decode(input)? {
            1 => Self::Done(T::decode(input)?),
            2 => Self::NotLeader { leader: Wire::decode(input)? },
            3 => Self::NotHere,
            4 => Self::Overloaded,
            5 => Self::Unknown { why: Wire::decode(input)? },
            6 => Self::NoQuorum,
            7 => Self::DeadlineExceeded,
            8 => Self::Failed { what: Wire::decode(input)? },
            9 => Self::DiskFull { node: Wire::decode(input)? },
            10 => Self::DiskSpent { node: Wire::decode(input)? },
            tag => return Err(WireError::UnknownTag { what: "routed answer", tag }),
        })
    }
}

/// An answer, and where the time of the request went on the node that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed<T> {
    pub answer: RemoteAnswer<T>,
    pub stages: Stages,
}

impl<T> Timed<T> {
    /// Carries a peer's request out. Its time is noted for the answer, and for nobody here.
    pub fn of<F: Future<Output = Result<T, shard::Error>>>(request: F) -> impl Future<Output = Self> {
        let traced = meters::traced(request);
        async {
            let (result, stages) = traced.await;
            Self { answer: RemoteAnswer::from_result(result), stages }
        }
    }

    /// Notes what was spent on that node, and the rest of what it `took` as the way there and back.
    pub(super) fn noted(self, took: Duration) -> RemoteAnswer<T> {
        meters::note_all(&self.stages);
        meters::note(Stage::Forward, took.saturating_sub(self.stages.sum()));
        self.answer
    }

    /// No replica of the shard runs here.
    pub fn not_here() -> Self {
        Self { answer: RemoteAnswer::NotHere, stages: Stages::default() }
    }
}

impl<T: Wire> Wire for Timed<T> {
    fn encode(&self, out: &mut bytes::BytesMut) {
        self.stages.encode(out);
        self.answer.encode(out);
    }

    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let stages = Stages::decode(input)?;
        Ok(Self { answer: RemoteAnswer::decode(input)?, stages })
    }
}

impl<T> RemoteAnswer<T> {
    pub fn from_result(result: Result<T, shard::Error>) -> Self {
        match result {
            Ok(done) => Self::Done(done),
            Err(shard::Error::NotLeader { leader }) => Self::NotLeader { leader: leader.map(|leader| leader.node) },
            Err(shard::Error::NotOwner(_)) => Self::NotHere,
            Err(shard::Error::Overloaded) => Self::Overloaded,
            Err(shard::Error::Unknown { why }) => Self::Unknown { why: why.into() },
            Err(shard::Error::NoQuorum) => Self::NoQuorum,
            Err(shard::Error::DeadlineExceeded) => Self::DeadlineExceeded,
            Err(shard::Error::Failed { what }) => Self::Failed { what },
            Err(shard::Error::DiskFull { node }) => Self::DiskFull { node },
            Err(shard::Error::DiskSpent { node }) => Self::DiskSpent { node },
        }
    }

    pub(super) fn into_attempt(self, shard: ShardId) -> Attempt<T> {
        let again = |leader, error| Attempt::Again { leader, error };
        match self {
            Self::Done(done) => Attempt::Done(done),
            Self::NotLeader { leader } => again(leader, Error::NoLeader { shard }),
            Self::NotHere => again(None, Error::NoLeader { shard }),
            Self::Overloaded => Attempt::Final(Error::Overloaded { shard }),
            Self::Unknown { why } => Attempt::Final(Error::Unknown { shard, why }),
            Self::NoQuorum => again(None, Error::NoQuorum { shard }),
            Self::DeadlineExceeded => Attempt::Final(Error::DeadlineExceeded { shard }),
            Self::Failed { what } => again(None, Error::Failed { shard, what }),
            Self::DiskFull { node } => Attempt::Final(Error::DiskFull { shard, node }),
            // Its leadership is about to go to whoever has room.
            Self::DiskSpent { node } => again(None, Error::DiskFull { shard, node }),
        }
    }
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
