//! A process to lose power under: `raft-tests powerfs-writer`, which writes numbered batches to Ringraft's own log engine
//! and prints each number once its write is acknowledged, and its check afterwards.
//!
//! One write is under way at a time, so after a power cut the engine must hold every number up to the last one printed,
//! and at most one more.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use ringraft::storage::rocks::{RocksDisk, StorageOptions};
use ringraft::storage::{Batch, Disk, Durability, Engine, Error, KeyRange};

const USAGE: &str = "raft-tests powerfs-writer write|check DIRECTORY [--unsynced]";
/// The identity file is replaced with every so many numbers, before they are written.
pub const IDENTITY_EVERY: u64 = 7;
/// A flush brings table files, a new write-ahead log and a change of the MANIFEST.
const FLUSH_EVERY: u64 = 23;
const VALUE_BYTES_MAX: u64 = 9000;

pub fn main(arguments: &[&str]) -> ExitCode {
    let done = match arguments {
        ["write", directory] => write(Path::new(directory), Durability::Synced),
        ["write", directory, "--unsynced"] => write(Path::new(directory), Durability::Buffered),
        ["check", directory] => check(Path::new(directory)),
        _ => {
            eprintln!("usage: {USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powerfs-writer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes until it fails or is killed. With [`Durability::Buffered`] it acknowledges what is not durable: the planted bug.
fn write(directory: &Path, durability: Durability) -> Result<(), Error> {
    let disk = RocksDisk::open(directory, &StorageOptions::default())?;
    let log = disk.open_log()?;
    let mut number = held(&*log)?;
    loop {
        number += 1;
        if number % IDENTITY_EVERY == 0 {
            disk.write_identity(number.to_string().as_bytes())?;
        }
        let mut batch = Batch::default();
        batch.put(number.to_be_bytes().to_vec(), value(number));
        log.write(batch, durability)?;
        println!("{number}");
        if std::io::stdout().flush().is_err() {
            return Ok(());
        }
        if number % FLUSH_EVERY == 0 && durability == Durability::Synced {
            log.flush()?;
        }
    }
}

/// Prints the last number that the engine holds, and the identity file's.
fn check(directory: &Path) -> Result<(), Error> {
    let disk = RocksDisk::open(directory, &StorageOptions::default())?;
    let log = disk.open_log()?;
    let held = held(&*log)?;
    let identity = disk.read_identity()?.unwrap_or_default();
    let identity: u64 = match std::str::from_utf8(&identity) {
        Ok("") => 0,
        Ok(number) => number.parse().map_err(|_| wrong(format!("the identity file holds {number:?}")))?,
        Err(_) => return Err(wrong("the identity file is damaged".to_string())),
    };
    println!("{held} {identity}");
    Ok(())
}

/// The last number, with every one before it whole.
fn held(log: &dyn Engine) -> Result<u64, Error> {
    let mut last: u64 = 0;
    for row in log.view().scan(&KeyRange::prefix(&[])) {
        let (key, found) = row?;
        last += 1;
        if key[..] != last.to_be_bytes() || found[..] != value(last)[..] {
            return Err(wrong(format!("{last} is missing or wrong: found {key:?}")));
        }
    }
    Ok(last)
}

/// Of every size, so that records lie across pages and blocks.
fn value(number: u64) -> Vec<u8> {
    let mut state = number;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let bytes = number.wrapping_mul(2_654_435_761) % VALUE_BYTES_MAX;
    (0..bytes).map(|_| next()).collect()
}

fn wrong(what: String) -> Error {
    Error::Corrupt { what }
}
