//! Without a fault it is a file system like any other: the same operations on the mount and on a plain directory, with
//! the same answers and the same pictures.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use raft_tests::powerfs::Model;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use super::skipped;
use super::support::{Powered, Seen, picture, sync};

const SEEDS: u64 = 60;
const OPERATIONS: usize = 250;
const NAMES: u8 = 6;

/// An operation's answer: what it gave, or the error's number.
type Answer = Result<Vec<u8>, Option<i32>>;

/// One of the two directories, with files open in it.
struct Side {
    root: PathBuf,
    open: Vec<File>,
}

#[derive(Clone, Debug)]
enum Operation {
    Open { path: PathBuf, create: bool, append: bool, truncate: bool },
    Close(usize),
    WriteAt { handle: usize, offset: u64, bytes: Vec<u8> },
    Append { path: PathBuf, bytes: Vec<u8> },
    ReadAt { handle: usize, offset: u64, length: usize },
    WriteHere { handle: usize, seek: Option<SeekFrom>, bytes: Vec<u8> },
    SetSize { handle: usize, size: u64 },
    Allocate { handle: usize, offset: u64, length: u64, how: u8 },
    Sync(usize),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf, PathBuf),
    Unlink(PathBuf),
    MakeDirectory(PathBuf),
    RemoveDirectory(PathBuf),
    SetMode(PathBuf, u32),
    List(PathBuf),
    Read(PathBuf),
}

fn any(rng: &mut StdRng) -> Operation {
    let handle = rng.random_range(0..4);
    let offset = [0, 1, 100, 4095, 4096, 9000, 70_000][rng.random_range(0..7)];
    let fill = rng.random::<u8>();
    let length = [0, 1, 7, 512, 4096, 5000, 140_000][rng.random_range(0..7)];
    let bytes = vec![fill; length];
    match rng.random_range(0..22) {
        0..=3 => {
            let (create, append) = (rng.random_bool(0.8), rng.random_bool(0.2));
            Operation::Open { path: place(rng), create, append, truncate: !append && rng.random_bool(0.2) }
        }
        4 => Operation::Close(handle),
        5 | 6 => Operation::WriteAt { handle, offset, bytes },
        7 => Operation::Append { path: place(rng), bytes },
        8 => Operation::ReadAt { handle, offset, length },
        9 => Operation::WriteHere { handle, seek: rng.random_bool(0.5).then_some(SeekFrom::End(-3)), bytes },
        10 => Operation::SetSize { handle, size: offset + length as u64 / 2 },
        11 => Operation::Allocate { handle, offset, length: length as u64 + 1, how: rng.random_range(0..3) },
        12 => Operation::Sync(handle),
        13 | 14 => Operation::Rename(place(rng), place(rng)),
        15 => Operation::Link(place(rng), place(rng)),
        16 => Operation::Symlink(place(rng), place(rng)),
        17 => Operation::Unlink(place(rng)),
        18 => Operation::MakeDirectory(place(rng)),
        19 => Operation::RemoveDirectory(place(rng)),
        20 => match rng.random_range(0..2) {
            0 => Operation::SetMode(place(rng), 0o600 + u32::from(rng.random::<u8>() % 64)),
            _ => Operation::List(place(rng)),
        },
        _ => Operation::Read(place(rng)),
    }
}

/// One to three names deep, of few names, so that operations meet.
fn place(rng: &mut StdRng) -> PathBuf {
    let depth = [1, 1, 1, 2, 2, 3][rng.random_range(0..6)];
    (0..depth).map(|_| char::from(b'a' + rng.random_range(0..NAMES)).to_string()).collect()
}

