//! Clients that load a cluster while faults stand, write down what they asked and were told, and in the end hold what the
//! cluster has against it. The same code runs against real processes over TCP and inside a simulation: it takes its
//! network, its seed and its history from whoever starts it, and time from [`clock`] and tokio alone.
//!
//! | kind | what its clients do | held to |
//! |---|---|---|
//! | [`Kind::Register`] | get, put, delete and compare-and-set on shared keys, in every consistency mode | the checker |
//!
//! Invariants: every operation on a key is in the history before its request leaves; no value is asked for twice, but
//! under one idempotency key; no key gets more unknown writes than the checker decides; a client whose node is down keeps
//! asking it, with a pause.

mod answer;
mod asker;
mod counts;
mod keys;
mod register;
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
}

impl Kind {
    pub const ALL: [Kind; 1] = [Kind::Register];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Register => "register",
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
    /// Clients of [`Kind::Register`] bound to each node.
    pub clients_per_target: usize,
    /// Between two operations of one client.
    pub pause: Duration,
    /// The same after anything but an answer, if that is longer.
    pub pause_after_refusal: Duration,
    /// Keys of [`Kind::Register`] in use at a time.
    pub register_keys: usize,
    /// `?timeout=` of an operation.
    pub server_limit: Duration,
    /// When a client gives an operation up. Longer than `server_limit`: what the server says is worth more.
    pub client_limit: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            kinds: Kind::ALL.to_vec(),
            clients_per_target: 4,
            pause: Duration::from_millis(10),
            pause_after_refusal: Duration::from_millis(50),
            register_keys: 16,
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

/// Clients at work, until [`Work::finish`].
pub struct Work {
    shared: Arc<Shared>,
    register: Arc<register::Register>,
    clients: Vec<JoinHandle<()>>,
}

/// What a whole run came to, besides its history.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    pub counts: Counts,
    /// What no order of operations could explain, or what the API promises and did not keep. Told in words.
    pub violations: Vec<String>,
    /// What could not be read back in time. The run is no good one if there is any.
    pub unverified: Vec<String>,
    /// Keys that were read back.
    pub read_back: usize,
}

/// Starts the clients, as tasks of the runtime that this is called in.
///
/// # Panics
/// When there is no target.
pub fn start(ground: Ground, load: Load) -> Work {
    assert!(!ground.targets.is_empty(), "clients need a node to ask");
    let nodes = ground.targets.len();
    let shared = Arc::new(Shared {
        ground,
        load,
        stop: CancellationToken::new(),
        counts: Mutex::default(),
        violations: Mutex::default(),
        values_made: AtomicU64::new(1),
        broken: AtomicBool::new(false),
    });
    let register = Arc::new(register::Register::new(&shared));
    let mut clients = Vec::new();
    for kind in &shared.load.kinds {
        match kind {
            Kind::Register => {
                for number in 0..shared.load.clients_per_target * nodes {
                    clients.push(tokio::spawn(register::run(Arc::clone(&shared), Arc::clone(&register), number)));
                }
            }
        }
    }
    Work { shared, register, clients }
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

    /// Ends the clients, then reads everything back. Called when all faults are healed; what cannot be read within
    /// `limit` is told as unverified.
    pub async fn finish(self, limit: Duration) -> Finished {
        let Work { shared, register, clients } = self;
        shared.stop.cancel();
        for client in clients {
            client.await.expect("a client does not panic");
        }
        let keys: Vec<_> = register.all_keys().into_iter().map(|key| (Kind::Register, key)).collect();
        let deadline = clock::now().after(limit);
        let (held, unverified) = verify::read_back(&shared, keys, deadline).await;
        let counts = shared.counts.lock().expect("counting does not panic").clone();
        let found = std::mem::take(&mut *shared.violations.lock().expect("noting does not panic"));
        let mut violations = found.told;
        if found.untold > 0 {
            violations.push(format!("and {} violations more", found.untold));
        }
        Finished { counts, violations, unverified, read_back: held.len() }
    }
}
