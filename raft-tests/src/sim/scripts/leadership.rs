//! A leader that is cut off neither acknowledges nor answers, and what it says of its writes is true.

use std::time::Duration;

use futures::FutureExt;

use super::scene::{BY_ANY, Scene, itself, put, read};
use super::{Script, even, usual};
use crate::history::Mode;
use crate::workload::Ended;

pub(super) const WRITE_AT_CUT_OFF_LEADER: Script = Script {
    name: "write-at-cut-off-leader",
    about: "what a leader that is cut off acknowledges is known to the majority",
    spare_nodes: 0,
    config: usual,
    rate: even,
    play: |scene| write_at_cut_off_leader(scene).boxed_local(),
};

pub(super) const READ_AT_CUT_OFF_LEADER: Script = Script {
    name: "read-at-cut-off-leader",
    about: "a leader that is cut off, and does not know it, answers no linearizable read with what was overwritten",
    spare_nodes: 0,
    config: |config| config.raft.quorum_loss_probe_ms = 30_000,
    rate: even,
    play: |scene| read_at_cut_off_leader(scene).boxed_local(),
};

pub(super) const LATE_ANSWER: Script = Script {
    name: "late-answer",
    about: "a write that was proposed and not answered in time is not told as not applied",
    spare_nodes: 0,
    config: usual,
    rate: even,
    play: |scene| late_answer(scene).boxed_local(),
};

async fn write_at_cut_off_leader(scene: Scene) -> Result<(), String> {
    /// Shorter than the lease: the leader still takes writes in.
    const TIMEOUT: Duration = Duration::from_millis(500);
    scene.ready().await?;
    scene.put("k", "before").await?;
    let leader = scene.leader().await?;
    scene.isolate(leader);
    scene.ask(leader, "k", put("alone"), &itself(TIMEOUT)).await;
    let [one, other] = Scene::others(leader);
    scene.read_at(&[one, other], "k").await?;
    scene.put_at(&[one, other], "k", "after", &BY_ANY).await?;
    scene.settle().await
}

async fn read_at_cut_off_leader(scene: Scene) -> Result<(), String> {
    const TIMEOUT: Duration = Duration::from_millis(100);
    const READS: u32 = 5;
    scene.ready().await?;
    scene.put("k", "before").await?;
    scene.level().await?;
    let leader = scene.leader().await?;
    scene.isolate(leader);
    scene.put_at(&Scene::others(leader), "k", "after", &BY_ANY).await?;
    if !scene.leads(leader) {
        return Err("the leader that is cut off knows it".to_string());
    }
    for _ in 0..READS {
        scene.ask(leader, "k", read(Mode::Linearizable), &itself(TIMEOUT)).await;
    }
    scene.settle().await
}

/// The followers' answers are kept back for longer than the client waits, and for less than it takes to elect another
/// leader: the write is carried out a moment after its client was told.
async fn late_answer(scene: Scene) -> Result<(), String> {
    const TIMEOUT: Duration = Duration::from_millis(150);
    scene.ready().await?;
    scene.put("k", "before").await?;
    let leader = scene.leader().await?;
    scene.hold(leader);
    let judged = scene.ask(leader, "k", put("late"), &itself(TIMEOUT)).await;
    if let Ended::Ok(_) = judged.ended {
        return Err("the write was answered in time".to_string());
    }
    scene.release(leader);
    scene.read_at(&[leader], "k").await?;
    // It has answered by now, if it ever does: so the read above, or this one, sees it.
    scene.level().await?;
    scene.read_at(&[leader], "k").await?;
    scene.settle().await
}
