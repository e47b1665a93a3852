//! Whole runs against a cluster of one process.

use super::super::client::Endpoint;
use super::super::exit::Exit;
use super::super::testing::{Captured, refusing_endpoint};
use super::testing::{Fake, settings};
use super::*;
use crate::transport::dial::TcpNet;

async fn run_at(endpoint: Endpoint, line: &str, format: Output) -> (Result<(), Failure>, String) {
    let client = Client::new(Arc::new(TcpNet), vec![endpoint], None);
    let captured = Captured::default();
    let printer = &mut Printer::new(format, Box::new(captured.clone()));
    let result = bench(&client, settings(line), printer, &mut Watch::new(false), Stop::default()).await;
    (result, captured.text())
}

async fn report(fake: &Fake, line: &str) -> Value {
    let (result, text) = run_at(fake.endpoint(), line, Output::Json).await;
    result.unwrap();
    serde_json::from_str(&text).unwrap()
}

async fn refusal(fake: &Fake, line: &str) -> (Exit, String) {
    let failure = run_at(fake.endpoint(), line, Output::Json).await.0.unwrap_err();
    (failure.exit(), failure.to_string())
}

fn names(value: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(members) = value.as_object() {
        for (name, value) in members {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            names(value, &path, found);
            found.push(path);
        }
    }
}

