//! `put`, `get`, `del` and `scan`.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, IF_MATCH, IF_NONE_MATCH};
use serde_json::{Value, json};

use super::args::{Consistency, DelArgs, GetArgs, Output, Precondition, PutArgs, ScanArgs};
use super::client::{Answer, Client, Request};
use super::exit::Failure;
use super::output::{self, Printer};
use super::target;

/// Rows asked for in one page of a scan.
const SCAN_PAGE_ROWS: u64 = 1000;
/// Columns of a scan's table.
const SCAN_COLUMNS: &[&str] = &["key", "key_b64", "revision", "size", "value", "value_b64"];

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");

pub(super) async fn put(client: &Client, args: &PutArgs, printer: &mut Printer) -> Result<(), Failure> {
    let target = target::of_key(&args.key.0, client.timeout_pair().as_slice());
    let mut request = Request::new(Method::PUT, target).body(value(args)?);
    if let Some(precondition) = &args.if_match {
        request = request.header(IF_MATCH, &etag(precondition))?;
    }
    if args.if_none_match {
        request = request.header(IF_NONE_MATCH, "*")?;
    }
    if let Some(content_type) = &args.content_type {
        request = request.header(CONTENT_TYPE, content_type)?;
    }
    if let Some(key) = &args.idempotency_key {
        request = request.header(IDEMPOTENCY_KEY, &quoted(key))?;
    }
    if printer.format() == Output::Json {
        request = request.header(PREFER, "return=representation")?;
    }
    let answer = client.send(&request).await?;
    match printer.format() {
        // The write is done whatever became of the body, so that its headers stand in for one that was lost.
        Output::Json if answer.json().is_ok() => printer.raw_json(&answer),
        Output::Json => printer.line(&written(&answer).to_string()),
        Output::Table => printer.line(&format!(
            "revision {}, shard {}",
            answer.revision().unwrap_or("unknown"),
            answer.header("kv-shard").unwrap_or("unknown")
        )),
    }
}

pub(super) async fn get(client: &Client, args: &GetArgs, printer: &mut Printer) -> Result<(), Failure> {
    let mut query = Vec::new();
    if let Some(consistency) = args.consistency {
        query.push(target::pair("consistency", consistency.name().as_bytes()));
    }
    query.extend(client.timeout_pair());
    let mut request = Request::get(target::of_key(&args.key.0, &query));
    if printer.format() == Output::Json {
        request = request.header(ACCEPT, "application/json")?;
    }
    let answer = client.send(&request).await?;
    if args.consistency == Some(Consistency::Stale) {
        // Standard output is the value and nothing else.
        let age = answer.header("kv-staleness-ms").unwrap_or("unknown");
        let from = answer.header("kv-served-by").unwrap_or("unknown");
        let text = format!("staleness {} ms, served by node {}\n", output::printable(age), output::printable(from));
        let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
    }
    match printer.format() {
        Output::Json => printer.raw_json(&answer),
        Output::Table => printer.emit(&answer.body),
    }
}

pub(super) async fn del(client: &Client, args: &DelArgs, printer: &mut Printer) -> Result<(), Failure> {
    let target = target::of_key(&args.key.0, client.timeout_pair().as_slice());
    let mut request = Request::new(Method::DELETE, target);
    if let Some(precondition) = &args.if_match {
        request = request.header(IF_MATCH, &etag(precondition))?;
    }
    if let Some(key) = &args.idempotency_key {
        request = request.header(IDEMPOTENCY_KEY, &quoted(key))?;
    }
    let answer = client.send(&request).await?;
    match printer.format() {
        Output::Json => printer.line(&written(&answer).to_string()),
        Output::Table => Ok(()),
    }
}

/// Follows the cursors to the end or the limit. With `-o json` each page is one line, as the server sent it.
pub(super) async fn scan(client: &Client, args: &ScanArgs, printer: &mut Printer) -> Result<(), Failure> {
    let mut left = args.limit;
    let mut cursor: Option<String> = None;
    let mut header = true;
    loop {
        let rows = left.map_or(SCAN_PAGE_ROWS, |left| left.min(SCAN_PAGE_ROWS));
        let request = Request::get(scan_target(client, args, rows, cursor.as_deref()));
        let answer = client.send(&request).await?;
        let page = answer.json()?;
        let items = output::list(&page, "items");
        match printer.format() {
            Output::Json => printer.line(&page.to_string())?,
            Output::Table => printer.emit(output::records(items, SCAN_COLUMNS, header).as_bytes())?,
        }
        header = header && items.is_empty();
        left = left.map(|left| left.saturating_sub(items.len() as u64));
        let next = page["next_cursor"].as_str().map(str::to_string);
        if next.is_none() || left == Some(0) {
            return Ok(());
        }
        if next == cursor {
            let reason = "the cursor of the next page is that of this one".to_string();
            return Err(Failure::BadAnswer { endpoint: answer.endpoint.to_string(), reason });
        }
        cursor = next;
    }
}

