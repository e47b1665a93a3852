//! An HTTP client that changes nothing: targets go out as they are given, dots, slashes, percent signs and all, and no
//! redirect is followed. One connection for each request, so that requests do not meet in one.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than the longest deadline that the server lets a client ask for.
const REPLY_TIMEOUT: Duration = Duration::from_secs(70);

/// One node's HTTP address.
#[derive(Clone, Debug)]
pub struct Http {
    pub address: String,
}

/// A request that is being put together.
pub struct Call {
    address: String,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: UnsyncBoxBody<Bytes, Infallible>,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Http {
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into() }
    }

    /// `target` is the path with its query, sent as it is.
    pub fn call(&self, method: &str, target: impl Into<String>) -> Call {
        Call {
            address: self.address.clone(),
            method: Method::from_bytes(method.as_bytes()).expect("a method's name"),
            target: target.into(),
            headers: HeaderMap::new(),
            body: Full::default().boxed_unsync(),
        }
    }

    pub fn get(&self, target: impl Into<String>) -> Call {
        self.call("GET", target)
    }

    pub fn put(&self, target: impl Into<String>, body: impl Into<Bytes>) -> Call {
        let body = body.into();
        // Said in so many words: hyper leaves the length of an empty body out.
        let mut call = self.call("PUT", target).header("content-length", body.len().to_string());
        call.body = Full::new(body).boxed_unsync();
        call
    }

    pub fn delete(&self, target: impl Into<String>) -> Call {
        self.call("DELETE", target)
    }

    /// Writes bytes to a new connection and gives what comes back until `enough`, the end, or the time-out.
    pub async fn raw(&self, request: &[u8], enough: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, String> {
        let mut stream = connect(&self.address).await?;
        let mut reply = Vec::new();
        let exchange = async {
            stream.write_all(request).await.map_err(|error| error.to_string())?;
            let mut piece = [0; 4096];
            while !enough(&reply) {
                match stream.read(&mut piece).await {
                    Ok(0) => break,
                    Ok(count) => reply.extend_from_slice(&piece[..count]),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Ok(())
        };
        tokio::time::timeout(REPLY_TIMEOUT, exchange).await.map_err(|_| "no answer in time".to_string())??;
        Ok(reply)
    }
}

/// Whether a raw reply has its whole head.
pub fn has_head(reply: &[u8]) -> bool {
    reply.windows(4).any(|window| window == b"\r\n\r\n")
}

#[expect(clippy::disallowed_methods, reason = "a client of the outside")]
async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("cannot connect to {address}: {error}"))
}

impl Call {
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        let value = HeaderValue::from_bytes(value.as_ref()).expect("a header's value");
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    /// Sent in chunks, without a length.
    #[must_use]
    pub fn chunks(mut self, chunks: Vec<Bytes>) -> Self {
        let frames = chunks.into_iter().map(|chunk| Ok(Frame::data(chunk)));
        self.body = StreamBody::new(stream::iter(frames)).boxed_unsync();
        self
    }

    pub async fn try_send(self) -> Result<Reply, String> {
        let stream = TokioIo::new(connect(&self.address).await?);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.target.parse().map_err(|error| format!("{}: {error}", self.target))?;
        *request.headers_mut() = self.headers;
        let host = HeaderValue::try_from(&self.address).expect("an address is header text");
        request.headers_mut().insert("host", host);
        let exchange = async {
            let reply = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = reply.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
        };
        let reply = tokio::time::timeout(REPLY_TIMEOUT, exchange).await;
        connection.abort();
        reply.map_err(|_| format!("{} did not answer in time", self.address))?
    }

    /// # Panics
    /// When there is no answer.
    pub async fn send(self) -> Reply {
        let what = format!("{} {} at {}", self.method, self.target, self.address);
        self.try_send().await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}

impl Reply {
    /// # Panics
    /// When the header is no text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// # Panics
    /// When the body is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The `code` of a problem.
    ///
    /// # Panics
    /// When the reply is none.
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        self.json()["code"].as_str().expect("a problem has a code").to_string()
    }

    /// # Panics
    /// When the status is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {:?}", String::from_utf8_lossy(&self.body), self.headers);
        self
    }
}
