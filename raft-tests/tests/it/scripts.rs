//! The scripts of faults, as a person repeats them: each seed in a process of its own.

use std::fs;
use std::process::Command;

use raft_tests::sim::scripts;
use tempfile::TempDir;

const SEEDS: u64 = 2;

/// What is thrown at the nodes at the one moment at which a certain bug would show, they stand; and the same seed shows
/// the same to the byte.
#[test]
fn every_script_is_good_and_repeats_itself() {
    let directory = TempDir::new().unwrap();
    for script in scripts::ALL {
        for seed in 1..=SEEDS {
            let play = |name: &str| {
                let history = directory.path().join(name);
                let played = Command::new(env!("CARGO_BIN_EXE_raft-tests"))
                    .args(["script", script.name, "--seed", &seed.to_string(), "--history"])
                    .arg(&history)
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&played.stdout) + String::from_utf8_lossy(&played.stderr);
                assert_eq!(played.status.code(), Some(0), "raft-tests script {} --seed {seed}: {said}", script.name);
                fs::read(&history).unwrap()
            };
            let (first, again) = (play("first"), play("again"));
            assert!(first == again, "{} --seed {seed} is not the same twice", script.name);
        }
    }
}
