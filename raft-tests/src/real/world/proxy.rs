//! The world without root: nodes on loopback that dial each other through a proxy in the runner.
//!
//! A node advertises its proxy's address. The proxy reads the hello that opens each connection, which names the dialler
//! by the address that it advertises itself, so that every connection has two [`Way`]s, each spoiled for itself. What a
//! cut way holds back is delivered when it is mended, as TCP would send it again; the end of a connection, too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use ringraft::clock::{self, Moment};
use ringraft::transport::Hello;
use ringraft::wire::Wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Kind, Spoil, Way, Weather};

/// Magic, length and checksum of the message that opens a connection (`transport::handshake`).
const ENVELOPE_BYTES: usize = 8 + 4 + 4;
const HELLO_BYTES_MAX: usize = 4096;
const HELLO_LIMIT: Duration = Duration::from_secs(3);
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks on their way in one direction of a connection. A sender beyond it is held up, as by a full window.
const CHUNKS_MAX: usize = 64;

/// What stands on a way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Rule {
    cut: bool,
    delay: Duration,
    bytes_per_second: Option<u64>,
    reset_every: Option<Duration>,
}

#[derive(Default)]
struct Met {
    cut: AtomicU64,
    delay: AtomicU64,
    slow: AtomicU64,
    reset: AtomicU64,
}

impl Met {
    fn count(&self, kind: Kind) -> Option<&AtomicU64> {
        match kind {
            Kind::Cut => Some(&self.cut),
            Kind::Delay => Some(&self.delay),
            Kind::Slow => Some(&self.slow),
            Kind::Reset => Some(&self.reset),
            Kind::Loss => None,
        }
    }
}

struct WayState {
    rule: watch::Sender<Rule>,
    met: Met,
}

type Ways = Arc<BTreeMap<Way, WayState>>;

/// Ends with its last connection when it is dropped.
pub(super) struct Proxy {
    ways: Ways,
    addresses: Vec<String>,
    _accepting: Vec<AbortOnDropHandle<()>>,
    stop: CancellationToken,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Proxy {
    /// `peers`: where each node's peers' listener is.
    #[expect(clippy::disallowed_methods, reason = "it listens on the machine that runs the test")]
    pub(super) async fn start(peers: &[String]) -> Result<Self, String> {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for _ in peers {
            let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| format!("the proxy: {error}"))?;
            addresses.push(listener.local_addr().map_err(|error| format!("the proxy: {error}"))?.to_string());
            listeners.push(listener);
        }
        // A node that asks its seeds dials itself, too.
        let places = 0..peers.len();
        let ways = places.clone().flat_map(|from| places.clone().map(move |to| Way { from, to }));
        let state = || WayState { rule: watch::Sender::new(Rule::default()), met: Met::default() };
        let ways: Ways = Arc::new(ways.map(|way| (way, state())).collect());
        let stop = CancellationToken::new();
        let known: Arc<[String]> = addresses.clone().into();
        let accepting = listeners.into_iter().zip(peers).enumerate().map(|(to, (listener, peer))| {
            let link = Link { to, peer: peer.clone(), known: Arc::clone(&known), ways: Arc::clone(&ways) };
            AbortOnDropHandle::new(tokio::spawn(accept(listener, link, stop.clone())))
        });
        let accepting = accepting.collect();
        Ok(Self { ways, addresses, _accepting: accepting, stop })
    }

    /// What each node advertises.
    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub(super) fn apply(&self, weather: &Weather) {
        for (way, state) in self.ways.iter() {
            let mut rule = Rule::default();
            for kind in [Kind::Cut, Kind::Reset, Kind::Slow, Kind::Delay] {
                match weather.get(&(*way, kind)) {
                    Some(Spoil::Cut) => rule.cut = true,
                    Some(Spoil::Reset { every_ms, .. }) => rule.reset_every = Some(Duration::from_millis(*every_ms)),
                    Some(Spoil::Slow { kbit }) => rule.bytes_per_second = Some(u64::from(*kbit) * 1000 / 8),
                    Some(Spoil::Delay { ms }) => rule.delay = Duration::from_millis(*ms),
                    Some(Spoil::Loss { .. }) | None => {}
                }
            }
            state.rule.send_if_modified(|standing| {
                let changed = *standing != rule;
                *standing = rule;
                changed
            });
        }
    }

    pub(super) fn met(&self, way: Way, kind: Kind) -> u64 {
        let count = self.ways.get(&way).and_then(|state| state.met.count(kind));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// To one node.
#[derive(Clone)]
struct Link {
    to: usize,
    peer: String,
    known: Arc<[String]>,
    ways: Ways,
}

async fn accept(listener: TcpListener, link: Link, stop: CancellationToken) {
    // An error is one connection's: the next one may be well.
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (link, stop) = (link.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // What is wrong with a connection shows at its ends.
                _ = carry(stream, link) => {}
            }
        });
    }
}

