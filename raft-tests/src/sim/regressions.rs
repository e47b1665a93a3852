//! Runs that once found something, or that a hazard is known by: each stays.

use super::plan::Scenario;

struct Regression {
    scenario: &'static str,
    seed: u64,
    /// What it found, or the hazard.
    found: &'static str,
}

const ALL: &[Regression] = &[
    Regression {
        scenario: "lease-trap",
        seed: 1,
        found: "a voter that restarted inside the lease it had granted elected another leader (openraft, hazard 3.2)",
    },
    Regression { scenario: "lease-trap", seed: 2, found: "the same, with an answer 305 ms old" },
    Regression {
        scenario: "power",
        seed: 1,
        found: "a restarted leader led on and gave lost ids to other payloads (openraft, hazard 3.1)",
    },
    Regression { scenario: "power", seed: 2, found: "the same, with an old answer to a linearizable read" },
    Regression {
        scenario: "snapshots",
        seed: 1,
        found: "a log purged further than its rows were flushed leaves a replica that cannot start (openraft, 3.6)",
    },
    Regression {
        scenario: "lease-margin",
        seed: 1,
        found: "a lease as long as the followers' patience is too long for a slow clock (openraft, hazard 3.3)",
    },
    Regression {
        scenario: "suspends",
        seed: 2,
        found: "a leader whose clock stood still in a suspend believed its lease (openraft, hazard 3.3)",
    },
];

/// All of them, in order.
pub(super) fn all() -> Vec<(&'static Scenario, u64)> {
    let known = |regression: &Regression| {
        println!("{} seed {}: {}", regression.scenario, regression.seed, regression.found);
        (Scenario::find(regression.scenario).expect("a test holds the table"), regression.seed)
    };
    ALL.iter().map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_regression_names_a_scenario_that_is_there() {
        for regression in ALL {
            assert!(Scenario::find(regression.scenario).is_some(), "{}", regression.scenario);
        }
    }
}
