//! Faults by a script, each at the one moment at which a certain bug would show, and a small history that the checker
//! judges. Every script is there for a bug that random faults meet seldom; it is good on Ringraft as it is, stays as a
//! regression test, and is known to find its bug when that is planted (`crate::mutants`).
//!
//! A script runs as a client inside the simulation, asks the nodes over HTTP, and orders crashes and restarts of the
//! driver ([`scene`]). What it needs to have happened and cannot bring about makes the run void, never good.

mod apply;
mod command;
mod durability;
mod leadership;
mod leases;
mod placement;
mod scene;
mod snapshots;

use std::collections::BTreeMap;
use std::fmt;

use ringraft::config::Config;
use serde::{Deserialize, Serialize};

use crate::checker::{self, Report, Violation};
use crate::history::{Answer, History, Mode, Operation, Outcome, Request};
use crate::record::FaultCount;
pub use command::{Summary, command};
use scene::{Playing, Scene};

/// A script and the cluster it is for.
pub struct Script {
    pub name: &'static str,
    /// What it holds Ringraft to.
    pub about: &'static str,
    /// Nodes beside the three that most scripts have: they take replicas that are moved.
    spare_nodes: u64,
    config: fn(&mut Config),
    /// Of a node's clock, in millionths of the simulation's.
    rate: fn(u64) -> u64,
    play: fn(Scene) -> Playing,
}

pub static ALL: &[Script] = &[
    durability::POWER_LOSS_OF_ALL,
    durability::FORGOTTEN_VOTE,
    leadership::WRITE_AT_CUT_OFF_LEADER,
    leadership::READ_AT_CUT_OFF_LEADER,
    leadership::LATE_ANSWER,
    leases::SLOW_CLOCK,
    leases::RESTARTED_VOTERS,
    apply::RIVAL_WRITERS,
    apply::RESTART_FROM_FLUSHED_ROWS,
    snapshots::CRASH_AFTER_INSTALL,
    snapshots::RETRY_AFTER_INSTALL,
    placement::OLD_ROUTE_AFTER_SPLIT,
    placement::OLD_ROUTE_AFTER_MOVE,
    placement::VOTE_OF_A_DESTROYED_REPLICA,
];

pub fn find(name: &str) -> Option<&'static Script> {
    ALL.iter().find(|script| script.name == name)
}

/// What is wrong, as far as a table can tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// What a linearizable read was answered fits into no order: it is older than it may be, lost, or never was.
    Read,
    /// The same of a read that was served by the lease.
    LeaseRead,
    /// A read saw what only writes carried that were told as not applied.
    FailedWriteSeen,
    /// What a write was answered fits into no order.
    Write,
    /// Revisions went back, were given twice, or changed.
    Revisions,
    /// A stale read was older than it said.
    StaleRead,
    /// Replicas of one shard differ at one applied index.
    ReplicasDiffer,
}

impl Sign {
    /// What a violation that the checker found is a sign of.
    fn of(violation: &Violation, history: &History) -> Self {
        match violation.kind {
            checker::Kind::Revisions => return Sign::Revisions,
            checker::Kind::StaleRead => return Sign::StaleRead,
            checker::Kind::Order => {}
        }
        let culprit = violation.culprits.first();
        let culprit = history.operations.iter().find(|operation| Some(&operation.id) == culprit);
        let Some(Operation { request: Request::Get { mode }, served, outcome, key, .. }) = culprit else {
            return Sign::Write;
        };
        if let Outcome::Ok(Answer::Found { value: Some(seen), .. }) = outcome {
            let writes = history
                .operations
                .iter()
                .filter(|one| one.key == *key && matches!(&one.request, Request::Put { value, .. } if value == seen));
            let failed: Vec<bool> = writes.map(|write| write.outcome == Outcome::Fail).collect();
            if !failed.is_empty() && failed.iter().all(|failed| *failed) {
                return Sign::FailedWriteSeen;
            }
        }
        if served.unwrap_or(*mode) == Mode::Lease { Sign::LeaseRead } else { Sign::Read }
    }

    pub fn name(self) -> &'static str {
        match self {
            Sign::Read => "read",
            Sign::LeaseRead => "lease-read",
            Sign::FailedWriteSeen => "failed-write-seen",
            Sign::Write => "write",
            Sign::Revisions => "revisions",
            Sign::StaleRead => "stale-read",
            Sign::ReplicasDiffer => "replicas-differ",
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one run of a script came to.
pub struct Played {
    pub report: Report,
    /// Of the history, and what was seen besides it.
    pub violations: Vec<Found>,
    /// Why it proves nothing: the script did not come to its end.
    pub void: Option<String>,
    pub faults: BTreeMap<String, FaultCount>,
    pub simulated_seconds: f64,
    pub history: History,
    /// The lines that it was read from.
    pub lines: Vec<u8>,
}

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub sign: Sign,
    pub why: String,
}

/// Plays a script in this process, which must have simulated nothing before if the same seed is to show the same.
pub fn play(script: &Script, seed: u64) -> Played {
    scene::play(script, seed)
}

fn usual(_: &mut Config) {}

fn even(_: u64) -> u64 {
    super::clocks::MILLION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_found_by_its_name() {
        for script in ALL {
            assert!(std::ptr::eq(find(script.name).unwrap(), script), "two are named {}", script.name);
        }
    }

    fn sign(lines: &[&str]) -> Sign {
        let history = crate::history::read((lines.join("\n") + "\n").as_bytes()).unwrap();
        let report = checker::check(&history);
        Sign::of(&report.violations[0], &history)
    }

    #[test]
    fn a_sign_says_whose_answer_is_impossible() {
        let put = r#"{"type":"invoke","op":1,"process":1,"f":"put","key":"k","value":"a","time":1}"#;
        let put_ok = r#"{"type":"ok","op":1,"time":2,"applied":true,"ver":"0000000000000005","status":204}"#;
        let put_failed = r#"{"type":"fail","op":1,"time":2}"#;
        let get = r#"{"type":"invoke","op":2,"process":2,"f":"get","key":"k","mode":"lease","time":3}"#;
        let absent = r#"{"type":"ok","op":2,"time":4,"found":false,"served":"linearizable"}"#;
        let by_lease = r#"{"type":"ok","op":2,"time":4,"found":false,"served":"lease"}"#;
        let found = r#"{"type":"ok","op":2,"time":4,"found":true,"value":"a","ver":"0000000000000005"}"#;
        assert_eq!(sign(&[put, put_ok, get, absent]), Sign::Read);
        assert_eq!(sign(&[put, put_ok, get, by_lease]), Sign::LeaseRead);
        assert_eq!(sign(&[put, put_failed, get, found]), Sign::FailedWriteSeen);
        let create =
            r#"{"type":"invoke","op":2,"process":2,"f":"cas","key":"k","value":"b","expect":"absent","time":3}"#;
        let created = r#"{"type":"ok","op":2,"time":4,"applied":true,"ver":"0000000000000006","status":204}"#;
        assert_eq!(sign(&[put, put_ok, create, created]), Sign::Write);
    }
}
