use super::*;
use crate::checker::check;
use crate::checker::tests::script::history;
use crate::history::{At, Micros, Nemesis};

fn drawn(history: &History) -> String {
    picture(history, &check(history))
}

/// Every tag that is opened is closed, in order; nothing is loaded from elsewhere.
fn assert_well_formed(html: &str) {
    let mut open = Vec::new();
    for piece in html.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').expect("a tag ends");
        assert!(!text.contains('>'), "an unescaped > in {text:?}");
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "…{tag}>{text}");
        } else if !tag.starts_with('!') && !tag.ends_with('/') && name != "meta" {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    for outside in ["http:", "https:", "<script", "<link", "<img", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
}

const BAD: &str = "1 put a\n 1 wrote 5\n 2 put b\n 2 info\n 3 cas c @9\n 3 refused 5\n 3 put d\n 3 fail\n 4 get\n 4 saw none\n 5 get in other";

#[test]
fn each_outcome_is_drawn_and_the_impossible_is_marked() {
    let html = drawn(&history(BAD));
    assert_well_formed(&html);
    for class in ["\"ok\"", "\"info\"", "\"refused\"", "\"fail\"", "\"read bad\"", "\"open\""] {
        assert!(html.contains(&format!("<rect class={class}")), "{class}");
    }
    // Once where its key is shown alone, once among all.
    assert_eq!(html.matches("<rect class=\"read bad\"").count(), 2);
    assert!(html.contains("<title>History: bad</title>"));
    assert!(drawn(&history("1 get\n 1 saw none")).contains("<title>History: good</title>"));
}

#[test]
fn whatever_a_history_holds_stays_text() {
    let mut history = history(BAD);
    let nasty = "<script>alert('x')</script>&\"\u{0}\u{1b}";
    history.operations[0].request = crate::history::Request::Put { value: nasty.to_string(), expect: None };
    for operation in &mut history.operations {
        operation.key = nasty.to_string();
        operation.node = Some(nasty.to_string());
        operation.why = Some(nasty.to_string());
    }
    let fault = |what| Nemesis {
        fault: nasty.to_string(),
        what,
        on: vec![nasty.to_string()],
        confirmed: true,
        time: Micros(0),
        note: None,
    };
    history.nemeses.push((At { event: 1, time: Micros(0) }, fault(Phase::Begin)));
    let html = drawn(&history);
    assert_well_formed(&html);
    assert!(html.contains("&lt;script&gt;") && !html.contains('\u{0}') && !html.contains('\u{1b}'));
}

#[test]
fn a_fault_is_a_band_from_its_begin_to_its_end() {
    let mut history = history("1 get\n 1 saw none\n 1 get\n 1 saw none\n 1 get\n 1 saw none");
    let fault = |fault: &str, what, confirmed| Nemesis {
        fault: fault.to_string(),
        what,
        on: vec!["n1".to_string()],
        confirmed,
        time: Micros(0),
        note: None,
    };
    let at = |event| At { event, time: Micros(0) };
    history.nemeses = vec![
        (at(1), fault("kill", Phase::Begin, true)),
        (at(2), fault("pause", Phase::Begin, false)),
        (at(3), fault("kill", Phase::End, true)),
    ];
    let html = drawn(&history);
    assert_well_formed(&html);
    let bar = |class: &str, from: usize, to: usize| {
        format!(
            "<rect class=\"{class}\" x=\"{}\" y=\"18\" width=\"{}\"",
            LEFT_PX + from * WIDE_STEP_PX,
            (to - from) * WIDE_STEP_PX
        )
    };
    assert!(html.contains(&bar("fault", 1, 3)), "{html}");
    // It never ends, and was not seen to take place.
    assert!(html.contains(&bar("fault unconfirmed", 2, 7)), "{html}");
}

#[test]
fn a_large_history_is_drawn_in_part_and_says_so() {
    let text = "1 get\n 1 saw none\n".repeat(OPERATIONS_DRAWN_MAX + 7);
    let html = drawn(&history(&text));
    assert!(html.contains("The first 7 operations are left out"));
    assert_eq!(html.matches("<rect class=\"read\"").count(), OPERATIONS_DRAWN_MAX);
}