/// One connection, from its hello to its end.
#[expect(clippy::disallowed_methods, reason = "the nodes are processes of this machine")]
async fn carry(mut dialler: TcpStream, link: Link) -> Option<()> {
    dialler.set_nodelay(true).ok()?;
    let (hello, address) = tokio::time::timeout(HELLO_LIMIT, read_hello(&mut dialler)).await.ok()??;
    let from = link.known.iter().position(|known| *known == address)?;
    let there = Way { from, to: link.to };
    let back = Way { from: link.to, to: from };
    let (there, back) = (link.ways.get(&there)?, link.ways.get(&back)?);
    // A first packet that is dropped makes no connection.
    until_open(there).await;
    let listener = TcpStream::connect(&link.peer).await.ok()?;
    listener.set_nodelay(true).ok()?;
    let (mut near_read, mut near_write) = dialler.into_split();
    let (mut far_read, mut far_write) = listener.into_split();
    let reset = tokio::select! {
        reset = until_reset(there) => reset,
        reset = until_reset(back) => reset,
        () = async { tokio::join!(
            pump(&mut near_read, &mut far_write, there, hello),
            pump(&mut far_read, &mut near_write, back, Bytes::new()),
        ); } => return Some(()),
    };
    // Closed with no time to linger, and without an orderly end first, both ends are told of a reset.
    let _ = (near_read.as_ref().set_zero_linger(), far_read.as_ref().set_zero_linger());
    near_write.forget();
    far_write.forget();
    reset.met.reset.fetch_add(1, Ordering::Relaxed);
    Some(())
}

/// The bytes of a hello as they came, and the address that the dialler gives for itself.
async fn read_hello(stream: &mut TcpStream) -> Option<(Bytes, String)> {
    let mut bytes = BytesMut::zeroed(ENVELOPE_BYTES);
    stream.read_exact(&mut bytes).await.ok()?;
    let length = usize::try_from((&bytes[8..12]).get_u32()).ok().filter(|length| *length <= HELLO_BYTES_MAX)?;
    bytes.resize(ENVELOPE_BYTES + length, 0);
    stream.read_exact(&mut bytes[ENVELOPE_BYTES..]).await.ok()?;
    let bytes = bytes.freeze();
    let hello = Hello::decode(&mut bytes.slice(ENVELOPE_BYTES..)).ok()?;
    Some((bytes, hello.peer_address))
}

async fn until_open(way: &WayState) {
    let mut rule = way.rule.subscribe();
    if rule.borrow().cut {
        way.met.cut.fetch_add(1, Ordering::Relaxed);
    }
    // The sender lives as long as the ways.
    let _ = rule.wait_for(|rule| !rule.cut).await;
}

