use super::*;
use crate::history::read;

/// `w OP TIME END REVISION`: a write; `r OP TIME END REVISION NODE`: a lease read, which saw nothing where that is 0; `d` a
/// delete that nobody knows the outcome of. Lines in the order of their beginnings, ends where they stand in time.
fn history(script: &str) -> History {
    let mut events: Vec<(u64, String)> = Vec::new();
    for line in script.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| words[place].parse::<u64>().unwrap();
        let (op, begin) = (number(1), number(2));
        let head = format!(r#""op":{op},"process":{op},"key":"k","time":{begin}"#);
        let invoke = match words[0] {
            "w" => format!(r#"{{"type":"invoke",{head},"f":"put","value":"v{op}"}}"#),
            "d" => format!(r#"{{"type":"invoke",{head},"f":"delete"}}"#),
            _ => format!(r#"{{"type":"invoke",{head},"f":"get","mode":"lease","node":"{}"}}"#, words[5]),
        };
        events.push((begin, invoke));
        if words[0] == "d" {
            continue;
        }
        let (end, ver) = (number(3), number(4));
        let says = match (words[0], ver) {
            ("w", ver) => format!(r#""applied":true,"ver":"{ver:016x}""#),
            (_, 0) => r#""found":false,"served":"lease""#.to_string(),
            (_, ver) => format!(r#""found":true,"ver":"{ver:016x}","served":"linearizable""#),
        };
        events.push((end, format!(r#"{{"type":"ok","op":{op},"time":{end},{says}}}"#)));
    }
    events.sort_by_key(|(time, _)| *time);
    let lines: String = events.into_iter().map(|(_, line)| line + "\n").collect();
    read(lines.as_bytes()).unwrap()
}

#[test]
fn a_read_that_began_after_an_acknowledgement_and_missed_it_has_a_window() {
    let windows = stale_windows(&history(
        "w 1 1000 2000 5\nw 2 3000 4000 6\nw 3 5000 6000 7\nr 4 6500 9000 5 n2\nr 5 8000 9000 6 n1\nr 6 9000 9500 7 n1",
    ));
    assert_eq!((windows.answered, windows.stale, windows.served_by_lease), (3, 2, 0));
    let worst = windows.worst.clone().unwrap();
    assert_eq!((worst.op, worst.node.as_deref()), (OpId(4), Some("n2")));
    assert_eq!((worst.window_ms, worst.last_missed_ms), (2.5, 0.5), "since the first it missed, and the last");
    assert_eq!(windows.window_ms_max(), 2.5);
}

#[test]
fn a_read_that_was_under_way_at_the_acknowledgement_may_miss_it() {
    let windows = stale_windows(&history("w 1 1000 2000 5\nw 2 3000 4000 6\nr 3 3500 9000 5 n1\nr 4 1500 9000 0 n1"));
    assert_eq!((windows.answered, windows.stale, windows.window_ms_max()), (2, 0, 0.0));
}

#[test]
fn an_absent_value_is_stale_unless_it_may_have_been_deleted() {
    let script = "w 1 1000 2000 5\nr 2 3000 4000 0 n1";
    assert_eq!(stale_windows(&history(script)).window_ms_max(), 1.0);
    let deleted = format!("d 3 100\n{script}");
    assert_eq!(stale_windows(&history(&deleted)).stale, 0);
    // A value that was replaced is none of a delete's doing.
    let replaced = "d 3 100\nw 1 1000 2000 5\nw 4 2100 2200 6\nr 2 3000 4000 5 n1";
    assert_eq!(stale_windows(&history(replaced)).stale, 1);
}

#[test]
fn reads_are_counted_by_node_and_second() {
    let script: String =
        (0..=40).map(|n| format!("r {} {} {} 0 n{}\n", n + 1, n * 50_000, n * 50_000 + 10, n % 2)).collect();
    let windows = stale_windows(&history(&script));
    assert_eq!((windows.answered, windows.served_by_lease), (41, 41));
    assert_eq!(windows.answered_per_second, BTreeMap::from([("n0".into(), 10.5), ("n1".into(), 10.0)]));
    assert_eq!((windows.answered_per_second_min(), windows.asked_per_second["n0"]), (10.0, 10.5));
    assert_eq!(stale_windows(&history("w 1 1 2 5")), StaleWindows::default());
}
