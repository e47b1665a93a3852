//! Key → token → shard → the local replica or the leader's node. The only layer that tries again, and only what is
//! certain not to have been applied.
//!
//! Where a shard's leader is, is a guess (the local replica's, or the last answer's); a wrong guess is refused with a
//! better one. What a shard owns is said by the shard itself: a stale route is corrected, never wrong.

mod remote;
mod scan;
mod silence;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

pub use remote::{
    ReadRequest, RemoteAnswer, RemoteRead, RemoteScan, ScanShardRequest, SplitPointRequest, Timed, WriteRequest,
};
pub use scan::{Page, PageRequest};
pub use silence::{Silence, Silences};

use crate::catalog::{Catalog, CatalogCommand, CatalogResponse, NodeDescriptor};
use crate::clock::{self, Moment};
use crate::machine::row::RowValue;
use crate::machine::{Command, Response, Write};
use crate::meters::{self, Stage};
use crate::method::Method;
use crate::ring::{Ring, Token, token_of};
use crate::shard::{self, Consistency, Host, ReplicaReport};
use crate::transport::{CallError, Lane};
use crate::types::{META_SHARD, NodeId, Outcome, ShardId};
use crate::wire::Wire;

/// Pause between two attempts when nobody knows the leader.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Answers travel back inside this margin of the deadline.
const ANSWER_MARGIN: Duration = Duration::from_millis(5);

/// Better addresses followed one after the other before a pause.
const REDIRECTS_MAX: u32 = 3;
/// How long one node is waited for when it is asked for a read.
const READ_ATTEMPT_MAX: Duration = Duration::from_millis(1500);

/// How a request wants to be routed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub deadline: Moment,
    /// `forward=never`: answer [`Error::WrongNode`] instead of asking another node.
    pub forward: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub response: Response,
    pub shard: ShardId,
    pub served_by: NodeId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub row: Option<RowValue>,
    /// What was really served.
    pub consistency: Consistency,
    /// Only of a stale answer: it holds every write acknowledged before this moment. None when that is unknown.
    pub fresh_at: Option<Moment>,
    pub shard: ShardId,
    pub served_by: NodeId,
}

/// Why a request was not served. `outcome` speaks of writes; a read changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the cluster is starting: its shards do not exist yet")]
    Starting,
    #[error("this node does not serve the shard")]
    WrongNode { shard: ShardId, leader: Option<Box<NodeDescriptor>> },
    #[error("no leader of the shard was reached before the deadline")]
    NoLeader { shard: ShardId },
    #[error("the shard's leader reached no quorum before the deadline")]
    NoQuorum { shard: ShardId },
    #[error("too many writes are in flight")]
    Overloaded { shard: ShardId },
    #[error("the disk of node {node} is almost full: the shards it votes in take deletes and reads, and no values")]
    DiskFull { shard: ShardId, node: NodeId },
    #[error("the deadline passed before the request was taken up")]
    DeadlineExceeded { shard: ShardId },
    #[error("{why}")]
    Unknown { shard: ShardId, why: String },
    #[error("the shard's replica failed: {what}")]
    Failed { shard: ShardId, what: String },
}

impl Error {
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Starting
            | Error::WrongNode { .. }
            | Error::NoLeader { .. }
            | Error::NoQuorum { .. }
            | Error::Overloaded { .. }
            | Error::DiskFull { .. }
            | Error::DeadlineExceeded { .. }
            | Error::Failed { .. } => Outcome::NotApplied,
            Error::Unknown { .. } => Outcome::Unknown,
        }
    }

    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Error::Starting => None,
            Error::WrongNode { shard, .. }
            | Error::NoLeader { shard }
            | Error::NoQuorum { shard }
            | Error::Overloaded { shard }
            | Error::DiskFull { shard, .. }
            | Error::DeadlineExceeded { shard }
            | Error::Unknown { shard, .. }
            | Error::Failed { shard, .. } => Some(*shard),
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Router {
    host: Host,
    catalog: watch::Receiver<Option<Arc<Catalog>>>,
    shared: Arc<Shared>,
}

