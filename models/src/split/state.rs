//! What a state of the split model is made of. Small fields throughout: a state is cloned and hashed for each step.

use std::hash::{Hash, Hasher};

use crate::labels::{Marks, Name};

pub(crate) const NODES: usize = 3;
/// The ring in two tokens: the left one stays with the parent, the right one goes to the child.
pub(crate) const TOKENS: usize = 2;
pub(crate) const LEFT: u8 = 0;
pub(crate) const RIGHT: u8 = 1;
pub(crate) const OPS_MAX: usize = 3;
pub(crate) const LOG_MAX: usize = 8;
/// No node.
pub(crate) const NOBODY: u8 = 9;
/// The revision of every key at the start.
pub(crate) const FIRST_REVISION: u8 = 1;
/// An answer is a revision; with this bit it is "precondition failed, the key is at that revision".
pub(crate) const FAILED: u8 = 0x80;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Group {
    Parent,
    Child,
}

/// The replicated state of a shard as one replica has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Shard {
    pub(crate) applied: u8,
    /// One bit per token.
    pub(crate) range: u8,
    pub(crate) epoch: u8,
    /// The last revision given out.
    pub(crate) clock: u8,
    pub(crate) revisions: [u8; TOKENS],
    /// Which operation wrote it; none at the start.
    pub(crate) writers: [u8; TOKENS],
    /// Idempotency records: the first answer by operation, 0 where there is none.
    pub(crate) records: [u8; OPS_MAX],
    /// How often each operation's write was carried out in this shard's past. Not in the product: it is what a promise
    /// is about.
    pub(crate) times: [u8; OPS_MAX],
    /// It was split: it knows its child's descriptor.
    pub(crate) split: bool,
}

impl Shard {
    /// Where there is no replica, or none that matters.
    pub(crate) const NOTHING: Self = Self {
        applied: 0,
        range: 0,
        epoch: 0,
        clock: 0,
        revisions: [0; TOKENS],
        writers: [0; TOKENS],
        records: [0; OPS_MAX],
        times: [0; OPS_MAX],
        split: false,
    };

    pub(crate) fn owns(&self, token: u8) -> bool {
        self.range & (1 << token) != 0
    }
}

/// An entry of a group's log. The log holds what is committed: agreement inside one group is taken as given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Entry {
    None,
    Write {
        op: u8,
        attempt: u8,
    },
    /// `Split{epoch 1, token, child}`.
    Split,
    /// Raises the epoch, so that no `Split{epoch 1}` that is still on its way can apply any more.
    Fence,
    /// The first entry of a leader's own.
    First,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    pub(crate) entries: [Entry; LOG_MAX],
    pub(crate) length: u8,
}

impl Hash for Log {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        // The length goes first: what follows is read back in one way only.
        self.entries[..usize::from(self.length)].hash(hasher);
    }
}

impl Log {
    pub(crate) const EMPTY: Self = Self { entries: [Entry::None; LOG_MAX], length: 0 };

    pub(crate) fn append(&mut self, entry: Entry) -> u8 {
        self.entries[usize::from(self.length)] = entry;
        self.length += 1;
        self.length
    }

    /// The entry that follows an applied index.
    pub(crate) fn after(&self, applied: u8) -> Entry {
        self.entries.get(usize::from(applied)).copied().unwrap_or(Entry::None)
    }
}

/// What the node's registry and disk say of its replica of the child.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Stage {
    /// No record. A directory without a record is set aside at the next start, so it is the same as none.
    None,
    /// `born {parent, split index}` is synced; its Raft must not run yet.
    Born,
    /// Its Raft runs on the rows that it was born with or was filled with.
    Live,
    /// Its Raft runs without rows, by order of the catalog: it votes, and waits for a snapshot.
    Empty,
}

/// How far this node is in applying the split.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Phase {
    Idle,
    /// The `born` record is synced.
    Recorded,
    /// The narrowed parent is written, in memory.
    Narrowed,
    /// The narrowed parent is flushed.
    Flushed,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Node {
    /// Gone for good, disk and all.
    pub(crate) lost: bool,
    /// Its replica of the parent was moved away and destroyed.
    pub(crate) moved_away: bool,
    /// The parent's replica, in memory and as flushed.
    pub(crate) parent: Shard,
    pub(crate) flushed: Shard,
    pub(crate) phase: Phase,
    pub(crate) stage: Stage,
    pub(crate) child: Shard,
    pub(crate) name: Name,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Attempt {
    Unsent,
    /// On its way to whoever leads the group.
    Sent(Group),
    /// In the group's log; the node that proposed it answers when it has applied it.
    Logged {
        group: Group,
        index: u8,
        at: u8,
    },
    /// A read that waits until its node has applied the index that the leader had committed.
    Waiting {
        group: Group,
        index: u8,
        at: u8,
    },
    /// Answered, or given up without an answer.
    Over,
}

/// A client's operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Op {
    pub(crate) attempts: [Attempt; 2],
    /// Highest revision of the key that anybody had been told when this operation was begun.
    pub(crate) floor: u8,
    /// What the client was told first; 0 before that.
    pub(crate) answer: u8,
    /// Its router knows that the right token belongs to the child.
    pub(crate) knows_child: bool,
}

