//! Which nodes are dead. Each node with a voter of the meta group listens to all others; the group's leader asks those
//! voters what they hear, and takes a node for dead when most of them, counting the silent ones as no, have not heard of it
//! for the grace period. It takes it for living as soon as most hear of it again.
//!
//! One voter alone proves nothing: it may be the one that is cut off.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::catalog::{Catalog, CatalogCommand, CatalogResponse};
use crate::clock;
use crate::method::Method;
use crate::router::{Router, Silence};
use crate::transport::Lane;
use crate::types::{META_SHARD, NodeId};

/// Between two rounds, and how long one answer is waited for.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Heard of so lately, a node lives: some rounds.
const HEARD_LATELY: Duration = Duration::from_secs(5);
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Goes on until cancelled. `grace`: how long a node is silent before it counts as dead.
pub async fn run(router: Router, grace: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ROUND_PAUSE) => {}
        }
        let Some(catalog) = router.catalog() else { continue };
        tokio::select! {
            () = stop.cancelled() => return,
            () = round(&router, &catalog, grace) => {}
        }
    }
}

async fn round(router: &Router, catalog: &Catalog, grace: Duration) {
    let me = router.host().node();
    let is_meta_voter = meta_voters(catalog).contains(&me);
    let others = || catalog.nodes.keys().copied().filter(|node| *node != me);
    router.silences().listen_to(others().filter(|_| is_meta_voter));
    if !is_meta_voter {
        return;
    }
    futures::future::join_all(others().map(|node| hear(router, node))).await;
    let leads = router.host().group(META_SHARD).is_some_and(|group| group.replica().is_leader());
    let own = router.host().meta_catalog().borrow().clone();
    if let (true, Some(own)) = (leads, own) {
        for (node, is_dead) in verdicts(&own, &ask_voters(router, &own).await, grace) {
            mark(router, node, is_dead).await;
        }
    }
}

async fn hear(router: &Router, node: NodeId) {
    let asked = router.host().peers().call(node, Lane::Control, Method::WhoIs as u8, Bytes::new(), ANSWER_TIMEOUT);
    if asked.await.is_ok() {
        router.silences().heard_of(node);
    }
}

fn meta_voters(catalog: &Catalog) -> Vec<NodeId> {
    let meta = catalog.shards.get(&META_SHARD);
    meta.map(|meta| meta.voters().map(|voter| voter.node).collect()).unwrap_or_default()
}

/// What each voter of the meta group says; those that say nothing are left out.
async fn ask_voters(router: &Router, catalog: &Catalog) -> BTreeMap<NodeId, Vec<Silence>> {
    let deadline = clock::now().after(ANSWER_TIMEOUT);
    let asked = meta_voters(catalog)
        .into_iter()
        .map(|voter| async move { Some((voter, router.silences_of(voter, deadline).await.ok()?)) });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// The nodes whose state is another than what most voters hear says.
fn verdicts(catalog: &Catalog, heard: &BTreeMap<NodeId, Vec<Silence>>, grace: Duration) -> Vec<(NodeId, bool)> {
    let majority = meta_voters(catalog).len() / 2 + 1;
    let silent_for = |voter: NodeId, node: NodeId| {
        let silence = heard.get(&voter)?.iter().find(|silence| silence.node == node);
        // A voter lives as far as it itself can tell.
        if voter == node { Some(Duration::ZERO) } else { silence.map(|silence| Duration::from_millis(silence.for_ms)) }
    };
    let agree = |node: NodeId, holds: &dyn Fn(Duration) -> bool| {
        let voters = meta_voters(catalog).into_iter();
        voters.filter_map(|voter| silent_for(voter, node)).filter(|silent| holds(*silent)).count() >= majority
    };
    catalog
        .nodes
        .values()
        .filter_map(|node| match node.is_dead {
            false if agree(node.id, &|silent| silent >= grace) => Some((node.id, true)),
            true if agree(node.id, &|silent| silent < HEARD_LATELY) => Some((node.id, false)),
            _ => None,
        })
        .collect()
}

async fn mark(router: &Router, node: NodeId, is_dead: bool) {
    let command = CatalogCommand::MarkNode { node, is_dead, time_ms: clock::wall_ms() };
    match router.propose_catalog(command, clock::now().after(PROPOSE_TIMEOUT)).await {
        Ok(CatalogResponse::Refused { why }) => info!(%node, %why, "the catalog refused what was heard of a node"),
        Ok(_) if is_dead => warn!(%node, "most voters have not heard of this node: its replicas are replaced"),
        Ok(_) => info!(%node, "this node is heard of again"),
        Err(error) => info!(%node, %error, "what was heard of a node will be told again"),
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
