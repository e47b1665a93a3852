//! The kernel's requests: each one is an operation on [`State`] under its lock.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use ringraft::clock;

use super::file::{Content, PAGE_BYTES};
use super::mount::sleep;
use super::names::Ino;
use super::state::{Kind, Maker, State};

/// Names are asked for each time, because a cut changes them behind the kernel's back.
const NAMES_VALID: Duration = Duration::ZERO;
/// Attributes may be kept: a node's number is not used again after a cut.
const ATTRIBUTES_VALID: Duration = Duration::from_secs(60);
const NAME_BYTES_MAX: u32 = 255;
const SYNC_POLL: Duration = Duration::from_millis(2);
/// What an unlimited file system says it has.
const SPACE_SHOWN: u64 = 1 << 40;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const FALLOC_FL_KEEP_SIZE: i32 = 1;
const FALLOC_FL_PUNCH_HOLE: i32 = 2;

/// The state, shared between the kernel's requests and the commands.
#[derive(Clone)]
pub struct Shared {
    state: Arc<Mutex<State>>,
    /// To the kernel's caches, once it is mounted.
    kernel: Arc<OnceLock<Notifier>>,
}

impl Shared {
    pub fn new(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), kernel: Arc::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn mounted(&self, kernel: Notifier) {
        // Set once, by the one who mounts.
        let _mounted_twice = self.kernel.set(kernel);
    }

    /// Lets the kernel forget pages and attributes of these nodes. Not under the lock: the kernel may wait for a request
    /// that waits for it.
    pub fn forget_cached(&self, nodes: &[Ino]) {
        for ino in nodes {
            if let Some(kernel) = self.kernel.get() {
                // One that the kernel does not know answers with an error.
                let _not_cached = kernel.inval_inode(INodeNo(*ino), 0, 0);
            }
        }
    }

    /// Syncs after the delay that stands. Until then nothing is durable, and a cut finds it so.
    fn sync(&self, ino: Ino, reply: ReplyEmpty) {
        if self.lock().faults.sync_delay.is_zero() {
            answer(reply, self.lock().sync(ino));
            return;
        }
        let shared = self.clone();
        // On a thread of its own, so that slow syncs do not hold up other requests.
        let wait = move || {
            shared.wait_for_a_slow_disk(ino);
            answer(reply, shared.lock().sync(ino));
        };
        if let Err(error) = std::thread::Builder::new().name("slow-sync".to_string()).spawn(wait) {
            // The reply is gone with the thread, which answers EIO.
            eprintln!("powerfs: no thread for a slow sync: {error}");
        }
    }

