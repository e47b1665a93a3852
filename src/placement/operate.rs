//! Operations: what the leader of the meta group does for those that run, one step a round. Each step looks at what is, and
//! nothing but the time since when an operation is watched is remembered, so that the next leader goes on with it.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::debug;

use crate::catalog::{Catalog, CatalogCommand, Operation, OperationKind};
use crate::clock::{self, Moment};
use crate::router::Router;
use crate::shard::ReportedRole;
use crate::types::{NodeId, OperationId, ShardId};

/// How long a leader waits for the one who is to lead, before the operation has failed: longer than some elections and a
/// replica's catching up on what it missed.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node is asked what it leads.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// What became of an operation in one round.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    GoesOn,
    Done,
    Failed(String),
}

/// Of one node, while it leads the meta group.
#[derive(Default)]
pub(super) struct Operator {
    watched_since: BTreeMap<OperationId, Moment>,
}

impl Operator {
    /// The ends of operations that are over: to be proposed.
    pub(super) async fn round(&mut self, router: &Router, catalog: &Catalog) -> Vec<CatalogCommand> {
        self.watched_since.retain(|id, _| catalog.operations.get(*id).is_some_and(Operation::is_running));
        let mut ends = Vec::new();
        for operation in catalog.operations.running() {
            let since = *self.watched_since.entry(operation.id).or_insert_with(clock::now);
            let is_late = clock::now() >= since.after(TRANSFER_TIMEOUT);
            let step = match &operation.kind {
                OperationKind::TransferLeader { shard, to } => {
                    transfer_leader(router, catalog, *shard, *to, is_late).await
                }
            };
            debug!(operation = %operation.id, ?step, "an operation");
            let failure = match step {
                Step::GoesOn => continue,
                Step::Done => None,
                Step::Failed(why) => Some(why),
            };
            ends.push(CatalogCommand::EndOperation { operation: operation.id, failure, time_ms: clock::wall_ms() });
        }
        ends
    }
}

/// The catalog prefers `to` since the operation began, and whoever leads hands over to it when it is ready.
async fn transfer_leader(router: &Router, catalog: &Catalog, shard: ShardId, to: NodeId, is_late: bool) -> Step {
    if catalog.shards.get(&shard).and_then(|shard| shard.preferred_leader) != Some(to) {
        return Step::Failed(format!("node {to} is losing its replica of shard {shard}"));
    }
    let reports = router.reports(to, clock::now().after(REPORT_TIMEOUT)).await;
    let leads = |report: &crate::shard::ReplicaReport| report.shard == shard && report.role == ReportedRole::Leader;
    match reports {
        Ok(reports) if reports.iter().any(leads) => Step::Done,
        _ if !is_late => Step::GoesOn,
        Ok(_) => Step::Failed(format!(
            "node {to} did not take shard {shard} over within {} s; GET /v1/admin/shards/{shard} says who leads",
            TRANSFER_TIMEOUT.as_secs()
        )),
        Err(error) => Step::Failed(format!("node {to} does not answer: {error}")),
    }
}
