//! A file system that loses power: a mount over a backing directory which forgets, at a cut, what was not synced.
//!
//! Where POSIX leaves room, it takes the worst that is legal:
//!
//! | | here | ext4, as mounted by default |
//! |---|---|---|
//! | data of a file | durable by fsync or fdatasync of that file, size included; by nothing else, not by time and not by `close` | written back after some 30 s, too |
//! | an entry made, removed or renamed | durable by fsync of its directory; of either one, where a rename moves between two | durable with the next sync of anything: [`Model::Journal`] |
//! | a new file's fsync | does not make its entry durable, in [`Model::Strict`] | does |
//! | a rename over a file | old or new, never neither, never both names | the same |
//! | mode and owner | durable at once | with the next sync |
//! | a failed fsync | its pages show until the cut, and no later fsync writes them | the same |
//!
//! [`Cut`] is the loss: *clean* keeps exactly what was synced. *Torn* keeps, by a seed, any subset of the unsynced pages,
//! each as it is or as it was at one earlier moment since its last sync, sizes with or without their pages, truncations or not, and any
//! subset of the changes of the namespace in which none survives without the ones that it builds on. *Sectors* tears pages, too. From the cut
//! until `resume` every call answers EIO, and handles from before it do so for ever.
//!
//! Every `write` reaches this file system before it returns: the kernel's page cache is written through, so killing the
//! process under test loses nothing by itself. `sync_file_range`, `sync` and `syncfs` do not reach a FUSE file system:
//! they promise nothing here, as the first does on any. Locks are the kernel's own. Writes through a shared mapping
//! arrive when the kernel writes them back, at `msync` at the latest.
//!
//! The parts: [`file`] one file's content, [`names`] the namespace, [`state`] both together over the backing directory,
//! [`fuse`] the kernel's requests, [`control`] commands over a socket, [`mount`] mounting, [`process`] the file system as
//! a process of its own, which outlives the process under test, [`writer`] one to test with it.
//!
//! The backing directory holds `tree`, what is durable, as plain files and directories, brought up to date at a cut and
//! at the unmount; `objects`, the same files by number; and `mounted` while it is in use. A file system that ended without
//! unmounting leaves `mounted` behind, and is refused: its `tree` is that of some earlier time.

pub mod control;
pub mod faults;
pub mod file;
pub mod fuse;
pub mod mount;
pub mod names;
pub mod process;
pub mod state;
pub mod writer;

pub use mount::{Mount, Options};
pub use names::Model;
pub use process::Process;

/// How finely a cut tears what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Torn {
    Pages,
    Sectors,
}

/// A loss of power. `torn: None` keeps nothing that was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    pub torn: Option<Torn>,
    pub seed: u64,
}

impl Cut {
    pub fn clean() -> Self {
        Self { torn: None, seed: 0 }
    }

    pub fn torn(torn: Torn, seed: u64) -> Self {
        Self { torn: Some(torn), seed }
    }
}

/// Why a mount does not work on this machine, if it does not.
pub fn why_not_here() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("a FUSE mount without fusermount3 needs root");
    }
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    device.is_err().then_some("needs /dev/fuse")
}
