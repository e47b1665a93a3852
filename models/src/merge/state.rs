//! What a state of the merge model is made of. The left shard absorbs, the right one is given up.

use std::hash::{Hash, Hasher};

use crate::labels::{Marks, Name};

pub(crate) const NODES: usize = 3;
pub(crate) const TOKENS: usize = 2;
pub(crate) const LEFT: u8 = 0;
pub(crate) const RIGHT: u8 = 1;
pub(crate) const OPS_MAX: usize = 3;
pub(crate) const LOG_MAX: usize = 10;
pub(crate) const NOBODY: u8 = 9;
pub(crate) const FIRST_REVISION: u8 = 1;
/// See the split's.
pub(crate) const FAILED: u8 = 0x80;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Group {
    Left,
    Right,
}

/// The replicated state of a shard as one replica has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Shard {
    pub(crate) applied: u8,
    /// One bit per token.
    pub(crate) range: u8,
    pub(crate) epoch: u8,
    pub(crate) clock: u8,
    pub(crate) revisions: [u8; TOKENS],
    pub(crate) writers: [u8; TOKENS],
    pub(crate) records: [u8; OPS_MAX],
    pub(crate) times: [u8; OPS_MAX],
    /// Frozen for the merge with this id; 0 for not frozen.
    pub(crate) frozen: u8,
    /// It took the other shard over.
    pub(crate) absorbed: bool,
}

impl Shard {
    pub(crate) const NOTHING: Self = Self {
        applied: 0,
        range: 0,
        epoch: 0,
        clock: 0,
        revisions: [0; TOKENS],
        writers: [0; TOKENS],
        records: [0; OPS_MAX],
        times: [0; OPS_MAX],
        frozen: 0,
        absorbed: false,
    };

