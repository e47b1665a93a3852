//! Snapshots as streams: everything that `apply` reads, out of one view, with count and hash, never whole in memory.
//!
//! The sender walks a view in key order and packs rows into chunks. The receiver fills a new directory, checks count, hash
//! and applied record, makes it durable, and hands it to openraft; the switch is one synced registry record. A crash
//! leaves the old directory or the new one, never a mixture.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::Vote;
use super::codec::AppliedRecord;
use super::state_machine::applied_record;
use crate::machine::query;
use crate::ring::{Token, TokenRange, token_of};
use crate::storage::replica_store::{Install, ReplicaStore};
use crate::storage::{Batch, Error, KeyRange, View, keys};
use crate::types::ShardId;
use crate::wire_struct;

/// Rows of a chunk, in bytes; a single row may be larger.
pub const CHUNK_BYTES: usize = 1 << 20;

/// What openraft passes around.
pub enum SnapshotData {
    /// Rows of this replica, to be sent.
    View(Arc<dyn View>),
    /// Rows from the leader, verified and durable, to be switched to.
    Received(Box<Received>),
}

impl std::fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SnapshotData::View(_) => "View",
            SnapshotData::Received(_) => "Received",
        })
    }
}

pub struct Received {
    pub install: Install,
    pub record: AppliedRecord,
}

/// One piece of a stream. Pieces of a stream come in order, each after the answer to the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Drawn by the sender for each attempt: a piece of an older attempt is refused.
    pub stream: u64,
    pub position: u64,
    pub rows: Vec<(Bytes, Bytes)>,
    /// Only in the last piece.
    pub end: Option<End>,
}
wire_struct!(Chunk { stream, position, rows, end });

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub vote: Vote,
    pub rows: u64,
    pub hash: u64,
}
wire_struct!(End { vote, rows, hash });

/// Walks a view. Blocks on reads: call it off the runtime's workers.
pub struct Sender {
    view: Arc<dyn View>,
    range: Option<TokenRange>,
    next: Bytes,
    tally: Tally,
}

impl Sender {
    pub fn new(view: Arc<dyn View>, shard: ShardId) -> Result<Self, Error> {
        let range = query::shard_state(view.as_ref(), shard)?.range;
        Ok(Self { view, range, next: Bytes::new(), tally: Tally::new() })
    }

    /// The next rows, and whether they are the last.
    pub fn next_rows(&mut self) -> Result<(Vec<(Bytes, Bytes)>, bool), Error> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        for row in self.view.scan(&KeyRange { from: self.next.clone(), before: None }) {
            let (key, value) = row?;
            if bytes >= CHUNK_BYTES {
                self.next = key;
                return Ok((rows, false));
            }
            if travels(&key, self.range) {
                bytes += key.len() + value.len();
                self.tally.add(&key, &value);
                rows.push((key, value));
            }
        }
        Ok((rows, true))
    }

    pub fn end(&self, vote: Vote) -> End {
        End { vote, rows: self.tally.rows, hash: self.tally.hash.digest() }
    }
}

/// Everything but the identity of the sender's own replica, and left-overs outside the shard's range.
fn travels(key: &Bytes, range: Option<TokenRange>) -> bool {
    if key.as_ref() == keys::REPLICA_IDENTITY {
        return false;
    }
    let dedup_key = keys::dedup_of_age(key).unwrap_or_else(|| key.clone());
    let token = keys::user_key(key).map(|key| token_of(&key)).or(keys::dedup_token(&dedup_key).map(Token));
    token.is_none_or(|token| range.is_some_and(|range| range.contains(token)))
}

/// Count and hash over rows in key order.
struct Tally {
    rows: u64,
    hash: Xxh3,
}

impl Tally {
    fn new() -> Self {
        Self { rows: 0, hash: Xxh3::new() }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        for part in [key, value] {
            self.hash.update(&(part.len() as u64).to_be_bytes());
            self.hash.update(part);
        }
    }
}

/// A snapshot on its way in.
pub struct Receiver {
    stream: u64,
    position: u64,
    install: Install,
    tally: Tally,
}

impl Receiver {
    /// Starts with the first piece of a stream, in a fresh directory.
    pub fn begin(store: &ReplicaStore, stream: u64, directory: u64) -> Result<Self, Error> {
        Ok(Self { stream, position: 0, install: store.begin_install(directory)?, tally: Tally::new() })
    }

    pub fn stream(&self) -> u64 {
        self.stream
    }

    /// Takes the next piece. Blocks on writes: call it off the runtime's workers.
    ///
    /// # Errors
    /// When the piece is not the next one of this stream; the caller drops the receiver.
    pub fn take(&mut self, chunk: &Chunk) -> io::Result<()> {
        if (chunk.stream, chunk.position) != (self.stream, self.position) {
            let what = format!("piece {} of another order than the expected {}", chunk.position, self.position);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let mut batch = Batch::default();
        for (key, value) in &chunk.rows {
            self.tally.add(key, value);
            batch.put(key.clone(), value.clone());
        }
        self.install.write(batch)?;
        self.position += 1;
        Ok(())
    }

    /// Checks what came and makes it durable.
    pub fn finish(self, end: &End) -> io::Result<Received> {
        if (self.tally.rows, self.tally.hash.digest()) != (end.rows, end.hash) {
            let what = format!("{} rows came, {} were sent, or their bytes differ", self.tally.rows, end.rows);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let view = self.install.finish()?;
        let record = applied_record(view.as_ref())?;
        Ok(Received { install: self.install, record })
    }
}

/// Hash over everything a snapshot of this view would carry but the applied record: equal on all replicas of a shard at the
/// same applied index, which is given with it. Blocks on reads.
pub fn digest(view: &dyn View, shard: ShardId) -> Result<(Option<u64>, u64), Error> {
    let range = query::shard_state(view, shard)?.range;
    let mut tally = Tally::new();
    for row in view.scan(&KeyRange { from: Bytes::new(), before: None }) {
        let (key, value) = row?;
        if travels(&key, range) && key.as_ref() != keys::APPLIED {
            tally.add(&key, &value);
        }
    }
    let applied = applied_record(view)?.applied.map(|log_id| log_id.index());
    Ok((applied, tally.hash.digest()))
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
