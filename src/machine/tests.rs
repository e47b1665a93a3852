//! Apply against a model that keeps plain maps: whatever way a log is cut into batches, every replica gives the model's
//! answers and ends with the model's rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proptest::prelude::*;

use super::dedup::{RECORDS_MAX, RETENTION_MS};
use super::row::RowValue;
use super::txn::Txn;
use super::*;
use crate::catalog::CatalogCommand;
use crate::ring::{Token, TokenRange, token_of};
use crate::storage::mem::MemDisk;
use crate::storage::spy::Spy;
use crate::storage::{Disk, Durability, Engine, KeyRange, keys};
use crate::types::{Epoch, META_SHARD, NodeId, Revision, ShardId};
use crate::wire::Wire;

const SHARD: ShardId = ShardId(3);
/// Aged records that one keyed write removes at most: part of the replicated behaviour, so the model has its own.
const EVICTED_PER_WRITE: usize = 64;

type Rows = BTreeMap<Bytes, Bytes>;

/// Of an entry whose command does not hang on its place.
struct Nowhere;

impl split::Place for Nowhere {
    fn index(&self) -> u64 {
        unreachable!("only a split asks")
    }

    fn members(&self) -> Members {
        unreachable!("only a split asks")
    }
}

pub(super) fn engine() -> Arc<dyn Engine> {
    MemDisk::new(1).open_replica("1").unwrap()
}

fn rows_of(engine: &dyn Engine) -> Rows {
    engine.view().scan(&KeyRange { from: Bytes::new(), before: None }).collect::<Result<_, _>>().unwrap()
}

/// Applies commands as a replica does: `cut[i]` says that a batch ends after command i.
fn replay(
    engine: &dyn Engine,
    state: &mut ShardState,
    commands: &[Command],
    cut: impl Fn(usize) -> bool,
) -> Vec<Response> {
    let mut answers = Vec::new();
    let mut txn = Txn::new(engine);
    for (at, command) in commands.iter().enumerate() {
        answers.push(apply(&mut txn, state, &mut None, command, &Nowhere).unwrap());
        if cut(at) || at + 1 == commands.len() {
            txn.put(Bytes::from_static(keys::SHARD_STATE), state.to_bytes());
            engine.write(std::mem::replace(&mut txn, Txn::new(engine)).into_batch(), Durability::Buffered).unwrap();
        }
    }
    answers
}

pub(super) fn born(range: TokenRange) -> ShardState {
    ShardState { range: Some(range), epoch: Epoch(1), revision: Revision(1000), ..ShardState::unborn(SHARD) }
}

pub(super) fn write(key: &str, time_ms: u64, action: Action) -> Write {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Write { key, time_ms, precondition: Precondition::default(), idempotency_key: None, action }
}

pub(super) fn put(value: &str) -> Action {
    Action::Put { content_type: None, value: Bytes::copy_from_slice(value.as_bytes()) }
}

fn keyed(write: Write, idempotency_key: &str) -> Write {
    Write { idempotency_key: Some(Bytes::copy_from_slice(idempotency_key.as_bytes())), ..write }
}

fn if_match(write: Write, wanted: Match) -> Write {
    Write { precondition: Precondition { if_match: Some(wanted), if_none_match: None }, ..write }
}

/// A shard that applies one command at a time.
struct Shard {
    engine: Arc<dyn Engine>,
    state: ShardState,
}

impl Shard {
    fn new() -> Self {
        Self { engine: engine(), state: born(TokenRange::full()) }
    }

    fn write(&mut self, write: Write) -> Response {
        replay(self.engine.as_ref(), &mut self.state, &[Command::Write(write)], |_| true).remove(0)
    }

    fn dedup_records(&self) -> usize {
        let rows = rows_of(self.engine.as_ref());
        let records = rows.keys().filter(|key| key[0] == 0x20).count();
        assert_eq!(records, rows.keys().filter(|key| key[0] == 0x21).count(), "a record has one place in the index");
        records
    }
}

/// What of a write decides whether a second one is the same.
type Payload = (Bytes, Precondition, Action);

