//! The listener against clients of all kinds, over a network in memory.

use futures::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::admission::Admission;
use crate::api::HttpLimits;
use crate::api::testing::{Client, MemoryNet, soon};
use crate::clock;
use crate::raft::Timing;
use crate::raft::pace::Pace;
use crate::raft::rooms::Rooms;
use crate::router::Router;
use crate::shard::Host;
use crate::shard::host::{FlushBudget, HostParts};
use crate::shard::limits::Limits;
use crate::storage::Disk;
use crate::storage::log_store::LogStore;
use crate::storage::mem::MemDisk;
use crate::storage::reserve::Reserve;
use crate::transport::dial::Net;
use crate::transport::{AddressBook, Gatekeeper, Hello, Lane, PROTOCOL, Peers, Refusal};
use crate::types::{ClusterId, NodeId, StoreId};

const ADDRESS: &str = "node:http";
/// Longer than any test waits: a limit of this length is none.
const NEVER: Duration = Duration::from_secs(600);
/// Short enough for a test to see the end of it.
const BRIEF: Duration = Duration::from_millis(100);
const VALUE_BYTES_MAX: usize = 1 << 20;

fn limits() -> HttpLimits {
    HttpLimits {
        value_bytes_max: VALUE_BYTES_MAX,
        connections_max: 100,
        header_read_timeout: NEVER,
        write_timeout: NEVER,
        finish_timeout: NEVER,
        slow_request: None,
    }
}

/// A server of a node that is not in a cluster yet.
struct Served {
    net: MemoryNet,
    context: Context,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _awaited: watch::Sender<String>,
    _draining: watch::Sender<bool>,
}

impl Served {
    async fn with(limits: HttpLimits) -> Self {
        let net = MemoryNet::default();
        let (awaited, draining) =
            (watch::Sender::new("this node waits for the test".to_string()), watch::Sender::new(false));
        let (awaiting, admission) = (awaited.subscribe(), Admission::default());
        let context = Context::with_limits(limits, awaiting, draining.subscribe(), admission, clock::now());
        let stop = CancellationToken::new();
        let listener = net.listen(ADDRESS).await.unwrap();
        let task = tokio::spawn(serve(listener, context.clone(), stop.clone()));
        Self { net, context, stop, task, _awaited: awaited, _draining: draining }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.net, ADDRESS).await.unwrap()
    }

    async fn begin(&self) {
        self.context.begin(lone_router().await, ClusterId(9));
    }

    async fn ended(self) {
        soon("the end of the server", self.task).await.unwrap();
    }
}

/// Of a node that has heard no catalog: it reads requests in full and then has no shard for them.
async fn lone_router() -> Router {
    let (disk, store) = (MemDisk::new(1), StoreId(1));
    let log = LogStore::open(&disk, store, true, 1 << 20).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let parts = HostParts {
        node: NodeId(4),
        store,
        timing: Timing::default(),
        limits: Limits::default(),
        flush: FlushBudget::default(),
        rooms: Rooms::new(Reserve::open(disk.clone(), 0).unwrap()),
        pace: Pace::new(u64::MAX),
        disk,
        log,
        peers: Peers::new(Arc::new(MemoryNet::default()), Arc::new(Alone), Arc::new(Alone)),
    };
    let (_, catalog) = watch::channel(None);
    Router::new(Host::open(parts).await.unwrap(), catalog)
}

struct Alone;

impl AddressBook for Alone {
    fn peer_address(&self, _node: NodeId) -> Option<String> {
        None
    }
}

impl Gatekeeper for Alone {
    fn hello(&self, lane: Lane) -> Hello {
        Hello {
            versions: PROTOCOL,
            lane,
            cluster: None,
            node: None,
            store: StoreId(1),
            start_counter: 1,
            peer_address: String::new(),
            http_address: String::new(),
            catalog_version: 0,
            timing_hash: 0,
        }
    }
    fn check(&self, _remote: &Hello) -> Result<(), Refusal> {
        Ok(())
    }
    fn heard(&self, _remote: &Hello) {}
    fn catalog_version(&self) -> u64 {
        0
    }
    fn heard_catalog_version(&self, _remote: &Hello, _version: u64) {}
}

