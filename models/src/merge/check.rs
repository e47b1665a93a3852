//! The promises, and when the model is at rest.

use super::Merge;
use super::state::{Attempt, FAILED, Group, LEFT, Node, OPS_MAX, Operation, Phase, RIGHT, Shard, State, Wrong};

impl Merge {
    pub(super) fn broken_promise(&self, state: &State) -> Option<&'static str> {
        match state.wrong {
            Wrong::Nothing => {}
            Wrong::RevisionWentBack => return Some("a write got a revision that is not above what was told before"),
            Wrong::RevisionGivenTwice => return Some("two writes of a key got one revision"),
            Wrong::StaleRead => {
                return Some("a linearizable answer is older than what was told before it was asked for");
            }
            Wrong::RetryAnsweredDifferently => return Some("a retry got another answer than the first attempt"),
        }
        let twice = |shard: Shard| shard.times.iter().any(|times| *times > 1);
        if self.lefts(state).any(twice) || self.rights(state).any(twice) {
            return Some("an idempotent write was carried out twice");
        }
        if differ(self.lefts(state)) || differ(self.rights(state)) {
            return Some("two replicas of a group that applied the same entries differ");
        }
        self.owned_twice(state).or_else(|| self.missing(state))
    }

    fn lefts<'s>(&'s self, state: &'s State) -> impl Iterator<Item = Shard> + Clone + 's {
        let here = state.nodes.iter().filter(|node| node.has_left());
        here.map(|node| self.in_the_end(&state.left_log, node.left))
    }

    fn rights<'s>(&'s self, state: &'s State) -> impl Iterator<Item = Shard> + Clone + 's {
        let here = state.nodes.iter().filter(|node| node.has_right());
        here.map(|node| self.in_the_end(&state.right_log, node.right))
    }

    /// The right as it serves, if it does.
    fn serving_right(&self, state: &State) -> Option<Shard> {
        state.works(Group::Right).then(|| self.rights(state).next()).flatten().filter(|right| right.frozen == 0)
    }

    fn owned_twice(&self, state: &State) -> Option<&'static str> {
        let right = self.serving_right(state)?;
        let twice = state.works(Group::Left) && self.lefts(state).any(|left| left.range & right.range != 0);
        twice.then_some("two groups serve one token")
    }

    fn missing(&self, state: &State) -> Option<&'static str> {
        let right = self.serving_right(state);
        let lost = (0..OPS_MAX).any(|op| {
            let answer = state.ops[op].answer;
            let wrote = answer != 0 && answer & FAILED == 0 && !self.wants[op].is_read();
            let misses = |owner: Shard| owner.owns(self.wants[op].token()) && owner.times[op] == 0;
            // A left that has yet to take the right over has yet to hear of its writes.
            wrote
                && (right.is_some_and(misses)
                    || self.lefts(state).any(|left| self.is_at_end(state, &left) && misses(left)))
        });
        lost.then_some("the owner of a key lacks an acknowledged write")
    }

    fn is_at_end(&self, state: &State, left: &Shard) -> bool {
        left.applied == state.left_log.length
    }

    pub(super) fn is_over(&self, state: &State) -> bool {
        if !state.ops.iter().all(|op| op.attempts.iter().all(|attempt| *attempt == Attempt::Over)) {
            return false;
        }
        let merged = |node: &Node| {
            node.lost
                || (!node.left_stopped && node.phase == Phase::Idle && node.left_flushed.absorbed && node.right_gone)
        };
        let served = |token: u8| match self.serving_right(state) {
            Some(right) => right.owns(token),
            None => false,
        };
        match state.operation {
            Operation::Done => state.nodes.iter().all(merged),
            Operation::Abort => served(RIGHT) && self.lefts(state).all(|left| left.owns(LEFT)),
            Operation::Open | Operation::Absorb => false,
        }
    }
}

/// Replicas that applied the same number of entries are the same.
fn differ(shards: impl Iterator<Item = Shard> + Clone) -> bool {
    let alike = |one: Shard| shards.clone().all(|other| other.applied != one.applied || other == one);
    !shards.clone().all(alike)
}
