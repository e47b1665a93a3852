//! The simulated world: turmoil's time and network, disks in memory that lose what was not synced, all from one seed.

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use raft_tests::sim::{self, PEER_PORT, SimNet};
use ringraft::storage::Disk;
use tokio::sync::oneshot;

use super::Setup;
use super::cluster::{Cluster, World, until};
use super::disk::LaggingDisk;
use super::node::{self, NODES, Place, Shared};

/// Runs a case once for each seed.
pub(super) fn run<F>(setup: Setup, body: fn(Cluster) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    for seed in setup.seeds.clone() {
        println!("seed {seed}");
        run_seed(&setup, seed, body);
    }
}

fn run_seed<F>(setup: &Setup, seed: u64, body: fn(Cluster) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut sim = sim::World::new(seed).sim;
    let shared = Shared::new(setup.timing);
    let disks: Vec<LaggingDisk> = (1..=NODES).map(|number| LaggingDisk::new(seed + number, false)).collect();
    for (number, disk) in (1..).zip(&disks) {
        let place = Place {
            number,
            disk: Arc::new(disk.clone()),
            net: Arc::new(SimNet),
            listen: format!("0.0.0.0:{PEER_PORT}"),
            advertise: Some(format!("{}:{PEER_PORT}", sim::host(number))),
            shared: shared.clone(),
        };
        sim.host(sim::host(number), move || {
            let place = place.clone();
            async move {
                node::start(place).await?;
                std::future::pending().await
            }
        });
    }
    let world = Arc::new(Simulated { shared: shared.clone(), disks: disks.clone(), orders: Mutex::default() });
    let cluster = Cluster::new(world.clone(), shared.clone());
    sim.client("case", async move {
        for number in 1..=NODES {
            cluster.until_running(number).await;
        }
        body(cluster).await;
        Ok(())
    });
    loop {
        match sim.step() {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => panic!("seed {seed}, after {:?}: {error}", sim.elapsed()),
        }
        for (order, done) in world.take_orders() {
            match order {
                Order::Kill(number) => {
                    sim.crash(sim::host(number));
                    shared.forget(number);
                    disks[usize::try_from(number - 1).unwrap()].lose_power();
                }
                Order::Start(number) => sim.bounce(sim::host(number)),
            }
            // The case waits for it, or has ended with an error of its own.
            let _ = done.send(());
        }
    }
}

/// What only the driver of a simulation can do, between two of its steps.
#[derive(Clone, Copy)]
enum Order {
    Kill(u64),
    Start(u64),
}

struct Simulated {
    shared: Arc<Shared>,
    disks: Vec<LaggingDisk>,
    orders: Mutex<Vec<(Order, oneshot::Sender<()>)>>,
}

impl Simulated {
    fn take_orders(&self) -> Vec<(Order, oneshot::Sender<()>)> {
        std::mem::take(&mut self.orders.lock().unwrap())
    }

    async fn order(&self, order: Order) {
        let (done, is_done) = oneshot::channel();
        self.orders.lock().unwrap().push((order, done));
        is_done.await.unwrap();
    }
}

impl World for Simulated {
    fn start(&self, number: u64) -> BoxFuture<'_, ()> {
        async move {
            self.order(Order::Start(number)).await;
            until("the node runs", || self.shared.running(number).is_some()).await;
        }
        .boxed()
    }

    fn kill(&self, number: u64) -> BoxFuture<'_, ()> {
        self.order(Order::Kill(number)).boxed()
    }

    fn cut(&self, one: u64, other: u64) {
        turmoil::partition(sim::host(one), sim::host(other));
    }

    fn heal(&self, one: u64, other: u64) {
        turmoil::repair(sim::host(one), sim::host(other));
    }

    fn lag_log(&self, number: u64) {
        self.disks[usize::try_from(number - 1).unwrap()].lag();
    }

    fn disk(&self, number: u64) -> Arc<dyn Disk> {
        Arc::new(self.disks[usize::try_from(number - 1).unwrap()].clone())
    }
}
