//! Everything inbound over HTTP: what clients and operators ask of this node.
//!
//! A request is matched against the one table of routes, its parameters and headers are read, the router is asked, and
//! the answer is put in HTTP's words; nothing here decides anything about data. Handlers answer a [`Response`] or a
//! [`error::Problem`], and no input makes them panic. `node` makes the [`Context`], runs [`serve`] from the moment it
//! listens, and calls [`Context::begin`] once it is in a cluster; until then every route that needs the router is 503.

mod admin;
mod body;
mod encoding;
mod error;
mod gauges;
mod headers;
mod health;
mod kv;
mod metrics;
mod operations;
pub mod peer;
mod routes;
mod scan;
mod server;
#[cfg(test)]
pub(crate) mod testing;
mod timing;

use std::sync::{Arc, OnceLock};
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
use self::timing::{SlowLog, Told};
use crate::admission::{Admission, InHand};
use crate::catalog::OperationKind;
use crate::clock::{self, Moment};
use crate::config::HttpConfig;
use crate::meters::{self, Meters};
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
    write_timeout: Duration,
    finish_timeout: Duration,
    /// None: no request is logged for its time.
    slow_request: Option<Duration>,
}

impl From<&HttpConfig> for HttpLimits {
    fn from(config: &HttpConfig) -> Self {
        Self {
            value_bytes_max: config.value_bytes_max,
            connections_max: config.connections_max as usize,
            header_read_timeout: Duration::from_millis(config.header_read_timeout_ms),
            write_timeout: server::WRITE_TIMEOUT,
            finish_timeout: server::FINISH_TIMEOUT,
            slow_request: Some(Duration::from_millis(config.slow_request_ms)).filter(|time| !time.is_zero()),
        }
    }
}

/// What handlers work with. Made before the node knows its cluster; everything is served once [`Context::begin`] was
/// called. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    limits: HttpLimits,
    /// What the node waits for until it serves, for people.
    awaited: watch::Receiver<String>,
    /// True once the node is on its way out: it finishes what it has and takes no more requests on keys.
    draining: watch::Receiver<bool>,
    metrics: Metrics,
    started: Moment,
    bodies: Arc<Semaphore>,
    admission: Admission,
    slow: SlowLog,
    /// Set once.
    serving: OnceLock<Serving>,
}

/// What there is once the node is in a cluster.
struct Serving {
    router: Router,
    cluster: ClusterId,
}

impl Context {
    /// `awaited` says what the node waits for until [`Self::begin`]; `started` is when it began, for its uptime.
    pub fn new(
        config: &HttpConfig,
        awaited: watch::Receiver<String>,
        draining: watch::Receiver<bool>,
        admission: Admission,
        started: Moment,
    ) -> Self {
        Self::with_limits(HttpLimits::from(config), awaited, draining, admission, started)
    }

    fn with_limits(
        limits: HttpLimits,
        awaited: watch::Receiver<String>,
        draining: watch::Receiver<bool>,
        admission: Admission,
        started: Moment,
    ) -> Self {
        let bodies = Arc::new(Semaphore::new(BODY_BYTES_HELD_MAX / body::BYTES_UNIT));
        let (metrics, serving) = (Metrics::default(), OnceLock::new());
        let slow = SlowLog::new(limits.slow_request);
        Self {
            inner: Arc::new(Inner { limits, awaited, draining, metrics, admission, started, bodies, slow, serving }),
        }
    }

    /// From now on every route is served, also on connections that were open before.
    pub fn begin(&self, router: Router, cluster: ClusterId) {
        let host = router.host().clone();
        let first = self.inner.serving.set(Serving { router, cluster }).is_ok();
        assert!(first, "a node begins to serve once");
        let parts: [&dyn Meters; 3] = [host.log().meters(), host.meters(), host.peers().meters()];
        parts.into_iter().for_each(|meters| self.inner.metrics.add(meters));
    }

    /// None until [`Self::begin`].
    fn serving(&self) -> Option<&Serving> {
        self.inner.serving.get()
    }

    /// What keeps the node from serving.
    fn awaited(&self) -> String {
        self.inner.awaited.borrow().clone()
    }

    fn is_draining(&self) -> bool {
        *self.inner.draining.borrow()
    }
}

/// One request that was found to be well-formed so far.
struct Call<'a> {
    context: &'a Context,
    serving: &'a Serving,
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    query: Query,
    /// `?timeout=` after the request's head was read.
    deadline: Moment,
}

