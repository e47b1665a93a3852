//! The split: a parent group narrows itself and gives birth to a child group, by one entry of its own log.
//!
//! Three nodes hold a replica of each group. The meta group is the operation's state in the catalog, and a driver that
//! remembers nothing and may be replaced at any time. Clients write, compare-and-set, read and retry through routers
//! whose maps are old. Nodes crash between any two steps, lose what was not flushed, and replay their log; one may be lost
//! for good.

mod apply;
mod cases;
mod check;
mod describe;
mod divide;
mod state;
mod steps;

use state::{
    Attempt, FIRST_REVISION, LEFT, Log, NOBODY, Node, OPS_MAX, Op, Operation, Phase, RIGHT, Shard, Stage, State,
    TOKENS, Wrong,
};

use crate::explore::Model;
use crate::labels::{Marks, Name};
pub use cases::cases;
pub use steps::Step;

/// What a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    Nothing,
    /// A put with an idempotency key, tried up to twice; the tries may overtake each other.
    KeyedPut(Token),
    /// A put without one: never tried again.
    Put(Token),
    /// A compare-and-set against the revision that the key had at the start.
    CompareAndSet(Token),
    /// A linearizable read.
    Read(Token),
}

/// A key's place on the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token {
    /// Stays with the parent.
    Left,
    /// Goes to the child.
    Right,
}

impl Want {
    pub(crate) fn token(self) -> u8 {
        match self {
            Want::KeyedPut(Token::Left)
            | Want::Put(Token::Left)
            | Want::CompareAndSet(Token::Left)
            | Want::Read(Token::Left) => LEFT,
            _ => RIGHT,
        }
    }

    pub(crate) fn is_read(self) -> bool {
        matches!(self, Want::Read(_))
    }
}

/// The planted bugs. Each one is a way to build the split wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Split without epoch fence: whether the shard owns a key is decided when a write is proposed, not when it is applied.
    OwnershipWhenProposed,
    /// The parent goes on owning what it gave away.
    ParentNotNarrowed,
    /// Apply takes a split whatever its epoch.
    SplitWithoutEpoch,
    /// The child begins without the parent's idempotency records.
    RecordsNotCarried,
    /// The child's revision clock begins anew.
    ClockNotCarried,
    /// A read answers from what its node has applied, without waiting for what is committed.
    ReadBeforeBarrier,
    /// A read looks at the range before the barrier and at the row after it: two views.
    OwnershipBeforeBarrier,
    /// The child's Raft starts before the narrowed parent is flushed.
    LiveBeforeFlush,
    /// The narrowed parent is flushed before the child's record is synced.
    NarrowedBeforeRecord,
    /// At start a `born` child counts although the flushed parent is from before the split.
    BornAlwaysCounts,
    /// At start a `born` child is discarded although the flushed parent is past the split.
    BornNeverCounts,
    /// The parent's snapshot past the split is sent before the child has an entry of its own.
    SnapshotNotHeldBack,
    /// The child's descriptor is in the catalog before the parent's log has the split, and nodes make empty replicas of it as
    /// of any other shard.
    CatalogBeforeFence,
    /// The operation is called aborted while its split may still be on its way.
    AbortWithoutFence,
    /// The operation is called failed because one copy of its split was refused.
    RefusalIsFailure,
    /// The operation is over once the child is in the catalog: the parent may be moved before the child is born everywhere.
    ClosedEarly,
}

impl Bug {
    pub const ALL: [Bug; 16] = [
        Bug::OwnershipWhenProposed,
        Bug::ParentNotNarrowed,
        Bug::SplitWithoutEpoch,
        Bug::RecordsNotCarried,
        Bug::ClockNotCarried,
        Bug::ReadBeforeBarrier,
        Bug::OwnershipBeforeBarrier,
        Bug::LiveBeforeFlush,
        Bug::NarrowedBeforeRecord,
        Bug::BornAlwaysCounts,
        Bug::BornNeverCounts,
        Bug::SnapshotNotHeldBack,
        Bug::CatalogBeforeFence,
        Bug::AbortWithoutFence,
        Bug::RefusalIsFailure,
        Bug::ClosedEarly,
    ];
}

/// The model with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    pub wants: [Want; OPS_MAX],
    /// Crashes of nodes, each with a restart.
    pub crashes: u8,
    /// Nodes lost for good.
    pub losses: u8,
    /// New leaders of the meta group, each of which does the step of its predecessor again.
    pub meta_changes: u8,
    /// New leaders of the parent although the old one is well.
    pub transfers: u8,
    /// Replicas of the parent that are moved away once that is allowed.
    pub moves: u8,
    /// The operation may be given up.
    pub may_abort: bool,
    pub bug: Option<Bug>,
}

