//! Histories in few words, one event a line: a process, and what it asks or is told. A millisecond passes with each.
//!
//! ```text
//! 1 put a        1 wrote 5
//! 1 cas b @5     1 refused 7      1 refused none
//! 1 cas b absent 1 fail           1 info
//! 1 delete       1 deleted        1 deleted 6
//! 2 get          2 saw a 5        2 at 5          2 saw none
//! 2 get stale    2 saw a 5 age 3
//! wait 100
//! ```
//!
//! An invocation may end with ` in KEY`, ` of SHARD` and ` once IDEMPOTENCY`, in this order.

use std::collections::HashMap;

use ringraft::types::Revision;

use crate::history::{self, Answer, End, Event, Expect, Function, History, Invoke, Micros, Mode, OpId, ProcessId};

pub(in crate::checker) fn history(text: &str) -> History {
    let mut lines = String::new();
    let mut open = HashMap::new();
    let mut time = 0;
    let mut ops = 0;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        time += 1000;
        if let Some(ms) = line.strip_prefix("wait ") {
            time += ms.parse::<u64>().unwrap() * 1000;
            continue;
        }
        let (process, said) = line.split_once(' ').unwrap();
        let process = ProcessId(process.parse().unwrap());
        let event = ending(said, *open.get(&process).unwrap_or(&OpId(0)), Micros(time)).unwrap_or_else(|| {
            ops += 1;
            open.insert(process, OpId(ops));
            Event::Invoke(invoke(said, OpId(ops), process, Micros(time)))
        });
        lines.push_str(&serde_json::to_string(&event).unwrap());
        lines.push('\n');
    }
    history::read(lines.as_bytes()).unwrap_or_else(|malformed| panic!("{malformed}\n{lines}"))
}

fn invoke(said: &str, op: OpId, process: ProcessId, time: Micros) -> Invoke {
    let (said, idempotency) = said.split_once(" once ").map_or((said, None), |(said, once)| (said, Some(once.into())));
    let (said, shard) = said.split_once(" of ").map_or((said, None), |(said, shard)| (said, Some(shard.into())));
    let (said, key) = said.split_once(" in ").unwrap_or((said, "k"));
    let words: Vec<&str> = said.split(' ').collect();
    let (f, value, expect, mode) = match words.as_slice() {
        ["put", value] => (Function::Put, Some(*value), None, None),
        ["cas", value, expect] => (Function::Cas, Some(*value), Some(condition(expect)), None),
        ["delete"] => (Function::Delete, None, None, None),
        ["delete", expect] => (Function::Delete, None, Some(condition(expect)), None),
        ["get"] => (Function::Get, None, None, None),
        ["get", "lease"] => (Function::Get, None, None, Some(Mode::Lease)),
        ["get", "stale"] => (Function::Get, None, None, Some(Mode::Stale)),
        _ => panic!("{said}"),
    };
    let (key, value) = (key.to_string(), value.map(str::to_string));
    Invoke { op, process, f, key, value, expect, mode, node: None, shard, idempotency, time, note: None }
}

fn condition(word: &str) -> Expect {
    match word {
        "exists" => Expect::Exists,
        "absent" => Expect::Absent,
        revision => Expect::Revision(Revision(revision.strip_prefix('@').unwrap().parse().unwrap())),
    }
}

fn ending(said: &str, op: OpId, time: Micros) -> Option<Event> {
    let (said, age_ms) =
        said.split_once(" age ").map_or((said, None), |(said, age)| (said, Some(age.parse().unwrap())));
    let number = |word: &str| Revision(word.parse().unwrap());
    let words: Vec<&str> = said.split(' ').collect();
    let answer = match words.as_slice() {
        ["wrote", revision] => Some(Answer::Written { ver: number(revision) }),
        ["deleted"] => Some(Answer::Deleted { ver: None }),
        ["deleted", revision] => Some(Answer::Deleted { ver: Some(number(revision)) }),
        ["refused", "none"] => Some(Answer::Refused { current: None }),
        ["refused", revision] => Some(Answer::Refused { current: Some(number(revision)) }),
        ["saw", "none"] => Some(Answer::Absent),
        ["saw", value, revision] => Some(Answer::Found { ver: number(revision), value: Some(value.to_string()) }),
        ["at", revision] => Some(Answer::Found { ver: number(revision), value: None }),
        ["fail"] | ["info"] => None,
        _ => return None,
    };
    let mut end = End { age_ms, ..End::new(op, time) };
    Some(match answer {
        Some(answer) => {
            answer.write_to(&mut end);
            Event::Ok(end)
        }
        None if said == "fail" => Event::Fail(end),
        None => Event::Info(end),
    })
}
