//! Takes a history back from its lines, and refuses one that does not hold together: a checker that guesses what a
//! damaged history meant would vouch for something that nobody saw.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{BufRead, Read};

use super::{Answer, At, End, Event, History, Invoke, Micros, Mode, Nemesis, OpId, Operation, Outcome, Phase};
use super::{ProcessId, Request};

/// Longest line. Values of a history are names of writes, not data.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Why a history is refused, and where.
#[derive(Debug)]
pub struct Malformed {
    /// From 1, as editors count.
    pub line: usize,
    pub fault: Fault,
}

#[derive(Debug)]
pub enum Fault {
    Unreadable(std::io::Error),
    TooLong,
    /// The last line has no end: the runner died while it wrote.
    Torn,
    NotAnEvent(serde_json::Error),
    TimeGoesBack {
        from: Micros,
        to: Micros,
    },
    SecondInvoke(OpId),
    /// The fields do not make a request.
    NotARequest,
    ProcessBusy {
        process: ProcessId,
        open: OpId,
    },
    ProcessRetired(ProcessId),
    EndWithoutInvoke(OpId),
    SecondEnd(OpId),
    /// The fields do not make an answer to the request that was made.
    NotAnAnswer,
    /// A `fail` or `info` that tells of the key; a 412 is `ok`.
    AnswerToUnanswered,
    FaultAlreadyBegan(String),
    FaultNeverBegan(String),
    /// Nothing was asked, so nothing can be said.
    Empty,
}

impl std::error::Error for Malformed {}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unreadable(error) => write!(f, "cannot be read: {error}"),
            Fault::TooLong => write!(f, "longer than {LINE_BYTES_MAX} bytes"),
            Fault::Torn => write!(f, "ends in the middle: whoever wrote it was cut off"),
            Fault::NotAnEvent(error) => write!(f, "no event: {error}"),
            Fault::TimeGoesBack { from, to } => write!(f, "time goes back from {} µs to {} µs", from.0, to.0),
            Fault::SecondInvoke(op) => write!(f, "operation {op} was invoked before"),
            Fault::NotARequest => write!(
                f,
                "value, expect and mode do not fit f: put has a value, cas a value and expect, delete perhaps expect, get \
                 perhaps a mode"
            ),
            Fault::ProcessBusy { process, open } => {
                write!(f, "process {process} invokes while its operation {open} is open")
            }
            Fault::ProcessRetired(process) => {
                write!(
                    f,
                    "process {process} invokes after an info, which retires it: its operation may still be at work"
                )
            }
            Fault::EndWithoutInvoke(op) => write!(f, "operation {op} ends and was never invoked"),
            Fault::SecondEnd(op) => write!(f, "operation {op} ends a second time"),
            Fault::NotAnAnswer => {
                write!(f, "applied, found, ver, value, served and age_ms are no answer to its request")
            }
            Fault::AnswerToUnanswered => {
                write!(f, "a fail or info tells of the key (412, value, applied, found or ver): an answer is ok")
            }
            Fault::FaultAlreadyBegan(fault) => write!(f, "fault {fault:?} begins again before its end"),
            Fault::FaultNeverBegan(fault) => write!(f, "fault {fault:?} ends and did not begin"),
            Fault::Empty => write!(f, "the history holds no operation"),
        }
    }
}

/// Reads a whole history.
pub fn read(mut lines: impl BufRead) -> Result<History, Malformed> {
    let mut reader = Reader::default();
    let mut text = Vec::new();
    for line in 1.. {
        let at_line = |fault| Malformed { line, fault };
        text.clear();
        let length = (&mut lines).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut text);
        if length.map_err(|error| at_line(Fault::Unreadable(error)))? == 0 {
            break;
        }
        if text.pop() != Some(b'\n') {
            let too_long = text.len() as u64 >= LINE_BYTES_MAX;
            return Err(at_line(if too_long { Fault::TooLong } else { Fault::Torn }));
        }
        let event = serde_json::from_slice(&text).map_err(|error| at_line(Fault::NotAnEvent(error)))?;
        reader.take(event).map_err(at_line)?;
    }
    let history = reader.history;
    if history.operations.is_empty() {
        return Err(Malformed { line: history.events + 1, fault: Fault::Empty });
    }
    Ok(history)
}

