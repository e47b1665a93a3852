//! What a script works with: a cluster of three nodes with one data shard, its replicas as they are inside, faults, and
//! clients that write a history.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ringraft::clock;
use ringraft::raft::{Replica, snapshot};
use ringraft::router::Router;
use ringraft::shard::Consistency;
use ringraft::types::{META_SHARD, ShardId};
use tokio::sync::oneshot;

use super::super::clocks::NodeClock;
use super::super::net::SimNet;
use super::super::until_ready;
use super::super::world::{HTTP_PORT, Seat, World, config, host};
use super::{Found, Played, Script, Sign};
use crate::checker;
use crate::client::{Client, kv_path};
use crate::history::{self, About, Answer, Call, Expect, History, Mode, Recorder, Request};
use crate::record::FaultCount;
use crate::workload::{Ended, Judged, judge};

pub(super) const NODES: u64 = 3;
const SHARDS: u32 = 1;

/// Longest wait for anything that a script needs, in simulated time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something awaited.
pub(super) const LOOK: Duration = Duration::from_millis(1);
/// `?timeout=` of a request that is expected to be served.
pub(super) const USUAL: Duration = Duration::from_secs(2);
/// How much longer than the server's time a client waits: what the server says is worth more than silence.
const CLIENT_MARGIN: Duration = Duration::from_secs(1);
/// Writes of unknown outcome that a script leaves on one key; the checker decides a few more.
const UNKNOWN_MAX: usize = checker::UNKNOWN_WRITES_MAX - 2;

pub(super) type Playing = LocalBoxFuture<'static, Result<(), String>>;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Scene {
    shared: Rc<Shared>,
}

struct Shared {
    seats: Vec<Rc<RefCell<Seat>>>,
    recorder: Recorder,
    lines: Lines,
    orders: RefCell<Vec<(Order, oneshot::Sender<()>)>>,
    down: RefCell<BTreeSet<u64>>,
    keys: RefCell<BTreeSet<String>>,
    faults: RefCell<BTreeMap<String, FaultCount>>,
    seen: RefCell<Vec<Found>>,
}

/// What only the driver of a simulation can do, between two of its steps.
#[derive(Clone, Copy)]
enum Order {
    Crash(u64),
    Restart(u64),
}

/// A history in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("no panic while lines are copied").clone()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic while lines are added").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn play(script: &Script, seed: u64) -> Played {
    let mut world = World::new(seed);
    for number in 1..=NODES + script.spare_nodes {
        let mut config = config(number, NODES, SHARDS);
        (script.config)(&mut config);
        if number > NODES {
            // Nothing is moved to it that nobody has asked for.
            config.node.weight = 1;
        }
        let clock = NodeClock::new(Duration::ZERO, (script.rate)(number));
        world.seat_node(seed + number, config, clock, None);
    }
    let lines = Lines::default();
    let shared = Rc::new(Shared {
        seats: world.seats.clone(),
        recorder: Recorder::new(lines.clone()),
        lines,
        orders: RefCell::default(),
        down: RefCell::default(),
        keys: RefCell::default(),
        faults: RefCell::default(),
        seen: RefCell::default(),
    });
    let ended = Rc::new(RefCell::new(None));
    world.sim.client("script", {
        let (scene, ended, play) = (Scene { shared: shared.clone() }, ended.clone(), script.play);
        async move {
            let result = play(scene).await;
            *ended.borrow_mut() = Some(result);
            Ok(())
        }
    });
    let broken = loop {
        match world.try_step() {
            Ok(true) => break None,
            Ok(false) => {}
            Err(error) => break Some(error),
        }
        for (order, done) in shared.orders.take() {
            match order {
                Order::Crash(number) => world.crash(number),
                Order::Restart(number) => world.restart(number),
            }
            // The script waits for it, or has ended.
            let _ = done.send(());
        }
    };
    let void = broken.or_else(|| ended.take().and_then(Result::err));
    let simulated_seconds = world.sim.elapsed().as_secs_f64();
    let lines = shared.lines.bytes();
    let history = read_lines(&lines);
    let report = checker::check(&history);
    let found = |one: &checker::Violation| {
        let why = format!("key {:?}: {}", one.key, one.why);
        Found { sign: Sign::of(one, &history), why }
    };
    let mut violations: Vec<Found> = report.violations.iter().map(found).collect();
    violations.append(&mut shared.seen.borrow_mut());
    let faults = shared.faults.borrow().clone();
    Played { report, violations, void, faults, simulated_seconds, history, lines }
}

