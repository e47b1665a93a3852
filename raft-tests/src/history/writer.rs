//! Writes a history while it happens: one writer, shared by all tasks of a runner.
//!
//! An invocation is on its way to the disk before its request leaves: [`Session::invoke`] returns after the line was
//! handed to the operating system by one `write`, with no buffer of this program in between. A runner that is killed
//! then leaves every request that a server may have seen. It is no `fsync`: that would only matter when the machine of
//! the runner loses power, which ends the run anyway, and it would slow the load that is to be watched.
//!
//! Invariants: a line is written whole or the recorder takes nothing more; the time of a line is read under the same
//! lock that orders the lines; a process has one operation open (a [`Running`] borrows its [`Session`]) and gets a new
//! id after an `info`; a [`Running`] that is dropped, as when its task is cancelled, is an `info`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use ringraft::clock::{self, Moment};

use super::{Answer, End, Event, Invoke, Micros, Mode, Nemesis, OpId, Phase, ProcessId, Request};

/// The one writer of a history.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    out: Box<dyn Write + Send>,
    started: Moment,
    last: Micros,
    next_op: u64,
    next_process: u64,
    /// A line may be torn; whatever followed would be read as part of it.
    broken: bool,
}

/// What is about to be asked.
#[derive(Clone, Debug)]
pub struct Call {
    pub key: String,
    pub request: Request,
    pub node: Option<String>,
    pub shard: Option<String>,
    pub idempotency: Option<String>,
}

impl Call {
    pub fn new(key: impl Into<String>, request: Request) -> Self {
        Self { key: key.into(), request, node: None, shard: None, idempotency: None }
    }
}

/// What is known of an end besides the answer.
#[derive(Clone, Debug, Default)]
pub struct About {
    pub status: Option<u16>,
    pub served: Option<Mode>,
    pub age_ms: Option<u64>,
    pub leader_hint: Option<String>,
    pub shard: Option<String>,
    pub why: Option<String>,
}

/// One process of the history: it asks one thing after the other.
pub struct Session {
    recorder: Recorder,
    process: ProcessId,
}

/// An operation that is open. Ended by [`Running::ok`], [`Running::fail`] or [`Running::info`].
#[must_use = "dropped, it is an info and its process is retired"]
pub struct Running<'a> {
    session: &'a mut Session,
    op: OpId,
    ended: bool,
}

impl Recorder {
    /// To a new file: a history that is there already is somebody's evidence.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::new(OpenOptions::new().write(true).create_new(true).open(path)?))
    }

    /// To anything that keeps no line back: a file, not a `BufWriter`.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        let shared = Shared {
            out: Box::new(out),
            started: clock::now(),
            last: Micros(0),
            next_op: 0,
            next_process: 0,
            broken: false,
        };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    pub fn session(&self) -> Session {
        Session { recorder: self.clone(), process: self.lock().new_process() }
    }

    pub fn nemesis(&self, fault: &str, what: Phase, on: &[String], confirmed: bool) -> io::Result<()> {
        let (fault, on) = (fault.to_string(), on.to_vec());
        self.lock().write(|time| Event::Nemesis(Nemesis { fault, what, on, confirmed, time, note: None }))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no part of the recorder panics while it holds the lock")
    }
}

impl Shared {
    fn new_process(&mut self) -> ProcessId {
        self.next_process += 1;
        ProcessId(self.next_process)
    }

    fn write(&mut self, event: impl FnOnce(Micros) -> Event) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the history is broken: an earlier line could not be written"));
        }
        let micros = u64::try_from(clock::now().since(self.started).as_micros()).unwrap_or(u64::MAX);
        self.last = self.last.max(Micros(micros));
        let mut line = serde_json::to_vec(&event(self.last)).map_err(io::Error::other)?;
        line.push(b'\n');
        let written = self.out.write_all(&line).and_then(|()| self.out.flush());
        self.broken = written.is_err();
        written
    }
}

impl Session {
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// When it returns, the request may leave. After an error it must not: nobody would know of it.
    pub fn invoke(&mut self, call: Call) -> io::Result<Running<'_>> {
        let process = self.process;
        let Call { key, request, node, shard, idempotency } = call;
        let f = request.function();
        let expect = request.expect();
        let (value, mode) = match request {
            Request::Get { mode } => (None, Some(mode)),
            Request::Put { value, .. } => (Some(value), None),
            Request::Delete { .. } => (None, None),
        };
        let mut shared = self.recorder.lock();
        shared.next_op += 1;
        let op = OpId(shared.next_op);
        shared.write(|time| {
            let note = None;
            Event::Invoke(Invoke { op, process, f, key, value, expect, mode, node, shard, idempotency, time, note })
        })?;
        drop(shared);
        Ok(Running { session: self, op, ended: false })
    }
}

impl Running<'_> {
    pub fn op(&self) -> OpId {
        self.op
    }

    /// It happened, and this is the answer. A 412 too.
    pub fn ok(mut self, answer: Answer, about: About) -> io::Result<()> {
        self.end(about, |mut end| {
            answer.write_to(&mut end);
            Event::Ok(end)
        })
    }

    /// It did not happen and never will.
    pub fn fail(mut self, about: About) -> io::Result<()> {
        self.end(about, Event::Fail)
    }

    /// Nobody knows. The session goes on as a new process.
    pub fn info(mut self, about: About) -> io::Result<()> {
        self.give_up(about)
    }

    fn give_up(&mut self, about: About) -> io::Result<()> {
        let ended = self.end(about, Event::Info);
        self.session.process = self.session.recorder.lock().new_process();
        ended
    }

    fn end(&mut self, about: About, event: impl FnOnce(End) -> Event) -> io::Result<()> {
        self.ended = true;
        let op = self.op;
        let About { status, served, age_ms, leader_hint, shard, why } = about;
        self.session
            .recorder
            .lock()
            .write(|time| event(End { status, served, age_ms, leader_hint, shard, why, ..End::new(op, time) }))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let why = Some("given up by the runner".to_string());
            // If it cannot be written the operation stays open, which means the same.
            drop(self.give_up(About { why, ..About::default() }));
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
