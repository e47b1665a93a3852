//! Everything that peers ask of this node, dispatched by method. Raft requests go to the replica they name and to no
//! other; routed requests are served here or refused with a better address, never passed on.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use tokio::sync::watch;

use crate::admission::{Admission, Gate};
use crate::catalog::{CatalogCommand, CatalogResponse, NodeProfile};
use crate::clock::{self, Moment};
use crate::machine::{Command, Response};
use crate::method::Method;
use crate::mutants::planted;
use crate::raft::network::GroupHeader;
use crate::raft::snapshot;
use crate::router::{
    ReadRequest, RemoteRead, RemoteScan, Router, ScanShardRequest, SplitPointRequest, Timed, WriteRequest,
};

use crate::shard;
use crate::storage::off_runtime;
use crate::transport::{Failure, Handler, Incoming};
use crate::types::{ClusterId, META_SHARD, NodeId, ReplicaId, ShardId, StoreId};
use crate::wire::{Wire, WireError};
use crate::wire_struct;

/// Statuses of refusals between peers. Numbers are never reused.
pub mod status {
    /// The node is starting and serves nothing yet.
    pub const NOT_SERVING: u8 = 1;
    pub const NO_SUCH_METHOD: u8 = 2;
    pub const MALFORMED: u8 = 3;
    /// The replica that the frame names does not run here.
    pub const NO_SUCH_REPLICA: u8 = 4;
    /// The replica would not answer; the body says why.
    pub const REFUSED: u8 = 5;
    /// No catalog is known here.
    pub const NO_CATALOG: u8 = 6;
}

/// What a node that is not in a cluster yet wants to know of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhoIs {
    pub store: StoreId,
    pub cluster: Option<ClusterId>,
    pub node: Option<NodeId>,
    /// It was told to found a cluster and has not yet.
    pub would_found: bool,
}
wire_struct!(WhoIs { store, cluster, node, would_found });

/// The answer to [`Method::Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub catalog: Bytes,
}
wire_struct!(Joined { cluster, node, catalog });

/// Hash of one replica's logical rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaDigest {
    pub shard: ShardId,
    pub replica: ReplicaId,
    /// None before the first entry.
    pub applied_index: Option<u64>,
    pub hash: u64,
}
wire_struct!(ReplicaDigest { shard, replica, applied_index, hash });

/// Answers peers. Made before the node knows its cluster; serves once [`PeerService::begin`] was called.
pub struct PeerService {
    who: Box<dyn Fn() -> WhoIs + Send + Sync>,
    serving: OnceLock<Serving>,
}

#[derive(Clone)]
struct Serving {
    router: Router,
    draining: watch::Receiver<bool>,
    admission: Admission,
}

impl PeerService {
    pub fn new(who: impl Fn() -> WhoIs + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { who: Box::new(who), serving: OnceLock::new() })
    }

    /// From now on requests are served.
    pub fn begin(&self, router: Router, draining: watch::Receiver<bool>, admission: Admission) {
        let first = self.serving.set(Serving { router, draining, admission }).is_ok();
        assert!(first, "a node begins to serve once");
    }
}

impl Handler for PeerService {
    fn handle(&self, call: Incoming) -> BoxFuture<'static, Result<Bytes, Failure>> {
        let Some(method) = Method::from_number(call.method) else {
            return refuse(status::NO_SUCH_METHOD, format!("no method {}", call.method)).boxed();
        };
        if method == Method::WhoIs {
            let who = (self.who)().to_bytes();
            return async move { Ok(who) }.boxed();
        }
        match self.serving.get() {
            Some(serving) => answer(serving.clone(), method, call.body, call.deadline).boxed(),
            None => refuse(status::NOT_SERVING, "this node is starting").boxed(),
        }
    }
}

async fn refuse(status: u8, why: impl Into<String>) -> Result<Bytes, Failure> {
    Err(failure(status, why))
}

fn failure(status: u8, why: impl Into<String>) -> Failure {
    Failure { status, body: Bytes::from(why.into()) }
}

fn malformed(error: WireError) -> Failure {
    failure(status::MALFORMED, error.to_string())
}

