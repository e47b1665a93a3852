//! Which keys can be files below a directory, and where. Pure, but for the look at what is in the directory already.
//!
//! A key's path is what follows the prefix, byte for byte: nothing is cleaned or escaped, so that an import of the files
//! gives the same keys. A key whose path would lead elsewhere, or that no file can have, is refused. Of `a` and `a/b`,
//! which cannot both be files, `a` is refused.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::walk::LeftOut;

/// Longest file name, in bytes, on every file system that Linux uses for data.
const NAME_BYTES_MAX: usize = 255;

/// The files to write.
#[derive(Debug, Default)]
pub(super) struct Plan {
    files: HashSet<Vec<u8>>,
    directories: HashSet<Vec<u8>>,
    refused: HashSet<Vec<u8>>,
}

impl Plan {
    /// Takes one more path; or says why it can be no file.
    pub(super) fn add(&mut self, path: &[u8]) -> Result<(), String> {
        if let Err(why) = judge(path) {
            self.refused.insert(path.to_vec());
            return Err(why);
        }
        // From the longest, and no further than what is known.
        for directory in ancestors(path) {
            if !self.directories.insert(directory.to_vec()) {
                break;
            }
        }
        self.files.insert(path.to_vec());
        Ok(())
    }

    /// Takes out what cannot be a file because it is the directory of others, or because of what stands below `root`
    /// already, and gives it with the reasons, in byte order.
    pub(super) fn settle(&mut self, root: &Path) -> Vec<LeftOut> {
        let blocked: HashSet<&[u8]> = self
            .directories
            .iter()
            .filter(|path| fs::symlink_metadata(at(root, path)).is_ok_and(|there| !there.is_dir()))
            .map(Vec::as_slice)
            .collect();
        let why = |path: &Vec<u8>| {
            if self.directories.contains(path) {
                return Some("other keys have their files in it, so that it must be a directory".to_string());
            }
            if let Some(directory) = ancestors(path).find(|directory| blocked.contains(directory)) {
                return Some(format!("{} is no directory, or a link", at(root, directory).display()));
            }
            let is_directory = fs::symlink_metadata(at(root, path)).is_ok_and(|there| there.is_dir());
            is_directory.then(|| format!("{} is a directory", at(root, path).display()))
        };
        let mut left_out: Vec<LeftOut> =
            self.files.iter().filter_map(|path| Some(LeftOut { what: path.clone(), why: why(path)? })).collect();
        left_out.sort_unstable_by(|one, other| one.what.cmp(&other.what));
        for LeftOut { what, .. } in &left_out {
            self.files.remove(what);
            self.refused.insert(what.clone());
        }
        left_out
    }

    pub(super) fn has(&self, path: &[u8]) -> bool {
        self.files.contains(path)
    }

    /// Whether it was refused before, by [`Plan::add`] or [`Plan::settle`].
    pub(super) fn has_refused(&self, path: &[u8]) -> bool {
        self.refused.contains(path)
    }

    /// Takes a path that appeared only after [`Plan::settle`].
    pub(super) fn add_late(&mut self, path: &[u8]) -> Result<(), String> {
        if self.directories.contains(path) || ancestors(path).any(|directory| self.files.contains(directory)) {
            self.refused.insert(path.to_vec());
            return Err(
                "it was written after the export began, and a file and a directory would have one name".to_string()
            );
        }
        self.add(path)
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }
}

fn at(root: &Path, path: &[u8]) -> std::path::PathBuf {
    root.join(OsStr::from_bytes(path))
}

/// The directories that a path lies in, the longest first.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(place, _)| &path[..place])
}

