//! What is read from the node at each scrape: how its replicas and its disk stand. Series of single shards are made on
//! request alone, because there may be thousands.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::admission::Admission;
use crate::meters::{self, Meters};
use crate::shard::limits::InFlight;
use crate::shard::{DiskGauges, ReplicaGauges};
use crate::storage::reserve::Room;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct NodeGauges {
    pub(super) replicas: Gauge,
    pub(super) replicas_failed: Gauge,
    groups_led: Gauge,
    groups_without_leader: Gauge,
    groups_under_replicated: Gauge,
    apply_lag: Gauge,
    follower_lag: Gauge,
    unflushed_bytes: Gauge,
    requests: Gauge,
    requests_max: Gauge,
    lateness: Gauge<f64, AtomicU64>,
    proposals: Gauge,
    proposals_max: Gauge,
    proposal_bytes: Gauge,
    proposal_bytes_max: Gauge,
    pub(super) catalog_version: Gauge,
    pub(super) uptime_seconds: Gauge,
    disk_free: Gauge,
    disk_size: Gauge,
    disk_reserve: Gauge,
    disk_room: Gauge,
    stored_bytes: Gauge,
    compression_ratio: Gauge<f64, AtomicU64>,
    cache_bytes: Gauge,
    cache_hits: Counter,
    cache_misses: Counter,
}

impl Meters for NodeGauges {
    fn register(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        add("replicas", "Replicas on this node", &self.replicas);
        add("replicas_failed", "Replicas on this node that do not run", &self.replicas_failed);
        add("groups_led", "Groups that a replica on this node leads", &self.groups_led);
        let help = "Groups whose replica on this node knows of no leader";
        add("groups_without_leader", help, &self.groups_without_leader);
        let help = "Groups led here of which fewer voters answer than the replication factor asks for";
        add("groups_under_replicated", help, &self.groups_under_replicated);
        let help = "Entries that are committed and not applied, of the replica here with the most";
        add("apply_lag_entries", help, &self.apply_lag);
        let help = "Entries that the voter furthest behind lacks, of the group led here with the most";
        add("follower_lag_entries", help, &self.follower_lag);
        add("requests_pending", "Requests of clients on keys in hand", &self.requests);
        add("requests_limit", "Requests in hand at which further ones are refused", &self.requests_max);
        add("proposals_pending", "Writes in flight: proposed and not resolved", &self.proposals);
        add("proposals_limit", "Writes in flight at which further ones are refused", &self.proposals_max);
        add("proposal_bytes_pending", "Bytes of keys and values of the writes in flight", &self.proposal_bytes);
        let help = "Bytes of keys and values in flight at which further writes are refused";
        add("proposal_bytes_limit", help, &self.proposal_bytes_max);
        add("catalog_version", "Version of the catalog this node works by", &self.catalog_version);
        add("uptime_seconds", "Time since the node began to serve", &self.uptime_seconds);
        add("disk_free_bytes", "Bytes free to this node on the file system of its data", &self.disk_free);
        add("disk_size_bytes", "Bytes of the file system of its data", &self.disk_size);
        add("disk_reserve_bytes", "Bytes kept back on that file system now", &self.disk_reserve);
        let help = "Room on the disk: 0 ample, 1 below the soft reserve (no growing writes), 2 below the hard reserve (the \
                    reserve is in use), 3 spent (no appends)";
        add("disk_room", help, &self.disk_room);
        add("storage_bytes", "Bytes of the log and of all replicas on disk, roughly", &self.stored_bytes);
        add("unflushed_bytes", "Bytes of rows that are in memory and in the log alone", &self.unflushed_bytes);
        add("block_cache_bytes", "Bytes of table files held in memory", &self.cache_bytes);
        let help = "Bytes of keys and values for each byte of table files that holds them";
        registry.register("compression_ratio", help, self.compression_ratio.clone());
        registry.register("block_cache_hits", "Blocks found in memory", self.cache_hits.clone());
        registry.register("block_cache_misses", "Blocks read from disk", self.cache_misses.clone());
        let help = "Time that the node's tasks waited for a processor when it was looked at last";
        registry.register_with_unit("lateness", help, Unit::Seconds, self.lateness.clone());
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "The version of this node; its value is 1", build);
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

impl NodeGauges {
    pub(super) fn set_replicas(&self, running: &[ReplicaGauges], replication_factor: usize) {
        let is_led = |gauges: &&ReplicaGauges| gauges.leads;
        let is_short = |gauges: &&ReplicaGauges| gauges.leads && gauges.voters_heard < replication_factor;
        let largest = |of: fn(&ReplicaGauges) -> u64| number(running.iter().map(of).max().unwrap_or(0));
        self.groups_led.set(count(running.iter().filter(is_led).count()));
        self.groups_without_leader.set(count(running.iter().filter(|gauges| !gauges.knows_leader).count()));
        self.groups_under_replicated.set(count(running.iter().filter(is_short).count()));
        self.apply_lag.set(largest(|gauges| gauges.apply_lag));
        self.follower_lag.set(largest(|gauges| gauges.follower_lag));
        self.unflushed_bytes.set(number(running.iter().map(|gauges| gauges.unflushed_bytes).sum()));
    }

    pub(super) fn set_in_flight(&self, now: InFlight) {
        self.proposals.set(count(now.entries));
        self.proposals_max.set(count(now.entries_max));
        self.proposal_bytes.set(count(now.bytes));
        self.proposal_bytes_max.set(count(now.bytes_max));
    }

    pub(super) fn set_admission(&self, now: &Admission) {
        self.requests.set(count(now.clients().in_hand()));
        self.requests_max.set(count(now.clients().bound()));
        self.lateness.set(now.lateness().as_secs_f64());
    }

