//! The steps that clients, routers, nodes, groups and the operation's driver take, and the faults.

use super::apply::Answer;
use super::state::{
    Attempt, Entry, Group, LOG_MAX, Log, NOBODY, NODES, Node, OPS_MAX, Operation, Phase, RIGHT, Shard, Stage, State,
    Wrong,
};
use super::{Bug, Split, landmark};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A client begins an attempt; its router picks the group.
    Send {
        op: u8,
        attempt: u8,
    },
    /// The router hears of the child from the catalog.
    Refresh {
        op: u8,
    },
    /// A write reaches the leader: appended and committed. A read: the leader notes what is committed.
    Arrive {
        op: u8,
        attempt: u8,
    },
    /// A read's node takes its view.
    View {
        op: u8,
    },
    /// The driver sends the operation's step to the parent's leader.
    Drive,
    ProposeSplit,
    ProposeFence,
    /// The driver reads the parent at its leader and writes what it saw into the catalog.
    Learn,
    /// The driver saw every replica of the child.
    Close,
    /// The operation's time is over, or its owner no longer wants it.
    GiveUp,
    ElectParent(u8),
    ElectChild(u8),
    /// The child's leader commits an entry of its own.
    First,
    /// Applies all there is of the parent's log, up to a split. A follower of whom nobody waits for anything does so only
    /// on its way into a split: sooner or later makes no difference that anybody could see.
    Apply(u8),
    /// The next part of applying the split.
    Divide(u8),
    ApplyChild(u8),
    /// The parent's leader installs its snapshot, which is past the split.
    Install(u8),
    /// The node tells the catalog that its parent was installed past the split.
    Report(u8),
    /// The node makes the empty replica that the catalog orders.
    MakeEmpty(u8),
    /// The child's leader fills an empty replica.
    Fill(u8),
    /// The parent's replica on this node is moved to another node, and destroyed here.
    MoveAway(u8),
    Crash(u8),
    Lose(u8),
    MetaChange,
    Transfer(u8),
}

const ALL_NODES: std::ops::Range<u8> = 0..NODES as u8;

