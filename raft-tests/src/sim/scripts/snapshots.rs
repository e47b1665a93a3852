//! A replica that was filled by a snapshot has everything that the others have, and keeps it.

use futures::FutureExt;

use super::scene::{BY_ANY, How, Scene, put};
use super::{Script, even, usual};
use crate::workload::Ended;

pub(super) const CRASH_AFTER_INSTALL: Script = Script {
    name: "crash-after-install",
    about: "a replica that loses its power right after it was filled by a snapshot has all rows of it",
    spare_nodes: 0,
    config: usual,
    rate: even,
    play: |scene| crash_after_install(scene).boxed_local(),
};

pub(super) const RETRY_AFTER_INSTALL: Script = Script {
    name: "retry-after-install",
    about: "a leader that was filled by a snapshot gives a retried write the answer that it got before",
    spare_nodes: 0,
    config: usual,
    rate: even,
    play: |scene| retry_after_install(scene).boxed_local(),
};

/// Rows of more than one piece of a snapshot.
const ROWS: u64 = 60;
const ROW_BYTES: usize = 40_000;

async fn crash_after_install(scene: Scene) -> Result<(), String> {
    scene.ready().await?;
    let away = Scene::others(scene.leader().await?)[0];
    scene.crash(away).await;
    let nodes = Scene::others(away);
    for row in 0..ROWS {
        let value = format!("v{row}-{}", "x".repeat(ROW_BYTES));
        scene.put_at(&nodes, &format!("row{row}"), &value, &BY_ANY).await?;
    }
    fill_by_snapshot(&scene, away).await?;
    scene.crash(away).await;
    scene.restart(away).await;
    scene.lead_from(away).await?;
    for row in 0..ROWS {
        scene.read_at(&[away], &format!("row{row}")).await?;
    }
    scene.settle().await
}

async fn retry_after_install(scene: Scene) -> Result<(), String> {
    scene.ready().await?;
    let away = Scene::others(scene.leader().await?)[0];
    scene.crash(away).await;
    let nodes = Scene::others(away);
    let once = How { idempotency: Some("once".to_string()), ..BY_ANY };
    if !matches!(scene.ask(nodes[0], "k", put("once"), &once).await.ended, Ended::Ok(_)) {
        return Err("the first attempt was not answered".to_string());
    }
    scene.put_at(&nodes, "k", "later", &BY_ANY).await?;
    fill_by_snapshot(&scene, away).await?;
    scene.lead_from(away).await?;
    if !matches!(scene.ask(away, "k", put("once"), &once).await.ended, Ended::Ok(_)) {
        return Err("the second attempt was not answered".to_string());
    }
    scene.read_at(&[away], "k").await?;
    scene.settle().await
}

/// The others purge what a node that is down misses; it is started and filled.
async fn fill_by_snapshot(scene: &Scene, away: u64) -> Result<(), String> {
    for number in Scene::others(away) {
        let replica = scene.running(number)?;
        scene.level().await?;
        let applied = replica.status().applied_index;
        replica.flush(true).await.map_err(|error| error.to_string())?;
        let purged = || replica.status().purged_index >= applied;
        scene.until("the log is purged", |_| purged()).await?;
    }
    scene.restart(away).await;
    let is_filled = |scene: &Scene| scene.replica(away).is_some_and(|one| one.machine().store.directory() > 1);
    scene.until("the node is filled by a snapshot", is_filled).await?;
    scene.level().await
}
