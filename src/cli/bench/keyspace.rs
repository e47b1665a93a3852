//! The keys of a run: whose the prefix is, that they exist before they are read, and that they are gone afterwards.
//!
//! A marker under the prefix says that the keys are a run's: `running`, or `kept` by `--keep`. It is made only where
//! nothing is, by create-only and compare-and-set, so that two runs never share a prefix and no key of anybody else is
//! written over. What is removed is what has the shape of a run's key; anything else under the prefix stays and is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::future::try_join_all;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderName, IF_MATCH, IF_NONE_MATCH};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::client::{Answer, Client, Request};
use super::super::exit::Failure;
use super::super::{output, target};
use super::args::Settings;
use super::ask::{Asker, Ended};
use super::draw::{Draw, Drawn, KeyNumber, Kind};
use crate::clock;

/// Name of the marker below the prefix. No key of a run: those are digits.
const MARKER: &str = "run";
const TOOL: &str = "ringraft bench";
/// Keys written or removed at the same time.
const AT_ONCE_MAX: u32 = 64;
/// How long a key, the marker or a scan is tried again and again before the run is given up.
const KEY_PATIENCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const PAGE_KEYS: u64 = 5000;
/// Scans that look whether anything is left: a write of unknown outcome may come late.
const REMOVAL_ROUNDS_MAX: u32 = 5;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The right to write below the prefix.
pub(super) struct Claim {
    revision: String,
    /// How many of the first keys exist, from a run that kept them.
    pub(super) loaded: u64,
}

pub(super) struct Keyspace<'a> {
    pub(super) client: &'a Client,
    pub(super) asker: Arc<Asker>,
    pub(super) draw: Arc<Draw>,
    pub(super) settings: &'a Settings,
}

/// What was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Removed {
    pub(super) keys: u64,
    /// Keys under the prefix that no run made.
    pub(super) foreign: u64,
}

