//! A client with a connection that it keeps: for traffic, where a connection for each request would be most of the work.
//!
//! Every request has a limit of its own, after which the connection is given up. [`Trouble`] says truthfully whether
//! the request may have reached the server: a write that may have is never sent again by this client.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use ringraft::clock::{self, Moment};
use ringraft::transport::dial::{Net, TcpNet};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::http::Reply;

/// Connects to one node, at its HTTP address, and reconnects as needed.
pub struct Client {
    net: Arc<dyn Net>,
    address: String,
    open: Option<Open>,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No byte of the request left this process.
    NotSent(String),
    /// The connection broke while the answer was awaited.
    Broken(String),
    /// No answer within the limit.
    Late,
}

/// What a write came to, as the answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 201 or 204, with the revision from the `ETag`.
    Acknowledged { revision: u64 },
    /// Certainly never carried out; `why` is the status and code, or the connection's error.
    NotApplied { why: String },
    /// Perhaps carried out, now or later.
    Unknown { why: String },
}

impl Client {
    /// Over the operating system's TCP.
    pub fn new(address: impl Into<String>) -> Self {
        Self::over(Arc::new(TcpNet), address)
    }

    pub fn over(net: Arc<dyn Net>, address: impl Into<String>) -> Self {
        Self { net, address: address.into(), open: None }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub async fn get(&mut self, target: &str, limit: Duration) -> Result<Reply, Trouble> {
        self.send(Method::GET, target, Bytes::new(), limit).await
    }

    /// A PUT, judged by its answer.
    pub async fn put(&mut self, target: &str, value: Bytes, limit: Duration) -> Outcome {
        outcome(self.send(Method::PUT, target, value, limit).await)
    }

    pub async fn send(&mut self, method: Method, target: &str, body: Bytes, limit: Duration) -> Result<Reply, Trouble> {
        self.send_with(method, target, HeaderMap::new(), body, limit).await
    }

    /// Like [`Client::send`], with headers of the caller's. `host` and `content-length` are this client's own.
    pub async fn send_with(
        &mut self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: Bytes,
        limit: Duration,
    ) -> Result<Reply, Trouble> {
        let deadline = clock::now().after(limit);
        let mut sender = match self.sender(deadline).await {
            Ok(open) => open,
            Err(why) => return Err(Trouble::NotSent(why)),
        };
        let has_body = method != Method::GET && method != Method::HEAD;
        let length = body.len();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().map_err(|error| Trouble::NotSent(format!("{target}: {error}")))?;
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.insert("host", HeaderValue::try_from(&self.address).expect("an address is header text"));
        if has_body {
            // Said in so many words: hyper leaves the length of an empty body out.
            headers.insert("content-length", HeaderValue::from(length));
        }
        let exchange = async {
            let reply = sender.sender.send_request(request).await.map_err(|error| {
                // Cancelled: the request was still in hyper's hands when the connection ended.
                if error.is_canceled() {
                    Trouble::NotSent(error.to_string())
                } else {
                    Trouble::Broken(error.to_string())
                }
            })?;
            let (head, body) = reply.into_parts();
            let body = body.collect().await.map_err(|error| Trouble::Broken(error.to_string()))?.to_bytes();
            Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
        };
        let reply = tokio::time::timeout(deadline.since(clock::now()), exchange).await.unwrap_or(Err(Trouble::Late))?;
        if !asks_to_close(&reply.headers) {
            self.open = Some(sender);
        }
        Ok(reply)
    }

    /// The kept connection if it is still open, else a new one.
    async fn sender(&mut self, deadline: Moment) -> Result<Open, String> {
        if let Some(mut open) = self.open.take()
            && open.sender.ready().await.is_ok()
        {
            return Ok(open);
        }
        let limit = deadline.since(clock::now());
        let connected = tokio::time::timeout(limit, connect(&*self.net, &self.address)).await;
        connected.unwrap_or_else(|_| Err(format!("{} does not take the connection", self.address)))
    }
}

async fn connect(net: &dyn Net, address: &str) -> Result<Open, String> {
    let stream = net.dial(address).await.map_err(|error| format!("{address}: {error}"))?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("{address}: {error}"))?;
    // How it ends shows in the requests that are under way on it.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Open { sender, driver })
}

fn asks_to_close(headers: &HeaderMap) -> bool {
    headers.get("connection").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// What a write came to. Anything that is not understood is unknown, never "not applied".
pub fn outcome(result: Result<Reply, Trouble>) -> Outcome {
    let reply = match result {
        Ok(reply) => reply,
        Err(Trouble::NotSent(why)) => return Outcome::NotApplied { why },
        Err(Trouble::Broken(why)) => return Outcome::Unknown { why: format!("connection broke: {why}") },
        Err(Trouble::Late) => return Outcome::Unknown { why: "no answer within the client's limit".to_string() },
    };
    if matches!(reply.status, 201 | 204)
        && let Some(revision) = revision(&reply)
    {
        return Outcome::Acknowledged { revision };
    }
    let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let why = format!("{} {}", reply.status, problem["code"].as_str().unwrap_or("without a code"));
    match problem["outcome"].as_str() {
        Some("not_applied") => Outcome::NotApplied { why },
        _ => Outcome::Unknown { why },
    }
}

/// The revision in a reply's `ETag`.
pub fn revision(reply: &Reply) -> Option<u64> {
    let tag = reply.headers.get("etag")?.to_str().ok()?;
    u64::from_str_radix(tag.strip_prefix('"')?.strip_suffix('"')?, 16).ok()
}

/// `/v1/kv/{key}` with every byte escaped that may be read as anything else.
pub fn kv_path(key: &[u8]) -> String {
    let mut path = "/v1/kv/".to_string();
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            write!(path, "%{byte:02X}").expect("a string takes text");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> Result<Reply, Trouble> {
        let headers =
            headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        Ok(Reply { status, headers: headers.collect(), body: Bytes::from_static(body.as_bytes()) })
    }

    #[test]
    fn only_an_answer_with_a_revision_acknowledges() {
        let acknowledged = outcome(reply(204, &[("etag", "\"00000000000000ff\"")], ""));
        assert_eq!(acknowledged, Outcome::Acknowledged { revision: 255 });
        for odd in [reply(204, &[], ""), reply(200, &[("etag", "\"00000000000000ff\"")], ""), reply(500, &[], "x")] {
            assert!(matches!(outcome(odd), Outcome::Unknown { .. }));
        }
    }

    #[test]
    fn not_applied_is_believed_only_where_it_is_said_or_nothing_was_sent() {
        let refused = outcome(reply(503, &[], r#"{"code":"no-quorum","outcome":"not_applied"}"#));
        assert_eq!(refused, Outcome::NotApplied { why: "503 no-quorum".to_string() });
        let late = outcome(reply(504, &[], r#"{"code":"deadline-exceeded","outcome":"unknown"}"#));
        assert_eq!(late, Outcome::Unknown { why: "504 deadline-exceeded".to_string() });
        assert!(matches!(outcome(Err(Trouble::NotSent(String::new()))), Outcome::NotApplied { .. }));
        assert!(matches!(outcome(Err(Trouble::Late)), Outcome::Unknown { .. }));
        assert!(matches!(outcome(Err(Trouble::Broken(String::new()))), Outcome::Unknown { .. }));
    }

    #[test]
    fn a_key_is_escaped_wherever_a_path_could_mean_something_else() {
        assert_eq!(kv_path(b"a/../b%\xff"), "/v1/kv/a%2F%2E%2E%2Fb%25%FF");
    }
}
