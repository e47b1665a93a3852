//! What a node does with its replicas: [`group`] answers requests on one, [`host`] runs them all.

pub mod group;
pub mod host;
pub mod limits;
pub mod report;

pub use group::{Consistency, Error, Group, ReadAnswer, Staleness};
pub use host::Host;
pub use report::{ReplicaReport, ReportedRole};
