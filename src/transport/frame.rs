//! The frames that go over an open connection, after the handshake.
//!
//! | offset | bytes | field             | meaning                                                                   |
//! |-------:|------:|-------------------|---------------------------------------------------------------------------|
//! |      0 |     4 | length            | bytes that follow this field, 27 up to [`FRAME_BYTES_MAX`]                |
//! |      4 |     4 | crc32c            | of everything after this field                                            |
//! |      8 |     1 | kind              | [`Kind`]                                                                  |
//! |      9 |     8 | call id           | drawn by the dialler, unique within the connection; 0 in a keepalive      |
//! |     17 |     4 | remaining time    | milliseconds the caller still waits (requests; else 0)                    |
//! |     21 |     8 | catalog version   | the sender's, in requests and in every kind of answer (else 0)            |
//! |     29 |     1 | method            | what is asked (requests; else 0)                                          |
//! |     30 |     1 | status            | the handler's error (failures; else 0)                                    |
//! |     31 |     … | body              | up to [`BODY_BYTES_MAX`]                                                  |
//!
//! Integers are big-endian. The length is not under the checksum, but a wrong one makes the checksum fail.
//! After any [`FrameError`] the stream has no known frame boundary left, so the connection is closed.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest body of a frame, in bytes: 16 MiB of payload and 64 KiB for what its method puts around it.
pub const BODY_BYTES_MAX: usize = (16 << 20) + (64 << 10);
/// Longest frame, in bytes, as its length field counts it.
pub const FRAME_BYTES_MAX: usize = AFTER_LENGTH_BYTES + BODY_BYTES_MAX;

/// A body shorter than this is copied out of the read buffer. A slice would keep the whole buffer alive for as long as
/// the body lives, and bodies of entries live long.
const COPIED_BODY_BYTES_MAX: usize = 64 << 10;

const LENGTH_BYTES: usize = 4;
const CRC_BYTES: usize = 4;
const FIELDS_BYTES: usize = 1 + 8 + 4 + 8 + 1 + 1;
const AFTER_LENGTH_BYTES: usize = CRC_BYTES + FIELDS_BYTES;
const _: () = assert!(AFTER_LENGTH_BYTES == 27 && FRAME_BYTES_MAX < u32::MAX as usize);

/// One call within one connection. A new connection counts anew, and has its own table of calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(super) struct CallId(pub(super) u64);

/// Tags are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// Dialler to listener: handle this.
    Request = 1,
    /// Listener to dialler: the handler's answer.
    Answer = 2,
    /// Listener to dialler: the handler's error, told by status and body.
    Failure = 3,
    /// Listener to dialler: the handler ended without an answer (its deadline passed, or it died).
    Dropped = 4,
    /// Dialler to listener: nobody waits for this call any more.
    Cancel = 5,
    /// Either way, when there was nothing else to send for a while: this end is alive.
    Keepalive = 6,
}

impl Kind {
    fn from_tag(tag: u8) -> Option<Self> {
        [Self::Request, Self::Answer, Self::Failure, Self::Dropped, Self::Cancel, Self::Keepalive]
            .into_iter()
            .find(|kind| *kind as u8 == tag)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) call: CallId,
    pub(super) remaining_ms: u32,
    pub(super) catalog_version: u64,
    pub(super) method: u8,
    pub(super) status: u8,
    pub(super) body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {length} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong { length: usize },
    #[error("a frame of {length} bytes is shorter than a frame can be")]
    TooShort { length: usize },
    #[error("a frame is damaged: its checksum is {computed:08x}, it says {stated:08x}")]
    Damaged { stated: u32, computed: u32 },
    #[error("a frame has the unknown kind {tag}")]
    UnknownKind { tag: u8 },
}

