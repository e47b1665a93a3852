//! Bad input gets its error, never a 500 and never a hang; and what an error says of a write is true.

use std::collections::BTreeMap;
use std::time::Duration;

use raft_tests::cluster::{Cluster, Plan};
use raft_tests::http::{Http, has_head};

#[tokio::test]
async fn bad_input_is_refused_and_stores_nothing() {
    let cluster = Cluster::start(Plan { nodes: 1, replication_factor: 1, shards: 2, ..Plan::default() }).await;
    let http = cluster.http(0);
    parameters_are_checked(http).await;
    routes_and_methods_are_checked(http).await;
    garbage_and_silence_end(http).await;
    let all = http.get("/v1/kv").send().await.expect(200).json();
    assert_eq!(all["items"].as_array().unwrap().len(), 0, "{all}");
}

async fn parameters_are_checked(http: &Http) {
    let bad = [
        ("GET", "/v1/kv/a?consistency=bounded"),
        ("GET", "/v1/kv/a?consistency="),
        ("GET", "/v1/kv/a?Consistency=stale"),
        ("GET", "/v1/kv/a?consistancy=stale"),
        ("GET", "/v1/kv/a?consistency=stale&consistency=stale"),
        ("GET", "/v1/kv/a?timeout=0ms"),
        ("GET", "/v1/kv/a?timeout=61s"),
        ("GET", "/v1/kv/a?timeout=5"),
        ("GET", "/v1/kv/a?timeout=%2B5s"),
        ("GET", "/v1/kv/a?forward=always"),
        ("GET", "/v1/kv/a?key_b64=YQ"),
        ("GET", "/v1/kv/a?prefix=a"),
        ("PUT", "/v1/kv/a?ttl=30s"),
        ("PUT", "/v1/kv/a?consistency=stale"),
        ("PUT", "/v1/kv/a?timeout=x"),
        ("PUT", "/v1/kv"),
        ("DELETE", "/v1/kv"),
        ("DELETE", "/v1/kv/a?recursive=true"),
        ("GET", "/v1/kv?limit=0"),
        ("GET", "/v1/kv?limit=10001"),
        ("GET", "/v1/kv?limit=ten"),
        ("GET", "/v1/kv?prefix=a&start=b"),
        ("GET", "/v1/kv?start=b&end=a"),
        ("GET", "/v1/kv?cursor=x"),
        ("GET", "/v1/kv?keys_only=1"),
        ("GET", "/v1/kv?forward=never"),
        ("GET", "/v1/kv?delimiter=/"),
        ("GET", "/v1/kv?key_b64=YQ&prefix=a"),
        ("GET", "/v1/admin/route"),
        ("GET", "/v1/admin/route?key=a&key_b64=YQ"),
        ("GET", "/v1/admin/shards?sort=size"),
        ("GET", "/v1/status?pretty"),
        ("GET", "/livez?verbose"),
        ("GET", "/readyz?verbose=yes"),
        ("GET", "/v1/kv/k?trace=yes"),
        ("GET", "/v1/status?trace=true"),
        ("GET", "/metrics?shards=all"),
        ("GET", "/metrics?x=1"),
    ];
    for (method, target) in bad {
        let reply = match method {
            "PUT" => http.put(target, "x").send().await,
            _ => http.call(method, target).send().await,
        };
        assert_eq!(reply.clone().expect(400).code(), "bad-parameter", "{method} {target}");
        assert_eq!(reply.json()["outcome"], "not_applied");
    }
    let misspelt = http.get("/v1/kv/a?consistancy=stale").send().await.json();
    assert_eq!(misspelt["parameter"], "consistancy");
    assert_eq!(misspelt["allowed"], serde_json::json!(["consistency", "timeout", "forward", "trace"]));
    for target in ["/v1/kv/%zz", "/v1/kv/a?timeout=%", "/v1/kv?key_b64=%%", "/v1/kv?key_b64=a%20b"] {
        assert_eq!(http.put(target, "x").send().await.expect(400).code(), "bad-encoding", "{target}");
    }
}

async fn routes_and_methods_are_checked(http: &Http) {
    for target in [
        "/",
        "/v1",
        "/v1/",
        "/v2/kv/a",
        "/v1/kvs",
        "/v1/KV/a",
        "/v1/batch",
        "/v1/watch",
        "/v1/admin",
        "/v1/admin/shards/",
        "/livez/",
        "/favicon.ico",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            assert_eq!(http.call(method, target).send().await.expect(404).code(), "no-such-route", "{method} {target}");
        }
    }
    for (method, target, allowed) in [
        ("POST", "/v1/kv/a", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v1/kv", "GET, HEAD, PUT, DELETE"),
        ("BREW", "/v1/kv/a", "GET, HEAD, PUT, DELETE"),
        ("OPTIONS", "/v1/status", "GET, HEAD"),
        ("DELETE", "/v1/admin/shards/1", "GET, HEAD"),
        ("PUT", "/metrics", "GET, HEAD"),
    ] {
        let reply = http.call(method, target).send().await.expect(405);
        assert_eq!(
            (reply.code().as_str(), reply.header("allow")),
            ("method-not-allowed", Some(allowed)),
            "{method} {target}"
        );
    }
}

