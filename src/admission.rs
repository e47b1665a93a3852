//! Admission control: how many requests a node takes in hand at once when it does not get them done as fast as they come.
//!
//! What runs out first is the processor, and then everything waits for it, Raft's heartbeats too: leaders are lost,
//! answers come after their deadlines, and the more is taken in hand the less is done. So the node looks how late its own
//! tasks run ([`Admission::run`]), and while they run late it takes fewer requests in hand, never fewer than
//! [`REQUESTS_MIN`]. What is above that is refused at its head, which costs little: the processor is left to what was
//! taken. Additive increase, multiplicative decrease, as in TCP (Jacobson, 1988); the delay as the signal is CoDel's
//! (Nichols and Jacobson, 2012).
//!
//! Not every wait is a want of processor: a group without a quorum, a slow disk or a far node holds requests up, but not
//! the node's tasks. What waits for those is bounded by `shard/limits.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::clock;

/// A gate always takes so many, however late the node is: fewer would leave a node idle that only shares its processors
/// with others, and cost batches their size.
pub const REQUESTS_MIN: usize = 16;
/// The bound of a node that is on time. Connections are fewer.
const REQUESTS_MAX: usize = 1 << 20;
/// Tasks that wait longer for a processor are late: some turns of the system's scheduler, and a fifth of the time in which a
/// follower has to answer. With less, nodes that share a processor shed what they would have got done.
const LATE: Duration = Duration::from_millis(20);
/// So many looks in a row must find the node late. One alone may have met a single long task.
const LOOKS: usize = 3;
/// Between two looks while there is something to bound, and while there is not.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const LOOK_EVERY_IDLE: Duration = Duration::from_millis(50);
/// Of its bound, a gate gives up one part of so many with each look that finds the node late.
const DECREASE_DIVISOR: usize = 20;
/// And wins one part of so many, at least one request, with each look that finds it on time.
const INCREASE_DIVISOR: usize = 64;

/// A node's gates. Cheap to clone.
#[derive(Clone, Default)]
pub struct Admission {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    clients: Gate,
    peers: Gate,
    /// What the last look found, in microseconds.
    lateness: AtomicU64,
}

impl Admission {
    /// For what clients ask of this node.
    pub fn clients(&self) -> &Gate {
        &self.inner.clients
    }

    /// For what other nodes forward. They have taken it in hand already: a bound in common with [`Self::clients`] would
    /// refuse it for the sake of requests that have cost nothing yet.
    pub fn peers(&self) -> &Gate {
        &self.inner.peers
    }

    /// How long the node's tasks waited for a processor when it was looked at last.
    pub fn lateness(&self) -> Duration {
        Duration::from_micros(self.inner.lateness.load(Ordering::Relaxed))
    }

