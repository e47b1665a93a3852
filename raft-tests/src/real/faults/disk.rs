//! Disks that lose power, fail, are full, are slow, or give back other bits than were written.
//!
//! The file system under each node's data is [`crate::powerfs`]. What is damaged is damaged on a minority, so that the
//! cluster has to go on; a log with a flipped bit must not be opened (`architecture` §8), and is made whole again.

use std::path::Path;
use std::time::Duration;

use rand::RngExt;

use super::{Disk, Fault, Field, Held, Observed, Standing, Who, process};
use crate::powerfs::control::figure;
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
    Dark {
        cuts_before: Vec<u64>,
        killed: bool,
    },
    /// The node must end by itself because its log could not be written; failures counted before.
    Failing {
        failed_before: u64,
    },
    Slow {
        syncs_before: u64,
    },
    /// Refused with this log line, or why it was not.
    Flipped {
        path: String,
        offset: u64,
        bit: u32,
        refused: Result<String, String>,
    },
}

impl Sick {
    /// Whether the node goes on as if nothing were wrong, so that more can be done to it.
    pub(super) fn goes_on(&self) -> bool {
        matches!(self, Sick::Slow { .. })
    }
}

fn stat(field: &Field, place: usize, name: &str) -> Result<u64, String> {
    let stats = field.world.disk(place, "stats")?;
    figure(&stats, name).ok_or_else(|| format!("no {name} in {stats:?}"))
}

/// Unsynced pages that went with the last cut of each.
fn dropped(field: &Field, on: &[usize]) -> Result<u64, String> {
    on.iter().map(|place| stat(field, *place, "cut_pages_dropped")).sum()
}

/// Power is lost on all of them at once, then the processes end: nothing runs on without power.
pub(super) async fn lose_power(field: &mut Field, fault: Fault, who: Who) -> Result<Standing, String> {
    let (on, hit_leader, _) = process::victims(field, who).await?;
    darken(field, fault, on, hit_leader, "cut clean").await
}

/// On one node: no majority may come to differ from what was acknowledged, and one node cannot make it.
pub(super) async fn lose_power_torn(field: &mut Field) -> Result<Standing, String> {
    let (on, hit_leader, _) = process::victims(field, Who::One).await?;
    let how = if field.rng.random_bool(0.5) { "pages" } else { "sectors" };
    let cut = format!("cut {how} {}", field.rng.random_range(0..u32::MAX));
    darken(field, Fault::Torn, on, hit_leader, &cut).await
}

async fn darken(
    field: &mut Field,
    fault: Fault,
    on: Vec<usize>,
    hit_leader: bool,
    cut: &str,
) -> Result<Standing, String> {
    field.announce(fault, &on)?;
    let cuts_before = on.iter().map(|place| stat(field, *place, "cuts")).collect::<Result<Vec<_>, _>>()?;
    for place in &on {
        field.world.disk(*place, cut)?;
    }
    let dropped = dropped(field, &on)?;
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
        field.world.disk(*place, "resume")?;
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
            let failed_before = stat(field, place, "failed")?;
            field.world.disk(place, "fail-sync EIO once *.log")?;
            Ok(stand(Duration::ZERO, Sick::Failing { failed_before }))
        }
        Disk::Full => {
            let failed_before = stat(field, place, "failed")?;
            let used = stat(field, place, "used_bytes")?;
            field.world.disk(place, &format!("space {used}"))?;
            Ok(stand(Duration::ZERO, Sick::Failing { failed_before }))
        }
        Disk::SlowSync => {
            let syncs_before = stat(field, place, "file_syncs")?;
            let delay = field.between(SLOW_SYNC_MS.0, SLOW_SYNC_MS.1);
            field.world.disk(place, &format!("sync-delay {}", delay.as_millis()))?;
            let hold = field.between(SLOW_MS.0, SLOW_MS.1);
            Ok(stand(hold, Sick::Slow { syncs_before }))
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
    let bit = field.rng.random_range(0..8_u32);
    field.world.disk(place, &format!("flip {path} {offset} {bit}"))?;
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
                if stat(field, *place, "cuts")? != *before + 1 {
                    seen = Err(format!("{}'s disk lost no power", field.world.nodes[*place].name));
                }
            }
            field.figures.count("power_losses_of_nodes", on.len() as u64);
            field.world.start(on)?;
            seen
        }
        Sick::Failing { failed_before } => {
            let status = field.world.nodes[place].ended_within(END_LIMIT).await?;
            let failed = stat(field, place, "failed")?;
            field.world.disk(place, "clear")?;
            if status.is_none() {
                return Err(format!("{} ran on though its log could not be written", field.world.nodes[place].name));
            }
            field.world.start(on)?;
            if failed > *failed_before { Ok(()) } else { Err("no operation of the disk failed".to_string()) }
        }
        Sick::Slow { syncs_before } => {
            let syncs = stat(field, place, "file_syncs")?;
            field.world.disk(place, "clear")?;
            if syncs > *syncs_before { Ok(()) } else { Err("no sync was slow".to_string()) }
        }
        Sick::Flipped { path, offset, bit, refused } => {
            if field.world.nodes[place].is_running() {
                field.world.kill(on).await?;
            }
            if !path.is_empty() {
                field.world.disk(place, &format!("flip {path} {offset} {bit}"))?;
            }
            field.world.start(on)?;
            let line = refused.clone()?;
            let shown: String = line.chars().take(WORDS_SHOWN).collect();
            println!("    refused: {shown}");
            Ok(())
        }
    }
}
