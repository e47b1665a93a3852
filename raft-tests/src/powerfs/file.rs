//! One file's content: what is durable, in an object file of the backing directory, and on top of it the pages, size and
//! truncations since the last sync, in memory.
//!
//! Invariants: bytes of a page at or behind the file's size are zero; of the durable content only the first `kept` bytes
//! still show; a page in `pages` hides the durable content at its place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rand::RngExt;
use rand::rngs::StdRng;

use super::Torn;
use super::figures::Lost;

pub const PAGE_BYTES: u64 = 4096;
pub const SECTOR_BYTES: u64 = 512;
type Bytes = Box<[u8; PAGE_BYTES as usize]>;

struct Page {
    bytes: Bytes,
    /// One of the states since the last sync but before the newest, each with equal chance: the system may have written
    /// the page back at any of these moments. With the file's size at that time.
    earlier: Option<(Bytes, u64)>,
    /// States since the last sync. None: a failed sync lost the page. It shows, and no later sync writes it, as on
    /// Linux, where a failed sync leaves the page clean.
    states: u32,
}

#[derive(Default)]
pub struct Content {
    size: u64,
    durable_size: u64,
    kept: u64,
    pages: BTreeMap<u64, Page>,
}

impl Content {
    /// A file that is on disk with this size.
    pub fn durable(size: u64) -> Self {
        Self { size, durable_size: size, kept: size, pages: BTreeMap::new() }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// What a clean cut leaves of it.
    pub fn durable_size(&self) -> u64 {
        self.durable_size
    }

    /// Whether a byte of what is durable shows, and so is read.
    pub fn shows_durable(&self, offset: u64) -> bool {
        offset < self.kept && !self.pages.contains_key(&(offset / PAGE_BYTES))
    }

    pub fn is_synced(&self) -> bool {
        self.pages.is_empty() && self.size == self.durable_size && self.kept == self.durable_size
    }

    pub fn unsynced_pages(&self) -> u64 {
        self.pages.len() as u64
    }

    pub fn read(&self, object: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = self.size.min(offset.saturating_add(length as u64));
        if offset >= end {
            return Ok(Vec::new());
        }
        let mut found = vec![0; (end - offset) as usize];
        if offset < self.kept {
            let durable = (self.kept.min(end) - offset) as usize;
            read_full(object, &mut found[..durable], offset)?;
        }
        for (index, page) in self.pages.range(offset / PAGE_BYTES..=(end - 1) / PAGE_BYTES) {
            let start = index * PAGE_BYTES;
            let (from, to) = (offset.max(start), end.min(start + PAGE_BYTES));
            let bytes = &page.bytes[(from - start) as usize..(to - start) as usize];
            found[(from - offset) as usize..(to - offset) as usize].copy_from_slice(bytes);
        }
        Ok(found)
    }

    pub fn write(&mut self, object: &File, offset: u64, data: &[u8], rng: &mut StdRng) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let mut at = offset;
        while at < end {
            let index = at / PAGE_BYTES;
            let start = index * PAGE_BYTES;
            let to = end.min(start + PAGE_BYTES);
            let size = self.size;
            let page = self.page(object, index)?;
            if page.states > 0 && rng.random_ratio(1, page.states) {
                page.earlier = Some((page.bytes.clone(), size));
            }
            page.states = page.states.saturating_add(1);
            page.bytes[(at - start) as usize..(to - start) as usize]
                .copy_from_slice(&data[(at - offset) as usize..(to - offset) as usize]);
            at = to;
        }
        self.size = self.size.max(end);
        Ok(())
    }

