//! One connection of the calling side: its queue, its waiting calls, and the task that dials, shakes hands, writes and
//! reads. Made by `peers`; calls may be queued from the first moment and leave when the handshake is through.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Lane;
use super::dial::{BoxedIo, Net};
use super::frame::{BODY_BYTES_MAX, CallId, Frame, Kind};
use super::handshake::{self, Gatekeeper, HandshakeError, Remote};
use super::stream::{COALESCED_BYTES_MAX, Ending, FrameReader, Source, write_frames};
use crate::clock::{self, Moment};
use crate::types::NodeId;

/// Longest time for a TCP connection to open.
pub(super) const DIAL_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest time for the handshake, at either end.
pub(super) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(3);

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    pub body: Bytes,
    pub remote: Arc<Remote>,
}

/// Why there is no reply. The variant states whether the request can have been carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Certainly not: no byte of the request left this node.
    #[error("not sent: {0}")]
    NotSent(NotSent),
    /// Unknown: the request, or some of it, may have left.
    #[error("lost: {0}")]
    Lost(Lost),
    /// The peer's handler says what happened.
    #[error("refused by the peer with status {status}")]
    Refused { status: u8, body: Bytes },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    #[error("no address of node {0} is known")]
    NoAddress(NodeId),
    #[error("dialling {address}: {what}")]
    Dial { address: String, what: String },
    #[error("handshake with {address}: {error}")]
    Handshake { address: String, error: HandshakeError },
    #[error("handshake with {address}: not done after {} ms", HANDSHAKE_TIME_MAX.as_millis())]
    HandshakeTooSlow { address: String },
    #[error("{calls} calls are already queued or unanswered, and {queued_bytes} bytes queued")]
    QueueFull { calls: usize, queued_bytes: usize },
    #[error("the deadline passed before it was written")]
    DeadlinePassed,
    #[error("the connection ended before it was written: {0}")]
    ConnectionEnded(Ending),
    #[error("a body of {bytes} bytes is longer than {BODY_BYTES_MAX}")]
    BodyTooLong { bytes: usize },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("the deadline passed without an answer")]
    DeadlinePassed,
    #[error("the connection ended without an answer: {0}")]
    ConnectionEnded(Ending),
    #[error("the peer's handler ended without an answer")]
    Dropped,
}

/// What to send, and until when.
pub(super) struct Request {
    pub(super) method: u8,
    pub(super) body: Bytes,
    pub(super) deadline: Moment,
}

/// Why a connection takes no calls any more.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{0}")]
    NotOpened(NotSent),
    #[error("{0}")]
    AfterOpen(Ending),
}

impl Ended {
    pub(super) fn of_unsent(&self) -> CallError {
        CallError::NotSent(match self {
            Self::NotOpened(why) => why.clone(),
            Self::AfterOpen(ending) => NotSent::ConnectionEnded(ending.clone()),
        })
    }

