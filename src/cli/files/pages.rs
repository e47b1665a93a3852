//! All keys with a prefix, page by page, by scan alone.
//!
//! Each page is checked: keys have the prefix and come in rising byte order, over the pages too, and a value has the size
//! that is told of it. An answer that is not so would give files lost or doubled without a word, and ends the command.
//! A page is linearizable for each shard; keys written or deleted between two pages may be in or out.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_PAD_INDIFFERENT;
use bytes::Bytes;
use serde::Deserialize;

use super::caller::{GaveUp, Line, problem};
use crate::cli::client::{Answer, Request};
use crate::cli::exit::Failure;
use crate::cli::target;

/// Rows asked for in one page with values; the server ends a page earlier when it has gathered some megabytes.
const PAGE_ROWS: u32 = 1000;
/// The same without values: the most that the API gives.
const PAGE_KEYS: u32 = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: Vec<u8>,
    pub(super) revision: String,
    pub(super) content_type: String,
    pub(super) size: u64,
    /// None when keys alone are asked for.
    pub(super) value: Option<Bytes>,
}

/// Members that a newer server may add are read over.
#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    key: Option<String>,
    key_b64: Option<String>,
    revision: String,
    content_type: String,
    size: u64,
    value: Option<String>,
    value_b64: Option<String>,
}

pub(super) struct Pages {
    prefix: Vec<u8>,
    with_values: bool,
    query: Vec<String>,
    cursor: Option<String>,
    last: Option<Vec<u8>>,
    is_over: bool,
}

impl Pages {
    /// `query` goes with every request.
    pub(super) fn new(prefix: &[u8], with_values: bool, query: &[String]) -> Self {
        let query = query.to_vec();
        Self { prefix: prefix.to_vec(), with_values, query, cursor: None, last: None, is_over: false }
    }

    /// None after the last page. A page may be empty.
    pub(super) async fn next(&mut self, line: &mut Line) -> Result<Option<Vec<Row>>, GaveUp> {
        if self.is_over {
            return Ok(None);
        }
        let request = Request::get(self.target());
        let answer = line.call(&request).await?;
        if !answer.status.is_success() {
            return Err(Failure::Refused(Box::new(problem(&answer, &request))).into());
        }
        let rows = self.take(&answer).map_err(|reason| Failure::BadAnswer {
            endpoint: answer.endpoint.to_string(),
            reason: format!("a page of the scan: {reason}"),
        })?;
        Ok(Some(rows))
    }

    fn target(&self) -> String {
        let mut query = vec![target::pair("prefix", &self.prefix)];
        if self.with_values {
            query.push(format!("limit={PAGE_ROWS}"));
        } else {
            query.push(format!("limit={PAGE_KEYS}"));
            query.push("keys_only=true".to_string());
        }
        query.extend(self.cursor.iter().map(|cursor| target::pair("cursor", cursor.as_bytes())));
        query.extend(self.query.iter().cloned());
        target::with_query("/v1/kv", &query)
    }

    fn take(&mut self, answer: &Answer) -> Result<Vec<Row>, String> {
        let page: Page = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        let mut rows = Vec::with_capacity(page.items.len());
        for item in page.items {
            let row = self.row(item)?;
            if self.last.as_ref().is_some_and(|last| *last >= row.key) {
                return Err(format!("{} does not follow the key before it", row.key.escape_ascii()));
            }
            self.last = Some(row.key.clone());
            rows.push(row);
        }
        if page.next_cursor.is_some() && page.next_cursor == self.cursor {
            return Err("the cursor of the next page is that of this one".to_string());
        }
        self.is_over = page.next_cursor.is_none();
        self.cursor = page.next_cursor;
        Ok(rows)
    }

    fn row(&self, item: Item) -> Result<Row, String> {
        let key = bytes(item.key, item.key_b64)?.ok_or("an item without a key")?;
        if !key.starts_with(&self.prefix) {
            return Err(format!("{} does not have the prefix", key.escape_ascii()));
        }
        let value = bytes(item.value, item.value_b64)?.map(Bytes::from);
        match &value {
            None if self.with_values => return Err(format!("{} has no value", key.escape_ascii())),
            Some(value) if value.len() as u64 != item.size => {
                let told = item.size;
                return Err(format!("{} has a value of {} bytes instead of {told}", key.escape_ascii(), value.len()));
            }
            _ => {}
        }
        Ok(Row { key, revision: item.revision, content_type: item.content_type, size: item.size, value })
    }
}

