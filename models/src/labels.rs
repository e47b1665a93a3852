//! What a state carries for people and for the landmarks, and what is no part of its identity.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

/// What people call a node or replica in a counterexample. Those that are alike may change places: such states are one
/// state, and the name is no part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name(pub(crate) u8);

impl PartialEq for Name {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// The landmarks that the last step showed, one bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks(pub(crate) u32);

impl Hash for Marks {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
