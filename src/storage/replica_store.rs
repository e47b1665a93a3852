//! One replica's rows: the data engine that is current, and the switch to a new one when a snapshot was installed.
//!
//! Readers take a view from whatever engine is current; a view taken before a switch stays whole until it is dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use bytes::{Bytes, BytesMut};

use super::registry::directory_name;
use super::{Batch, Disk, Durability, Engine, Error, View, keys};
use crate::mutants::planted;
use crate::types::{ReplicaId, ShardId, StoreId};
use crate::wire::{Wire, WireError, take_format};
use crate::wire_struct;

const FORMAT: u8 = 1;

/// Whose rows a directory holds. It stands in the directory itself, so that a directory that was lost, restored or copied
/// from elsewhere is noticed and never opened (`architecture` §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaIdentity {
    pub store: StoreId,
    pub replica: ReplicaId,
    pub shard: ShardId,
}
wire_struct!(ReplicaIdentity { store, replica, shard });

/// Cheap to clone.
#[derive(Clone)]
pub struct ReplicaStore {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    identity: ReplicaIdentity,
    current: RwLock<Arc<dyn Engine>>,
    directory: AtomicU64,
}

impl ReplicaStore {
    /// Makes the empty directory of a replica that never ran. Durable on return; a left-over of an interrupted creation is
    /// replaced, because without a registry record its Raft never ran.
    pub fn create(disk: Arc<dyn Disk>, identity: ReplicaIdentity, directory: u64) -> Result<Self, Error> {
        let engine = fresh_engine(disk.as_ref(), identity, directory)?;
        engine.flush()?;
        Ok(Self::with(disk, identity, directory, engine))
    }

    /// Opens the directory that the registry names.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the directory is not this replica's, or is gone.
    pub fn open(disk: Arc<dyn Disk>, identity: ReplicaIdentity, directory: u64) -> Result<Self, Error> {
        let name = directory_name(identity.replica, directory);
        if !disk.replica_directories()?.contains(&name) {
            return Err(Error::Corrupt {
                what: format!("the directory {name} of replica {} is gone", identity.replica),
            });
        }
        let engine = disk.open_replica(&name)?;
        let found = engine.get(keys::REPLICA_IDENTITY)?.map(decode_identity).transpose();
        let found = found.map_err(|error| Error::Corrupt { what: format!("identity in {name}: {error}") })?;
        if found != Some(identity) {
            return Err(Error::Corrupt { what: format!("{name} holds {found:?} and not {identity:?}") });
        }
        Ok(Self::with(disk, identity, directory, engine))
    }

    fn with(disk: Arc<dyn Disk>, identity: ReplicaIdentity, directory: u64, engine: Arc<dyn Engine>) -> Self {
        let shared = Shared { disk, identity, current: RwLock::new(engine), directory: AtomicU64::new(directory) };
        Self { shared: Arc::new(shared) }
    }

    pub fn identity(&self) -> ReplicaIdentity {
        self.shared.identity
    }

    pub fn directory(&self) -> u64 {
        self.shared.directory.load(Ordering::Acquire)
    }

    pub fn engine(&self) -> Arc<dyn Engine> {
        self.shared.current.read().expect("no panic while the engine is switched").clone()
    }

    pub fn view(&self) -> Box<dyn View> {
        self.engine().view()
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.shared.disk
    }

    /// Makes the directory of a replica that begins with everything that is here, and with `changes` to it. Durable on
    /// return; what an interrupted attempt left is replaced, because without a record that counts its Raft never ran. The
    /// caller sees to it that nothing is written here meanwhile. Blocks.
    pub fn bear(&self, child: ReplicaIdentity, directory: u64, changes: Batch) -> Result<Self, Error> {
        let disk = self.shared.disk.clone();
        let name = directory_name(child.replica, directory);
        disk.remove_replica(&name)?;
        self.engine().checkpoint(&name)?;
        let engine = disk.open_replica(&name)?;
        let mut batch = changes;
        batch.put(Bytes::from_static(keys::REPLICA_IDENTITY), encode_identity(&child));
        engine.write(batch, Durability::Buffered)?;
        engine.flush()?;
        Ok(Self::with(disk, child, directory, engine))
    }

    /// Starts an empty directory that a snapshot is written into. The current one stays in use.
    pub fn begin_install(&self, directory: u64) -> Result<Install, Error> {
        let engine = fresh_engine(self.shared.disk.as_ref(), self.shared.identity, directory)?;
        Ok(Install { engine, directory })
    }

    /// Uses the installed directory from now on. The caller has made the registry's switch durable; the old directory may
    /// then be removed once its views are gone.
    pub fn switch(&self, install: Install) {
        let mut current = self.shared.current.write().expect("no panic while the engine is switched");
        *current = install.engine;
        self.shared.directory.store(install.directory, Ordering::Release);
    }
}

/// A directory being filled from a snapshot.
pub struct Install {
    engine: Arc<dyn Engine>,
    pub directory: u64,
}

impl Install {
    pub fn write(&self, batch: Batch) -> Result<(), Error> {
        planted!(SnapshotNotAtomic => self.engine.flush()?);
        self.engine.write(batch, Durability::Buffered)
    }

    /// Makes everything written durable and gives a view of it.
    pub fn finish(&self) -> Result<Box<dyn View>, Error> {
        planted!(SnapshotNotAtomic => return Ok(self.engine.view()));
        self.engine.flush()?;
        Ok(self.engine.view())
    }
}

fn fresh_engine(disk: &dyn Disk, identity: ReplicaIdentity, directory: u64) -> Result<Arc<dyn Engine>, Error> {
    let name = directory_name(identity.replica, directory);
    disk.remove_replica(&name)?;
    let engine = disk.open_replica(&name)?;
    let mut batch = Batch::default();
    batch.put(Bytes::from_static(keys::REPLICA_IDENTITY), encode_identity(&identity));
    engine.write(batch, Durability::Buffered)?;
    Ok(engine)
}

fn encode_identity(identity: &ReplicaIdentity) -> Bytes {
    let mut out = BytesMut::new();
    FORMAT.encode(&mut out);
    identity.encode(&mut out);
    out.freeze()
}

fn decode_identity(mut value: Bytes) -> Result<ReplicaIdentity, WireError> {
    take_format(&mut value, "replica identity", FORMAT)?;
    ReplicaIdentity::from_bytes(value)
}

#[cfg(test)]
#[path = "replica_store_tests.rs"]
mod tests;
