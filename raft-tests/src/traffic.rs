//! Writers that remember what they were told: every acknowledged value with its revision, every refused one, and every
//! one of unknown outcome, to be held against what the cluster holds in the end.
//!
//! Invariants: a key has one writer, which waits for each answer before it writes the key again. After an unknown
//! outcome the key is left alone for ever, so that a write which is carried out late can only be its last. What a key
//! may hold is therefore exactly: its last acknowledged value, or the one unknown value sent after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::clock::{self, Moment};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Outcome, kv_path, revision};
use crate::fleet::since;

/// Deadline of each request, in its `timeout`.
const REQUEST_TIMEOUT: &str = "2s";
/// When the client gives a request up: well after the server has to have answered it.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);
/// Keys a writer has at a time.
const KEYS_EACH: usize = 40;
/// Of so many requests one is a read.
const READ_EVERY: u64 = 8;
/// After a refusal, before the next request, so that a cluster that refuses is not flooded.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(10);
/// How long a key may take to be readable once traffic has ended.
const FINAL_READ_LIMIT: Duration = Duration::from_secs(30);
/// Violations that are told one by one.
const VIOLATIONS_SHOWN: usize = 20;

/// What a writer was told of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyHistory {
    pub key: String,
    /// Sequence number and revision of the last acknowledged value.
    pub acknowledged: Option<(u64, u64)>,
    /// Sequence number of the value sent last, when its outcome is unknown.
    pub unknown: Option<u64>,
    /// Sequence numbers of values that were never to appear.
    pub refused: Vec<u64>,
}

impl KeyHistory {
    fn value(&self, sequence: u64) -> Bytes {
        Bytes::from(format!("{} {sequence}", self.key))
    }

    /// What is wrong with the key holding `found` (its value and revision, or nothing); None when it may.
    pub fn violation(&self, found: Option<(&[u8], u64)>) -> Option<String> {
        let Some((value, revision)) = found else {
            return self
                .acknowledged
                .map(|(sequence, _)| format!("{}: {sequence} was acknowledged, is gone", self.key));
        };
        let text = String::from_utf8_lossy(value);
        let Some(sequence) = text.strip_prefix(&self.key).and_then(|rest| rest.strip_prefix(' ')?.parse::<u64>().ok())
        else {
            return Some(format!("{} holds {text:?}, which was never sent to it", self.key));
        };
        if self.refused.contains(&sequence) {
            return Some(format!("{}: {sequence} was answered not_applied and is there", self.key));
        }
        match self.acknowledged {
            Some((last, last_revision)) if sequence == last => (revision != last_revision).then(|| {
                format!("{}: {sequence} has revision {revision:x}, acknowledged as {last_revision:x}", self.key)
            }),
            Some((last, last_revision)) if self.unknown == Some(sequence) => (revision <= last_revision).then(|| {
                format!("{}: {sequence} has revision {revision:x}, not above {last_revision:x} of {last}", self.key)
            }),
            None if self.unknown == Some(sequence) => None,
            last => {
                Some(format!("{}: holds {sequence}, last acknowledged {last:?}, unknown {:?}", self.key, self.unknown))
            }
        }
    }
}

/// Writers at work, until [`Traffic::stop`].
pub struct Traffic {
    shared: Arc<Shared>,
    stop: CancellationToken,
    writers: Vec<JoinHandle<Vec<KeyHistory>>>,
}

struct Shared {
    addresses: Vec<String>,
    started: Moment,
    acknowledged: AtomicU64,
    reads: AtomicU64,
    /// Acknowledged writes in each second since the start.
    by_second: Mutex<Vec<u64>>,
    /// How often each refusal or unknown outcome was met.
    troubles: Mutex<BTreeMap<String, u64>>,
    violations: Mutex<Vec<String>>,
}

impl Shared {
    fn count(&self, trouble: String) {
        *self.troubles.lock().expect("counting does not panic").entry(trouble).or_default() += 1;
    }

    fn violated(&self, what: String) {
        self.violations.lock().expect("noting does not panic").push(what);
    }

    fn acknowledged_now(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let second = usize::try_from(since(self.started).as_secs()).expect("seconds of one run fit");
        let mut by_second = self.by_second.lock().expect("counting does not panic");
        if by_second.len() <= second {
            by_second.resize(second + 1, 0);
        }
        by_second[second] += 1;
    }
}

