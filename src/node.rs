//! A whole node: disk, peers, replicas, routing, HTTP, and the tasks that keep them going. The one place where the parts
//! are put together; it runs the same on a real disk and network and in simulation.

mod directory;
mod drain;
mod enter;
mod identity;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Fuse, pending};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{error, info, warn};

use self::directory::{Directory, Myself};
use self::identity::{Founding, Identity};
use crate::admission::Admission;
use crate::api::peer::{PeerService, WhoIs};
use crate::catalog::{Catalog, CatalogCommand, NodeProfile};
use crate::clock;
use crate::config::Config;
use crate::machine::Command;
use crate::method::Method;
use crate::placement::reconcile::Reconciler;
use crate::placement::{liveness, remains};
use crate::raft::Timing;
use crate::raft::pace::Pace;
use crate::raft::rooms::Rooms;
use crate::router::Router;
use crate::shard::Host;
use crate::shard::host::{FlushBudget, HostParts};
use crate::shard::limits::Limits;
use crate::storage::log_store::LogStore;
use crate::storage::reserve::Reserve;
use crate::storage::rocks::RocksDisk;
use crate::storage::{self, Disk};
use crate::transport::dial::{Net, TcpNet};
use crate::transport::{Lane, Peers};
use crate::types::{ClusterId, META_SHARD, NodeId, ReplicaId};
use crate::wire::{Wire, WireError};
use crate::{api, transport};

/// The meta group's first replica: the founding command of the catalog gives it this id.
const FIRST_REPLICA: u64 = 1;
/// How often a node that hears of no newer catalog asks for one: a node without replicas hears nothing by itself.
const CATALOG_POLL_INTERVAL: Duration = Duration::from_secs(1);
const CATALOG_FETCH_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Storage(#[from] storage::Error),
    #[error("cannot listen on {address}: {what}")]
    Listen { address: String, what: String },
    #[error("this node belongs to no cluster: give it --bootstrap to found one or --join PEER,… to join one")]
    NoWayIn,
    #[error("the catalog cannot be read: {0}")]
    UnreadableCatalog(WireError),
    #[error("{what}")]
    Founding { what: String },
    #[error("this data directory belongs to cluster {ours}, but the node at {seed} to cluster {theirs}")]
    WrongCluster { ours: ClusterId, theirs: ClusterId, seed: String },
}

/// What a node is made of. The seams are `disk` and `net`.
pub struct NodeParts {
    pub config: Config,
    pub disk: Arc<dyn Disk>,
    pub net: Arc<dyn Net>,
    /// Where clients are served: beside the node's other tasks, so that a refusal need not wait behind the work for which
    /// it is refused, nor that work behind a crowd of connections.
    pub clients: Handle,
}

/// Opens the data directory of a configuration.
pub fn open_disk(config: &Config) -> Result<RocksDisk, Error> {
    let options = storage::rocks::StorageOptions {
        block_cache_bytes: config.storage.block_cache_bytes,
        write_buffer_bytes: config.storage.write_buffer_bytes,
        background_threads: config.storage.background_threads,
        open_files_max: config.storage.open_files_max,
    };
    Ok(RocksDisk::open(&config.data_dir, &options)?)
}

/// Runs a node on the real disk and network until `stop`.
pub async fn run(config: Config, disk: RocksDisk, clients: Handle, stop: CancellationToken) -> Result<(), Error> {
    let parts = NodeParts { config, disk: Arc::new(disk), net: Arc::new(TcpNet), clients };
    let node = Node::start(parts, stop.clone()).await?;
    let Some(mut node) = node else { return Ok(()) };
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        error = node.wrong_cluster() => Err(error),
    };
    node.stop().await;
    ended
}

/// A running node.
pub struct Node {
    router: Router,
    peers: Peers,
    draining: watch::Sender<bool>,
    background: CancellationToken,
    http: Server,
    peer: Server,
    tasks: TaskTracker,
    seeds: AskedSeeds,
    /// How much room the disk has.
    _measuring: AbortOnDropHandle<()>,
    /// How late its tasks run.
    _admitting: AbortOnDropHandle<()>,
}

/// The seeds of a node that is back are asked while it opens and serves already: one that drops what it is sent would keep
/// it from voting for seconds. Until an answer of another cluster is here, that cluster refuses it, and it that cluster.
struct AskedSeeds(Fuse<AbortOnDropHandle<Result<(), Error>>>);

impl AskedSeeds {
    fn of_member(config: &Config, ours: ClusterId, peers: &Peers) -> Self {
        let (config, peers) = (config.cluster.clone(), peers.clone());
        let asked = tokio::spawn(async move { enter::refuse_another_cluster(&config, ours, &peers).await });
        Self(AbortOnDropHandle::new(asked).fuse())
    }