/// Whether a path stays below the directory it is joined to, and names a file there.
pub(super) fn judge(path: &[u8]) -> Result<(), String> {
    if path.is_empty() {
        return Err("nothing follows the prefix, so that its file has no name".to_string());
    }
    if path.contains(&0) {
        return Err("a NUL byte, which no file name has".to_string());
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" if path.starts_with(b"/") => return Err("begins with a slash after the prefix".to_string()),
            b"" if path.ends_with(b"/") => return Err("ends with a slash, as a directory".to_string()),
            b"" => return Err("two slashes in a row, between which there is no name".to_string()),
            b"." | b".." => {
                return Err(format!("the part `{}`, which is no name but leads elsewhere", part.escape_ascii()));
            }
            _ if part.len() > NAME_BYTES_MAX => {
                return Err(format!("a part of {} bytes; a file name has at most {NAME_BYTES_MAX}", part.len()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_that_leads_elsewhere_or_names_no_file_is_refused() {
        let long = format!("a/{}/b", "n".repeat(256));
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "//",
            "a//b",
            "a/",
            ".",
            "..",
            "../x",
            "a/../b",
            "a/..",
            "./a",
            "a/./b",
            "a\0b",
            &long,
        ] {
            assert!(judge(bad.as_bytes()).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b", "...", "..a", "a.", " ", "a\\b", "é", "a\nb", &"n".repeat(255)] {
            judge(good.as_bytes()).unwrap();
        }
        judge(b"\xff/\xfe").unwrap();
    }

    proptest! {
        #[test]
        fn what_is_taken_stays_below_its_directory(path in "[a./\0]{0,12}") {
            if judge(path.as_bytes()).is_ok() {
                let joined = Path::new("/root/dir").join(&path);
                let mut depth = 0;
                for part in joined.components().skip(1) {
                    depth += if part == std::path::Component::ParentDir { -1 } else { 1 };
                    prop_assert!(depth >= 1);
                }
                prop_assert!(joined.starts_with("/root/dir") && joined != Path::new("/root/dir"));
                prop_assert_eq!(joined.strip_prefix("/root/dir").unwrap().as_os_str().as_bytes(), path.as_bytes());
            }
        }
    }

    fn settled(paths: &[&str], root: &Path) -> (Plan, Vec<(String, String)>) {
        let mut plan = Plan::default();
        for path in paths {
            plan.add(path.as_bytes()).unwrap();
        }
        let left_out = plan.settle(root);
        let left_out = left_out.into_iter().map(|out| (String::from_utf8(out.what).unwrap(), out.why)).collect();
        (plan, left_out)
    }

    #[test]
    fn of_a_key_and_keys_below_it_the_shorter_is_left_out_in_any_order() {
        let nowhere = Path::new("/nowhere/at/all");
        for paths in [["a", "a-b", "a/b/c"], ["a/b/c", "a", "a-b"]] {
            let (plan, left_out) = settled(&paths, nowhere);
            assert_eq!(left_out.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["a"]);
            assert!(plan.has(b"a/b/c") && plan.has(b"a-b") && !plan.has(b"a") && plan.has_refused(b"a"));
            assert_eq!(plan.len(), 2);
        }
    }

    #[test]
    fn a_key_that_appears_late_meets_the_same_rules() {
        let (mut plan, _) = settled(&["a/b", "c"], Path::new("/nowhere"));
        for bad in ["a", "c/d", "../x"] {
            plan.add_late(bad.as_bytes()).unwrap_err();
            assert!(plan.has_refused(bad.as_bytes()) && !plan.has(bad.as_bytes()));
        }
        plan.add_late(b"a/new").unwrap();
        assert!(plan.has(b"a/new"));
    }

    #[test]
    fn what_stands_in_the_directory_and_is_in_the_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        symlink("/etc", root.join("link")).unwrap();
        symlink("/etc/passwd", root.join("dir/replaced")).unwrap();
        let paths = ["dir/sub", "dir/new", "file/below/it", "link/passwd", "file-too", "dir/replaced"];
        let (plan, left_out) = settled(&paths, root);
        let names: Vec<&str> = left_out.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(names, ["dir/sub", "file/below/it", "link/passwd"]);
        assert!(left_out[1].1.contains(root.join("file").to_str().unwrap()), "{left_out:?}");
        assert!(plan.has(b"dir/new") && plan.has(b"dir/replaced"));
    }
}
