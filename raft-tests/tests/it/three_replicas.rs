//! The Raft layer with three bare replicas in one process: no catalog, no router, no HTTP. Every case is one body that
//! runs in two worlds: on RocksDB over loopback TCP with a multi-threaded runtime for each node, and under turmoil on
//! disks in memory that lose what was not synced.

mod cluster;
mod disk;
mod divergence;
mod leases;
mod node;
mod reads;
mod real;
mod simulated;
mod snapshots;
mod votes;

use std::ops::RangeInclusive;

use ringraft::raft::Timing;

/// How a case is run.
#[derive(Clone)]
struct Setup {
    timing: Timing,
    /// Of the simulation.
    seeds: RangeInclusive<u64>,
    /// The end of a node takes what its log has not synced with it, in the real world too, which then has no RocksDB.
    loses_power: bool,
}

impl Setup {
    fn default() -> Self {
        Self { timing: Timing::default(), seeds: 1..=5, loses_power: false }
    }
}

macro_rules! cases {
    ($($(#[$doc:meta])* $case:ident: $body:path, $setup:expr;)*) => {
        mod on_rocksdb_over_tcp {
            use super::*;
            $($(#[$doc])* #[test] fn $case() { real::run($setup, $body); })*
        }
        mod in_simulation {
            use super::*;
            $($(#[$doc])* #[test] fn $case() { simulated::run($setup, $body); })*
        }
    };
}

cases! {
    a_founder_fills_two_empty_replicas_which_become_voters: votes::growth, Setup::default();
    when_the_leader_ends_another_one_leads_with_every_entry_and_the_old_one_follows: votes::failover, Setup::default();
    no_voter_that_restarts_makes_a_leader_while_the_old_one_trusts_its_lease: leases::both_voters_restart,
        Setup { timing: leases::TIMING, seeds: 1..=10, ..Setup::default() };
    a_restarted_voter_helps_no_candidate_while_the_old_leader_trusts_its_lease: leases::one_voter_restarts,
        Setup { timing: leases::TIMING, seeds: 1..=10, ..Setup::default() };
    a_leader_that_lost_entries_which_its_followers_have_gives_their_ids_to_no_others: divergence::leader_loses_its_tail,
        Setup { loses_power: true, ..Setup::default() };
    a_replica_that_was_away_while_the_log_was_purged_gets_the_rows: snapshots::away, Setup::default();
    a_snapshot_whose_connection_breaks_starts_over_and_arrives: snapshots::severed, Setup::default();
    reads_go_on_with_one_follower_and_end_with_an_error_without_any: reads::followers_cut_off, Setup::default();
}
