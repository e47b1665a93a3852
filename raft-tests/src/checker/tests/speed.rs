//! How much work a verdict is, in steps, which are the same on every machine.

use super::script;
use super::simulated::{Plan, events, history};
use crate::checker::key::{Judgement, Key};
use crate::checker::search::Found;
use crate::checker::{STEPS_MAX, UNKNOWN_WRITES_MAX, Verdict, check, check_within};
use crate::history::{End, Event, History, Operation};

/// For a history of 8,000 operations on 35 keys: a few for each operation.
const STEPS_OF_A_GOOD_RUN_MAX: u64 = 200_000;

/// A quarter of what is allowed.
const STEPS_OF_A_BAD_KEY_MAX: u64 = STEPS_MAX / 4;

fn keys(history: &History) -> Vec<Key<'_>> {
    let mut names: Vec<&str> = history.operations.iter().map(|operation| operation.key.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let of = |name: &str| history.operations.iter().filter(|one| one.key == name).collect::<Vec<&Operation>>();
    names.into_iter().map(|name| Key::new(name, of(name))).collect()
}

#[test]
fn a_good_run_takes_a_few_steps_for_each_operation() {
    let plan = Plan {
        operations: 8_000,
        processes: 16,
        keys: 35,
        unknown_percent: 3,
        // Less what is open when the history is cut off.
        unknown_max: UNKNOWN_WRITES_MAX - 3,
        values: None,
        stale_reads: false,
    };
    let history = history(&events(plan, 11));
    let mut steps = 0;
    let mut unknown = 0;
    for key in keys(&history) {
        let (found, left) = key.found(usize::MAX, STEPS_MAX);
        assert_eq!(found, Found::Order, "{}", key.name);
        steps += STEPS_MAX - left;
        unknown += key.unknown_writes();
    }
    println!("{steps} steps, {unknown} unknown writes");
    assert!(unknown >= 100, "{unknown} unknown writes");
    assert!(steps <= STEPS_OF_A_GOOD_RUN_MAX, "{steps}");
    assert_eq!(check(&history).verdict(), Verdict::Good);
}

/// A key with as many unknown writes as there may be, all asked before the rest. Most of them are seen, but only by their
/// revisions, so that each may be any of them; the last read is wrong.
fn hard(rounds: usize) -> String {
    let unknown = (1..=UNKNOWN_WRITES_MAX).map(|n| format!("{n} put u{n}\n {n} info\n")).collect::<String>();
    let round = |n: usize| {
        let (a, b) = (100 * n, 100 * n + 10);
        let one_unknown = if n.is_multiple_of(8) { format!("24 get\n 24 at {}\n", b + 7) } else { String::new() };
        format!(
            "20 put a{n}\n 21 put b{n}\n 22 get\n 20 wrote {a}\n 22 saw a{n} {a}\n 23 get\n 21 wrote {b}\n \
             23 saw b{n} {b}\n{one_unknown}"
        )
    };
    unknown + &(1..=rounds).map(round).collect::<String>() + "25 get\n 25 saw nothing-like-it 99999\n"
}

#[test]
fn a_bad_key_with_all_the_unknown_writes_there_may_be_is_decided() {
    let history = script::history(&hard(60));
    let key = keys(&history).remove(0);
    let (found, left) = key.found(usize::MAX, STEPS_MAX);
    println!("{} steps", STEPS_MAX - left);
    assert_eq!(found, Found::NoOrder);
    assert!(STEPS_MAX - left <= STEPS_OF_A_BAD_KEY_MAX, "{}", STEPS_MAX - left);
    let Judgement::Violation { last_event, is_shortest } = key.judge(STEPS_MAX) else { panic!("no violation") };
    assert_eq!((last_event, is_shortest), (history.events - 1, true));
}

/// Many processes, and a read near the end that saw the revision of one write with the value of another.
#[test]
fn busy_keys_with_one_wrong_read_are_decided() {
    let plan = Plan {
        operations: 300,
        processes: 16,
        keys: 1,
        unknown_percent: 20,
        unknown_max: UNKNOWN_WRITES_MAX,
        values: None,
        stale_reads: false,
    };
    let (mut most, mut tried) = (0, 0);
    for seed in 1..=60 {
        let mut events = events(plan, seed);
        let found = |event: &Event| matches!(event, Event::Ok(End { value: Some(_), .. }));
        let last = events.iter().rposition(found).unwrap();
        let earlier = events[..last].iter().rposition(found).unwrap();
        let Event::Ok(End { value: other, .. }) = events[earlier].clone() else { panic!("an ok") };
        let Event::Ok(end) = &mut events[last] else { panic!("an ok") };
        if end.value == other {
            continue;
        }
        end.value = other;
        let history = history(&events);
        let key = keys(&history).remove(0);
        if key.unknown_writes() > UNKNOWN_WRITES_MAX {
            continue;
        }
        let (found, left) = key.found(usize::MAX, STEPS_MAX);
        assert_eq!(found, Found::NoOrder, "seed {seed}");
        assert!(matches!(key.judge(STEPS_MAX), Judgement::Violation { is_shortest: true, .. }), "seed {seed}");
        most = most.max(STEPS_MAX - left);
        tried += 1;
    }
    println!("{tried} tried, {most} steps at most");
    assert!(tried >= 10 && most <= STEPS_OF_A_BAD_KEY_MAX, "{tried} tried, {most} steps at most");
}

#[test]
fn a_search_that_runs_out_of_steps_is_undecided_never_good() {
    let history = script::history(&hard(3));
    let key = keys(&history).remove(0);
    for steps in [1, 2, 5] {
        assert_eq!(key.found(usize::MAX, steps), (Found::Undecided, 0));
        assert_eq!(key.judge(steps), Judgement::OutOfSteps);
        assert_eq!(check_within(&history, steps).verdict(), Verdict::Undecided);
    }
}
