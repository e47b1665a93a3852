//! Counters: read, add one, compare-and-set. In the end each is at least the number of its acknowledged increments and at
//! most that and the unknown ones: less is a lost update, more one that was carried out twice or after a refusal.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::answer::{Ended, Judged};
use super::asker::{Ask, Asker};
use super::keys::Keys;
use super::verify::Held;
use super::{Kind, Shared};
use crate::history::{Answer, Expect, Mode, Request};

/// Counters in use at a time. Few, so that increments meet.
const KEYS: usize = 3;

pub(super) struct Counters {
    keys: Mutex<Keys>,
    sums: Mutex<BTreeMap<String, Sum>>,
}

/// Increments of one counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    ok: u64,
    unknown: u64,
}

impl Counters {
    pub(super) fn new(shared: &Shared) -> Self {
        let mut rng = shared.rng(Kind::Counter, 0);
        let keys = Keys::new(shared.key_prefix(Kind::Counter), KEYS, &mut rng);
        Self { keys: Mutex::new(keys), sums: Mutex::default() }
    }

    pub(super) fn all_keys(&self) -> Vec<String> {
        self.keys.lock().expect("no panic").all()
    }

    fn incremented(&self, key: &str, judged: &Judged) {
        let mut sums = self.sums.lock().expect("no panic");
        let sum = sums.entry(key.to_string()).or_default();
        match judged.ended {
            Ended::Ok(Answer::Written { .. }) => sum.ok += 1,
            Ended::Info => sum.unknown += 1,
            Ended::Ok(_) | Ended::Fail => {}
        }
    }

    /// What the counters hold in the end against what was told. Those that could not be read are left to be told as that.
    pub(super) fn check(&self, held: &Held) -> Vec<String> {
        let sums = self.sums.lock().expect("no panic");
        sums.iter().filter_map(|(key, sum)| wrong(key, *sum, held.get(key)?.as_ref().map(|(_, value)| value))).collect()
    }
}

fn wrong(key: &str, sum: Sum, value: Option<&String>) -> Option<String> {
    let Sum { ok, unknown } = sum;
    let Some(total) = value.map_or(Some(0), |value| count(value)) else {
        return Some(format!("{key} holds {value:?}, which is no counter's value"));
    };
    let most = ok + unknown;
    (!(ok..=most).contains(&total)).then(|| {
        format!("{key} is at {total} after {ok} acknowledged increments and {unknown} unknown ones: not {ok} to {most}")
    })
}

/// The number in a value, which has something unique behind it.
fn count(value: &str) -> Option<u64> {
    value.split_once('/')?.0.parse().ok()
}

pub(super) async fn run(shared: Arc<Shared>, counters: Arc<Counters>, number: usize) {
    let mut rng = shared.rng(Kind::Counter, 1 + number);
    let mut asker = Asker::new(&shared, Kind::Counter, number, shared.load.limits());
    while !shared.stopped() {
        let drawn = counters.keys.lock().expect("no panic").draw(true, &mut rng);
        let mut judged = asker.ask(Ask::get(&drawn.key, Mode::Linearizable)).await;
        let mut is_unknown = false;
        let seen = match judged.answer() {
            Some(Answer::Found { ver, value: Some(value) }) => {
                let counted = count(value);
                if counted.is_none() {
                    shared.violated(format!("{} holds {value:?}, which is no counter's value", drawn.key));
                }
                counted.map(|counted| (counted, Expect::Revision(*ver)))
            }
            Some(Answer::Absent) => Some((0, Expect::Absent)),
            _ => None,
        };
        if let Some((counted, expect)) = seen.filter(|_| drawn.may_write) {
            let value = format!("{}/{}", counted + 1, shared.new_value(Kind::Counter));
            let request = Request::Put { value, expect: Some(expect) };
            judged = asker.ask(Ask::new(&drawn.key, request)).await;
            counters.incremented(&drawn.key, &judged);
            is_unknown = judged.ended == Ended::Info;
        }
        if drawn.may_write {
            counters.keys.lock().expect("no panic").ended(&drawn.key, is_unknown);
        }
        asker.rest(&judged, &mut rng).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_at_least_what_was_acknowledged_and_at_most_that_and_the_unknown() {
        let wrong = |value: Option<&str>| {
            let value = value.map(str::to_string);
            wrong("k", Sum { ok: 3, unknown: 2 }, value.as_ref()).is_some()
        };
        assert!(!wrong(Some("3/c9")) && !wrong(Some("5/c9")));
        assert!(wrong(Some("2/c9")), "a lost update");
        assert!(wrong(Some("6/c9")), "one too many");
        assert!(wrong(None), "all of them lost");
        assert!(wrong(Some("3")) && wrong(Some("damaged value")));
    }
}