    fn of_sent(&self) -> CallError {
        match self {
            Self::NotOpened(why) => unreachable!("a call was written on a connection that never opened: {why}"),
            Self::AfterOpen(ending) => CallError::Lost(Lost::ConnectionEnded(ending.clone())),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Stage {
    Opening,
    Open(Arc<Remote>),
    Ended { at: Moment, why: Ended, lived: Duration },
}

/// The calls of one connection.
///
/// Invariants:
/// - A call is in `waiting` until it has a result or nobody waits for it. It is in `queued` as well exactly as long as
///   no byte of it was given to the socket: the writer takes it out *before* it encodes it. So whoever removes a call
///   from both certainly has an unsent one.
/// - Ids only grow, so `queued` in the order of ids is the order of the calls.
/// - Once `stage` is `Ended`, all tables are empty for ever.
struct Calls {
    stage: Stage,
    last_id: u64,
    queued: BTreeMap<CallId, Request>,
    queued_bytes: usize,
    waiting: BTreeMap<CallId, oneshot::Sender<Result<Reply, CallError>>>,
    /// Sent calls that nobody waits for any more, and whose handler is to be told.
    cancels: Vec<CallId>,
}

/// A connection being opened, open, or ended; shared by its task and its callers.
pub(super) struct Connection {
    lane: Lane,
    opened_at: Moment,
    keeper: Arc<dyn Gatekeeper>,
    calls: Mutex<Calls>,
    added: Notify,
    stop: CancellationToken,
}

/// Where and how the connection's task dials.
pub(super) struct Target {
    pub(super) net: Arc<dyn Net>,
    pub(super) address: String,
    /// Nobody but this node is accepted at the address.
    pub(super) expected: Option<NodeId>,
    /// How the last attempt failed: the same failure again is not worth another warning.
    pub(super) failed_before: Option<NotSent>,
}

impl Connection {
    /// `stop` closes it. Whoever makes a connection runs [`Self::run`] on a task that it owns.
    pub(super) fn new(lane: Lane, keeper: Arc<dyn Gatekeeper>, stop: CancellationToken) -> Arc<Self> {
        let calls = Calls {
            stage: Stage::Opening,
            last_id: 0,
            queued: BTreeMap::new(),
            queued_bytes: 0,
            waiting: BTreeMap::new(),
            cancels: Vec::new(),
        };
        let opened_at = clock::now();
        Arc::new(Self { lane, opened_at, keeper, calls: Mutex::new(calls), added: Notify::new(), stop })
    }

    pub(super) fn stage(&self) -> Stage {
        self.lock().stage.clone()
    }

    /// Calls that are queued or wait for their answer.
    pub(super) fn calls_waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    pub(super) fn close(&self) {
        self.stop.cancel();
    }

    /// Queues a request. It leaves after all that were queued before it.
    pub(super) fn begin(self: &Arc<Self>, request: Request) -> Result<Waiting, CallError> {
        let bytes = request.body.len();
        if bytes > BODY_BYTES_MAX {
            return Err(CallError::NotSent(NotSent::BodyTooLong { bytes }));
        }
        let mut calls = self.lock();
        if let Stage::Ended { why, .. } = &calls.stage {
            return Err(why.of_unsent());
        }
        let full = calls.queued.len() >= self.lane.queued_calls_max()
            || calls.waiting.len() >= self.lane.calls_max()
            || calls.queued_bytes + bytes > self.lane.queued_bytes_max();
        if full {
            let (calls, queued_bytes) = (calls.waiting.len(), calls.queued_bytes);
            return Err(CallError::NotSent(NotSent::QueueFull { calls, queued_bytes }));
        }
        calls.last_id += 1;
        let id = CallId(calls.last_id);
        let deadline = request.deadline;
        let (sender, result) = oneshot::channel();
        calls.queued_bytes += bytes;
        calls.queued.insert(id, request);
        calls.waiting.insert(id, sender);
        drop(calls);
        self.added.notify_one();
        Ok(Waiting { connection: Arc::clone(self), id, result, deadline })
    }

    /// Opens the connection and serves it to its end.
    pub(super) async fn run(self: Arc<Self>, target: Target) {
        let opened = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(NotSent::ConnectionEnded(Ending::ShutDown)),
            opened = self.open(&target) => opened,
        };
        let (io, remote) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                let address = &target.address;
                if self.stop.is_cancelled() || target.failed_before.as_ref() == Some(&why) {
                    tracing::debug!(node = ?target.expected, address, lane = ?self.lane, %why, "no connection");
                } else {
                    tracing::warn!(node = ?target.expected, address, lane = ?self.lane, %why, "no connection");
                }
                return self.end(Ended::NotOpened(why));
            }
        };
        self.lock().stage = Stage::Open(Arc::clone(&remote));
        tracing::debug!(address = target.address, lane = ?self.lane, node = ?remote.hello.node, "connected");
        let (read, write) = tokio::io::split(io);
        // Not biased: a flood of answers must not keep the writer from its turn.
        let ending = tokio::select! {
            () = self.stop.cancelled() => Ending::ShutDown,
            ending = self.read_answers(read, &remote) => ending,
            ending = write_frames(write, self.as_ref(), None) => ending,
        };
        match &ending {
            Ending::ShutDown => {}
            Ending::Frame(_) | Ending::Protocol(_) => {
                tracing::error!(address = target.address, lane = ?self.lane, %ending, "connection given up");
            }
            _ => tracing::info!(address = target.address, lane = ?self.lane, %ending, "connection lost"),
        }
        self.end(Ended::AfterOpen(ending));
    }

