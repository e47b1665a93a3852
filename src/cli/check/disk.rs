//! The measurement: appends to a file that is allocated ahead and grows, each followed by fdatasync, as RocksDB does for
//! the log. Data is random, so that a file system that compresses or shares blocks gains nothing.
//!
//! A file is removed when its writer is done, however it ends; one that is left by SIGKILL has a name that says whose
//! it was.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::FallocateFlags;

use super::Latencies;
use crate::clock;

/// A writer begins a new file after so many bytes, as the log does, and removes the old one.
const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) directory: PathBuf,
    pub(super) append_bytes: usize,
    /// Of each writer.
    pub(super) appends: u64,
    pub(super) writers: u16,
    pub(super) duration: Duration,
}

pub(super) struct Samples {
    pub(super) latencies: Latencies,
    /// From the first append to the last, of all writers.
    pub(super) elapsed: Duration,
}

impl Samples {
    pub(super) fn per_second(&self) -> f64 {
        let count = self.latencies.count() as f64;
        (count / self.elapsed.as_secs_f64().max(1e-9)).round()
    }
}

/// Runs all writers at the same time, each on a thread for blocking work, until they are done or `stop` is set.
pub(super) async fn measure(plan: Plan, stop: Arc<AtomicBool>) -> io::Result<Samples> {
    let begin = clock::now();
    let plan = Arc::new(plan);
    let writers = (0..plan.writers).map(|writer| {
        let (plan, stop) = (plan.clone(), stop.clone());
        tokio::task::spawn_blocking(move || {
            let written = append(&plan, writer, &stop);
            // One writer less would be another measurement.
            if written.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            written
        })
    });
    let mut latencies = Latencies::new();
    for written in join_all(writers).await {
        latencies.add(&written.map_err(io::Error::other)??);
    }
    Ok(Samples { latencies, elapsed: clock::now().since(begin) })
}

fn append(plan: &Plan, writer: u16, stop: &AtomicBool) -> io::Result<Latencies> {
    let mut data = vec![0; plan.append_bytes];
    SmallRng::seed_from_u64(clock::random_u64()).fill_bytes(&mut data);
    let end = clock::now().after(plan.duration);
    let mut latencies = Latencies::new();
    let mut file = Appended::create(&plan.directory, writer, 0)?;
    for _ in 0..plan.appends {
        if file.bytes >= FILE_BYTES_MAX {
            file = Appended::create(&plan.directory, writer, file.number + 1)?;
        }
        let begin = clock::now();
        if begin >= end || stop.load(Ordering::Relaxed) {
            break;
        }
        file.append(&data)?;
        latencies.record(clock::now().since(begin));
    }
    Ok(latencies)
}

struct Appended {
    file: File,
    path: PathBuf,
    number: u64,
    bytes: u64,
}

impl Appended {
    fn create(directory: &Path, writer: u16, number: u64) -> io::Result<Self> {
        let name = format!(".ringraft-check-disk-{}-{writer}-{number}", std::process::id());
        let path = directory.join(name);
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        let this = Self { file, path, number, bytes: 0 };
        match rustix::fs::fallocate(&this.file, FallocateFlags::KEEP_SIZE, 0, FILE_BYTES_MAX) {
            // Not every file system can; the log goes on without as well.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        // The allocation is none of the first append's business.
        this.file.sync_all()?;
        Ok(this)
    }

    fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data)?;
        self.file.sync_data()?;
        self.bytes += data.len() as u64;
        Ok(())
    }
}

impl Drop for Appended {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            let _ = writeln!(io::stderr(), "{} could not be removed: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(directory: &Path) -> Plan {
        let directory = directory.to_path_buf();
        Plan { directory, append_bytes: 4 << 20, appends: 9, writers: 1, duration: Duration::from_secs(60) }
    }

    #[test]
    fn a_file_ends_at_its_length_and_the_next_one_takes_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = Appended::create(directory.path(), 0, 0).unwrap();
        file.append(&[1; 1000]).unwrap();
        assert_eq!((file.bytes, std::fs::metadata(&file.path).unwrap().len()), (1000, 1000), "allocated, not longer");
        drop(file);
        assert_eq!(append(&plan(directory.path()), 0, &AtomicBool::new(false)).unwrap().count(), 9);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn writers_stop_when_they_are_told_and_at_the_end_of_their_time() {
        let directory = tempfile::tempdir().unwrap();
        let stopped = measure(plan(directory.path()), Arc::new(AtomicBool::new(true))).await.unwrap();
        assert_eq!(stopped.latencies.count(), 0);
        let short = Plan {
            appends: u64::MAX,
            append_bytes: 512,
            duration: Duration::from_millis(50),
            ..plan(directory.path())
        };
        let timed = measure(short, Arc::new(AtomicBool::new(false))).await.unwrap();
        assert!(timed.latencies.count() > 0 && timed.elapsed < Duration::from_secs(30));
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn one_writer_that_fails_ends_them_all() {
        let gone = Plan { writers: 3, ..plan(Path::new("/no/such/directory")) };
        let failed = measure(gone, Arc::new(AtomicBool::new(false))).await;
        assert_eq!(failed.err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}