#[tokio::test]
async fn a_node_that_is_in_no_cluster_yet_says_so_and_serves_everything_on_the_same_connection_once_it_is() {
    let served = Served::with(limits()).await;
    let mut client = served.client().await;
    for target in ["/livez", "/version", "/openapi.json", "/metrics"] {
        assert_eq!(client.get(target).await.status, 200, "{target}");
    }
    let ready = client.get("/readyz?verbose").await;
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (503, Some(false)));
    assert_eq!(ready.json()["checks"][0]["missing"], "this node waits for the test");
    let routes = ["/v1/kv/a", "/v1/kv", "/v1/kv?key_b64=YQ", "/v1/shardmap", "/v1/status", "/v1/admin/cluster"];
    let asked = routes.map(|target| ("GET", target)).into_iter().chain([("PUT", "/v1/kv/a"), ("DELETE", "/v1/kv/a")]);
    for (method, target) in asked {
        let reply = client.call(method, target).await;
        let problem = reply.json();
        assert_eq!((reply.status, problem["code"].as_str()), (503, Some("starting")), "{method} {target}");
        assert_eq!((&problem["outcome"], &problem["retryable"]), (&"not_applied".into(), &true.into()));
        assert!(reply.head.contains("\r\nretry-after: 1\r\n"), "{}", reply.head);
        assert!(reply.head.contains("\r\ncontent-type: application/problem+json\r\n"), "{}", reply.head);
    }
    // What is wrong with a request is wrong in any phase.
    assert_eq!(client.get("/v1/kv/a?consistancy=stale").await.status, 400);
    assert_eq!(client.get("/v2").await.status, 404);

    served.begin().await;
    let status = client.get("/v1/status").await.json();
    assert_eq!(status["node"], "4");
    assert_eq!(status["limits"], serde_json::json!({ "key_bytes_max": 2048, "value_bytes_max": VALUE_BYTES_MAX }));
    let ready = client.get("/readyz?verbose").await;
    assert_eq!(ready.json()["checks"][0], serde_json::json!({ "name": "started", "ok": true }));
    assert_eq!(ready.status, 503, "it knows no catalog");
    assert_eq!(client.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_its_turn_and_the_others_go_on() {
    let served = Served::with(HttpLimits { connections_max: 2, ..limits() }).await;
    let (mut first, mut second) = (served.client().await, served.client().await);
    let mut third = served.client().await;
    third.send("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    for _ in 0..100 {
        assert_eq!((first.get("/livez").await.status, second.get("/version").await.status), (200, 200));
    }
    assert!(third.reply().now_or_never().is_none(), "a third of two connections was served");
    drop(first);
    assert_eq!(third.reply().await.status, 200);
    assert_eq!(second.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_connection_without_a_whole_head_in_time_is_closed() {
    let served = Served::with(HttpLimits { header_read_timeout: BRIEF, ..limits() }).await;
    let (silent, mut halfway, mut idle) = (served.client().await, served.client().await, served.client().await);
    halfway.send("GET /livez HTTP/1.1\r\nho").await.unwrap();
    assert_eq!(idle.get("/livez").await.status, 200);
    for client in [silent, halfway, idle] {
        assert_eq!(client.end().await, b"");
    }
    assert_eq!(served.client().await.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_gives_up_its_place() {
    let served = Served::with(HttpLimits { connections_max: 1, write_timeout: BRIEF, ..limits() }).await;
    let mut unread = served.client().await;
    unread.send("GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // There is one place, so an answer means that the first connection is gone.
    assert_eq!(served.client().await.get("/livez").await.status, 200);
    assert!(unread.try_reply().await.is_none(), "the answer was cut off");
}

#[tokio::test]
async fn a_stop_answers_what_is_in_flight_closes_what_is_idle_and_takes_nothing_new() {
    let served = Served::with(limits()).await;
    served.begin().await;
    let (mut idle, mut writing, mut reading) = (served.client().await, served.client().await, served.client().await);
    assert_eq!(idle.get("/livez").await.status, 200);
    let put = "PUT /v1/kv/a?timeout=60s HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    writing.send(put).await.unwrap();
    assert_eq!(writing.reply().await.status, 100, "the handler has begun to read");
    reading.send("GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut another = served.client().await;
    assert_eq!(another.get("/livez").await.status, 200, "what was sent before it has arrived");

    served.stop.cancel();
    assert_eq!(idle.end().await, b"");
    soon("a refusal", async { while Client::connect(&served.net, ADDRESS).await.is_ok() {} }).await;
    assert!(!served.task.is_finished(), "two requests are in flight");
    writing.send("value").await.unwrap();
    let answer = writing.reply().await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("starting")));
    assert!(answer.head.contains("\r\nconnection: close\r\n"), "{}", answer.head);
    assert_eq!(reading.reply().await.json()["openapi"], "3.1.0");
    served.ended().await;
}

#[tokio::test]
async fn a_node_with_too_much_in_hand_refuses_at_the_head_and_keeps_the_connection() {
    let served = Served::with(limits()).await;
    served.begin().await;
    let mut client = served.client().await;
    let put = "PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n";
    client.send(format!("{put}expect: 100-continue\r\n\r\n")).await.unwrap();
    assert_eq!(client.reply().await.status, 100);
    let full = served.context.inner.admission.clients().fill();
    client.send("value").await.unwrap();
    let late = client.reply().await;
    assert_eq!((late.status, late.json()["code"].as_str()), (503, Some("overloaded")), "full since the head was read");

    let requests = [
        format!("{put}expect: 100-continue\r\n\r\n"),
        "GET /v1/kv/a HTTP/1.1\r\nhost: x\r\n\r\n".to_string(),
        "DELETE /v1/kv/a HTTP/1.1\r\nhost: x\r\n\r\n".to_string(),
        "GET /v1/kv?prefix=a HTTP/1.1\r\nhost: x\r\n\r\n".to_string(),
    ];
    for request in &requests {
        let mut client = served.client().await;
        client.send(request).await.unwrap();
        let refused = client.reply().await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("overloaded")), "{request}");
        assert_eq!(refused.json()["outcome"], "not_applied");
        assert!(refused.head.contains("\r\nretry-after: "), "{}", refused.head);
    }
    let mut client = served.client().await;
    client.send(format!("{put}\r\nvalue")).await.unwrap();
    assert_eq!(client.reply().await.status, 503);
    for target in ["/livez", "/metrics", "/v1/status"] {
        assert_eq!(
            client.get(target).await.status,
            200,
            "{target}: looking after a node must go on, on any connection"
        );
    }
    drop(full);
    assert_eq!(client.get("/v1/kv/a").await.json()["code"], "starting", "what was refused is out of hand");
    assert_eq!(served.context.inner.admission.clients().in_hand(), 0);
}

#[tokio::test]
async fn a_stop_waits_for_no_client_beyond_its_limit() {
    let served = Served::with(HttpLimits { finish_timeout: BRIEF, ..limits() }).await;
    served.begin().await;
    let (mut unread, mut silent) = (served.client().await, served.client().await);
    unread.send("GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    silent.send("PUT /v1/kv/a?timeout=60s HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nva").await.unwrap();
    assert_eq!(served.client().await.get("/livez").await.status, 200, "what was sent before it has arrived");
    served.stop.cancel();
    served.ended().await;
    assert_eq!(silent.end().await, b"", "no answer that claims anything");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused_with_431_before_it_is_held_in_full() {
    let served = Served::with(limits()).await;
    let mut client = served.client().await;
    let longest = "k".repeat(HEAD_BYTES_MAX - 100);
    client.send(format!("GET /livez HTTP/1.1\r\nx-long: {longest}\r\n\r\n")).await.unwrap();
    assert_eq!(client.reply().await.status, 200);
    client.send(format!("GET /livez HTTP/1.1\r\nx-long: {longest}{longest}")).await.unwrap_err();
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.body.len()), (431, 0));
    client.end().await;
    assert_eq!(served.client().await.get("/livez").await.status, 200);
}

#[tokio::test]
async fn bytes_that_are_no_request_end_their_own_connection_and_no_other() {
    let served = Served::with(limits()).await;
    let mut neighbour = served.client().await;
    let garbage: [&[u8]; 10] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /li vez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nbad name: x\r\n\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for bytes in garbage {
        let mut client = served.client().await;
        // The server may have had enough before it is all sent.
        let _ = client.send(bytes).await;
        let said = client.end().await;
        let shown = bytes.escape_ascii();
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400 "), "{shown}: {}", said.escape_ascii());
        assert_eq!(neighbour.get("/livez").await.status, 200, "{shown}");
    }
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_their_order() {
    let served = Served::with(limits()).await;
    let mut client = served.client().await;
    let targets = ["/livez", "/nothing", "/version", "/v1/kv/a"];
    let requests = targets.map(|target| format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n"));
    client.send(requests.concat()).await.unwrap();
    for (target, status) in targets.into_iter().zip([200, 404, 200, 503]) {
        assert_eq!(client.reply().await.status, status, "{target}");
    }
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_told_to_go_on_or_why_not() {
    let served = Served::with(limits()).await;
    let put = |length: usize| {
        format!("PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n")
    };
    let (mut client, begun) = (served.client().await, clock::now());
    client.send(put(5)).await.unwrap();
    assert_eq!(client.reply().await.status, 503, "a node that is starting reads no body");
    client.end().await;
    assert!(clock::now().since(begun) < DRAIN_TIMEOUT, "nobody waits for a body that will not come");

    served.begin().await;
    let mut client = served.client().await;
    client.send(put(5)).await.unwrap();
    assert_eq!(client.reply().await.status, 100);
    client.send("value").await.unwrap();
    assert_eq!(client.reply().await.status, 503, "the body was read, and there is no shard for it");
    client.send(put(VALUE_BYTES_MAX + 1)).await.unwrap();
    let refused = client.reply().await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (413, Some("too-large")));
}

#[tokio::test]
async fn an_early_answer_is_not_lost_on_a_client_that_sends_its_whole_body_first() {
    let served = Served::with(limits()).await;
    let mut client = served.client().await;
    let body = vec![b'v'; VALUE_BYTES_MAX];
    client.send(format!("PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len())).await.unwrap();
    client.send(body).await.expect("the body is read though nobody wants it");
    assert_eq!(client.reply().await.status, 503);
}