async fn garbage_and_silence_end(http: &Http) {
    for garbage in ["\x16\x03\x01", "GET\r\n\r\n", "GET /v1/kv/a HTTP/9.9\r\n\r\n", "GET /v1/kv/a b HTTP/1.1\r\n\r\n"] {
        let reply = http.raw(format!("{garbage}\r\n\r\n").as_bytes(), has_head).await.unwrap_or_default();
        assert!(
            reply.is_empty() || reply.starts_with(b"HTTP/1.1 4") || reply.starts_with(b"HTTP/1.0 4"),
            "{garbage:?}: {}",
            String::from_utf8_lossy(&reply)
        );
    }
    // A body that does not come is waited for until the deadline and no longer.
    let half = b"PUT /v1/kv/half?timeout=300ms HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf";
    let reply = http.raw(half, |reply| String::from_utf8_lossy(reply).contains('}')).await.unwrap();
    let reply = String::from_utf8_lossy(&reply);
    assert!(reply.starts_with("HTTP/1.1 504 "), "{reply}");
    assert!(reply.contains("deadline-exceeded") && reply.contains("not_applied"), "{reply}");
    let chunk = b"PUT /v1/kv/half HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhalf\r\n0\r\n\r\n";
    let reply = http.raw(chunk, has_head).await.unwrap_or_default();
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&reply));
    http.get("/livez").send().await.expect(200);
}

#[tokio::test]
async fn what_an_error_says_of_a_write_is_true() {
    let mut cluster = Cluster::start(Plan::default()).await;
    for number in 0..8 {
        cluster.http(0).put(format!("/v1/kv/kept-{number}"), "before").send().await.expect(204);
    }
    let survivor = cluster.http(0).clone();
    for number in 0..8 {
        wait_until_applied(&survivor, &format!("/v1/kv/kept-{number}?consistency=stale")).await;
    }
    // Writes while two of three nodes are being killed, then with no quorum at all.
    let writer = tokio::spawn(write_until_refused(survivor.clone()));
    cluster.nodes[1].kill().await;
    cluster.nodes[2].kill().await;
    let mut told = writer.await.expect("the writer ends");
    for number in 0..8 {
        let key = format!("alone-{number}");
        let reply = survivor.put(format!("/v1/kv/{key}?timeout=700ms"), "x").send().await;
        told.push((key, outcome(&reply)));

        let read = survivor.get(format!("/v1/kv/kept-{number}?timeout=700ms")).send().await;
        assert!(matches!(read.status, 503 | 504), "a minority answers nothing: {read:?}");
        assert_ne!(read.json().get("outcome"), Some(&"unknown".into()), "a read changes nothing");
        let stale = survivor.get(format!("/v1/kv/kept-{number}?consistency=stale")).send().await.expect(200);
        assert_eq!((stale.body.as_ref(), stale.header("kv-consistency")), (b"before".as_slice(), Some("stale")));
        assert!(stale.header("kv-staleness-ms").is_some());
    }
    survivor.get("/readyz").send().await;
    survivor.get("/v1/admin/route?key=kept-0").send().await.expect(200);

    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.wait_until_ready().await;
    let mut seen = BTreeMap::new();
    for (key, outcome) in told {
        let is_there = match survivor.get(format!("/v1/kv/{key}")).send().await.status {
            200 => true,
            404 => false,
            status => panic!("{key}: {status} from a whole cluster"),
        };
        assert!(outcome != Some("not_applied") || !is_there, "{key} is there, though it was not applied");
        assert!(outcome.is_some() || is_there, "{key} was acknowledged and is not there");
        *seen.entry(outcome).or_insert(0) += 1;
    }
    assert!(seen.contains_key(&Some("not_applied")) || seen.contains_key(&Some("unknown")), "{seen:?}");
}

/// A follower applies what the leader acknowledged, but a little later.
async fn wait_until_applied(http: &Http, target: &str) {
    let applied = async {
        while http.get(target).send().await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), applied).await.expect("an acknowledged write reaches every replica");
}

/// Writes new keys one by one until one is not acknowledged: each key with what was told of it.
async fn write_until_refused(http: Http) -> Vec<(String, Option<&'static str>)> {
    let mut told = Vec::new();
    for number in 0.. {
        let key = format!("racing-{number}");
        let reply = http.put(format!("/v1/kv/{key}?timeout=700ms"), "x").send().await;
        let outcome = outcome(&reply);
        told.push((key, outcome));
        if outcome.is_some() {
            break;
        }
    }
    told
}

/// None for an acknowledged write.
fn outcome(reply: &raft_tests::http::Reply) -> Option<&'static str> {
    if reply.status == 204 {
        return None;
    }
    let (code, outcome) = (reply.code(), reply.json()["outcome"].as_str().map(str::to_string));
    match (reply.status, outcome.as_deref()) {
        (503, Some("not_applied")) => assert!(["no-leader", "no-quorum"].contains(&code.as_str()), "{code}"),
        (504, Some(_)) => assert!(["deadline-exceeded", "leadership-lost"].contains(&code.as_str()), "{code}"),
        other => panic!("a write without a quorum was answered {other:?}"),
    }
    if reply.status == 503 {
        assert!(reply.header("retry-after").is_some());
    }
    if outcome.as_deref() == Some("unknown") { Some("unknown") } else { Some("not_applied") }
}
