//! What a run counts: latencies as histograms, errors by code, outcomes of writes. Pure.
//!
//! Latencies of successes and of failures stand apart: quick refusals would make a cluster look fast.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::super::exit::Failure;
use super::ask::Ended;
use super::draw::Kind;
use super::schedule::Due;
use crate::clock::Moment;

/// Digits that a latency keeps: it is told within a thousandth of itself.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies in microseconds.
pub(in crate::cli) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(in crate::cli) fn new() -> Self {
        Self(Histogram::new(SIGNIFICANT_DIGITS).expect("three digits are allowed"))
    }

    pub(in crate::cli) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.record(micros.max(1)).expect("a histogram that grows takes any number");
    }

    pub(in crate::cli) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("a histogram that grows takes any other");
    }

    pub(in crate::cli) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Milliseconds, below which the part `quantile` of all latencies lies.
    pub(in crate::cli) fn ms_at(&self, quantile: f64) -> f64 {
        ms(self.0.value_at_quantile(quantile))
    }

    pub(in crate::cli) fn max_ms(&self) -> f64 {
        ms(self.0.max())
    }

    /// None when nothing was counted.
    pub(in crate::cli) fn json(&self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        json!({
            "count": self.count(),
            "min": ms(self.0.min()),
            "mean": (self.0.mean()).round() / 1000.0,
            "p50": self.ms_at(0.5),
            "p90": self.ms_at(0.9),
            "p99": self.ms_at(0.99),
            "p999": self.ms_at(0.999),
            "max": self.max_ms(),
        })
    }
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// The last second, for those who watch.
pub(super) struct Interval {
    pub(super) succeeded: Latencies,
    pub(super) failed: u64,
}

impl Interval {
    fn new() -> Self {
        Self { succeeded: Latencies::new(), failed: 0 }
    }
}

