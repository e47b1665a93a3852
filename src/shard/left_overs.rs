//! Rows that a split left behind: they are the other shard's now, invisible to everything, and removed in the background
//! by ordinary deletes, so that open views keep seeing theirs (`architecture` §5).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::host::Host;
use crate::clock;
use crate::machine::query;
use crate::machine::split::is_left_over;
use crate::raft::Replica;
use crate::ring::TokenRange;
use crate::storage::{Batch, Durability, Engine, Error, KeyRange, View, keys, off_runtime};
use crate::types::{Epoch, ShardId};
use crate::wire::Wire;

/// Between two looks at all replicas.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Keys looked at in one step, and removed in one batch at most.
const STEP_KEYS: usize = 4096;
/// Between two steps: requests and heartbeats go first.
const STEP_PAUSE: Duration = Duration::from_millis(5);
/// Before a step that the store could not take.
const STALL_PAUSE: Duration = Duration::from_millis(100);

/// Goes on until cancelled. What is not finished is begun again by the next start.
pub(super) async fn run(host: Host, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = clock::sleep(LOOK_INTERVAL) => {}
        }
        for group in host.groups() {
            tokio::select! {
                () = stop.cancelled() => return,
                cleaned = clean(group.replica()) => if let Err(error) = cleaned {
                    warn!(shard = %group.shard(), %error, "what a split left could not be removed yet");
                }
            }
        }
    }
}

/// Where a walk over one replica's rows stands.
struct Walk {
    engine: Arc<dyn Engine>,
    view: Box<dyn View>,
    range: Option<TokenRange>,
    next: Bytes,
    removed: u64,
}

async fn clean(replica: &Replica) -> Result<(), Error> {
    let store = replica.machine().store.clone();
    let disk = store.disk().clone();
    let shard = replica.shard();
    let engine = store.engine();
    let begun = off_runtime(disk.as_ref(), move || begin(engine, shard)).await?;
    let Some((epoch, mut walk)) = begun else { return Ok(()) };
    loop {
        let (returned, step) = off_runtime(disk.as_ref(), move || {
            let step = walk.step();
            (walk, step)
        })
        .await;
        walk = returned;
        match step? {
            Step::Done => break,
            Step::GoesOn => {}
            // The store is behind with its flushes: writes of requests go first.
            Step::Stalled => clock::sleep(STALL_PAUSE).await,
        }
        // A snapshot that was installed meanwhile has brought no left-overs.
        if !Arc::ptr_eq(&walk.engine, &store.engine()) {
            return Ok(());
        }
        clock::sleep(STEP_PAUSE).await;
    }
    let Walk { engine, view, removed, .. } = walk;
    drop(view);
    let mut done = Batch::default();
    done.put(Bytes::from_static(keys::LEFT_OVERS_REMOVED), epoch.to_bytes());
    off_runtime(disk.as_ref(), move || {
        engine.write(done, Durability::Buffered)?;
        engine.flush()?;
        // Deletes alone give no room back.
        engine.compact(&KeyRange::prefix(&[]));
        Ok::<(), Error>(())
    })
    .await?;
    info!(%shard, replica = %replica.id(), removed, "removed what a split left");
    Ok(())
}

/// None when there is nothing to remove. Range and epoch are of the view that is walked: a later split leaves more, under a
/// later epoch.
fn begin(engine: Arc<dyn Engine>, shard: ShardId) -> Result<Option<(Epoch, Walk)>, Error> {
    if epoch_at(engine.get(keys::LEFT_OVERS)?)? <= epoch_at(engine.get(keys::LEFT_OVERS_REMOVED)?)? {
        return Ok(None);
    }
    let view = engine.view();
    let Some(epoch) = epoch_at(view.get(keys::LEFT_OVERS)?)? else { return Ok(None) };
    let range = query::shard_state(view.as_ref(), shard)?.range;
    Ok(Some((epoch, Walk { engine, view, range, next: Bytes::new(), removed: 0 })))
}

fn epoch_at(record: Option<Bytes>) -> Result<Option<Epoch>, Error> {
    let epoch = record.map(Epoch::from_bytes).transpose();
    epoch.map_err(|error| Error::Corrupt { what: format!("epoch of left-overs: {error}") })
}

enum Step {
    GoesOn,
    /// Nothing was removed; to be tried again.
    Stalled,
    Done,
}

impl Walk {
    fn step(&mut self) -> Result<Step, Error> {
        let mut doomed = Batch::default();
        let mut last = None;
        for (seen, row) in self.view.scan(&KeyRange { from: self.next.clone(), before: None }).enumerate() {
            let (key, _) = row?;
            if seen == STEP_KEYS {
                last = Some(key);
                break;
            }
            if is_left_over(&key, self.range) {
                doomed.delete(key);
            }
        }
        // Never one that waits: whoever applies entries would wait with it, and heartbeats with him.
        if !doomed.is_empty() && !self.engine.write_if_no_stall(&doomed)? {
            return Ok(Step::Stalled);
        }
        self.removed += doomed.changes.len() as u64;
        let step = if last.is_none() { Step::Done } else { Step::GoesOn };
        self.next = last.unwrap_or_default();
        Ok(step)
    }
}
