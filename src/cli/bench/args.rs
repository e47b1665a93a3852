//! The flags of `bench`, and what they mean together ([`Settings`]). Nothing is sent before they are judged.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::super::args::{Consistency, duration};
use super::super::exit::Failure;
use crate::clock;
use crate::types::{KEY_BYTES_MAX, VALUE_BYTES_MAX_CEILING};

/// Most clients of a closed loop, and most requests outstanding in an open one: each takes a connection.
const CONNECTIONS_MAX: u32 = 20_000;
const CLIENTS_DEFAULT: u32 = 16;
const OUTSTANDING_DEFAULT: u32 = 1024;
/// Highest rate, in requests per second: beyond it the clock's own cost would be measured.
const RATE_MAX: f64 = 10_000_000.0;
const KEYS_MAX: i64 = 1_000_000_000;
/// Digits of a key's number: enough for [`KEYS_MAX`].
pub(super) const KEY_DIGITS: usize = 10;
const PREFIX_BYTES_MAX: usize = KEY_BYTES_MAX - 64;
const ZIPF_MAX: f64 = 10.0;
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
const WARMUP_DEFAULT: Duration = Duration::from_secs(1);
const READ_PERCENT_DEFAULT: u8 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Workload {
    /// Writes keys.
    Put,
    /// Reads keys, which are written first.
    Get,
    /// Both, by --read-percent, of keys that are written first.
    Mixed,
}

impl Workload {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Mixed => "mixed",
        }
    }
}

/// Whom requests are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Route {
    /// The leader of the key's shard, by the shard map; changes of leaders are followed.
    Leader,
    /// The nodes of --endpoints, each client one of them, which forward to the leader.
    Any,
}

impl Route {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Any => "any",
        }
    }
}

/// When requests of an open loop are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Arrivals {
    /// One after the other in equal steps.
    Even,
    /// At random, as from many independent users.
    Poisson,
}

/// Lengths of values in bytes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct ValueSize {
    pub(super) min: usize,
    pub(super) max: usize,
}

/// Measures a cluster: throughput, and latency as a distribution.
///
/// Without --rate it is a closed loop: each of --clients sends its next request when its last one is answered. With
/// --rate it is an open loop: requests are due at their moments whatever the answers do, and latency counts from the
/// moment a request was due, so that a stall of the cluster is not hidden.
///
/// Nothing is tried a second time but what a node refused with 421: an error that a client would see counts as an error.
/// Latencies of requests that failed stand apart. A client of a closed loop pauses 50 ms after a failure, or as long as
/// the node asks for. The exit code is not 0 when no request succeeded, or when a read gave another key's value.
///
/// With `-o json` one object is printed. Its members keep their names: workload, loop, seed, version, settings, seconds
/// (to the last answer), requests {sent, succeeded, failed, not_started, warmup, redirects}, throughput_per_second (of
/// successes), latency_ms {all, put, get, failed}, each {count, min, mean, p50, p90, p99, p999, max} or null,
/// start_delay_ms (of an open loop: how late requests started, the same members), writes {acknowledged, not_applied,
/// unknown}, errors [{status, code, count}], wrong_values, load, cleanup, interrupted, warnings (texts).
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct BenchArgs {
    pub(super) workload: Workload,
    /// Closed loop: clients with one request each. [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)), conflicts_with = "rate")]
    pub(super) clients: Option<u32>,
    /// Open loop: requests due per second.
    #[arg(long, value_name = "R", value_parser = rate)]
    pub(super) rate: Option<f64>,
    /// With --rate: requests outstanding at most; those that cannot start within --timeout are counted. [default: 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)), requires = "rate")]
    pub(super) outstanding: Option<u32>,
    /// With --rate: how requests follow each other. [default: even]
    #[arg(long, requires = "rate")]
    pub(super) arrivals: Option<Arrivals>,
    /// Measured time. [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = measured_time, conflicts_with = "requests")]
    pub(super) duration: Option<Duration>,
    /// Measured requests, instead of a time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) requests: Option<u64>,
    /// The same load before, which is not measured. [default: 1s; with --requests none]
    #[arg(long, value_name = "TIME", value_parser = warmup_time)]
    pub(super) warmup: Option<Duration>,
    /// Of `mixed`: reads of a hundred requests. [default: 50]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) read_percent: Option<u8>,
    /// Keys that requests choose from.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX as u64))]
    pub(super) keys: u64,
    /// Chooses keys by a Zipf distribution with this exponent (YCSB: 0.99) instead of all alike.
    #[arg(long, value_name = "THETA", value_parser = zipf)]
    pub(super) zipf: Option<f64>,
    /// Bytes of a value, or a range of which all lengths are as likely: 256, 4KiB, 100..2KiB. Values are random bytes,
    /// which do not compress.
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = value_size)]
    pub(super) value_size: ValueSize,
    /// Consistency of reads. [default: the cluster's]
    #[arg(long)]
    pub(super) consistency: Option<Consistency>,
    /// Whom requests are sent to.
    #[arg(long, default_value = "leader")]
    pub(super) route: Route,
    /// Where the keys stand. Must hold nothing, or what `bench --keep` left.
    #[arg(long, value_name = "P", default_value = "ringraft-bench/", value_parser = prefix)]
    pub(super) prefix: String,
    /// Leaves the keys, for a later run with this prefix.
    #[arg(long)]
    pub(super) keep: bool,
    /// Takes over the keys of a run that was killed before it removed them.
    #[arg(long)]
    pub(super) take_over: bool,
    /// Draws keys, values and arrivals as the run that printed this seed.
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Threads that send. [default: half of the processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) threads: Option<u16>,
}

