//! Models of the hand-overs between Raft groups: splitting a shard, moving a replica, merging two shards.
//!
//! See the README beside this crate: what is modelled and what is taken as given, what was proved within which bounds,
//! and the orders that the implementation must keep.

pub mod case;
pub mod explore;
mod labels;
pub mod merge;
pub mod moving;
pub mod split;
pub mod suite;

use suite::Suite;

/// Every model there is.
#[must_use]
pub fn suites() -> Vec<Suite> {
    vec![
        Suite { name: "split", cases: split::cases() },
        Suite { name: "move", cases: moving::cases() },
        Suite { name: "merge", cases: merge::cases() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Selection;

    fn hold(model: &str, right: bool) {
        let suite = suites().into_iter().find(|suite| suite.name == model).unwrap().part(right);
        assert!(!suite.cases.is_empty(), "{model} has no such cases");
        let complaints = suite.run(&Selection::default(), |line| println!("{line}"));
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }

    #[test]
    fn the_right_split_keeps_every_promise_and_always_ends() {
        hold("split", true);
    }

    #[test]
    fn the_right_merge_keeps_every_promise_and_always_ends() {
        hold("merge", true);
    }

    #[test]
    fn each_planted_bug_of_the_merge_has_a_counterexample() {
        hold("merge", false);
    }

    #[test]
    fn the_right_move_keeps_every_promise_and_always_ends() {
        hold("move", true);
    }

    #[test]
    fn each_planted_bug_of_the_move_has_a_counterexample() {
        hold("move", false);
    }

    #[test]
    fn each_planted_bug_of_the_split_has_a_counterexample() {
        hold("split", false);
    }
}