    /// Looks for ever. To be run among the tasks whose lateness counts.
    pub async fn run(&self) {
        let mut looks = [Duration::ZERO; LOOKS];
        for place in (0..LOOKS).cycle() {
            let gates = [&self.inner.clients, &self.inner.peers];
            let is_busy = gates.iter().any(|gate| gate.in_hand() >= REQUESTS_MIN / 2);
            let due = clock::now().after(if is_busy { LOOK_EVERY } else { LOOK_EVERY_IDLE });
            clock::sleep(due.since(clock::now())).await;
            let lateness = clock::now().since(due);
            self.inner.lateness.store(u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            looks[place] = lateness;
            let is_late = looks.iter().all(|lateness| *lateness > LATE);
            gates.iter().for_each(|gate| gate.follow(is_late));
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<GateInner>,
}

struct GateInner {
    in_hand: AtomicUsize,
    bound: AtomicUsize,
}

impl Default for Gate {
    fn default() -> Self {
        let (in_hand, bound) = (AtomicUsize::new(0), AtomicUsize::new(REQUESTS_MAX));
        Self { inner: Arc::new(GateInner { in_hand, bound }) }
    }
}

/// One request that was taken; it is out of hand when this is dropped.
pub struct InHand(Gate);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.inner.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// Whether one more would be refused, for whoever has yet to read what it would take in hand.
    pub fn is_full(&self) -> bool {
        self.in_hand() >= self.bound()
    }

    /// None when the bound is reached. Never waits: a queue here would only hide overload.
    pub fn enter(&self) -> Option<InHand> {
        let bound = self.bound();
        let one_more = |in_hand| (in_hand < bound).then_some(in_hand + 1);
        let entered = self.inner.in_hand.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.is_ok().then(|| InHand(self.clone()))
    }

    pub fn in_hand(&self) -> usize {
        self.inner.in_hand.load(Ordering::Relaxed)
    }

    pub fn bound(&self) -> usize {
        self.inner.bound.load(Ordering::Relaxed)
    }

    /// As it stands when the node has been late for a while.
    #[cfg(test)]
    pub(crate) fn fill(&self) -> Vec<InHand> {
        self.inner.bound.store(REQUESTS_MIN, Ordering::Relaxed);
        std::iter::from_fn(|| self.enter()).collect()
    }

    fn follow(&self, is_late: bool) {
        self.inner.bound.store(bound_after(self.bound(), self.in_hand(), is_late), Ordering::Relaxed);
    }
}

/// The bound after a look that found so many in hand.
fn bound_after(bound: usize, in_hand: usize, is_late: bool) -> usize {
    if is_late {
        // From what is in hand: the bound may be far above, and then lowering it alone would change nothing for long.
        let from = bound.min(in_hand);
        // Rounded up here and below: a small bound has to move too.
        (from - from.div_ceil(DECREASE_DIVISOR)).max(REQUESTS_MIN)
    } else {
        (bound + bound.div_ceil(INCREASE_DIVISOR)).min(REQUESTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gate_refuses_at_its_bound_and_takes_again_when_something_is_done() {
        let gate = Gate::default();
        let mut held: Vec<InHand> = (0..2 * REQUESTS_MIN).map(|_| gate.enter().unwrap()).collect();
        assert!(!gate.is_full(), "on time nothing is refused");
        for _ in 0..100 {
            gate.follow(true);
        }
        assert!(gate.is_full() && gate.enter().is_none());
        held.truncate(REQUESTS_MIN);
        assert!(gate.enter().is_none());
        held.pop();
        assert_eq!((gate.in_hand(), gate.is_full()), (REQUESTS_MIN - 1, false));
        let last = gate.enter();
        assert!(last.is_some() && gate.enter().is_none());
    }

    #[test]
    fn a_late_node_sheds_within_a_second_and_one_that_is_on_time_again_forgets_within_two() {
        let per_second = 1000 / LOOK_EVERY.as_millis();
        let mut bound = REQUESTS_MAX;
        for _ in 0..per_second {
            bound = bound_after(bound, bound.min(10_000), true);
        }
        assert_eq!(bound, REQUESTS_MIN);
        for _ in 0..2 * per_second {
            bound = bound_after(bound, 0, false);
        }
        assert!(bound > 10_000, "{bound}");
    }

    proptest! {
        #[test]
        fn the_bound_never_leaves_its_limits(looks in prop::collection::vec((0..20_000_usize, any::<bool>()), 1..300)) {
            let mut bound = REQUESTS_MAX;
            for (in_hand, is_late) in looks {
                let before = bound;
                bound = bound_after(bound, in_hand, is_late);
                prop_assert!((REQUESTS_MIN..=REQUESTS_MAX).contains(&bound));
                let is_right = if is_late { bound <= before } else { bound > before || bound == REQUESTS_MAX };
                prop_assert!(is_right, "from {} to {}", before, bound);
            }
        }
    }

    /// A task that keeps the only worker for longer than [`LATE`] each time it runs.
    async fn hog() {
        loop {
            let until = clock::now().after(4 * LATE);
            while clock::now() < until {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
    }

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = clock::now().after(Duration::from_secs(30));
        while !is_so() {
            assert!(clock::now() < deadline, "in time: {what}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    #[tokio::test]
    async fn tasks_that_wait_for_the_processor_lower_the_bound_and_nothing_else_does() {
        let admission = Admission::default();
        let running = admission.clone();
        let _running = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { running.run().await }));
        let held: Vec<InHand> = (0..2 * REQUESTS_MIN).map(|_| admission.clients().enter().unwrap()).collect();
        // More than once: a busy machine may make any test late for a while.
        until("what only waits is no overload", || admission.clients().enter().is_some()).await;

        let hogging = tokio::spawn(hog());
        until("the bound is lowered", || admission.clients().is_full()).await;
        assert!(admission.lateness() > LATE);
        assert!(admission.peers().enter().is_some(), "each gate counts its own");
        hogging.abort();
        until("the bound is lifted", || !admission.clients().is_full()).await;
        drop(held);
    }
}
