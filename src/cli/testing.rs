//! A server that plays canned answers and keeps what it was sent, for the tests of the client commands.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::AbortOnDropHandle;

use super::client::Endpoint;
use crate::transport::dial::{BoxedIo, Net, TcpNet};

/// What a request is met with.
#[derive(Clone, Debug)]
pub(super) enum Canned {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// The connection ends once the request is read.
    Cut,
    /// A head of success, and less body than it says.
    CutBody,
    /// The request is read and never answered.
    Silence,
}

impl Canned {
    pub(super) fn status(status: u16) -> Self {
        Self::answer(status, &[], "")
    }

    pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect();
        Self::Answer { status, headers, body: body.as_ref().to_vec() }
    }
}

/// A problem document with further members, as JSON text.
pub(super) fn problem(status: u16, code: &str, members: &str) -> Canned {
    let separator = if members.is_empty() { "" } else { "," };
    let body = format!(r#"{{"code":"{code}","status":{status},"detail":"as canned"{separator}{members}}}"#);
    Canned::answer(status, &[("content-type", "application/problem+json")], body)
}

#[derive(Clone, Debug)]
pub(super) struct Received {
    /// Method and target as on the wire.
    pub(super) line: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Received {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// Answers its requests with the canned answers in order, the last one again and again.
pub(super) struct Server {
    endpoint: Endpoint,
    received: Arc<Mutex<Vec<Received>>>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    pub(super) async fn start(answers: impl IntoIterator<Item = Canned>) -> Self {
        let answers: Vec<Canned> = answers.into_iter().collect();
        let mut listener = TcpNet.listen("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::parse(&listener.local_address().unwrap()).unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = received.clone();
        let task = tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                tokio::spawn(serve(io, answers.clone(), kept.clone()));
            }
        });
        Self { endpoint, received, _task: AbortOnDropHandle::new(task) }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn requests(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

/// An endpoint where nobody listens.
pub(super) async fn refusing_endpoint() -> Endpoint {
    let listener = TcpNet.listen("127.0.0.1:0").await.unwrap();
    Endpoint::parse(&listener.local_address().unwrap()).unwrap()
}

async fn serve(mut io: BoxedIo, answers: Vec<Canned>, received: Arc<Mutex<Vec<Received>>>) {
    let Some(request) = read_request(&mut io).await else { return };
    let number = {
        let mut received = received.lock().unwrap();
        received.push(request);
        received.len() - 1
    };
    let written = match &answers[number.min(answers.len() - 1)] {
        Canned::Cut => return,
        Canned::Silence => return std::future::pending().await,
        Canned::CutBody => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".to_vec(),
        Canned::Answer { status, headers, body } => {
            let mut head = format!("HTTP/1.1 {status} As Canned\r\nconnection: close\r\n");
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            if *status != 204 {
                head += &format!("content-length: {}\r\n", body.len());
            }
            [head.as_bytes(), b"\r\n", body].concat()
        }
    };
    io.write_all(&written).await.unwrap();
    io.shutdown().await.unwrap();
}

/// By hand, so that the target is seen as it was on the wire. `None` for a connection that was only opened.
async fn read_request(io: &mut BoxedIo) -> Option<Received> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(position) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break position;
        }
        if io.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.lines();
    let line = lines.next()?.strip_suffix(" HTTP/1.1")?.to_string();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_string()))
        .collect();
    let mut body = bytes[head_end + 4..].to_vec();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    while body.len() < length {
        if io.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Received { line, headers, body })
}

/// Keeps what is written to it.
#[derive(Clone, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Captured {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}