    /// Waits for ever when no seed answers for another cluster.
    async fn wrong_cluster(&mut self) -> Error {
        match (&mut self.0).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => pending().await,
        }
    }
}

/// A listener's task and what ends it. Dropped, as by a start that is given up, it ends too, but is not waited for.
struct Server {
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Server {
    fn start<F>(on: &Handle, serve: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        Self { task: on.spawn(serve(stop.clone())), stop: stop.drop_guard() }
    }

    /// Stops accepting and waits for what is in flight; the server bounds that time itself.
    async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            warn!(%error, "a listener did not end in order");
        }
    }
}

impl Node {
    /// Starts a node and returns when it serves peers and clients; its shards may still be on their way. None when `stop`
    /// came first. HTTP is answered from the moment it listens: `/livez` and the like, and 503 `starting` for the rest.
    pub async fn start(parts: NodeParts, stop: CancellationToken) -> Result<Option<Self>, Error> {
        tokio::select! {
            started = Self::start_unless_stopped(parts) => started.map(Some),
            () = stop.cancelled() => Ok(None),
        }
    }

    async fn start_unless_stopped(parts: NodeParts) -> Result<Self, Error> {
        let NodeParts { config, disk, net, clients } = parts;
        let started = clock::now();
        let timing = timing_of(&config);
        let reserve = Reserve::open(disk.clone(), config.storage.disk_reserve_bytes)?;
        // From here on: opening and founding write too, and may take minutes.
        let measuring = {
            let reserve = reserve.clone();
            AbortOnDropHandle::new(tokio::spawn(async move { reserve.run().await }))
        };
        let mut identity = Identity::open(disk.as_ref())?;
        let log =
            LogStore::open(disk.as_ref(), identity.store, !identity.log_made, config.storage.log_tail_bytes as u64)?;
        if !identity.log_made {
            identity.log_made = true;
            identity.save(disk.as_ref())?;
        }

        let peer_listener = listen(&Handle::current(), &net, &config.peer.listen).await?;
        let http_listener = listen(&clients, &net, &config.http.listen).await?;
        let advertised = |configured: &Option<String>, listener: &dyn transport::dial::Listener, address: &str| {
            configured.clone().or_else(|| listener.local_address().ok()).unwrap_or_else(|| address.to_string())
        };
        let myself = Myself {
            store: identity.store,
            start_counter: identity.start_counter,
            peer_address: advertised(&config.peer.advertise, peer_listener.as_ref(), &config.peer.listen),
            http_address: advertised(&config.http.advertise, http_listener.as_ref(), &config.http.listen),
            timing_hash: timing.fingerprint(),
        };
        let profile = profile_of(&config, &myself);
        let (directory, newer_catalogs) = Directory::new(myself);
        if let Some(copy) = log.catalog_copy()? {
            directory.offer(Arc::new(Catalog::from_bytes(copy).map_err(Error::UnreadableCatalog)?));
        }
        if let (Some(cluster), Some(node)) = (identity.cluster, identity.node) {
            directory.set_membership(cluster, node);
        }
        let peers = Peers::new(net.clone(), directory.clone(), directory.clone());

        let (background, tasks) = (CancellationToken::new(), TaskTracker::new());
        let service = peer_service(&config, &identity, directory.clone());
        let peer = Server::start(&Handle::current(), |stop| {
            transport::serve(peer_listener, directory.clone(), service.clone(), stop)
        });
        let awaited = watch::Sender::new("this node asks its seeds for their cluster".to_string());
        let (draining, is_draining) = watch::channel(false);
        let admission = Admission::default();
        let context =
            api::Context::new(&config.http, awaited.subscribe(), is_draining.clone(), admission.clone(), started);
        let http = Server::start(&clients, |stop| api::serve(http_listener, context.clone(), stop));

        let mut seeds = if let Some(cluster) = identity.cluster {
            AskedSeeds::of_member(&config, cluster, &peers)
        } else {
            enter::enter(&config.cluster, &profile, &mut identity, disk.as_ref(), &peers, &directory, &awaited).await?;
            AskedSeeds(Fuse::terminated())
        };
        let (cluster, node) = directory.membership().expect("entered above");
        awaited.send_replace("this node opens its replicas".into());
        let opening = Box::pin(Host::open(HostParts {
            node,
            store: identity.store,
            timing,
            limits: limits_of(&config),
            flush: flush_budget_of(&config),
            disk: disk.clone(),
            log: log.clone(),
            peers: peers.clone(),
            rooms: Rooms::new(reserve),
            pace: Pace::new(config.placement.snapshot_bytes_per_s),
        }));
        let host = tokio::select! {
            error = seeds.wrong_cluster() => return Err(error),
            opened = opening => opened?,
        };
        if let Some(founding) = identity.founding {
            awaited.send_replace("this node founds the cluster".into());
            found(&host, cluster, &profile, founding).await?;
            identity.founding = None;
            identity.save(disk.as_ref())?;
        }

        let router = Router::new(host.clone(), directory.catalog());
        service.begin(router.clone(), is_draining, admission.clone());
        // Here and not where clients are served: what must not be late is Raft.
        let admitting = AbortOnDropHandle::new(tokio::spawn(async move { admission.run().await }));
        tasks.spawn(follow_own_catalog(host.meta_catalog(), directory.clone(), background.clone()));
        tasks.spawn(keep_catalog_copy(directory.catalog(), log, background.clone()));
        tasks.spawn(fetch_catalogs(newer_catalogs, peers.clone(), directory.clone(), background.clone()));
        tasks.spawn(dial_seeds(config.cluster.join.clone(), peers.clone(), directory, background.clone()));
        let reconciler = Reconciler::new(router.clone(), profile);
        tasks.spawn(reconciler.run(background.clone()));
        tasks.spawn(remains::run(router.clone(), background.clone()));
        let grace = Duration::from_secs(config.placement.dead_after_s);
        tasks.spawn(liveness::run(router.clone(), grace, background.clone()));
        {
            let (host, background) = (host.clone(), background.clone());
            tasks.spawn(async move { host.run_flusher(background).await });
        }
        {
            let (host, background) = (host.clone(), background.clone());
            tasks.spawn(async move { host.run_cleaner(background).await });
        }
        context.begin(router.clone(), cluster);
        info!(%cluster, %node, "serving");
        Ok(Self {
            router,
            peers,
            draining,
            background,
            http,
            peer,
            tasks,
            seeds,
            _measuring: measuring,
            _admitting: admitting,
        })
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Ends, with [`Error::WrongCluster`], when a seed that was asked at the start answers for another cluster. The node is
    /// to be stopped then.
    pub async fn wrong_cluster(&mut self) -> Error {
        self.seeds.wrong_cluster().await
    }

    /// Hands leaderships over, finishes what is in flight, flushes, stops.
    pub async fn stop(self) {
        info!("stopping: handing leaderships over");
        self.draining.send_replace(true);
        self.background.cancel();
        drain::hand_leaderships_over(&self.router).await;
        // Clients first: what they still wait for may need the peers.
        self.http.stop().await;
        self.peer.stop().await;
        self.tasks.close();
        self.tasks.wait().await;
        let host = self.router.host();
        host.flush_all().await;
        host.shutdown().await;
        self.peers.shutdown().await;
        info!("stopped");
    }
}

/// The sockets belong to the runtime that listens.
async fn listen(on: &Handle, net: &Arc<dyn Net>, address: &str) -> Result<Box<dyn transport::dial::Listener>, Error> {
    let failed = |what| Error::Listen { address: address.into(), what };
    let (net, at) = (net.clone(), address.to_string());
    let listening = on.spawn(async move { net.listen(&at).await });
    let listening = listening.await.map_err(|error| failed(error.to_string()))?;
    listening.map_err(|error| failed(error.to_string()))
}

fn timing_of(config: &Config) -> Timing {
    Timing {
        heartbeat: Duration::from_millis(config.raft.heartbeat_ms),
        election_min: Duration::from_millis(config.raft.election_min_ms),
        election_max: Duration::from_millis(config.raft.election_max_ms),
        quorum_loss_probe: Duration::from_millis(config.raft.quorum_loss_probe_ms),
    }
}

fn limits_of(config: &Config) -> Limits {
    Limits {
        proposals_per_shard: config.limits.proposals_per_shard as usize,
        proposals_per_node: config.limits.proposals_per_node as usize,
        proposal_bytes_per_node: config.limits.proposal_bytes_per_node,
    }
}

fn flush_budget_of(config: &Config) -> FlushBudget {
    FlushBudget {
        // Half of what the stores may hold, so that flushes are ours and not RocksDB's.
        unflushed_bytes: config.storage.write_buffer_bytes as u64 / 2,
        log_bytes: config.storage.flush_log_bytes,
        ..FlushBudget::default()
    }
}

fn profile_of(config: &Config, myself: &Myself) -> NodeProfile {
    NodeProfile {
        store: myself.store,
        http: myself.http_address.clone(),
        peer: myself.peer_address.clone(),
        weight: config.node.weight,
        zone: config.node.zone.clone(),
        host: config.node.host.clone(),
        protocol: transport::PROTOCOL,
        feature_level_max: crate::catalog::FEATURE_LEVEL_FIRST,
    }
}

fn peer_service(config: &Config, identity: &Identity, directory: Arc<Directory>) -> Arc<PeerService> {
    let (store, bootstrap) = (identity.store, config.cluster.bootstrap);
    PeerService::new(move || {
        let membership = directory.membership();
        WhoIs {
            store,
            cluster: membership.map(|(cluster, _)| cluster),
            node: membership.map(|(_, node)| node),
            would_found: bootstrap && membership.is_none(),
        }
    })
}

/// Makes the meta group and the catalog's first entry. Does again what a crash interrupted.
async fn found(host: &Host, cluster: ClusterId, profile: &NodeProfile, founding: Founding) -> Result<(), Error> {
    let first = Command::Catalog(CatalogCommand::Found {
        cluster,
        replication_factor: founding.replication_factor,
        initial_shards: founding.shards,
        revision_base: founding.revision_base,
        node: profile.clone(),
    });
    let replica = ReplicaId::new(0, FIRST_REPLICA);
    host.found(META_SHARD, replica, first).await?;
    let catalog = host.meta_catalog().borrow().clone();
    // The command may have been refused because it was there already, but then it must have been ours.
    let group = host.group(META_SHARD);
    let own = group.and_then(|group| group.replica().machine().catalog.borrow().clone()).or(catalog);
    match own {
        Some(catalog) if catalog.cluster == cluster => Ok(()),
        other => Err(Error::Founding { what: format!("the meta group holds {:?}", other.map(|other| other.cluster)) }),
    }
}

/// The meta replica's catalog is the newest there is.
async fn follow_own_catalog(
    mut own: watch::Receiver<Option<Arc<Catalog>>>,
    directory: Arc<Directory>,
    stop: CancellationToken,
) {
    loop {
        let newest = own.borrow_and_update().clone();
        if let Some(newest) = newest {
            directory.offer(newest);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = own.changed() => if changed.is_err() { return },
        }
    }
}

/// Keeps a copy on disk, so that a restarted node finds the others while the meta group is away.
async fn keep_catalog_copy(mut catalog: watch::Receiver<Option<Arc<Catalog>>>, log: LogStore, stop: CancellationToken) {
    loop {
        let newest = catalog.borrow_and_update().clone();
        if let Some(newest) = newest
            && let Err(error) = log.put_catalog_copy(newest.to_bytes()).await
        {
            error!(%error, "the catalog's copy could not be stored");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = catalog.changed() => if changed.is_err() { return },
        }
    }
}

/// Fetches newer catalogs from whoever is heard to have one, and asks around when nothing is heard.
async fn fetch_catalogs(
    mut newer: mpsc::Receiver<NodeId>,
    peers: Peers,
    directory: Arc<Directory>,
    stop: CancellationToken,
) {
    let mut turn: usize = 0;
    loop {
        let node = tokio::select! {
            () = stop.cancelled() => return,
            node = newer.recv() => node,
            () = tokio::time::sleep(CATALOG_POLL_INTERVAL) => {
                turn = turn.wrapping_add(1);
                another_node(&directory, turn)
            }
        };
        let Some(node) = node else { continue };
        let asked =
            peers.call(node, Lane::Control, Method::FetchCatalog as u8, bytes::Bytes::new(), CATALOG_FETCH_TIMEOUT);
        match asked.await.map(|reply| Catalog::from_bytes(reply.body)) {
            Ok(Ok(catalog)) => {
                directory.offer(Arc::new(catalog));
            }
            Ok(Err(error)) => warn!(%node, %error, "this node's catalog cannot be read"),
            // It is asked again by the next frame that tells of a newer one.
            Err(_unreachable) => {}
        }
    }
}

fn another_node(directory: &Directory, turn: usize) -> Option<NodeId> {
    let me = directory.membership().map(|(_, node)| node);
    let catalog = directory.catalog();
    let catalog = catalog.borrow();
    let others: Vec<NodeId> = catalog.as_ref()?.nodes.keys().copied().filter(|node| Some(*node) != me).collect();
    others.get(turn % others.len().max(1)).copied()
}

/// Seeds are always dialled: when every node has a new address, the heard ones are how the cluster finds itself.
async fn dial_seeds(seeds: Vec<String>, peers: Peers, directory: Arc<Directory>, stop: CancellationToken) {
    const INTERVAL: Duration = Duration::from_secs(5);
    loop {
        for seed in seeds.iter().filter(|seed| **seed != directory.myself().peer_address) {
            // The handshake alone tells addresses and catalog version.
            let _ = peers.probe(seed, CATALOG_FETCH_TIMEOUT).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

#[cfg(test)]
mod tests;