#[tokio::test]
async fn a_run_sends_what_it_says_and_leaves_nothing() {
    let fake = Fake::start().await;
    fake.put("other", "kept");
    let report = report(&fake, "mixed --keys 50 --requests 400 --clients 4 --read-percent 25 --seed 3").await;
    let count = |name: &str| report["requests"][name].as_u64().unwrap();
    assert_eq!((count("sent"), count("succeeded"), count("failed"), count("not_started")), (400, 400, 0, 0));
    let (puts, gets) = (&report["latency_ms"]["put"]["count"], &report["latency_ms"]["get"]["count"]);
    let (puts, gets) = (puts.as_u64().unwrap(), gets.as_u64().unwrap());
    // Loaded keys, and one to see whether its length is taken.
    assert_eq!((fake.requests("PUT"), fake.requests("GET")), (puts + 50 + 1, gets));
    assert!((60..140).contains(&gets), "{gets}");
    assert_eq!(fake.requests("DELETE"), 50);
    assert_eq!(fake.keys(), ["other"]);
    assert_eq!((&report["load"]["keys"], &report["cleanup"]["keys"]), (&50.into(), &50.into()));
    assert_eq!((report["seed"].as_str(), report["loop"].as_str()), (Some("3"), Some("closed")));
    assert!(report["throughput_per_second"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn the_members_of_the_report_have_their_names() {
    let fake = Fake::start().await;
    let report = report(&fake, "mixed --keys 5 --requests 50 --rate 1000 --zipf 0.9").await;
    let mut found = Vec::new();
    names(&report, "", &mut found);
    found.sort();
    let mut wanted: Vec<String> =
        "cleanup cleanup.foreign_keys_left cleanup.keys errors interrupted latency_ms latency_ms.all \
        latency_ms.failed latency_ms.get latency_ms.put load load.keys load.seconds loop requests requests.failed \
        requests.not_started requests.redirects requests.sent requests.succeeded requests.warmup seconds seed settings \
        settings.arrivals settings.clients settings.consistency settings.duration_seconds settings.keys \
        settings.outstanding_max settings.prefix settings.rate_per_second settings.read_percent settings.requests \
        settings.route settings.value_bytes_max settings.value_bytes_min settings.warmup_seconds settings.zipf \
        start_delay_ms throughput_per_second version warnings workload writes writes.acknowledged writes.not_applied \
        writes.unknown wrong_values"
            .split_whitespace()
            .map(str::to_string)
            .collect();
    for latencies in ["latency_ms.all", "latency_ms.get", "latency_ms.put", "start_delay_ms"] {
        let percentiles = ["count", "max", "mean", "min", "p50", "p90", "p99", "p999"];
        wanted.extend(percentiles.iter().map(|name| format!("{latencies}.{name}")));
    }
    wanted.sort();
    assert_eq!(found, wanted);
}

/// Requests per second and length of the stall: 100 of the 300 requests fall into it.
const STALL: Duration = Duration::from_millis(500);

async fn with_a_stall(line: &str) -> Value {
    let fake = Fake::start().await;
    let stall = async {
        while fake.requests("PUT") < 60 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fake.stall(STALL).await;
    };
    tokio::join!(report(&fake, line), stall).0
}

#[tokio::test]
async fn a_stall_shows_in_the_latencies_of_an_open_loop_and_hides_in_those_of_a_closed_one() {
    // Only four may be outstanding, so that most of what falls due in the stall waits in the generator.
    let open = with_a_stall("put --rate 200 --requests 300 --outstanding 4").await;
    let ms = |report: &Value, name: &str| report["latency_ms"]["all"][name].as_f64().unwrap();
    assert_eq!(open["requests"]["succeeded"], 300);
    // A third fell due in the stall, and waited for 250 ms in the mean: a sixth of all waited longer than that.
    assert!(ms(&open, "p90") > 200.0, "{open}");
    assert!(ms(&open, "p99") > 400.0, "{open}");
    assert!(open["start_delay_ms"]["p90"].as_f64().unwrap() > 150.0, "it was the generator that was late: {open}");
    let closed = with_a_stall("put --requests 3000 --clients 4").await;
    assert!(ms(&closed, "max") > 400.0, "{closed}");
    assert!(ms(&closed, "p99") < 200.0, "four requests of 3,000 saw it: {closed}");
}

#[tokio::test]
async fn keys_are_kept_when_asked_and_found_again() {
    let fake = Fake::start().await;
    let first = report(&fake, "get --keys 20 --requests 10 --keep --prefix p/").await;
    assert_eq!((&first["cleanup"], &first["load"]["keys"]), (&Value::Null, &20.into()));
    assert_eq!(fake.keys().len(), 21, "and the marker");
    let again = report(&fake, "get --keys 30 --requests 10 --keep --prefix p/").await;
    assert_eq!(again["load"]["keys"], 10, "only those that are new");
    let last = report(&fake, "get --keys 30 --requests 10 --prefix p/").await;
    assert_eq!((&last["load"], &last["cleanup"]["keys"]), (&Value::Null, &30.into()));
    assert_eq!(fake.keys(), [""; 0]);
}

#[tokio::test]
async fn a_prefix_that_is_not_its_own_is_left_alone() {
    let fake = Fake::start().await;
    fake.put("p/mine", "precious");
    let (exit, why) = refusal(&fake, "put --requests 5 --prefix p/").await;
    assert!(exit == Exit::Usage && why.contains("no bench made"), "{why}");
    fake.put("q/run", "a key of this name");
    let (exit, why) = refusal(&fake, "put --requests 5 --prefix q/").await;
    assert!(exit == Exit::Usage && why.contains("is not a bench's"), "{why}");
    assert_eq!((fake.keys(), fake.requests("PUT")), (vec!["p/mine".to_string(), "q/run".to_string()], 0));
    fake.put("r/run", r#"{"tool": "ringraft bench", "state": "running", "keys": 0}"#);
    fake.put("r/0000000001", "left by a run that was killed");
    let (exit, why) = refusal(&fake, "put --requests 5 --prefix r/").await;
    assert!(exit == Exit::Usage && why.contains("--take-over"), "{why}");
    report(&fake, "put --requests 5 --prefix r/ --take-over").await;
    assert_eq!(fake.keys(), ["p/mine", "q/run"]);
}

#[tokio::test]
async fn a_key_that_no_run_made_survives_the_removal() {
    let fake = Fake::start().await;
    report(&fake, "put --requests 5 --keep --prefix p/").await;
    fake.put("p/42", "put there meanwhile");
    let last = report(&fake, "put --requests 5 --prefix p/").await;
    assert_eq!(last["cleanup"]["foreign_keys_left"], 1);
    assert_eq!(fake.keys(), ["p/42"]);
    assert!(fake.value("p/42").is_some());
}

#[tokio::test]
async fn a_run_of_which_nothing_succeeds_fails_as_its_first_request_did() {
    let fake = Fake::start().await;
    report(&fake, "get --keys 5 --requests 5 --keep").await;
    fake.refuse(503, serde_json::json!({ "code": "overloaded", "outcome": "not_applied" }));
    let (result, text) = run_at(fake.endpoint(), "get --keys 5 --requests 8 --keep", Output::Table).await;
    let failure = result.unwrap_err();
    assert_eq!(failure.exit(), Exit::Unavailable);
    assert!(failure.to_string().contains("no request succeeded") && failure.to_string().contains("overloaded"));
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(lines.contains(&vec!["overloaded", "503", "8"]), "{text}");
}

#[tokio::test]
async fn values_longer_than_the_cluster_takes_end_the_run_before_it_begins() {
    let fake = Fake::start().await;
    let detail = "a value has at most 1048576 bytes";
    fake.refuse(413, serde_json::json!({ "code": "too-large", "outcome": "not_applied", "detail": detail }));
    let (exit, why) = refusal(&fake, "put --requests 5 --value-size 2MiB").await;
    assert!(exit == Exit::Other && why.contains("too-large") && why.contains(detail), "{why}");
    assert_eq!((fake.requests("PUT"), fake.keys()), (1, vec![]), "nothing is left either");
}

#[tokio::test]
async fn a_wrong_endpoint_is_told_before_anything_is_sent() {
    for route in ["leader", "any"] {
        let line = format!("put --requests 5 --route {route}");
        let (result, text) = run_at(refusing_endpoint().await, &line, Output::Json).await;
        let failure = result.unwrap_err();
        assert_eq!((failure.exit(), text.as_str()), (Exit::Unavailable, ""));
        assert!(failure.to_string().contains("connection refused"), "{failure}");
    }
}

#[tokio::test]
async fn a_run_that_is_stopped_tells_what_it_found_and_removes_its_keys() {
    let fake = Fake::start().await;
    let client = Client::new(Arc::new(TcpNet), vec![fake.endpoint()], None);
    let captured = Captured::default();
    let printer = &mut Printer::new(Output::Json, Box::new(captured.clone()));
    let (watch, stop) = (&mut Watch::new(false), Stop::default());
    let run = bench(&client, settings("put --duration 60m --warmup 0s"), printer, watch, stop.clone());
    let stopped = async {
        while fake.requests("PUT") < 50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.in_order.cancel();
    };
    tokio::join!(run, stopped).0.unwrap();
    let report: Value = serde_json::from_str(&captured.text()).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(report["requests"]["succeeded"].as_u64().unwrap() >= 40, "{report}");
    assert_eq!(fake.keys(), [""; 0]);
}

#[tokio::test]
async fn a_run_that_is_told_to_leave_its_keys_still_tells_its_figures_once() {
    for format in [Output::Json, Output::Table] {
        let fake = Fake::start().await;
        let client = Client::new(Arc::new(TcpNet), vec![fake.endpoint()], None);
        let captured = Captured::default();
        let printer = &mut Printer::new(format, Box::new(captured.clone()));
        let (watch, stop) = (&mut Watch::new(false), Stop::default());
        // As a second signal during the removal does.
        stop.at_once.cancel();
        let failure = bench(&client, settings("put --requests 20"), printer, watch, stop).await.unwrap_err();
        assert!(failure.exit() == Exit::Other && failure.to_string().contains("--take-over"), "{failure}");
        let text = captured.text();
        if format == Output::Json {
            let report: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&report["requests"]["succeeded"], &report["cleanup"]), (&20.into(), &Value::Null));
        } else {
            assert_eq!(text.matches("closed loop of 16 clients").count(), 1, "{text}");
        }
        assert_eq!(fake.requests("DELETE"), 0);
        assert!(fake.keys().contains(&"ringraft-bench/run".to_string()), "{:?}", fake.keys());
    }
}

#[tokio::test]
async fn keys_that_were_kept_before_are_not_forgotten_by_a_run_that_fails() {
    let fake = Fake::start().await;
    report(&fake, "get --keys 20 --requests 10 --keep --prefix p/").await;
    fake.refuse(413, serde_json::json!({ "code": "too-large", "outcome": "not_applied" }));
    let (_, why) = refusal(&fake, "get --keys 30 --requests 10 --keep --prefix p/").await;
    assert!(why.contains("too-large"), "{why}");
    let marker: Value = serde_json::from_slice(&fake.value("p/run").unwrap()).unwrap();
    assert_eq!((marker["state"].as_str(), marker["keys"].as_u64()), (Some("kept"), Some(20)));
}
