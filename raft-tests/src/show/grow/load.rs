//! A load at a constant rate whose every answer is held against all that was told before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::IF_MATCH;
use http::{HeaderMap, HeaderValue, Method};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::clock::{self, Moment};
use ringraft::ring::Token;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Outcome, kv_path, outcome, revision};
use crate::fleet::since;

const CLIENTS: usize = 48;
/// Operations per second of all clients together: some more than has to be shown.
const RATE: u32 = 2_150;
const VALUE_BYTES: usize = 1_000;
/// `timeout=5s`, and what the client waits beyond it.
const CLIENT_LIMIT: Duration = Duration::from_secs(8);

/// An acknowledged write.
pub(super) struct Acknowledged {
    pub(super) asked: Moment,
    pub(super) at: Moment,
    pub(super) token: Token,
}

/// What anybody was told of a key.
#[derive(Default)]
struct Book {
    /// The highest revision that was told.
    told: u64,
    /// The sequence number of each revision's value.
    values: BTreeMap<u64, u64>,
    /// Sequence number and revision of the last acknowledged write.
    last: (u64, u64),
}

impl Book {
    fn note(&mut self, revision: u64, sequence: u64) -> Result<(), String> {
        self.told = self.told.max(revision);
        match self.values.insert(revision, sequence) {
            Some(other) if other != sequence => Err(format!("revision {revision:x} is {other} and {sequence}")),
            _ => Ok(()),
        }
    }
}

struct Shared {
    addresses: RwLock<Vec<String>>,
    keys: Vec<(String, Token, Mutex<Book>)>,
    stop: CancellationToken,
    operations: AtomicU64,
    errors: Mutex<Vec<String>>,
    violations: Mutex<Vec<String>>,
}

pub(super) struct Load {
    shared: Arc<Shared>,
    began: Moment,
    clients: Vec<JoinHandle<Vec<Acknowledged>>>,
}

/// All that was told.
pub(super) struct Told {
    shared: Arc<Shared>,
    pub(super) took: Duration,
    pub(super) operations: u64,
    pub(super) errors: Vec<String>,
    pub(super) violations: Vec<String>,
    /// In the order of their times.
    pub(super) acknowledged: Vec<Acknowledged>,
    /// Keys and values as they are in the end, once.
    pub(super) live_bytes: u64,
}

impl Load {
    /// Writes every key once, then begins.
    pub(super) async fn begin(addresses: Vec<String>, keys: usize, seed: u64) -> Result<Self, String> {
        let names = (0..keys).map(|number| format!("grow-{number}"));
        let keys = names.map(|key| (key.clone(), super::token(&key), Mutex::default())).collect();
        let shared = Arc::new(Shared {
            addresses: RwLock::new(addresses),
            keys,
            stop: CancellationToken::new(),
            operations: AtomicU64::new(0),
            errors: Mutex::default(),
            violations: Mutex::default(),
        });
        let filled = (0..CLIENTS).map(|client| fill(shared.clone(), client));
        futures::future::join_all(filled).await.into_iter().collect::<Result<(), String>>()?;
        let clients = (0..CLIENTS).map(|client| tokio::spawn(work(shared.clone(), client, seed))).collect();
        Ok(Self { shared, began: clock::now(), clients })
    }

    /// From their next operation on the clients ask these nodes.
    pub(super) fn go_to(&self, addresses: Vec<String>) {
        *self.shared.addresses.write().expect("no panic while addresses are changed") = addresses;
    }

    pub(super) async fn stop(self) -> Told {
        let took = since(self.began);
        self.shared.stop.cancel();
        let mut acknowledged = Vec::new();
        for client in self.clients {
            acknowledged.extend(client.await.expect("a client does not panic"));
        }
        acknowledged.sort_unstable_by_key(|one| one.at);
        let shared = self.shared;
        let take = |found: &Mutex<Vec<String>>| std::mem::take(&mut *found.lock().expect("no panic while it is taken"));
        let (errors, violations) = (take(&shared.errors), take(&shared.violations));
        let live_bytes = shared.keys.iter().map(|(key, ..)| (key.len() + VALUE_BYTES) as u64).sum();
        Told {
            took,
            operations: shared.operations.load(Ordering::Relaxed),
            errors,
            violations,
            acknowledged,
            live_bytes,
            shared,
        }
    }
}

impl Told {
    pub(super) fn keys(&self) -> usize {
        self.shared.keys.len()
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        self.shared.keys.iter().map(|(key, ..)| key.clone()).collect()
    }

    /// What is wrong with what each key holds now: it must be what was acknowledged last.
    pub(super) async fn read_back(&self, addresses: &[String]) -> Vec<String> {
        let parts = (0..CLIENTS).map(|part| async move {
            let mut client = Client::new(&addresses[part % addresses.len()]);
            let mut wrong = Vec::new();
            for (key, _, book) in self.shared.keys.iter().skip(part).step_by(CLIENTS) {
                let wanted = {
                    let (sequence, revision) = book.lock().expect("no panic while a book is read").last;
                    (revision, sequence)
                };
                let found = match client.get(&path(key), CLIENT_LIMIT).await {
                    Ok(reply) if reply.status == 200 => revision(&reply).zip(sequence_of(key, &reply.body)),
                    _ => None,
                };
                if found != Some(wanted) {
                    wrong.push(format!("{key} holds {found:?}, {wanted:?} was acknowledged last"));
                }
            }
            wrong
        });
        futures::future::join_all(parts).await.into_iter().flatten().collect()
    }
}

fn path(key: &str) -> String {
    format!("{}?timeout=5s", kv_path(key.as_bytes()))
}

fn value(key: &str, sequence: u64) -> Bytes {
    let mut value = format!("{key} {sequence} ").into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value.into()
}

