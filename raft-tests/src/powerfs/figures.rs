//! What the file system did and what it lost: the proof that a fault took place.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// What one power cut did, or several together.
#[derive(Serialize, Deserialize, Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Unsynced pages of files that are gone.
    pub pages_dropped: u64,
    /// Unsynced pages that a torn cut left, whole or in part, in their newest or an earlier state.
    pub pages_survived: u64,
    /// Files whose unsynced size is gone.
    pub sizes_undone: u64,
    /// Files that had been cut shorter without a sync, and are long again.
    pub truncations_undone: u64,
    /// Unsynced changes of directories that are gone.
    pub names_dropped: u64,
    pub names_survived: u64,
}

impl Lost {
    /// Zero when everything was synced, or all of it survived: such a cut was no more than a kill.
    pub fn dropped(&self) -> u64 {
        self.pages_dropped + self.names_dropped + self.sizes_undone + self.truncations_undone
    }

    pub fn survived(&self) -> u64 {
        self.pages_survived + self.names_survived
    }
}

impl AddAssign for Lost {
    fn add_assign(&mut self, other: Self) {
        self.pages_dropped += other.pages_dropped;
        self.pages_survived += other.pages_survived;
        self.sizes_undone += other.sizes_undone;
        self.truncations_undone += other.truncations_undone;
        self.names_dropped += other.names_dropped;
        self.names_survived += other.names_survived;
    }
}

/// Counts since the mount, and what stands at the moment. A fault was met when its count has grown.
#[derive(Serialize, Deserialize, Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    pub writes: u64,
    /// Syncs that answered that all is well.
    pub file_syncs: u64,
    pub directory_syncs: u64,
    /// Of those, the ones that made nothing durable.
    pub syncs_lied: u64,
    /// Syncs that were held up.
    pub syncs_delayed: u64,
    pub syncs_failed: u64,
    /// Writes, allocations and truncations that failed by order.
    pub writes_failed: u64,
    /// Writes, allocations and new entries for which there was no space.
    pub space_refused: u64,
    /// Reads that were given damaged bytes.
    pub damage_read: u64,
    pub cuts: u64,
    /// By all cuts together.
    pub lost: Lost,
    /// What a clean cut at this moment would drop.
    pub unsynced_pages: u64,
    pub unsynced_names: u64,
    /// Bytes of all files together.
    pub used_bytes: u64,
}
