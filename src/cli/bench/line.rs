//! One HTTP connection and the pool of each node's. No task stands behind a connection: whoever uses it moves it on,
//! which costs no wake-up between tasks per request.
//!
//! Invariants: a connection is used by one request at a time; one that failed, or whose request was given up, is closed;
//! one that was idle so long that the node may be closing it is not used, so that no request is lost to that.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::super::client::{DIAL_WAIT_MAX, Endpoint, Request, chain, plain};
use crate::clock::{self, Moment};
use crate::transport::dial::{BoxedIo, Net};

/// Idle connections are closed by a node after 10 s.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Longest answer taken, in bytes: twice the longest value, and any shard map.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No byte of the request left this process.
    NotSent(String),
    /// It may have arrived.
    Lost(String),
}

#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

type Connection = http1::Connection<TokioIo<BoxedIo>, Full<Bytes>>;

struct Line {
    sender: http1::SendRequest<Full<Bytes>>,
    /// None once it has ended. It must be dropped then: a request that it had not taken yet is given back by that, and
    /// would wait for ever without.
    connection: Option<Connection>,
    used: Moment,
}

impl Line {
    async fn open(net: &dyn Net, endpoint: &Endpoint) -> Result<Self, String> {
        // A node that swallows everything must not cost a request all of its time: another one may lead by now.
        let dialled = timeout(DIAL_WAIT_MAX, net.dial(endpoint.authority())).await;
        let io = dialled
            .map_err(|_| format!("no connection within {} ms", DIAL_WAIT_MAX.as_millis()))?
            .map_err(|error| plain(&error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|error| error.to_string())?;
        Ok(Self { sender, connection: Some(connection), used: clock::now() })
    }

    /// Whether it still takes a request.
    async fn is_usable(&mut self) -> bool {
        let Self { sender, connection, .. } = self;
        drive(connection, poll_fn(|context| sender.poll_ready(context))).await.is_ok()
    }

    async fn exchange(&mut self, request: http::Request<Full<Bytes>>) -> Result<Reply, Fault> {
        let Self { sender, connection, .. } = self;
        let response = match drive(connection, sender.try_send_request(request)).await {
            Ok(response) => response,
            Err(mut error) => {
                // The connection hands a request back only when it wrote nothing of it.
                let not_sent = error.take_message().is_some();
                let reason = chain(&error.into_error());
                return Err(if not_sent { Fault::NotSent(reason) } else { Fault::Lost(reason) });
            }
        };
        let (head, body) = response.into_parts();
        let body = drive(connection, Limited::new(body, ANSWER_BYTES_MAX).collect()).await;
        let body = body.map_err(|error| Fault::Lost(format!("the answer was cut off: {error}")))?.to_bytes();
        Ok(Reply { status: head.status, headers: head.headers, body })
    }
}

/// Waits for `work`, which needs the connection to move on.
async fn drive<F: Future>(connection: &mut Option<Connection>, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|context| {
        // How it ended is told to the request in flight, which is `work`.
        if connection.as_mut().is_some_and(|connection| Pin::new(connection).poll(context).is_ready()) {
            *connection = None;
        }
        work.as_mut().poll(context)
    })
    .await
}

/// A node and the connections to it that nobody uses now. There are never more than requests at the same time, and
/// after a peak no more than were used lately.
pub(super) struct Node {
    pub(super) endpoint: Endpoint,
    /// The one used last is used next, so that few are kept warm.
    idle: Mutex<Vec<Line>>,
}

