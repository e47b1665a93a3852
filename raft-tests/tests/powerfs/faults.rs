//! Each fault acts, on what it is meant for alone, and stops acting.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use raft_tests::powerfs::Model;

use crate::support::{Powered, now, sync};

const EIO: Option<i32> = Some(5);

pub(crate) fn failed_syncs(_: u64) {
    let powered = Powered::new(Model::Strict);
    let mut log = File::create(powered.path("a.log")).unwrap();
    let mut other = File::create(powered.path("CURRENT")).unwrap();
    sync(powered.mount.path());
    log.write_all(b"first").unwrap();
    log.sync_data().unwrap();

    powered.run("fail-sync EIO once *.log");
    log.write_all(b" second").unwrap();
    other.write_all(b"other").unwrap();
    other.sync_data().unwrap();
    assert_eq!(log.sync_data().unwrap_err().raw_os_error(), EIO);
    // As on Linux: the next sync is fine, and what the failed one should have written is not on disk.
    log.sync_data().unwrap();
    assert_eq!(fs::read(powered.path("a.log")).unwrap(), b"first second");
    powered.cut("clean");
    let left = fs::read(powered.path("a.log")).unwrap();
    assert!(left.starts_with(b"first") && left[5..].iter().all(|byte| *byte == 0), "{left:?}");
    assert_eq!(fs::read(powered.path("CURRENT")).unwrap(), b"other");

    powered.run("fail-sync ENOSPC always");
    let file = File::create(powered.path("b.log")).unwrap();
    for _ in 0..3 {
        assert_eq!(file.sync_all().unwrap_err().kind(), ErrorKind::StorageFull);
    }
    let root = File::open(powered.mount.path()).unwrap();
    assert_eq!(root.sync_all().unwrap_err().kind(), ErrorKind::StorageFull);
    powered.run("clear");
    file.sync_all().unwrap();
    root.sync_all().unwrap();
    assert_eq!(powered.figure("failed"), 5);
    powered.cut("clean");
    assert!(powered.path("b.log").exists(), "a sync that failed does not spoil the next one of a directory");
}

pub(crate) fn failed_writes_and_full_disks(_: u64) {
    let powered = Powered::new(Model::Strict);
    let mut file = File::create(powered.path("data.sst")).unwrap();
    powered.run("fail-write EIO once *.sst");
    File::create(powered.path("LOG")).unwrap().write_all(b"fine").unwrap();
    assert_eq!(file.write_all(b"x").unwrap_err().raw_os_error(), EIO);
    file.write_all(b"x").unwrap();
    powered.run("fail-write ENOSPC always");
    assert_eq!(file.write_all(b"y").unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.set_len(0).unwrap_err().kind(), ErrorKind::StorageFull);
    powered.run("clear");
    file.write_all(b"y").unwrap();
    assert_eq!(fs::read(powered.path("data.sst")).unwrap(), b"xy");

    let used = powered.figure("used_bytes");
    powered.run(&format!("space {}", used + 10_000));
    file.write_all(&[7; 9_000]).unwrap();
    assert_eq!(file.write_all(&[7; 2_000]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(fs::create_dir(powered.path("directory")).unwrap_err().kind(), ErrorKind::StorageFull);
    // What is there can still be written over and synced, and what is removed makes room.
    file.write_all_at(&[8; 5_000], 0).unwrap();
    file.sync_all().unwrap();
    let free = rustix::fs::statvfs(powered.mount.path()).unwrap().f_bavail * 4096;
    assert!(free <= 4096, "{free} bytes are free");
    file.set_len(2).unwrap();
    file.write_all_at(&[7; 9_000], 2).unwrap();
    assert_eq!(fs::write(powered.path("LOG"), [7; 2_000]).unwrap_err().kind(), ErrorKind::StorageFull);
    // Removed, it takes its space until it is closed.
    fs::remove_file(powered.path("data.sst")).unwrap();
    assert_eq!(fs::write(powered.path("LOG"), [7; 2_000]).unwrap_err().kind(), ErrorKind::StorageFull);
    drop(file);
    // The kernel tells of the last close when it comes to it.
    let deadline = now() + Duration::from_secs(10);
    while fs::write(powered.path("LOG"), [7; 2_000]).is_err() {
        assert!(now() < deadline, "the removed file's space is not free");
        std::thread::yield_now();
    }
    assert_eq!(fs::read(powered.path("LOG")).unwrap(), [7; 2_000]);
    powered.run("clear");
    fs::create_dir(powered.path("directory")).unwrap();
}

pub(crate) fn slow_sync(_: u64) {
    const DELAY: Duration = Duration::from_millis(300);
    let powered = Powered::new(Model::Strict);
    let path = powered.path("file");
    let mut file = File::create(&path).unwrap();
    sync(powered.mount.path());
    powered.run(&format!("sync-delay {}", DELAY.as_millis()));
    file.write_all(b"slowly").unwrap();
    let started = now();
    file.sync_all().unwrap();
    assert!(started.elapsed() >= DELAY);

    // The power fails while a sync is under way: it fails, and nothing of it is there. Reads go on meanwhile.
    file.write_all(b" lost").unwrap();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let error = file.sync_all().unwrap_err();
            assert_eq!(error.raw_os_error(), EIO);
        });
        assert_eq!(fs::read(&path).unwrap(), b"slowly lost");
        powered.run("cut clean");
        slow.join().unwrap();
    });
    powered.run("resume");
    assert_eq!(fs::read(&path).unwrap(), b"slowly");

    powered.run("clear");
    let started = now();
    File::open(&path).unwrap().sync_all().unwrap();
    assert!(started.elapsed() < DELAY);
}

pub(crate) fn flipped_bit(_: u64) {
    let powered = Powered::new(Model::Strict);
    fs::create_dir(powered.path("log")).unwrap();
    let path = powered.path("log/000004.log");
    fs::write(&path, b"abcdef").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"abcdef");
    powered.run("flip log/000004.log 2 0");
    // Also by a handle from before, with the page in the kernel's cache.
    let mut found = [0; 6];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"abbdef");
    powered.run("flip log/000004.log 2 0");
    assert_eq!(fs::read(&path).unwrap(), b"abcdef");
    for wrong in ["flip log/000004.log 6 0", "flip log/000004.log 0 8", "flip log/missing 0 0", "flip log 0 0"] {
        assert!(powered.mount.run(wrong).is_err(), "{wrong}");
    }
}
