//! What was acknowledged, and what was voted, is on disk.

use futures::FutureExt;
use ringraft::raft::Role;

use super::scene::{BY_ANY, NODES, Scene};
use super::{Script, even, usual};

pub(super) const POWER_LOSS_OF_ALL: Script = Script {
    name: "power-loss-of-all",
    about: "all nodes lose their power right after a write was acknowledged, and have it all the same",
    spare_nodes: 0,
    config: usual,
    rate: even,
    play: |scene| power_loss_of_all(scene).boxed_local(),
};

pub(super) const FORGOTTEN_VOTE: Script = Script {
    name: "forgotten-vote",
    about: "a voter that loses its power right after its vote for one candidate does not follow another in that term",
    spare_nodes: 0,
    config: |config| {
        // Leaders that are cut off go on believing: what they do about it is the matter of other scripts.
        config.raft.quorum_loss_probe_ms = 30_000;
    },
    rate: even,
    play: |scene| forgotten_vote(scene).boxed_local(),
};

async fn power_loss_of_all(scene: Scene) -> Result<(), String> {
    const KEYS: u64 = 20;
    scene.ready().await?;
    // A new leader's vote is synced on every node, and with it all that came before: what may be lost is what follows.
    let leader = scene.leader().await?;
    scene.lead_from(Scene::others(leader)[0]).await?;
    for key in 0..KEYS {
        scene.put(&format!("k{key}"), "written").await?;
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

/// The leader of term t is cut off. Of the others one wins the next term, and its voter loses its power before it hears
/// more. If it has forgotten whom it voted for, it follows the old leader again, which writes with it in term t; and then
/// the new leader comes back and cuts off what they wrote.
async fn forgotten_vote(scene: Scene) -> Result<(), String> {
    scene.ready().await?;
    scene.put("k", "before").await?;
    scene.level().await?;
    let old = scene.leader().await?;
    let term = scene.running(old)?.status().term;
    let [one, other] = Scene::others(old);
    scene.isolate(old);
    scene
        .until("both of the others are in a later term", |scene| {
            [one, other].iter().all(|number| scene.replica(*number).is_some_and(|replica| replica.status().term > term))
        })
        .await?;
    let campaigns = |number| matches!(scene.running(number).map(|replica| replica.status().role), Ok(Role::Candidate));
    let (new, voter) = match (campaigns(one), campaigns(other)) {
        (true, false) => (one, other),
        (false, true) => (other, one),
        _ => return Err("both of the others campaign, or the vote was counted already".to_string()),
    };
    // The vote is on its way back; the new leader's first entry must not arrive.
    scene.cut_way(new, voter);
    scene.until("the vote is counted", |scene| scene.leads(new)).await?;
    scene.crash(voter).await;
    scene.isolate(new);
    scene.heal(old, voter);
    scene.restart(voter).await;
    scene.until("the voter is back", |scene| scene.replica(voter).is_some()).await?;
    scene.put_at(&[old, voter], "k", "between", &BY_ANY).await?;
    scene.isolate(old);
    scene.heal(new, voter);
    scene.read_at(&[new, voter], "k").await?;
    scene.settle().await
}
