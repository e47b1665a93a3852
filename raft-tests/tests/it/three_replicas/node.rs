//! One node of a bare group: a log store, one replica, the peers' wire, and nothing above. It answers Raft requests as
//! `api::peer` does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use ringraft::method::Method;
use ringraft::raft::birth::Nursery;
use ringraft::raft::meters::RaftMeters;
use ringraft::raft::network::GroupHeader;
use ringraft::raft::pace::Pace;
use ringraft::raft::replica::StartReplica;
use ringraft::raft::rooms::Rooms;
use ringraft::raft::snapshot::Chunk;
use ringraft::raft::{Replica, Timing};
use ringraft::storage::log_store::LogStore;
use ringraft::storage::registry::{RegistryRecord, ReplicaLife};
use ringraft::storage::replica_store::{ReplicaIdentity, ReplicaStore};
use ringraft::storage::reserve::Reserve;
use ringraft::storage::{self, Disk};
use ringraft::transport::dial::Net;
use ringraft::transport::{
    AddressBook, Failure, Gatekeeper, Handler, Hello, Incoming, Lane, PROTOCOL, Peers, Refusal, serve,
};
use ringraft::types::{ClusterId, NodeId, ReplicaId, ShardId, StoreId};
use ringraft::wire::Wire;
use tokio_util::sync::CancellationToken;

pub(super) const NODES: u64 = 3;
pub(super) const SHARD: ShardId = ShardId(3);
const FIRST_DIRECTORY: u64 = 1;
const LOG_TAIL_BYTES: u64 = 64 << 20;
const REFUSED: u8 = 5;

/// A node that runs. Its replica has the number of its node.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) replica: Replica,
    pub(super) peers: Peers,
}

/// A piece of a snapshot that arrived somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) to: u64,
    pub(super) stream: u64,
    pub(super) position: u64,
    pub(super) is_last: bool,
}

/// What the nodes of one group have in common with its test.
pub(super) struct Shared {
    pub(super) timing: Timing,
    running: Mutex<BTreeMap<u64, Running>>,
    addresses: Mutex<BTreeMap<u64, String>>,
    /// Nodes whose log was made.
    made: [AtomicBool; NODES as usize],
    pieces: Mutex<Vec<Piece>>,
    /// When this node has taken the piece with this position, its sender's connections break before the answer.
    sever_at: Mutex<Option<(u64, u64)>>,
}

impl Shared {
    pub(super) fn new(timing: Timing) -> Arc<Self> {
        Arc::new(Self {
            timing,
            running: Mutex::default(),
            addresses: Mutex::default(),
            made: Default::default(),
            pieces: Mutex::default(),
            sever_at: Mutex::default(),
        })
    }

    pub(super) fn running(&self, number: u64) -> Option<Running> {
        self.running.lock().unwrap().get(&number).cloned()
    }

    pub(super) fn all_running(&self) -> BTreeMap<u64, Running> {
        self.running.lock().unwrap().clone()
    }

    /// The node is gone. Its handles are dropped outside the lock.
    pub(super) fn forget(&self, number: u64) {
        let gone = self.running.lock().unwrap().remove(&number);
        drop(gone);
    }

    pub(super) fn node_at(&self, address: &str) -> Option<u64> {
        let addresses = self.addresses.lock().unwrap();
        addresses.iter().find(|(_, at)| *at == address).map(|(number, _)| *number)
    }

    pub(super) fn pieces(&self) -> Vec<Piece> {
        self.pieces.lock().unwrap().clone()
    }

    pub(super) fn sever_snapshot(&self, to: u64, position: u64) {
        *self.sever_at.lock().unwrap() = Some((to, position));
    }

    fn piece_arrived(&self, to: u64, chunk: &Chunk) {
        let piece = Piece { to, stream: chunk.stream, position: chunk.position, is_last: chunk.end.is_some() };
        self.pieces.lock().unwrap().push(piece);
    }

    /// Breaks the connections over which this piece came, if that was asked for. Once.
    fn severs(&self, from: u64, to: u64, position: u64) -> bool {
        let asked = self.sever_at.lock().unwrap().take_if(|sever_at| *sever_at == (to, position)).is_some();
        if asked && let Some(sender) = self.running(from) {
            sender.peers.disconnect(NodeId(to));
        }
        asked
    }
}

