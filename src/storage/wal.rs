//! The check of a RocksDB directory before RocksDB opens it: CURRENT, the MANIFEST it names, and the write-ahead logs.
//!
//! RocksDB's own recovery does not tell a torn last batch from rot: by default it drops everything behind a rotten
//! record without a word, and the strict mode refuses an honestly torn tail. A damaged length at the end of the MANIFEST
//! makes it forget the last flush. So this reader judges first ([`record`]): rot is [`Error::Corrupt`] with file and
//! offset; a torn tail is cut off and synced; what RocksDB then sees is clean, and it is opened in its strict mode.
//!
//! All write-ahead logs present are judged alike, also those whose content has long been flushed and that only wait to
//! be removed: they too were synced before the next one was begun. Called by [`super::rocks`] for every store it opens.

mod record;

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use super::Error;
use record::{Contents, Verdict};

/// What stands in a directory that RocksDB is about to open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Nothing, or the remains of a creation that did not finish.
    Nothing,
    /// A store whose logs are whole.
    Store,
}

/// Checks the store in `directory` and cuts off what a crash left torn.
pub(super) fn check(directory: &Path) -> Result<Found, Error> {
    let names = names_in(directory)?;
    let Some(manifest) = current_manifest(directory)? else {
        // RocksDB would take a lost CURRENT for a wish to begin anew. Only files that come after CURRENT prove a store.
        return match names.iter().find(|name| comes_after_current(name)) {
            Some(name) => Err(corrupt(&directory.join("CURRENT"), format!("missing, though {name} is there"))),
            None => Ok(Found::Nothing),
        };
    };
    if !names.contains(&manifest) {
        return Err(corrupt(&directory.join("CURRENT"), format!("names {manifest}, which is missing")));
    }
    check_manifest(&directory.join(&manifest), number_of(&manifest).unwrap_or_default())?;
    check_write_ahead_logs(directory, &names)?;
    Ok(Found::Store)
}

fn check_manifest(path: &Path, number: u64) -> Result<(), Error> {
    let content = read(path)?;
    match record::judge(&content, number, Contents::Edits) {
        Verdict::Whole if content.is_empty() => Err(corrupt(path, "empty".to_string())),
        Verdict::Whole => Ok(()),
        // CURRENT is switched to a MANIFEST only once its beginning is synced.
        Verdict::Torn { from: 0 } => Err(corrupt(path, "damaged at byte 0: no whole record".to_string())),
        Verdict::Torn { from } => cut(path, from, content.len()),
        Verdict::Rotten { at, why } => Err(corrupt(path, format!("damaged at byte {at}: {why}"))),
    }
}

fn check_write_ahead_logs(directory: &Path, names: &[String]) -> Result<(), Error> {
    let mut logs: Vec<(u64, PathBuf)> = names
        .iter()
        .filter(|name| name.ends_with(".log"))
        .filter_map(|name| Some((number_of(name)?, directory.join(name))))
        .collect();
    logs.sort();
    let mut torn: Option<(PathBuf, usize, usize)> = None;
    for (number, path) in logs {
        let content = read(&path)?;
        if let Some((earlier, from, _)) = &torn
            && content.iter().any(|&byte| byte != 0)
        {
            let why = format!("damaged at byte {from}: not a whole record, and {} follows", path.display());
            return Err(corrupt(earlier, why));
        }
        match record::judge(&content, number, Contents::Batches) {
            Verdict::Whole => {}
            // A later file of nothing but zeros is as good as empty, yet not clean: it goes with the tail before it.
            Verdict::Torn { from } if torn.is_some() => cut(&path, from, content.len())?,
            Verdict::Torn { from } => torn = Some((path, from, content.len())),
            Verdict::Rotten { at, why } => return Err(corrupt(&path, format!("damaged at byte {at}: {why}"))),
        }
    }
    match torn {
        Some((path, from, bytes)) => cut(&path, from, bytes),
        None => Ok(()),
    }
}

/// The name that CURRENT holds; none when there is no CURRENT.
fn current_manifest(directory: &Path) -> Result<Option<String>, Error> {
    let path = directory.join("CURRENT");
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(format!("reading {}", path.display()), error)),
    };
    let name = content.strip_suffix(b"\n").and_then(|name| std::str::from_utf8(name).ok());
    match name.filter(|name| name.starts_with("MANIFEST-") && number_of(name).is_some()) {
        Some(name) => Ok(Some(name.to_string())),
        None => Err(corrupt(&path, format!("does not name a MANIFEST but {:?}", String::from_utf8_lossy(&content)))),
    }
}

/// Whether RocksDB makes this file only after CURRENT is in place and synced.
fn comes_after_current(name: &str) -> bool {
    let later_manifest = name.starts_with("MANIFEST-") && number_of(name).is_some_and(|number| number > 1);
    later_manifest || name.ends_with(".sst") || name.ends_with(".log")
}

/// The number in a file name such as `000012.log` or `MANIFEST-000005`.
fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("MANIFEST-").or_else(|| name.split_once('.').map(|(stem, _)| stem))?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

fn names_in(directory: &Path) -> Result<Vec<String>, Error> {
    let doing = || format!("listing {}", directory.display());
    fs::read_dir(directory)
        .map_err(|error| io(doing(), error))?
        .map(|entry| Ok(entry.map_err(|error| io(doing(), error))?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| io(format!("reading {}", path.display()), error))
}

/// Cuts a torn tail off, durably: a later crash must not bring it back behind new records.
fn cut(path: &Path, from: usize, bytes: usize) -> Result<(), Error> {
    let doing = || format!("cutting the torn tail of {}", path.display());
    let length = u64::try_from(from).expect("a file's length fits 64 bits");
    let file: File = OpenOptions::new().write(true).open(path).map_err(|error| io(doing(), error))?;
    file.set_len(length).map_err(|error| io(doing(), error))?;
    file.sync_all().map_err(|error| io(doing(), error))?;
    tracing::warn!(file = %path.display(), offset = from, bytes = bytes - from, "cut off a torn last batch");
    Ok(())
}

fn corrupt(path: &Path, why: String) -> Error {
    Error::Corrupt { what: format!("{}: {why}", path.display()) }
}

fn io(doing: String, error: std::io::Error) -> Error {
    Error::Io { doing, what: error.to_string() }
}
