//! Applying the split on one node, part by part, and the snapshot that takes its place.

use super::state::{Attempt, Group, Phase, Stage, State, Wrong};
use super::{Bug, Split};

impl Split {
    /// The parts of applying a split, in this order. Without another crash to come nobody can see whether a record or a
    /// flush came before what follows it: two parts are one step then.
    pub(super) fn divide(&self, state: &mut State, number: u8) {
        let together = state.crashes_left == 0;
        match state.nodes[usize::from(number)].phase {
            Phase::Idle => {
                self.apply_parent(state, number);
                if self.has(Bug::NarrowedBeforeRecord) {
                    return self.divide_in_the_wrong_order(state, number);
                }
                self.record_birth(state, number);
                if together {
                    self.divide(state, number);
                }
            }
            Phase::Recorded => {
                let node = &mut state.nodes[usize::from(number)];
                self.narrow(&mut node.parent);
                node.phase = Phase::Narrowed;
            }
            Phase::Narrowed => {
                let node = &mut state.nodes[usize::from(number)];
                node.flushed = node.parent;
                node.phase = Phase::Flushed;
                if together {
                    self.divide(state, number);
                }
            }
            Phase::Flushed => {
                let node = &mut state.nodes[usize::from(number)];
                if node.stage == Stage::Born || self.has(Bug::NarrowedBeforeRecord) {
                    node.stage = Stage::Live;
                }
                node.phase = Phase::Idle;
            }
        }
    }

    fn record_birth(&self, state: &mut State, number: u8) {
        let node = &mut state.nodes[usize::from(number)];
        node.phase = Phase::Recorded;
        match node.stage {
            // An order of the catalog made it already: the record is there, and the birth does nothing.
            Stage::Empty => {}
            Stage::Live if self.has(Bug::CatalogBeforeFence) => {}
            // It may have voted or acknowledged under its id, and now it begins anew.
            Stage::Live => state.wrong = Wrong::ReplicaMadeAgain,
            Stage::None | Stage::Born => {
                node.child = self.born_of(&node.parent);
                node.stage = if self.has(Bug::LiveBeforeFlush) { Stage::Live } else { Stage::Born };
            }
        }
    }

    fn divide_in_the_wrong_order(&self, state: &mut State, number: u8) {
        let node = &mut state.nodes[usize::from(number)];
        node.child = self.born_of(&node.parent);
        self.narrow(&mut node.parent);
        node.flushed = node.parent;
        node.phase = Phase::Flushed;
    }

    /// The snapshot is flushed before it counts. What this node had proposed and not applied stays unanswered.
    pub(super) fn install(&self, state: &mut State, number: u8) {
        let snapshot = state.nodes[usize::from(state.parent_leader)].parent;
        let node = &mut state.nodes[usize::from(number)];
        node.parent = snapshot;
        node.flushed = snapshot;
        for client in &mut state.ops {
            for attempt in &mut client.attempts {
                if let Attempt::Logged { group: Group::Parent, index, at } = *attempt
                    && at == number
                    && index <= snapshot.applied
                {
                    *attempt = Attempt::Over;
                }
            }
        }
    }
}
