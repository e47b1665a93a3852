//! One small history for each anomaly, and for what looks like one and is none.

use super::script::history;
use crate::checker::{Kind, Report, Verdict, Why, check};

#[track_caller]
fn good(text: &str) {
    let report = check(&history(text));
    assert_eq!(report.verdict(), Verdict::Good, "{report:#?}");
}

/// Bad because no order explains it, with a shortest bad prefix of so many events.
#[track_caller]
fn bad(prefix_events: usize, text: &str) -> Report {
    let report = check(&history(text));
    assert_eq!(report.verdict(), Verdict::Violation, "{report:#?}");
    let order: Vec<_> = report.violations.iter().filter(|violation| violation.kind == Kind::Order).collect();
    assert_eq!(order.len(), 1, "{report:#?}");
    assert_eq!((order[0].prefix_events, order[0].is_shortest), (prefix_events, true), "{report:#?}");
    report
}

#[track_caller]
fn bad_kinds(text: &str, kinds: &[Kind]) {
    let report = check(&history(text));
    assert_eq!(report.violations.iter().map(|violation| violation.kind).collect::<Vec<_>>(), kinds, "{report:#?}");
}

#[test]
fn a_read_that_misses_an_acknowledged_write_is_stale() {
    bad(6, "1 put a\n 1 wrote 5\n 1 put b\n 1 wrote 6\n 2 get\n 2 saw a 5\n 2 get\n 2 saw b 6");
    bad(6, "1 put a\n 1 wrote 5\n 1 put b\n 1 wrote 6\n 2 get lease\n 2 saw a 5");
    // While the write is under way both are right, but not the old value after the new one.
    good("1 put a\n 1 wrote 5\n 1 put b\n 2 get\n 2 saw a 5\n 1 wrote 6");
    bad(7, "1 put a\n 1 wrote 5\n 1 put b\n 2 get\n 2 saw b 6\n 3 get\n 3 saw a 5\n 1 wrote 6");
}

#[test]
fn an_acknowledged_write_that_is_gone_is_lost() {
    bad(4, "1 put a\n 1 wrote 5\n 2 get\n 2 saw none");
    bad(6, "1 put a\n 1 wrote 5\n 1 put b\n 1 wrote 6\n 2 cas c @6\n 2 refused 5");
}

#[test]
fn a_value_that_is_back_after_its_delete_is_resurrected() {
    bad(6, "1 put a\n 1 wrote 5\n 1 delete\n 1 deleted\n 2 get\n 2 saw a 5");
    bad(6, "1 put a\n 1 wrote 5\n 1 delete @5\n 1 deleted 6\n 2 get\n 2 at 5");
    good("1 put a\n 1 wrote 5\n 1 delete\n 2 get\n 2 saw a 5\n 1 deleted");
}

#[test]
fn a_value_that_nobody_wrote_is_a_phantom() {
    let report = bad(4, "1 put a\n 1 wrote 5\n 2 get\n 2 saw x 6");
    assert!(report.violations[0].why.contains("nobody ever wrote"), "{report:#?}");
    // From the future: it is asked for only afterwards.
    let report = bad(2, "2 get\n 2 saw a 5\n 1 put a\n 1 wrote 5");
    assert!(report.violations[0].why.contains("before anybody asked"), "{report:#?}");
}

#[test]
fn a_failed_write_that_shows_up_did_not_fail() {
    let report = bad(4, "1 put a\n 1 fail\n 2 get\n 2 saw a 5");
    assert!(report.violations[0].why.contains("only a failed write"), "{report:#?}");
    // It showed up first: then the failure is the lie.
    let report = bad(4, "1 put a\n 2 get\n 2 saw a 5\n 1 fail");
    assert!(report.violations[0].why.contains("said not to be applied"), "{report:#?}");
    good("1 put a\n 1 fail\n 2 get\n 2 saw none");
}

#[test]
fn a_write_that_takes_effect_twice_flips_the_value_back() {
    bad(6, "1 put a\n 1 wrote 5\n 2 put b\n 2 wrote 6\n 3 get\n 3 saw a 7");
    // Of a write without an answer too: once between b and c, and again after c.
    bad(10, "1 put a\n 1 info\n 2 put b\n 2 wrote 6\n 2 get\n 2 saw a 7\n 2 put c\n 2 wrote 8\n 2 get\n 2 saw a 9");
}

