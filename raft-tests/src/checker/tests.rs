//! The checker against small histories written by hand, against a search that tries everything, and against its limits.

mod anomalies;
mod brute_force;
mod random;
pub(super) mod script;
mod simulated;
mod speed;