    pub(super) fn set_disk(&self, disk: &DiskGauges) {
        self.disk_free.set(number(disk.free_bytes));
        self.disk_size.set(number(disk.size_bytes));
        self.disk_reserve.set(number(disk.reserve_bytes));
        self.disk_room.set(match disk.room {
            Room::Ample => 0,
            Room::BelowSoft => 1,
            Room::BelowHard => 2,
            Room::Spent => 3,
        });
        self.stored_bytes.set(number(disk.stored_bytes));
        #[expect(clippy::cast_precision_loss, reason = "a ratio of sizes")]
        let ratio = |raw: u64, stored: u64| raw as f64 / stored as f64;
        // Without tables nothing is compressed.
        let is_empty = disk.tables.stored == 0;
        self.compression_ratio.set(if is_empty { 1.0 } else { ratio(disk.tables.raw, disk.tables.stored) });
        self.cache_bytes.set(number(disk.cache.bytes));
        self.cache_hits.inner().store(disk.cache.hits, Ordering::Relaxed);
        self.cache_misses.inner().store(disk.cache.misses, Ordering::Relaxed);
    }
}

pub(super) fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

pub(super) fn number(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReplicaLabels {
    shard: u64,
    replica: u64,
}

/// Series of each replica here.
pub(super) fn of_shards(running: &[ReplicaGauges]) -> Registry {
    let mut registry = meters::registry();
    let mut add = |name: &str, help: &str, unit: Option<Unit>, of: fn(&ReplicaGauges) -> u64| {
        let family = Family::<ReplicaLabels, Gauge>::default();
        for gauges in running {
            let labels = ReplicaLabels { shard: gauges.shard.0, replica: gauges.replica.0 };
            family.get_or_create(&labels).set(number(of(gauges)));
        }
        register(&mut registry, name, help, unit, family);
    };
    add("shard_is_leader", "1 where the replica leads its group", None, |gauges| u64::from(gauges.leads));
    add("shard_term", "Raft term of the replica", None, |gauges| gauges.term);
    add("shard_applied_index", "Last log entry that the replica has applied", None, |gauges| gauges.applied_index);
    let help = "Entries that are committed and not applied";
    add("shard_apply_lag_entries", help, None, |gauges| gauges.apply_lag);
    let help = "Entries that the voter furthest behind lacks; 0 but at the leader";
    add("shard_follower_lag_entries", help, None, |gauges| gauges.follower_lag);
    add("shard_disk", "Bytes of the replica's rows on disk, roughly", Some(Unit::Bytes), |gauges| gauges.disk_bytes);
    registry
}

fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, metric: impl Metric) {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric),
        None => registry.register(name, help, metric),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{BlockCache, TableBytes};
    use crate::types::{ReplicaId, ShardId};
    use prometheus_client::encoding::text::encode;

    fn replica(shard: u64, leads: bool, voters_heard: usize) -> ReplicaGauges {
        ReplicaGauges {
            shard: ShardId(shard),
            replica: ReplicaId(10 + shard),
            leads,
            knows_leader: leads,
            term: 1,
            applied_index: 5,
            apply_lag: shard,
            follower_lag: 2 * shard,
            voters_heard,
            disk_bytes: 100,
            unflushed_bytes: 10,
        }
    }

    fn has(registry: &Registry, lines: &[&str]) {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        for line in lines {
            assert!(text.lines().any(|is| is == *line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_replica_that_stands_worst_is_told_and_groups_short_of_voters_are_counted() {
        let gauges = NodeGauges::default();
        let mut registry = meters::registry();
        gauges.register(&mut registry);
        gauges.set_replicas(&[replica(1, true, 3), replica(2, true, 2), replica(3, false, 0)], 3);
        let lines = [
            "ringraft_groups_led 2",
            "ringraft_groups_without_leader 1",
            "ringraft_groups_under_replicated 1",
            "ringraft_apply_lag_entries 3",
            "ringraft_follower_lag_entries 6",
            "ringraft_unflushed_bytes 30",
        ];
        has(&registry, &lines);
        let cache = BlockCache { hits: 7, misses: 3, bytes: 1 };
        let tables = TableBytes { raw: 300, stored: 120, deletions: 0 };
        let room = Room::BelowHard;
        let disk = DiskGauges { free_bytes: 5, size_bytes: 9, reserve_bytes: 2, room, stored_bytes: 4, tables, cache };
        gauges.set_disk(&disk);
        gauges.set_in_flight(InFlight { entries: 1, entries_max: 2, bytes: 3, bytes_max: 4 });
        let admission = Admission::default();
        let _in_hand = admission.clients().enter();
        gauges.set_admission(&admission);
        let lines = [
            "ringraft_requests_pending 1",
            "ringraft_lateness_seconds 0.0",
            "ringraft_compression_ratio 2.5",
            "ringraft_block_cache_hits_total 7",
            "ringraft_disk_free_bytes 5",
            "ringraft_disk_reserve_bytes 2",
            "ringraft_disk_room 2",
            "ringraft_proposals_limit 2",
            "ringraft_proposal_bytes_pending 3",
        ];
        has(&registry, &lines);
    }

    #[test]
    fn a_shard_has_series_of_its_own_on_request() {
        let registry = of_shards(&[replica(1, true, 3), replica(2, false, 0)]);
        let lines = [
            r#"ringraft_shard_is_leader{shard="1",replica="11"} 1"#,
            r#"ringraft_shard_is_leader{shard="2",replica="12"} 0"#,
            r#"ringraft_shard_disk_bytes{shard="1",replica="11"} 100"#,
        ];
        has(&registry, &lines);
    }
}
