//! openraft's log on the node's shared log store: entries become bytes here, and log ids markers.
//!
//! The promises asked of it are in `openraft` §5.1–5.2; the layer below keeps them (order, one sync for all groups,
//! contiguous reads), this one only translates and never softens.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use super::meters::{RaftMeters, Timeline};
use super::{Entry, LeaderId, LogId, TypeConfig, Vote};
use crate::storage::log_store::GroupLog;
use crate::wire::Wire;

/// Entries given to replication at once, in bytes.
const REPLICATION_BYTES_MAX: usize = 1 << 20;
/// Entries read for apply at once, in bytes.
const APPLY_CHUNK_BYTES_MAX: usize = 1 << 20;

#[derive(Clone)]
pub struct RaftLog {
    log: GroupLog,
    timeline: Arc<Timeline>,
    meters: RaftMeters,
    /// The last leader that was voted in, as far as this replica knows.
    leader: Option<LeaderId>,
}

impl RaftLog {
    pub(super) fn new(log: GroupLog, timeline: Arc<Timeline>, meters: RaftMeters) -> Self {
        Self { log, timeline, meters, leader: None }
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let stored = self.log.read(start, end, bytes_max)?;
        stored.into_iter().map(|(index, bytes)| decode_entry(index, bytes)).collect()
    }
}

fn decode_entry(index: u64, bytes: Bytes) -> io::Result<Entry> {
    let entry = Entry::from_bytes(bytes)?;
    if entry.index() != index {
        let what = format!("the log entry under index {index} says it is {}", entry.index());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(entry)
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.read_vote()?.map(Vote::from_bytes).transpose()?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read(start, end, REPLICATION_BYTES_MAX)?;
        // A purged start is an empty answer, never a later start: the caller then sends a snapshot.
        if entries.first().is_some_and(|first| first.index() != start) {
            return Ok(Vec::new());
        }
        Ok(entries)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let log = self.clone();
        Box::pin(futures::stream::try_unfold((start, Vec::new().into_iter()), move |(mut next, mut chunk)| {
            let log = log.clone();
            async move {
                if next >= end {
                    return Ok(None);
                }
                let entry: Entry = match chunk.next() {
                    Some(entry) => entry,
                    None => {
                        chunk = log.read(next, end, APPLY_CHUNK_BYTES_MAX)?.into_iter();
                        let Some(entry) = chunk.next() else { return Ok(None) };
                        entry
                    }
                };
                // A hole here would silently skip a write on this replica alone.
                if entry.index() != next {
                    let what = format!("log entry {next} is missing, {} follows", entry.index());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                next += 1;
                Ok(Some((entry, (next, chunk))))
            }
        }))
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let purged = self.log.purged().map(|(_, marker)| LogId::from_bytes(marker)).transpose()?;
        let last = match self.log.last_index() {
            None => None,
            Some(last) if self.log.purged().is_some_and(|(index, _)| index == last) => purged,
            Some(last) => Some(
                self.read(last, last + 1, 1)?
                    .first()
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("log entry {last} is missing")))?
                    .log_id(),
            ),
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if vote.is_committed() && self.leader != Some(vote.leader_id) {
            self.leader = Some(vote.leader_id);
            self.meters.count_leader_change();
        }
        Ok(self.log.save_vote(vote.to_bytes()).await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        match committed {
            Some(committed) => Ok(self.log.save_committed(committed.to_bytes()).await?),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let saved = self.log.read_committed()?.map(LogId::from_bytes).transpose()?;
        // The hint may name entries whose own sync never came.
        Ok(saved.filter(|committed| Some(committed.index()) <= self.log.last_index()))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().map(|entry| (entry.index(), entry.to_bytes())).collect();
        let synced = entries.first().zip(entries.last()).map(|(first, last)| self.timeline.append(first.0, last.0));
        let done = Box::new(move |result: Result<(), crate::storage::Error>| {
            if let Some(synced) = synced {
                synced();
            }
            callback.io_completed(result.map_err(io::Error::from));
        });
        Ok(self.log.append(entries, done).await?)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        Ok(self.log.truncate_after(last_log_id.map(|log_id| log_id.index())).await?)
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        Ok(self.log.purge(log_id.index(), log_id.to_bytes()).await?)
    }
}

#[cfg(test)]
#[path = "log_store_tests.rs"]
mod tests;
