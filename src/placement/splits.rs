//! Splits: what the leader of the parent does, and what the leader of the meta group waits for (`models` §8 to §11).
//!
//! Both go by what the parent's own state says, never by the answer to a proposal: a refused copy of a split that was taken
//! and a time-out look like failures and are none.

use std::time::Duration;

use futures::future::join_all;
use tracing::{debug, info};

use crate::catalog::{Catalog, CatalogCommand, Operation, OperationKind, OperationState, SplitPlan};
use crate::clock::{self, Moment};
use crate::machine::{Command, Fence, Response, Split};
use crate::method::Method;
use crate::mutants::crash_at;
use crate::router::Router;
use crate::shard::Group;
use crate::transport::Lane;
use crate::types::{NodeId, ReplicaId, ShardId};
use crate::wire::Wire;

/// Deadline of a proposal in the parent's log, which a flush and a copy of files are part of.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long replicas are waited for that flush in front of a split. It only makes the birth quicker.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the parent's leader is asked, and a node for its replicas.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// A parent that has not split after so long is not split: longer than a restart of a node takes, and some elections.
const SPLIT_PATIENCE: Duration = Duration::from_secs(60);

/// A split that runs, and the shard it is to split.
fn running(catalog: &Catalog, parent: ShardId) -> Option<(&Operation, &SplitPlan)> {
    let operation = catalog.operations.on_shard(parent)?;
    let is_parent = matches!(operation.kind, OperationKind::Split { shard, .. } if shard == parent);
    operation.split.as_ref().filter(|plan| is_parent && !plan.is_published).map(|plan| (operation, plan))
}

/// The parent has not split yet, as far as this catalog says.
pub(super) fn is_due(catalog: &Catalog, parent: ShardId) -> bool {
    running(catalog, parent).is_some()
}

/// What the leader of the parent does for a split: one step. Says what is to be told to the catalog.
pub(super) async fn step(router: &Router, group: &Group, known: &Catalog) -> Option<CatalogCommand> {
    let (parent, replica) = (group.shard(), group.replica());
    flush_all(router, known, parent).await;
    let deadline = clock::now().after(STEP_TIMEOUT);
    // The shard's own state first, the catalog after it: an older one might split what was given up (`models` §10).
    let state = group.split_state(deadline).await.ok()?;
    let seen = replica.members();
    let newest = router.newest_catalog(deadline).await.ok()?;
    let (operation, plan) = running(&newest, parent)?;
    let OperationKind::Split { at, .. } = operation.kind else { return None };
    let publish = CatalogCommand::PublishSplit { operation: operation.id };
    if state.last_child == Some(plan.child) {
        return Some(publish);
    }
    let command = if operation.state == OperationState::Running {
        if seen.joint || !seen.learners.is_empty() || !replica.may_change_members() {
            return None;
        }
        crash_at!("split-proposed");
        let (child, births) = (plan.child, plan.births.clone());
        Command::Split(Split { epoch: state.epoch, membership: seen.index()?, at, child, births })
    } else {
        Command::Fence(Fence { child: plan.child })
    };
    match group.propose(command, 0, deadline).await {
        Ok(Response::Split) => {
            info!(%parent, child = %plan.child, %at, "the shard has split");
            crash_at!("parent-split");
            Some(publish)
        }
        Ok(other) => {
            debug!(%parent, ?other, "a split, or its fence");
            None
        }
        Err(error) => {
            debug!(%parent, %error, "a split will be looked at again");
            None
        }
    }
}

/// Asks every replica of the parent to flush, so that the birth, during which the shard waits, has little to write.
async fn flush_all(router: &Router, catalog: &Catalog, parent: ShardId) {
    let Some(descriptor) = catalog.shards.get(&parent) else { return };
    let asked = descriptor.replicas.iter().map(|replica| flush(router, replica.node, replica.id));
    join_all(asked).await;
}

async fn flush(router: &Router, node: NodeId, replica: ReplicaId) {
    if node == router.host().node() {
        if let Some(group) = router.host().by_replica(replica)
            && let Err(error) = group.replica().flush(false).await
        {
            debug!(%replica, %error, "a flush in front of a split");
        }
        return;
    }
    let method = Method::Flush as u8;
    let asked = router.host().peers().call(node, Lane::Data, method, replica.to_bytes(), FLUSH_TIMEOUT).await;
    if let Err(error) = asked {
        debug!(%replica, %error, "a flush in front of a split");
    }
}

/// What the leader of the meta group finds.
pub(super) enum Found {
    /// The parent has split, and the catalog does not know.
    Split,
    /// Every replica of the child runs, or its node was given up (`models` §11).
    Done,
    /// It was given up, and no copy of it is taken any more.
    Fenced(String),
    TooLate(String),
    Nothing,
}

pub(super) async fn look(router: &Router, catalog: &Catalog, operation: &Operation, since: Moment) -> Found {
    let (OperationKind::Split { shard, .. }, Some(plan)) = (&operation.kind, &operation.split) else {
        return Found::Nothing;
    };
    if plan.is_published {
        return if all_run(router, catalog, plan).await { Found::Done } else { Found::Nothing };
    }
    let asked = router.split_state(*shard, clock::now().after(LOOK_TIMEOUT)).await;
    let is_split = |child: Option<ShardId>| child == Some(plan.child);
    match (&operation.state, asked) {
        (_, Ok(state)) if is_split(state.last_child) => Found::Split,
        (OperationState::GivingUp { why }, Ok(state)) if is_split(state.fenced) => Found::Fenced(why.clone()),
        (OperationState::Running, asked) if clock::now() >= since.after(SPLIT_PATIENCE) => {
            let why = match asked {
                Ok(_) => "its members did not settle".to_string(),
                Err(error) => error.to_string(),
            };
            Found::TooLate(format!("shard {shard} did not split within {} s: {why}", SPLIT_PATIENCE.as_secs()))
        }
        _ => Found::Nothing,
    }
}

async fn all_run(router: &Router, catalog: &Catalog, plan: &SplitPlan) -> bool {
    let Some(child) = catalog.shards.get(&plan.child) else { return false };
    let run = child.replicas.iter().map(|replica| async {
        let is_given_up = catalog.nodes.get(&replica.node).is_none_or(|node| node.is_dead);
        is_given_up || is_born(router, replica.node, replica.id).await
    });
    join_all(run).await.into_iter().all(|runs| runs)
}

/// One that has failed was born, too: it is to be replaced, and for that the operation must end.
async fn is_born(router: &Router, node: NodeId, replica: ReplicaId) -> bool {
    let reports = router.reports(node, clock::now().after(LOOK_TIMEOUT)).await.unwrap_or_default();
    reports.iter().any(|report| report.replica == replica)
}
