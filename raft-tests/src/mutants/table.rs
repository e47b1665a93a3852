//! Which script has to notice which planted bug, and by what.

use ringraft::mutants::Mutant;

use crate::sim::scripts::Sign;

/// A planted bug and what kills it.
pub(super) struct Kill {
    pub(super) mutant: Mutant,
    pub(super) script: &'static str,
    /// The violations that are expected of it. Any other one says that something else is wrong, and is no kill.
    pub(super) signs: &'static [Sign],
}

pub(super) const KILLS: [Kill; Mutant::ALL.len()] = [
    Kill { mutant: Mutant::AckBeforeFsync, script: "power-loss-of-all", signs: &[Sign::Read] },
    Kill { mutant: Mutant::VoteNotSynced, script: "forgotten-vote", signs: &[Sign::Read] },
    Kill { mutant: Mutant::AckBeforeQuorum, script: "write-at-cut-off-leader", signs: &[Sign::Read] },
    Kill { mutant: Mutant::ReadWithoutReadIndex, script: "read-at-cut-off-leader", signs: &[Sign::Read] },
    Kill { mutant: Mutant::LeaseWithoutMargin, script: "slow-clock", signs: &[Sign::LeaseRead] },
    Kill { mutant: Mutant::LeaseKeptOverRestart, script: "restarted-voters", signs: &[Sign::LeaseRead] },
    Kill { mutant: Mutant::CheckOutsideApply, script: "rival-writers", signs: &[Sign::Write] },
    Kill { mutant: Mutant::ApplyTwiceAfterRestart, script: "restart-from-flushed-rows", signs: &[Sign::Read] },
    Kill { mutant: Mutant::SnapshotNotAtomic, script: "crash-after-install", signs: &[Sign::Read] },
    Kill { mutant: Mutant::DedupLeftOutOfSnapshot, script: "retry-after-install", signs: &[Sign::Write] },
    Kill { mutant: Mutant::NotAppliedAfterProposal, script: "late-answer", signs: &[Sign::FailedWriteSeen] },
    Kill { mutant: Mutant::SplitWithoutFence, script: "old-route-after-split", signs: &[Sign::Read] },
    Kill { mutant: Mutant::MoveLeavesSourceServing, script: "old-route-after-move", signs: &[Sign::Read] },
    Kill { mutant: Mutant::RemovedStillVotes, script: "vote-of-a-destroyed-replica", signs: &[Sign::Read] },
];

#[cfg(test)]
mod tests {
    use ringraft::mutants::{is_on, select};

    use super::*;
    use crate::sim::scripts;

    #[test]
    fn every_mutant_has_one_script_and_every_script_one_mutant() {
        let mutants: Vec<Mutant> = KILLS.iter().map(|kill| kill.mutant).collect();
        assert_eq!(mutants, Mutant::ALL);
        let mut named: Vec<&str> = KILLS.iter().map(|kill| kill.script).collect();
        let mut all: Vec<&str> = scripts::ALL.iter().map(|script| script.name).collect();
        named.sort_unstable();
        all.sort_unstable();
        assert_eq!(named, all);
        assert!(KILLS.iter().all(|kill| !kill.signs.is_empty()));
    }

    #[test]
    fn a_mutant_is_planted_by_its_name_and_by_no_other() {
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::find(mutant.name()), Some(mutant));
            assert!(!is_on(mutant), "{mutant} is on by itself");
        }
        let refused = select("no-such-bug").unwrap_err().to_string();
        assert!(Mutant::ALL.iter().all(|mutant| refused.contains(mutant.name())), "{refused}");
    }
}
