//! Clients that load a cluster while faults stand, write down what they asked and were told, and in the end hold what the
//! cluster has against it. The same code runs against real processes over TCP and inside a simulation: it takes its
//! network, its seed and its history from whoever starts it, and time from [`clock`] and tokio alone.
//!
//! | kind | what its clients do | held to |
//! |---|---|---|
//! | [`Kind::Register`] | get, put, delete and compare-and-set on shared keys, in every consistency mode | the checker |
//! | [`Kind::LeaseReads`] | lease reads at a fixed pace through every node, one writer for each key | the checker, [`stale_windows()`] |
//! | [`Kind::Counter`] | plus one by compare-and-set | the sum in the end |
//! | [`Kind::Set`] | keys inserted once, scanned meanwhile and at the end | every acknowledged one once, no other |
//! | [`Kind::Idempotence`] | writes sent several times under one idempotency key | one answer, carried out once |
//!
//! All of them are also held to the checker, and in the end every key is read back. [`refusals()`] counts what was answered
//! "not applied", by code, and what of it showed up all the same.
//!
//! Invariants: every operation on a key is in the history before its request leaves; no value is asked for twice, but
//! under one idempotency key; no key gets more unknown writes than the checker decides; a client whose node is down keeps
//! asking it, with a pause.

mod answer;
mod asker;
mod counter;
mod counts;
mod idempotence;
mod keys;
mod lease_reads;
mod refusals;
mod register;
mod set;
mod set_clients;
mod stale_windows;
mod values;
mod verify;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use ringraft::clock;
use ringraft::transport::dial::Net;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use answer::{Ended, Judged, judge};
pub use counts::{Counts, Ends};
pub use refusals::{Refusals, refusals};
pub use stale_windows::{StaleRead, StaleWindows, stale_windows};

use crate::history::{Recorder, Request};
use asker::Limits;

/// Violations that are told one by one; the rest are counted.
const VIOLATIONS_SHOWN: usize = 50;

/// One node.
#[derive(Clone, Debug)]
pub struct Target {
    /// As the history names it.
    pub name: String,
    /// `host:port` of its HTTP, as the node itself advertises it, so that a redirect to it is understood.
    pub address: String,
}

/// Where the clients work.
#[derive(Clone)]
pub struct Ground {
    pub net: Arc<dyn Net>,
    /// At least one.
    pub targets: Vec<Target>,
    pub recorder: Recorder,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Register,
    LeaseReads,
    Counter,
    Set,
    Idempotence,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Register, Kind::LeaseReads, Kind::Counter, Kind::Set, Kind::Idempotence];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Register => "register",
            Kind::LeaseReads => "lease-reads",
            Kind::Counter => "counter",
            Kind::Set => "set",
            Kind::Idempotence => "idempotence",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// How much is asked, and for how long an answer is awaited.
#[derive(Clone, Debug)]
pub struct Load {
    pub kinds: Vec<Kind>,
    /// Clients of [`Kind::Register`] bound to each node. Of the other kinds each node has one.
    pub clients_per_target: usize,
    /// Between two operations of one client, half to one and a half of it.
    pub pause: Duration,
    /// The same after anything but an answer, if that is longer.
    pub pause_after_refusal: Duration,
    /// Keys of [`Kind::Register`] in use at a time.
    pub register_keys: usize,
    /// Of [`Kind::LeaseReads`], through each node, whatever the answers take.
    pub lease_reads_per_second: u32,
    /// Keys of [`Kind::LeaseReads`] in use at a time, each with one writer.
    pub lease_keys: usize,
    /// Between two writes of such a writer. A stale window shorter than this may go unseen.
    pub lease_write_pause: Duration,
    /// Between two inserts of a client of [`Kind::Set`]. Every key is read back in the end.
    pub insert_pause: Duration,
    /// Between two scans through one node.
    pub scan_pause: Duration,
    /// `?timeout=` of an operation.
    pub server_limit: Duration,
    /// When a client gives an operation up. Longer than `server_limit`: what the server says is worth more.
    pub client_limit: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            kinds: Kind::ALL.to_vec(),
            clients_per_target: 3,
            pause: Duration::from_millis(20),
            pause_after_refusal: Duration::from_millis(50),
            register_keys: 16,
            lease_reads_per_second: 220,
            lease_keys: 3,
            lease_write_pause: Duration::from_millis(20),
            insert_pause: Duration::from_millis(50),
            scan_pause: Duration::from_millis(300),
            server_limit: Duration::from_secs(2),
            client_limit: Duration::from_secs(3),
        }
    }
}

