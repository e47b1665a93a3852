//! How fast snapshots leave this node, all of its groups together: filling replicas elsewhere is not to take the network and
//! the disks from the requests of clients.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{self, Moment};

/// Cheap to clone.
#[derive(Clone)]
pub struct Pace {
    bytes_per_s: u64,
    /// When what was let through so far has left at that pace.
    free_at: Arc<Mutex<Moment>>,
}

impl Pace {
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), free_at: Arc::new(Mutex::new(clock::now())) }
    }

    /// Returns when `bytes` may leave: at once after a pause, later when others have just left. Pieces that come at the
    /// same time leave one after the other, so that each stream gets its share.
    pub async fn wait_for(&self, bytes: usize) {
        let turn = self.turn(bytes, clock::now());
        clock::sleep(turn.since(clock::now())).await;
    }

    /// Takes the next turn. A pause is not saved up: what was not sent in it is not sent faster later.
    fn turn(&self, bytes: usize, now: Moment) -> Moment {
        let took = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = if *free_at > now { *free_at } else { now };
        *free_at = turn.after(took);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_leave_one_after_the_other_at_the_pace_and_a_pause_is_not_saved_up() {
        let pace = Pace::new(1000);
        let begin = clock::now();
        let turns: Vec<Duration> = [100, 300, 100].map(|bytes| pace.turn(bytes, begin).since(begin)).to_vec();
        assert_eq!(turns, [0, 100, 400].map(Duration::from_millis));
        let later = begin.after(Duration::from_secs(10));
        assert_eq!(pace.turn(500, later), later);
        assert_eq!(pace.turn(1, later).since(later), Duration::from_millis(500));
    }
}
