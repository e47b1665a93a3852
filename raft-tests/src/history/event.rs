//! The lines of a history, and what they mean.
//!
//! [`Event`] is a line as it is written; [`Request`] and [`Answer`] are what it says, in types that hold only what can
//! be. Nothing else knows which fields go together.

use std::fmt;

use ringraft::types::Revision;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub u64);

/// Microseconds since the history began, on the runner's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// In milliseconds, which is what a person compares with a time-out.
impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Event {
    Invoke(Invoke),
    Ok(End),
    Fail(End),
    Info(End),
    Nemesis(Nemesis),
}

impl Event {
    pub fn time(&self) -> Micros {
        match self {
            Event::Invoke(invoke) => invoke.time,
            Event::Ok(end) | Event::Fail(end) | Event::Info(end) => end.time,
            Event::Nemesis(nemesis) => nemesis.time,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoke {
    pub op: OpId,
    pub process: ProcessId,
    pub f: Function,
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The node that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<String>,
    pub time: Micros,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    pub op: OpId,
    pub time: Micros,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ver: Option<Revision>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Mode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_hint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<serde_json::Value>,
}

impl End {
    /// One that says nothing yet.
    pub fn new(op: OpId, time: Micros) -> Self {
        Self {
            op,
            time,
            value: None,
            applied: None,
            found: None,
            ver: None,
            status: None,
            served: None,
            age_ms: None,
            leader_hint: None,
            shard: None,
            why: None,
            note: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nemesis {
    pub fault: String,
    pub what: Phase,
    #[serde(default)]
    pub on: Vec<String>,
    /// Whether it was seen to have taken place.
    pub confirmed: bool,
    pub time: Micros,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<serde_json::Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Begin,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    Get,
    Put,
    Cas,
    Delete,
}

/// What a read asked for, or how it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Linearizable,
    /// Promises the same, while clock rates keep their bound.
    Lease,
    Stale,
}

/// The condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Expect {
    /// `If-Match: "revision"`
    Revision(Revision),
    /// `If-Match: *`
    Exists,
    /// `If-None-Match: *`
    Absent,
}

impl Expect {
    pub fn holds(self, current: Option<Revision>) -> bool {
        match self {
            Expect::Revision(wanted) => current == Some(wanted),
            Expect::Exists => current.is_some(),
            Expect::Absent => current.is_none(),
        }
    }
}

impl TryFrom<String> for Expect {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "exists" => Ok(Expect::Exists),
            "absent" => Ok(Expect::Absent),
            other => other.parse().map(Expect::Revision).map_err(|_| {
                format!("expect takes \"exists\", \"absent\" or a revision of 16 hexadecimal digits, not {other:?}")
            }),
        }
    }
}

impl From<Expect> for String {
    fn from(expect: Expect) -> Self {
        match expect {
            Expect::Revision(revision) => revision.to_string(),
            Expect::Exists => "exists".to_string(),
            Expect::Absent => "absent".to_string(),
        }
    }
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Get { mode: Mode },
    Put { value: String, expect: Option<Expect> },
    Delete { expect: Option<Expect> },
}

impl Request {
    pub fn expect(&self) -> Option<Expect> {
        match self {
            Request::Get { .. } => None,
            Request::Put { expect, .. } | Request::Delete { expect } => *expect,
        }
    }

    /// None when the fields of the line do not go together.
    pub(super) fn of(invoke: &Invoke) -> Option<Self> {
        match (invoke.f, &invoke.value, invoke.expect, invoke.mode) {
            (Function::Get, None, None, mode) => Some(Request::Get { mode: mode.unwrap_or(Mode::Linearizable) }),
            (Function::Put, Some(value), None, None) => Some(Request::Put { value: value.clone(), expect: None }),
            (Function::Cas, Some(value), Some(expect), None) => {
                Some(Request::Put { value: value.clone(), expect: Some(expect) })
            }
            (Function::Delete, None, expect, None) => Some(Request::Delete { expect }),
            _ => None,
        }
    }

    pub(super) fn function(&self) -> Function {
        match self {
            Request::Get { .. } => Function::Get,
            Request::Put { expect: None, .. } => Function::Put,
            Request::Put { expect: Some(_), .. } => Function::Cas,
            Request::Delete { .. } => Function::Delete,
        }
    }
}

/// What an `ok` said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of a read. Without the value when only the revision was sent.
    Found {
        ver: Revision,
        value: Option<String>,
    },
    /// Of a read: the key is not there.
    Absent,
    Written {
        ver: Revision,
    },
    /// The key is not there any more. `ver` is the delete's own revision, where it is told.
    Deleted {
        ver: Option<Revision>,
    },
    /// A 412: the condition did not hold, for this is what the key was at.
    Refused {
        current: Option<Revision>,
    },
}

impl Answer {
    /// None when the fields of the line are no answer to this request.
    pub(super) fn of(request: &Request, end: &End) -> Option<Self> {
        let expect = request.expect();
        let value = || end.value.clone();
        match (request, end.applied, end.found, end.ver, end.value.is_some()) {
            (Request::Get { .. }, None, Some(true), Some(ver), _) => Some(Answer::Found { ver, value: value() }),
            (Request::Get { .. }, None, Some(false), None, false) => Some(Answer::Absent),
            (Request::Put { .. }, Some(true), None, Some(ver), false) => Some(Answer::Written { ver }),
            (Request::Delete { .. }, Some(true), None, ver, false) => Some(Answer::Deleted { ver }),
            (Request::Put { .. } | Request::Delete { .. }, Some(false), Some(true), Some(ver), false) => {
                expect.is_some().then_some(Answer::Refused { current: Some(ver) })
            }
            (Request::Put { .. } | Request::Delete { .. }, Some(false), Some(false), None, false) => {
                expect.is_some().then_some(Answer::Refused { current: None })
            }
            _ => None,
        }
    }

    /// The fields `value`, `applied`, `found` and `ver` of the line.
    pub fn write_to(self, end: &mut End) {
        match self {
            Answer::Found { ver, value } => {
                (end.found, end.ver, end.value) = (Some(true), Some(ver), value);
            }
            Answer::Absent => end.found = Some(false),
            Answer::Written { ver } => (end.applied, end.ver) = (Some(true), Some(ver)),
            Answer::Deleted { ver } => (end.applied, end.ver) = (Some(true), ver),
            Answer::Refused { current } => {
                (end.applied, end.found, end.ver) = (Some(false), Some(current.is_some()), current);
            }
        }
    }
}
