//! What the tests of this module share: entries, and a replica's stores on a simulated disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;
use openraft::vote::RaftLeaderId;

use super::birth::Nursery;
use super::meters::RaftMeters;
use super::state_machine::{MachineShared, StateMachine};
use super::{Entry, LeaderId, LogId, Membership, Place};
use crate::machine::{Action, Birth, Command, Precondition, Write};
use crate::ring::TokenRange;
use crate::storage::log_store::LogStore;
use crate::storage::registry::{RegistryRecord, ReplicaLife};
use crate::storage::replica_store::{ReplicaIdentity, ReplicaStore};
use crate::storage::{Disk, KeyRange, View};
use crate::types::{Epoch, NodeId, ReplicaId, Revision, ShardId, StoreId};

pub(super) const STORE: StoreId = StoreId(7);
pub(super) const SHARD: ShardId = ShardId(3);
pub(super) const TAIL_BYTES: u64 = 64 << 20;

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, ReplicaId(1)).to_committed(), index)
}

pub(super) fn entry(term: u64, index: u64, payload: EntryPayload<Command, ReplicaId, Place>) -> Entry {
    Entry { log_id: log_id(term, index), payload }
}

pub(super) fn blank(index: u64) -> Entry {
    entry(1, index, EntryPayload::Blank)
}

pub(super) fn birth(range: TokenRange) -> Command {
    Command::Birth(Birth { shard: SHARD, range, epoch: Epoch(1), revision_base: Revision(1 << 20) })
}

pub(super) fn put(key: &str, value: impl Into<Bytes>) -> Command {
    Command::Write(Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        time_ms: 0,
        precondition: Precondition::default(),
        idempotency_key: Some(Bytes::copy_from_slice(key.as_bytes())),
        action: Action::Put { content_type: None, value: value.into() },
    })
}

/// How every log begins: a membership, a birth; then writes of `k2`, `k3`, … to and without `to`.
pub(super) fn history(from: u64, to: u64) -> Vec<Entry> {
    let payload = |index| match index {
        0 => {
            let members = BTreeMap::from([(ReplicaId(1), Place { node: NodeId(1) })]);
            let membership = Membership::new(vec![BTreeSet::from([ReplicaId(1)])], members).unwrap();
            EntryPayload::Membership(membership)
        }
        1 => EntryPayload::Normal(birth(TokenRange::full())),
        index => EntryPayload::Normal(put(&format!("k{index}"), format!("value {index}"))),
    };
    (from..to).map(|index| entry(1, index, payload(index))).collect()
}

pub(super) async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) -> std::io::Result<()> {
    machine.apply(futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await
}

pub(super) type Rows = BTreeMap<Bytes, Bytes>;

pub(super) fn rows_of(view: &dyn View) -> Rows {
    view.scan(&KeyRange { from: Bytes::new(), before: None }).collect::<Result<_, _>>().unwrap()
}

pub(super) fn identity(replica: u64) -> ReplicaIdentity {
    ReplicaIdentity { store: STORE, replica: ReplicaId(replica), shard: SHARD }
}

pub(super) struct Stores {
    pub(super) log: LogStore,
    pub(super) machine: StateMachine,
    pub(super) shared: Arc<MachineShared>,
}

/// A replica that never ran, registered as a node registers it.
pub(super) async fn create(disk: Arc<dyn Disk>, replica: u64) -> Stores {
    let log = LogStore::open(disk.as_ref(), STORE, true, TAIL_BYTES).unwrap();
    let store = ReplicaStore::create(disk, identity(replica), 1).unwrap();
    let record = RegistryRecord { shard: SHARD, state: ReplicaLife::Live { directory: 1 } };
    log.put_record(ReplicaId(replica), record).await.unwrap();
    with(store, log)
}

/// The replica as the registry knows it, after a crash.
pub(super) fn reopen(disk: Arc<dyn Disk>, replica: u64) -> Stores {
    reopen_with(LogStore::open(disk.as_ref(), STORE, false, TAIL_BYTES).unwrap(), disk, replica)
}

/// The same where the log is open already.
pub(super) fn reopen_with(log: LogStore, disk: Arc<dyn Disk>, replica: u64) -> Stores {
    let Some(RegistryRecord { state: ReplicaLife::Live { directory }, .. }) = log.record(ReplicaId(replica)) else {
        panic!("replica {replica} is not registered");
    };
    let store = ReplicaStore::open(disk, identity(replica), directory).unwrap();
    with(store, log)
}

fn with(store: ReplicaStore, log: LogStore) -> Stores {
    let (machine, shared) = StateMachine::open(store, log.clone(), Nursery::new().0, RaftMeters::default()).unwrap();
    Stores { log, machine, shared }
}
