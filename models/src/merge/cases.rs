//! The bounds within which the merge is explored, and those within which each planted bug must show.

use super::{Bug, Merge, Want};
use crate::case::{Case, Expected};
use crate::split::Token;

const RETRY: [Want; 3] = [Want::KeyedPut(Token::Right), Want::Nothing, Want::Nothing];
const PUT_AND_READ: [Want; 3] = [Want::Put(Token::Right), Want::Read(Token::Right), Want::Nothing];
const RETRY_AND_CAS: [Want; 3] = [Want::KeyedPut(Token::Right), Want::CompareAndSet(Token::Right), Want::Nothing];
const BOTH_SIDES: [Want; 3] = [Want::Put(Token::Left), Want::Put(Token::Right), Want::Nothing];

impl Merge {
    fn in_words(&self) -> String {
        let wants = self.wants.iter().filter(|want| **want != Want::Nothing);
        let wants: Vec<String> = wants.map(|want| format!("{want:?}")).collect();
        let mut words = vec![if wants.is_empty() { "no clients".to_string() } else { wants.join(" + ") }];
        let counts = [
            (self.crashes, "crash"),
            (self.losses, "node lost"),
            (self.meta_changes, "new meta leader"),
            (self.more_merges, "more merge"),
            (self.finders - 1, "more finder"),
        ];
        words.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        words.extend(self.may_abort.then(|| "may be aborted".to_string()));
        words.join(", ")
    }

    fn holds(self, name: &str) -> Case {
        Case::new(format!("merge: {name}"), self.in_words(), Expected::Holds, self)
    }
}

#[must_use]
pub fn cases() -> Vec<Case> {
    let quiet = Merge::QUIET;
    let retry = Merge { wants: RETRY, ..quiet };
    let mut cases = vec![
        Merge { crashes: 2, losses: 1, meta_changes: 1, may_abort: true, ..quiet }.holds("faults alone"),
        Merge { more_merges: 1, finders: 2, may_abort: true, ..quiet }.holds("two merges"),
        Merge { crashes: 1, ..retry }.holds("a retry under a crash"),
        Merge { may_abort: true, ..retry }.holds("a retry, aborted"),
        Merge { wants: PUT_AND_READ, may_abort: true, ..quiet }.holds("a put and a read"),
        Merge { wants: BOTH_SIDES, ..quiet }.holds("both sides"),
        Merge { crashes: 2, losses: 1, meta_changes: 1, finders: 2, may_abort: true, ..quiet }
            .holds("more faults alone")
            .deep(),
        Merge { wants: RETRY_AND_CAS, may_abort: true, ..quiet }.holds("a retry and a compare-and-set").deep(),
        Merge { crashes: 1, losses: 1, meta_changes: 1, may_abort: true, ..retry }
            .holds("a retry under many faults")
            .deep(),
        Merge { wants: PUT_AND_READ, crashes: 1, more_merges: 1, may_abort: true, ..quiet }
            .holds("a put and a read, two merges, a crash")
            .deep(),
    ];
    cases.extend(Bug::ALL.into_iter().map(case_of));
    cases
}

/// The smallest bounds in which the bug shows.
fn case_of(bug: Bug) -> Case {
    let quiet = Merge::QUIET;
    let two_owners = Expected::Broken("two groups serve one token");
    let (model, expected) = match bug {
        Bug::ClockNotMaximum => {
            (Merge { wants: BOTH_SIDES, ..quiet }, Expected::Broken("not above what was told before"))
        }
        Bug::RecordsNotTakenOver => (Merge { wants: RETRY, ..quiet }, Expected::Broken("carried out twice")),
        Bug::FrozenAnswersReads => {
            (Merge { wants: PUT_AND_READ, ..quiet }, Expected::Broken("older than what was told"))
        }
        Bug::DecidedByMajority => (Merge { losses: 1, ..quiet }, Expected::Stuck),
        Bug::ReportedUnflushed => (Merge { crashes: 3, ..quiet }, Expected::Stuck),
        Bug::DecidedTwice => (Merge { may_abort: true, ..quiet }, two_owners),
        Bug::UnfreezeAny => (Merge { more_merges: 1, finders: 2, may_abort: true, ..quiet }, two_owners),
        Bug::UnfreezeOnce => (Merge { may_abort: true, ..quiet }, Expected::Stuck),
        Bug::RightGoneBeforeFlush => (Merge { crashes: 2, losses: 1, ..quiet }, Expected::Stuck),
        Bug::RightGoneByGroup => (Merge { losses: 1, ..quiet }, Expected::Stuck),
        Bug::AbsorbWithoutEpoch => (Merge { meta_changes: 1, ..quiet }, Expected::Stuck),
    };
    let model = Merge { bug: Some(bug), ..model };
    Case::new(format!("merge, {bug:?}"), model.in_words(), expected, model)
}