/// A node's place in its world.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) net: Arc<dyn Net>,
    pub(super) listen: String,
    /// `host:port` under which the others dial it; as bound when none.
    pub(super) advertise: Option<String>,
    pub(super) shared: Arc<Shared>,
}

/// Starts a node on its disk, for the first time or again. It runs until the runtime under it ends.
pub(super) async fn start(place: Place) -> Result<(), storage::Error> {
    let Place { number, disk, net, listen, advertise, shared } = place;
    let (node, replica, store) = (NodeId(number), ReplicaId(number), StoreId(u128::from(1000 + number)));
    let made = &shared.made[usize::try_from(number - 1).unwrap()];
    let rooms = Rooms::new(Reserve::open(disk.clone(), 0)?);
    let log = LogStore::open(disk.as_ref(), store, !made.load(Ordering::SeqCst), LOG_TAIL_BYTES)?;
    made.store(true, Ordering::SeqCst);
    let identity = ReplicaIdentity { store, replica, shard: SHARD };
    let rows = match log.record(replica) {
        Some(RegistryRecord { state: ReplicaLife::Live { directory }, .. }) => {
            ReplicaStore::open(disk, identity, directory)?
        }
        _ => {
            let rows = ReplicaStore::create(disk, identity, FIRST_DIRECTORY)?;
            let record = RegistryRecord { shard: SHARD, state: ReplicaLife::Live { directory: FIRST_DIRECTORY } };
            log.put_record(replica, record).await?;
            rows
        }
    };
    let listener = net.listen(&listen).await.unwrap();
    let address = advertise.unwrap_or_else(|| listener.local_address().unwrap());
    shared.addresses.lock().unwrap().insert(number, address);
    let keeper = Arc::new(Keeper { node, store, timing: shared.timing });
    let peers = Peers::new(net, keeper.clone(), Arc::new(Book(shared.clone())));
    let parts = StartReplica {
        node,
        timing: shared.timing,
        store: rows,
        log,
        peers: peers.clone(),
        meters: RaftMeters::default(),
        rooms,
        pace: Pace::new(u64::MAX),
        nursery: Nursery::new().0,
    };
    let replica = Replica::start(parts).await?;
    let handler = Arc::new(Answers { number, replica: replica.clone(), shared: shared.clone() });
    tokio::spawn(serve(listener, keeper, handler, CancellationToken::new()));
    shared.running.lock().unwrap().insert(number, Running { replica, peers });
    Ok(())
}

struct Keeper {
    node: NodeId,
    store: StoreId,
    timing: Timing,
}

impl Gatekeeper for Keeper {
    fn hello(&self, lane: Lane) -> Hello {
        Hello {
            versions: PROTOCOL,
            lane,
            cluster: Some(ClusterId(7)),
            node: Some(self.node),
            store: self.store,
            start_counter: 1,
            peer_address: String::new(),
            http_address: String::new(),
            catalog_version: 0,
            timing_hash: self.timing.fingerprint(),
        }
    }
    fn check(&self, _remote: &Hello) -> Result<(), Refusal> {
        Ok(())
    }
    fn heard(&self, _remote: &Hello) {}
    fn catalog_version(&self) -> u64 {
        0
    }
    fn heard_catalog_version(&self, _remote: &Hello, _version: u64) {}
}

struct Book(Arc<Shared>);

impl AddressBook for Book {
    fn peer_address(&self, node: NodeId) -> Option<String> {
        self.0.addresses.lock().unwrap().get(&node.0).cloned()
    }
}

struct Answers {
    number: u64,
    replica: Replica,
    shared: Arc<Shared>,
}

impl Handler for Answers {
    fn handle(&self, call: Incoming) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let mut body = call.body;
        let header = GroupHeader::decode(&mut body).expect("only replicas call here");
        let method = Method::from_number(call.method).expect("only replicas call here");
        let position = (method == Method::SnapshotChunk).then(|| {
            let chunk = Chunk::from_bytes(body.clone()).expect("a piece as it was sent");
            self.shared.piece_arrived(self.number, &chunk);
            chunk.position
        });
        let (replica, shared, number) = (self.replica.clone(), self.shared.clone(), self.number);
        async move {
            let answer = replica.handle(header, method, body).await;
            if position.is_some_and(|position| shared.severs(header.from.0, number, position)) {
                // Taken, and the answer never arrives.
                return std::future::pending().await;
            }
            answer.map_err(|refused| Failure { status: REFUSED, body: refused.to_string().into() })
        }
        .boxed()
    }
}
