//! Since when this node has not heard of each of the others. What most voters of the meta group say of a node decides
//! whether it is dead (`architecture` §6).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{self, Moment};
use crate::types::NodeId;

/// How long one node has been silent, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    pub node: NodeId,
    pub for_ms: u64,
}
crate::wire_struct!(Silence { node, for_ms });

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Silences {
    /// When each was heard last; or when it was asked for the first time, so that a start counts from zero.
    heard: Arc<Mutex<BTreeMap<NodeId, Moment>>>,
}

impl Silences {
    /// These are listened to from now on, and no others.
    pub fn listen_to(&self, nodes: impl Iterator<Item = NodeId>) {
        let now = clock::now();
        let mut heard = self.heard();
        *heard = nodes.map(|node| (node, heard.get(&node).copied().unwrap_or(now))).collect();
    }

    pub fn heard_of(&self, node: NodeId) {
        if let Some(heard) = self.heard().get_mut(&node) {
            *heard = clock::now();
        }
    }

    /// None of this node itself, nor of those that it does not listen to.
    #[must_use]
    pub fn all(&self) -> Vec<Silence> {
        let now = clock::now();
        let ms = |silent: Duration| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
        self.heard().iter().map(|(node, heard)| Silence { node: *node, for_ms: ms(now.since(*heard)) }).collect()
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, Moment>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
