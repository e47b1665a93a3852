//! The process that loses power: `raft-tests power-cuts-writer`, several users of Ringraft's own log store, which say on
//! standard output what they ask for before they do, and that it was acknowledged once it was; and its check afterwards.
//!
//! Users `0..GROUPS` are Raft groups, with entries, votes, truncations and purges, whose requests meet in the store's group
//! commit. User [`NODE`] is the node, with its identity file and its registry.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::storage::log_store::{GroupLog, LogStore};
use ringraft::storage::registry::{RegistryRecord, ReplicaLife};
use ringraft::storage::rocks::{RocksDisk, StorageOptions};
use ringraft::storage::{Disk, Error};
use ringraft::types::{ReplicaId, ShardId, StoreId};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::model::{Held, Request};

pub const GROUPS: u64 = 3;
pub const NODE: u64 = GROUPS;
const USAGE: &str = "raft-tests power-cuts-writer write DIRECTORY SEED [--ack-early] | check DIRECTORY";
const EXIT_USAGE: u8 = 3;
const STORE: StoreId = StoreId(7);
/// So small that the store flushes every few moments: table files, a new write-ahead log, a change of the MANIFEST.
const WRITE_BUFFER_BYTES: usize = 256 << 10;
const TAIL_BYTES: u64 = 1 << 20;
const ENTRY_BYTES_MAX: u64 = 6000;
const ENTRIES_AT_ONCE_MAX: u64 = 5;
/// Requests of one group that wait for their answers.
const UNDER_WAY_MAX: usize = 4;
/// Entries that a group keeps at least, when it purges.
const ENTRIES_KEPT: u64 = 60;
const READ_BYTES: usize = 64 << 20;
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// What the writer says, a line each.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Asks {
        user: u64,
        number: u64,
        request: Request,
    },
    /// Acknowledged, with all that this user asked for before.
    Answered {
        user: u64,
        number: u64,
    },
}