struct Remembered {
    payload: Payload,
    time_ms: u64,
    answer: Response,
}

/// The machine as one would explain it.
struct Model {
    state: ShardState,
    rows: BTreeMap<Bytes, (Revision, Option<String>, Bytes)>,
    dedup: BTreeMap<Bytes, Remembered>,
}

impl Model {
    fn new() -> Self {
        Self { state: ShardState::unborn(SHARD), rows: BTreeMap::new(), dedup: BTreeMap::new() }
    }

    fn apply(&mut self, command: &Command) -> Response {
        match command {
            Command::Catalog(_) => Response::Misdirected,
            Command::Split(_) | Command::Fence(_) => unreachable!("their tests are in `split_tests`"),
            Command::Birth(birth) if birth.shard != SHARD => Response::Misdirected,
            Command::Birth(birth) => {
                if self.state.range.is_none() {
                    self.state.range = Some(birth.range);
                    self.state.epoch = birth.epoch;
                    self.state.revision = birth.revision_base;
                }
                Response::Born
            }
            Command::Write(write) => self.write(write),
        }
    }

    fn write(&mut self, write: &Write) -> Response {
        self.state.time_ms = self.state.time_ms.max(write.time_ms);
        let owned = self.state.range.is_some_and(|range| range.contains(token_of(&write.key)));
        if !owned {
            return Response::NotOwner { range: self.state.range, epoch: self.state.epoch };
        }
        let Some(idempotency_key) = &write.idempotency_key else { return self.carry_out(write) };
        let now = self.state.time_ms;
        let mut aged: Vec<(u64, Bytes)> = self
            .dedup
            .iter()
            .filter(|(_, record)| record.time_ms + RETENTION_MS < now)
            .map(|(key, record)| (record.time_ms, key.clone()))
            .collect();
        aged.sort();
        for (_, key) in aged.into_iter().take(EVICTED_PER_WRITE) {
            self.dedup.remove(&key);
        }
        let key = keys::dedup(token_of(&write.key).0, idempotency_key);
        let payload = (write.key.clone(), write.precondition.clone(), write.action.clone());
        let answer = match self.dedup.get(&key) {
            Some(known) if known.payload != payload => Response::IdempotencyKeyReuse,
            Some(known) => replayed(&known.answer),
            None => {
                let answer = self.carry_out(write);
                self.dedup.insert(key, Remembered { payload, time_ms: now, answer: answer.clone() });
                answer
            }
        };
        self.state.dedup_count = self.dedup.len() as u64;
        answer
    }

    fn carry_out(&mut self, write: &Write) -> Response {
        let current = self.rows.get(&write.key).map(|row| row.0);
        if !write.precondition.holds(current) {
            return Response::PreconditionFailed { current, replayed: false };
        }
        match &write.action {
            Action::Delete if current.is_none() => Response::Deleted { revision: None, replayed: false },
            Action::Delete => {
                self.state.revision.0 += 1;
                self.rows.remove(&write.key);
                Response::Deleted { revision: Some(self.state.revision), replayed: false }
            }
            Action::Put { content_type, value } => {
                self.state.revision.0 += 1;
                self.rows.insert(write.key.clone(), (self.state.revision, content_type.clone(), value.clone()));
                // Only a write that had to look says whether it created the key.
                let created = current.is_none() && !write.precondition.is_none();
                Response::Written { revision: self.state.revision, created, replayed: false }
            }
        }
    }

    /// Every key the engine must hold; of dedup records the keys alone, because their values are checked by what they
    /// answer.
    fn check(&self, stored: &Rows) {
        let mut expected = Rows::new();
        expected.insert(Bytes::from_static(keys::SHARD_STATE), self.state.to_bytes());
        for (key, (revision, content_type, value)) in &self.rows {
            expected.insert(keys::row(key), RowValue::encode(*revision, content_type.as_deref(), value));
        }
        for (key, record) in &self.dedup {
            expected.insert(keys::dedup_age(record.time_ms, key), Bytes::new());
            expected.insert(key.clone(), stored.get(key).cloned().unwrap_or_default());
        }
        assert_eq!(stored, &expected);
    }
}

