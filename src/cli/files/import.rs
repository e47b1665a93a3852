//! `import`: what is to be stored, checked as a whole before the first write, and the account of it afterwards.
//!
//! A tree, and lines from a file, are checked to their end before anything is sent. Lines from a pipe cannot be: there
//! the first bad one ends the import, and those before it are stored.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::Session;
use super::caller::Line;
use super::feed::{Ended, Feed, Next};
use super::ndjson::{self, Lines};
use super::pages::Pages;
use super::progress::{Progress, Total, say};
use super::store::Seen;
use super::summary::{Summary, listed, name};
use super::walk::{self, Found, LeftOut, Tree};
use crate::cli::args::{ImportArgs, Output};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Printer;
use crate::clock;

/// Values read ahead of those that are on their way.
const READ_AHEAD: usize = 8;
/// Keys of others below the prefix that are looked through, for each file of the tree, and in any case.
const OTHERS_PER_FILE: usize = 4;
const OTHERS_MIN: usize = 20_000;

/// What is to be stored.
struct Prepared {
    unit: &'static str,
    total: Option<Total>,
    root: PathBuf,
    source: mpsc::Receiver<Next>,
}

pub(super) async fn run(session: &Session, args: &ImportArgs, printer: &mut Printer) -> Result<(), Failure> {
    let began = clock::now();
    let mut summary = Summary::default();
    let prefix = args.prefix.as_deref().unwrap_or_default().as_bytes();
    let prepared = match (&args.directory, &args.ndjson) {
        (Some(directory), _) => tree(session, args, prefix, directory, &mut summary).await?,
        (None, Some(file)) => lines(session, args, prefix, file, &mut summary).await?,
        (None, None) => return Err(Failure::Usage("give a directory, or --ndjson".to_string())),
    };
    let Prepared { unit, total, root, source } = prepared;
    let (progress, shown) = Progress::start(unit, total);
    let feed = Feed { root, skip: args.skip, jobs: usize::from(args.pace.jobs), progress: progress.clone() };
    let fed = feed.store_all(session, source, &mut summary).await;
    drop(shown);
    progress.finish();
    summary.time = clock::now().since(began);
    summary.retries = session.caller.retries();
    summary.is_complete = fed.is_ok();
    match printer.format() {
        Output::Json => printer.line(&summary.json().to_string())?,
        Output::Table => printer.line(&summary.line("stored", unit))?,
    }
    fed.map_err(|ended| unfinished(ended, &summary, unit, total))
}

fn unfinished(ended: Ended, summary: &Summary, unit: &str, total: Option<Total>) -> Failure {
    let Ended { why, what, outcomes_unknown } = ended;
    let done = summary.written + summary.unchanged;
    let of = total.map(|total| format!(" of {}", total.items)).unwrap_or_default();
    let mut advice = format!("{done}{of} {unit} are stored; the same command goes on from there");
    if outcomes_unknown > 0 {
        advice += &format!(". {outcomes_unknown} more may be stored, now or later: it will find out");
    }
    let (exit, what) = match why {
        None => (Exit::Other, "stopped".to_string()),
        Some(why) if what.is_empty() => (why.exit(), why.to_string()),
        Some(why) => (why.exit(), format!("{}: {why}", name(&what))),
    };
    Failure::Unfinished { what, exit: if outcomes_unknown > 0 { Exit::OutcomeUnknown } else { exit }, advice }
}

/// What cannot be stored is listed, and ends the import unless it may be left out.
fn judge(refused: Vec<LeftOut>, unit: &str, found: usize, skip: bool, summary: &mut Summary) -> Result<(), Failure> {
    if refused.is_empty() {
        return Ok(());
    }
    if !skip {
        say(&listed(&refused, "refused"));
        let (count, all) = (refused.len(), refused.len() + found);
        let what = format!("{count} of {all} {unit} cannot be stored, so that nothing was sent");
        let advice = "--skip leaves them out, and stores the others".to_string();
        return Err(Failure::Unfinished { what, exit: Exit::Other, advice });
    }
    say(&listed(&refused, "left out"));
    summary.left_out.extend(refused);
    Ok(())
}

async fn tree(
    session: &Session,
    args: &ImportArgs,
    prefix: &[u8],
    directory: &Path,
    summary: &mut Summary,
) -> Result<Prepared, Failure> {
    let (root, own_prefix, value_bytes_max) = (directory.to_path_buf(), prefix.to_vec(), session.value_bytes_max);
    let walk = move || walk::walk(&root, &own_prefix, value_bytes_max);
    let walked = tokio::task::spawn_blocking(walk).await.expect("a walk does not panic");
    let tree = walked.map_err(|source| Failure::Io { what: format!("cannot read {}", directory.display()), source })?;
    let total = Total { items: tree.files.len() as u64, bytes: tree.bytes() };
    let Tree { files, refused, left_out } = tree;
    judge(refused, "files", files.len(), args.skip, summary)?;
    if !left_out.is_empty() {
        say(&listed(&left_out, "left out"));
        summary.left_out.extend(left_out);
    }
    let known = Known::look(session, prefix, files.len()).await?;
    let (send, source) = mpsc::channel(READ_AHEAD);
    tokio::spawn(async move {
        for found in files {
            let seen = known.seen(&found);
            if send.send(Next::File(found, seen)).await.is_err() {
                return;
            }
        }
    });
    Ok(Prepared { unit: "files", total: Some(total), root: directory.to_path_buf(), source })
}

