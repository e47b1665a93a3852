//! The promises, and when the model is at rest.

use super::Move;
use super::state::{FRESH, Kind, LEAVING, Life, Operation, Role, State, Wrong, members, voters};
use super::steps::all;

impl Move {
    pub(super) fn broken_promise(&self, state: &State) -> Option<&'static str> {
        match state.wrong {
            Wrong::Nothing => {}
            Wrong::DestroyedVoted => return Some("a destroyed replica voted"),
            Wrong::LeaderLacksCommitted => return Some("a leader lacks an entry that was committed"),
            Wrong::CommittedDiffers => return Some("what was committed is committed differently"),
        }
        let (_, membership) = state.committed.membership();
        let [old, new] = voters(membership);
        let is_voter = |id: u8| (old | new) & (1 << id) != 0;
        if all().any(|id| is_voter(id) && matches!(state.replica(id).life, Life::Destroyed)) {
            return Some("a voter of the committed membership is destroyed");
        }
        match state.operation {
            Operation::Aborted if is_voter(FRESH) => {
                return Some("the operation is over as aborted, yet the fresh replica votes");
            }
            Operation::Moved if is_voter(LEAVING) => {
                return Some("the operation is over as done, yet the old replica votes");
            }
            _ => {}
        }
        self.two_leaders(state).or_else(|| self.old_answer(state)).or_else(|| self.two_changes(state))
    }

    fn two_leaders(&self, state: &State) -> Option<&'static str> {
        let leads = |id: u8| state.replica(id).role == Role::Leader;
        let same_term = |first: u8, second: u8| state.replica(first).term == state.replica(second).term;
        let both =
            all().any(|first| (0..first).any(|second| leads(first) && leads(second) && same_term(first, second)));
        both.then_some("two replicas lead in one term")
    }

    /// Whoever may answer has every write that was acknowledged, which is every write that was ever committed.
    fn old_answer(&self, state: &State) -> Option<&'static str> {
        let acknowledged = state.committed.writes_up_to(state.committed.length());
        let is_old = |id: u8| {
            let replica = state.replica(id);
            self.serves(state, id) && replica.log.writes_up_to(replica.commit) < acknowledged
        };
        all().any(is_old).then_some("a replica serves reads and lacks an acknowledged write")
    }

    fn two_changes(&self, state: &State) -> Option<&'static str> {
        let standing = |id: u8| {
            let replica = state.replica(id);
            let open = &replica.log.entries()[usize::from(replica.commit.min(replica.log.length()))..];
            replica.role == Role::Leader && open.iter().filter(|entry| entry.kind.is_membership()).count() > 1
        };
        all().any(standing).then_some("two changes of the membership stand at once")
    }

    /// The operation is over, its replica is destroyed, and no membership that could still count names it.
    pub(super) fn is_over(&self, state: &State) -> bool {
        let gone = |id: u8| !matches!(state.replica(id).life, Life::Live);
        let (_, membership) = state.committed.membership();
        match state.operation {
            Operation::Moved => gone(LEAVING) && membership == Kind::New,
            Operation::Aborted => {
                let named = members(membership) & (1 << FRESH) != 0;
                gone(FRESH) && !named
            }
            Operation::Moving | Operation::Aborting => false,
        }
    }
}