#[derive(Default)]
struct Reader {
    history: History,
    now: Micros,
    /// Place of each operation in the history.
    places: HashMap<OpId, usize>,
    open: HashMap<ProcessId, OpId>,
    retired: HashSet<ProcessId>,
    standing: HashSet<(String, Vec<String>)>,
}

impl Reader {
    fn take(&mut self, event: Event) -> Result<(), Fault> {
        let time = event.time();
        if time < self.now {
            return Err(Fault::TimeGoesBack { from: self.now, to: time });
        }
        self.now = time;
        let at = At { event: self.history.events, time };
        self.history.events += 1;
        match event {
            Event::Invoke(invoke) => self.invoke(at, invoke),
            Event::Ok(end) => {
                let operation = self.ending(&end)?;
                let answer = Answer::of(&operation.request, &end).ok_or(Fault::NotAnAnswer)?;
                // How it was served, and how old it is, only a read can say; an age only one that may be old.
                let served_stale = end.served == Some(Mode::Stale) || operation.is_stale_read();
                let is_out_of_place = (end.served.is_some() && operation.is_write())
                    || (end.age_ms.is_some() && (operation.is_write() || !served_stale));
                if is_out_of_place {
                    return Err(Fault::NotAnAnswer);
                }
                self.end(at, end, Outcome::Ok(answer))
            }
            Event::Fail(end) => self.unanswered(at, end, Outcome::Fail),
            Event::Info(end) => self.unanswered(at, end, Outcome::Info),
            Event::Nemesis(nemesis) => self.nemesis(at, nemesis),
        }
    }

    fn invoke(&mut self, at: At, invoke: Invoke) -> Result<(), Fault> {
        let request = Request::of(&invoke).ok_or(Fault::NotARequest)?;
        let Invoke { op, process, key, node, shard, idempotency, .. } = invoke;
        if self.places.insert(op, self.history.operations.len()).is_some() {
            return Err(Fault::SecondInvoke(op));
        }
        if self.retired.contains(&process) {
            return Err(Fault::ProcessRetired(process));
        }
        if let Some(open) = self.open.insert(process, op) {
            return Err(Fault::ProcessBusy { process, open });
        }
        self.history.operations.push(Operation {
            id: op,
            process,
            key,
            request,
            node,
            shard,
            idempotency,
            invoked: at,
            ended: None,
            outcome: Outcome::Info,
            status: None,
            served: None,
            age_ms: None,
            why: None,
        });
        Ok(())
    }

    fn ending(&mut self, end: &End) -> Result<&mut Operation, Fault> {
        let place = self.places.get(&end.op).ok_or(Fault::EndWithoutInvoke(end.op))?;
        let operation = &mut self.history.operations[*place];
        if operation.ended.is_some() { Err(Fault::SecondEnd(end.op)) } else { Ok(operation) }
    }

    fn unanswered(&mut self, at: At, end: End, outcome: Outcome) -> Result<(), Fault> {
        self.ending(&end)?;
        let tells = end.value.is_some() || end.applied.is_some() || end.found.is_some() || end.ver.is_some();
        if tells || end.status == Some(412) || end.served.is_some() || end.age_ms.is_some() {
            return Err(Fault::AnswerToUnanswered);
        }
        self.end(at, end, outcome)
    }

    fn end(&mut self, at: At, end: End, outcome: Outcome) -> Result<(), Fault> {
        let is_unknown = outcome == Outcome::Info;
        let operation = self.ending(&end)?;
        operation.ended = Some(at);
        operation.outcome = outcome;
        operation.status = end.status;
        operation.served = end.served;
        operation.age_ms = end.age_ms;
        operation.why = end.why;
        if end.shard.is_some() {
            operation.shard = end.shard;
        }
        let process = operation.process;
        self.open.remove(&process);
        if is_unknown {
            self.retired.insert(process);
        }
        Ok(())
    }

    fn nemesis(&mut self, at: At, nemesis: Nemesis) -> Result<(), Fault> {
        let name = (nemesis.fault.clone(), nemesis.on.clone());
        let fits = match nemesis.what {
            Phase::Begin => self.standing.insert(name),
            Phase::End => self.standing.remove(&name),
        };
        match (fits, nemesis.what) {
            (false, Phase::Begin) => Err(Fault::FaultAlreadyBegan(nemesis.fault)),
            (false, Phase::End) => Err(Fault::FaultNeverBegan(nemesis.fault)),
            (true, _) => {
                self.history.nemeses.push((at, nemesis));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