/// All that was told during a run.
pub struct Told {
    pub keys: Vec<KeyHistory>,
    pub acknowledged: u64,
    pub reads: u64,
    pub by_second: Vec<u64>,
    pub troubles: BTreeMap<String, u64>,
    pub violations: Vec<String>,
}

impl Traffic {
    /// Starts writers spread over the nodes at these HTTP addresses.
    pub fn start(addresses: Vec<String>, writers: usize, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            addresses,
            started: clock::now(),
            acknowledged: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            by_second: Mutex::default(),
            troubles: Mutex::default(),
            violations: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let writers =
            (0..writers).map(|number| tokio::spawn(write(Arc::clone(&shared), number, seed, stop.clone()))).collect();
        Self { shared, stop, writers }
    }

    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Every write has its answer, or is unknown, when this returns.
    pub async fn stop(self) -> Told {
        self.stop.cancel();
        let mut keys = Vec::new();
        for writer in self.writers {
            keys.extend(writer.await.expect("a writer does not panic"));
        }
        let shared = self.shared;
        Told {
            keys,
            acknowledged: shared.acknowledged.load(Ordering::Relaxed),
            reads: shared.reads.load(Ordering::Relaxed),
            by_second: std::mem::take(&mut shared.by_second.lock().expect("no panic")),
            troubles: std::mem::take(&mut shared.troubles.lock().expect("no panic")),
            violations: std::mem::take(&mut shared.violations.lock().expect("no panic")),
        }
    }
}

impl Told {
    /// Keys with a write of unknown outcome.
    pub fn unknown(&self) -> usize {
        self.keys.iter().filter(|key| key.unknown.is_some()).count()
    }

    pub fn print(&self) {
        let refused: usize = self.keys.iter().map(|key| key.refused.len()).sum();
        println!(
            "  {} writes acknowledged on {} keys, {} reads checked, {refused} not applied, {} unknown",
            self.acknowledged,
            self.keys.len(),
            self.reads,
            self.unknown()
        );
        for (trouble, count) in &self.troubles {
            println!("    {count:>6} × {trouble}");
        }
    }

    /// Reads every key through the nodes in turn and holds it against what was told.
    pub async fn check(&self, addresses: &[String], readers: usize) -> Result<usize, String> {
        let mut violations = self.violations.clone();
        let parts = (0..readers).map(|reader| async move {
            let mut client = Client::new(&addresses[reader % addresses.len()]);
            let mut violations = Vec::new();
            for history in self.keys.iter().skip(reader).step_by(readers) {
                match read(&mut client, history, FINAL_READ_LIMIT).await {
                    Ok(None) => {}
                    Ok(Some(violation)) => violations.push(violation),
                    Err(why) => violations.push(format!("{} cannot be read: {why}", history.key)),
                }
            }
            violations
        });
        violations.extend(futures::future::join_all(parts).await.into_iter().flatten());
        if violations.is_empty() {
            return Ok(self.keys.len());
        }
        for violation in violations.iter().take(VIOLATIONS_SHOWN) {
            println!("  VIOLATION {violation}");
        }
        Err(format!("{} violations", violations.len()))
    }
}

/// Reads a key until there is an answer, and judges it.
async fn read(client: &mut Client, history: &KeyHistory, limit: Duration) -> Result<Option<String>, String> {
    let target = format!("{}?timeout={REQUEST_TIMEOUT}", kv_path(history.key.as_bytes()));
    let deadline = clock::now().after(limit);
    loop {
        let why = match client.get(&target, CLIENT_LIMIT).await {
            Ok(reply) if reply.status == 404 => return Ok(history.violation(None)),
            Ok(reply) if reply.status == 200 => {
                let revision = revision(&reply).ok_or("200 without a revision")?;
                return Ok(history.violation(Some((&reply.body, revision))));
            }
            Ok(reply) => format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body)),
            Err(trouble) => format!("{trouble:?}"),
        };
        if clock::now() >= deadline {
            return Err(why);
        }
        tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
    }
}

