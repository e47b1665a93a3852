//! What a run found, as JSON of a stable shape and as tables made from it.
//!
//! The shape: members are never renamed or removed, and their units stand in their names; new ones may come. A part that
//! does not apply to the run is null. Latencies are milliseconds, and count from the moment a request was due. `ringraft
//! bench --help` lists them for users, and `tests.rs` pins their names.

use serde_json::{Value, json};

use super::super::output;
use super::args::{Loop, Settings};
use super::keyspace::Removed;
use super::schedule::Source;
use super::tally::{Latencies, Tally};

/// Columns of the table of latencies, with the unit that their heads say.
const COLUMNS: &[&str] =
    &["requests", "count", "per_second", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "max_ms"];
const ERROR_COLUMNS: &[&str] = &["error", "status", "count"];

/// The keys that were made to exist before a run.
pub(super) struct Loaded {
    pub(super) keys: u64,
    pub(super) seconds: f64,
}

/// The figures of the measured part.
pub(super) fn json(
    settings: &Settings,
    source: &Source,
    tally: &Tally,
    loaded: Option<&Loaded>,
    interrupted: bool,
) -> Value {
    let succeeded = tally.succeeded();
    // To the last answer, so that requests which ended late are not counted as quick.
    let seconds = tally.last_end.map_or(0.0, |end| end.since(source.measured_from()).as_secs_f64());
    let ended = succeeded.count() + tally.failed.count();
    let errors: Vec<Value> = tally
        .errors
        .iter()
        .map(|((status, code), count)| json!({ "status": status, "code": code, "count": count }))
        .collect();
    json!({
        "workload": settings.workload.name(),
        "loop": if source.is_open() { "open" } else { "closed" },
        // JavaScript loses digits of large numbers.
        "seed": settings.seed.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "settings": settings.json(),
        "interrupted": interrupted,
        "seconds": rounded(seconds),
        "requests": {
            "sent": ended,
            "succeeded": succeeded.count(),
            "failed": tally.failed.count(),
            "not_started": source.not_started(),
            "warmup": tally.warmup,
            "redirects": tally.redirects,
        },
        "throughput_per_second": per_second(succeeded.count(), seconds),
        "latency_ms": {
            "all": succeeded.json(),
            "put": tally.puts.json(),
            "get": tally.gets.json(),
            "failed": tally.failed.json(),
        },
        "start_delay_ms": if source.is_open() { tally.start_delay.json() } else { Value::Null },
        "writes": {
            "acknowledged": tally.puts.count(),
            "not_applied": tally.writes_not_applied,
            "unknown": tally.writes_unknown,
        },
        "wrong_values": tally.wrong_values,
        "errors": errors,
        "warnings": warnings(settings, source, tally),
        "load": loaded.map(|loaded| json!({ "keys": loaded.keys, "seconds": rounded(loaded.seconds) })),
        "cleanup": null,
    })
}

/// Says in the report what was removed. None when the keys were kept, or left.
pub(super) fn add_cleanup(report: &mut Value, removed: Option<Removed>) {
    report["cleanup"] =
        removed.map_or(Value::Null, |removed| json!({ "keys": removed.keys, "foreign_keys_left": removed.foreign }));
}

/// The same for people.
pub(super) fn table(settings: &Settings, source: &Source, tally: &Tally, report: &Value) -> String {
    let seconds = report["seconds"].as_f64().unwrap_or(0.0);
    let row = |name: &str, latencies: &Latencies| {
        json!({
            "requests": name,
            "count": latencies.count(),
            "per_second": per_second(latencies.count(), seconds),
            "mean_ms": latencies.json()["mean"],
            "p50_ms": latencies.ms_at(0.5),
            "p90_ms": latencies.ms_at(0.9),
            "p99_ms": latencies.ms_at(0.99),
            "p99.9_ms": latencies.ms_at(0.999),
            "max_ms": latencies.max_ms(),
        })
    };
    let mut rows = Vec::new();
    let both = tally.puts.count() > 0 && tally.gets.count() > 0;
    for (name, latencies) in [("put", &tally.puts), ("get", &tally.gets), ("failed", &tally.failed)] {
        if latencies.count() > 0 {
            rows.push(row(name, latencies));
        }
    }
    if both {
        rows.push(row("all succeeded", &tally.succeeded()));
    }
    let mut text = format!("{}\n", headline(settings, seconds));
    text += &output::records(&rows, COLUMNS, true);
    let errors: Vec<Value> = output::list(report, "errors")
        .iter()
        .map(|error| json!({ "error": error["code"], "status": error["status"], "count": error["count"] }))
        .collect();
    if !errors.is_empty() {
        text += &format!("\n{}", output::records(&errors, ERROR_COLUMNS, true));
    }
    if tally.writes_unknown > 0 {
        text += &format!("{} writes of unknown outcome: each may have happened or not\n", tally.writes_unknown);
    }
    if tally.redirects > 0 {
        text += &format!("{} changes of leader were followed (421)\n", tally.redirects);
    }
    if source.is_open() && tally.start_delay.count() > 0 {
        let (p99, max) = (tally.start_delay.ms_at(0.99), tally.start_delay.max_ms());
        text +=
            &format!("requests started up to {p99} ms late at p99, {max} ms at most: the latencies count that in\n");
    }
    for warning in warnings(settings, source, tally) {
        text += &format!("warning: {warning}\n");
    }
    text
}

fn headline(settings: &Settings, seconds: f64) -> String {
    let name = settings.workload.name();
    let pattern = match settings.pattern {
        Loop::Closed { clients } => format!("closed loop of {clients} clients"),
        Loop::Open { rate, outstanding, .. } => format!("open loop of {rate}/s, at most {outstanding} outstanding"),
    };
    format!("{name}, {pattern}, {} s, seed {}", rounded(seconds), settings.seed)
}

/// What makes figures mean less than they seem to.
fn warnings(settings: &Settings, source: &Source, tally: &Tally) -> Vec<String> {
    let mut warnings = Vec::new();
    let not_started = source.not_started();
    if not_started > 0 {
        warnings.push(format!(
            "{not_started} requests were due and not sent: all {} places were taken for longer than the timeout. The latencies \
             leave them out and are too good",
            settings.pattern.requests_at_once()
        ));
    }
    if tally.wrong_values > 0 {
        warnings.push(format!("{} reads gave the value of another key", tally.wrong_values));
    }
    warnings
}

pub(super) fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { (count as f64 / seconds * 10.0).round() / 10.0 } else { 0.0 }
}
