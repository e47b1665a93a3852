//! How much room the disks of a group's members have, as far as this node has heard: with every answer to an append, a
//! heartbeat too, a follower says how its own disk stands. Shared by all groups of a node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{self, Moment};
use crate::storage::reserve::{Reserve, Room};
use crate::types::NodeId;

/// A node that has said nothing for so long is away, and holds nobody's writes up: far longer than heartbeats are apart.
const BELIEVED_FOR: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    own: Reserve,
    others: Arc<Others>,
}

#[derive(Default)]
struct Others {
    /// Those whose room is not ample, and when they said so last.
    tight: Mutex<BTreeMap<NodeId, (Room, Moment)>>,
    /// `tight` holds anything: asked with every write, while that is so seldom.
    any: AtomicBool,
}

impl Others {
    fn tight(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Room, Moment)>> {
        self.tight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    pub fn new(own: Reserve) -> Self {
        Self { own, others: Arc::default() }
    }

    /// This node's own.
    pub fn own(&self) -> Room {
        self.own.room()
    }

    pub fn reserve(&self) -> &Reserve {
        &self.own
    }

    /// Another node has said this of its disk.
    pub fn heard(&self, node: NodeId, room: Room) {
        if room == Room::Ample && !self.others.any.load(Ordering::Acquire) {
            return;
        }
        let mut tight = self.others.tight();
        if room == Room::Ample {
            tight.remove(&node);
        } else {
            tight.insert(node, (room, clock::now()));
        }
        self.others.any.store(!tight.is_empty(), Ordering::Release);
    }

    /// What another node's disk is known to have.
    pub fn of(&self, node: NodeId) -> Room {
        if self.others.any.load(Ordering::Acquire) { self.believed(node, clock::now()) } else { Room::Ample }
    }

    fn believed(&self, node: NodeId, now: Moment) -> Room {
        let mut tight = self.others.tight();
        tight.retain(|_, (_, at)| now.since(*at) < BELIEVED_FOR);
        self.others.any.store(!tight.is_empty(), Ordering::Release);
        tight.get(&node).map_or(Room::Ample, |(room, _)| *room)
    }

    /// Nobody at all is short of room: the usual case, and cheap to tell.
    pub fn all_ample(&self) -> bool {
        self.own() == Room::Ample && !self.others.any.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::mem::MemDisk;

    fn rooms(disk: &MemDisk) -> Rooms {
        Rooms::new(Reserve::open(Arc::new(disk.clone()), 100).unwrap())
    }

    #[test]
    fn what_a_node_says_of_its_disk_holds_until_it_says_otherwise() {
        let rooms = rooms(&MemDisk::new(1));
        assert!(rooms.all_ample());
        rooms.heard(NodeId(2), Room::BelowSoft);
        rooms.heard(NodeId(3), Room::Ample);
        assert_eq!((rooms.of(NodeId(2)), rooms.of(NodeId(3))), (Room::BelowSoft, Room::Ample));
        assert!(!rooms.all_ample());
        rooms.heard(NodeId(2), Room::Spent);
        assert_eq!(rooms.of(NodeId(2)), Room::Spent);
        rooms.heard(NodeId(2), Room::Ample);
        assert!(rooms.all_ample() && rooms.of(NodeId(2)) == Room::Ample);
    }

    #[test]
    fn a_node_that_is_away_is_not_believed_for_ever() {
        let rooms = rooms(&MemDisk::new(1));
        let before = clock::now();
        rooms.heard(NodeId(2), Room::Spent);
        let millisecond = Duration::from_millis(1);
        assert_eq!(rooms.believed(NodeId(2), before.after(BELIEVED_FOR - millisecond)), Room::Spent);
        assert_eq!(rooms.believed(NodeId(2), clock::now().after(BELIEVED_FOR)), Room::Ample);
    }

    #[test]
    fn a_full_disk_of_its_own_is_no_ample_one() {
        let disk = MemDisk::new(1);
        disk.set_free_bytes(250);
        assert!(!rooms(&disk).all_ample());
        assert_eq!(rooms(&disk).own(), Room::BelowSoft);
    }
}
