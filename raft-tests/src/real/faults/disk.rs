//! Disks that lose power, fail, are full, are slow, or give back other bits than were written.
//!
//! The file system under each node's data is [`crate::powerfs`]. What is damaged is damaged on a minority, so that the
//! cluster has to go on; a log with a flipped bit must not be opened (`architecture` §8), and is made whole again.

use std::path::Path;
use std::time::Duration;

use rand::RngExt;

use super::{Disk, Fault, Field, Held, Observed, Standing, Who, process};
use crate::powerfs::{Cut, Damage, Error, Failure, Stats, Torn};
use crate::real::judge::DROPPED_FIGURE;

const DEAD_MS: (u64, u64) = (0, 1_500);
const SLOW_SYNC_MS: (u64, u64) = (50, 400);
const SLOW_MS: (u64, u64) = (2_500, 4_000);
/// How long a node may take to end after its log could not be written. It writes many times a second.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long a node may take to refuse a damaged log.
const REFUSE_LIMIT: Duration = Duration::from_secs(15);
/// A log file shorter than this has too few records to be sure that a bit is in none of the last ones.
const LOG_BYTES_MIN: u64 = 16 << 10;
const WORDS_SHOWN: usize = 300;

pub(super) enum Sick {
    /// Power is back; whether SIGKILL ended each node, and cuts as counted before and after.
    Dark { cuts_before: Vec<u64>, killed: bool },
    /// The node must end by itself because its log could not be written; failures counted before.
    Failing { failed_before: u64 },
    /// Syncs that were held up before.
    Slow { delayed_before: u64 },
    /// Refused with this log line, or why it was not.
    Flipped { path: String, offset: u64, bit: u8, refused: Result<String, String> },
}

impl Sick {
    /// Whether the node goes on as if nothing were wrong, so that more can be done to it.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self, Sick::Slow { .. })
    }
}

async fn stats(field: &Field, place: usize) -> Result<Stats, String> {
    told(field, place, field.world.disk(place)?.stats().await)
}

/// Syncs and writes that failed, for whatever reason.
fn failures(stats: &Stats) -> u64 {
    stats.syncs_failed + stats.writes_failed + stats.space_refused
}

/// An answer of a node's disk, with the node's name where it is none.
fn told<T>(field: &Field, place: usize, answer: std::io::Result<T>) -> Result<T, String> {
    answer.map_err(|error| format!("the disk of {}: {error}", field.world.nodes[place].name))
}

/// Power is lost on all of them at once, then the processes end: nothing runs on without power.
pub(super) async fn lose_power(field: &mut Field, fault: Fault, who: Who) -> Result<Standing, String> {
    let (on, hit_leader, _) = process::victims(field, who).await?;
    darken(field, fault, on, hit_leader, Cut::clean()).await
}

/// On one node: no majority may come to differ from what was acknowledged, and one node cannot make it.
pub(super) async fn lose_power_torn(field: &mut Field) -> Result<Standing, String> {
    let (on, hit_leader, _) = process::victims(field, Who::One).await?;
    let torn = if field.rng.random_bool(0.5) { Torn::Pages } else { Torn::Sectors };
    let seed = field.rng.random();
    darken(field, Fault::Torn, on, hit_leader, Cut::torn(torn, seed)).await
}

async fn darken(
    field: &mut Field,
    fault: Fault,
    on: Vec<usize>,
    hit_leader: bool,
    cut: Cut,
) -> Result<Standing, String> {
    field.announce(fault, &on)?;
    let mut cuts_before = Vec::new();
    for place in &on {
        cuts_before.push(stats(field, *place).await?.cuts);
    }
    let mut dropped = 0;
    for place in &on {
        dropped += told(field, *place, field.world.disk(*place)?.cut(cut).await)?.pages_dropped;
    }
    field.figures.count(DROPPED_FIGURE, dropped);
    field.figures.count("power_losses_that_dropped_pages", u64::from(dropped > 0));
    // A node that meets its dead disk first ends by itself.
    let mut running = Vec::new();
    for place in &on {
        if !field.world.nodes[*place].ended_by_itself() {
            running.push(*place);
        }
    }
    field.world.kill(&running).await?;
    for place in &on {
        drop(field.world.nodes[*place].take_crashes());
        told(field, *place, field.world.disk(*place)?.resume().await)?;
    }
    let hold = field.between(DEAD_MS.0, DEAD_MS.1);
    let killed = on.iter().all(|place| !field.world.nodes[*place].is_running());
    let held = Held::Disk(Sick::Dark { cuts_before, killed });
    Ok(Standing { fault, on, hit_leader, hold, held })
}

