//! A cluster of one process for the tests: it keeps keys, can be made to stall, and counts what it was sent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::super::args::{Args, Command};
use super::super::client::Endpoint;
use super::args::Settings;
use crate::transport::dial::{Net, TcpNet};

/// The settings of `ringraft bench LINE`.
pub(super) fn settings(line: &str) -> Settings {
    let line = ["ringraft", "bench"].into_iter().chain(line.split_whitespace());
    let Command::Bench(args) = Args::try_parse_from(line).unwrap().command else { panic!("it is no other command") };
    Settings::from_args(&args).unwrap()
}

#[derive(Default)]
struct State {
    rows: BTreeMap<String, Bytes>,
    revision: u64,
    connections: usize,
    /// Requests for keys of a run, by method.
    requests: BTreeMap<String, u64>,
    /// What keys' requests are answered with instead.
    refusal: Option<(u16, Value)>,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    stalled: watch::Receiver<bool>,
    endpoint: Endpoint,
}

pub(super) struct Fake {
    shared: Shared,
    stall: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Fake {
    pub(super) async fn start() -> Self {
        let mut listener = TcpNet.listen("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::parse(&listener.local_address().unwrap()).unwrap();
        let (stall, stalled) = watch::channel(false);
        let shared = Shared { state: Arc::default(), stalled, endpoint };
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let shared = serving.clone();
                shared.state().connections += 1;
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let shared = shared.clone();
                        async move { Ok::<_, Infallible>(shared.answer(request).await) }
                    });
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
                });
            }
        });
        Self { shared, stall, _task: AbortOnDropHandle::new(task) }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.shared.endpoint.clone()
    }

    /// Answers nothing for so long.
    pub(super) async fn stall(&self, time: Duration) {
        self.stall.send(true).unwrap();
        tokio::time::sleep(time).await;
        self.stall.send(false).unwrap();
    }

    pub(super) fn put(&self, key: &str, value: &str) {
        self.shared.state().rows.insert(key.to_string(), Bytes::copy_from_slice(value.as_bytes()));
    }

    /// Answers every request for a run's key with this problem.
    pub(super) fn refuse(&self, status: u16, problem: Value) {
        self.shared.state().refusal = Some((status, problem));
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.shared.state().rows.keys().cloned().collect()
    }

    pub(super) fn value(&self, key: &str) -> Option<Bytes> {
        self.shared.state().rows.get(key).cloned()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.state().connections
    }

    pub(super) fn requests(&self, method: &str) -> u64 {
        self.shared.state().requests.get(method).copied().unwrap_or(0)
    }
}

fn answer(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn problem(status: u16, code: &str) -> Response<Full<Bytes>> {
    answer(status, json!({ "code": code, "outcome": "not_applied" }).to_string())
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn answer(&self, request: hyper::Request<Incoming>) -> Response<Full<Bytes>> {
        self.stalled.clone().wait_for(|stalled| !stalled).await.unwrap();
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = head.uri.path();
        if path == "/v1/shardmap" {
            let range = json!({ "first": "0000000000000000", "last": "ffffffffffffffff" });
            let shards = json!([{ "id": "1", "range": range, "leader_http": self.endpoint.authority() }]);
            return answer(200, json!({ "shards": shards }).to_string());
        }
        if path == "/v1/kv" {
            return self.scan(head.uri.query().unwrap_or_default());
        }
        let key = percent_decode_str(path.strip_prefix("/v1/kv/").unwrap()).decode_utf8().unwrap().into_owned();
        let state = &mut *self.state();
        if key.ends_with(|last: char| last.is_ascii_digit()) {
            *state.requests.entry(head.method.to_string()).or_default() += 1;
            if let Some((status, problem)) = &state.refusal {
                return answer(*status, problem.to_string());
            }
        }
        match head.method {
            Method::PUT => {
                if head.headers.contains_key("if-none-match") && state.rows.contains_key(&key) {
                    return problem(412, "revision-mismatch");
                }
                state.revision += 1;
                state.rows.insert(key, body);
                let mut response = answer(204, "");
                let etag = format!("\"{:016x}\"", state.revision);
                response.headers_mut().insert("etag", etag.parse().unwrap());
                response
            }
            Method::GET => match state.rows.get(&key) {
                Some(value) => {
                    let mut response = answer(200, value.clone());
                    let etag = format!("\"{:016x}\"", state.revision);
                    response.headers_mut().insert("etag", etag.parse().unwrap());
                    response
                }
                None => problem(404, "key-not-found"),
            },
            _ => {
                state.rows.remove(&key);
                answer(204, "")
            }
        }
    }

    fn scan(&self, query: &str) -> Response<Full<Bytes>> {
        let pairs: BTreeMap<&str, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name, percent_decode_str(value).decode_utf8().unwrap().into_owned()))
            .collect();
        let limit: usize = pairs["limit"].parse().unwrap();
        let after = pairs.get("cursor").cloned().unwrap_or_default();
        let state = self.state();
        let keys: Vec<&String> = state
            .rows
            .keys()
            .filter(|key| key.starts_with(&pairs["prefix"]) && **key > after)
            .take(limit + 1)
            .collect();
        let items: Vec<Value> = keys.iter().take(limit).map(|key| json!({ "key": key })).collect();
        let mut page = json!({ "items": items });
        if keys.len() > limit {
            page["next_cursor"] = json!(keys[limit - 1]);
        }
        answer(200, page.to_string())
    }
}
