//! Frames over the two halves of an open connection: the same for both ends.
//!
//! Each end sends something at least every [`KEEPALIVE_INTERVAL`], and gives the connection up after [`SILENCE_MAX`]
//! without a byte from the other. A peer that vanished is so noticed in seconds; TCP alone would take a quarter of an
//! hour, and after a healed partition keep the old connection waiting in its backoff. The keepalives are not answers:
//! an end that for a while does not read (`server` does that to hold a busy dialler back) is still seen to be alive.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::frame::{CallId, Frame, FrameError, Kind};
use crate::clock::{self, Moment};

/// Longest time an end sends nothing.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Time without a byte from the other end after which it is taken for dead.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Time from the first byte of a frame to its last. It ends a connection on which a damaged length asks for megabytes
/// that only keepalives would ever fill.
pub(super) const FRAME_TIME_MAX: Duration = Duration::from_secs(30);

/// Frames that wait together are written together, up to this many bytes and one frame more.
pub(super) const COALESCED_BYTES_MAX: usize = 64 << 10;
/// A write buffer that grew beyond this for a long frame is given back afterwards.
const KEPT_BUFFER_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 64 << 10;

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    #[error("the other end closed the connection")]
    Closed,
    #[error("{0}")]
    Broken(String),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("nothing was heard for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("nothing could be written for {} ms", .0.as_millis())]
    Stuck(Duration),
    #[error("a frame was not complete after {} ms", .0.as_millis())]
    Stalled(Duration),
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("this node closed the connection")]
    ShutDown,
}