pub(super) struct Tally {
    pub(super) puts: Latencies,
    pub(super) gets: Latencies,
    pub(super) failed: Latencies,
    /// How late requests of an open loop started.
    pub(super) start_delay: Latencies,
    interval: Interval,
    pub(super) warmup: u64,
    pub(super) redirects: u64,
    pub(super) wrong_values: u64,
    /// By status, none without an answer, and code.
    pub(super) errors: BTreeMap<(Option<u16>, String), u64>,
    pub(super) writes_not_applied: u64,
    pub(super) writes_unknown: u64,
    pub(super) first_failure: Option<Failure>,
    /// When the last measured request ended.
    pub(super) last_end: Option<Moment>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            puts: Latencies::new(),
            gets: Latencies::new(),
            failed: Latencies::new(),
            start_delay: Latencies::new(),
            interval: Interval::new(),
            warmup: 0,
            redirects: 0,
            wrong_values: 0,
            errors: BTreeMap::new(),
            writes_not_applied: 0,
            writes_unknown: 0,
            first_failure: None,
            last_end: None,
        }
    }

    pub(super) fn started(&mut self, due: &Due, now: Moment) {
        if due.measured {
            self.start_delay.record(now.since(due.at));
        }
    }

    pub(super) fn ended(&mut self, due: &Due, kind: Kind, ended: Ended, redirects: u32, now: Moment) {
        let latency = now.since(due.at);
        match &ended {
            Ended::Done => self.interval.succeeded.record(latency),
            Ended::WrongValue | Ended::Failed(_) => self.interval.failed += 1,
        }
        // Also one of the warm-up is worth a look.
        self.wrong_values += u64::from(matches!(ended, Ended::WrongValue));
        if !due.measured {
            self.warmup += 1;
            return;
        }
        self.last_end = self.last_end.max(Some(now));
        self.redirects += u64::from(redirects);
        match ended {
            Ended::Done if kind == Kind::Get => self.gets.record(latency),
            Ended::Done => self.puts.record(latency),
            Ended::WrongValue => {
                self.failed.record(latency);
                *self.errors.entry((Some(200), "wrong-value".to_string())).or_default() += 1;
            }
            Ended::Failed(failed) => {
                self.failed.record(latency);
                if kind.is_write() {
                    self.writes_unknown += u64::from(failed.outcome_unknown);
                    self.writes_not_applied += u64::from(!failed.outcome_unknown);
                }
                *self.errors.entry((failed.status, failed.code)).or_default() += 1;
                self.first_failure.get_or_insert(failed.failure);
            }
        }
    }

    /// What was counted since the last call, with the warm-up.
    pub(super) fn take_interval(&mut self) -> Interval {
        std::mem::replace(&mut self.interval, Interval::new())
    }

    /// Puts and gets.
    pub(super) fn succeeded(&self) -> Latencies {
        let mut all = Latencies::new();
        all.add(&self.puts);
        all.add(&self.gets);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::ask::Failed;
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(ms))
    }

    fn due(ms: u64, measured: bool) -> Due {
        Due { number: 0, at: at(ms), measured }
    }

    fn failed(status: Option<u16>, code: &str, outcome_unknown: bool) -> Ended {
        let failure = Failure::Run(code.to_string());
        Ended::Failed(Box::new(Failed { status, code: code.to_string(), outcome_unknown, retry_after: None, failure }))
    }

    #[test]
    fn a_latency_counts_from_the_moment_the_request_was_due() {
        let mut tally = Tally::new();
        tally.started(&due(1000, true), at(1400));
        tally.ended(&due(1000, true), Kind::Put, Ended::Done, 0, at(1450));
        assert!((tally.puts.max_ms() - 450.0).abs() < 0.5, "{}", tally.puts.max_ms());
        assert!((tally.start_delay.max_ms() - 400.0).abs() < 0.5);
    }

    #[test]
    fn percentiles_are_exact_to_a_thousandth() {
        let mut latencies = Latencies::new();
        (1..=10_000).for_each(|tenth_ms| latencies.record(Duration::from_micros(tenth_ms * 100)));
        for (quantile, ms) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (0.999, 999.0)] {
            let found = latencies.ms_at(quantile);
            assert!((found - ms).abs() <= ms / 1000.0, "{quantile}: {found}");
        }
        assert!((latencies.max_ms() - 1000.0).abs() <= 1.0);
        assert_eq!(Latencies::new().json(), Value::Null);
    }

    #[test]
    fn each_outcome_is_counted_where_it_belongs() {
        let mut tally = Tally::new();
        for (kind, ended) in [
            (Kind::Put, Ended::Done),
            (Kind::Get, Ended::Done),
            (Kind::Get, Ended::WrongValue),
            (Kind::Put, failed(Some(503), "no-leader", false)),
            (Kind::Put, failed(Some(504), "deadline-exceeded", true)),
            (Kind::Get, failed(Some(504), "deadline-exceeded", false)),
            (Kind::Put, failed(None, "connection-lost", true)),
        ] {
            tally.ended(&due(0, true), kind, ended, 1, at(1));
        }
        tally.ended(&due(0, false), Kind::Put, failed(None, "unreachable", false), 0, at(1));
        assert_eq!((tally.puts.count(), tally.gets.count(), tally.failed.count()), (1, 1, 5));
        assert_eq!((tally.writes_not_applied, tally.writes_unknown), (1, 2));
        assert_eq!((tally.warmup, tally.redirects, tally.wrong_values), (1, 7, 1));
        let errors: Vec<_> = tally.errors.iter().map(|((status, code), count)| (*status, &code[..], *count)).collect();
        let wanted = [
            (None, "connection-lost", 1),
            (Some(200), "wrong-value", 1),
            (Some(503), "no-leader", 1),
            (Some(504), "deadline-exceeded", 2),
        ];
        assert_eq!(errors, wanted);
        assert_eq!(tally.first_failure.as_ref().unwrap().to_string(), "no-leader");
        let interval = tally.take_interval();
        assert_eq!((interval.succeeded.count(), interval.failed), (2, 6), "those who watch see the warm-up too");
        assert_eq!(tally.take_interval().failed, 0);
    }
}
