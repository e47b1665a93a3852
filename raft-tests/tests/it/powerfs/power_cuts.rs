//! Ringraft's own log store, in a process that is killed as the power fails: what was acknowledged is there. And the same
//! with bugs planted, each of which must be seen.

use std::path::Path;

use raft_tests::power_cuts::{Plan, Plant, run};
use raft_tests::record::Verdict;

use super::life::PROGRAM;
use super::skipped;

const CUTS: u64 = 24;
const SEED: u64 = 1;

fn plan(plant: Option<Plant>) -> Plan {
    Plan { cuts: CUTS, seed: SEED, plant, out: None }
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