impl Load {
    fn limits(&self) -> Limits {
        Limits { server: self.server_limit, client: self.client_limit }
    }
}

/// What all clients of one run share.
struct Shared {
    ground: Ground,
    load: Load,
    stop: CancellationToken,
    counts: Mutex<Counts>,
    violations: Mutex<Violations>,
    values_made: AtomicU64,
    broken: AtomicBool,
}

#[derive(Default)]
struct Violations {
    told: Vec<String>,
    untold: usize,
}

impl Shared {
    fn count(&self, kind: Kind, target: &str, request: &Request, judged: &Judged) {
        self.counts.lock().expect("counting does not panic").add(kind, target, request, judged);
    }

    /// `failed` is the code of a page that did not come.
    fn count_page(&self, failed: Option<&String>) {
        let mut counts = self.counts.lock().expect("counting does not panic");
        counts.pages += 1;
        if let Some(code) = failed {
            *counts.pages_failed.entry(code.clone()).or_default() += 1;
        }
    }

    fn violated(&self, what: String) {
        let mut violations = self.violations.lock().expect("noting does not panic");
        if violations.told.len() < VIOLATIONS_SHOWN {
            violations.told.push(what);
        } else {
            violations.untold += 1;
        }
    }

    /// Ends the work at once: nothing that it would do from here on could be checked.
    fn give_up(&self, why: &str) {
        if !self.broken.swap(true, Ordering::SeqCst) {
            self.violated(why.to_string());
        }
        self.stop.cancel();
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Shorter when the work ends.
    async fn pause(&self, time: Duration) {
        self.stop.run_until_cancelled(tokio::time::sleep(time)).await;
    }

    /// Choices of one client, which follow from the seed and from nothing that others do.
    fn rng(&self, kind: Kind, number: usize) -> StdRng {
        let stream = ((kind as u64) << 32) | number as u64;
        StdRng::seed_from_u64(self.ground.seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Never given twice in one history.
    fn new_value(&self, kind: Kind) -> String {
        let number = self.values_made.fetch_add(1, Ordering::SeqCst);
        format!("{}{number}", &kind.name()[..1])
    }

    fn key_prefix(&self, kind: Kind) -> String {
        format!("{}/{:x}/", kind.name(), self.ground.seed)
    }

    /// The place of the node with this HTTP address.
    fn target_at(&self, address: &str) -> Option<usize> {
        self.ground.targets.iter().position(|target| target.address == address)
    }
}

/// What each kind remembers of what it was told.
#[derive(Clone)]
struct Memory {
    register: Arc<register::Register>,
    streams: Arc<lease_reads::Streams>,
    counters: Arc<counter::Counters>,
    set: Arc<set_clients::Set>,
    attempts: Arc<idempotence::Attempts>,
}

impl Memory {
    fn new(shared: &Shared) -> Self {
        Self {
            register: Arc::new(register::Register::new(shared)),
            streams: Arc::new(lease_reads::Streams::new(shared)),
            counters: Arc::new(counter::Counters::new(shared)),
            set: Arc::new(set_clients::Set::new(shared)),
            attempts: Arc::new(idempotence::Attempts::new(shared)),
        }
    }

    fn start(&self, kind: Kind, shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
        let nodes = shared.ground.targets.len();
        let Memory { register, streams, counters, set, attempts } = self.clone();
        let shared = || Arc::clone(shared);
        match kind {
            Kind::Register => (0..shared().load.clients_per_target * nodes)
                .map(|number| tokio::spawn(register::run(shared(), Arc::clone(&register), number)))
                .collect(),
            Kind::LeaseReads => (0..shared().load.lease_keys)
                .map(|place| tokio::spawn(lease_reads::write(shared(), Arc::clone(&streams), place)))
                .chain((0..nodes).flat_map(|node| lease_reads::lanes(&shared(), &streams, node)))
                .collect(),
            Kind::Counter => {
                (0..nodes).map(|number| tokio::spawn(counter::run(shared(), Arc::clone(&counters), number))).collect()
            }
            Kind::Set => (0..nodes)
                .flat_map(|number| {
                    let insert = tokio::spawn(set_clients::insert(shared(), Arc::clone(&set), number));
                    [insert, tokio::spawn(set_clients::scan(shared(), Arc::clone(&set), number))]
                })
                .collect(),
            Kind::Idempotence => (0..nodes)
                .map(|number| tokio::spawn(idempotence::run(shared(), Arc::clone(&attempts), number)))
                .collect(),
        }
    }

    fn all_keys(&self, kind: Kind) -> Vec<String> {
        match kind {
            Kind::Register => self.register.all_keys(),
            Kind::LeaseReads => self.streams.all_keys(),
            Kind::Counter => self.counters.all_keys(),
            Kind::Set => self.set.all_keys(),
            Kind::Idempotence => self.attempts.all_keys(),
        }
    }
}

/// Clients at work, until [`Work::finish`].
pub struct Work {
    shared: Arc<Shared>,
    memory: Memory,
    clients: Vec<JoinHandle<()>>,
}

/// What a whole run came to, besides its history.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// With the reads of the end.
    pub counts: Counts,
    /// What no order of operations could explain, or what the API promises and did not keep. Told in words.
    pub violations: Vec<String>,
    /// What could not be read back, scanned or sent again in time. The run is no good one if there is any.
    pub unverified: Vec<String>,
    /// Keys that were read back.
    pub read_back: usize,
    /// Keys in the last scan of the set.
    pub scanned: usize,
    /// Writes that were sent once more at the end, and answered.
    pub replayed: usize,
}

/// Starts the clients, as tasks of the runtime that this is called in.
///
/// # Panics
/// When there is no target, no key for a kind that needs some, or no pace for the lease reads.
pub fn start(ground: Ground, load: Load) -> Work {
    assert!(!ground.targets.is_empty(), "clients need a node to ask");
    assert!(load.register_keys > 0 && load.lease_keys > 0, "clients need a key to ask for");
    assert!(load.lease_reads_per_second > 0, "lease reads need a pace");
    let shared = Arc::new(Shared {
        ground,
        load,
        stop: CancellationToken::new(),
        counts: Mutex::default(),
        violations: Mutex::default(),
        values_made: AtomicU64::new(1),
        broken: AtomicBool::new(false),
    });
    let memory = Memory::new(&shared);
    let clients = shared.load.kinds.iter().flat_map(|kind| memory.start(*kind, &shared)).collect();
    Work { shared, memory, clients }
}

impl Work {
    /// So far.
    pub fn counts(&self) -> Counts {
        self.shared.counts.lock().expect("counting does not panic").clone()
    }

    /// Violations seen so far, so that a run need not go on to its end. A history may show more.
    pub fn violations(&self) -> Vec<String> {
        self.shared.violations.lock().expect("noting does not panic").told.clone()
    }

    /// Ends the clients, sends every kept idempotent write once more, reads every key back, scans the set and adds the
    /// counters up. Called when all faults are healed. Each of these may take `limit`; what is not done by then is told
    /// as unverified. The clients themselves end within [`Load::client_limit`].
    pub async fn finish(self, limit: Duration) -> Finished {
        let Work { shared, memory, clients } = self;
        shared.stop.cancel();
        for client in clients {
            client.await.expect("a client does not panic");
        }
        let deadline = || clock::now().after(limit);
        let (replayed, unanswered) = idempotence::at_the_end(&shared, &memory.attempts, deadline()).await;
        let mut unverified = unanswered;
        let kinds = shared.load.kinds.iter();
        let keys: Vec<_> =
            kinds.flat_map(|&kind| memory.all_keys(kind).into_iter().map(move |key| (kind, key))).collect();
        let (held, unread) = verify::read_back(&shared, keys, deadline()).await;
        unverified.extend(unread);
        memory.counters.check(&held).into_iter().for_each(|wrong| shared.violated(wrong));
        let mut scanned = 0;
        if shared.load.kinds.contains(&Kind::Set) {
            let (keys, unscanned) = set_clients::scan_at_the_end(&shared, &memory.set, deadline()).await;
            scanned = keys;
            unverified.extend(unscanned);
        }
        let counts = shared.counts.lock().expect("counting does not panic").clone();
        let found = std::mem::take(&mut *shared.violations.lock().expect("noting does not panic"));
        let mut violations = found.told;
        if found.untold > 0 {
            violations.push(format!("and {} violations more", found.untold));
        }
        Finished { counts, violations, unverified, read_back: held.len(), scanned, replayed }
    }
}
