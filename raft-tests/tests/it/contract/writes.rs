//! Preconditions, preferences and idempotency keys: plain HTTP as the concurrency protocol.

use raft_tests::cluster::{Cluster, Plan};
use raft_tests::http::Http;

use super::etag;

#[tokio::test]
async fn a_version_is_an_etag_and_a_lost_race_is_412() {
    let cluster = Cluster::start(Plan::default()).await;
    let http = cluster.http(0);
    compare_and_set(http).await;
    reads_with_preconditions(http).await;
    deletes(http).await;
    malformed_preconditions_store_nothing(http).await;
    metadata_where_it_is_preferred(http).await;
    an_idempotency_key_is_answered_once(http, cluster.http(1)).await;
}

async fn compare_and_set(http: &Http) {
    let created = http.put("/v1/kv/cas", "1").header("if-none-match", "*").send().await.expect(201);
    let first = etag(&created);
    assert_eq!(first.len(), 18, "16 hex digits in quotes: {first}");
    assert!(created.header("kv-shard").is_some());
    let lost = http.put("/v1/kv/cas", "2").header("if-none-match", "*").send().await.expect(412);
    assert_eq!((lost.code().as_str(), etag(&lost)), ("revision-mismatch", first.clone()));
    assert_eq!(lost.json()["current_revision"], first.trim_matches('"'));
    assert_eq!(lost.json()["outcome"], "not_applied");

    let second = etag(&http.put("/v1/kv/cas", "2").header("if-match", &first).send().await.expect(204));
    assert!(second > first, "{second} after {first}");
    http.put("/v1/kv/cas", "3").header("if-match", &first).send().await.expect(412);
    // Several tags in one header, and over two lines of it; one that is unknown matches nothing.
    let several = format!("\"unknown\", {first} , {second}");
    let third = etag(&http.put("/v1/kv/cas", "3").header("if-match", &several).send().await.expect(204));
    let lines = http.put("/v1/kv/cas", "4").header("if-match", &first).header("if-match", &third);
    let fourth = etag(&lines.send().await.expect(204));
    http.put("/v1/kv/cas", "5").header("if-match", format!("W/{fourth}")).send().await.expect(412);
    http.put("/v1/kv/cas", "5").header("if-none-match", format!("W/{fourth}")).send().await.expect(412);
    http.put("/v1/kv/cas", "5").header("if-match", "*").send().await.expect(204);
    assert_eq!(http.get("/v1/kv/cas").send().await.expect(200).body, "5");

    let absent = http.put("/v1/kv/absent", "1").header("if-match", "*").send().await.expect(412);
    assert_eq!(absent.header("etag"), None);
    http.get("/v1/kv/absent").send().await.expect(404);
}

async fn reads_with_preconditions(http: &Http) {
    let now = etag(&http.get("/v1/kv/cas").send().await.expect(200));
    for method in ["GET", "HEAD"] {
        let unchanged = http.call(method, "/v1/kv/cas").header("if-none-match", &now).send().await.expect(304);
        assert_eq!((etag(&unchanged), unchanged.body.len()), (now.clone(), 0));
        assert_eq!(unchanged.header("kv-consistency"), Some("linearizable"));
        http.call(method, "/v1/kv/cas").header("if-none-match", "\"0000000000000001\"").send().await.expect(200);
        http.call(method, "/v1/kv/cas").header("if-match", &now).send().await.expect(200);
        let other = http.call(method, "/v1/kv/cas").header("if-match", "\"0000000000000001\"").send().await.expect(412);
        assert_eq!(etag(&other), now);
    }
    let missing = http.get("/v1/kv/absent").send().await.expect(404);
    assert_eq!((missing.code().as_str(), missing.json().get("outcome")), ("key-not-found", None));
    assert_eq!(missing.header("kv-consistency"), Some("linearizable"));
}

