//! The backing directory: `tree`, what is durable as plain files and directories, and `objects`, the regular files of it
//! and those without a durable name, by number.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::file::Content;
use super::super::names::{Ino, Names};
use super::{Kind, Node, ROOT, State, Times};

impl State {
    /// Builds `tree` anew from what is durable.
    pub(super) fn write_tree(&self) -> io::Result<()> {
        let (tree, draft, old) =
            (self.backing.join("tree"), self.backing.join("tree.new"), self.backing.join("tree.old"));
        remove_if_there(&draft)?;
        remove_if_there(&old)?;
        self.write_directory(ROOT, &draft)?;
        fs::rename(&tree, &old)?;
        fs::rename(&draft, &tree)?;
        fs::remove_dir_all(&old)
    }

    fn write_directory(&self, ino: Ino, path: &Path) -> io::Result<()> {
        fs::create_dir(path)?;
        for (name, entry) in self.names.list_durable(ino) {
            let path = path.join(name);
            match &self.nodes[&entry].kind {
                Kind::Directory => self.write_directory(entry, &path)?,
                Kind::Symlink(target) => symlink(target, &path)?,
                Kind::File { .. } => fs::hard_link(object_path(&self.backing, entry), &path)?,
            }
        }
        let node = &self.nodes[&ino];
        chown(path, Some(node.owner.0), Some(node.owner.1))?;
        fs::set_permissions(path, fs::Permissions::from_mode(node.mode))
    }

    /// Forgets everything in memory and takes up what `tree` holds, under new numbers.
    pub(super) fn load(&mut self) -> io::Result<()> {
        self.nodes.clear();
        self.names = Names::default();
        let objects = self.backing.join("objects");
        remove_if_there(&objects)?;
        fs::create_dir(&objects)?;
        let tree = self.backing.join("tree");
        self.nodes.insert(ROOT, node_on_disk(&fs::metadata(&tree)?, Kind::Directory, (ROOT, OsString::new())));
        let mut files = BTreeMap::new();
        self.load_directory(ROOT, &tree, &mut files)?;
        self.damaged.retain(|inode| files.contains_key(&inode));
        Ok(())
    }

    fn load_directory(&mut self, ino: Ino, path: &Path, files: &mut BTreeMap<u64, Ino>) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            let (name, path) = (entry.file_name(), entry.path());
            let known = files.get(&meta.ino()).copied().filter(|_| meta.is_file());
            let number = known.unwrap_or(self.next);
            self.names.load(ino, &name, number);
            if let Some(node) = known.and_then(|known| self.nodes.get_mut(&known)) {
                node.links += 1;
                continue;
            }
            self.next += 1;
            let kind = if meta.is_dir() {
                Kind::Directory
            } else if meta.is_symlink() {
                Kind::Symlink(fs::read_link(&path)?)
            } else {
                files.insert(meta.ino(), number);
                fs::hard_link(&path, object_path(&self.backing, number))?;
                Kind::File { content: Content::durable(meta.len()), object: None }
            };
            self.nodes.insert(number, node_on_disk(&meta, kind, (ino, name)));
            if meta.is_dir() {
                self.load_directory(number, &path, files)?;
            }
        }
        Ok(())
    }
}

pub(super) fn object_path(backing: &Path, ino: Ino) -> PathBuf {
    backing.join("objects").join(ino.to_string())
}

pub(in super::super) fn object_of<'a>(backing: &Path, ino: Ino, object: &'a mut Option<File>) -> io::Result<&'a File> {
    if object.is_none() {
        *object = Some(OpenOptions::new().read(true).write(true).open(object_path(backing, ino))?);
    }
    Ok(object.as_ref().expect("it was just opened"))
}

pub(super) fn keep_mode(object: &Path, mode: u32, owner: (u32, u32)) -> io::Result<()> {
    chown(object, Some(owner.0), Some(owner.1))?;
    fs::set_permissions(object, fs::Permissions::from_mode(mode))
}

fn node_on_disk(meta: &fs::Metadata, kind: Kind, home: (Ino, OsString)) -> Node {
    let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let times = Times { accessed: modified, modified, changed: modified };
    Node {
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        times,
        links: 1,
        opens: 0,
        lookups: 0,
        home,
    }
}

fn remove_if_there(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
