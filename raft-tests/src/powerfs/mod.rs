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
//! One node's data directory on it, from a runner, with everything that it can be asked for ([`Process`] has the details):
//!
//! ```no_run
//! # use std::{path::Path, time::Duration};
//! # use raft_tests::powerfs::{Cut, Damage, Error, Failure, Lie, Model, Options, Process, Torn};
//! # async fn example(program: &Path, directory: &Path) -> std::io::Result<()> {
//! let options = Options {
//!     backing: directory.join("disk"), // what is durable, in `disk/tree`
//!     mount: directory.join("data"),   // the node's `data_dir`
//!     model: Model::Strict,
//!     seed: 7,
//! };
//! // `program` is `raft-tests`: `std::env::current_exe()`, or CARGO_BIN_EXE_raft-tests in a test.
//! let disk = Process::start(program, &options).await?;
//!
//! // Power loss: cut and kill, in this order; what was acknowledged before the cut must be there afterwards.
//! let lost = disk.cut(Cut::torn(Torn::Sectors, 7)).await?; // or Cut::clean(), or Torn::Pages
//! // ... SIGKILL to the node ...
//! disk.resume().await?;
//! assert!(lost.dropped() > 0, "the power loss took nothing: not confirmed");
//! // ... start the node ...
//!
//! disk.sync_delay(Duration::from_millis(300)).await?; // confirmed by stats().syncs_delayed
//! disk.fail_sync(Some(Failure::once(Error::Io).on("log/*"))).await?; // stats().syncs_failed
//! disk.fail_write(Some(Failure::always(Error::Io).on("replicas/*"))).await?; // stats().writes_failed
//! let used = disk.stats().await?.used_bytes;
//! disk.space(Some(used + 100_000)).await?; // stats().space_refused
//! disk.lie_about_sync(Some(Lie::Both)).await?; // the control: stats().syncs_lied
//! disk.clear().await?; // all of the above
//!
//! // Rot, best done to a node that is down: stats().damage_read when it met it.
//! let damaged = disk.damage("replicas/*.sst", Damage::Flip, 7).await?; // or Zeros, Shorten
//! println!("{} at {}", damaged.path, damaged.offset);
//! disk.stop().await // or drop
//! # }
//! ```
//!
//! The parts: [`mod@file`] one file's content, [`names`] the namespace, [`state`] both together over the backing directory,
//! [`damage`] to what is durable, [`faults`] that stand, [`figures`] of what happened, [`fuse`] the kernel's requests,
//! [`control`] the commands, [`mount`] mounting, [`process`] the file system as a process of its own, which outlives the
//! process under test.
//!
//! The backing directory holds `tree`, what is durable, as plain files and directories, brought up to date at a cut and
//! at the unmount; `objects`, the same files by number; and `mounted` while it is in use. A file system that ended without
//! unmounting leaves `mounted` behind, and is refused: its `tree` is that of some earlier time.

pub mod control;
pub mod damage;
pub mod faults;
pub mod figures;
pub mod file;
pub mod fuse;
pub mod mount;
pub mod names;
pub mod process;
pub mod state;

pub use damage::{Damage, Damaged};
pub use faults::{Error, Failure, Lie};
pub use figures::{Lost, Stats};
pub use mount::{Mount, Options};
pub use names::Model;
pub use process::Process;

use serde::{Deserialize, Serialize};

/// How finely a cut tears what was not synced.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Torn {
    Pages,
    Sectors,
}

/// A loss of power. `torn: None` keeps nothing that was not synced.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
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
