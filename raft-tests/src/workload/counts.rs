//! What came of a workload's operations so far, counted by kind, code, node and shard.

use std::collections::BTreeMap;

use super::Kind;
use super::answer::{Ended, Judged};
use crate::history::{Mode, Request};

/// Of one kind of client, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub ok: u64,
    pub fail: u64,
    pub info: u64,
}

impl Ends {
    pub fn all(self) -> u64 {
        self.ok + self.fail + self.info
    }

    fn add(&mut self, ended: &Ended) {
        match ended {
            Ended::Ok(_) => self.ok += 1,
            Ended::Fail => self.fail += 1,
            Ended::Info => self.info += 1,
        }
    }
}

/// Operations that have ended. Requests that are no operations of a history (pages of scans) are counted apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub ops: Ends,
    pub writes: Ends,
    pub by_kind: BTreeMap<Kind, Ends>,
    /// By name of the node that was asked.
    pub by_target: BTreeMap<String, Ends>,
    /// Answered ones, by the shard that the answer names.
    pub by_shard: BTreeMap<String, u64>,
    /// Answered reads, by how they were served.
    pub reads_served: BTreeMap<Mode, u64>,
    pub fail_by_code: BTreeMap<String, u64>,
    pub info_by_code: BTreeMap<String, u64>,
    pub pages: u64,
    /// Pages that got no answer, by code.
    pub pages_failed: BTreeMap<String, u64>,
    /// Answers that another attempt under the same idempotency key had got before.
    pub replayed: u64,
}

impl Counts {
    pub fn kind(&self, kind: Kind) -> Ends {
        self.by_kind.get(&kind).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, kind: Kind, target: &str, request: &Request, judged: &Judged) {
        let ended = &judged.ended;
        self.ops.add(ended);
        if !matches!(request, Request::Get { .. }) {
            self.writes.add(ended);
        }
        self.by_kind.entry(kind).or_default().add(ended);
        if let Some(ends) = self.by_target.get_mut(target) {
            ends.add(ended);
        } else {
            self.by_target.entry(target.to_string()).or_default().add(ended);
        }
        match ended {
            Ended::Ok(_) => {
                if let Some(served) = judged.about.served {
                    *self.reads_served.entry(served).or_default() += 1;
                }
                if let Some(shard) = &judged.about.shard {
                    *self.by_shard.entry(shard.clone()).or_default() += 1;
                }
            }
            Ended::Fail => *self.fail_by_code.entry(judged.code.clone()).or_default() += 1,
            Ended::Info => *self.info_by_code.entry(judged.code.clone()).or_default() += 1,
        }
        self.replayed += u64::from(judged.replayed);
    }
}
