//! The whole file system between the kernel's requests and the backing directory: nodes, their content and their names.
//!
//! One lock is held around it by its callers, so a cut lies between two operations: what an operation answered before
//! the cut counts, and after it every operation answers EIO.
//!
//! Invariants: the root is node [`ROOT`]; a node's number is never used again, so a handle from before a cut finds no
//! node; every regular file has its durable content in `objects/<number>`.

mod backing;
mod entries;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fuser::Errno;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Cut;
use super::damage::Places;
use super::faults::Faults;
use super::figures::{Lost, Stats};
use super::file::Content;
use super::names::{Ino, Model, Names};
pub(super) use backing::object_of;
use backing::{keep_mode, object_path};

pub const ROOT: Ino = 1;
/// Removed files that are kept before their space is given back.
const SWEEP_EVERY: u64 = 64;
pub const FILES_HIT_MAX: usize = 1000;
/// What a new file or directory needs of the space there is.
const ENTRY_BYTES: u64 = 4096;

pub enum Kind {
    File { content: Content, object: Option<File> },
    Directory,
    Symlink(PathBuf),
}

pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u32, u32),
    pub times: Times,
    pub links: u32,
    opens: u64,
    lookups: u64,
    /// A place in the namespace where it was last seen; for a directory, where it is.
    home: (Ino, OsString),
}

#[derive(Clone, Copy)]
pub struct Times {
    pub accessed: SystemTime,
    pub modified: SystemTime,
    pub changed: SystemTime,
}

/// What a new node is given.
pub struct Maker {
    pub mode: u32,
    pub owner: (u32, u32),
    pub now: SystemTime,
}

pub struct State {
    pub(super) backing: PathBuf,
    model: Model,
    pub(super) nodes: BTreeMap<Ino, Node>,
    pub(super) names: Names,
    next: Ino,
    /// Between a cut and `resume`.
    down: bool,
    rng: StdRng,
    removed: u64,
    pub faults: Faults,
    pub(super) damaged: Places,
    stats: Stats,
    files_hit: Vec<String>,
}