async fn deletes(http: &Http) {
    let before = etag(&http.put("/v1/kv/gone", "1").send().await.expect(204));
    let now = etag(&http.put("/v1/kv/gone", "2").send().await.expect(204));
    http.delete("/v1/kv/gone").header("if-match", &before).send().await.expect(412);
    http.delete("/v1/kv/gone").header("if-match", &now).send().await.expect(204);
    http.get("/v1/kv/gone").send().await.expect(404);
    http.delete("/v1/kv/gone").send().await.expect(204);
    http.delete("/v1/kv/gone").header("if-match", "*").send().await.expect(412);
    let again = etag(&http.put("/v1/kv/gone", "3").send().await.expect(204));
    assert!(again > now, "a revision is never reused: {again} after {now}");
}

async fn malformed_preconditions_store_nothing(http: &Http) {
    for bad in ["0123456789abcdef", "\"open", "\"a\" \"b\"", "*, \"a\"", "", "w/\"a\""] {
        for name in ["if-match", "if-none-match"] {
            let refused = http.put("/v1/kv/malformed", "x").header(name, bad).send().await.expect(400);
            assert_eq!(refused.code(), "bad-parameter", "{name}: {bad}");
        }
    }
    http.get("/v1/kv/malformed").send().await.expect(404);
}

async fn metadata_where_it_is_preferred(http: &Http) {
    let put = || http.put("/v1/kv/%FFmeta", "four").header("prefer", "return=representation");
    let created = put().header("if-none-match", "*").header("content-type", "text/plain").send().await.expect(201);
    assert_eq!(created.header("preference-applied"), Some("return=representation"));
    let json = created.json();
    assert_eq!(json["revision"], etag(&created).trim_matches('"'));
    assert_eq!(
        (&json["size"], &json["content_type"], &json["created"]),
        (&4.into(), &"text/plain".into(), &true.into())
    );
    assert_eq!((json.get("key"), json["key_b64"].as_str()), (None, Some("_21ldGE")));
    assert_eq!(json["shard"].as_str(), created.header("kv-shard"), "an id is a string");
    let blind = put().send().await.expect(200);
    assert_eq!(blind.json().get("created"), None, "a blind put does not look");
    let entry = http.get("/v1/kv/%FFmeta").header("accept", "application/json").send().await.expect(200);
    assert_eq!((entry.json()["value"].as_str(), entry.json()["size"].as_u64()), (Some("four"), Some(4)));
}

async fn an_idempotency_key_is_answered_once(one: &Http, other: &Http) {
    let put =
        |http: &Http, value: &'static str, key: &str| http.put("/v1/kv/once", value).header("idempotency-key", key);
    let first = put(one, "1", "\"first\"").send().await.expect(204);
    assert_eq!(first.header("kv-replayed"), None);
    one.put("/v1/kv/once", "2").send().await.expect(204);
    let replay = put(other, "1", "\"first\"").send().await.expect(204);
    assert_eq!((replay.header("kv-replayed"), etag(&replay)), (Some("true"), etag(&first)));
    assert_eq!(one.get("/v1/kv/once").send().await.expect(200).body, "2", "it was not carried out again");
    let reused = put(one, "other", "\"first\"").send().await.expect(422);
    assert_eq!((reused.code().as_str(), &reused.json()["outcome"]), ("idempotency-key-reuse", &"not_applied".into()));
    for bad in ["bare", "\"\"", "\"open", "\"a\", \"b\""] {
        assert_eq!(put(one, "x", bad).send().await.expect(400).code(), "bad-parameter", "{bad}");
    }
    // A lost race is an answer too, and stays lost.
    let lost = || put(one, "3", "\"lost\"").header("if-none-match", "*");
    assert_eq!(lost().send().await.expect(412).header("kv-replayed"), None);
    one.delete("/v1/kv/once").send().await.expect(204);
    assert_eq!(lost().send().await.expect(412).header("kv-replayed"), Some("true"));
    // Attempts that race each other are one write.
    let racing = (0..8).map(|place| put(if place % 2 == 0 { one } else { other }, "raced", "\"race\"").send());
    let replies = futures::future::join_all(racing).await;
    assert!(replies.iter().all(|reply| reply.status == 204 && etag(reply) == etag(&replies[0])), "{replies:?}");
    assert_eq!(replies.iter().filter(|reply| reply.header("kv-replayed").is_none()).count(), 1);
}
