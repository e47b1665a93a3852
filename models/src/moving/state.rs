//! What a state of the move model is made of.

use std::hash::{Hash, Hasher};

use crate::labels::{Marks, Name};

/// The replicas, by their ids: two that stay, the one that goes, and the fresh one.
pub(crate) const REPLICAS: usize = 4;
pub(crate) const LEAVING: u8 = 2;
pub(crate) const FRESH: u8 = 3;
pub(crate) const LOG_MAX: usize = 11;
pub(crate) const NOBODY: u8 = 9;

/// A set of replicas, one bit each.
pub(crate) type Set = u8;

pub(crate) const OLD_VOTERS: Set = 0b0111;
pub(crate) const NEW_VOTERS: Set = 0b1011;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    /// A leader's own first entry.
    First,
    Write,
    /// The fresh replica is a learner.
    Learner,
    /// Both memberships count.
    Joint,
    /// The fresh replica is in, the leaving one is out.
    New,
    /// As before the move, without learners: what giving up writes, also where there was no learner.
    Back,
}

impl Kind {
    pub(crate) fn is_membership(self) -> bool {
        !matches!(self, Kind::First | Kind::Write)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Entry {
    pub(crate) term: u8,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Log {
    entries: [Entry; LOG_MAX],
    length: u8,
}

impl Hash for Log {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.entries().hash(hasher);
    }
}

impl Log {
    /// Nothing stands behind the length, so that equal logs are equal.
    const PADDING: Entry = Entry { term: 0, kind: Kind::First };
    pub(crate) const EMPTY: Self = Self { entries: [Self::PADDING; LOG_MAX], length: 0 };

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries[..usize::from(self.length)]
    }

    pub(crate) fn length(&self) -> u8 {
        self.length
    }

    pub(crate) fn has_room(&self) -> bool {
        usize::from(self.length) < LOG_MAX
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        self.entries[usize::from(self.length)] = entry;
        self.length += 1;
    }

    pub(crate) fn last_term(&self) -> u8 {
        self.entries().last().map_or(0, |entry| entry.term)
    }

    pub(crate) fn up_to(&self, length: u8) -> &[Entry] {
        &self.entries()[..usize::from(length.min(self.length))]
    }

    pub(crate) fn cut(&self, length: u8) -> Self {
        let mut cut = Self::EMPTY;
        self.up_to(length).iter().for_each(|entry| cut.append(*entry));
        cut
    }

    /// Index and kind of the newest membership: what counts as soon as it is in the log. 0 for the one before any entry.
    pub(crate) fn membership(&self) -> (u8, Kind) {
        let newest = (1..).zip(self.entries()).filter(|(_, entry)| entry.kind.is_membership()).last();
        newest.map_or((0, Kind::Back), |(index, entry)| (index, entry.kind))
    }

    pub(crate) fn writes_up_to(&self, length: u8) -> u8 {
        self.up_to(length).iter().map(|entry| u8::from(entry.kind == Kind::Write)).sum()
    }
}

/// The voters of a membership: one set, or two that both count.
pub(crate) fn voters(kind: Kind) -> [Set; 2] {
    match kind {
        Kind::Joint => [OLD_VOTERS, NEW_VOTERS],
        Kind::New => [NEW_VOTERS; 2],
        _ => [OLD_VOTERS; 2],
    }
}

pub(crate) fn members(kind: Kind) -> Set {
    let learners = if kind == Kind::Learner { 1 << FRESH } else { 0 };
    let [old, new] = voters(kind);
    old | new | learners
}

pub(crate) fn is_quorum(kind: Kind, set: Set) -> bool {
    voters(kind).into_iter().all(|voters| (voters & set).count_ones() * 2 > voters.count_ones())
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Life {
    /// The node has no record of it.
    Absent,
    Live,
    /// The tombstone is synced; vote and log went with it.
    Destroyed,
    /// The node is gone for good.
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Role {
    Follower,
    /// A quorum has granted its vote; it has not heard of that yet.
    Elected,
    Leader,
}

/// What a leader's driver decided after it read the membership and then the catalog.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Plan {
    pub(crate) append: Kind,
    /// Index of the membership that it saw: it is carried out only on top of that one.
    pub(crate) seen: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Replica {
    pub(crate) life: Life,
    pub(crate) role: Role,
    /// Vote: durable.
    pub(crate) term: u8,
    pub(crate) voted: u8,
    pub(crate) log: Log,
    pub(crate) commit: u8,
    /// As a leader: how far each replica is known to have the log.
    pub(crate) matched: [u8; REPLICAS],
    pub(crate) plan: Option<Plan>,
    /// A plan whose answer did not come in time: it may still be carried out.
    pub(crate) late: Option<Plan>,
    /// The term whose leader it promised not to vote against for the time of a lease; 0 for none. It outlives a restart,
    /// because a restarted voter holds off.
    pub(crate) promised: u8,
    pub(crate) name: Name,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Operation {
    /// The move is in the catalog; the fresh id is given out and ordered on its node.
    Moving,
    /// To be given up; the fresh replica is leaving.
    Aborting,
    Aborted,
    /// The catalog has the new replica as a voter, and the old one as leaving.
    Moved,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Wrong {
    Nothing,
    DestroyedVoted,
    LeaderLacksCommitted,
    CommittedDiffers,
}

#[derive(Clone, Hash, Debug)]
pub struct State {
    pub(crate) replicas: [Replica; REPLICAS],
    pub(crate) operation: Operation,
    /// Everything that was ever committed.
    pub(crate) committed: Log,
    /// The latest term in which anything was committed.
    pub(crate) committed_in: u8,
    pub(crate) writes_left: u8,
    pub(crate) crashes_left: u8,
    pub(crate) losses_left: u8,
    /// Elections although a leader is well.
    pub(crate) upsets_left: u8,
    pub(crate) time_outs_left: u8,
    pub(crate) wrong: Wrong,
    pub(crate) marks: Marks,
}

impl State {
    pub(crate) fn replica(&self, id: u8) -> &Replica {
        &self.replicas[usize::from(id)]
    }

    pub(crate) fn replica_mut(&mut self, id: u8) -> &mut Replica {
        &mut self.replicas[usize::from(id)]
    }

    pub(crate) fn mark(&mut self, landmark: usize) {
        self.marks.0 |= 1 << landmark;
    }

    /// The two replicas that stay are alike: states in which they have changed places are one state.
    pub(crate) fn order_replicas(&mut self) {
        let swapped = |id: u8| match id {
            0 => 1,
            1 => 0,
            other => other,
        };
        let mut other = self.replicas;
        other.swap(0, 1);
        for replica in &mut other {
            replica.voted = swapped(replica.voted);
            replica.matched.swap(0, 1);
        }
        if other < self.replicas {
            self.replicas = other;
        }
    }
}
