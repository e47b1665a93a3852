//! Whole commands against canned answers.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::cli::args::{Args, Command};
use crate::cli::testing::{Canned, Captured, Received, Server, problem};
use crate::transport::dial::TcpNet;

fn status() -> Canned {
    Canned::answer(200, &[], r#"{"cluster":"c","limits":{"value_bytes_max":10}}"#)
}

fn page(items: &[Value], next: Option<&str>) -> Canned {
    Canned::answer(200, &[], json!({"items": items, "next_cursor": next}).to_string())
}

fn item(key: &str, value: &str) -> Value {
    json!({"key": key, "revision": "000000000000000a", "content_type": "a/b", "size": value.len(), "value": value})
}

fn absent() -> Canned {
    problem(404, "key-not-found", "")
}

/// Runs one command line against canned answers; how it ended, what it printed, what the server was sent.
async fn run(line: &[&str], answers: Vec<Canned>) -> (Result<(), Failure>, String, Vec<Received>) {
    let server = Server::start(answers).await;
    let args = Args::try_parse_from([&["ringraft"], line].concat()).unwrap();
    let client = Client::new(Arc::new(TcpNet), vec![server.endpoint().clone()], None);
    let captured = Captured::default();
    let printer = &mut Printer::new(args.client.output(), Box::new(captured.clone()));
    let stop = CancellationToken::new();
    let result = match args.command {
        Command::Import(args) => match Session::begin(&client, args.pace.retry_for, stop).await {
            Ok(session) => import::run(&session, &args, printer).await,
            Err(failure) => Err(failure),
        },
        Command::Export(args) => match Session::begin(&client, args.pace.retry_for, stop).await {
            Ok(session) => export::run(&session, &args, printer).await,
            Err(failure) => Err(failure),
        },
        other => panic!("{other:?} is not tested here"),
    };
    (result, captured.text(), server.requests())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn summary(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn a_tree_is_checked_against_the_server_s_own_limit_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("fits"), "0123456789").unwrap();
    fs::write(folder.path().join("large"), "0123456789a").unwrap();
    let (result, _, sent) = run(&["import", path(folder.path()), "--prefix", "p/"], vec![status()]).await;
    let failure = result.unwrap_err();
    assert_eq!((failure.exit(), sent.len()), (Exit::Other, 1), "{failure}");
    assert!(failure.to_string().starts_with("1 of 2 files cannot be stored"), "{failure}");

    let answers = vec![status(), page(&[], None), Canned::status(201)];
    let line = ["import", path(folder.path()), "--prefix", "p/", "--skip", "-o", "json"];
    let (result, out, sent) = run(&line, answers).await;
    result.unwrap();
    assert_eq!(sent.last().unwrap().line, "PUT /v1/kv/p/fits");
    let summary = summary(&out);
    assert_eq!((&summary["written"], &summary["complete"]), (&json!(1), &json!(true)));
    assert_eq!(summary["left_out"][0]["name"], "large");
}

#[tokio::test]
async fn what_the_scan_shows_to_be_of_another_size_is_replaced_and_what_is_equal_is_left() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "same").unwrap();
    fs::write(folder.path().join("b"), "other").unwrap();
    let known = page(&[item("p/a", "same"), item("p/b", "old")], None);
    let answers =
        vec![status(), known, Canned::answer(200, &[("etag", "\"000000000000000a\"")], "same"), Canned::status(204)];
    let line = ["import", path(folder.path()), "--prefix", "p/", "--jobs", "1", "-o", "json"];
    let (result, out, sent) = run(&line, answers).await;
    result.unwrap();
    let lines: Vec<&str> = sent[2..].iter().map(|request| request.line.as_str()).collect();
    assert_eq!(lines, ["GET /v1/kv/p/a", "PUT /v1/kv/p/b"]);
    assert_eq!(sent[3].header("if-match"), Some("\"000000000000000a\""));
    assert_eq!((&summary(&out)["written"], &summary(&out)["unchanged"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_write_that_is_refused_for_good_ends_the_import_with_the_name_and_the_account() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let refused = problem(413, "too-large", r#""outcome":"not_applied","retryable":false"#);
    let answers = vec![status(), page(&[], None), Canned::status(201), refused];
    let line = ["import", path(folder.path()), "--prefix", "", "--jobs", "1", "-o", "json"];
    let (result, out, sent) = run(&line, answers).await;
    let Err(Failure::Unfinished { what, exit, advice }) = result else { panic!("{result:?}") };
    assert!(what.starts_with("b: too-large (413") && advice.starts_with("1 of 3 files are stored"), "{what}; {advice}");
    assert_eq!((exit, sent.len(), &summary(&out)["complete"]), (Exit::Other, 4, &json!(false)));
}

#[tokio::test]
async fn a_write_that_stays_in_doubt_is_6() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "a").unwrap();
    let line = ["import", path(folder.path()), "--prefix", "", "--retry-for", "100ms"];
    let (result, _, _) = run(&line, vec![status(), page(&[], None), Canned::Cut]).await;
    let Err(Failure::Unfinished { exit, advice, .. }) = result else { panic!("{result:?}") };
    assert!(exit == Exit::OutcomeUnknown && advice.contains("1 more may be stored"), "{advice}");
    let unavailable = problem(503, "no-quorum", r#""outcome":"not_applied","retryable":true"#);
    let (result, _, _) = run(&line, vec![status(), page(&[], None), unavailable]).await;
    assert_eq!(result.unwrap_err().exit(), Exit::Unavailable);
}

#[tokio::test]
async fn something_that_is_no_node_or_is_not_there_is_said_at_once() {
    let line = ["import", "/", "--prefix", ""];
    for canned in [Canned::answer(200, &[], "<html>"), Canned::answer(200, &[], "{}"), Canned::status(404)] {
        let (result, _, sent) = run(&line, vec![canned]).await;
        assert_eq!((result.unwrap_err().exit(), sent.len()), (Exit::Other, 1));
    }
    let dead = crate::cli::testing::refusing_endpoint().await;
    let client = Client::new(Arc::new(TcpNet), vec![dead], None);
    let begun = Session::begin(&client, Duration::from_secs(600), CancellationToken::new());
    let failure = tokio::time::timeout(Duration::from_secs(10), begun).await.expect("without waiting").err().unwrap();
    assert_eq!(failure.exit(), Exit::Unavailable);
}

#[tokio::test]
async fn lines_of_one_key_are_stored_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    let lines: String = (0..20).map(|number| format!("{{\"key\":\"k\",\"value\":\"{number}\"}}\n")).collect();
    fs::write(&file, lines).unwrap();
    let mut answers = vec![status()];
    for _ in 0..20 {
        answers.extend([absent(), Canned::status(201)]);
    }
    let (result, _, sent) = run(&["import", "--ndjson", path(&file), "--prefix", "p/"], answers).await;
    result.unwrap();
    let bodies: Vec<String> = sent
        .iter()
        .filter(|sent| sent.line.starts_with("PUT "))
        .map(|sent| String::from_utf8(sent.body.clone()).unwrap())
        .collect();
    assert_eq!(bodies, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(sent[1..].iter().all(|sent| sent.line.ends_with("/v1/kv/p/k")));
}

#[tokio::test]
async fn a_bad_line_of_a_file_ends_it_first_and_skipped_is_named_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    fs::write(&file, "{\"key\":\"a\",\"value\":\"1\"}\n{}\n").unwrap();
    let (result, _, sent) = run(&["import", "--ndjson", path(&file)], vec![status()]).await;
    assert_eq!((result.unwrap_err().exit(), sent.len()), (Exit::Other, 1));
    let line = ["import", "--ndjson", path(&file), "--skip", "-o", "json"];
    let (result, out, _) = run(&line, vec![status(), absent(), Canned::status(201)]).await;
    result.unwrap();
    let left_out = summary(&out)["left_out"].clone();
    assert_eq!(left_out, json!([{"name": "line 2", "reason": "neither key nor key_b64 is given"}]));
}

#[tokio::test]
async fn an_export_writes_what_the_scan_gives_and_refuses_bad_names_before_it_makes_the_directory() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let bare = |key: &str| json!({"key": key, "revision": "0a", "content_type": "a/b", "size": 1});
    let line = ["export", path(&out), "--prefix", "p/"];
    let (result, _, sent) = run(&line, vec![status(), page(&[bare("p/../x"), bare("p/a")], None)]).await;
    let failure = result.unwrap_err();
    assert!(failure.exit() == Exit::Other && failure.to_string().starts_with("1 of 2 keys"), "{failure}");
    assert!(sent.len() == 2 && !out.exists());

    let first = page(&[item("p/../x", "0"), item("p/a", "1")], Some("c"));
    let answers = vec![
        status(),
        page(&[bare("p/../x"), bare("p/a"), bare("p/b/c")], None),
        first,
        // One that was written meanwhile, and one that no longer fits.
        page(&[item("p/b", "9"), item("p/b/c", "2"), item("p/new", "3")], None),
    ];
    let (result, text, _) = run(&[&line[..], &["--skip", "-o", "json"]].concat(), answers).await;
    result.unwrap();
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!((read("a"), read("b/c"), read("new")), ("1".to_string(), "2".to_string(), "3".to_string()));
    let names: Vec<String> = summary(&text)["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|out| out["name"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(names, ["p/../x", "p/b"]);
    assert!(!folder.path().join("x").exists());
}

#[tokio::test]
async fn lines_take_their_name_when_all_are_written_and_never_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    let line = ["export", "--ndjson", path(&file), "--prefix", "p/", "--retry-for", "50ms"];
    let answers = vec![status(), page(&[item("p/a", "1")], Some("c")), Canned::Cut];
    let (result, text, _) = run(&line, answers).await;
    assert_eq!(result.unwrap_err().exit(), Exit::Unavailable);
    assert_eq!(text, "", "the line that was written is gone, and none is told to be there");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let (result, _, _) = run(&line, vec![status(), page(&[item("p/a", "1")], None)]).await;
    result.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"content_type\":\"a/b\",\"key\":\"p/a\",\"value\":\"1\"}\n");
}
