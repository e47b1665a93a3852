//! Counters of this API. Labels are few and fixed: routes by their pattern, codes by their table, never a key or an id.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing::error;

use super::error::Code;
use super::gauges::NodeGauges;
use super::timing;
use crate::meters::{self, Meters};

/// Upper bounds of the latency histogram, in seconds.
const LATENCY_BUCKETS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

/// What a request on keys does.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Operation {
    pub(super) operation: &'static str,
    /// As it was asked for; `none` of a write.
    pub(super) consistency: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    problems: Family<CodeLabels, Counter>,
    latency: Family<RouteLabels, Histogram>,
    operations: Family<Operation, Histogram>,
    slow: Counter,
    node: NodeGauges,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(LATENCY_BUCKETS);
        let inner = Inner {
            registry: Mutex::new(meters::registry()),
            requests: Family::default(),
            problems: Family::default(),
            latency: Family::new_with_constructor(histogram),
            operations: Family::new_with_constructor(histogram),
            slow: Counter::default(),
            node: NodeGauges::default(),
        };
        let metrics = Self { inner: Arc::new(inner) };
        // There from the start, so that a rate has something to begin at.
        for operation in timing::OPERATIONS {
            drop(metrics.inner.operations.get_or_create(&operation));
        }
        metrics.add(&*metrics.inner);
        metrics.add(&metrics.inner.node);
        metrics
    }
}

impl Meters for Inner {
    fn register(&self, registry: &mut Registry) {
        registry.register("http_requests", "Requests answered", self.requests.clone());
        let help = "Requests answered with an error, by its code; overloaded are proposals refused";
        registry.register("http_problems", help, self.problems.clone());
        let help = "Time from a request's head to its answer";
        registry.register("http_request_duration_seconds", help, self.latency.clone());
        let help = "Time of requests on keys, by what they do and the consistency they ask for; without those that are \
                    malformed";
        registry.register("operation_duration_seconds", help, self.operations.clone());
        let help = "Requests on keys that took longer than http.slow_request_ms";
        registry.register("slow_requests", help, self.slow.clone());
    }
}

impl Metrics {
    /// Meters of another part of the node. Each is added once.
    pub(super) fn add(&self, meters: &dyn Meters) {
        meters.register(&mut self.registry());
    }

    pub(super) fn node(&self) -> &NodeGauges {
        &self.inner.node
    }

    pub(super) fn count_slow(&self) {
        self.inner.slow.inc();
    }

    pub(super) fn observe_operation(&self, operation: Operation, status: StatusCode, duration: Duration) {
        // What was found wrong before anything was done says nothing of how long things take.
        let is_answer = status.is_success() || status.is_server_error() || matches!(status.as_u16(), 304 | 404 | 412);
        if is_answer {
            self.inner.operations.get_or_create(&operation).observe(duration.as_secs_f64());
        }
    }

    pub(super) fn observe(
        &self,
        route: &'static str,
        method: &Method,
        status: StatusCode,
        code: Option<Code>,
        duration: Duration,
    ) {
        let labels = RequestLabels { route, method: method_label(method), status: status.as_u16() };
        self.inner.requests.get_or_create(&labels).inc();
        if let Some(code) = code {
            self.inner.problems.get_or_create(&CodeLabels { code: code.text() }).inc();
        }
        self.inner.latency.get_or_create(&RouteLabels { route }).observe(duration.as_secs_f64());
    }

    /// All metrics in the text format, and those of `more`.
    pub(super) fn text(&self, more: Option<&Registry>) -> String {
        let mut text = String::new();
        let mut written = encode_registry(&mut text, &self.registry());
        if let Some(more) = more {
            written = written.and_then(|()| encode_registry(&mut text, more));
        }
        if written.and_then(|()| encode_eof(&mut text)).is_err() {
            error!("the metrics could not be written as text");
        }
        text
    }

    /// A metric that panicked while it was registered is not among the others.
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.inner.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Methods are the client's to choose, labels are not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sends_makes_no_label() {
        let metrics = Metrics::default();
        for method in ["BREW", "POST", "PATCH"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let code = Some(Code::MethodNotAllowed);
            metrics.observe("other", &method, StatusCode::METHOD_NOT_ALLOWED, code, Duration::from_millis(3));
        }
        let text = metrics.text(None);
        let requests = r#"ringraft_http_requests_total{route="other",method="other",status="405"} 3"#;
        assert!(text.contains(requests), "{text}");
        assert!(text.contains(r#"ringraft_http_problems_total{code="method-not-allowed"} 3"#), "{text}");
        assert!(
            text.contains(r#"ringraft_http_request_duration_seconds_bucket{le="0.005",route="other"} 3"#),
            "{text}"
        );
    }
}
