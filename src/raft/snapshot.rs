//! Snapshots as streams: everything that `apply` reads, out of one view, with count and hash, never whole in memory.
//!
//! The sender walks a view in key order and packs rows into chunks. The receiver fills a new directory, checks count, hash
//! and applied record, makes it durable, and hands it to openraft; the switch is one synced registry record. A crash
//! leaves the old directory or the new one, never a mixture. An attempt that is given up takes its directory with it.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use xxhash_rust::xxh3::Xxh3;

use super::Vote;
use super::codec::AppliedRecord;
use super::network::{CHUNK_PROGRESS_TIMEOUT, FINISH_TIMEOUT};
use super::state_machine::applied_record;
use crate::machine::query;
use crate::machine::split::is_left_over;
use crate::mutants::planted;
use crate::ring::TokenRange;
use crate::storage::registry::directory_name;
use crate::storage::replica_store::{Install, ReplicaStore};
use crate::storage::{Batch, Disk, Error, KeyRange, View, keys, off_runtime};
use crate::types::ShardId;
use crate::wire_struct;

/// Rows of a chunk, in bytes; a single row may be larger.
pub const CHUNK_BYTES: usize = 1 << 20;
/// An attempt that got no piece for this long is given up. A sender waits `FINISH_TIMEOUT` for an answer at most, so of an
/// attempt that is silent for longer nobody waits any more; the rest is for the reading of the next piece. Given up too
/// early, an attempt costs the sender a start from the beginning and nothing else.
pub const SILENCE_MAX: Duration = FINISH_TIMEOUT.saturating_add(CHUNK_PROGRESS_TIMEOUT);

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
            let left_out = planted!(DedupLeftOutOfSnapshot => keys::is_dedup(&key); false);
            if travels(&key, self.range) && !left_out {
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

/// Everything but what is of the sender's own replica alone: its identity, and left-overs outside the shard's range.
fn travels(key: &Bytes, range: Option<TokenRange>) -> bool {
    const OWN: [&[u8]; 3] = [keys::REPLICA_IDENTITY, keys::LEFT_OVERS, keys::LEFT_OVERS_REMOVED];
    !OWN.contains(&key.as_ref()) && !is_left_over(key, range)
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
///
/// Invariant: its directory is open here and nowhere else, and no registry record names it.
pub struct Receiver {
    disk: Arc<dyn Disk>,
    directory: String,
    stream: u64,
    position: u64,
    install: Install,
    tally: Tally,
}

impl Receiver {
    /// Starts with the first piece of a stream, in a fresh directory: what an earlier attempt left there is removed.
    pub fn begin(store: &ReplicaStore, stream: u64, directory: u64) -> Result<Self, Error> {
        Ok(Self {
            disk: store.disk().clone(),
            directory: directory_name(store.identity().replica, directory),
            stream,
            position: 0,
            install: store.begin_install(directory)?,
            tally: Tally::new(),
        })
    }

    /// Takes the next piece. Blocks on writes: call it off the runtime's workers.
    ///
    /// # Errors
    /// When the piece is not the next one of this stream; the caller gives the receiver up.
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

    /// Checks what came and makes it durable; gives it up when anything is wrong.
    pub fn finish(self, end: &End) -> io::Result<Received> {
        match self.checked(end) {
            Ok(record) => Ok(Received { install: self.install, record }),
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    fn checked(&self, end: &End) -> io::Result<AppliedRecord> {
        if (self.tally.rows, self.tally.hash.digest()) != (end.rows, end.hash) {
            let what = format!("{} rows came, {} were sent, or their bytes differ", self.tally.rows, end.rows);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let view = self.install.finish()?;
        Ok(applied_record(view.as_ref())?)
    }

    /// Closes the directory and removes it. Blocks.
    fn give_up(self) {
        let Self { disk, directory, install, .. } = self;
        drop(install);
        if let Err(error) = disk.remove_replica(&directory) {
            // Tried again by the next attempt, which uses the same directory, and at the next start.
            tracing::warn!(%error, directory, "an unfinished snapshot could not be removed");
        }
    }
}

/// The place for a snapshot on its way in: one attempt at most for a replica. Every change of it, the removal of an
/// attempt's directory included, happens under its lock, for the next attempt uses the same directory.
///
/// An attempt ends with its last piece, with a piece that is wrong, with the first piece of another attempt, with
/// [`SILENCE_MAX`] without any piece, or with its replica. In all but the first case its directory goes too.
pub struct SnapshotSlot {
    attempt: Arc<Mutex<Option<Attempt>>>,
    silence_max: Duration,
}

impl Default for SnapshotSlot {
    fn default() -> Self {
        Self { attempt: Arc::default(), silence_max: SILENCE_MAX }
    }
}

struct Attempt {
    receiver: Receiver,
    /// How many pieces came. Dropped with the attempt, which ends the task that waits for its silence.
    pieces: watch::Sender<u64>,
}

/// A snapshot that came whole. While `slot` lives no attempt begins: until openraft has installed this one. One that is not
/// installed leaves its directory to the next attempt or the next start: after a switch that failed it may be the one that
/// the registry names.
pub struct Complete {
    pub received: Received,
    pub vote: Vote,
    pub slot: Locked,
}

/// Keeps the slot locked.
pub struct Locked {
    _slot: OwnedMutexGuard<Option<Attempt>>,
}

impl SnapshotSlot {
    /// Takes one piece; gives the snapshot with the last one. `stopped` comes true when the replica has stopped.
    pub async fn take(
        &self,
        store: &ReplicaStore,
        chunk: Chunk,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Option<Complete>> {
        let mut slot = self.attempt.clone().lock_owned().await;
        let begun = (chunk.position == 0).then(|| {
            let (pieces, heard) = watch::channel(0);
            tokio::spawn(give_up_in_silence(Arc::downgrade(&self.attempt), heard, self.silence_max, stopped));
            pieces
        });
        let store = store.clone();
        let disk = store.disk().clone();
        let vote = chunk.end.as_ref().map(|end| end.vote);
        // The lock goes along: should nobody wait for this piece any more, the next one finds the slot as this one left
        // it, and never a directory that is open and in no slot.
        let (slot, taken) = off_runtime(disk.as_ref(), move || {
            let taken = take_into(&mut slot, &store, &chunk, begun);
            (slot, taken)
        })
        .await;
        let complete = |received| vote.map(|vote| Complete { received, vote, slot: Locked { _slot: slot } });
        Ok(taken?.and_then(complete))
    }

    #[cfg(test)]
    fn with_silence_max(silence_max: Duration) -> Self {
        Self { silence_max, ..Self::default() }
    }
}

/// Blocks on the disk. `begun` comes with the first piece of an attempt.
fn take_into(
    slot: &mut Option<Attempt>,
    store: &ReplicaStore,
    chunk: &Chunk,
    begun: Option<watch::Sender<u64>>,
) -> io::Result<Option<Received>> {
    if let Some(pieces) = begun {
        if let Some(unfinished) = slot.take() {
            unfinished.receiver.give_up();
        }
        let receiver = Receiver::begin(store, chunk.stream, store.directory() + 1)?;
        *slot = Some(Attempt { receiver, pieces });
    }
    // A late piece of an older attempt does not harm the one that replaced it.
    let Some(mut attempt) = slot.take_if(|attempt| attempt.receiver.stream == chunk.stream) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such stream"));
    };
    if let Err(error) = attempt.receiver.take(chunk) {
        attempt.receiver.give_up();
        return Err(error);
    }
    match &chunk.end {
        Some(end) => attempt.receiver.finish(end).map(Some),
        None => {
            attempt.pieces.send_modify(|pieces| *pieces += 1);
            *slot = Some(attempt);
            Ok(None)
        }
    }
}

/// Waits until an attempt is over, and ends it when no piece comes for too long or the replica has stopped. Without it a
/// sender that vanished would leave an open RocksDB and its bytes on disk for ever.
async fn give_up_in_silence(
    slot: Weak<Mutex<Option<Attempt>>>,
    mut pieces: watch::Receiver<u64>,
    silence_max: Duration,
    stopped: impl Future<Output = ()>,
) {
    let mut stopped = pin!(stopped);
    loop {
        let has_stopped = tokio::select! {
            () = &mut stopped => true,
            heard = tokio::time::timeout(silence_max, pieces.changed()) => match heard {
                Ok(Ok(())) => continue,
                Ok(Err(_over)) => return,
                Err(_silence) => false,
            },
        };
        let Some(slot) = slot.upgrade() else { return };
        let mut slot = slot.lock_owned().await;
        // Who held the lock may have taken a piece, the last one, or the first one of another attempt.
        match pieces.has_changed() {
            Err(_over) => return,
            Ok(true) if !has_stopped => continue,
            Ok(_) => {}
        }
        let Some(Attempt { receiver, .. }) = slot.take() else { return };
        let why = if has_stopped { "its replica has stopped" } else { "its sender is silent" };
        let (directory, pieces) = (&receiver.directory, receiver.position);
        tracing::warn!(directory, pieces, "a snapshot on its way in is given up: {why}");
        let disk = receiver.disk.clone();
        off_runtime(disk.as_ref(), move || {
            receiver.give_up();
            drop(slot);
        })
        .await;
        return;
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
#[path = "snapshot_slot_tests.rs"]
mod slot_tests;
#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