pub(super) async fn harm(field: &mut Field, fault: Fault, disk: Disk) -> Result<Standing, String> {
    let free = field.free();
    let place = field.choose(&free)?;
    let on = vec![place];
    let hit_leader = field.any_leads(&on).await;
    field.announce(fault, &on)?;
    let stand =
        |hold: Duration, sick: Sick| Standing { fault, on: on.clone(), hit_leader, hold, held: Held::Disk(sick) };
    match disk {
        Disk::Eio => {
            let failed_before = failures(&stats(field, place).await?);
            let failure = Failure::once(Error::Io).on("*.log");
            told(field, place, field.world.disk(place)?.fail_sync(Some(failure)).await)?;
            Ok(stand(Duration::ZERO, Sick::Failing { failed_before }))
        }
        Disk::Full => {
            let before = stats(field, place).await?;
            let failed_before = failures(&before);
            told(field, place, field.world.disk(place)?.space(Some(before.used_bytes)).await)?;
            Ok(stand(Duration::ZERO, Sick::Failing { failed_before }))
        }
        Disk::SlowSync => {
            let delayed_before = stats(field, place).await?.syncs_delayed;
            let delay = field.between(SLOW_SYNC_MS.0, SLOW_SYNC_MS.1);
            told(field, place, field.world.disk(place)?.sync_delay(delay).await)?;
            let hold = field.between(SLOW_MS.0, SLOW_MS.1);
            Ok(stand(hold, Sick::Slow { delayed_before }))
        }
        Disk::BitFlip => {
            let sick = flip(field, place).await?;
            Ok(stand(Duration::ZERO, sick))
        }
    }
}

/// Flips a bit in the log of a node that was killed, and starts it: it must refuse.
async fn flip(field: &mut Field, place: usize) -> Result<Sick, String> {
    field.world.kill(&[place]).await?;
    field.busy.insert(place);
    let file = largest_log(&field.world.nodes[place].data.join("log"));
    let Some((name, bytes)) = file.filter(|(_, bytes)| *bytes >= LOG_BYTES_MIN) else {
        let why = Err(format!("the log has no file of {LOG_BYTES_MIN} bytes"));
        return Ok(Sick::Flipped { path: String::new(), offset: 0, bit: 0, refused: why });
    };
    let path = format!("log/{name}");
    // In the first half: far from the last batch, whose loss would look like a torn one.
    let offset = field.rng.random_range(0..bytes / 2);
    let bit = field.rng.random_range(0..8_u8);
    told(field, place, field.world.disk(place)?.damage(&path, Damage::FlipAt { offset, bit }, 0).await)?;
    let node = &mut field.world.nodes[place];
    let log_length = node.log_length();
    node.start()?;
    let refused = match node.ended_within(REFUSE_LIMIT).await? {
        Some(status) if !status.success() => {
            let line = node.logs(log_length, &["ERROR", name.as_str()], Duration::from_secs(1)).await;
            line.ok_or_else(|| format!("it ended with {status}, but does not name {name}: {}", node.last_words()))
        }
        Some(status) => Err(format!("it ended with {status} over a damaged log")),
        None => Err(format!("it ran on with bit {bit} of byte {offset} of {bytes} in {name} flipped")),
    };
    Ok(Sick::Flipped { path, offset, bit, refused })
}

fn largest_log(directory: &Path) -> Option<(String, u64)> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let files = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Some((name, entry.metadata().ok()?.len()))
    });
    files.filter(|(name, _)| name.ends_with(".log")).max_by_key(|(_, bytes)| *bytes)
}

pub(super) async fn cure(field: &mut Field, on: &[usize], sick: &mut Sick) -> Observed {
    let place = on[0];
    match sick {
        Sick::Dark { cuts_before, killed } => {
            let mut seen = if *killed { Ok(()) } else { Err("a node ran on without power".to_string()) };
            for (place, before) in on.iter().zip(cuts_before) {
                if stats(field, *place).await?.cuts != *before + 1 {
                    seen = Err(format!("{}'s disk lost no power", field.world.nodes[*place].name));
                }
            }
            field.figures.count("power_losses_of_nodes", on.len() as u64);
            field.world.start(on)?;
            seen
        }
        Sick::Failing { failed_before } => {
            let status = field.world.nodes[place].ended_within(END_LIMIT).await?;
            let failed = failures(&stats(field, place).await?);
            told(field, place, field.world.disk(place)?.clear().await)?;
            if status.is_none() {
                return Err(format!("{} ran on though its log could not be written", field.world.nodes[place].name));
            }
            field.world.start(on)?;
            if failed > *failed_before { Ok(()) } else { Err("no operation of the disk failed".to_string()) }
        }
        Sick::Slow { delayed_before } => {
            let delayed = stats(field, place).await?.syncs_delayed;
            told(field, place, field.world.disk(place)?.clear().await)?;
            if delayed > *delayed_before { Ok(()) } else { Err("no sync was slow".to_string()) }
        }
        Sick::Flipped { path, offset, bit, refused } => {
            if field.world.nodes[place].is_running() {
                field.world.kill(on).await?;
            }
            if !path.is_empty() {
                let damage = Damage::FlipAt { offset: *offset, bit: *bit };
                told(field, place, field.world.disk(place)?.damage(path, damage, 0).await)?;
            }
            field.world.start(on)?;
            let line = refused.clone()?;
            let shown: String = line.chars().take(WORDS_SHOWN).collect();
            println!("    refused: {shown}");
            Ok(())
        }
    }
}
