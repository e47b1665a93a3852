//! `export`: every key with a prefix, found by scan alone, as a file below a directory or as a line of NDJSON.
//!
//! For files the keys are scanned twice: first without values, so that what can be no file is named before anything is
//! written, then with them. What stands in the directory otherwise is left alone. A scan is no snapshot: a key that is
//! written or deleted while it runs is in or out.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::Session;
use super::beneath::{Beneath, Whole};
use super::caller::Line;
use super::names::Plan;
use super::ndjson;
use super::pages::{Pages, Row};
use super::progress::{Progress, Total, say};
use super::store::Stored;
use super::summary::{Summary, listed, name};
use super::walk::LeftOut;
use crate::cli::args::{ExportArgs, Output};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Printer;
use crate::clock;

pub(super) async fn run(session: &Session, args: &ExportArgs, printer: &mut Printer) -> Result<(), Failure> {
    let began = clock::now();
    let mut summary = Summary::default();
    let prefix = args.prefix.as_deref().unwrap_or_default().as_bytes();
    let to_output = args.ndjson.as_deref() == Some(Path::new("-"));
    if to_output && printer.format() == Output::Json {
        let why = "-o json and the lines both want standard output: name a file after --ndjson";
        return Err(Failure::Usage(why.to_string()));
    }
    let (unit, ended) = match (&args.directory, &args.ndjson) {
        (Some(directory), _) => ("files", tree(session, args, prefix, directory, &mut summary).await),
        (None, Some(file)) => ("keys", lines(session, prefix, file, &mut summary).await),
        (None, None) => return Err(Failure::Usage("give a directory, or --ndjson".to_string())),
    };
    summary.time = clock::now().since(began);
    summary.retries = session.caller.retries();
    summary.is_complete = ended.is_ok();
    let has_done_something = summary.is_complete || summary.written > 0 || summary.unchanged > 0;
    if has_done_something && !matches!(ended, Err(Failure::OutputClosed)) {
        match printer.format() {
            Output::Json => printer.line(&summary.json().to_string())?,
            Output::Table if to_output => say(&summary.line("written", unit)),
            Output::Table => printer.line(&summary.line("written", unit))?,
        }
    }
    ended
}

async fn tree(
    session: &Session,
    args: &ExportArgs,
    prefix: &[u8],
    directory: &Path,
    summary: &mut Summary,
) -> Result<(), Failure> {
    let (mut plan, total) = plan(session, args, prefix, directory, summary).await?;
    let cannot = |what: String| move |source| Failure::Io { what, source };
    let beneath = Arc::new(Beneath::open(directory).map_err(cannot(format!("cannot make {}", directory.display())))?);
    let (progress, shown) = Progress::start("files", Some(total));
    let mut line = Line::new(&session.caller, 0);
    let mut pages = Pages::new(prefix, true, &session.query);
    let ended = async {
        let mut page = pages.next(&mut line).await.map_err(|gave_up| gave_up.why)?;
        while let Some(rows) = page {
            if session.stop.is_cancelled() {
                return Err(stopped());
            }
            let files = files(rows, prefix.len(), &mut plan, args.skip, &progress, summary)?;
            // The next page comes while this one is written.
            let writing = write(files, &beneath, directory, usize::from(args.pace.jobs), &progress, summary);
            let (next, written) = tokio::join!(pages.next(&mut line), writing);
            written?;
            page = next.map_err(|gave_up| gave_up.why)?;
        }
        Ok(())
    };
    let ended = ended.await;
    // Also after a failure: what is said to be written is on disk.
    let synced = tokio::task::spawn_blocking(move || beneath.sync()).await.expect("a sync does not panic");
    drop(shown);
    progress.finish();
    ended.and(synced.map_err(cannot(format!("cannot bring the files below {} to disk", directory.display())))).map_err(
        |why| Failure::Unfinished {
            exit: why.exit(),
            advice: format!(
                "{} of {} files are there, each of them whole; the same command goes on from there",
                summary.written + summary.unchanged,
                plan.len()
            ),
            what: why.to_string(),
        },
    )
}

