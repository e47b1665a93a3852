//! Keys and values come back byte for byte, whatever they are.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use raft_tests::cluster::{Cluster, Plan};
use raft_tests::http::{Http, has_head};

use super::path_of;

const VALUE_BYTES_MAX: usize = 1 << 20;

#[tokio::test]
async fn keys_and_values_are_any_bytes() {
    let cluster = Cluster::start(Plan::default()).await;
    every_byte_is_a_key_of_its_own(&cluster).await;
    odd_keys_are_distinct_and_never_cleaned(cluster.http(0), cluster.http(1)).await;
    keys_have_limits(cluster.http(0)).await;
    values_have_limits(cluster.http(1)).await;
    a_client_that_waits_for_continue_is_served(cluster.http(0)).await;
    content_types_come_back(cluster.http(2)).await;
    head_is_get_without_the_body(cluster.http(0)).await;
}

async fn every_byte_is_a_key_of_its_own(cluster: &Cluster) {
    for byte in 0..=255_u8 {
        let reply =
            cluster.http(usize::from(byte) % 3).put(path_of(&[byte]), vec![byte, byte]).send().await.expect(204);
        assert!(reply.body.is_empty());
    }
    for byte in 0..=255_u8 {
        let reply = cluster.http((usize::from(byte) + 1) % 3).get(path_of(&[byte])).send().await.expect(200);
        assert_eq!(reply.body.as_ref(), [byte, byte], "byte {byte}");
        let encoded = URL_SAFE_NO_PAD.encode([byte]);
        let by_query = cluster.http(0).get(format!("/v1/kv?key_b64={encoded}")).send().await.expect(200);
        assert_eq!(by_query.body, reply.body);
        let json = cluster.http(0).get(path_of(&[byte])).header("accept", "application/json").send().await.expect(200);
        let json = json.json();
        match std::str::from_utf8(&[byte]) {
            Ok(text) => assert_eq!((json["key"].as_str(), json.get("key_b64")), (Some(text), None)),
            Err(_) => assert_eq!((json.get("key"), json["key_b64"].as_str()), (None, Some(encoded.as_str()))),
        }
    }
}

async fn odd_keys_are_distinct_and_never_cleaned(one: &Http, other: &Http) {
    let keys = [
        ".",
        "..",
        "/",
        "//",
        "a/../b",
        "b",
        "a/./b",
        "a//b",
        "%2F%2F%2F",
        "%25",
        "%252F",
        "a/",
        "/a",
        "a",
        "a+b",
        "a%20b",
        "~",
        "%7Bt%7D/x",
    ];
    for (number, key) in keys.iter().enumerate() {
        one.put(format!("/v1/kv/{key}"), format!("value {number}")).send().await.expect(204);
    }
    for (number, key) in keys.iter().enumerate() {
        let reply = other.get(format!("/v1/kv/{key}")).send().await.expect(200);
        assert_eq!(reply.body, format!("value {number}"), "{key}");
    }
    // An escape and what it stands for are one key.
    let escaped = one.get(path_of(b"a/../b")).send().await.expect(200);
    assert_eq!(escaped.body, one.get("/v1/kv/a/../b").send().await.body);
    let listed = one.get("/v1/kv?prefix=a%2F&keys_only=true").send().await.expect(200).json();
    let listed: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect();
    assert_eq!(listed, ["a/", "a/../b", "a/./b", "a//b"]);
    // A bare percent sign is no escape.
    assert_eq!(one.put("/v1/kv/%", "x").send().await.expect(400).code(), "bad-encoding");
    assert_eq!(one.get("/v1/kv/100%zz").send().await.expect(400).code(), "bad-encoding");
}

async fn keys_have_limits(http: &Http) {
    for key in [vec![b'k'; 2048], vec![0xff; 2048]] {
        http.put(path_of(&key), "long").send().await.expect(204);
        assert_eq!(http.get(path_of(&key)).send().await.expect(200).body, "long");
    }
    let too_long = http.put(path_of(&[b'k'; 2049]), "long").send().await.expect(414);
    assert_eq!((too_long.code().as_str(), too_long.json()["outcome"].as_str()), ("uri-too-long", Some("not_applied")));
    for target in ["/v1/kv/", "/v1/kv?key_b64="] {
        assert_eq!(http.put(target, "x").send().await.expect(400).code(), "bad-key", "{target}");
        assert_eq!(http.get(target).send().await.expect(400).code(), "bad-key", "{target}");
    }
    assert_eq!(http.get("/v1/kv?key_b64=a/b").send().await.expect(400).code(), "bad-encoding");
}