impl Node {
    pub(super) fn new(endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Self { endpoint, idle: Mutex::new(Vec::new()) })
    }

    /// Sends one request and waits for its answer, without a limit in time. Dropped on the way, it closes the
    /// connection. `sent` is set as soon as the request may have left.
    pub(super) async fn exchange(&self, net: &dyn Net, request: &Request, sent: &mut bool) -> Result<Reply, Fault> {
        let request = request.to_http(&self.endpoint).map_err(|error| Fault::NotSent(error.to_string()))?;
        let mut line = match self.idle_line().await {
            Some(line) => line,
            None => Line::open(net, &self.endpoint).await.map_err(Fault::NotSent)?,
        };
        *sent = true;
        let reply = line.exchange(request).await;
        if reply.is_ok() && line.connection.is_some() {
            line.used = clock::now();
            self.give_back(line);
        }
        reply
    }

    /// Also closes those that no request may use any more: each holds a descriptor, and a stall leaves many.
    fn give_back(&self, line: Line) {
        let mut lines = self.lines();
        // They lie in the order of their use.
        let old = lines.partition_point(|idle| line.used.since(idle.used) >= IDLE_MAX);
        let closed: Vec<Line> = lines.drain(..old).collect();
        lines.push(line);
        // Others need the lock sooner than these need to be closed.
        drop(lines);
        drop(closed);
    }

    async fn idle_line(&self) -> Option<Line> {
        loop {
            let mut line = self.lines().pop()?;
            if clock::now().since(line.used) < IDLE_MAX && line.is_usable().await {
                return Some(line);
            }
        }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<Line>> {
        self.idle.lock().expect("nobody panics while holding it")
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::super::testing::{Canned, Server, refusing_endpoint};
    use super::super::testing::Fake;
    use super::*;
    use crate::transport::dial::TcpNet;

    #[tokio::test]
    async fn one_connection_serves_request_after_request() {
        let fake = Fake::start().await;
        let node = Node::new(fake.endpoint());
        for _ in 0..20 {
            let request = Request::new(Method::PUT, "/v1/kv/k").body(Bytes::from_static(b"v"));
            let reply = node.exchange(&TcpNet, &request, &mut false).await.unwrap();
            assert_eq!(reply.status, 204);
        }
        let reply = node.exchange(&TcpNet, &Request::get("/v1/kv/k"), &mut false).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"v"[..]));
        assert_eq!(fake.connections(), 1);
        assert_eq!(node.lines().len(), 1);
    }

    #[tokio::test]
    async fn connections_that_were_idle_for_too_long_are_closed_when_another_one_comes_back() {
        let fake = Fake::start().await;
        let node = Node::new(fake.endpoint());
        node.exchange(&TcpNet, &Request::get("/v1/kv/k"), &mut false).await.unwrap();
        let mut old = node.lines().pop().expect("it is kept");
        old.used = clock::now().before(IDLE_MAX).expect("the machine runs for longer than that");
        node.exchange(&TcpNet, &Request::get("/v1/kv/k"), &mut false).await.unwrap();
        node.lines().insert(0, old);
        node.exchange(&TcpNet, &Request::get("/v1/kv/k"), &mut false).await.unwrap();
        assert_eq!((node.lines().len(), fake.connections()), (1, 2));
    }

    #[tokio::test]
    async fn what_was_sent_and_not_answered_is_lost_and_what_never_left_is_not() {
        let mut sent = false;
        let dead = Node::new(refusing_endpoint().await);
        let refused = dead.exchange(&TcpNet, &Request::get("/v1/kv/k"), &mut sent).await.unwrap_err();
        assert_eq!((refused, sent), (Fault::NotSent("connection refused".to_string()), false));
        let cut = Server::start([Canned::Cut, Canned::CutBody]).await;
        let node = Node::new(cut.endpoint().clone());
        for _ in 0..2 {
            let lost = node.exchange(&TcpNet, &Request::get("/v1/kv/k"), &mut sent).await.unwrap_err();
            assert!(matches!(lost, Fault::Lost(_)) && sent, "{lost:?}");
            assert_eq!(node.lines().len(), 0, "a connection that failed is not used again");
        }
    }

    #[tokio::test]
    async fn a_connection_that_the_node_has_closed_is_replaced_before_anything_is_sent() {
        let closing = Server::start([Canned::status(204)]).await;
        let node = Node::new(closing.endpoint().clone());
        for _ in 0..5 {
            node.exchange(&TcpNet, &Request::get("/v1/kv/k"), &mut false).await.unwrap();
        }
        assert_eq!(closing.requests().len(), 5);
    }

    #[tokio::test]
    async fn a_request_on_a_connection_that_has_just_ended_is_given_back_and_never_left_waiting() {
        let mut listener = TcpNet.listen("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::parse(&listener.local_address().unwrap()).unwrap();
        let request = || Request::get("/v1/kv/k").to_http(&endpoint).unwrap();
        for _ in 0..20 {
            let mut line = Line::open(&TcpNet, &endpoint).await.unwrap();
            let (mut far, _) = listener.accept().await.unwrap();
            let answer = async {
                let mut head = [0; 4096];
                assert!(far.read(&mut head).await.unwrap() > 0);
                far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            };
            tokio::join!(line.exchange(request()), answer).0.unwrap();
            assert!(line.is_usable().await, "a connection that is kept alive");
            drop(far);
            // So that the end is usually seen together with the request. Not having seen it is no failure either.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let ended = timeout(Duration::from_secs(10), line.exchange(request())).await;
            assert!(ended.expect("an end in time").is_err());
        }
    }
}
