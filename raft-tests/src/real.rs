//! `raft-tests real`: faults in a cluster of real processes, under load, with a verdict.
//!
//! [`world`] is where it takes place, [`faults`] what is done to it, [`profile`] which faults in which order, [`run`] the
//! course of a run, [`judge`] when it proves nothing. The load is [`crate::workload`]'s, the verdict on what the clients
//! were told [`crate::checker`]'s.

use std::path::Path;

use ringraft::clock;
use tokio::signal::unix::{SignalKind, signal};

use crate::record::{EXIT_BAD_INPUT, Run};

pub mod faults;
pub mod figures;
pub mod judge;
pub mod look;
pub mod node;
pub mod options;
pub mod probe;
pub mod profile;
pub mod run;
pub mod world;

use faults::Fault;
use options::{Options, USAGE};
use world::{Ground, Kind};

/// Violations, and reasons for anything else, that are printed one by one.
const REASONS_SHOWN: usize = 10;

/// `raft-tests real …`: gives the exit code.
pub fn command(words: &[&str]) -> u8 {
    if words == ["--list"] {
        for profile in profile::ALL {
            let cards = profile.playable(|fault| can(Ground::Proxy, fault)).len();
            let without = match profile.cards.len() {
                all if all == cards => "",
                _ if cards == 0 => " (root only)",
                _ => " (without root fewer)",
            };
            println!("{:<12} {:>4} s  {}{without}", profile.name, profile.seconds, profile.about);
        }
        return 0;
    }
    let options = match Options::parse(words, || clock::random_u64() >> 32) {
        Ok(options) => options,
        Err(why) => return refuse(&format!("{why}\n{USAGE}")),
    };
    if options.ground == Ground::Bridge && !world::bridge::inside() {
        let why = world::bridge::why_not_here().unwrap_or_else(world::bridge::enter_private_namespaces);
        return refuse(&format!("{why}. With --no-root it runs without namespaces, and makes fewer faults."));
    }
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else {
        return refuse("no runtime");
    };
    let result = runtime.block_on(async {
        tokio::select! {
            result = run::run(&options) => result,
            // The nodes that were started end with the run that is dropped here.
            () = told_to_end() => Err("told to end".to_string()),
        }
    });
    match result {
        Ok(run) => run.verdict().exit_code(),
        Err(why) => refuse(&why),
    }
}

/// `raft-tests try …`: the profile of that name, as root or not, whichever works here.
pub fn try_it(words: &[&str]) -> u8 {
    let mut words = [&["--profile", "try"], words].concat();
    let without_root = words.contains(&"--no-root");
    if let Some(why) = world::bridge::why_not_here().filter(|_| !without_root) {
        println!("without root, on loopback, because: {why}");
        words.push("--no-root");
    }
    command(&words)
}

fn refuse(why: &str) -> u8 {
    eprintln!("raft-tests real: {why}");
    EXIT_BAD_INPUT
}

/// SIGINT or SIGTERM.
async fn told_to_end() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Whether a world can make a fault.
pub fn can(ground: Ground, fault: Fault) -> bool {
    match fault {
        Fault::Loss => ground.can(Kind::Loss),
        Fault::Delay => ground.can(Kind::Delay),
        // Mounting a file system needs root.
        Fault::Power(_) | Fault::Torn | Fault::Disk(_) => ground == Ground::Bridge,
        _ => true,
    }
}

/// Says which of the profile's faults this world does not make.
fn tell_left_out(options: &Options) {
    let mut left_out: Vec<String> = options
        .profile
        .cards
        .iter()
        .flat_map(|card| card.iter())
        .filter(|fault| !can(options.ground, **fault))
        .map(|fault| fault.name())
        .collect();
    left_out.sort_unstable();
    left_out.dedup();
    if options.ground == Ground::Proxy {
        println!("  without root: nodes on loopback behind a proxy; no namespaces, no power loss, no lost packets");
    }
    if !left_out.is_empty() {
        println!("  not made here: {}", left_out.join(", "));
    }
}

fn print(run: &Run, written: &Path, page: &Path) {
    println!(
        "  {} operations checked, {} answered, {} writes, {} of unknown outcome, in {:.1} s",
        run.operations, run.ok, run.writes, run.unknown_writes, run.seconds
    );
    for (name, count) in &run.faults {
        println!(
            "  {name:<24} confirmed {}, not confirmed {}, hit a leader {}",
            count.confirmed, count.unconfirmed, count.hit_leader
        );
    }
    for (name, value) in &run.figures {
        println!("  {name:<48} {value:.1}");
    }
    for (what, reasons) in [("violation", &run.violations), ("undecided", &run.undecided), ("void", &run.void)] {
        for reason in reasons.iter().take(REASONS_SHOWN) {
            println!("  {what}: {reason}");
        }
        if reasons.len() > REASONS_SHOWN {
            println!("  {what}: and {} more", reasons.len() - REASONS_SHOWN);
        }
    }
    println!("  {}\n  report: {}", written.display(), page.display());
    println!("{}: {}", run.profile, run.verdict().name());
}
