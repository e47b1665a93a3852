//! Which programs have planted bugs can be told by their bytes, and those that have them say so.

use std::fs;
use std::path::Path;
use std::process::Command;

use ringraft::mutants::{MARKER, Mutant, VARIABLE};

fn holds(program: &[u8], needle: &str) -> bool {
    program.windows(needle.len()).any(|window| window == needle.as_bytes())
}

fn read(program: &Path) -> Result<Vec<u8>, String> {
    fs::read(program).map_err(|error| format!("{}: {error}", program.display()))
}

fn needles() -> impl Iterator<Item = &'static str> {
    Mutant::ALL.iter().map(|mutant| mutant.name()).chain([MARKER, VARIABLE])
}

/// This program has every mutant where a search finds it, and its node program says that it has.
///
/// # Errors
/// What is missing.
pub(super) fn expect_planted_in(own: &Path) -> Result<(), String> {
    let bytes = read(own)?;
    if let Some(needle) = needles().find(|needle| !holds(&bytes, needle)) {
        return Err(format!("{} does not hold {needle:?}, so a search for it shows nothing", own.display()));
    }
    let mutant = Mutant::ALL[0].name();
    // As far as `serve` comes with a data directory that cannot be made.
    let serve: &[&str] = &["serve", "--data", "/dev/null/data"];
    for (arguments, planted, wanted) in [
        (&["version"] as &[&str], None, "WITH PLANTED BUGS"),
        (&["--version"], None, "WITH PLANTED BUGS"),
        (serve, None, "none is planted"),
        (serve, Some(mutant), "THIS NODE HAS A PLANTED BUG"),
        (serve, Some("no-such-bug"), "no mutant is named \"no-such-bug\""),
    ] {
        let mut command = Command::new(own);
        command.args(arguments).env_remove(VARIABLE).envs(planted.map(|planted| (VARIABLE, planted)));
        let output = command.output().map_err(|error| format!("{}: {error}", own.display()))?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if !said.contains(wanted) {
            return Err(format!("{} {} with {planted:?} planted does not say {wanted:?}", own.display(), arguments[0]));
        }
    }
    Ok(())
}

/// # Errors
/// When the program has anything of the planted bugs.
pub(super) fn expect_clean(program: &Path) -> Result<(), String> {
    let bytes = read(program)?;
    match needles().find(|needle| holds(&bytes, needle)) {
        Some(needle) => {
            Err(format!("{} holds planted bugs ({needle:?}): build it without features", program.display()))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_holds_the_name_of_any_mutant_is_not_clean() {
        let directory = tempfile::TempDir::new().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "nothing of the kind").unwrap();
        assert_eq!(expect_clean(&program), Ok(()));
        for needle in needles() {
            fs::write(&program, format!("\0code\0{needle}\0more")).unwrap();
            assert!(expect_clean(&program).unwrap_err().contains(needle));
        }
        assert!(expect_clean(&directory.path().join("absent")).is_err());
    }
}
