//! Are refusals honest? Of everything that was answered "certainly not carried out", by code: how often, and how many of
//! the values so refused were seen all the same. Values are unique, so one that is seen was carried out.
//!
//! The checker finds the same, key by key; here it is counted by code, so that a run can say which codes it met.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::history::{Answer, History, Outcome, Request};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    pub count: u64,
    /// Of those with a value. None may.
    pub shown_up: u64,
}

/// Writes that failed, by code; without a code of the server's, `not-sent`.
pub fn refusals(history: &History) -> BTreeMap<String, Refusals> {
    let mut seen = HashSet::new();
    // The same value under one idempotency key may be carried out by another attempt.
    let mut asked_otherwise: HashMap<&str, bool> = HashMap::new();
    for operation in &history.operations {
        if let Outcome::Ok(Answer::Found { value: Some(value), .. }) = &operation.outcome {
            seen.insert(value.as_str());
        }
        if let Request::Put { value, .. } = &operation.request {
            *asked_otherwise.entry(value).or_default() |= operation.outcome != Outcome::Fail;
        }
    }
    let mut by_code: BTreeMap<String, Refusals> = BTreeMap::new();
    for operation in &history.operations {
        if !operation.is_write() || operation.outcome != Outcome::Fail {
            continue;
        }
        let why = operation.why.as_deref().unwrap_or_default();
        let code = match operation.status {
            Some(_) => why.split_once(' ').map_or(why, |(_, code)| code),
            None => "not-sent",
        };
        let refusals = by_code.entry(code.to_string()).or_default();
        refusals.count += 1;
        if let Request::Put { value, .. } = &operation.request {
            let showed_up = seen.contains(value.as_str()) && !asked_otherwise[value.as_str()];
            refusals.shown_up += u64::from(showed_up);
        }
    }
    by_code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::read;

    #[test]
    fn a_refused_value_that_is_seen_is_counted_under_its_code() {
        let put = |op: u64, value: &str, rest: &str| {
            format!(
                r#"{{"type":"invoke","op":{op},"process":{op},"f":"put","key":"k","value":"{value}"{rest},"time":0}}"#
            )
        };
        let fail = |op: u64, rest: &str| format!(r#"{{"type":"fail","op":{op},"time":0{rest}}}"#);
        let no_leader = r#","status":503,"why":"503 no-leader""#;
        let saw = |op: u64, value: &str| {
            format!(
                "{{\"type\":\"invoke\",\"op\":{op},\"process\":{op},\"f\":\"get\",\"key\":\"k\",\"time\":0}}\n\
                 {{\"type\":\"ok\",\"op\":{op},\"time\":0,\"found\":true,\"ver\":\"0000000000000001\",\"value\":\"{value}\"}}"
            )
        };
        let twice = r#","idempotency":"i""#;
        let lines = [
            put(1, "a", ""),
            fail(1, no_leader),
            put(2, "b", ""),
            fail(2, no_leader),
            put(3, "c", ""),
            fail(3, r#","why":"not sent: n1:1: refused""#),
            // Another attempt of it may well have been carried out.
            put(4, "d", twice),
            fail(4, no_leader),
            put(5, "d", twice),
            saw(6, "b"),
            saw(7, "d"),
        ];
        let history = read((lines.join("\n") + "\n").as_bytes()).unwrap();
        let told = refusals(&history);
        assert_eq!(told["no-leader"], Refusals { count: 3, shown_up: 1 });
        assert_eq!(told["not-sent"], Refusals { count: 1, shown_up: 0 });
        assert_eq!(told.len(), 2);
    }
}