impl Split {
    /// Nobody wants anything and nothing fails.
    pub const QUIET: Split = Split {
        wants: [Want::Nothing; OPS_MAX],
        crashes: 0,
        losses: 0,
        meta_changes: 0,
        transfers: 0,
        moves: 0,
        may_abort: false,
        bug: None,
    };

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(crate) fn want(&self, op: u8) -> Want {
        self.wants[usize::from(op)]
    }
}

/// Numbers of [`Model::landmarks`].
pub(crate) mod landmark {
    pub(crate) const CLOSED: usize = 0;
    pub(crate) const STALE_ROUTE_CORRECTED: usize = 1;
    pub(crate) const RETRY_ANSWERED_BY_CHILD: usize = 2;
    pub(crate) const SECOND_SPLIT_REFUSED: usize = 3;
    pub(crate) const ABORTED: usize = 4;
    pub(crate) const BORN_DISCARDED: usize = 5;
    pub(crate) const BORN_COUNTED: usize = 6;
    pub(crate) const EMPTY_FILLED: usize = 7;
    pub(crate) const READ_BY_CHILD: usize = 8;
}

impl Model for Split {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        let shard = Shard {
            applied: 0,
            range: 1 << LEFT | 1 << RIGHT,
            epoch: 1,
            clock: FIRST_REVISION,
            revisions: [FIRST_REVISION; TOKENS],
            writers: [0; TOKENS],
            records: [0; OPS_MAX],
            times: [0; OPS_MAX],
            split: false,
        };
        let node = |name: u8| Node {
            name: Name(name),
            lost: false,
            moved_away: false,
            parent: shard,
            flushed: shard,
            phase: Phase::Idle,
            stage: Stage::None,
            child: Shard::NOTHING,
        };
        let op = Op { attempts: [Attempt::Unsent; 2], floor: 0, answer: 0, knows_child: false };
        let mut start = State {
            nodes: [node(1), node(2), node(3)],
            parent_log: Log::EMPTY,
            parent_leader: 0,
            child_log: Log::EMPTY,
            child_leader: NOBODY,
            ops: self.wants.map(|want| match want {
                Want::Nothing => Op { attempts: [Attempt::Over; 2], ..op },
                Want::KeyedPut(_) => op,
                _ => Op { attempts: [Attempt::Unsent, Attempt::Over], ..op },
            }),
            told: [FIRST_REVISION; TOKENS],
            operation: Operation::Taken,
            driver_sent: false,
            splits_under_way: 0,
            fences_under_way: 0,
            refused: false,
            reported: 0,
            crashes_left: self.crashes,
            losses_left: self.losses,
            meta_changes_left: self.meta_changes,
            transfers_left: self.transfers,
            moves_left: self.moves,
            wrong: Wrong::Nothing,
            marks: Marks::default(),
        };
        start.order_nodes();
        start
    }

    fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        self.list_steps(state, steps);
    }

    fn take(&self, state: &State, step: Step) -> State {
        let mut next = state.clone();
        next.marks = Marks::default();
        self.carry_out(&mut next, step);
        self.forget_what_no_longer_matters(&mut next);
        next.order_nodes();
        next
    }

    fn is_fault(&self, step: Step) -> bool {
        matches!(step, Step::Crash(_) | Step::Lose(_) | Step::MetaChange | Step::Transfer(_))
    }

    fn violation(&self, state: &State) -> Option<&'static str> {
        self.broken_promise(state)
    }

    fn is_done(&self, state: &State) -> bool {
        self.is_over(state)
    }

    fn landmarks(&self) -> &'static [&'static str] {
        &[
            "the split is done and every replica of the child runs",
            "a request on an old route is refused by the parent and goes to the child",
            "a retry is answered by the child from the record it inherited",
            "a second copy of the split is refused",
            "the operation is given up",
            "a born child is discarded at start and made again",
            "a born child counts at start",
            "an empty replica is filled by the child",
            "the child answers a read",
        ]
    }

    fn landmarks_of(&self, state: &State) -> u32 {
        state.marks.0
    }

    fn describe(&self, state: &State, step: Step) -> String {
        self.describe_step(state, step)
    }

    fn picture(&self, state: &State) -> String {
        self.draw(state)
    }
}
