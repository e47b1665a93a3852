//! The peers' wire: calls between nodes over framed TCP. It knows nothing of Raft; the layers above give it a method
//! number and bytes.
//!
//! ```text
//! Peers ── one Connection per (node, lane) ──▶ handshake, frames ──▶ serve ── one task per request ──▶ Handler
//! ```
//! What it promises:
//! - **It never resends.** Each call is written at most once, on one connection.
//! - **[`CallError`] tells the truth about sending**: `NotSent` means that no byte of the request left this node, so
//!   trying again elsewhere is safe; `Lost` means that the request may have been carried out.
//! - **An answer belongs to its call.** Call ids and the table of waiting calls live and die with a connection, so
//!   nothing an old connection still delivers can answer a call of a new one.
//! - **Everything has a limit and a deadline**: dials, handshakes, calls, queues, bodies, requests in flight.
//! - **Lanes do not wait for each other**: each is a connection of its own, and within one, requests are written, and
//!   handed to the handler, in the order in which they were called.
//!
//! [`dial`] is the seam to the network, [`handshake`] says who may talk, [`frame`] is the byte format, `stream` moves
//! frames, `connection` and [`peers`] are the calling side, [`server`] the answering one.

use crate::wire_enum;

mod connection;
pub mod dial;
pub mod frame;
pub mod handshake;
mod meters;
pub mod peers;
pub mod server;
mod stream;

pub use connection::{CallError, Lost, NotSent, Reply};
pub use handshake::{Gatekeeper, HandshakeError, Hello, PROTOCOL, Refusal, Remote};
pub use meters::PeerMeters;
pub use peers::{AddressBook, PeerStatus, Peers};
pub use server::{Failure, Handler, Incoming, serve};
pub use stream::Ending;

/// What a connection is for. Each lane to a peer is a TCP connection of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Heartbeats, votes, read-index queries: small, urgent, never behind anything else.
    Control,
    /// Log entries and clients' requests.
    Data,
    /// Snapshots and other large transfers.
    Bulk,
}
wire_enum!(Lane { 1 => Control, 2 => Data, 3 => Bulk });

impl Lane {
    pub const ALL: [Self; 3] = [Self::Control, Self::Data, Self::Bulk];

    /// Calls that wait on one connection, not yet written.
    pub const fn queued_calls_max(self) -> usize {
        match self {
            Self::Control => 8192,
            Self::Data => 2048,
            Self::Bulk => 64,
        }
    }

    /// Bytes of the bodies of those calls. A body of the greatest length always fits an empty queue.
    pub const fn queued_bytes_max(self) -> usize {
        64 << 20
    }

    /// Calls of one connection that are queued or wait for their answer.
    pub const fn calls_max(self) -> usize {
        match self {
            Self::Control => 16384,
            Self::Data => 8192,
            Self::Bulk => 128,
        }
    }

    /// Requests of one connection that the answering side works on, or whose answers wait to be written. With so many
    /// it reads no further ones. High for control, where a full table would hold a heartbeat back.
    pub const fn handled_requests_max(self) -> usize {
        match self {
            Self::Control => 8192,
            Self::Data => 1024,
            Self::Bulk => 16,
        }
    }

    /// Bytes of the bodies of those requests and answers; one body may go beyond it.
    pub const fn handled_bytes_max(self) -> usize {
        64 << 20
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
