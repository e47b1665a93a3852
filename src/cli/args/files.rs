//! The flags of `import` and `export`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::duration;

/// Requests in flight, or files written, at the same time at most.
const JOBS_MAX: i64 = 256;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ImportArgs {
    /// Directory whose files are stored, each under its path below it.
    #[arg(value_name = "DIR", required_unless_present = "ndjson", conflicts_with = "ndjson")]
    pub(in crate::cli) directory: Option<PathBuf>,
    /// Put before every path or key as it is; a slash between is part of it. '' for none.
    #[arg(long, value_name = "P", required_unless_present = "ndjson")]
    pub(in crate::cli) prefix: Option<OsString>,
    /// Store the lines of a file instead, or of standard input (`-`, or no name): one object a line, with key (or
    /// key_b64), value (or value_b64) and, if wanted, content_type.
    #[arg(long, value_name = "FILE|-", num_args = 0..=1, default_missing_value = "-")]
    pub(in crate::cli) ndjson: Option<PathBuf>,
    /// Leave out what cannot be stored, and list it. Otherwise one such file or line ends the import.
    #[arg(long)]
    pub(in crate::cli) skip: bool,
    #[command(flatten)]
    pub(in crate::cli) pace: PaceArgs,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ExportArgs {
    /// Directory that the files are written to; made when it is not there.
    #[arg(value_name = "DIR", required_unless_present = "ndjson", conflicts_with = "ndjson")]
    pub(in crate::cli) directory: Option<PathBuf>,
    /// Only keys that begin so; a file's path is what follows in its key. '' for all keys.
    #[arg(long, value_name = "P", required_unless_present = "ndjson")]
    pub(in crate::cli) prefix: Option<OsString>,
    /// Write lines to a file instead, or to standard output (`-`, or no name): key, content_type and value of one key
    /// each, with the whole key, as `import --ndjson` takes them.
    #[arg(long, value_name = "FILE|-", num_args = 0..=1, default_missing_value = "-")]
    pub(in crate::cli) ndjson: Option<PathBuf>,
    /// Leave out keys that can be no file below DIR, and list them. Otherwise one such key ends the export.
    #[arg(long, conflicts_with = "ndjson")]
    pub(in crate::cli) skip: bool,
    #[command(flatten)]
    pub(in crate::cli) pace: PaceArgs,
}

/// How hard and how long to try.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(in crate::cli) struct PaceArgs {
    /// Requests in flight, or files written, at the same time: 1 to 256.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=JOBS_MAX))]
    pub(in crate::cli) jobs: u16,
    /// How long one request is tried again while the cluster does not take it.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(in crate::cli) retry_for: Duration,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::{parse, refused};
    use super::super::{Args, Command};
    use super::*;

    fn import(line: &[&str]) -> ImportArgs {
        match parse(&[&["import"], line].concat()) {
            Ok(Args { command: Command::Import(args), .. }) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_or_lines_are_imported_and_never_both_or_neither() {
        let args = import(&["tree", "--prefix", "p/"]);
        assert_eq!((args.directory.as_deref(), args.ndjson), (Some(Path::new("tree")), None));
        assert_eq!((args.pace.jobs, args.pace.retry_for), (32, Duration::from_secs(60)));
        assert_eq!(import(&["--ndjson"]).ndjson.as_deref(), Some(Path::new("-")));
        assert_eq!(import(&["--ndjson", "f", "--prefix", "p"]).ndjson.as_deref(), Some(Path::new("f")));
        for command in ["import", "export"] {
            refused(&[command]);
            refused(&[command, "tree"]);
            refused(&[command, "--prefix", "p"]);
            refused(&[command, "tree", "--prefix", "p", "--ndjson", "f"]);
            for jobs in ["0", "257", "-1", "many"] {
                refused(&[command, "tree", "--prefix", "p", "--jobs", jobs]);
            }
            refused(&[command, "tree", "--prefix", "p", "--retry-for", "soon"]);
        }
        refused(&["export", "--ndjson", "--skip"]);
    }
}
