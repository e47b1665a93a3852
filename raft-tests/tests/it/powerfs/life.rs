//! Mounting, unmounting, and what a crash of the file system itself leaves; as the process that runners use.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use raft_tests::powerfs::control::{Answer, Command};
use raft_tests::powerfs::{Cut, Error, Failure, Model, Mount, Process, Torn};

use super::skipped;
use super::support::options;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_raft-tests");

async fn start(directory: &Path) -> std::io::Result<Process> {
    Process::start(Path::new(PROGRAM), &options(directory, Model::Strict)).await
}

fn is_mounted(directory: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(&format!(" {} ", directory.join("mount").display()))
}

#[tokio::test]
async fn what_is_unmounted_is_durable_and_a_crashed_file_system_is_refused() {
    if skipped() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let file = directory.join("mount/file");
    let process = start(directory).await.unwrap();
    assert!(is_mounted(directory));
    fs::write(&file, b"never synced").unwrap();
    assert!(Mount::start(&options(directory, Model::Strict)).is_err(), "a live mount is left alone");
    assert_eq!(fs::read(&file).unwrap(), b"never synced");
    process.stop().await.unwrap();
    assert!(!is_mounted(directory));
    assert_eq!(fs::read(directory.join("backing/tree/file")).unwrap(), b"never synced");

    // Again, with what was there, and a crash.
    let mut process = start(directory).await.unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"never synced");
    process.kill().await.unwrap();
    assert!(is_mounted(directory));
    assert!(fs::read(&file).is_err());
    assert!(process.stats().await.is_err());
    let error = start(directory).await.err().expect("what is durable is not known");
    assert!(!is_mounted(directory), "the stale mount is taken away: {error}");
    fs::remove_dir_all(directory.join("backing")).unwrap();
    let process = start(directory).await.unwrap();
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

#[tokio::test]
async fn a_test_that_panics_leaves_no_mount_behind_even_after_a_crash() {
    if skipped() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_path_buf();
    for crash in [false, true] {
        let at = path.join(if crash { "crashed" } else { "served" });
        let mount = at.clone();
        let panicked = tokio::spawn(async move {
            let mut process = start(&at).await.unwrap();
            let _held_open = File::create(at.join("mount/file")).unwrap();
            assert!(is_mounted(&at));
            if crash {
                process.kill().await.unwrap();
            }
            panic!("as a test does that fails");
        });
        assert!(panicked.await.unwrap_err().is_panic());
        assert!(!is_mounted(&mount), "crash: {crash}");
    }
}

#[tokio::test]
async fn a_cut_from_outside_reaches_a_process_that_was_not_killed() {
    if skipped() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let process = start(directory).await.unwrap();
    let mut file = File::create(directory.join("mount/file")).unwrap();
    file.write_all(&[1; 10_000]).unwrap();
    file.sync_all().unwrap();
    assert_eq!(process.stats().await.unwrap().unsynced_names, 1);
    let lost = process.cut(Cut::clean()).await.unwrap();
    assert_eq!((lost.names_dropped, lost.dropped(), lost.survived()), (1, 1, 0));
    assert!(file.write_all(b"x").is_err(), "a process that lives on notices");
    assert!(process.cut(Cut::torn(Torn::Pages, 1)).await.is_err(), "the power is off already");
    assert_eq!(process.stats().await.unwrap().cuts, 1);
    process.resume().await.unwrap();
    assert!(!directory.join("mount/file").exists());
}

#[tokio::test]
async fn an_answer_that_nobody_waited_for_is_not_taken_for_that_of_the_next_command() {
    if skipped() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let process = start(directory).await.unwrap();
    process.fail_sync(Some(Failure::always(Error::Io))).await.unwrap();
    File::create(directory.join("mount/file")).unwrap().sync_all().unwrap_err();
    for _ in 0..20 {
        // Given up after it was sent.
        let cut = process.cut(Cut::clean());
        tokio::select! {
            biased;
            _ = cut => {}
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(process.stats().await.unwrap().syncs_failed, 1);
        assert_eq!(process.run(Command::Resume).await.unwrap(), Answer::Done);
    }
    process.stop().await.unwrap();
}
