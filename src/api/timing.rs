//! Where the time of a request on keys went: `Server-Timing` for the client who asks (`?trace=true`), a line in the log for
//! whoever runs the node when it was slow. Keys stay out of both.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Method};
use tracing::warn;

use super::Response;
use super::error::Code;
use super::kv;
use super::metrics::Operation;
use super::routes::{Endpoint, Query};
use crate::clock::{self, Moment};
use crate::meters::{Stage, Stages};

/// Lines of slow requests in one second: a node in trouble has better things to do.
const LINES_PER_SECOND_MAX: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// What the handler found out about a request on its way.
#[derive(Default)]
pub(super) struct Told {
    /// Of a request on keys whose parameters are sound.
    pub(super) operation: Option<Operation>,
    /// `?trace=true`.
    pub(super) trace: bool,
}

/// All that there are.
pub(super) const OPERATIONS: [Operation; 8] = [
    Operation { operation: "put", consistency: "none" },
    Operation { operation: "delete", consistency: "none" },
    Operation { operation: "get", consistency: "linearizable" },
    Operation { operation: "get", consistency: "lease" },
    Operation { operation: "get", consistency: "stale" },
    Operation { operation: "scan", consistency: "linearizable" },
    Operation { operation: "scan", consistency: "lease" },
    Operation { operation: "scan", consistency: "stale" },
];

/// None where the request is about no keys, or asks for what there is not.
pub(super) fn operation(endpoint: Endpoint, method: &Method, query: &Query) -> Option<Operation> {
    let operation = match (endpoint, method) {
        (Endpoint::KvKey | Endpoint::Kv, &Method::PUT) => "put",
        (Endpoint::KvKey | Endpoint::Kv, &Method::DELETE) => "delete",
        (Endpoint::KvKey, _) => "get",
        (Endpoint::Kv, _) => {
            if query.get("key_b64").is_some() {
                "get"
            } else {
                "scan"
            }
        }
        _ => return None,
    };
    let is_write = matches!(operation, "put" | "delete");
    let consistency = if is_write { "none" } else { kv::consistency_name(kv::consistency(query).ok()?) };
    Some(Operation { operation, consistency })
}

/// Milliseconds of each stage, and of all.
pub(super) fn header(stages: &Stages, total: Duration) -> HeaderValue {
    let mut text = String::new();
    for (stage, time) in stages.iter() {
        let _infallible = write!(text, "{};dur={:.3}, ", stage.name(), ms(time));
    }
    let _infallible = write!(text, "total;dur={:.3}", ms(total));
    HeaderValue::try_from(text).expect("names and numbers are header text")
}

/// To the microsecond, which prints without a tail.
fn ms(time: Duration) -> f64 {
    f64::from(u32::try_from(time.as_micros()).unwrap_or(u32::MAX)) / 1000.0
}

/// Says which requests were slow, and of how many more it says nothing.
pub(super) struct SlowLog {
    limit: Option<Duration>,
    window: Mutex<Window>,
}

struct Window {
    begun: Moment,
    lines: u32,
    left_out: u32,
}

impl SlowLog {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, window: Mutex::new(Window { begun: clock::now(), lines: 0, left_out: 0 }) }
    }

    pub(super) fn is_slow(&self, time: Duration) -> bool {
        self.limit.is_some_and(|limit| time >= limit)
    }

    pub(super) fn log(
        &self,
        Operation { operation, consistency }: Operation,
        response: &Response,
        code: Option<Code>,
        time: Duration,
        stages: &Stages,
    ) {
        let Some(left_out) = self.window.lock().unwrap_or_else(PoisonError::into_inner).enter(clock::now()) else {
            return;
        };
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let stage = |stage: Stage| stages.get(stage).map(ms);
        warn!(
            operation,
            consistency,
            status = response.status().as_u16(),
            code = code.map(Code::text),
            shard = header("kv-shard"),
            served_by = header("kv-served-by"),
            total_ms = ms(time),
            forward_ms = stage(Stage::Forward),
            queue_ms = stage(Stage::Queue),
            fsync_ms = stage(Stage::Fsync),
            quorum_ms = stage(Stage::Quorum),
            apply_ms = stage(Stage::Apply),
            read_ms = stage(Stage::Read),
            left_out,
            "slow request"
        );
    }
}

