//! Writes that are sent more than once under one idempotency key: again after the answer or its absence, to two nodes at
//! the same time, and once more a good while later, over whatever faults came between and after all of them. The checker
//! takes all attempts under one key for one write; here they are held to each other directly: the same answer for all,
//! and at most one that is not a replay.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use ringraft::clock::{self, Moment};
use ringraft::types::Revision;

use super::answer::{Ended, Judged};
use super::asker::{Ask, Asker, Limits};
use super::keys::Keys;
use super::{Kind, Shared};
use crate::history::{Answer, Expect, Mode, Request};

/// Keys in use at a time.
const KEYS: usize = 6;
const READS: f64 = 0.2;
/// Of new writes: twice at the same time, twice in a row, or once for now.
const AT_ONCE: f64 = 0.35;
const IN_A_ROW: f64 = 0.35;
/// Before a new write, how often an old one is sent again.
const LATER: f64 = 0.25;
const DELETES: f64 = 0.15;
const CONDITIONAL: f64 = 0.4;
/// Writes that each client keeps to send again.
const KEPT_EACH: usize = 200;
/// A write is not sent again after this: the server may forget it after ten minutes, on a clock of its own.
const AGE_MAX: Duration = Duration::from_secs(300);
const LIMITS_AT_THE_END: Limits = Limits { server: Duration::from_secs(2), client: Duration::from_secs(4) };

pub(super) struct Attempts {
    keys: Mutex<Keys>,
    /// By idempotency key.
    told: Mutex<BTreeMap<String, Told>>,
    kept: Mutex<Vec<Kept>>,
}

/// What the attempts under one key were answered.
#[derive(Default)]
struct Told {
    answer: Option<Answer>,
    /// Answered ones that were not replays.
    carried_out: u32,
}

/// A write to be sent again.
struct Kept {
    ask: Ask,
    first_asked: Moment,
}

impl Attempts {
    pub(super) fn new(shared: &Shared) -> Self {
        let mut rng = shared.rng(Kind::Idempotence, 0);
        let keys = Keys::new(shared.key_prefix(Kind::Idempotence), KEYS, &mut rng);
        Self { keys: Mutex::new(keys), told: Mutex::default(), kept: Mutex::default() }
    }

    pub(super) fn all_keys(&self) -> Vec<String> {
        self.keys.lock().expect("no panic").all()
    }

    fn take(&self, ask: &Ask, judged: &Judged) -> Option<String> {
        let id = ask.idempotency.as_deref()?;
        let mut told = self.told.lock().expect("no panic");
        let wrong = told.entry(id.to_string()).or_default().take(judged)?;
        Some(format!("{:?} of {:?} under the idempotency key {id}: {wrong}", ask.request, ask.key))
    }
}

impl Told {
    fn take(&mut self, judged: &Judged) -> Option<String> {
        if judged.code == "idempotency-key-reuse" {
            return Some("refused as another request than the one before, which it is not".to_string());
        }
        let answer = judged.answer()?;
        self.carried_out += u32::from(!judged.replayed);
        let first = self.answer.get_or_insert_with(|| answer.clone());
        if first != answer {
            return Some(format!("answered {first:?} and {answer:?}"));
        }
        (self.carried_out > 1).then(|| "two attempts were answered as the first one".to_string())
    }
}

/// One client, which asks two nodes.
struct Pair {
    shared: Arc<Shared>,
    attempts: Arc<Attempts>,
    here: Asker,
    there: Asker,
}

impl Pair {
    fn judged(&self, ask: &Ask, judged: &Judged) {
        if let Some(wrong) = self.attempts.take(ask, judged) {
            self.shared.violated(wrong);
        }
    }

    async fn ask_here(&mut self, ask: &Ask) -> Judged {
        let judged = self.here.ask(ask.clone()).await;
        self.judged(ask, &judged);
        judged
    }

    async fn ask_there(&mut self, ask: &Ask) -> Judged {
        let judged = self.there.ask(ask.clone()).await;
        self.judged(ask, &judged);
        judged
    }

    /// Both at the same time.
    async fn ask_both(&mut self, ask: &Ask) -> [Judged; 2] {
        let (here, there) = futures::future::join(self.here.ask(ask.clone()), self.there.ask(ask.clone())).await;
        self.judged(ask, &here);
        self.judged(ask, &there);
        [here, there]
    }
}

