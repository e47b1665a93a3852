//! Any node answers anything the same; scans; where things are.

use raft_tests::cluster::{Cluster, Plan};
use raft_tests::http::Http;
use serde_json::Value;

use super::{comparable, etag, leader_and_other, path_of};

#[tokio::test]
async fn any_node_answers_the_same() {
    let mut cluster = Cluster::start(Plan::default()).await;
    cluster.wait_until_settled().await;
    direct_and_forwarded_are_equal(&cluster).await;
    a_request_that_must_not_be_forwarded_names_the_leader(&cluster).await;
    pages_make_up_the_whole_set(&cluster).await;
    the_cluster_can_be_looked_at(&cluster).await;
    nodes_that_are_gone_are_shown_as_such(&mut cluster).await;
}

/// Method, target, header.
type Request<'r> = (&'r str, &'r str, Option<(&'static str, &'r str)>);

async fn direct_and_forwarded_are_equal(cluster: &Cluster) {
    let (leader, other) = leader_and_other(cluster, "same").await;
    leader.put("/v1/kv/same", "value").header("content-type", "text/plain").send().await.expect(204);
    let now = etag(&leader.get("/v1/kv/same").send().await);
    let requests: [Request<'_>; 11] = [
        ("GET", "/v1/kv/same", None),
        ("GET", "/v1/kv/same?consistency=lease", None),
        ("HEAD", "/v1/kv/same", None),
        ("GET", "/v1/kv/same", Some(("accept", "application/json"))),
        ("GET", "/v1/kv/same", Some(("if-none-match", &now))),
        ("GET", "/v1/kv/same", Some(("if-match", "\"0000000000000001\""))),
        ("GET", "/v1/kv/%7Bsame%7Dnot-there", None),
        ("GET", "/v1/kv?prefix=same", None),
        ("DELETE", "/v1/kv/%7Bsame%7Dnot-there", None),
        ("DELETE", "/v1/kv/same", Some(("if-match", "\"0000000000000001\""))),
        ("GET", "/v1/kv/same?unknown=1", None),
    ];
    for (method, target, header) in requests {
        let mut replies = Vec::new();
        for http in [&leader, &other] {
            let mut call = http.call(method, target);
            if let Some((name, value)) = header {
                call = call.header(name, value);
            }
            replies.push(call.send().await);
        }
        let (direct, forwarded) = (&replies[0], &replies[1]);
        assert_eq!(
            (direct.status, comparable(direct), &direct.body),
            (forwarded.status, comparable(forwarded), &forwarded.body),
            "{method} {target}"
        );
        if target.starts_with("/v1/kv/") && direct.header("kv-served-by").is_some() {
            assert_eq!(direct.header("kv-served-by"), forwarded.header("kv-served-by"), "the leader served both");
        }
    }
    let stale = other.get("/v1/kv/same?consistency=stale").send().await.expect(200);
    assert_eq!(stale.header("kv-consistency"), Some("stale"));
    let age = stale.header("kv-staleness-ms").expect("a stale answer has an age");
    assert!(age == "unknown" || age.parse::<u64>().is_ok_and(|age| age < 60_000), "{age}");
}

async fn a_request_that_must_not_be_forwarded_names_the_leader(cluster: &Cluster) {
    let key = "%7Bsame%7D/../a%2Fb%20c";
    let (leader, other) = leader_and_other(cluster, key).await;
    let target = format!("/v1/kv/{key}?forward=never&timeout=2s");
    for method in ["GET", "PUT", "DELETE"] {
        let reply = match method {
            "PUT" => other.put(&target, "x").send().await,
            _ => other.call(method, &target).send().await,
        };
        let reply = reply.expect(421);
        assert_eq!((reply.code().as_str(), reply.header("kv-leader")), ("wrong-node", Some(leader.address.as_str())));
        assert_eq!(reply.header("location"), Some(format!("http://{}{target}", leader.address).as_str()));
        assert_eq!(
            (&reply.json()["outcome"], reply.json()["leader"].as_str()),
            (&"not_applied".into(), Some(leader.address.as_str()))
        );
    }
    leader.put(&target, "x").send().await.expect(204);
    assert_eq!(leader.get(&target).send().await.expect(200).body, "x");
}

pub(super) async fn pages(http: &Http, query: &str, limit: usize) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = http.get(format!("/v1/kv?{query}&limit={limit}{cursor}")).send().await.expect(200).json();
        assert!(page["isolation"].as_str().unwrap().ends_with("-per-shard-and-page"));
        let rows = page["items"].as_array().unwrap();
        assert!(rows.len() <= limit);
        items.extend(rows.clone());
        let Some(next) = page["next_cursor"].as_str() else { return items };
        assert!(!rows.is_empty(), "a page that is not the last goes on");
        cursor = format!("&cursor={next}");
    }
}