fn scan_target(client: &Client, args: &ScanArgs, rows: u64, cursor: Option<&str>) -> String {
    let bounds = [("prefix", &args.prefix), ("start", &args.start), ("end", &args.end)];
    let mut query: Vec<String> =
        bounds.into_iter().filter_map(|(name, bound)| Some(target::pair(name, bound.as_deref()?.as_bytes()))).collect();
    query.push(format!("limit={rows}"));
    if args.keys_only {
        query.push("keys_only=true".to_string());
    }
    query.extend(cursor.map(|cursor| target::pair("cursor", cursor.as_bytes())));
    query.extend(client.timeout_pair());
    target::with_query("/v1/kv", &query)
}

/// What the headers say of a write.
fn written(answer: &Answer) -> Value {
    let mut object = serde_json::Map::new();
    if let Some(revision) = answer.revision() {
        object.insert("revision".to_string(), json!(revision));
    }
    if let Some(shard) = answer.header("kv-shard") {
        object.insert("shard".to_string(), json!(shard));
    }
    Value::Object(object)
}

fn etag(precondition: &Precondition) -> String {
    match precondition {
        Precondition::Exists => "*".to_string(),
        Precondition::Revision(revision) => format!("\"{revision}\""),
    }
}

/// A structured field's string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn value(args: &PutArgs) -> Result<Bytes, Failure> {
    if let Some(path) = &args.file {
        let read = std::fs::read(path);
        return read.map(Bytes::from).map_err(|source| Failure::Io { what: path.display().to_string(), source });
    }
    match args.value.as_deref() {
        Some(value) if value != OsStr::new("-") => Ok(Bytes::copy_from_slice(value.as_bytes())),
        None if io::stdin().is_terminal() => {
            Err(Failure::Usage("no value: give one, or --file, or pipe it in (`-` reads what is typed)".to_string()))
        }
        _ => {
            let mut bytes = Vec::new();
            io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(|source| Failure::Io { what: "cannot read standard input".to_string(), source })?;
            Ok(bytes.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;

    use super::super::args::{Args, Command};
    use super::super::exit::Exit;
    use super::super::testing::{Canned, Captured, Received, Server, problem};
    use super::*;
    use crate::transport::dial::TcpNet;

    /// Runs one command line against canned answers; how it ended, and what the server was sent.
    async fn run(line: &[&str], answers: impl IntoIterator<Item = Canned>) -> (Result<String, Failure>, Vec<Received>) {
        let server = Server::start(answers).await;
        let args = Args::try_parse_from([&["ringraft"], line].concat()).unwrap();
        let client = Client::new(Arc::new(TcpNet), vec![server.endpoint().clone()], args.client.timeout);
        let captured = Captured::default();
        let printer = &mut Printer::new(args.client.output(), Box::new(captured.clone()));
        let result = match args.command {
            Command::Put(args) => put(&client, &args, printer).await,
            Command::Get(args) => get(&client, &args, printer).await,
            Command::Del(args) => del(&client, &args, printer).await,
            Command::Scan(args) => scan(&client, &args, printer).await,
            other => panic!("{other:?} is not tested here"),
        };
        (result.map(|()| captured.text()), server.requests())
    }

    const WRITTEN: &[(&str, &str)] = &[("etag", "\"00018f3c5a2b0001\""), ("kv-shard", "3")];

    #[tokio::test]
    async fn put_sends_value_type_precondition_and_idempotency_key() {
        let line = ["put", "a b", "v", "--if-match", "00018f3c5a2b0001", "--content-type", "text/plain"];
        let more = ["--idempotency-key", "a\"b\\", "--timeout", "2s"];
        let (result, sent) = run(&[&line[..], &more].concat(), [Canned::answer(204, WRITTEN, "")]).await;
        assert_eq!(result.unwrap(), "revision 00018f3c5a2b0001, shard 3\n");
        assert_eq!(sent[0].line, "PUT /v1/kv/a%20b?timeout=2000ms");
        assert_eq!(sent[0].body, b"v");
        assert_eq!(sent[0].header("if-match"), Some("\"00018f3c5a2b0001\""));
        assert_eq!(sent[0].header("content-type"), Some("text/plain"));
        assert_eq!(sent[0].header("idempotency-key"), Some(r#""a\"b\\""#));
        assert_eq!(sent[0].header("prefer"), None);
    }

    #[tokio::test]
    async fn put_creates_only_and_asks_for_json_when_json_is_wanted() {
        let (result, sent) =
            run(&["put", "k", "v", "--if-none-match", "-o", "json"], [Canned::answer(201, WRITTEN, "{}")]).await;
        assert_eq!(result.unwrap(), "{}\n");
        assert_eq!(sent[0].header("if-none-match"), Some("*"));
        assert_eq!(sent[0].header("prefer"), Some("return=representation"));
        assert_eq!(sent[0].header("content-type"), None);
    }

    #[tokio::test]
    async fn json_of_a_write_without_a_body_comes_from_its_headers() {
        for line in [["put", "k", "v", "-o", "json"].as_slice(), &["del", "k", "-o", "json"]] {
            let (result, _) = run(line, [Canned::answer(204, WRITTEN, "")]).await;
            assert_eq!(result.unwrap(), "{\"revision\":\"00018f3c5a2b0001\",\"shard\":\"3\"}\n");
        }
    }

    #[tokio::test]
    async fn get_prints_the_raw_value_and_nothing_else() {
        for value in ["no newline", ""] {
            let (result, _) = run(&["get", "k"], [Canned::answer(200, WRITTEN, value)]).await;
            assert_eq!(result.unwrap(), value);
        }
    }

    #[tokio::test]
    async fn put_reads_its_value_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        std::fs::write(&path, b"\x00\xff").unwrap();
        let (result, sent) = run(&["put", "k", "--file", path.to_str().unwrap()], [Canned::status(204)]).await;
        result.unwrap();
        assert_eq!(sent[0].body, b"\x00\xff");
        let (result, sent) = run(&["put", "k", "--file", "/nowhere/value"], [Canned::status(204)]).await;
        assert_eq!(result.unwrap_err().exit(), Exit::Other);
        assert!(sent.is_empty());
    }

    #[tokio::test]
    async fn a_lost_compare_and_set_says_the_current_revision() {
        let Canned::Answer { body, .. } = problem(412, "revision-mismatch", r#""outcome":"not_applied""#) else {
            panic!()
        };
        let (result, _) =
            run(&["put", "k", "v", "--if-match", "0000000000000001"], [Canned::answer(412, WRITTEN, body)]).await;
        let Err(Failure::Refused(problem)) = result else { panic!("{result:?}") };
        assert_eq!(problem.revision.as_deref(), Some("00018f3c5a2b0001"));
        assert_eq!(Failure::Refused(problem).exit(), Exit::Precondition);
    }

    #[tokio::test]
    async fn get_asks_with_the_wanted_consistency_and_a_missing_key_is_not_found() {
        let (result, sent) = run(&["get", "..", "--consistency", "lease"], [problem(404, "key-not-found", "")]).await;
        assert_eq!(result.unwrap_err().exit(), Exit::NotFound);
        assert_eq!(sent[0].line, "GET /v1/kv?key_b64=Li4&consistency=lease");
        let (result, sent) = run(&["get", "k", "-o", "json"], [Canned::answer(200, &[], "{}")]).await;
        result.unwrap();
        assert_eq!(sent[0].header("accept"), Some("application/json"));
    }

    #[tokio::test]
    async fn del_sends_its_precondition() {
        let (result, sent) = run(&["del", "k", "--if-match", "*"], [Canned::status(204)]).await;
        result.unwrap();
        assert_eq!((sent[0].line.as_str(), sent[0].header("if-match")), ("DELETE /v1/kv/k", Some("*")));
    }

    fn page(keys: usize, next: &str) -> Canned {
        let items: Vec<Value> = (0..keys).map(|key| json!({ "key": key.to_string() })).collect();
        let mut page = json!({ "items": items });
        if !next.is_empty() {
            page["next_cursor"] = json!(next);
        }
        Canned::answer(200, &[], page.to_string())
    }

    #[tokio::test]
    async fn scan_follows_the_cursors_to_the_end() {
        let (result, sent) = run(&["scan", "--prefix", "a&b"], [page(2, "c 1"), page(0, "c2"), page(1, "")]).await;
        assert_eq!(result.unwrap(), "KEY\n0\n1\n0\n");
        let lines: Vec<&str> = sent.iter().map(|request| request.line.as_str()).collect();
        assert_eq!(
            lines,
            [
                "GET /v1/kv?prefix=a%26b&limit=1000",
                "GET /v1/kv?prefix=a%26b&limit=1000&cursor=c%201",
                "GET /v1/kv?prefix=a%26b&limit=1000&cursor=c2",
            ]
        );
    }

    #[tokio::test]
    async fn scan_stops_at_its_limit_and_never_asks_for_more() {
        let line = ["scan", "--start", "a", "--end", "b", "--limit", "3", "--keys-only"];
        let (result, sent) = run(&line, [page(2, "c1"), page(1, "c2"), page(1, "")]).await;
        result.unwrap();
        let lines: Vec<&str> = sent.iter().map(|request| request.line.as_str()).collect();
        assert_eq!(
            lines,
            [
                "GET /v1/kv?start=a&end=b&limit=3&keys_only=true",
                "GET /v1/kv?start=a&end=b&limit=1&keys_only=true&cursor=c1",
            ]
        );
    }

    #[tokio::test]
    async fn a_scan_whose_cursor_stands_still_ends_as_a_bad_answer() {
        let (result, sent) = run(&["scan"], [page(1, "c1")]).await;
        assert!(matches!(result, Err(Failure::BadAnswer { .. })), "{result:?}");
        assert_eq!(sent.len(), 2);
    }
}
