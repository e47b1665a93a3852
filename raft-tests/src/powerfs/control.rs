//! Commands: one line each, answered by one line, `ok …` or `error …`. In one process by [`run`], else over a Unix
//! socket.
//!
//! | command | what |
//! |---|---|
//! | `cut clean`, `cut pages SEED`, `cut sectors SEED` | the power fails: everything unsynced is gone, or a part of it |
//! | `resume` | the power is back |
//! | `sync-delay MS` | every sync takes that much longer |
//! | `fail-sync ERROR once\|always [PATHS]` | ERROR is EIO, ENOSPC or EROFS; PATHS a pattern with `*` and `?` |
//! | `fail-write ERROR once\|always [PATHS]` | also allocations and truncations |
//! | `lie-sync files\|directories` | syncs answer that all is well, and make nothing durable |
//! | `space BYTES` | what all files may have together; ENOSPC beyond |
//! | `flip PATH OFFSET BIT` | turns a bit of durable content over; what is unsynced there hides it |
//! | `stats` | figures, see [`Stats`](super::state::Stats) |
//! | `clear` | takes every fault back |

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fuser::Errno;

use super::faults::{Failure, Faults, Lie};
use super::fuse::Shared;
use super::names::Ino;
use super::{Cut, Torn};

/// Carries one command out.
pub fn run(shared: &Shared, command: &str) -> Result<String, String> {
    let (stale, answer) = run_locked(shared, command)?;
    shared.forget_cached(&stale);
    Ok(answer)
}

/// Gives the nodes that the kernel must not have in its caches any more, and the answer.
fn run_locked(shared: &Shared, command: &str) -> Result<(Vec<Ino>, String), String> {
    let mut state = shared.lock();
    let none = Ok((Vec::new(), String::new()));
    let words: Vec<&str> = command.split_whitespace().collect();
    let done = |result: io::Result<Vec<Ino>>| match result {
        Ok(stale) => Ok((stale, String::new())),
        Err(error) => Err(error.to_string()),
    };
    match words.as_slice() {
        ["cut", "clean"] => done(state.cut(Cut::clean())),
        ["cut", "pages", seed] => done(state.cut(Cut::torn(Torn::Pages, number(seed)?))),
        ["cut", "sectors", seed] => done(state.cut(Cut::torn(Torn::Sectors, number(seed)?))),
        ["resume"] => {
            state.resume();
            none
        }
        ["sync-delay", milliseconds] => {
            state.faults.sync_delay = Duration::from_millis(number(milliseconds)?);
            none
        }
        ["fail-sync", failure @ ..] => {
            state.faults.fail_sync = Some(parse_failure(failure)?);
            none
        }
        ["fail-write", failure @ ..] => {
            state.faults.fail_write = Some(parse_failure(failure)?);
            none
        }
        ["lie-sync", what @ ("files" | "directories")] => {
            state.faults.lie = Some(if *what == "files" { Lie::Files } else { Lie::Directories });
            none
        }
        ["space", bytes] => {
            state.faults.space = Some(number(bytes)?);
            none
        }
        ["flip", path, offset, bit] => {
            let bit = bit.parse().map_err(|_| format!("{bit} is not the number of a bit"))?;
            done(state.flip(path, number(offset)?, bit).map(|ino| vec![ino]))
        }
        ["stats"] => {
            let (pages, names) = state.unsynced();
            let stats = &state.stats;
            let figures = format!(
                "writes={} file_syncs={} directory_syncs={} failed={} cuts={} cut_pages_dropped={} \
                 cut_pages_survived={} cut_sizes_undone={} cut_truncations_undone={} cut_names_dropped={} \
                 cut_names_survived={} unsynced_pages={pages} unsynced_names={names} used_bytes={}",
                stats.writes,
                stats.file_syncs,
                stats.directory_syncs,
                stats.failed,
                stats.cuts,
                stats.cut_pages_dropped,
                stats.cut_pages_survived,
                stats.cut_sizes_undone,
                stats.cut_truncations_undone,
                stats.cut_names_dropped,
                stats.cut_names_survived,
                state.used(),
            );
            Ok((Vec::new(), figures))
        }
        ["clear"] => {
            state.faults = Faults::default();
            none
        }
        _ => Err(format!("unknown command {command:?}")),
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is not a number"))
}

fn parse_failure(words: &[&str]) -> Result<Failure, String> {
    let (error, often, paths) = match words {
        [error, often] => (error, often, "*"),
        [error, often, paths] => (error, often, *paths),
        _ => return Err("wants ERROR once|always [PATHS]".to_string()),
    };
    let errno = match *error {
        "EIO" => Errno::EIO,
        "ENOSPC" => Errno::ENOSPC,
        "EROFS" => Errno::EROFS,
        other => return Err(format!("no error is named {other}")),
    };
    let once = match *often {
        "once" => true,
        "always" => false,
        other => return Err(format!("{other} is neither once nor always")),
    };
    Ok(Failure { errno: errno.into(), once, paths: paths.to_string() })
}

/// One figure of the answer to `stats`.
pub fn figure(stats: &str, name: &str) -> Option<u64> {
    stats.split_whitespace().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Serves commands on a socket for as long as the process lives.
pub fn serve(shared: &Shared, path: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let shared = shared.clone();
    let accept = move || {
        for connection in listener.incoming().flatten() {
            let shared = shared.clone();
            let talk = move || converse(&shared, connection);
            if let Err(error) = std::thread::Builder::new().name("powerfs-control".to_string()).spawn(talk) {
                eprintln!("powerfs: no thread for a connection: {error}");
            }
        }
    };
    std::thread::Builder::new().name("powerfs-accept".to_string()).spawn(accept).map(drop)
}

fn converse(shared: &Shared, connection: UnixStream) {
    let Ok(mut answers) = connection.try_clone() else { return };
    for command in BufReader::new(connection).lines().map_while(Result::ok) {
        let answer = match run(shared, &command) {
            Ok(figures) if figures.is_empty() => "ok\n".to_string(),
            Ok(figures) => format!("ok {figures}\n"),
            Err(why) => format!("error {}\n", why.replace('\n', " ")),
        };
        if answers.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The other end of the socket.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

impl Control {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf() }
    }

    /// Sends a command and gives its figures.
    pub fn run(&self, command: &str) -> io::Result<String> {
        let mut connection = UnixStream::connect(&self.socket)?;
        connection.write_all(format!("{command}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(connection).read_line(&mut answer)?;
        match answer.trim_end().split_once(' ').unwrap_or((answer.trim_end(), "")) {
            ("ok", figures) => Ok(figures.to_string()),
            (_, why) => Err(io::Error::other(format!("{command}: {why}"))),
        }
    }
}
