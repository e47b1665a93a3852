//! What a node tells of itself: where a request's time went, and its metrics, held against what was asked of it.

use std::collections::BTreeMap;
use std::time::Duration;

use raft_tests::cluster::{Cluster, Plan};
use raft_tests::http::{Http, Reply};

use super::leader_and_other;

#[tokio::test]
async fn metrics_and_timings_agree_with_what_was_asked() {
    let mut cluster = Cluster::start(Plan::default()).await;
    cluster.wait_until_settled().await;
    the_time_of_a_request_is_told_on_request(&cluster).await;
    reads_are_counted_where_and_how_they_are_served(&cluster).await;
    writes_pass_through_what_is_measured(&cluster).await;
    shards_have_series_on_request_alone(&cluster).await;
    a_group_that_lost_a_node_is_short_of_a_voter(&mut cluster).await;
}

/// `Server-Timing` as milliseconds by stage, in order.
fn timings(reply: &Reply) -> Vec<(String, f64)> {
    let header = reply.header("server-timing").unwrap_or_else(|| panic!("no server-timing: {reply:?}"));
    let part = |part: &str| {
        let (name, time) = part.split_once(";dur=").unwrap_or_else(|| panic!("{header}"));
        (name.to_string(), time.parse().unwrap())
    };
    header.split(", ").map(part).collect()
}

fn names(timings: &[(String, f64)]) -> Vec<&str> {
    timings.iter().map(|(name, _)| name.as_str()).collect()
}

async fn the_time_of_a_request_is_told_on_request(cluster: &Cluster) {
    let (leader, other) = leader_and_other(cluster, "timed").await;
    let put = leader.put("/v1/kv/timed?trace=true", "value").send().await.expect(204);
    let told = timings(&put);
    assert_eq!(names(&told), ["queue", "fsync", "quorum", "apply", "total"]);
    let (total, stages) = told.split_last().unwrap();
    let sum: f64 = stages.iter().map(|(_, time)| time).sum();
    // A thousandth for each that was rounded.
    assert!(sum <= total.1 + 0.005, "{told:?}");
    assert!(stages[1].1 > 0.0, "a sync takes time: {told:?}");

    let forwarded = other.put("/v1/kv/timed?trace", "value").send().await.expect(204);
    assert_eq!(names(&timings(&forwarded)), ["forward", "queue", "fsync", "quorum", "apply", "total"]);
    let read = leader.get("/v1/kv/timed?trace=true").send().await.expect(200);
    assert_eq!(names(&timings(&read)), ["quorum", "apply", "read", "total"]);
    let read = other.get("/v1/kv/timed?trace=true").send().await.expect(200);
    assert_eq!(names(&timings(&read)), ["forward", "quorum", "apply", "read", "total"]);
    let page = other.get("/v1/kv?prefix=timed&consistency=stale&trace=true").send().await.expect(200);
    assert_eq!(names(&timings(&page)), ["read", "total"]);
    // An error has taken its time too.
    let missing = leader.get("/v1/kv/%7Btimed%7Dnot-there?trace=true").send().await.expect(404);
    assert_eq!(names(&timings(&missing)), ["quorum", "apply", "read", "total"]);
    let untold = leader.get("/v1/kv/timed?trace=false").send().await.expect(200);
    assert!(untold.header("server-timing").is_none());
}

