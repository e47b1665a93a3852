//! The steps of the replicas, of the operation's driver, and the faults.

use super::state::{
    Entry, FRESH, Kind, LEAVING, Life, Log, NOBODY, Operation, Plan, REPLICAS, Role, Set, State, Wrong, is_quorum,
    members, voters,
};
use super::{Bug, Move, landmark};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Votes that make a quorum are granted, durably. The leases that these voters had granted have run out by now, and the
    /// leader's margin has made it stop counting on them no later. Nothing else can tell when a lease runs out.
    /// `is_upset`: the present leader is well.
    Campaign {
        by: u8,
        granted: u8,
        is_upset: bool,
    },
    /// The candidate hears of its votes and leads, with an entry of its own.
    Win {
        by: u8,
    },
    /// A follower takes the leader's log, and promises the lease.
    Append {
        from: u8,
        to: u8,
    },
    Commit {
        by: u8,
    },
    Write {
        at: u8,
    },
    /// The node makes the fresh replica that the catalog orders.
    MakeFresh,
    /// An old copy of the catalog orders a replica that is gone.
    OrderAgain {
        id: u8,
    },
    /// The driver at the leader reads the membership, then the catalog, and decides on its next step.
    Plan {
        at: u8,
    },
    /// The step is appended, if the membership is still the one that the driver saw.
    Act {
        at: u8,
    },
    /// The step's answer does not come: the driver reads and decides anew, and the step may still arrive.
    TimeOut {
        at: u8,
    },
    ActLate {
        at: u8,
    },
    /// A leader completes the joint membership that it finds committed.
    Complete {
        at: u8,
    },
    /// A leader that is no longer a voter steps down.
    StepDown {
        of: u8,
    },
    /// The driver reads the committed membership at the leader and writes the result into the catalog.
    Learn {
        at: u8,
    },
    GiveUp,
    /// The node of a replica asks for proof at the group's leader, and destroys it.
    Destroy {
        id: u8,
    },
    Crash {
        of: u8,
    },
    Lose {
        id: u8,
    },
}

pub(super) fn all() -> std::ops::Range<u8> {
    0..REPLICAS as u8
}

