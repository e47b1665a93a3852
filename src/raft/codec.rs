//! Bytes of what openraft keeps on disk and sends between peers. openraft's own serde formats are no disk or wire format
//! by its own word, so every type has one of ours, held to golden files.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft::vote::RaftLeaderId;

use super::{Entry, LeaderId, LogId, Membership, Place, StoredMembership, TypeConfig, Vote};
use crate::types::{NodeId, ReplicaId};
use crate::wire::{Wire, WireError, take_format};

/// Version of a log entry's format, the first byte of each.
pub(super) const ENTRY_FORMAT: u8 = 1;
/// Version of the record of what was applied.
const APPLIED_FORMAT: u8 = 1;

impl Wire for LogId {
    fn encode(&self, out: &mut BytesMut) {
        let leader = self.committed_leader_id();
        leader.term.encode(out);
        leader.node_id.encode(out);
        self.index().encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let leader = LeaderId::new(u64::decode(input)?, ReplicaId::decode(input)?);
        Ok(Self::new(leader.to_committed(), u64::decode(input)?))
    }
}

impl Wire for Vote {
    fn encode(&self, out: &mut BytesMut) {
        self.leader_id.term.encode(out);
        self.leader_id.node_id.encode(out);
        self.committed.encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let leader_id = LeaderId::new(u64::decode(input)?, ReplicaId::decode(input)?);
        Ok(Self { leader_id, committed: bool::decode(input)? })
    }
}

/// Voter sets (two while a change is joint), then every member with its node.
impl Wire for Membership {
    fn encode(&self, out: &mut BytesMut) {
        let sets: Vec<Vec<ReplicaId>> =
            self.get_joint_config().iter().map(|set| set.iter().copied().collect()).collect();
        sets.encode(out);
        let members: Vec<(ReplicaId, NodeId)> = self.nodes().map(|(id, place)| (*id, place.node)).collect();
        members.encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let sets: Vec<Vec<ReplicaId>> = Wire::decode(input)?;
        let sets: Vec<BTreeSet<ReplicaId>> = sets.into_iter().map(|set| set.into_iter().collect()).collect();
        let members: Vec<(ReplicaId, NodeId)> = Wire::decode(input)?;
        let members: BTreeMap<ReplicaId, Place> = members.into_iter().map(|(id, node)| (id, Place { node })).collect();
        if sets.is_empty() && members.is_empty() {
            // The membership before the first one; openraft's constructor refuses it.
            return Ok(Self::default());
        }
        Self::new(sets, members).map_err(|error| WireError::Invalid { what: "membership", why: error.to_string() })
    }
}

impl Wire for StoredMembership {
    fn encode(&self, out: &mut BytesMut) {
        self.log_id().encode(out);
        self.membership().encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        Ok(Self::new(Wire::decode(input)?, Wire::decode(input)?))
    }
}

impl Wire for Entry {
    fn encode(&self, out: &mut BytesMut) {
        ENTRY_FORMAT.encode(out);
        self.log_id().encode(out);
        match &self.payload {
            EntryPayload::Blank => 1_u8.encode(out),
            EntryPayload::Normal(command) => {
                2_u8.encode(out);
                command.encode(out);
            }
            EntryPayload::Membership(membership) => {
                3_u8.encode(out);
                membership.encode(out);
            }
        }
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        take_format(input, "log entry", ENTRY_FORMAT)?;
        let log_id = LogId::decode(input)?;
        let payload = match u8::decode(input)? {
            1 => EntryPayload::Blank,
            2 => EntryPayload::Normal(Wire::decode(input)?),
            3 => EntryPayload::Membership(Wire::decode(input)?),
            tag => return Err(WireError::UnknownTag { what: "entry payload", tag }),
        };
        Ok(Self { log_id, payload })
    }
}

/// How far a replica's rows are: written in the same batch as the rows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AppliedRecord {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
}

impl Wire for AppliedRecord {
    fn encode(&self, out: &mut BytesMut) {
        APPLIED_FORMAT.encode(out);
        self.applied.encode(out);
        self.membership.encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        take_format(input, "applied record", APPLIED_FORMAT)?;
        Ok(Self { applied: Wire::decode(input)?, membership: Wire::decode(input)? })
    }
}

impl Wire for AppendEntriesRequest<TypeConfig> {
    fn encode(&self, out: &mut BytesMut) {
        self.vote.encode(out);
        self.prev_log_id.encode(out);
        self.leader_commit.encode(out);
        self.entries.encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        Ok(Self {
            vote: Wire::decode(input)?,
            prev_log_id: Wire::decode(input)?,
            leader_commit: Wire::decode(input)?,
            entries: Wire::decode(input)?,
        })
    }
}

impl Wire for AppendEntriesResponse<TypeConfig> {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Success => 1_u8.encode(out),
            Self::PartialSuccess(matching) => {
                2_u8.encode(out);
                matching.encode(out);
            }
            Self::Conflict => 3_u8.encode(out),
            Self::HigherVote(vote) => {
                4_u8.encode(out);
                vote.encode(out);
            }
        }
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        match u8::decode(input)? {
            1 => Ok(Self::Success),
            2 => Ok(Self::PartialSuccess(Wire::decode(input)?)),
            3 => Ok(Self::Conflict),
            4 => Ok(Self::HigherVote(Wire::decode(input)?)),
            tag => Err(WireError::UnknownTag { what: "append response", tag }),
        }
    }
}

