//! A network with somebody in it who understands HTTP: it passes requests on to the nodes and answers back, but for what
//! a [`Lie`] changes. So lies that a server could tell are told without one that tells them.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use raft_tests::client::Client;
use raft_tests::http::Reply;
use ringraft::transport::dial::{BoxedIo, Listener, Net};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::Mutex;

const BUFFER_BYTES: usize = 1 << 16;
/// Longer than any client waits.
const LIMIT: Duration = Duration::from_secs(30);

/// A request on its way.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

pub(super) trait Lie: Send + Sync + 'static {
    /// Before it is passed on. An answer here means that it is not.
    fn request(&self, _asked: &mut Asked) -> Option<Reply> {
        None
    }

    fn reply(&self, _asked: &Asked, reply: Reply) -> Reply {
        reply
    }
}

pub(super) struct Liar {
    pub(super) net: Arc<dyn Net>,
    pub(super) lie: Arc<dyn Lie>,
}

impl Net for Liar {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxedIo>> {
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        let client = Client::over(Arc::clone(&self.net), address);
        tokio::spawn(serve(far, client, Arc::clone(&self.lie)));
        async move { Ok(Box::new(near) as BoxedIo) }.boxed()
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.net.listen(address)
    }
}

async fn serve(far: DuplexStream, client: Client, lie: Arc<dyn Lie>) {
    let client = Mutex::new(client);
    let answer = service_fn(async |request: Request<hyper::body::Incoming>| {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let target = head.uri.path_and_query().unwrap().to_string();
        let mut asked = Asked { method: head.method, target, headers: head.headers, body };
        let reply = match lie.request(&mut asked) {
            Some(reply) => reply,
            None => {
                let Asked { method, target, headers, body } = asked.clone();
                let sent = client.lock().await.send_with(method, &target, headers, body, LIMIT).await;
                sent.map_err(|trouble| io::Error::other(format!("{trouble:?}")))?
            }
        };
        let Reply { status, mut headers, body } = lie.reply(&asked, reply);
        headers.remove("content-length");
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status.try_into().unwrap();
        *response.headers_mut() = headers;
        Ok::<_, io::Error>(response)
    });
    // However it ends, the client sees its end of it.
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), answer).await);
}
