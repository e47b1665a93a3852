//! How much room is left on a node's disk, and the reserve that is kept there for the day when there is none
//! (`architecture` §8).
//!
//! The reserve `R` is a file that takes up so many bytes. What is free beside it, and what it holds, is the node's room:
//!
//! | room | name | what the node does |
//! |---|---|---|
//! | 3 `R` and more | [`Room::Ample`] | everything |
//! | less | [`Room::BelowSoft`] | says so to its peers: shards that it votes in take no growing writes; lets its log go, compacts |
//! | less than 2 `R` | [`Room::BelowHard`] | gives the file back; leads no shard that a node with more room can lead |
//! | less than half of `R` | [`Room::Spent`] | appends nothing to the shards' logs, as if it could not be reached |
//!
//! A better room is reached a little later than it was lost, so that a node does not change its mind with every write. What
//! is left in [`Room::Spent`] is for the meta group, for flushes and for compactions: a full disk is never met unless
//! something else fills it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::{Disk, Error, off_runtime};
use crate::clock::{self, Moment};
use crate::wire_enum;

/// What a disk takes in between is far less than the reserve: it is meant to be some seconds of the fastest writing.
const MEASURED_EVERY: Duration = Duration::from_millis(100);
/// After the file could not be made, or the file system not be measured.
const TRIED_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// A reserve that was given back is not kept again before, nor is the room said to be better. Of nodes that share a file
/// system each would take what the others have given back for room, and all of them would turn to and fro.
const GIVEN_BACK_FOR: Duration = Duration::from_secs(10);
/// A better room begins this part of the reserve above its mark.
const HYSTERESIS_DIVISOR: u64 = 4;

/// How much room a node's disk has; a later one is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Room {
    #[default]
    Ample,
    /// Less than the soft reserve.
    BelowSoft,
    /// Less than the hard reserve: what was kept back is in use.
    BelowHard,
    /// Half of what was kept back is used up.
    Spent,
}
wire_enum!(Room { 1 => Ample, 2 => BelowSoft, 3 => BelowHard, 4 => Spent });

impl Room {
    pub const fn name(self) -> &'static str {
        match self {
            Room::Ample => "ample",
            Room::BelowSoft => "below-soft-reserve",
            Room::BelowHard => "below-hard-reserve",
            Room::Spent => "spent",
        }
    }

    /// The room of a disk with so many bytes, free or in the reserve, that had `before`. Without a reserve it is always
    /// ample.
    fn after(before: Room, bytes: u64, reserve: u64) -> Room {
        let is_below = |mark: u64, room: Room| {
            let mark = if before >= room { mark.saturating_add(reserve / HYSTERESIS_DIVISOR) } else { mark };
            bytes < mark
        };
        if reserve == 0 {
            Room::Ample
        } else if is_below(reserve / 2, Room::Spent) {
            Room::Spent
        } else if is_below(reserve.saturating_mul(2), Room::BelowHard) {
            Room::BelowHard
        } else if is_below(reserve.saturating_mul(3), Room::BelowSoft) {
            Room::BelowSoft
        } else {
            Room::Ample
        }
    }
}

/// What the last measurement found, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    pub room: Room,
    pub free_bytes: u64,
    /// In the reserve now.
    pub reserve_bytes: u64,
}

/// A node's reserve. Cheap to clone.
#[derive(Clone)]
pub struct Reserve {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    /// How much is kept while there is room, in bytes; 0 for none.
    wanted: u64,
    measured: watch::Sender<Measured>,
    /// The file could not be made, and is not tried before.
    tried_again_at: Mutex<Option<Moment>>,
    /// The file was given back, and is not made again before.
    kept_again_at: Mutex<Option<Moment>>,
}

impl Reserve {
    /// Measures at once, and makes or gives back the reserve: before anything else is opened that might want the room.
    ///
    /// # Errors
    /// When the file system does not say what is free.
    pub fn open(disk: Arc<dyn Disk>, wanted: u64) -> Result<Self, Error> {
        let inner = Inner {
            disk,
            wanted,
            measured: watch::Sender::default(),
            tried_again_at: Mutex::default(),
            kept_again_at: Mutex::default(),
        };
        let reserve = Self { inner: Arc::new(inner) };
        reserve.measure()?;
        Ok(reserve)
    }

    pub fn room(&self) -> Room {
        self.inner.measured.borrow().room
    }

