//! Mounting, unmounting, and what a crash of the file system itself leaves; as the process that runners use.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use raft_tests::powerfs::control::figure;
use raft_tests::powerfs::{Model, Mount, Process};

use crate::support::{Powered, options};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_raft-tests");

fn start(directory: &Path) -> std::io::Result<Process> {
    Process::start(Path::new(PROGRAM), &options(directory, Model::Strict), &directory.join("control"))
}

fn is_mounted(directory: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(&format!(" {} ", directory.join("mount").display()))
}

pub(crate) fn unmount_and_crash(_: u64) {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let file = directory.join("mount/file");
    let process = start(directory).unwrap();
    assert!(is_mounted(directory));
    fs::write(&file, b"never synced").unwrap();
    assert!(Mount::start(&options(directory, Model::Strict)).is_err(), "a live mount is left alone");
    assert_eq!(fs::read(&file).unwrap(), b"never synced");
    drop(process);
    assert!(!is_mounted(directory));
    assert_eq!(fs::read(directory.join("backing/tree/file")).unwrap(), b"never synced");

    // Again, with what was there, and a crash.
    let mut process = start(directory).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"never synced");
    process.kill().unwrap();
    assert!(is_mounted(directory));
    assert!(fs::read(&file).is_err());
    let error = start(directory).err().expect("what is durable is not known");
    assert!(!is_mounted(directory), "the stale mount is taken away: {error}");
    fs::remove_dir_all(directory.join("backing")).unwrap();
    let process = start(directory).unwrap();
    assert!(!file.exists());

    // With a file open it goes all the same, and the file fails from then on.
    let mut open = File::create(&file).unwrap();
    drop(process);
    assert!(!is_mounted(directory));
    assert!(open.write_all(b"x").is_err());
    drop(open);

    // A directory of somebody else's is neither mounted over nor touched by a wrong call.
    let inside = directory.join("inside");
    let mut wrong = options(directory, Model::Strict);
    wrong.mount = wrong.backing.join("mount");
    assert!(Mount::start(&wrong).is_err());
    wrong.backing = inside.clone();
    wrong.mount = inside;
    assert!(Mount::start(&wrong).is_err());
}

pub(crate) fn control_socket(_: u64) {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let process = start(directory).unwrap();
    let control = process.control();
    let mut file = File::create(directory.join("mount/file")).unwrap();
    file.write_all(&[1; 10_000]).unwrap();
    file.sync_all().unwrap();
    assert_eq!(figure(&control.run("stats").unwrap(), "unsynced_names"), Some(1));
    control.run("cut clean").unwrap();
    assert!(file.write_all(b"x").is_err(), "a process that lives on notices");
    assert!(control.run("cut clean").is_err(), "the power is off already");
    let stats = control.run("stats").unwrap();
    assert_eq!((figure(&stats, "cuts"), figure(&stats, "cut_names_dropped")), (Some(1), Some(1)), "{stats}");
    control.run("resume").unwrap();
    assert!(!directory.join("mount/file").exists());
    let long = "x".repeat(1000);
    for wrong in ["", "cut", "cut pages", "cut pages x", "space", "fail-sync EIO", "fail-sync EIO often", &long] {
        assert!(control.run(wrong).is_err(), "{wrong:?}");
    }
    drop(process);

    // The same within one process.
    let powered = Powered::new(Model::Strict);
    assert_eq!(powered.figure("cuts"), 0);
}
