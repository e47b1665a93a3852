//! Replicas of this node that nobody wants any more: destroyed on proof, then removed (`architecture` §3).
//!
//! The proof has two halves, and either alone is wrong (`models` §17): the catalog gave the id out and names it no longer;
//! and the group's leader, asked after that, has a settled membership without it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::catalog::{Catalog, SplitPlan};
use crate::clock;
use crate::mutants::crash_at;
use crate::router::Router;
use crate::storage::registry::ReplicaLife;
use crate::types::{ReplicaId, ShardId};

/// Between two rounds.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// How long a group's leader is looked for.
const PROOF_TIMEOUT: Duration = Duration::from_secs(2);

/// Goes on until cancelled.
pub async fn run(router: Router, stop: CancellationToken) {
    // A start has removed what was left.
    let mut has_remains = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ROUND_PAUSE) => {}
        }
        let Some(catalog) = router.catalog() else { continue };
        let proven = tokio::select! {
            () = stop.cancelled() => return,
            proven = prove(&router, &catalog) => proven,
        };
        // Not given up half way: a destruction that was begun is finished.
        has_remains |= !proven.is_empty();
        for replica in proven {
            crash_at!("proof-read");
            if let Err(error) = router.host().destroy(replica).await {
                warn!(%replica, %error, "a replica could not be destroyed yet");
            }
        }
        if has_remains {
            match router.host().remove_destroyed().await {
                Ok(are_gone) => has_remains = !are_gone,
                Err(error) => warn!(%error, "a destroyed replica's directory could not be removed yet"),
            }
        }
    }
}

/// The replicas here that are to be destroyed.
async fn prove(router: &Router, catalog: &Catalog) -> Vec<ReplicaId> {
    let asked = unwanted(catalog, router).into_iter().map(|(replica, shard)| async move {
        // After the look at the catalog, or a replica that is still to be taken in would pass.
        match router.members(shard, clock::now().after(PROOF_TIMEOUT)).await {
            Ok(members) => members.are_without(replica).then_some(replica),
            Err(error) => {
                debug!(%shard, %replica, %error, "nobody says whether it is out of its group");
                None
            }
        }
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// What the registry has as live and the catalog as gone.
fn unwanted(catalog: &Catalog, router: &Router) -> Vec<(ReplicaId, ShardId)> {
    let records = router.host().log().records().into_iter();
    let live = records.filter(|(_, record)| matches!(record.state, ReplicaLife::Live { .. }));
    let gone = live.filter(|(replica, _)| is_gone(catalog, *replica));
    gone.map(|(replica, record)| (replica, record.shard)).collect()
}

/// An older catalog does not know of a replica that was ordered since: that is no reason. Nor is that a split is under way
/// which makes it, whose child the catalog does not know yet.
fn is_gone(catalog: &Catalog, replica: ReplicaId) -> bool {
    let is_being_born = |plan: &SplitPlan| plan.births.iter().any(|birth| birth.child == replica);
    catalog.replica(replica).is_none()
        && catalog.has_given_out(replica)
        && !catalog.operations.running().filter_map(|operation| operation.split.as_ref()).any(is_being_born)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::profile;
    use crate::catalog::{CatalogCommand, CatalogResponse, apply};
    use crate::types::{ClusterId, Epoch, META_SHARD, Revision};

    #[test]
    fn what_an_older_catalog_does_not_know_is_not_gone() {
        let mut catalog = None;
        let mut send = |command| match apply(&mut catalog, &command) {
            CatalogResponse::Refused { why } => panic!("{command:?}: {why}"),
            _ => catalog.clone().unwrap(),
        };
        send(CatalogCommand::Found {
            cluster: ClusterId(1),
            replication_factor: 3,
            initial_shards: 1,
            revision_base: Revision(1),
            node: profile(1),
        });
        let older = send(CatalogCommand::JoinNode { time_ms: 3, node: profile(2) });
        let (node, replica) = (crate::types::NodeId(2), ReplicaId(2));
        let shard = META_SHARD;
        let ordered = send(CatalogCommand::AddReplica { shard, node, expected_epoch: Epoch(1) });
        assert!(!is_gone(&older, replica), "ordered since");
        assert!(!is_gone(&ordered, replica), "on its way in");
        let leaving = send(CatalogCommand::ReplicaLeaving { shard, replica });
        assert!(!is_gone(&leaving, replica), "its group may still count on it");
        let forgotten = send(CatalogCommand::ForgetReplica { shard, replica });
        assert!(is_gone(&forgotten, replica));
        assert!(!is_gone(&forgotten, ReplicaId(3)), "ordered by a newer catalog");
    }
}
