//! What a node does with its replicas: [`group`] answers requests on one, [`host`] runs them all.

pub mod gauges;
pub mod group;
pub mod host;
pub mod limits;
pub mod report;

pub use gauges::{DiskGauges, ReplicaGauges};
pub use group::{Consistency, Error, Group, Members, ReadAnswer, ScannedPart, Staleness, staleness};
pub use host::Host;
pub use report::{ReplicaReport, ReportedRole};
