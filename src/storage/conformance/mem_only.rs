//! What the simulated disk does beyond the seam: lose as much as it may, and fail when told.

use super::*;

#[test]
fn a_crash_loses_what_was_not_synced_sometimes_and_sometimes_keeps_it() {
    let mut kept = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let disk = MemDisk::new(seed);
        let log = disk.open_log().unwrap();
        log.write(put(b"0", b""), Durability::Synced).unwrap();
        for key in [b"1", b"2", b"3"] {
            log.write(put(key, b""), Durability::Buffered).unwrap();
        }
        disk.crash();
        kept.insert(rows_of(&*disk.open_log().unwrap()).unwrap().len());
    }
    assert_eq!(kept.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn the_same_seed_loses_the_same() {
    let run = |seed| {
        let disk = MemDisk::new(seed);
        (0..20_u8)
            .map(|round| {
                let engine = disk.open_replica("1").unwrap();
                for number in 0..10 {
                    engine.write(put([round, number], b""), Durability::Synced).unwrap();
                }
                disk.crash();
                rows_of(&*disk.open_replica("1").unwrap()).unwrap().len()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_crash_that_loses_everything_unsynced_leaves_exactly_what_was_promised() {
    let disk = MemDisk::new(1);
    let log = disk.open_log().unwrap();
    let data = disk.open_replica("1").unwrap();
    for engine in [&log, &data] {
        engine.write(put(b"a", b""), Durability::Buffered).unwrap();
        engine.write(put(b"b", b""), Durability::Synced).unwrap();
        engine.write(put(b"c", b""), Durability::Buffered).unwrap();
    }
    disk.crash_losing_everything_unsynced();
    assert_eq!(keys(disk.open_log().unwrap().view().scan(&EVERYTHING)), [b"a", b"b"]);
    assert!(rows_of(&*disk.open_replica("1").unwrap()).unwrap().is_empty());
}

#[test]
fn handles_from_before_a_crash_are_dead_and_do_not_hold_the_store() {
    let disk = MemDisk::new(1);
    let log = disk.open_log().unwrap();
    let view = log.view();
    disk.crash();
    let again = disk.open_log().unwrap();
    for error in [
        log.write(put(b"a", b""), Durability::Synced).unwrap_err(),
        log.flush().unwrap_err(),
        log.get(b"a").unwrap_err(),
        log.view().get(b"a").unwrap_err(),
        view.get(b"a").unwrap_err(),
        view.scan(&EVERYTHING).next().unwrap().unwrap_err(),
        view.scan_reverse(&EVERYTHING).next().unwrap().unwrap_err(),
    ] {
        assert!(matches!(&error, Error::Io { what, .. } if what == "crashed"), "{error}");
    }
    drop((log, view));
    assert!(matches!(disk.open_log(), Err(Error::InUse { .. })), "the new handle still holds it");
    assert!(rows_of(&*again).unwrap().is_empty());
}

#[test]
fn a_failed_log_write_may_turn_out_to_have_been_written() {
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let disk = MemDisk::new(seed);
        let log = disk.open_log().unwrap();
        log.write(put(b"a", b""), Durability::Synced).unwrap();
        disk.fail_next_log_write();
        log.write(put(b"b", b""), Durability::Synced).unwrap_err();
        log.write(put(b"c", b""), Durability::Synced).unwrap_err();
        assert_eq!(log.get(b"b").unwrap(), None);
        disk.crash();
        found.insert(keys(disk.open_log().unwrap().view().scan(&EVERYTHING)).concat());
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [b"a".to_vec(), b"ab".to_vec()]);
}

#[test]
fn free_bytes_are_what_the_simulation_says() {
    let disk = MemDisk::new(1);
    disk.set_free_bytes(7);
    assert_eq!(disk.free_bytes().unwrap(), 7);
    assert!(!disk.uses_threads());
}
