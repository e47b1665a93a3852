//! Lines of NDJSON: one object a line, as `export --ndjson` writes and `import --ndjson` reads them.
//!
//! A line has `key` when the key is UTF-8, else `key_b64` (base64url); likewise `value` or `value_b64`; and
//! `content_type`, which may be left out. `revision` and `size` are read over, so that items of a scan's JSON are lines
//! too. Any other member, a member twice, or a line that is no such object is an error that names the line.

use std::io::{self, BufRead, Read};

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE_NO_PAD, URL_SAFE_PAD_INDIFFERENT};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::pages::Row;
use super::store::{self, Wanted};
use crate::types::KEY_BYTES_MAX;

/// JSON's longest spelling of a byte: `\u0000`.
const ESCAPED_BYTE: u64 = 6;
/// Room in a line for all but key and value: names, content type, what is read over.
const REST_BYTES_MAX: u64 = 16 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    key: Option<String>,
    key_b64: Option<String>,
    value: Option<String>,
    value_b64: Option<String>,
    content_type: Option<String>,
    #[serde(rename = "revision")]
    _revision: Option<IgnoredAny>,
    #[serde(rename = "size")]
    _size: Option<IgnoredAny>,
}

/// What a line wants stored; `prefix` goes before its key.
pub(super) fn parse(line: &[u8], prefix: &[u8], value_bytes_max: u64) -> Result<Wanted, String> {
    let object: Object = serde_json::from_slice(line).map_err(|error| without_line(&error))?;
    let key = bytes("key", object.key, object.key_b64)?;
    if key.is_empty() {
        return Err("the key is empty".to_string());
    }
    let key = [prefix, &key].concat();
    if key.len() > KEY_BYTES_MAX {
        return Err(format!("the key has {} bytes; a key has at most {KEY_BYTES_MAX}", key.len()));
    }
    let value = bytes("value", object.value, object.value_b64)?;
    if value.len() as u64 > value_bytes_max {
        return Err(format!("the value has {} bytes; a value has at most {value_bytes_max}", value.len()));
    }
    let content_type = object.content_type.as_deref().map_or(Ok(None), store::content_type)?;
    Ok(Wanted { key, value: Bytes::from(value), content_type })
}

/// serde counts lines too, and would say 1 for every one of ours.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    format!("{text} (at byte {})", error.column())
}

fn bytes(name: &str, text: Option<String>, encoded: Option<String>) -> Result<Vec<u8>, String> {
    match (text, encoded) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(encoded)) => URL_SAFE_PAD_INDIFFERENT
            .decode(encoded)
            .map_err(|error| format!("{name}_b64 is not base64url (with - and _ for + and /): {error}")),
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_b64 are given")),
        (None, None) => Err(format!("neither {name} nor {name}_b64 is given")),
    }
}

/// A row as a line, with its newline.
pub(super) fn line(row: &Row, value: &[u8]) -> Vec<u8> {
    let mut object = Map::new();
    insert(&mut object, "key", &row.key);
    object.insert("content_type".to_string(), json!(row.content_type));
    insert(&mut object, "value", value);
    let mut line = Value::Object(object).to_string().into_bytes();
    line.push(b'\n');
    line
}

pub(super) fn insert(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_string(), json!(text)),
        Err(_) => object.insert(format!("{name}_b64"), json!(URL_SAFE_NO_PAD.encode(bytes))),
    };
}

/// The longest line that can hold a value within the limit.
pub(super) fn line_bytes_max(value_bytes_max: u64) -> u64 {
    (value_bytes_max + KEY_BYTES_MAX as u64) * ESCAPED_BYTE + REST_BYTES_MAX
}

/// A line with its number, or what is wrong with it.
pub(super) type Numbered = (u64, Result<Vec<u8>, String>);