/// The operation in the catalog.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// Taken by compare-and-set; the child's ids are given out. The model begins here: nothing happens before.
    Taken,
    /// To be given up: no further split is proposed.
    Aborting,
    Aborted,
    /// The child's descriptor is in the catalog.
    Published,
    /// Every replica of the child that the split named is there: the parent may be changed again.
    Closed,
}

/// A promise that was broken by a step itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Wrong {
    Nothing,
    RevisionWentBack,
    RevisionGivenTwice,
    StaleRead,
    RetryAnsweredDifferently,
    ReplicaMadeAgain,
}

#[derive(Clone, Hash, Debug)]
pub struct State {
    pub(crate) nodes: [Node; NODES],
    pub(crate) parent_log: Log,
    pub(crate) parent_leader: u8,
    pub(crate) child_log: Log,
    pub(crate) child_leader: u8,
    pub(crate) ops: [Op; OPS_MAX],
    /// Highest revision of each token's key that anybody was told.
    pub(crate) told: [u8; TOKENS],
    pub(crate) operation: Operation,
    /// The present leader of the meta group has sent its step; its successor does not know that.
    pub(crate) driver_sent: bool,
    /// Splits and fences that were sent and not yet proposed.
    pub(crate) splits_under_way: u8,
    pub(crate) fences_under_way: u8,
    /// A split was refused by the parent's apply.
    pub(crate) refused: bool,
    /// Nodes that told the catalog that their parent was installed past the split.
    pub(crate) reported: u8,
    pub(crate) crashes_left: u8,
    pub(crate) losses_left: u8,
    pub(crate) meta_changes_left: u8,
    pub(crate) transfers_left: u8,
    pub(crate) moves_left: u8,
    pub(crate) wrong: Wrong,
    pub(crate) marks: Marks,
}

/// Leads the parent, leads the child, has reported, attempts that wait at it.
type Pointers = (bool, bool, bool, u16);

impl State {
    pub(crate) fn log(&self, group: Group) -> &Log {
        match group {
            Group::Parent => &self.parent_log,
            Group::Child => &self.child_log,
        }
    }

    pub(crate) fn leader(&self, group: Group) -> u8 {
        match group {
            Group::Parent => self.parent_leader,
            Group::Child => self.child_leader,
        }
    }

    pub(crate) fn replica(&self, group: Group, node: u8) -> &Shard {
        let node = &self.nodes[usize::from(node)];
        match group {
            Group::Parent => &node.parent,
            Group::Child => &node.child,
        }
    }

    /// Nodes whose replica of the child has rows and can keep an entry.
    pub(crate) fn live_children(&self) -> usize {
        self.nodes.iter().filter(|node| !node.lost && node.stage == Stage::Live).count()
    }

    /// Nodes whose replica of the child votes.
    pub(crate) fn voting_children(&self) -> usize {
        self.nodes.iter().filter(|node| !node.lost && matches!(node.stage, Stage::Live | Stage::Empty)).count()
    }

    /// Puts the nodes in an order that depends on nothing but what they are and what points at them.
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
        self.parent_leader = place_of(self.parent_leader);
        self.child_leader = place_of(self.child_leader);
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

    /// Everything outside a node that names it: nodes that agree in this and in themselves may change places.
    fn pointers_at(&self, node: u8) -> Pointers {
        let attempts = self.ops.iter().flat_map(|op| &op.attempts);
        let at_node = attempts.zip(0..).filter(|(attempt, _)| match attempt {
            Attempt::Logged { at, .. } | Attempt::Waiting { at, .. } => *at == node,
            _ => false,
        });
        let waiting = at_node.map(|(_, bit)| 1 << bit).sum();
        (self.parent_leader == node, self.child_leader == node, self.reported & (1 << node) != 0, waiting)
    }

    /// Whether a client waits for something at this node.
    pub(crate) fn is_asked(&self, node: u8) -> bool {
        self.pointers_at(node).3 != 0
    }

    pub(crate) fn mark(&mut self, landmark: usize) {
        self.marks.0 |= 1 << landmark;
    }
}
