//! What this node knows of the others: the newest catalog it has seen, the addresses it has heard, and what it says of
//! itself in handshakes.
//!
//! A heard address beats the catalog's, and of two heard ones that of the later start counts: so a cluster whose nodes all
//! got new addresses finds itself through the seeds (`architecture` §3).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};

use crate::catalog::Catalog;
use crate::transport::{AddressBook, Gatekeeper, Hello, Lane, PROTOCOL, Refusal};
use crate::types::{ClusterId, NodeId, StoreId};

/// Peers that are known to have a newer catalog and were not asked yet. More are simply dropped: the next frame tells again.
const NEWER_CATALOGS_MAX: usize = 16;

/// What a node says of itself; fixed for a start.
#[derive(Clone, Debug)]
pub(super) struct Myself {
    pub(super) store: StoreId,
    pub(super) start_counter: u64,
    pub(super) peer_address: String,
    pub(super) http_address: String,
    pub(super) timing_hash: u64,
}

pub(super) struct Directory {
    myself: Myself,
    /// Cluster and node id, once there are some.
    membership: Mutex<Option<(ClusterId, NodeId)>>,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    heard: Mutex<BTreeMap<NodeId, Heard>>,
    newer: mpsc::Sender<NodeId>,
}

struct Heard {
    store: StoreId,
    start_counter: u64,
    peer_address: String,
}

impl Directory {
    /// The receiver names nodes that have a newer catalog.
    pub(super) fn new(myself: Myself) -> (Arc<Self>, mpsc::Receiver<NodeId>) {
        let (newer, to_fetch) = mpsc::channel(NEWER_CATALOGS_MAX);
        let directory = Self {
            myself,
            membership: Mutex::new(None),
            catalog: watch::Sender::new(None),
            heard: Mutex::new(BTreeMap::new()),
            newer,
        };
        (Arc::new(directory), to_fetch)
    }

    pub(super) fn myself(&self) -> &Myself {
        &self.myself
    }

    pub(super) fn set_membership(&self, cluster: ClusterId, node: NodeId) {
        *self.membership.lock().expect("no panic while ids are copied") = Some((cluster, node));
    }

    pub(super) fn membership(&self) -> Option<(ClusterId, NodeId)> {
        *self.membership.lock().expect("no panic while ids are copied")
    }

    pub(super) fn catalog(&self) -> watch::Receiver<Option<Arc<Catalog>>> {
        self.catalog.subscribe()
    }

    /// Takes a catalog over if it is newer than the one known. Says whether it was.
    pub(super) fn offer(&self, catalog: Arc<Catalog>) -> bool {
        self.catalog.send_if_modified(|known| {
            let newer = known.as_ref().is_none_or(|known| known.version < catalog.version);
            if newer {
                *known = Some(catalog);
            }
            newer
        })
    }
}

impl AddressBook for Directory {
    fn peer_address(&self, node: NodeId) -> Option<String> {
        if let Some(heard) = self.heard.lock().expect("no panic while addresses are copied").get(&node) {
            return Some(heard.peer_address.clone());
        }
        Some(self.catalog.borrow().as_ref()?.nodes.get(&node)?.peer.clone())
    }
}

impl Gatekeeper for Directory {
    fn hello(&self, lane: Lane) -> Hello {
        let membership = self.membership();
        Hello {
            versions: PROTOCOL,
            lane,
            cluster: membership.map(|(cluster, _)| cluster),
            node: membership.map(|(_, node)| node),
            store: self.myself.store,
            start_counter: self.myself.start_counter,
            peer_address: self.myself.peer_address.clone(),
            http_address: self.myself.http_address.clone(),
            catalog_version: self.catalog_version(),
            timing_hash: self.myself.timing_hash,
        }
    }

    fn check(&self, remote: &Hello) -> Result<(), Refusal> {
        let Some(node) = remote.node else { return Ok(()) };
        let catalog = self.catalog.borrow();
        if let Some(descriptor) = catalog.as_ref().and_then(|catalog| catalog.nodes.get(&node))
            && descriptor.store != remote.store
        {
            return Err(Refusal::WrongStore { node, known: descriptor.store, found: remote.store });
        }
        let heard = self.heard.lock().expect("no panic while addresses are copied");
        if let Some(known) = heard.get(&node)
            && known.store == remote.store
            && known.start_counter > remote.start_counter
        {
            let (known, found) = (known.start_counter, remote.start_counter);
            return Err(Refusal::StaleStart { node, known, found });
        }
        Ok(())
    }

    fn heard(&self, remote: &Hello) {
        let Some(node) = remote.node else { return };
        let heard = Heard {
            store: remote.store,
            start_counter: remote.start_counter,
            peer_address: remote.peer_address.clone(),
        };
        self.heard.lock().expect("no panic while addresses are copied").insert(node, heard);
        self.heard_catalog_version(remote, remote.catalog_version);
    }

    fn catalog_version(&self) -> u64 {
        self.catalog.borrow().as_ref().map_or(0, |catalog| catalog.version)
    }

    fn heard_catalog_version(&self, remote: &Hello, version: u64) {
        if let Some(node) = remote.node
            && version > self.catalog_version()
        {
            // A full queue means that somebody is being asked already.
            let _ = self.newer.try_send(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Arc<Directory> {
        let myself = Myself {
            store: StoreId(1),
            start_counter: 1,
            peer_address: "a:1".into(),
            http_address: "a:2".into(),
            timing_hash: 0,
        };
        Directory::new(myself).0
    }

    fn hello(node: u64, start_counter: u64, address: &str) -> Hello {
        let mut hello = directory().hello(Lane::Data);
        hello.node = Some(NodeId(node));
        hello.store = StoreId(100 + u128::from(node));
        hello.start_counter = start_counter;
        hello.peer_address = address.into();
        hello
    }

    #[test]
    fn the_address_of_the_latest_start_counts() {
        let directory = directory();
        directory.heard(&hello(2, 5, "new:1"));
        assert!(matches!(directory.check(&hello(2, 4, "old:1")), Err(Refusal::StaleStart { known: 5, found: 4, .. })));
        assert_eq!(directory.peer_address(NodeId(2)).as_deref(), Some("new:1"));
        directory.heard(&hello(2, 6, "newest:1"));
        assert_eq!(directory.peer_address(NodeId(2)).as_deref(), Some("newest:1"));
    }
}
