//! Whole nodes in one process, over a network and on disks in memory: what a node answers before it is in a cluster.

use super::*;
use crate::api::testing::{Client, MemoryNet, POLL, soon};
use crate::storage::mem::MemDisk;

/// Node `number` of a cluster with one replica of each shard; the first one founds, the others know it.
fn parts(net: &MemoryNet, number: u64) -> NodeParts {
    let mut config = Config::default();
    config.cluster.bootstrap = number == 1;
    config.cluster.join = if number == 1 { Vec::new() } else { vec![peer(1)] };
    config.cluster.replication_factor = 1;
    config.cluster.shards = 1;
    config.http.listen = http(number);
    config.peer.listen = peer(number);
    NodeParts { config, disk: Arc::new(MemDisk::new(number)), net: Arc::new(net.clone()), clients: Handle::current() }
}

fn http(number: u64) -> String {
    format!("n{number}:http")
}

fn peer(number: u64) -> String {
    format!("n{number}:peer")
}

#[tokio::test]
async fn a_node_whose_seed_is_silent_answers_that_it_waits_and_serves_once_the_seed_has_taken_it_in() {
    let net = MemoryNet::default();
    let waiting = tokio::spawn(Node::start(parts(&net, 2), CancellationToken::new()));
    let mut client = Client::connect_soon(&net, &http(2)).await;
    assert_eq!((client.get("/livez").await.status, client.get("/version").await.status), (200, 200));
    let why = "this node is not in a cluster yet: n1:peer does not answer";
    soon("the reason", async {
        loop {
            let ready = client.get("/readyz?verbose").await;
            assert_eq!(ready.status, 503);
            if ready.json()["checks"][0]["missing"].as_str().unwrap().starts_with(why) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
    let refused = client.call("PUT", "/v1/kv/a").await;
    let problem = refused.json();
    assert_eq!(
        (refused.status, &problem["code"], &problem["outcome"]),
        (503, &"starting".into(), &"not_applied".into())
    );
    assert!(problem["detail"].as_str().unwrap().starts_with(why), "{problem}");
    assert!(!waiting.is_finished());

    let seed = Node::start(parts(&net, 1), CancellationToken::new()).await.unwrap().unwrap();
    soon("readiness", async {
        while client.get("/readyz").await.status != 200 {
            tokio::time::sleep(POLL).await;
        }
    })
    .await;
    assert_eq!(client.call("PUT", "/v1/kv/a").await.status, 204);
    assert_eq!(client.get("/v1/kv/a").await.status, 200);
    let joined = soon("the start", waiting).await.unwrap().unwrap().unwrap();
    soon("the stop", async {
        joined.stop().await;
        seed.stop().await;
    })
    .await;
    assert!(Client::connect(&net, &http(2)).await.is_err(), "a stopped node listens no more");
}

#[tokio::test]
async fn a_node_that_waits_for_its_seed_stops_at_once_and_closes_its_listeners() {
    let (net, stop) = (MemoryNet::default(), CancellationToken::new());
    let waiting = tokio::spawn(Node::start(parts(&net, 2), stop.clone()));
    let mut client = Client::connect_soon(&net, &http(2)).await;
    assert_eq!(client.get("/livez").await.status, 200);
    stop.cancel();
    assert!(soon("the stop", waiting).await.unwrap().unwrap().is_none());
    client.end().await;
    for address in [http(2), peer(2)] {
        soon("a refusal", async { while Client::connect(&net, &address).await.is_ok() {} }).await;
    }
}

async fn start(parts: &NodeParts) -> Result<Node, Error> {
    let parts = NodeParts {
        config: parts.config.clone(),
        disk: parts.disk.clone(),
        net: parts.net.clone(),
        clients: parts.clients.clone(),
    };
    soon("the start", Box::pin(Node::start(parts, CancellationToken::new())))
        .await
        .map(|started| started.expect("no stop"))
}

#[tokio::test]
async fn a_node_that_is_back_ends_when_a_seed_answers_for_another_cluster() {
    let net = MemoryNet::default();
    let mut ours = parts(&net, 1);
    soon("the stop", start(&ours).await.unwrap().stop()).await;
    let mut theirs = parts(&net, 2);
    (theirs.config.cluster.bootstrap, theirs.config.cluster.join) = (true, Vec::new());
    let other = start(&theirs).await.unwrap();
    ours.config.cluster.join = vec![peer(2)];
    // The answer may come while it opens or when it serves.
    let error = match start(&ours).await {
        Ok(mut node) => {
            let error = soon("the answer", node.wrong_cluster()).await;
            soon("the stop", node.stop()).await;
            error
        }
        Err(error) => error,
    };
    let said = error.to_string();
    assert!(matches!(error, Error::WrongCluster { .. }), "{said}");
    assert!(said.contains(&peer(2)), "{said}");
    soon("the stop", other.stop()).await;
}
