//! The conformance suite of the storage seam: one set of tests for every implementation. What the seam's documentation
//! promises is tested here, or it is not promised. Crashes are in [`crash`], damage to RocksDB's files in [`damage`].

mod crash;
mod damage;
mod mem_only;
mod rocks_only;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::mem::MemDisk;
use super::rocks::{RocksDisk, StorageOptions};
use super::{Batch, Disk, Durability, Engine, Error, KeyRange, Row, prefix_end};

/// A disk to test, and ways to make it suffer.
pub(super) trait Fixture {
    fn new(seed: u64) -> Self;
    /// A handle of the disk. On a file system there can be one at a time.
    fn disk(&self) -> Arc<dyn Disk>;
    /// The power fails under everything that is open. What was open is of no use afterwards.
    fn crash(&mut self);
    /// Makes the next flush of this open replica store fail.
    fn break_replica(&self, name: &str);
    fn set_aside_names(&self) -> Vec<String>;
}

pub(super) struct Mem {
    disk: MemDisk,
}

impl Fixture for Mem {
    fn new(seed: u64) -> Self {
        Self { disk: MemDisk::new(seed) }
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    fn crash(&mut self) {
        self.disk.crash();
    }

    fn break_replica(&self, name: &str) {
        self.disk.fail_next_replica_write(name);
    }

    fn set_aside_names(&self) -> Vec<String> {
        self.disk.set_aside_directories()
    }
}

/// A data directory. A crash is a copy of it while everything is open: memtables are lost, files stay. That RocksDB's
/// files are synced when the seam says so is tested by counting syncs (`rocks_only`).
pub(super) struct Rocks {
    pub(super) directory: TempDir,
    before_crashes: Vec<TempDir>,
}

impl Fixture for Rocks {
    fn new(_seed: u64) -> Self {
        Self { directory: TempDir::new().unwrap(), before_crashes: Vec::new() }
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.open().unwrap())
    }

    fn crash(&mut self) {
        let after = TempDir::new().unwrap();
        copy(self.directory.path(), after.path());
        // What is open goes on to write there, like the process that a crash did not let finish.
        self.before_crashes.push(std::mem::replace(&mut self.directory, after));
    }

    fn break_replica(&self, name: &str) {
        fs::remove_dir_all(self.directory.path().join("replicas").join(name)).unwrap();
    }

    fn set_aside_names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.directory.path().join("set-aside"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Rocks {
    pub(super) fn open(&self) -> Result<RocksDisk, Error> {
        let small = StorageOptions { block_cache_bytes: 1 << 20, ..StorageOptions::default() };
        RocksDisk::open(self.directory.path(), &small)
    }
}

/// Copies a directory as it is at one moment: again if RocksDB's threads changed it meanwhile.
pub(super) fn copy(from: &Path, to: &Path) {
    loop {
        let before = listing(from);
        let copied = before.iter().try_for_each(|(path, _)| {
            let target = to.join(path);
            fs::create_dir_all(target.parent().unwrap())?;
            fs::copy(from.join(path), target).map(drop)
        });
        if copied.is_ok() && listing(from) == before {
            return;
        }
        fs::remove_dir_all(to).unwrap();
    }
}

/// The files of a directory and those below it, with their sizes.
fn listing(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        let Ok(entries) = fs::read_dir(directory.join(&below)) else { continue };
        for entry in entries.flatten() {
            let path = below.join(entry.file_name());
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(path),
                Ok(metadata) => drop(files.insert(path, metadata.len())),
                Err(_) => {}
            }
        }
    }
    files
}

pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) const EVERYTHING: KeyRange = KeyRange { from: Bytes::new(), before: None };

pub(super) fn rows_of(engine: &dyn Engine) -> Result<Rows, Error> {
    engine.view().scan(&EVERYTHING).map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
}

pub(super) fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Batch {
    let mut batch = Batch::default();
    batch.put(Bytes::copy_from_slice(key.as_ref()), Bytes::copy_from_slice(value.as_ref()));
    batch
}

fn range(from: &[u8], before: Option<&[u8]>) -> KeyRange {
    KeyRange { from: Bytes::copy_from_slice(from), before: before.map(Bytes::copy_from_slice) }
}

