//! Tests of and with the file system that loses power.
//!
//! They need root and /dev/fuse. Where these are missing a test says so, on a line that begins with `skipped:`, and shows
//! nothing; with `CI=true` in the environment it fails instead, so that what nobody ran is never taken for what passed.

mod conformance;
mod durability;
mod faults;
mod life;
mod power_cuts;
pub(crate) mod support;

use std::io::Write;

use raft_tests::powerfs::why_not_here;

/// Whether the test that asks can show nothing on this machine.
pub(crate) fn skipped() -> bool {
    let Some(why) = why_not_here() else { return false };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
    let test = std::thread::current().name().unwrap_or_default().to_string();
    // Past the harness, which shows nothing of what a test that passes prints.
    #[expect(clippy::explicit_write, reason = "what a passed test prints by macro is not shown")]
    writeln!(std::io::stderr(), "skipped: {test}: {why}").unwrap();
    true
}
