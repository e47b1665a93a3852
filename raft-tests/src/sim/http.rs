//! Single requests of a simulated client, each on a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringraft::clock;

use super::world::{HTTP_PORT, host};

/// One request on a connection of its own, from whatever simulated host calls it.
///
/// # Errors
/// When there was no answer within ten simulated seconds.
pub async fn request(node: u64, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
    let response = call(node, method, path, body).await?;
    Ok((response.status(), response.into_body()))
}

/// Like [`request`], with the answer's headers.
///
/// # Errors
/// See [`request`].
pub async fn call(node: u64, method: Method, path: &str, body: Bytes) -> Result<Response<Bytes>, String> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let asked = async {
        let stream = turmoil::net::TcpStream::connect((host(node), HTTP_PORT)).await.map_err(|error| text(&error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
        tokio::spawn(connection);
        let is_post = method == Method::POST;
        let mut request = Request::builder().method(method).uri(path).header("host", "ringraft");
        if is_post {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| text(&error))?;
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| text(&error))?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    tokio::time::timeout(TIMEOUT, asked).await.map_err(|error| text(&error))?
}

/// Asks until the answer is as wanted, for at most a simulated minute.
///
/// # Errors
/// The last answer, when it never was.
pub async fn until(node: u64, path: &str, wanted: impl Fn(StatusCode, &[u8]) -> bool) -> Result<(), String> {
    const PAUSE: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(60);
    let begun = clock::now();
    let mut last = String::new();
    while clock::now().since(begun) < PATIENCE {
        match request(node, Method::GET, path, Bytes::new()).await {
            Ok((status, body)) if wanted(status, &body) => return Ok(()),
            Ok((status, body)) => last = format!("{status} {}", String::from_utf8_lossy(&body)),
            Err(error) => last = error,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("n{node} {path}: not as wanted after a minute: {last}"))
}

/// Until a node says that it serves everything.
///
/// # Errors
/// See [`until`].
pub async fn until_ready(node: u64) -> Result<(), String> {
    until(node, "/readyz?verbose", |status, _| status == StatusCode::OK).await
}