pub(super) async fn run(shared: Arc<Shared>, attempts: Arc<Attempts>, number: usize) {
    let mut rng = shared.rng(Kind::Idempotence, 1 + number);
    let asker = |target| Asker::new(&shared, Kind::Idempotence, target, shared.load.limits());
    let (here, there) = (asker(number), asker(number + 1));
    let mut pair = Pair { shared: Arc::clone(&shared), attempts: Arc::clone(&attempts), here, there };
    let mut seen: Option<(String, Option<Revision>)> = None;
    let mut kept: VecDeque<Kept> = VecDeque::new();
    let mut made = 0;
    while !shared.stopped() {
        if rng.random_bool(LATER) && !kept.is_empty() {
            let place = rng.random_range(0..kept.len());
            send_again(&mut pair, &mut kept, place).await;
        }
        let drawn = attempts.keys.lock().expect("no panic").draw(!rng.random_bool(READS), &mut rng);
        if !drawn.may_write {
            let judged = pair.here.ask(Ask::get(&drawn.key, Mode::Linearizable)).await;
            if matches!(judged.ended, Ended::Ok(_)) {
                seen = Some((drawn.key, judged.revision()));
            }
            pair.here.rest(&judged, &mut rng).await;
            continue;
        }
        made += 1;
        let id = format!("{:x}-{number}-{made}", shared.ground.seed);
        let last_seen = seen.as_ref().filter(|(key, _)| *key == drawn.key).and_then(|(_, revision)| *revision);
        let ask = write(&shared, &drawn.key, id, last_seen, &mut rng);
        let first_asked = clock::now();
        let share: f64 = rng.random_range(0.0..1.0);
        let judged = if share < AT_ONCE {
            pair.ask_both(&ask).await.to_vec()
        } else if share < AT_ONCE + IN_A_ROW {
            vec![pair.ask_here(&ask).await, pair.ask_there(&ask).await]
        } else {
            vec![pair.ask_here(&ask).await]
        };
        let answered = judged.iter().find_map(Judged::answer);
        let is_unknown = answered.is_none() && judged.iter().any(|judged| judged.ended == Ended::Info);
        attempts.keys.lock().expect("no panic").ended(&drawn.key, is_unknown);
        // What every attempt was refused is done with: sent again, it might become one more unknown write of its key.
        if answered.is_some() || is_unknown {
            kept.push_back(Kept { ask, first_asked });
        }
        if kept.len() > KEPT_EACH {
            kept.pop_front();
        }
        let last = judged.last().expect("it was asked at least once");
        if let Some(revision) = judged.iter().find_map(Judged::revision) {
            seen = Some((drawn.key, Some(revision)));
        }
        pair.here.rest(last, &mut rng).await;
    }
    attempts.kept.lock().expect("no panic").extend(kept);
}

/// Alternately through the one node and the other.
async fn send_again(pair: &mut Pair, kept: &mut VecDeque<Kept>, place: usize) {
    let Kept { ask, first_asked } = &kept[place];
    if clock::now().since(*first_asked) > AGE_MAX {
        kept.remove(place);
        return;
    }
    if place.is_multiple_of(2) {
        pair.ask_here(ask).await;
    } else {
        pair.ask_there(ask).await;
    }
}

fn write(shared: &Shared, key: &str, id: String, seen: Option<Revision>, rng: &mut StdRng) -> Ask {
    let expect = rng.random_bool(CONDITIONAL).then(|| seen.map_or(Expect::Absent, Expect::Revision));
    let request = if rng.random_bool(DELETES) {
        Request::Delete { expect }
    } else {
        Request::Put { value: shared.new_value(Kind::Idempotence), expect }
    };
    Ask { idempotency: Some(id), ..Ask::new(key, request) }
}

/// Sends every write that is still kept once more, when all faults are healed, until it is answered. Gives how many were,
/// and those that were not until `deadline`. After this nothing is unknown that is kept, so keys are read back later.
pub(super) async fn at_the_end(
    shared: &Arc<Shared>,
    attempts: &Arc<Attempts>,
    deadline: Moment,
) -> (usize, Vec<String>) {
    let kept = std::mem::take(&mut *attempts.kept.lock().expect("no panic"));
    let (mut replayed, mut unanswered) = (0, Vec::new());
    let mut asker = Asker::new(shared, Kind::Idempotence, 0, LIMITS_AT_THE_END);
    for Kept { ask, first_asked } in kept {
        loop {
            // Later it may have been forgotten, and would be carried out again.
            if clock::now().since(first_asked) > AGE_MAX {
                break;
            }
            let judged = asker.ask(ask.clone()).await;
            if let Some(wrong) = attempts.take(&ask, &judged) {
                shared.violated(wrong);
            }
            if judged.answer().is_some() || judged.code == "idempotency-key-reuse" {
                replayed += 1;
                break;
            }
            if clock::now() >= deadline || shared.is_broken() {
                unanswered.push(format!("{} once more: {}", ask.key, judged.about.why.unwrap_or(judged.code)));
                break;
            }
            asker.turn_to(asker.target() + 1);
            tokio::time::sleep(shared.load.pause_after_refusal).await;
        }
    }
    (replayed, unanswered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Trouble;
    use crate::workload::judge;

    fn answered(revision: u64, replayed: bool) -> Judged {
        let request = Request::Put { value: "v".into(), expect: None };
        let ended = Ended::Ok(Answer::Written { ver: Revision(revision) });
        Judged { ended, replayed, ..judge(&request, Err(Trouble::Late)) }
    }

    #[test]
    fn replays_of_the_first_answer_are_right_in_any_order() {
        for replays in [[false, true, true], [true, false, true], [true, true, true]] {
            let mut told = Told::default();
            assert!(replays.iter().all(|replayed| told.take(&answered(5, *replayed)).is_none()));
        }
    }

    #[test]
    fn another_answer_or_a_second_first_one_is_wrong() {
        let mut told = Told::default();
        assert_eq!(told.take(&answered(5, false)), None);
        assert!(told.take(&answered(6, true)).unwrap().contains("answered"));
        let mut told = Told::default();
        assert_eq!(told.take(&answered(5, false)), None);
        assert!(told.take(&answered(5, false)).unwrap().contains("as the first one"));
        let reuse = Judged { ended: Ended::Fail, code: "idempotency-key-reuse".into(), ..answered(0, false) };
        assert!(Told::default().take(&reuse).unwrap().contains("another request"));
    }
}
