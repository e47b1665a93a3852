//! Mounting and unmounting, within this process.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption};
use ringraft::clock;
use rustix::mount::{UnmountFlags, unmount};

use super::control::{self, Answer, Command};
use super::fuse::{Kernel, Shared};
use super::names::Model;
use super::state::State;

/// What stands in `/proc/self/mountinfo` as the source of a mount of ours. Its type is that of all FUSE file systems.
const SOURCE: &str = "powerfs";
const TYPE: &str = "fuse";
/// More than one, so that a read goes on beside a write.
const THREADS: usize = 2;
/// The kernel hangs up at once after the unmount, unless a mount namespace that was made meanwhile has a copy of the
/// mount: then never, and the copy is left to a file system without power.
const JOIN_LIMIT: Duration = Duration::from_secs(2);
const JOIN_POLL: Duration = Duration::from_millis(1);

#[derive(Clone, Debug)]
pub struct Options {
    pub backing: PathBuf,
    pub mount: PathBuf,
    pub model: Model,
    /// Chooses which earlier states of a page may survive a torn cut.
    pub seed: u64,
}

/// A mounted file system. Dropped, it unmounts, after making everything durable; what still has files open on it gets errors.
pub struct Mount {
    shared: Shared,
    session: Option<BackgroundSession>,
    path: PathBuf,
}

impl Mount {
    /// Mounts, creating both directories. A mount that a crashed file system has left there is taken away first.
    pub fn start(options: &Options) -> io::Result<Self> {
        std::fs::create_dir_all(&options.backing)?;
        unmount_stale(&options.mount)?;
        std::fs::create_dir_all(&options.mount)?;
        let path = options.mount.canonicalize()?;
        let backing = options.backing.canonicalize()?;
        if backing.starts_with(&path) || path.starts_with(&backing) {
            return Err(io::Error::other("the mount and the backing directory must lie apart"));
        }
        let shared = Shared::new(State::open(&backing, options.model, options.seed)?);
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName(SOURCE.to_string()), MountOption::DefaultPermissions];
        config.n_threads = Some(THREADS);
        match fuser::spawn_mount(Kernel::new(shared.clone()), &path, &config) {
            Ok(session) => {
                shared.mounted(session.notifier());
                Ok(Self { shared, session: Some(session), path })
            }
            Err(error) => {
                shared.lock().close()?;
                Err(error)
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Carries a command out.
    pub fn run(&self, command: &Command) -> Result<Answer, String> {
        control::run(&self.shared, command)
    }

    /// Unmounts. Everything is durable then, unless the power is off.
    pub fn stop(mut self) -> io::Result<()> {
        self.unmount()
    }

    fn unmount(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        if unmount(&self.path, UnmountFlags::empty()).is_ok() {
            let deadline = clock::now().after(JOIN_LIMIT);
            while !session.guard.is_finished() && clock::now() < deadline {
                sleep(JOIN_POLL);
            }
            if session.guard.is_finished() {
                session.join()?;
            }
        } else {
            // Something still has files open. What it does from now on meets a file system without power.
            unmount(&self.path, UnmountFlags::DETACH)?;
        }
        self.shared.lock().close()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("powerfs: unmounting {}: {error}", self.path.display());
        }
    }
}

/// Takes a mount of ours away that has nobody behind it any more. Nothing else is ever unmounted.
pub(super) fn unmount_stale(path: &Path) -> io::Result<()> {
    // The mount itself cannot be looked at when nobody answers, its parent can.
    let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let Ok(parent) = parent.canonicalize() else { return Ok(()) };
    let path = parent.join(name);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = escape(&path);
    let found = mounts.lines().filter(|line| {
        let mut fields = line.split(' ');
        let at = fields.nth(4);
        let mut described = fields.skip_while(|field| *field != "-").skip(1);
        at == Some(wanted.as_str()) && described.next() == Some(TYPE) && described.next() == Some(SOURCE)
    });
    for _ in found {
        // Not its attributes: the kernel may still have those in its cache.
        match rustix::fs::statfs(&path) {
            Err(rustix::io::Errno::NOTCONN) => unmount(&path, UnmountFlags::DETACH)?,
            _ => return Err(io::Error::other(format!("{} is mounted, and in use", path.display()))),
        }
    }
    Ok(())
}

/// A path as mountinfo writes it.
fn escape(path: &Path) -> String {
    let escaped = path.as_os_str().as_bytes().iter().map(|byte| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}"),
        other => char::from(*other).to_string(),
    });
    escaped.collect()
}

#[expect(clippy::disallowed_methods, reason = "outside of a runtime, and a slow disk takes its time")]
pub(super) fn sleep(time: Duration) {
    std::thread::sleep(time);
}
