//! Damage to RocksDB's files: rot is refused with file and place, never read past; a torn last batch is cut off.

use std::path::PathBuf;

use super::*;

/// Reads the rows of one engine of this data directory, as a start after the damage would.
fn reopen(fixture: &Rocks, replica: Option<&str>) -> Result<Rows, Error> {
    let disk = fixture.open()?;
    let engine = match replica {
        Some(name) => disk.open_replica(name)?,
        None => disk.open_log()?,
    };
    rows_of(&*engine)
}

fn assert_corrupt(result: Result<Rows, Error>, names: &[&str], what: &str) {
    let error = match result {
        Ok(rows) => panic!("{what}: not noticed, {} rows", rows.len()),
        Err(error) => error,
    };
    assert!(error.is_corruption(), "{what}: {error:?}");
    for name in names {
        assert!(error.to_string().contains(name), "{what}: {error} does not name {name}");
    }
}

/// The one file of the directory whose name fits, other than an empty one.
fn file(fixture: &Rocks, directory: &str, fits: impl Fn(&str) -> bool) -> PathBuf {
    let entries = fs::read_dir(fixture.directory.path().join(directory)).unwrap().map(Result::unwrap);
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| fits(&entry.file_name().to_string_lossy()) && entry.metadata().unwrap().len() > 0)
        .map(|entry| entry.path())
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn turn_bit(path: &Path, byte: usize, bit: usize) {
    let mut content = fs::read(path).unwrap();
    content[byte] ^= 1 << bit;
    fs::write(path, content).unwrap();
}

/// A log with these synced batches in its write-ahead log, and where each begins in it.
struct Logged {
    fixture: Rocks,
    file: PathBuf,
    starts: Vec<usize>,
}

impl Logged {
    /// One row each, of this many bytes.
    fn new(sizes: &[usize]) -> Self {
        let fixture = Rocks::new(1);
        let disk = fixture.disk();
        let log = disk.open_log().unwrap();
        let mut starts = Vec::new();
        for (number, &bytes) in sizes.iter().enumerate() {
            starts.push(usize::try_from(log.disk_bytes()).unwrap());
            log.write(put(Self::key(number), vec![b'v'; bytes]), Durability::Synced).unwrap();
        }
        drop(log);
        let file = file(&fixture, "log", |name| name.ends_with(".log"));
        Self { fixture, file, starts }
    }

    fn key(number: usize) -> Vec<u8> {
        format!("row {number}").into_bytes()
    }

    /// A copy of the directory after this was done to its write-ahead log.
    fn after(&self, damage: impl FnOnce(&mut Vec<u8>)) -> Rocks {
        let mut copied = Rocks::new(1);
        copy(self.fixture.directory.path(), copied.directory.path());
        let file = copied.directory.path().join("log").join(name(&self.file));
        let mut content = fs::read(&file).unwrap();
        damage(&mut content);
        fs::write(file, content).unwrap();
        copied.before_crashes.clear();
        copied
    }

