//! `GET /v1/kv?prefix=` and `?start=&end=`: pages in byte order of the keys, merged over shards by the router.
//!
//! A cursor is opaque and belongs to one query: it names where the next page begins and a check over that and the query,
//! so that it cannot be used, by mistake, to go on with another.

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::encoding::{base64_decode, base64_encode, insert_bytes};
use super::error::Problem;
use super::headers::DEFAULT_TYPE;
use super::kv::{consistency, consistency_name, read_headers};
use super::routes::Query;
use super::{Answer, Call, json_response};
use crate::clock;
use crate::machine::query::ScannedRow;
use crate::ring::Token;
use crate::router::{Page, PageRequest};
use crate::shard::{Consistency, staleness};
use crate::types::KEY_BYTES_MAX;
use crate::wire::{Wire, take_format};

/// Those that make a request on `/v1/kv` a scan.
pub(super) const PARAMETERS: &[&str] = &["prefix", "start", "end", "limit", "cursor", "keys_only"];

const LIMIT_DEFAULT: u32 = 1000;
const LIMIT_MAX: u32 = 10_000;
const CURSOR_FORMAT: u8 = 1;

/// What is scanned: keys from `start` up to and without `end`.
#[derive(Debug, PartialEq, Eq)]
struct Bounds {
    prefix: Option<Bytes>,
    start: Bytes,
    end: Option<Bytes>,
}

pub(super) async fn page(call: &Call<'_>) -> Answer {
    let query = &call.query;
    if query.get("forward").is_some() {
        return Err(query.bad("forward", "does not go with a scan, which asks many shards"));
    }
    let bounds = Bounds::parse(query)?;
    let rows_max = limit(query)?;
    let keys_only = flag(query, "keys_only")?;
    let consistency = consistency(query)?;
    let from = match query.get("cursor") {
        None => bounds.start.clone(),
        Some(cursor) => decode_cursor(cursor, &bounds)
            .ok_or_else(|| query.bad("cursor", "does not come from this query (prefix, start and end must stay)"))?,
    };
    call.admit()?;
    let _in_hand = call.take_in_hand()?;
    let page = if bounds.end.as_ref().is_some_and(|end| from >= *end) {
        // Nothing lies between the bounds, so there is nobody to be asked, and nothing that could be old.
        Page { rows: Vec::new(), next: None, consistency, fresh_at: Some(clock::now()), shards: 0 }
    } else {
        let (before, prefix) = (bounds.end.clone(), bounds.prefix.clone());
        let request = PageRequest { from, before, prefix, rows_max, keys_only, consistency };
        let page = call.router().scan(request, call.options()?).await;
        page.map_err(|error| Problem::from_router(error, call, false))?
    };
    // A page is merged here, whoever served its shards.
    let about = read_headers(page.consistency, staleness(page.fresh_at), call.router().host().node());
    let mut response = json_response(StatusCode::OK, &body(page, &bounds));
    response.headers_mut().extend(about);
    Ok(response)
}

impl Bounds {
    fn parse(query: &Query) -> Result<Self, Box<Problem>> {
        for name in ["prefix", "start", "end"] {
            if query.get(name).is_some_and(|value| value.len() > KEY_BYTES_MAX) {
                return Err(query.bad(name, format!("is longer than a key, which has at most {KEY_BYTES_MAX} bytes")));
            }
        }
        let Some(prefix) = query.get("prefix") else {
            let start = query.get("start").cloned().unwrap_or_default();
            // An empty end is no end: no key comes before the empty one.
            let end = query.get("end").filter(|end| !end.is_empty()).cloned();
            if end.as_ref().is_some_and(|end| *end < start) {
                return Err(query.bad("end", "comes before start"));
            }
            return Ok(Self { prefix: None, start, end });
        };
        if let Some(name) = query.any_of(&["start", "end"]) {
            return Err(query.bad(name, "does not go with prefix"));
        }
        Ok(Self { prefix: Some(prefix.clone()), start: prefix.clone(), end: after_prefix(prefix) })
    }

    /// A check over the query and a place in it.
    fn check(&self, from: &Bytes) -> u64 {
        let mut all = BytesMut::new();
        self.prefix.encode(&mut all);
        self.start.encode(&mut all);
        self.end.encode(&mut all);
        from.encode(&mut all);
        Token::of_bytes(&all).0
    }
}

/// The first key after all that begin with `prefix`; none when there is no such key.
fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte < 0xff)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after.into())
}

