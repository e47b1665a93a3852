//! Ringraft: a strongly consistent, sharded key-value store in one binary.
//!
//! `ARCHITECTURE.md` has the picture, the life of a put and the layer table.

pub mod catalog;
pub mod clock;
pub mod config;
pub mod telemetry;
#[cfg(test)]
mod tidy;
pub mod types;
pub mod wire;