fn keys(rows: impl Iterator<Item = Result<Row, Error>>) -> Vec<Vec<u8>> {
    rows.map(|row| row.unwrap().0.to_vec()).collect()
}

/// Both kinds of engine of a fresh disk: what is not about crashes holds for both.
fn both_engines<F: Fixture>(test: impl Fn(Arc<dyn Engine>)) {
    let fixture = F::new(1);
    let disk = fixture.disk();
    test(disk.open_log().unwrap());
    test(disk.open_replica("1").unwrap());
}

/// Runs each generic test for each implementation.
macro_rules! for_both {
    ($($test:ident),* $(,)?) => {
        mod mem {
            $(#[test] fn $test() { super::$test::<super::Mem>(); })*
        }
        mod rocks {
            $(#[test] fn $test() { super::$test::<super::Rocks>(); })*
        }
    };
}

for_both! {
    what_is_put_is_read_and_what_is_deleted_is_gone,
    changes_of_a_batch_take_effect_in_order,
    a_range_that_ends_before_it_begins_deletes_and_yields_nothing,
    keys_and_values_may_be_empty_or_hold_any_byte,
    scans_go_both_ways_within_their_bounds,
    a_view_stays_as_it_was,
    an_empty_batch_changes_nothing,
    closing_and_opening_keeps_everything,
    the_log_is_open_once_and_so_is_each_replica,
    an_open_replica_is_neither_removed_nor_set_aside,
    the_identity_is_absent_and_then_what_was_written,
    replica_directories_are_listed_and_removed,
    a_directory_is_set_aside_under_a_free_name_with_all_it_holds,
    names_that_lead_elsewhere_are_refused,
    a_reserve_is_kept_and_given_back,
    an_engine_that_failed_takes_no_more_writes_but_is_read,
    unflushed_bytes_rise_with_writes_and_are_gone_after_a_flush,
    compaction_changes_nothing_that_is_read,
    a_checkpoint_holds_what_was_written_and_goes_its_own_way,
    an_engine_is_used_from_several_threads,
}

fn what_is_put_is_read_and_what_is_deleted_is_gone<F: Fixture>() {
    both_engines::<F>(|engine| {
        assert_eq!(engine.get(b"a").unwrap(), None);
        engine.write(put(b"a", b"1"), Durability::Buffered).unwrap();
        engine.write(put(b"a", b"2"), Durability::Synced).unwrap();
        assert_eq!(engine.get(b"a").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(engine.view().get(b"a").unwrap().as_deref(), Some(&b"2"[..]));
        let mut batch = Batch::default();
        batch.delete(&b"a"[..]);
        batch.delete(&b"never there"[..]);
        engine.write(batch, Durability::Synced).unwrap();
        assert_eq!(engine.get(b"a").unwrap(), None);
        assert_eq!(engine.view().get(b"a").unwrap(), None);
    });
}

fn changes_of_a_batch_take_effect_in_order<F: Fixture>() {
    both_engines::<F>(|engine| {
        for key in [b"a", b"b", b"c", b"d"] {
            engine.write(put(key, b"old"), Durability::Buffered).unwrap();
        }
        let mut batch = Batch::default();
        batch.put(&b"bb"[..], &b"new"[..]);
        batch.delete_range(&b"b"[..], &b"d"[..]);
        batch.put(&b"c"[..], &b"new"[..]);
        batch.put(&b"e"[..], &b"1"[..]);
        batch.put(&b"e"[..], &b"2"[..]);
        batch.delete(&b"a"[..]);
        batch.put(&b"a"[..], &b"again"[..]);
        engine.write(batch, Durability::Synced).unwrap();
        let expected: [(&[u8], &[u8]); 4] = [(b"a", b"again"), (b"c", b"new"), (b"d", b"old"), (b"e", b"2")];
        assert_eq!(rows_of(&*engine).unwrap(), expected.map(|(key, value)| (key.to_vec(), value.to_vec())).into());
    });
}

fn a_range_that_ends_before_it_begins_deletes_and_yields_nothing<F: Fixture>() {
    both_engines::<F>(|engine| {
        engine.write(put(b"b", b""), Durability::Buffered).unwrap();
        let mut batch = Batch::default();
        batch.delete_range(&b"c"[..], &b"a"[..]);
        batch.delete_range(&b"b"[..], &b"b"[..]);
        engine.write(batch, Durability::Synced).unwrap();
        engine.write(put(b"c", b""), Durability::Synced).unwrap();
        assert_eq!(keys(engine.view().scan(&EVERYTHING)), [b"b", b"c"]);
        let view = engine.view();
        for (from, before) in [(b"c", b"a"), (b"b", b"b")] {
            assert!(keys(view.scan(&range(from, Some(before)))).is_empty());
            assert!(keys(view.scan_reverse(&range(from, Some(before)))).is_empty());
        }
    });
}

fn keys_and_values_may_be_empty_or_hold_any_byte<F: Fixture>() {
    both_engines::<F>(|engine| {
        let odd: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"\0\xFF", b"a\0", b"a\0b", b"\xFF", b"\xFF\xFF\0"];
        for key in odd {
            engine.write(put(key, b""), Durability::Buffered).unwrap();
        }
        engine.write(put(b"\xFF\xFE", [0, 255, 0]), Durability::Synced).unwrap();
        let mut expected: Vec<Vec<u8>> = odd.iter().map(|key| key.to_vec()).chain([b"\xFF\xFE".to_vec()]).collect();
        expected.sort();
        assert_eq!(keys(engine.view().scan(&EVERYTHING)), expected);
        assert_eq!(engine.get(b"").unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(engine.get(b"\xFF\xFE").unwrap().as_deref(), Some(&[0, 255, 0][..]));
        assert_eq!(keys(engine.view().scan(&KeyRange::prefix(b"\xFF"))), [&b"\xFF"[..], b"\xFF\xFE", b"\xFF\xFF\0"]);
        assert_eq!(keys(engine.view().scan(&KeyRange::prefix(b"a\0"))), [&b"a\0"[..], b"a\0b"]);
        assert_eq!(keys(engine.view().scan_reverse(&KeyRange::prefix(b"\0"))), [&b"\0\xFF"[..], b"\0\0", b"\0"]);
    });
}

fn scans_go_both_ways_within_their_bounds<F: Fixture>() {
    both_engines::<F>(|engine| {
        let all: Vec<Vec<u8>> = (0..300_u16).map(|number| number.to_be_bytes().to_vec()).collect();
        for (at, key) in all.iter().enumerate() {
            engine.write(put(key, at.to_string()), Durability::Buffered).unwrap();
            // So that some rows are in tables and some in memory.
            if at == 150 {
                engine.flush().unwrap();
            }
        }
        let view = engine.view();
        let bounds = [(0, 300), (0, 1), (17, 18), (5, 299), (149, 152), (299, 300), (40, 40)];
        for (from, before) in bounds {
            let limit = (before < 300).then(|| all[before].as_slice());
            let bounds = range(&all[from], limit);
            let mut expected = all[from..before].to_vec();
            assert_eq!(keys(view.scan(&bounds)), expected, "{from}..{before}");
            expected.reverse();
            assert_eq!(keys(view.scan_reverse(&bounds)), expected, "{before}..{from}");
        }
        // A bound need not be a key.
        assert_eq!(keys(view.scan(&range(&[0, 5, 0], Some(&[0, 7, 1])))), [[0, 6], [0, 7]]);
        assert_eq!(keys(view.scan_reverse(&range(&[0, 5, 0], Some(&[0, 7, 1])))), [[0, 7], [0, 6]]);
        assert_eq!(view.scan(&EVERYTHING).last().unwrap().unwrap().1, "299");
    });
}

fn a_view_stays_as_it_was<F: Fixture>() {
    both_engines::<F>(|engine| {
        for number in 0..100_u8 {
            engine.write(put([number], b"old"), Durability::Buffered).unwrap();
        }
        let before = engine.view();
        let mut batch = Batch::default();
        batch.delete_range(&[10][..], &[90][..]);
        batch.put(&[5][..], &b"new"[..]);
        batch.put(&[200][..], &b"new"[..]);
        engine.write(batch, Durability::Synced).unwrap();
        engine.flush().unwrap();
        engine.compact(&EVERYTHING);
        let after = engine.view();
        engine.write(put([201], b"newer"), Durability::Buffered).unwrap();
        assert_eq!(before.scan(&EVERYTHING).count(), 100);
        assert!(before.scan(&EVERYTHING).all(|row| row.unwrap().1 == "old"));
        assert_eq!(before.get(&[200]).unwrap(), None);
        assert_eq!(after.scan(&EVERYTHING).count(), 21);
        assert_eq!(after.get(&[5]).unwrap().as_deref(), Some(&b"new"[..]));
        assert_eq!(after.get(&[201]).unwrap(), None);
        drop(engine);
        assert_eq!(before.scan_reverse(&EVERYTHING).count(), 100, "a view outlives its engine");
    });
}

fn an_empty_batch_changes_nothing<F: Fixture>() {
    both_engines::<F>(|engine| {
        assert!(Batch::default().is_empty());
        engine.write(Batch::default(), Durability::Buffered).unwrap();
        engine.write(Batch::default(), Durability::Synced).unwrap();
        engine.flush().unwrap();
        assert!(rows_of(&*engine).unwrap().is_empty());
    });
}

fn closing_and_opening_keeps_everything<F: Fixture>() {
    let fixture = F::new(1);
    let disk = fixture.disk();
    for round in 0..3_u8 {
        let engines = [disk.open_log().unwrap(), disk.open_replica("7").unwrap()];
        for engine in &engines {
            assert_eq!(keys(engine.view().scan(&EVERYTHING)), (0..round).map(|round| vec![round]).collect::<Vec<_>>());
            engine.write(put([round], b""), Durability::Buffered).unwrap();
        }
    }
}

fn the_log_is_open_once_and_so_is_each_replica<F: Fixture>() {
    let fixture = F::new(1);
    let disk = fixture.disk();
    let refused = |result: Result<Arc<dyn Engine>, Error>| {
        let error = result.err().expect("it is open");
        assert!(matches!(&error, Error::InUse { holder, .. } if holder == "this process"), "{error}");
    };
    let log = disk.open_log().unwrap();
    let one = disk.open_replica("1").unwrap();
    let two = disk.open_replica("2").unwrap();
    refused(disk.open_log());
    refused(disk.open_replica("1"));
    let view = one.view();
    drop((log, one));
    refused(disk.open_replica("1"));
    drop(view);
    disk.open_log().unwrap();
    disk.open_replica("1").unwrap();
    refused(disk.open_replica("2"));
    drop(two);
}

fn an_open_replica_is_neither_removed_nor_set_aside<F: Fixture>() {
    let fixture = F::new(1);
    let disk = fixture.disk();
    let engine = disk.open_replica("1").unwrap();
    assert!(matches!(disk.remove_replica("1"), Err(Error::InUse { .. })));
    assert!(matches!(disk.set_aside("1"), Err(Error::InUse { .. })));
    engine.write(put(b"a", b""), Durability::Buffered).unwrap();
    engine.flush().unwrap();
    drop(engine);
    disk.remove_replica("1").unwrap();
    assert!(disk.replica_directories().unwrap().is_empty());
    assert!(rows_of(&*disk.open_replica("1").unwrap()).unwrap().is_empty(), "made anew, it is empty");
}

fn the_identity_is_absent_and_then_what_was_written<F: Fixture>() {
    let mut fixture = F::new(1);
    let disk = fixture.disk();
    assert_eq!(disk.read_identity().unwrap(), None);
    disk.write_identity(b"first, and rather longer").unwrap();
    disk.write_identity(b"second").unwrap();
    assert_eq!(disk.read_identity().unwrap().as_deref(), Some(&b"second"[..]));
    fixture.crash();
    drop(disk);
    assert_eq!(fixture.disk().read_identity().unwrap().as_deref(), Some(&b"second"[..]));
}

fn replica_directories_are_listed_and_removed<F: Fixture>() {
    let mut fixture = F::new(1);
    let disk = fixture.disk();
    assert!(disk.replica_directories().unwrap().is_empty());
    for name in ["20", "3", "100", "with a blank"] {
        drop(disk.open_replica(name).unwrap());
    }
    assert_eq!(disk.replica_directories().unwrap(), ["100", "20", "3", "with a blank"]);
    disk.remove_replica("with a blank").unwrap();
    disk.remove_replica("20").unwrap();
    disk.remove_replica("20").unwrap();
    disk.remove_replica("never there").unwrap();
    fixture.crash();
    drop(disk);
    assert_eq!(fixture.disk().replica_directories().unwrap(), ["100", "3"]);
}

fn a_directory_is_set_aside_under_a_free_name_with_all_it_holds<F: Fixture>() {
    let mut fixture = F::new(1);
    let disk = fixture.disk();
    disk.set_aside("5").unwrap_err();
    for _ in 0..3 {
        let engine = disk.open_replica("5").unwrap();
        engine.write(put(b"a", b""), Durability::Buffered).unwrap();
        engine.flush().unwrap();
        drop(engine);
        disk.set_aside("5").unwrap();
    }
    assert!(disk.replica_directories().unwrap().is_empty());
    assert!(rows_of(&*disk.open_replica("5").unwrap()).unwrap().is_empty());
    fixture.crash();
    drop(disk);
    assert_eq!(fixture.set_aside_names(), ["5", "5.1", "5.2"]);
}

fn names_that_lead_elsewhere_are_refused<F: Fixture>() {
    let fixture = F::new(1);
    let disk = fixture.disk();
    for name in ["", ".", "..", "../log", "a/b", "/", ".hidden", "a\0b"] {
        assert!(disk.open_replica(name).is_err(), "{name:?}");
        assert!(disk.remove_replica(name).is_err(), "{name:?}");
        assert!(disk.set_aside(name).is_err(), "{name:?}");
    }
}

fn a_reserve_is_kept_and_given_back<F: Fixture>() {
    const BYTES: u64 = 8 << 20;
    let fixture = F::new(1);
    let disk = fixture.disk();
    assert_eq!(disk.reserve_bytes().unwrap(), 0);
    for bytes in [BYTES, BYTES / 2, BYTES, 0] {
        disk.set_reserve(bytes).unwrap();
        assert_eq!(disk.reserve_bytes().unwrap(), bytes);
    }
    // Refused at a look: twice what is free would be taken first, all of it.
    let more_than_there_is = 1 << 62;
    disk.set_reserve(BYTES).unwrap();
    disk.set_reserve(more_than_there_is).unwrap_err();
    assert_eq!(disk.reserve_bytes().unwrap(), 0, "nothing is kept after a failure");
    disk.set_reserve(0).unwrap();
}

fn an_engine_that_failed_takes_no_more_writes_but_is_read<F: Fixture>() {
    let fixture = F::new(1);
    let disk = fixture.disk();
    let engine = disk.open_replica("1").unwrap();
    let other = disk.open_replica("2").unwrap();
    engine.write(put(b"a", b"1"), Durability::Buffered).unwrap();
    fixture.break_replica("1");
    let failed = engine.flush().unwrap_err();
    assert!(matches!(&failed, Error::Io { .. }), "{failed}");
    for _ in 0..2 {
        // By the engine's own word: RocksDB refuses too, but it may resume by itself.
        for refused in [engine.write(put(b"b", b""), Durability::Buffered), engine.flush()] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("takes no more writes"), "{refused}");
        }
    }
    assert_eq!(engine.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(keys(engine.view().scan(&EVERYTHING)), [b"a"]);
    other.write(put(b"b", b""), Durability::Buffered).unwrap();
    other.flush().unwrap();
}

fn unflushed_bytes_rise_with_writes_and_are_gone_after_a_flush<F: Fixture>() {
    let fixture = F::new(1);
    let engine = fixture.disk().open_replica("1").unwrap();
    assert_eq!(engine.unflushed_bytes(), 0);
    engine.write(put(b"a", [7; 100_000]), Durability::Buffered).unwrap();
    assert!(engine.unflushed_bytes() >= 100_000);
    engine.flush().unwrap();
    assert_eq!(engine.unflushed_bytes(), 0);
    assert!(engine.disk_bytes() > 0);
    let mut batch = Batch::default();
    batch.delete_range(&b"a"[..], &b"b"[..]);
    engine.write(batch, Durability::Buffered).unwrap();
    assert!(engine.unflushed_bytes() > 0, "a range delete too is to be flushed");
}

fn compaction_changes_nothing_that_is_read<F: Fixture>() {
    both_engines::<F>(|engine| {
        for number in 0..200_u8 {
            engine.write(put([number], [number; 500]), Durability::Buffered).unwrap();
        }
        engine.flush().unwrap();
        let mut batch = Batch::default();
        batch.delete_range(&[0][..], &[150][..]);
        engine.write(batch, Durability::Synced).unwrap();
        let before = rows_of(&*engine).unwrap();
        engine.compact(&range(&[0], Some(&[150])));
        engine.compact(&EVERYTHING);
        assert_eq!(rows_of(&*engine).unwrap(), before);
    });
}

fn an_engine_is_used_from_several_threads<F: Fixture>() {
    both_engines::<F>(|engine| {
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let engine = &engine;
                scope.spawn(move || {
                    for number in 0..50_u8 {
                        // Two rows in one batch: a view has both or neither.
                        let mut batch = put([0, thread, number], b"");
                        batch.put(Bytes::copy_from_slice(&[1, thread, number]), Bytes::new());
                        engine.write(batch, Durability::Buffered).unwrap();
                        let view = engine.view();
                        let halves = [0, 1].map(|half| view.scan(&KeyRange::prefix(&[half])).count());
                        assert_eq!(halves[0], halves[1]);
                    }
                });
            }
        });
        assert_eq!(engine.view().scan(&EVERYTHING).count(), 400);
    });
}

