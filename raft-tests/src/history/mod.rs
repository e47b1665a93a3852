//! What clients asked and were told, and which faults stood meanwhile: one JSON object a line, in the order in which it
//! happened. A runner writes it with a [`Recorder`]; [`read`] takes it back and refuses whatever does not hold together;
//! [`crate::checker`] judges it.
//!
//! ```text
//! {"type":"invoke","op":7,"process":3,"f":"cas","key":"a1","value":"3.9","expect":"0000000000000004","node":"n2","time":1200345}
//! {"type":"ok","op":7,"time":1203456,"applied":true,"ver":"0000000000000012","status":204}
//! {"type":"nemesis","fault":"partition/leader","what":"begin","on":["n2"],"confirmed":true,"time":1300000}
//! ```
//!
//! | `f` | wants | `ok` says |
//! |---|---|---|
//! | `get` | `mode`: `linearizable` (when left out), `lease` or `stale` | `found`; with it `ver`, and `value` unless the body was not sent (304, HEAD) |
//! | `put` | `value` | `applied: true`, `ver` |
//! | `cas` | `value`, `expect` | the same, or `applied: false` with `found` and `ver`: a 412 with the current revision, or with none |
//! | `delete` | `expect` or not | `applied: true`, `ver` if told; or as a refused `cas` |
//!
//! `expect` is a revision (`If-Match`), `"exists"` (`If-Match: *`) or `"absent"` (`If-None-Match: *`). Revisions are
//! spelled as in the `ETag`, so that a line of a history and a line of a log can be found by each other.
//!
//! Rules that make a history worth checking:
//! - `ok`: it happened, and this is the answer. `fail`: it did not happen and never will. `info`: nobody knows, now or
//!   later. No end at all means the same as `info`. A 412 is `ok`: it tells of the key at one moment. Time-outs and broken
//!   connections after the request left are `info`; a refused connection and an answer `not_applied` are `fail`.
//! - A process has one operation open at a time and is retired by an `info`: its operation may still take effect.
//! - `time` is in microseconds of one clock, the runner's, and never goes back. What counts for "before" is the order of
//!   the lines, which is finer.
//! - Every key is absent when its history begins.
//! - A retry under one `idempotency` key is an operation of its own; all that ask the same under one such key are
//!   checked as one write. A runner draws a new one for each write and does not come back to it after the server may
//!   have forgotten it (10 minutes).
//! - Unknown fields are refused: a misspelt `expect` would turn a compare-and-set into a blind write and the checker
//!   blind. What a runner wants to say besides goes into `note`, which takes any JSON.

mod event;
mod reader;
mod writer;

pub use event::{Answer, End, Event, Expect, Function, Invoke, Micros, Mode, Nemesis, OpId, Phase, ProcessId, Request};
pub use reader::{Fault, Malformed, read};
pub use writer::{About, Call, Recorder, Running, Session};

/// Where an event stands: its place among all events of the history, from 0, and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub event: usize,
    pub time: Micros,
}

/// One operation from its invocation to its end.
#[derive(Clone, Debug)]
pub struct Operation {
    pub id: OpId,
    pub process: ProcessId,
    pub key: String,
    pub request: Request,
    pub node: Option<String>,
    /// As the answer says, or else as the runner thought.
    pub shard: Option<String>,
    pub idempotency: Option<String>,
    pub invoked: At,
    /// None: the history ends before it.
    pub ended: Option<At>,
    pub outcome: Outcome,
    pub status: Option<u16>,
    /// How a read was really served, if the answer says so.
    pub served: Option<Mode>,
    /// How old a stale read said that it was.
    pub age_ms: Option<u64>,
    /// Of a `fail` or an `info`.
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok(Answer),
    Fail,
    /// Also when there is no end.
    Info,
}

impl Operation {
    pub fn is_write(&self) -> bool {
        !matches!(self.request, Request::Get { .. })
    }

    /// A read that promises no more than a state of the past.
    pub fn is_stale_read(&self) -> bool {
        matches!(self.request, Request::Get { mode: Mode::Stale })
    }
}

/// A history that holds together.
///
/// Invariants: operations stand in the order of their invocations; an operation ends after it began; of one process no
/// two overlap; times do not go back from event to event.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    /// With each one's place.
    pub nemeses: Vec<(At, Nemesis)>,
    pub events: usize,
}
