//! Places at which a process ends itself, once: what goes on from there must be able to go on from anywhere.
//!
//! `RINGRAFT_CRASH_AT=name:path` chooses one. While there is a file at `path`, the process that comes there removes it and
//! aborts. So every node of a cluster may be given the same variable; once somebody makes the file one of them dies, and
//! its next start does not.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The environment variable that chooses a place.
pub const VARIABLE: &str = "RINGRAFT_CRASH_AT";

/// Every place: those of a move in its order, then those that only a split comes to.
pub const PLACES: [&str; 17] = [
    "operation-seen",
    "replica-made",
    "learner-added",
    "handing-over",
    "voters-changed",
    "move-settled",
    "operation-ended",
    "proof-read",
    "tombstone-written",
    "directory-removed",
    "split-proposed",
    "birth-recorded",
    "child-made",
    "parent-narrowed",
    "parent-flushed",
    "child-live",
    "parent-split",
];

struct Chosen {
    place: &'static str,
    file: PathBuf,
}

static CHOSEN: OnceLock<Chosen> = OnceLock::new();

/// Takes what [`VARIABLE`] says.
///
/// # Errors
/// When it names no place, or no file.
pub fn choose_from_environment() -> Result<(), String> {
    let Ok(chosen) = std::env::var(VARIABLE) else { return Ok(()) };
    let (name, file) = chosen.split_once(':').ok_or_else(|| format!("{VARIABLE} is name:path, not {chosen:?}"))?;
    let place = PLACES.into_iter().find(|place| *place == name);
    let place = place.ok_or_else(|| format!("{name:?} is no place to crash at; there are {}", PLACES.join(", ")))?;
    tracing::error!(place, file, "THIS NODE ENDS ITSELF when it comes there and the file is there");
    let _ = CHOSEN.set(Chosen { place, file: file.into() });
    Ok(())
}

/// Ends the process when this is the place, and the file is there.
pub fn reach(place: &'static str) {
    let Some(chosen) = CHOSEN.get().filter(|chosen| chosen.place == place) else { return };
    if fs::remove_file(&chosen.file).is_ok() {
        tracing::error!(place, "ending this process, as it was told to");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_variable_no_place_is_one() {
        PLACES.into_iter().for_each(reach);
        assert!(choose_from_environment().is_ok());
        let places: std::collections::BTreeSet<_> = PLACES.into_iter().collect();
        assert_eq!(places.len(), PLACES.len());
    }
}
