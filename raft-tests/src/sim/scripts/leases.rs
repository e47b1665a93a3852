//! A lease that is read by is over before anyone else can be leader: with clocks of different rates, and after restarts
//! of those who granted it.

use std::cell::Cell;
use std::time::Duration;

use futures::FutureExt;
use ringraft::clock;
use ringraft::config::Config;

use super::super::clocks::MILLION;
use super::scene::{LOOK, Scene, itself, read};
use super::{Script, even};
use crate::history::Mode;

/// It leads, and is cut off. The others do not list it as a seed, so that they start without it.
const LEADER: u64 = 3;
/// Rates differ by as much as faults.md asks for: 15 percent to either side.
const SLOW: u64 = MILLION - 150_000;
const FAST: u64 = MILLION + 150_000;

pub(super) const SLOW_CLOCK: Script = Script {
    name: "slow-clock",
    about: "a leader with a slow clock that is cut off from followers with fast ones answers no read by its lease with \
            what was overwritten",
    spare_nodes: 0,
    config: timing,
    rate: |number| if number == LEADER { SLOW } else { FAST },
    play: |scene| run(scene, Trap::Clocks).boxed_local(),
};

pub(super) const RESTARTED_VOTERS: Script = Script {
    name: "restarted-voters",
    about: "voters that restart while their leader is cut off elect no other while it trusts the lease they granted",
    spare_nodes: 0,
    config: timing,
    rate: even,
    play: |scene| run(scene, Trap::Restarts).boxed_local(),
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trap {
    Clocks,
    Restarts,
}

const ELECTION_MAX_MS: u64 = 1000;

/// Candidates that are quick against the lease that they could break.
fn timing(config: &mut Config) {
    config.raft.heartbeat_ms = 20;
    config.raft.election_min_ms = 50;
    config.raft.election_max_ms = ELECTION_MAX_MS;
    config.raft.quorum_loss_probe_ms = 30_000;
}

/// Rounds until the next leader came while the lease could still be trusted: how patient a follower is, it draws at its
/// start.
const ROUNDS_MAX: u32 = 12;

async fn run(scene: Scene, trap: Trap) -> Result<(), String> {
    scene.ready().await?;
    // A lease without a margin lasts this long by a slow clock.
    let longest = Duration::from_millis(ELECTION_MAX_MS * MILLION / SLOW);
    for round in 0..ROUNDS_MAX {
        let acknowledged = spring(&scene, trap, &format!("k{round}")).await?;
        if trap == Trap::Restarts || acknowledged <= longest {
            return scene.settle().await;
        }
        scene.rejoin(LEADER);
        for number in Scene::others(LEADER) {
            scene.leader().await?;
            scene.crash(number).await;
            scene.restart(number).await;
            scene.ready().await?;
        }
    }
    Err(format!("in {ROUNDS_MAX} rounds the next leader never wrote within {longest:?}, when the lease was young"))
}

/// Gives how long after the cut a write elsewhere was acknowledged.
async fn spring(scene: &Scene, trap: Trap, key: &str) -> Result<Duration, String> {
    const TIMEOUT: Duration = Duration::from_millis(50);
    /// How long the old leader is still asked after the write elsewhere.
    const ASKED_ON: Duration = Duration::from_millis(300);
    scene.lead_from(LEADER).await?;
    scene.put(key, "before").await?;
    scene.level().await?;
    let others = Scene::others(LEADER);
    scene.isolate(LEADER);
    let cut = clock::now();
    if trap == Trap::Restarts {
        scene.crash_together(&others).await;
        for number in others {
            scene.restart(number).await;
        }
    }
    let over = Cell::new(false);
    let by_lease = Cell::new(0);
    let reads = async {
        while !over.get() {
            let are_back = others.iter().all(|number| scene.replica(*number).is_some());
            let judged = scene.ask(LEADER, key, read(Mode::Lease), &itself(TIMEOUT)).await;
            if are_back && judged.about.served == Some(Mode::Lease) {
                by_lease.set(by_lease.get() + 1);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let write = async {
        let written = scene.put_at(&others, key, "after", &itself(TIMEOUT * 10)).await;
        let acknowledged = clock::now();
        // Until no lease can be left, however slow the leader's clock is.
        let is_over = |_: &Scene| {
            let now = clock::now();
            now.since(acknowledged) > ASKED_ON && now.since(cut) > Duration::from_millis(2 * ELECTION_MAX_MS)
        };
        let waited = scene.until("every lease is over", is_over).await;
        over.set(true);
        waited.and(written).map(|_| acknowledged.since(cut))
    };
    let ((), acknowledged) = futures::join!(reads, write);
    if by_lease.get() == 0 {
        return Err("no read was served by the lease while the voters were there".to_string());
    }
    acknowledged
}