    pub(super) async fn open(&self, target: &Target) -> Result<(BoxedIo, Arc<Remote>), NotSent> {
        let address = || target.address.clone();
        let mut io = match timeout(DIAL_TIME_MAX, target.net.dial(&target.address)).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return Err(NotSent::Dial { address: address(), what: error.to_string() }),
            Err(_) => {
                let what = format!("no connection after {} ms", DIAL_TIME_MAX.as_millis());
                return Err(NotSent::Dial { address: address(), what });
            }
        };
        let shaken = handshake::dialled(&mut *io, self.keeper.as_ref(), self.lane, target.expected, &target.address);
        match timeout(HANDSHAKE_TIME_MAX, shaken).await {
            Ok(Ok(remote)) => Ok((io, Arc::new(remote))),
            Ok(Err(error)) => Err(NotSent::Handshake { address: address(), error }),
            Err(_) => Err(NotSent::HandshakeTooSlow { address: address() }),
        }
    }

    async fn read_answers(&self, read: impl AsyncRead + Unpin, remote: &Arc<Remote>) -> Ending {
        let mut reader = FrameReader::new(read);
        loop {
            let frame = match reader.next().await {
                Ok(frame) => frame,
                Err(ending) => return ending,
            };
            if frame.catalog_version > self.keeper.catalog_version() {
                self.keeper.heard_catalog_version(&remote.hello, frame.catalog_version);
            }
            let result = match frame.kind {
                Kind::Answer => Ok(Reply { body: frame.body, remote: Arc::clone(remote) }),
                Kind::Failure => Err(CallError::Refused { status: frame.status, body: frame.body }),
                Kind::Dropped => Err(CallError::Lost(Lost::Dropped)),
                Kind::Request | Kind::Cancel | Kind::Keepalive => {
                    return Ending::Protocol("a frame that only the dialler sends came from the listener");
                }
            };
            if !self.answer(frame.call, result) {
                return Ending::Protocol("an answer came for a call that was never sent");
            }
        }
    }

    /// False for a call that was not sent here. One that was given up meanwhile is fine.
    fn answer(&self, id: CallId, result: Result<Reply, CallError>) -> bool {
        let mut calls = self.lock();
        if id.0 == 0 || id.0 > calls.last_id || calls.queued.contains_key(&id) {
            return false;
        }
        let sender = calls.waiting.remove(&id);
        drop(calls);
        if let Some(sender) = sender {
            // The caller may be gone in this very moment; then nobody wants the result.
            let _ = sender.send(result);
        }
        true
    }

    fn end(&self, why: Ended) {
        let mut calls = self.lock();
        let at = clock::now();
        calls.stage = Stage::Ended { at, why: why.clone(), lived: at.since(self.opened_at) };
        let queued = std::mem::take(&mut calls.queued);
        let waiting = std::mem::take(&mut calls.waiting);
        calls.queued_bytes = 0;
        calls.cancels.clear();
        drop(calls);
        for (id, sender) in waiting {
            let error = if queued.contains_key(&id) { why.of_unsent() } else { why.of_sent() };
            let _ = sender.send(Err(error));
        }
    }

    /// Takes back a call. None when it has its result already.
    fn withdraw(&self, id: CallId) -> Option<Withdrawn> {
        let mut calls = self.lock();
        calls.waiting.remove(&id)?;
        if let Some(request) = calls.queued.remove(&id) {
            calls.queued_bytes -= request.body.len();
            return Some(Withdrawn::Unsent);
        }
        calls.cancels.push(id);
        drop(calls);
        self.added.notify_one();
        Some(Withdrawn::Sent)
    }

    /// Takes the next request off the queue: from here on it counts as sent. One whose deadline has passed is given up.
    fn next_to_write(&self) -> Option<Frame> {
        let catalog_version = self.keeper.catalog_version();
        let now = clock::now();
        let mut calls = self.lock();
        loop {
            let (id, request) = calls.queued.pop_first()?;
            calls.queued_bytes -= request.body.len();
            let remaining = request.deadline.since(now);
            if !remaining.is_zero() {
                return Some(Frame {
                    kind: Kind::Request,
                    call: id,
                    // At least one, so that rounding does not turn a short time into none.
                    remaining_ms: u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX).max(1),
                    catalog_version,
                    method: request.method,
                    status: 0,
                    body: request.body,
                });
            }
            if let Some(sender) = calls.waiting.remove(&id) {
                let _ = sender.send(Err(CallError::NotSent(NotSent::DeadlinePassed)));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().expect("nothing panics while it holds the calls")
    }
}

enum Withdrawn {
    Unsent,
    Sent,
}

impl Source for Connection {
    fn fill(&self, buffer: &mut BytesMut) {
        let cancels = std::mem::take(&mut self.lock().cancels);
        for id in cancels {
            Frame::bare(Kind::Cancel, id).encode(buffer);
        }
        // Encoded outside the lock: copying a long body would hold every caller up.
        while buffer.len() < COALESCED_BYTES_MAX
            && let Some(frame) = self.next_to_write()
        {
            frame.encode(buffer);
        }
    }

    fn added(&self) -> &Notify {
        &self.added
    }
}

/// A call that waits for its result. Dropping it takes the call back: an unsent one never leaves, and the handler of a
/// sent one is told to stop.
pub(super) struct Waiting {
    connection: Arc<Connection>,
    id: CallId,
    result: oneshot::Receiver<Result<Reply, CallError>>,
    deadline: Moment,
}

impl Waiting {
    pub(super) async fn result(mut self) -> Result<Reply, CallError> {
        let left = self.deadline.since(clock::now());
        let result = match timeout(left, &mut self.result).await {
            Ok(result) => result,
            Err(_) => match self.connection.withdraw(self.id) {
                Some(Withdrawn::Unsent) => return Err(CallError::NotSent(NotSent::DeadlinePassed)),
                Some(Withdrawn::Sent) => return Err(CallError::Lost(Lost::DeadlinePassed)),
                // The result came between the timer and here. It is taken out of the table before it is sent, so there
                // may be a moment to wait.
                None => (&mut self.result).await,
            },
        };
        result.expect("whoever takes a call out of the table sends its result")
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.connection.withdraw(self.id);
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
