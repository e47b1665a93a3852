//! `ringraft bench` and `ringraft check disk` as their users run them: the program, against a cluster of real nodes.

use std::process::Stdio;
use std::time::Duration;

use raft_tests::cluster::{Cluster, Plan, binary};
use serde_json::Value;
use tokio::process::Command;

/// Far longer than any run here takes.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

async fn ringraft(line: &str) -> Ran {
    let run = Command::new(binary())
        .args(line.split_whitespace())
        .env_remove("RINGRAFT_ENDPOINTS")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(RUN_TIMEOUT, run).await.expect("the program ends").expect("the program starts");
    Ran {
        code: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Endpoints of all nodes, or of one.
fn endpoints(cluster: &Cluster, places: &[usize]) -> String {
    let addresses: Vec<_> = places.iter().map(|place| cluster.http(*place).address.clone()).collect();
    format!("--endpoints {}", addresses.join(","))
}

/// Requests for single keys that each node has answered so, by its own count.
async fn answered(cluster: &Cluster, method: &str, status: u16) -> Vec<u64> {
    let mut counts = Vec::new();
    for node in &cluster.nodes {
        let metrics = node.http.get("/metrics").send().await.expect(200).body;
        let text = String::from_utf8(metrics.to_vec()).unwrap();
        let labels = format!("method=\"{method}\",status=\"{status}\"}} ");
        let lines = text.lines().filter(|line| line.starts_with("ringraft_http_requests_total{route=\"/v1/kv/{key}\""));
        counts.push(lines.filter_map(|line| line.split_once(&labels)?.1.parse::<u64>().ok()).sum());
    }
    counts
}

async fn answered_by_all(cluster: &Cluster, method: &str, status: u16) -> u64 {
    answered(cluster, method, status).await.iter().sum()
}

async fn keys_below(cluster: &Cluster, prefix: &str) -> Vec<String> {
    let target = format!("/v1/kv?prefix={prefix}&limit=10000&keys_only=true");
    let page = cluster.http(0).get(target).send().await.expect(200).json();
    assert!(page["next_cursor"].is_null(), "one page is enough");
    page["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_string()).collect()
}

fn number(report: &Value, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} in {report}"))
}

#[tokio::test]
async fn a_cluster_is_measured() {
    let mut cluster = Cluster::start(Plan::default()).await;
    cluster.wait_until_settled().await;
    its_counts_are_those_of_the_nodes(&cluster).await;
    the_keys_that_it_keeps_are_there_and_read_again(&cluster).await;
    requests_go_to_the_leaders_or_to_the_node_that_was_named(&cluster).await;
    an_open_loop_accounts_for_all_that_was_due(&cluster).await;
    what_cannot_be_run_is_refused(&cluster).await;
    the_death_of_a_leader_is_seen_and_survived(&mut cluster).await;
}

async fn its_counts_are_those_of_the_nodes(cluster: &Cluster) {
    let before = (answered_by_all(cluster, "PUT", 204).await, answered_by_all(cluster, "GET", 200).await);
    let all = endpoints(cluster, &[0, 1, 2]);
    let report = ringraft(&format!("bench mixed --requests 2000 --keys 300 --clients 8 -o json {all}")).await.json();
    let (succeeded, failed) = (number(&report, "/requests/succeeded"), number(&report, "/requests/failed"));
    assert_eq!(succeeded + failed, 2000, "{report}");
    assert!(succeeded > 1000, "{report}");
    // When a leader changed meanwhile, a node may have answered what nobody waited for any more, and a key may have
    // been written and removed once more. Else each count is exact.
    let is_quiet = failed + number(&report, "/requests/redirects") == 0;
    let more_max = if is_quiet { 0 } else { failed + 8 };
    let within = |count: u64, least: u64| (least..=least + more_max).contains(&count);
    let puts = answered_by_all(cluster, "PUT", 204).await - before.0;
    let gets = answered_by_all(cluster, "GET", 200).await - before.1;
    // Besides what was measured: the keys and the longest value. The marker of the prefix was created with a 201.
    let measured = (number(&report, "/latency_ms/put/count"), number(&report, "/latency_ms/get/count"));
    assert!(within(puts, measured.0 + 300 + 1) && within(gets, measured.1), "{puts} {gets} {report}");
    assert_eq!((number(&report, "/writes/acknowledged"), measured.0 + measured.1), (measured.0, succeeded));
    assert_eq!(number(&report, "/load/keys"), 300);
    assert!(within(number(&report, "/cleanup/keys"), 300), "{report}");
    assert_eq!(keys_below(cluster, "ringraft-bench/").await, [""; 0]);
}

async fn the_keys_that_it_keeps_are_there_and_read_again(cluster: &Cluster) {
    let all = endpoints(cluster, &[0, 1, 2]);
    let line = format!("--keys 100 --value-size 10..2000 --prefix kept/ -o json {all}");
    let put = ringraft(&format!("bench put --requests 3000 --keep {line}")).await.json();
    assert_eq!((number(&put, "/writes/acknowledged"), &put["cleanup"]), (3000, &Value::Null));
    let mut wanted: Vec<String> = (0..100).map(|key| format!("kept/{key:010}")).collect();
    wanted.push("kept/run".to_string());
    assert_eq!(keys_below(cluster, "kept/").await, wanted, "3,000 writes reach each of 100 keys");
    let taken = ringraft(&format!("bench put --requests 5 --prefix kep {all}")).await;
    assert!(taken.code == 2 && taken.err.contains("no bench made"), "{}", taken.err);
    for consistency in ["linearizable", "lease", "stale"] {
        let line = format!("bench get --requests 300 --keep --zipf 0.99 --consistency {consistency} {line}");
        let get = ringraft(&line).await.json();
        assert_eq!((number(&get, "/requests/succeeded"), number(&get, "/wrong_values")), (300, 0), "{get}");
    }
    ringraft(&format!("bench get --requests 5 {line}")).await.json();
    assert_eq!(keys_below(cluster, "kept/").await, [""; 0]);
}

async fn requests_go_to_the_leaders_or_to_the_node_that_was_named(cluster: &Cluster) {
    let seen = async { while !are_seen_to_go_where_they_should(cluster).await {} };
    tokio::time::timeout(RUN_TIMEOUT, seen).await.expect("a time in which no leader changes");
}

/// The HTTP address of each shard's leader.
async fn leaders(cluster: &Cluster) -> Vec<Value> {
    let map = cluster.http(0).get("/v1/shardmap").send().await.expect(200).json();
    map["shards"].as_array().unwrap().iter().map(|shard| shard["leader_http"].clone()).collect()
}

/// Says false, and nothing of the requests, when a leader changed meanwhile.
async fn are_seen_to_go_where_they_should(cluster: &Cluster) -> bool {
    let one = endpoints(cluster, &[1]);
    let leaders_before = leaders(cluster).await;
    let leads = |place: usize| leaders_before.iter().any(|leader| *leader == cluster.http(place).address.as_str());
    let (misdirected, before) = (answered(cluster, "PUT", 421).await, answered(cluster, "PUT", 204).await);
    let direct = ringraft(&format!("bench put --requests 500 -o json {one}")).await.json();
    let (misdirected_after, after) = (answered(cluster, "PUT", 421).await, answered(cluster, "PUT", 204).await);
    let any = ringraft(&format!("bench put --route any --requests 500 -o json {one}")).await.json();
    let after_any = answered(cluster, "PUT", 204).await;
    if leaders(cluster).await != leaders_before {
        return false;
    }
    assert_eq!((number(&direct, "/requests/succeeded"), number(&direct, "/requests/redirects")), (500, 0), "{direct}");
    assert_eq!(misdirected_after, misdirected);
    for place in [0, 2] {
        // Those who lead and only those; node 1 takes the longest value too.
        assert_eq!(after[place] > before[place], leads(place), "{place}: {before:?} {after:?} {leaders_before:?}");
    }
    assert_eq!(number(&any, "/requests/succeeded"), 500);
    let wanted = [after[0], after[1] + 500 + 1, after[2]];
    assert_eq!(after_any, wanted, "with the longest value");
    true
}

async fn an_open_loop_accounts_for_all_that_was_due(cluster: &Cluster) {
    let all = endpoints(cluster, &[0, 1, 2]);
    let report = ringraft(&format!("bench mixed --rate 200 --duration 2s --warmup 500ms -o json {all}")).await.json();
    assert_eq!(number(&report, "/requests/sent") + number(&report, "/requests/not_started"), 400, "{report}");
    assert_eq!(number(&report, "/requests/warmup"), 100);
    assert!(report["seconds"].as_f64().unwrap() >= 1.9, "{report}");
}

async fn what_cannot_be_run_is_refused(cluster: &Cluster) {
    let all = endpoints(cluster, &[0, 1, 2]);
    for (line, code, says) in [
        ("bench put --clients 0", 2, "0 is not in 1"),
        ("bench put --rate 0", 2, "above 0"),
        ("bench put --rate 5 --clients 5", 2, "cannot be used with"),
        ("bench put --value-size 9MiB", 2, "8 MiB"),
        ("bench put --value-size 2MiB", 1, "too-large"),
        ("bench get --value-size 2MiB", 1, "too-large"),
    ] {
        let ran = ringraft(&format!("{line} {all}")).await;
        assert!(ran.code == code && ran.err.contains(says), "{line}: {} {}", ran.code, ran.err);
        assert_eq!(ran.out, "", "{line}");
    }
    let nobody = ringraft("bench put --endpoints 127.0.0.1:1").await;
    assert!(nobody.code == 5 && nobody.err.contains("connection refused"), "{} {}", nobody.code, nobody.err);
    assert_eq!(keys_below(cluster, "ringraft-bench/").await, [""; 0], "what was refused leaves nothing");
}

async fn the_death_of_a_leader_is_seen_and_survived(cluster: &mut Cluster) {
    let line = "bench put --rate 200 --duration 6s --warmup 0s --timeout 2s --keys 200 --prefix dies/ -o json";
    let line = format!("{line} {}", endpoints(cluster, &[0]));
    let kill = async {
        // The run is on its way once its keys are.
        let running = async {
            while keys_below(cluster, "dies/").await.len() < 50 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(RUN_TIMEOUT, running).await.expect("keys in time");
        cluster.nodes[2].kill().await;
    };
    let (ran, ()) = tokio::join!(ringraft(&line), kill);
    let report = ran.json();
    let (succeeded, failed) = (number(&report, "/requests/succeeded"), number(&report, "/requests/failed"));
    assert_eq!(succeeded + failed + number(&report, "/requests/not_started"), 1200, "{report}");
    assert!(failed > 0, "a leader that is gone is seen: {report}");
    assert!(succeeded > 600, "and the next one is found: {report}");
    assert_eq!(keys_below(cluster, "dies/").await, [""; 0], "the keys are removed with a node missing");
}

#[tokio::test]
async fn a_disk_is_checked_and_what_is_none_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let ran = ringraft(&format!("check disk {path} --appends 200 --writers 2 -o json")).await;
    let report: Value =
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {} {}", ran.out, ran.err));
    // How fast this machine's disk is, is not this test's business: that code and verdict agree, is.
    assert_eq!(ran.code == 0, report["verdict"] == "good", "{report}");
    assert_eq!(number(&report, "/appends"), 400);
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    let missing = ringraft(&format!("check disk {path}/missing")).await;
    assert!(missing.code == 1 && missing.err.contains("No such file"), "{} {}", missing.code, missing.err);
    let flag = ringraft(&format!("check disk {path} --endpoints a:1")).await;
    assert!(flag.code == 2 && flag.err.contains("no meaning"), "{} {}", flag.code, flag.err);
}
