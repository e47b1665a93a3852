//! How old a replica's rows may be, proven without ever comparing the clocks of two nodes.
//!
//! A leader knows two things: a moment at which a quorum still took it for the leader, and a commit index that covers
//! all that was committed before that moment. With each append it says how long ago the moment was, and sends back the
//! last stamp it had from this follower. The follower made that stamp on its own clock before the leader sent the
//! append; so `stamp - ago` is on the follower's clock and never later than the leader's moment. Once the follower has
//! applied the commit index, its rows hold everything that was committed by then.
//!
//! That is why a follower of a leader that is itself cut off grows old although it is still being written to: the
//! leader's moment stands still.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};

use super::TypeConfig;
use crate::clock::{self, Moment};
use crate::storage::reserve::Room;
use crate::types::ReplicaId;
use crate::wire_struct;

/// Proofs that a leader keeps. A request was built with a commit index of a moment ago, and must not go out with a newer
/// proof; there are never more than a few between.
const PROOFS_KEPT: usize = 32;

/// A reading of a replica's own clock. Says nothing to anybody else, who only sends it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Drawn at the replica's start: a stamp of an earlier one, perhaps from before a reboot, is on another clock.
    pub run: u64,
    pub at_us: u64,
}
wire_struct!(Stamp { run, at_us });

/// What a leader sends along with an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vouch {
    /// The follower's last stamp that the leader had when it sent this.
    pub echo: Stamp,
    /// How long before that the leader was confirmed, in microseconds of the leader's clock.
    pub ago_us: u64,
}
wire_struct!(Vouch { echo, ago_us });

/// An append as it goes over the wire.
#[derive(Debug)]
pub struct Append {
    pub request: AppendEntriesRequest<TypeConfig>,
    pub vouch: Option<Vouch>,
}
wire_struct!(Append { request, vouch });

#[derive(Debug, PartialEq, Eq)]
pub struct AppendAnswer {
    pub answer: AppendEntriesResponse<TypeConfig>,
    pub stamp: Stamp,
    /// How the disk of the node that answers stands.
    pub room: Room,
}
wire_struct!(AppendAnswer { answer, stamp, room });

/// At `confirmed` this replica was the leader in the eyes of a quorum; all that was committed before is within `commit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    pub commit: u64,
    pub confirmed: Moment,
}

/// Where a leader's proofs for others come from; none while this replica does not lead, or has not committed in its term.
pub type ProofSource = Box<dyn Fn() -> Option<Proof> + Send + Sync>;

/// A replica's knowledge of its own age, and as leader of that of the others. Shared by its handle and its network clients.
#[derive(Clone)]
pub struct Freshness {
    run: u64,
    source: Arc<OnceLock<ProofSource>>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// Everything that was committed at this moment is applied.
    complete: Option<Moment>,
    /// Will be `complete` once this index is applied.
    pending: Option<Proof>,
    /// As leader: the newest proofs, in the order of their moments.
    proofs: VecDeque<Proof>,
    /// As leader: what each follower stamped its last answer with.
    stamps: BTreeMap<ReplicaId, Stamp>,
}

impl Freshness {
    /// Of a replica that starts now.
    pub fn at_start() -> Self {
        Self { run: clock::random_u64(), source: Arc::default(), known: Arc::default() }
    }

    /// Once, when the Raft that can prove something is there.
    pub fn prove_by(&self, source: ProofSource) {
        assert!(self.source.set(source).is_ok(), "a replica's Raft is made once");
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while moments are copied")
    }

    /// The stamp for an answer that is about to be sent.
    pub fn stamp(&self) -> Stamp {
        Stamp { run: self.run, at_us: micros(clock::now().since_origin()) }
    }

    /// The leader had this answer.
    pub fn answered(&self, from: ReplicaId, stamp: Stamp) {
        self.known().stamps.insert(from, stamp);
    }

    /// What the leader can say to a follower in an append that carries this commit index.
    pub fn vouch(&self, to: ReplicaId, commit: Option<u64>) -> Option<Vouch> {
        let newest = self.source.get().and_then(|source| source());
        let mut known = self.known();
        if newest.is_some() && known.proofs.back() != newest.as_ref() {
            known.proofs.extend(newest);
        }
        if known.proofs.len() > PROOFS_KEPT {
            known.proofs.pop_front();
        }
        let proof = known.proofs.iter().rev().find(|proof| Some(proof.commit) <= commit)?;
        let echo = *known.stamps.get(&to)?;
        // Rounded up, the stamp rounded down: an age is never too small.
        Some(Vouch { echo, ago_us: micros(clock::now().since(proof.confirmed)).saturating_add(1) })
    }

    /// The follower took an append with this commit index.
    pub fn heard(&self, vouch: Option<Vouch>, commit: Option<u64>, applied: Option<u64>) {
        let Some((vouch, commit)) = vouch.zip(commit) else { return };
        if vouch.echo.run != self.run {
            return;
        }
        let stamped = Moment::from_origin(Duration::from_micros(vouch.echo.at_us));
        if let Some(confirmed) = stamped.before(Duration::from_micros(vouch.ago_us)) {
            self.known().learn(Proof { commit, confirmed }, applied);
        }
    }

    /// The moment up to which the rows are known to be complete, by what was heard and by this replica's own proof where
    /// it leads. `None` when nothing has been proven since the start.
    pub fn fresh_at(&self, own: Option<Proof>, applied: Option<u64>) -> Option<Moment> {
        let mut known = self.known();
        if let Some(own) = own {
            known.learn(own, applied);
        }
        known.settle(applied);
        // What it proved to others while it led holds for itself, also when it leads no more.
        let led = known.proofs.iter().rev().find(|proof| applied >= Some(proof.commit)).map(|proof| proof.confirmed);
        known.complete = known.complete.max(led);
        known.complete
    }
}

impl Known {
    fn learn(&mut self, proof: Proof, applied: Option<u64>) {
        self.settle(applied);
        if applied >= Some(proof.commit) {
            self.complete = self.complete.max(Some(proof.confirmed));
        } else {
            // The first stays: under a stream of writes a newer one would always be a little ahead of what is applied.
            self.pending.get_or_insert(proof);
        }
    }

    fn settle(&mut self, applied: Option<u64>) {
        if let Some(pending) = self.pending.take_if(|pending| applied >= Some(pending.commit)) {
            self.complete = self.complete.max(Some(pending.confirmed));
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "freshness_tests.rs"]
mod tests;
