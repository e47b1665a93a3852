//! For tests of what ends a process: the test runs once more, alone, in a process of its own that may die.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::config::{LogConfig, LogFormat};
use crate::telemetry;

/// Tells the child what it is to do. No name that the configuration would take for its own.
const ROLE: &str = "CHILD_OF_RINGRAFT_TEST";

/// How a child ended.
pub(crate) struct Ended {
    pub(crate) aborted: bool,
    pub(crate) succeeded: bool,
    /// What it logged, and what it wrote to standard error by itself.
    pub(crate) said: String,
}

/// In a child, what it is to do; none where the test begins.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// In a child: logs go to standard error, as a node's do.
pub(crate) fn log() {
    telemetry::init(&LogConfig { format: LogFormat::Text, filter: "info".to_string() }).unwrap();
}

/// Runs the test of this name, its modules included, in a process of its own.
pub(crate) fn run(test: &str, role: &str) -> Ended {
    end_of(Command::new(std::env::current_exe().unwrap()), test, role)
}

/// As [`run`], where no file can grow beyond `blocks` of 512 or 1,024 bytes, as the shell counts them: longer writes fail.
pub(crate) fn run_with_short_files(test: &str, role: &str, blocks: u32) -> Ended {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap());
    end_of(shell, test, role)
}

fn end_of(mut command: Command, test: &str, role: &str) -> Ended {
    // What is set for the tests, or by whoever runs them, is no setting of a node.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"RINGRAFT_")) {
        command.env_remove(name);
    }
    let output = command.args([test, "--exact", "--nocapture"]).env(ROLE, role).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("running 1 test"), "there is no test {test}:\n{out}\n{said}");
    let aborted = output.status.signal() == Some(rustix::process::Signal::ABORT.as_raw());
    Ended { aborted, succeeded: output.status.success(), said }
}
