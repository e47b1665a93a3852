//! The clients of the set: those that insert, those that scan meanwhile, and the scans at the end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use rand::RngExt;
use ringraft::clock::{self, Moment};
use serde_json::Value;

use super::answer::service;
use super::asker::{Ask, Asker};
use super::set::{Item, Members, Scan, Tick};
use super::{Kind, Shared, values};
use crate::client::{Client, Trouble, kv_path};
use crate::history::{Expect, Mode, Request};

/// Inserts that are refused where the key is there; the rest are blind.
const CREATES: f64 = 0.7;
/// Of scans, the rest being linearizable, which is the same promise.
const LEASE_SCANS: f64 = 0.3;
/// Of scans, those of one tag: one shard.
const TAGGED_SCANS: f64 = 0.4;
const KEYS_ONLY_SCANS: f64 = 0.3;
/// Rows of a page: small ones, so that scans have seams.
const PAGE_ROWS: std::ops::RangeInclusive<u32> = 10..=200;
const PAGE_ROWS_AT_THE_END: u32 = 1000;
/// A page is many reads; at the end nothing hurries.
const LIMIT_AT_THE_END: Duration = Duration::from_secs(5);
const PADDED: f64 = 0.02;
const PADDING_BYTES: usize = 10_000;

pub(super) struct Set {
    members: Mutex<Members>,
}

impl Set {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { members: Mutex::new(Members::new(shared.key_prefix(Kind::Set))) }
    }

    pub(super) fn all_keys(&self) -> Vec<String> {
        self.members.lock().expect("no panic").all_keys()
    }

    fn now(&self) -> Tick {
        self.members.lock().expect("no panic").now()
    }
}

pub(super) async fn insert(shared: Arc<Shared>, set: Arc<Set>, number: usize) {
    let mut rng = shared.rng(Kind::Set, 1 + number);
    let mut asker = Asker::new(&shared, Kind::Set, number, shared.load.limits());
    while !shared.stopped() {
        let value = shared.new_value(Kind::Set);
        let key = set.members.lock().expect("no panic").insert(value.clone());
        let expect = rng.random_bool(CREATES).then_some(Expect::Absent);
        let padding = if rng.random_bool(PADDED) { PADDING_BYTES } else { 0 };
        let judged = asker.ask(Ask { padding, ..Ask::new(&key, Request::Put { value, expect }) }).await;
        let wrong = set.members.lock().expect("no panic").inserted(&key, &judged);
        wrong.into_iter().for_each(|wrong| shared.violated(wrong));
        asker.rest_for(shared.load.insert_pause, &judged, &mut rng).await;
    }
}

/// Scans while keys are inserted.
pub(super) async fn scan(shared: Arc<Shared>, set: Arc<Set>, number: usize) {
    let mut rng = shared.rng(Kind::Set, (1 << 16) + number);
    let mut reader = Reader::new(&shared, number);
    while !shared.stopped() {
        let prefix = {
            let members = set.members.lock().expect("no panic");
            if rng.random_bool(TAGGED_SCANS) { members.current_tagged(rng.random()) } else { members.current() }
        };
        let how = How {
            mode: if rng.random_bool(LEASE_SCANS) { Mode::Lease } else { Mode::Linearizable },
            keys_only: rng.random_bool(KEYS_ONLY_SCANS),
            rows: rng.random_range(PAGE_ROWS),
            server: shared.load.server_limit,
            client: shared.load.client_limit,
        };
        // A scan that is cut off has shown what it has shown.
        drop(reader.scan(&set, prefix, how, || shared.stopped()).await);
        shared.pause(shared.load.scan_pause.mul_f64(rng.random_range(0.5..1.5))).await;
    }
}

/// Scans the whole set through each node. Gives the number of keys, and the nodes through which there was no whole scan
/// until `deadline`.
pub(super) async fn scan_at_the_end(shared: &Arc<Shared>, set: &Set, deadline: Moment) -> (usize, Vec<String>) {
    let root = set.members.lock().expect("no panic").root().to_string();
    let how = How {
        mode: Mode::Linearizable,
        keys_only: false,
        rows: PAGE_ROWS_AT_THE_END,
        server: LIMIT_AT_THE_END,
        client: 2 * LIMIT_AT_THE_END,
    };
    let (mut keys, mut unscanned) = (0, Vec::new());
    for (number, target) in shared.ground.targets.iter().enumerate() {
        let mut reader = Reader::new(shared, number);
        loop {
            match reader.scan(set, root.clone(), how, || false).await {
                Ok(scanned) => {
                    keys = keys.max(scanned);
                    break;
                }
                Err(why) if clock::now() >= deadline || shared.is_broken() => {
                    unscanned.push(format!("the scan of {root} through {}: {why}", target.name));
                    break;
                }
                Err(_) => tokio::time::sleep(shared.load.pause_after_refusal).await,
            }
        }
    }
    (keys, unscanned)
}

