//! What is explored: the right models within their bounds, and each planted bug, which must give a counterexample.

use std::fmt;

use crate::explore::{Bounds, Model, Outcome, Verdict, explore};

/// More distinct states than any case has within its bounds: memory for about 4 GiB.
const STATES_MAX: usize = 40_000_000;

/// What a case must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No counterexample, and everything within the bounds was visited.
    Holds,
    /// A promise broken whose text contains this.
    Broken(&'static str),
    /// A state from which the operation never ends.
    Stuck,
}

pub struct Case {
    pub name: String,
    /// The bounds in words.
    pub bounds: String,
    pub expected: Expected,
    /// Takes minutes: not for CI.
    pub is_deep: bool,
    explore: Box<dyn Fn() -> Outcome + Send + Sync>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.bounds)
    }
}

impl Case {
    pub fn new<M>(name: impl Into<String>, bounds: impl Into<String>, expected: Expected, model: M) -> Self
    where
        M: Model + Send + Sync + 'static,
    {
        let explore = Box::new(move || explore(&model, Bounds { states_max: STATES_MAX }));
        Self { name: name.into(), bounds: bounds.into(), expected, is_deep: false, explore }
    }

    #[must_use]
    pub fn deep(self) -> Self {
        Self { is_deep: true, ..self }
    }

    #[must_use]
    pub fn run(&self) -> Outcome {
        (self.explore)()
    }

    /// What differs from what was expected; none when all is as it should be.
    #[must_use]
    pub fn complaint(&self, outcome: &Outcome) -> Option<String> {
        match (&self.expected, &outcome.verdict) {
            (Expected::Holds, Verdict::Holds) | (Expected::Stuck, Verdict::Stuck { .. }) => None,
            (Expected::Broken(wanted), Verdict::Broken { promise, .. }) if promise.contains(wanted) => None,
            (_, Verdict::Cut) => Some(format!("more than {STATES_MAX} states: nothing is decided")),
            (expected, verdict) => Some(format!(
                "expected {expected:?}, got {}",
                verdict.story().unwrap_or_else(|| "no counterexample".into())
            )),
        }
    }
}