#[test]
fn the_end_of_a_prefix_is_the_first_key_behind_it() {
    assert_eq!(prefix_end(b"a").as_deref(), Some(&b"b"[..]));
    assert_eq!(prefix_end(b"a\xFF\xFF").as_deref(), Some(&b"b"[..]));
    assert_eq!(prefix_end(b"\0").as_deref(), Some(&b"\x01"[..]));
    assert_eq!(prefix_end(b"\xFE\xFF\x00").as_deref(), Some(&b"\xFE\xFF\x01"[..]));
    assert_eq!(prefix_end(b"\xFF\xFF"), None);
    assert_eq!(prefix_end(b""), None);
    assert_eq!(KeyRange::prefix(b""), EVERYTHING);
}

#[test]
fn errors_say_what_they_are_as_io_errors() {
    let kind = |error: Error| std::io::Error::from(error).kind();
    assert_eq!(kind(Error::Corrupt { what: String::new() }), std::io::ErrorKind::InvalidData);
    assert_eq!(kind(Error::Io { doing: String::new(), what: String::new() }), std::io::ErrorKind::Other);
}

fn a_checkpoint_holds_what_was_written_and_goes_its_own_way<F: Fixture>() {
    let mut fixture = F::new(1);
    let disk = fixture.disk();
    let parent = disk.open_replica("1").unwrap();
    for key in [b"a", b"b"] {
        parent.write(put(key, b"old"), Durability::Buffered).unwrap();
    }
    parent.flush().unwrap();
    parent.write(put(b"c", b"not flushed"), Durability::Buffered).unwrap();
    let before = rows_of(&*parent).unwrap();
    parent.checkpoint("2").unwrap();
    parent.checkpoint("2").unwrap_err();
    assert_eq!(disk.replica_directories().unwrap(), ["1", "2"]);
    assert_eq!(rows_of(&*parent).unwrap(), before);
    drop((parent, disk));
    fixture.crash();
    let disk = fixture.disk();
    let (parent, child) = (disk.open_replica("1").unwrap(), disk.open_replica("2").unwrap());
    assert_eq!((rows_of(&*parent).unwrap(), rows_of(&*child).unwrap()), (before.clone(), before.clone()));
    let mut batch = Batch::default();
    batch.delete(&b"a"[..]);
    child.write(batch, Durability::Buffered).unwrap();
    child.write(put(b"d", b"new"), Durability::Buffered).unwrap();
    child.flush().unwrap();
    child.compact(&EVERYTHING);
    assert_eq!(rows_of(&*parent).unwrap(), before);
    drop(parent);
    disk.remove_replica("1").unwrap();
    assert_eq!(rows_of(&*child).unwrap().keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"b", b"c", b"d"]);
}
