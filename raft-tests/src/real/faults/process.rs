//! SIGKILL and SIGSTOP.

use std::time::Duration;

use ringraft::clock;
use rustix::process::Signal;

use super::{Aim, Fault, Field, Held, Length, Observed, Standing, Who, look};

/// Leaders read by a lease of 420 ms, or where a voter is to be restarted within one of 1,050 ms: shorter than either,
/// and longer than the whole lease, 600 or 1,500 ms, and the election after it.
const SHORT_MS: (u64, u64) = (100, 380);
const LONG_MS: (u64, u64) = (2_500, 4_000);
/// How long killed nodes stay away.
const DEAD_MS: (u64, u64) = (0, 1_500);
/// Beyond the pause itself, until somebody else leads.
const DEPOSED_LIMIT: Duration = Duration::from_secs(8);

/// Who is hit, whether a leader is among them, and the shard it leads.
pub(super) async fn victims(field: &mut Field, who: Who) -> Result<(Vec<usize>, bool, Option<Aim>), String> {
    let free = field.free();
    let places = match who {
        Who::Leader => {
            let aim = field.aim().await?;
            return Ok((vec![aim.leader.place], true, Some(aim)));
        }
        Who::Follower => {
            let aim = field.aim().await?;
            let followers: Vec<usize> = free.into_iter().filter(|place| *place != aim.leader.place).collect();
            vec![field.choose(&followers)?]
        }
        Who::One => vec![field.choose(&free)?],
        Who::Majority => {
            let count = field.majority();
            field.choose_some(&free, count)
        }
        Who::All => free,
    };
    if places.is_empty() {
        return Err("every node is hit already".to_string());
    }
    let hit_leader = field.any_leads(&places).await;
    Ok((places, hit_leader, None))
}

pub(super) async fn kill(field: &mut Field, fault: Fault, who: Who) -> Result<Standing, String> {
    let (on, hit_leader, aim) = victims(field, who).await?;
    field.announce(fault, &on)?;
    let began = clock::now();
    let killed = field.world.kill(&on).await?.into_iter().all(|killed| killed);
    field.busy.extend(&on);
    if let Some(aim) = aim.filter(|_| !field.paired) {
        field.goes_on_without(aim, began, "write_gap_after_leader_kill_ms").await?;
    }
    let hold = field.between(DEAD_MS.0, DEAD_MS.1);
    Ok(Standing { fault, on, hit_leader, hold, held: Held::Dead { killed } })
}

pub(super) fn revive(field: &mut Field, on: &[usize], killed: bool) -> Observed {
    field.world.start(on)?;
    if killed { Ok(()) } else { Err("a node had ended before SIGKILL reached it".to_string()) }
}

pub(super) async fn pause(field: &mut Field, fault: Fault, who: Who, length: Length) -> Result<Standing, String> {
    let (on, hit_leader, aim) = victims(field, who).await?;
    field.announce(fault, &on)?;
    let began = clock::now();
    for place in &on {
        field.world.nodes[*place].signal(Signal::STOP)?;
    }
    field.busy.extend(&on);
    let (from, to) = if length == Length::Short { SHORT_MS } else { LONG_MS };
    let hold = field.between(from, to);
    let held = match aim.filter(|_| length == Length::Long && !field.paired) {
        None => Held::Stopped,
        Some(aim) => {
            field.goes_on_without(aim, began, "write_gap_after_leader_pause_ms").await?;
            Held::Deposed { aim }
        }
    };
    Ok(Standing { fault, on, hit_leader, hold: hold.saturating_sub(super::since(began)), held })
}

pub(super) async fn resume(field: &mut Field, on: &[usize], deposed: Option<Aim>) -> Observed {
    let mut seen = Ok(());
    for place in on {
        if !field.world.nodes[*place].until_stopped(true).await {
            seen = Err(format!("{} was not stopped", field.world.nodes[*place].name));
        }
    }
    if let Some(aim) = deposed {
        let other = |leader: look::Leader| leader.place != aim.leader.place && leader.term > aim.leader.term;
        if look::leader(&field.world.nodes, aim.shard, DEPOSED_LIMIT, other).await.is_none() {
            seen = Err(format!("nobody else came to lead shard {} while its leader was stopped", aim.shard));
        }
    }
    for place in on {
        field.world.nodes[*place].signal(Signal::CONT)?;
    }
    for place in on {
        if !field.world.nodes[*place].until_stopped(false).await {
            return Err(format!("{} did not go on", field.world.nodes[*place].name));
        }
    }
    seen
}
