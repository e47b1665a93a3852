//! A clock for each simulated node, behind `ringraft::clock`.
//!
//! A node's clock runs at its own constant rate from an origin of its own, as CLOCK_BOOTTIME of a machine does: it goes on
//! while the node is suspended. Raft's timers keep to it, and none fires on a suspended node before that is resumed.
//! Everything that belongs to no node (clients, histories, the driver between two steps) has the simulation's time.
//!
//! Whose clock is asked for is told by the runtime that is running: turmoil gives each host one of its own, a new one
//! with each start.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use ringraft::clock::{self, SimulatedTimers};
use tokio::runtime::{Handle, Id};

/// Wall clock at the start of every simulation, in milliseconds since 1970.
const WALL_START_MS: u64 = 1_750_000_000_000;

/// Parts in a million: the unit of rates.
pub(super) const MILLION: u64 = 1_000_000;

/// How one node keeps time.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeClock {
    /// What it shows at the start of the simulation.
    pub(super) origin: Duration,
    /// Microseconds of the node that pass in a second of the simulation.
    pub(super) rate: u64,
    /// How far its wall clock is ahead, in milliseconds.
    pub(super) wall_ahead_ms: i64,
    /// In simulated time.
    suspended_until: Duration,
    /// Timers that fired late because of a suspend.
    late_timers: u64,
    /// A suspend stops this clock, as CLOCK_MONOTONIC does. Only to show that such a clock would be noticed.
    stops: bool,
    /// Time that this clock stood still before the suspend that is under way or was the last.
    stood: Duration,
    suspended_at: Duration,
}

impl NodeClock {
    pub(super) fn new(origin: Duration, rate: u64) -> Self {
        Self {
            origin,
            rate,
            wall_ahead_ms: 0,
            suspended_until: Duration::ZERO,
            late_timers: 0,
            stops: false,
            stood: Duration::ZERO,
            suspended_at: Duration::ZERO,
        }
    }

    fn show(&self, sim: Duration) -> Duration {
        let stands = sim.min(self.suspended_until).saturating_sub(self.suspended_at);
        let stood = self.stood + if self.stops { stands } else { Duration::ZERO };
        self.origin + scale(sim.saturating_sub(stood), self.rate, MILLION)
    }
}