fn replayed(answer: &Response) -> Response {
    let mut answer = answer.clone();
    match &mut answer {
        Response::Written { replayed, .. }
        | Response::Deleted { replayed, .. }
        | Response::PreconditionFailed { replayed, .. } => *replayed = true,
        other => panic!("{other:?} is never remembered"),
    }
    answer
}

#[derive(Clone, Debug)]
enum Wanted {
    Any,
    Current,
    Stale,
    CurrentAmongOthers,
}

impl Wanted {
    fn resolve(&self, current: Option<Revision>) -> Match {
        let current = current.unwrap_or(Revision(5));
        match self {
            Self::Any => Match::Any,
            Self::Current => Match::Revisions(vec![current]),
            Self::Stale => Match::Revisions(vec![Revision(current.0 - 1)]),
            Self::CurrentAmongOthers => Match::Revisions(vec![Revision(1), current, Revision(2)]),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        key: usize,
        time: TimeStep,
        if_match: Option<Wanted>,
        if_none_match: Option<Wanted>,
        idempotency: Option<u8>,
        action: Action,
    },
    Birth {
        other_shard: bool,
        narrow: bool,
    },
    Catalog,
}

#[derive(Clone, Debug)]
enum TimeStep {
    Forward(u64),
    /// A new leader's clock may stand behind; shard time does not go back.
    Back(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let wanted =
        || prop_oneof![Just(Wanted::Any), Just(Wanted::Current), Just(Wanted::Stale), Just(Wanted::CurrentAmongOthers)];
    let time = prop_oneof![
        8 => (0..2000_u64).prop_map(TimeStep::Forward),
        2 => Just(TimeStep::Forward(RETENTION_MS)),
        2 => Just(TimeStep::Forward(RETENTION_MS + 1)),
        1 => Just(TimeStep::Forward(RETENTION_MS - 1)),
        1 => (1..5000_u64).prop_map(TimeStep::Back),
    ];
    let action = prop_oneof![
        3 => (proptest::option::of(Just("text/plain".to_string())), 0..3_u8)
            .prop_map(|(content_type, value)| Action::Put { content_type, value: Bytes::copy_from_slice(&[value]) }),
        1 => Just(Action::Delete),
    ];
    let write = (
        0..KEYS.len(),
        time,
        proptest::option::weighted(0.25, wanted()),
        proptest::option::weighted(0.2, wanted()),
        proptest::option::weighted(0.6, 0..4_u8),
        action,
    );
    let write = write.prop_map(|(key, time, if_match, if_none_match, idempotency, action)| Step::Write {
        key,
        time,
        if_match,
        if_none_match,
        idempotency,
        action,
    });
    let birth = (proptest::bool::weighted(0.2), any::<bool>())
        .prop_map(|(other_shard, narrow)| Step::Birth { other_shard, narrow });
    prop_oneof![30 => write, 2 => birth, 1 => Just(Step::Catalog)]
}

/// Some of these are beyond [`narrow`], and two share a hash tag and so a token.
const KEYS: [&str; 6] = ["a", "b", "c", "{tag}1", "{tag}2", "long/er"];

fn narrow() -> TokenRange {
    TokenRange { first: Token::FIRST, last: Token(u64::MAX / 2) }
}

/// Turns steps into commands, which may name revisions that only the steps before made.
fn play(steps: Vec<Step>) -> (Vec<Command>, Vec<Response>, Model) {
    let mut model = Model::new();
    let (mut commands, mut answers) = (Vec::new(), Vec::new());
    for step in steps {
        let command = match step {
            Step::Catalog => Command::Catalog(CatalogCommand::CreateShards { placements: vec![NodeId(1)] }),
            Step::Birth { other_shard, narrow: is_narrow } => Command::Birth(Birth {
                shard: if other_shard { ShardId(99) } else { SHARD },
                range: if is_narrow { narrow() } else { TokenRange::full() },
                epoch: Epoch(1 + u64::from(is_narrow)),
                revision_base: Revision(1 << 20),
            }),
            Step::Write { key, time, if_match, if_none_match, idempotency, action } => {
                let key = Bytes::from_static(KEYS[key].as_bytes());
                let current = model.rows.get(&key).map(|row| row.0);
                let resolve = |wanted: Option<Wanted>| wanted.map(|wanted| wanted.resolve(current));
                let precondition = Precondition { if_match: resolve(if_match), if_none_match: resolve(if_none_match) };
                let time_ms = match time {
                    TimeStep::Forward(by) => model.state.time_ms + by,
                    TimeStep::Back(by) => model.state.time_ms.saturating_sub(by),
                };
                let idempotency_key = idempotency.map(|key| Bytes::from(vec![b'i'; usize::from(key)]));
                Command::Write(Write { key, time_ms, precondition, idempotency_key, action })
            }
        };
        answers.push(model.apply(&command));
        commands.push(command);
    }
    (commands, answers, model)
}

fn assert_revisions_rise(answers: &[Response]) {
    let mut last = Revision(0);
    for answer in answers {
        let made = match answer {
            Response::Written { revision, replayed: false, .. } => *revision,
            Response::Deleted { revision: Some(revision), replayed: false } => *revision,
            _ => continue,
        };
        assert!(made > last, "{made:?} after {last:?}");
        last = made;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_a_log_is_cut_into_batches_every_replica_agrees_with_the_model(
        steps in proptest::collection::vec(steps(), 1..80),
        cuts in any::<u128>(),
    ) {
        // Most logs begin with a birth; some writes come before it all the same.
        let steps = std::iter::once(Step::Birth { other_shard: cuts & 3 == 0, narrow: cuts & 4 == 0 }).chain(steps);
        let (commands, expected, model) = play(steps.collect());
        let cut_patterns: [&dyn Fn(usize) -> bool; 3] =
            [&|_| true, &|_| false, &|at| cuts >> (at % 128) & 1 == 1];
        let mut stored = Vec::new();
        for cut in cut_patterns {
            let engine = engine();
            let mut state = ShardState::unborn(SHARD);
            let answers = replay(engine.as_ref(), &mut state, &commands, cut);
            prop_assert_eq!(&answers, &expected);
            prop_assert_eq!(&state, &model.state);
            stored.push(rows_of(engine.as_ref()));
        }
        assert_revisions_rise(&expected);
        model.check(&stored[0]);
        prop_assert_eq!(&stored[0], &stored[1], "the same to the byte, dedup records too");
        prop_assert_eq!(&stored[0], &stored[2]);
    }
}

#[test]
fn a_revision_is_not_used_again_after_delete_and_create() {
    let mut shard = Shard::new();
    shard.write(write("k", 0, put("1")));
    assert_eq!(
        shard.write(write("k", 0, Action::Delete)),
        Response::Deleted { revision: Some(Revision(1002)), replayed: false }
    );
    assert_eq!(shard.write(write("k", 0, Action::Delete)), Response::Deleted { revision: None, replayed: false });
    let again = shard.write(write("k", 0, put("1")));
    assert_eq!(again, Response::Written { revision: Revision(1003), created: false, replayed: false });
    let old = Match::Revisions(vec![Revision(1001)]);
    let stale = shard.write(if_match(write("k", 0, put("2")), old));
    assert_eq!(stale, Response::PreconditionFailed { current: Some(Revision(1003)), replayed: false });
}

#[test]
fn a_blind_put_reads_nothing_and_a_conditional_one_does() {
    let (engine, spy) = Spy::on(engine());
    let mut state = born(TokenRange::full());
    let mut txn = Txn::new(engine.as_ref());
    for value in ["1", "2"] {
        apply(&mut txn, &mut state, &mut None, &Command::Write(write("k", 0, put(value))), &Nowhere).unwrap();
    }
    let reads = || spy.gets.load(Ordering::SeqCst) + spy.views.load(Ordering::SeqCst);
    assert_eq!(reads(), 0);
    let conditional = if_match(write("other", 0, put("3")), Match::Any);
    apply(&mut txn, &mut state, &mut None, &Command::Write(conditional), &Nowhere).unwrap();
    assert_eq!(reads(), 1, "the spy sees reads");
}

#[test]
fn a_refusal_for_ownership_moves_the_clock_alone_and_is_not_remembered() {
    let mut shard = Shard::new();
    shard.state.range = Some(narrow());
    let outside = KEYS.into_iter().find(|key| !narrow().contains(token_of(key.as_bytes()))).unwrap();
    let refused = shard.write(keyed(write(outside, 77, put("v")), "retry"));
    assert_eq!(refused, Response::NotOwner { range: Some(narrow()), epoch: Epoch(1) });
    assert_eq!(shard.state, ShardState { time_ms: 77, ..born(narrow()) });
    assert_eq!(rows_of(shard.engine.as_ref()).keys().collect::<Vec<_>>(), [&Bytes::from_static(keys::SHARD_STATE)]);
    shard.state.range = Some(TokenRange::full());
    let carried_out = shard.write(keyed(write(outside, 78, put("v")), "retry"));
    assert_eq!(carried_out, Response::Written { revision: Revision(1001), created: false, replayed: false });
}

#[test]
fn a_failed_precondition_is_remembered_even_when_it_would_hold_later() {
    let mut shard = Shard::new();
    let conditional = || keyed(if_match(write("k", 0, put("v")), Match::Any), "retry");
    assert_eq!(shard.write(conditional()), Response::PreconditionFailed { current: None, replayed: false });
    shard.write(write("k", 0, put("now it exists")));
    assert_eq!(shard.write(conditional()), Response::PreconditionFailed { current: None, replayed: true });
}

#[test]
fn a_second_attempt_gets_the_first_answer_and_another_payload_is_refused() {
    let mut shard = Shard::new();
    let first = || keyed(write("k", 5, put("v")), "retry");
    let revision = Revision(1001);
    assert_eq!(shard.write(first()), Response::Written { revision, created: false, replayed: false });
    shard.write(write("k", 6, put("by another")));
    let later = Write { time_ms: 900, ..first() };
    assert_eq!(shard.write(later), Response::Written { revision, created: false, replayed: true });
    let row = RowValue::decode(shard.engine.get(&keys::row(b"k")).unwrap().unwrap()).unwrap();
    assert_eq!(row.value, "by another", "the second attempt wrote nothing");
    for other in [
        keyed(write("k", 5, put("w")), "retry"),
        keyed(write("k", 5, Action::Delete), "retry"),
        if_match(first(), Match::Any),
        keyed(write("{k}", 5, put("v")), "retry"),
    ] {
        assert_eq!(shard.write(other), Response::IdempotencyKeyReuse);
    }
    assert_eq!(shard.write(first()), Response::Written { revision, created: false, replayed: true });
    assert_eq!((shard.state.revision, shard.dedup_records()), (Revision(1002), 1));
}

#[test]
fn an_answer_is_kept_for_ten_minutes_of_shard_time_and_not_longer() {
    let mut shard = Shard::new();
    shard.write(keyed(write("k", 1000, put("v")), "retry"));
    // Time that only unkeyed writes brought counts as well.
    shard.write(write("other", 1000 + RETENTION_MS, put("v")));
    let kept = shard.write(keyed(write("k", 0, put("v")), "retry"));
    assert!(matches!(kept, Response::Written { replayed: true, .. }), "{kept:?}");
    let after = shard.write(keyed(write("k", 1001 + RETENTION_MS, put("v")), "retry"));
    assert_eq!(after, Response::Written { revision: Revision(1003), created: false, replayed: false });
    assert_eq!((shard.state.dedup_count, shard.dedup_records()), (1, 1));
}

#[test]
fn each_keyed_write_evicts_a_bounded_number_of_records_and_an_aged_one_never_answers() {
    const RECORDS: usize = 200;
    let mut shard = Shard::new();
    for number in 0..RECORDS {
        shard.write(keyed(write("k", number as u64, put("v")), &format!("{number:03}")));
    }
    assert_eq!(shard.dedup_records(), RECORDS);
    let much_later = 10 * RETENTION_MS;
    shard.write(write("k", much_later, put("v")));
    assert_eq!(shard.dedup_records(), RECORDS, "a write without a key pays nothing");
    // The newest is far beyond the bound: it is still stored, but too old to answer.
    let newest = format!("{:03}", RECORDS - 1);
    let again = shard.write(keyed(write("k", much_later, put("v")), &newest));
    assert!(matches!(again, Response::Written { replayed: false, .. }), "{again:?}");
    assert_eq!(shard.dedup_records(), RECORDS - EVICTED_PER_WRITE);
    for left in [RECORDS - 2 * EVICTED_PER_WRITE, RECORDS - 3 * EVICTED_PER_WRITE, 1] {
        let replayed = shard.write(keyed(write("k", much_later, put("v")), &newest));
        assert!(matches!(replayed, Response::Written { replayed: true, .. }));
        assert_eq!((shard.dedup_records(), shard.state.dedup_count), (left, left as u64));
    }
}

#[test]
fn a_full_table_refuses_new_keys_but_answers_known_ones() {
    let mut shard = Shard::new();
    shard.write(keyed(write("k", 0, put("v")), "known"));
    shard.state.dedup_count = RECORDS_MAX;
    let before = shard.state.clone();
    let refused = shard.write(keyed(write("k", 0, put("w")), "new"));
    assert_eq!((refused, &shard.state), (Response::IdempotencyTableFull, &before));
    let known = shard.write(keyed(write("k", 0, put("v")), "known"));
    assert!(matches!(known, Response::Written { replayed: true, .. }));
    assert!(
        matches!(shard.write(write("k", 0, put("w"))), Response::Written { .. }),
        "without a key nothing is refused"
    );
    // Room is made by age alone.
    let later = shard.write(keyed(write("k", RETENTION_MS + 1, put("w")), "new"));
    assert!(matches!(later, Response::Written { replayed: false, .. }), "{later:?}");
    assert_eq!(shard.state.dedup_count, RECORDS_MAX);
    shard.state.dedup_count = RECORDS_MAX - 1;
    let last_place = shard.write(keyed(write("k", 0, put("x")), "last place"));
    assert!(matches!(last_place, Response::Written { .. }));
}

#[test]
fn birth_counts_once_and_only_for_the_shard_it_names() {
    let engine = engine();
    let mut state = ShardState::unborn(SHARD);
    let birth = |shard, revision| {
        let range = if revision == 7 { narrow() } else { TokenRange::full() };
        Command::Birth(Birth { shard, range, epoch: Epoch(revision), revision_base: Revision(revision) })
    };
    let early = Command::Write(write("a", 3, put("v")));
    let commands = [early, birth(ShardId(4), 9), birth(SHARD, 7), birth(SHARD, 1_000_000)];
    let answers = replay(engine.as_ref(), &mut state, &commands, |_| false);
    let unborn = Response::NotOwner { range: None, epoch: Epoch(0) };
    assert_eq!(answers, [unborn, Response::Misdirected, Response::Born, Response::Born]);
    let expected = ShardState {
        range: Some(narrow()),
        epoch: Epoch(7),
        revision: Revision(7),
        time_ms: 3,
        ..ShardState::unborn(SHARD)
    };
    assert_eq!(state, expected);
}

#[test]
fn data_commands_in_the_meta_group_and_catalog_commands_elsewhere_change_nothing() {
    let engine = engine();
    let write = Command::Write(keyed(write("a", 3, put("v")), "retry"));
    let birth = Birth { shard: META_SHARD, range: TokenRange::full(), epoch: Epoch(1), revision_base: Revision(1) };
    let catalog = Command::Catalog(CatalogCommand::CreateShards { placements: vec![NodeId(1)] });
    for (shard, command) in [(META_SHARD, write), (META_SHARD, Command::Birth(birth)), (SHARD, catalog)] {
        let mut state = ShardState::unborn(shard);
        let mut txn = Txn::new(engine.as_ref());
        let mut cluster = None;
        assert_eq!(apply(&mut txn, &mut state, &mut cluster, &command, &Nowhere).unwrap(), Response::Misdirected);
        assert_eq!((state, cluster), (ShardState::unborn(shard), None));
        assert!(txn.into_batch().is_empty());
    }
}
