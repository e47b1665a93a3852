//! One request to the cluster: HTTP/1.1 over the dialling seam, a connection for each request, and failover over the
//! endpoints. Used by all client commands, and by `dev` to see whether its nodes are ready.
//!
//! Invariants:
//! - A write goes to a second endpoint only when the first certainly did nothing: no byte of it was sent, or the answer
//!   says `not_applied` and `retryable`. A write whose connection was lost, or whose answer is late, is never sent again.
//! - A read may go to the next endpoint after any loss.
//! - Each endpoint is asked at most once, and all of them together within one deadline.
//! - Paths go out as they are given: nothing here decodes, cleans or follows.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, ETAG, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::args::ClientArgs;
use super::exit::{Failure, Problem};
use crate::clock::{self, Moment};
use crate::transport::dial::{Net, TcpNet};

const ENDPOINTS_DEFAULT: &str = "http://127.0.0.1:7401";
const ENDPOINTS_VARIABLE: &str = "RINGRAFT_ENDPOINTS";
/// Wait for an answer when no `--timeout` is given: the API's own default.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// A node answers at its deadline at the latest; its answer needs some time to arrive, and says more than ours would.
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// Longest wait for a connection to one endpoint while others may be better.
pub(super) const DIAL_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest answer taken, in bytes: a page of the longest values, several times over.
pub(super) const ANSWER_BYTES_MAX: usize = 256 << 20;

/// `http://host:port`, without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    authority: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl Endpoint {
    /// Takes `http://host:port` and `host:port`.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::Usage(format!("endpoint {text:?}: {why}"));
        if text.starts_with("https://") {
            return Err(wrong("there is no TLS yet; use http://"));
        }
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let parsed: http::uri::Authority = authority.parse().map_err(|_| wrong("expected http://host:port"))?;
        if parsed.port_u16().is_none() || parsed.host().is_empty() || authority.contains('@') {
            return Err(wrong("expected http://host:port"));
        }
        Ok(Self { authority: authority.to_string() })
    }

    /// `host:port`.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }
}

/// What is asked of any one of the endpoints.
#[derive(Clone, Debug)]
pub(super) struct Request {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    pub(super) fn new(method: Method, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(super) fn get(target: impl Into<String>) -> Self {
        Self::new(Method::GET, target)
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Result<Self, Failure> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Failure::Usage(format!("{value:?} cannot be sent as a header ({name})")))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// A value that may hold more than ASCII.
    pub(super) fn header_value(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn target(&self) -> &str {
        &self.target
    }

    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    pub(super) fn is_write(&self) -> bool {
        !self.method.is_safe()
    }

    pub(super) fn to_http(&self, endpoint: &Endpoint) -> Result<http::Request<Full<Bytes>>, http::Error> {
        let mut request =
            http::Request::builder().method(&self.method).uri(&self.target).body(Full::new(self.body.clone()))?;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert(HOST, HeaderValue::from_str(&endpoint.authority)?);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("ringraft/", env!("CARGO_PKG_VERSION"))));
        if self.method == Method::PUT {
            // Also for the empty value: a PUT that does not say its length is refused.
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        Ok(request)
    }
}

/// An answer of status 2xx, or any other from [`Client::ask`].
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) endpoint: Endpoint,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The key's revision without the quotes of the ETag.
    pub(super) fn revision(&self) -> Option<&str> {
        let etag = self.header(ETAG.as_str())?;
        etag.strip_prefix('"')?.strip_suffix('"')
    }

    pub(super) fn json(&self) -> Result<serde_json::Value, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::BadAnswer { endpoint: self.endpoint.to_string(), reason: error.to_string() })
    }
}

/// How one endpoint took a request.
enum Attempt {
    Answered(Answer),
    /// No byte of the request left this process.
    NotSent(String),
    /// It may have arrived, and there is no answer.
    Lost(String),
}

pub(super) struct Client {
    net: Arc<dyn Net>,
    /// Never empty.
    endpoints: Vec<Endpoint>,
    /// As given by the user, for the routes that take it.
    timeout: Option<Duration>,
}

