//! The handshake that opens every connection: who is there, and may the two talk at all.
//!
//! ```text
//! dialler                                listener
//!    │ ── Hello ───────────────────────────▶ │  the listener's rules
//!    │ ◀──────── Welcome(Hello) | Refused ── │
//!    │ ── Accepted | Refused ──────────────▶ │  the dialler's rules
//!    │ ══ frames ══════════════════════════▶ │
//! ```
//! Either end may refuse, and the other is told why. No request leaves the dialler and none is handled by the listener
//! before both have accepted, so a refused call certainly was not sent.
//!
//! Each message is `magic (8) ‖ length (u32) ‖ crc32c of the payload (u32) ‖ payload`. Frozen for every protocol
//! version, so that versions without a common one can still tell each other so: this envelope, the range of versions
//! at the start of a hello, the tags of [`Answer`] and [`Verdict`], and the tags of [`Refusal`]. A hello may grow at
//! its end; a reader ignores what follows the fields it knows.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Lane;
use super::dial::Io;
use crate::types::{ClusterId, NodeId, ProtocolRange, StoreId};
use crate::wire::{Wire, WireError};
use crate::{wire_enum, wire_struct};

/// The protocol versions this release speaks.
pub const PROTOCOL: ProtocolRange = ProtocolRange { min: 1, max: 1 };

/// Longest payload of a handshake message, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;
const MAGIC: [u8; 8] = *b"ringraft";
const ENVELOPE_BYTES: usize = MAGIC.len() + 4 + 4;

/// What a node says of itself on every connection, in both directions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    pub versions: ProtocolRange,
    /// What the dialler wants the connection for; the listener repeats it.
    pub lane: Lane,
    /// None while the node belongs to no cluster.
    pub cluster: Option<ClusterId>,
    /// None until the catalog has given it one.
    pub node: Option<NodeId>,
    pub store: StoreId,
    /// How many times this data directory was opened: of two addresses heard for a node, the one with the higher
    /// counter is newer.
    pub start_counter: u64,
    /// `host:port` at which other nodes reach this one.
    pub peer_address: String,
    /// `host:port` at which clients reach it.
    pub http_address: String,
    /// The sender's at this moment.
    pub catalog_version: u64,
    /// Over the Raft timing that must be the same in the whole cluster.
    pub timing_hash: u64,
}
wire_struct!(Hello {
    versions,
    lane,
    cluster,
    node,
    store,
    start_counter,
    peer_address,
    http_address,
    catalog_version,
    timing_hash,
});

impl Hello {
    /// The rules no node is free to relax; a [`Gatekeeper`] adds its own. `self` is this node, `theirs` the other.
    pub fn accepts(&self, theirs: &Hello) -> Result<(), Refusal> {
        if self.versions.common(theirs.versions).is_none() {
            return Err(Refusal::NoCommonVersion { refuser: self.versions, refused: theirs.versions });
        }
        if let (Some(refuser), Some(refused)) = (self.cluster, theirs.cluster)
            && refuser != refused
        {
            return Err(Refusal::WrongCluster { refuser, refused });
        }
        if self.store == theirs.store {
            return Err(Refusal::SameStore { store: self.store });
        }
        if let Some(node) = self.node
            && theirs.node == Some(node)
        {
            return Err(Refusal::NodeIdTaken { node });
        }
        let both_identified = self.is_member() && theirs.is_member();
        if both_identified && self.timing_hash != theirs.timing_hash {
            return Err(Refusal::TimingDiffers { refuser: self.timing_hash, refused: theirs.timing_hash });
        }
        Ok(())
    }

    /// Belongs to a cluster and has its id there.
    pub fn is_member(&self) -> bool {
        self.cluster.is_some() && self.node.is_some()
    }
}

