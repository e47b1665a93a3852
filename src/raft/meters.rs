//! What a node's Raft groups measure, and when an entry passed each of its stages at the replica that proposed it.
//!
//! openraft tells a proposer the log id of its entry and nothing of the way there; so each replica notes when it gave
//! entries to its log, when they were synced, and when it began to apply ([`Timeline`]), and the proposer looks its own up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::{self, Moment};
use crate::meters::{COUNTS, Meters, SHORT_TIMES, Stage, Stages};

/// Appends that are remembered for each replica. Of a proposal further behind it is not known where its time went.
const APPENDS_MAX: usize = 512;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PathLabels {
    path: &'static str,
}

/// How a read was made sure of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadPath {
    ReadIndex,
    Lease,
    Stale,
}

impl ReadPath {
    pub const ALL: [Self; 3] = [Self::ReadIndex, Self::Lease, Self::Stale];

    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadIndex => "read_index",
            Self::Lease => "lease",
            Self::Stale => "stale",
        }
    }
}

/// Of all groups of a node. Cheap to clone.
#[derive(Clone)]
pub struct RaftMeters {
    stages: Family<StageLabels, Histogram>,
    reads: Family<PathLabels, Counter>,
    apply_batch_entries: Histogram,
    leader_changes: Counter,
    snapshot_bytes: Counter,
}

impl Default for RaftMeters {
    fn default() -> Self {
        let meters = Self {
            stages: Family::new_with_constructor(|| Histogram::new(SHORT_TIMES)),
            reads: Family::default(),
            apply_batch_entries: Histogram::new(COUNTS),
            leader_changes: Counter::default(),
            snapshot_bytes: Counter::default(),
        };
        // There from the start, so that a rate has something to begin at.
        for path in ReadPath::ALL {
            drop(meters.reads.get_or_create(&PathLabels { path: path.name() }));
        }
        for stage in WRITE_STAGES {
            drop(meters.stages.get_or_create(&StageLabels { stage: stage.name() }));
        }
        meters
    }
}

/// Those that a write passes at its leader.
const WRITE_STAGES: [Stage; 4] = [Stage::Queue, Stage::Fsync, Stage::Quorum, Stage::Apply];

impl Meters for RaftMeters {
    fn register(&self, registry: &mut Registry) {
        let help = "Where the time of a write goes at its leader: until it is given to the log (queue), until that is \
                    synced (fsync), until a majority has it (quorum), until it is applied (apply)";
        registry.register_with_unit("write_stage_duration", help, Unit::Seconds, self.stages.clone());
        let help = "Reads of one shard served by this node, by how they were made sure of";
        registry.register("reads", help, self.reads.clone());
        registry.register("apply_batch_entries", "Log entries applied in one batch", self.apply_batch_entries.clone());
        let help = "Times that a replica of this node came to know another leader of its group";
        registry.register("leader_changes", help, self.leader_changes.clone());
        let help = "Rows that this node sent to fill replicas on other nodes";
        registry.register_with_unit("snapshot_sent", help, Unit::Bytes, self.snapshot_bytes.clone());
    }
}

impl RaftMeters {
    pub fn count_read(&self, path: ReadPath) {
        self.reads.get_or_create(&PathLabels { path: path.name() }).inc();
    }

    pub(super) fn count_snapshot_bytes(&self, bytes: usize) {
        self.snapshot_bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn count_leader_change(&self) {
        self.leader_changes.inc();
    }

    #[cfg(test)]
    pub(super) fn leader_changes(&self) -> u64 {
        self.leader_changes.get()
    }

    pub(super) fn observe_batch(&self, entries: usize) {
        self.apply_batch_entries.observe(u32::try_from(entries).map_or(f64::MAX, f64::from));
    }

    pub(super) fn observe_write(&self, stages: &Stages) {
        for (stage, time) in stages.iter() {
            self.stages.get_or_create(&StageLabels { stage: stage.name() }).observe(time.as_secs_f64());
        }
    }
}

/// When one replica's entries passed their stages.
#[derive(Default)]
pub(super) struct Timeline {
    appends: Mutex<VecDeque<Append>>,
    apply_begun: Mutex<Option<Moment>>,
}

struct Append {
    first: u64,
    last: u64,
    at: Moment,
    synced: Option<Moment>,
}

/// One entry's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) proposed: Moment,
    pub(super) apply_begun: Option<Moment>,
    pub(super) applied: Moment,
}