async fn write(shared: Arc<Shared>, number: usize, seed: u64, stop: CancellationToken) -> Vec<KeyHistory> {
    let mut rng = StdRng::seed_from_u64(seed ^ ((number as u64) << 32));
    let mut clients: Vec<Client> = shared.addresses.iter().map(Client::new).collect();
    let mut place = number % clients.len();
    let mut keys_made = 0;
    let mut new_key = || {
        keys_made += 1;
        KeyHistory { key: format!("traffic/{seed:x}/{number}/{keys_made}"), ..KeyHistory::default() }
    };
    let mut current: Vec<KeyHistory> = (0..KEYS_EACH).map(|_| new_key()).collect();
    let mut left_alone = Vec::new();
    let mut sequence = 0;
    while !stop.is_cancelled() {
        sequence += 1;
        let slot = rng.random_range(0..KEYS_EACH);
        let history = &mut current[slot];
        if sequence % READ_EVERY == 0 {
            let reader = rng.random_range(0..clients.len());
            check_in_passing(&shared, &mut clients[reader], history).await;
            continue;
        }
        let target = format!("{}?timeout={REQUEST_TIMEOUT}", kv_path(history.key.as_bytes()));
        let outcome = clients[place].put(&target, history.value(sequence), CLIENT_LIMIT).await;
        match outcome {
            Outcome::Acknowledged { revision } => {
                shared.acknowledged_now();
                if let Some((last, last_revision)) = history.acknowledged
                    && revision <= last_revision
                {
                    let key = &history.key;
                    shared.violated(format!("{key}: {sequence} got {revision:x} after {last} had {last_revision:x}"));
                }
                history.acknowledged = Some((sequence, revision));
            }
            Outcome::NotApplied { why } => {
                shared.count(format!("not applied: {}", plain(&why)));
                history.refused.push(sequence);
                place = rng.random_range(0..clients.len());
                tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
            }
            Outcome::Unknown { why } => {
                shared.count(format!("unknown: {}", plain(&why)));
                history.unknown = Some(sequence);
                left_alone.push(std::mem::replace(history, new_key()));
                place = rng.random_range(0..clients.len());
            }
        }
    }
    left_alone.extend(current);
    left_alone
}

/// Nobody else writes the key and no write of it is under way: a linearizable read gives exactly what was told.
async fn check_in_passing(shared: &Shared, client: &mut Client, history: &KeyHistory) {
    match read(client, history, Duration::ZERO).await {
        Ok(None) => drop(shared.reads.fetch_add(1, Ordering::Relaxed)),
        Ok(Some(violation)) => shared.violated(format!("read through {}: {violation}", client.address())),
        // A node that is down, or a shard without a leader: the next read is as good.
        Err(_) => tokio::time::sleep(PAUSE_AFTER_REFUSAL).await,
    }
}

/// Without the address, so that equal troubles of different nodes are one.
fn plain(why: &str) -> &str {
    why.split_once(": ").filter(|(address, _)| address.contains(':')).map_or(why, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> KeyHistory {
        KeyHistory { key: "k".into(), acknowledged: Some((5, 50)), unknown: Some(7), refused: vec![6] }
    }

    #[test]
    fn the_acknowledged_value_and_the_unknown_one_after_it_may_be_there() {
        assert_eq!(history().violation(Some((b"k 5", 50))), None);
        assert_eq!(history().violation(Some((b"k 7", 51))), None);
        let never_acknowledged = KeyHistory { acknowledged: None, ..history() };
        assert_eq!(never_acknowledged.violation(None), None);
        assert_eq!(never_acknowledged.violation(Some((b"k 7", 1))), None);
    }

    #[test]
    fn whatever_else_a_key_holds_is_a_violation() {
        for (found, why) in [
            (None, "lost"),
            (Some((&b"k 4"[..], 40)), "older than acknowledged"),
            (Some((b"k 6", 51)), "refused"),
            (Some((b"k 5", 51)), "another revision"),
            (Some((b"k 7", 50)), "a revision not above"),
            (Some((b"k 8", 52)), "never sent"),
            (Some((b"j 5", 50)), "another key's"),
            (Some((b"k 5x", 50)), "damaged"),
        ] {
            assert!(history().violation(found).is_some(), "{why}");
        }
    }
}
