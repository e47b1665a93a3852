//! Births by splits, on one replica: the child's directory, and what replicas of a node tell each other about them.
//!
//! The order of the steps is what a crash between any two of them hangs on (`models` §5): record `Born` and the child's
//! directory, the narrowed parent, its flush, and only then the record `Live` and the child's Raft.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use openraft::vote::RaftLeaderId;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::codec::AppliedRecord;
use super::state_machine::{MachineShared, applied_record};
use super::{LeaderId, LogId, Membership, Place, Replica, StoredMembership};
use crate::clock;
use crate::machine::{LastSplit, ShardState};
use crate::storage::log_store::LogStore;
use crate::storage::registry::{RegistryRecord, ReplicaLife, directory_name};
use crate::storage::replica_store::{ReplicaIdentity, ReplicaStore};
use crate::storage::{Batch, Disk, Error, keys, off_runtime};
use crate::types::{Epoch, ReplicaId, ShardId, StoreId};
use crate::wire::Wire;

/// Between two tries of a child to be elected: the others are born within a heartbeat or two of each other.
const CAMPAIGN_PAUSE: Duration = Duration::from_millis(50);
/// For so long it campaigns faster than others would: longer than a birth takes anywhere.
const CAMPAIGN_TIME: Duration = Duration::from_secs(10);

/// A replica whose directory and record are durable, and whose Raft is to be started.
pub struct Newborn {
    pub parent: ReplicaId,
    pub store: ReplicaStore,
}

/// What the replicas of a node know of each other. Cheap to clone.
#[derive(Clone)]
pub struct Nursery {
    machines: Arc<Mutex<BTreeMap<ReplicaId, Weak<MachineShared>>>>,
    newborns: mpsc::UnboundedSender<Newborn>,
}

impl Nursery {
    /// Whoever takes the newborns starts them.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Newborn>) {
        let (newborns, taken) = mpsc::unbounded_channel();
        (Self { machines: Arc::default(), newborns }, taken)
    }

    pub(super) fn enter(&self, replica: ReplicaId, machine: &Arc<MachineShared>) {
        let mut machines = self.machines.lock().expect("no panic while the machines are changed");
        machines.retain(|_, machine| machine.strong_count() > 0);
        machines.insert(replica, Arc::downgrade(machine));
    }

    pub(super) fn bring(&self, newborn: Newborn) {
        // A node that is ending starts nobody; its next start does.
        let _ended = self.newborns.send(newborn);
    }

    /// The replica runs here and has applied an entry of its own.
    fn has_applied(&self, replica: ReplicaId) -> bool {
        let machines = self.machines.lock().expect("no panic while the machines are looked up");
        let machine = machines.get(&replica).and_then(Weak::upgrade);
        machine.is_some_and(|machine| *machine.applied.borrow() >= Some(FIRST_OWN_INDEX))
    }
}

/// The entry that a birth stands for has index 0.
const FIRST_OWN_INDEX: u64 = 1;

impl MachineShared {
    /// The last split's child beside this replica has not applied an entry of its own, so perhaps no majority holds the
    /// child: a snapshot behind the split would leave a parent without its child there, and a log purged behind it would
    /// ask for one (`models` §7).
    pub(super) fn holds_snapshots_back(&self) -> bool {
        let child = {
            let state = self.state.lock().expect("no panic while the state is copied");
            state.last_split.as_ref().and_then(|split| split.child_of(self.store.identity().replica))
        };
        child.is_some_and(|child| match self.log.record(child).map(|record| record.state) {
            // This replica was filled by a snapshot from behind the split, so somebody held the child before.
            None | Some(ReplicaLife::Tombstone) => false,
            Some(ReplicaLife::Live { .. } | ReplicaLife::Born { .. }) => !self.nursery.has_applied(child),
        })
    }
}