impl Timeline {
    /// Entries are given to the log. What is given back tells of their sync.
    pub(super) fn append(self: &Arc<Self>, first: u64, last: u64) -> impl FnOnce() + Send + use<> {
        let mut appends = lock(&self.appends);
        if appends.len() == APPENDS_MAX {
            appends.pop_front();
        }
        appends.push_back(Append { first, last, at: clock::now(), synced: None });
        drop(appends);
        let timeline = Arc::clone(self);
        move || {
            let mut appends = lock(&timeline.appends);
            // The latest under these indexes: an earlier one may have been cut off.
            if let Some(append) = appends.iter_mut().rev().find(|append| append.first == first && append.last == last) {
                append.synced = Some(clock::now());
            }
        }
    }

    pub(super) fn begin_to_apply(&self) {
        *lock(&self.apply_begun) = Some(clock::now());
    }

    pub(super) fn apply_begun(&self) -> Option<Moment> {
        *lock(&self.apply_begun)
    }

    /// Where the time of the entry at `index` went; nothing when it is too long ago to be known.
    pub(super) fn stages(&self, index: u64, passed: Passed) -> Stages {
        let mut stages = Stages::default();
        let known = {
            let appends = lock(&self.appends);
            let found = appends.iter().rev().find(|append| (append.first..=append.last).contains(&index));
            found.map(|append| (append.at, append.synced))
        };
        let (Some((appended, synced)), Some(begun)) = (known, passed.apply_begun) else { return stages };
        // A majority of others may have it before the leader's own disk does.
        let synced = synced.unwrap_or(begun).min(begun);
        stages.add(Stage::Queue, between(passed.proposed, appended));
        stages.add(Stage::Fsync, between(appended, synced));
        stages.add(Stage::Quorum, between(synced, begun));
        stages.add(Stage::Apply, between(begun, passed.applied));
        stages
    }
}

fn between(from: Moment, to: Moment) -> Duration {
    to.since(from)
}

/// Nothing that is done under these locks can leave them half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(proposed: Moment, applied: Moment, begun: Moment) -> Passed {
        Passed { proposed, apply_begun: Some(begun), applied }
    }

    #[test]
    fn the_stages_of_an_entry_are_its_own_and_add_up() {
        let timeline = Arc::new(Timeline::default());
        let proposed = clock::now();
        let synced_old = timeline.append(1, 3);
        synced_old();
        // The leader changed, and index 3 came again.
        let synced = timeline.append(3, 5);
        synced();
        timeline.begin_to_apply();
        let begun = timeline.apply_begun().unwrap();
        let applied = begun.after(Duration::from_millis(7));
        let stages = timeline.stages(4, passed(proposed, applied, begun));
        assert_eq!(stages.sum(), applied.since(proposed));
        assert_eq!(stages.get(Stage::Apply), Some(Duration::from_millis(7)));
        let (first, second) = {
            let appends = lock(&timeline.appends);
            (appends[0].at, appends[1].at)
        };
        let at = |index| timeline.stages(index, passed(proposed, applied, begun)).get(Stage::Queue).unwrap();
        assert_eq!((at(2), at(3)), (first.since(proposed), second.since(proposed)));
        assert_eq!(timeline.stages(9, passed(proposed, applied, begun)), Stages::default());
    }

    #[test]
    fn a_majority_of_others_may_be_faster_than_the_own_disk() {
        let timeline = Arc::new(Timeline::default());
        let proposed = clock::now();
        let _never_synced = timeline.append(1, 1);
        let begun = clock::now().after(Duration::from_millis(5));
        let stages = timeline.stages(1, passed(proposed, begun, begun));
        assert_eq!(stages.get(Stage::Quorum), Some(Duration::ZERO));
        assert_eq!(stages.sum(), begun.since(proposed));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let timeline = Arc::new(Timeline::default());
        for index in 0..2 * APPENDS_MAX as u64 {
            drop(timeline.append(index, index));
        }
        assert_eq!(lock(&timeline.appends).len(), APPENDS_MAX);
    }
}
