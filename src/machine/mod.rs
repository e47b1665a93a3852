//! The deterministic state change under every shard: commands in, responses out.
//!
//! Everything here is a function of the replicated state and the entry alone: no clock, no configuration, no limit that
//! could differ between two nodes, no I/O but the [`txn::Txn`] it is given (`architecture` §4). A refusal is a
//! [`Response`], the same on every replica; an error means this replica's store failed and stops the replica.

pub mod apply;
pub mod command;
pub mod dedup;
pub mod query;
pub mod row;
pub mod split;
pub mod state;
pub mod txn;

pub use apply::apply;
pub use command::{Action, Birth, Command, Fence, Match, Precondition, Response, Split, SplitRefusal, Write};
pub use split::Members;
pub use state::{LastSplit, ShardState};

#[cfg(test)]
mod query_tests;
#[cfg(test)]
mod split_tests;
#[cfg(test)]
mod tests;
