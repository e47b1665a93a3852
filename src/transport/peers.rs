//! The calling side: one [`Peers`] for a node, cloned to whoever calls other nodes.
//!
//! A connection to a (node, lane) is opened by the first call that needs it and kept until it fails; the next call
//! opens a new one. Calls never wait for anything but their own connection: while one opens they queue there, each
//! with its own deadline.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Lane;
use super::connection::{CallError, Connection, Ended, NotSent, Reply, Request, Stage, Target, Waiting};
use super::dial::Net;
use super::handshake::{Gatekeeper, Remote};
use super::meters::PeerMeters;
use super::stream::Ending;
use crate::clock;
use crate::types::NodeId;

/// After a connection could not be opened, or broke within this time, calls fail at once for so long: a dead peer is
/// not hammered with dials. Short against an election time, so that a peer that is back is soon found.
pub const REDIAL_PAUSE: Duration = Duration::from_millis(100);
/// The same after a refused handshake, which only a change of configuration or membership ends. Both ends log each.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Where the peers are. Asked at every dial, under a lock: it answers from memory and calls no [`Peers`].
pub trait AddressBook: Send + Sync + 'static {
    /// `host:port`; None when the node is not known.
    fn peer_address(&self, node: NodeId) -> Option<String>;
}

/// How a lane to a peer is doing, for status pages.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub node: NodeId,
    pub lane: Lane,
    /// The other end, while the connection is open.
    pub remote: Option<Arc<Remote>>,
    /// Why there is no connection; None while one is open or being opened.
    pub failure: Option<String>,
    /// Calls that are queued or wait for their answer.
    pub calls_waiting: usize,
}

/// Handle to all outgoing connections. Cheap to clone; the last clone that is dropped closes them.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    net: Arc<dyn Net>,
    keeper: Arc<dyn Gatekeeper>,
    book: Arc<dyn AddressBook>,
    /// The latest connection of each, which may have ended. As many as there are nodes in the cluster's life.
    connections: Mutex<BTreeMap<(NodeId, Lane), Arc<Connection>>>,
    tasks: TaskTracker,
    /// Where connections live, whoever makes the first call.
    runtime: Handle,
    stop: CancellationToken,
    meters: PeerMeters,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Peers {
    pub fn new(net: Arc<dyn Net>, keeper: Arc<dyn Gatekeeper>, book: Arc<dyn AddressBook>) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (connections, meters) = (Mutex::default(), PeerMeters::default());
        Self {
            inner: Arc::new(Inner { net, keeper, book, connections, tasks, stop, meters, runtime: Handle::current() }),
        }
    }

    pub fn meters(&self) -> &PeerMeters {
        &self.inner.meters
    }

    /// Calls a method of a node and waits up to `time` for what it answers.
    ///
    /// The request is queued by the call itself, before the future is first polled: calls made one after the other
    /// leave in that order. Dropping the future takes the call back, or tells the peer to stop handling it.
    pub fn call(
        &self,
        node: NodeId,
        lane: Lane,
        method: u8,
        body: Bytes,
        time: Duration,
    ) -> impl Future<Output = Result<Reply, CallError>> + Send + use<> {
        let begun = self.inner.begin(node, lane, request(method, body, time));
        let (asked, meters) = (clock::now(), self.inner.meters.clone());
        async move {
            let result = match begun {
                Ok(begun) => begun.result().await,
                Err(error) => Err(error),
            };
            match &result {
                // A refusal is an answer too.
                Ok(_) | Err(CallError::Refused { .. }) => meters.answered(lane, clock::now().since(asked)),
                Err(_) => meters.failed(lane),
            }
            result
        }
    }

    /// Calls whoever answers at an address, for a node that does not know the nodes' ids yet. Each such call has a
    /// connection of its own, closed when it is over.
    pub fn call_address(
        &self,
        address: &str,
        lane: Lane,
        method: u8,
        body: Bytes,
        time: Duration,
    ) -> impl Future<Output = Result<Reply, CallError>> + Send + use<> {
        let stop = self.inner.stop.child_token();
        let connection = Connection::new(lane, Arc::clone(&self.inner.keeper), stop.clone());
        let begun = connection.begin(request(method, body, time));
        let target = self.inner.target(address.to_string(), None, None);
        self.inner.tasks.spawn_on(connection.run(target), &self.inner.runtime);
        let close = stop.drop_guard();
        async move {
            let result = begun?.result().await;
            drop(close);
            result
        }
    }

    /// Shakes hands with whoever answers at an address, and calls nothing: what it says of itself tells a seed that
    /// knows a cluster from one that does not.
    pub async fn probe(&self, address: &str, time: Duration) -> Result<Arc<Remote>, NotSent> {
        let connection = Connection::new(Lane::Control, Arc::clone(&self.inner.keeper), self.inner.stop.child_token());
        let target = self.inner.target(address.to_string(), None, None);
        tokio::select! {
            biased;
            () = self.inner.stop.cancelled() => Err(NotSent::ConnectionEnded(Ending::ShutDown)),
            opened = timeout(time, connection.open(&target)) => match opened {
                Ok(opened) => opened.map(|(_, remote)| remote),
                Err(_) => Err(NotSent::DeadlinePassed),
            },
        }
    }

    /// All lanes that were ever used, in the order of nodes.
    pub fn status(&self) -> Vec<PeerStatus> {
        let mut status: Vec<PeerStatus> = self
            .inner
            .lock()
            .iter()
            .map(|(&(node, lane), connection)| {
                let (remote, failure) = match connection.stage() {
                    Stage::Opening => (None, None),
                    Stage::Open(remote) => (Some(remote), None),
                    Stage::Ended { why, .. } => (None, Some(why.to_string())),
                };
                PeerStatus { node, lane, remote, failure, calls_waiting: connection.calls_waiting() }
            })
            .collect();
        status.sort_by_key(|status| (status.node, status.lane));
        status
    }

    /// Closes the connections to a node: one that was removed, or that must hear this node's new hello.
    pub fn disconnect(&self, node: NodeId) {
        let mut connections = self.inner.lock();
        for lane in Lane::ALL {
            if let Some(connection) = connections.remove(&(node, lane)) {
                connection.close();
            }
        }
    }

    /// Ends all calls and connections and waits for their tasks. Later calls are not sent.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

