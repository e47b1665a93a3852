//! Steps of the wall clock, and of that alone: elections and leases go by another one.

use std::time::Duration;

use rand::RngExt;

use super::{Clock, Fault, Field, Held, Observed, Standing, look};
use crate::fleet::until;
use crate::real::node::Node;

const DAY_SECONDS: i64 = 24 * 60 * 60;
/// Some 200 years: Linux lets no clock be set beyond 2232.
const FAR_SECONDS: i64 = 200 * 365 * DAY_SECONDS;
/// Some 50 years, to soon after 1970, as a machine has it whose clock lost its battery.
const RESET_SECONDS: i64 = -56 * 365 * DAY_SECONDS;
const STANDS_MS: (u64, u64) = (1_000, 2_500);
const SEEN_LIMIT: Duration = Duration::from_secs(5);
/// A clock that is read back may be off by so many seconds, for the reading and the rounding.
const TOLERANCE_SECONDS: i64 = 5;

/// On one node, or on all.
pub(super) async fn step(field: &mut Field, fault: Fault, step: Clock) -> Result<Standing, String> {
    let seconds = match step {
        Clock::DayAhead => DAY_SECONDS,
        Clock::DayBehind => -DAY_SECONDS,
        Clock::FarAhead => FAR_SECONDS,
        Clock::Reset => RESET_SECONDS,
    };
    let places = field.places();
    let on = if field.rng.random_bool(0.5) { places } else { vec![field.choose(&places)?] };
    let hit_leader = field.any_leads(&on).await;
    field.announce(fault, &on)?;
    for place in &on {
        field.world.set_wall_clock(*place, seconds)?;
    }
    let hold = field.between(STANDS_MS.0, STANDS_MS.1);
    Ok(Standing { fault, on, hit_leader, hold, held: Held::Clock { seconds } })
}

pub(super) async fn back(field: &mut Field, on: &[usize], seconds: i64) -> Observed {
    let mut seen = Ok(());
    for place in on.iter().filter(|place| !field.busy.contains(place)) {
        if let Err(why) = shows(&field.world.nodes[*place], seconds).await {
            seen = Err(why);
        }
    }
    for place in on {
        field.world.set_wall_clock(*place, 0)?;
    }
    for place in on.iter().filter(|place| !field.busy.contains(place)) {
        shows(&field.world.nodes[*place], 0).await?;
    }
    seen
}

/// Waits until the node's own clock is so far from the true time.
async fn shows(node: &Node, seconds: i64) -> Observed {
    let seen = until(SEEN_LIMIT, || async {
        let offset = look::wall_clock_offset(node).await?;
        (offset.abs_diff(seconds) <= TOLERANCE_SECONDS.unsigned_abs()).then_some(())
    });
    seen.await.ok_or_else(|| format!("{}'s clock did not come to {seconds:+} s", node.name))
}