impl Side {
    fn handle(&self, handle: usize) -> io::Result<&File> {
        self.open.get(handle).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn apply(&mut self, operation: &Operation) -> io::Result<Vec<u8>> {
        let root = self.root.clone();
        let at = |path: &Path| root.join(path);
        let none = |()| Vec::new();
        match operation {
            Operation::Open { path, create, append, truncate } => {
                let mut options = OpenOptions::new();
                options.read(true).write(!append).append(*append).create(*create).truncate(*truncate);
                let file = options.open(at(path))?;
                if self.open.len() == 4 {
                    self.open.remove(0);
                }
                self.open.push(file);
                Ok(Vec::new())
            }
            Operation::Close(handle) => {
                self.handle(*handle)?;
                drop(self.open.remove(*handle));
                Ok(Vec::new())
            }
            Operation::WriteAt { handle, offset, bytes } => {
                // On Linux a positioned write to an appending file appends.
                self.handle(*handle)?.write_all_at(bytes, *offset).map(none)
            }
            Operation::Append { path, bytes } => {
                OpenOptions::new().append(true).open(at(path))?.write_all(bytes).map(none)
            }
            Operation::ReadAt { handle, offset, length } => {
                let mut found = vec![0; *length];
                let read = self.handle(*handle)?.read_at(&mut found, *offset)?;
                found.truncate(read);
                Ok(found)
            }
            Operation::WriteHere { handle, seek, bytes } => {
                let mut file = self.handle(*handle)?;
                let position = seek.map(|seek| file.seek(seek)).transpose()?;
                file.write_all(bytes)?;
                Ok(position.unwrap_or_default().to_be_bytes().to_vec())
            }
            Operation::SetSize { handle, size } => self.handle(*handle)?.set_len(*size).map(none),
            Operation::Allocate { handle, offset, length, how } => {
                let how = match how {
                    0 => FallocateFlags::empty(),
                    1 => FallocateFlags::KEEP_SIZE,
                    _ => FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE,
                };
                Ok(fallocate(self.handle(*handle)?, how, *offset, *length).map(none)?)
            }
            Operation::Sync(handle) => self.handle(*handle)?.sync_all().map(none),
            Operation::Rename(from, to) => fs::rename(at(from), at(to)).map(none),
            Operation::Link(from, to) => fs::hard_link(at(from), at(to)).map(none),
            Operation::Symlink(target, path) => symlink(target, at(path)).map(none),
            Operation::Unlink(path) => fs::remove_file(at(path)).map(none),
            Operation::MakeDirectory(path) => fs::create_dir(at(path)).map(none),
            Operation::RemoveDirectory(path) => fs::remove_dir(at(path)).map(none),
            Operation::SetMode(path, mode) => {
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)).map(none)
            }
            Operation::List(path) => {
                let mut names: Vec<_> = fs::read_dir(at(path))?
                    .map(|entry| entry.map(|entry| entry.file_name()))
                    .collect::<io::Result<_>>()?;
                names.sort();
                Ok(names.join("/".as_ref()).into_encoded_bytes())
            }
            Operation::Read(path) => fs::read(at(path)),
        }
    }

    fn answer(&mut self, operation: &Operation) -> Answer {
        self.apply(operation).map_err(|error| error.raw_os_error())
    }
}

/// Directory symlinks could lead out of the root or round in circles; the pictures do not follow them.
#[test]
fn looks_like_a_plain_directory_whatever_is_done_to_it() {
    if skipped() {
        return;
    }
    let mut worked = 0;
    for seed in 0..SEEDS {
        let powered = Powered::new(Model::Strict);
        let plain = tempfile::tempdir().unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut here = Side { root: powered.mount.path().to_path_buf(), open: Vec::new() };
        let mut there = Side { root: plain.path().to_path_buf(), open: Vec::new() };
        for number in 0..OPERATIONS {
            let operation = any(&mut rng);
            let (one, other) = (here.answer(&operation), there.answer(&operation));
            worked += u32::from(other.is_ok());
            assert!(one == other, "seed {seed}, operation {number}, {operation:?}: {one:?}, but plainly {other:?}");
            if number % 50 == 49 {
                assert_same(&here.root, &there.root, seed);
            }
        }
        assert_same(&here.root, &there.root, seed);
        drop(here.open);
        let Powered { mount, directory } = powered;
        mount.stop().unwrap();
        // What it leaves in the backing directory is the same, but for the links that number the files.
        let (mut left, mut plain) = (picture(&directory.path().join("backing/tree")), picture(plain.path()));
        for seen in left.values_mut().chain(plain.values_mut()) {
            if let Seen::File { links, .. } = seen {
                *links = 0;
            }
        }
        assert!(left == plain, "seed {seed}: the backing directory differs after the unmount");
    }
    let operations = SEEDS as u32 * OPERATIONS as u32;
    assert!(worked > operations / 4, "only {worked} of {operations} operations did anything");
}

fn assert_same(here: &Path, there: &Path, seed: u64) {
    let (here, there) = (picture(here), picture(there));
    let names = |picture: &super::support::Picture| picture.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&here), names(&there), "seed {seed}");
    for (path, seen) in &there {
        assert!(here[path] == *seen, "seed {seed}: {} differs", path.display());
    }
}

#[test]
fn handles_of_removed_files_go_on_and_locks_hold() {
    if skipped() {
        return;
    }
    let powered = Powered::new(Model::Strict);
    let path = powered.path("file");
    let mut file = File::create_new(&path).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(&path).unwrap();
    sync(powered.mount.path());
    file.write_all(b" and after").unwrap();
    file.sync_all().unwrap();
    let mut read = OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", raw(&file))).unwrap();
    let mut found = String::new();
    read.read_to_string(&mut found).unwrap();
    assert_eq!(found, "before and after");

    // Many removed files are given back, and those that are open are not.
    for _ in 0..200 {
        fs::write(&path, b"gone").unwrap();
        fs::remove_file(&path).unwrap();
    }
    sync(powered.mount.path());
    assert_eq!(file.metadata().unwrap().len(), 16);
    let objects = fs::read_dir(powered.directory.path().join("backing/objects")).unwrap().count();
    assert!(objects < 100, "{objects} files are left of which one is open");

    let lock = File::create(powered.path("LOCK")).unwrap();
    let other = File::open(powered.path("LOCK")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
    drop(lock);
    flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
}

fn raw(file: &File) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(file)
}
