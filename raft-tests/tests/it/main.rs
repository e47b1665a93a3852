//! The whole-system tests, one program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checked_histories;
mod contract;
mod mutants;
mod nodes_in_simulation;
mod powerfs;
mod scripts;
mod simulated_faults;
mod three_replicas;
mod workloads;
