//! RPCs out: openraft's requests as peer calls. One append in flight for each follower and group; votes and heartbeats
//! have a lane of their own, so that no bulk of data delays a lease.
//!
//! Every frame names shard, sender and the replica it is meant for; the other side refuses one meant for another
//! incarnation, it never answers for it (`architecture` §3).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;

use super::freshness::{Append, AppendAnswer, Freshness};
use super::pace::Pace;
use super::rooms::Rooms;
use super::snapshot::{Chunk, Sender, SnapshotData};
use super::state_machine::MachineShared;
use super::{LeaderId, Place, TypeConfig, Vote};
use crate::clock;
use crate::method::Method;
use crate::mutants::planted;
use crate::storage::{Disk, off_runtime};
use crate::transport::{CallError, Lane, Lost, Peers};
use crate::types::{NodeId, ReplicaId, ShardId};
use crate::wire::Wire;
use crate::wire_struct;

/// A snapshot stream that makes no progress for this long is given up; openraft then starts over after its backoff.
pub(super) const CHUNK_PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// The last piece also waits for the receiver's flush and switch.
pub(super) const FINISH_TIMEOUT: Duration = Duration::from_secs(60);

/// In front of every Raft frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    pub shard: ShardId,
    pub from: ReplicaId,
    pub to: ReplicaId,
}
wire_struct!(GroupHeader { shard, from, to });

pub fn frame(header: GroupHeader, request: &impl Wire) -> Bytes {
    let mut out = BytesMut::new();
    header.encode(&mut out);
    request.encode(&mut out);
    out.freeze()
}

#[derive(Clone)]
pub struct Network {
    pub peers: Peers,
    pub disk: Arc<dyn Disk>,
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub freshness: Freshness,
    pub rooms: Rooms,
    pub pace: Pace,
    pub machine: Arc<MachineShared>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: ReplicaId, place: &Place) -> Client {
        self.client(target, place, Lane::Data)
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, place: &Place) -> Client {
        self.client(target, place, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: ReplicaId, place: &Place) -> Client {
        self.client(target, place, Lane::Bulk)
    }
}

impl Network {
    fn client(&self, target: ReplicaId, place: &Place, lane: Lane) -> Client {
        let header = GroupHeader { shard: self.shard, from: self.replica, to: target };
        Client {
            peers: self.peers.clone(),
            disk: self.disk.clone(),
            freshness: self.freshness.clone(),
            rooms: self.rooms.clone(),
            pace: self.pace.clone(),
            machine: self.machine.clone(),
            header,
            node: place.node,
            lane,
        }
    }
}

/// Calls one replica on one lane.
pub struct Client {
    peers: Peers,
    disk: Arc<dyn Disk>,
    freshness: Freshness,
    rooms: Rooms,
    pace: Pace,
    machine: Arc<MachineShared>,
    header: GroupHeader,
    node: NodeId,
    lane: Lane,
}

impl Client {
    async fn call<A: Wire>(
        &self,
        lane: Lane,
        method: Method,
        request: &impl Wire,
        timeout: Duration,
        kind: RPCTypes,
    ) -> Result<A, RPCError<TypeConfig>> {
        let body = frame(self.header, request);
        match self.peers.call(self.node, lane, method as u8, body, timeout).await {
            Ok(reply) => A::from_bytes(reply.body).map_err(|error| RPCError::Network(NetworkError::new(&error))),
            Err(CallError::Lost(Lost::DeadlinePassed)) => {
                Err(RPCError::Timeout(Timeout { action: kind, id: self.header.from, target: self.header.to, timeout }))
            }
            // No connection, or a peer that will not answer for this replica now: back off.
            Err(error @ (CallError::NotSent(_) | CallError::Refused { .. })) => {
                Err(RPCError::Unreachable(Unreachable::new(&error)))
            }
            Err(error @ CallError::Lost(_)) => Err(RPCError::Network(NetworkError::new(&error))),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let vouch = self.freshness.vouch(self.header.to, request.leader_commit.map(|log_id| log_id.index()));
        let append = Append { request, vouch };
        let called = self.call(self.lane, Method::Append, &append, option.hard_ttl(), RPCTypes::AppendEntries).await;
        planted!(AckBeforeQuorum => if matches!(called, Err(RPCError::Timeout(_))) && !append.request.entries.is_empty() {
            return Ok(AppendEntriesResponse::Success);
        });
        let AppendAnswer { answer, stamp, room } = called?;
        self.rooms.heard(self.node, room);
        self.freshness.answered(self.header.to, stamp);
        Ok(answer)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Lane::Control, Method::Vote, &request, option.hard_ttl(), RPCTypes::Vote).await
    }

