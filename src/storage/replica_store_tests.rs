//! Whose directory it is.

use super::*;
use crate::storage::mem::MemDisk;
use crate::wire::golden;

fn identity() -> ReplicaIdentity {
    ReplicaIdentity { store: StoreId(7), replica: ReplicaId(1), shard: ShardId(3) }
}

#[test]
fn the_record_keeps_its_bytes() {
    let other = ReplicaIdentity { store: StoreId(0x0102), replica: ReplicaId(0x0304), shard: ShardId(0x0506) };
    golden::check_record("replica_identity", &[identity(), other], encode_identity, decode_identity);
    assert_eq!(directory_name(ReplicaId(0x0304), 12), "772.12");
}

fn refused(result: Result<ReplicaStore, Error>) -> String {
    let error = result.err().expect("it is refused");
    assert!(error.is_corruption(), "{error}");
    error.to_string()
}

#[test]
fn a_created_directory_is_there_after_a_crash_and_open_to_its_own_replica_alone() {
    let disk = MemDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    drop(ReplicaStore::create(shared.clone(), identity(), 1).unwrap());
    disk.crash_losing_everything_unsynced();
    let strangers =
        [ReplicaIdentity { store: StoreId(8), ..identity() }, ReplicaIdentity { shard: ShardId(4), ..identity() }];
    for stranger in strangers {
        let why = refused(ReplicaStore::open(shared.clone(), stranger, 1));
        assert!(why.contains("1.1 holds"), "{why}");
    }
    assert_eq!(ReplicaStore::open(shared, identity(), 1).unwrap().identity(), identity());
}

#[test]
fn a_lost_directory_is_refused_and_not_made_anew() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new(1));
    drop(ReplicaStore::create(disk.clone(), identity(), 1).unwrap());
    disk.remove_replica("1.1").unwrap();
    let why = refused(ReplicaStore::open(disk.clone(), identity(), 1));
    assert!(why.contains("is gone"), "{why}");
    assert!(disk.replica_directories().unwrap().is_empty());
    // An empty directory under the name is no better.
    drop(disk.open_replica("1.1").unwrap());
    refused(ReplicaStore::open(disk, identity(), 1));
}

#[test]
fn a_directory_under_another_s_name_is_refused() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new(1));
    let other = ReplicaIdentity { replica: ReplicaId(2), ..identity() };
    let stray = disk.open_replica("1.1").unwrap();
    let mut batch = Batch::default();
    batch.put(Bytes::from_static(keys::REPLICA_IDENTITY), encode_identity(&other));
    stray.write(batch, Durability::Buffered).unwrap();
    drop(stray);
    refused(ReplicaStore::open(disk, identity(), 1));
}

#[test]
fn creating_replaces_what_an_interrupted_creation_left() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new(1));
    let left_over = ReplicaStore::create(disk.clone(), identity(), 1).unwrap();
    let mut batch = Batch::default();
    batch.put(keys::row(b"a"), Bytes::from_static(b"left over"));
    left_over.engine().write(batch, Durability::Buffered).unwrap();
    drop(left_over);
    let store = ReplicaStore::create(disk, identity(), 1).unwrap();
    assert_eq!(store.engine().get(&keys::row(b"a")).unwrap(), None);
}