impl Frame {
    /// A frame of this kind with everything else zero.
    pub(super) fn bare(kind: Kind, call: CallId) -> Self {
        Self { kind, call, remaining_ms: 0, catalog_version: 0, method: 0, status: 0, body: Bytes::new() }
    }

    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// When the body is longer than [`BODY_BYTES_MAX`], which both ends check before they queue a frame.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        assert!(self.body.len() <= BODY_BYTES_MAX, "a body of {} bytes was queued", self.body.len());
        out.reserve(LENGTH_BYTES + AFTER_LENGTH_BYTES + self.body.len());
        let length = AFTER_LENGTH_BYTES + self.body.len();
        out.put_u32(u32::try_from(length).expect("FRAME_BYTES_MAX fits 32 bits"));
        let crc_at = out.len();
        out.put_u32(0);
        let covered_at = out.len();
        out.put_u8(self.kind as u8);
        out.put_u64(self.call.0);
        out.put_u32(self.remaining_ms);
        out.put_u64(self.catalog_version);
        out.put_u8(self.method);
        out.put_u8(self.status);
        out.put_slice(&self.body);
        let crc = crc32c::crc32c(&out[covered_at..]);
        out[crc_at..covered_at].copy_from_slice(&crc.to_be_bytes());
    }

    /// Takes the first frame off `buffer`; `None` when it is not there whole yet. An impossible length is refused as
    /// soon as it is seen, before anything is gathered for it.
    pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(stated) = buffer.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*stated) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { length });
        }
        if length < AFTER_LENGTH_BYTES {
            return Err(FrameError::TooShort { length });
        }
        if buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        buffer.advance(LENGTH_BYTES);
        Self::parse(buffer.split_to(length)).map(Some)
    }

    /// `bytes`: what follows the length field, at least [`AFTER_LENGTH_BYTES`].
    fn parse(mut bytes: BytesMut) -> Result<Self, FrameError> {
        let stated = bytes.get_u32();
        let computed = crc32c::crc32c(&bytes);
        if stated != computed {
            return Err(FrameError::Damaged { stated, computed });
        }
        let tag = bytes.get_u8();
        let kind = Kind::from_tag(tag).ok_or(FrameError::UnknownKind { tag })?;
        let call = CallId(bytes.get_u64());
        let remaining_ms = bytes.get_u32();
        let catalog_version = bytes.get_u64();
        let method = bytes.get_u8();
        let status = bytes.get_u8();
        let body = if bytes.len() < COPIED_BODY_BYTES_MAX { Bytes::copy_from_slice(&bytes) } else { bytes.freeze() };
        Ok(Self { kind, call, remaining_ms, catalog_version, method, status, body })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Wire, WireError, golden};

    /// Frames are decoded from a stream; this is for the golden file alone.
    impl Wire for Frame {
        fn encode(&self, out: &mut BytesMut) {
            Frame::encode(self, out);
        }
        fn decode(input: &mut Bytes) -> Result<Self, WireError> {
            let mut buffer = BytesMut::from(&input[..]);
            let frame = Frame::take(&mut buffer)
                .map_err(|error| WireError::Invalid { what: "frame", why: error.to_string() })?
                .ok_or(WireError::Short { missing: 1 })?;
            *input = buffer.freeze();
            Ok(frame)
        }
    }

    fn request() -> Frame {
        Frame {
            kind: Kind::Request,
            call: CallId(7),
            remaining_ms: 1500,
            catalog_version: 42,
            method: 3,
            status: 0,
            body: Bytes::from_static(b"body"),
        }
    }

    fn encoded(frame: &Frame) -> BytesMut {
        let mut out = BytesMut::new();
        Frame::encode(frame, &mut out);
        out
    }

    #[test]
    fn the_layout_is_pinned() {
        let answer = Frame { kind: Kind::Answer, remaining_ms: 0, method: 0, ..request() };
        let failure = Frame { kind: Kind::Failure, status: 9, ..answer.clone() };
        let dropped = Frame { catalog_version: 42, ..Frame::bare(Kind::Dropped, CallId(u64::MAX)) };
        let cancel = Frame::bare(Kind::Cancel, CallId(7));
        let keepalive = Frame::bare(Kind::Keepalive, CallId(0));
        let frames = [request(), answer, failure, dropped, cancel, keepalive];
        let pinned = |tag| frames.iter().any(|frame| frame.kind as u8 == tag);
        assert!((0..=u8::MAX).all(|tag| Kind::from_tag(tag).is_some() == pinned(tag)), "a kind is not pinned");
        golden::check("transport_frame", &frames);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = encoded(&request());
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // A longer length makes the frame wait for bytes; the next frame's bytes then fail the checksum.
            damaged.extend_from_slice(&vec![0; FRAME_BYTES_MAX.min(64 << 10)]);
            match Frame::take(&mut damaged) {
                Err(_) => {}
                Ok(None) => assert!(bit < 32, "bit {bit} is outside the length, yet the frame is not refused"),
                Ok(Some(frame)) => panic!("bit {bit} flipped gave {frame:?}"),
            }
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_by_its_four_bytes() {
        let mut longest = BytesMut::from(&(FRAME_BYTES_MAX as u32).to_be_bytes()[..]);
        assert_eq!(Frame::take(&mut longest), Ok(None));
        let mut longer = BytesMut::from(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes()[..]);
        assert_eq!(Frame::take(&mut longer), Err(FrameError::TooLong { length: FRAME_BYTES_MAX + 1 }));
    }

    #[test]
    fn an_unknown_kind_is_refused_by_name() {
        let mut bytes = encoded(&request());
        bytes[8] = 99;
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(Frame::take(&mut bytes), Err(FrameError::UnknownKind { tag: 99 }));
    }

    #[test]
    fn the_longest_body_goes_through() {
        let frame = Frame { body: vec![7; BODY_BYTES_MAX].into(), ..request() };
        assert_eq!(Frame::take(&mut encoded(&frame)), Ok(Some(frame)));
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let kind = (1u8..=6).prop_map(|tag| Kind::from_tag(tag).unwrap());
        let body = proptest::collection::vec(any::<u8>(), 0..300);
        (kind, any::<u64>(), any::<u32>(), any::<u64>(), any::<u8>(), any::<u8>(), body).prop_map(
            |(kind, call, remaining_ms, catalog_version, method, status, body)| Frame {
                kind,
                call: CallId(call),
                remaining_ms,
                catalog_version,
                method,
                status,
                body: body.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::take(&mut buffer) {}
        }

        /// Random bytes rarely get past the length: here both length and checksum fit them.
        #[test]
        fn random_fields_under_a_good_checksum_never_panic_the_decoder(
            covered in proptest::collection::vec(any::<u8>(), FIELDS_BYTES..200),
        ) {
            let mut buffer = BytesMut::new();
            buffer.put_u32((covered.len() + CRC_BYTES) as u32);
            buffer.put_u32(crc32c::crc32c(&covered));
            buffer.put_slice(&covered);
            match Frame::take(&mut buffer) {
                Ok(Some(frame)) => prop_assert_eq!(frame.kind as u8, covered[0]),
                other => prop_assert_eq!(other, Err(FrameError::UnknownKind { tag: covered[0] })),
            }
        }

        #[test]
        fn frames_come_out_as_they_went_in_wherever_the_stream_is_cut(
            frames in proptest::collection::vec(any_frame(), 1..8),
            step in 1usize..70,
        ) {
            let mut stream = BytesMut::new();
            for frame in &frames {
                Frame::encode(frame, &mut stream);
            }
            let (mut buffer, mut heard) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                    heard.push(frame);
                }
            }
            prop_assert_eq!(heard, frames);
            prop_assert!(buffer.is_empty());
        }
    }
}
