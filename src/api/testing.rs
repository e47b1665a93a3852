//! A network in memory and a client that writes and reads plain bytes, for the tests of the server and of the node.
//!
//! Unlike a socket, a connection here holds very little of what nobody reads ([`PIPE_BYTES`]), so that a client that does
//! not read is one at once.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::mpsc;

use crate::transport::dial::{BoxedIo, Listener, Net};

/// Longest time a test waits for something that should happen soon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at something that is waited for.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// What a connection holds, each way, that the other end has not read.
const PIPE_BYTES: usize = 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 16;

/// Listeners by name. Dialling one that is gone is refused.
#[derive(Clone, Default)]
pub(crate) struct MemoryNet {
    listeners: Arc<Mutex<HashMap<String, mpsc::Sender<BoxedIo>>>>,
}

impl Net for MemoryNet {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedIo>> {
        let listener = self.listeners.lock().unwrap().get(address).cloned();
        async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let (near, far) = duplex(PIPE_BYTES);
            listener.ok_or_else(refused)?.send(Box::new(far)).await.map_err(|_| refused())?;
            Ok(Box::new(near) as BoxedIo)
        }
        .boxed()
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        let (sender, connections) = mpsc::channel(BACKLOG);
        self.listeners.lock().unwrap().insert(address.to_string(), sender);
        let listener = MemoryListener { address: address.to_string(), connections };
        async move { Ok(Box::new(listener) as Box<dyn Listener>) }.boxed()
    }
}

struct MemoryListener {
    address: String,
    connections: mpsc::Receiver<BoxedIo>,
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxedIo, String)>> {
        async move {
            match self.connections.recv().await {
                Some(io) => Ok((io, "client".to_string())),
                // Another listener took the name over.
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}

/// One connection of a client.
pub(crate) struct Client {
    io: BoxedIo,
    /// Read, and not yet taken.
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

impl Client {
    pub(crate) async fn connect(net: &MemoryNet, address: &str) -> io::Result<Self> {
        Ok(Self { io: net.dial(address).await?, buffer: Vec::new() })
    }

    /// Once somebody listens.
    pub(crate) async fn connect_soon(net: &MemoryNet, address: &str) -> Self {
        soon("a connection", async {
            loop {
                match Self::connect(net, address).await {
                    Ok(client) => return client,
                    Err(_) => tokio::time::sleep(POLL).await,
                }
            }
        })
        .await
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        soon("the sending", self.io.write_all(bytes.as_ref())).await
    }

    pub(crate) async fn call(&mut self, method: &str, target: &str) -> Reply {
        let length = if method == "PUT" { "content-length: 0\r\n" } else { "" };
        self.send(format!("{method} {target} HTTP/1.1\r\nhost: x\r\n{length}\r\n")).await.expect("the server reads on");
        self.reply().await
    }

    pub(crate) async fn get(&mut self, target: &str) -> Reply {
        self.call("GET", target).await
    }

    /// The next answer. One of status 1xx is an answer of its own.
    pub(crate) async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("the connection ended in the middle of an answer")
    }

    /// None when the connection ends before the answer does.
    pub(crate) async fn try_reply(&mut self) -> Option<Reply> {
        soon("an answer", async {
            let end = loop {
                if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                    break at + 4;
                }
                self.read_more().await?;
            };
            let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
            while self.buffer.len() < end + length {
                self.read_more().await?;
            }
            let rest = self.buffer.split_off(end + length);
            let body = std::mem::replace(&mut self.buffer, rest).split_off(end);
            Some(Reply { status, head, body })
        })
        .await
    }

    /// Waits until the server has closed the connection; what it said before.
    pub(crate) async fn end(mut self) -> Vec<u8> {
        soon("the end of the connection", async {
            while self.read_more().await.is_some() {}
            self.buffer
        })
        .await
    }

    async fn read_more(&mut self) -> Option<()> {
        let read = self.io.read_buf(&mut self.buffer).await;
        (read.ok()? > 0).then_some(())
    }
}

/// What comes of it, within the patience of a test.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not come within {PATIENCE:?}"),
    }
}