#[test]
fn two_compare_and_sets_on_one_revision_have_one_winner() {
    bad(6, "1 put a\n 1 wrote 5\n 1 cas b @5\n 2 cas c @5\n 1 wrote 6\n 2 wrote 7");
    good("1 put a\n 1 wrote 5\n 1 cas b @5\n 2 cas c @5\n 1 wrote 6\n 2 refused 6");
    bad(4, "1 cas a absent\n 2 cas b absent\n 1 wrote 5\n 2 wrote 6");
    bad(6, "1 put a\n 1 wrote 5\n 1 delete @5\n 2 delete @5\n 1 deleted\n 2 deleted");
}

#[test]
fn a_revision_is_never_reused_nor_lowered() {
    for text in [
        "1 put a\n 1 wrote 5\n 2 put b\n 2 wrote 5",
        "1 put a\n 1 wrote 5\n 2 put b\n 2 wrote 4",
        "1 put a\n 1 wrote 5\n 1 delete\n 1 deleted\n 2 cas b absent\n 2 wrote 5",
    ] {
        let report = check(&history(text));
        let kinds: Vec<Kind> = report.violations.iter().map(|violation| violation.kind).collect();
        assert_eq!(kinds, [Kind::Order, Kind::Revisions], "{report:#?}");
    }
    // Written concurrently, in either order, but not as one.
    good("1 put a\n 2 put b\n 1 wrote 6\n 2 wrote 5\n 1 get\n 1 saw a 6");
    bad(6, "1 put a\n 2 put b\n 1 wrote 6\n 2 wrote 5\n 1 get\n 1 saw b 5");
}

#[test]
fn two_keys_of_one_shard_do_not_share_a_revision() {
    let two = |first: &str, second: &str| {
        format!("1 put a in x of {first}\n 1 wrote 5\n 2 put b in y of {second}\n 2 wrote 5")
    };
    bad_kinds(&two("s1", "s1"), &[Kind::Revisions]);
    good(&two("s1", "s2"));
    // A retry may be answered by the child of the shard that was asked first, whose revisions are its own.
    let retried = |by: &str| {
        let retry = format!("3 put a in x of {by} once r\n 3 wrote 5");
        format!("1 put a in x of s1 once r\n 1 info\n 2 put b in y of s1\n 2 wrote 5\n {retry}")
    };
    bad_kinds(&retried("s1"), &[Kind::Revisions]);
    good(&retried("s2"));
}

#[test]
fn one_revision_has_one_value_also_for_stale_reads() {
    bad_kinds("1 put a\n 1 wrote 5\n 2 put b\n 2 info\n 3 get stale\n 3 saw b 5", &[Kind::Revisions]);
    bad_kinds(
        "1 put a\n 1 info\n 2 put b\n 2 info\n 3 get stale\n 3 saw a 5\n 3 get stale\n 3 saw b 5",
        &[Kind::Revisions],
    );
    bad_kinds(
        "1 put a\n 1 wrote 5\n 1 delete\n 1 deleted 6\n 3 put b\n 3 info\n 2 get stale\n 2 at 6",
        &[Kind::Revisions],
    );
}

#[test]
fn an_unknown_write_that_was_seen_does_not_go_away() {
    bad(8, "1 put a\n 1 wrote 5\n 2 put b\n 2 info\n 3 get\n 3 saw b 6\n 3 get\n 3 saw a 5");
    bad(6, "2 put b\n 2 info\n 3 get\n 3 saw b 6\n 3 get\n 3 saw none");
    // Nor does its revision change.
    bad(6, "2 put b\n 2 info\n 3 get\n 3 saw b 6\n 3 get\n 3 saw b 7");
}

#[test]
fn two_sides_of_a_split_brain_cannot_both_be_right() {
    bad(9, "1 put a\n 1 wrote 5\n 1 put b\n 2 put c\n 1 wrote 6\n 2 wrote 7\n 3 get\n 4 get\n 3 saw b 6\n 4 saw c 7");
}

