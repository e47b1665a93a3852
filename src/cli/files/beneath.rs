//! Writes files below one directory and nowhere else, each whole or not at all.
//!
//! Invariants:
//! - Every part of a path is opened from the directory before it, and a link is never followed, so that nothing outside
//!   is reached even when somebody changes the tree meanwhile.
//! - A file is written under a temporary name beside its own and renamed when it is complete. Whatever goes wrong, its
//!   own name has what it had before, and the temporary file is removed.
//! - A file that has the wanted content already is not touched.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, renameat, syncfs, unlinkat};

use crate::cli::files::store::Stored;
use crate::clock;

/// What the user's umask takes the permissions of new files and directories from.
const FILE_MODE: u32 = 0o666;
const DIRECTORY_MODE: u32 = 0o777;

pub(super) struct Beneath {
    root: OwnedFd,
    /// Names of temporary files: not those of any other run.
    run: u64,
    files: AtomicU64,
}

impl Beneath {
    /// Makes the directory when it is not there.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let root = openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, run: clock::random_u64(), files: AtomicU64::new(0) })
    }

    /// `path` has been judged by [`super::names`]: names with single slashes between.
    pub(super) fn write(&self, path: &[u8], content: &[u8]) -> io::Result<Stored> {
        let mut directory = None;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(part) = parts.next() {
            let here = directory.as_ref().map_or(self.root.as_fd(), OwnedFd::as_fd);
            if parts.peek().is_none() {
                return self.write_in(here, part, content);
            }
            directory = Some(subdirectory(here, part)?);
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty path"))
    }

    fn write_in(&self, directory: impl AsFd, name: &[u8], content: &[u8]) -> io::Result<Stored> {
        let directory = directory.as_fd();
        if has_content(directory, name, content)? {
            return Ok(Stored::Unchanged);
        }
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let mut temporary =
            Temporary { directory: &directory, name: temporary_name(self.run, number), is_renamed: false };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(directory, temporary.name.as_str(), flags, Mode::from_raw_mode(FILE_MODE))?;
        File::from(file).write_all(content)?;
        renameat(directory, temporary.name.as_str(), directory, name)?;
        temporary.is_renamed = true;
        Ok(Stored::Written)
    }

    /// Waits until all that was written is on disk, and fails when any of it is not.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(syncfs(&self.root)?)
    }
}

/// What a kill leaves behind has such a name.
fn temporary_name(run: u64, number: u64) -> String {
    format!(".ringraft-{run:016x}-{number}.tmp")
}

/// Whether it is a name that [`temporary_name`] gives.
pub(super) fn is_temporary_name(name: &[u8]) -> bool {
    let parts = std::str::from_utf8(name).ok().and_then(|name| {
        let (run, number) = name.strip_prefix(".ringraft-")?.strip_suffix(".tmp")?.split_once('-')?;
        Some((u64::from_str_radix(run, 16).ok()?, number.parse::<u64>().ok()?))
    });
    // Numbers can be written in more ways than one.
    parts.is_some_and(|(run, number)| temporary_name(run, number).as_bytes() == name)
}

/// Removed when it is dropped, unless it has got its own name.
struct Temporary<'a, D: AsFd> {
    directory: &'a D,
    name: String,
    is_renamed: bool,
}

impl<D: AsFd> Drop for Temporary<'_, D> {
    fn drop(&mut self) {
        if !self.is_renamed {
            // What was to be done has failed already, and that is what is told.
            let _ = unlinkat(self.directory, self.name.as_str(), AtFlags::empty());
        }
    }
}

fn subdirectory(directory: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&directory, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => {}
        opened => return Ok(opened?),
    }
    match mkdirat(&directory, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
        // Another file of the same export was faster.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(openat(&directory, name, flags, Mode::empty())?),
        Err(error) => Err(error.into()),
    }
}

/// Whether a regular file of that name has just this content. What cannot be read is replaced.
fn has_content(directory: impl AsFd, name: &[u8], content: &[u8]) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(there) = openat(directory, name, flags, Mode::empty()) else { return Ok(false) };
    let mut there = File::from(there);
    let metadata = there.metadata()?;
    if !metadata.is_file() || metadata.len() != content.len() as u64 {
        return Ok(false);
    }
    let mut old = Vec::with_capacity(content.len());
    Ok(there.read_to_end(&mut old).is_ok() && old == content)
}

/// One file that is written bit by bit, and takes its name when it is complete.
pub(super) struct Whole {
    file: File,
    path: PathBuf,
    temporary: PathBuf,
    is_complete: bool,
}