fn bytes(text: Option<String>, encoded: Option<String>) -> Result<Option<Vec<u8>>, String> {
    match (text, encoded) {
        (Some(text), _) => Ok(Some(text.into_bytes())),
        (None, Some(encoded)) => {
            let decoded = URL_SAFE_PAD_INDIFFERENT.decode(encoded);
            decoded.map(Some).map_err(|error| format!("something is not base64url: {error}"))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::cli::client::Client;
    use crate::cli::files::caller::Caller;
    use crate::cli::testing::{Canned, Server};
    use crate::transport::dial::TcpNet;

    fn item(key: &str, value: &str) -> Value {
        json!({"key": key, "revision": "0000000000000001", "content_type": "a/b", "size": value.len(), "value": value,
               "of a newer server": 1})
    }

    fn page(items: &[Value], next: Option<&str>) -> Canned {
        Canned::answer(200, &[], json!({"items": items, "next_cursor": next, "isolation": "x"}).to_string())
    }

    async fn all(pages: Vec<Canned>) -> (Result<Vec<Row>, GaveUp>, Vec<String>) {
        let server = Server::start(pages).await;
        let client = Client::new(Arc::new(TcpNet), vec![server.endpoint().clone()], None);
        let caller = Caller::new(&client, Duration::ZERO, CancellationToken::new());
        let (mut pages, mut line) = (Pages::new(b"p/", true, &[]), Line::new(&caller, 0));
        let mut rows = Vec::new();
        let result = loop {
            match pages.next(&mut line).await {
                Ok(Some(more)) => rows.extend(more),
                Ok(None) => break Ok(rows),
                Err(gave_up) => break Err(gave_up),
            }
        };
        (result, server.requests().into_iter().map(|request| request.line).collect())
    }

    #[tokio::test]
    async fn pages_are_followed_to_the_end_empty_ones_too() {
        let binary = json!({"key_b64": "cC__", "revision": "0000000000000002", "content_type": "a/b", "size": 1, "value_b64": "_w"});
        let pages =
            vec![page(&[item("p/a", "1"), item("p/b", "")], Some("c 1")), page(&[], Some("c2")), page(&[binary], None)];
        let (rows, lines) = all(pages).await;
        let rows = rows.unwrap();
        let keys: Vec<&[u8]> = rows.iter().map(|row| &row.key[..]).collect();
        assert_eq!(keys, [&b"p/a"[..], b"p/b", b"p/\xff"]);
        assert_eq!(rows[2].value.as_deref(), Some(&b"\xff"[..]));
        assert_eq!(
            lines,
            [
                "GET /v1/kv?prefix=p%2F&limit=1000",
                "GET /v1/kv?prefix=p%2F&limit=1000&cursor=c%201",
                "GET /v1/kv?prefix=p%2F&limit=1000&cursor=c2",
            ]
        );
    }

    #[tokio::test]
    async fn a_page_that_cannot_be_right_ends_it() {
        let short = json!({"key": "p/a", "revision": "1", "content_type": "a/b", "size": 2, "value": "1"});
        let bare = json!({"key": "p/a", "revision": "1", "content_type": "a/b", "size": 2});
        for (pages, reason) in [
            (vec![page(&[item("p/b", "1"), item("p/a", "1")], None)], "does not follow"),
            (vec![page(&[item("p/a", "1"), item("p/a", "1")], None)], "does not follow"),
            (vec![page(&[item("p/b", "1")], Some("c")), page(&[item("p/b", "1")], None)], "does not follow"),
            (vec![page(&[item("q", "1")], None)], "does not have the prefix"),
            (vec![page(&[short], None)], "1 bytes instead of 2"),
            (vec![page(&[bare], None)], "has no value"),
            (vec![page(&[], Some("c"))], "the cursor of the next page"),
            (vec![Canned::answer(200, &[], "<html>")], "a page of the scan"),
        ] {
            let why = all(pages).await.0.unwrap_err().why;
            assert!(matches!(&why, Failure::BadAnswer { .. }) && why.to_string().contains(reason), "{reason}: {why}");
        }
    }
}