impl Call<'_> {
    fn router(&self) -> &Router {
        &self.serving.router
    }

    /// Refuses, before the body is read, what this node would not take in hand anyway. A body may be long on its way, so
    /// the request counts only from [`Self::take_in_hand`] on.
    fn admit(&self) -> Result<(), Box<Problem>> {
        if self.context.is_draining() {
            return Err(Problem::new(Code::Draining, "this node is shutting down; ask another"));
        }
        if self.context.inner.admission.clients().is_full() {
            return Err(overloaded());
        }
        Ok(())
    }

    fn take_in_hand(&self) -> Result<InHand, Box<Problem>> {
        self.context.inner.admission.clients().enter().ok_or_else(overloaded)
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
    let mut told = Told::default();
    let (answer, stages) = meters::traced(async {
        match found {
            Some((route, variable)) => handle(context, request, body, route, variable, begun, &mut told).await,
            None => Err(routes::no_such_route(request.uri.path())),
        }
    })
    .await;
    let code = answer.as_ref().err().map(|problem| problem.code);
    let mut response = answer.unwrap_or_else(|problem| problem.into_response());
    let path = found.map_or("other", |(route, _)| route.path);
    let duration = clock::now().since(begun);
    context.inner.metrics.observe(path, &request.method, response.status(), code, duration);
    if let Some(operation) = told.operation {
        context.inner.metrics.observe_operation(operation, response.status(), duration);
        if context.inner.slow.is_slow(duration) {
            context.inner.metrics.count_slow();
            context.inner.slow.log(operation, &response, code, duration, &stages);
        }
    }
    if told.trace {
        response.headers_mut().insert("server-timing", timing::header(&stages, duration));
    }
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
    told: &mut Told,
) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let operation = route.operation(&request.method)?;
    let query = Query::parse(request.uri.query(), operation.parameters)?;
    told.trace = query.flag("trace")?;
    told.operation = timing::operation(route.endpoint, &request.method, &query);
    let deadline = begun.after(timeout(&query)?);
    let call = |query| {
        let serving = context.serving().ok_or_else(|| Problem::new(Code::Starting, context.awaited()))?;
        let (method, uri, headers) = (&request.method, &request.uri, &request.headers);
        Ok::<_, Box<Problem>>(Call { context, serving, method, uri, headers, query, deadline })
    };
    match route.endpoint {
        Endpoint::KvKey => kv::by_path(&call(query)?, variable, body).await,
        Endpoint::Kv => kv::by_query(&call(query)?, body).await,
        Endpoint::ShardMap => admin::shard_map(&call(query)?),
        Endpoint::Status => admin::status(&call(query)?),
        Endpoint::AdminCluster => admin::cluster(&call(query)?),
        Endpoint::AdminNodes => admin::nodes(&call(query)?).await,
        Endpoint::AdminShards => admin::shards(&call(query)?).await,
        Endpoint::AdminShard => admin::shard(&call(query)?, variable).await,
        Endpoint::AdminTransferLeader => operations::transfer_leader(&call(query)?, variable, body).await,
        Endpoint::AdminDrain => {
            operations::of_node(&call(query)?, variable, |node| OperationKind::Drain { node }, body).await
        }
        Endpoint::AdminUndrain => {
            operations::of_node(&call(query)?, variable, |node| OperationKind::Undrain { node }, body).await
        }
        Endpoint::AdminDecommission => {
            operations::of_node(&call(query)?, variable, |node| OperationKind::Decommission { node }, body).await
        }
        Endpoint::AdminSplit => operations::split(&call(query)?, variable, body).await,
        Endpoint::AdminMove => operations::move_replica(&call(query)?, variable, body).await,
        Endpoint::AdminEvents => operations::events(&call(query)?),
        Endpoint::AdminOperations => operations::list(&call(query)?),
        Endpoint::AdminOperation => operations::one(&call(query)?, variable),
        Endpoint::AdminRoute => admin::route(&call(query)?),
        Endpoint::Livez => Ok(health::livez()),
        Endpoint::Readyz => health::readyz(context, &query),
        Endpoint::Version => Ok(health::version()),
        Endpoint::Metrics => health::metrics(context, &query).await,
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

fn overloaded() -> Box<Problem> {
    Problem::new(Code::Overloaded, "this node is late and takes no more in hand; try again, more slowly")
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