pub fn main(arguments: &[&str]) -> ExitCode {
    let seed = |text: &str| text.parse::<u64>().ok();
    let done = match arguments {
        ["write", directory, number] if seed(number).is_some() => write(Path::new(directory), seed(number), false),
        ["write", directory, number, "--ack-early"] if seed(number).is_some() => {
            write(Path::new(directory), seed(number), true)
        }
        ["check", directory] => check(Path::new(directory)),
        _ => {
            eprintln!("usage: {USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("power-cuts-writer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path, seed: Option<u64>, acks_early: bool) -> Result<(), Error> {
    let seed = seed.unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| failed(&error.to_string()))?;
    runtime.block_on(async {
        let (disk, store, node) = open(directory)?;
        let mut users = tokio::task::JoinSet::new();
        for user in 0..GROUPS {
            let log = store.open_group(replica(user))?;
            let rng = StdRng::seed_from_u64(seed.wrapping_mul(GROUPS + 1).wrapping_add(user));
            users.spawn(Group { user, log: Arc::new(log), rng, seed, next: 0, acks_early }.work());
        }
        users.spawn(work_as_node(disk, store, node));
        match users.join_next().await {
            Some(Ok(ended)) => ended,
            _ => Err(failed("a user of the store panicked")),
        }
    })
}

/// The identity file says whether the log was made, as a node's does: one that was must never be empty again.
fn open(directory: &Path) -> Result<(RocksDisk, LogStore, Held), Error> {
    let options = StorageOptions { write_buffer_bytes: WRITE_BUFFER_BYTES, ..StorageOptions::default() };
    let disk = RocksDisk::open(directory, &options)?;
    let identity = disk.read_identity()?;
    let number = match &identity {
        None => None,
        Some(content) => {
            let text = std::str::from_utf8(content).ok();
            let number = text.and_then(|text| text.strip_suffix('.')?.parse().ok());
            Some(number.ok_or_else(|| damaged(format!("the identity file holds {content:?}")))?)
        }
    };
    let store = LogStore::open(&disk, STORE, number.is_none(), TAIL_BYTES)?;
    if number.is_none() {
        disk.write_identity(&identity_of(0))?;
    }
    let directory = match store.record(replica(NODE)).map(|record| record.state) {
        Some(ReplicaLife::Live { directory }) => directory,
        Some(other) => return Err(damaged(format!("a record that nobody wrote: {other:?}"))),
        None => 0,
    };
    Ok((disk, store, Held { identity: number.unwrap_or(0), directory, ..Held::default() }))
}

fn identity_of(number: u64) -> Vec<u8> {
    format!("{number}.").into_bytes()
}

fn replica(user: u64) -> ReplicaId {
    ReplicaId(user + 1)
}

struct Group {
    user: u64,
    log: Arc<GroupLog>,
    rng: StdRng,
    seed: u64,
    /// Number of the next request.
    next: u64,
    /// The planted bug: says that an append is acknowledged as soon as it is queued.
    acks_early: bool,
}

impl Group {
    async fn work(mut self) -> Result<(), Error> {
        let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let (mut first, mut last) = (self.log.purged().map_or(0, |(index, _)| index + 1), self.log.last_index());
        loop {
            let end = last.map_or(first, |last| last + 1);
            match self.rng.random_range(0..20) {
                0 => {
                    let vote = self.seed << 20 | self.next;
                    let number = self.asks(Request::Vote(vote));
                    self.log.save_vote(Bytes::copy_from_slice(&vote.to_be_bytes())).await?;
                    self.answered(number);
                }
                1 if end > first + 4 => {
                    // A leader of a later term replaces the last entries.
                    let from = self.rng.random_range(end - 4..end);
                    let number = self.asks(Request::Truncate { from });
                    self.log.truncate_after(from.checked_sub(1)).await?;
                    self.answered(number);
                    last = from.checked_sub(1);
                }
                2 if end > first + 2 * ENTRIES_KEPT => {
                    let index = end - ENTRIES_KEPT;
                    self.asks(Request::Purge { index });
                    self.log.purge(index, Bytes::from_static(b"marker")).await?;
                    first = index + 1;
                }
                3 if end > 0 => {
                    self.asks(Request::Committed(end - 1));
                    self.log.save_committed(Bytes::copy_from_slice(&(end - 1).to_be_bytes())).await?;
                }
                _ => {
                    let place = places.clone().acquire_owned().await.map_err(|_| failed("never closed"))?;
                    let count = self.rng.random_range(1..=ENTRIES_AT_ONCE_MAX);
                    let generation = self.seed << 20 | self.next;
                    let number = self.asks(Request::Append { first: end, count, generation });
                    let entries = (end..end + count).map(|index| (index, entry(self.user, index, generation)));
                    let (user, acks_early) = (self.user, self.acks_early);
                    let done = Box::new(move |result: Result<(), Error>| {
                        if result.is_ok() && !acks_early {
                            say(Said::Answered { user, number });
                        }
                        drop(place);
                    });
                    self.log.append(entries.collect(), done).await?;
                    if acks_early {
                        self.answered(number);
                    }
                    last = Some(end + count - 1);
                }
            }
        }
    }

    fn asks(&mut self, request: Request) -> u64 {
        let number = self.next;
        self.next += 1;
        say(Said::Asks { user: self.user, number, request });
        number
    }

    fn answered(&self, number: u64) {
        say(Said::Answered { user: self.user, number });
    }
}

async fn work_as_node(disk: RocksDisk, store: LogStore, held: Held) -> Result<(), Error> {
    let (mut identity, mut directory) = (held.identity, held.directory);
    for number in 0.. {
        let request = if number % 2 == 0 { Request::Identity(identity + 1) } else { Request::Directory(directory + 1) };
        say(Said::Asks { user: NODE, number, request });
        if let Request::Directory(directory) = request {
            let record = RegistryRecord { shard: ShardId(1), state: ReplicaLife::Live { directory } };
            store.put_record(replica(NODE), record).await?;
        } else {
            ringraft::storage::blocking(|| disk.write_identity(&identity_of(identity + 1)))?;
        }
        say(Said::Answered { user: NODE, number });
        match request {
            Request::Directory(number) => directory = number,
            _ => identity += 1,
        }
    }
    Ok(())
}

/// Prints what each user's part holds, after every entry's content was found whole.
fn check(directory: &Path) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| failed(&error.to_string()))?;
    let (disk, store, node) = open(directory)?;
    let mut all = Vec::new();
    for user in 0..GROUPS {
        let log = store.open_group(replica(user))?;
        let mut held = Held {
            purged: log.purged().map(|(index, _)| index),
            vote: log.read_vote()?.map_or(Ok(0), number)?,
            committed: log.read_committed()?.map_or(Ok(0), number)?,
            ..Held::default()
        };
        let first = held.purged.map_or(0, |index| index + 1);
        let end = log.last_index().map_or(first, |last| last + 1);
        for (index, found) in log.read(first, end, READ_BYTES)? {
            let generation = found.get(16..24).map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")));
            match generation.filter(|generation| found == entry(user, index, *generation)) {
                Some(generation) => drop(held.entries.insert(index, generation)),
                None => return Err(damaged(format!("entry {index} of group {user} is not as it was written"))),
            }
        }
        let expected = (first..end).count();
        if held.entries.len() != expected {
            return Err(damaged(format!("group {user} has {} of {expected} entries", held.entries.len())));
        }
        all.push(held);
    }
    all.push(node);
    println!("{}", serde_json::to_string(&all).map_err(|error| failed(&error.to_string()))?);
    drop((store, runtime));
    disk.wait_until_closed(CLOSE_LIMIT);
    Ok(())
}

fn number(bytes: Bytes) -> Result<u64, Error> {
    let bytes = bytes[..].try_into().map_err(|_| damaged(format!("{bytes:?} is no number")))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Of every size, so that records lie across pages and blocks; every byte follows from what it belongs to.
fn entry(user: u64, index: u64, generation: u64) -> Bytes {
    let mut bytes = [user.to_be_bytes(), index.to_be_bytes(), generation.to_be_bytes()].concat();
    let mut state = generation.wrapping_mul(2_654_435_761) ^ index ^ user << 40;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let length = next() % ENTRY_BYTES_MAX;
    bytes.extend((0..length).map(|_| next() as u8));
    bytes.into()
}

/// One write each, so that a kill cannot tear lines of several users into each other.
fn say(said: Said) {
    let line = serde_json::to_string(&said).expect("it has a form in JSON") + "\n";
    let mut out = io::stdout().lock();
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        // Nobody listens any more.
        std::process::exit(1);
    }
}

fn failed(what: &str) -> Error {
    Error::Io { doing: "writing".to_string(), what: what.to_string() }
}

fn damaged(what: String) -> Error {
    Error::Corrupt { what }
}