    pub fn measured(&self) -> Measured {
        *self.inner.measured.borrow()
    }

    /// Measures for ever.
    pub async fn run(&self) {
        let mut pause = MEASURED_EVERY;
        loop {
            clock::sleep(pause).await;
            let own = self.clone();
            let measured = off_runtime(self.inner.disk.as_ref(), move || own.measure()).await;
            pause = MEASURED_EVERY;
            if let Err(error) = measured {
                warn!(%error, "what is free on the disk is not known; the last known room stands");
                pause = TRIED_AGAIN_AFTER;
            }
        }
    }

    /// Blocks: the file system is asked, and the file made or removed.
    ///
    /// # Errors
    /// When the file system does not say what is free.
    fn measure(&self) -> Result<(), Error> {
        self.measure_at(clock::now())
    }

    /// As if it were `now`: so a test need not wait.
    ///
    /// # Errors
    /// When the file system does not say what is free.
    pub(crate) fn measure_at(&self, now: Moment) -> Result<(), Error> {
        let Inner { disk, wanted, measured, .. } = &*self.inner;
        let (free_bytes, reserve_bytes) = (disk.free_bytes()?, disk.reserve_bytes()?);
        let before = measured.borrow().room;
        let mut room = Room::after(before, free_bytes.saturating_add(reserve_bytes), *wanted);
        if self.is_too_early_to_keep(now) {
            room = room.max(Room::BelowHard);
        }
        // What follows may take its time on a disk like that.
        self.publish(Measured { room, free_bytes, reserve_bytes });
        let kept = if room <= Room::BelowSoft { *wanted } else { 0 };
        if kept != reserve_bytes {
            self.keep(kept, now);
            let (free_bytes, reserve_bytes) = (disk.free_bytes()?, disk.reserve_bytes()?);
            self.publish(Measured { room, free_bytes, reserve_bytes });
        }
        Ok(())
    }

    fn publish(&self, now: Measured) {
        let before = self.inner.measured.send_replace(now).room;
        if now.room != before {
            let Measured { room, free_bytes, reserve_bytes } = now;
            match room {
                Room::Ample => info!(free_bytes, reserve_bytes, "there is room on the disk again"),
                _ => warn!(room = room.name(), free_bytes, reserve_bytes, "the disk is getting full"),
            }
        }
    }

    /// Of a reserve that was given back a moment ago.
    fn is_too_early_to_keep(&self, now: Moment) -> bool {
        let kept_again_at = self.inner.kept_again_at.lock().unwrap_or_else(PoisonError::into_inner);
        kept_again_at.is_some_and(|at| now < at)
    }

    /// A file system that cannot keep a reserve is measured all the same.
    fn keep(&self, bytes: u64, now: Moment) {
        let mut tried_again_at = self.inner.tried_again_at.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > 0 && tried_again_at.is_some_and(|at| now < at) {
            return;
        }
        *tried_again_at = None;
        if let Err(error) = self.inner.disk.set_reserve(bytes) {
            warn!(%error, bytes, "the disk's reserve could not be changed");
            *tried_again_at = Some(now.after(TRIED_AGAIN_AFTER));
        }
        let given_back = (bytes == 0 && self.inner.wanted > 0).then(|| now.after(GIVEN_BACK_FOR));
        *self.inner.kept_again_at.lock().unwrap_or_else(PoisonError::into_inner) = given_back;
    }

    /// Whether so much can be written for a while without touching what is left for the last.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        let Measured { free_bytes, reserve_bytes, .. } = self.measured();
        let kept = self.inner.wanted / 2;
        free_bytes.saturating_add(reserve_bytes) >= bytes.saturating_add(kept)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::mem::MemDisk;
    use crate::wire::golden;

    const R: u64 = 100;

    #[test]
    fn rooms_keep_their_bytes() {
        let rooms = [Room::Ample, Room::BelowSoft, Room::BelowHard, Room::Spent];
        golden::check("room", &rooms);
        golden::has_every_tag(&rooms);
        assert!(rooms.is_sorted());
    }

