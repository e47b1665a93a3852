//! Mounts for tests, and pictures of directories.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use raft_tests::powerfs::control::{Answer, Command};
use raft_tests::powerfs::{Cut, Lost, Model, Mount, Options, Stats};
use tempfile::TempDir;

#[expect(clippy::disallowed_methods, reason = "tests take real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A mounted file system in a temporary directory. The mount goes before the directory.
pub(crate) struct Powered {
    pub(crate) mount: Mount,
    pub(crate) directory: TempDir,
}

impl Powered {
    pub(crate) fn new(model: Model) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { mount: Mount::start(&options(directory.path(), model)).unwrap(), directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mount.path().join(name)
    }

    pub(crate) fn run(&self, command: Command) -> Answer {
        self.mount.run(&command).unwrap()
    }

    /// The power fails and comes back.
    pub(crate) fn cut(&self, cut: Cut) -> Lost {
        let lost = self.off(cut);
        self.resume();
        lost
    }

    pub(crate) fn off(&self, cut: Cut) -> Lost {
        match self.run(Command::Cut(cut)) {
            Answer::Lost(lost) => lost,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn resume(&self) {
        self.run(Command::Resume);
    }

    pub(crate) fn stats(&self) -> Stats {
        match self.run(Command::Stats) {
            Answer::Stats(stats) => stats,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn options(directory: &Path, model: Model) -> Options {
    Options { backing: directory.join("backing"), mount: directory.join("mount"), model, seed: 1 }
}

pub(crate) fn sync(path: &Path) {
    fs::File::open(path).unwrap().sync_all().unwrap();
}

/// What can be seen of a directory: every path below it.
pub(crate) type Picture = BTreeMap<PathBuf, Seen>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    Directory,
    Symlink(PathBuf),
    File { content: Vec<u8>, links: u64, mode: u32 },
}

pub(crate) fn picture(root: &Path) -> Picture {
    let mut seen = Picture::new();
    look(root, root, &mut seen);
    seen
}

fn look(root: &Path, at: &Path, seen: &mut Picture) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let what = if meta.is_dir() {
            look(root, &path, seen);
            Seen::Directory
        } else if meta.is_symlink() {
            Seen::Symlink(fs::read_link(&path).unwrap())
        } else {
            let content = fs::read(&path).unwrap();
            assert_eq!(content.len() as u64, meta.len(), "the size of {}", path.display());
            Seen::File { content, links: meta.nlink(), mode: meta.mode() }
        };
        let new = seen.insert(path.strip_prefix(root).unwrap().to_path_buf(), what).is_none();
        assert!(new, "{} is listed twice", path.display());
    }
}
