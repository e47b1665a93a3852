//! Conditions hold when a write is carried out, and it is carried out once.

use futures::FutureExt;
use futures::future::join_all;

use super::scene::{BY_ANY, NODES, Scene};
use super::{Script, even, usual};
use crate::history::{Expect, Request};

pub(super) const RIVAL_WRITERS: Script = Script {
    name: "rival-writers",
    about: "of writers that saw the same revision, or no key, one succeeds",
    spare_nodes: 0,
    config: usual,
    rate: even,
    play: |scene| rival_writers(scene).boxed_local(),
};

pub(super) const RESTART_FROM_FLUSHED_ROWS: Script = Script {
    name: "restart-from-flushed-rows",
    about: "replicas that restart from flushed rows go on with the entry after the last one that is in them",
    spare_nodes: 0,
    config: usual,
    rate: even,
    play: |scene| restart_from_flushed_rows(scene).boxed_local(),
};

async fn rival_writers(scene: Scene) -> Result<(), String> {
    const ROUNDS: u64 = 5;
    const WRITERS: u64 = 6;
    scene.ready().await?;
    let mut expect = Expect::Absent;
    for round in 0..ROUNDS {
        let asked = (0..WRITERS).map(|writer| {
            let request = Request::Put { value: format!("v{round}.{writer}"), expect: Some(expect) };
            let scene = &scene;
            async move { scene.ask(1 + writer % NODES, "k", request, &BY_ANY).await }
        });
        let judged = join_all(asked).await;
        let seen = judged.iter().filter_map(|judged| judged.revision()).max();
        expect = Expect::Revision(seen.ok_or("nobody was answered")?);
    }
    scene.settle().await
}

async fn restart_from_flushed_rows(scene: Scene) -> Result<(), String> {
    const KEYS: u64 = 5;
    scene.ready().await?;
    for key in 0..KEYS {
        scene.put(&format!("k{key}"), "written").await?;
    }
    scene.level().await?;
    for number in 1..=NODES {
        scene.running(number)?.flush(false).await.map_err(|error| error.to_string())?;
    }
    scene.crash_together(&[1, 2, 3]).await;
    for number in 1..=NODES {
        scene.restart(number).await;
    }
    for key in 0..KEYS {
        scene.read_at(&[1, 2, 3], &format!("k{key}")).await?;
    }
    scene.settle().await
}
