//! Runs the cases of a model and judges them together: what the program prints and the tests hold to.

use std::collections::BTreeSet;

use crate::case::{Case, Expected};

/// The cases of one model: right ones first, then one for each planted bug.
pub struct Suite {
    pub name: &'static str,
    pub cases: Vec<Case>,
}

/// Which cases to run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Also those that take minutes.
    pub deep: bool,
    /// Only those whose name contains this.
    pub only: Option<String>,
}

impl Selection {
    fn takes(&self, case: &Case) -> bool {
        let named = self.only.as_ref().is_none_or(|only| case.name.contains(only.as_str()));
        named && (self.deep || self.only.is_some() || !case.is_deep)
    }
}

impl Suite {
    /// Runs what is selected, says each result, and returns what is not as it should be.
    #[must_use]
    pub fn run(&self, selection: &Selection, mut say: impl FnMut(&str)) -> Vec<String> {
        let mut complaints = Vec::new();
        // A landmark that no right case shows means that the promises were never put to the test.
        let mut unseen: Option<BTreeSet<&'static str>> = None;
        for case in self.cases.iter().filter(|case| selection.takes(case)) {
            let outcome = case.run();
            let verdict = match (case.complaint(&outcome), case.expected) {
                (Some(complaint), _) => {
                    complaints.push(format!("{}: {complaint}", case.name));
                    format!("NOT AS EXPECTED: {complaint}")
                }
                (None, Expected::Holds) => "holds".to_string(),
                (None, _) => outcome.verdict.story().unwrap_or_default(),
            };
            say(&format!("{} ({}): {outcome}\n  {verdict}", case.name, case.bounds));
            if case.expected == Expected::Holds {
                let missed: BTreeSet<_> = outcome.unseen.into_iter().collect();
                unseen = Some(unseen.map_or(missed.clone(), |before| &before & &missed));
            }
        }
        if selection.only.is_none() {
            let unseen = unseen.unwrap_or_default();
            complaints
                .extend(unseen.iter().map(|landmark| format!("{}: it never happened that {landmark}", self.name)));
        }
        complaints
    }

    /// For the tests: the right cases of CI alone, or the planted bugs alone.
    #[must_use]
    pub fn part(self, right: bool) -> Self {
        let takes = |case: &Case| (case.expected == Expected::Holds) == right;
        Self { cases: self.cases.into_iter().filter(takes).collect(), ..self }
    }
}