impl Whole {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let temporary = path.with_file_name(temporary_name(clock::random_u64(), 0));
        let file = File::options().write(true).create_new(true).open(&temporary)?;
        Ok(Self { file, path: path.to_path_buf(), temporary, is_complete: false })
    }

    /// On disk, and under its name.
    pub(super) fn complete(mut self) -> io::Result<()> {
        let directory = self.path.parent().filter(|directory| !directory.as_os_str().is_empty());
        // Opened first: what fails now leaves the file under that name as it is.
        let directory = File::open(directory.unwrap_or(Path::new(".")))?;
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        self.is_complete = true;
        // The name is on disk only with its directory.
        match directory.sync_all() {
            // Not every file system can do that.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }
}

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.is_complete {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_come_to_stand_under_their_paths_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("made/by/it");
        let beneath = Beneath::open(&root).unwrap();
        assert_eq!(beneath.write(b"a/b/c", b"one").unwrap(), Stored::Written);
        assert_eq!(beneath.write(b"a/b/d", b"").unwrap(), Stored::Written);
        assert_eq!(beneath.write(b"top", b"two").unwrap(), Stored::Written);
        beneath.sync().unwrap();
        assert_eq!(
            (names(&root), names(&root.join("a/b"))),
            (vec!["a".into(), "top".into()], vec!["c".into(), "d".into()])
        );
        assert_eq!(fs::read(root.join("a/b/c")).unwrap(), b"one");
    }

    #[test]
    fn a_file_with_the_wanted_content_is_left_alone_and_any_other_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (root, beneath) = (folder.path(), Beneath::open(folder.path()).unwrap());
        beneath.write(b"f", b"same").unwrap();
        let before = fs::metadata(root.join("f")).unwrap().ino();
        assert_eq!(beneath.write(b"f", b"same").unwrap(), Stored::Unchanged);
        assert_eq!(fs::metadata(root.join("f")).unwrap().ino(), before);
        assert_eq!(beneath.write(b"f", b"sama").unwrap(), Stored::Written);
        assert_eq!(fs::read(root.join("f")).unwrap(), b"sama");
    }

    #[test]
    fn no_link_leads_out() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, beneath) = (folder.path(), Beneath::open(folder.path()).unwrap());
        fs::write(outside.path().join("f"), "theirs").unwrap();
        symlink(outside.path(), root.join("link")).unwrap();
        symlink(outside.path().join("f"), root.join("file")).unwrap();
        assert!(beneath.write(b"link/f", b"ours").is_err());
        assert!(beneath.write(b"link/sub/f", b"ours").is_err());
        assert_eq!(beneath.write(b"file", b"ours").unwrap(), Stored::Written);
        assert_eq!(fs::read(outside.path().join("f")).unwrap(), b"theirs");
        assert!(!fs::symlink_metadata(root.join("file")).unwrap().is_symlink(), "the link itself was replaced");
        assert_eq!(names(outside.path()), ["f"]);
    }

    #[test]
    fn when_a_write_fails_the_old_content_stays_and_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let (root, beneath) = (folder.path(), Beneath::open(folder.path()).unwrap());
        fs::create_dir_all(root.join("d/not-empty")).unwrap();
        fs::write(root.join("f"), "old").unwrap();
        // A file cannot take the name of a directory, nor lie below a file.
        assert!(beneath.write(b"d", b"new").is_err());
        assert!(beneath.write(b"f/g", b"new").is_err());
        assert_eq!((names(root), fs::read(root.join("f")).unwrap()), (vec!["d".into(), "f".into()], b"old".to_vec()));
    }

    #[test]
    fn names_of_temporary_files_are_known_and_none_that_is_only_like_them() {
        for (run, number) in [(0, 0), (1, 9), (u64::MAX, u64::MAX)] {
            assert!(is_temporary_name(temporary_name(run, number).as_bytes()));
        }
        assert!(is_temporary_name(b".ringraft-0123456789abcdef-12.tmp"));
        for other in [
            ".ringraft-0123456789abcdef.tmp",
            ".ringraft-0123456789abcdef-.tmp",
            ".ringraft-0123456789ABCDEF-1.tmp",
            ".ringraft-123456789abcdef-1.tmp",
            ".ringraft-0123456789abcdef-01.tmp",
            ".ringraft-0123456789abcdef-+1.tmp",
            ".ringraft-0123456789abcdef-1.tmp~",
            "a.ringraft-0123456789abcdef-1.tmp",
            ".ringraft-.tmp",
        ] {
            assert!(!is_temporary_name(other.as_bytes()), "{other}");
        }
        assert!(!is_temporary_name(b".ringraft-0123456789abcdef-1.tmp\xff"));
    }

    #[test]
    fn a_whole_file_has_its_name_only_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let mut whole = Whole::create(&path).unwrap();
        whole.write_all(b"half").unwrap();
        drop(whole);
        assert!(names(folder.path()).is_empty());
        let mut whole = Whole::create(&path).unwrap();
        whole.write_all(b"all").unwrap();
        whole.complete().unwrap();
        assert_eq!((names(folder.path()), fs::read(&path).unwrap()), (vec!["lines".into()], b"all".to_vec()));
    }
}
