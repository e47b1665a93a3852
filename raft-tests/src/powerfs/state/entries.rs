//! What is asked of directories: entries listed, made, linked, removed and renamed.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::time::SystemTime;

use fuser::Errno;

use super::super::names::Ino;
use super::backing::{keep_mode, object_path};
use super::{ENTRY_BYTES, Kind, Maker, Node, State, Times};

impl State {
    /// Entries of a directory with `.` and `..`.
    pub fn list(&self, directory: Ino) -> Result<Vec<(OsString, Ino)>, Errno> {
        let node = self.node(directory)?;
        let own = [(OsString::from("."), directory), (OsString::from(".."), node.home.0)];
        Ok(own.into_iter().chain(self.names.list(directory).map(|(name, ino)| (name.clone(), ino))).collect())
    }

    pub fn make(&mut self, directory: Ino, name: &OsStr, kind: Kind, maker: &Maker) -> Result<Ino, Errno> {
        self.node(directory)?;
        if self.names.get(directory, name).is_some() {
            return Err(Errno::EEXIST);
        }
        self.want_space(ENTRY_BYTES)?;
        let ino = self.next;
        self.next += 1;
        let times = Times { accessed: maker.now, modified: maker.now, changed: maker.now };
        let home = (directory, name.to_os_string());
        let (mode, owner) = (maker.mode & 0o7777, maker.owner);
        let mut node = Node { kind, mode, owner, times, links: 1, opens: 0, lookups: 1, home };
        if let Kind::File { object, .. } = &mut node.kind {
            let path = object_path(&self.backing, ino);
            let made = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            *object = Some(made);
            keep_mode(&path, node.mode, node.owner)?;
        }
        self.nodes.insert(ino, node);
        self.names.set(directory, name, Some(ino));
        self.touch(directory, maker.now)?;
        Ok(ino)
    }

    pub fn link(&mut self, ino: Ino, directory: Ino, name: &OsStr, now: SystemTime) -> Result<(), Errno> {
        self.node(directory)?;
        if self.names.get(directory, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let node = self.node_mut(ino)?;
        node.links += 1;
        node.lookups += 1;
        node.times.changed = now;
        self.names.set(directory, name, Some(ino));
        self.touch(directory, now)
    }

    pub fn remove(&mut self, directory: Ino, name: &OsStr, now: SystemTime) -> Result<(), Errno> {
        self.node(directory)?;
        let ino = self.names.get(directory, name).ok_or(Errno::ENOENT)?;
        if !self.names.is_empty(ino) {
            return Err(Errno::ENOTEMPTY);
        }
        self.names.set(directory, name, None);
        self.unlinked(ino, now)?;
        self.touch(directory, now)
    }

    pub fn rename(
        &mut self,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        replace: bool,
        now: SystemTime,
    ) -> Result<(), Errno> {
        self.node(from.0)?;
        self.node(to.0)?;
        let ino = self.names.get(from.0, from.1).ok_or(Errno::ENOENT)?;
        let replaced = self.names.get(to.0, to.1);
        match replaced {
            Some(_) if !replace => return Err(Errno::EEXIST),
            Some(replaced) if replaced == ino => return Ok(()),
            Some(replaced) if !self.names.is_empty(replaced) => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let is_directory = matches!(self.node(ino)?.kind, Kind::Directory);
        self.names.rename(from, to, ino, is_directory);
        let node = self.node_mut(ino)?;
        node.home = (to.0, to.1.to_os_string());
        node.times.changed = now;
        if let Some(replaced) = replaced {
            self.unlinked(replaced, now)?;
        }
        self.touch(from.0, now)?;
        self.touch(to.0, now)
    }
}
