//! The bounds within which the move is explored, and those within which each planted bug must show.

use super::{Bug, Move};
use crate::case::{Case, Expected};

impl Move {
    fn in_words(&self) -> String {
        let mut words = vec![if self.source_leads { "the source leads" } else { "another one leads" }.to_string()];
        let counts = [
            (self.writes, "write"),
            (self.crashes, "crash"),
            (self.losses, "node lost"),
            (self.upsets, "needless election"),
            (self.time_outs, "step timed out"),
        ];
        words.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        words.extend(self.may_abort.then(|| "may be given up".to_string()));
        words.join(", ")
    }

    fn holds(self, name: &str) -> Case {
        Case::new(format!("move: {name}"), self.in_words(), Expected::Holds, self)
    }

    /// The smallest bounds in which the bug shows.
    fn needs(bug: Bug) -> Move {
        let quiet = Move::QUIET;
        match bug {
            Bug::WithoutJoint => Move { upsets: 1, crashes: 1, ..quiet },
            Bug::TwoChangesAtOnce => quiet,
            Bug::JointLeftAlone => Move { crashes: 1, ..quiet },
            Bug::SourceKeepsServing | Bug::LeaseCountsTheRemoved => {
                Move { source_leads: true, writes: 1, upsets: 1, ..quiet }
            }
            Bug::DestroyedVotes => Move { upsets: 1, ..quiet },
            Bug::TombstoneForgotten => Move { upsets: 1, ..quiet },
            Bug::DestroyedByCatalog => quiet,
            Bug::DestroyedByGroupAlone => quiet,
            Bug::ChangeUnconditional => Move { time_outs: 1, may_abort: true, ..quiet },
            Bug::AbortedWithLearner | Bug::CatalogReadBefore => Move { may_abort: true, ..quiet },
        }
    }
}

#[must_use]
pub fn cases() -> Vec<Case> {
    let quiet = Move::QUIET;
    let mut cases = vec![
        Move { writes: 1, crashes: 1, ..quiet }.holds("a crash"),
        Move { writes: 1, upsets: 1, ..quiet }.holds("a needless election"),
        Move { source_leads: true, writes: 1, upsets: 1, ..quiet }.holds("the source leads"),
        Move { losses: 1, may_abort: true, ..quiet }.holds("a node lost"),
        Move { crashes: 1, time_outs: 1, may_abort: true, ..quiet }.holds("given up"),
        Move { source_leads: true, writes: 2, crashes: 1, upsets: 1, may_abort: true, ..quiet }
            .holds("more of all")
            .deep(),
        Move { writes: 1, crashes: 1, losses: 1, may_abort: true, ..quiet }.holds("a node lost and a crash").deep(),
        Move { writes: 1, crashes: 2, upsets: 1, ..quiet }.holds("three elections").deep(),
    ];
    cases.extend(Bug::ALL.into_iter().map(case_of));
    cases
}

fn case_of(bug: Bug) -> Case {
    let expected = match bug {
        Bug::WithoutJoint => Expected::Broken("lacks an entry that was committed"),
        Bug::TwoChangesAtOnce => Expected::Broken("two changes of the membership"),
        Bug::JointLeftAlone | Bug::DestroyedByGroupAlone => Expected::Stuck,
        Bug::SourceKeepsServing | Bug::LeaseCountsTheRemoved => Expected::Broken("serves reads and lacks"),
        Bug::DestroyedVotes => Expected::Broken("a destroyed replica voted"),
        Bug::TombstoneForgotten => Expected::Broken("lacks an entry that was committed"),
        Bug::DestroyedByCatalog => Expected::Broken("voter of the committed membership is destroyed"),
        Bug::AbortedWithLearner | Bug::CatalogReadBefore | Bug::ChangeUnconditional => {
            Expected::Broken("over as aborted")
        }
    };
    let model = Move { bug: Some(bug), ..Move::needs(bug) };
    Case::new(format!("move, {bug:?}"), model.in_words(), expected, model)
}
