//! Planted bugs, by which the fault tests are tested: each one breaks a promise of Ringraft at one place, and a harness
//! that does not notice is no harness.
//!
//! They stand behind the cargo feature `mutants`, which no release build has. Without it this module is one macro that
//! drops the wrong code before it is compiled. With it a process carries all of them and plants at most one, chosen once
//! by `select` or, for `serve`, by the environment variable `RINGRAFT_MUTANT`.
//!
//! `raft-tests mutants` plays the scripts that must notice each of them.

#[cfg(feature = "mutants")]
pub mod crash;
#[cfg(feature = "mutants")]
mod list;

#[cfg(feature = "mutants")]
pub use list::{MARKER, Mutant, Select, VARIABLE, is_on, select, select_from_environment, selected};

/// `planted!(Name => wrong; right)` is `wrong` while that mutant is on, else `right`; `planted!(Name => wrong)` does
/// something wrong besides. Without the feature the wrong code is not compiled.
#[cfg(feature = "mutants")]
macro_rules! planted {
    ($mutant:ident => $wrong:expr; $right:expr) => {
        if $crate::mutants::is_on($crate::mutants::Mutant::$mutant) { $wrong } else { $right }
    };
    ($mutant:ident => $wrong:expr) => {
        if $crate::mutants::is_on($crate::mutants::Mutant::$mutant) {
            $wrong
        }
    };
}

#[cfg(not(feature = "mutants"))]
macro_rules! planted {
    ($mutant:ident => $wrong:expr; $right:expr) => {
        $right
    };
    ($mutant:ident => $wrong:expr) => {};
}

/// `crash_at!("place")` ends the process there, once, when it was told to (`crash`). Without the feature it is nothing.
#[cfg(feature = "mutants")]
macro_rules! crash_at {
    ($place:literal) => {
        $crate::mutants::crash::reach($place)
    };
}

#[cfg(not(feature = "mutants"))]
macro_rules! crash_at {
    ($place:literal) => {};
}

pub(crate) use {crash_at, planted};