fn stopped() -> Failure {
    Failure::Run("stopped".to_string())
}

/// All keys, and which of them will be files.
async fn plan(
    session: &Session,
    args: &ExportArgs,
    prefix: &[u8],
    directory: &Path,
    summary: &mut Summary,
) -> Result<(Plan, Total), Failure> {
    let mut plan = Plan::default();
    let mut refused = Vec::new();
    let mut sizes = Vec::new();
    let mut line = Line::new(&session.caller, 0);
    let mut pages = Pages::new(prefix, false, &session.query);
    while let Some(rows) = pages.next(&mut line).await.map_err(|gave_up| gave_up.why)? {
        for row in rows {
            match plan.add(&row.key[prefix.len()..]) {
                Ok(()) => sizes.push((row.key, row.size)),
                Err(why) => refused.push(LeftOut { what: row.key, why }),
            }
        }
        if session.stop.is_cancelled() {
            return Err(stopped());
        }
    }
    let in_the_way = plan.settle(directory).into_iter();
    refused.extend(in_the_way.map(|LeftOut { what, why }| LeftOut { what: [prefix, &what].concat(), why }));
    refused.sort_unstable_by(|one, other| one.what.cmp(&other.what));
    if !refused.is_empty() {
        if !args.skip {
            say(&listed(&refused, "refused"));
            let (count, all, to) = (refused.len(), refused.len() + plan.len(), directory.display());
            let what = format!("{count} of {all} keys cannot be files below {to}, so that nothing was written");
            let advice = "--skip leaves them out, and writes the others; --ndjson takes every key".to_string();
            return Err(Failure::Unfinished { what, exit: Exit::Other, advice });
        }
        say(&listed(&refused, "left out"));
        summary.left_out.extend(refused);
    }
    let written = sizes.iter().filter(|(key, _)| plan.has(&key[prefix.len()..]));
    let total =
        written.fold(Total::default(), |sum, (_, size)| Total { items: sum.items + 1, bytes: sum.bytes + size });
    Ok((plan, total))
}

/// The rows that become files, with their paths.
fn files(
    rows: Vec<Row>,
    prefix: usize,
    plan: &mut Plan,
    skip: bool,
    progress: &Progress,
    summary: &mut Summary,
) -> Result<Vec<(Vec<u8>, Row)>, Failure> {
    let mut files = Vec::with_capacity(rows.len());
    for row in rows {
        let path = row.key[prefix..].to_vec();
        if plan.has_refused(&path) {
            continue;
        }
        if !plan.has(&path)
            && let Err(why) = plan.add_late(&path)
        {
            if !skip {
                return Err(Failure::Run(format!("{}: {why}", name(&row.key))));
            }
            let left_out = LeftOut { what: row.key, why };
            progress.say(&listed(std::slice::from_ref(&left_out), "left out"));
            summary.left_out.push(left_out);
            continue;
        }
        files.push((path, row));
    }
    Ok(files)
}

