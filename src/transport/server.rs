//! The answering side: accepts connections and runs each request on a task of its own.
//!
//! Held to limits: connections of the node ([`CONNECTIONS_MAX`]), requests and bytes in flight of a connection
//! ([`Lane::handled_requests_max`], [`Lane::handled_bytes_max`]). A request holds its place until its answer is in the
//! write buffer. With all places taken the connection is not read, which in the end holds the dialler back; deadlines
//! free places however stuck the handlers are. Lanes are connections of their own, so control is never behind data.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::io::AsyncRead;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Lane;
use super::connection::HANDSHAKE_TIME_MAX;
use super::dial::{BoxedIo, Listener};
use super::frame::{BODY_BYTES_MAX, CallId, Frame, Kind};
use super::handshake::{self, Gatekeeper, Remote};
use super::stream::{COALESCED_BYTES_MAX, Ending, FrameReader, Source, write_frames};
use crate::clock::{self, Moment};

/// Connections of all peers together. One more is closed at once.
pub const CONNECTIONS_MAX: usize = 1024;
/// Pause after a failed accept, such as for want of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A write without progress for so long means that the dialler is gone: one that lives always reads.
pub const WRITE_STUCK_MAX: Duration = Duration::from_secs(10);

/// A request as the handler gets it.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub remote: Arc<Remote>,
    pub lane: Lane,
    pub method: u8,
    pub body: Bytes,
    /// When the caller stops to wait, on this node's clock.
    pub deadline: Moment,
}

/// An error of the handler. What status and body mean is between the handler and its callers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub status: u8,
    pub body: Bytes,
}

pub trait Handler: Send + Sync + 'static {
    /// Handles one request.
    ///
    /// The function itself is called in the order of arrival, on the connection's task: it may put the request into a
    /// queue that must keep that order, and never blocks. The future runs on a task of its own, together with others. It
    /// is dropped when the caller gives up, at the deadline, when the connection ends and at shutdown, so work that must
    /// not stop half-way is given to a task with another owner.
    fn handle(&self, call: Incoming) -> BoxFuture<'static, Result<Bytes, Failure>>;
}