    fn page(&mut self, object: &File, index: u64) -> io::Result<&mut Page> {
        let start = index * PAGE_BYTES;
        let durable = self.kept.saturating_sub(start).min(PAGE_BYTES) as usize;
        Ok(match self.pages.entry(index) {
            std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let mut bytes = Box::new([0; PAGE_BYTES as usize]);
                read_full(object, &mut bytes[..durable], start)?;
                place.insert(Page { bytes, earlier: None, states: 0 })
            }
        })
    }

    /// Zeros within the file's size; what a hole punched reads as.
    pub fn zero(&mut self, object: &File, offset: u64, length: u64, rng: &mut StdRng) -> io::Result<()> {
        let end = self.size.min(offset.saturating_add(length));
        let mut at = offset;
        while at < end {
            let to = end.min((at / PAGE_BYTES + 1) * PAGE_BYTES);
            self.write(object, at, &[0; PAGE_BYTES as usize][..(to - at) as usize], rng)?;
            at = to;
        }
        Ok(())
    }

    pub fn set_size(&mut self, size: u64) {
        if size < self.size {
            self.kept = self.kept.min(size);
            self.pages.retain(|index, _| index * PAGE_BYTES < size);
            if let Some(page) = self.pages.get_mut(&(size / PAGE_BYTES)) {
                page.bytes[(size % PAGE_BYTES) as usize..].fill(0);
                page.earlier = None;
            }
        }
        self.size = size;
    }

    /// Makes everything durable.
    pub fn sync(&mut self, object: &File) -> io::Result<()> {
        if self.kept < self.durable_size {
            object.set_len(self.kept)?;
        }
        for (index, page) in self.pages.iter().filter(|(_, page)| page.states > 0) {
            write_part(object, index * PAGE_BYTES, &page.bytes[..], self.size)?;
        }
        object.set_len(self.size)?;
        self.durable_size = self.size;
        self.kept = self.size;
        self.pages.retain(|_, page| page.states == 0);
        Ok(())
    }

    /// A sync that fails: what it should have written shows until the cut, but no later sync writes it.
    pub fn fail_sync(&mut self) {
        for page in self.pages.values_mut() {
            page.states = 0;
            page.earlier = None;
        }
    }

    /// Writes to the object what survives the cut. The content is of no use afterwards.
    pub fn cut(&self, object: &File, torn: Option<Torn>, rng: &mut StdRng) -> io::Result<Lost> {
        let dirty = self.pages.len() as u64;
        let shortened = self.kept < self.durable_size;
        let nothing = Lost {
            pages_dropped: dirty,
            truncations_undone: u64::from(shortened),
            sizes_undone: u64::from(self.size != self.durable_size),
            ..Lost::default()
        };
        let Some(torn) = torn else {
            return Ok(nothing);
        };
        if shortened {
            // What was written after a truncation did not reach the disk before the truncation did.
            if rng.random_bool(0.5) {
                return Ok(nothing);
            }
            object.set_len(self.kept)?;
        }
        let odds = [0.1, 0.5, 0.9, 1.0][rng.random_range(0..4)];
        let mut survived = 0;
        let mut size = self.kept;
        for (index, page) in self.pages.iter().filter(|(_, page)| page.states > 0) {
            if !rng.random_bool(odds) {
                continue;
            }
            let (bytes, size_then) = match &page.earlier {
                Some((bytes, size_then)) if rng.random_bool(0.5) => (bytes, *size_then),
                _ => (&page.bytes, self.size),
            };
            survived += 1;
            let (unit, odds) = match torn {
                Torn::Pages => (PAGE_BYTES, 1.0),
                Torn::Sectors => (SECTOR_BYTES, [0.5, 0.9, 1.0][rng.random_range(0..3)]),
            };
            for start in (0..PAGE_BYTES).step_by(unit as usize).filter(|_| rng.random_bool(odds)) {
                let at = index * PAGE_BYTES + start;
                write_part(object, at, &bytes[start as usize..(start + unit) as usize], size_then)?;
                size = size.max(size_then.min(at + unit));
            }
        }
        // The size may have reached the disk without the pages: they read as zeros.
        if rng.random_ratio(1, 4) {
            size = size.max(self.size);
        }
        object.set_len(size)?;
        let sizes_undone = u64::from(size != self.size);
        Ok(Lost { pages_dropped: dirty - survived, pages_survived: survived, sizes_undone, ..Lost::default() })
    }
}

/// Reads all of `into`; where the file ends before, the rest stays as it is.
fn read_full(object: &File, into: &mut [u8], mut offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        match object.read_at(&mut into[done..], offset)? {
            0 => return Ok(()),
            read => {
                done += read;
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// Writes what of `bytes` lies before `size`.
fn write_part(object: &File, at: u64, bytes: &[u8], size: u64) -> io::Result<()> {
    let length = size.saturating_sub(at).min(bytes.len() as u64) as usize;
    object.write_all_at(&bytes[..length], at)
}