/// The lines of a file that are not blank, with their numbers, from 1.
pub(super) struct Lines<R> {
    input: R,
    number: u64,
    line_bytes_max: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R, line_bytes_max: u64) -> Self {
        Self { input, number: 0, line_bytes_max }
    }

    /// None at the end. A line that is too long is an error of its own, and read over.
    pub(super) fn next(&mut self) -> io::Result<Option<Numbered>> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.input).take(self.line_bytes_max + 1).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            let is_cut = line.last() != Some(&b'\n') && line.len() as u64 > self.line_bytes_max;
            if is_cut {
                self.input.skip_until(b'\n')?;
                let why = format!("is longer than {} bytes, more than any value needs", self.line_bytes_max);
                return Ok(Some((self.number, Err(why))));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some((self.number, Ok(line))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn row(key: &[u8], content_type: &str) -> Row {
        Row { key: key.to_vec(), revision: String::new(), content_type: content_type.to_string(), size: 0, value: None }
    }

    #[test]
    fn every_key_and_value_comes_back_from_its_line() {
        for (key, value) in
            [(&b"k"[..], &b"v"[..]), (b"\xff", b"\x00\xff"), ("é\n\"".as_bytes(), b""), (b"\0", b"\r\n")]
        {
            let line = line(&row(key, "text/plain"), value);
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
            let wanted = parse(&line, b"p/", 100).unwrap();
            assert_eq!((wanted.key, &wanted.value[..]), ([b"p/", key].concat(), value));
            assert_eq!(wanted.content_type, Some(HeaderValue::from_static("text/plain")));
        }
        assert_eq!(line(&row(b"a", "t/x"), b"b"), b"{\"content_type\":\"t/x\",\"key\":\"a\",\"value\":\"b\"}\n");
    }

    #[test]
    fn an_item_of_a_scan_is_a_line() {
        let item = br#"{"key":"k","revision":"0000000000000001","content_type":"a/b","size":1,"value":"v"}"#;
        assert_eq!(parse(item, b"", 1).unwrap().value, "v");
    }

    #[test]
    fn what_is_no_such_object_is_refused_with_the_reason() {
        for (line, reason) in [
            ("", "EOF"),
            ("[]", "invalid"),
            ("{\"key\":\"k\"", "EOF while parsing an object (at byte 10)"),
            (r#"{"key":"k","value":"v"} x"#, "trailing characters"),
            (r#"{"value":"v"}"#, "neither key nor key_b64"),
            (r#"{"key":"k"}"#, "neither value nor value_b64"),
            (r#"{"key":"k","value":null}"#, "neither value nor value_b64"),
            (r#"{"key":"k","key_b64":"aw","value":"v"}"#, "both key and key_b64"),
            (r#"{"key":"k","value":"v","value_b64":"dg"}"#, "both value and value_b64"),
            (r#"{"key":"","value":"v"}"#, "the key is empty"),
            (r#"{"key":"k","valeu":"v"}"#, "unknown field `valeu`"),
            (r#"{"key":"k","key":"l","value":"v"}"#, "duplicate field `key`"),
            (r#"{"key":"k","value":1}"#, "invalid type: integer"),
            (r#"{"key":"k","value":"long"}"#, "the value has 4 bytes; a value has at most 3"),
            (r#"{"key":"k","value_b64":"a+/="}"#, "value_b64 is not base64url"),
            (r#"{"key":"k","value":"\ud800"}"#, "end of hex escape"),
            ("{\"key\":\"k\",\"value\":\"v\",\"content_type\":\"a\\nb\"}", "control character"),
        ] {
            let error = parse(line.as_bytes(), b"", 3).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
        assert!(parse(b"{\"key\":\"\xff\",\"value\":\"v\"}", b"", 3).is_err(), "not UTF-8");
        let longest = format!(r#"{{"key":"{}","value":""}}"#, "k".repeat(KEY_BYTES_MAX));
        parse(longest.as_bytes(), b"", 3).unwrap();
        assert!(parse(longest.as_bytes(), b"p", 3).unwrap_err().contains("2049 bytes"));
    }

    #[test]
    fn lines_are_numbered_blank_ones_too_and_long_ones_read_over() {
        let mut lines = Lines::new(&b"one\n\n  \r\nfour\n12345678\nsix"[..], 7);
        assert_eq!(lines.next().unwrap(), Some((1, Ok(b"one\n".to_vec()))));
        assert_eq!(lines.next().unwrap(), Some((4, Ok(b"four\n".to_vec()))));
        let (number, long) = lines.next().unwrap().unwrap();
        assert!(number == 5 && long.unwrap_err().contains("longer than 7 bytes"));
        assert_eq!(lines.next().unwrap(), Some((6, Ok(b"six".to_vec()))));
        assert_eq!(lines.next().unwrap(), None);
    }

    #[test]
    fn the_longest_value_fits_a_line_however_it_is_spelled() {
        let value = vec![0; 1000];
        let escaped = line(&row(&[1; KEY_BYTES_MAX], "application/octet-stream"), &value);
        assert!((escaped.len() as u64) < line_bytes_max(1000), "{}", escaped.len());
    }
}