/// Writes them, `jobs` at a time. The first that fails ends it; those under way are waited for.
async fn write(
    files: Vec<(Vec<u8>, Row)>,
    beneath: &Arc<Beneath>,
    directory: &Path,
    jobs: usize,
    progress: &Progress,
    summary: &mut Summary,
) -> Result<(), Failure> {
    let mut files = files.into_iter();
    let mut running = JoinSet::new();
    let mut failed = None;
    loop {
        while running.len() < jobs
            && failed.is_none()
            && let Some((path, row)) = files.next()
        {
            let beneath = beneath.clone();
            running.spawn_blocking(move || {
                let content = row.value.unwrap_or_default();
                let written = beneath.write(&path, &content);
                (path, content.len() as u64, written)
            });
        }
        let Some(done) = running.join_next().await else { break };
        let (path, bytes, written) = done.expect("writing a file does not panic");
        match written {
            Ok(stored) => {
                match stored {
                    Stored::Written => {
                        summary.written += 1;
                        summary.bytes += bytes;
                    }
                    Stored::Unchanged => summary.unchanged += 1,
                }
                progress.add(bytes);
            }
            Err(source) => {
                let what = format!("cannot write {}", directory.join(std::ffi::OsStr::from_bytes(&path)).display());
                failed.get_or_insert(Failure::Io { what, source });
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Where lines go.
enum Sink {
    Output,
    File(Whole),
    /// A device or a pipe has no other name to be written under.
    Plain(std::fs::File),
}

impl Sink {
    fn open(file: &Path) -> io::Result<Self> {
        if file == Path::new("-") {
            return Ok(Self::Output);
        }
        match std::fs::metadata(file) {
            Ok(there) if there.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            Ok(there) if !there.is_file() => Ok(Self::Plain(std::fs::File::options().write(true).open(file)?)),
            // A link stays one, and leads to what is written.
            Ok(_) => Ok(Self::File(Whole::create(&std::fs::canonicalize(file)?)?)),
            Err(_) => Ok(Self::File(Whole::create(file)?)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Output => {
                let mut output = io::stdout().lock();
                output.write_all(bytes)?;
                output.flush()
            }
            Self::File(whole) => whole.write_all(bytes),
            Self::Plain(file) => file.write_all(bytes),
        }
    }

    fn complete(self) -> io::Result<()> {
        match self {
            Self::File(whole) => whole.complete(),
            Self::Output | Self::Plain(_) => Ok(()),
        }
    }
}

async fn lines(session: &Session, prefix: &[u8], file: &Path, summary: &mut Summary) -> Result<(), Failure> {
    let to = if file == Path::new("-") { "standard output".to_string() } else { file.display().to_string() };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::BrokenPipe if file == Path::new("-") => Failure::OutputClosed,
        _ => Failure::Io { what: format!("cannot write to {to}"), source },
    };
    let path = file.to_path_buf();
    let mut sink = session.open(move || Sink::open(&path)).await.map_err(failed)?;
    let is_whole_or_nothing = matches!(sink, Sink::File(_));
    let mut is_ending = false;
    let (progress, _shown) = Progress::start("keys", None);
    let mut line = Line::new(&session.caller, 0);
    let mut pages = Pages::new(prefix, true, &session.query);
    let written = async {
        while let Some(rows) = pages.next(&mut line).await.map_err(|gave_up| gave_up.why)? {
            if session.stop.is_cancelled() {
                return Err(stopped());
            }
            let sizes: Vec<u64> = rows.iter().map(|row| row.size).collect();
            // Apart from this thread, which hears Ctrl-C while a reader of the pipe takes its time.
            let writing = tokio::task::spawn_blocking(move || {
                let lines = rows.iter().map(|row| ndjson::line(row, row.value.as_deref().unwrap_or_default()));
                let written = sink.write(&lines.collect::<Vec<_>>().concat());
                (sink, written)
            });
            let (back, written) = writing.await.expect("writing lines does not panic");
            sink = back;
            written.map_err(failed)?;
            for size in sizes {
                summary.written += 1;
                summary.bytes += size;
                progress.add(size);
            }
        }
        is_ending = true;
        let complete = tokio::task::spawn_blocking(move || sink.complete()).await;
        complete.expect("ending a file does not panic").map_err(failed)
    };
    let ended = written.await;
    progress.finish();
    if ended.is_err() && is_whole_or_nothing {
        // They stood in the temporary file, which is gone.
        (summary.written, summary.bytes) = (0, 0);
    }
    ended.map_err(|why| match why {
        Failure::OutputClosed => why,
        why => {
            let advice = match (is_whole_or_nothing, is_ending) {
                (true, false) => format!("{to} is as it was before"),
                // It may have its name already, and not be sure to survive a crash.
                (true, true) => format!("{to} is as it was before, or complete"),
                (false, _) => "the lines end early".to_string(),
            };
            Failure::Unfinished { exit: why.exit(), advice, what: why.to_string() }
        }
    })
}
