//! What a node does with its replicas: [`group`] answers requests on one, [`host`] runs them all.

pub mod gauges;
pub mod group;
pub mod host;
mod left_overs;
pub mod limits;
pub mod report;
pub mod splitting;

pub use gauges::{DiskGauges, ReplicaGauges};
pub use group::{Consistency, Error, Group, Members, ReadAnswer, ScannedPart, Staleness, staleness};
pub use host::Host;
pub use report::{ReplicaReport, ReportedRole};
pub use splitting::{SplitPoint, SplitState};