    /// Until the delay that stands then is over, or the power is off.
    fn wait_for_a_slow_disk(&self, ino: Ino) {
        let began = clock::now();
        self.lock().count_delayed_sync();
        loop {
            {
                let state = self.lock();
                if clock::now().since(began) >= state.faults.sync_delay || state.node(ino).is_err() {
                    return;
                }
            }
            sleep(SYNC_POLL);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "files have times")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// The file system as the kernel sees it.
pub struct Kernel {
    shared: Shared,
    listings: Mutex<Listings>,
}

/// What the open directories held when they were opened.
#[derive(Default)]
struct Listings {
    next: u64,
    open: BTreeMap<u64, Vec<(OsString, Ino)>>,
}

impl Kernel {
    pub fn new(shared: Shared) -> Self {
        Self { shared, listings: Mutex::default() }
    }

    fn listings(&self) -> MutexGuard<'_, Listings> {
        self.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, reply: ReplyEntry, make: impl FnOnce(&mut State) -> Result<Ino, Errno>) {
        let mut state = self.shared.lock();
        match make(&mut state).and_then(|ino| attributes(&state, ino)) {
            Ok(attributes) => reply.entry_with_ttls(&ATTRIBUTES_VALID, &NAMES_VALID, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }
}

fn maker(request: &Request, mode: u32, umask: u32) -> Maker {
    Maker { mode: mode & !umask, owner: (request.uid(), request.gid()), now: now() }
}

fn new_file() -> Kind {
    Kind::File { content: Content::default(), object: None }
}

fn attributes(state: &State, ino: Ino) -> Result<FileAttr, Errno> {
    let node = state.node(ino)?;
    let (kind, size) = match &node.kind {
        Kind::File { content, .. } => (FileType::RegularFile, content.size()),
        Kind::Directory => (FileType::Directory, PAGE_BYTES),
        Kind::Symlink(target) => (FileType::Symlink, target.as_os_str().len() as u64),
    };
    Ok(FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: node.times.accessed,
        mtime: node.times.modified,
        ctime: node.times.changed,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: node.mode as u16,
        nlink: node.links,
        uid: node.owner.0,
        gid: node.owner.1,
        rdev: 0,
        blksize: PAGE_BYTES as u32,
        flags: 0,
    })
}

impl Filesystem for Kernel {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.enter(reply, |state| state.lookup(parent.0, name));
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.shared.lock().forget(ino.0, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(&self.shared.lock(), ino.0) {
            Ok(attributes) => reply.attr(&ATTRIBUTES_VALID, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.shared.lock();
        let time = |asked: TimeOrNow| match asked {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => now(),
        };
        let done = size.map_or(Ok(()), |size| state.set_size(ino.0, size, now()));
        let done = done.and_then(|()| state.set_mode(ino.0, mode, (uid, gid)));
        let done = done.and_then(|()| {
            let times = &mut state.node_mut(ino.0)?.times;
            times.accessed = accessed.map_or(times.accessed, time);
            times.modified = modified.map_or(times.modified, time);
            attributes(&state, ino.0)
        });
        match done {
            Ok(attributes) => reply.attr(&ATTRIBUTES_VALID, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.shared.lock().node(ino.0).map(|node| &node.kind) {
            Ok(Kind::Symlink(target)) => reply.data(target.as_os_str().as_encoded_bytes()),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        if mode & S_IFMT != S_IFREG {
            return reply.error(Errno::EPERM);
        }
        self.enter(reply, |state| state.make(parent.0, name, new_file(), &maker(request, mode, umask)));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.enter(reply, |state| state.make(parent.0, name, Kind::Directory, &maker(request, mode, umask)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.shared.lock().remove(parent.0, name, now()));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.shared.lock().remove(parent.0, name, now()));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = Kind::Symlink(PathBuf::from(target));
        self.enter(reply, |state| state.make(parent.0, name, kind, &maker(request, 0o777, 0)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        let (from, to) = ((parent.0, name), (new_parent.0, new_name));
        answer(reply, self.shared.lock().rename(from, to, flags.is_empty(), now()));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.enter(reply, |state| state.link(ino.0, parent.0, name, now()).map(|()| ino.0));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.shared.lock().opened(ino.0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut state = self.shared.lock();
        let made = state.make(parent.0, name, new_file(), &maker(request, mode, umask));
        let made = made.and_then(|ino| state.opened(ino).and_then(|()| attributes(&state, ino)));
        match made {
            // One time for both in this reply: the name is asked for again, and so are the attributes.
            Ok(made) => reply.created(&NAMES_VALID, &made, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.shared.lock().read(ino.0, offset, size as usize) {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.shared.lock().write(ino.0, offset, data, now()) {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    /// Closing makes nothing durable.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.lock().released(ino.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.shared.sync(ino.0, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.shared.lock().list(ino.0) {
            Ok(list) => {
                let mut listings = self.listings();
                listings.next += 1;
                let handle = listings.next;
                listings.open.insert(handle, list);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.shared.lock();
        if let Err(errno) = state.node(ino.0) {
            return reply.error(errno);
        }
        let mut listings = self.listings();
        if offset == 0
            && let Ok(list) = state.list(ino.0)
        {
            // Read from its beginning, maybe again.
            listings.open.insert(handle.0, list);
        }
        let list = listings.open.get(&handle.0).map_or(&[][..], Vec::as_slice);
        for (place, (name, entry)) in list.iter().enumerate().skip(offset as usize) {
            let kind = match state.node(*entry).map(|node| &node.kind) {
                Ok(Kind::Directory) => FileType::Directory,
                Ok(Kind::Symlink(_)) => FileType::Symlink,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(*entry), place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings().open.remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.shared.sync(ino.0, reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let state = self.shared.lock();
        let total = state.faults.space.unwrap_or(SPACE_SHOWN);
        let (blocks, free) = (total / PAGE_BYTES, total.saturating_sub(state.used()) / PAGE_BYTES);
        let block = PAGE_BYTES as u32;
        reply.statfs(blocks, free, free, u64::from(u32::MAX), u64::from(u32::MAX), block, NAME_BYTES_MAX, block);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut state = self.shared.lock();
        let end = offset.saturating_add(length);
        let done = match mode {
            0 => state.size(ino.0).and_then(|size| if size < end { state.set_size(ino.0, end, now()) } else { Ok(()) }),
            // Space is not set apart, but what there is of it is asked for.
            FALLOC_FL_KEEP_SIZE => state.want_size(ino.0, end),
            _ if mode == FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE => state.zero(ino.0, offset, length),
            _ => Err(Errno::EOPNOTSUPP),
        };
        answer(reply, done);
    }
}