/// Serves peers until `shutdown`, then ends all connections and handlers, and returns when all their tasks are over.
pub async fn serve(
    mut listener: Box<dyn Listener>,
    keeper: Arc<dyn Gatekeeper>,
    handler: Arc<dyn Handler>,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((_, address)) if connections.len() >= CONNECTIONS_MAX => {
                tracing::warn!(address, limit = CONNECTIONS_MAX, "closing a connection: there are too many");
            }
            Ok((io, address)) => {
                let (keeper, handler) = (Arc::clone(&keeper), Arc::clone(&handler));
                connections.spawn(run(io, address, keeper, handler, shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a peer's connection failed");
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn run(
    mut io: BoxedIo,
    address: String,
    keeper: Arc<dyn Gatekeeper>,
    handler: Arc<dyn Handler>,
    shutdown: CancellationToken,
) {
    let shaken = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        shaken = timeout(HANDSHAKE_TIME_MAX, handshake::accepted(&mut *io, keeper.as_ref(), &address)) => shaken,
    };
    let remote = match shaken {
        Ok(Ok(remote)) => Arc::new(remote),
        Ok(Err(error)) => return tracing::warn!(address, %error, "handshake failed"),
        Err(_) => return tracing::warn!(address, "handshake not done in time"),
    };
    let lane = remote.hello.lane;
    tracing::debug!(address, ?lane, node = ?remote.hello.node, "peer connected");
    let (read, write) = tokio::io::split(io);
    let answers = Answers::default();
    let mut requests = Requests {
        remote,
        keeper: keeper.as_ref(),
        handler: handler.as_ref(),
        answers: &answers,
        running: JoinSet::new(),
        by_task: HashMap::new(),
        by_call: HashMap::new(),
        running_bytes: 0,
    };
    // Not biased: a flood of requests must not keep the writer from its turn.
    let ending = tokio::select! {
        () = shutdown.cancelled() => Ending::ShutDown,
        ending = requests.serve(FrameReader::new(read)) => ending,
        ending = write_frames(write, &answers, Some(WRITE_STUCK_MAX)) => ending,
    };
    requests.running.shutdown().await;
    match &ending {
        Ending::ShutDown | Ending::Closed => tracing::debug!(address, ?lane, %ending, "peer's connection ended"),
        Ending::Frame(_) | Ending::Protocol(_) => {
            tracing::error!(address, ?lane, %ending, "peer's connection given up");
        }
        _ => tracing::info!(address, ?lane, %ending, "peer's connection lost"),
    }
}

/// Answers that wait to be written.
#[derive(Default)]
struct Answers {
    waiting: Mutex<Waiting>,
    added: Notify,
    /// Notified when answers went to the write buffer, which may have made room for requests.
    taken: Notify,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Answers {
    fn add(&self, frame: Frame) {
        let mut waiting = self.lock();
        waiting.bytes += frame.body.len();
        waiting.frames.push_back(frame);
        drop(waiting);
        self.added.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics while it holds the answers")
    }
}

impl Source for Answers {
    fn fill(&self, buffer: &mut BytesMut) {
        while buffer.len() < COALESCED_BYTES_MAX {
            let mut waiting = self.lock();
            let Some(frame) = waiting.frames.pop_front() else { break };
            waiting.bytes -= frame.body.len();
            drop(waiting);
            frame.encode(buffer);
        }
        if !buffer.is_empty() {
            self.taken.notify_one();
        }
    }

    fn added(&self) -> &Notify {
        &self.added
    }
}

/// The requests of one connection that are being handled.
///
/// Invariant: `running`, `by_task` and `by_call` hold the same requests, and `running_bytes` is the sum of their bodies.
struct Requests<'a> {
    remote: Arc<Remote>,
    keeper: &'a dyn Gatekeeper,
    handler: &'a dyn Handler,
    answers: &'a Answers,
    running: JoinSet<Option<Result<Bytes, Failure>>>,
    by_task: HashMap<tokio::task::Id, (CallId, usize)>,
    by_call: HashMap<CallId, AbortHandle>,
    running_bytes: usize,
}

type Done = Result<(tokio::task::Id, Option<Result<Bytes, Failure>>), tokio::task::JoinError>;

impl Requests<'_> {
    async fn serve(&mut self, mut reader: FrameReader<impl AsyncRead + Unpin>) -> Ending {
        let mut reading = true;
        loop {
            let room = self.has_room();
            if room && !reading {
                reader.resume();
            }
            reading = room;
            tokio::select! {
                biased;
                Some(done) = self.running.join_next_with_id(), if !self.running.is_empty() => self.finish(done),
                () = self.answers.taken.notified(), if !room => {}
                frame = reader.next(), if room => {
                    if let Err(ending) = frame.and_then(|frame| self.take(frame)) {
                        return ending;
                    }
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        let lane = self.remote.hello.lane;
        let waiting = self.answers.lock();
        self.running.len() + waiting.frames.len() < lane.handled_requests_max()
            && self.running_bytes + waiting.bytes < lane.handled_bytes_max()
    }

    fn take(&mut self, frame: Frame) -> Result<(), Ending> {
        if frame.catalog_version > self.keeper.catalog_version() {
            self.keeper.heard_catalog_version(&self.remote.hello, frame.catalog_version);
        }
        match frame.kind {
            Kind::Request => self.start(frame),
            Kind::Cancel => {
                // Its answer may have crossed the cancel.
                if let Some(task) = self.by_call.get(&frame.call) {
                    task.abort();
                }
                Ok(())
            }
            Kind::Answer | Kind::Failure | Kind::Dropped | Kind::Keepalive => {
                Err(Ending::Protocol("a frame that only the listener sends came from the dialler"))
            }
        }
    }

    fn start(&mut self, frame: Frame) -> Result<(), Ending> {
        if self.by_call.contains_key(&frame.call) {
            return Err(Ending::Protocol("a call id came twice"));
        }
        let bytes = frame.body.len();
        let remaining = Duration::from_millis(frame.remaining_ms.into());
        let handling = self.handler.handle(Incoming {
            remote: Arc::clone(&self.remote),
            lane: self.remote.hello.lane,
            method: frame.method,
            body: frame.body,
            deadline: clock::now().after(remaining),
        });
        let task = self.running.spawn(async move { timeout(remaining, handling).await.ok() });
        self.by_task.insert(task.id(), (frame.call, bytes));
        self.by_call.insert(frame.call, task);
        self.running_bytes += bytes;
        Ok(())
    }

    fn finish(&mut self, done: Done) {
        let task = match &done {
            Ok((task, _)) => *task,
            Err(error) => error.id(),
        };
        let (call, bytes) = self.by_task.remove(&task).expect("every task that runs is in the table");
        self.by_call.remove(&call);
        self.running_bytes -= bytes;
        let result = match done {
            Ok((_, result)) => result,
            // Cancelled: nobody waits for an answer.
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                tracing::error!(%error, node = ?self.remote.hello.node, "a handler died");
                None
            }
        };
        let mut frame = Frame::bare(Kind::Dropped, call);
        frame.catalog_version = self.keeper.catalog_version();
        match result {
            Some(Ok(body)) => (frame.kind, frame.body) = (Kind::Answer, body),
            Some(Err(failure)) => {
                (frame.kind, frame.status, frame.body) = (Kind::Failure, failure.status, failure.body);
            }
            None => {}
        }
        if frame.body.len() > BODY_BYTES_MAX {
            let bytes = frame.body.len();
            tracing::error!(bytes, limit = BODY_BYTES_MAX, "a handler's answer is too long to be sent");
            frame = Frame { kind: Kind::Dropped, status: 0, body: Bytes::new(), ..frame };
        }
        self.answers.add(frame);
    }
}
