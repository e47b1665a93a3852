//! Counters of this API. Labels are few and fixed: routes by their pattern, codes by their table, never a key or an id.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing::error;

use super::error::Code;

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
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    problems: Family<CodeLabels, Counter>,
    latency: Family<RouteLabels, Histogram>,
    node: NodeGauges,
}

/// What is read from the node at each scrape.
#[derive(Clone, Default)]
pub(super) struct NodeGauges {
    pub(super) replicas: Gauge,
    pub(super) replicas_failed: Gauge,
    pub(super) groups_led: Gauge,
    pub(super) groups_without_leader: Gauge,
    pub(super) catalog_version: Gauge,
    pub(super) uptime_seconds: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        let problems = Family::<CodeLabels, Counter>::default();
        let latency = Family::<RouteLabels, Histogram>::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS));
        let node = NodeGauges::default();
        let gauge = |registry: &mut Registry, name: &str, help: &str, gauge: &Gauge| {
            registry.register(format!("ringraft_{name}"), help, gauge.clone());
        };
        registry.register("ringraft_http_requests", "Requests answered", requests.clone());
        registry.register(
            "ringraft_http_problems",
            "Requests answered with an error, by its code; overloaded are proposals refused",
            problems.clone(),
        );
        registry.register(
            "ringraft_http_request_duration_seconds",
            "Time from a request's head to its answer",
            latency.clone(),
        );
        gauge(&mut registry, "replicas", "Replicas on this node", &node.replicas);
        gauge(&mut registry, "replicas_failed", "Replicas on this node that do not run", &node.replicas_failed);
        gauge(&mut registry, "groups_led", "Groups that a replica on this node leads", &node.groups_led);
        gauge(
            &mut registry,
            "groups_without_leader",
            "Groups whose replica on this node knows of no leader",
            &node.groups_without_leader,
        );
        gauge(&mut registry, "catalog_version", "Version of the catalog this node works by", &node.catalog_version);
        gauge(&mut registry, "uptime_seconds", "Time since the node began to serve", &node.uptime_seconds);
        Self { inner: Arc::new(Inner { registry, requests, problems, latency, node }) }
    }
}

impl Metrics {
    pub(super) fn node(&self) -> &NodeGauges {
        &self.inner.node
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

    /// All metrics in the text format.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.inner.registry).is_err() {
            error!("the metrics could not be written as text");
        }
        text
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
        let text = metrics.text();
        let requests = r#"ringraft_http_requests_total{route="other",method="other",status="405"} 3"#;
        assert!(text.contains(requests), "{text}");
        assert!(text.contains(r#"ringraft_http_problems_total{code="method-not-allowed"} 3"#), "{text}");
        assert!(
            text.contains(r#"ringraft_http_request_duration_seconds_bucket{le="0.005",route="other"} 3"#),
            "{text}"
        );
    }
}