impl Split {
    pub(super) fn list_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for op in 0..OPS_MAX as u8 {
            self.list_client_steps(state, op, steps);
        }
        self.list_operation_steps(state, steps);
        for node in ALL_NODES {
            self.list_node_steps(state, node, steps);
        }
        if state.child_leader != NOBODY && state.child_log.length == 0 && state.live_children() >= 2 {
            steps.push(Step::First);
        }
        if state.meta_changes_left > 0 && state.driver_sent {
            steps.push(Step::MetaChange);
        }
    }

    fn list_client_steps(&self, state: &State, op: u8, steps: &mut Vec<Step>) {
        let client = &state.ops[usize::from(op)];
        for attempt in 0..2_u8 {
            match client.attempts[usize::from(attempt)] {
                // The second attempt is a retry: the first one was sent.
                Attempt::Unsent if attempt == 0 || client.attempts[0] != Attempt::Unsent => {
                    steps.push(Step::Send { op, attempt });
                }
                Attempt::Sent(group) if self.may_arrive(state, group) => steps.push(Step::Arrive { op, attempt }),
                Attempt::Waiting { group, index, at } => {
                    let replica = state.replica(group, at);
                    if replica.applied >= index || self.has(Bug::ReadBeforeBarrier) {
                        steps.push(Step::View { op });
                    }
                }
                _ => {}
            }
        }
        let unsettled = client.attempts.iter().any(|attempt| matches!(attempt, Attempt::Unsent));
        let published = matches!(state.operation, Operation::Published | Operation::Closed);
        if published && unsettled && !client.knows_child && self.want(op).token() == RIGHT {
            steps.push(Step::Refresh { op });
        }
    }

    /// A group takes a request when it has a leader that has committed an entry of its own. Frames to an unborn child wait.
    fn may_arrive(&self, state: &State, group: Group) -> bool {
        match group {
            Group::Parent => state.parent_leader != NOBODY && usize::from(state.parent_log.length) < LOG_MAX,
            Group::Child => {
                state.child_leader != NOBODY
                    && state.child_log.length > 0
                    && usize::from(state.child_log.length) < LOG_MAX
                    && state.live_children() >= 2
            }
        }
    }

    fn list_operation_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let room = usize::from(state.parent_log.length) < LOG_MAX;
        let has_leader = state.parent_leader != NOBODY;
        if state.splits_under_way > 0 && has_leader && room {
            steps.push(Step::ProposeSplit);
        }
        if state.fences_under_way > 0 && has_leader && room {
            steps.push(Step::ProposeFence);
        }
        match state.operation {
            Operation::Taken | Operation::Aborting => {
                if !state.driver_sent {
                    steps.push(Step::Drive);
                }
                if self.learned(state).is_some() {
                    steps.push(Step::Learn);
                }
                let wants_out = self.may_abort || (self.has(Bug::RefusalIsFailure) && state.refused);
                if state.operation == Operation::Taken && wants_out {
                    steps.push(Step::GiveUp);
                }
            }
            Operation::Published => {
                let is_there = |node: &Node| node.lost || node.stage == Stage::Live;
                if state.nodes.iter().all(is_there) || self.has(Bug::ClosedEarly) {
                    steps.push(Step::Close);
                }
            }
            Operation::Aborted | Operation::Closed => {}
        }
    }

    /// What a linearizable read of the parent's state tells the driver: whether the split happened, or never can.
    fn learned(&self, state: &State) -> Option<Operation> {
        let leader = state.nodes.get(usize::from(state.parent_leader))?;
        if leader.parent.applied != state.parent_log.length || leader.phase != Phase::Idle {
            return None;
        }
        match (leader.parent.split, leader.parent.epoch) {
            (true, _) => Some(Operation::Published),
            (false, 1) => None,
            (false, _) => Some(Operation::Aborted),
        }
    }

    fn list_node_steps(&self, state: &State, number: u8, steps: &mut Vec<Step>) {
        let node = &state.nodes[usize::from(number)];
        if node.lost {
            return;
        }
        if !node.moved_away {
            self.list_parent_steps(state, number, steps);
        }
        if node.stage == Stage::Live {
            if state.child_leader == NOBODY && state.voting_children() >= 2 {
                steps.push(Step::ElectChild(number));
            }
            let is_watched = state.child_leader == number || state.is_asked(number);
            // The leader of the parent looks at its own child before it sends a snapshot.
            let is_looked_at = state.parent_leader == number && node.child.applied == 0;
            if (is_watched || is_looked_at) && node.child.applied < state.child_log.length {
                steps.push(Step::ApplyChild(number));
            }
        }
        if node.stage == Stage::Empty && state.child_leader != NOBODY {
            steps.push(Step::Fill(number));
        }
        if node.stage == Stage::None && node.phase == Phase::Idle && self.orders_empty(state, number) {
            steps.push(Step::MakeEmpty(number));
        }
        if state.crashes_left > 0 {
            steps.push(Step::Crash(number));
        }
        if state.losses_left > 0 {
            steps.push(Step::Lose(number));
        }
    }

    fn list_parent_steps(&self, state: &State, number: u8, steps: &mut Vec<Step>) {
        let node = &state.nodes[usize::from(number)];
        if state.parent_leader == NOBODY {
            steps.push(Step::ElectParent(number));
        } else if state.parent_leader != number && state.transfers_left > 0 {
            steps.push(Step::Transfer(number));
        }
        if node.phase != Phase::Idle {
            steps.push(Step::Divide(number));
            return;
        }
        let is_watched = state.parent_leader == number || state.is_asked(number);
        match self.way_to_split(&state.parent_log, node.parent) {
            Some(0) => steps.push(Step::Divide(number)),
            Some(_) if !is_watched => steps.push(Step::Divide(number)),
            _ if is_watched && node.parent.applied < state.parent_log.length => steps.push(Step::Apply(number)),
            _ => {}
        }
        if self.may_install(state, number) {
            steps.push(Step::Install(number));
        }
        let installed = node.flushed.split && node.stage == Stage::None;
        let published = matches!(state.operation, Operation::Published | Operation::Closed);
        if installed && published && state.reported & (1 << number) == 0 {
            steps.push(Step::Report(number));
        }
        let may_move = match state.operation {
            Operation::Closed => true,
            Operation::Published => self.has(Bug::ClosedEarly),
            _ => false,
        };
        if may_move && state.moves_left > 0 && state.parent_leader != number {
            steps.push(Step::MoveAway(number));
        }
    }

    /// How many entries a replica of the parent has to apply before the split that it takes; none where there is no such.
    fn way_to_split(&self, log: &Log, mut shard: Shard) -> Option<u8> {
        let from = shard.applied;
        loop {
            match log.after(shard.applied) {
                Entry::None => return None,
                Entry::Split if self.takes_split(&shard) => return Some(shard.applied - from),
                entry => {
                    self.apply(&mut shard, entry);
                }
            }
        }
    }

    /// The leader sends a snapshot that is past the split only once its own child has applied an entry of its own: a
    /// majority then holds the child.
    fn may_install(&self, state: &State, number: u8) -> bool {
        let node = &state.nodes[usize::from(number)];
        let Some(leader) = state.nodes.get(usize::from(state.parent_leader)) else { return false };
        let child_stands = leader.stage == Stage::Live && leader.child.applied > 0;
        leader.parent.split
            && leader.phase == Phase::Idle
            && !node.parent.split
            && (child_stands || self.has(Bug::SnapshotNotHeldBack))
    }

    fn orders_empty(&self, state: &State, number: u8) -> bool {
        let reported = state.reported & (1 << number) != 0;
        // As for any replica that the catalog places on the node.
        let at_once = self.has(Bug::CatalogBeforeFence) && state.operation >= Operation::Taken;
        reported || at_once
    }

    pub(super) fn carry_out(&self, state: &mut State, step: Step) {
        match step {
            Step::Send { op, attempt } => self.send(state, op, attempt),
            Step::Refresh { op } => state.ops[usize::from(op)].knows_child = true,
            Step::Arrive { op, attempt } => self.arrive(state, op, attempt),
            Step::View { op } => self.view(state, op),
            Step::Drive => {
                state.driver_sent = true;
                match state.operation {
                    Operation::Aborting => state.fences_under_way += 1,
                    _ => state.splits_under_way += 1,
                }
            }
            Step::ProposeSplit => {
                state.splits_under_way -= 1;
                state.parent_log.append(Entry::Split);
            }
            Step::ProposeFence => {
                state.fences_under_way -= 1;
                state.parent_log.append(Entry::Fence);
            }
            Step::Learn => {
                if let Some(learned) = self.learned(state) {
                    self.end_operation(state, learned);
                }
            }
            Step::Close => {
                state.operation = Operation::Closed;
                state.mark(landmark::CLOSED);
            }
            Step::GiveUp => {
                if self.has(Bug::AbortWithoutFence) || self.has(Bug::RefusalIsFailure) {
                    self.end_operation(state, Operation::Aborted);
                } else {
                    state.operation = Operation::Aborting;
                    state.driver_sent = false;
                }
            }
            Step::ElectParent(node) => state.parent_leader = node,
            Step::Transfer(node) => {
                state.transfers_left -= 1;
                state.parent_leader = node;
            }
            Step::ElectChild(node) => state.child_leader = node,
            Step::First => {
                state.child_log.append(Entry::First);
            }
            Step::Apply(node) => self.apply_parent(state, node),
            Step::Divide(node) => self.divide(state, node),
            Step::ApplyChild(node) => self.apply_child(state, node),
            Step::Install(node) => self.install(state, node),
            Step::Report(node) => state.reported |= 1 << node,
            Step::MakeEmpty(node) => state.nodes[usize::from(node)].stage = Stage::Empty,
            Step::Fill(node) => {
                let source = state.nodes[usize::from(state.child_leader)].child;
                let node = &mut state.nodes[usize::from(node)];
                node.child = source;
                node.stage = Stage::Live;
                state.mark(landmark::EMPTY_FILLED);
            }
            Step::MoveAway(node) => {
                state.moves_left -= 1;
                state.nodes[usize::from(node)].moved_away = true;
                self.lose_attempts_at(state, node, Some(Group::Parent));
            }
            Step::Crash(node) => self.crash(state, node),
            Step::Lose(node) => {
                state.losses_left -= 1;
                state.nodes[usize::from(node)].lost = true;
                self.lose_volatile(state, node);
            }
            Step::MetaChange => {
                state.meta_changes_left -= 1;
                state.driver_sent = false;
            }
        }
    }

    fn end_operation(&self, state: &mut State, operation: Operation) {
        state.operation = operation;
        if operation == Operation::Aborted {
            state.mark(landmark::ABORTED);
        }
    }

    fn route(&self, state: &State, op: u8) -> Group {
        let knows = state.ops[usize::from(op)].knows_child && self.want(op).token() == RIGHT;
        if knows { Group::Child } else { Group::Parent }
    }

    fn send(&self, state: &mut State, op: u8, attempt: u8) {
        let group = self.route(state, op);
        let told = state.told[usize::from(self.want(op).token())];
        let client = &mut state.ops[usize::from(op)];
        if attempt == 0 {
            client.floor = told;
        }
        client.attempts[usize::from(attempt)] = Attempt::Sent(group);
    }

    fn arrive(&self, state: &mut State, op: u8, attempt: u8) {
        let Attempt::Sent(group) = state.ops[usize::from(op)].attempts[usize::from(attempt)] else { return };
        let leader = state.leader(group);
        let owns = state.replica(group, leader).owns(self.want(op).token());
        let early =
            self.has(Bug::OwnershipWhenProposed) || (self.has(Bug::OwnershipBeforeBarrier) && self.want(op).is_read());
        if early && !owns {
            return self.answer(state, op, attempt, group, Answer::NotOwner);
        }
        let place = if self.want(op).is_read() {
            Attempt::Waiting { group, index: state.log(group).length, at: leader }
        } else {
            let entry = Entry::Write { op, attempt };
            let index = match group {
                Group::Parent => state.parent_log.append(entry),
                Group::Child => state.child_log.append(entry),
            };
            Attempt::Logged { group, index, at: leader }
        };
        state.ops[usize::from(op)].attempts[usize::from(attempt)] = place;
    }

    /// One view holds the range and the row.
    fn view(&self, state: &mut State, op: u8) {
        let Attempt::Waiting { group, at, .. } = state.ops[usize::from(op)].attempts[0] else { return };
        let replica = *state.replica(group, at);
        let token = self.want(op).token();
        if !replica.owns(token) && !self.has(Bug::OwnershipBeforeBarrier) {
            return self.answer(state, op, 0, group, Answer::NotOwner);
        }
        if group == Group::Child {
            state.mark(landmark::READ_BY_CHILD);
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

    pub(super) fn apply_parent(&self, state: &mut State, number: u8) {
        loop {
            let mut shard = state.nodes[usize::from(number)].parent;
            let entry = state.parent_log.after(shard.applied);
            if entry == Entry::None || (entry == Entry::Split && self.takes_split(&shard)) {
                return;
            }
            let answer = self.apply(&mut shard, entry);
            state.nodes[usize::from(number)].parent = shard;
            if answer == Answer::SplitRefused {
                state.refused = true;
                if shard.split {
                    state.mark(landmark::SECOND_SPLIT_REFUSED);
                }
            }
            self.answer_if_asked(state, number, Group::Parent, shard.applied, entry, answer);
        }
    }

    fn apply_child(&self, state: &mut State, number: u8) {
        loop {
            let mut shard = state.nodes[usize::from(number)].child;
            let entry = state.child_log.after(shard.applied);
            if entry == Entry::None {
                return;
            }
            let answer = self.apply(&mut shard, entry);
            state.nodes[usize::from(number)].child = shard;
            self.answer_if_asked(state, number, Group::Child, shard.applied, entry, answer);
        }
    }

    /// The node that proposed an entry answers its client.
    fn answer_if_asked(&self, state: &mut State, node: u8, group: Group, index: u8, entry: Entry, answer: Answer) {
        let Entry::Write { op, attempt } = entry else { return };
        let place = state.ops[usize::from(op)].attempts[usize::from(attempt)];
        if place == (Attempt::Logged { group, index, at: node }) {
            self.answer(state, op, attempt, group, answer);
        }
    }

    /// Ends the process and starts it again: rows go back to what was flushed.
    fn crash(&self, state: &mut State, number: u8) {
        state.crashes_left -= 1;
        self.lose_volatile(state, number);
        let node = &mut state.nodes[usize::from(number)];
        node.parent = node.flushed;
        node.phase = Phase::Idle;
        if node.stage == Stage::Born {
            let is_past = node.flushed.split;
            let counts = (is_past && !self.has(Bug::BornNeverCounts)) || self.has(Bug::BornAlwaysCounts);
            node.stage = if counts { Stage::Live } else { Stage::None };
            state.mark(if counts { landmark::BORN_COUNTED } else { landmark::BORN_DISCARDED });
        }
    }

    fn lose_volatile(&self, state: &mut State, number: u8) {
        if state.parent_leader == number {
            state.parent_leader = NOBODY;
        }
        if state.child_leader == number {
            state.child_leader = NOBODY;
        }
        self.lose_attempts_at(state, number, None);
    }

    /// Writes that this node proposed stay without an answer; reads are asked again.
    fn lose_attempts_at(&self, state: &mut State, number: u8, of: Option<Group>) {
        for op in 0..OPS_MAX as u8 {
            let route = self.route(state, op);
            for attempt in &mut state.ops[usize::from(op)].attempts {
                match *attempt {
                    Attempt::Logged { at, group, .. } if at == number && of.is_none_or(|of| of == group) => {
                        *attempt = Attempt::Over;
                    }
                    Attempt::Waiting { at, group, .. } if at == number && of.is_none_or(|of| of == group) => {
                        *attempt = Attempt::Sent(route);
                    }
                    _ => {}
                }
            }
        }
    }

    /// States that differ only in what nothing depends on any more are one state.
    pub(super) fn forget_what_no_longer_matters(&self, state: &mut State) {
        for client in &mut state.ops {
            if client.attempts == [Attempt::Over; 2] {
                client.knows_child = false;
                client.floor = 0;
            }
        }
        if state.operation > Operation::Aborting {
            state.driver_sent = true;
        }
        if !self.has(Bug::RefusalIsFailure) {
            state.refused = false;
        }
        for node in &mut state.nodes {
            // Without another crash nobody reads more of it than whether the split is in it.
            if state.crashes_left == 0 {
                node.flushed = Shard { split: node.flushed.split, ..Shard::NOTHING };
            }
            if matches!(node.stage, Stage::None | Stage::Empty) && node.phase != Phase::Flushed {
                node.child = Shard::NOTHING;
            }
        }
    }
}