/// How much is sent at the same time, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Loop {
    Closed { clients: u32 },
    Open { rate: f64, arrivals: Arrivals, outstanding: u32 },
}

impl Loop {
    /// Requests that may be on their way at the same time.
    pub(super) fn requests_at_once(self) -> u32 {
        match self {
            Self::Closed { clients } => clients,
            Self::Open { outstanding, .. } => outstanding,
        }
    }
}

/// When the measured part ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Time(Duration),
    Requests(u64),
}

/// A run, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) workload: Workload,
    pub(super) pattern: Loop,
    pub(super) length: Length,
    pub(super) warmup: Duration,
    /// Reads of a hundred requests.
    pub(super) read_percent: u8,
    pub(super) keys: u64,
    pub(super) zipf: Option<f64>,
    pub(super) value_size: ValueSize,
    pub(super) consistency: Option<Consistency>,
    pub(super) route: Route,
    pub(super) prefix: String,
    pub(super) keep: bool,
    pub(super) take_over: bool,
    pub(super) seed: u64,
}

impl Settings {
    pub(super) fn from_args(args: &BenchArgs) -> Result<Self, Failure> {
        let read_percent = match (args.workload, args.read_percent) {
            (Workload::Mixed, percent) => percent.unwrap_or(READ_PERCENT_DEFAULT),
            (_, Some(_)) => {
                let workload = args.workload.name();
                return Err(Failure::Usage(format!("--read-percent is for `mixed`, and this is `{workload}`")));
            }
            (Workload::Put, None) => 0,
            (Workload::Get, None) => 100,
        };
        if args.consistency.is_some() && read_percent == 0 {
            return Err(Failure::Usage("--consistency is for reads, and there are none".to_string()));
        }
        let pattern = match args.rate {
            None => Loop::Closed { clients: args.clients.unwrap_or(CLIENTS_DEFAULT) },
            Some(rate) => Loop::Open {
                rate,
                arrivals: args.arrivals.unwrap_or(Arrivals::Even),
                outstanding: args.outstanding.unwrap_or(OUTSTANDING_DEFAULT),
            },
        };
        let (length, warmup) = match args.requests {
            Some(requests) => (Length::Requests(requests), Duration::ZERO),
            None => (Length::Time(args.duration.unwrap_or(DURATION_DEFAULT)), WARMUP_DEFAULT),
        };
        Ok(Self {
            workload: args.workload,
            pattern,
            length,
            warmup: args.warmup.unwrap_or(warmup),
            read_percent,
            keys: args.keys,
            zipf: args.zipf,
            value_size: args.value_size,
            consistency: args.consistency,
            route: args.route,
            prefix: args.prefix.clone(),
            keep: args.keep,
            take_over: args.take_over,
            seed: args.seed.unwrap_or_else(clock::random_u64),
        })
    }

