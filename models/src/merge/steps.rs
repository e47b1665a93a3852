//! The steps that clients, nodes, groups and the operation's driver take, and the faults.

use super::apply::Answer;
use super::state::{Attempt, Entry, Group, NOBODY, NODES, OPS_MAX, Operation, Phase, RIGHT, Shard, State, Wrong};
use super::{Bug, Merge, landmark};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Send {
        op: u8,
        attempt: u8,
    },
    Arrive {
        op: u8,
        attempt: u8,
    },
    View {
        op: u8,
    },
    /// The router hears from the catalog that the right is no more.
    Reroute {
        op: u8,
        attempt: u8,
    },
    /// The driver sends what the operation's state asks for.
    Drive,
    ProposeFreeze {
        merge: u8,
    },
    ProposeUnfreeze {
        merge: u8,
    },
    ProposeAbsorb,
    /// Whoever finds the right frozen under an aborted merge sends an unfreeze.
    Thaw {
        merge: u8,
    },
    /// A node reports the freeze as applied and flushed.
    Report(u8),
    /// The catalog decides.
    DecideAbsorb,
    DecideAbort,
    /// The driver goes on to absorb although the catalog decided otherwise.
    AbsorbAllTheSame,
    /// The driver reads the left at its leader and writes the result into the catalog.
    Learn,
    /// Another merge of the two is begun.
    BeginAgain,
    ElectLeft(u8),
    ElectRight(u8),
    ApplyLeft(u8),
    /// The next part of applying Absorb.
    Absorb(u8),
    ApplyRight(u8),
    FlushRight(u8),
    /// The left's leader installs its snapshot, which is past Absorb; also in place of a replica that stopped.
    Install(u8),
    /// The right's replica is destroyed: the left beside it is flushed past Absorb.
    DestroyRight(u8),
    Crash(u8),
    Lose(u8),
    MetaChange,
}