fn sequence_of(key: &str, value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    text.strip_prefix(key)?.strip_prefix(' ')?.split(' ').next()?.parse().ok()
}

async fn fill(shared: Arc<Shared>, number: usize) -> Result<(), String> {
    let address = shared.address(number);
    let mut client = Client::new(address);
    for (key, _, book) in shared.keys.iter().skip(number).step_by(CLIENTS) {
        match client.put(&path(key), value(key, 1), CLIENT_LIMIT).await {
            Outcome::Acknowledged { revision } => {
                let mut book = book.lock().expect("no panic while a book is written");
                book.last = (1, revision);
                book.note(revision, 1)?;
            }
            other => return Err(format!("{key}: {other:?}")),
        }
    }
    Ok(())
}

impl Shared {
    fn address(&self, turn: usize) -> String {
        let addresses = self.addresses.read().expect("no panic while addresses are read");
        addresses[turn % addresses.len()].clone()
    }
}

/// One client: it alone writes its keys, and reads everybody's.
struct Worker {
    shared: Arc<Shared>,
    number: usize,
    rng: StdRng,
    client: Client,
    acknowledged: Vec<Acknowledged>,
}

async fn work(shared: Arc<Shared>, number: usize, seed: u64) -> Vec<Acknowledged> {
    let rng = StdRng::seed_from_u64(seed ^ ((number as u64) << 32));
    let client = Client::new(shared.address(number));
    let mut worker = Worker { shared, number, rng, client, acknowledged: Vec::new() };
    let pause = Duration::from_secs(CLIENTS as u64) / RATE;
    let mut due = clock::now();
    while !worker.shared.stop.is_cancelled() {
        let address = worker.shared.address(number);
        if worker.client.address() != address {
            worker.client = Client::new(address);
        }
        match worker.operation().await {
            Ok(None) => {}
            Ok(Some(violation)) => worker.shared.violations.lock().expect("no panic").push(violation),
            Err(error) => worker.shared.errors.lock().expect("no panic").push(error),
        }
        worker.shared.operations.fetch_add(1, Ordering::Relaxed);
        due = due.after(pause);
        clock::sleep(due.since(clock::now())).await;
    }
    worker.acknowledged
}

/// A violation, if there was one; the error is an answer that must not be.
type Checked = Result<Option<String>, String>;

impl Worker {
    async fn operation(&mut self) -> Checked {
        match self.rng.random_range(0..10) {
            0..7 => self.read().await,
            7..9 => self.write(None).await,
            _ => {
                let is_current = self.rng.random::<bool>();
                self.write(Some(is_current)).await
            }
        }
    }

    fn is_told_late(key: &str, revision: u64, floor: u64) -> Option<String> {
        (revision < floor).then(|| format!("{key}: {revision:x} was told after {floor:x}"))
    }

    async fn read(&mut self) -> Checked {
        let shared = self.shared.clone();
        let (key, _, book) = &shared.keys[self.rng.random_range(0..shared.keys.len())];
        let floor = book.lock().expect("no panic while a book is read").told;
        let reply = self.client.get(&path(key), CLIENT_LIMIT).await.map_err(|trouble| format!("{key}: {trouble:?}"))?;
        match (reply.status, revision(&reply), sequence_of(key, &reply.body)) {
            (200, Some(revision), Some(sequence)) => {
                let noted = book.lock().expect("no panic while a book is written").note(revision, sequence);
                Ok(noted.err().map(|why| format!("{key}: {why}")).or(Self::is_told_late(key, revision, floor)))
            }
            (404, ..) => Ok(Some(format!("{key} is gone"))),
            (200, ..) => Ok(Some(format!("{key} holds what nobody wrote"))),
            (status, ..) => Err(format!("get {key}: {status} {}", String::from_utf8_lossy(&reply.body))),
        }
    }

    /// Plain, or on condition of the current revision, or of one that it is not.
    async fn write(&mut self, is_current: Option<bool>) -> Checked {
        let shared = self.shared.clone();
        let own = (shared.keys.len() - self.number).div_ceil(CLIENTS);
        let (key, token, book) = &shared.keys[self.number + CLIENTS * self.rng.random_range(0..own)];
        let (floor, last, sequence) = {
            let book = book.lock().expect("no panic while a book is read");
            (book.told, book.last.1, book.last.0 + 1)
        };
        let mut headers = HeaderMap::new();
        if let Some(is_current) = is_current {
            let wanted = if is_current { last } else { last - 1 };
            headers.insert(IF_MATCH, HeaderValue::try_from(format!("\"{wanted:016x}\"")).expect("hex is header text"));
        }
        let asked = clock::now();
        let sent = self.client.send_with(Method::PUT, &path(key), headers, value(key, sequence), CLIENT_LIMIT).await;
        let status = sent.as_ref().map(|reply| reply.status);
        match (outcome(sent.clone()), is_current) {
            (Outcome::Acknowledged { .. }, Some(false)) => Ok(Some(format!("{key}: written at another revision"))),
            (Outcome::Acknowledged { revision }, _) => {
                let mut book = book.lock().expect("no panic while a book is written");
                book.last = (sequence, revision);
                self.acknowledged.push(Acknowledged { asked, at: clock::now(), token: *token });
                let noted = book.note(revision, sequence);
                Ok(noted.err().map(|why| format!("{key}: {why}")).or(Self::is_told_late(key, revision, floor + 1)))
            }
            (_, Some(false)) if status == Ok(412) => Ok(None),
            (_, Some(true)) if status == Ok(412) => {
                Ok(Some(format!("{key}: it is not at {last:x}, nobody else writes it")))
            }
            (other, _) => Err(format!("put {key}: {other:?}")),
        }
    }
}
