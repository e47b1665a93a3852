//! The whole-system tests, one program.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod checked_histories;
mod contract;
mod files;
mod full_disks;
mod mutants;
mod nodes_in_simulation;
mod powerfs;
mod scripts;
mod simulated_faults;
mod three_replicas;
mod workloads;