impl Merge {
    pub(super) fn list_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for op in 0..OPS_MAX as u8 {
            self.list_client_steps(state, op, steps);
        }
        self.list_operation_steps(state, steps);
        for node in 0..NODES as u8 {
            self.list_node_steps(state, node, steps);
        }
        if state.meta_changes_left > 0 && state.driver_sent {
            steps.push(Step::MetaChange);
        }
    }

    fn list_client_steps(&self, state: &State, op: u8, steps: &mut Vec<Step>) {
        let client = &state.ops[usize::from(op)];
        for attempt in 0..2_u8 {
            match client.attempts[usize::from(attempt)] {
                Attempt::Unsent if attempt == 0 || client.attempts[0] != Attempt::Unsent => {
                    steps.push(Step::Send { op, attempt });
                }
                Attempt::Sent(group) => {
                    if self.may_arrive(state, op, group) {
                        steps.push(Step::Arrive { op, attempt });
                    }
                    if group == Group::Right && state.operation == Operation::Done {
                        steps.push(Step::Reroute { op, attempt });
                    }
                }
                Attempt::Waiting { group, index, at } if state.replica(group, at).applied >= index => {
                    steps.push(Step::View { op });
                }
                _ => {}
            }
        }
    }

    /// A leader that knows that it is frozen takes nothing into its log.
    fn may_arrive(&self, state: &State, op: u8, group: Group) -> bool {
        if !state.works(group) || !state.log(group).has_room() {
            return false;
        }
        let leader = state.replica(group, state.leader(group));
        let lets_in = leader.frozen == 0 || (self.want(op).is_read() && self.has(Bug::FrozenAnswersReads));
        lets_in && leader.owns(self.want(op).token())
    }

    fn list_operation_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let right_takes = state.works(Group::Right) && state.right_log.has_room();
        for merge in 1..=state.merge {
            let place = usize::from(merge) - 1;
            if state.freezes_under_way[place] > 0 && right_takes {
                steps.push(Step::ProposeFreeze { merge });
            }
            if state.unfreezes_under_way[place] > 0 && right_takes {
                steps.push(Step::ProposeUnfreeze { merge });
            }
            let aborted = merge < state.merge || state.operation == Operation::Abort;
            if aborted && state.unfreezes_under_way[place] < self.finders && self.finds_frozen(state, merge) {
                steps.push(Step::Thaw { merge });
            }
        }
        if state.absorbs_under_way > 0 && state.works(Group::Left) && state.left_log.has_room() {
            steps.push(Step::ProposeAbsorb);
        }
        if !state.driver_sent {
            steps.push(Step::Drive);
        }
        let reports = state.reported.count_ones() as usize;
        match state.operation {
            Operation::Open => {
                if reports == NODES || (self.has(Bug::DecidedByMajority) && reports * 2 > NODES) {
                    steps.push(Step::DecideAbsorb);
                }
                // A voter that is gone for good never reports: the time limit passes.
                if self.may_abort || state.nodes.iter().any(|node| node.lost) {
                    steps.push(Step::DecideAbort);
                }
            }
            Operation::Absorb => {
                let leader = state.nodes.get(usize::from(state.left_leader));
                if leader.is_some_and(|leader| leader.phase == Phase::Idle && leader.left.absorbed) {
                    steps.push(Step::Learn);
                }
            }
            Operation::Abort => {
                if state.merges_left > 0 {
                    steps.push(Step::BeginAgain);
                }
                if self.has(Bug::DecidedTwice) && reports == NODES && state.absorbs_under_way == 0 {
                    steps.push(Step::AbsorbAllTheSame);
                }
            }
            Operation::Done => {}
        }
    }

    /// A linearizable look at the right's state.
    fn finds_frozen(&self, state: &State, merge: u8) -> bool {
        if self.has(Bug::UnfreezeOnce) && state.unfrozen_once {
            return false;
        }
        let Some(leader) = state.nodes.get(usize::from(state.right_leader)) else { return false };
        let is_current = state.works(Group::Right) && leader.right.applied == state.right_log.length;
        is_current && (leader.right.frozen == merge || self.has(Bug::UnfreezeOnce))
    }

    fn list_node_steps(&self, state: &State, number: u8, steps: &mut Vec<Step>) {
        let node = &state.nodes[usize::from(number)];
        if node.lost {
            return;
        }
        if node.has_left() {
            self.list_left_steps(state, number, steps);
        }
        if node.has_right() {
            self.list_right_steps(state, number, steps);
        }
        if self.may_install(state, number) {
            steps.push(Step::Install(number));
        }
        if state.crashes_left > 0 {
            steps.push(Step::Crash(number));
        }
        if state.losses_left > 0 {
            steps.push(Step::Lose(number));
        }
    }

    fn list_left_steps(&self, state: &State, number: u8, steps: &mut Vec<Step>) {
        let node = &state.nodes[usize::from(number)];
        if state.left_leader == NOBODY && state.has_majority(Group::Left) {
            steps.push(Step::ElectLeft(number));
        }
        if node.phase != Phase::Idle {
            steps.push(Step::Absorb(number));
            return;
        }
        let end = self.in_the_end(&state.left_log, node.left);
        let meets_absorb = end.applied < state.left_log.length;
        let is_watched = state.left_leader == number || state.is_asked(number);
        if meets_absorb && (end.applied == node.left.applied || !is_watched) {
            steps.push(Step::Absorb(number));
        } else if is_watched && end.applied > node.left.applied {
            steps.push(Step::ApplyLeft(number));
        }
    }

    fn list_right_steps(&self, state: &State, number: u8, steps: &mut Vec<Step>) {
        let node = &state.nodes[usize::from(number)];
        if state.right_leader == NOBODY && state.has_majority(Group::Right) {
            steps.push(Step::ElectRight(number));
        }
        let is_watched = state.right_leader == number || state.is_asked(number);
        let is_behind = node.right.applied < state.right_log.length;
        // Its log is fed by a leader; what it has not heard of it cannot apply once its group is no more.
        let is_fed = state.works(Group::Right);
        if is_behind && is_fed && (is_watched || state.right_log.has_orders_after(node.right.applied)) {
            steps.push(Step::ApplyRight(number));
        }
        if node.right.frozen != node.right_flushed.frozen {
            steps.push(Step::FlushRight(number));
        }
        let is_new = state.operation == Operation::Open && state.reported & (1 << number) == 0;
        let on_disk = node.right_flushed.frozen == state.merge || self.has(Bug::ReportedUnflushed);
        if is_new && node.right.frozen == state.merge && on_disk {
            steps.push(Step::Report(number));
        }
        let left_says = state.nodes.get(usize::from(state.left_leader)).is_some_and(|leader| leader.left.absorbed);
        if (node.left_flushed.absorbed && node.phase == Phase::Idle) || (left_says && self.has(Bug::RightGoneByGroup)) {
            steps.push(Step::DestroyRight(number));
        }
    }

    fn may_install(&self, state: &State, number: u8) -> bool {
        let node = &state.nodes[usize::from(number)];
        let Some(leader) = state.nodes.get(usize::from(state.left_leader)) else { return false };
        let leads = state.works(Group::Left) && leader.left.absorbed && leader.phase == Phase::Idle;
        leads && !node.left.absorbed && node.phase == Phase::Idle
    }

    pub(super) fn carry_out(&self, state: &mut State, step: Step) {
        match step {
            Step::Send { op, attempt } => self.send(state, op, attempt),
            Step::Arrive { op, attempt } => self.arrive(state, op, attempt),
            Step::View { op } => self.view(state, op),
            Step::Reroute { op, attempt } => {
                state.ops[usize::from(op)].attempts[usize::from(attempt)] = Attempt::Sent(Group::Left);
            }
            Step::Drive => {
                state.driver_sent = true;
                match state.operation {
                    Operation::Open => state.freezes_under_way[usize::from(state.merge) - 1] += 1,
                    Operation::Absorb => state.absorbs_under_way += 1,
                    Operation::Abort | Operation::Done => {}
                }
            }
            Step::ProposeFreeze { merge } => {
                state.freezes_under_way[usize::from(merge) - 1] -= 1;
                state.right_log.append(Entry::Freeze { merge });
            }
            Step::ProposeUnfreeze { merge } => {
                state.unfreezes_under_way[usize::from(merge) - 1] -= 1;
                state.right_log.append(Entry::Unfreeze { merge });
            }
            Step::ProposeAbsorb => {
                state.absorbs_under_way -= 1;
                state.left_log.append(Entry::Absorb { merge: state.merge });
            }
            Step::Thaw { merge } => {
                state.unfrozen_once = true;
                state.unfreezes_under_way[usize::from(merge) - 1] += 1;
            }
            Step::Report(node) => state.reported |= 1 << node,
            Step::DecideAbsorb => self.decide(state, Operation::Absorb),
            Step::DecideAbort => {
                self.decide(state, Operation::Abort);
                state.mark(landmark::ABORTED);
            }
            Step::AbsorbAllTheSame => state.absorbs_under_way += 1,
            Step::Learn => {
                state.operation = Operation::Done;
                state.mark(landmark::DONE);
            }
            Step::BeginAgain => {
                state.merges_left -= 1;
                state.merge += 1;
                state.reported = 0;
                self.decide(state, Operation::Open);
            }
            Step::ElectLeft(node) => state.left_leader = node,
            Step::ElectRight(node) => state.right_leader = node,
            Step::ApplyLeft(node) => self.apply_all(state, node, Group::Left),
            Step::ApplyRight(node) => self.apply_all(state, node, Group::Right),
            Step::Absorb(node) => self.take_over(state, node),
            Step::FlushRight(node) => {
                let node = &mut state.nodes[usize::from(node)];
                node.right_flushed = node.right;
            }
            Step::Install(node) => self.install(state, node),
            Step::DestroyRight(node) => self.destroy_right(state, node),
            Step::Crash(node) => self.crash(state, node),
            Step::Lose(node) => {
                state.losses_left -= 1;
                self.lose_volatile(state, node);
                state.nodes[usize::from(node)].lost = true;
            }
            Step::MetaChange => {
                state.meta_changes_left -= 1;
                state.driver_sent = false;
            }
        }
    }

    fn decide(&self, state: &mut State, operation: Operation) {
        state.operation = operation;
        state.driver_sent = false;
    }

    fn send(&self, state: &mut State, op: u8, attempt: u8) {
        // The router's map is from before the merge; `Reroute` is how it hears of a newer one.
        let group = if self.want(op).token() == RIGHT { Group::Right } else { Group::Left };
        let told = state.told[usize::from(self.want(op).token())];
        let client = &mut state.ops[usize::from(op)];
        if attempt == 0 {
            client.floor = told;
        }
        client.attempts[usize::from(attempt)] = Attempt::Sent(group);
    }

    fn arrive(&self, state: &mut State, op: u8, attempt: u8) {
        let Attempt::Sent(group) = state.ops[usize::from(op)].attempts[usize::from(attempt)] else { return };
        let at = state.leader(group);
        let place = if self.want(op).is_read() {
            Attempt::Waiting { group, index: state.log(group).length, at }
        } else {
            let entry = Entry::Write { op, attempt };
            let index = match group {
                Group::Left => state.left_log.append(entry),
                Group::Right => state.right_log.append(entry),
            };
            Attempt::Logged { group, index, at }
        };
        state.ops[usize::from(op)].attempts[usize::from(attempt)] = place;
    }

    fn view(&self, state: &mut State, op: u8) {
        let Attempt::Waiting { group, at, .. } = state.ops[usize::from(op)].attempts[0] else { return };
        let replica = *state.replica(group, at);
        let token = self.want(op).token();
        if !replica.owns(token) || (replica.frozen != 0 && !self.has(Bug::FrozenAnswersReads)) {
            return self.answer(state, op, 0, group, Answer::Refused);
        }
        let code = replica.revisions[usize::from(token)];
        let writer = replica.writers[usize::from(token)];
        let told_otherwise = (1..).zip(&state.ops).any(|(other, told)| {
            let want = self.want(other - 1);
            told.answer == code && other != writer && want.token() == token && !want.is_read()
        });
        self.answer(state, op, 0, group, Answer::Told { code, replayed: false });
        if told_otherwise {
            state.wrong = Wrong::RevisionGivenTwice;
        }
    }

    fn apply_all(&self, state: &mut State, number: u8, group: Group) {
        loop {
            let mut shard = *state.replica(group, number);
            let entry = state.log(group).after(shard.applied);
            let is_for_later = matches!(entry, Entry::Absorb { .. }) && self.takes_absorb(&shard);
            if entry == Entry::None || is_for_later {
                return;
            }
            let was_frozen = shard.frozen;
            let answer = self.apply(&mut shard, entry);
            match entry {
                Entry::Unfreeze { .. } if was_frozen != 0 && shard.frozen == 0 => state.mark(landmark::UNFROZEN),
                Entry::Absorb { .. } => state.mark(landmark::SECOND_ABSORB_REFUSED),
                _ => {}
            }
            let node = &mut state.nodes[usize::from(number)];
            match group {
                Group::Left => node.left = shard,
                Group::Right => node.right = shard,
            }
            let Entry::Write { op, attempt } = entry else { continue };
            let place = state.ops[usize::from(op)].attempts[usize::from(attempt)];
            if place == (Attempt::Logged { group, index: shard.applied, at: number }) {
                self.answer(state, op, attempt, group, answer);
            }
        }
    }

    /// The parts of applying Absorb: the rows in memory, the flush, the end of the right beside it.
    fn take_over(&self, state: &mut State, number: u8) {
        let together = state.crashes_left == 0;
        match state.nodes[usize::from(number)].phase {
            Phase::Idle => {
                self.apply_all(state, number, Group::Left);
                let node = &mut state.nodes[usize::from(number)];
                let Entry::Absorb { merge } = state.left_log.after(node.left.applied) else { return };
                // The bug decides without a freeze that everybody has; what it finds here it takes.
                let is_there = !node.right_gone && (node.right.frozen == merge || self.has(Bug::DecidedTwice));
                if !is_there {
                    node.left_stopped = true;
                    self.lose_attempts_at(state, number, Group::Left);
                    if state.left_leader == number {
                        state.left_leader = NOBODY;
                    }
                    return;
                }
                let right = node.right;
                self.absorb(&mut node.left, &right);
                node.phase = Phase::Taken;
                if self.has(Bug::RightGoneBeforeFlush) {
                    self.destroy_right(state, number);
                }
                if together {
                    self.take_over(state, number);
                }
            }
            Phase::Taken => {
                let node = &mut state.nodes[usize::from(number)];
                node.left_flushed = node.left;
                node.phase = Phase::Flushed;
                if together {
                    self.take_over(state, number);
                }
            }
            Phase::Flushed => state.nodes[usize::from(number)].phase = Phase::Idle,
        }
    }

    fn destroy_right(&self, state: &mut State, number: u8) {
        self.lose_attempts_at(state, number, Group::Right);
        if state.right_leader == number {
            state.right_leader = NOBODY;
        }
        let node = &mut state.nodes[usize::from(number)];
        node.right_gone = true;
        node.right = Shard::NOTHING;
        node.right_flushed = Shard::NOTHING;
    }

    fn install(&self, state: &mut State, number: u8) {
        let snapshot = state.nodes[usize::from(state.left_leader)].left;
        self.lose_attempts_at(state, number, Group::Left);
        let node = &mut state.nodes[usize::from(number)];
        node.left = snapshot;
        node.left_flushed = snapshot;
        node.left_stopped = false;
        state.mark(landmark::INSTALLED_PAST);
    }

    fn crash(&self, state: &mut State, number: u8) {
        state.crashes_left -= 1;
        self.lose_volatile(state, number);
        let node = &mut state.nodes[usize::from(number)];
        let absorbs_again = node.left.absorbed && !node.left_flushed.absorbed;
        node.left = node.left_flushed;
        node.right = node.right_flushed;
        node.phase = Phase::Idle;
        if absorbs_again {
            state.mark(landmark::ABSORBED_AGAIN_AFTER_CRASH);
        }
    }

    fn lose_volatile(&self, state: &mut State, number: u8) {
        if state.left_leader == number {
            state.left_leader = NOBODY;
        }
        if state.right_leader == number {
            state.right_leader = NOBODY;
        }
        self.lose_attempts_at(state, number, Group::Left);
        self.lose_attempts_at(state, number, Group::Right);
    }

    fn lose_attempts_at(&self, state: &mut State, number: u8, of: Group) {
        for client in &mut state.ops {
            for attempt in &mut client.attempts {
                match *attempt {
                    Attempt::Logged { at, group, .. } if at == number && group == of => *attempt = Attempt::Over,
                    Attempt::Waiting { at, group, .. } if at == number && group == of => *attempt = Attempt::Sent(of),
                    _ => {}
                }
            }
        }
    }

    pub(super) fn forget_what_no_longer_matters(&self, state: &mut State) {
        for client in &mut state.ops {
            if client.attempts == [Attempt::Over; 2] {
                client.floor = 0;
            }
        }
        if state.operation >= Operation::Abort {
            state.driver_sent = true;
        }
        if state.operation != Operation::Open && !self.has(Bug::DecidedTwice) {
            state.reported = 0;
        }
        if !self.has(Bug::UnfreezeOnce) {
            state.unfrozen_once = false;
        }
        if state.crashes_left == 0 {
            for node in &mut state.nodes {
                node.left_flushed = Shard { absorbed: node.left_flushed.absorbed, ..Shard::NOTHING };
                node.right_flushed = Shard { frozen: node.right_flushed.frozen, ..Shard::NOTHING };
            }
        }
    }
}