fn limit(query: &Query) -> Result<u32, Box<Problem>> {
    let Some(text) = query.text("limit")? else { return Ok(LIMIT_DEFAULT) };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let limit = text.parse().ok().filter(|limit| digits && (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| query.bad("limit", format!("takes a number from 1 to {LIMIT_MAX}")))
}

fn flag(query: &Query, name: &str) -> Result<bool, Box<Problem>> {
    match query.text(name)? {
        None | Some("false") => Ok(false),
        Some("true" | "") => Ok(true),
        Some(_) => Err(query.bad(name, "takes true or false")),
    }
}

fn encode_cursor(next: &Bytes, bounds: &Bounds) -> String {
    let mut cursor = BytesMut::new();
    CURSOR_FORMAT.encode(&mut cursor);
    bounds.check(next).encode(&mut cursor);
    cursor.extend_from_slice(next);
    base64_encode(&cursor)
}

fn decode_cursor(text: &[u8], bounds: &Bounds) -> Option<Bytes> {
    let mut cursor = base64_decode(text).ok()?;
    take_format(&mut cursor, "cursor", CURSOR_FORMAT).ok()?;
    let check = u64::decode(&mut cursor).ok()?;
    // The check is no secret, so a place outside the bounds is refused for itself.
    (check == bounds.check(&cursor) && cursor >= bounds.start).then_some(cursor)
}

fn body(page: Page, bounds: &Bounds) -> Value {
    let mut body = Map::new();
    let isolation = isolation(page.consistency);
    body.insert("items".into(), page.rows.into_iter().map(item).collect());
    if let Some(next) = page.next {
        body.insert("next_cursor".into(), json!(encode_cursor(&next, bounds)));
    }
    body.insert("isolation".into(), json!(isolation));
    Value::Object(body)
}

/// Rows of one shard are of one moment; those of two shards, or of two pages, need not be.
fn isolation(served: Consistency) -> String {
    format!("{}-per-shard-and-page", consistency_name(served))
}

fn item(row: ScannedRow) -> Value {
    let mut item = Map::new();
    insert_bytes(&mut item, "key", &row.key);
    item.insert("revision".into(), json!(row.revision));
    item.insert("content_type".into(), json!(row.content_type.as_deref().unwrap_or(DEFAULT_TYPE)));
    item.insert("size".into(), json!(row.value_bytes));
    if let Some(value) = &row.value {
        insert_bytes(&mut item, "value", value);
    }
    Value::Object(item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::Code;
    use crate::types::Revision;

    fn query(raw: &str) -> Query {
        Query::parse(Some(raw), PARAMETERS).unwrap()
    }

    fn bounds(raw: &str) -> Bounds {
        Bounds::parse(&query(raw)).unwrap()
    }

    #[test]
    fn a_prefix_ends_before_the_first_key_that_is_beyond_it() {
        assert_eq!(after_prefix(b"ab"), Some(Bytes::from_static(b"ac")));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(Bytes::from_static(b"b")));
        assert_eq!(after_prefix(b"\xff\xff"), None);
        assert_eq!(after_prefix(b""), None);
        let bounds = bounds("prefix=a%FF");
        assert_eq!((bounds.start, bounds.end), (Bytes::from_static(b"a\xff"), Some(Bytes::from_static(b"b"))));
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused() {
        for bad in ["prefix=a&start=b", "prefix=a&end=b", "start=b&end=a", &format!("start={}", "k".repeat(2049))] {
            assert_eq!(Bounds::parse(&query(bad)).unwrap_err().code, Code::BadParameter, "{bad}");
        }
        assert_eq!(bounds("start=b&end=b").end, Some(Bytes::from_static(b"b")));
        assert_eq!(bounds("start=b&end="), bounds("start=b"));
    }

    #[test]
    fn limits_and_flags_have_one_spelling() {
        for (text, expected) in [("", Some(1000)), ("limit=1", Some(1)), ("limit=10000", Some(10_000))] {
            assert_eq!(limit(&query(text)).ok(), expected);
        }
        for bad in ["limit=", "limit=0", "limit=10001", "limit=-1", "limit=%2B1", "limit=1e3", "limit=99999999999"] {
            assert_eq!(limit(&query(bad)).unwrap_err().code, Code::BadParameter, "{bad}");
        }
        for (text, expected) in [("", false), ("keys_only", true), ("keys_only=true", true), ("keys_only=false", false)]
        {
            assert_eq!(flag(&query(text), "keys_only").unwrap(), expected);
        }
        assert!(flag(&query("keys_only=1"), "keys_only").is_err());
    }

    #[test]
    fn a_cursor_goes_on_with_its_own_query_alone() {
        let next = Bytes::from_static(b"ab\x00");
        let own = bounds("prefix=a");
        let cursor = encode_cursor(&next, &own);
        assert_eq!(cursor, "AbTNPxjR7W6HYWIA", "a client may show it to a node of another release");
        assert_eq!(decode_cursor(cursor.as_bytes(), &own), Some(next.clone()));
        for other in ["prefix=b", "prefix=ab", "start=a&end=b", "start=a", ""] {
            assert_eq!(decode_cursor(cursor.as_bytes(), &bounds(other)), None, "{other}");
        }
        let outside = encode_cursor(&Bytes::from_static(b"a"), &bounds("start=b"));
        assert_eq!(decode_cursor(outside.as_bytes(), &bounds("start=b")), None);
        for place in 0..cursor.len() {
            let mut damaged = cursor.clone().into_bytes();
            damaged[place] = if damaged[place] == b'A' { b'B' } else { b'A' };
            assert_eq!(decode_cursor(&damaged, &own), None, "byte {place}");
        }
        assert_eq!(decode_cursor(b"", &own), None);
    }

    #[test]
    fn an_item_names_its_bytes_by_what_they_are() {
        let row = |key: &'static [u8], value: Option<&'static [u8]>| ScannedRow {
            key: Bytes::from_static(key),
            revision: Revision(1),
            content_type: None,
            value_bytes: 2,
            value: value.map(Bytes::from_static),
        };
        assert_eq!(
            item(row(b"k", Some(b"v\n"))),
            json!({"key": "k", "revision": "0000000000000001", "content_type": DEFAULT_TYPE, "size": 2, "value": "v\n"})
        );
        let binary = item(row(b"\xff", Some(b"\xff\xef")));
        assert_eq!((&binary["key_b64"], &binary["value_b64"]), (&json!("_w"), &json!("_-8")));
        assert!(item(row(b"k", None)).get("value").is_none());
    }
}