async fn answer(serving: Serving, method: Method, mut body: Bytes, deadline: Moment) -> Result<Bytes, Failure> {
    let Serving { router, draining, admission } = serving;
    match method {
        Method::Append | Method::Vote | Method::PreVote | Method::TransferLeader | Method::SnapshotChunk => {
            let header = GroupHeader::decode(&mut body).map_err(malformed)?;
            planted!(RemovedStillVotes => router.host().make_again(header.shard, header.to).await);
            let Some(group) = router.host().by_replica(header.to) else {
                return refuse(status::NO_SUCH_REPLICA, format!("replica {} does not run here", header.to)).await;
            };
            let answer = group.replica().handle(header, method, body).await;
            answer.map_err(|refused| failure(status::REFUSED, refused.to_string()))
        }
        Method::Write => {
            let WriteRequest { shard, write } = Wire::from_bytes(body).map_err(malformed)?;
            let Some(group) = router.host().group(shard) else { return Ok(not_here::<Response>()) };
            let written = group.write(write, deadline);
            Ok(Timed::of(admitted(admission.peers(), written)).await.to_bytes())
        }
        Method::Read => {
            let ReadRequest { shard, key, consistency } = Wire::from_bytes(body).map_err(malformed)?;
            let Some(group) = router.host().group(shard) else { return Ok(not_here::<RemoteRead>()) };
            let read = async { group.read(key, consistency, deadline).await.map(RemoteRead::new) };
            Ok(Timed::of(admitted(admission.peers(), read)).await.to_bytes())
        }
        Method::Scan => {
            let ScanShardRequest { shard, scan, consistency } = Wire::from_bytes(body).map_err(malformed)?;
            let Some(group) = router.host().group(shard) else { return Ok(not_here::<RemoteScan>()) };
            let scan = async { group.scan(scan, consistency, deadline).await.map(RemoteScan::new) };
            Ok(Timed::of(admitted(admission.peers(), scan)).await.to_bytes())
        }
        Method::ProposeCatalog => {
            let command: CatalogCommand = Wire::from_bytes(body).map_err(malformed)?;
            let Some(group) = router.host().group(META_SHARD) else { return Ok(not_here::<Response>()) };
            Ok(Timed::of(group.propose(Command::Catalog(command), 0, deadline)).await.to_bytes())
        }
        Method::FetchCatalog => match router.catalog() {
            Some(catalog) => Ok(catalog.to_bytes()),
            None => refuse(status::NO_CATALOG, "no catalog is known here").await,
        },
        Method::Members => {
            let shard = ShardId::from_bytes(body).map_err(malformed)?;
            let Some(group) = router.host().group(shard) else { return Ok(not_here::<shard::Members>()) };
            Ok(Timed::of(group.members(deadline)).await.to_bytes())
        }
        Method::SplitState => {
            let shard = ShardId::from_bytes(body).map_err(malformed)?;
            let Some(group) = router.host().group(shard) else { return Ok(not_here::<shard::SplitState>()) };
            Ok(Timed::of(group.split_state(deadline)).await.to_bytes())
        }
        Method::SplitPoint => {
            let SplitPointRequest { shard, wanted } = Wire::from_bytes(body).map_err(malformed)?;
            let Some(group) = router.host().group(shard) else { return Ok(not_here::<shard::SplitPoint>()) };
            Ok(Timed::of(group.split_point(wanted, deadline)).await.to_bytes())
        }
        Method::Flush => {
            let replica = ReplicaId::from_bytes(body).map_err(malformed)?;
            let Some(group) = router.host().by_replica(replica) else {
                return refuse(status::NO_SUCH_REPLICA, format!("replica {replica} does not run here")).await;
            };
            let flushed = group.replica().flush(false).await;
            flushed.map(|()| Bytes::new()).map_err(|error| failure(status::REFUSED, error.to_string()))
        }
        Method::NewestCatalog => {
            let known = u64::from_bytes(body).map_err(malformed)?;
            let Some(group) = router.host().group(META_SHARD) else { return Ok(not_here::<Option<Bytes>>()) };
            let newer = async {
                let catalog = group.catalog(deadline).await?;
                Ok(catalog.filter(|catalog| catalog.version > known).map(|catalog| catalog.to_bytes()))
            };
            Ok(Timed::of(newer).await.to_bytes())
        }
        Method::Join => join(&router, Wire::from_bytes(body).map_err(malformed)?, deadline).await,
        Method::Silences => Ok(router.silences().all().to_bytes()),
        Method::ReplicaReports => Ok(router.host().reports().to_bytes()),
        Method::Digest => digest(&router, ShardId::from_bytes(body).map_err(malformed)?).await,
        Method::ReadyToLead => {
            let replica = ReplicaId::from_bytes(body).map_err(malformed)?;
            // A node that is being stopped has just given its leaderships away.
            Ok((!*draining.borrow() && ready_to_lead(&router, replica)).to_bytes())
        }
        Method::WhoIs => unreachable!("answered before the node serves"),
    }
}

/// What another node forwarded, unless this one is late and has too much of that in hand.
async fn admitted<T>(gate: &Gate, request: impl Future<Output = Result<T, shard::Error>>) -> Result<T, shard::Error> {
    let _in_hand = gate.enter().ok_or(shard::Error::Overloaded)?;
    request.await
}