impl Move {
    pub(super) fn list_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for id in all() {
            match state.replica(id).life {
                Life::Live => self.list_replica_steps(state, id, steps),
                Life::Absent if id == FRESH && state.operation == Operation::Moving => steps.push(Step::MakeFresh),
                // Only where neither replica nor tombstone is on record.
                Life::Absent if id == LEAVING => steps.push(Step::OrderAgain { id }),
                _ => {}
            }
            if state.losses_left > 0 && state.replica(id).life == Life::Live {
                steps.push(Step::Lose { id });
            }
        }
        if self.may_abort && state.operation == Operation::Moving {
            steps.push(Step::GiveUp);
        }
    }

    fn list_replica_steps(&self, state: &State, id: u8, steps: &mut Vec<Step>) {
        let replica = state.replica(id);
        match replica.role {
            Role::Follower => self.list_campaigns(state, id, steps),
            Role::Elected => steps.push(Step::Win { by: id }),
            Role::Leader => self.list_leader_steps(state, id, steps),
        }
        if self.may_destroy(state, id) {
            steps.push(Step::Destroy { id });
        }
    }

    fn list_campaigns(&self, state: &State, id: u8, steps: &mut Vec<Step>) {
        let candidate = state.replica(id);
        let (_, membership) = candidate.log.membership();
        if members(membership) & !learners(membership) & (1 << id) == 0 {
            return;
        }
        let newest = state.replicas.iter().map(|replica| replica.term).max().unwrap_or(0);
        let is_well = |replica: &super::Replica| {
            replica.life == Life::Live && replica.role != Role::Follower && replica.term == newest
        };
        let is_upset = state.replicas.iter().any(is_well);
        if is_upset && state.upsets_left == 0 {
            return;
        }
        let willing: Set =
            all().filter(|voter| *voter != id && self.grants(state, *voter, id)).map(|voter| 1 << voter).sum();
        let enough = |granted: Set| is_quorum(membership, granted | 1 << id);
        for granted in 0..1 << REPLICAS {
            // Fewer votes would not do, and more of them only tie down more voters.
            let is_least =
                enough(granted) && all().all(|one| granted & (1 << one) == 0 || !enough(granted & !(1 << one)));
            if granted & !willing == 0 && is_least {
                steps.push(Step::Campaign { by: id, granted, is_upset });
            }
        }
    }

    fn grants(&self, state: &State, voter: u8, candidate: u8) -> bool {
        let (voter, candidate) = (state.replica(voter), state.replica(candidate));
        match voter.life {
            Life::Live => {
                let newest = |log: &Log| (log.last_term(), log.length());
                newest(&candidate.log) >= newest(&voter.log)
            }
            Life::Destroyed => self.has(Bug::DestroyedVotes),
            Life::Absent | Life::Lost => false,
        }
    }

    fn list_leader_steps(&self, state: &State, id: u8, steps: &mut Vec<Step>) {
        let leader = state.replica(id);
        let (_, membership) = leader.log.membership();
        for to in all().filter(|to| *to != id && members(membership) & (1 << to) != 0) {
            let follower = state.replica(to);
            let is_news = follower.log != leader.log
                || follower.commit < leader.commit
                || leader.matched[usize::from(to)] < leader.log.length()
                || follower.promised != leader.term;
            if follower.life == Life::Live && follower.term <= leader.term && is_news {
                steps.push(Step::Append { from: id, to });
            }
        }
        if self.can_commit(state, id) > leader.commit {
            steps.push(Step::Commit { by: id });
        }
        let stands = self.has_own_entry_committed(state, id);
        let room = leader.log.has_room();
        if state.writes_left > 0 && room && stands {
            steps.push(Step::Write { at: id });
        }
        if leader.plan.is_some() {
            steps.push(Step::Act { at: id });
            if state.time_outs_left > 0 {
                steps.push(Step::TimeOut { at: id });
            }
        } else if room && stands && self.next_change(state, id).is_some() {
            steps.push(Step::Plan { at: id });
        }
        if leader.late.is_some() {
            steps.push(Step::ActLate { at: id });
        }
        let (index, _) = leader.log.membership();
        let is_committed = index <= leader.commit;
        let began_it =
            leader.log.entries().get(usize::from(index.max(1)) - 1).is_some_and(|entry| entry.term == leader.term);
        if membership == Kind::Joint && is_committed && room && (began_it || !self.has(Bug::JointLeftAlone)) {
            steps.push(Step::Complete { at: id });
        }
        if members(membership) & (1 << id) == 0 && is_committed {
            steps.push(Step::StepDown { of: id });
        }
        if self.learned(state, id).is_some() {
            steps.push(Step::Learn { at: id });
        }
        if state.crashes_left > 0 {
            steps.push(Step::Crash { of: id });
        }
    }

    fn has_own_entry_committed(&self, state: &State, id: u8) -> bool {
        let leader = state.replica(id);
        leader.log.up_to(leader.commit).last().is_some_and(|entry| entry.term == leader.term)
    }

    /// The highest index that a quorum has, if it is of the leader's own term.
    fn can_commit(&self, state: &State, id: u8) -> u8 {
        let leader = state.replica(id);
        let (_, membership) = leader.log.membership();
        let holders = |index: u8| -> Set {
            all().filter(|holder| leader.matched[usize::from(*holder)] >= index).map(|holder| 1 << holder).sum()
        };
        let fits = (1..)
            .zip(leader.log.entries())
            .filter(|(index, entry)| entry.term == leader.term && is_quorum(membership, holders(*index)));
        fits.last().map_or(0, |(index, _)| index)
    }

    /// The next change of the membership that the driver would plan now.
    pub(super) fn next_change(&self, state: &State, id: u8) -> Option<Kind> {
        let leader = state.replica(id);
        let (index, membership) = leader.log.membership();
        if index > leader.commit && !self.has(Bug::TwoChangesAtOnce) {
            return None;
        }
        let wants_move = state.operation == Operation::Moving || self.has(Bug::CatalogReadBefore);
        let gives_up = matches!(state.operation, Operation::Aborting | Operation::Aborted);
        let caught_up = leader.matched[usize::from(FRESH)] >= leader.commit && leader.matched[usize::from(FRESH)] > 0;
        match membership {
            Kind::Back if wants_move => Some(Kind::Learner),
            Kind::Learner if wants_move && caught_up => {
                Some(if self.has(Bug::WithoutJoint) { Kind::New } else { Kind::Joint })
            }
            Kind::Learner if gives_up => Some(Kind::Back),
            Kind::Joint if self.has(Bug::TwoChangesAtOnce) => Some(Kind::New),
            _ => None,
        }
    }

    /// Whether this leader may answer a linearizable question: it has committed an entry of its own term, and a quorum has
    /// promised not to vote against it.
    pub(super) fn serves(&self, state: &State, id: u8) -> bool {
        let leader = state.replica(id);
        if leader.life != Life::Live || leader.role != Role::Leader || !self.has_own_entry_committed(state, id) {
            return false;
        }
        let (_, membership) = leader.log.membership();
        let is_removed = members(membership) & (1 << id) == 0;
        if is_removed && self.has(Bug::SourceKeepsServing) {
            return true;
        }
        let promised = all().filter(|of| state.replica(*of).promised == leader.term).map(|of| 1 << of).sum::<Set>();
        let enough = is_quorum(membership, promised | 1 << id);
        let as_before_the_move = is_removed && self.has(Bug::LeaseCountsTheRemoved);
        enough || (as_before_the_move && is_quorum(Kind::Back, promised | 1 << id))
    }

    /// What a linearizable look at the membership tells the driver.
    fn learned(&self, state: &State, id: u8) -> Option<Operation> {
        let leader = state.replica(id);
        let (index, membership) = leader.log.membership();
        if !self.serves(state, id) || index > leader.commit {
            return None;
        }
        match (state.operation, membership) {
            (Operation::Moving | Operation::Aborting, Kind::New) => Some(Operation::Moved),
            // A plan to make the learner a voter, older than the abort, stands on a membership that is gone now.
            (Operation::Aborting, Kind::Back) => Some(Operation::Aborted),
            _ => None,
        }
    }

    /// Proof: the catalog no longer wants the replica, and then the group's committed membership, asked at its leader,
    /// is uniform and without it.
    fn may_destroy(&self, state: &State, id: u8) -> bool {
        let unwanted = match id {
            LEAVING => state.operation == Operation::Moved,
            FRESH => matches!(state.operation, Operation::Aborting | Operation::Aborted),
            _ => false,
        };
        let is_gone = all().any(|leader| {
            let (index, membership) = state.replica(leader).log.membership();
            let without = membership != Kind::Joint && members(membership) & (1 << id) == 0;
            self.serves(state, leader) && index <= state.replica(leader).commit && without
        });
        if self.has(Bug::DestroyedByCatalog) && id == LEAVING {
            return state.operation == Operation::Moving;
        }
        (unwanted || (self.has(Bug::DestroyedByGroupAlone) && id >= LEAVING)) && is_gone
    }

    pub(super) fn carry_out(&self, state: &mut State, step: Step) {
        match step {
            Step::Campaign { by, granted, is_upset } => self.campaign(state, by, granted, is_upset),
            Step::Win { by } => self.win(state, by),
            Step::Append { from, to } => self.append(state, from, to),
            Step::Commit { by } => self.commit(state, by),
            Step::Write { at } => {
                state.writes_left -= 1;
                self.propose(state, at, Kind::Write);
            }
            Step::MakeFresh => state.replica_mut(FRESH).life = Life::Live,
            Step::OrderAgain { id } => state.replica_mut(id).life = Life::Live,
            Step::Plan { at } => {
                let (seen, _) = state.replica(at).log.membership();
                let append = self.next_change(state, at);
                state.replica_mut(at).plan = append.map(|append| Plan { append, seen });
            }
            Step::Act { at } => {
                let plan = state.replica_mut(at).plan.take();
                self.act(state, at, plan);
            }
            Step::TimeOut { at } => {
                state.time_outs_left -= 1;
                let replica = state.replica_mut(at);
                replica.late = replica.plan.take();
            }
            Step::ActLate { at } => {
                let plan = state.replica_mut(at).late.take();
                self.act(state, at, plan);
            }
            Step::Complete { at } => {
                let leader = state.replica(at);
                let (index, _) = leader.log.membership();
                if leader.log.entries()[usize::from(index) - 1].term != leader.term {
                    state.mark(landmark::JOINT_COMPLETED_BY_NEXT);
                }
                self.propose(state, at, Kind::New);
            }
            Step::StepDown { of } | Step::Crash { of } => {
                if matches!(step, Step::Crash { .. }) {
                    state.crashes_left -= 1;
                }
                follow(state, of);
            }
            Step::Learn { at } => {
                let Some(learned) = self.learned(state, at) else { return };
                match (state.operation, learned) {
                    (_, Operation::Aborted) => state.mark(landmark::ABORTED),
                    (Operation::Aborting, _) => state.mark(landmark::ABORT_TOO_LATE),
                    _ => state.mark(landmark::MOVED),
                }
                state.operation = learned;
            }
            Step::GiveUp if self.has(Bug::AbortedWithLearner) => state.operation = Operation::Aborted,
            Step::GiveUp => state.operation = Operation::Aborting,
            Step::Destroy { id } => {
                if id == LEAVING && state.replica(id).log.membership().0 == 0 {
                    state.mark(landmark::RETURNED_IGNORANT);
                }
                let forgotten = self.has(Bug::TombstoneForgotten);
                erase(state, id, if forgotten { Life::Absent } else { Life::Destroyed });
                state.mark(if id == FRESH { landmark::FRESH_DESTROYED } else { landmark::SOURCE_DESTROYED });
            }
            Step::Lose { id } => {
                state.losses_left -= 1;
                erase(state, id, Life::Lost);
            }
        }
    }

    fn act(&self, state: &mut State, at: u8, plan: Option<Plan>) {
        let Some(plan) = plan else { return };
        let leader = state.replica(at);
        let (index, _) = leader.log.membership();
        let is_as_seen = plan.seen == index || self.has(Bug::ChangeUnconditional);
        let one_at_a_time = index <= leader.commit || self.has(Bug::TwoChangesAtOnce);
        if is_as_seen && one_at_a_time && leader.log.has_room() {
            self.propose(state, at, plan.append);
        } else {
            state.mark(landmark::PLAN_REFUSED);
        }
    }

    fn campaign(&self, state: &mut State, by: u8, granted: Set, is_upset: bool) {
        state.upsets_left -= u8::from(is_upset);
        let asked = granted | 1 << by;
        let term =
            all().filter(|voter| asked & (1 << voter) != 0).map(|voter| state.replica(voter).term).max().unwrap_or(0)
                + 1;
        for voter in all().filter(|voter| asked & (1 << voter) != 0) {
            if state.replica(voter).life == Life::Destroyed {
                state.wrong = Wrong::DestroyedVoted;
                continue;
            }
            follow(state, voter);
            let voter = state.replica_mut(voter);
            voter.term = term;
            voter.voted = by;
            voter.promised = 0;
        }
        state.replica_mut(by).role = Role::Elected;
    }

    fn win(&self, state: &mut State, by: u8) {
        let winner = state.replica_mut(by);
        winner.role = Role::Leader;
        winner.matched = [0; REPLICAS];
        if by == FRESH {
            state.mark(landmark::FRESH_LEADS);
        }
        let log = state.replica(by).log;
        // A candidate that hears of its votes late, after others went on in a later term, can commit nothing any more.
        let is_late = state.replica(by).term <= state.committed_in;
        if !is_late && log.up_to(state.committed.length()) != state.committed.entries() {
            state.wrong = Wrong::LeaderLacksCommitted;
        }
        self.propose(state, by, Kind::First);
    }

    fn propose(&self, state: &mut State, at: u8, kind: Kind) {
        let leader = state.replica_mut(at);
        leader.log.append(Entry { term: leader.term, kind });
        leader.matched[usize::from(at)] = leader.log.length();
    }

    fn append(&self, state: &mut State, from: u8, to: u8) {
        let leader = *state.replica(from);
        if state.replica(to).term < leader.term || state.replica(to).role != Role::Follower {
            follow(state, to);
        }
        let follower = state.replica_mut(to);
        follower.term = leader.term;
        follower.voted = from;
        follower.log = leader.log;
        follower.commit = follower.commit.max(leader.commit.min(leader.log.length()));
        follower.promised = leader.term;
        state.replica_mut(from).matched[usize::from(to)] = leader.log.length();
    }

    fn commit(&self, state: &mut State, by: u8) {
        let index = self.can_commit(state, by);
        let leader = state.replica_mut(by);
        leader.commit = index;
        let term = leader.term;
        let log = leader.log.cut(index);
        let common = usize::from(index.min(state.committed.length()));
        if log.entries()[..common] != state.committed.entries()[..common] {
            state.wrong = Wrong::CommittedDiffers;
        } else if index > state.committed.length() {
            state.committed = log;
            state.committed_in = state.committed_in.max(term);
        }
    }
}

fn learners(membership: Kind) -> Set {
    let [old, new] = voters(membership);
    members(membership) & !old & !new
}

/// Gives up a leadership or a candidacy, and what only a leader knows.
fn follow(state: &mut State, id: u8) {
    let replica = state.replica_mut(id);
    replica.role = Role::Follower;
    replica.matched = [0; REPLICAS];
    replica.plan = None;
    replica.late = None;
}

fn erase(state: &mut State, id: u8, life: Life) {
    follow(state, id);
    let replica = state.replica_mut(id);
    replica.life = life;
    replica.term = 0;
    replica.voted = NOBODY;
    replica.log = Log::EMPTY;
    replica.commit = 0;
    replica.promised = 0;
}
