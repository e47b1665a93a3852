//! What only a real data directory shows: its lock, its files, and that syncs happen.

use std::time::Duration;

use super::*;
use crate::clock;

fn write_ahead_log_bytes(fixture: &Rocks) -> u64 {
    let files = fs::read_dir(fixture.directory.path().join("log")).unwrap();
    let logs = files.map(Result::unwrap).filter(|entry| entry.file_name().to_string_lossy().ends_with(".log"));
    logs.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[test]
fn a_second_opening_of_the_directory_names_path_and_process() {
    let fixture = Rocks::new(1);
    let disk = fixture.disk();
    let error = fixture.open().err().expect("it is locked");
    let Error::InUse { path, holder } = &error else { panic!("{error}") };
    assert_eq!(Path::new(path), fixture.directory.path().canonicalize().unwrap());
    assert_eq!(holder, &format!("process {}", std::process::id()));
    let engine = disk.open_replica("1").unwrap();
    drop(disk);
    assert!(fixture.open().is_err(), "an open engine holds the lock");
    drop(engine);
    fixture.open().unwrap();
}

#[test]
fn every_synced_write_of_the_log_is_synced_and_no_buffered_one() {
    let fixture = Rocks::new(1);
    let disk = fixture.open().unwrap();
    let (log, syncs_so_far) = disk.open_log_counting_syncs().unwrap();
    let start = syncs_so_far();
    for number in 0..10_u8 {
        log.write(put([number], b""), Durability::Synced).unwrap();
        assert_eq!(syncs_so_far() - start, u64::from(number) + 1);
    }
    let (syncs, bytes) = (syncs_so_far(), write_ahead_log_bytes(&fixture));
    log.write(put(b"x", b""), Durability::Buffered).unwrap();
    log.write(put(b"y", b""), Durability::Buffered).unwrap();
    assert_eq!(syncs_so_far(), syncs);
    assert_eq!(write_ahead_log_bytes(&fixture), bytes, "a record that is not synced must not be in the file");
    log.flush().unwrap();
    assert_eq!(syncs_so_far(), syncs + 1);
    log.flush().unwrap();
    assert_eq!(syncs_so_far(), syncs + 1, "there was nothing left to sync");
}

#[test]
fn buffered_changes_are_synced_by_themselves_before_they_grow_large() {
    let mut fixture = Rocks::new(1);
    let disk = fixture.disk();
    let log = disk.open_log().unwrap();
    for number in 0..11_u8 {
        log.write(put([number], [number; 100_000]), Durability::Buffered).unwrap();
    }
    fixture.crash();
    let kept = rows_of(&*fixture.disk().open_log().unwrap()).unwrap().len();
    assert_eq!(kept, 11, "the eleventh went over the limit and took the others along");
}

#[test]
fn a_data_engine_writes_no_log_and_loses_its_memory_in_a_crash() {
    let mut fixture = Rocks::new(1);
    let disk = fixture.disk();
    let engine = disk.open_replica("1").unwrap();
    engine.write(put(b"a", b""), Durability::Synced).unwrap();
    engine.flush().unwrap();
    engine.write(put(b"b", b""), Durability::Synced).unwrap();
    fixture.crash();
    assert_eq!(keys(fixture.disk().open_replica("1").unwrap().view().scan(&EVERYTHING)), [b"a"]);
}

#[test]
fn compaction_gives_back_the_space_of_deleted_ranges() {
    let fixture = Rocks::new(1);
    let engine = fixture.disk().open_replica("1").unwrap();
    for number in 0..2_000_u16 {
        // Not compressible: the digits of a chaotic sequence.
        let value: Vec<u8> = (0..500_u32)
            .map(|at| (crc32c::crc32c(&(at * 7919 + u32::from(number)).to_le_bytes()) >> 9) as u8)
            .collect();
        engine.write(put(number.to_be_bytes(), value), Durability::Buffered).unwrap();
    }
    engine.flush().unwrap();
    let full = engine.disk_bytes();
    let mut batch = Batch::default();
    batch.delete_range(&[0, 0][..], &[255, 255][..]);
    engine.write(batch, Durability::Buffered).unwrap();
    engine.flush().unwrap();
    engine.compact(&EVERYTHING);
    let deadline = clock::now().after(Duration::from_secs(30));
    while engine.disk_bytes() > full / 10 {
        assert!(clock::now() < deadline, "still {} of {full} bytes", engine.disk_bytes());
        std::thread::yield_now();
    }
}

#[test]
fn an_unfinished_identity_is_not_read() {
    let fixture = Rocks::new(1);
    let disk = fixture.disk();
    disk.write_identity(b"whole").unwrap();
    fs::write(fixture.directory.path().join("identity.new"), b"ha").unwrap();
    assert_eq!(disk.read_identity().unwrap().as_deref(), Some(&b"whole"[..]));
    disk.write_identity(b"next").unwrap();
    assert_eq!(disk.read_identity().unwrap().as_deref(), Some(&b"next"[..]));
}

#[test]
fn a_store_whose_creation_a_crash_cut_short_is_created_anew() {
    let fixture = Rocks::new(1);
    let half = fixture.directory.path().join("replicas/1");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("MANIFEST-000001"), b"half of it").unwrap();
    fs::write(half.join("000001.dbtmp"), b"").unwrap();
    let engine = fixture.disk().open_replica("1").unwrap();
    engine.write(put(b"a", b""), Durability::Buffered).unwrap();
    engine.flush().unwrap();
}

#[test]
fn a_real_disk_has_free_bytes_and_uses_threads() {
    let fixture = Rocks::new(1);
    let disk = fixture.disk();
    assert!(disk.uses_threads());
    assert!(disk.free_bytes().unwrap() > 0);
}

#[test]
fn the_reserve_takes_up_room_on_the_file_system_and_outlives_the_process() {
    use std::os::unix::fs::MetadataExt;
    const BYTES: u64 = 8 << 20;
    let fixture = Rocks::new(1);
    fixture.disk().set_reserve(BYTES).unwrap();
    let blocks = fs::metadata(fixture.directory.path().join("reserve")).unwrap().blocks();
    assert!(blocks * 512 >= BYTES, "{blocks} blocks of 512 bytes");
    assert_eq!(fixture.disk().reserve_bytes().unwrap(), BYTES);
}

#[test]
fn a_write_that_would_wait_for_the_flushes_says_so_and_writes_nothing() {
    const ATTEMPTS: u32 = 4000;
    let fixture = Rocks::new(1);
    let disk = fixture.open().unwrap();
    let data = disk.open_replica("1").unwrap();
    // Bytes that no compression makes less of: memory is filled faster than the disk takes it.
    let mut state = 1_u64;
    let value: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(1 << 20)
    .collect();
    let stalled = (0..ATTEMPTS).find(|number| {
        let written = data.write_if_no_stall(&put(number.to_be_bytes(), &value)).unwrap();
        assert_eq!(data.get(&number.to_be_bytes()).unwrap().is_some(), written, "row {number}");
        !written
    });
    let stalled = stalled.expect("4 GiB went faster to disk than to memory");
    data.write(put(stalled.to_be_bytes(), &value), Durability::Buffered).unwrap();
    assert!(data.get(&stalled.to_be_bytes()).unwrap().is_some(), "the same batch can wait");
}
