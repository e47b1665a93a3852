//! Ringraft: a strongly consistent, sharded key-value store in one binary.
//!
//! `ARCHITECTURE.md` has the picture, the life of a put and the layer table.

pub mod admission;
pub mod api;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod machine;
pub mod meters;
pub mod method;
pub mod mutants;
pub mod node;
pub mod placement;
pub mod raft;
pub mod ring;
pub mod router;
pub mod shard;
pub mod storage;
pub mod telemetry;
#[cfg(test)]
mod tidy;
pub mod transport;
pub mod types;
pub mod wire;
