use super::*;
use crate::history::{Answer, Expect, Request};

const INVOKE: &str = r#"{"type":"invoke","op":7,"process":3,"f":"cas","key":"a1","value":"3.9","expect":"0000000000000004","node":"n2","shard":"s1","time":1200345}"#;
const OK: &str =
    r#"{"type":"ok","op":7,"time":1203456,"applied":true,"ver":"000000000000000c","status":200,"leader_hint":"n1"}"#;
const NEMESIS: &str =
    r#"{"type":"nemesis","fault":"partition/leader","what":"begin","on":["n2"],"confirmed":true,"time":1203456}"#;

fn lines(lines: &[&str]) -> Result<History, Malformed> {
    read((lines.join("\n") + "\n").as_bytes())
}

/// Refused at the last line, for this reason.
#[track_caller]
fn refused(given: &[&str], fault: &str) {
    let malformed = lines(given).expect_err("a malformed history");
    assert!(malformed.fault.to_string().contains(fault), "{malformed}");
    assert_eq!(malformed.line, given.len(), "{malformed}");
}

fn get(op: u64, process: u64, time: u64) -> String {
    format!(r#"{{"type":"invoke","op":{op},"process":{process},"f":"get","key":"k","time":{time}}}"#)
}

fn end(kind: &str, op: u64, time: u64, rest: &str) -> String {
    format!(r#"{{"type":"{kind}","op":{op},"time":{time}{rest}}}"#)
}

#[test]
fn a_history_is_read_as_it_was_written() {
    let history = lines(&[INVOKE, OK, NEMESIS]).unwrap();
    let operation = &history.operations[0];
    let expect = Some(Expect::Revision(ringraft::types::Revision(4)));
    assert_eq!(operation.request, Request::Put { value: "3.9".into(), expect });
    assert_eq!(operation.outcome, Outcome::Ok(Answer::Written { ver: ringraft::types::Revision(12) }));
    assert_eq!((operation.invoked.event, operation.ended.unwrap().event), (0, 1));
    assert_eq!((history.nemeses.len(), history.events), (1, 3));
    for line in [INVOKE, OK, NEMESIS] {
        let event: Event = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
    }
}

#[test]
fn an_end_belongs_to_one_open_operation() {
    refused(&[OK], "was never invoked");
    refused(&[INVOKE, OK, OK], "a second time");
    refused(&[INVOKE, OK, &end("info", 7, 1203456, "")], "a second time");
    refused(&[INVOKE, INVOKE], "was invoked before");
}

#[test]
fn a_process_does_one_thing_at_a_time_and_nothing_after_an_info() {
    refused(&[&get(1, 1, 0), &get(2, 1, 0)], "while its operation 1 is open");
    refused(&[&get(1, 1, 0), &end("info", 1, 0, ""), &get(2, 1, 0)], "after an info");
    let fail = end("fail", 1, 0, "");
    lines(&[&get(1, 1, 0), &fail, &get(2, 1, 0)]).unwrap();
}

#[test]
fn time_does_not_go_back() {
    refused(&[&get(1, 1, 5), &end("ok", 1, 4, r#","found":false"#)], "time goes back from 5 µs to 4 µs");
    lines(&[&get(1, 1, 5), &end("ok", 1, 5, r#","found":false"#)]).unwrap();
}

#[test]
fn what_is_no_event_is_refused() {
    refused(&["{"], "no event");
    refused(&[INVOKE, ""], "no event");
    refused(&[&INVOKE.replace("expect", "expected")], "unknown field `expected`");
    refused(&[INVOKE, &OK.replace("ver", "version")], "unknown field `version`");
    refused(&[&NEMESIS.replace("fault", "failure")], "unknown field `failure`");
    refused(&[&INVOKE.replace("0000000000000004", "4")], "expect takes");
    refused(&[INVOKE, &OK.replace("000000000000000c", "C")], "no event");
    let noted = INVOKE.replace(r#""time""#, r#""note":{"attempt":2},"time""#);
    lines(&[&noted]).unwrap();
}

#[test]
fn fields_that_do_not_go_together_are_refused() {
    refused(&[&INVOKE.replace("cas", "put")], "do not fit f");
    refused(&[&INVOKE.replace(r#""value":"3.9","#, "")], "do not fit f");
    refused(&[&INVOKE.replace("cas", "delete")], "do not fit f");
    refused(&[&get(1, 1, 0).replace(r#""key""#, r#""value":"x","key""#)], "do not fit f");
    let asked = get(1, 1, 0);
    for answer in [
        "",
        r#","found":true"#,
        r#","found":false,"value":"x""#,
        r#","found":true,"ver":"0000000000000001","applied":true"#,
        r#","found":false,"age_ms":5"#,
    ] {
        refused(&[&asked, &end("ok", 1, 0, answer)], "no answer to its request");
    }
    let put = r#"{"type":"invoke","op":1,"process":1,"f":"put","key":"k","value":"x","time":0}"#;
    for answer in [
        r#","applied":true"#,
        r#","ver":"0000000000000001""#,
        // A put without a condition is not refused by one.
        r#","applied":false,"found":false"#,
        r#","applied":true,"ver":"0000000000000001","served":"lease""#,
    ] {
        refused(&[put, &end("ok", 1, 0, answer)], "no answer to its request");
    }
}

#[test]
fn a_refusal_is_an_answer_and_not_a_failure() {
    let invoke = INVOKE.replace("1200345", "0");
    refused(&[&invoke, &end("fail", 7, 0, r#","status":412"#)], "an answer is ok");
    refused(&[&invoke, &end("info", 7, 0, r#","applied":true"#)], "an answer is ok");
    refused(&[&invoke, &end("fail", 7, 0, r#","ver":"0000000000000001""#)], "an answer is ok");
    let history = lines(&[&invoke, &end("ok", 7, 0, r#","applied":false,"found":false,"status":412"#)]).unwrap();
    assert_eq!(history.operations[0].outcome, Outcome::Ok(Answer::Refused { current: None }));
}

#[test]
fn a_fault_begins_before_it_ends() {
    refused(&[NEMESIS, NEMESIS], "begins again");
    refused(&[&NEMESIS.replace("begin", "end")], "did not begin");
    let end = NEMESIS.replace("begin", "end");
    lines(&[INVOKE, NEMESIS, &end, NEMESIS]).unwrap();
}

#[test]
fn a_torn_an_endless_and_an_empty_history_are_refused() {
    let torn = read(INVOKE.as_bytes()).expect_err("no end of the line");
    assert!(matches!((torn.line, torn.fault), (1, Fault::Torn)));
    let endless = vec![b' '; usize::try_from(LINE_BYTES_MAX).unwrap() + 5];
    assert!(matches!(read(endless.as_slice()).expect_err("too long").fault, Fault::TooLong));
    assert!(matches!(read(&b""[..]).expect_err("empty").fault, Fault::Empty));
    assert!(matches!(lines(&[NEMESIS]).expect_err("nothing asked").fault, Fault::Empty));
}