fn request(method: u8, body: Bytes, time: Duration) -> Request {
    Request { method, body, deadline: clock::now().after(time) }
}

impl Inner {
    fn begin(&self, node: NodeId, lane: Lane, request: Request) -> Result<Waiting, CallError> {
        if self.stop.is_cancelled() {
            return Err(CallError::NotSent(NotSent::ConnectionEnded(Ending::ShutDown)));
        }
        let mut connections = self.lock();
        let mut failed_before = None;
        if let Some(connection) = connections.get(&(node, lane)) {
            let Stage::Ended { at, why, lived } = connection.stage() else {
                return connection.begin(request);
            };
            if clock::now() < at.after(pause_after(&why, lived)) {
                return Err(why.of_unsent());
            }
            if let Ended::NotOpened(why) = why {
                failed_before = Some(why);
            }
        }
        let address = self.book.peer_address(node).ok_or(CallError::NotSent(NotSent::NoAddress(node)))?;
        let connection = Connection::new(lane, Arc::clone(&self.keeper), self.stop.child_token());
        connections.insert((node, lane), Arc::clone(&connection));
        let begun = connection.begin(request);
        self.tasks.spawn_on(connection.run(self.target(address, Some(node), failed_before)), &self.runtime);
        begun
    }

    fn target(&self, address: String, expected: Option<NodeId>, failed_before: Option<NotSent>) -> Target {
        Target { net: Arc::clone(&self.net), address, expected, failed_before }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(NodeId, Lane), Arc<Connection>>> {
        self.connections.lock().expect("nothing panics while it holds the connections")
    }
}

fn pause_after(why: &Ended, lived: Duration) -> Duration {
    match why {
        Ended::NotOpened(NotSent::Handshake { error, .. }) if error.refusal().is_some() => REFUSED_PAUSE,
        Ended::NotOpened(_) => REDIAL_PAUSE,
        Ended::AfterOpen(_) if lived < REDIAL_PAUSE => REDIAL_PAUSE,
        Ended::AfterOpen(_) => Duration::ZERO,
    }
}