impl Client {
    pub(super) fn from_args(args: &ClientArgs) -> Result<Self, Failure> {
        let listed = match &args.endpoints {
            Some(listed) => listed.clone(),
            None => match std::env::var(ENDPOINTS_VARIABLE) {
                Ok(listed) if !listed.trim().is_empty() => listed,
                Ok(_) | Err(std::env::VarError::NotPresent) => ENDPOINTS_DEFAULT.to_string(),
                Err(error) => return Err(Failure::Usage(format!("{ENDPOINTS_VARIABLE}: {error}"))),
            },
        };
        let endpoints = listed.split(',').map(|text| Endpoint::parse(text.trim())).collect::<Result<_, _>>()?;
        Ok(Self::new(Arc::new(TcpNet), endpoints, args.timeout))
    }

    pub(super) fn new(net: Arc<dyn Net>, endpoints: Vec<Endpoint>, timeout: Option<Duration>) -> Self {
        assert!(!endpoints.is_empty(), "a client without endpoints can ask nobody");
        Self { net, endpoints, timeout }
    }

    /// Never empty.
    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(super) fn net(&self) -> Arc<dyn Net> {
        self.net.clone()
    }

    /// How long a node may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT_DEFAULT)
    }

    /// How long its answer is waited for.
    pub(super) fn answer_wait(&self) -> Duration {
        self.timeout().saturating_add(ANSWER_GRACE)
    }

    /// `timeout=…` for routes that take it, where the user gave one.
    pub(super) fn timeout_pair(&self) -> Option<String> {
        self.timeout.map(|timeout| format!("timeout={}ms", timeout.as_millis()))
    }

    /// Sends to one endpoint after the other, as far as that is safe, until one answers with success.
    pub(super) async fn send(&self, request: &Request) -> Result<Answer, Failure> {
        let is_write = request.is_write();
        let deadline = clock::now().after(self.answer_wait());
        let mut tried = Vec::new();
        let mut refused = None;
        for endpoint in &self.endpoints {
            match self.ask(endpoint, request, deadline).await? {
                Attempt::Answered(answer) if answer.status.is_success() => return Ok(answer),
                Attempt::Answered(answer) => {
                    let revision = answer.revision().map(str::to_string);
                    let name = endpoint.to_string();
                    let problem = Problem::read(answer.status, is_write, &name, revision, &answer.body);
                    if !problem.may_try_elsewhere() {
                        return Err(Failure::Refused(Box::new(problem)));
                    }
                    refused = Some(problem);
                }
                Attempt::NotSent(reason) => tried.push((endpoint.to_string(), reason)),
                Attempt::Lost(reason) if is_write => {
                    return Err(Failure::Lost { endpoint: endpoint.to_string(), reason });
                }
                Attempt::Lost(reason) => tried.push((endpoint.to_string(), reason)),
            }
        }
        // A node that answered knows more than one that could not be reached.
        Err(match refused {
            Some(problem) => Failure::Refused(Box::new(problem)),
            None => Failure::Unreachable { tried, is_write },
        })
    }

    /// Any answer of the first endpoint, also an error, or why there is none.
    pub(super) async fn ask_first(&self, request: &Request) -> Result<Answer, String> {
        let deadline = clock::now().after(self.timeout());
        let endpoint = self.endpoints.first().expect("a client has endpoints");
        match self.ask(endpoint, request, deadline).await {
            Ok(Attempt::Answered(answer)) => Ok(answer),
            Ok(Attempt::NotSent(reason) | Attempt::Lost(reason)) => Err(reason),
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// Asks one endpoint, once.
    async fn ask(&self, endpoint: &Endpoint, request: &Request, deadline: Moment) -> Result<Attempt, Failure> {
        let http_request = request
            .to_http(endpoint)
            .map_err(|error| Failure::Usage(format!("{} cannot be sent: {error}", request.target)))?;
        let left = || deadline.since(clock::now());
        let dial_wait = left().min(DIAL_WAIT_MAX);
        if dial_wait.is_zero() {
            return Ok(Attempt::NotSent("no time was left to ask it".to_string()));
        }
        let io = match timeout(dial_wait, self.net.dial(&endpoint.authority)).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return Ok(Attempt::NotSent(plain(&error))),
            Err(_) => return Ok(Attempt::NotSent(format!("no connection within {} ms", dial_wait.as_millis()))),
        };
        let (mut sender, connection) = match http1::handshake(TokioIo::new(io)).await {
            Ok(both) => both,
            Err(error) => return Ok(Attempt::NotSent(error.to_string())),
        };
        // Dropped with this call: no connection outlives its one request.
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let late = || Attempt::Lost("no answer in time".to_string());
        let response = match timeout(left(), sender.try_send_request(http_request)).await {
            Err(_) => return Ok(late()),
            Ok(Ok(response)) => response,
            Ok(Err(mut error)) => {
                // The connection hands a request back only when it wrote nothing of it.
                let not_sent = error.take_message().is_some();
                let reason = chain(&error.into_error());
                return Ok(if not_sent { Attempt::NotSent(reason) } else { Attempt::Lost(reason) });
            }
        };
        let (head, body) = response.into_parts();
        let body = match timeout(left(), Limited::new(body, ANSWER_BYTES_MAX).collect()).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            // The status alone is the answer to a write; a read without its body is none.
            _ if request.is_write() => Bytes::new(),
            Ok(Err(error)) => return Ok(Attempt::Lost(format!("the answer was cut off: {error}"))),
            Err(_) => return Ok(late()),
        };
        let answer = Answer { endpoint: endpoint.clone(), status: head.status, headers: head.headers, body };
        Ok(Attempt::Answered(answer))
    }
}

