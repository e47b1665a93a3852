//! Clients that read, write, delete and compare-and-set a few shared keys, each bound to one node, in every consistency
//! mode; the checker holds each answer to its own promise.

use std::sync::{Arc, Mutex};

use rand::RngExt;
use rand::rngs::StdRng;
use ringraft::types::Revision;

use super::answer::Ended;
use super::asker::{Ask, Asker};
use super::keys::Keys;
use super::{Kind, Shared};
use crate::history::{Expect, Mode, Request};

/// Of all operations, the rest being writes.
const READS: f64 = 0.45;
/// Of reads, the rest being linearizable.
const LEASE_READS: f64 = 0.3;
const STALE_READS: f64 = 0.2;
/// Reads that send the revision known, so that a value which did not change is not sent again.
const KNOWING_READS: f64 = 0.15;
/// Of writes.
const DELETES: f64 = 0.15;
/// Of writes that have a condition. If one was ever seen it is mostly the last revision.
const CONDITIONAL: f64 = 0.45;
const LAST_SEEN: f64 = 0.7;
/// Requests that the node may not pass on; a redirect is followed.
const NOT_FORWARDED: f64 = 0.05;
const PADDED: f64 = 0.04;
const PADDING_BYTES: usize = 10_000;

pub(super) struct Register {
    keys: Mutex<Keys>,
}

impl Register {
    pub(super) fn new(shared: &Shared) -> Self {
        let mut rng = shared.rng(Kind::Register, 0);
        let prefix = shared.key_prefix(Kind::Register);
        Self { keys: Mutex::new(Keys::new(prefix, shared.load.register_keys, &mut rng)) }
    }

    pub(super) fn all_keys(&self) -> Vec<String> {
        self.keys.lock().expect("no panic").all()
    }
}

/// What a client saw last of the key in each place.
struct Sight {
    key: String,
    revision: Option<Revision>,
}

pub(super) async fn run(shared: Arc<Shared>, register: Arc<Register>, number: usize) {
    let mut rng = shared.rng(Kind::Register, 1 + number);
    let mut asker = Asker::new(&shared, Kind::Register, number, shared.load.limits());
    // The address that a redirect names is asked by a client of its own: this one stays with its node.
    let mut redirected = Asker::new(&shared, Kind::Register, number, shared.load.limits());
    let new_sight = || Sight { key: String::new(), revision: None };
    let mut sights: Vec<Sight> = (0..shared.load.register_keys).map(|_| new_sight()).collect();
    while !shared.stopped() {
        let drawn = register.keys.lock().expect("no panic").draw(!rng.random_bool(READS), &mut rng);
        let sight = &mut sights[drawn.slot];
        if sight.key != drawn.key {
            *sight = Sight { key: drawn.key.clone(), revision: None };
        }
        let mut ask = if drawn.may_write { write(&shared, sight, &mut rng) } else { read(sight, &mut rng) };
        ask.forward = !rng.random_bool(NOT_FORWARDED);
        let mut judged = asker.ask(ask.clone()).await;
        if judged.code == "wrong-node"
            && let Some(leader) = judged.about.leader_hint.as_deref().and_then(|hint| shared.target_at(hint))
        {
            if redirected.target() != leader {
                redirected.turn_to(leader);
            }
            // A write of its own: if both carried one value, nobody could say which of them shows up.
            if let Request::Put { value, .. } = &mut ask.request {
                *value = shared.new_value(Kind::Register);
            }
            judged = redirected.ask(ask).await;
        }
        if drawn.may_write {
            register.keys.lock().expect("no panic").ended(&drawn.key, judged.ended == Ended::Info);
        }
        if matches!(judged.ended, Ended::Ok(_)) {
            sight.revision = judged.revision();
        }
        asker.rest(&judged, &mut rng).await;
    }
}

fn read(sight: &Sight, rng: &mut StdRng) -> Ask {
    let share: f64 = rng.random_range(0.0..1.0);
    let mode = if share < LEASE_READS {
        Mode::Lease
    } else if share < LEASE_READS + STALE_READS {
        Mode::Stale
    } else {
        Mode::Linearizable
    };
    let known = sight.revision.filter(|_| rng.random_bool(KNOWING_READS));
    Ask { known, ..Ask::get(&sight.key, mode) }
}

fn write(shared: &Shared, sight: &Sight, rng: &mut StdRng) -> Ask {
    let expect = rng.random_bool(CONDITIONAL).then(|| match sight.revision {
        Some(revision) if rng.random_bool(LAST_SEEN) => Expect::Revision(revision),
        None if rng.random_bool(LAST_SEEN) => Expect::Absent,
        _ => [Expect::Exists, Expect::Absent][rng.random_range(0..2)],
    });
    if rng.random_bool(DELETES) {
        return Ask::new(&sight.key, Request::Delete { expect });
    }
    let padding = if rng.random_bool(PADDED) { PADDING_BYTES } else { 0 };
    let request = Request::Put { value: shared.new_value(Kind::Register), expect };
    Ask { padding, ..Ask::new(&sight.key, request) }
}
