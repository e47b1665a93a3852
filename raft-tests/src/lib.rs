//! Whole-system tests of Ringraft: [`cluster`] and [`http`] drive real processes over real sockets, [`sim`] runs whole nodes
//! in one process under simulated time, network and disks.

pub mod cluster;
pub mod http;
pub mod sim;
