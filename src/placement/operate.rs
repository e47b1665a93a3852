//! Operations: what the leader of the meta group does for those that run, one step a round. Each step looks at what is, and
//! nothing but the time since when an operation is watched is remembered, so that the next leader goes on with it.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::debug;

use super::splits::{self, Found};
use crate::catalog::{Catalog, CatalogCommand, Operation, OperationKind, OperationState};
use crate::clock::{self, Moment};
use crate::mutants::crash_at;
use crate::router::Router;
use crate::shard::ReportedRole;
use crate::types::{NodeId, OperationId, ReplicaId, ShardId};

/// How long a leader waits for the one who is to lead, before the operation has failed: longer than some elections and a
/// replica's catching up on what it missed.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node is asked what it leads, and a group's leader who belongs to it.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);
/// A node that is to get a replica and does not answer for so long does not get it: far longer than a restart takes.
const MOVE_PATIENCE: Duration = Duration::from_secs(60);

/// What became of an operation in one round.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    GoesOn,
    Done,
    Failed(String),
    GivenUp(String),
    /// A parent has split.
    Publish,
}

/// Of one node, while it leads the meta group.
#[derive(Default)]
pub(super) struct Operator {
    watched: BTreeMap<OperationId, Watched>,
}

#[derive(Clone, Copy)]
struct Watched {
    since: Moment,
    /// When the node that the operation needs was last known to be there.
    answered: Moment,
}

impl Operator {
    /// What is to be proposed of operations whose state changes.
    pub(super) async fn round(&mut self, router: &Router, catalog: &Catalog) -> Vec<CatalogCommand> {
        self.watched.retain(|id, _| catalog.operations.get(*id).is_some_and(Operation::is_running));
        let now = clock::now();
        let looks = catalog.operations.running().map(|operation| {
            let watched = *self.watched.entry(operation.id).or_insert_with(|| {
                crash_at!("operation-seen");
                Watched { since: now, answered: now }
            });
            async move { (operation, look(router, catalog, operation, watched).await) }
        });
        let mut proposals = Vec::new();
        for (operation, looked) in futures::future::join_all(looks).await {
            if let Some(watched) = self.watched.get_mut(&operation.id).filter(|_| looked.has_answered) {
                watched.answered = clock::now();
            }
            debug!(operation = %operation.id, step = ?looked.step, "an operation");
            let id = operation.id;
            let end = |failure| CatalogCommand::EndOperation { operation: id, failure, time_ms: clock::wall_ms() };
            match looked.step {
                Step::GoesOn => {}
                Step::Done => proposals.push(end(None)),
                Step::Failed(why) => proposals.push(end(Some(why))),
                Step::Publish => proposals.push(CatalogCommand::PublishSplit { operation: id }),
                Step::GivenUp(why) => proposals.push(CatalogCommand::GiveUpOperation { operation: id, why }),
            }
        }
        proposals
    }
}

struct Looked {
    step: Step,
    has_answered: bool,
}

impl Looked {
    fn with_answer(step: Step) -> Self {
        Self { step, has_answered: true }
    }

    fn without_answer(step: Step) -> Self {
        Self { step, has_answered: false }
    }
}

async fn look(router: &Router, catalog: &Catalog, operation: &Operation, watched: Watched) -> Looked {
    match &operation.kind {
        OperationKind::TransferLeader { shard, to } => {
            let is_late = clock::now() >= watched.since.after(TRANSFER_TIMEOUT);
            Looked::with_answer(transfer_leader(router, catalog, *shard, *to, is_late).await)
        }
        // Its replicas are moved by operations of their own, as the placement wants it.
        OperationKind::Drain { node } | OperationKind::Decommission { node } => {
            let is_empty = catalog.replicas_on(*node).next().is_none();
            Looked::with_answer(if is_empty { Step::Done } else { Step::GoesOn })
        }
        OperationKind::Undrain { .. } => Looked::with_answer(Step::Done),
        OperationKind::Split { .. } => {
            Looked::with_answer(match splits::look(router, catalog, operation, watched.since).await {
                Found::Nothing => Step::GoesOn,
                Found::Split => Step::Publish,
                Found::Done => Step::Done,
                Found::Fenced(why) => Step::Failed(why),
                Found::TooLate(why) => Step::GivenUp(why),
            })
        }
        OperationKind::Move { shard, from, to } => {
            let descriptor = catalog.shards.get(shard);
            let on = |node| descriptor.and_then(|shard| shard.replica_on(node)).map(|replica| replica.id);
            match (on(*from), on(*to)) {
                (Some(goes), Some(comes)) => {
                    let exchange = Exchange { shard: *shard, goes, comes, to: *to };
                    exchange.look(router, operation, watched).await
                }
                _ => Looked::with_answer(Step::GoesOn),
            }
        }
    }
}

/// The replicas of a move.
struct Exchange {
    shard: ShardId,
    goes: ReplicaId,
    comes: ReplicaId,
    to: NodeId,
}

impl Exchange {
    /// The shard's leader does the work. Here is read what it has come to (`models` §16), and whether it makes sense to go
    /// on.
    async fn look(&self, router: &Router, operation: &Operation, watched: Watched) -> Looked {
        let members = match router.members(self.shard, clock::now().after(REPORT_TIMEOUT)).await {
            Ok(members) => members,
            Err(error) => {
                debug!(operation = %operation.id, %error, "nobody says who belongs to the group");
                // Of the new node nothing is known then: its patience begins anew.
                return Looked::with_answer(Step::GoesOn);
            }
        };
        if members.voters.contains(&self.comes) && members.are_without(self.goes) {
            crash_at!("move-settled");
            return Looked::with_answer(Step::Done);
        }
        if let OperationState::GivingUp { why } = &operation.state {
            let is_out = members.are_without(self.comes);
            return Looked::with_answer(if is_out { Step::Failed(why.clone()) } else { Step::GoesOn });
        }
        match router.reports(self.to, clock::now().after(REPORT_TIMEOUT)).await {
            Ok(reports) => {
                let own = reports.iter().find(|report| report.replica == self.comes);
                let failed = own.filter(|report| report.role == ReportedRole::Failed);
                Looked::with_answer(failed.map_or(Step::GoesOn, |report| {
                    let why = report.failure.as_deref().unwrap_or("it has stopped");
                    Step::GivenUp(format!("the new replica {} on node {} failed: {why}", self.comes, self.to))
                }))
            }
            Err(_) if clock::now() < watched.answered.after(MOVE_PATIENCE) => Looked::without_answer(Step::GoesOn),
            Err(error) => {
                let patience = MOVE_PATIENCE.as_secs();
                let why = format!("node {} did not answer for {patience} s: {error}", self.to);
                Looked::without_answer(Step::GivenUp(why))
            }
        }
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