/// Why one end will not talk to the other. It goes over the wire, into the dialler's typed error and both logs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("no common protocol version: the refusing node speaks {refuser}, the refused one {refused}")]
    NoCommonVersion { refuser: ProtocolRange, refused: ProtocolRange },
    #[error("wrong cluster: the refusing node belongs to {refuser}, the refused one to {refused}")]
    WrongCluster { refuser: ClusterId, refused: ClusterId },
    #[error(
        "Raft timing differs (hash {refuser:016x} on the refusing node, {refused:016x} on the refused one): heartbeat and \
         election times must be configured alike on every node of a cluster"
    )]
    TimingDiffers { refuser: u64, refused: u64 },
    #[error("wrong node: node {expected} was dialled, and {} answered", match .found {
        Some(node) => format!("node {node}"),
        None => "a node without an id".to_string(),
    })]
    WrongNode { expected: NodeId, found: Option<NodeId> },
    #[error("both ends say they are node {node}, with different data directories")]
    NodeIdTaken { node: NodeId },
    #[error("both ends have the store id {store}: a node dialled itself, or a data directory was copied")]
    SameStore { store: StoreId },
    #[error("node {node} is known with store {known}, not {found}")]
    WrongStore { node: NodeId, known: StoreId, found: StoreId },
    #[error("node {node} was heard with start counter {known}; {found} is an earlier start of it")]
    StaleStart { node: NodeId, known: u64, found: u64 },
    #[error("node {node} was removed from the cluster")]
    Removed { node: NodeId },
    /// Also for every reason a later release adds that this protocol version has no tag for.
    #[error("{why}")]
    Other { why: String },
}
wire_enum!(Refusal {
    1 => NoCommonVersion { refuser, refused },
    2 => WrongCluster { refuser, refused },
    3 => TimingDiffers { refuser, refused },
    4 => WrongNode { expected, found },
    5 => NodeIdTaken { node },
    6 => SameStore { store },
    7 => WrongStore { node, known, found },
    8 => StaleStart { node, known, found },
    9 => Removed { node },
    10 => Other { why },
});

/// The node's side of handshakes. Called from connections' tasks: quick, and never blocking.
pub trait Gatekeeper: Send + Sync + 'static {
    /// What this node says of itself now.
    fn hello(&self, lane: Lane) -> Hello;
    /// The node's own rules, after [`Hello::accepts`].
    fn check(&self, remote: &Hello) -> Result<(), Refusal>;
    /// A handshake succeeded in both directions: the place to learn addresses, and that a peer is reachable again.
    fn heard(&self, remote: &Hello);
    /// The version of the catalog this node has now. Read for every frame.
    fn catalog_version(&self) -> u64;
    /// A frame told of a newer catalog than [`Self::catalog_version`]. Called for every such frame until this node has
    /// caught up, so that a failed attempt to fetch it is followed by another cause to try.
    fn heard_catalog_version(&self, remote: &Hello, version: u64);
}

/// The other end of an open connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    pub hello: Hello,
    /// The protocol version of this connection: the highest that both speak.
    pub version: u16,
    /// Where the connection comes from (accepted) or was dialled to.
    pub address: String,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the other end refused: {0}")]
    RefusedByRemote(Refusal),
    #[error("refused the other end: {0}")]
    RefusedRemote(Refusal),
    #[error("the other end is not a Ringraft peer: it sent {}", .start.escape_ascii())]
    NotAPeer { start: [u8; 8] },
    #[error("a handshake message of {bytes} bytes is longer than {MESSAGE_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("a handshake message is damaged: its checksum does not match")]
    Damaged,
    #[error("a handshake message cannot be read: {0}")]
    Malformed(#[from] WireError),
    #[error("the listener answered for the lane {found:?} instead of {dialled:?}")]
    OtherLane { dialled: Lane, found: Lane },
    #[error("the connection broke in the handshake: {0}")]
    Broken(String),
}

