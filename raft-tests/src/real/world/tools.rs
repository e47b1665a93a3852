//! Programs and libraries of the machine that a world needs, and what to install where one is missing.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A program, and the Debian package that has it.
pub const PROGRAMS: [(&str, &str); 7] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("mkfs.ext4", "e2fsprogs"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
];

/// Changes the wall clock of a process that it is loaded into.
const FAKETIME_PACKAGE: &str = "libfaketime";
const FAKETIME_LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
];

/// Programs that this machine does not have, as a message; None when all are there.
pub fn missing_programs() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let missing: Vec<String> = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(program, package)| format!("`{program}` (Debian package {package})"))
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

pub fn faketime() -> Result<PathBuf, String> {
    let found = FAKETIME_LIBRARIES.iter().map(PathBuf::from).find(|library| library.is_file());
    found.ok_or_else(|| format!("wall clock faults need {} (Debian package {FAKETIME_PACKAGE})", FAKETIME_LIBRARIES[0]))
}

/// What makes a process read its wall clock's offset from `file` at every look, and leaves every other clock alone.
pub fn clock_environment(file: &Path) -> Result<Vec<(String, String)>, String> {
    let pairs = [
        ("LD_PRELOAD", faketime()?.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_string()),
    ];
    Ok(pairs.map(|(name, value)| (name.to_string(), value)).to_vec())
}

/// The content of such a file.
pub fn clock_offset(seconds: i64) -> String {
    format!("{seconds:+}\n")
}

/// Runs a program with its input and gives its output. Words as they are: no shell.
pub async fn run(words: &[&str], input: &str) -> Result<String, String> {
    let what = words.join(" ");
    let failed = |error: std::io::Error| format!("{what}: {error}");
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input.as_bytes()).await.map_err(failed)?;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{what}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    }
}
