//! The faults that stand at the moment, and which operation meets one.

use std::time::Duration;

use fuser::Errno;
use serde::{Deserialize, Serialize};

/// What a failed call answers.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
    /// EROFS.
    ReadOnly,
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        match error {
            Error::Io => Self::EIO,
            Error::NoSpace => Self::ENOSPC,
            Error::ReadOnly => Self::EROFS,
        }
    }
}

/// An error for every operation of one kind on matching paths, or for the next one only.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    error: Error,
    once: bool,
    paths: String,
}

impl Failure {
    /// For every operation on every path, until it is taken back.
    pub fn always(error: Error) -> Self {
        Self { error, once: false, paths: "*".to_string() }
    }

    pub fn once(error: Error) -> Self {
        Self { once: true, ..Self::always(error) }
    }

    /// Only where the path below the mount is meant: `*` is any run of characters, also with slashes; `?` any one.
    pub fn on(self, paths: &str) -> Self {
        Self { paths: paths.to_string(), ..self }
    }
}

/// What a sync that lies leaves out: it answers that all is well and makes nothing durable.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    Files,
    Directories,
    Both,
}

impl Lie {
    pub(super) fn is_about(self, directory: bool) -> bool {
        match self {
            Self::Files => !directory,
            Self::Directories => directory,
            Self::Both => true,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub sync_delay: Duration,
    pub fail_sync: Option<Failure>,
    pub fail_write: Option<Failure>,
    pub lie: Option<Lie>,
    /// Bytes that all files together may have.
    pub space: Option<u64>,
}

impl Faults {
    /// The error that this operation meets. One that comes once is used up by it.
    pub fn meet(failure: &mut Option<Failure>, path: &str) -> Result<(), Errno> {
        match failure {
            Some(found) if matches(&found.paths, path) => {
                let errno = Errno::from(found.error);
                if found.once {
                    *failure = None;
                }
                Err(errno)
            }
            _ => Ok(()),
        }
    }
}

/// Whether a path is one that the pattern means.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
    let (mut at, mut place) = (0, 0);
    // The last star, and how far it reached.
    let mut star: Option<(usize, usize)> = None;
    while place < path.len() {
        if at < pattern.len() && pattern[at] == '*' {
            star = Some((at, place));
            at += 1;
        } else if at < pattern.len() && (pattern[at] == '?' || pattern[at] == path[place]) {
            at += 1;
            place += 1;
        } else if let Some((star_at, reached)) = star {
            star = Some((star_at, reached + 1));
            at = star_at + 1;
            place = reached + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_whole_paths() {
        for (pattern, path, expected) in [
            ("*", "", true),
            ("*.log", "data/log/000004.log", true),
            ("*.log", "data/log/000004.log.old", false),
            ("data/*/MANIFEST-??????", "data/log/MANIFEST-000001", true),
            ("data/log", "data/log/LOCK", false),
            ("", "LOCK", false),
            ("*a*b", "aab", true),
            ("*a*b", "aaba", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern:?} on {path:?}");
        }
    }

    #[test]
    fn a_failure_that_comes_once_is_used_up_by_the_first_match_alone() {
        let mut failure = Some(Failure::once(Error::Io).on("*.log"));
        assert!(Faults::meet(&mut failure, "CURRENT").is_ok());
        assert!(Faults::meet(&mut failure, "4.log").is_err());
        assert!(Faults::meet(&mut failure, "4.log").is_ok());
    }
}