#[test]
fn a_refusal_is_an_observation() {
    // Refused, though the condition held for what the answer itself says.
    let report = bad(4, "1 put a\n 1 wrote 5\n 2 cas b @5\n 2 refused 5");
    assert!(report.violations[0].why.contains("condition that holds"), "{report:#?}");
    // Refused for a revision that the key is not at any more, or not yet.
    bad(6, "1 put a\n 1 wrote 5\n 1 put b\n 1 wrote 6\n 2 cas c @9\n 2 refused 5");
    bad(4, "1 put a\n 1 wrote 5\n 2 cas c @9\n 2 refused 6");
    bad(4, "1 put a\n 1 wrote 5\n 2 cas c @9\n 2 refused none");
    bad(2, "2 cas c absent\n 2 refused 5");
    bad(2, "2 cas c absent\n 2 refused none");
    good("1 put a\n 1 wrote 5\n 2 cas b absent\n 2 refused 5\n 2 delete @4\n 2 refused 5");
    good("2 cas b exists\n 2 refused none");
}

#[test]
fn an_unknown_write_may_be_seen_late() {
    good("1 put a\n 1 wrote 5\n 2 put b\n 2 info\n 3 get\n 3 saw a 5\n 3 put c\n 3 wrote 6\n 3 get\n 3 saw b 9");
    good("2 put b\n 2 info\n 3 get\n 3 saw none\n 3 cas c @9\n 3 refused 7\n 3 cas d @9\n 3 refused 7");
    // A write whose end was never recorded is the same.
    good("2 put b\n 3 get\n 3 saw none\n 3 get\n 3 saw b 7");
}

#[test]
fn an_unknown_write_may_never_be_seen() {
    good("1 put a\n 1 wrote 5\n 2 delete\n 2 info\n 3 cas b @5\n 3 info\n 4 get\n 4 saw a 5\n 4 cas c @5\n 4 wrote 6");
    // Its condition may have held for another unknown write's revision only.
    good("1 put a\n 1 info\n 2 cas b @7\n 2 info\n 3 get\n 3 saw none\n 3 get\n 3 saw b 8");
    bad(6, "1 put a\n 1 info\n 2 cas b @7\n 2 info\n 3 get\n 3 saw b 7");
}

#[test]
fn unknown_writes_of_one_value_are_told_apart_by_their_revisions() {
    // The reads are concurrent: the one of the lower revision comes first, though it was asked later.
    good("1 put v\n 1 info\n 2 put v\n 2 info\n 3 get\n 4 get\n 3 saw v 9\n 4 saw v 7");
    bad(8, "1 put v\n 1 info\n 2 put v\n 2 info\n 3 get\n 3 saw v 9\n 4 get\n 4 saw v 7");
    bad(6, "1 put v\n 1 info\n 3 get\n 4 get\n 3 saw v 9\n 4 saw v 7");
}

#[test]
fn an_unknown_write_may_need_another_one_first() {
    // b exists only over a, and nobody saw a.
    good("1 put a\n 1 info\n 2 cas b exists\n 2 info\n 3 get\n 3 at 7\n 3 get\n 3 saw b 7");
    bad(4, "2 cas b exists\n 2 info\n 3 get\n 3 at 7");
}

#[test]
fn concurrent_writes_take_effect_in_any_order() {
    for last in ["1 saw a 5", "1 saw b 5", "1 saw c 5"] {
        good(&format!("1 put a\n 2 put b\n 3 put c\n 1 info\n 2 info\n 3 info\n 4 get\n 4{}", &last[1..]));
    }
    good("1 put a\n 2 delete\n 2 deleted\n 3 get\n 3 saw none\n 1 wrote 5\n 3 get\n 3 saw a 5");
    good("1 put a\n 2 delete\n 1 wrote 5\n 2 deleted\n 3 get\n 3 saw a 5");
    good("1 put a\n 2 delete\n 1 wrote 5\n 2 deleted\n 3 get\n 3 saw none");
}

#[test]
fn retries_under_one_idempotency_key_are_one_write() {
    // The retry's answer is the first attempt's, from before b.
    good("1 put a once x\n 1 info\n 2 put b\n 2 wrote 6\n 3 put a once x\n 3 wrote 5\n 2 get\n 2 saw b 6");
    // Without the key it is a second write, and too low.
    bad(6, "1 put a\n 1 info\n 2 put b\n 2 wrote 6\n 3 put a\n 3 wrote 5");
    bad(4, "1 put a once x\n 1 wrote 5\n 3 put a once x\n 3 wrote 6");
    // Applied twice: the value comes back.
    bad(8, "1 put a once x\n 1 info\n 3 put a once x\n 3 wrote 5\n 2 put b\n 2 wrote 6\n 2 get\n 2 saw a 7");
    // A retry that is refused says nothing about the first attempt, nor the other way round.
    good("1 put a once x\n 1 fail\n 3 put a once x\n 3 wrote 5");
}

