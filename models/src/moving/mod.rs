//! The move: one voter of a group is replaced by a fresh replica on another node.
//!
//! Here the group's own agreement is part of the model, because a move is a change of who agrees: terms, votes, logs,
//! joint memberships, leases. An election is two steps (the votes are granted and durable; the candidate hears of it) and an
//! append is one. The catalog's part is the operation's state and the order to make the fresh replica.

mod cases;
mod check;
mod describe;
mod state;
mod steps;

use state::{
    Entry, FRESH, Kind, LEAVING, Life, Log, NOBODY, OLD_VOTERS, Operation, REPLICAS, Replica, Role, State, Wrong,
};

use crate::explore::Model;
use crate::labels::{Marks, Name};
pub use cases::cases;
pub use steps::Step;

/// The planted bugs: ways to build the move wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The voters are exchanged by one entry, without a joint membership.
    WithoutJoint,
    /// A change of membership begins while another one is not committed.
    TwoChangesAtOnce,
    /// Whoever finds a joint membership that it did not begin leaves it alone.
    JointLeftAlone,
    /// The source goes on serving: a leader that was removed answers reads without a lease.
    SourceKeepsServing,
    /// A destroyed replica still votes: what is asked of its id is answered from nothing.
    DestroyedVotes,
    /// A replica is destroyed without a tombstone, and an old copy of the catalog orders it again.
    TombstoneForgotten,
    /// A replica is destroyed because the catalog wants it to go, without asking its group.
    DestroyedByCatalog,
    /// A replica is destroyed because its group's membership is without it, although the catalog still orders it.
    DestroyedByGroupAlone,
    /// The operation is called aborted while the learner still stands in the membership.
    AbortedWithLearner,
    /// The driver acts on the catalog as it was at some time before, instead of reading it after the membership.
    CatalogReadBefore,
    /// A change of the membership is carried out whatever the membership is by then.
    ChangeUnconditional,
    /// The removed leader counts itself among those whose answers make its lease.
    LeaseCountsTheRemoved,
}

impl Bug {
    pub const ALL: [Bug; 12] = [
        Bug::WithoutJoint,
        Bug::TwoChangesAtOnce,
        Bug::JointLeftAlone,
        Bug::SourceKeepsServing,
        Bug::DestroyedVotes,
        Bug::TombstoneForgotten,
        Bug::DestroyedByCatalog,
        Bug::DestroyedByGroupAlone,
        Bug::AbortedWithLearner,
        Bug::CatalogReadBefore,
        Bug::ChangeUnconditional,
        Bug::LeaseCountsTheRemoved,
    ];
}

/// The model with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// The replica that goes leads at the start.
    pub source_leads: bool,
    pub writes: u8,
    /// Crashes of a leader. A follower's crash changes nothing that is modelled: log, vote and promise outlive it.
    pub crashes: u8,
    pub losses: u8,
    /// Elections although a leader is well.
    pub upsets: u8,
    /// Steps of the driver that time out and may still be carried out later.
    pub time_outs: u8,
    pub may_abort: bool,
    pub bug: Option<Bug>,
}

impl Move {
    pub const QUIET: Move = Move {
        source_leads: false,
        writes: 0,
        crashes: 0,
        losses: 0,
        upsets: 0,
        time_outs: 0,
        may_abort: false,
        bug: None,
    };

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
}

pub(crate) mod landmark {
    pub(crate) const MOVED: usize = 0;
    pub(crate) const JOINT_COMPLETED_BY_NEXT: usize = 1;
    pub(crate) const ABORTED: usize = 2;
    pub(crate) const SOURCE_DESTROYED: usize = 3;
    pub(crate) const FRESH_DESTROYED: usize = 4;
    pub(crate) const FRESH_LEADS: usize = 5;
    pub(crate) const ABORT_TOO_LATE: usize = 6;
    pub(crate) const PLAN_REFUSED: usize = 7;
    pub(crate) const RETURNED_IGNORANT: usize = 8;
}

impl Model for Move {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        let mut log = Log::EMPTY;
        log.append(Entry { term: 1, kind: Kind::First });
        let leader = if self.source_leads { LEAVING } else { 0 };
        let replica = |id: u8| {
            let is_member = OLD_VOTERS & (1 << id) != 0;
            let (log, length) = if is_member { (log, 1) } else { (Log::EMPTY, 0) };
            Replica {
                name: Name(id),
                life: if is_member { Life::Live } else { Life::Absent },
                role: if id == leader { Role::Leader } else { Role::Follower },
                term: length,
                voted: if is_member { leader } else { NOBODY },
                log,
                commit: length,
                matched: if id == leader { [1, 1, 1, 0] } else { [0; REPLICAS] },
                plan: None,
                late: None,
                promised: if is_member && id != leader { 1 } else { 0 },
            }
        };
        let mut start = State {
            replicas: [replica(0), replica(1), replica(LEAVING), replica(FRESH)],
            operation: Operation::Moving,
            committed: log,
            committed_in: 1,
            writes_left: self.writes,
            crashes_left: self.crashes,
            losses_left: self.losses,
            upsets_left: self.upsets,
            time_outs_left: self.time_outs,
            wrong: Wrong::Nothing,
            marks: Marks::default(),
        };
        start.order_replicas();
        start
    }

    fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        self.list_steps(state, steps);
    }

    fn take(&self, state: &State, step: Step) -> State {
        let mut next = state.clone();
        next.marks = Marks::default();
        self.carry_out(&mut next, step);
        next.order_replicas();
        next
    }

    fn is_fault(&self, step: Step) -> bool {
        matches!(
            step,
            Step::Crash { .. } | Step::Lose { .. } | Step::TimeOut { .. } | Step::Campaign { is_upset: true, .. }
        )
    }

    fn violation(&self, state: &State) -> Option<&'static str> {
        self.broken_promise(state)
    }

    fn is_done(&self, state: &State) -> bool {
        self.is_over(state)
    }

    fn landmarks(&self) -> &'static [&'static str] {
        &[
            "the move is done",
            "a joint membership is completed by the next leader",
            "the move is given up",
            "the old replica is destroyed",
            "the fresh replica of a move that was given up is destroyed",
            "the fresh replica leads",
            "a move is done although it was to be given up",
            "a plan is refused because the membership changed meanwhile",
            "an old replica that never heard of the move comes back and is destroyed",
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
