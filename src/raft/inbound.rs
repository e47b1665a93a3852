//! RPCs in: the other side of `network`. Refuses what is meant for another incarnation, and votes during the hold-off.

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use openraft::storage::{Snapshot, SnapshotMeta};

use super::TypeConfig;
use super::freshness::{Append, AppendAnswer};
use super::network::{GroupHeader, SnapshotAnswer, TransferAnswer};
use super::replica::Replica;
pub use super::snapshot::SnapshotSlot;
use super::snapshot::{Chunk, Complete, SnapshotData};
use crate::method::Method;
use crate::storage::reserve::Room;
use crate::types::META_SHARD;
use crate::wire::{Wire, WireError};

/// Why a Raft request was not answered by the replica. The sender backs off.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("this replica is {here}, the request is for {wanted}")]
    OtherReplica { here: crate::types::ReplicaId, wanted: crate::types::ReplicaId },
    /// The replica started a moment ago and may have forgotten a lease that it granted.
    #[error("this replica neither votes nor campaigns yet: it may have forgotten a lease")]
    HeldOff,
    /// As if it could not be reached, until there is room again.
    #[error("this node's disk is almost full")]
    NoRoom,
    #[error("{0} is no Raft request")]
    NotRaft(&'static str),
    #[error("the request cannot be read: {0}")]
    Malformed(#[from] WireError),
    #[error("the replica has stopped: {0}")]
    Stopped(String),
    #[error("the snapshot was not taken: {0}")]
    Snapshot(String),
}

impl Replica {
    /// Answers one Raft request of a peer.
    pub async fn handle(&self, header: GroupHeader, method: Method, body: Bytes) -> Result<Bytes, Refused> {
        if header.to != self.id() || header.shard != self.shard() {
            return Err(Refused::OtherReplica { here: self.id(), wanted: header.to });
        }
        match method {
            Method::Append => {
                let Append { request, vouch } = Append::from_bytes(body)?;
                if !request.entries.is_empty() {
                    self.refuse_when_spent()?;
                }
                let commit = request.leader_commit.map(|log_id| log_id.index());
                let answer = self.raft().append_entries(request).await.map_err(stopped)?;
                // True whatever the answer is: it speaks of what was committed, not of who leads now.
                self.freshness().heard(vouch, commit, self.applied_index());
                Ok(AppendAnswer { answer, stamp: self.freshness().stamp(), room: self.rooms().own() }.to_bytes())
            }
            Method::Vote => {
                self.refuse_in_hold_off()?;
                let request = VoteRequest::<TypeConfig>::from_bytes(body)?;
                Ok(self.raft().vote(request).await.map_err(stopped)?.to_bytes())
            }
            Method::PreVote => {
                self.refuse_in_hold_off()?;
                let request = VoteRequest::<TypeConfig>::from_bytes(body)?;
                Ok(self.raft().pre_vote(request).await.map_err(stopped)?.to_bytes())
            }
            Method::TransferLeader => {
                self.refuse_in_hold_off()?;
                let request = TransferLeaderRequest::<TypeConfig>::from_bytes(body)?;
                let answer = self.raft().handle_transfer_leader(request).await.map_err(stopped)?;
                Ok(TransferAnswer(answer).to_bytes())
            }
            Method::SnapshotChunk => {
                let chunk = Chunk::from_bytes(body)?;
                self.refuse_snapshot_without_room(&chunk)?;
                self.take_chunk(chunk).await
            }
            _ => Err(Refused::NotRaft("this method")),
        }
    }

    fn refuse_in_hold_off(&self) -> Result<(), Refused> {
        if self.is_held_off() { Err(Refused::HeldOff) } else { Ok(()) }
    }

    /// The meta group's is taken: it is little, and without it nobody could make room.
    fn refuse_when_spent(&self) -> Result<(), Refused> {
        let is_spent = self.rooms().own() == Room::Spent;
        if is_spent && self.shard() != META_SHARD { Err(Refused::NoRoom) } else { Ok(()) }
    }

    /// A snapshot stands beside what it replaces until it is complete, and is taken to be as large. A node that is short of
    /// room may need it: it can hold the deletes that make room.
    fn refuse_snapshot_without_room(&self, chunk: &Chunk) -> Result<(), Refused> {
        let replaced = if chunk.position == 0 { self.machine().store.engine().disk_bytes() } else { 0 };
        if self.shard() == META_SHARD || self.rooms().reserve().has_room_for(replaced) {
            Ok(())
        } else {
            Err(Refused::NoRoom)
        }
    }

    async fn take_chunk(&self, chunk: Chunk) -> Result<Bytes, Refused> {
        let mut metrics = self.raft().metrics();
        let has_stopped = async move {
            loop {
                let runs = metrics.borrow_watched().running_state.is_ok();
                if !runs || metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        let taken = self.snapshot_slot().take(&self.machine().store, chunk, has_stopped).await;
        let Some(complete) = taken.map_err(|error| Refused::Snapshot(error.to_string()))? else {
            return Ok(SnapshotAnswer::Next.to_bytes());
        };
        let Complete { received, vote, slot: _locked } = complete;
        let meta =
            SnapshotMeta { last_log_id: received.record.applied, last_membership: received.record.membership.clone() };
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(Box::new(received)) };
        let answer = self.raft().install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(SnapshotAnswer::Installed(answer.vote).to_bytes())
    }
}

fn stopped(error: impl std::fmt::Display) -> Refused {
    Refused::Stopped(error.to_string())
}
