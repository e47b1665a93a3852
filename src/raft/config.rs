//! Timing, and openraft's settings where its own defaults would lose data or lie (`openraft` §2–§3).

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use crate::mutants::planted;
use crate::types::ShardId;

/// Cluster-wide Raft timing: the same on every node, checked in the handshake, because a follower's patience and a
/// leader's lease are the two sides of one promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
    /// A leader that reached no quorum for this long probes, and steps down.
    pub quorum_loss_probe: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(600),
            quorum_loss_probe: Duration::from_millis(1200),
        }
    }
}

impl Timing {
    /// How long a read lease lasts, counted from the sending of the heartbeats that a quorum answered. openraft gives
    /// leader and follower the same duration and no margin for clocks that run at different rates; this is the margin.
    pub fn read_lease(&self) -> Duration {
        planted!(LeaseWithoutMargin => return self.election_max);
        self.election_max.mul_f64(0.7)
    }

    /// How long a restarted replica neither votes nor campaigns: it has forgotten the lease it granted, and the old leader
    /// may still trust it.
    pub fn hold_off(&self) -> Duration {
        self.election_max.mul_f64(1.1)
    }

    /// What the handshake compares.
    pub fn fingerprint(&self) -> u64 {
        let fields = [self.heartbeat, self.election_min, self.election_max, self.quorum_loss_probe];
        let bytes: Vec<u8> = fields.iter().flat_map(|field| (field.as_micros() as u64).to_be_bytes()).collect();
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    pub(super) fn openraft(&self, shard: ShardId, starts_held_off: bool) -> Arc<Config> {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).expect("timing is validated");
        let config = Config {
            cluster_name: format!("shard-{shard}"),
            heartbeat_interval: milliseconds(self.heartbeat),
            election_timeout_min: milliseconds(self.election_min),
            election_timeout_max: milliseconds(self.election_max),
            quorum_loss_probe_interval: Some(milliseconds(self.quorum_loss_probe)),
            enable_pre_vote: Some(true),
            // A restarted leader that leads on without an election gives the same log ids to other payloads when its
            // unflushed tail was lost: replicas diverge silently (`openraft` §3.1).
            enable_leader_restore: Some(false),
            enable_elect: !starts_held_off,
            // The log is purged only up to what is flushed, and the node's flusher decides when that is.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: KEPT_LOG_ENTRIES,
            purge_batch_size: 256,
            replication_lag_threshold: SNAPSHOT_LAG_ENTRIES,
            max_payload_entries: 1024,
            // Only a hint to `full_snapshot`, which has a progress time-out of its own.
            install_snapshot_timeout: 600_000,
            backoff: "20ms 50ms 100ms 200ms 500ms".into(),
            ..Config::default()
        };
        Arc::new(config.validate().expect("timing is validated with the node's configuration"))
    }
}

/// Log entries kept behind a snapshot, so that a follower a little behind is fed from the log.
const KEPT_LOG_ENTRIES: u64 = 1000;
/// A follower further behind than this is fed by a snapshot even where the log would do.
const SNAPSHOT_LAG_ENTRIES: u64 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_never_changes_and_notices_every_time() {
        let milliseconds = Duration::from_millis;
        let own = Timing {
            heartbeat: milliseconds(100),
            election_min: milliseconds(400),
            election_max: milliseconds(600),
            quorum_loss_probe: milliseconds(1200),
        };
        assert_eq!(own.fingerprint(), 0x5936_c3e4_2bf2_97b2, "nodes of two releases would refuse each other");
        let more = milliseconds(1);
        for other in [
            Timing { heartbeat: own.heartbeat + more, ..own },
            Timing { election_min: own.election_min + more, ..own },
            Timing { election_max: own.election_max + more, ..own },
            Timing { quorum_loss_probe: own.quorum_loss_probe + more, ..own },
        ] {
            assert_ne!(other.fingerprint(), own.fingerprint(), "{other:?}");
        }
    }
}
