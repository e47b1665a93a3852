//! A follower that is down until the log it needs is purged, so that only a snapshot brings it back.

use std::collections::BTreeMap;
use std::time::Duration;

use ringraft::clock;

use super::{Fault, Field, Held, Observed, ShardId, Standing, look};
use crate::fleet::until;
use crate::real::node::Node;

/// Of one filling write. Some tens of them are beyond the smallest log that a node keeps.
const FILL_BYTES: usize = 48 << 10;
const FILLED_AT_ONCE: usize = 4;
/// Until the leaders have purged what the follower needs.
const PURGE_LIMIT: Duration = Duration::from_secs(30);
/// Until the snapshot has come to the follower's disk.
const INSTALL_LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Starved {
    follower: usize,
    /// Shards whose log, from the follower's last entry on, is gone everywhere else.
    shards: Vec<ShardId>,
    /// By replica, the number of its directory.
    directories: BTreeMap<String, u64>,
    killed: bool,
}

pub(super) async fn starve(field: &mut Field) -> Result<Standing, String> {
    let free = field.free();
    let follower = field.choose(&free)?;
    let hit_leader = field.any_leads(&[follower]).await;
    field.announce(Fault::Snapshot, &[follower])?;
    let killed = field.world.kill(&[follower]).await?.into_iter().all(|killed| killed);
    field.busy.insert(follower);
    let directories = replica_directories(&field.world.nodes[follower]);
    let ended_at = look::survey(&field.world.nodes).await;
    let others = field.others(&[follower]);
    // Where the others stood when it ended: what it has is no more than that.
    let last: BTreeMap<ShardId, u64> = field
        .probe
        .shards()
        .filter_map(|shard| {
            let indexes = others.iter().filter_map(|place| Some(ended_at.replica(*place, shard)?.last_index));
            Some((shard, indexes.max()?))
        })
        .collect();
    let shards = fill_until_purged(field, &others, &last).await;
    let starved = Starved { follower, shards, directories, killed };
    let held = Held::Starved(starved);
    Ok(Standing { fault: Fault::Snapshot, on: vec![follower], hit_leader, hold: Duration::ZERO, held })
}

/// Fills the shards until some leader's log begins after what the follower can have. Gives the shards for which it does.
async fn fill_until_purged(field: &mut Field, others: &[usize], last: &BTreeMap<ShardId, u64>) -> Vec<ShardId> {
    let deadline = clock::now().after(PURGE_LIMIT);
    let all: Vec<ShardId> = field.probe.shards().collect();
    loop {
        let filling = (0..FILLED_AT_ONCE)
            .map(|number| field.probe.fill(&field.world, all[number % all.len()], others[0], FILL_BYTES));
        futures::future::join_all(filling).await;
        let now = look::survey(&field.world.nodes).await;
        let purged: Vec<ShardId> = last
            .iter()
            .filter(|(shard, last)| {
                let purged = |place: &usize| now.replica(*place, **shard).map(|replica| replica.purged_index);
                others.iter().all(|place| purged(place).is_some_and(|purged| purged > **last))
            })
            .map(|(shard, _)| *shard)
            .collect();
        if !purged.is_empty() || clock::now() >= deadline {
            return purged;
        }
    }
}

pub(super) async fn feed(field: &mut Field, starved: &mut Starved) -> Observed {
    let place = starved.follower;
    field.world.start(&[place])?;
    if starved.shards.is_empty() {
        return Err(format!("nobody had purged what the follower needs within {PURGE_LIMIT:?}"));
    }
    let node = &field.world.nodes[place];
    let before = &starved.directories;
    let grown = until(INSTALL_LIMIT, || async {
        let now = replica_directories(node);
        let grown = now.iter().filter(|(replica, number)| before.get(*replica).is_some_and(|before| before < *number));
        let count = grown.count();
        (count > 0).then_some(count)
    });
    let installed = grown.await.ok_or_else(|| format!("no snapshot was installed within {INSTALL_LIMIT:?}"))?;
    field.figures.count("snapshots_installed", installed as u64);
    if starved.killed { Ok(()) } else { Err("the follower had ended before SIGKILL reached it".to_string()) }
}

/// A replica's directory is `<replica>.<number>`; the number grows with each snapshot that is installed.
fn replica_directories(node: &Node) -> BTreeMap<String, u64> {
    let mut directories = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(node.data.join("replicas")) else { return directories };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((replica, number)) = name.split_once('.')
            && let Ok(number) = number.parse::<u64>()
        {
            let highest = directories.entry(replica.to_string()).or_default();
            *highest = number.max(*highest);
        }
    }
    directories
}