    fn assert_holds(&self, fixture: &Rocks, batches: usize, what: &str) {
        let found: Vec<Vec<u8>> =
            reopen(fixture, None).unwrap_or_else(|error| panic!("{what}: {error}")).into_keys().collect();
        assert_eq!(found, (0..batches).map(Self::key).collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn an_undamaged_log_opens_with_all_its_batches() {
    let logged = Logged::new(&[20, 100_000, 30, 40]);
    logged.assert_holds(&logged.after(|_| {}), 4, "undamaged");
}

#[test]
fn one_flipped_bit_in_any_field_of_any_record_of_the_log_is_refused_with_file_and_offset() {
    let logged = Logged::new(&[20, 40_000, 30, 40]);
    for &start in &logged.starts {
        for (field, byte, bit) in
            [("crc", 1, 3), ("length", 4, 2), ("length", 5, 6), ("type", 6, 2), ("payload", 30, 0)]
        {
            let damaged = logged.after(|content| content[start + byte] ^= 1 << bit);
            let offset = format!("at byte {start}:");
            assert_corrupt(reopen(&damaged, None), &[name(&logged.file), &offset], &format!("{field} at {start}"));
            assert_corrupt(reopen(&damaged, None), &[], "the refusal changes nothing");
        }
    }
}

#[test]
fn a_length_that_points_past_the_end_of_the_last_block_is_refused() {
    let logged = Logged::new(&[20, 30, 40]);
    for start in [logged.starts[1], logged.starts[2]] {
        // RocksDB takes this for a record that the end of the file cut short.
        let damaged = logged.after(|content| content[start + 5] = 0x70);
        assert_corrupt(reopen(&damaged, None), &[name(&logged.file)], &format!("length at {start}"));
    }
}

#[test]
fn a_last_batch_torn_at_any_byte_is_cut_off_and_the_log_goes_on() {
    let logged = Logged::new(&[20, 30, 10]);
    for length in logged.starts[2]..=fs::read(&logged.file).unwrap().len() {
        let whole = length == fs::read(&logged.file).unwrap().len();
        let torn = logged.after(|content| content.truncate(length));
        logged.assert_holds(&torn, if whole { 3 } else { 2 }, &format!("cut at {length}"));
        if length % 10 == 0 {
            let log = torn.disk().open_log().unwrap();
            log.write(put(Logged::key(2), b"again"), Durability::Synced).unwrap();
            drop(log);
            logged.assert_holds(&torn, 3, "written again");
        }
    }
}

#[test]
fn a_last_batch_torn_out_of_order_is_cut_off() {
    let logged = Logged::new(&[5_000, 20, 100_000]);
    let last = logged.starts[2];
    for lost in [last..8_192, 8_192..12_288, 32_768..36_864, 65_536..98_304, 100_000..102_000] {
        let torn = logged.after(|content| content[lost.clone()].fill(0));
        logged.assert_holds(&torn, 2, &format!("lost {lost:?}"));
    }
}

#[test]
fn zeros_behind_the_last_batch_are_no_damage_but_zeros_before_it_are() {
    let logged = Logged::new(&[20, 30, 40]);
    for zeros in [1, 7, 4_096, 100_000] {
        let longer = logged.after(|content| content.resize(content.len() + zeros, 0));
        logged.assert_holds(&longer, 3, &format!("{zeros} zeros"));
    }
    let hole = logged.after(|content| content[logged.starts[1]..logged.starts[2]].fill(0));
    assert_corrupt(reopen(&hole, None), &[name(&logged.file)], "zeros before a whole record");
}

#[test]
fn a_torn_batch_before_another_file_is_refused_unless_that_file_is_empty() {
    let logged = Logged::new(&[20, 30, 40]);
    for (later, refused) in [(&b""[..], false), (&[0; 5_000][..], false), (b"something", true)] {
        let torn = logged.after(|content| content.truncate(content.len() - 5));
        fs::write(torn.directory.path().join("log/000900.log"), later).unwrap();
        if refused {
            assert_corrupt(reopen(&torn, None), &[name(&logged.file), "000900.log"], "before a file");
        } else {
            logged.assert_holds(&torn, 2, "before an empty file");
        }
    }
}

/// A replica with two flushes of five hundred rows each. No view is taken of it: when a view goes, RocksDB may compact.
fn flushed() -> (Rocks, Rows) {
    let fixture = Rocks::new(1);
    let engine = fixture.disk().open_replica("1").unwrap();
    let mut rows = Rows::new();
    for row in 0..1_000_u16 {
        let (key, value) = (row.to_be_bytes(), crc32c::crc32c(&row.to_le_bytes()).to_string().repeat(10));
        engine.write(put(key, &value), Durability::Buffered).unwrap();
        rows.insert(key.to_vec(), value.into_bytes());
        if row % 500 == 499 {
            engine.flush().unwrap();
        }
    }
    (fixture, rows)
}

fn copied(fixture: &Rocks) -> Rocks {
    let copied = Rocks::new(1);
    copy(fixture.directory.path(), copied.directory.path());
    copied
}

/// Turns one bit at many places of a table file: what is read is right or refused.
fn assert_rot_in_a_table_is_noticed(fixture: &Rocks, replica: Option<&str>, directory: &str, rows: &Rows) {
    const PLACES: usize = 40;
    let tables = fs::read_dir(fixture.directory.path().join(directory)).unwrap().map(|entry| entry.unwrap().path());
    let table = tables.filter(|path| path.extension().is_some_and(|it| it == "sst")).min().unwrap();
    let bytes = fs::metadata(&table).unwrap().len() as usize;
    let mut refused = 0;
    for place in 0..PLACES {
        let damaged = copied(fixture);
        let path = damaged.directory.path().join(directory).join(name(&table));
        let byte = bytes * place / PLACES;
        turn_bit(&path, byte, place % 8);
        match reopen(&damaged, replica) {
            Ok(found) => assert!(found == *rows, "byte {byte}: other rows than were written"),
            Err(error) => {
                assert!(error.is_corruption(), "byte {byte}: {error:?}");
                assert!(error.to_string().contains(name(&table)), "{error}");
                refused += 1;
            }
        }
        // The first half of a table is rows.
        assert!(refused > place || byte > bytes / 2, "byte {byte} of {bytes} was not noticed");
    }
}

#[test]
fn one_flipped_bit_in_a_table_of_a_replica_is_refused_or_harmless() {
    let (fixture, rows) = flushed();
    assert_rot_in_a_table_is_noticed(&fixture, Some("1"), "replicas/1", &rows);
}

#[test]
fn one_flipped_bit_in_a_table_of_the_log_is_refused_or_harmless() {
    let fixture = Rocks::new(1);
    let log = fixture.disk().open_log().unwrap();
    for row in 0..500_u16 {
        let value = crc32c::crc32c(&row.to_le_bytes()).to_string().repeat(10);
        log.write(put(row.to_be_bytes(), value), Durability::Buffered).unwrap();
    }
    let rows = rows_of(&*log).unwrap();
    log.flush().unwrap();
    drop(log);
    // Opening puts into a table what the write-ahead log held.
    assert_eq!(reopen(&fixture, None).unwrap(), rows);
    assert_rot_in_a_table_is_noticed(&fixture, None, "log", &rows);
}

#[test]
fn a_single_read_of_a_rotten_table_is_refused_with_file_and_offset() {
    let (fixture, _) = flushed();
    let tables = fs::read_dir(fixture.directory.path().join("replicas/1")).unwrap().map(|entry| entry.unwrap().path());
    let table = tables.filter(|path| path.extension().is_some_and(|it| it == "sst")).min().unwrap();
    turn_bit(&table, 100, 0);
    let engine = fixture.disk().open_replica("1").unwrap();
    for error in [engine.get(&[0, 0]).unwrap_err(), engine.view().get(&[0, 0]).unwrap_err()] {
        assert!(error.is_corruption(), "{error:?}");
        assert!(error.to_string().contains(name(&table)) && error.to_string().contains("offset"), "{error}");
    }
    assert!(engine.get(&[3, 0]).unwrap().is_some(), "the other table is read");
}

#[test]
fn a_missing_table_is_corruption() {
    let (fixture, _) = flushed();
    let tables = fs::read_dir(fixture.directory.path().join("replicas/1")).unwrap().map(|entry| entry.unwrap().path());
    let table = tables.filter(|path| path.extension().is_some_and(|it| it == "sst")).max().unwrap();
    fs::remove_file(&table).unwrap();
    assert_corrupt(reopen(&fixture, Some("1")), &[name(&table)], "missing");
}

#[test]
fn one_flipped_bit_anywhere_in_a_manifest_is_refused() {
    const PLACES: usize = 40;
    let (fixture, _) = flushed();
    let manifest = file(&fixture, "replicas/1", |name| name.starts_with("MANIFEST"));
    let bytes = fs::metadata(&manifest).unwrap().len() as usize;
    for place in 0..PLACES {
        let damaged = copied(&fixture);
        let path = damaged.directory.path().join("replicas/1").join(name(&manifest));
        turn_bit(&path, bytes * place / PLACES, place % 8);
        assert_corrupt(reopen(&damaged, Some("1")), &[name(&manifest), "at byte"], &format!("place {place}"));
    }
}

#[test]
fn a_torn_last_record_of_a_manifest_leaves_the_flush_before() {
    let (fixture, rows) = flushed();
    let manifest = file(&fixture, "replicas/1", |name| name.starts_with("MANIFEST"));
    let content = fs::read(&manifest).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for lost in (1..content.len()).step_by(23) {
        let torn = copied(&fixture);
        let path = torn.directory.path().join("replicas/1").join(name(&manifest));
        fs::write(path, &content[..content.len() - lost]).unwrap();
        match reopen(&torn, Some("1")) {
            Ok(found) => {
                assert!(found.iter().eq(rows.iter().take(found.len())), "lost {lost} bytes: other rows");
                seen.insert(found.len());
            }
            // So early in the file, its first records are synced before CURRENT names it.
            Err(error) => assert!(error.is_corruption() && lost > content.len() / 2, "lost {lost} bytes: {error}"),
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 500, 1_000], "after no flush, after one, and after both");
}

#[test]
fn damage_to_current_is_refused_and_never_begins_the_store_anew() {
    let (fixture, _) = flushed();
    let current = Path::new("replicas/1/CURRENT");
    let bytes = fs::read(fixture.directory.path().join(current)).unwrap().len();
    for byte in 0..bytes {
        let damaged = copied(&fixture);
        turn_bit(&damaged.directory.path().join(current), byte, byte % 8);
        assert_corrupt(reopen(&damaged, Some("1")), &["CURRENT"], &format!("byte {byte}"));
    }
    for content in [Some(&b""[..]), Some(b"MANIFEST-"), None] {
        let damaged = copied(&fixture);
        let path = damaged.directory.path().join(current);
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        assert_corrupt(reopen(&damaged, Some("1")), &["CURRENT"], &format!("{content:?}"));
    }
}

#[test]
fn damage_to_one_replica_leaves_the_others_and_the_log_alone() {
    let fixture = Rocks::new(1);
    let disk = fixture.disk();
    for replica in ["1", "2"] {
        let engine = disk.open_replica(replica).unwrap();
        engine.write(put(b"a", replica), Durability::Buffered).unwrap();
        engine.flush().unwrap();
    }
    disk.open_log().unwrap().write(put(b"a", b"log"), Durability::Synced).unwrap();
    drop(disk);
    fs::write(fixture.directory.path().join("replicas/1/CURRENT"), b"nonsense").unwrap();
    assert_corrupt(reopen(&fixture, Some("1")), &["replicas/1/CURRENT"], "damaged");
    assert_eq!(reopen(&fixture, Some("2")).unwrap()[&b"a"[..]], b"2");
    assert_eq!(reopen(&fixture, None).unwrap()[&b"a"[..]], b"log");
    // What is corrupt is set aside or removed, and the name is free again.
    let disk = fixture.disk();
    disk.set_aside("1").unwrap();
    assert!(rows_of(&*disk.open_replica("1").unwrap()).unwrap().is_empty());
}
