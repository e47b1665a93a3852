//! What happened to the cluster, when and why: the newest events, for people (`architecture` §6).

use serde::{Deserialize, Serialize};

use super::Catalog;
use super::operation::{Operation, OperationCause, OperationKind};
use crate::types::{EventId, NodeId, OperationId};
use crate::{wire_enum, wire_struct};

/// Events that are kept, the newest ones: each copy of the catalog carries them.
pub const EVENTS_KEPT: usize = 256;

/// Times are wall-clock milliseconds of the node that proposed, for people alone; the order is that of the ids.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    pub id: EventId,
    pub time_ms: u64,
    #[serde(flatten)]
    pub what: EventKind,
}
wire_struct!(Event { id, time_ms, what });

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    NodeJoined {
        node: NodeId,
    },
    /// Most voters of the meta group have not heard of it for the grace period.
    NodeDead {
        node: NodeId,
    },
    /// They hear of it again.
    NodeReturned {
        node: NodeId,
    },
    /// Decommissioned.
    NodeLeft {
        node: NodeId,
    },
    OperationBegun {
        operation: OperationId,
        cause: OperationCause,
        #[serde(flatten)]
        kind: OperationKind,
    },
    OperationDone {
        operation: OperationId,
    },
    OperationFailed {
        operation: OperationId,
        why: String,
    },
}
wire_enum!(EventKind {
    1 => NodeJoined { node },
    2 => NodeDead { node },
    3 => NodeReturned { node },
    4 => NodeLeft { node },
    5 => OperationBegun { operation, cause, kind },
    6 => OperationDone { operation },
    7 => OperationFailed { operation, why },
});

impl EventKind {
    pub(super) fn begun(operation: &Operation) -> Self {
        Self::OperationBegun { operation: operation.id, cause: operation.cause, kind: operation.kind.clone() }
    }

    pub(super) fn ended(operation: OperationId, failure: Option<&String>) -> Self {
        match failure {
            None => Self::OperationDone { operation },
            Some(why) => Self::OperationFailed { operation, why: why.clone() },
        }
    }
}

impl Catalog {
    /// Ids count up from 1 without a gap, over those that are kept no longer too.
    pub(super) fn record(&mut self, what: EventKind, time_ms: u64) {
        let id = EventId(self.events.last().map_or(1, |last| last.id.0 + 1));
        self.events.push(Event { id, time_ms, what });
        let too_many = self.events.len().saturating_sub(EVENTS_KEPT);
        self.events.drain(..too_many);
    }
}
