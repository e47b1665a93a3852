//! What this node's replicas are: one record each in the log engine, kept for ever once it is a tombstone.
//!
//! A replica's record is durable before its Raft runs, and a tombstone before anything of it is removed. So an id whose
//! log was lost or destroyed never runs again here (`architecture` §3): an empty replica grants votes, which is safe only
//! because its id never ran before.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::{Change, Engine, Error, keys};
use crate::types::{ReplicaId, ShardId};
use crate::wire::{Wire, WireError, take_format};
use crate::{wire_enum, wire_struct};

const FORMAT: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryRecord {
    pub shard: ShardId,
    pub state: ReplicaLife,
}
wire_struct!(RegistryRecord { shard, state });

/// Tag 3 is kept for replicas that are being filled before their first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaLife {
    /// Its Raft may run. `directory` counts the directories this replica has had: an installed snapshot is a new one, and
    /// this record is the switch.
    Live { directory: u64 },
    /// Being born by a split: its Raft never ran. It counts exactly if the parent's flushed rows are at or past the split's
    /// entry; else record and directory go, and the entry, applied again, makes them anew (`models` §5, §6).
    Born { directory: u64, parent: ReplicaId, index: u64 },
    /// Destroyed. Its id never runs here again.
    Tombstone,
}
wire_enum!(ReplicaLife { 1 => Live { directory }, 2 => Born { directory, parent, index }, 4 => Tombstone });

/// The name of a replica's directory.
pub fn directory_name(replica: ReplicaId, directory: u64) -> String {
    format!("{replica}.{directory}")
}

#[derive(Default)]
pub struct Registry {
    records: BTreeMap<ReplicaId, RegistryRecord>,
}

impl Registry {
    pub fn load(engine: &dyn Engine) -> Result<Self, Error> {
        let view = engine.view();
        let mut records = BTreeMap::new();
        for row in view.scan(&keys::registry_range()) {
            let (key, value) = row?;
            let replica = keys::registry_replica(&key)
                .ok_or_else(|| Error::Corrupt { what: format!("{key:?} is no registry key") })?;
            let record = decode(value)
                .map_err(|error| Error::Corrupt { what: format!("registry record of replica {replica}: {error}") })?;
            records.insert(replica, record);
        }
        Ok(Self { records })
    }

    pub fn records(&self) -> &BTreeMap<ReplicaId, RegistryRecord> {
        &self.records
    }

    /// Takes the record over and gives the change that makes it durable.
    ///
    /// # Errors
    /// When the change would bring a tombstone back, change a replica's shard or go back to an older directory.
    pub fn change(&mut self, replica: ReplicaId, record: RegistryRecord) -> Result<Change, Error> {
        if let Some(current) = self.records.get(&replica) {
            let forbidden = match (&current.state, &record.state) {
                _ if current.shard != record.shard => true,
                (ReplicaLife::Tombstone, ReplicaLife::Live { .. } | ReplicaLife::Born { .. }) => true,
                // It may have voted.
                (ReplicaLife::Live { .. }, ReplicaLife::Born { .. }) => true,
                (ReplicaLife::Live { directory: old }, ReplicaLife::Live { directory: new }) => new < old,
                _ => false,
            };
            if forbidden {
                let what = format!("replica {replica} is {current:?} and never becomes {record:?}");
                return Err(Error::Io { doing: "changing the registry".into(), what });
            }
        }
        let change = Change::Put(keys::registry(replica), encode(&record));
        self.records.insert(replica, record);
        Ok(change)
    }

    /// Forgets a replica that was being born, and gives the change that makes it durable; none when there is no record.
    ///
    /// # Errors
    /// When its Raft may have run.
    pub fn forget_born(&mut self, replica: ReplicaId) -> Result<Option<Change>, Error> {
        match self.records.get(&replica) {
            None => Ok(None),
            Some(RegistryRecord { state: ReplicaLife::Born { .. }, .. }) => {
                self.records.remove(&replica);
                Ok(Some(Change::Delete(keys::registry(replica))))
            }
            Some(current) => {
                let what = format!("replica {replica} is {current:?} and is not forgotten");
                Err(Error::Io { doing: "changing the registry".into(), what })
            }
        }
    }
}

fn encode(record: &RegistryRecord) -> Bytes {
    let mut out = BytesMut::new();
    FORMAT.encode(&mut out);
    record.encode(&mut out);
    out.freeze()
}

fn decode(mut value: Bytes) -> Result<RegistryRecord, WireError> {
    take_format(&mut value, "registry record", FORMAT)?;
    RegistryRecord::from_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::golden;

    fn live(directory: u64) -> RegistryRecord {
        RegistryRecord { shard: ShardId(3), state: ReplicaLife::Live { directory } }
    }

    fn born() -> RegistryRecord {
        let state = ReplicaLife::Born { directory: 1, parent: ReplicaId(0x0203), index: 0x0405 };
        RegistryRecord { shard: ShardId(3), state }
    }

    #[test]
    fn records_keep_their_bytes() {
        golden::check(
            "registry_record",
            &[live(7), RegistryRecord { shard: ShardId(1), state: ReplicaLife::Tombstone }, born()],
        );
        golden::has_every_tag(&[ReplicaLife::Live { directory: 7 }, born().state, ReplicaLife::Tombstone]);
        // As it stands under its key: with its version in front.
        golden::check_record("registry_value", &[live(0x0102)], encode, decode);
    }

    #[test]
    fn a_destroyed_replica_never_comes_back() {
        let mut registry = Registry::default();
        registry.change(ReplicaId(1), live(1)).unwrap();
        registry.change(ReplicaId(1), live(2)).unwrap();
        assert!(registry.change(ReplicaId(1), live(1)).is_err(), "an older directory");
        let tombstone = || RegistryRecord { shard: ShardId(3), state: ReplicaLife::Tombstone };
        registry.change(ReplicaId(1), tombstone()).unwrap();
        registry.change(ReplicaId(1), tombstone()).unwrap();
        assert!(registry.change(ReplicaId(1), live(3)).is_err(), "out of its grave");
        assert!(registry.change(ReplicaId(1), born()).is_err(), "nor by a split");
        assert!(registry.forget_born(ReplicaId(1)).is_err(), "a grave is kept");
        let moved = RegistryRecord { shard: ShardId(4), state: ReplicaLife::Tombstone };
        assert!(registry.change(ReplicaId(1), moved).is_err(), "another shard under the same id");
    }

    #[test]
    fn a_birth_is_forgotten_only_while_its_raft_never_ran() {
        let mut registry = Registry::default();
        registry.change(ReplicaId(2), born()).unwrap();
        registry.change(ReplicaId(2), born()).unwrap();
        assert!(registry.forget_born(ReplicaId(2)).unwrap().is_some());
        assert!(registry.forget_born(ReplicaId(2)).unwrap().is_none());
        registry.change(ReplicaId(2), born()).unwrap();
        registry.change(ReplicaId(2), live(1)).unwrap();
        assert!(registry.forget_born(ReplicaId(2)).is_err());
        assert!(registry.change(ReplicaId(2), born()).is_err(), "it may have voted");
    }
}
