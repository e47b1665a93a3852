//! Request bodies: read whole, never beyond the limit, the deadline, or the memory that all bodies share.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Call;
use super::error::{Code, Problem};
use crate::clock;

/// Bytes are counted in units of this many, because a semaphore counts in 32 bits.
pub(super) const BYTES_UNIT: usize = 1024;

/// A body with its share of the memory, given back when the request is answered.
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// Refuses what is too long before it asks for any of it, so that a client that waits for `100 Continue` is spared the
/// sending.
pub(super) async fn read<B>(call: &Call<'_>, body: &mut B) -> Result<Held, Box<Problem>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let inner = &call.context.inner;
    let limit = inner.limits.value_bytes_max;
    let has_length = call.headers.contains_key(CONTENT_LENGTH);
    if !has_length && !call.headers.contains_key(TRANSFER_ENCODING) {
        let detail =
            "a PUT needs Content-Length or chunked encoding: a body that was dropped must not become an empty value";
        return Err(Problem::new(Code::LengthRequired, detail));
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(Problem::too_large(limit));
    }
    let left = call.deadline.since(clock::now());
    match tokio::time::timeout(left, collect(&inner.bodies, body, limit)).await {
        Ok(held) => held,
        Err(_) => Err(Problem::new(Code::DeadlineExceeded, "the body did not arrive before the deadline")),
    }
}

async fn collect<B>(room: &Arc<Semaphore>, body: &mut B, limit: usize) -> Result<Held, Box<Problem>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut bytes = BytesMut::new();
    let mut share: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Problem::new(Code::BadEncoding, format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(Problem::too_large(limit));
        }
        bytes.extend_from_slice(&data);
        // Paid for as it arrives: a client that only announces a large body takes no room from others.
        let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.len().div_ceil(BYTES_UNIT).saturating_sub(held);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(room).try_acquire_many_owned(more) else {
            return Err(Problem::new(Code::Overloaded, "too many bodies are being read"));
        };
        match &mut share {
            None => share = Some(permit),
            Some(share) => share.merge(permit),
        }
    }
    Ok(Held { bytes: bytes.freeze(), _share: share })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{StreamExt, stream};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn chunks(sizes: &[usize]) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin + use<> {
        let frames: Vec<_> = sizes.iter().map(|size| Ok(Frame::data(Bytes::from(vec![7; *size])))).collect();
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn a_body_is_taken_up_to_the_limit_and_not_a_byte_further() {
        let room = Arc::new(Semaphore::new(100));
        let held = collect(&room, &mut chunks(&[10, 0, 90]), 100).await.unwrap();
        assert_eq!(held.bytes.len(), 100);
        let refused = collect(&room, &mut chunks(&[10, 91]), 100).await.err().unwrap();
        assert_eq!(refused.code, Code::TooLarge);
    }

    #[tokio::test]
    async fn the_room_for_bodies_is_shared_and_comes_back() {
        let room = Arc::new(Semaphore::new(3));
        let first = collect(&room, &mut chunks(&[1000, 1000]), 1 << 20).await.unwrap();
        assert_eq!(room.available_permits(), 1, "2000 bytes take two units");
        let refused = collect(&room, &mut chunks(&[1025]), 1 << 20).await.err().unwrap();
        assert_eq!(refused.code, Code::Overloaded);
        drop(first);
        assert!(collect(&room, &mut chunks(&[1025]), 1 << 20).await.is_ok());
        assert_eq!(room.available_permits(), 3);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_no_shorter_value() {
        let frames = vec![Ok(Frame::data(Bytes::from_static(b"half"))), Err(std::io::Error::other("reset"))];
        let room = Arc::new(Semaphore::new(3));
        let broken = collect(&room, &mut StreamBody::new(stream::iter(frames)), 100).await.err().unwrap();
        assert_eq!(broken.code, Code::BadEncoding);
    }

    #[tokio::test]
    async fn a_client_that_falls_silent_gives_its_share_back_when_it_is_given_up() {
        let first = stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"half")))]);
        let mut silent = StreamBody::new(first.chain(stream::pending()));
        let room = Arc::new(Semaphore::new(3));
        let waited = tokio::time::timeout(Duration::from_millis(20), collect(&room, &mut silent, 100)).await;
        assert!(waited.is_err());
        assert_eq!(room.available_permits(), 3);
        assert!(collect(&room, &mut Full::new(Bytes::new()), 100).await.is_ok());
    }
}
