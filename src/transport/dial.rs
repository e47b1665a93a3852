//! How this process opens and accepts connections: one of the few seams. Production uses [`TcpNet`]; a simulation
//! supplies a network of its own, so that the whole server runs in it. Used by the peers' wire and by the HTTP server.
//!
//! Nothing here waits with a limit of its own: whoever dials or accepts puts a deadline around it.

use std::io;
use std::net::SocketAddr;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A stream of bytes in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

pub type BoxedIo = Box<dyn Io>;

pub trait Net: Send + Sync + 'static {
    /// Connects to `host:port`. A name is resolved at every dial, because a peer's address may change while its name
    /// stays.
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedIo>>;

    /// Listens on `host:port`; port 0 takes a free one.
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
}

pub trait Listener: Send + 'static {
    /// The next connection and the address it comes from. Dropping the future loses no connection.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedIo, String)>>;

    /// `host:port` as bound, with the port that was taken for port 0.
    fn local_address(&self) -> io::Result<String>;
}

/// The operating system's TCP. TCP_NODELAY on every connection, both ways: the writers of frames do their own
/// coalescing, and Nagle's algorithm would add a delayed acknowledgement to every small call.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNet;

/// Connections that the system takes for us before they are accepted. With a short one, many that come at the same moment
/// wait a second for their next attempt.
const BACKLOG: u32 = 4096;

impl Net for TcpNet {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedIo>> {
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxedIo)
        }
        .boxed()
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        async move {
            let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in tokio::net::lookup_host(address).await? {
                match bind(address) {
                    Ok(listener) => return Ok(Box::new(Tcp(listener)) as Box<dyn Listener>),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        }
        .boxed()
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted node takes its port again while connections of the one before are still going down.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

struct Tcp(TcpListener);

impl Listener for Tcp {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedIo, String)>> {
        async move {
            let (stream, remote) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxedIo, remote.to_string()))
        }
        .boxed()
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_dialled_name_reaches_the_listener_and_bytes_go_both_ways() {
        let mut listener = TcpNet.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address().unwrap();
        let port = address.rsplit(':').next().unwrap();
        let name = format!("localhost:{port}");
        let mut near = TcpNet.dial(&name).await.expect("localhost has an address, as in every /etc/hosts");
        let (mut far, remote) = listener.accept().await.unwrap();
        assert!(remote.starts_with("127.0.0.1:"), "{remote}");
        near.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        far.read_exact(&mut heard).await.unwrap();
        far.write_all(&heard).await.unwrap();
        near.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
    }

    #[tokio::test]
    async fn a_dial_to_nobody_is_an_error() {
        let listener = TcpNet.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address().unwrap();
        drop(listener);
        assert_eq!(TcpNet.dial(&address).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    }
}
