//! Raft under every shard. The only importer of openraft: everything above speaks of [`Replica`] and its answers.
//!
//! | file | job |
//! |---|---|
//! | `config` | timing and the settings that keep data safe |
//! | `runtime` | openraft's clock and randomness through the crate's seams |
//! | `codec` | bytes of entries, votes, memberships and RPCs |
//! | `log_store` | openraft's log on the node's shared log store |
//! | `state_machine` | entries into the replica's store; snapshots out of it and into it |
//! | `birth` | what a split makes on one replica's disk, and in which order |
//! | `snapshot` | the stream of a view, and its receiver |
//! | `network` | RPCs out through the transport |
//! | `members` | who belongs to a group |
//! | `replica` | one running replica: propose, read barrier, members, status |
//! | `inbound` | RPCs in |
//! | `rooms` | whose disk is getting full, by what the answers to appends say |
//! | `pace` | how fast snapshots leave |
//! | `observe` | a replica and its log as a test of Raft's invariants sees them |

pub mod birth;
pub mod codec;
pub mod config;
pub mod freshness;
pub mod inbound;
pub mod log_store;
pub mod members;
pub mod meters;
pub mod network;
pub mod observe;
pub mod pace;
pub mod replica;
pub mod responder;
pub mod rooms;
pub mod runtime;
pub mod snapshot;
pub mod state_machine;

#[cfg(test)]
mod suite_test;
#[cfg(test)]
mod testing;

use crate::machine::{Command, Response};
use crate::types::{NodeId, ReplicaId};

pub use config::Timing;
pub use members::MembershipView;
pub use replica::{Member, ProposeError, ReadError, ReadMode, Replica, ReplicaStatus, Role};

/// Where a member stands. Its address is looked up by node, never stored in a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place {
    pub node: NodeId,
}

/// openraft's parameters: one set for data shards and the meta group alike.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Command;
    type R = Response;
    type NodeId = ReplicaId;
    type Node = Place;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, ReplicaId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Command, ReplicaId, Place>;
    type Entry = openraft::Entry<Self::LeaderId, Self::Payload>;
    type AsyncRuntime = runtime::Runtime;
    type Responder<T>
        = responder::Waiter<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<ReplicaId, Place>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys and values stay out of logs.
        f.write_str(match self {
            Command::Write(_) => "write",
            Command::Catalog(_) => "catalog",
            Command::Birth(_) => "birth",
            Command::Split(_) => "split",
            Command::Fence(_) => "fence",
        })
    }
}

impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