async fn pages_make_up_the_whole_set(cluster: &Cluster) {
    let http = cluster.http(0);
    let mut keys: Vec<Vec<u8>> = (0..60_u32).map(|number| format!("scan/{number:03}").into_bytes()).collect();
    keys.push(b"scan/\x00".to_vec());
    keys.push(b"scan/\xff\xff".to_vec());
    for key in &keys {
        http.put(path_of(key), key.clone()).send().await.expect(204);
    }
    for outside in ["/v1/kv/scan", "/v1/kv/scan0", "/v1/kv/scam"] {
        http.put(outside, "outside").send().await.expect(204);
    }
    keys.sort();
    let key_of = |item: &Value| match item["key"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => {
            use base64::Engine;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(item["key_b64"].as_str().unwrap()).unwrap()
        }
    };
    let whole = pages(http, "prefix=scan/", 10_000).await;
    assert_eq!(whole.iter().map(key_of).collect::<Vec<_>>(), keys, "in order, and nothing else");
    for limit in [1, 7, 61, 62, 63] {
        assert_eq!(pages(cluster.http(1), "prefix=scan/", limit).await, whole, "pages of {limit}");
    }
    assert_eq!(pages(http, "start=scan/&end=scan0", 13).await, whole, "the same by its ends");
    for consistency in ["lease", "stale"] {
        let first = http.get(format!("/v1/kv?prefix=scan/&limit=1&consistency={consistency}")).send().await.expect(200);
        assert!(first.header("kv-consistency").is_some());
        assert_eq!(first.header("kv-staleness-ms").is_some(), consistency == "stale");
    }
    let keys_only = pages(http, "prefix=scan/&keys_only=true", 20).await;
    assert!(keys_only.iter().all(|item| item.get("value").is_none() && item["size"].as_u64().unwrap() >= 6));
    assert_eq!(keys_only.len(), whole.len());

    let page = http.get("/v1/kv?prefix=scan/&limit=5").send().await.expect(200).json();
    let cursor = page["next_cursor"].as_str().expect("there is more");
    for other in ["prefix=scan", "prefix=other/", "start=scan/", ""] {
        let refused = http.get(format!("/v1/kv?{other}&cursor={cursor}")).send().await.expect(400);
        assert_eq!((refused.code().as_str(), refused.json()["parameter"].as_str()), ("bad-parameter", Some("cursor")));
    }
    // A tag in the prefix fixes the shard; the answer is the same as from all of them.
    for number in 0..5 {
        http.put(format!("/v1/kv/%7Btagged%7D/{number}"), "x").send().await.expect(204);
    }
    assert_eq!(pages(http, "prefix=%7Btagged%7D/", 2).await.len(), 5);
    assert_eq!(pages(http, "start=%7Btagged%7D/&end=%7Btagged%7D0", 2).await.len(), 5);
}

async fn the_cluster_can_be_looked_at(cluster: &Cluster) {
    let http = cluster.http(1);
    let map = http.get("/v1/shardmap").send().await.expect(200);
    http.get("/v1/shardmap").header("if-none-match", etag(&map)).send().await.expect(304);
    let map = map.json();
    assert_eq!((map["shards"].as_array().unwrap().len(), map["nodes"].as_object().unwrap().len()), (4, 3));

    let place = http.get("/v1/admin/route?key=same").send().await.expect(200).json();
    let (leader, _) = leader_and_other(cluster, "same").await;
    assert_eq!(place["leader_http"], leader.address.as_str());
    assert_eq!(place, http.get("/v1/admin/route?key_b64=c2FtZQ").send().await.expect(200).json());
    let id = place["shard"].as_str().expect("an id is a string");
    let shard = http.get(format!("/v1/admin/shards/{id}")).send().await.expect(200).json();
    assert_eq!((&shard["range"], &shard["leader"]), (&place["range"], &place["leader"]));
    let roles: Vec<&str> =
        shard["replicas"].as_array().unwrap().iter().map(|replica| replica["role"].as_str().unwrap()).collect();
    assert_eq!((roles.len(), roles.iter().filter(|role| **role == "leader").count()), (3, 1), "{roles:?}");
    assert_eq!(http.get("/v1/admin/shards").send().await.expect(200).json()["shards"].as_array().unwrap().len(), 5);
    for id in ["99", "x", "-1"] {
        assert_eq!(http.get(format!("/v1/admin/shards/{id}")).send().await.expect(404).code(), "no-such-shard");
    }
    let overview = http.get("/v1/admin/cluster").send().await.expect(200).json();
    assert_eq!((overview["nodes"].as_u64(), overview["shards"].as_u64()), (Some(3), Some(4)));
    assert_eq!(overview["cluster"], map["cluster"]);
    let status = http.get("/v1/status").send().await.expect(200).json();
    assert_eq!((&status["cluster"], status["draining"].as_bool()), (&map["cluster"], Some(false)));

    http.get("/livez").send().await.expect(200);
    let ready = http.get("/readyz?verbose").send().await.expect(200).json();
    assert!(ready["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true));
    assert_eq!(http.get("/version").send().await.expect(200).json()["name"], "ringraft");
    assert_eq!(http.get("/openapi.json").send().await.expect(200).json()["openapi"], "3.1.0");
    let metrics = http.get("/metrics").send().await.expect(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        metrics.contains(r#"ringraft_http_requests_total{route="/v1/shardmap",method="GET",status="304"} 1"#),
        "{metrics}"
    );
    assert!(metrics.contains("ringraft_groups_without_leader 0"), "{metrics}");
}

async fn nodes_that_are_gone_are_shown_as_such(cluster: &mut Cluster) {
    cluster.nodes[2].kill().await;
    let nodes = cluster.http(0).get("/v1/admin/nodes").send().await.expect(200).json();
    let answers: Vec<bool> =
        nodes["nodes"].as_array().unwrap().iter().map(|node| node["answers"].as_bool().unwrap()).collect();
    assert_eq!(answers.iter().filter(|answers| **answers).count(), 2, "{nodes}");
    let shards = cluster.http(0).get("/v1/admin/shards").send().await.expect(200).json();
    let silent = shards["shards"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|shard| shard["replicas"].as_array().unwrap().iter().any(|replica| replica["role"] == "silent"));
    assert_eq!(silent.count(), 5, "{shards}");
}