impl State {
    pub fn open(backing: &Path, model: Model, seed: u64) -> io::Result<Self> {
        for directory in ["tree", "objects"] {
            fs::create_dir_all(backing.join(directory))?;
        }
        let mark = OpenOptions::new().write(true).create_new(true).open(backing.join("mounted"));
        mark.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{}: in use, or left by a crash, and then what is durable is not known", backing.display()),
            )
        })?;
        let mut state = Self {
            backing: backing.to_path_buf(),
            model,
            nodes: BTreeMap::new(),
            names: Names::default(),
            next: ROOT + 1,
            down: false,
            rng: StdRng::seed_from_u64(seed),
            removed: 0,
            faults: Faults::default(),
            damaged: Places::default(),
            stats: Stats::default(),
            files_hit: Vec::new(),
        };
        state.load()?;
        Ok(state)
    }

    /// Makes everything durable, as an unmount does, unless the power is off.
    pub fn close(&mut self) -> io::Result<()> {
        if !self.down {
            self.names.sync_all();
            for (ino, node) in &mut self.nodes {
                if let Kind::File { content, object } = &mut node.kind
                    && !content.is_synced()
                {
                    content.sync(object_of(&self.backing, *ino, object)?)?;
                    *object = None;
                }
            }
            self.write_tree()?;
        }
        self.down = true;
        fs::remove_file(self.backing.join("mounted"))
    }

    /// The power fails. Gives the nodes that are no more, and what was lost.
    pub fn cut(&mut self, cut: Cut) -> io::Result<(Vec<Ino>, Lost)> {
        if self.down {
            return Err(io::Error::other("the power is off already"));
        }
        let mut rng = StdRng::seed_from_u64(cut.seed);
        let (survived, dropped) = self.names.cut(cut, self.model);
        let mut lost = Lost { names_survived: survived as u64, names_dropped: dropped as u64, ..Lost::default() };
        self.files_hit = self.unsynced_files();
        for (ino, node) in &mut self.nodes {
            let Kind::File { content, object } = &mut node.kind else { continue };
            if !content.is_synced() {
                lost += content.cut(object_of(&self.backing, *ino, object)?, cut.torn, &mut rng)?;
                *object = None;
            }
        }
        self.stats.cuts += 1;
        self.stats.lost += lost;
        self.down = true;
        self.write_tree()?;
        let gone = self.nodes.keys().copied().collect();
        self.load()?;
        Ok((gone, lost))
    }

    pub fn resume(&mut self) {
        self.down = false;
    }

    fn unsynced_files(&self) -> Vec<String> {
        let unsynced = self.nodes.iter().filter(|(_, node)| match &node.kind {
            Kind::File { content, .. } => !content.is_synced(),
            Kind::Directory | Kind::Symlink(_) => false,
        });
        unsynced.take(FILES_HIT_MAX).map(|(ino, _)| self.path(*ino)).collect()
    }

    /// Paths of the files of which the last cut met something unsynced.
    pub fn files_hit(&self) -> &[String] {
        &self.files_hit
    }

    pub fn stats(&self) -> Stats {
        let pages = self.nodes.values().map(|node| match &node.kind {
            Kind::File { content, .. } => content.unsynced_pages(),
            Kind::Directory | Kind::Symlink(_) => 0,
        });
        let (unsynced_pages, unsynced_names) = (pages.sum(), self.names.pending() as u64);
        Stats { unsynced_pages, unsynced_names, used_bytes: self.used(), ..self.stats }
    }

    pub fn count_delayed_sync(&mut self) {
        self.stats.syncs_delayed += 1;
    }

    fn up(&self) -> Result<(), Errno> {
        if self.down { Err(Errno::EIO) } else { Ok(()) }
    }

    /// The node of this number. One from before a cut is gone for good.
    pub fn node(&self, ino: Ino) -> Result<&Node, Errno> {
        self.up()?;
        self.nodes.get(&ino).ok_or(Errno::EIO)
    }

    pub fn node_mut(&mut self, ino: Ino) -> Result<&mut Node, Errno> {
        self.up()?;
        self.nodes.get_mut(&ino).ok_or(Errno::EIO)
    }

    pub fn lookup(&mut self, directory: Ino, name: &OsStr) -> Result<Ino, Errno> {
        self.node(directory)?;
        let ino = self.names.get(directory, name).ok_or(Errno::ENOENT)?;
        let node = self.node_mut(ino)?;
        node.lookups += 1;
        Ok(ino)
    }

    pub fn forget(&mut self, ino: Ino, lookups: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(lookups);
        }
    }

    pub fn opened(&mut self, ino: Ino) -> Result<(), Errno> {
        self.node_mut(ino)?.opens += 1;
        Ok(())
    }

    pub fn released(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.opens = node.opens.saturating_sub(1);
            if let Kind::File { object, .. } = &mut node.kind
                && node.opens == 0
            {
                *object = None;
            }
        }
    }

    pub fn read(&mut self, ino: Ino, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        self.up()?;
        let (content, object) = self.content(ino)?;
        let found = content.read(object, offset, length)?;
        if self.damaged.is_any() {
            let inode = self.content(ino)?.1.metadata()?.ino();
            self.stats.damage_read += u64::from(self.damaged.meet(inode, offset, length as u64));
        }
        Ok(found)
    }

    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8], now: SystemTime) -> Result<(), Errno> {
        self.want_size(ino, offset + data.len() as u64)?;
        let mut rng = std::mem::replace(&mut self.rng, StdRng::seed_from_u64(0));
        let written =
            self.content(ino).and_then(|(content, object)| Ok(content.write(object, offset, data, &mut rng)?));
        self.rng = rng;
        self.stats.writes += 1;
        self.touch(ino, now)?;
        written
    }

    pub fn zero(&mut self, ino: Ino, offset: u64, length: u64) -> Result<(), Errno> {
        self.want_size(ino, 0)?;
        let mut rng = std::mem::replace(&mut self.rng, StdRng::seed_from_u64(0));
        let written =
            self.content(ino).and_then(|(content, object)| Ok(content.zero(object, offset, length, &mut rng)?));
        self.rng = rng;
        written
    }

    pub fn set_size(&mut self, ino: Ino, size: u64, now: SystemTime) -> Result<(), Errno> {
        self.want_size(ino, size)?;
        self.content(ino)?.0.set_size(size);
        let node = self.node_mut(ino)?;
        if let Kind::File { object, .. } = &mut node.kind
            && node.opens == 0
        {
            *object = None;
        }
        self.touch(ino, now)
    }

    pub fn set_mode(&mut self, ino: Ino, mode: Option<u32>, owner: (Option<u32>, Option<u32>)) -> Result<(), Errno> {
        let node = self.node_mut(ino)?;
        node.mode = mode.map_or(node.mode, |mode| mode & 0o7777);
        node.owner = (owner.0.unwrap_or(node.owner.0), owner.1.unwrap_or(node.owner.1));
        let (mode, owner) = (node.mode, node.owner);
        if matches!(node.kind, Kind::File { .. }) {
            keep_mode(&object_path(&self.backing, ino), mode, owner)?;
        }
        Ok(())
    }

    /// fsync and fdatasync, of a file or a directory.
    pub fn sync(&mut self, ino: Ino) -> Result<(), Errno> {
        let is_directory = matches!(self.node(ino)?.kind, Kind::Directory);
        let path = self.path(ino);
        if let Err(errno) = Faults::meet(&mut self.faults.fail_sync, &path) {
            self.stats.syncs_failed += 1;
            if !is_directory {
                self.content(ino)?.0.fail_sync();
            }
            return Err(errno);
        }
        if is_directory {
            self.stats.directory_syncs += 1;
        } else {
            self.stats.file_syncs += 1;
        }
        if self.faults.lie.is_some_and(|lie| lie.is_about(is_directory)) {
            self.stats.syncs_lied += 1;
            return Ok(());
        }
        if !is_directory {
            let (content, object) = self.content(ino)?;
            content.sync(object)?;
        }
        self.names.sync(is_directory.then_some(ino), self.model);
        if self.removed >= SWEEP_EVERY {
            self.sweep()?;
        }
        Ok(())
    }

    /// Bytes that all files have together. One that is removed counts as long as it is open.
    pub fn used(&self) -> u64 {
        let sizes = self.nodes.values().filter(|node| node.links > 0 || node.opens > 0).map(|node| match &node.kind {
            Kind::File { content, .. } => content.size(),
            Kind::Directory | Kind::Symlink(_) => ENTRY_BYTES,
        });
        sizes.sum()
    }

    pub fn size(&mut self, ino: Ino) -> Result<u64, Errno> {
        self.up()?;
        Ok(self.content(ino)?.0.size())
    }

    fn content(&mut self, ino: Ino) -> Result<(&mut Content, &File), Errno> {
        match &mut self.nodes.get_mut(&ino).ok_or(Errno::EIO)?.kind {
            Kind::File { content, object } => Ok((content, object_of(&self.backing, ino, object)?)),
            Kind::Directory => Err(Errno::EISDIR),
            Kind::Symlink(_) => Err(Errno::EINVAL),
        }
    }

    /// Lets a file have this size, or more if it has more.
    pub fn want_size(&mut self, ino: Ino, size: u64) -> Result<(), Errno> {
        self.node(ino)?;
        if self.faults.fail_write.is_some() {
            let path = self.path(ino);
            if let Err(errno) = Faults::meet(&mut self.faults.fail_write, &path) {
                self.stats.writes_failed += 1;
                return Err(errno);
            }
        }
        let (content, _) = self.content(ino)?;
        let more = size.saturating_sub(content.size());
        if more > 0 { self.want_space(more) } else { Ok(()) }
    }

    fn want_space(&mut self, more: u64) -> Result<(), Errno> {
        match self.faults.space {
            Some(space) if self.used().saturating_add(more) > space => {
                self.stats.space_refused += 1;
                Err(Errno::ENOSPC)
            }
            _ => Ok(()),
        }
    }

    fn touch(&mut self, ino: Ino, now: SystemTime) -> Result<(), Errno> {
        let times = &mut self.node_mut(ino)?.times;
        (times.modified, times.changed) = (now, now);
        Ok(())
    }

    fn unlinked(&mut self, ino: Ino, now: SystemTime) -> Result<(), Errno> {
        let node = self.node_mut(ino)?;
        node.links = node.links.saturating_sub(1);
        node.times.changed = now;
        self.removed += u64::from(node.links == 0);
        Ok(())
    }

    /// From the root, without a slash in front; what faults are matched with.
    fn path(&self, ino: Ino) -> String {
        let mut parts = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let Some(node) = self.nodes.get(&at) else { break };
            parts.push(node.home.1.to_string_lossy());
            at = node.home.0;
        }
        parts.reverse();
        parts.join("/")
    }

    /// Gives back the space of what nothing can lead to any more.
    fn sweep(&mut self) -> io::Result<()> {
        let referenced = self.names.referenced();
        let mut gone = Vec::new();
        self.nodes.retain(|ino, node| {
            let kept = *ino == ROOT || referenced.contains(ino) || node.opens > 0 || node.lookups > 0;
            if !kept && matches!(node.kind, Kind::File { .. }) {
                gone.push(*ino);
            }
            kept
        });
        self.names.retain(|ino| self.nodes.contains_key(&ino));
        self.removed = 0;
        for ino in gone {
            let path = object_path(&self.backing, ino);
            if self.damaged.is_any() {
                let removed = fs::metadata(&path)?.ino();
                self.damaged.retain(|inode| inode != removed);
            }
            fs::remove_file(path)?;
        }
        Ok(())
    }
}