/// The usual reasons in plain words.
pub(super) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_string(),
        _ => error.to_string(),
    }
}

/// hyper says what failed, its sources say why.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::exit::Exit;
    use super::super::testing::{Canned, Server, problem, refusing_endpoint};
    use super::*;

    fn client(endpoints: &[&Endpoint]) -> Client {
        let endpoints = endpoints.iter().map(|endpoint| (*endpoint).clone()).collect();
        Client::new(Arc::new(TcpNet), endpoints, Some(Duration::from_secs(10)))
    }

    fn put() -> Request {
        Request::new(Method::PUT, "/v1/kv/k").body(Bytes::from_static(b"v"))
    }

    const NOT_APPLIED: &str = r#""outcome":"not_applied","retryable":true"#;
    const UNKNOWN: &str = r#""outcome":"unknown","retryable":true"#;

    #[tokio::test]
    async fn a_refused_connection_leads_to_the_next_endpoint() {
        let good = Server::start([Canned::status(204)]).await;
        let dead = refusing_endpoint().await;
        let answer = client(&[&dead, good.endpoint()]).send(&put()).await.unwrap();
        assert_eq!(&answer.endpoint, good.endpoint());
        assert_eq!(good.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_write_that_was_refused_unapplied_and_retryable_goes_to_the_next_endpoint() {
        let first = Server::start([problem(503, "no-leader", NOT_APPLIED)]).await;
        let second = Server::start([Canned::status(204)]).await;
        client(&[first.endpoint(), second.endpoint()]).send(&put()).await.unwrap();
        assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
        let sent = &second.requests()[0];
        assert_eq!((sent.line.as_str(), &sent.body[..]), ("PUT /v1/kv/k", &b"v"[..]));
    }

    #[tokio::test]
    async fn when_all_refuse_the_answer_is_told_and_each_was_asked_once() {
        let dead = refusing_endpoint().await;
        let first = Server::start([problem(503, "no-leader", NOT_APPLIED)]).await;
        let second = Server::start([problem(503, "no-quorum", NOT_APPLIED)]).await;
        let failure = client(&[first.endpoint(), second.endpoint(), &dead]).send(&put()).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Unavailable);
        assert!(failure.to_string().contains("no-quorum"), "{failure}");
        assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
        let nobody = client(&[&dead, &dead]).send(&put()).await.unwrap_err();
        assert_eq!(nobody.exit(), Exit::Unavailable);
        assert!(nobody.to_string().contains("connection refused"), "{nobody}");
    }

    #[tokio::test]
    async fn a_write_of_unknown_outcome_is_not_sent_again() {
        for canned in [problem(504, "deadline-exceeded", UNKNOWN), problem(500, "internal", ""), Canned::Cut] {
            let first = Server::start([canned.clone()]).await;
            let second = Server::start([Canned::status(204)]).await;
            let failure = client(&[first.endpoint(), second.endpoint()]).send(&put()).await.unwrap_err();
            assert_eq!(failure.exit(), Exit::OutcomeUnknown, "{canned:?}: {failure}");
            assert_eq!((first.requests().len(), second.requests().len()), (1, 0), "{canned:?}");
        }
    }

    #[tokio::test]
    async fn a_write_whose_answer_is_late_is_of_unknown_outcome_and_not_sent_again() {
        let first = Server::start([Canned::Silence]).await;
        let second = Server::start([Canned::status(204)]).await;
        let mut client = client(&[first.endpoint(), second.endpoint()]);
        client.timeout = Some(Duration::from_millis(1));
        let failure = client.send(&put()).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::OutcomeUnknown, "{failure}");
        assert_eq!(second.requests().len(), 0);
    }

    #[tokio::test]
    async fn a_final_refusal_is_not_tried_elsewhere() {
        let refusal = r#""outcome":"not_applied","retryable":false"#;
        for (status, code, exit) in [(412, "revision-mismatch", Exit::Precondition), (413, "too-large", Exit::Other)] {
            let first = Server::start([problem(status, code, refusal)]).await;
            let second = Server::start([Canned::status(204)]).await;
            let failure = client(&[first.endpoint(), second.endpoint()]).send(&put()).await.unwrap_err();
            assert_eq!(failure.exit(), exit);
            assert_eq!(second.requests().len(), 0, "{code}");
        }
    }

    #[tokio::test]
    async fn a_read_goes_on_after_any_loss() {
        let cut = Server::start([Canned::Cut]).await;
        let short = Server::start([Canned::CutBody]).await;
        let good = Server::start([Canned::answer(200, &[], "v")]).await;
        let endpoints = [cut.endpoint(), short.endpoint(), good.endpoint()];
        let answer = client(&endpoints).send(&Request::get("/v1/kv/k")).await.unwrap();
        assert_eq!(&answer.body[..], b"v");
        assert_eq!((cut.requests().len(), short.requests().len()), (1, 1));
        let failure = client(&endpoints[..2]).send(&Request::get("/v1/kv/k")).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Unavailable);
    }

    #[tokio::test]
    async fn a_write_with_an_answer_but_without_its_body_is_answered() {
        let server = Server::start([Canned::CutBody]).await;
        let answer = client(&[server.endpoint()]).send(&put()).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
    }

    #[tokio::test]
    async fn paths_go_out_as_they_are_and_an_empty_value_says_its_length() {
        let server = Server::start([Canned::status(204)]).await;
        let request = Request::new(Method::PUT, "/v1/kv/a%2Fb//%41?timeout=5ms");
        client(&[server.endpoint()]).send(&request).await.unwrap();
        let sent = &server.requests()[0];
        assert_eq!(sent.line, "PUT /v1/kv/a%2Fb//%41?timeout=5ms");
        assert_eq!(sent.header("content-length"), Some("0"));
        assert_eq!(Some(format!("http://{}", sent.header("host").unwrap())), Some(server.endpoint().to_string()));
    }

    #[test]
    fn endpoints_are_plain_http_addresses_with_a_port() {
        for good in ["http://127.0.0.1:7401", "http://n1.example:80/", "n1:7401", "http://[::1]:7401"] {
            Endpoint::parse(good).unwrap();
        }
        for bad in ["", "http://", "http://n1", "https://n1:1", "http://n1:1/v1", "ftp://n1:1", "u@n1:1", "n1:x", ":1"]
        {
            let failure = Endpoint::parse(bad).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage, "{bad}");
        }
    }
}
