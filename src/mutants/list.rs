//! The mutants by name, and which one this process has planted.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The environment variable that plants a mutant in `serve`. A build without the feature refuses it as unknown.
pub const VARIABLE: &str = "RINGRAFT_MUTANT";

/// What every program with this feature says of itself, and what is looked for in those that must not have it.
pub const MARKER: &str = "WITH PLANTED BUGS (feature mutants): for tests of the fault tests alone";

/// One planted bug. In parentheses: where it is, and what must be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// Log entries are acknowledged, by leader and follower, before they are synced (`storage/log_store.rs`, `append`).
    /// When a majority loses power, an acknowledged write is gone: no order of the answers explains a later read.
    AckBeforeFsync,
    /// A vote is granted before it is synced (`storage/log_store.rs`, `save_vote`). A voter that loses power has forgotten
    /// it and grants an older candidate the same term: two leaders, and what one of them acknowledged is cut off by the
    /// other: no order of the answers explains a later read.
    VoteNotSynced,
    /// A follower that does not answer an append in time is counted as if it had the entries (`raft/network.rs`,
    /// `append_entries`). A leader that is cut off acknowledges writes that the majority never hears of.
    AckBeforeQuorum,
    /// A linearizable read is answered by whoever believes that it leads, without a round of heartbeats
    /// (`raft/replica.rs`, `read_index`). A leader that is cut off answers with what was overwritten elsewhere.
    ReadWithoutReadIndex,
    /// A read trusts the whole lease and leaves no margin for clocks of different rates (`raft/config.rs`,
    /// `read_lease`). A leader with a slow clock that is cut off from followers with fast ones answers with what was
    /// overwritten elsewhere.
    LeaseWithoutMargin,
    /// A voter that restarts votes and campaigns at once, although it has forgotten the lease it granted
    /// (`raft/replica.rs`, `start`). The old leader, cut off, answers by that lease with what was overwritten elsewhere.
    LeaseKeptOverRestart,
    /// Conditions of writes are checked on the leader's rows when the write comes in, and not when it is applied
    /// (`shard/group.rs`, `write`; `machine/apply.rs`, `carry_out`). Of two writers that saw one revision both succeed.
    CheckOutsideApply,
    /// The applied record is written one batch behind the rows (`raft/state_machine.rs`, `write_batch`). A replica that
    /// restarts from flushed rows applies the last batch again: revisions that were answered change, replicas differ.
    ApplyTwiceAfterRestart,
    /// Each piece of a snapshot is synced when the next one comes, and the last one never, before the registry names the
    /// directory (`storage/replica_store.rs`, `Install`). A crash after that leaves rows out that the applied record
    /// vouches for: acknowledged writes are gone from this replica, and from its answers once it leads.
    SnapshotNotAtomic,
    /// Snapshots leave the idempotency records out (`raft/snapshot.rs`, `Sender::next_rows`). A leader that was filled by
    /// one carries a retried write out again.
    DedupLeftOutOfSnapshot,
    /// A write whose answer does not come in time is told as not applied, although it was proposed (`shard/group.rs`,
    /// `propose`). What certainly did not happen is read.
    NotAppliedAfterProposal,
    /// A parent goes on serving the tokens that its child has (`machine/split.rs`, `apply_split`). Who comes to it by an
    /// old route is answered with what was overwritten in the child, and writes what nobody will find there.
    SplitWithoutFence,
    /// A replica that its group has let go answers reads from its own rows, without asking anybody (`raft/replica.rs`,
    /// `read_index`). Who comes to it by an old route is answered with what was overwritten since.
    MoveLeavesSourceServing,
    /// A replica that was destroyed is made again, empty and under its id, by a Raft message to it (`api/peer.rs`,
    /// `answer`), so it votes and acknowledges for a group that has let it go. A replica that slept through the move is
    /// elected by it and answers with what was overwritten.
    RemovedStillVotes,
}

/// Why no mutant was planted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    Unknown(String),
    /// A process has one mutant from start to end.
    AlreadySelected(Mutant),
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Select::Unknown(name) => {
                let names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
                write!(f, "no mutant is named {name:?}; there are {}", names.join(", "))
            }
            Select::AlreadySelected(mutant) => write!(f, "this process has a mutant already: {mutant}"),
        }
    }
}

