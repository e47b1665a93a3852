//! The sums of all runs, as text, and what a release must have survived (issue 4).

use std::fmt::{self, Write as _};

use crate::record::{Run, RunKind};

/// Minutes of real clusters under faults.
const REAL_MINUTES_MIN: f64 = 90.0;
/// Simulated worlds, each from a seed of its own.
const SIM_SEEDS_MIN: u64 = 2_000;
/// Confirmed losses of power of real nodes, and of all nodes at once among them.
const POWER_LOSSES_MIN: u64 = 200;
const POWER_LOSSES_OF_ALL_MIN: u64 = 60;
/// Restarts of a voter inside a lease that it had granted.
const LEASE_TRAPS_MIN: u64 = 200;

/// Changes of the cluster that came to their end, each while a fault stood or right after it (issue 5).
const SPLITS_MIN: u64 = 300;
const MOVES_MIN: u64 = 300;
const TRANSFERS_MIN: u64 = 300;
const MEMBERSHIP_CHANGES_MIN: u64 = 100;
/// Of one move: a learner comes, and voters are exchanged.
const MEMBERSHIP_CHANGES_PER_MOVE: u64 = 2;

/// Names that `real` gives to what is asked for here.
pub(super) const POWER_LOSS: &str = "power-loss/";
const POWER_LOSS_OF_ALL: &str = "power-loss/all";
const LEASE_TRAP: &str = "lease-trap";
const STALE_WINDOW: &str = "stale_window_ms_max";

/// One thing asked for, and what was reached.
#[derive(Debug)]
pub(super) struct Goal {
    what: &'static str,
    reached: f64,
    wanted: f64,
    pub(super) is_met: bool,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, reached, wanted, is_met } = self;
        let mark = if *is_met { "reached" } else { "NOT REACHED" };
        write!(f, "  {what}: {reached:.0} of {wanted:.0}, {mark}")
    }
}

pub(super) fn check(sums: &[Run]) -> Vec<Goal> {
    let sum_of = |kind: RunKind| sums.iter().find(move |run| run.kind == kind);
    let faults = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        let real = sum_of(RunKind::Real).into_iter().flat_map(|run| &run.faults);
        real.filter(|(class, _)| wanted(class)).map(|(_, count)| count.confirmed).sum()
    };
    #[expect(clippy::cast_precision_loss, reason = "counts of faults and seeds are far below 2^52")]
    let at_least = |what, reached: u64, wanted: u64| Goal {
        what,
        reached: reached as f64,
        wanted: wanted as f64,
        is_met: reached >= wanted,
    };
    let minutes = sum_of(RunKind::Real).map_or(0.0, |run| run.seconds / 60.0);
    // Without a window that was measured there is nothing to be believed.
    let window = sum_of(RunKind::Real).and_then(|run| run.figures.get(STALE_WINDOW).copied());
    vec![
        Goal {
            what: "minutes of real clusters",
            reached: minutes.floor(),
            wanted: REAL_MINUTES_MIN,
            is_met: minutes >= REAL_MINUTES_MIN,
        },
        at_least("simulated seeds", sum_of(RunKind::Sim).map_or(0, |run| run.runs), SIM_SEEDS_MIN),
        at_least("power losses", faults(&|class| class.starts_with(POWER_LOSS)), POWER_LOSSES_MIN),
        at_least("power losses of all nodes", faults(&|class| class == POWER_LOSS_OF_ALL), POWER_LOSSES_OF_ALL_MIN),
        at_least("lease traps", faults(&|class| class == LEASE_TRAP), LEASE_TRAPS_MIN),
        Goal {
            what: "ms of the longest stale window of a lease read",
            reached: window.unwrap_or(f64::NAN),
            wanted: 0.0,
            is_met: window == Some(0.0),
        },
    ]
}

/// Violations count in any case; here is what they were looked for in.
pub(super) fn check_operations(sums: &[Run]) -> Vec<Goal> {
    let real = sums.iter().find(|run| run.kind == RunKind::Real);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    let done = |change: &str| {
        let figure = real.and_then(|run| run.figures.get(&format!("operations_{change}_done")));
        figure.map_or(0, |figure| *figure as u64)
    };
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let at_least = |what, reached: u64, wanted: u64| Goal {
        what,
        reached: reached as f64,
        wanted: wanted as f64,
        is_met: reached >= wanted,
    };
    vec![
        at_least("splits", done("split"), SPLITS_MIN),
        at_least("moves", done("move"), MOVES_MIN),
        at_least("transfers", done("transfer"), TRANSFERS_MIN),
        at_least("changes of a membership", MEMBERSHIP_CHANGES_PER_MOVE * done("move"), MEMBERSHIP_CHANGES_MIN),
    ]
}

/// What each kind of run comes to.
pub(super) fn table(sums: &[Run]) -> String {
    let mut text = String::new();
    for sum in sums {
        let _ = writeln!(
            text,
            "\n{}: {} runs, {:.1} min{}, {} operations checked ({} answered, {} writes, {} unknown), {} violations, {} undecided",
            sum.kind.name(),
            sum.runs,
            sum.seconds / 60.0,
            simulated(sum),
            sum.operations,
            sum.ok,
            sum.writes,
            sum.unknown_writes,
            sum.violations.len(),
            sum.undecided.len(),
        );
        for (class, count) in &sum.faults {
            let _ = write!(text, "  {class:<28} {:>7} confirmed", count.confirmed);
            if count.hit_leader > 0 {
                let _ = write!(text, ", {} on a leader", count.hit_leader);
            }
            if count.unconfirmed > 0 {
                let _ = write!(text, ", {} not confirmed", count.unconfirmed);
            }
            text.push('\n');
        }
        for (code, count) in &sum.fail_by_code {
            let _ = writeln!(text, "  not applied: {code:<28} {count}");
        }
        for (name, figure) in &sum.figures {
            let _ = writeln!(text, "  {name:<28} {}", number(*figure));
        }
    }
    text
}

fn simulated(sum: &Run) -> String {
    if sum.simulated_seconds > 0.0 {
        format!(" ({:.1} simulated)", sum.simulated_seconds / 60.0)
    } else {
        String::new()
    }
}

/// Whole where it is whole.
pub(super) fn number(figure: f64) -> String {
    if figure.fract() == 0.0 { format!("{figure:.0}") } else { format!("{figure:.2}") }
}