async fn values_have_limits(http: &Http) {
    http.put("/v1/kv/empty", "").send().await.expect(204);
    let empty = http.get("/v1/kv/empty").send().await.expect(200);
    assert_eq!((empty.body.len(), empty.header("content-length")), (0, Some("0")));

    let largest: Bytes =
        (0..VALUE_BYTES_MAX).map(|place| u8::try_from(place % 251).unwrap()).collect::<Vec<_>>().into();
    http.put("/v1/kv/large", largest.clone()).send().await.expect(204);
    assert!(http.get("/v1/kv/large").send().await.expect(200).body == largest);

    let mut larger = largest.to_vec();
    larger.push(0);
    let larger = Bytes::from(larger);
    let refused = http.put("/v1/kv/larger", larger.clone()).send().await.expect(413);
    assert_eq!((refused.code().as_str(), refused.json()["limit_bytes"].as_u64()), ("too-large", Some(1 << 20)));
    http.get("/v1/kv/larger").send().await.expect(404);

    let halves = |whole: &Bytes| vec![whole.slice(..1000), whole.slice(1000..)];
    http.call("PUT", "/v1/kv/chunked").chunks(halves(&largest)).send().await.expect(204);
    assert!(http.get("/v1/kv/chunked").send().await.expect(200).body == largest);
    let refused = http.call("PUT", "/v1/kv/chunked").chunks(halves(&larger)).send().await.expect(413);
    assert_eq!(refused.code(), "too-large");
    assert!(http.get("/v1/kv/chunked").send().await.expect(200).body == largest, "nothing of it was stored");
    http.call("PUT", "/v1/kv/chunked").chunks(Vec::new()).send().await.expect(204);

    let neither = b"PUT /v1/kv/dropped HTTP/1.1\r\nhost: x\r\n\r\n";
    let reply = http.raw(neither, has_head).await.unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 411 "), "{}", String::from_utf8_lossy(&reply));
    http.get("/v1/kv/dropped").send().await.expect(404);
}

async fn a_client_that_waits_for_continue_is_served(http: &Http) {
    let head = |length: usize| {
        format!(
            "PUT /v1/kv/waited HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )
    };
    let reply = http.raw(head(2).as_bytes(), has_head).await.unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 100 "), "asked for the body: {}", String::from_utf8_lossy(&reply));
    // Told before a byte of the body is sent.
    let reply = http.raw(head(VALUE_BYTES_MAX + 1).as_bytes(), has_head).await.unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&reply));
    let whole = format!("{}ok", head(2));
    let is_answered = |reply: &[u8]| String::from_utf8_lossy(reply).contains("HTTP/1.1 204");
    let reply = http.raw(whole.as_bytes(), is_answered).await.unwrap();
    assert!(is_answered(&reply), "{}", String::from_utf8_lossy(&reply));
    assert_eq!(http.get("/v1/kv/waited").send().await.expect(200).body, "ok");
}

async fn content_types_come_back(http: &Http) {
    let served = [
        (None, "application/octet-stream"),
        (Some("application/x-www-form-urlencoded"), "application/octet-stream"),
        (Some("text/plain; charset=utf-8"), "text/plain; charset=utf-8"),
        (Some("text/html"), "text/html"),
    ];
    for (given, expected) in served {
        let mut put = http.put("/v1/kv/typed", "<b>");
        if let Some(given) = given {
            put = put.header("content-type", given);
        }
        put.send().await.expect(204);
        let reply = http.get("/v1/kv/typed").send().await.expect(200);
        assert_eq!(reply.header("content-type"), Some(expected));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("content-security-policy"), Some("sandbox; default-src 'none'"));
        assert_eq!(reply.header("content-disposition"), (given == Some("text/html")).then_some("attachment"));
    }
    let too_long = http.put("/v1/kv/typed", "x").header("content-type", "t".repeat(256)).send().await.expect(400);
    assert_eq!(too_long.code(), "bad-parameter");
}

async fn head_is_get_without_the_body(http: &Http) {
    for target in [
        "/v1/kv/large",
        "/v1/kv/empty",
        "/v1/kv/typed",
        "/v1/kv/no-such-key",
        "/v1/kv?prefix=a",
        "/version",
        "/nothing",
    ] {
        let get = http.get(target).send().await;
        let head = http.call("HEAD", target).send().await;
        assert_eq!(head.status, get.status, "{target}");
        assert!(head.body.is_empty());
        assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()), "{target}");
        assert_eq!(super::comparable(&head), super::comparable(&get), "{target}");
    }
}
