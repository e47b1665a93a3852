//! What one key may do, one step at a time: a register with revisions, compare-and-set and delete.
//!
//! The revision of a write whose answer was lost is not known, only that it lies above that of the write before. So a
//! state carries the smallest revision that is possible, and whether it is exact. That loses nothing: any larger choice
//! allows no more of what follows, until an answer names the revision, and then it is taken over.

use super::history::Expect;

/// A value, by its place among the values of its key: equal values have one.
pub(super) type ValueId = u32;

/// Invariant: of an absent key `exact` is false, so that equal states compare as equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// None: the key is absent.
    value: Option<ValueId>,
    /// The revision of the last write that changed the key is this or larger.
    revision_min: u64,
    /// It is this one.
    exact: bool,
}

/// What an operation does, or what it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// `revision` is known once it is answered.
    Put {
        value: ValueId,
        expect: Option<Expect>,
        revision: Option<u64>,
    },
    Delete {
        expect: Option<Expect>,
        revision: Option<u64>,
    },
    /// An answer that tells of the key, of a read or a 412; the value is not always sent.
    SeePresent {
        revision: u64,
        value: Option<ValueId>,
    },
    SeeAbsent,
    /// An answer that no state allows.
    Impossible,
}

impl Act {
    pub(super) fn is_observation(self) -> bool {
        matches!(self, Act::SeePresent { .. } | Act::SeeAbsent)
    }

    /// The revision that a write was answered with.
    pub(super) fn written_revision(self) -> Option<u64> {
        match self {
            Act::Put { revision, .. } | Act::Delete { revision, .. } => revision,
            Act::SeePresent { .. } | Act::SeeAbsent | Act::Impossible => None,
        }
    }
}

impl State {
    /// Of a key that was never written.
    pub(super) const NEW: Self = Self { value: None, revision_min: 0, exact: false };

    /// The state after the act, or None when it is not possible here.
    pub(super) fn after(self, act: Act) -> Option<Self> {
        match act {
            Act::Put { value, expect, revision } => self.where_holds(expect)?.changed(Some(value), revision),
            Act::Delete { expect, revision } => {
                let state = self.where_holds(expect)?;
                match (state.value, revision) {
                    // Nothing to delete, nothing changed.
                    (None, None) => Some(state),
                    // A revision says that there was something.
                    (None, Some(_)) => None,
                    (Some(_), revision) => state.changed(None, revision),
                }
            }
            Act::SeePresent { revision, value } => {
                let state = self.at_revision(revision)?;
                value.is_none_or(|value| state.value == Some(value)).then_some(state)
            }
            Act::SeeAbsent => self.value.is_none().then_some(self),
            Act::Impossible => None,
        }
    }

    /// Whether all that may follow `other` may also follow this state: its revision may be the other's, and may be lower.
    pub(super) fn allows_all_of(self, other: Self) -> bool {
        let same_revision = self.exact && other.exact && self.revision_min == other.revision_min;
        self.value == other.value && (same_revision || (!self.exact && self.revision_min <= other.revision_min))
    }

    fn where_holds(self, expect: Option<Expect>) -> Option<Self> {
        match expect {
            None => Some(self),
            Some(Expect::Revision(revision)) => self.at_revision(revision.0),
            Some(Expect::Exists) => self.value.is_some().then_some(self),
            Some(Expect::Absent) => self.value.is_none().then_some(self),
        }
    }

    /// The key is there, at this revision.
    fn at_revision(self, revision: u64) -> Option<Self> {
        let fits = if self.exact { revision == self.revision_min } else { revision >= self.revision_min };
        (self.value.is_some() && fits).then_some(Self { revision_min: revision, exact: true, ..self })
    }

    fn changed(self, value: Option<ValueId>, revision: Option<u64>) -> Option<Self> {
        let above = self.revision_min.checked_add(1)?;
        match revision {
            Some(revision) if revision < above => None,
            Some(revision) => Some(Self { value, revision_min: revision, exact: value.is_some() }),
            None => Some(Self { value, revision_min: above, exact: false }),
        }
    }
}

#[cfg(test)]
mod tests {
    use ringraft::types::Revision;

    use super::*;

    const fn put(value: ValueId, revision: Option<u64>) -> Act {
        Act::Put { value, expect: None, revision }
    }

    fn run(acts: &[Act]) -> Option<State> {
        acts.iter().try_fold(State::NEW, |state, &act| state.after(act))
    }

    #[test]
    fn revisions_only_rise() {
        assert!(run(&[put(1, Some(5)), put(2, Some(6))]).is_some());
        assert!(run(&[put(1, Some(5)), put(2, Some(5))]).is_none());
        // The delete took a revision that nobody was told: 6 at least.
        assert!(run(&[put(1, Some(5)), Act::Delete { expect: None, revision: None }, put(2, Some(6))]).is_none());
        assert!(run(&[put(1, Some(5)), Act::Delete { expect: None, revision: None }, put(2, Some(7))]).is_some());
        // Of nothing it takes none.
        assert!(run(&[Act::Delete { expect: None, revision: None }, put(2, Some(1))]).is_some());
    }

    #[test]
    fn an_unknown_revision_is_whatever_is_first_seen_and_stays_it() {
        let see = |revision| Act::SeePresent { revision, value: None };
        assert!(run(&[put(1, Some(5)), put(2, None), see(9), see(9)]).is_some());
        assert!(run(&[put(1, Some(5)), put(2, None), see(9), see(10)]).is_none());
        assert!(run(&[put(1, Some(5)), put(2, None), see(5)]).is_none());
        let swap = Act::Put { value: 3, expect: Some(Expect::Revision(Revision(9))), revision: Some(10) };
        assert!(run(&[put(1, Some(5)), put(2, None), swap, see(10)]).is_some());
        assert!(run(&[put(1, Some(5)), put(2, None), see(8), swap]).is_none());
    }

    #[test]
    fn a_lower_or_an_open_revision_allows_more_and_another_value_does_not() {
        let known = |value, revision| State { value: Some(value), revision_min: revision, exact: true };
        let at_least = |value, revision| State { exact: false, ..known(value, revision) };
        assert!(known(1, 5).allows_all_of(known(1, 5)) && at_least(1, 5).allows_all_of(at_least(1, 6)));
        assert!(at_least(1, 5).allows_all_of(known(1, 5)) && at_least(1, 5).allows_all_of(known(1, 6)));
        assert!(!known(1, 5).allows_all_of(known(1, 6)) && !known(1, 5).allows_all_of(at_least(1, 5)));
        assert!(!at_least(1, 6).allows_all_of(known(1, 5)) && !at_least(1, 5).allows_all_of(at_least(2, 5)));
    }

    #[test]
    fn conditions_hold_where_http_says_so() {
        let on = |expect| Act::Put { value: 2, expect: Some(expect), revision: None };
        assert!(run(&[on(Expect::Absent)]).is_some() && run(&[on(Expect::Exists)]).is_none());
        assert!(run(&[put(1, Some(5)), on(Expect::Absent)]).is_none());
        assert!(run(&[put(1, Some(5)), on(Expect::Exists)]).is_some());
        assert!(run(&[put(1, Some(5)), on(Expect::Revision(Revision(4)))]).is_none());
        assert!(run(&[on(Expect::Revision(Revision(0)))]).is_none());
    }
}
