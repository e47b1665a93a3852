//! The namespace: what every directory holds now, what it would hold after a power cut, and the changes in between.
//!
//! Directories and files are numbers here; contents are [`super::file`]'s matter. A change (an entry made, removed or
//! renamed) is atomic: after a cut it took place or it did not, so a rename over an existing file leaves the old one or
//! the new one. [`Model`] says how far the sync of one directory reaches.
//!
//! Invariant: `durable` with every pending change made in order is `now`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Cut;

/// A file, directory or symbolic link.
pub type Ino = u64;
/// A place that can hold an entry: a directory and a name in it.
type Place = (Ino, OsString);
type Directory = BTreeMap<OsString, Ino>;

/// Which changes of the namespace a sync makes durable, and in which order unsynced ones may survive a cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Model {
    /// The least that POSIX leaves: a directory's sync covers the changes of that directory alone (and what they build
    /// on), a file's sync none, and any of the others may survive without the ones before.
    #[default]
    Strict,
    /// As ext4's journal does it: every sync, of a file too, covers every change before it, and the changes that
    /// survive are a prefix of all.
    Journal,
}

/// One atomic change.
#[derive(Debug)]
struct Change {
    sets: Vec<(Place, Option<Ino>)>,
    /// The move of a directory builds on everything before: made without an earlier move it could tie a knot.
    moves_directory: bool,
}

impl Change {
    fn make(&self, directories: &mut BTreeMap<Ino, Directory>) {
        for ((directory, name), entry) in &self.sets {
            let directory = directories.entry(*directory).or_default();
            match entry {
                Some(ino) => directory.insert(name.clone(), *ino),
                None => directory.remove(name),
            };
        }
    }
}

#[derive(Debug, Default)]
pub struct Names {
    now: BTreeMap<Ino, Directory>,
    durable: BTreeMap<Ino, Directory>,
    pending: Vec<Change>,
}

impl Names {
    /// Takes an entry that is on disk already.
    pub fn load(&mut self, directory: Ino, name: &OsStr, ino: Ino) {
        self.now.entry(directory).or_default().insert(name.to_os_string(), ino);
        self.durable.entry(directory).or_default().insert(name.to_os_string(), ino);
    }

    pub fn get(&self, directory: Ino, name: &OsStr) -> Option<Ino> {
        self.now.get(&directory)?.get(name).copied()
    }

    pub fn list(&self, directory: Ino) -> impl Iterator<Item = (&OsString, Ino)> {
        self.now.get(&directory).into_iter().flatten().map(|(name, ino)| (name, *ino))
    }

    pub fn list_durable(&self, directory: Ino) -> impl Iterator<Item = (&OsString, Ino)> {
        self.durable.get(&directory).into_iter().flatten().map(|(name, ino)| (name, *ino))
    }

    pub fn is_empty(&self, directory: Ino) -> bool {
        self.now.get(&directory).is_none_or(BTreeMap::is_empty)
    }

    pub fn set(&mut self, directory: Ino, name: &OsStr, ino: Option<Ino>) {
        self.change(Change { sets: vec![((directory, name.to_os_string()), ino)], moves_directory: false });
    }

    pub fn rename(&mut self, from: (Ino, &OsStr), to: (Ino, &OsStr), ino: Ino, is_directory: bool) {
        let from = (from.0, from.1.to_os_string());
        let to = (to.0, to.1.to_os_string());
        let moves_directory = is_directory && from.0 != to.0;
        self.change(Change { sets: vec![(from, None), (to, Some(ino))], moves_directory });
    }

    fn change(&mut self, change: Change) {
        change.make(&mut self.now);
        self.pending.push(change);
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The sync of a directory; of a file where `directory` is `None`.
    pub fn sync(&mut self, directory: Option<Ino>, model: Model) {
        let mut chosen: Vec<bool> = match (model, directory) {
            (Model::Journal, _) => vec![true; self.pending.len()],
            (Model::Strict, None) => return,
            (Model::Strict, Some(synced)) => {
                self.pending.iter().map(|change| change.sets.iter().any(|((at, _), _)| *at == synced)).collect()
            }
        };
        self.add_what_they_build_on(&mut chosen);
        self.make_durable(&chosen);
    }

    pub fn sync_all(&mut self) {
        let all = vec![true; self.pending.len()];
        self.make_durable(&all);
    }

    /// Chooses what survives, makes it durable and forgets the rest. Says how many changes survived and how many not. Of use
    /// afterwards is only what is durable.
    pub fn cut(&mut self, cut: Cut, model: Model) -> (usize, usize) {
        let total = self.pending.len();
        let mut rng = StdRng::seed_from_u64(cut.seed);
        let mut chosen = match (cut.torn.is_some(), model) {
            (false, _) => vec![false; total],
            (true, Model::Strict) => {
                let odds = rng.random_range(0.0..=1.0);
                self.pending.iter().map(|_| rng.random_bool(odds)).collect()
            }
            (true, Model::Journal) => {
                let prefix = rng.random_range(0..=total);
                (0..total).map(|place| place < prefix).collect()
            }
        };
        self.add_what_they_build_on(&mut chosen);
        let survived = chosen.iter().filter(|chosen| **chosen).count();
        self.make_durable(&chosen);
        self.pending.clear();
        (survived, total - survived)
    }

    /// A change builds on every earlier one of the same entry, and the move of a directory on all.
    fn add_what_they_build_on(&self, chosen: &mut [bool]) {
        let mut places: BTreeSet<&Place> = BTreeSet::new();
        let mut all = false;
        for (change, chosen) in self.pending.iter().zip(chosen).rev() {
            *chosen |= all || change.sets.iter().any(|(place, _)| places.contains(place));
            if *chosen {
                places.extend(change.sets.iter().map(|(place, _)| place));
                all |= change.moves_directory;
            }
        }
    }

    fn make_durable(&mut self, chosen: &[bool]) {
        let pending = std::mem::take(&mut self.pending);
        for (change, chosen) in pending.into_iter().zip(chosen) {
            if *chosen {
                change.make(&mut self.durable);
            } else {
                self.pending.push(change);
            }
        }
    }

    /// Everything that an entry leads to, now, after a cut, or after a cut that some unsynced changes survive.
    pub fn referenced(&self) -> BTreeSet<Ino> {
        let held = self.now.values().chain(self.durable.values()).flat_map(BTreeMap::values).copied();
        held.chain(self.pending.iter().flat_map(|change| &change.sets).filter_map(|(_, ino)| *ino)).collect()
    }

    /// Forgets directories that nothing refers to any more.
    pub fn retain(&mut self, kept: impl Fn(Ino) -> bool) {
        self.now.retain(|ino, _| kept(*ino));
        self.durable.retain(|ino, _| kept(*ino));
    }
}