    /// Whether the keys must be there before the run.
    pub(super) fn reads(&self) -> bool {
        self.read_percent > 0
    }

    /// The part of the report that says what was asked for.
    pub(super) fn json(&self) -> Value {
        let (clients, rate, arrivals, outstanding) = match self.pattern {
            Loop::Closed { clients } => (Some(clients), None, None, None),
            Loop::Open { rate, arrivals, outstanding } => (None, Some(rate), Some(arrivals), Some(outstanding)),
        };
        let (seconds, requests) = match self.length {
            Length::Time(duration) => (Some(duration.as_secs_f64()), None),
            Length::Requests(requests) => (None, Some(requests)),
        };
        json!({
            "clients": clients,
            "rate_per_second": rate,
            "arrivals": arrivals.map(|arrivals| match arrivals {
                Arrivals::Even => "even",
                Arrivals::Poisson => "poisson",
            }),
            "outstanding_max": outstanding,
            "duration_seconds": seconds,
            "requests": requests,
            "warmup_seconds": self.warmup.as_secs_f64(),
            "read_percent": self.read_percent,
            "keys": self.keys,
            "zipf": self.zipf,
            "value_bytes_min": self.value_size.min,
            "value_bytes_max": self.value_size.max,
            "consistency": self.consistency.map(Consistency::name),
            "route": self.route.name(),
            "prefix": self.prefix,
        })
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(rate),
        _ => Err(format!("expected requests per second, above 0 and up to {RATE_MAX}")),
    }
}

fn zipf(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(theta) if theta > 0.0 && theta <= ZIPF_MAX => Ok(theta),
        _ => Err(format!("expected an exponent above 0 and up to {ZIPF_MAX}")),
    }
}

fn measured_time(text: &str) -> Result<Duration, String> {
    let time = warmup_time(text)?;
    if time.is_zero() { Err("expected a time above 0".to_string()) } else { Ok(time) }
}

fn warmup_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time > DURATION_MAX { Err("expected a time up to 24 hours (1440m)".to_string()) } else { Ok(time) }
}

fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > PREFIX_BYTES_MAX {
        return Err(format!("expected 1 to {PREFIX_BYTES_MAX} bytes: all keys of the run begin with it"));
    }
    Ok(text.to_string())
}

fn value_size(text: &str) -> Result<ValueSize, String> {
    let (min, max) = match text.split_once("..") {
        Some((min, max)) => (bytes(min)?, bytes(max)?),
        None => (bytes(text)?, bytes(text)?),
    };
    if min > max {
        return Err("expected the shorter length first, as in 100..2KiB".to_string());
    }
    if max > VALUE_BYTES_MAX_CEILING {
        return Err(format!("no cluster takes values above {} MiB", VALUE_BYTES_MAX_CEILING >> 20));
    }
    Ok(ValueSize { min, max })
}

