//! Which processes serve a given configuration file: nodes that `dev` did not start itself. Read from `/proc`, because a
//! pid file of a dead process says nothing, and one started by hand writes none.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Pids of processes whose command line is `… serve … --config FILE …` with this file. Of a wrapper (`sudo`, `timeout`)
/// and the node that it started, which share it, only the node counts. Processes of other users that may not be looked
/// at are left out.
pub(super) fn serving(config: &Path) -> Vec<u32> {
    let Ok(wanted) = fs::canonicalize(config) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<u32> = pids.filter(|pid| config_of(*pid).is_some_and(|config| config == wanted)).collect();
    let parents: Vec<u32> = found.iter().filter_map(|pid| parent_of(*pid)).collect();
    found.retain(|pid| !parents.contains(pid));
    found.sort_unstable();
    found
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn config_of(pid: u32) -> Option<PathBuf> {
    let process = Path::new("/proc").join(pid.to_string());
    // Empty for a process that has ended and was not waited for yet.
    let line = fs::read(process.join("cmdline")).ok()?;
    let given = config_argument(&line)?;
    let folder = fs::read_link(process.join("cwd")).ok()?;
    fs::canonicalize(folder.join(given)).ok()
}

/// The value of `--config` on a command line that has the word `serve`.
fn config_argument(line: &[u8]) -> Option<PathBuf> {
    let words: Vec<OsString> =
        line.split(|byte| *byte == 0).skip(1).map(|word| OsString::from_vec(word.to_vec())).collect();
    if !words.iter().any(|word| word == "serve") {
        return None;
    }
    let place = words.iter().position(|word| word.as_encoded_bytes().starts_with(b"--config"))?;
    match words[place].as_encoded_bytes().strip_prefix(b"--config")? {
        b"" => words.get(place + 1).map(PathBuf::from),
        rest => Some(PathBuf::from(OsString::from_vec(rest.strip_prefix(b"=")?.to_vec()))),
    }
    .filter(|path| path.as_os_str() != OsStr::new(""))
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn the_configuration_of_a_serving_process_is_read_from_its_command_line() {
        let config = |line: &str| config_argument(line.replace(' ', "\0").as_bytes());
        assert_eq!(config("ringraft serve --config a/node.toml --supervised "), Some("a/node.toml".into()));
        assert_eq!(config("ringraft serve --config=a/node.toml "), Some("a/node.toml".into()));
        assert_eq!(config("ringraft serve --data d "), None);
        assert_eq!(config("tail --config a/node.toml "), None);
        assert_eq!(config("serve --configx a "), None);
        assert_eq!(config("ringraft serve --config"), None);
        assert_eq!(config(""), None);
    }

    /// Starts `sh` with a script that says when it runs: its command line is not there yet when `spawn` returns.
    fn start(folder: &Path, arguments: &[&str]) -> Child {
        let mut process = Command::new("sh")
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        std::io::BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "runs\n");
        process
    }

    fn end(mut process: Child) {
        drop(process.stdin.take());
        process.wait().unwrap();
    }

    /// `read` waits for the end of its input, so that the process ends with the test.
    const WAIT: &str = "echo runs; read line";

    #[test]
    fn a_process_is_found_by_its_configuration_also_under_a_relative_path() {
        let folder = tempfile::tempdir().unwrap();
        let (config, other) = (folder.path().join("node.toml"), folder.path().join("other.toml"));
        fs::write(&config, "").unwrap();
        fs::write(&other, "").unwrap();
        assert_eq!(serving(&config), Vec::<u32>::new());
        let process = start(folder.path(), &["-c", WAIT, "sh", "serve", "--config", "node.toml"]);
        assert_eq!(serving(&config), [process.id()]);
        assert_eq!(serving(&other), Vec::<u32>::new());
        end(process);
        assert_eq!(serving(&config), Vec::<u32>::new());
    }

    #[test]
    fn of_a_wrapper_and_its_node_the_node_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("node.toml");
        fs::write(&config, "").unwrap();
        let wrapped = ["sh", "-c", WAIT, "sh", "serve", "--config", "node.toml"];
        let wrapper = start(folder.path(), &[&["-c", "\"$@\"; exit", "sh"], &wrapped[..]].concat());
        let found = serving(&config);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(parent_of(found[0]), Some(wrapper.id()));
        end(wrapper);
    }
}