struct Shared {
    /// The ring of the catalog with this version.
    ring: Mutex<Option<(u64, Arc<Ring<ShardId>>)>>,
    /// Where a shard's leader answered last.
    leaders: Mutex<HashMap<ShardId, NodeId>>,
    silences: Silences,
}

/// Where a shard's leader was looked for, for one request.
#[derive(Default)]
struct Search {
    /// Where the last answer said that it is.
    hint: Option<NodeId>,
    /// Where it was not, and nobody said where else.
    failed: Option<NodeId>,
    redirects: u32,
    /// Counts the replicas that were asked in turn.
    next_guess: usize,
}

impl Search {
    /// Whether the address that `node` gave is where to go next. Two nodes that each take the other for the leader would
    /// send us to and fro.
    fn follows(&mut self, node: NodeId, leader: NodeId) -> bool {
        let follows = leader != node && self.redirects < REDIRECTS_MAX;
        if follows {
            self.redirects += 1;
            self.hint = Some(leader);
        }
        follows
    }

    fn failed_at(&mut self, node: NodeId) {
        self.begin_again();
        self.failed = Some(node);
    }

    fn begin_again(&mut self) {
        (self.hint, self.failed, self.redirects) = (None, None, 0);
    }
}

/// What one attempt came to.
enum Attempt<T> {
    Done(T),
    /// Nothing was applied; `leader` may know better.
    Again {
        leader: Option<NodeId>,
        error: Error,
    },
    /// Not to be tried again.
    Final(Error),
}