impl Wire for VoteRequest<TypeConfig> {
    fn encode(&self, out: &mut BytesMut) {
        self.vote.encode(out);
        self.last_log_id.encode(out);
        self.leadership_transfer.encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let mut request = Self::new(Wire::decode(input)?, Wire::decode(input)?);
        request.leadership_transfer = bool::decode(input)?;
        Ok(request)
    }
}

impl Wire for VoteResponse<TypeConfig> {
    fn encode(&self, out: &mut BytesMut) {
        self.vote.encode(out);
        self.vote_granted.encode(out);
        self.last_log_id.encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        Ok(Self { vote: Wire::decode(input)?, vote_granted: Wire::decode(input)?, last_log_id: Wire::decode(input)? })
    }
}

impl Wire for TransferLeaderRequest<TypeConfig> {
    fn encode(&self, out: &mut BytesMut) {
        self.from_leader().encode(out);
        self.to_node_id().encode(out);
        self.last_log_id().copied().encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        Ok(Self::new(Wire::decode(input)?, Wire::decode(input)?, Wire::decode(input)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Birth, Command};
    use crate::raft::freshness::{Append, AppendAnswer, Stamp, Vouch};
    use crate::ring::TokenRange;
    use crate::storage::reserve::Room;
    use crate::types::{Epoch, Revision, ShardId};
    use crate::wire::golden;

    fn log_id(term: u64, leader: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new(term, ReplicaId(leader)).to_committed(), index)
    }

    fn joint() -> Membership {
        let sets = vec![BTreeSet::from([ReplicaId(1)]), BTreeSet::from([ReplicaId(1), ReplicaId(2)])];
        let members = (1..=3).map(|id| (ReplicaId(id), Place { node: NodeId(10 + id) })).collect::<BTreeMap<_, _>>();
        Membership::new(sets, members).unwrap()
    }

    fn vote() -> Vote {
        Vote { leader_id: LeaderId::new(5, ReplicaId(2)), committed: true }
    }

    fn entries() -> Vec<Entry> {
        let birth = Birth { shard: ShardId(1), range: TokenRange::full(), epoch: Epoch(1), revision_base: Revision(9) };
        let payloads =
            [EntryPayload::Blank, EntryPayload::Normal(Command::Birth(birth)), EntryPayload::Membership(joint())];
        payloads.into_iter().zip(7..).map(|(payload, index)| Entry { log_id: log_id(5, 2, index), payload }).collect()
    }

    #[test]
    fn what_is_on_disk_keeps_its_bytes() {
        golden::check("entry", &entries());
        golden::check("vote", &[vote(), Vote { leader_id: LeaderId::new(0, ReplicaId(0)), committed: false }]);
        golden::check(
            "applied_record",
            &[
                AppliedRecord::default(),
                AppliedRecord {
                    applied: Some(log_id(5, 2, 9)),
                    membership: StoredMembership::new(Some(log_id(1, 1, 0)), joint()),
                },
            ],
        );
    }

    #[test]
    fn what_is_on_the_wire_keeps_its_bytes() {
        let append_responses: [AppendEntriesResponse<TypeConfig>; 4] = [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(log_id(1, 2, 3))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(vote()),
        ];
        golden::check("append_response", &append_responses);
        golden::has_every_tag(&append_responses);
        let mut transfer_vote = VoteRequest::new(vote(), Some(log_id(1, 2, 3)));
        transfer_vote.leadership_transfer = true;
        golden::check("vote_request", &[VoteRequest::new(vote(), None), transfer_vote]);
        golden::check("vote_response", &[VoteResponse::new(vote(), Some(log_id(1, 2, 3)), true)]);
        golden::check("transfer_request", &[TransferLeaderRequest::new(vote(), ReplicaId(3), Some(log_id(1, 2, 3)))]);
    }

    /// openraft's request has no comparison of its own.
    impl PartialEq for Append {
        fn eq(&self, other: &Self) -> bool {
            let parts = |append: &Self| {
                let AppendEntriesRequest { vote, prev_log_id, entries, leader_commit } = &append.request;
                (*vote, *prev_log_id, entries.clone(), *leader_commit, append.vouch)
            };
            parts(self) == parts(other)
        }
    }

    #[test]
    fn an_append_keeps_its_bytes() {
        let stamp = Stamp { run: 0x0102_0304_0506_0708, at_us: 5_000_000 };
        let request = |prev_log_id, leader_commit, entries| AppendEntriesRequest::<TypeConfig> {
            vote: vote(),
            prev_log_id,
            leader_commit,
            entries,
        };
        golden::check(
            "append",
            &[
                Append { request: request(None, None, Vec::new()), vouch: None },
                Append {
                    request: request(Some(log_id(5, 2, 6)), Some(log_id(5, 2, 4)), entries()),
                    vouch: Some(Vouch { echo: stamp, ago_us: 250 }),
                },
            ],
        );
        let answer = AppendAnswer { answer: AppendEntriesResponse::Conflict, stamp, room: Room::BelowHard };
        golden::check("append_answer", &[answer]);
    }
}
