//! The fault tests of Ringraft.
//!
//! | module | job |
//! |---|---|
//! | [`history`], [`checker`] | what clients asked and were told, and whether it was possible |
//! | [`workload`] | clients that load a cluster and write the history, alike in all worlds |
//! | [`sim`] | whole nodes in one process under simulated time, network and disks |
//! | [`real`] | faults in a cluster of real processes |
//! | [`powerfs`], [`power_cuts`] | a file system that loses power, and what must survive it |
//! | [`mutants`] | planted bugs, each of which must be noticed |
//! | [`record`], [`report`] | what a run leaves behind, and the sum of many |
//! | [`cluster`], [`files`], [`fleet`], [`traffic`], [`client`], [`http`], [`show`] | real processes without faults of their own; single statements about them |

pub mod admin;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod files;
pub mod fleet;
pub mod history;
pub mod http;
pub mod mutants;
pub mod power_cuts;
pub mod powerfs;
pub mod real;
pub mod record;
pub mod report;
pub mod show;
pub mod sim;
pub mod traffic;
pub mod workload;
