//! Who this data directory belongs to. One small file, replaced atomically, written before anything that depends on it.

use bytes::{Bytes, BytesMut};

use crate::clock;
use crate::storage::{Disk, Error};
use crate::types::{ClusterId, NodeId, Revision, StoreId};
use crate::wire::{Wire, WireError, take_format};
use crate::wire_struct;

const FORMAT: u8 = 1;

/// Invariants: `store` never changes; `cluster` and `node` are set once, together; `founding` stands from the decision to
/// found a cluster until its catalog has its first entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) store: StoreId,
    pub(super) cluster: Option<ClusterId>,
    pub(super) node: Option<NodeId>,
    /// Raised at each start: of two addresses heard of a node the one with the higher counter counts.
    pub(super) start_counter: u64,
    /// The log store was made. Once it was, an empty one means that it was lost.
    pub(super) log_made: bool,
    pub(super) founding: Option<Founding>,
}
wire_struct!(Identity { store, cluster, node, start_counter, log_made, founding });

/// What the cluster is founded with; kept so that a crash in between is resumed with the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Founding {
    pub(super) replication_factor: u8,
    pub(super) shards: u32,
    pub(super) revision_base: Revision,
}
wire_struct!(Founding { replication_factor, shards, revision_base });

impl Identity {
    /// Reads the identity of a data directory, or gives a new one to an empty directory; counts this start.
    pub(super) fn open(disk: &dyn Disk) -> Result<Self, Error> {
        let mut identity = match disk.read_identity()? {
            Some(content) => decode(content.into())
                .map_err(|error| Error::Corrupt { what: format!("the identity file: {error}") })?,
            None => {
                let left_over = disk.replica_directories()?;
                if !left_over.is_empty() {
                    let what = format!("there are replicas ({}) but no identity file", left_over.join(", "));
                    return Err(Error::Corrupt { what });
                }
                Self {
                    store: StoreId(clock::random_u128()),
                    cluster: None,
                    node: None,
                    start_counter: 0,
                    log_made: false,
                    founding: None,
                }
            }
        };
        identity.start_counter += 1;
        identity.save(disk)?;
        Ok(identity)
    }

    pub(super) fn save(&self, disk: &dyn Disk) -> Result<(), Error> {
        let mut content = BytesMut::new();
        FORMAT.encode(&mut content);
        self.encode(&mut content);
        let crc = crc32c::crc32c(&content);
        crc.encode(&mut content);
        disk.write_identity(&content)
    }
}

fn decode(content: Bytes) -> Result<Identity, WireError> {
    let damaged = || WireError::Invalid { what: "identity", why: "its checksum does not match".into() };
    let split = content.len().checked_sub(4).ok_or_else(damaged)?;
    let mut record = content.slice(..split);
    let crc = u32::from_bytes(content.slice(split..))?;
    if crc != crc32c::crc32c(&record) {
        return Err(damaged());
    }
    take_format(&mut record, "identity", FORMAT)?;
    Identity::from_bytes(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::mem::MemDisk;
    use crate::wire::golden;

    #[test]
    fn the_record_keeps_its_bytes() {
        let founding = Founding { replication_factor: 3, shards: 12, revision_base: Revision(0x18f3c5a2b0000) };
        golden::check(
            "identity",
            &[Identity {
                store: StoreId(1),
                cluster: Some(ClusterId(2)),
                node: Some(NodeId(3)),
                start_counter: 4,
                log_made: true,
                founding: Some(founding),
            }],
        );
    }

    #[test]
    fn the_file_keeps_its_bytes() {
        let new = Identity {
            store: StoreId(0x0102),
            cluster: None,
            node: None,
            start_counter: 1,
            log_made: false,
            founding: None,
        };
        let joined =
            Identity { cluster: Some(ClusterId(0x0304)), node: Some(NodeId(5)), log_made: true, ..new.clone() };
        let written = |identity: &Identity| {
            let disk = MemDisk::new(1);
            identity.save(&disk).unwrap();
            disk.read_identity().unwrap().unwrap().into()
        };
        golden::check_record("identity_file", &[new, joined], written, decode);
    }

    #[test]
    fn a_directory_keeps_its_store_and_counts_its_starts() {
        let disk = MemDisk::new(1);
        let first = Identity::open(&disk).unwrap();
        let second = Identity::open(&disk).unwrap();
        assert_eq!((first.start_counter, second.start_counter), (1, 2));
        assert_eq!(first.store, second.store);
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let disk = MemDisk::new(1);
        Identity::open(&disk).unwrap();
        let content = disk.read_identity().unwrap().unwrap();
        for bit in 0..content.len() * 8 {
            let mut damaged = content.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            disk.write_identity(&damaged).unwrap();
            assert!(Identity::open(&disk).is_err(), "bit {bit}");
        }
    }
}