#[derive(Clone, Copy)]
struct How {
    mode: Mode,
    keys_only: bool,
    rows: u32,
    server: Duration,
    client: Duration,
}

/// Scans through one node.
struct Reader {
    shared: Arc<Shared>,
    client: Client,
    name: String,
}

struct Page {
    items: Vec<Item>,
    next: Option<String>,
}

impl Reader {
    fn new(shared: &Arc<Shared>, number: usize) -> Self {
        let target = &shared.ground.targets[number % shared.ground.targets.len()];
        let client = Client::over(Arc::clone(&shared.ground.net), &target.address);
        Self { shared: Arc::clone(shared), client, name: target.name.clone() }
    }

    /// One whole scan: the number of keys in it, or why a page did not come. What is wrong with it is told as violations.
    async fn scan(&mut self, set: &Set, prefix: String, how: How, stop: impl Fn() -> bool) -> Result<usize, String> {
        let mut scan = Scan::new(prefix.clone());
        let mut cursor = None;
        loop {
            let asked = set.now();
            let page = self.page(&prefix, cursor.as_deref(), how).await;
            self.shared.count_page(page.as_ref().err());
            let page = page?;
            let wrong = {
                let mut members = set.members.lock().expect("no panic");
                scan.take(&mut members, &page.items, page.next.is_none(), asked)
            };
            for wrong in wrong {
                self.shared.violated(format!(
                    "{} scan of {prefix:?} through {}: {wrong}",
                    mode_name(how.mode),
                    self.name
                ));
            }
            match page.next {
                None => return Ok(scan.keys),
                Some(_) if stop() => return Err("stopped".to_string()),
                next => cursor = next,
            }
        }
    }

    async fn page(&mut self, prefix: &str, cursor: Option<&str>, how: How) -> Result<Page, String> {
        let escaped = kv_path(prefix.as_bytes());
        let escaped = escaped.strip_prefix("/v1/kv/").expect("what kv_path begins with");
        let mut target = format!("/v1/kv?prefix={escaped}&limit={}&timeout={}ms", how.rows, how.server.as_millis());
        target.push_str(&format!("&consistency={}", mode_name(how.mode)));
        if how.keys_only {
            target.push_str("&keys_only=true");
        }
        if let Some(cursor) = cursor {
            target.push_str(&format!("&cursor={cursor}"));
        }
        let sent = self.client.send_with(Method::GET, &target, HeaderMap::new(), Bytes::new(), how.client).await;
        let reply = sent.map_err(|trouble| match trouble {
            Trouble::NotSent(_) => "not-sent".to_string(),
            Trouble::Broken(_) => "broken".to_string(),
            Trouble::Late => "late".to_string(),
        })?;
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        if reply.status != 200 {
            return Err(body["code"].as_str().map_or_else(|| reply.status.to_string(), str::to_string));
        }
        let (_, _, broken) = service(how.mode, &reply.headers);
        if let Some(broken) = broken {
            self.shared.violated(format!("a page from {}: {broken}", self.name));
        }
        let page = page_of(&body, how.keys_only).ok_or_else(|| {
            self.shared.violated(format!("a page from {} is none: {body}", self.name));
            "no-page".to_string()
        })?;
        Ok(page)
    }
}

fn page_of(body: &Value, keys_only: bool) -> Option<Page> {
    let items = body["items"].as_array()?.iter().map(|item| item_of(item, keys_only)).collect::<Option<_>>()?;
    let next = match &body["next_cursor"] {
        Value::Null => None,
        Value::String(cursor) => Some(cursor.clone()),
        _ => return None,
    };
    Some(Page { items, next })
}

/// Keys and values of ours are text, and a value is there exactly where it was asked for.
fn item_of(item: &Value, keys_only: bool) -> Option<Item> {
    let value = item.get("value").or_else(|| item.get("value_b64"));
    let id = |value: &Value| value.as_str().map(|text| values::id(text.as_bytes()));
    Some(Item {
        key: item["key"].as_str()?.to_string(),
        revision: item["revision"].as_str()?.parse().ok()?,
        value: match (value, keys_only) {
            (Some(value), false) => Some(id(value)?),
            (None, true) => None,
            _ => return None,
        },
    })
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Linearizable => "linearizable",
        Mode::Lease => "lease",
        Mode::Stale => "stale",
    }
}
