//! A birth on one replica: what the child holds, and that a crash at any step of it leaves a child that counts, or none.

use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;

use super::super::testing::{
    Rows, SHARD, STORE, Stores, TAIL_BYTES, apply, blank, create, entry, history, reopen_with, rows_of,
};
use super::*;
use crate::catalog::ReplicaBirth;
use crate::machine::query;
use crate::machine::split::is_left_over;
use crate::machine::{Command, Split};
use crate::ring::{Token, TokenRange};
use crate::storage::mem::MemDisk;
use crate::storage::{KeyRange, View};

const PARENT: ReplicaId = ReplicaId(1);
const CHILD: ReplicaId = ReplicaId(11);
const CHILD_SHARD: ShardId = ShardId(9);
/// Entry of the split; the writes in front of it are in both shards' logs, as it were.
const INDEX: u64 = 20;
const AT: Token = Token(1 << 63);
/// More durable steps than all of it takes.
const STEPS_MAX: u64 = 40;

fn split() -> super::super::Entry {
    let births = vec![ReplicaBirth { parent: PARENT, child: CHILD }];
    let split = Split { epoch: Epoch(1), membership: 0, at: AT, child: CHILD_SHARD, births };
    entry(1, INDEX, EntryPayload::Normal(Command::Split(split)))
}

/// Everything from `from` on: some writes, the split, and two entries behind it.
fn log_from(from: u64) -> Vec<super::super::Entry> {
    let mut log = history(0, INDEX);
    log.extend([split(), blank(INDEX + 1), blank(INDEX + 2)]);
    log.split_off(usize::try_from(from).unwrap())
}

fn own_rows(view: &dyn View, shard: ShardId) -> Rows {
    let range = query::shard_state(view, shard).unwrap().range;
    let is_data = |key: &Bytes| keys::user_key(key).is_some() || keys::dedup_token(key).is_some();
    rows_of(view).into_iter().filter(|(key, _)| is_data(key) && !is_left_over(key, range)).collect()
}

fn child_store(disk: &MemDisk) -> ReplicaStore {
    let identity = ReplicaIdentity { store: STORE, replica: CHILD, shard: CHILD_SHARD };
    ReplicaStore::open(Arc::new(disk.clone()), identity, 1).unwrap()
}

/// The two are what one replica was, and the child's log begins behind its birth.
fn check_both(parent: &dyn View, child: &dyn View, before: &Rows) {
    let mut together = own_rows(parent, SHARD);
    let of_child = own_rows(child, CHILD_SHARD);
    assert!(!together.is_empty() && !of_child.is_empty(), "both sides have rows");
    for (key, value) in of_child {
        assert_eq!(together.insert(key, value), None, "in both");
    }
    assert_eq!(&together, before);
    let record = applied_record(child).unwrap();
    let applied = record.applied.unwrap();
    assert_eq!((applied.index(), applied.committed_leader_id().term), (0, 0), "the least of all log ids");
    assert_eq!(record.membership.membership().voter_ids().collect::<Vec<_>>(), [CHILD]);
    let state = query::shard_state(child, CHILD_SHARD).unwrap();
    assert_eq!(state.range, Some(TokenRange { first: AT, last: Token::LAST }));
    assert_eq!(state.revision, query::shard_state(parent, SHARD).unwrap().revision);
}

async fn rows_before() -> Rows {
    let mut stores = create(Arc::new(MemDisk::new(1)), PARENT.0).await;
    apply(&mut stores.machine, history(0, INDEX)).await.unwrap();
    own_rows(stores.shared.store.view().as_ref(), SHARD)
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_birth_leaves_a_child_that_counts_or_none() {
    let before = rows_before().await;
    let mut undone = 0;
    let mut counted = 0;
    for steps in 0..STEPS_MAX {
        for loses_all in [false, true] {
            let disk = MemDisk::new(steps);
            let Stores { mut machine, shared, log } = create(Arc::new(disk.clone()), PARENT.0).await;
            disk.lose_power_after(steps);
            let _cut_off = apply(&mut machine, log_from(0)).await;
            drop((machine, shared, log));
            if loses_all {
                disk.crash_losing_everything_unsynced()
            } else {
                disk.crash()
            };

            let shared_disk: Arc<dyn Disk> = Arc::new(disk.clone());
            let log = LogStore::open(&disk, STORE, false, TAIL_BYTES).unwrap();
            settle(shared_disk.clone(), &log, STORE).await.unwrap();
            let record = log.record(CHILD);
            let mut after = reopen_with(log, shared_disk, PARENT.0);
            let applied = after.machine.applied_state().await.unwrap().0.map(|log_id| log_id.index());
            match &record {
                None => {
                    assert!(applied < Some(INDEX), "steps {steps}: the parent is narrowed and has no child");
                    undone += 1;
                }
                Some(record) => {
                    assert_eq!(record.state, ReplicaLife::Live { directory: 1 });
                    assert!(applied >= Some(INDEX), "steps {steps}: the child counts and the parent has its keys");
                    counted += 1;
                }
            }
            // The log replays the rest, to the same end.
            let from = applied.map_or(0, |applied| applied + 1);
            apply(&mut after.machine, log_from(from)).await.unwrap();
            assert_eq!(after.log.record(CHILD).map(|record| record.state), Some(ReplicaLife::Live { directory: 1 }));
            drop(after.machine);
            let child = child_store(&disk);
            check_both(after.shared.store.view().as_ref(), child.view().as_ref(), &before);
        }
    }
    assert!(undone > 2 && counted > 2, "both ends are seen: {undone} undone, {counted} counted");
}

#[tokio::test]
async fn what_a_split_left_behind_is_noted_on_both_sides() {
    let disk = MemDisk::new(1);
    let mut stores = create(Arc::new(disk.clone()), PARENT.0).await;
    apply(&mut stores.machine, log_from(0)).await.unwrap();
    drop(stores.machine);
    for view in [stores.shared.store.view(), child_store(&disk).view()] {
        assert!(view.get(keys::LEFT_OVERS).unwrap() > view.get(keys::LEFT_OVERS_REMOVED).unwrap());
        let rows = view.scan(&KeyRange { from: Bytes::new(), before: None }).count();
        assert!(rows > own_rows(view.as_ref(), SHARD).len());
    }
}

/// A child that runs nowhere yet may be held by nobody else.
#[tokio::test]
async fn snapshots_and_purges_wait_until_the_child_has_applied_an_entry_of_its_own() {
    let disk = MemDisk::new(1);
    let mut stores = create(Arc::new(disk.clone()), PARENT.0).await;
    apply(&mut stores.machine, history(0, INDEX)).await.unwrap();
    assert!(!stores.shared.holds_snapshots_back());
    apply(&mut stores.machine, log_from(INDEX)).await.unwrap();
    assert!(stores.shared.holds_snapshots_back());
    let nursery = stores.shared.nursery.clone();
    let child = super::super::state_machine::StateMachine::open(
        child_store(&disk),
        stores.log.clone(),
        nursery,
        super::super::meters::RaftMeters::default(),
    );
    let (mut child, shared) = child.unwrap();
    assert!(stores.shared.holds_snapshots_back(), "its birth is no entry of its own");
    apply(&mut child, vec![blank(1)]).await.unwrap();
    assert!(!stores.shared.holds_snapshots_back());
    drop((child, shared));
    assert!(stores.shared.holds_snapshots_back(), "it does not run");
    let tombstone = RegistryRecord { shard: CHILD_SHARD, state: ReplicaLife::Tombstone };
    stores.log.destroy(CHILD, tombstone).await.unwrap();
    assert!(!stores.shared.holds_snapshots_back());
}
