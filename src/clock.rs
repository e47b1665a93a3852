//! The clock and randomness seam. Production reads CLOCK_BOOTTIME, which goes on through a suspend, so that a lease
//! taken before one is seen to be over after it. A simulation installs its own clock and seed on its thread, and may let
//! the clocks of its nodes run at rates of their own: then Raft's timers, made by [`sleep`] and [`stretch`], keep to them.
//!
//! Nothing else in the crate asks the system for the time or for random bits (`clippy.toml` holds it to that).

use std::cell::{Cell, RefCell};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

thread_local! {
    static CLOCK: Cell<fn() -> Duration> = const { Cell::new(boot_time) };
    static WALL: Cell<fn() -> u64> = const { Cell::new(system_wall_ms) };
    static SEEDED: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
    static TIMERS: Cell<Option<SimulatedTimers>> = const { Cell::new(None) };
}

/// How timers behave on a simulated node whose clock is not the simulation's.
#[derive(Clone, Copy)]
pub struct SimulatedTimers {
    /// How long the simulation goes on until this much has passed on the node's clock.
    pub stretch: fn(Duration) -> Duration,
    /// How long a timer that fires now must still wait: nothing runs on a node that is suspended.
    pub late_by: fn() -> Duration,
}

/// A moment on this node's own clock. Never compared between nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Moment(Duration);

impl Moment {
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// Time from `earlier` to this moment; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// None before the clock's own origin.
    pub fn before(self, duration: Duration) -> Option<Self> {
        self.0.checked_sub(duration).map(Self)
    }

    /// Time since the clock's own origin (boot, or the start of the simulation).
    pub fn since_origin(self) -> Duration {
        self.0
    }

    pub fn from_origin(duration: Duration) -> Self {
        Self(duration)
    }
}

pub fn now() -> Moment {
    Moment(CLOCK.get()())
}

/// Milliseconds since 1970. Used once, for the revision base of a new cluster, and in logs.
pub fn wall_ms() -> u64 {
    WALL.get()()
}

/// Random bits for ids and jitter: the operating system's, or the simulation's seed.
pub fn random_u64() -> u64 {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(rng) => rng.random(),
        None => system_random_u64(),
    })
}

pub fn random_u128() -> u128 {
    (u128::from(random_u64()) << 64) | u128::from(random_u64())
}

/// Replaces clock, wall clock and randomness on this thread, for a simulation that runs wholly on it.
pub fn simulate(clock: fn() -> Duration, wall: fn() -> u64, seed: u64) {
    CLOCK.set(clock);
    WALL.set(wall);
    SEEDED.set(Some(SmallRng::seed_from_u64(seed)));
}

/// Lets timers on this thread run by the clocks of simulated nodes.
pub fn simulate_timers(timers: SimulatedTimers) {
    TIMERS.set(Some(timers));
}

/// What the runtime must be told to wait for `duration` of this node's clock. The same, but in a simulation.
pub fn stretch(duration: Duration) -> Duration {
    TIMERS.get().map_or(duration, |timers| (timers.stretch)(duration))
}

/// Waits until `duration` has passed on this node's clock. Late after a suspend, as every timer.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(stretch(duration)).await;
    while let Some(timers) = TIMERS.get() {
        let late_by = (timers.late_by)();
        if late_by.is_zero() {
            return;
        }
        tokio::time::sleep(late_by).await;
    }
}

fn boot_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).expect("time since boot is not negative"),
        u32::try_from(time.tv_nsec).expect("nanoseconds fit 32 bits"),
    )
}

#[expect(clippy::disallowed_methods, reason = "this is the seam")]
fn system_wall_ms() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "this is the seam")]
fn system_random_u64() -> u64 {
    rand::rng().random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn simulated_timers_keep_to_the_node_s_clock_and_fire_after_a_suspend() {
        thread_local! { static LATE: Cell<Duration> = const { Cell::new(Duration::ZERO) } }
        let second = Duration::from_secs(1);
        let begun = tokio::time::sleep(Duration::ZERO).deadline();
        assert_eq!(stretch(second), second);
        sleep(second).await;
        assert_eq!(tokio::time::sleep(Duration::ZERO).deadline() - begun, second);
        simulate_timers(SimulatedTimers { stretch: |duration| duration * 2, late_by: || LATE.take() });
        LATE.set(second / 2);
        sleep(second).await;
        assert_eq!(tokio::time::sleep(Duration::ZERO).deadline() - begun, second * 7 / 2);
        TIMERS.set(None);
    }
}
