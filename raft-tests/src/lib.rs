//! Whole-system tests of Ringraft: [`sim`] runs whole nodes in one process under simulated time, network and disks;
//! [`cluster`] runs real processes over real sockets, asked as any client would ask; [`show`] holds the programs behind
//! `raft-tests show`, each of which shows one statement about such a cluster to be true. [`history`] is the record of
//! what clients asked and were told, and [`checker`] says whether it was possible. [`powerfs`] is a file system that loses
//! power, and [`power_cuts`] what must survive it.

pub mod checker;
pub mod client;
pub mod cluster;
pub mod fleet;
pub mod history;
pub mod http;
pub mod mutants;
pub mod power_cuts;
pub mod powerfs;
pub mod record;
pub mod report;
pub mod show;
pub mod sim;
pub mod traffic;
pub mod workload;