/// `256`, `4KiB` or `1MiB`.
pub(in crate::cli) fn bytes(text: &str) -> Result<usize, String> {
    let bad = || "expected bytes such as 256, 4KiB or 1MiB".to_string();
    let (number, shift) = if let Some(number) = text.strip_suffix("KiB") {
        (number, 10)
    } else if let Some(number) = text.strip_suffix("MiB") {
        (number, 20)
    } else {
        (text, 0)
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let number: usize = number.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::super::args::{Args, Command};
    use super::*;

    fn settings(line: &str) -> Result<Settings, String> {
        let line = ["ringraft", "bench"].into_iter().chain(line.split_whitespace());
        let args = Args::try_parse_from(line).map_err(|error| error.to_string())?;
        let Command::Bench(args) = args.command else { panic!("it is no other command") };
        Settings::from_args(&args).map_err(|failure| failure.to_string())
    }

    #[track_caller]
    fn refused(line: &str, why: &str) {
        let error = settings(line).expect_err(line);
        assert!(error.contains(why), "{line}: {error}");
    }

    #[test]
    fn a_run_without_flags_is_a_closed_loop_of_ten_seconds() {
        let put = settings("put --seed 7").unwrap();
        assert_eq!((put.pattern, put.read_percent, put.seed), (Loop::Closed { clients: 16 }, 0, 7));
        assert_eq!((put.length, put.warmup), (Length::Time(Duration::from_secs(10)), Duration::from_secs(1)));
        assert_eq!(settings("get").unwrap().read_percent, 100);
        assert_eq!(settings("mixed").unwrap().read_percent, 50);
        let counted = settings("mixed --read-percent 95 --requests 3").unwrap();
        assert_eq!((counted.length, counted.warmup, counted.read_percent), (Length::Requests(3), Duration::ZERO, 95));
    }

    #[test]
    fn a_rate_makes_an_open_loop() {
        let open = |line| settings(line).unwrap().pattern;
        assert_eq!(
            open("put --rate 0.5"),
            Loop::Open { rate: 0.5, arrivals: Arrivals::Even, outstanding: OUTSTANDING_DEFAULT }
        );
        assert_eq!(
            open("put --rate 1e3 --arrivals poisson --outstanding 7"),
            Loop::Open { rate: 1000.0, arrivals: Arrivals::Poisson, outstanding: 7 }
        );
    }

    #[test]
    fn what_would_measure_nothing_is_refused_with_what_is_allowed() {
        refused("put --clients 0", "1..=20000");
        refused("put --rate 0", "above 0");
        refused("put --rate -1", "");
        refused("put --rate NaN", "above 0");
        refused("put --rate fast", "requests per second");
        refused("put --rate", "--rate");
        refused("put --rate 5 --clients 5", "cannot be used with");
        refused("put --outstanding 5", "--rate");
        refused("put --arrivals even", "--rate");
        refused("put --requests 0", "0");
        refused("put --duration 0s", "above 0");
        refused("put --duration 1441m", "24 hours");
        refused("put --duration 5s --requests 5", "cannot be used with");
        refused("put --keys 0", "0");
        refused("put --zipf 0", "above 0");
        refused("put --read-percent 5", "`mixed`");
        refused("mixed --read-percent 101", "101");
        refused("put --consistency lease", "there are none");
        refused("mixed --read-percent 0 --consistency lease", "there are none");
        refused("put --route follower", "leader");
        refused("get --consistency eventual", "linearizable");
        refused("delete", "put");
        refused("", "WORKLOAD");
        let empty = Args::try_parse_from(["ringraft", "bench", "put", "--prefix", ""]).unwrap_err();
        assert!(empty.to_string().contains("1 to"), "{empty}");
    }

    #[test]
    fn value_sizes_are_lengths_or_ranges_up_to_the_ceiling() {
        let range = |min, max| Ok(ValueSize { min, max });
        assert_eq!(value_size("0"), range(0, 0));
        assert_eq!(value_size("4KiB"), range(4096, 4096));
        assert_eq!(value_size("100..2KiB"), range(100, 2048));
        assert_eq!(value_size("8MiB"), range(8 << 20, 8 << 20));
        for bad in ["", "KiB", "-1", "1kb", "1 KiB", "1..", "..1", "2..1", "8388609", "9MiB", "99999999999999999999"] {
            assert!(value_size(bad).is_err(), "{bad}");
        }
        assert!(value_size("9MiB").unwrap_err().contains("8 MiB"));
    }
}
