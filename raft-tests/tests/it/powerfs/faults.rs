//! Each fault acts, on what it is meant for alone, and stops acting.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use raft_tests::powerfs::control::{Answer, Command};
use raft_tests::powerfs::{Cut, Damage, Error, Failure, Lie, Model};

use super::skipped;
use super::support::{Powered, now, sync};

const EIO: Option<i32> = Some(5);

#[test]
fn failed_syncs_lose_their_pages_and_stop_when_they_are_told() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    let mut log = File::create(powered.path("a.log")).unwrap();
    let mut other = File::create(powered.path("CURRENT")).unwrap();
    sync(powered.mount.path());
    log.write_all(b"first").unwrap();
    log.sync_data().unwrap();

    powered.run(Command::FailSync(Some(Failure::once(Error::Io).on("*.log"))));
    log.write_all(b" second").unwrap();
    other.write_all(b"other").unwrap();
    other.sync_data().unwrap();
    assert_eq!(log.sync_data().unwrap_err().raw_os_error(), EIO);
    // As on Linux: the next sync is fine, and what the failed one should have written is not on disk.
    log.sync_data().unwrap();
    assert_eq!(fs::read(powered.path("a.log")).unwrap(), b"first second");
    powered.cut(Cut::clean());
    let left = fs::read(powered.path("a.log")).unwrap();
    assert!(left.starts_with(b"first") && left[5..].iter().all(|byte| *byte == 0), "{left:?}");
    assert_eq!(fs::read(powered.path("CURRENT")).unwrap(), b"other");

    powered.run(Command::FailSync(Some(Failure::always(Error::NoSpace))));
    let file = File::create(powered.path("b.log")).unwrap();
    for _ in 0..3 {
        assert_eq!(file.sync_all().unwrap_err().kind(), ErrorKind::StorageFull);
    }
    let root = File::open(powered.mount.path()).unwrap();
    assert_eq!(root.sync_all().unwrap_err().kind(), ErrorKind::StorageFull);
    powered.run(Command::Clear);
    file.sync_all().unwrap();
    root.sync_all().unwrap();
    assert_eq!(powered.stats().syncs_failed, 5);
    powered.cut(Cut::clean());
    assert!(powered.path("b.log").exists(), "a sync that failed does not spoil the next one of a directory");
}

#[test]
fn failed_writes_and_full_disks_act_and_stop_acting() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    let mut file = File::create(powered.path("data.sst")).unwrap();
    powered.run(Command::FailWrite(Some(Failure::once(Error::Io).on("*.sst"))));
    File::create(powered.path("LOG")).unwrap().write_all(b"fine").unwrap();
    assert_eq!(file.write_all(b"x").unwrap_err().raw_os_error(), EIO);
    file.write_all(b"x").unwrap();
    powered.run(Command::FailWrite(Some(Failure::always(Error::NoSpace))));
    assert_eq!(file.write_all(b"y").unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.set_len(0).unwrap_err().kind(), ErrorKind::StorageFull);
    powered.run(Command::Clear);
    file.write_all(b"y").unwrap();
    assert_eq!(fs::read(powered.path("data.sst")).unwrap(), b"xy");

    let used = powered.stats().used_bytes;
    powered.run(Command::Space(Some(used + 10_000)));
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
    powered.run(Command::Clear);
    fs::create_dir(powered.path("directory")).unwrap();
}

#[test]
fn a_slow_sync_is_not_durable_before_it_returns() {
    if skipped() {
        return;
    }
    const DELAY: Duration = Duration::from_millis(300);
    let powered = Powered::new(Model::Strict);
    let path = powered.path("file");
    let mut file = File::create(&path).unwrap();
    sync(powered.mount.path());
    powered.run(Command::SyncDelay(DELAY));
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
        powered.off(Cut::clean());
        slow.join().unwrap();
    });
    powered.resume();
    assert_eq!(fs::read(&path).unwrap(), b"slowly");

    powered.run(Command::Clear);
    let started = now();
    File::open(&path).unwrap().sync_all().unwrap();
    assert!(started.elapsed() < DELAY);
}