fn not_here<T: Wire>() -> Bytes {
    Timed::<T>::not_here().to_bytes()
}

/// Takes a node in. Idempotent: the same store gets the same node id.
async fn join(router: &Router, profile: NodeProfile, deadline: Moment) -> Result<Bytes, Failure> {
    /// Left for the answer's way back.
    const MARGIN: Duration = Duration::from_millis(200);
    let deadline = clock::now().after(deadline.since(clock::now()).saturating_sub(MARGIN));
    let store = profile.store;
    let response =
        router.propose_catalog(CatalogCommand::JoinNode { node: profile, time_ms: clock::wall_ms() }, deadline).await;
    let node = match response {
        Ok(CatalogResponse::Node { id, .. }) => id,
        Ok(CatalogResponse::Refused { why }) => return refuse(status::REFUSED, why.to_string()).await,
        Ok(other) => return refuse(status::REFUSED, format!("the meta group answered {other:?}")).await,
        Err(error) => return refuse(status::REFUSED, error.to_string()).await,
    };
    match router.catalog() {
        Some(catalog) => {
            tracing::info!(%node, %store, "node taken in");
            Ok(Joined { cluster: catalog.cluster, node, catalog: catalog.to_bytes() }.to_bytes())
        }
        None => refuse(status::NO_CATALOG, "no catalog is known here").await,
    }
}

async fn digest(router: &Router, shard: ShardId) -> Result<Bytes, Failure> {
    let Some(group) = router.host().group(shard) else {
        return refuse(status::NO_SUCH_REPLICA, format!("shard {shard} has no replica here")).await;
    };
    let store = group.replica().machine().store.clone();
    let replica = group.replica().id();
    let disk = store.disk().clone();
    let hashed = off_runtime(disk.as_ref(), move || snapshot::digest(store.view().as_ref(), shard)).await;
    let (applied_index, hash) = hashed.map_err(|error| failure(status::REFUSED, error.to_string()))?;
    Ok(ReplicaDigest { shard, replica, applied_index, hash }.to_bytes())
}

/// Whether a transfer to this replica would succeed now. A failed one leaves the shard without a leader for seconds.
fn ready_to_lead(router: &Router, replica: ReplicaId) -> bool {
    router.host().by_replica(replica).is_some_and(|group| {
        let replica = group.replica();
        !replica.is_held_off() && replica.members().voters.contains(&replica.id())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Token;
    use crate::wire::golden;

    #[test]
    fn what_nodes_ask_and_answer_keeps_its_bytes() {
        let stranger = WhoIs { store: StoreId(0x0102), cluster: None, node: None, would_found: true };
        let member =
            WhoIs { cluster: Some(ClusterId(0x0304)), node: Some(NodeId(5)), would_found: false, ..stranger.clone() };
        golden::check("who_is", &[stranger, member]);
        let catalog = Bytes::from_static(b"catalog");
        golden::check("joined", &[Joined { cluster: ClusterId(0x0304), node: NodeId(5), catalog }]);
        golden::check("digest_request", &[ShardId(0x0102)]);
        let digest = ReplicaDigest { shard: ShardId(1), replica: ReplicaId(2), applied_index: Some(3), hash: 4 };
        golden::check("replica_digest", &[ReplicaDigest { applied_index: None, ..digest.clone() }, digest]);
        golden::check("ready_to_lead_request", &[ReplicaId(0x0102)]);
        golden::check("split_point_request", &[SplitPointRequest { shard: ShardId(1), wanted: Some(Token(0x0203)) }]);
        golden::check("ready_to_lead_answer", &[true, false]);
    }

    #[tokio::test]
    async fn what_is_forwarded_is_refused_when_too_much_of_it_is_in_hand() {
        let gate = Gate::default();
        let full = gate.fill();
        let request = async { unreachable!("it is not begun") };
        let refused: Result<(), _> = admitted(&gate, request).await;
        assert!(matches!(refused, Err(shard::Error::Overloaded)), "{refused:?}");
        drop(full);
        let in_hand = admitted(&gate, async { Ok(gate.in_hand()) }).await;
        assert_eq!((in_hand.unwrap(), gate.in_hand()), (1, 0));
    }

    #[test]
    fn statuses_never_change() {
        use status::*;
        let all = [NOT_SERVING, NO_SUCH_METHOD, MALFORMED, NO_SUCH_REPLICA, REFUSED, NO_CATALOG];
        assert_eq!(all, [1, 2, 3, 4, 5, 6]);
    }
}