/// What a child's replica differs in from its parent's: it has applied its birth and nothing else, under the least of all
/// log ids, for log ids compare by leader first and the parent's would outrank the child's own.
pub(super) fn child_changes(state: &ShardState, split: &LastSplit, parent: &StoredMembership) -> Batch {
    let place = |replica| parent.membership().get_node(&replica).copied().unwrap_or_default();
    let places: BTreeMap<ReplicaId, Place> =
        split.births.iter().map(|birth| (birth.child, place(birth.parent))).collect();
    let birth = LogId::new(LeaderId::new(0, ReplicaId(0)).to_committed(), 0);
    let members =
        Membership::new(vec![places.keys().copied().collect()], places).expect("the voters are the keys of the places");
    let record = AppliedRecord { applied: Some(birth), membership: StoredMembership::new(Some(birth), members) };
    let mut changes = left_overs(state.epoch);
    changes.put(Bytes::from_static(keys::APPLIED), record.to_bytes());
    changes.put(Bytes::from_static(keys::SHARD_STATE), state.to_bytes());
    changes.delete(Bytes::from_static(keys::LEFT_OVERS_REMOVED));
    changes
}

/// Notes that rows are here from now on that are the shard's no more.
pub(super) fn left_overs(epoch: Epoch) -> Batch {
    let mut changes = Batch::default();
    changes.put(Bytes::from_static(keys::LEFT_OVERS), epoch.to_bytes());
    changes
}

/// Decides about the births that the last end of the process interrupted. One counts exactly if its parent's rows are
/// flushed at or past the split; else it goes, and the split, applied again, makes it anew (`models` §6). One whose parent
/// cannot be opened is left as it is.
///
/// # Errors
/// Those of the log, and of directories that cannot be removed.
pub async fn settle(disk: Arc<dyn Disk>, log: &LogStore, store: StoreId) -> Result<(), Error> {
    let records = log.records();
    for (replica, record) in &records {
        let RegistryRecord { shard, state: ReplicaLife::Born { directory, parent, index } } = record else { continue };
        let reached = match records.get(parent) {
            Some(RegistryRecord { shard, state: ReplicaLife::Live { directory } }) => {
                let identity = ReplicaIdentity { store, replica: *parent, shard: *shard };
                match flushed_index(disk.clone(), identity, *directory).await {
                    Ok(reached) => reached,
                    Err(error) => {
                        warn!(%replica, %parent, %error, "whether a birth counts cannot be said: its parent is damaged");
                        continue;
                    }
                }
            }
            // Nothing is left of the parent, and the child never ran.
            _ => None,
        };
        if reached >= Some(*index) {
            let live = RegistryRecord { shard: *shard, state: ReplicaLife::Live { directory: *directory } };
            log.put_record(*replica, live).await?;
            info!(%shard, %replica, "a birth that was interrupted counts");
        } else {
            discard(disk.clone(), log, *replica, *shard, *directory).await?;
        }
    }
    Ok(())
}

async fn discard(
    disk: Arc<dyn Disk>,
    log: &LogStore,
    replica: ReplicaId,
    shard: ShardId,
    directory: u64,
) -> Result<(), Error> {
    let name = directory_name(replica, directory);
    off_runtime(disk.clone().as_ref(), move || disk.remove_replica(&name)).await?;
    log.forget_born(replica).await?;
    info!(%shard, %replica, "a birth that was interrupted is undone");
    Ok(())
}

/// The last entry that is flushed; what is not yet is flushed for that.
async fn flushed_index(disk: Arc<dyn Disk>, identity: ReplicaIdentity, directory: u64) -> Result<Option<u64>, Error> {
    off_runtime(disk.clone().as_ref(), move || {
        let store = ReplicaStore::open(disk, identity, directory)?;
        if store.engine().unflushed_bytes() > 0 {
            store.engine().flush()?;
        }
        Ok(applied_record(store.view().as_ref())?.applied.map(|log_id| log_id.index()))
    })
    .await
}

/// Campaigns until the child has a leader. Run beside the parent's leader alone: the child then serves where its requests
/// were served before, and none of its replicas waits for the others to give up.
pub async fn lead(replica: Replica) {
    let until = clock::now().after(CAMPAIGN_TIME);
    while replica.leader().is_none() && !replica.has_stopped() && clock::now() < until {
        replica.campaign().await;
        clock::sleep(CAMPAIGN_PAUSE).await;
    }
}

#[cfg(test)]
#[path = "birth_tests.rs"]
mod tests;
