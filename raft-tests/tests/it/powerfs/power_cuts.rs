//! Ringraft's own log store, and whole nodes, in processes that are killed as the power fails: what was acknowledged is
//! there. And the same with bugs planted, each of which must be seen.

use std::path::Path;

use raft_tests::power_cuts::{Plan, Plant, run};
use raft_tests::record::Verdict;

use super::life::PROGRAM;
use super::skipped;

const CUTS: u64 = 24;
const SEED: u64 = 1;

fn plan(plant: Option<Plant>) -> Plan {
    Plan { whole_cluster: false, cuts: CUTS, seed: SEED, plant, out: None }
}

#[tokio::test]
async fn what_the_log_store_acknowledged_survives_power_cuts() {
    if skipped() {
        return;
    }
    let run = run(&plan(None), Path::new(PROGRAM)).await;
    assert_eq!(run.verdict(), Verdict::Good, "{run:#?}");
    assert_eq!(run.faults.values().map(|count| count.confirmed).sum::<u64>(), CUTS);
}

async fn must_be_seen(plant: Plant) {
    if skipped() {
        return;
    }
    let run = run(&plan(Some(plant)), Path::new(PROGRAM)).await;
    assert_eq!(run.verdict(), Verdict::Violation, "{} went unseen: {run:#?}", plant.name());
    println!("{}: {}", plant.name(), run.violations[0]);
}

#[tokio::test]
async fn a_writer_that_acknowledges_before_the_sync_is_seen() {
    must_be_seen(Plant::AckEarly).await;
}

#[tokio::test]
async fn a_disk_that_lies_about_syncs_of_files_is_seen() {
    must_be_seen(Plant::LieSync).await;
}

#[tokio::test]
async fn a_disk_that_lies_about_syncs_of_directories_is_seen() {
    must_be_seen(Plant::LieDirsync).await;
}

/// One of one node, two of all at once.
const CLUSTER_CUTS: u64 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_acknowledged_survives_power_loss_of_one_node_and_of_all_at_once() {
    if skipped() {
        return;
    }
    let plan = Plan { whole_cluster: true, cuts: CLUSTER_CUTS, ..plan(None) };
    let run = run(&plan, Path::new(PROGRAM)).await;
    assert_eq!(run.verdict(), Verdict::Good, "{run:#?}");
    assert_eq!((run.faults["power-loss/one"].confirmed, run.faults["power-loss/all"].confirmed), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_lie_about_syncs_lose_what_a_cluster_acknowledged_and_that_is_seen() {
    if skipped() {
        return;
    }
    let plan = Plan { whole_cluster: true, cuts: 1, ..plan(Some(Plant::LieSync)) };
    let run = run(&plan, Path::new(PROGRAM)).await;
    assert_eq!(run.verdict(), Verdict::Violation, "{run:#?}");
    println!("{}", run.violations[0]);
}
