//! Crashes at every step of a run: what is left is a prefix of the batches that holds all that was promised.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;
use crate::storage::Change;

/// Runs per implementation; each crashes once after every step. RocksDB takes tens of milliseconds to open.
const ROCKS_RUNS: u32 = 6;
const MEM_RUNS: u32 = 200;

#[derive(Clone, Debug)]
enum Step {
    Write(Batch, Durability),
    Flush,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Log,
    Data,
}

impl Kind {
    fn open(self, disk: &dyn Disk) -> Arc<dyn Engine> {
        match self {
            Kind::Log => disk.open_log().unwrap(),
            Kind::Data => disk.open_replica("1").unwrap(),
        }
    }

    /// Whether this step makes everything up to it durable.
    fn promises(self, step: &Step) -> bool {
        match step {
            Step::Write(_, durability) => self == Kind::Log && *durability == Durability::Synced,
            Step::Flush => true,
        }
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(254), Just(255)], 0..3).prop_map(Bytes::from)
}

fn change() -> impl Strategy<Value = Change> {
    let value = prop_oneof![
        9 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (1_usize..100_000, any::<u8>()).prop_map(|(bytes, byte)| vec![byte; bytes]),
    ];
    prop_oneof![
        5 => (key(), value).prop_map(|(key, value)| Change::Put(key, value.into())),
        1 => key().prop_map(Change::Delete),
        1 => (key(), key()).prop_map(|(from, before)| Change::DeleteRange(from, before)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let batch = proptest::collection::vec(change(), 1..5).prop_map(|changes| Batch { changes });
    let durability = prop_oneof![Just(Durability::Synced), Just(Durability::Buffered)];
    prop_oneof![
        6 => (batch, durability).prop_map(|(batch, durability)| Step::Write(batch, durability)),
        2 => Just(Step::Flush),
    ]
}

fn apply_to_model(rows: &mut Rows, batch: &Batch) {
    for change in &batch.changes {
        match change {
            Change::Put(key, value) => drop(rows.insert(key.to_vec(), value.to_vec())),
            Change::Delete(key) => drop(rows.remove(&key[..])),
            Change::DeleteRange(from, before) => {
                rows.retain(|key, _| key[..] < from[..] || key[..] >= before[..]);
            }
        }
    }
}

/// What the engine may hold: the state after each batch from the last promise on.
struct Allowed {
    states: Vec<Rows>,
}

impl Allowed {
    fn after(&mut self, kind: Kind, step: &Step) {
        if let Step::Write(batch, _) = step {
            let mut next = self.states.last().unwrap().clone();
            apply_to_model(&mut next, batch);
            self.states.push(next);
        }
        if kind.promises(step) {
            self.states.drain(..self.states.len() - 1);
        }
    }
}

fn run(engine: &dyn Engine, step: &Step) {
    match step {
        Step::Write(batch, durability) => engine.write(batch.clone(), *durability).unwrap(),
        Step::Flush => engine.flush().unwrap(),
    }
}

/// Crashes after `crash_after` steps, checks what is left, does the rest, and crashes again.
fn crash_once<F: Fixture>(kind: Kind, steps: &[Step], crash_after: usize, seed: u64) -> Result<(), TestCaseError> {
    let mut fixture = F::new(seed);
    let mut allowed = Allowed { states: vec![Rows::new()] };
    let (before, after) = steps.split_at(crash_after);
    for steps in [before, after] {
        let disk = fixture.disk();
        let engine = kind.open(&*disk);
        let found = rows_of(&*engine).unwrap();
        prop_assert!(allowed.states.contains(&found), "{kind:?}, crash after step {crash_after}: {found:?}");
        allowed.states = vec![found];
        for step in steps {
            run(&*engine, step);
            allowed.after(kind, step);
            prop_assert_eq!(&rows_of(&*engine).unwrap(), allowed.states.last().unwrap());
        }
        fixture.crash();
    }
    let disk = fixture.disk();
    let found = rows_of(&*kind.open(&*disk)).unwrap();
    prop_assert!(allowed.states.contains(&found), "{kind:?}, second crash, first after {crash_after}: {found:?}");
    Ok(())
}

fn crash_everywhere<F: Fixture>(kind: Kind, runs: u32) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(runs) });
    let script = (proptest::collection::vec(step(), 1..8), any::<u64>());
    let result = runner.run(&script, |(steps, seed)| {
        (0..=steps.len()).try_for_each(|crash_after| crash_once::<F>(kind, &steps, crash_after, seed))
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// One run by hand, so that each promise is met in every run of the tests: durable after each step is what was promised
/// up to it, by a synced write or a flush, and what was left of an earlier crash.
fn crash_after_each_step_of_a_fixed_run<F: Fixture>() {
    let write = |key: &[u8], durability| Step::Write(put(key, b"value"), durability);
    let steps = [
        write(b"a", Durability::Buffered),
        write(b"b", Durability::Synced),
        write(b"c", Durability::Buffered),
        write(b"d", Durability::Buffered),
        Step::Flush,
        write(b"e", Durability::Buffered),
        write(b"f", Durability::Synced),
    ];
    for kind in [Kind::Log, Kind::Data] {
        for crash_after in 0..=steps.len() {
            crash_once::<F>(kind, &steps, crash_after, 1).unwrap();
        }
    }
}

#[test]
fn a_fixed_run_keeps_its_promises_in_memory() {
    crash_after_each_step_of_a_fixed_run::<Mem>();
}

#[test]
fn a_fixed_run_keeps_its_promises_in_rocksdb() {
    crash_after_each_step_of_a_fixed_run::<Rocks>();
}

#[test]
fn a_log_in_memory_keeps_a_prefix_with_all_that_was_synced() {
    crash_everywhere::<Mem>(Kind::Log, MEM_RUNS);
}

#[test]
fn a_log_in_rocksdb_keeps_a_prefix_with_all_that_was_synced() {
    crash_everywhere::<Rocks>(Kind::Log, ROCKS_RUNS);
}

#[test]
fn data_in_memory_keeps_a_prefix_with_all_that_was_flushed() {
    crash_everywhere::<Mem>(Kind::Data, MEM_RUNS);
}

#[test]
fn data_in_rocksdb_keeps_a_prefix_with_all_that_was_flushed() {
    crash_everywhere::<Rocks>(Kind::Data, ROCKS_RUNS);
}