/// Samples by name and labels, as they stand in the text.
async fn scrape(http: &Http, target: &str) -> BTreeMap<String, f64> {
    let reply = http.get(target).send().await.expect(200);
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(text.ends_with("# EOF\n"), "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (name.to_string(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        })
        .collect()
}

/// Of all nodes that run.
async fn sum(cluster: &Cluster, sample: &str) -> f64 {
    let mut sum = 0.0;
    for (place, node) in cluster.nodes.iter().enumerate() {
        if node.pid().is_some() {
            let samples = scrape(cluster.http(place), "/metrics").await;
            sum += samples.get(sample).unwrap_or_else(|| panic!("{sample} is missing in {samples:?}"));
        }
    }
    sum
}

async fn reads_are_counted_where_and_how_they_are_served(cluster: &Cluster) {
    let (leader, other) = leader_and_other(cluster, "counted").await;
    leader.put("/v1/kv/counted", "value").send().await.expect(204);
    let paths = ["read_index", "lease", "stale"].map(|path| format!(r#"ringraft_reads_total{{path="{path}"}}"#));
    let mut before = Vec::new();
    for path in &paths {
        before.push((sum(cluster, path).await, scrape(&leader, "/metrics").await[path]));
    }
    for _ in 0..5 {
        other.get("/v1/kv/counted").send().await.expect(200);
        leader.get("/v1/kv/counted?consistency=stale&forward=never").send().await.expect(200);
        let lease = leader.get("/v1/kv/counted?consistency=lease&forward=never").send().await.expect(200);
        assert_eq!(lease.header("kv-consistency"), Some("lease"));
    }
    for (path, (all, at_leader)) in paths.iter().zip(before) {
        let now = (sum(cluster, path).await, scrape(&leader, "/metrics").await[path]);
        assert_eq!(now, (all + 5.0, at_leader + 5.0), "{path}");
    }
    let at_other = scrape(&other, "/metrics").await;
    let operation = r#"ringraft_operation_duration_seconds_count{operation="get",consistency="linearizable"}"#;
    assert!(at_other[operation] >= 5.0, "{at_other:?}");
}

async fn writes_pass_through_what_is_measured(cluster: &Cluster) {
    const WRITES: f64 = 20.0;
    let stage = |stage: &str| format!(r#"ringraft_write_stage_duration_seconds_count{{stage="{stage}"}}"#);
    let samples = [
        stage("queue"),
        stage("fsync"),
        stage("quorum"),
        stage("apply"),
        r#"ringraft_operation_duration_seconds_count{operation="put",consistency="none"}"#.to_string(),
        "ringraft_log_sync_duration_seconds_count".to_string(),
        r#"ringraft_peer_round_trip_seconds_count{lane="data"}"#.to_string(),
        "ringraft_apply_batch_entries_sum".to_string(),
    ];
    let mut before = Vec::new();
    for sample in &samples {
        before.push(sum(cluster, sample).await);
    }
    let (leader, _) = leader_and_other(cluster, "written").await;
    for number in 0..20 {
        leader.put(format!("/v1/kv/%7Bwritten%7D{number}"), vec![b'v'; 1000]).send().await.expect(204);
    }
    for (sample, before) in samples.iter().zip(before) {
        let more = sum(cluster, sample).await - before;
        // A write that the catalog made meanwhile counts too; every node applies, and a majority has synced.
        let expected = if sample.contains("operation") { WRITES..=WRITES } else { WRITES..=f64::MAX };
        assert!(expected.contains(&more), "{sample}: {more} more after {WRITES} writes");
    }
    for (sample, least) in [
        ("ringraft_disk_free_bytes", 1.0),
        ("ringraft_disk_size_bytes", 1.0),
        ("ringraft_storage_bytes", 1000.0),
        ("ringraft_compression_ratio", 0.1),
        ("ringraft_proposals_limit", 1.0),
        ("ringraft_leader_changes_total", 1.0),
        (r#"ringraft_build_info{version="0.1.0"}"#, 1.0),
    ] {
        assert!(scrape(&leader, "/metrics").await[sample] >= least, "{sample}");
    }
    for sample in ["ringraft_groups_without_leader", "ringraft_replicas_failed", "ringraft_groups_under_replicated"] {
        assert_eq!(sum(cluster, sample).await, 0.0, "{sample}");
    }
}

async fn shards_have_series_on_request_alone(cluster: &Cluster) {
    let of_shard = |samples: &BTreeMap<String, f64>| samples.keys().filter(|name| name.contains("shard=")).count();
    let plain = scrape(cluster.http(0), "/metrics").await;
    assert_eq!(of_shard(&plain), 0, "{plain:?}");
    let all = scrape(cluster.http(0), "/metrics?shards=true").await;
    // Six series for each of the meta group and four shards, every one of which has a replica here.
    assert_eq!(of_shard(&all), 6 * 5, "{all:?}");
    let leads = |samples: &BTreeMap<String, f64>| -> f64 {
        samples.iter().filter(|(name, _)| name.starts_with("ringraft_shard_is_leader")).map(|(_, value)| value).sum()
    };
    assert_eq!(leads(&all), all["ringraft_groups_led"]);
}

async fn a_group_that_lost_a_node_is_short_of_a_voter(cluster: &mut Cluster) {
    cluster.nodes[2].kill().await;
    let told = async {
        // The meta group and four shards have a replica on each of three nodes.
        while sum(cluster, "ringraft_groups_under_replicated").await < 5.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("groups short of a voter within 20 s");
}
