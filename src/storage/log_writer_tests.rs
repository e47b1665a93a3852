//! A log that cannot be written: nobody may take anything of the batch for durable, and nothing may be written after it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc as std_mpsc;

use futures::executor::block_on;

use super::*;
use crate::storage::child;
use crate::storage::mem::MemDisk;
use crate::storage::rocks::{RocksDisk, StorageOptions};
use crate::storage::spy::SpyDisk;

const LOGGED: &str = "the log could not be written: what is on disk is unknown, so this process ends";

/// A synced or buffered put that says on standard error when it is told, and of what.
fn put(name: &str, durability: Durability) -> LogWrite {
    let key = Bytes::copy_from_slice(name.as_bytes());
    let name = name.to_string();
    let done: Done = Box::new(move |result| eprintln!("told {name} {}", if result.is_ok() { "ok" } else { "failed" }));
    LogWrite { changes: vec![Change::Put(key.clone(), key)], durability, done: Some(done) }
}

/// In a child: one write is done, then the next batch of three fails.
fn fail(durability: Option<Durability>) {
    child::log();
    let disk = SpyDisk::new(1, true);
    let writer = LogWriter::start(&disk, disk.open_log().unwrap()).unwrap();
    let (go_on, held) = std_mpsc::channel::<()>();
    disk.spy.before_next_write(move || held.recv().unwrap_or_default());
    block_on(writer.submit(put("first", Durability::Synced))).unwrap();
    while !disk.spy.is_held() {
        std::thread::yield_now();
    }
    // Queued behind the write that is held, so that they are one batch.
    if durability.is_some() {
        let simulated = disk.inner.clone();
        disk.spy.before_next_write(move || simulated.fail_next_log_write());
    }
    for name in ["second", "third", "fourth"] {
        block_on(writer.submit(put(name, durability.unwrap_or(Durability::Synced)))).unwrap();
    }
    drop(go_on);
    let (told, done) = std_mpsc::channel();
    let last = LogWrite { done: Some(Box::new(move |_| told.send(()).unwrap())), ..put("last", Durability::Synced) };
    block_on(writer.submit(last)).unwrap();
    done.recv().unwrap();
}

#[test]
fn a_failed_write_of_the_log_ends_the_process_before_anyone_is_told() {
    const TEST: &str = "storage::log_writer::tests::a_failed_write_of_the_log_ends_the_process_before_anyone_is_told";
    match child::role().as_deref() {
        None => {}
        Some("sound") => return fail(None),
        Some("synced") => return fail(Some(Durability::Synced)),
        Some("buffered") => return fail(Some(Durability::Buffered)),
        Some(other) => panic!("{other}"),
    }
    let sound = child::run(TEST, "sound");
    assert!(sound.succeeded && !sound.said.contains(LOGGED), "{}", sound.said);
    for name in ["first", "second", "third", "fourth"] {
        assert!(sound.said.contains(&format!("told {name} ok")), "{}", sound.said);
    }
    for role in ["synced", "buffered"] {
        let ended = child::run(TEST, role);
        assert!(ended.aborted, "{role}: {}", ended.said);
        assert!(ended.said.contains(LOGGED) && ended.said.contains("failed as ordered"), "{role}: {}", ended.said);
        let told: Vec<&str> = ended.said.lines().filter(|line| line.starts_with("told")).collect();
        assert_eq!(told, ["told first ok"], "{role}");
    }
}

/// In a child: writes to a real log until a write fails.
fn fill(directory: &Path) {
    const WRITES_MAX: u32 = 200;
    const VALUE_BYTES: usize = 256 << 10;
    child::log();
    let disk = RocksDisk::open(directory, &StorageOptions::default()).unwrap();
    let writer = LogWriter::start(&disk, disk.open_log().unwrap()).unwrap();
    for number in 0..WRITES_MAX {
        let key = Bytes::copy_from_slice(&number.to_be_bytes());
        let value = key.iter().copied().cycle().take(VALUE_BYTES).collect();
        let written = block_on(writer.put_synced(key, value));
        eprintln!("told {number} {}", if written.is_ok() { "ok" } else { "failed" });
    }
}

#[test]
fn a_real_log_that_cannot_grow_ends_the_process_and_keeps_what_was_told() {
    const TEST: &str =
        "storage::log_writer::tests::a_real_log_that_cannot_grow_ends_the_process_and_keeps_what_was_told";
    const BLOCKS_MAX: u32 = 8192;
    if let Some(directory) = child::role() {
        return fill(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let ended = child::run_with_short_files(TEST, directory.path().to_str().unwrap(), BLOCKS_MAX);
    assert!(ended.aborted && ended.said.contains(LOGGED), "{}", ended.said);
    assert!(!ended.said.contains("failed\n"), "{}", ended.said);
    let told = ended.said.lines().filter_map(|line| line.strip_prefix("told ")?.strip_suffix(" ok"));
    let told: BTreeSet<u32> = told.map(|number| number.parse().unwrap()).collect();
    assert!(told.len() > 4, "it was full too soon to show anything: {}", ended.said);
    let log = RocksDisk::open(directory.path(), &StorageOptions::default()).unwrap().open_log().unwrap();
    for number in told {
        let value = log.get(&number.to_be_bytes()).unwrap();
        assert!(value.is_some_and(|value| value.ends_with(&number.to_be_bytes())), "{number} is lost");
    }
}

#[tokio::test]
async fn in_simulation_the_failure_is_told_and_nothing_is_written_after_it() {
    let disk = MemDisk::new(1);
    let engine = disk.open_log().unwrap();
    let writer = LogWriter::start(&disk, engine.clone()).unwrap();
    let key = |text: &'static str| Bytes::from_static(text.as_bytes());
    writer.put_synced(key("a"), key("1")).await.unwrap();
    disk.fail_next_log_write();
    assert!(writer.put_synced(key("b"), key("2")).await.is_err());
    assert!(writer.put_synced(key("c"), key("3")).await.is_err());
    let read = |text| engine.get(&key(text)).unwrap();
    assert_eq!((read("a"), read("c")), (Some(key("1")), None));
}
