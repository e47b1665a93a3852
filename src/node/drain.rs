//! A stopping node gives its leaderships away first, so that a planned stop costs a round trip and not an election.

use std::time::Duration;

use futures::StreamExt;

use crate::clock;
use crate::placement::reconcile::ready_to_lead;
use crate::router::Router;
use crate::shard::Group;

/// All hand-overs together take at most this long; what is left then costs an election.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(3);
const AT_ONCE: usize = 16;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub(super) async fn hand_leaderships_over(router: &Router) {
    let led: Vec<Group> = router.host().groups().into_iter().filter(|group| group.replica().is_leader()).collect();
    let hand_overs = futures::stream::iter(led).for_each_concurrent(AT_ONCE, async |group| {
        if !hand_over(router, &group).await {
            tracing::info!(shard = %group.shard(), "nobody took the leadership over");
        }
    });
    // Those that are too slow cost an election.
    let _ = tokio::time::timeout(HAND_OVER_TIMEOUT, hand_overs).await;
}

async fn hand_over(router: &Router, group: &Group) -> bool {
    for target in group.replica().transfer_candidates() {
        if !ready_to_lead(router, target).await {
            continue;
        }
        if group.replica().transfer_leader(target.replica).await.is_err() {
            return false;
        }
        let deadline = clock::now().after(HAND_OVER_TIMEOUT);
        while group.replica().is_leader() && clock::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        return !group.replica().is_leader();
    }
    // A group of one has nobody to hand over to.
    group.replica().members().voters.len() == 1
}