fn read_lines(lines: &[u8]) -> History {
    if lines.is_empty() {
        return History::default();
    }
    history::read(lines).expect("what the recorder wrote is a history")
}

/// A request besides its key and what it asks.
#[derive(Clone)]
pub(super) struct How {
    pub(super) timeout: Duration,
    /// Whether the node may pass it on.
    pub(super) forward: bool,
    pub(super) idempotency: Option<String>,
}

pub(super) const BY_ANY: How = How { timeout: USUAL, forward: true, idempotency: None };

/// A read that the node has to answer itself, in this time.
pub(super) fn itself(timeout: Duration) -> How {
    How { timeout, forward: false, idempotency: None }
}

pub(super) fn read(mode: Mode) -> Request {
    Request::Get { mode }
}

pub(super) fn put(value: impl Into<String>) -> Request {
    Request::Put { value: value.into(), expect: None }
}

impl Scene {
    /// Until the whole cluster serves and one replica is known as leader to all.
    pub(super) async fn ready(&self) -> Result<(), String> {
        for number in 1..=NODES {
            until_ready(number).await?;
        }
        self.leader().await.map(drop)
    }

    /// Waits for something, for a simulated minute at most.
    pub(super) async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let deadline = clock::now().after(PATIENCE);
        while !holds(self) {
            if clock::now() >= deadline {
                return Err(format!("in {PATIENCE:?} it did not come about that {what}"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The data shard's replica on a node, while the node serves.
    pub(super) fn replica(&self, number: u64) -> Option<Replica> {
        let seat = self.shared.seats[usize::try_from(number - 1).expect("few nodes")].borrow();
        let groups = seat.router.as_ref()?.host().groups();
        groups.into_iter().map(|group| group.replica().clone()).find(|replica| replica.shard() != META_SHARD)
    }

    /// # Errors
    /// When the node does not serve.
    pub(super) fn router(&self, number: u64) -> Result<Router, String> {
        let seat = self.shared.seats[usize::try_from(number - 1).expect("few nodes")].borrow();
        seat.router.clone().ok_or_else(|| format!("n{number} does not serve"))
    }

    /// # Errors
    /// When the node does not serve.
    pub(super) fn running(&self, number: u64) -> Result<Replica, String> {
        self.replica(number).ok_or_else(|| format!("n{number} does not serve the shard"))
    }

    pub(super) fn leads(&self, number: u64) -> bool {
        self.replica(number).is_some_and(|replica| replica.is_leader())
    }

    /// Of the nodes that are up, the one that all of them take for the leader.
    pub(super) async fn leader(&self) -> Result<u64, String> {
        let mut found = None;
        self.until("all know one leader", |scene| {
            let up: Vec<u64> = (1..=NODES).filter(|number| !scene.is_down(*number)).collect();
            found = up.iter().copied().find(|number| {
                let id = scene.replica(*number).map(|replica| replica.id());
                let knows = |other: &u64| {
                    let leader = scene.replica(*other).and_then(|replica| replica.leader());
                    leader.is_some() && leader.map(|leader| leader.replica) == id
                };
                scene.leads(*number) && up.iter().all(knows)
            });
            found.is_some()
        })
        .await?;
        found.ok_or_else(|| "no leader".to_string())
    }

    /// Brings the leadership to a node.
    pub(super) async fn lead_from(&self, number: u64) -> Result<(), String> {
        const ATTEMPTS: u32 = 10;
        for _ in 0..ATTEMPTS {
            let leader = self.leader().await?;
            if leader == number {
                return Ok(());
            }
            let target = self.running(number)?.id();
            self.running(leader)?.transfer_leader(target).await.map_err(|error| error.to_string())?;
            let begun = clock::now();
            self.until("the leadership moves", |scene| {
                scene.leads(number) || clock::now().since(begun) > Duration::from_secs(2)
            })
            .await?;
        }
        Err(format!("n{number} does not become the leader"))
    }

    pub(super) fn others(number: u64) -> [u64; 2] {
        let mut others = (1..=NODES).filter(|other| *other != number);
        [others.next().expect("three nodes"), others.next().expect("three nodes")]
    }

    /// Until every node that is up has applied what the leader has.
    pub(super) async fn level(&self) -> Result<(), String> {
        let leader = self.leader().await?;
        self.until("all replicas have applied the same", |scene| {
            let applied = |number| scene.replica(number).and_then(|replica| replica.status().applied_index);
            let last = scene.replica(leader).and_then(|replica| replica.status().last_index);
            last.is_some() && (1..=NODES).filter(|number| !scene.is_down(*number)).all(|number| applied(number) == last)
        })
        .await
    }

    fn count(&self, class: &str, number: u64) {
        let hit_leader = u64::from(self.leads(number));
        let mut faults = self.shared.faults.borrow_mut();
        let count = faults.entry(class.to_string()).or_default();
        (count.confirmed, count.hit_leader) = (count.confirmed + 1, count.hit_leader + hit_leader);
    }

    /// Nothing goes between these two any more, in either direction.
    pub(super) fn cut(&self, one: u64, other: u64) {
        turmoil::partition(host(one), host(other));
    }

    /// Nothing more arrives at `to`.
    pub(super) fn cut_way(&self, from: u64, to: u64) {
        turmoil::partition_oneway(host(from), host(to));
    }

    pub(super) fn heal(&self, one: u64, other: u64) {
        turmoil::repair(host(one), host(other));
    }

    /// Cuts a node off from the other nodes, but not from clients.
    pub(super) fn isolate(&self, number: u64) {
        self.count("partition/isolate", number);
        for other in Self::others(number) {
            self.cut(number, other);
        }
    }

    pub(super) fn rejoin(&self, number: u64) {
        for other in Self::others(number) {
            self.heal(number, other);
        }
    }

    /// What goes between a node and the others is kept back, until [`Scene::release`].
    pub(super) fn hold(&self, number: u64) {
        self.count("delay/hold", number);
        for other in Self::others(number) {
            turmoil::hold(host(number), host(other));
        }
    }

    pub(super) fn release(&self, number: u64) {
        for other in Self::others(number) {
            turmoil::release(host(number), host(other));
        }
    }

    /// The node loses its power, and with it all that it had not synced.
    pub(super) async fn crash(&self, number: u64) {
        self.count("power-loss", number);
        self.shared.down.borrow_mut().insert(number);
        self.order(&[Order::Crash(number)]).await;
    }

    /// All of them in one moment.
    pub(super) async fn crash_together(&self, numbers: &[u64]) {
        for &number in numbers {
            self.count("power-loss", number);
            self.shared.down.borrow_mut().insert(number);
        }
        self.order(&numbers.iter().map(|number| Order::Crash(*number)).collect::<Vec<_>>()).await;
    }

    /// Starts a node again, and does not wait for it.
    pub(super) async fn restart(&self, number: u64) {
        self.shared.down.borrow_mut().remove(&number);
        self.order(&[Order::Restart(number)]).await;
    }

    async fn order(&self, orders: &[Order]) {
        let mut waiting = Vec::new();
        for &order in orders {
            let (done, is_done) = oneshot::channel();
            self.shared.orders.borrow_mut().push((order, done));
            waiting.push(is_done);
        }
        for is_done in waiting {
            is_done.await.expect("the driver carries out every order");
        }
    }

    fn is_down(&self, number: u64) -> bool {
        self.shared.down.borrow().contains(&number)
    }

    /// Asks a node over a new connection, as a process of its own in the history.
    pub(super) async fn ask(&self, node: u64, key: &str, request: Request, how: &How) -> Judged {
        self.shared.keys.borrow_mut().insert(key.to_string());
        let call =
            Call { node: Some(host(node)), idempotency: how.idempotency.clone(), ..Call::new(key, request.clone()) };
        let mut session = self.shared.recorder.session();
        let running = session.invoke(call).expect("memory takes every line");
        let mut client = Client::over(Arc::new(SimNet), format!("{}:{HTTP_PORT}", host(node)));
        let limit = how.timeout + CLIENT_MARGIN;
        let (method, target, headers, body) = http_request(key, &request, how);
        let judged = judge(&request, client.send_with(method, &target, headers, body, limit).await);
        let about = judged.about.clone();
        match &judged.ended {
            Ended::Ok(answer) => running.ok(answer.clone(), about),
            Ended::Fail => running.fail(about),
            Ended::Info => running.info(about),
        }
        .expect("memory takes every line");
        judged
    }

    /// Asks a node's replica of a shard for a key, like another node whose copy of the catalog is old, as a process of its own
    /// in the history.
    pub(super) async fn ask_by_old_route(&self, node: u64, shard: ShardId, key: &str) -> Result<(), String> {
        let group = self.router(node)?.host().group(shard).ok_or_else(|| format!("n{node} has no shard {shard}"))?;
        let call = Call { node: Some(host(node)), ..Call::new(key, read(Mode::Linearizable)) };
        let mut session = self.shared.recorder.session();
        let running = session.invoke(call).expect("memory takes every line");
        let deadline = clock::now().after(USUAL);
        let asked = group.read(Bytes::copy_from_slice(key.as_bytes()), Consistency::Linearizable, deadline).await;
        let about = About::default();
        match asked.map(|answer| answer.row) {
            Ok(None) => running.ok(Answer::Absent, about),
            Ok(Some(row)) => {
                let value = Some(String::from_utf8_lossy(&row.value).into_owned());
                running.ok(Answer::Found { ver: row.revision, value }, about)
            }
            Err(error) => running.fail(About { why: Some(error.to_string()), ..about }),
        }
        .expect("memory takes every line");
        Ok(())
    }

    /// Puts a value until it is acknowledged, at these nodes in turn; gives the one that was.
    pub(super) async fn put_at(&self, nodes: &[u64], key: &str, value: &str, how: &How) -> Result<String, String> {
        const PAUSE: Duration = Duration::from_millis(5);
        let deadline = clock::now().after(PATIENCE);
        let (mut unknown, mut last) = (0, String::new());
        for attempt in 0_u64.. {
            // No value is asked for twice.
            let value = format!("{value}.{attempt}");
            let node = nodes[usize::try_from(attempt).expect("few attempts") % nodes.len()];
            let judged = self.ask(node, key, put(&value), how).await;
            match judged.ended {
                Ended::Ok(_) => return Ok(value),
                Ended::Fail => {}
                Ended::Info => unknown += 1,
            }
            last = format!("n{node}: {}", judged.code);
            if unknown >= UNKNOWN_MAX || clock::now() >= deadline {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("no write of {key:?} was acknowledged; at last {last}"))
    }

    pub(super) async fn put(&self, key: &str, value: &str) -> Result<String, String> {
        self.put_at(&[1, 2, 3], key, value, &BY_ANY).await
    }

    /// Reads a key linearizably at one of these nodes until one answers.
    pub(super) async fn read_at(&self, nodes: &[u64], key: &str) -> Result<(), String> {
        const PAUSE: Duration = Duration::from_millis(20);
        let deadline = clock::now().after(PATIENCE);
        for &node in nodes.iter().cycle() {
            if self.ask(node, key, read(Mode::Linearizable), &BY_ANY).await.answer().is_some() {
                return Ok(());
            }
            if clock::now() >= deadline {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("nobody answers a read of {key:?}"))
    }

    /// Whether the history so far is one that must not be. Then nothing more needs to be shown.
    fn is_damned(&self) -> bool {
        !self.shared.seen.borrow().is_empty()
            || !checker::check(&read_lines(&self.shared.lines.bytes())).violations.is_empty()
    }

    /// The end of every script: without faults the cluster serves, every key is read back, and the replicas are equal.
    pub(super) async fn settle(&self) -> Result<(), String> {
        if self.is_damned() {
            return Ok(());
        }
        for number in 1..=NODES {
            self.release(number);
            self.rejoin(number);
            if self.is_down(number) {
                self.restart(number).await;
            }
        }
        for number in 1..=NODES {
            until_ready(number).await?;
        }
        let keys = self.shared.keys.borrow().clone();
        for key in &keys {
            self.read_at(&[1, 2, 3], key).await?;
        }
        self.compare_replicas().await
    }

    /// The end of a script after which the shard's replicas are on other nodes than the first three: without faults the
    /// cluster serves, and every key is read back.
    pub(super) async fn settle_elsewhere(&self, nodes: u64) -> Result<(), String> {
        if self.is_damned() {
            return Ok(());
        }
        for one in 1..=nodes {
            for other in one + 1..=nodes {
                self.heal(one, other);
            }
        }
        for number in 1..=nodes {
            until_ready(number).await?;
        }
        let keys = self.shared.keys.borrow().clone();
        for key in &keys {
            self.read_at(&(1..=nodes).collect::<Vec<_>>(), key).await?;
        }
        Ok(())
    }

    async fn compare_replicas(&self) -> Result<(), String> {
        self.level().await?;
        let mut digests = BTreeMap::new();
        for number in 1..=NODES {
            let replica = self.running(number)?;
            let view = replica.machine().store.view();
            // No time passes here, so all of them are at the applied index that they were seen to share.
            let (_, digest) = snapshot::digest(view.as_ref(), replica.shard()).map_err(|error| error.to_string())?;
            digests.insert(host(number), format!("{digest:016x}"));
        }
        if digests.values().collect::<BTreeSet<_>>().len() > 1 {
            let why = format!("digests of the rows at one applied index: {digests:?}");
            self.shared.seen.borrow_mut().push(Found { sign: Sign::ReplicasDiffer, why });
        }
        Ok(())
    }
}

fn http_request(key: &str, request: &Request, how: &How) -> (Method, String, HeaderMap, Bytes) {
    let mut target = format!("{}?timeout={}ms", kv_path(key.as_bytes()), how.timeout.as_millis());
    if !how.forward {
        target.push_str("&forward=never");
    }
    let mut headers = HeaderMap::new();
    let mut insert = |name: HeaderName, text: String| {
        headers.insert(name, HeaderValue::try_from(text).expect("revisions and our own keys are header text"));
    };
    match request.expect() {
        None => {}
        Some(Expect::Revision(revision)) => insert(IF_MATCH, format!("\"{revision}\"")),
        Some(Expect::Exists) => insert(IF_MATCH, "*".to_string()),
        Some(Expect::Absent) => insert(IF_NONE_MATCH, "*".to_string()),
    }
    if let Some(key) = &how.idempotency {
        insert(HeaderName::from_static("idempotency-key"), format!("\"{key}\""));
    }
    let (method, body) = match request {
        Request::Get { mode } => {
            target.push_str(match mode {
                Mode::Linearizable => "",
                Mode::Lease => "&consistency=lease",
                Mode::Stale => "&consistency=stale",
            });
            (Method::GET, Bytes::new())
        }
        Request::Put { value, .. } => (Method::PUT, Bytes::copy_from_slice(value.as_bytes())),
        Request::Delete { .. } => (Method::DELETE, Bytes::new()),
    };
    (method, target, headers, body)
}
