//! openraft's own storage suite over the node's shared log store: every case gets fresh replica ids on one store, so that
//! the groups of all cases interleave in one log and one writer. Over both disks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use openraft::vote::RaftLeaderId;

use super::birth::Nursery;
use super::log_store::RaftLog;
use super::meters::RaftMeters;
use super::snapshot::{Chunk, Receiver, Sender, SnapshotData};
use super::state_machine::StateMachine;
use super::{LeaderId, TypeConfig, Vote};
use crate::storage::Disk;
use crate::storage::log_store::LogStore;
use crate::storage::mem::MemDisk;
use crate::storage::replica_store::{ReplicaIdentity, ReplicaStore};
use crate::storage::rocks::{RocksDisk, StorageOptions};
use crate::types::{ReplicaId, ShardId, StoreId};

/// The suite makes up node ids from numbers.
impl From<u64> for ReplicaId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

const STORE: StoreId = StoreId(7);

struct Builder {
    disk: Arc<dyn Disk>,
    log: LogStore,
    next: AtomicU64,
}

impl Builder {
    fn new(disk: Arc<dyn Disk>) -> Self {
        let log = LogStore::open(disk.as_ref(), STORE, true, 64 << 20).unwrap();
        Self { disk, log, next: AtomicU64::new(1000) }
    }
}

impl StoreBuilder<TypeConfig, RaftLog, StateMachine> for Arc<Builder> {
    async fn build(&self) -> Result<((), RaftLog, StateMachine), StorageError<TypeConfig>> {
        let replica = ReplicaId(self.next.fetch_add(1, Ordering::Relaxed));
        let identity = ReplicaIdentity { store: STORE, replica, shard: ShardId(1) };
        let store = ReplicaStore::create(self.disk.clone(), identity, 1).unwrap();
        let log = RaftLog::new(self.log.open_group(replica).unwrap(), Arc::default(), RaftMeters::default());
        let (mut machine, _) =
            StateMachine::open(store, self.log.clone(), Nursery::new().0, RaftMeters::default()).unwrap();
        machine.in_suite = true;
        Ok(((), log, machine))
    }
}

impl StateMachine {
    /// The suite hands one machine's snapshot to another in person; here it goes through the stream all the same.
    pub(super) fn received_in_suite(&self, snapshot: SnapshotData) -> std::io::Result<SnapshotData> {
        let SnapshotData::View(view) = snapshot else { return Ok(snapshot) };
        assert!(self.in_suite, "only the suite installs a view");
        let store = &self.shared().store;
        let mut sender = Sender::new(view, store.identity().shard)?;
        let mut receiver = Receiver::begin(store, 1, store.directory() + 1)?;
        for position in 0.. {
            let (rows, last) = sender.next_rows()?;
            receiver.take(&Chunk { stream: 1, position, rows, end: None })?;
            if last {
                break;
            }
        }
        let vote = Vote { leader_id: LeaderId::new(1, ReplicaId(1)), committed: true };
        Ok(SnapshotData::Received(Box::new(receiver.finish(&sender.end(vote))?)))
    }
}

fn run(disk: Arc<dyn Disk>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let builder = {
        let _in_runtime = runtime.enter();
        Arc::new(Builder::new(disk))
    };
    runtime.block_on(Suite::test_all(builder)).unwrap();
}

#[test]
fn openraft_s_suite_passes_in_memory() {
    run(Arc::new(MemDisk::new(1)));
}

#[test]
fn openraft_s_suite_passes_on_rocksdb() {
    let directory = tempfile::tempdir().unwrap();
    run(Arc::new(RocksDisk::open(directory.path(), &StorageOptions::default()).unwrap()));
}