fn scale(time: Duration, by: u64, of: u64) -> Duration {
    let nanos = time.as_nanos() * u128::from(by) / u128::from(of);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How long it takes a clock of this rate to pass `local`. Rounded up: a timer that fires a nanosecond early finds its
/// deadline still ahead, and of that nanosecond nothing would be left to wait for, for ever, because simulated time stands
/// still while a node runs.
fn time_of(local: Duration, rate: u64) -> Duration {
    let nanos = (local.as_nanos() * u128::from(MILLION)).div_ceil(u128::from(rate));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

thread_local! {
    /// Simulated time between two steps, when no host runs.
    static BETWEEN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static NODES: RefCell<Vec<NodeClock>> = const { RefCell::new(Vec::new()) };
    /// Which node runs on which runtime.
    static RUNTIMES: RefCell<Vec<(Id, usize)>> = const { RefCell::new(Vec::new()) };
}

/// Puts the simulation's clocks and seed under this thread. Nodes without a clock of their own have the simulation's.
pub(super) fn install(seed: u64) {
    BETWEEN.set(Duration::ZERO);
    NODES.with_borrow_mut(Vec::clear);
    RUNTIMES.with_borrow_mut(Vec::clear);
    clock::simulate(now, wall_ms, seed);
    clock::simulate_timers(SimulatedTimers { stretch, late_by });
}

/// Gives node `number`, counted from 1, a clock.
pub(super) fn add_node(number: u64, clock: NodeClock) {
    NODES.with_borrow_mut(|nodes| {
        assert_eq!(nodes.len() as u64 + 1, number, "nodes get their clocks in order");
        nodes.push(clock);
    });
}

/// This runtime runs node `number`, for as long as it lives.
pub(super) fn runs_here(number: u64) {
    let id = Handle::current().id();
    let node = usize::try_from(number - 1).expect("few nodes");
    RUNTIMES.with_borrow_mut(|runtimes| {
        runtimes.retain(|(known, of)| *known != id && *of != node);
        runtimes.push((id, node));
    });
}

/// The machine's own time, which nothing in a simulation hangs on: to tell how long a run took.
#[expect(clippy::disallowed_methods, reason = "the clock of this thread is the simulation's")]
pub(super) fn real_now() -> std::time::Instant {
    std::time::Instant::now()
}

/// The time between two steps.
pub(super) fn set_between(sim: Duration) {
    BETWEEN.set(sim);
}

/// Suspends a node for `time` from `sim` on, or from the end of the suspend that it is in.
pub(super) fn suspend(number: u64, sim: Duration, time: Duration, stops: bool) {
    with_node(number, |clock| {
        if clock.stops {
            clock.stood += clock.suspended_until - clock.suspended_at;
        }
        clock.stops = stops;
        clock.suspended_at = sim.max(clock.suspended_until);
        clock.suspended_until = clock.suspended_at + time;
    });
}

/// Timers of a node that fired late because it was suspended.
pub(super) fn late_timers(number: u64) -> u64 {
    with_node(number, |clock| clock.late_timers)
}

/// What a node's clock shows.
pub(super) fn shown(number: u64, sim: Duration) -> Duration {
    with_node(number, |clock| clock.show(sim))
}

fn with_node<T>(number: u64, look: impl FnOnce(&mut NodeClock) -> T) -> T {
    NODES.with_borrow_mut(|nodes| look(&mut nodes[usize::try_from(number - 1).expect("few nodes")]))
}

/// Looks at the clock of the node that is running; none elsewhere.
fn with_running<T>(look: impl FnOnce(&mut NodeClock) -> T) -> Option<T> {
    let id = Handle::try_current().ok()?.id();
    let node =
        RUNTIMES.with_borrow(|runtimes| runtimes.iter().find(|(known, _)| *known == id).map(|(_, node)| *node))?;
    NODES.with_borrow_mut(|nodes| nodes.get_mut(node).map(look))
}

/// The simulation's own time.
pub(super) fn sim_time() -> Duration {
    turmoil::sim_elapsed().unwrap_or_else(|| BETWEEN.get())
}

fn now() -> Duration {
    let sim = sim_time();
    with_running(|clock| clock.show(sim)).unwrap_or(sim)
}

fn wall_ms() -> u64 {
    let sim = u64::try_from(sim_time().as_millis()).unwrap_or(u64::MAX);
    let ahead = with_running(|clock| clock.wall_ahead_ms).unwrap_or(0);
    (WALL_START_MS + sim).saturating_add_signed(ahead)
}

fn stretch(local: Duration) -> Duration {
    with_running(|clock| time_of(local, clock.rate)).unwrap_or(local)
}

fn late_by() -> Duration {
    let sim = sim_time();
    let late_by = with_running(|clock| {
        let late_by = clock.suspended_until.saturating_sub(sim);
        clock.late_timers += u64::from(!late_by.is_zero());
        late_by
    });
    late_by.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_runs_at_its_rate_and_goes_on_through_a_suspend_unless_it_is_one_that_stops() {
        let second = Duration::from_secs(1);
        let fast = NodeClock::new(second * 100, 1_150_000);
        assert_eq!(fast.show(second * 2), second * 100 + Duration::from_millis(2300));
        let suspended = |stops| NodeClock { stops, suspended_at: second, suspended_until: second * 3, ..fast };
        assert_eq!(suspended(false).show(second * 4), fast.show(second * 4));
        assert_eq!(suspended(true).show(second * 2), fast.show(second));
        assert_eq!(suspended(true).show(second * 4), fast.show(second * 2));
    }

    #[test]
    fn a_timer_never_fires_before_its_clock_shows_the_deadline() {
        for rate in [850_000, 999_999, MILLION, 1_000_001, 1_088_000, 1_150_000] {
            let clock = NodeClock::new(Duration::from_secs(7), rate);
            for begun in [0, 1, 17, 999_999, 19_650_000_001] {
                for wait in [1, 2, 3, 999, 1_000_000, 100_000_007].map(Duration::from_nanos) {
                    let begun = Duration::from_nanos(begun);
                    let deadline = clock.show(begun) + wait;
                    let fired = clock.show(begun + time_of(wait, rate));
                    assert!(fired >= deadline, "rate {rate}: {wait:?} from {begun:?}");
                }
            }
        }
    }
}
