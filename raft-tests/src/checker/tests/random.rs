//! The checker against the search that tries everything, on small random histories; and against larger ones that are
//! right by construction.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::brute_force::{OPERATIONS_MAX, is_linearizable};
use super::simulated::{Plan, events, history, spoil};
use crate::checker::{Kind, Verdict, check};
use crate::history::{Event, Outcome};

/// Histories of one run, a seed each.
const HISTORIES: u64 = 4_000;

const SEED_VARIABLE: &str = "CHECKER_SEED";

/// The first seed: from the environment, to repeat one, or always the same.
fn seeds() -> std::ops::Range<u64> {
    match std::env::var(SEED_VARIABLE) {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 1..1 + HISTORIES,
    }
}

fn repeat(test: &str, seed: u64) -> String {
    format!(
        "{SEED_VARIABLE}={seed} cargo test --release -p raft-tests --lib -- checker::tests::random::{test} --nocapture"
    )
}

fn small(seed: u64) -> Vec<Event> {
    let plan = Plan {
        operations: OPERATIONS_MAX - (seed % 3) as usize,
        processes: 2 + (seed % 3) as usize,
        keys: 1,
        unknown_percent: 12,
        unknown_max: 3,
        values: if seed.is_multiple_of(2) { Some(3) } else { None },
        stale_reads: false,
    };
    let mut events = events(plan, seed);
    let mut rng = StdRng::seed_from_u64(!seed);
    for _ in 0..seed % 4 {
        spoil(&mut events, &mut rng);
    }
    events
}

#[test]
fn the_checker_agrees_with_a_search_that_tries_everything() {
    let (mut compared, mut bad, mut good_with_unknown, mut shortest) = (0, 0, 0, 0);
    for seed in seeds() {
        let events = small(seed);
        let whole = history(&events);
        let report = check(&whole);
        let expected = is_linearizable(&whole);
        let order = report.violations.iter().find(|violation| violation.kind == Kind::Order);
        let command = repeat("the_checker_agrees_with_a_search_that_tries_everything", seed);
        assert_eq!(order.is_none(), expected, "{command}\n{whole:#?}\n{report:#?}");
        assert!(report.undecided.is_empty(), "{command}\n{report:#?}");
        compared += 1;
        let Some(order) = order else {
            assert!(report.violations.is_empty(), "a revision's fault leaves no order: {command}\n{report:#?}");
            let has_unknown = whole.operations.iter().any(|one| one.is_write() && one.outcome == Outcome::Info);
            good_with_unknown += usize::from(has_unknown);
            continue;
        };
        bad += 1;
        // The prefix that it names is bad, and with one event less it is not.
        assert_eq!(order.prefix_events, order.last_event + 1, "{command}");
        assert!(!is_linearizable(&history(&events[..order.prefix_events])), "{command}\n{order:#?}");
        if order.prefix_events > 1 {
            let shorter = history(&events[..order.prefix_events - 1]);
            assert!(order.is_shortest && is_linearizable(&shorter), "{command}\n{order:#?}");
            shortest += 1;
        }
    }
    println!(
        "{compared} compared, {bad} bad, {shortest} prefixes minimal, {good_with_unknown} good with unknown writes"
    );
    println!("repeat one: {}", repeat("the_checker_agrees_with_a_search_that_tries_everything", 1));
    if std::env::var_os(SEED_VARIABLE).is_none() {
        assert!(compared >= 1_000 && bad >= 50 && shortest >= 50 && good_with_unknown >= 50);
    }
}

#[test]
fn what_a_right_register_answers_is_never_held_against_it() {
    let plan = Plan {
        operations: 60,
        processes: 6,
        keys: 2,
        unknown_percent: 10,
        unknown_max: 5,
        values: None,
        stale_reads: true,
    };
    let (mut stale, mut with_age) = (0, 0);
    for seed in seeds().take(500) {
        let whole = history(&events(Plan { values: if seed % 2 == 0 { Some(5) } else { None }, ..plan }, seed));
        let report = check(&whole);
        let command = repeat("what_a_right_register_answers_is_never_held_against_it", seed);
        assert_eq!(report.verdict(), Verdict::Good, "{command}\n{report:#?}");
        stale += whole.operations.iter().filter(|one| one.is_stale_read() && one.ended.is_some()).count();
        with_age += whole.operations.iter().filter(|one| one.age_ms.is_some()).count();
    }
    println!("{stale} stale reads, {with_age} with an age");
    if std::env::var_os(SEED_VARIABLE).is_none() {
        assert!(stale >= 1_000 && with_age >= 500);
    }
}
