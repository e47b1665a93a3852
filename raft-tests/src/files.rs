//! `ringraft import` and `export` as processes, and trees of files for them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::cluster::{Cluster, binary};

/// The longest value of a node with the default configuration.
pub const VALUE_BYTES_MAX: u64 = 1 << 20;

/// A client command that runs. Ended with this value.
pub struct Running {
    child: Child,
    output: File,
    errors: File,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub output: String,
    pub errors: String,
}

impl Running {
    /// Starts `ringraft WORDS` with all nodes as endpoints. What it says goes to files, so that it never waits for us.
    pub fn start<S: AsRef<OsStr>>(cluster: &Cluster, words: &[S]) -> Self {
        let endpoints: Vec<&str> = cluster.nodes.iter().map(|node| node.http.address.as_str()).collect();
        let [output, errors] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGRAFT_")) {
            command.env_remove(name);
        }
        let child = command
            .args(words)
            .arg("--endpoints")
            .arg(endpoints.join(","))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(errors.try_clone().expect("a second handle"))
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        Self { child, output, errors }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs");
        let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are small")).expect("no process has the id 0");
        kill_process(pid, signal).expect("a child of ours can be signalled");
    }

    /// None when it still runs after `limit`; then it is killed.
    pub async fn ended(mut self, limit: Duration) -> Option<Ran> {
        let status = tokio::time::timeout(limit, self.child.wait()).await.ok()?.expect("a child can be waited for");
        let text = |mut file: File| {
            let mut bytes = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("what it said can be read");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Some(Ran { code: status.code(), output: text(self.output), errors: text(self.errors) })
    }
}

impl Ran {
    /// Of `-o json`; null when there is none.
    pub fn summary(&self) -> Value {
        serde_json::from_str(self.output.trim()).unwrap_or_default()
    }

    /// Paths or keys that were left out, with the reasons.
    pub fn left_out(&self) -> Vec<(Vec<u8>, String)> {
        let summary = self.summary();
        let name = |item: &Value| match (item["name"].as_str(), item["name_b64"].as_str()) {
            (Some(name), _) => name.as_bytes().to_vec(),
            (None, Some(name)) => URL_SAFE_NO_PAD.decode(name).expect("base64url"),
            (None, None) => panic!("{item} has no name"),
        };
        let reason = |item: &Value| item["reason"].as_str().unwrap_or_default().to_string();
        summary["left_out"].as_array().into_iter().flatten().map(|item| (name(item), reason(item))).collect()
    }
}

/// Names in the directory `odd` of a [`stage`] that can be stored, and what can not be, with a part of the reason.
pub const ODD_STORED: &[&[u8]] =
    &[b"a b%2F?#&", b"{tag}", b"empty-file", b"limit", b"link-inside", b"no-text-\xff\xfe", b"...", b"-o", b"\xc3\xa9"];
pub const ODD_LEFT_OUT: &[(&str, &str)] = &[
    ("dangling", "leads nowhere"),
    ("directory-link", "a link to a directory"),
    ("empty", "an empty directory"),
    ("outside", "out of the directory"),
    ("over-limit", "1048577 bytes"),
    ("pipe", "a pipe"),
    ("socket", "a socket"),
];

/// Fills `to` with files of real trees, each `step`-th of them and no fewer than `files` if there are so many, as they
/// are: links as links, also long ones. Besides a directory `odd` with everything that can go wrong. Gives the number of
/// regular files.
pub fn stage(to: &Path, trees: &[PathBuf], files: usize, step: usize) -> io::Result<usize> {
    let mut staged = odd(&to.join("odd"))?;
    let mut seen = 0;
    for (number, tree) in trees.iter().enumerate() {
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            if staged >= files {
                return Ok(staged);
            }
            let Ok(entries) = fs::read_dir(tree.join(&directory)) else { continue };
            let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            let target = to.join(number.to_string()).join(&directory);
            for entry in entries {
                let (kind, path) = (entry.file_type()?, entry.path());
                if kind.is_dir() {
                    directories.push(directory.join(entry.file_name()));
                    continue;
                }
                seen += 1;
                if seen % step != 0 || !(kind.is_file() || kind.is_symlink()) {
                    continue;
                }
                fs::create_dir_all(&target)?;
                let copy = target.join(entry.file_name());
                if kind.is_symlink() {
                    symlink(fs::read_link(&path)?, copy)?;
                } else {
                    // Another file system, or one that refuses, gets a copy.
                    fs::hard_link(&path, &copy).or_else(|_| fs::copy(&path, &copy).map(drop))?;
                    staged += 1;
                }
            }
        }
    }
    Ok(staged)
}