impl Window {
    /// How many lines were left out before this one; none when this one is to be left out too.
    fn enter(&mut self, now: Moment) -> Option<u32> {
        if now.since(self.begun) >= SECOND {
            (self.begun, self.lines) = (now, 0);
        }
        if self.lines == LINES_PER_SECOND_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_names_the_stages_in_order_in_milliseconds() {
        let mut stages = Stages::default();
        stages.add(Stage::Quorum, Duration::from_micros(1500));
        stages.add(Stage::Queue, Duration::from_micros(20));
        let text = header(&stages, Duration::from_millis(2));
        assert_eq!(text, "queue;dur=0.020, quorum;dur=1.500, total;dur=2.000");
    }

    #[test]
    fn what_a_request_does_is_one_of_few_words() {
        let allowed = &["key_b64", "consistency"];
        let of = |endpoint, method, query| {
            let found = operation(endpoint, &method, &Query::parse(Some(query), allowed).unwrap());
            assert!(found.is_none_or(|found| OPERATIONS.contains(&found)));
            found.map(|found| (found.operation, found.consistency))
        };
        assert_eq!(of(Endpoint::KvKey, Method::PUT, ""), Some(("put", "none")));
        assert_eq!(of(Endpoint::KvKey, Method::HEAD, ""), Some(("get", "linearizable")));
        assert_eq!(of(Endpoint::Kv, Method::GET, "consistency=lease"), Some(("scan", "lease")));
        assert_eq!(of(Endpoint::Kv, Method::GET, "key_b64=YQ==&consistency=stale"), Some(("get", "stale")));
        assert_eq!(of(Endpoint::Kv, Method::DELETE, "key_b64=YQ=="), Some(("delete", "none")));
        assert_eq!(of(Endpoint::KvKey, Method::GET, "consistency=maybe"), None);
        assert_eq!(of(Endpoint::Status, Method::GET, ""), None);
    }

    #[test]
    fn a_flood_of_slow_requests_is_told_by_number() {
        let begun = clock::now();
        let mut window = Window { begun, lines: 0, left_out: 0 };
        for _ in 0..LINES_PER_SECOND_MAX {
            assert_eq!(window.enter(begun), Some(0));
        }
        assert_eq!((window.enter(begun), window.enter(begun)), (None, None));
        assert_eq!(window.enter(begun.after(SECOND)), Some(2));
        assert_eq!(window.enter(begun.after(SECOND)), Some(0));
    }

    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_request_is_logged_with_where_its_time_went() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone());
        let mut stages = Stages::default();
        stages.add(Stage::Fsync, Duration::from_millis(600));
        let mut response = super::super::empty(http::StatusCode::NO_CONTENT);
        response.headers_mut().insert("kv-shard", HeaderValue::from_static("7"));
        let slow = SlowLog::new(Some(Duration::from_millis(500)));
        assert!(slow.is_slow(Duration::from_millis(500)) && !slow.is_slow(Duration::from_millis(499)));
        assert!(!SlowLog::new(None).is_slow(Duration::MAX));
        tracing::subscriber::with_default(subscriber.finish(), || {
            let operation = Operation { operation: "put", consistency: "none" };
            slow.log(operation, &response, None, Duration::from_millis(700), &stages);
        });
        let line: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        assert_eq!((&line["message"], &line["operation"]), (&"slow request".into(), &"put".into()));
        assert_eq!((&line["shard"], &line["status"]), (&"7".into(), &204.into()));
        assert_eq!((line["fsync_ms"].as_f64(), line["total_ms"].as_f64()), (Some(600.0), Some(700.0)));
        assert!(line.get("queue_ms").is_none(), "{line}");
    }
}