impl Router {
    pub fn new(host: Host, catalog: watch::Receiver<Option<Arc<Catalog>>>) -> Self {
        let shared =
            Shared { ring: Mutex::new(None), leaders: Mutex::new(HashMap::new()), silences: Silences::default() };
        Self { host, catalog, shared: Arc::new(shared) }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Since when this node has not heard of the others.
    pub fn silences(&self) -> &Silences {
        &self.shared.silences
    }

    /// What another node says of whom it hears.
    pub async fn silences_of(&self, node: NodeId, deadline: Moment) -> Result<Vec<Silence>, CallError> {
        if node == self.host.node() {
            return Ok(self.silences().all());
        }
        let left = deadline.since(clock::now());
        let reply = self.host.peers().call(node, Lane::Control, Method::Silences as u8, Bytes::new(), left).await?;
        Ok(Vec::from_bytes(reply.body).unwrap_or_default())
    }

    pub fn watch_catalog(&self) -> watch::Receiver<Option<Arc<Catalog>>> {
        self.catalog.clone()
    }

    /// The newest catalog this node knows.
    pub fn catalog(&self) -> Option<Arc<Catalog>> {
        self.catalog.borrow().clone()
    }

    /// The shards' places on the ring; none before they exist.
    pub fn ring(&self) -> Option<Arc<Ring<ShardId>>> {
        let catalog = self.catalog()?;
        let mut cached = self.shared.ring.lock().expect("no panic while the ring is copied");
        if let Some((version, ring)) = &*cached
            && *version == catalog.version
        {
            return Some(ring.clone());
        }
        let ring = Arc::new(catalog.ring()?);
        *cached = Some((catalog.version, ring.clone()));
        Some(ring)
    }

    pub fn shard_of(&self, key: &[u8]) -> Option<ShardId> {
        Some(*self.ring()?.find(token_of(key)))
    }

    /// The best guess where the shard's leader is.
    pub fn leader_hint(&self, shard: ShardId) -> Option<NodeId> {
        let local = self.host.group(shard).and_then(|group| group.replica().leader());
        local
            .map(|leader| leader.node)
            .or_else(|| self.shared.leaders.lock().expect("no panic while hints are copied").get(&shard).copied())
    }

    pub async fn write(&self, write: Write, options: Options) -> Result<Written, Error> {
        let key = write.key.clone();
        self.at_leader(|| self.shard_of(&key), options, &write).await
    }

    pub async fn read(&self, key: Bytes, consistency: Consistency, options: Options) -> Result<Read, Error> {
        let read = ReadKey { key, consistency };
        if consistency == Consistency::Stale {
            return self.read_stale(&read, options).await;
        }
        self.at_leader(|| self.shard_of(&read.key), options, &read).await
    }

    /// Changes the catalog, wherever the meta group's leader is.
    pub async fn propose_catalog(&self, command: CatalogCommand, deadline: Moment) -> Result<CatalogResponse, Error> {
        let options = Options { deadline, forward: true };
        match self.at_leader(|| Some(META_SHARD), options, &command).await? {
            Response::Catalog(response) => Ok(response),
            other => Err(Error::Failed { shard: META_SHARD, what: format!("the meta group answered {other:?}") }),
        }
    }

    /// From the local replica where there is one, else from any node that has one.
    async fn read_stale(&self, read: &ReadKey, options: Options) -> Result<Read, Error> {
        let shard = self.shard_of(&read.key).ok_or(Error::Starting)?;
        let mut targets = Vec::new();
        targets.extend(self.host.group(shard).map(Target::Local));
        if options.forward {
            targets.extend(self.replica_nodes(shard).into_iter().map(Target::Node));
        }
        let mut last = self.wrong_node(shard);
        for target in targets {
            match read.attempt(self, target, shard, options.deadline).await {
                Attempt::Done(read) => return Ok(read),
                Attempt::Again { error, .. } | Attempt::Final(error) => last = error,
            }
        }
        Err(last)
    }

    /// Tries the leader, wherever it turns out to be, until the deadline.
    async fn at_leader<R: Routed>(
        &self,
        route: impl Fn() -> Option<ShardId> + Send,
        options: Options,
        request: &R,
    ) -> Result<R::Answer, Error> {
        let mut search = Search::default();
        loop {
            // Asked anew each time: a newer catalog may have come meanwhile.
            let shard = route().ok_or(Error::Starting)?;
            let Some(target) = self.target(shard, &mut search, options)? else {
                search.begin_again();
                self.pause(options, Error::NoLeader { shard }).await?;
                continue;
            };
            let node = target.node(&self.host);
            match request.attempt(self, target, shard, options.deadline).await {
                Attempt::Done(done) => {
                    self.remember_leader(shard, node);
                    return Ok(done);
                }
                Attempt::Final(error) => return Err(error),
                Attempt::Again { leader: Some(leader), .. } if options.forward && search.follows(node, leader) => {}
                Attempt::Again { error, .. } => {
                    search.failed_at(node);
                    self.forget_leader(shard, node);
                    if !options.forward {
                        return Err(self.wrong_node(shard));
                    }
                    self.pause(options, error).await?;
                }
            }
            if clock::now() >= options.deadline {
                return Err(Error::NoLeader { shard });
            }
        }
    }

    /// Where to go next: the hint, the local replica when it leads or may soon, the last known leader, then each replica in
    /// turn. Without a hint not to where it has just failed: a replica that was moved away from here still takes its last
    /// leader for the leader.
    fn target(&self, shard: ShardId, search: &mut Search, options: Options) -> Result<Option<Target>, Error> {
        let me = self.host.node();
        let local = self.host.group(shard);
        if !options.forward {
            let leads = local.filter(|group| group.replica().is_leader());
            return leads.map(Target::Local).map(Some).ok_or_else(|| self.wrong_node(shard));
        }
        let known = || self.leader_hint(shard).filter(|node| Some(*node) != search.failed);
        let node = search.hint.or_else(known).or_else(|| {
            let nodes = self.replica_nodes(shard);
            let guess = nodes.get(search.next_guess % nodes.len().max(1)).copied();
            search.next_guess += 1;
            guess
        });
        Ok(match (node, local) {
            (Some(node), Some(group)) if node == me => Some(Target::Local(group)),
            (Some(node), _) if node != me => Some(Target::Node(node)),
            _ => None,
        })
    }

    fn replica_nodes(&self, shard: ShardId) -> Vec<NodeId> {
        let catalog = self.catalog();
        let replicas = catalog.as_ref().and_then(|catalog| catalog.shards.get(&shard)).map(|shard| &shard.replicas);
        replicas.into_iter().flatten().map(|replica| replica.node).filter(|node| *node != self.host.node()).collect()
    }

    fn wrong_node(&self, shard: ShardId) -> Error {
        let leader = self.leader_hint(shard).filter(|node| *node != self.host.node());
        let leader = leader.and_then(|node| self.catalog()?.nodes.get(&node).cloned().map(Box::new));
        Error::WrongNode { shard, leader }
    }

    fn remember_leader(&self, shard: ShardId, node: NodeId) {
        self.shared.leaders.lock().expect("no panic while hints are copied").insert(shard, node);
    }

    fn forget_leader(&self, shard: ShardId, node: NodeId) {
        let mut leaders = self.shared.leaders.lock().expect("no panic while hints are copied");
        if leaders.get(&shard) == Some(&node) {
            leaders.remove(&shard);
        }
    }

    /// Waits a little before the next attempt; at the deadline the last error stands.
    async fn pause(&self, options: Options, error: Error) -> Result<(), Error> {
        if clock::now().after(RETRY_PAUSE + ANSWER_MARGIN) >= options.deadline {
            return Err(error);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        Ok(())
    }

    /// Who belongs to a group, as its leader knows after a quorum confirmed it.
    pub async fn members(&self, shard: ShardId, deadline: Moment) -> Result<shard::Members, Error> {
        self.at_leader(|| Some(shard), Options { deadline, forward: true }, &AskMembers).await
    }

    /// What a shard's own state says of splits, as its leader knows after a quorum confirmed it.
    pub async fn split_state(&self, shard: ShardId, deadline: Moment) -> Result<shard::SplitState, Error> {
        self.at_leader(|| Some(shard), Options { deadline, forward: true }, &AskSplitState).await
    }

    /// Where a shard can be split: at the token asked about, or else at the median of its rows.
    pub async fn split_point(
        &self,
        shard: ShardId,
        wanted: Option<Token>,
        deadline: Moment,
    ) -> Result<shard::SplitPoint, Error> {
        self.at_leader(|| Some(shard), Options { deadline, forward: true }, &AskSplitPoint { wanted }).await
    }

    /// The catalog with everything that was acknowledged before the call, wherever the meta group's leader is. What a
    /// node knows by itself may be older.
    pub async fn newest_catalog(&self, deadline: Moment) -> Result<Arc<Catalog>, Error> {
        let known = self.catalog();
        let ask = AskCatalog { known_version: known.as_ref().map_or(0, |catalog| catalog.version) };
        let newer = self.at_leader(|| Some(META_SHARD), Options { deadline, forward: true }, &ask).await?;
        newer.or(known).ok_or(Error::Starting)
    }

    /// What another node's replicas look like from within. Asked by the admin API; needs no quorum.
    pub async fn reports(&self, node: NodeId, deadline: Moment) -> Result<Vec<ReplicaReport>, CallError> {
        if node == self.host.node() {
            return Ok(self.host.reports());
        }
        let left = deadline.since(clock::now());
        let method = Method::ReplicaReports as u8;
        let reply = self.host.peers().call(node, Lane::Data, method, Bytes::new(), left).await?;
        Ok(Vec::from_bytes(reply.body).unwrap_or_default())
    }

    /// Asks another node. What its answer, or its silence, says about the outcome is decided here alone.
    async fn call<T: Wire>(
        &self,
        node: NodeId,
        method: Method,
        shard: ShardId,
        request: &impl Wire,
        deadline: Moment,
    ) -> Attempt<T> {
        // A read changes nothing: it may be asked again, and need not wait for a silent node until its deadline.
        let is_read = matches!(
            method,
            Method::Read | Method::Scan | Method::Members | Method::NewestCatalog | Method::SplitState
        );
        let left = deadline.since(clock::now());
        let left = if is_read { left.min(READ_ATTEMPT_MAX) } else { left };
        let asked = clock::now();
        let sent = self.host.peers().call(node, Lane::Data, method as u8, request.to_bytes(), left).await;
        let took = clock::now().since(asked);
        let answer = sent.map(|reply| Timed::<T>::from_bytes(reply.body).map(|timed| timed.noted(took)));
        if answer.is_err() {
            meters::note(Stage::Forward, took);
        }
        match answer {
            Ok(answer) => match answer {
                // It had a part of the time only.
                Ok(RemoteAnswer::DeadlineExceeded) if is_read => {
                    Attempt::Again { leader: None, error: Error::DeadlineExceeded { shard } }
                }
                Ok(answer) => answer.into_attempt(shard),
                Err(error) => Attempt::Final(Error::Unknown { shard, why: format!("unreadable answer: {error}") }),
            },
            Err(CallError::NotSent(_)) => Attempt::Again { leader: None, error: Error::NoLeader { shard } },
            // The peer answered that it did nothing: no such method, or it is not serving yet.
            Err(CallError::Refused { .. }) => Attempt::Again { leader: None, error: Error::NoLeader { shard } },
            Err(CallError::Lost(_)) if is_read => Attempt::Again { leader: None, error: Error::NoLeader { shard } },
            Err(CallError::Lost(why)) => {
                Attempt::Final(Error::Unknown { shard, why: format!("asked the leader on node {node}: {why}") })
            }
        }
    }
}

/// A request that one attempt at one place may serve.
trait Routed: Sync {
    type Answer: Send;

    fn attempt(
        &self,
        router: &Router,
        target: Target,
        shard: ShardId,
        deadline: Moment,
    ) -> impl Future<Output = Attempt<Self::Answer>> + Send;
}

impl Routed for Write {
    type Answer = Written;

    async fn attempt(&self, router: &Router, target: Target, shard: ShardId, deadline: Moment) -> Attempt<Written> {
        let served_by = target.node(&router.host);
        let answer = match target {
            Target::Local(group) => local(shard, group.write(self.clone(), deadline).await),
            Target::Node(node) => {
                let request = WriteRequest { shard, write: self.clone() };
                router.call::<Response>(node, Method::Write, shard, &request, deadline).await
            }
        };
        answer.map(|response| Written { response, shard, served_by })
    }
}

struct ReadKey {
    key: Bytes,
    consistency: Consistency,
}

impl Routed for ReadKey {
    type Answer = Read;

    async fn attempt(&self, router: &Router, target: Target, shard: ShardId, deadline: Moment) -> Attempt<Read> {
        let (key, consistency) = (self.key.clone(), self.consistency);
        match target {
            Target::Local(group) => {
                let served_by = router.host.node();
                let answer = group.read(key, consistency, deadline).await.map(|answer| {
                    let shard::ReadAnswer { row, served, fresh_at } = answer;
                    Read { row, consistency: served, fresh_at, shard, served_by }
                });
                local(shard, answer)
            }
            Target::Node(node) => {
                let request = ReadRequest { shard, key, consistency };
                let asked = clock::now();
                let answer = router.call::<RemoteRead>(node, Method::Read, shard, &request, deadline).await;
                answer.map(|remote| remote.into_read(asked, shard, node))
            }
        }
    }
}

impl Routed for CatalogCommand {
    type Answer = Response;

    async fn attempt(&self, router: &Router, target: Target, shard: ShardId, deadline: Moment) -> Attempt<Response> {
        match target {
            Target::Local(group) => local(shard, group.propose(Command::Catalog(self.clone()), 0, deadline).await),
            Target::Node(node) => router.call::<Response>(node, Method::ProposeCatalog, shard, self, deadline).await,
        }
    }
}

struct AskMembers;

impl Routed for AskMembers {
    type Answer = shard::Members;

    async fn attempt(
        &self,
        router: &Router,
        target: Target,
        shard: ShardId,
        deadline: Moment,
    ) -> Attempt<shard::Members> {
        match target {
            Target::Local(group) => local(shard, group.members(deadline).await),
            Target::Node(node) => router.call(node, Method::Members, shard, &shard, deadline).await,
        }
    }
}

struct AskSplitState;

impl Routed for AskSplitState {
    type Answer = shard::SplitState;

    async fn attempt(
        &self,
        router: &Router,
        target: Target,
        shard: ShardId,
        deadline: Moment,
    ) -> Attempt<shard::SplitState> {
        match target {
            Target::Local(group) => local(shard, group.split_state(deadline).await),
            Target::Node(node) => router.call(node, Method::SplitState, shard, &shard, deadline).await,
        }
    }
}

struct AskSplitPoint {
    wanted: Option<Token>,
}

impl Routed for AskSplitPoint {
    type Answer = shard::SplitPoint;

    async fn attempt(
        &self,
        router: &Router,
        target: Target,
        shard: ShardId,
        deadline: Moment,
    ) -> Attempt<shard::SplitPoint> {
        match target {
            Target::Local(group) => local(shard, group.split_point(self.wanted, deadline).await),
            Target::Node(node) => {
                let request = SplitPointRequest { shard, wanted: self.wanted };
                router.call(node, Method::SplitPoint, shard, &request, deadline).await
            }
        }
    }
}

struct AskCatalog {
    known_version: u64,
}

impl Routed for AskCatalog {
    /// None when there is none newer than the known one.
    type Answer = Option<Arc<Catalog>>;

    async fn attempt(
        &self,
        router: &Router,
        target: Target,
        shard: ShardId,
        deadline: Moment,
    ) -> Attempt<Option<Arc<Catalog>>> {
        let node = match target {
            Target::Local(group) => return local(shard, group.catalog(deadline).await),
            Target::Node(node) => node,
        };
        let answer = router.call::<Option<Bytes>>(node, Method::NewestCatalog, shard, &self.known_version, deadline);
        match answer.await.map(|newer| newer.map(Catalog::from_bytes).transpose()) {
            Attempt::Done(Ok(newer)) => Attempt::Done(newer.map(Arc::new)),
            Attempt::Done(Err(error)) => {
                Attempt::Final(Error::Failed { shard, what: format!("unreadable catalog: {error}") })
            }
            Attempt::Again { leader, error } => Attempt::Again { leader, error },
            Attempt::Final(error) => Attempt::Final(error),
        }
    }
}

enum Target {
    Local(shard::Group),
    Node(NodeId),
}

impl Target {
    fn node(&self, host: &Host) -> NodeId {
        match self {
            Target::Local(_) => host.node(),
            Target::Node(node) => *node,
        }
    }
}

impl<T> Attempt<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Attempt<U> {
        match self {
            Attempt::Done(done) => Attempt::Done(change(done)),
            Attempt::Again { leader, error } => Attempt::Again { leader, error },
            Attempt::Final(error) => Attempt::Final(error),
        }
    }
}

fn local<T>(shard: ShardId, answer: Result<T, shard::Error>) -> Attempt<T> {
    match answer {
        Ok(done) => Attempt::Done(done),
        Err(shard::Error::NotLeader { leader }) => {
            Attempt::Again { leader: leader.map(|leader| leader.node), error: Error::NoLeader { shard } }
        }
        Err(shard::Error::NotOwner(_)) => Attempt::Again { leader: None, error: Error::NoLeader { shard } },
        Err(shard::Error::Overloaded) => Attempt::Final(Error::Overloaded { shard }),
        Err(shard::Error::DiskFull { node }) => Attempt::Final(Error::DiskFull { shard, node }),
        Err(shard::Error::DiskSpent { node }) => {
            Attempt::Again { leader: None, error: Error::DiskFull { shard, node } }
        }
        Err(shard::Error::Unknown { why }) => Attempt::Final(Error::Unknown { shard, why: why.into() }),
        Err(shard::Error::NoQuorum) => Attempt::Again { leader: None, error: Error::NoQuorum { shard } },
        Err(shard::Error::DeadlineExceeded) => Attempt::Final(Error::DeadlineExceeded { shard }),
        Err(shard::Error::Failed { what }) => Attempt::Again { leader: None, error: Error::Failed { shard, what } },
    }
}