fn odd(directory: &Path) -> io::Result<usize> {
    fs::create_dir_all(directory.join("empty"))?;
    for name in ODD_STORED.iter().filter(|name| !matches!(**name, b"link-inside")) {
        fs::write(directory.join(OsStr::from_bytes(name)), name)?;
    }
    fs::write(directory.join("empty-file"), "")?;
    let content = |bytes: u64| -> Vec<u8> { (0..bytes).map(|place| (place % 251) as u8).collect() };
    fs::write(directory.join("limit"), content(VALUE_BYTES_MAX))?;
    fs::write(directory.join("over-limit"), content(VALUE_BYTES_MAX + 1))?;
    symlink("limit", directory.join("link-inside"))?;
    symlink("nothing", directory.join("dangling"))?;
    symlink("..", directory.join("directory-link"))?;
    symlink("/etc/passwd", directory.join("outside"))?;
    drop(UnixListener::bind(directory.join("socket"))?);
    mknodat(CWD, directory.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    Ok(ODD_STORED.len())
}

/// Compares by `diff -r`: below `staged` there may be just what is listed as left out, and nothing else may differ.
/// Gives the number of lines that diff printed.
pub async fn compare(staged: &Path, exported: &Path, left_out: &[(Vec<u8>, String)]) -> Result<usize, String> {
    let ran = Command::new("diff")
        .args(["-r", "--brief"])
        .args([staged, exported])
        .env("LC_ALL", "C")
        .output()
        .await
        .map_err(|error| format!("diff: {error}"))?;
    if !matches!(ran.status.code(), Some(0 | 1)) {
        return Err(format!("diff: {}", String::from_utf8_lossy(&ran.stderr)));
    }
    let listed: BTreeSet<Vec<u8>> = left_out.iter().filter_map(|(path, _)| line_of(staged, exported, path)).collect();
    let lines = ran.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let told: BTreeSet<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
    let text = |line: &Vec<u8>| String::from_utf8_lossy(line).into_owned();
    if let Some(line) = told.difference(&listed).next() {
        let count = told.difference(&listed).count();
        return Err(format!("{count} differences that are not listed as left out, the first: {}", text(line)));
    }
    if let Some(line) = listed.difference(&told).next() {
        return Err(format!("listed as left out, and diff does not know of it: {}", text(line)));
    }
    Ok(told.len())
}

/// What diff says of a path that was left out: that, or the first directory above it, is only in the staged tree.
fn line_of(staged: &Path, exported: &Path, path: &[u8]) -> Option<Vec<u8>> {
    let mut path = PathBuf::from(OsStr::from_bytes(path));
    while let Some(parent) = path.parent().filter(|parent| !exported.join(parent).exists()) {
        path = parent.to_path_buf();
    }
    let directory = staged.join(path.parent()?);
    // diff writes no slash after a directory that is the root of the tree.
    let directory = directory.into_os_string().into_vec();
    let directory = directory.strip_suffix(b"/").map_or(directory.clone(), <[u8]>::to_vec);
    Some([b"Only in ", &directory[..], b": ", path.file_name()?.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_differs_must_be_listed_and_what_is_listed_must_differ() {
        let folder = tempfile::tempdir().unwrap();
        let (staged, exported) = (folder.path().join("staged"), folder.path().join("exported"));
        fs::create_dir_all(staged.join("a/gone/deep")).unwrap();
        fs::create_dir_all(exported.join("a")).unwrap();
        for name in ["same", "a/same"] {
            fs::write(staged.join(name), name).unwrap();
            fs::write(exported.join(name), name).unwrap();
        }
        fs::write(staged.join("a/gone/deep/file"), "").unwrap();
        fs::write(staged.join("socket"), "").unwrap();
        let listed =
            |names: &[&str]| -> Vec<_> { names.iter().map(|name| (name.as_bytes().to_vec(), String::new())).collect() };
        let all = listed(&["a/gone/deep/file", "socket"]);
        assert_eq!(compare(&staged, &exported, &all).await, Ok(2));
        let unlisted = compare(&staged, &exported, &listed(&["socket"])).await.unwrap_err();
        assert!(unlisted.contains("not listed") && unlisted.contains("a: gone"), "{unlisted}");
        let stored = compare(&staged, &exported, &listed(&["a/gone/deep/file", "socket", "same"])).await.unwrap_err();
        assert!(stored.contains("does not know of it") && stored.ends_with(": same"), "{stored}");
        fs::write(exported.join("a/same"), "other").unwrap();
        assert!(compare(&staged, &exported, &all).await.unwrap_err().contains("differ"));
        fs::write(exported.join("a/same"), "a/same").unwrap();
        fs::write(exported.join("more"), "").unwrap();
        assert!(compare(&staged, &exported, &all).await.unwrap_err().contains("more"));
    }

    #[test]
    fn a_stage_has_real_files_as_they_are_and_all_that_is_odd() {
        let (folder, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for number in 0..20 {
            fs::create_dir_all(tree.path().join(format!("d{}", number % 3))).unwrap();
            fs::write(tree.path().join(format!("d{}/f{number}", number % 3)), "x").unwrap();
        }
        symlink("f0", tree.path().join("d0/link")).unwrap();
        let staged = stage(folder.path(), &[tree.path().to_path_buf()], 1000, 1).unwrap();
        assert_eq!(staged, 20 + ODD_STORED.len());
        assert!(folder.path().join("0/d0/link").is_symlink());
        for (name, _) in ODD_LEFT_OUT {
            fs::symlink_metadata(folder.path().join("odd").join(name)).unwrap();
        }
        assert_eq!(
            stage(folder.path().join("half").as_path(), &[tree.path().to_path_buf()], 1000, 2).unwrap(),
            10 + ODD_STORED.len()
        );
    }
}