#[test]
fn a_stale_read_may_be_of_any_past_if_it_told_no_age() {
    let past = "1 put a\n 1 wrote 5\n 1 put b\n 1 wrote 6\n 1 delete\n 1 deleted\n wait 900\n 2 get stale\n ";
    for seen in ["2 saw a 5", "2 saw b 6", "2 saw none", "2 at 5"] {
        good(&format!("{past}{seen}"));
    }
    for seen in ["2 saw x 5", "2 saw a 7", "2 saw b 5", "2 at 4"] {
        assert_eq!(check(&history(&format!("{past}{seen}"))).violations[0].kind, Kind::StaleRead, "{seen}");
    }
    bad_kinds("1 put a\n 1 fail\n 2 get stale\n 2 saw a 5", &[Kind::StaleRead]);
    bad_kinds("2 get stale\n 2 saw a 5\n 1 put a\n 1 wrote 5", &[Kind::StaleRead]);
    good("1 put a\n 2 get stale\n 2 saw a 5\n 1 info");
}

#[test]
fn a_stale_read_is_no_older_than_it_says() {
    // b is acknowledged at 4 ms, the read is asked at 105 ms.
    let past = "1 put a\n 1 wrote 5\n 1 put b\n 1 wrote 6\n wait 99\n 2 get stale\n ";
    good(&format!("{past}2 saw a 5 age 102"));
    bad_kinds(&format!("{past}2 saw a 5 age 99"), &[Kind::StaleRead]);
    bad_kinds(&format!("{past}2 saw none age 99"), &[Kind::StaleRead]);
    good(&format!("{past}2 saw b 6 age 0"));
    // The answer was made between the two events: what was acknowledged meanwhile does not count.
    good("1 put a\n 1 wrote 5\n 2 get stale\n 1 put b\n 1 wrote 6\n wait 99\n 2 saw a 5 age 0");
    // Also by what another read saw, and by a delete without a revision.
    let seen = "1 put a\n 1 wrote 5\n 1 put b\n 1 info\n 3 get\n 3 saw b 6\n wait 99\n 2 get stale\n ";
    bad_kinds(&format!("{seen}2 saw a 5 age 9"), &[Kind::StaleRead]);
    let deleted = "1 put a\n 1 wrote 5\n 1 delete\n 1 deleted\n wait 99\n 2 get stale\n ";
    bad_kinds(&format!("{deleted}2 saw a 5 age 9"), &[Kind::StaleRead]);
    good(&format!("{deleted}2 saw none age 9"));
    // A delete that is still unknown may explain it.
    good("1 put a\n 1 wrote 5\n 3 delete\n 3 info\n wait 99\n 2 get stale\n 2 saw none age 0");
}

#[test]
fn a_key_with_too_many_unknown_writes_is_undecided_not_good() {
    let unknown = |count: usize| (1..=count).map(|n| format!("{n} put v{n}\n {n} info\n")).collect::<String>();
    good(&unknown(8));
    let report = check(&history(&unknown(9)));
    assert_eq!(report.verdict(), Verdict::Undecided);
    assert_eq!(report.undecided[0].why, Why::TooManyUnknown { unknown: 9 });
    // Writes that failed and reads without an answer are not unknown writes.
    good(&format!("{}20 put x\n 20 fail\n 21 get\n 21 info\n 22 get\n", unknown(8)));
    // What is certain is said all the same.
    let report = check(&history(&format!("{}20 put x\n 20 wrote 50\n 20 put y\n 20 wrote 50", unknown(9))));
    assert_eq!(report.verdict(), Verdict::Violation);
}

#[test]
fn reads_are_counted_by_how_they_were_served() {
    let report =
        check(&history("1 get\n 1 saw none\n 2 get lease\n 2 saw none\n 3 get stale\n 3 saw none\n 4 get\n 4 fail"));
    assert_eq!(report.reads.values().sum::<usize>(), 3);
    assert_eq!((report.reads.len(), report.unanswered_reads), (3, 1));
}