impl Ending {
    fn from_io(error: &io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Reads frames. Cancel-safe: what was read stays in the buffer when [`Self::next`] is dropped.
pub(super) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    heard: Moment,
    /// When the frame at the head of the buffer began to be waited for.
    frame_begun: Option<Moment>,
    silence_max: Duration,
    frame_time_max: Duration,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(io: R) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            heard: clock::now(),
            frame_begun: None,
            silence_max: SILENCE_MAX,
            frame_time_max: FRAME_TIME_MAX,
        }
    }

    /// To be called after a time of not reading, which says nothing of the other end.
    pub(super) fn resume(&mut self) {
        self.heard = clock::now();
        self.frame_begun = self.frame_begun.map(|_| self.heard);
    }

    /// The next frame that is not a keepalive.
    pub(super) async fn next(&mut self) -> Result<Frame, Ending> {
        loop {
            while let Some(frame) = Frame::take(&mut self.buffer)? {
                self.frame_begun = None;
                if frame.kind != Kind::Keepalive {
                    return Ok(frame);
                }
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Ending> {
        if !self.buffer.is_empty() {
            let begun = *self.frame_begun.get_or_insert(self.heard);
            let waited = clock::now().since(begun);
            if waited >= self.frame_time_max {
                return Err(Ending::Stalled(waited));
            }
        }
        // Not for the whole frame at once: a length is only believed as its bytes arrive.
        self.buffer.reserve(READ_BYTES);
        let left = self.silence_max.saturating_sub(clock::now().since(self.heard));
        // The read is tried before the timer, so bytes that are there always count, however late this task runs.
        match timeout(left, self.io.read_buf(&mut self.buffer)).await {
            Err(_) => Err(Ending::Silent(self.silence_max)),
            Ok(Err(error)) => Err(Ending::from_io(&error)),
            Ok(Ok(0)) => Err(Ending::Closed),
            Ok(Ok(_)) => {
                self.heard = clock::now();
                Ok(())
            }
        }
    }
}

/// Where a writer finds the frames to write.
pub(super) trait Source {
    /// Encodes waiting frames into the empty `buffer`, in order, until it holds [`COALESCED_BYTES_MAX`] or none is left.
    fn fill(&self, buffer: &mut BytesMut);
    /// Notified after frames were added.
    fn added(&self) -> &Notify;
}

/// Writes what the source has until the connection fails. With `stuck_max`, a write that makes no progress for so long
/// is a failure. The dialler sets none: its writes wait while a busy listener does not read, and a dead one is noticed
/// by its silence.
pub(super) async fn write_frames(
    mut io: impl AsyncWrite + Unpin,
    source: &impl Source,
    stuck_max: Option<Duration>,
) -> Ending {
    let mut buffer = BytesMut::new();
    let mut written = clock::now();
    loop {
        source.fill(&mut buffer);
        if buffer.is_empty() {
            // What is added may be gone again before it is written: only bytes count.
            let quiet = clock::now().since(written);
            if timeout(KEEPALIVE_INTERVAL.saturating_sub(quiet), source.added().notified()).await.is_ok() {
                continue;
            }
            Frame::bare(Kind::Keepalive, CallId(0)).encode(&mut buffer);
        }
        if let Err(ending) = write_whole(&mut io, &mut buffer, stuck_max).await {
            return ending;
        }
        written = clock::now();
        if buffer.capacity() > KEPT_BUFFER_BYTES_MAX {
            buffer = BytesMut::new();
        }
    }
}

async fn write_whole(
    io: &mut (impl AsyncWrite + Unpin),
    buffer: &mut BytesMut,
    stuck_max: Option<Duration>,
) -> Result<(), Ending> {
    while !buffer.is_empty() {
        let written = within(stuck_max, io.write_buf(buffer)).await?;
        if written == 0 {
            return Err(Ending::Closed);
        }
    }
    within(stuck_max, io.flush()).await
}

async fn within<T>(limit: Option<Duration>, step: impl Future<Output = io::Result<T>>) -> Result<T, Ending> {
    let done = match limit {
        None => step.await,
        Some(limit) => timeout(limit, step).await.map_err(|_| Ending::Stuck(limit))?,
    };
    done.map_err(|error| Ending::from_io(&error))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use tokio::io::duplex;

    use super::*;
    use crate::transport::testing::PATIENCE;

    fn request(call: u64, body: &[u8]) -> Frame {
        Frame { body: Bytes::copy_from_slice(body), ..Frame::bare(Kind::Request, CallId(call)) }
    }

    /// Counts how often it was asked, to tell coalesced writes from single ones.
    #[derive(Default)]
    struct Frames {
        waiting: Mutex<Vec<Frame>>,
        filled: Mutex<Vec<usize>>,
        added: Notify,
    }

    impl Source for Frames {
        fn fill(&self, buffer: &mut BytesMut) {
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
            waiting.iter().for_each(|frame| frame.encode(buffer));
            if !waiting.is_empty() {
                self.filled.lock().unwrap().push(waiting.len());
            }
        }
        fn added(&self) -> &Notify {
            &self.added
        }
    }

    #[tokio::test]
    async fn frames_that_wait_together_go_in_one_write() {
        let (near, far) = duplex(1 << 20);
        let source = Frames::default();
        *source.waiting.lock().unwrap() = (1..=50).map(|call| request(call, b"body")).collect();
        let mut reader = FrameReader::new(far);
        let read_all = async {
            for call in 1..=50 {
                assert_eq!(reader.next().await.unwrap(), request(call, b"body"));
            }
        };
        tokio::select! {
            ending = write_frames(near, &source, None) => panic!("{ending}"),
            () = read_all => {}
        }
        assert_eq!(*source.filled.lock().unwrap(), [50]);
    }

    #[tokio::test]
    async fn an_idle_writer_keeps_the_connection_alive_and_its_keepalives_are_not_seen() {
        let (near, far) = duplex(1 << 20);
        let source = Frames::default();
        // Silence would be noticed after 1.5 intervals, the frame comes after two. Meanwhile the writer is told again
        // and again of frames that are not there.
        let mut reader = FrameReader::new(far);
        reader.silence_max = KEEPALIVE_INTERVAL * 3 / 2;
        let later = async {
            for _ in 0..20 {
                tokio::time::sleep(KEEPALIVE_INTERVAL / 10).await;
                source.added.notify_one();
            }
            source.waiting.lock().unwrap().push(request(9, b""));
            source.added.notify_one();
            std::future::pending::<()>().await;
        };
        let frame = tokio::select! {
            ending = write_frames(near, &source, None) => panic!("{ending}"),
            () = later => unreachable!(),
            frame = reader.next() => frame,
        };
        assert_eq!(frame, Ok(request(9, b"")));
    }

    #[tokio::test]
    async fn silence_ends_a_connection_and_a_resumed_reader_waits_anew() {
        let (_near, far) = duplex(64);
        let silence = Duration::from_millis(60);
        let mut reader = FrameReader::new(far);
        reader.silence_max = silence;
        let begun = clock::now();
        assert_eq!(timeout(PATIENCE, reader.next()).await, Ok(Err(Ending::Silent(silence))));
        assert!(clock::now().since(begun) >= silence);
        reader.resume();
        let resumed = clock::now();
        assert_eq!(timeout(PATIENCE, reader.next()).await, Ok(Err(Ending::Silent(silence))));
        assert!(clock::now().since(resumed) >= silence);
    }

    #[tokio::test]
    async fn a_write_without_progress_ends_a_connection() {
        let (near, _far) = duplex(64);
        let source = Frames::default();
        source.waiting.lock().unwrap().push(request(1, &[0; 1000]));
        let stuck = Duration::from_millis(30);
        assert_eq!(write_frames(near, &source, Some(stuck)).await, Ending::Stuck(stuck));
    }

    #[tokio::test]
    async fn a_frame_that_never_ends_ends_the_connection_though_bytes_go_on_coming() {
        let (mut near, far) = duplex(4096);
        let mut reader = FrameReader::new(far);
        reader.frame_time_max = Duration::from_millis(60);
        let mut bytes = BytesMut::new();
        request(1, b"").encode(&mut bytes);
        // The damaged length asks for 16 MiB.
        bytes[0] = 1;
        let trickle = async {
            loop {
                near.write_all(&bytes).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::select! {
            () = trickle => unreachable!(),
            ended = timeout(PATIENCE, reader.next()) => ended.expect("it is given up"),
        };
        assert!(matches!(ended, Err(Ending::Stalled(_))), "{ended:?}");
    }

    #[tokio::test]
    async fn a_dropped_read_loses_nothing() {
        let (mut near, far) = duplex(4096);
        let mut reader = FrameReader::new(far);
        let mut bytes = BytesMut::new();
        request(1, b"whole").encode(&mut bytes);
        for byte in bytes {
            near.write_all(&[byte]).await.unwrap();
            if let Ok(frame) = timeout(Duration::from_millis(1), reader.next()).await {
                assert_eq!(frame, Ok(request(1, b"whole")));
                return;
            }
        }
        assert_eq!(reader.next().await, Ok(request(1, b"whole")));
    }
}
