//! One client of a workload: it asks one node one thing after the other, and every operation is in the history before
//! its request leaves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rand::RngExt;
use rand::rngs::StdRng;
use ringraft::types::Revision;

use super::answer::{Ended, Judged, judge};
use super::{Kind, Shared, values};
use crate::client::{Client, Trouble, kv_path};
use crate::history::{Call, Expect, Mode, Request, Session};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long the server and the client give a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `?timeout=`: when the server has to have answered.
    pub(super) server: Duration,
    /// When the client gives it up, after that.
    pub(super) client: Duration,
}

/// What is to be asked, and how.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) key: String,
    pub(super) request: Request,
    /// Of a put's value.
    pub(super) padding: usize,
    pub(super) idempotency: Option<String>,
    /// Whether the node may pass it on to the leader.
    pub(super) forward: bool,
    /// A revision that a read's client knows already: then only a change is sent.
    pub(super) known: Option<Revision>,
}

impl Ask {
    pub(super) fn new(key: impl Into<String>, request: Request) -> Self {
        Self { key: key.into(), request, padding: 0, idempotency: None, forward: true, known: None }
    }

    pub(super) fn get(key: impl Into<String>, mode: Mode) -> Self {
        Self::new(key, Request::Get { mode })
    }

    fn method(&self) -> Method {
        match self.request {
            Request::Get { .. } => Method::GET,
            Request::Put { .. } => Method::PUT,
            Request::Delete { .. } => Method::DELETE,
        }
    }

    fn target(&self, limit: Duration) -> String {
        let mut target = format!("{}?timeout={}ms", kv_path(self.key.as_bytes()), limit.as_millis());
        let mode = match self.request {
            Request::Get { mode: Mode::Lease } => "&consistency=lease",
            Request::Get { mode: Mode::Stale } => "&consistency=stale",
            // The default is as much to be tested as the word for it.
            Request::Get { mode: Mode::Linearizable } | Request::Put { .. } | Request::Delete { .. } => "",
        };
        target.push_str(mode);
        if !self.forward {
            target.push_str("&forward=never");
        }
        target
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut insert = |name: HeaderName, text: String| {
            headers.insert(name, HeaderValue::try_from(text).expect("revisions and our own keys are header text"));
        };
        match self.request.expect() {
            None => {}
            Some(Expect::Revision(revision)) => insert(IF_MATCH, format!("\"{revision}\"")),
            Some(Expect::Exists) => insert(IF_MATCH, "*".to_string()),
            Some(Expect::Absent) => insert(IF_NONE_MATCH, "*".to_string()),
        }
        if let Some(known) = self.known {
            insert(IF_NONE_MATCH, format!("\"{known}\""));
        }
        if let Some(key) = &self.idempotency {
            insert(IDEMPOTENCY_KEY, format!("\"{key}\""));
        }
        headers
    }

    fn body(&self) -> Bytes {
        match &self.request {
            Request::Put { value, .. } => values::body(value, self.padding),
            Request::Get { .. } | Request::Delete { .. } => Bytes::new(),
        }
    }
}

pub(super) struct Asker {
    shared: Arc<Shared>,
    kind: Kind,
    /// Its place among the targets.
    target: usize,
    client: Client,
    session: Session,
    limits: Limits,
}

impl Asker {
    pub(super) fn new(shared: &Arc<Shared>, kind: Kind, target: usize, limits: Limits) -> Self {
        let ground = &shared.ground;
        let target = target % ground.targets.len();
        let client = Client::over(Arc::clone(&ground.net), &ground.targets[target].address);
        Self { shared: Arc::clone(shared), kind, target, client, session: ground.recorder.session(), limits }
    }

    pub(super) fn target(&self) -> usize {
        self.target
    }

    /// From now on another node is asked, over a new connection.
    pub(super) fn turn_to(&mut self, target: usize) {
        let targets = &self.shared.ground.targets;
        self.target = target % targets.len();
        self.client = Client::over(Arc::clone(&self.shared.ground.net), &targets[self.target].address);
    }

    /// Asks, records, counts.
    pub(super) async fn ask(&mut self, ask: Ask) -> Judged {
        let target = &self.shared.ground.targets[self.target];
        let call = Call {
            node: Some(target.name.clone()),
            idempotency: ask.idempotency.clone(),
            ..Call::new(&ask.key, ask.request.clone())
        };
        let running = match self.session.invoke(call) {
            Ok(running) => running,
            Err(error) => return unrecorded(&self.shared, &ask.request, &error),
        };
        let (path, headers) = (ask.target(self.limits.server), ask.headers());
        let sent = self.client.send_with(ask.method(), &path, headers, ask.body(), self.limits.client).await;
        let judged = judge(&ask.request, sent);
        let about = judged.about.clone();
        let recorded = match &judged.ended {
            Ended::Ok(answer) => running.ok(answer.clone(), about),
            Ended::Fail => running.fail(about),
            Ended::Info => running.info(about),
        };
        if let Err(error) = recorded {
            return unrecorded(&self.shared, &ask.request, &error);
        }
        self.shared.count(self.kind, &target.name, &ask.request, &judged);
        if let Some(broken) = &judged.broken_promise {
            self.shared.violated(format!("{}: {broken} (key {:?})", target.name, ask.key));
        }
        judged
    }

    /// Between two operations: a short while, and a longer one after anything but an answer, so that a cluster that cannot
    /// serve is not flooded and a client of a dead node costs little.
    pub(super) async fn rest(&self, last: &Judged, rng: &mut StdRng) {
        self.rest_for(self.shared.load.pause, last, rng).await;
    }

    pub(super) async fn rest_for(&self, usual: Duration, last: &Judged, rng: &mut StdRng) {
        let pause = match last.ended {
            Ended::Ok(_) => usual,
            Ended::Fail | Ended::Info => usual.max(self.shared.load.pause_after_refusal),
        };
        // Spread over half to one and a half of it, so that clients do not march in step.
        self.shared.pause(pause.mul_f64(rng.random_range(0.5..1.5))).await;
    }
}

/// Nobody could check what is not written down, so everything ends here.
fn unrecorded(shared: &Shared, request: &Request, error: &std::io::Error) -> Judged {
    shared.give_up(&format!("the history cannot be written: {error}"));
    judge(request, Err(Trouble::Late))
}
