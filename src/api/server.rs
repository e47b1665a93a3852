//! The clients' listener: accepts connections, holds them to their limits, and ends them in order.
//!
//! Invariants: never more than `connections_max` connections are served, further ones wait; a client that sends no head,
//! or takes nothing of its answer, is not waited for without limit; an error of one connection, or of one accept, ends
//! nothing else; [`serve`] returns only when all of its tasks have ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{Context, Response, respond};
use crate::transport::dial::{BoxedIo, Listener};

/// Pause after a failed accept, which may be for want of file descriptors: others have to be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long requests in flight may go on once the server stops. Longer than the default deadline of a request.
pub(super) const FINISH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take not a single byte of what is sent to it: then its connection, and the answer held for it,
/// are given up. How long the whole answer takes is the client's affair.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest head of a request, in bytes, and so what a connection may hold before its request is known. Four times what
/// the longest path and parameters take when each of their bytes is percent-encoded.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// What is still read of a body whose request was answered early, so that the answer is not lost with a reset.
const DRAINED_BYTES_MAX: usize = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until `stop`; then requests in flight finish, for a while, and connections are closed.
pub async fn serve(mut listener: Box<dyn Listener>, context: Context, stop: CancellationToken) {
    let limits = context.inner.limits;
    let free = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
    let tasks = TaskTracker::new();
    let abort = CancellationToken::new();
    while let Some((io, remote)) = next_connection(listener.as_mut(), &stop).await {
        // Taken after the accept: at the limit one connection waits here, the others in the system's backlog.
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = Arc::clone(&free).acquire_owned() => permit,
        };
        let connection =
            Connection { context: context.clone(), stop: stop.clone(), abort: abort.clone(), tasks: tasks.clone() };
        tasks.spawn(async move {
            connection.run(io, &remote).await;
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(limits.finish_timeout, tasks.wait()).await.is_err() {
        warn!(connections = tasks.len(), "requests did not finish in time; their connections are closed");
        abort.cancel();
        tasks.wait().await;
    }
}

async fn next_connection(listener: &mut dyn Listener, stop: &CancellationToken) -> Option<(BoxedIo, String)> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => return Some(accepted),
                Err(error) => warn!(%error, "a connection could not be accepted"),
            },
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(ACCEPT_PAUSE) => {}
        }
    }
}

struct Connection {
    context: Context,
    stop: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Connection {
    async fn run(&self, io: BoxedIo, remote: &str) {
        let limits = &self.context.inner.limits;
        let mut io = TimeoutStream::new(io);
        io.set_write_timeout(Some(limits.write_timeout));
        let service = service_fn(|request| self.answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_read_timeout)
            .max_header_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(Box::pin(io)), service);
        let mut connection = Box::pin(connection);
        let ended = tokio::select! {
            biased;
            () = self.abort.cancelled() => return,
            () = self.stop.cancelled() => {
                // Finishes the request in flight; an idle connection closes at once.
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    () = self.abort.cancelled() => return,
                    ended = connection => ended,
                }
            }
            ended = connection.as_mut() => ended,
        };
        if let Err(error) = ended {
            debug!(remote, %error, "an HTTP connection broke off");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response, Infallible> {
        let (head, mut body) = request.into_parts();
        let response = respond(&self.context, &head, &mut body).await;
        if !body.is_end_stream() && !waits_for_continue(&head.headers) {
            let abort = self.abort.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = abort.cancelled() => {}
                    _ = tokio::time::timeout(DRAIN_TIMEOUT, drain(body)) => {}
                }
            });
        }
        Ok(response)
    }
}

/// Whether the client sends its body only when asked to, and so has sent none.
fn waits_for_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Reads on and throws away. Closing a socket with unread bytes resets it, and a reset may take the answer with it.
async fn drain(mut body: impl Body<Data = Bytes> + Unpin) {
    let mut left = DRAINED_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = rest;
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
