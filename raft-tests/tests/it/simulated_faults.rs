//! `raft-tests sim`, a few seeds of it, and that it notices what it should.

use raft_tests::sim;

fn run(seed: u64, scenario: &str) -> u8 {
    sim::command(&["--seed", &seed.to_string(), "--scenario", scenario, "--seconds", "6"])
}

#[test]
fn clusters_keep_every_promise_under_faults_of_every_kind() {
    for seed in 1..=2 {
        assert_eq!(run(seed, "mixed"), 0, "seed {seed}: see its output above");
    }
}

#[test]
fn a_voter_that_restarts_inside_a_lease_makes_no_answer_old() {
    assert_eq!(run(1, "lease-trap"), 0, "see its output above");
}