    #[test]
    fn each_mark_has_its_room_on_the_way_down_and_a_later_one_on_the_way_up() {
        use Room::{Ample, BelowHard, BelowSoft, Spent};
        for (before, bytes, after) in [
            (Ample, 300, Ample),
            (Ample, 299, BelowSoft),
            (BelowSoft, 324, BelowSoft),
            (BelowSoft, 325, Ample),
            (Ample, 200, BelowSoft),
            (BelowSoft, 199, BelowHard),
            (BelowHard, 224, BelowHard),
            (BelowHard, 225, BelowSoft),
            (BelowHard, 50, BelowHard),
            (BelowHard, 49, Spent),
            (Spent, 74, Spent),
            (Spent, 75, BelowHard),
            (Ample, 0, Spent),
            (Spent, 325, Ample),
        ] {
            assert_eq!(Room::after(before, bytes, R), after, "{before:?} with {bytes}");
        }
        assert_eq!(Room::after(Spent, 0, 0), Ample, "nothing is asked of a node without a reserve");
    }

    proptest! {
        #[test]
        fn more_bytes_are_never_less_room(bytes in 0..500_u64, more in 0..100_u64, before in 0..4_usize) {
            let before = [Room::Ample, Room::BelowSoft, Room::BelowHard, Room::Spent][before];
            prop_assert!(Room::after(before, bytes + more, R) <= Room::after(before, bytes, R));
            let settled = Room::after(before, bytes, R);
            prop_assert_eq!(Room::after(settled, bytes, R), settled, "the same bytes change nothing");
        }
    }

    #[test]
    fn the_reserve_is_given_back_when_the_room_is_gone_and_kept_again_when_it_is_back_for_good() {
        let disk = MemDisk::new(1);
        disk.set_free_bytes(1000);
        let reserve = Reserve::open(Arc::new(disk.clone()), R).unwrap();
        assert_eq!(reserve.measured(), Measured { room: Room::Ample, free_bytes: 900, reserve_bytes: R });
        let begun = clock::now();
        let look = |second: u64, free: u64| {
            disk.set_free_bytes(free);
            reserve.measure_at(begun.after(Duration::from_secs(second))).unwrap();
            let Measured { room, free_bytes, reserve_bytes } = reserve.measured();
            (room, free_bytes, reserve_bytes)
        };
        assert_eq!(look(1, 150), (Room::BelowSoft, 150, R));
        assert_eq!(look(2, 90), (Room::BelowHard, 190, 0), "what was kept is free now");
        assert_eq!(look(3, 400), (Room::BelowHard, 400, 0), "others may have given back theirs");
        assert_eq!(look(4, 40), (Room::Spent, 40, 0));
        assert_eq!(look(13, 210), (Room::BelowHard, 210, 0), "it would be given back at once");
        assert_eq!(look(14, 240), (Room::BelowSoft, 140, R));
        assert_eq!(look(15, 400), (Room::Ample, 400, R));
    }

    #[test]
    fn what_is_large_must_leave_half_of_the_reserve() {
        let disk = MemDisk::new(1);
        disk.set_free_bytes(400);
        let reserve = Reserve::open(Arc::new(disk), R).unwrap();
        assert!(reserve.has_room_for(350) && !reserve.has_room_for(351));
    }

    #[test]
    fn a_start_on_a_full_disk_gives_the_reserve_back_first_and_another_size_is_made_anew() {
        let disk = MemDisk::new(1);
        disk.set_reserve(R).unwrap();
        disk.set_free_bytes(0);
        let reserve = Reserve::open(Arc::new(disk.clone()), R).unwrap();
        assert_eq!(reserve.measured(), Measured { room: Room::BelowHard, free_bytes: R, reserve_bytes: 0 });
        disk.set_free_bytes(1000);
        for (wanted, room, kept) in [(R, Room::Ample, R), (200, Room::Ample, 200), (0, Room::Ample, 0)] {
            let reserve = Reserve::open(Arc::new(disk.clone()), wanted).unwrap();
            let free_bytes = 1000 - kept;
            assert_eq!(reserve.measured(), Measured { room, free_bytes, reserve_bytes: kept });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_measured_again_and_again() {
        let disk = MemDisk::new(1);
        let reserve = Reserve::open(Arc::new(disk.clone()), R).unwrap();
        let measuring = reserve.clone();
        let running = tokio::spawn(async move { measuring.run().await });
        disk.set_free_bytes(10);
        tokio::time::sleep(2 * MEASURED_EVERY).await;
        assert_eq!(reserve.room(), Room::BelowHard);
        running.abort();
    }
}
