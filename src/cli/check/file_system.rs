//! What a directory is on, as far as it matters for a log: a disk, memory, a network, or one file system over another.

use std::fs::File;
use std::io;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Local,
    /// Gone with the machine; its syncs do nothing.
    Memory,
    Network,
    /// Of a container: another file system lies below.
    Overlay,
    /// A program serves it: what a sync does is its affair.
    Fuse,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileSystem {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// Numbers of `statfs(2)`.
const KNOWN: &[(u32, &str, Kind)] = &[
    (0xef53, "ext4", Kind::Local),
    (0x5846_5342, "xfs", Kind::Local),
    (0x9123_683e, "btrfs", Kind::Local),
    (0x2fc1_2fc1, "zfs", Kind::Local),
    (0xf2f5_2010, "f2fs", Kind::Local),
    (0xca45_1a4e, "bcachefs", Kind::Local),
    (0x3153_464a, "jfs", Kind::Local),
    (0x4d44, "vfat", Kind::Local),
    (0x0102_1994, "tmpfs", Kind::Memory),
    (0x8584_58f6, "ramfs", Kind::Memory),
    (0x794c_7630, "overlay", Kind::Overlay),
    (0x6969, "nfs", Kind::Network),
    (0x517b, "smb", Kind::Network),
    (0xff53_4d42, "cifs", Kind::Network),
    (0xfe53_4d42, "smb2", Kind::Network),
    (0x0102_1997, "9p", Kind::Network),
    (0x00c3_6400, "ceph", Kind::Network),
    (0x5346_414f, "afs", Kind::Network),
    (0x0bd0_0bd0, "lustre", Kind::Network),
    (0x0116_1970, "gfs2", Kind::Network),
    (0x7461_636f, "ocfs2", Kind::Network),
    (0x4750_4653, "gpfs", Kind::Network),
    (0x6573_5546, "fuse", Kind::Fuse),
];

impl FileSystem {
    pub(super) fn of(directory: &File) -> io::Result<Self> {
        let found = rustix::fs::fstatfs(directory)?.f_type;
        // 32 bits on all file systems, in a member of another width on each architecture.
        let number = found as u32;
        Ok(Self::of_number(number))
    }

    fn of_number(number: u32) -> Self {
        match KNOWN.iter().find(|(known, ..)| *known == number) {
            Some((_, name, kind)) => Self { name: (*name).to_string(), kind: *kind },
            None => Self { name: format!("a file system of type {number:#x}"), kind: Kind::Unknown },
        }
    }

    /// What a person should know before they put a node's data here.
    pub(super) fn warning(&self) -> Option<String> {
        let name = &self.name;
        match self.kind {
            Kind::Local => None,
            Kind::Memory => Some(format!("{name} is in memory: a sync does nothing, and a restart loses everything")),
            Kind::Network => Some(format!(
                "{name} is a network file system: a sync is only as good as the server's, and a node stalls with the network"
            )),
            Kind::Overlay => Some(format!(
                "{name} is a container's own layer, and goes with the container: a node's data belongs on a volume"
            )),
            Kind::Fuse => Some(format!("{name}: a program serves this file system, and decides what a sync means")),
            Kind::Unknown => Some(format!("{name} is not known: whether its syncs reach a disk is not known either")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_disk_is_warned_of() {
        assert_eq!(FileSystem::of_number(0xef53).warning(), None);
        for (number, says) in [
            (0x0102_1994, "in memory"),
            (0x6969, "network"),
            (0x794c_7630, "volume"),
            (0x6573_5546, "program"),
            (7, "0x7"),
        ] {
            let warning = FileSystem::of_number(number).warning().expect("a warning");
            assert!(warning.contains(says), "{warning}");
        }
    }

    #[test]
    fn the_file_systems_of_this_machine_are_known() {
        let of = |path: &str| FileSystem::of(&File::open(path).unwrap()).unwrap();
        // Linux without /dev/shm is rare; where it is, it is memory.
        if std::fs::exists("/dev/shm").unwrap() {
            assert_eq!(of("/dev/shm").kind, Kind::Memory);
        }
        assert_eq!(of("/proc").kind, Kind::Unknown);
    }
}
