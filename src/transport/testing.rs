//! What the tests of this module share: a gatekeeper that notes what it hears, a handler with a few methods, and nodes
//! on loopback TCP.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::dial::{Net, TcpNet};
use super::{AddressBook, Failure, Gatekeeper, Handler, Hello, Incoming, Lane, PROTOCOL, Peers, Refusal, serve};
use crate::clock;
use crate::types::{ClusterId, NodeId, StoreId};

/// Longest time a test waits for something that should happen soon.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct TestKeeper {
    pub(super) hello: Hello,
    pub(super) catalog: AtomicU64,
    pub(super) heard_versions: Mutex<Vec<u64>>,
    heard: Mutex<Vec<Hello>>,
    refusal: Mutex<Option<Refusal>>,
}

impl TestKeeper {
    pub(super) fn node(id: u64) -> Self {
        let hello = Hello {
            versions: PROTOCOL,
            lane: Lane::Control,
            cluster: Some(ClusterId(7)),
            node: Some(NodeId(id)),
            store: StoreId(1000 + u128::from(id)),
            start_counter: 1,
            peer_address: format!("node-{id}:1"),
            http_address: format!("node-{id}:2"),
            catalog_version: 0,
            timing_hash: 77,
        };
        Self {
            hello,
            catalog: AtomicU64::new(0),
            heard_versions: Mutex::default(),
            heard: Mutex::default(),
            refusal: Mutex::default(),
        }
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap() = Some(refusal);
    }

    pub(super) fn heard_nodes(&self) -> Vec<Option<NodeId>> {
        self.heard.lock().unwrap().iter().map(|hello| hello.node).collect()
    }
}

impl Gatekeeper for TestKeeper {
    fn hello(&self, lane: Lane) -> Hello {
        Hello { lane, ..self.hello.clone() }
    }
    fn check(&self, _remote: &Hello) -> Result<(), Refusal> {
        self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
    }
    fn heard(&self, remote: &Hello) {
        self.heard.lock().unwrap().push(remote.clone());
    }
    fn catalog_version(&self) -> u64 {
        self.catalog.load(Ordering::SeqCst)
    }
    fn heard_catalog_version(&self, _remote: &Hello, version: u64) {
        self.heard_versions.lock().unwrap().push(version);
    }
}

/// Gives the body back.
pub(super) const ECHO: u8 = 1;
/// Waits for [`TestHandler::release`], then gives the body back.
pub(super) const HOLD: u8 = 2;
/// Fails with status 0 and the body: no status is special.
pub(super) const FAIL: u8 = 3;
pub(super) const PANIC: u8 = 4;
/// Waits as many milliseconds as the body says, in decimal digits, then gives the body back.
pub(super) const WAIT: u8 = 5;
/// Blocks its thread, where nothing can drop it, until [`TestHandler::unblock`]; then gives the body back.
pub(super) const BLOCK: u8 = 6;

#[derive(Default)]
pub(super) struct TestHandler {
    /// Bodies in the order in which `handle` was called.
    pub(super) arrived: Mutex<Vec<Bytes>>,
    pub(super) deadlines: Mutex<Vec<Duration>>,
    running: Arc<AtomicUsize>,
    released: Arc<Notify>,
    unblocked: Arc<(Mutex<bool>, Condvar)>,
}

impl TestHandler {
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    pub(super) fn arrived(&self) -> usize {
        self.arrived.lock().unwrap().len()
    }

    /// Lets every call go on that is held now.
    pub(super) fn release(&self) {
        self.released.notify_waiters();
    }

    pub(super) fn unblock(&self) {
        *self.unblocked.0.lock().unwrap() = true;
        self.unblocked.1.notify_all();
    }
}

/// Counts a handler's future from its start until it is dropped, finished or not.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for TestHandler {
    fn handle(&self, call: Incoming) -> BoxFuture<'static, Result<Bytes, Failure>> {
        self.arrived.lock().unwrap().push(call.body.clone());
        self.deadlines.lock().unwrap().push(call.deadline.since(clock::now()));
        let running = Running::new(&self.running);
        let released = Arc::clone(&self.released).notified_owned();
        let unblocked = Arc::clone(&self.unblocked);
        async move {
            let _running = running;
            match call.method {
                ECHO => Ok(call.body),
                HOLD => {
                    released.await;
                    Ok(call.body)
                }
                FAIL => Err(Failure { status: 0, body: call.body }),
                WAIT => {
                    let text = std::str::from_utf8(&call.body).unwrap();
                    tokio::time::sleep(Duration::from_millis(text.parse().unwrap())).await;
                    Ok(call.body)
                }
                // In place, so that the runtime's other work is taken over by another thread.
                BLOCK => tokio::task::block_in_place(|| {
                    let (flag, changed) = &*unblocked;
                    drop(changed.wait_while(flag.lock().unwrap(), |unblocked| !*unblocked).unwrap());
                    Ok(call.body)
                }),
                _ => panic!("a handler that panics"),
            }
        }
        .boxed()
    }
}

#[derive(Default)]
pub(super) struct TestBook {
    addresses: Mutex<HashMap<NodeId, String>>,
}

impl TestBook {
    pub(super) fn set(&self, node: u64, address: &str) {
        self.addresses.lock().unwrap().insert(NodeId(node), address.to_string());
    }
}

impl AddressBook for TestBook {
    fn peer_address(&self, node: NodeId) -> Option<String> {
        self.addresses.lock().unwrap().get(&node).cloned()
    }
}

/// A node that answers.
pub(super) struct Server {
    pub(super) keeper: Arc<TestKeeper>,
    pub(super) handler: Arc<TestHandler>,
    pub(super) address: String,
    pub(super) shutdown: CancellationToken,
    pub(super) task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(keeper: TestKeeper) -> Self {
        Self::start_at("127.0.0.1:0", keeper).await
    }

    pub(super) async fn start_at(address: &str, keeper: TestKeeper) -> Self {
        let listener = TcpNet.listen(address).await.unwrap();
        let address = listener.local_address().unwrap();
        let (keeper, handler, shutdown) =
            (Arc::new(keeper), Arc::new(TestHandler::default()), CancellationToken::new());
        let task = tokio::spawn(serve(listener, keeper.clone(), handler.clone(), shutdown.clone()));
        Self { keeper, handler, address, shutdown, task }
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("serve ends").unwrap();
    }
}

/// The calling side of node 1, with a book of addresses.
pub(super) struct Caller {
    pub(super) keeper: Arc<TestKeeper>,
    pub(super) book: Arc<TestBook>,
    pub(super) peers: Peers,
}

impl Caller {
    pub(super) fn new(keeper: TestKeeper) -> Self {
        let (keeper, book) = (Arc::new(keeper), Arc::new(TestBook::default()));
        let peers = Peers::new(Arc::new(TcpNet), keeper.clone(), book.clone());
        Self { keeper, book, peers }
    }

    pub(super) fn knowing(node: u64, address: &str) -> Self {
        let caller = Self::new(TestKeeper::node(1));
        caller.book.set(node, address);
        caller
    }
}

/// Waits until `condition` holds.
pub(super) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begun = clock::now();
    while !condition() {
        assert!(clock::now().since(begun) < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