    pub(crate) fn owns(&self, token: u8) -> bool {
        self.range & (1 << token) != 0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Entry {
    None,
    Write {
        op: u8,
        attempt: u8,
    },
    Freeze {
        merge: u8,
    },
    Unfreeze {
        merge: u8,
    },
    /// With the left's epoch and the merge that the right must be frozen for.
    Absorb {
        merge: u8,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    pub(crate) entries: [Entry; LOG_MAX],
    pub(crate) length: u8,
}

impl Hash for Log {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.entries[..usize::from(self.length)].hash(hasher);
    }
}

impl Log {
    pub(crate) const EMPTY: Self = Self { entries: [Entry::None; LOG_MAX], length: 0 };

    pub(crate) fn has_room(&self) -> bool {
        usize::from(self.length) < LOG_MAX
    }

    pub(crate) fn append(&mut self, entry: Entry) -> u8 {
        self.entries[usize::from(self.length)] = entry;
        self.length += 1;
        self.length
    }

    pub(crate) fn after(&self, applied: u8) -> Entry {
        self.entries.get(usize::from(applied)).copied().unwrap_or(Entry::None)
    }

    /// Whether anything but writes follows an applied index.
    pub(crate) fn has_orders_after(&self, applied: u8) -> bool {
        let rest = &self.entries[usize::from(applied)..usize::from(self.length)];
        rest.iter().any(|entry| !matches!(entry, Entry::Write { .. }))
    }
}

/// How far a node is in applying Absorb.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Phase {
    Idle,
    /// The rows are taken over, in memory.
    Taken,
    /// And flushed.
    Flushed,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Node {
    pub(crate) lost: bool,
    pub(crate) left: Shard,
    pub(crate) left_flushed: Shard,
    /// It met Absorb without the right beside it: it is to be replaced.
    pub(crate) left_stopped: bool,
    pub(crate) phase: Phase,
    pub(crate) right: Shard,
    pub(crate) right_flushed: Shard,
    /// The tombstone of the right's replica is synced.
    pub(crate) right_gone: bool,
    pub(crate) name: Name,
}

impl Node {
    pub(crate) fn has_left(&self) -> bool {
        !self.lost && !self.left_stopped
    }

    pub(crate) fn has_right(&self) -> bool {
        !self.lost && !self.right_gone
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Attempt {
    Unsent,
    Sent(Group),
    Logged { group: Group, index: u8, at: u8 },
    Waiting { group: Group, index: u8, at: u8 },
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Op {
    pub(crate) attempts: [Attempt; 2],
    pub(crate) floor: u8,
    pub(crate) answer: u8,
}

/// The operation in the catalog.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Operation {
    /// Taken for both shards; nothing is decided.
    Open,
    /// Decided once, by compare-and-set.
    Absorb,
    Abort,
    /// The catalog has the left with the whole range.
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Wrong {
    Nothing,
    RevisionWentBack,
    RevisionGivenTwice,
    StaleRead,
    RetryAnsweredDifferently,
}

/// Merges that may be tried one after the other.
pub(crate) const MERGES_MAX: usize = 2;

#[derive(Clone, Hash, Debug)]
pub struct State {
    pub(crate) nodes: [Node; NODES],
    pub(crate) left_log: Log,
    pub(crate) left_leader: u8,
    pub(crate) right_log: Log,
    pub(crate) right_leader: u8,
    pub(crate) ops: [Op; OPS_MAX],
    pub(crate) told: [u8; TOKENS],
    pub(crate) operation: Operation,
    /// Its id: 1, then 2.
    pub(crate) merge: u8,
    pub(crate) driver_sent: bool,
    /// Nodes that reported the freeze of this merge as applied and flushed.
    pub(crate) reported: u8,
    pub(crate) freezes_under_way: [u8; MERGES_MAX],
    pub(crate) unfreezes_under_way: [u8; MERGES_MAX],
    /// What has been aborted has had its one unfreeze, for a driver that looks no more.
    pub(crate) unfrozen_once: bool,
    pub(crate) absorbs_under_way: u8,
    pub(crate) crashes_left: u8,
    pub(crate) losses_left: u8,
    pub(crate) meta_changes_left: u8,
    pub(crate) merges_left: u8,
    pub(crate) wrong: Wrong,
    pub(crate) marks: Marks,
}

/// Leads the left, leads the right, has reported, attempts that wait at it.
type Pointers = (bool, bool, bool, u16);

impl State {
    pub(crate) fn log(&self, group: Group) -> &Log {
        match group {
            Group::Left => &self.left_log,
            Group::Right => &self.right_log,
        }
    }

    pub(crate) fn leader(&self, group: Group) -> u8 {
        match group {
            Group::Left => self.left_leader,
            Group::Right => self.right_leader,
        }
    }

    pub(crate) fn replica(&self, group: Group, node: u8) -> &Shard {
        let node = &self.nodes[usize::from(node)];
        match group {
            Group::Left => &node.left,
            Group::Right => &node.right,
        }
    }

    /// The group has a leader, and a majority of its voters runs.
    pub(crate) fn works(&self, group: Group) -> bool {
        self.leader(group) != NOBODY && self.has_majority(group)
    }

    pub(crate) fn has_majority(&self, group: Group) -> bool {
        let runs = |node: &&Node| match group {
            Group::Left => node.has_left(),
            Group::Right => node.has_right(),
        };
        self.nodes.iter().filter(runs).count() * 2 > NODES
    }

    pub(crate) fn is_asked(&self, node: u8) -> bool {
        self.pointers_at(node).3 != 0
    }

    pub(crate) fn mark(&mut self, landmark: usize) {
        self.marks.0 |= 1 << landmark;
    }

    /// See the split's.
    pub(crate) fn order_nodes(&mut self) {
        let mut keyed: [(Pointers, Node, u8); NODES] = std::array::from_fn(|number| {
            let number = number as u8;
            (self.pointers_at(number), self.nodes[usize::from(number)], number)
        });
        keyed.sort_unstable_by(|left, right| (left.0, &left.1).cmp(&(right.0, &right.1)));
        let mut places = [NOBODY; NODES];
        for (place, (_, node, number)) in (0..).zip(&keyed) {
            self.nodes[usize::from(place)] = *node;
            places[usize::from(*number)] = place;
        }
        let place_of = |number: u8| places.get(usize::from(number)).copied().unwrap_or(NOBODY);
        self.left_leader = place_of(self.left_leader);
        self.right_leader = place_of(self.right_leader);
        let reported = self.reported;
        self.reported = (0..NODES as u8).filter(|n| reported & (1 << n) != 0).map(|n| 1 << place_of(n)).sum();
        for client in &mut self.ops {
            for attempt in &mut client.attempts {
                if let Attempt::Logged { at, .. } | Attempt::Waiting { at, .. } = attempt {
                    *at = place_of(*at);
                }
            }
        }
    }

    fn pointers_at(&self, node: u8) -> Pointers {
        let attempts = self.ops.iter().flat_map(|op| &op.attempts);
        let at_node = attempts.zip(0..).filter(|(attempt, _)| match attempt {
            Attempt::Logged { at, .. } | Attempt::Waiting { at, .. } => *at == node,
            _ => false,
        });
        let waiting = at_node.map(|(_, bit)| 1 << bit).sum();
        (self.left_leader == node, self.right_leader == node, self.reported & (1 << node) != 0, waiting)
    }
}
