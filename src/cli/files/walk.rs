//! Finds every file below a directory and says, before anything is sent, which of them can be stored.
//!
//! What becomes of what is no plain file:
//! - A **link to a file** within the directory is stored as that file's content, under the link's own path. A link that
//!   leads out of the directory is refused: it would store something that does not lie there. So is one to a directory:
//!   it would store the same files twice, or, in a circle, for ever. So is one that leads nowhere.
//! - **Sockets, pipes, devices** hold no content and are refused, and so is what cannot be read.
//! - **Temporary files** that a killed export left are nobody's content. They are left out and listed, and are no
//!   error.
//! - **Empty directories** have no key. They are left out and listed, and are no error. Modes, owners and times are not
//!   kept either: a value has none.

use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::beneath::is_temporary_name;
use crate::types::KEY_BYTES_MAX;

/// A file that can be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Below the directory.
    pub(super) path: PathBuf,
    pub(super) key: Vec<u8>,
    pub(super) size: u64,
}

/// Something that is not stored, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// A path below the directory, a key, or `line N`.
    pub(super) what: Vec<u8>,
    pub(super) why: String,
}

#[derive(Debug, Default)]
pub(super) struct Tree {
    /// In byte order of the keys.
    pub(super) files: Vec<Found>,
    /// What stands in the way of storing the whole tree.
    pub(super) refused: Vec<LeftOut>,
    /// What is left out and stands in nothing's way: directories without anything in them, temporary files.
    pub(super) left_out: Vec<LeftOut>,
}

impl Tree {
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Looks at everything below `root`. Fails only when `root` itself cannot be read.
pub(super) fn walk(root: &Path, prefix: &[u8], value_bytes_max: u64) -> io::Result<Tree> {
    let real_root = fs::canonicalize(root)?;
    let mut tree = Tree::default();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(real_root.join(&directory)).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) if directory.as_os_str().is_empty() => return Err(error),
            Err(error) => {
                tree.refused.push(left_out(&directory, format!("a directory that cannot be read: {error}")));
                continue;
            }
        };
        if entries.is_empty() && !directory.as_os_str().is_empty() {
            tree.left_out.push(left_out(&directory, "an empty directory"));
        }
        for entry in entries {
            let path = directory.join(entry.file_name());
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && is_temporary_name(entry.file_name().as_bytes()) {
                tree.left_out.push(left_out(&path, "a temporary file of an export that was killed"));
                continue;
            }
            match judge(&real_root, &path, prefix, value_bytes_max) {
                Ok(Judged::Directory) => directories.push(path),
                Ok(Judged::File(found)) => tree.files.push(found),
                Err(why) => tree.refused.push(left_out(&path, why)),
            }
        }
    }
    tree.files.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    let by_name = |one: &LeftOut, other: &LeftOut| one.what.cmp(&other.what);
    tree.refused.sort_unstable_by(by_name);
    tree.left_out.sort_unstable_by(by_name);
    Ok(tree)
}

enum Judged {
    Directory,
    File(Found),
}

fn judge(root: &Path, path: &Path, prefix: &[u8], value_bytes_max: u64) -> Result<Judged, String> {
    let full = root.join(path);
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let mut metadata = fs::symlink_metadata(&full).map_err(unreadable)?;
    if metadata.is_dir() {
        return Ok(Judged::Directory);
    }
    if metadata.is_symlink() {
        metadata = follow(root, &full)?;
    } else if !metadata.is_file() {
        return Err(format!("{}, which holds no content", kind(metadata.file_type())));
    }
    let key = [prefix, path.as_os_str().as_bytes()].concat();
    if key.len() > KEY_BYTES_MAX {
        return Err(format!("its key would have {} bytes; a key has at most {KEY_BYTES_MAX}", key.len()));
    }
    if metadata.len() > value_bytes_max {
        return Err(format!("has {} bytes; a value has at most {value_bytes_max}", metadata.len()));
    }
    rustix::fs::access(&full, rustix::fs::Access::READ_OK).map_err(|error| unreadable(error.into()))?;
    Ok(Judged::File(Found { path: path.to_path_buf(), key, size: metadata.len() }))
}

/// What a link leads to, when that is a file within the tree.
fn follow(root: &Path, link: &Path) -> Result<Metadata, String> {
    let to = || fs::read_link(link).map(|to| to.display().to_string()).unwrap_or_default();
    let real = fs::canonicalize(link).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("a link that leads nowhere (to {})", to()),
        _ => format!("a link that cannot be followed (to {}): {error}", to()),
    })?;
    let metadata = fs::metadata(&real).map_err(|error| format!("a link that cannot be followed: {error}"))?;
    if metadata.is_dir() {
        return Err(format!("a link to a directory ({}); only links to files are followed", to()));
    }
    if !metadata.is_file() {
        return Err(format!("a link to {}, which holds no content", kind(metadata.file_type())));
    }
    if !real.starts_with(root) {
        return Err(format!("a link that leads out of the directory (to {})", real.display()));
    }
    Ok(metadata)
}

fn kind(file_type: FileType) -> &'static str {
    if file_type.is_socket() {
        "a socket"
    } else if file_type.is_fifo() {
        "a pipe"
    } else if file_type.is_block_device() || file_type.is_char_device() {
        "a device"
    } else {
        "something that is no file"
    }
}

fn left_out(path: &Path, why: impl Into<String>) -> LeftOut {
    LeftOut { what: path.as_os_str().as_bytes().to_vec(), why: why.into() }
}

