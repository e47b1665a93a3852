//! Everything inbound over HTTP: what clients and operators ask of this node.
//!
//! A request is matched against the one table of routes, its parameters and headers are read, the router is asked, and
//! the answer is put in HTTP's words; nothing here decides anything about data. Handlers answer a [`Response`] or a
//! [`error::Problem`], and no input makes them panic. `node` makes the [`Context`] and runs [`serve`].

mod admin;
mod body;
mod encoding;
mod error;
mod headers;
mod health;
mod kv;
mod metrics;
pub mod peer;
mod routes;
mod scan;
mod server;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, request};
use http_body_util::Full;
use hyper::body::Body;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use self::error::{Code, Problem};
use self::metrics::Metrics;
use self::routes::{Endpoint, Query, Route};
pub use self::server::serve;
use crate::clock::{self, Moment};
use crate::config::HttpConfig;
use crate::router::{Options, Router};
use crate::types::ClusterId;

/// Time a request has when it names none.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Bodies of requests held in memory before they are proposed, in bytes, over all connections.
const BODY_BYTES_HELD_MAX: usize = 256 << 20;

/// Every answer is whole before it is sent.
pub type Response = http::Response<Full<Bytes>>;
type Answer = Result<Response, Box<Problem>>;

/// What the listener and each request are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HttpLimits {
    value_bytes_max: usize,
    connections_max: usize,
    /// Also the longest a connection may be idle between two requests.
    header_read_timeout: Duration,
}

impl From<&HttpConfig> for HttpLimits {
    fn from(config: &HttpConfig) -> Self {
        Self {
            value_bytes_max: config.value_bytes_max,
            connections_max: config.connections_max as usize,
            header_read_timeout: Duration::from_millis(config.header_read_timeout_ms),
        }
    }
}

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    router: Router,
    cluster: ClusterId,
    limits: HttpLimits,
    /// True once the node is on its way out: it finishes what it has and takes no more requests on keys.
    draining: watch::Receiver<bool>,
    metrics: Metrics,
    started: Moment,
    bodies: Arc<Semaphore>,
}

impl Context {
    /// `started` is when the node began, for its uptime.
    pub fn new(
        router: Router,
        cluster: ClusterId,
        config: &HttpConfig,
        draining: watch::Receiver<bool>,
        started: Moment,
    ) -> Self {
        let bodies = Arc::new(Semaphore::new(BODY_BYTES_HELD_MAX / body::BYTES_UNIT));
        let (limits, metrics) = (HttpLimits::from(config), Metrics::default());
        Self { inner: Arc::new(Inner { router, cluster, limits, draining, metrics, started, bodies }) }
    }

    fn router(&self) -> &Router {
        &self.inner.router
    }

    fn is_draining(&self) -> bool {
        *self.inner.draining.borrow()
    }
}

/// One request that was found to be well-formed so far.
struct Call<'a> {
    context: &'a Context,
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    query: Query,
    /// `?timeout=` after the request's head was read.
    deadline: Moment,
}

impl Call<'_> {
    fn router(&self) -> &Router {
        self.context.router()
    }

    /// How the router is to go about it.
    fn options(&self) -> Result<Options, Box<Problem>> {
        let forward = match self.query.text("forward")? {
            None => true,
            Some("never") => false,
            Some(_) => return Err(self.query.bad("forward", "takes `never` alone")),
        };
        Ok(Options { deadline: self.deadline, forward })
    }
}

/// Answers one request. Reads no more of `body` than it needs.
pub async fn respond<B>(context: &Context, request: &request::Parts, body: &mut B) -> Response
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let begun = clock::now();
    let found = Route::find(request.uri.path());
    let answer = match found {
        Some((route, variable)) => handle(context, request, body, route, variable, begun).await,
        None => Err(routes::no_such_route(request.uri.path())),
    };
    let code = answer.as_ref().err().map(|problem| problem.code);
    let mut response = answer.unwrap_or_else(|problem| problem.into_response());
    let path = found.map_or("other", |(route, _)| route.path);
    let duration = clock::now().since(begun);
    context.inner.metrics.observe(path, &request.method, response.status(), code, duration);
    if request.method == Method::HEAD {
        drop_body(&mut response);
    }
    response
}

async fn handle<B>(
    context: &Context,
    request: &request::Parts,
    body: &mut B,
    route: &Route,
    variable: &str,
    begun: Moment,
) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let operation = route.operation(&request.method)?;
    let query = Query::parse(request.uri.query(), operation.parameters)?;
    let deadline = begun.after(timeout(&query)?);
    let call = Call { context, method: &request.method, uri: &request.uri, headers: &request.headers, query, deadline };
    match route.endpoint {
        Endpoint::KvKey => kv::by_path(&call, variable, body).await,
        Endpoint::Kv => kv::by_query(&call, body).await,
        Endpoint::ShardMap => admin::shard_map(&call),
        Endpoint::Status => admin::status(&call),
        Endpoint::AdminCluster => admin::cluster(&call),
        Endpoint::AdminNodes => admin::nodes(&call).await,
        Endpoint::AdminShards => admin::shards(&call).await,
        Endpoint::AdminShard => admin::shard(&call, variable).await,
        Endpoint::AdminRoute => admin::route(&call),
        Endpoint::Livez => Ok(health::livez()),
        Endpoint::Readyz => health::readyz(&call),
        Endpoint::Version => Ok(health::version()),
        Endpoint::Metrics => health::metrics(&call),
        Endpoint::OpenApi => Ok(health::openapi()),
    }
}

/// HEAD is GET without the body: the same headers, its length too.
fn drop_body(response: &mut Response) {
    let length = response.body().size_hint().exact().unwrap_or_default();
    let bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    *response.body_mut() = Full::default();
}

fn timeout(query: &Query) -> Result<Duration, Box<Problem>> {
    let Some(text) = query.text("timeout")? else { return Ok(TIMEOUT_DEFAULT) };
    parse_duration(text)
        .filter(|timeout| (TIMEOUT_MIN..=TIMEOUT_MAX).contains(timeout))
        .ok_or_else(|| query.bad("timeout", "takes a number with its unit, from 1ms to 60s"))
}

/// `250ms` or `5s`.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
    // Digits alone, so that `+5s` is refused; more than nine of them are beyond any limit here.
    if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    with_type(status, "application/json", body.to_string())
}

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer of headers alone.
fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn not_ready_yet() -> Box<Problem> {
    Problem::new(Code::Starting, "this node has not heard the catalog yet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        assert_eq!(parse_duration("1ms"), Some(Duration::from_millis(1)));
        assert_eq!(parse_duration("60s"), Some(Duration::from_secs(60)));
        for bad in ["", "5", "s", "ms", "+5s", "-5s", "5 s", "5S", "5m", "1.5s", "5sms", "9999999999s", "٣s"] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_head_answer_keeps_the_length_of_the_body_it_leaves_out() {
        let mut response = with_type(StatusCode::OK, "text/plain", "four");
        drop_body(&mut response);
        assert_eq!(response.headers()[CONTENT_LENGTH], "4");
        assert_eq!(response.body().size_hint().exact(), Some(0));
        let mut response = empty(StatusCode::NOT_MODIFIED);
        drop_body(&mut response);
        assert!(!response.headers().contains_key(CONTENT_LENGTH), "a 304 would claim that the value is empty");
    }
}
