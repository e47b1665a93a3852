//! The promises, and when the model is at rest.

use super::Split;
use super::state::{Attempt, FAILED, NOBODY, Node, OPS_MAX, Operation, Phase, Shard, Stage, State, Wrong};

impl Split {
    pub(super) fn broken_promise(&self, state: &State) -> Option<&'static str> {
        match state.wrong {
            Wrong::Nothing => {}
            Wrong::RevisionWentBack => return Some("a write got a revision that is not above what was told before"),
            Wrong::RevisionGivenTwice => return Some("two writes of a key got one revision"),
            Wrong::StaleRead => {
                return Some("a linearizable answer is older than what was told before it was asked for");
            }
            Wrong::RetryAnsweredDifferently => return Some("a retry got another answer than the first attempt"),
            Wrong::ReplicaMadeAgain => {
                return Some("a replica that may have voted or acknowledged begins anew under its id");
            }
        }
        self.applied_twice(state)
            .or_else(|| self.differs(state))
            .or_else(|| self.owned_twice(state))
            .or_else(|| self.missing(state))
            .or_else(|| self.contradicts_catalog(state))
    }

    fn applied_twice(&self, state: &State) -> Option<&'static str> {
        let twice = |shard: Shard| shard.times.iter().any(|times| *times > 1);
        (self.parents(state).any(twice) || self.children(state).any(twice))
            .then_some("an idempotent write was carried out twice")
    }

    /// Replicas of a group are the same once they have applied the same entries.
    fn differs(&self, state: &State) -> Option<&'static str> {
        let parents = all_alike(self.parents(state));
        let children = all_alike(self.children(state));
        (!parents || !children).then_some("two replicas of a group that applied the same entries differ")
    }

    /// The parent's replicas as they are once they have applied all that is committed: what the group serves after the
    /// read barrier.
    fn parents<'s>(&'s self, state: &'s State) -> impl Iterator<Item = Shard> + 's {
        let here = state.nodes.iter().filter(|node| !node.lost && !node.moved_away);
        here.map(|node| self.parent_in_the_end(&state.parent_log, node.parent))
    }

    fn children<'s>(&'s self, state: &'s State) -> impl Iterator<Item = Shard> + 's {
        let here = state.nodes.iter().filter(|node| !node.lost && matches!(node.stage, Stage::Born | Stage::Live));
        here.map(|node| self.child_in_the_end(&state.child_log, node.child))
    }

    /// At most one group serves a token.
    fn owned_twice(&self, state: &State) -> Option<&'static str> {
        let child_serves = state.child_leader != NOBODY && state.child_log.length > 0;
        if state.parent_leader == NOBODY || !child_serves {
            return None;
        }
        let (parent, child) = (self.parents(state).next()?, self.children(state).next()?);
        (parent.range & child.range != 0).then_some("two groups serve one token")
    }

    /// The owner of a token has every write of it that a client was told of.
    fn missing(&self, state: &State) -> Option<&'static str> {
        let (parent, child) = (self.parents(state).next(), self.children(state).next());
        let misses = |owner: Option<Shard>, op: usize| {
            owner.is_some_and(|owner| owner.owns(self.wants[op].token()) && owner.times[op] == 0)
        };
        let lost = (0..OPS_MAX).any(|op| {
            let answer = state.ops[op].answer;
            let wrote = answer != 0 && answer & FAILED == 0 && !self.wants[op].is_read();
            wrote && (misses(parent, op) || misses(child, op))
        });
        lost.then_some("the owner of a key lacks an acknowledged write")
    }

    fn contradicts_catalog(&self, state: &State) -> Option<&'static str> {
        let was_split = state.nodes.iter().any(|node| node.parent.split);
        (state.operation == Operation::Aborted && was_split)
            .then_some("the operation is over as aborted, yet the shard is split")
    }

    /// The operation is over, every replica has done its part, every client knows or has given up.
    pub(super) fn is_over(&self, state: &State) -> bool {
        let settled = |attempt: &Attempt| matches!(attempt, Attempt::Over);
        if !state.ops.iter().all(|op| op.attempts.iter().all(settled)) {
            return false;
        }
        let at_rest = |node: &Node| node.lost || node.phase == Phase::Idle;
        let with_child = |node: &Node| node.lost || (node.stage == Stage::Live && state.child_log.length > 0);
        match state.operation {
            Operation::Closed => state.nodes.iter().all(at_rest) && state.nodes.iter().all(with_child),
            Operation::Aborted => state.nodes.iter().all(at_rest),
            _ => false,
        }
    }
}

fn all_alike(mut shards: impl Iterator<Item = Shard>) -> bool {
    let Some(first) = shards.next() else { return true };
    shards.all(|shard| shard == first)
}
