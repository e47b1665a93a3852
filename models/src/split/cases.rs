//! The bounds within which the split is explored, and those within which each planted bug must show.

use super::{Bug, Split, Token, Want};
use crate::case::{Case, Expected};

const RETRY: [Want; 3] = [Want::KeyedPut(Token::Right), Want::Nothing, Want::Nothing];
const RETRY_AND_READ: [Want; 3] = [Want::KeyedPut(Token::Right), Want::Read(Token::Right), Want::Nothing];
const RETRY_AND_CAS: [Want; 3] = [Want::KeyedPut(Token::Right), Want::CompareAndSet(Token::Right), Want::Nothing];
const BOTH_SIDES: [Want; 3] = [Want::Put(Token::Left), Want::Put(Token::Right), Want::Nothing];
const PUT_AND_READ: [Want; 3] = [Want::Put(Token::Right), Want::Read(Token::Right), Want::Nothing];
const ALL_THREE: [Want; 3] =
    [Want::KeyedPut(Token::Right), Want::CompareAndSet(Token::Right), Want::Read(Token::Right)];

impl Split {
    fn in_words(&self) -> String {
        let wants = self.wants.iter().filter(|want| **want != Want::Nothing);
        let wants: Vec<String> = wants.map(|want| format!("{want:?}")).collect();
        let mut words = vec![if wants.is_empty() { "no clients".to_string() } else { wants.join(" + ") }];
        let counts = [
            (self.crashes, "crash"),
            (self.losses, "node lost"),
            (self.meta_changes, "new meta leader"),
            (self.transfers, "transfer"),
            (self.moves, "move away"),
        ];
        words.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        words.extend(self.may_abort.then(|| "may be given up".to_string()));
        words.join(", ")
    }

    fn holds(self, name: &str) -> Case {
        Case::new(format!("split: {name}"), self.in_words(), Expected::Holds, self)
    }

    fn with(self, bug: Bug, expected: Expected) -> Case {
        let model = Split { bug: Some(bug), ..self };
        Case::new(format!("split, {bug:?}"), self.in_words(), expected, model)
    }
}

#[must_use]
pub fn cases() -> Vec<Case> {
    let quiet = Split::QUIET;
    let retry = Split { wants: RETRY, ..quiet };
    let read = Split { wants: RETRY_AND_READ, ..quiet };
    let cas = Split { wants: RETRY_AND_CAS, ..quiet };
    let mut cases = vec![
        Split { crashes: 2, losses: 1, meta_changes: 1, may_abort: true, moves: 1, ..quiet }.holds("faults alone"),
        Split { crashes: 1, ..retry }.holds("a retry under a crash"),
        Split { losses: 1, ..retry }.holds("a retry and a node lost"),
        read.holds("a retry and a read"),
        Split { wants: PUT_AND_READ, transfers: 1, ..quiet }.holds("a put, a read and a transfer"),
        cas.holds("a retry and a compare-and-set"),
        Split { wants: BOTH_SIDES, meta_changes: 1, may_abort: true, ..quiet }.holds("both sides, given up"),
        Split { crashes: 3, losses: 1, meta_changes: 2, may_abort: true, transfers: 1, moves: 1, ..quiet }
            .holds("more faults alone")
            .deep(),
        Split { crashes: 1, losses: 1, meta_changes: 1, may_abort: true, ..retry }
            .holds("a retry under many faults")
            .deep(),
        Split { crashes: 1, ..read }.holds("a retry and a read under a crash").deep(),
        Split { crashes: 1, ..cas }.holds("a retry and a compare-and-set under a crash").deep(),
        Split { transfers: 1, ..read }.holds("a retry, a read and a transfer").deep(),
        Split { wants: ALL_THREE, ..quiet }.holds("all three").deep(),
    ];
    cases.extend(Bug::ALL.into_iter().map(case_of));
    cases
}

/// The smallest bounds in which the bug shows.
fn case_of(bug: Bug) -> Case {
    let quiet = Split::QUIET;
    let read = Split { wants: PUT_AND_READ, ..quiet };
    match bug {
        Bug::OwnershipWhenProposed => read.with(bug, Expected::Broken("lacks an acknowledged write")),
        Bug::ParentNotNarrowed => quiet.with(bug, Expected::Broken("two groups serve one token")),
        Bug::SplitWithoutEpoch => {
            Split { meta_changes: 1, ..quiet }.with(bug, Expected::Broken("begins anew under its id"))
        }
        Bug::RecordsNotCarried => Split { wants: RETRY, ..quiet }.with(bug, Expected::Broken("carried out twice")),
        Bug::ClockNotCarried => {
            Split { wants: BOTH_SIDES, ..quiet }.with(bug, Expected::Broken("not above what was told before"))
        }
        Bug::ReadBeforeBarrier => {
            Split { transfers: 1, ..read }.with(bug, Expected::Broken("older than what was told"))
        }
        Bug::OwnershipBeforeBarrier => {
            Split { transfers: 1, ..read }.with(bug, Expected::Broken("older than what was told"))
        }
        Bug::LiveBeforeFlush => Split { crashes: 1, ..quiet }.with(bug, Expected::Broken("begins anew under its id")),
        Bug::NarrowedBeforeRecord => Split { crashes: 2, losses: 1, ..quiet }.with(bug, Expected::Stuck),
        Bug::BornAlwaysCounts => Split { crashes: 1, ..quiet }.with(bug, Expected::Broken("begins anew under its id")),
        Bug::BornNeverCounts => Split { crashes: 2, losses: 1, ..quiet }.with(bug, Expected::Stuck),
        Bug::SnapshotNotHeldBack => Split { losses: 1, ..quiet }.with(bug, Expected::Stuck),
        Bug::CatalogBeforeFence => quiet.with(bug, Expected::Stuck),
        Bug::AbortWithoutFence => Split { may_abort: true, ..quiet }.with(bug, Expected::Broken("over as aborted")),
        Bug::RefusalIsFailure => Split { meta_changes: 1, ..quiet }.with(bug, Expected::Broken("over as aborted")),
        Bug::ClosedEarly => Split { moves: 1, ..quiet }.with(bug, Expected::Stuck),
    }
}