#[test]
fn a_flipped_bit_is_read_flipped() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    fs::create_dir(powered.path("log")).unwrap();
    let path = powered.path("log/000004.log");
    fs::write(&path, b"abcdef").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    assert!(powered.mount.run(&flip("log/000004.log", 2, 0)).is_err(), "nothing durable leads to it");
    sync(&powered.path("log"));
    sync(powered.mount.path());
    assert_eq!(fs::read(&path).unwrap(), b"abcdef");
    powered.run(flip("log/000004.log", 2, 0));
    // Also by a handle from before, with the page in the kernel's cache.
    let mut found = [0; 6];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"abbdef");
    powered.run(flip("log/000004.log", 2, 0));
    assert_eq!(fs::read(&path).unwrap(), b"abcdef");
    for (path, offset, bit) in
        [("log/000004.log", 6, 0), ("log/000004.log", 0, 8), ("log/missing", 0, 0), ("log", 0, 0)]
    {
        let wrong = flip(path, offset, bit);
        assert!(powered.mount.run(&wrong).is_err(), "{wrong:?}");
    }
}

fn flip(path: &str, offset: u64, bit: u8) -> Command {
    Command::Damage { paths: path.to_string(), damage: Damage::FlipAt { offset, bit }, seed: 0 }
}

#[test]
fn damage_is_done_where_it_says_is_counted_when_it_is_read_and_outlives_a_cut() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    let whole: Vec<u8> = (0..20_000_u32).map(|number| (number % 251) as u8 + 1).collect();
    for (seed, damage) in
        (0..30).flat_map(|seed| [Damage::Flip, Damage::Zeros, Damage::Shorten].map(|kind| (seed, kind)))
    {
        for name in ["log/1.log", "log/2.log", "log/new.log", "log/3.sst"] {
            let path = powered.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _not_there = fs::remove_file(&path);
            let mut file = File::create(&path).unwrap();
            file.write_all(&whole).unwrap();
            if name != "log/new.log" {
                file.sync_all().unwrap();
                sync(&powered.path("log"));
                sync(powered.mount.path());
            }
        }
        let command = Command::Damage { paths: "log/*.log".to_string(), damage, seed };
        let Answer::Damaged(damaged) = powered.run(command) else { panic!("an answer to something else") };
        assert!(["log/1.log", "log/2.log"].contains(&damaged.path.as_str()), "{damaged:?} is durable and meant");
        if seed % 2 == 0 {
            powered.cut(Cut::clean());
        }
        let (start, end) = (damaged.offset as usize, (damaged.offset + damaged.bytes) as usize);
        let before = powered.stats().damage_read;
        let other = if damaged.path == "log/1.log" { "log/2.log" } else { "log/1.log" };
        assert_eq!(fs::read(powered.path(other)).unwrap(), whole, "{damaged:?}");
        assert_eq!(powered.stats().damage_read, before, "the other file's damage was not read");
        let found = fs::read(powered.path(&damaged.path)).unwrap();
        assert!(powered.stats().damage_read > before, "{damage:?}, {damaged:?} was read");
        assert_eq!(found[..start], whole[..start]);
        match damage {
            Damage::Shorten => assert_eq!((found.len(), end), (start, whole.len())),
            Damage::Zeros => assert!(found[start..end].iter().all(|byte| *byte == 0) && found[end..] == whole[end..]),
            _ => {
                assert_eq!((found[start] ^ whole[start]).count_ones(), 1);
                assert_eq!(found[end..], whole[end..]);
            }
        }
    }
}

#[test]
fn a_sync_that_lies_is_counted_and_makes_nothing_durable() {
    if skipped() {
        return;
    }
    for (lie, durable) in [(Lie::Files, Some(0)), (Lie::Directories, None), (Lie::Both, None)] {
        let powered = Powered::new(Model::Strict);
        powered.run(Command::LieAboutSync(Some(lie)));
        let path = powered.path("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"content").unwrap();
        file.sync_all().unwrap();
        sync(powered.mount.path());
        assert_eq!(powered.stats().syncs_lied, if lie == Lie::Both { 2 } else { 1 });
        powered.cut(Cut::clean());
        assert_eq!(fs::metadata(&path).ok().map(|meta| meta.len()), durable, "{lie:?}");
    }
}
