//! Whole-system tests of Ringraft: [`sim`] runs whole nodes in one process under simulated time, network and disks.

pub mod sim;