/// Reads a file that [`walk`] found. It may have become something else since: then that is said, and never waited for.
pub(super) fn read(root: &Path, path: &Path, value_bytes_max: u64) -> Result<Vec<u8>, String> {
    use rustix::fs::{Mode, OFlags};
    use std::io::Read;

    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    // Not blocking: opening a pipe would wait for somebody to write to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(root.join(path), flags, Mode::empty()).map_err(|error| unreadable(error.into()))?;
    let file = fs::File::from(opened);
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err("is no file any more".to_string());
    }
    let mut content = Vec::new();
    file.take(value_bytes_max.saturating_add(1)).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > value_bytes_max {
        return Err(format!("has grown beyond {value_bytes_max} bytes, the most that a value has"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn why<'a>(tree: &'a Tree, name: &str) -> &'a str {
        let found = tree.refused.iter().chain(&tree.left_out).find(|left_out| left_out.what == name.as_bytes());
        &found.unwrap_or_else(|| panic!("{name} is not among {tree:?}")).why
    }

    #[test]
    fn files_come_with_their_keys_in_byte_order() {
        let folder = folder();
        for name in ["a/b", "a-b", "a.c", "z"] {
            fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            fs::write(folder.path().join(name), name).unwrap();
        }
        let odd = OsStr::from_bytes(b"\xff\n");
        fs::write(folder.path().join(odd), "").unwrap();
        let tree = walk(folder.path(), b"p/", 10).unwrap();
        let keys: Vec<&[u8]> = tree.files.iter().map(|file| &file.key[..]).collect();
        assert_eq!(keys, [&b"p/a-b"[..], b"p/a.c", b"p/a/b", b"p/z", b"p/\xff\n"]);
        assert_eq!((tree.bytes(), tree.refused.len(), tree.left_out.len()), (10, 0, 0));
        assert_eq!(read(folder.path(), &tree.files[2].path, 10).unwrap(), b"a/b");
    }

    #[test]
    fn a_link_is_followed_to_a_file_within_and_nowhere_else() {
        let (folder, outside) = (folder(), folder());
        let root = folder.path();
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/file"), "content").unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        symlink("dir/file", root.join("good")).unwrap();
        symlink(root.join("dir/file"), root.join("good-absolute")).unwrap();
        symlink("nothing", root.join("dangling")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        symlink("../..", root.join("dir/sub/up")).unwrap();
        symlink(outside.path().join("secret"), root.join("out")).unwrap();
        symlink("/dev/null", root.join("device")).unwrap();
        let tree = walk(root, b"", 10).unwrap();
        let keys: Vec<&[u8]> = tree.files.iter().map(|file| &file.key[..]).collect();
        assert_eq!(keys, [&b"dir/file"[..], b"good", b"good-absolute"]);
        assert_eq!(read(root, Path::new("good"), 10).unwrap(), b"content");
        assert!(why(&tree, "dangling").contains("leads nowhere (to nothing)"));
        assert!(why(&tree, "circle").contains("cannot be followed"));
        assert!(why(&tree, "dir/sub/up").contains("a link to a directory (../..)"));
        assert!(why(&tree, "out").contains("out of the directory"));
        assert!(why(&tree, "device").contains("a link to a device"));
        assert_eq!(tree.refused.len(), 5);
    }

    #[test]
    fn what_can_be_no_value_is_refused_by_name() {
        let folder = folder();
        let root = folder.path();
        fs::write(root.join("fits"), [0; 10]).unwrap();
        fs::write(root.join("large"), [0; 11]).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(root.join("sub/.ringraft-0123456789abcdef-3.tmp"), "half").unwrap();
        let deep: PathBuf = [&"d".repeat(200); 10].iter().collect();
        fs::create_dir_all(root.join(&deep)).unwrap();
        let (longest, longer) = (deep.join("f".repeat(36)), deep.join("f".repeat(37)));
        assert_eq!(longest.as_os_str().len() + 2, KEY_BYTES_MAX);
        fs::write(root.join(&longest), "").unwrap();
        fs::write(root.join(&longer), "").unwrap();

        let tree = walk(root, b"p/", 10).unwrap();
        assert_eq!(why(&tree, "large"), "has 11 bytes; a value has at most 10");
        assert_eq!(why(&tree, "socket"), "a socket, which holds no content");
        assert_eq!(why(&tree, "pipe"), "a pipe, which holds no content");
        assert_eq!(why(&tree, "empty"), "an empty directory");
        assert_eq!(why(&tree, "sub/.ringraft-0123456789abcdef-3.tmp"), "a temporary file of an export that was killed");
        assert!(why(&tree, longer.to_str().unwrap()).contains("2049 bytes; a key has at most 2048"));
        let keys: Vec<usize> = tree.files.iter().map(|file| file.key.len()).collect();
        assert_eq!((keys, tree.refused.len(), tree.left_out.len()), (vec![KEY_BYTES_MAX, 6], 4, 2));
    }

    #[test]
    fn a_file_that_became_something_else_is_neither_read_nor_waited_for() {
        let folder = folder();
        let root = folder.path();
        mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        fs::write(root.join("grown"), [0; 11]).unwrap();
        assert_eq!(read(root, Path::new("pipe"), 10).unwrap_err(), "is no file any more");
        assert!(read(root, Path::new("grown"), 10).unwrap_err().contains("grown beyond 10"));
        assert!(read(root, Path::new("gone"), 10).unwrap_err().contains("cannot be read"));
        assert!(walk(&root.join("gone"), b"", 10).is_err());
    }
}