impl Keyspace<'_> {
    /// Makes the prefix this run's.
    pub(super) async fn claim(&self) -> Result<Claim, Failure> {
        let prefix = &self.settings.prefix;
        let look = Request::get(self.marker_target());
        let found = match self.client.send(&look).await {
            // A cluster of which nobody answers is told at once; one that answers so may do better later.
            Err(Failure::Refused(problem)) if problem.may_try_elsewhere() => self.send(&look).await,
            found => found,
        };
        let request = match found {
            Ok(found) => {
                let marker: Value = serde_json::from_slice(&found.body).unwrap_or(Value::Null);
                if marker["tool"] != TOOL {
                    return Err(self.occupied(&format!("the key {prefix}{MARKER} is not a bench's")));
                }
                if marker["state"] != "kept" && !self.settings.take_over {
                    return Err(Failure::Usage(format!(
                        "a bench runs under the prefix {prefix:?}, or was killed before it removed its keys: take another \
                         --prefix, or, when it does not run any more, --take-over"
                    )));
                }
                let revision = found.revision().unwrap_or_default().to_string();
                let loaded = if marker["state"] == "kept" { marker["keys"].as_u64().unwrap_or(0) } else { 0 };
                let request = self.marker("running", 0).header(IF_MATCH, &format!("\"{revision}\""))?;
                (request, loaded)
            }
            Err(Failure::Refused(problem)) if problem.status == 404 => {
                if !self.page(None, 1).await?.keys.is_empty() {
                    return Err(self.occupied("there are keys that no bench made"));
                }
                (self.marker("running", 0).header(IF_NONE_MATCH, "*")?, 0)
            }
            Err(failure) => return Err(failure),
        };
        let (request, loaded) = request;
        match self.send(&sent_once(request)?).await {
            Ok(answer) => Ok(Claim { revision: answer.revision().unwrap_or_default().to_string(), loaded }),
            Err(Failure::Refused(problem)) if problem.status == 412 => {
                Err(Failure::Usage(format!("another bench took the prefix {prefix:?} at this moment: take another")))
            }
            Err(failure) => Err(failure),
        }
    }

    fn occupied(&self, why: &str) -> Failure {
        let prefix = &self.settings.prefix;
        Failure::Usage(format!("the prefix {prefix:?} is not free, {why}: take another --prefix"))
    }

    /// Whether the cluster takes the longest values of this run, by writing one.
    pub(super) async fn try_longest_value(&self) -> Result<(), Failure> {
        let key = self.draw.key(KeyNumber(0));
        let value = self.draw.longest_put(KeyNumber(0)).value;
        let target = target::of_key(&key, self.client.timeout_pair().as_slice());
        self.client.send(&Request::new(Method::PUT, target).body(value)).await.map(|_| ())
    }

    /// Writes the keys from `first` on that do not exist yet. Stops early, without an error, when it is told to.
    pub(super) async fn load(&self, first: u64, stop: &CancellationToken) -> Result<u64, Failure> {
        let draw = self.draw.clone();
        let put = move |place| draw.first_put(KeyNumber(first + place));
        self.do_all(self.settings.keys.saturating_sub(first), Arc::new(put), stop).await
    }

    /// Removes the keys, and says whether anything else is there.
    pub(super) async fn remove(&self) -> Result<Removed, Failure> {
        let mut removed = Removed { keys: 0, foreign: 0 };
        // A second interrupt ends the process; the first one has already ended the run.
        let never = CancellationToken::new();
        for _ in 0..REMOVAL_ROUNDS_MAX {
            let mut cursor = None;
            let (mut own, mut foreign) = (0, 0);
            loop {
                let page = self.page(cursor.as_deref(), PAGE_KEYS).await?;
                let marker = self.marker_key();
                let others = page.keys.iter().filter(|key| !self.draw.is_own_key(key) && **key != marker);
                foreign += others.count() as u64;
                let numbers: Vec<KeyNumber> =
                    page.keys.iter().filter(|key| self.draw.is_own_key(key)).filter_map(|key| number_of(key)).collect();
                own += numbers.len() as u64;
                let count = numbers.len() as u64;
                let delete = move |place: u64| {
                    let place = usize::try_from(place).expect("a page's keys are counted by a usize");
                    Drawn { kind: Kind::Delete, key: numbers[place], value: Bytes::new() }
                };
                removed.keys += self.do_all(count, Arc::new(delete), &never).await?;
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            removed.foreign = foreign;
            if own == 0 {
                return Ok(removed);
            }
        }
        Err(Failure::Run(format!("keys under {:?} come back as they are removed", self.settings.prefix)))
    }

    /// Gives the prefix back: the keys stay for a later run, or are gone with the marker as the last.
    pub(super) async fn release(&self, claim: &Claim, kept: Option<u64>) -> Result<(), Failure> {
        let request = match kept {
            Some(keys) => self.marker("kept", keys),
            None => Request::new(Method::DELETE, self.marker_target()),
        };
        let request = request.header(IF_MATCH, &format!("\"{}\"", claim.revision))?;
        self.send(&sent_once(request)?).await.map(|_| ())
    }

    /// Sends what may be sent again, a read or what [`sent_once`] gives, until it is answered for good.
    async fn send(&self, request: &Request) -> Result<Answer, Failure> {
        let patience = clock::now().after(KEY_PATIENCE);
        loop {
            let failure = match self.client.send(request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let Some(pause) = retry_pause(&failure).filter(|_| clock::now() < patience) else { return Err(failure) };
            tokio::time::sleep(pause).await;
        }
    }

    /// So many requests, some at the same time, each until it succeeds. Returns how many did.
    async fn do_all(
        &self,
        count: u64,
        request: Arc<dyn Fn(u64) -> Drawn + Send + Sync>,
        stop: &CancellationToken,
    ) -> Result<u64, Failure> {
        let senders = self.settings.pattern.requests_at_once().clamp(1, AT_ONCE_MAX);
        let next = Arc::new(AtomicU64::new(0));
        let tasks = (0..senders).map(|seat| {
            let (asker, next, request, stop) = (self.asker.clone(), next.clone(), request.clone(), stop.clone());
            let task = tokio::spawn(async move {
                let mut seat = seat as usize;
                let mut done = 0;
                while !stop.is_cancelled() {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= count {
                        break;
                    }
                    do_one(&asker, &request(place), &mut seat).await?;
                    done += 1;
                }
                Ok::<u64, Failure>(done)
            });
            // Dropped with this call: none goes on when another has failed.
            let task = AbortOnDropHandle::new(task);
            async move { task.await.map_err(|error| Failure::Run(format!("a sender ended: {error}")))? }
        });
        Ok(try_join_all(tasks).await?.into_iter().sum())
    }

    async fn page(&self, cursor: Option<&str>, limit: u64) -> Result<Page, Failure> {
        let mut query = vec![target::pair("prefix", self.settings.prefix.as_bytes())];
        query.push(format!("limit={limit}"));
        query.push("keys_only=true".to_string());
        query.extend(cursor.map(|cursor| target::pair("cursor", cursor.as_bytes())));
        query.extend(self.client.timeout_pair());
        let answer = self.send(&Request::get(target::with_query("/v1/kv", &query))).await?;
        let page = answer.json()?;
        let keys = output::list(&page, "items").iter().filter_map(key_of).collect();
        Ok(Page { keys, next: page["next_cursor"].as_str().map(str::to_string) })
    }

    fn marker(&self, state: &str, keys: u64) -> Request {
        let marker = json!({ "tool": TOOL, "state": state, "keys": keys });
        Request::new(Method::PUT, self.marker_target())
            .body(Bytes::from(marker.to_string()))
            .header(CONTENT_TYPE, "application/json")
            .expect("a plain content type is header text")
    }

    fn marker_key(&self) -> Vec<u8> {
        format!("{}{MARKER}", self.settings.prefix).into_bytes()
    }

    fn marker_target(&self) -> String {
        target::of_key(&self.marker_key(), self.client.timeout_pair().as_slice())
    }
}

struct Page {
    keys: Vec<Vec<u8>>,
    next: Option<String>,
}

fn key_of(item: &Value) -> Option<Vec<u8>> {
    match item["key"].as_str() {
        Some(text) => Some(text.as_bytes().to_vec()),
        None => URL_SAFE_NO_PAD.decode(item["key_b64"].as_str()?).ok(),
    }
}

/// A write that is carried out once however often it is sent: what stands in its way the second time is not itself.
fn sent_once(write: Request) -> Result<Request, Failure> {
    write.header(IDEMPOTENCY_KEY, &format!("\"bench-{:032x}\"", clock::random_u128()))
}

/// How long to wait before the next try; none when a failure is final.
fn retry_pause(failure: &Failure) -> Option<Duration> {
    match failure {
        Failure::Refused(problem) if problem.status >= 500 || matches!(problem.status, 421 | 429) => {
            Some(problem.retry_after_ms.map_or(RETRY_PAUSE, Duration::from_millis).min(KEY_PATIENCE))
        }
        Failure::Lost { .. } | Failure::Unreachable { .. } => Some(RETRY_PAUSE),
        _ => None,
    }
}

/// The number that a run's key ends with.
fn number_of(key: &[u8]) -> Option<KeyNumber> {
    let digits = &key[key.len().checked_sub(super::args::KEY_DIGITS)?..];
    std::str::from_utf8(digits).ok()?.parse().ok().map(KeyNumber)
}

/// Puts and deletes of a run's own keys are safe to repeat: nobody else writes them, and either leaves what is wanted.
async fn do_one(asker: &Asker, request: &Drawn, seat: &mut usize) -> Result<(), Failure> {
    let patience = clock::now().after(KEY_PATIENCE);
    loop {
        let failed = match asker.ask(request, seat).await.0 {
            Ended::Done | Ended::WrongValue => return Ok(()),
            Ended::Failed(failed) => failed,
        };
        if !failed.is_worth_a_retry() || clock::now() >= patience {
            return Err(failed.failure);
        }
        tokio::time::sleep(failed.retry_after.unwrap_or(RETRY_PAUSE).min(KEY_PATIENCE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{Canned, Server, problem};
    use super::super::route::Route;
    use super::super::testing::settings;
    use super::*;
    use crate::transport::dial::TcpNet;

    #[tokio::test]
    async fn the_marker_and_scans_are_tried_again_as_keys_are() {
        let busy = problem(503, "no-leader", r#""outcome":"not_applied","retryable":true,"retry_after_ms":1"#);
        let absent = problem(404, "key-not-found", "");
        let nothing = Canned::answer(200, &[], r#"{"items":[]}"#);
        let created = Canned::answer(201, &[("etag", "\"000000000000000a\"")], "");
        let answers = [busy.clone(), absent, busy.clone(), nothing, Canned::Cut, created, busy, Canned::status(204)];
        let server = Server::start(answers).await;
        let settings = settings("put --prefix p/ --route any");
        let client = Client::new(Arc::new(TcpNet), vec![server.endpoint().clone()], None);
        let draw = Arc::new(Draw::new(&settings));
        let route = Route::new(settings.route, client.endpoints(), client.net());
        let asker = Arc::new(Asker::new(route, draw.clone(), &client, None));
        let keys = Keyspace { client: &client, asker, draw, settings: &settings };
        let claim = keys.claim().await.unwrap();
        keys.release(&claim, None).await.unwrap();
        let sent = server.requests();
        let methods: Vec<&str> = sent.iter().filter_map(|request| request.line.split(' ').next()).collect();
        assert_eq!(methods, ["GET", "GET", "GET", "GET", "PUT", "PUT", "DELETE", "DELETE"]);
        for (first, again) in [(4, 5), (6, 7)] {
            let key = |place: usize| sent[place].header("idempotency-key");
            assert!(key(first).is_some() && key(first) == key(again), "the same write");
        }
        assert_eq!(sent[7].header("if-match"), Some("\"000000000000000a\""));
    }
}