/// What is stored below the prefix before the import begins. Only a hint: each write checks it.
struct Known {
    keys: HashMap<Vec<u8>, (String, u64)>,
    /// Up to this key; none when all are known.
    through: Option<Vec<u8>>,
}

impl Known {
    /// By scan, as long as there are not far more keys than files: then each file's key is asked for instead.
    async fn look(session: &Session, prefix: &[u8], files: usize) -> Result<Self, Failure> {
        let keys_max = files.saturating_mul(OTHERS_PER_FILE).saturating_add(OTHERS_MIN);
        let mut known = Self { keys: HashMap::new(), through: None };
        let mut line = Line::new(&session.caller, 0);
        let mut pages = Pages::new(prefix, false, &session.query);
        while let Some(rows) = pages.next(&mut line).await.map_err(|gave_up| gave_up.why)? {
            let last = rows.last().map(|row| row.key.clone());
            known.keys.extend(rows.into_iter().map(|row| (row.key, (row.revision, row.size))));
            if known.keys.len() >= keys_max {
                known.through = last;
                break;
            }
        }
        Ok(known)
    }

    fn seen(&self, found: &Found) -> Seen {
        if self.through.as_ref().is_some_and(|through| found.key > *through) {
            return Seen::Unknown;
        }
        match self.keys.get(&found.key) {
            Some((revision, size)) => Seen::Present { revision: revision.clone(), size: *size },
            None => Seen::Absent,
        }
    }
}

async fn lines(
    session: &Session,
    args: &ImportArgs,
    prefix: &[u8],
    file: &Path,
    summary: &mut Summary,
) -> Result<Prepared, Failure> {
    let (prefix, value_bytes_max) = (prefix.to_vec(), session.value_bytes_max);
    let mut known_bad = HashSet::new();
    let mut total = None;
    let input: Box<dyn BufRead + Send> = if file == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let unreadable = |source| Failure::Io { what: format!("cannot read {}", file.display()), source };
        let path = file.to_path_buf();
        let mut opened = session.open(move || File::open(path)).await.map_err(unreadable)?;
        if opened.metadata().map_err(unreadable)?.is_file() {
            let (checked, prefix) = (opened.try_clone().map_err(unreadable)?, prefix.clone());
            let check = move || check_lines(checked, &prefix, value_bytes_max);
            let checked =
                tokio::task::spawn_blocking(check).await.expect("a check does not panic").map_err(unreadable)?;
            known_bad = checked.bad.iter().map(|(number, _)| *number).collect();
            let bad = checked.bad.into_iter();
            let refused =
                bad.map(|(number, why)| LeftOut { what: format!("line {number}").into_bytes(), why }).collect();
            judge(refused, "lines", usize::try_from(checked.good.items).unwrap_or(usize::MAX), args.skip, summary)?;
            total = Some(checked.good);
            opened.rewind().map_err(unreadable)?;
        }
        Box::new(BufReader::new(opened))
    };
    let (send, source) = mpsc::channel(READ_AHEAD);
    // Not waited for: it may hang in a pipe that gives nothing.
    tokio::task::spawn_blocking(move || send_lines(input, &prefix, value_bytes_max, &known_bad, &send));
    Ok(Prepared { unit: "lines", total, root: PathBuf::new(), source })
}

struct Checked {
    good: Total,
    bad: Vec<(u64, String)>,
}

fn check_lines(file: File, prefix: &[u8], value_bytes_max: u64) -> io::Result<Checked> {
    let mut checked = Checked { good: Total::default(), bad: Vec::new() };
    let mut lines = Lines::new(BufReader::new(file), ndjson::line_bytes_max(value_bytes_max));
    while let Some((number, line)) = lines.next()? {
        match line.and_then(|line| ndjson::parse(&line, prefix, value_bytes_max)) {
            Ok(wanted) => {
                checked.good.items += 1;
                checked.good.bytes += wanted.value.len() as u64;
            }
            Err(why) => checked.bad.push((number, why)),
        }
    }
    Ok(checked)
}

/// Ends when nobody takes any more. Lines of `known_bad` are listed already.
fn send_lines(
    input: Box<dyn BufRead + Send>,
    prefix: &[u8],
    value_bytes_max: u64,
    known_bad: &HashSet<u64>,
    send: &mpsc::Sender<Next>,
) {
    let mut lines = Lines::new(input, ndjson::line_bytes_max(value_bytes_max));
    loop {
        let next = match lines.next() {
            Ok(None) => return,
            Ok(Some((number, _))) if known_bad.contains(&number) => continue,
            Ok(Some((number, line))) => match line.and_then(|line| ndjson::parse(&line, prefix, value_bytes_max)) {
                Ok(wanted) => Next::Line(number, wanted),
                Err(why) => Next::Bad(LeftOut { what: format!("line {number}").into_bytes(), why }),
            },
            Err(source) => Next::Failed(Failure::Io { what: "cannot read the lines".to_string(), source }),
        };
        let is_last = matches!(next, Next::Failed(_));
        if send.blocking_send(next).is_err() || is_last {
            return;
        }
    }
}