/// Returns when the connection is to be reset.
async fn until_reset(way: &WayState) -> &WayState {
    let mut rule = way.rule.subscribe();
    loop {
        let every = rule.borrow_and_update().reset_every;
        match every {
            Some(every) => {
                tokio::select! {
                    () = tokio::time::sleep(every) => return way,
                    _ = rule.changed() => {}
                }
            }
            None => {
                if rule.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// Carries one direction until its end has been delivered.
async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, way: &WayState, first: Bytes) {
    let (sender, mut chunks) = mpsc::channel::<(Moment, Bytes)>(CHUNKS_MAX);
    let read = async {
        let mut next = Some(first).filter(|first| !first.is_empty());
        loop {
            let chunk = match next.take() {
                Some(chunk) => chunk,
                None => {
                    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
                    match from.read_buf(&mut chunk).await {
                        Ok(0) | Err(_) => break,
                        Ok(_) => chunk.freeze(),
                    }
                }
            };
            let delay = way.rule.borrow().delay;
            if !delay.is_zero() {
                way.met.delay.fetch_add(1, Ordering::Relaxed);
            }
            if sender.send((clock::now().after(delay), chunk)).await.is_err() {
                break;
            }
        }
        drop(sender);
    };
    let write = async {
        let mut broken = false;
        while let Some((due, chunk)) = chunks.recv().await {
            tokio::time::sleep(due.since(clock::now())).await;
            until_open(way).await;
            let rate = way.rule.borrow().bytes_per_second;
            if let Some(bytes_per_second) = rate {
                way.met.slow.fetch_add(1, Ordering::Relaxed);
                #[expect(clippy::cast_precision_loss, reason = "a chunk's share of a second")]
                let seconds = chunk.len() as f64 / bytes_per_second as f64;
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            }
            // What nobody takes is still read, until the sender has learned of it.
            broken = broken || to.write_all(&chunk).await.is_err();
        }
        until_open(way).await;
        // It may be gone already.
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use ringraft::transport::{Lane, PROTOCOL};
    use ringraft::types::StoreId;

    use super::*;

    /// Long enough for anything that is going to happen here.
    const LIMIT: Duration = Duration::from_secs(10);

    fn hello(address: &str) -> Vec<u8> {
        let hello = Hello {
            versions: PROTOCOL,
            lane: Lane::Control,
            cluster: None,
            node: None,
            store: StoreId(1),
            start_counter: 1,
            peer_address: address.to_string(),
            http_address: String::new(),
            catalog_version: 0,
            timing_hash: 0,
        };
        let payload = hello.to_bytes();
        let mut message = b"ringraft".to_vec();
        message.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        message.extend(0_u32.to_be_bytes());
        message.extend(&payload);
        message
    }

    struct Pair {
        proxy: Proxy,
        near: TcpStream,
        far: TcpStream,
        _listeners: Vec<TcpListener>,
    }

    const THERE: Way = Way { from: 0, to: 1 };

    /// A connection that node 0 has dialled to node 1, its hello arrived.
    #[expect(clippy::disallowed_methods)]
    async fn pair() -> Pair {
        let mut listeners = Vec::new();
        for _ in 0..2 {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let peers: Vec<String> = listeners.iter().map(|one| one.local_addr().unwrap().to_string()).collect();
        let proxy = Proxy::start(&peers).await.unwrap();
        let mut near = TcpStream::connect(&proxy.addresses()[1]).await.unwrap();
        let message = hello(&proxy.addresses()[0]);
        near.write_all(&message).await.unwrap();
        let (mut far, _) = listeners[1].accept().await.unwrap();
        let mut heard = vec![0; message.len()];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, message, "the hello is passed on as it came");
        Pair { proxy, near, far, _listeners: listeners }
    }

    fn weather(spoil: Spoil) -> Weather {
        Weather::from([((THERE, spoil.kind()), spoil)])
    }

    async fn until(check: impl Fn() -> bool) {
        let met = async {
            while !check() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, met).await.unwrap();
    }

    #[tokio::test]
    async fn a_cut_way_holds_its_bytes_back_until_it_is_mended_and_the_other_way_goes_on() {
        let mut pair = pair().await;
        pair.proxy.apply(&weather(Spoil::Cut));
        pair.near.write_all(b"held").await.unwrap();
        until(|| pair.proxy.met(THERE, Kind::Cut) > 0).await;
        pair.far.write_all(b"back").await.unwrap();
        let mut heard = [0; 4];
        pair.near.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"back");
        assert!(pair.far.try_read(&mut heard).is_err(), "nothing came through");
        pair.proxy.apply(&Weather::new());
        pair.far.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"held");
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_not_heard_of_over_a_cut_way() {
        let mut pair = pair().await;
        pair.proxy.apply(&weather(Spoil::Cut));
        drop(pair.near);
        until(|| pair.proxy.met(THERE, Kind::Cut) > 0).await;
        assert!(pair.far.try_read(&mut [0; 4]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        pair.proxy.apply(&Weather::new());
        assert_eq!(pair.far.read(&mut [0; 4]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_reset_is_one_at_both_ends() {
        let mut pair = pair().await;
        pair.proxy.apply(&weather(Spoil::Reset { permille: 0, every_ms: 1 }));
        for end in [&mut pair.near, &mut pair.far] {
            let read = tokio::time::timeout(LIMIT, end.read(&mut [0; 4])).await.unwrap();
            assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert_eq!(pair.proxy.met(THERE, Kind::Reset), 1);
    }

    #[tokio::test]
    async fn a_delay_and_a_slow_way_take_their_time() {
        let mut pair = pair().await;
        for spoil in [Spoil::Delay { ms: 100 }, Spoil::Slow { kbit: 8 }] {
            pair.proxy.apply(&weather(spoil));
            let began = clock::now();
            pair.near.write_all(&[7; 100]).await.unwrap();
            pair.far.read_exact(&mut [0; 100]).await.unwrap();
            assert!(clock::now().since(began) >= Duration::from_millis(95), "{spoil:?}");
            assert!(pair.proxy.met(THERE, spoil.kind()) > 0);
        }
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods)]
    async fn a_dialler_that_is_no_node_is_not_let_through() {
        let pair = pair().await;
        let mut stranger = TcpStream::connect(&pair.proxy.addresses()[1]).await.unwrap();
        stranger.write_all(&hello("127.0.0.1:1")).await.unwrap();
        let read = tokio::time::timeout(LIMIT, stranger.read(&mut [0; 4])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)));
    }
}
