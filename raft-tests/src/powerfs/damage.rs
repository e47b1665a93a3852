//! Damage to what is durable, as a disk does that rots, that lost a write, or that was cut short; and whether it was read.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::faults::matches;
use super::file::{Content, SECTOR_BYTES};
use super::names::Ino;
use super::state::{Kind, ROOT, State, object_of};

/// Places tried for damage that changes something: a sector may be zero already.
const PLACES_TRIED: u32 = 1000;

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit, chosen by the seed, is turned over.
    Flip,
    FlipAt {
        offset: u64,
        bit: u8,
    },
    /// A sector is zeros: a write that never reached the disk.
    Zeros,
    /// The file ends early, by at least a byte.
    Shorten,
}

/// Which damage was done where.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    pub path: String,
    pub offset: u64,
    pub bytes: u64,
}

/// Damaged places by the inode of the object, which stays the same over a cut. What is written over one later is rare
/// enough in files that only grow, and counts as damaged still.
#[derive(Default)]
pub(super) struct Places(Vec<(u64, Range<u64>)>);

impl Places {
    pub(super) fn is_any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Forgets all but these inodes: the system uses the numbers of removed files again.
    pub(super) fn retain(&mut self, kept: impl Fn(u64) -> bool) {
        self.0.retain(|(inode, _)| kept(*inode));
    }

    /// Whether any of these bytes is damaged.
    pub(super) fn meet(&self, inode: u64, offset: u64, bytes: u64) -> bool {
        let asked = offset..offset.saturating_add(bytes);
        self.0.iter().any(|(at, place)| *at == inode && place.start < asked.end && asked.start < place.end)
    }
}

impl State {
    /// Damages one durable file, chosen by the seed among those with content whose path the pattern means, at a place that
    /// nothing unsynced hides. Gives the node, and what was done.
    pub(super) fn damage(&mut self, paths: &str, damage: Damage, seed: u64) -> io::Result<(Ino, Damaged)> {
        let mut rng = StdRng::seed_from_u64(seed);
        let meant = self.durable_files(paths);
        if meant.is_empty() {
            return Err(io::Error::other(format!("no durable file with content is meant by {paths:?}")));
        }
        let (ino, path) = meant[rng.random_range(0..meant.len())].clone();
        let node = self.nodes.get_mut(&ino).expect("it was listed");
        let Kind::File { content, object } = &mut node.kind else { unreachable!("only files are listed") };
        let object = object_of(&self.backing, ino, object)?;
        let place = (0..PLACES_TRIED).find_map(|_| damage_file(content, object, damage, &mut rng).transpose());
        let place = place.ok_or_else(|| io::Error::other(format!("{path} has no place for {damage:?}")))??;
        let damaged = Damaged { path, offset: place.start, bytes: place.end - place.start };
        // Who reads the end of a file that is too short reads up to its last byte.
        let from = place.start - u64::from(damage == Damage::Shorten);
        self.damaged.0.push((object.metadata()?.ino(), from..place.end));
        Ok((ino, damaged))
    }

    /// Regular files that a clean cut would leave with content, by their durable paths.
    fn durable_files(&self, paths: &str) -> Vec<(Ino, String)> {
        let mut found = Vec::new();
        let mut directories = vec![(ROOT, String::new())];
        while let Some((directory, prefix)) = directories.pop() {
            for (name, ino) in self.names.list_durable(directory) {
                let path = format!("{prefix}{}", OsStr::new(name).to_string_lossy());
                match self.nodes.get(&ino).map(|node| &node.kind) {
                    Some(Kind::Directory) => directories.push((ino, format!("{path}/"))),
                    Some(Kind::File { content, .. }) if content.durable_size() > 0 && matches(paths, &path) => {
                        found.push((ino, path));
                    }
                    _ => {}
                }
            }
        }
        found
    }
}

/// Tries one place. None when there is nothing there to damage, or it would not show.
fn damage_file(
    content: &mut Content,
    object: &File,
    damage: Damage,
    rng: &mut StdRng,
) -> io::Result<Option<Range<u64>>> {
    let size = object.metadata()?.len();
    let start = match damage {
        Damage::Flip => rng.random_range(0..size),
        Damage::FlipAt { offset, .. } => offset,
        Damage::Zeros => rng.random_range(0..size.div_ceil(SECTOR_BYTES)) * SECTOR_BYTES,
        Damage::Shorten if size > 1 && content.is_synced() => {
            let left = rng.random_range(1..size);
            object.set_len(left)?;
            *content = Content::durable(left);
            return Ok(Some(left..size));
        }
        Damage::Shorten => return Ok(None),
    };
    if start >= size || !content.shows_durable(start) {
        return Ok(None);
    }
    let length = if damage == Damage::Zeros { SECTOR_BYTES.min(size - start) } else { 1 };
    let mut bytes = vec![0; length as usize];
    object.read_exact_at(&mut bytes, start)?;
    let before = bytes.clone();
    match damage {
        Damage::Flip => bytes[0] ^= 1 << rng.random_range(0..8),
        Damage::FlipAt { bit, .. } => bytes[0] ^= 1_u8.checked_shl(u32::from(bit)).unwrap_or_default(),
        Damage::Zeros | Damage::Shorten => bytes.fill(0),
    }
    if bytes == before {
        return Ok(None);
    }
    object.write_all_at(&bytes, start)?;
    Ok(Some(start..start + length))
}