impl std::error::Error for Select {}

impl Mutant {
    pub const ALL: [Mutant; 14] = [
        Mutant::AckBeforeFsync,
        Mutant::VoteNotSynced,
        Mutant::AckBeforeQuorum,
        Mutant::ReadWithoutReadIndex,
        Mutant::LeaseWithoutMargin,
        Mutant::LeaseKeptOverRestart,
        Mutant::CheckOutsideApply,
        Mutant::ApplyTwiceAfterRestart,
        Mutant::SnapshotNotAtomic,
        Mutant::DedupLeftOutOfSnapshot,
        Mutant::NotAppliedAfterProposal,
        Mutant::SplitWithoutFence,
        Mutant::MoveLeavesSourceServing,
        Mutant::RemovedStillVotes,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Mutant::AckBeforeFsync => "ack-before-fsync",
            Mutant::VoteNotSynced => "vote-not-synced",
            Mutant::AckBeforeQuorum => "ack-before-quorum",
            Mutant::ReadWithoutReadIndex => "read-without-read-index",
            Mutant::LeaseWithoutMargin => "lease-without-margin",
            Mutant::LeaseKeptOverRestart => "lease-kept-over-restart",
            Mutant::CheckOutsideApply => "check-outside-apply",
            Mutant::ApplyTwiceAfterRestart => "apply-twice-after-restart",
            Mutant::SnapshotNotAtomic => "snapshot-not-atomic",
            Mutant::DedupLeftOutOfSnapshot => "dedup-left-out-of-snapshot",
            Mutant::NotAppliedAfterProposal => "not-applied-after-proposal",
            Mutant::SplitWithoutFence => "split-without-fence",
            Mutant::MoveLeavesSourceServing => "move-leaves-source-serving",
            Mutant::RemovedStillVotes => "removed-still-votes",
        }
    }

    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.name() == name)
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One more than the place in [`Mutant::ALL`], 0 while none is planted.
static SELECTED: AtomicUsize = AtomicUsize::new(0);

/// The mutant of this process.
pub fn selected() -> Option<Mutant> {
    SELECTED.load(Ordering::Relaxed).checked_sub(1).map(|place| Mutant::ALL[place])
}

pub fn is_on(mutant: Mutant) -> bool {
    SELECTED.load(Ordering::Relaxed) == mutant as usize + 1
}

/// Plants a mutant for the rest of this process's life.
pub fn select(name: &str) -> Result<(), Select> {
    let mutant = Mutant::find(name).ok_or_else(|| Select::Unknown(name.to_string()))?;
    match SELECTED.compare_exchange(0, mutant as usize + 1, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_none) => Ok(()),
        Err(there) => Err(Select::AlreadySelected(Mutant::ALL[there - 1])),
    }
}

/// Plants what [`VARIABLE`] names, and says so where the logs go, loudly.
pub fn select_from_environment() -> Result<(), Select> {
    match std::env::var(VARIABLE) {
        Ok(name) => {
            select(&name)?;
            tracing::error!(mutant = name, "THIS NODE HAS A PLANTED BUG and loses data or lies about it: {MARKER}");
        }
        Err(std::env::VarError::NotUnicode(name)) => return Err(Select::Unknown(name.to_string_lossy().into_owned())),
        Err(std::env::VarError::NotPresent) => {
            tracing::warn!("this program is built {MARKER}; none is planted, because {VARIABLE} is not set");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None is planted here: the other tests run in the same process.
    #[test]
    fn a_mutant_is_found_by_its_name_alone_and_none_is_on_by_itself() {
        assert_eq!(select("no-such-bug"), Err(Select::Unknown("no-such-bug".to_string())));
        let unknown = Select::Unknown("x".to_string()).to_string();
        for (place, mutant) in Mutant::ALL.into_iter().enumerate() {
            assert_eq!(mutant as usize, place, "the list is in the order of the enum");
            assert_eq!(Mutant::find(mutant.name()), Some(mutant));
            assert!(unknown.contains(mutant.name()), "{unknown}");
            assert!(!is_on(mutant), "{mutant} is on by itself");
        }
        assert_eq!(selected(), None);
    }
}