impl HandshakeError {
    /// The refusal behind it, whichever end spoke it.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::RefusedByRemote(refusal) | Self::RefusedRemote(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// The listener's message.
#[derive(PartialEq, Debug)]
enum Answer {
    /// A hello, encoded, because it may be longer than this release knows.
    Welcome(Bytes),
    Refused(Refusal),
}
wire_enum!(Answer { 1 => Welcome(hello), 2 => Refused(refusal) });

/// The dialler's last message.
#[derive(PartialEq, Debug)]
enum Verdict {
    Accepted,
    Refused(Refusal),
}
wire_enum!(Verdict { 1 => Accepted, 2 => Refused(refusal) });

/// Opens a connection that was dialled. With `expected`, nobody but that node is accepted at the other end.
pub(super) async fn dialled(
    io: &mut dyn Io,
    keeper: &dyn Gatekeeper,
    lane: Lane,
    expected: Option<NodeId>,
    address: &str,
) -> Result<Remote, HandshakeError> {
    let ours = keeper.hello(lane);
    send(io, &ours).await?;
    let theirs = match Answer::from_bytes(receive(io).await?)? {
        Answer::Welcome(hello) => hello,
        Answer::Refused(refusal) => return Err(HandshakeError::RefusedByRemote(refusal)),
    };
    let judged = judge(theirs, &ours, keeper)?.and_then(|(hello, version)| match expected {
        Some(expected) if hello.node != Some(expected) => Err(Refusal::WrongNode { expected, found: hello.node }),
        _ => Ok((hello, version)),
    });
    match judged {
        Ok((hello, _)) if hello.lane != lane => Err(HandshakeError::OtherLane { dialled: lane, found: hello.lane }),
        Ok((hello, version)) => {
            send(io, &Verdict::Accepted).await?;
            keeper.heard(&hello);
            Ok(Remote { hello, version, address: address.to_string() })
        }
        Err(refusal) => {
            // Whether or not it can still be told, the refusal is what happened.
            let _ = send(io, &Verdict::Refused(refusal.clone())).await;
            Err(HandshakeError::RefusedRemote(refusal))
        }
    }
}

/// Opens a connection that was accepted.
pub(super) async fn accepted(
    io: &mut dyn Io,
    keeper: &dyn Gatekeeper,
    address: &str,
) -> Result<Remote, HandshakeError> {
    let payload = receive(io).await?;
    // The lane is not known before the hello is read, and the hello not read before the versions are compared.
    let ours = keeper.hello(Lane::Control);
    let (hello, version) = match judge(payload, &ours, keeper)? {
        Ok(judged) => judged,
        Err(refusal) => {
            let _ = send(io, &Answer::Refused(refusal.clone())).await;
            return Err(HandshakeError::RefusedRemote(refusal));
        }
    };
    send(io, &Answer::Welcome(Hello { lane: hello.lane, ..ours }.to_bytes())).await?;
    match Verdict::from_bytes(receive(io).await?)? {
        Verdict::Accepted => {
            keeper.heard(&hello);
            Ok(Remote { hello, version, address: address.to_string() })
        }
        Verdict::Refused(refusal) => Err(HandshakeError::RefusedByRemote(refusal)),
    }
}

/// Reads the other end's hello and applies all rules to it. Without a common version nothing but the versions is read.
fn judge(
    payload: Bytes,
    ours: &Hello,
    keeper: &dyn Gatekeeper,
) -> Result<Result<(Hello, u16), Refusal>, HandshakeError> {
    let versions = ProtocolRange::decode(&mut payload.clone())?;
    let Some(version) = ours.versions.common(versions) else {
        return Ok(Err(Refusal::NoCommonVersion { refuser: ours.versions, refused: versions }));
    };
    let hello = Hello::decode(&mut payload.clone())?;
    let judged = ours.accepts(&hello).and_then(|()| keeper.check(&hello));
    Ok(judged.map(|()| (hello, version)))
}

async fn send(io: &mut dyn Io, message: &impl Wire) -> Result<(), HandshakeError> {
    io.write_all(&sealed(&message.to_bytes())).await.map_err(broken)?;
    io.flush().await.map_err(broken)
}

fn sealed(payload: &[u8]) -> BytesMut {
    assert!(payload.len() <= MESSAGE_BYTES_MAX, "a handshake message of {} bytes", payload.len());
    let mut out = BytesMut::with_capacity(ENVELOPE_BYTES + payload.len());
    out.extend_from_slice(&MAGIC);
    u32::try_from(payload.len()).expect("MESSAGE_BYTES_MAX fits 32 bits").encode(&mut out);
    crc32c::crc32c(payload).encode(&mut out);
    out.extend_from_slice(payload);
    out
}

/// Reads one message and not a byte more, because frames follow.
async fn receive(io: &mut dyn Io) -> Result<Bytes, HandshakeError> {
    let mut start = [0; MAGIC.len()];
    io.read_exact(&mut start).await.map_err(broken)?;
    if start != MAGIC {
        return Err(HandshakeError::NotAPeer { start });
    }
    let bytes = io.read_u32().await.map_err(broken)? as usize;
    if bytes > MESSAGE_BYTES_MAX {
        return Err(HandshakeError::TooLong { bytes });
    }
    let crc = io.read_u32().await.map_err(broken)?;
    let mut payload = vec![0; bytes];
    io.read_exact(&mut payload).await.map_err(broken)?;
    if crc32c::crc32c(&payload) != crc {
        return Err(HandshakeError::Damaged);
    }
    Ok(payload.into())
}

fn broken(error: std::io::Error) -> HandshakeError {
    HandshakeError::Broken(error.to_string())
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
