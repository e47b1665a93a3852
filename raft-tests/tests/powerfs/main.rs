//! Tests of and with the file system that loses power. They need root and /dev/fuse, which only shows when they run, so
//! they have a harness of their own: it prints what the standard one prints, and where they cannot run it reports every
//! one of them as ignored, with the reason.
//!
//!     cargo test --release --test powerfs -- [NAME]... [--exact] [--skip NAME]... [--cuts NUMBER]

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;
mod durability;
mod faults;
mod life;
mod rocks;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Power cuts under a database, unless `--cuts` says otherwise.
const CUTS: u64 = 24;

struct Arguments {
    names: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    cuts: u64,
}

type Test = (&'static str, fn(u64));

/// Each gets the number of cuts.
const TESTS: &[Test] = &[
    ("conformance::looks_like_a_plain_directory_whatever_is_done_to_it", conformance::random_operations),
    ("conformance::handles_of_removed_files_go_on_and_locks_hold", conformance::handles_and_locks),
    ("durability::a_clean_cut_keeps_what_was_synced_and_nothing_else", durability::clean_cuts),
    ("durability::a_torn_cut_leaves_states_that_existed_page_by_page_and_name_by_name", durability::torn_cuts),
    ("durability::a_rename_over_a_file_leaves_the_old_one_or_the_new_one", durability::rename_over),
    ("durability::what_was_truncated_is_never_there_beside_what_came_after", durability::truncation),
    ("durability::two_names_of_one_file_are_one_file_after_a_cut", durability::hard_links),
    ("durability::a_new_file_needs_its_directory_synced_unless_there_is_a_journal", durability::new_file),
    ("durability::with_a_journal_what_survives_is_a_prefix_else_any_subset", durability::journal),
    ("durability::no_cut_takes_moved_directories_out_of_reach", durability::moved_directories),
    ("durability::handles_from_before_a_cut_fail_for_ever", durability::old_handles),
    ("faults::failed_syncs_lose_their_pages_and_stop_when_they_are_told", faults::failed_syncs),
    ("faults::failed_writes_and_full_disks_act_and_stop_acting", faults::failed_writes_and_full_disks),
    ("faults::a_slow_sync_is_not_durable_before_it_returns", faults::slow_sync),
    ("faults::a_flipped_bit_is_read_flipped", faults::flipped_bit),
    ("life::what_is_unmounted_is_durable_and_a_crashed_file_system_is_refused", life::unmount_and_crash),
    ("life::a_cut_from_outside_reaches_a_process_that_was_not_killed", life::control_socket),
    ("rocks::what_the_log_engine_acknowledged_survives_power_cuts", rocks::acknowledged_survives),
    ("rocks::a_writer_that_acknowledges_before_the_sync_is_caught", rocks::unsynced_is_caught),
    ("rocks::a_disk_that_lies_about_syncs_of_files_is_caught", rocks::lying_file_sync_is_caught),
    ("rocks::a_disk_that_lies_about_syncs_of_directories_is_caught", rocks::lying_directory_sync_is_caught),
];

fn main() -> ExitCode {
    let arguments = parse();
    let chosen: Vec<&Test> = TESTS.iter().filter(|(name, _)| arguments.wants(name)).collect();
    if arguments.list {
        for (name, _) in &chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let started = support::now();
    let hindrance = raft_tests::powerfs::why_not_here();
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    println!("\nrunning {} tests", chosen.len());
    for (name, test) in &chosen {
        if let Some(why) = hindrance {
            ignored += 1;
            println!("test {name} ... ignored, {why}");
        } else if catch_unwind(AssertUnwindSafe(|| test(arguments.cuts))).is_ok() {
            passed += 1;
            println!("test {name} ... ok");
        } else {
            failed += 1;
            println!("test {name} ... FAILED");
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let out = TESTS.len() - chosen.len();
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {out} filtered out; \
         finished in {:.2}s\n",
        started.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        let fits = |wanted: &String| if self.exact { name == wanted } else { name.contains(wanted.as_str()) };
        (self.names.is_empty() || self.names.iter().any(fits)) && !self.skipped.iter().any(fits)
    }
}

/// Options of the standard harness that have no meaning here are passed over.
fn parse() -> Arguments {
    let mut found = Arguments { names: Vec::new(), skipped: Vec::new(), exact: false, list: false, cuts: CUTS };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--exact" => found.exact = true,
            "--list" => found.list = true,
            "--skip" => found.skipped.extend(rest.next()),
            "--cuts" => found.cuts = rest.next().and_then(|cuts| cuts.parse().ok()).expect("--cuts wants a number"),
            "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => drop(rest.next()),
            option if option.starts_with('-') => {}
            _ => found.names.push(argument),
        }
    }
    found
}
