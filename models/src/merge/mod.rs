//! The merge: a left shard takes a right one over, and the right one ends.
//!
//! Nothing of it is built yet. The model is here so that the formats of splits and moves leave room for it, and so that its
//! order is known: freeze the right, wait until every voter has that on disk, decide once in the catalog, absorb or unfreeze.
//! Both shards stand on the same three nodes, as the catalog makes sure of before.

mod apply;
mod cases;
mod check;
mod describe;
mod state;
mod steps;

use state::{
    Attempt, FIRST_REVISION, LEFT, Log, MERGES_MAX, Node, OPS_MAX, Op, Operation, Phase, RIGHT, Shard, State, TOKENS,
    Wrong,
};

use crate::explore::Model;
use crate::labels::{Marks, Name};
use crate::split::Want;
pub use cases::cases;
pub use steps::Step;

/// The planted bugs: ways to build the merge wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The left keeps its own revision clock.
    ClockNotMaximum,
    /// The right's idempotency records are not taken over.
    RecordsNotTakenOver,
    /// A frozen shard still answers reads.
    FrozenAnswersReads,
    /// Absorb is decided when a majority has the freeze, not every voter.
    DecidedByMajority,
    /// A voter reports the freeze as soon as it has applied it, before it is flushed.
    ReportedUnflushed,
    /// The driver goes by the reports, whatever the catalog decided.
    DecidedTwice,
    /// Unfreeze ends any freeze, whatever merge it names.
    UnfreezeAny,
    /// Unfreeze is sent once; nobody looks for a shard that freezes later.
    UnfreezeOnce,
    /// The right's replica is destroyed before the left that took it over is flushed.
    RightGoneBeforeFlush,
    /// The right's replica is destroyed because the left group says that it has absorbed, before the left on this node has.
    RightGoneByGroup,
    /// Absorb is taken whatever the left's epoch.
    AbsorbWithoutEpoch,
}

impl Bug {
    pub const ALL: [Bug; 11] = [
        Bug::ClockNotMaximum,
        Bug::RecordsNotTakenOver,
        Bug::FrozenAnswersReads,
        Bug::DecidedByMajority,
        Bug::ReportedUnflushed,
        Bug::DecidedTwice,
        Bug::UnfreezeAny,
        Bug::UnfreezeOnce,
        Bug::RightGoneBeforeFlush,
        Bug::RightGoneByGroup,
        Bug::AbsorbWithoutEpoch,
    ];
}

/// The model with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Merge {
    pub wants: [Want; OPS_MAX],
    pub crashes: u8,
    pub losses: u8,
    pub meta_changes: u8,
    /// Merges of the two shards that are begun after one was aborted.
    pub more_merges: u8,
    /// How many find the right frozen under an aborted merge before the first of their unfreezes arrives.
    pub finders: u8,
    /// The time limit may pass before it is decided.
    pub may_abort: bool,
    pub bug: Option<Bug>,
}

impl Merge {
    pub const QUIET: Merge = Merge {
        wants: [Want::Nothing; OPS_MAX],
        crashes: 0,
        losses: 0,
        meta_changes: 0,
        more_merges: 0,
        finders: 1,
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

pub(crate) mod landmark {
    pub(crate) const DONE: usize = 0;
    pub(crate) const ABORTED: usize = 1;
    pub(crate) const UNFROZEN: usize = 2;
    pub(crate) const RETRY_ANSWERED_BY_LEFT: usize = 3;
    pub(crate) const REFUSED_WHILE_FROZEN: usize = 4;
    pub(crate) const ABSORBED_AGAIN_AFTER_CRASH: usize = 5;
    pub(crate) const SECOND_ABSORB_REFUSED: usize = 6;
    pub(crate) const INSTALLED_PAST: usize = 7;
}

impl Model for Merge {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        let shard = |token: u8| Shard {
            range: 1 << token,
            epoch: 1,
            // The right's clock is ahead, so that it matters whose clock goes on.
            clock: FIRST_REVISION + token,
            revisions: [FIRST_REVISION * (1 - token), (FIRST_REVISION + 1) * token],
            ..Shard::NOTHING
        };
        let node = |name: u8| Node {
            lost: false,
            left: shard(LEFT),
            left_flushed: shard(LEFT),
            left_stopped: false,
            phase: Phase::Idle,
            right: shard(RIGHT),
            right_flushed: shard(RIGHT),
            right_gone: false,
            name: Name(name),
        };
        let op = Op { attempts: [Attempt::Unsent; 2], floor: 0, answer: 0 };
        let mut start = State {
            nodes: [node(1), node(2), node(3)],
            left_log: Log::EMPTY,
            left_leader: 0,
            right_log: Log::EMPTY,
            right_leader: 0,
            ops: self.wants.map(|want| match want {
                Want::Nothing => Op { attempts: [Attempt::Over; 2], ..op },
                Want::KeyedPut(_) => op,
                _ => Op { attempts: [Attempt::Unsent, Attempt::Over], ..op },
            }),
            told: [FIRST_REVISION, FIRST_REVISION + 1],
            operation: Operation::Open,
            merge: 1,
            driver_sent: false,
            reported: 0,
            freezes_under_way: [0; MERGES_MAX],
            unfreezes_under_way: [0; MERGES_MAX],
            unfrozen_once: false,
            absorbs_under_way: 0,
            crashes_left: self.crashes,
            losses_left: self.losses,
            meta_changes_left: self.meta_changes,
            merges_left: self.more_merges,
            wrong: Wrong::Nothing,
            marks: Marks::default(),
        };
        debug_assert_eq!(start.told.len(), TOKENS);
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
        matches!(step, Step::Crash(_) | Step::Lose(_) | Step::MetaChange | Step::BeginAgain)
    }

    fn violation(&self, state: &State) -> Option<&'static str> {
        self.broken_promise(state)
    }

    fn is_done(&self, state: &State) -> bool {
        self.is_over(state)
    }

    fn landmarks(&self) -> &'static [&'static str] {
        &[
            "the left has taken the right over",
            "the merge is aborted",
            "the right is unfrozen",
            "a retry is answered by the left from the record it took over",
            "a write is refused because the shard is frozen",
            "Absorb is applied again after a crash",
            "a second copy of Absorb is refused",
            "a left replica is installed past Absorb",
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