    /// Asked of the peer in earnest: openraft's default would grant by itself.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(Lane::Control, Method::PreVote, &request, option.hard_ttl(), RPCTypes::Vote).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer: TransferAnswer = self
            .call(Lane::Control, Method::TransferLeader, &request, option.hard_ttl(), RPCTypes::TransferLeader)
            .await?;
        Ok(answer.0)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, ReplicaId, Place, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::View(view) = snapshot.snapshot else {
            let what = "only a view is ever sent";
            return Err(StreamingError::Network(NetworkError::from_string(what)));
        };
        if self.machine.holds_snapshots_back() {
            let why = "the child of its last split is not held by a majority yet";
            return Err(StreamingError::Unreachable(Unreachable::from_string(why)));
        }
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, view) => sent,
        }
    }
}

impl Client {
    async fn send_snapshot(
        &self,
        vote: Vote,
        view: Arc<dyn crate::storage::View>,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let read_failed = |error: crate::storage::Error| StreamingError::Network(NetworkError::new(&error));
        let mut sender = Sender::new(view, self.header.shard).map_err(read_failed)?;
        let stream = clock::random_u64();
        let mut position = 0;
        loop {
            let (returned, piece) = off_runtime(self.disk.as_ref(), move || {
                let piece = sender.next_rows();
                (sender, piece)
            })
            .await;
            sender = returned;
            let (rows, last) = piece.map_err(read_failed)?;
            let bytes = rows.iter().map(|(key, value)| key.len() + value.len()).sum();
            self.pace.wait_for(bytes).await;
            let end = last.then(|| sender.end(vote));
            let chunk = Chunk { stream, position, rows, end };
            let timeout = if last { FINISH_TIMEOUT } else { CHUNK_PROGRESS_TIMEOUT };
            let answer: SnapshotAnswer =
                self.call(Lane::Bulk, Method::SnapshotChunk, &chunk, timeout, RPCTypes::InstallSnapshot).await?;
            self.machine.meters.count_snapshot_bytes(bytes);
            match answer {
                SnapshotAnswer::Next => position += 1,
                SnapshotAnswer::Installed(vote) => return Ok(SnapshotResponse::new(vote)),
            }
        }
    }
}

/// What a receiver says to a piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotAnswer {
    Next,
    /// The last piece was taken and openraft answered with this vote.
    Installed(Vote),
}
crate::wire_enum!(SnapshotAnswer { 1 => Next, 2 => Installed(vote) });

/// The answer to a transfer request.
#[derive(Debug, PartialEq, Eq)]
pub struct TransferAnswer(pub openraft::raft::TransferLeaderResponse<TypeConfig>);

impl Wire for TransferAnswer {
    fn encode(&self, out: &mut BytesMut) {
        use openraft::raft::TransferLeaderError;
        match &self.0 {
            Ok(()) => 1_u8.encode(out),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                2_u8.encode(out);
                expected.encode(out);
                actual.encode(out);
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                3_u8.encode(out);
                expected.encode(out);
                actual.encode(out);
            }
        }
    }
    fn decode(input: &mut Bytes) -> Result<Self, crate::wire::WireError> {
        use openraft::raft::TransferLeaderError;
        let answer = match u8::decode(input)? {
            1 => Ok(()),
            2 => Err(TransferLeaderError::VoteChanged { expected: Wire::decode(input)?, actual: Wire::decode(input)? }),
            3 => {
                Err(TransferLeaderError::LogNotFlushed { expected: Wire::decode(input)?, actual: Wire::decode(input)? })
            }
            tag => return Err(crate::wire::WireError::UnknownTag { what: "transfer answer", tag }),
        };
        Ok(Self(answer))
    }
}

#[cfg(test)]
mod tests {
    use openraft::raft::TransferLeaderError;
    use openraft::vote::RaftLeaderId;

    use super::super::LogId;
    use super::*;
    use crate::wire::golden;

    fn log_id(term: u64, leader: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new(term, ReplicaId(leader)).to_committed(), index)
    }

    fn vote(term: u64, leader: u64) -> Vote {
        Vote { leader_id: LeaderId::new(term, ReplicaId(leader)), committed: true }
    }

    #[test]
    fn frames_and_answers_keep_their_bytes() {
        let header = GroupHeader { shard: ShardId(0x0102), from: ReplicaId(0x0304), to: ReplicaId(0x0506) };
        golden::check("group_header", &[header]);
        let request = VoteRequest::<TypeConfig>::new(vote(1, 2), None);
        assert_eq!(frame(header, &request), [header.to_bytes(), request.to_bytes()].concat(), "header, then request");
        let answers = [SnapshotAnswer::Next, SnapshotAnswer::Installed(vote(3, 4))];
        golden::check("snapshot_answer", &answers);
        golden::has_every_tag(&answers);
        let answers = [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: vote(1, 2), actual: vote(3, 4) }),
            Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 2, 3)), actual: Some(log_id(4, 5, 6)) }),
            Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 2, 3)), actual: None }),
        ]
        .map(TransferAnswer);
        golden::check("transfer_answer", &answers);
        golden::has_every_tag(&answers);
    }
}
