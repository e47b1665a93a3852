//! The real world: RocksDB in a directory, loopback TCP, a multi-threaded runtime for each node, so that a node can be
//! ended as a process is, at whatever point its tasks are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ringraft::clock;
use ringraft::storage::rocks::{RocksDisk, StorageOptions};
use ringraft::storage::{self, Disk};
use ringraft::transport::dial::{BoxedIo, Listener, Net, TcpNet};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;

use super::Setup;
use super::cluster::{Cluster, PATIENCE, World};
use super::disk::LaggingDisk;
use super::node::{self, NODES, Place, Shared};

/// Runs a case once: the real world has no seeds.
pub(super) fn run<F>(setup: Setup, body: fn(Cluster) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let shared = Shared::new(setup.timing);
    let world = Arc::new(Real::new(shared.clone(), setup.loses_power));
    let runtime = new_runtime();
    runtime.block_on(async {
        for number in 1..=NODES {
            world.start(number).await;
        }
        let cluster = Cluster::new(world.clone(), shared);
        // On a worker, so that nothing in the body runs where other threads do not.
        if let Err(failed) = tokio::spawn(body(cluster)).await {
            std::panic::resume_unwind(failed.into_panic());
        }
        for number in 1..=NODES {
            world.kill(number).await;
        }
    });
}

fn new_runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

enum Storage {
    /// What was written survives the end of the process.
    Rocks(TempDir),
    /// What was not synced does not survive, as in a power failure.
    Lagging(LaggingDisk),
}

struct Real {
    shared: Arc<Shared>,
    links: Arc<Links>,
    disks: Vec<Storage>,
    runtimes: Mutex<BTreeMap<u64, Runtime>>,
}

impl Real {
    fn new(shared: Arc<Shared>, loses_power: bool) -> Self {
        let disk = |number| match loses_power {
            true => Storage::Lagging(LaggingDisk::new(number, true)),
            false => Storage::Rocks(tempfile::tempdir().unwrap()),
        };
        let disks = (1..=NODES).map(disk).collect();
        Self { shared, links: Arc::default(), disks, runtimes: Mutex::default() }
    }

    fn storage(&self, number: u64) -> &Storage {
        &self.disks[usize::try_from(number - 1).unwrap()]
    }

    fn lagging(&self, number: u64) -> &LaggingDisk {
        match self.storage(number) {
            Storage::Lagging(disk) => disk,
            Storage::Rocks(_) => panic!("this case has no disks that lose power"),
        }
    }

    fn open_disk(&self, number: u64) -> Result<Arc<dyn Disk>, storage::Error> {
        Ok(match self.storage(number) {
            Storage::Rocks(directory) => Arc::new(RocksDisk::open(directory.path(), &StorageOptions::default())?),
            Storage::Lagging(disk) => Arc::new(disk.clone()),
        })
    }

    async fn try_start(&self, number: u64, runtime: &Runtime) -> Result<(), storage::Error> {
        let place = Place {
            number,
            disk: self.open_disk(number)?,
            net: Arc::new(Wired { number, links: self.links.clone(), shared: self.shared.clone() }),
            listen: "127.0.0.1:0".to_string(),
            advertise: None,
            shared: self.shared.clone(),
        };
        runtime.spawn(node::start(place)).await.unwrap()
    }
}

impl World for Real {
    fn start(&self, number: u64) -> BoxFuture<'_, ()> {
        async move {
            let runtime = new_runtime();
            let deadline = clock::now().after(PATIENCE);
            loop {
                match self.try_start(number, &runtime).await {
                    Ok(()) => break,
                    // The last threads of the node's life before are still closing its stores.
                    Err(storage::Error::InUse { .. }) if clock::now() < deadline => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("node {number} does not start: {error}"),
                }
            }
            self.runtimes.lock().unwrap().insert(number, runtime);
        }
        .boxed()
    }

    fn kill(&self, number: u64) -> BoxFuture<'_, ()> {
        async move {
            let runtime = self.runtimes.lock().unwrap().remove(&number).expect("a node that runs");
            self.shared.forget(number);
            if let Storage::Lagging(disk) = self.storage(number) {
                disk.lose_power();
            }
            tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        }
        .boxed()
    }

    fn cut(&self, one: u64, other: u64) {
        self.links.set(one, other, false);
    }

    fn heal(&self, one: u64, other: u64) {
        self.links.set(one, other, true);
    }

    fn lag_log(&self, number: u64) {
        self.lagging(number).lag();
    }

    fn disk(&self, number: u64) -> Arc<dyn Disk> {
        Arc::new(self.lagging(number).clone())
    }
}

/// Which nodes reach each other. On a link that is cut nothing arrives and nothing is refused; what is under way then
/// arrives when it is healed, as TCP would deliver it.
#[derive(Default)]
struct Links {
    state: Mutex<LinkState>,
}

#[derive(Default)]
struct LinkState {
    cut: BTreeSet<(u64, u64)>,
    waiting: Vec<Waker>,
}

fn pair(one: u64, other: u64) -> (u64, u64) {
    (one.min(other), one.max(other))
}

impl Links {
    fn set(&self, one: u64, other: u64, is_whole: bool) {
        let mut state = self.state.lock().unwrap();
        if is_whole {
            state.cut.remove(&pair(one, other));
        } else {
            state.cut.insert(pair(one, other));
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn poll_whole(&self, link: (u64, u64), context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock().unwrap();
        if !state.cut.contains(&link) {
            return Poll::Ready(());
        }
        state.waiting.push(context.waker().clone());
        Poll::Pending
    }
}

/// One node's network: the system's TCP through the links.
struct Wired {
    number: u64,
    links: Arc<Links>,
    shared: Arc<Shared>,
}

impl Net for Wired {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedIo>> {
        async move {
            // Nobody is at an address that a node had in an earlier life.
            let Some(to) = self.shared.node_at(address) else { return TcpNet.dial(address).await };
            let link = pair(self.number, to);
            std::future::poll_fn(|context| self.links.poll_whole(link, context)).await;
            let inner = TcpNet.dial(address).await?;
            Ok(Box::new(LinkedIo { inner, link, links: self.links.clone() }) as BoxedIo)
        }
        .boxed()
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        TcpNet.listen(address)
    }
}

/// The dialler's end of a connection; what passes it passes the link, in both directions.
struct LinkedIo {
    inner: BoxedIo,
    link: (u64, u64),
    links: Arc<Links>,
}

impl AsyncRead for LinkedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.links.poll_whole(self.link, context));
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for LinkedIo {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.links.poll_whole(self.link, context));
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
