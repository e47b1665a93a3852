//! Request headers: preconditions, preferences, idempotency keys, content types. What is malformed is refused, never
//! guessed: a precondition that was overlooked would be a lost update.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::Problem;
use crate::machine::command::{CONTENT_TYPE_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX};
use crate::machine::{Match, Precondition};
use crate::types::{Epoch, Revision};

/// Entity tags of one header at most.
const ENTITY_TAGS_MAX: usize = 100;
/// What curl calls every body that it is given with `-d`.
const CURL_DEFAULT_TYPE: &str = "application/x-www-form-urlencoded";
/// What a value without a type is served as.
pub(super) const DEFAULT_TYPE: &str = "application/octet-stream";

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// On an answer that was given before.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("kv-replayed");
const PREFER: HeaderName = HeaderName::from_static("prefer");

pub(super) fn etag(revision: Revision) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).expect("quoted hex digits are header text")
}

pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, Box<Problem>> {
    Ok(Precondition {
        if_match: entity_tags(headers, IF_MATCH, Comparison::Strong)?,
        if_none_match: entity_tags(headers, IF_NONE_MATCH, Comparison::Weak)?,
    })
}

/// The epoch that `If-Match` asks for; none for any. Epochs are entity tags of shards as the admin API has them.
pub(super) fn expected_epoch(headers: &HeaderMap) -> Result<Option<Epoch>, Box<Problem>> {
    let Some(value) = single(headers, &IF_MATCH)? else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let epoch = quoted.and_then(|digits| digits.parse().ok());
    epoch.map(Some).ok_or_else(|| Problem::bad_header(&IF_MATCH, "expected `*`, or one epoch such as \"7\", quoted"))
}

/// Whether the body says that it is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> Result<bool, Box<Problem>> {
    let value = single(headers, &CONTENT_TYPE)?;
    Ok(value
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| essence(text).eq_ignore_ascii_case("application/json")))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// A weak tag never matches.
    Strong,
    Weak,
}

/// All lines of a header as one list (RFC 9110 §13.1). A tag that is none of ours is well-formed and matches nothing.
fn entity_tags(headers: &HeaderMap, name: HeaderName, by: Comparison) -> Result<Option<Match>, Box<Problem>> {
    let lines: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let list = lines.join(&b','); // as RFC 9110 §5.3 combines field lines
    if list.trim_ascii() == b"*" {
        return Ok(Some(Match::Any));
    }
    let tags = parse_entity_tags(&list).ok_or_else(|| {
        Problem::bad_header(
            &name,
            "expected `*`, or entity tags such as \"00018f3c5a2b0001\", quoted, with commas between",
        )
    })?;
    if tags.len() > ENTITY_TAGS_MAX {
        return Err(Problem::bad_header(&name, format!("more than {ENTITY_TAGS_MAX} entity tags")));
    }
    let mut revisions: Vec<Revision> = tags
        .into_iter()
        .filter(|tag| by == Comparison::Weak || !tag.weak)
        .filter_map(|tag| std::str::from_utf8(tag.opaque).ok()?.parse().ok())
        .collect();
    revisions.sort_unstable();
    revisions.dedup();
    Ok(Some(Match::Revisions(revisions)))
}

struct EntityTag<'h> {
    weak: bool,
    opaque: &'h [u8],
}

/// At least one tag; empty list elements are allowed (RFC 9110 §5.6.1.2).
fn parse_entity_tags(mut rest: &[u8]) -> Option<Vec<EntityTag<'_>>> {
    let mut tags = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        while let Some(after) = rest.strip_prefix(b",") {
            rest = after.trim_ascii_start();
        }
        if rest.is_empty() {
            return (!tags.is_empty()).then_some(tags);
        }
        let weak = rest.starts_with(b"W/");
        rest = rest.strip_prefix(b"W/").unwrap_or(rest).strip_prefix(b"\"")?;
        let end = rest.iter().position(|byte| *byte == b'"')?;
        let opaque = &rest[..end];
        if !opaque.iter().all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..)) {
            return None;
        }
        tags.push(EntityTag { weak, opaque });
        rest = rest[end + 1..].trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return None;
        }
    }
}

/// The one value of a header that must not be repeated.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Box<Problem>> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next();
    if lines.next().is_some() {
        return Err(Problem::bad_header(name, "given more than once"));
    }
    Ok(first)
}

/// A quoted string, as the draft has it (RFC 9651 §3.3.3). A bare token is refused: `"a"` and `a` must not be two keys.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Bytes>, Box<Problem>> {
    let Some(value) = single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let key = unquote(value.as_bytes().trim_ascii())
        .ok_or_else(|| Problem::bad_header(&IDEMPOTENCY_KEY, "expected a quoted string of printable ASCII, \"…\""))?;
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let why = format!("a key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(Problem::bad_header(&IDEMPOTENCY_KEY, why));
    }
    Ok(Some(key.into()))
}

fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let inner = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut bytes = inner.iter();
    let mut unquoted = Vec::with_capacity(inner.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next() {
                Some(escaped @ (b'"' | b'\\')) => unquoted.push(*escaped),
                _ => return None,
            },
            b'"' => return None,
            0x20..=0x7e => unquoted.push(*byte),
            _ => return None,
        }
    }
    Some(unquoted)
}

/// The type to keep with a value. None for none given, and for curl's default label, which says nothing of the body.
pub(super) fn content_type(headers: &HeaderMap) -> Result<Option<String>, Box<Problem>> {
    let Some(value) = single(headers, &CONTENT_TYPE)? else { return Ok(None) };
    let bad = |why: &str| Err(Problem::bad_header(&CONTENT_TYPE, why));
    if value.len() > CONTENT_TYPE_BYTES_MAX {
        return bad(&format!("longer than {CONTENT_TYPE_BYTES_MAX} bytes"));
    }
    let Ok(text) = std::str::from_utf8(value.as_bytes()) else { return bad("not UTF-8") };
    if text.chars().any(char::is_control) {
        return bad("holds a control character");
    }
    let text = text.trim();
    Ok((!text.is_empty() && !essence(text).eq_ignore_ascii_case(CURL_DEFAULT_TYPE)).then(|| text.to_string()))
}

/// A media type without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether a browser would run a value of this type as a page.
pub(super) fn is_active_content(content_type: &str) -> bool {
    let essence = essence(content_type).to_ascii_lowercase();
    matches!(essence.as_str(), "text/html" | "text/xml" | "application/xml" | "text/xsl") || essence.ends_with("+xml")
}

/// `Prefer: return=representation` (RFC 7240). Other preferences may be ignored, and are.
pub(super) fn prefers_representation(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all(&PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut returns = preferences.flat_map(|value| value.split(',')).filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("return").then(|| value.trim().trim_matches('"'))
    });
    // Of a preference given twice the first counts.
    returns.next().is_some_and(|value| value.eq_ignore_ascii_case("representation"))
}

/// Whether `Accept` names `application/json` and prefers nothing to it. A wildcard means the value as it is.
pub(super) fn prefers_json(headers: &HeaderMap) -> bool {
    let (mut json, mut others) = (0, 0);
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let quality = range.split(';').skip(1).find_map(quality).unwrap_or(1000);
        if essence(range).eq_ignore_ascii_case("application/json") {
            json = json.max(quality);
        } else {
            others = others.max(quality);
        }
    }
    json > 0 && json >= others
}

/// `q=0.5` in thousandths.
fn quality(parameter: &str) -> Option<u32> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value: f32 = value.trim().parse().ok()?;
    // Clamped, so the cast neither loses a sign nor overflows.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000")]
    let thousandths = (value.clamp(0.0, 1.0) * 1000.0) as u32;
    Some(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::Code;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &[u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn if_match(values: &[&str]) -> Result<Option<Match>, Code> {
        let lines: Vec<(&'static str, &[u8])> = values.iter().map(|value| ("if-match", value.as_bytes())).collect();
        precondition(&headers(&lines)).map(|parsed| parsed.if_match).map_err(|problem| problem.code)
    }

    fn revisions(revisions: &[u64]) -> Result<Option<Match>, Code> {
        Ok(Some(Match::Revisions(revisions.iter().copied().map(Revision).collect())))
    }

    #[test]
    fn preconditions_are_lists_over_all_lines_of_a_header() {
        assert_eq!(if_match(&[]), Ok(None));
        assert_eq!(if_match(&[" * "]), Ok(Some(Match::Any)));
        assert_eq!(if_match(&["\"000000000000000a\""]), revisions(&[10]));
        let (one, two) = ("\"0000000000000001\" , \"0000000000000002\"", "\"0000000000000003\",");
        assert_eq!(if_match(&[one, two]), revisions(&[1, 2, 3]));
    }

    #[test]
    fn tags_that_are_none_of_ours_match_nothing() {
        assert_eq!(if_match(&["\"\""]), revisions(&[]));
        assert_eq!(if_match(&["\"a,b\", \"0000000000000001\""]), revisions(&[1]));
        assert_eq!(if_match(&["\"000000000000000A\""]), revisions(&[]), "a revision has one spelling");
    }

    #[test]
    fn a_weak_tag_counts_for_if_none_match_alone() {
        assert_eq!(if_match(&["W/\"0000000000000001\""]), revisions(&[]));
        let parsed = precondition(&headers(&[("if-none-match", b"W/\"0000000000000001\"")])).unwrap();
        assert_eq!(parsed.if_none_match, Some(Match::Revisions(vec![Revision(1)])));
    }

    #[test]
    fn malformed_preconditions_are_refused() {
        for bad in [
            "",
            ",",
            "0000000000000001",
            "\"a",
            "a\"",
            "\"a\" \"b\"",
            "w/\"a\"",
            "*, \"a\"",
            "\"a\", *",
            "\"a b\"",
            "**",
        ] {
            assert_eq!(if_match(&[bad]), Err(Code::BadParameter), "{bad:?}");
        }
        assert_eq!(if_match(&["*", "\"a\""]), Err(Code::BadParameter));
        let many = vec!["\"a\""; ENTITY_TAGS_MAX + 1].join(",");
        assert_eq!(if_match(&[&many]), Err(Code::BadParameter));
    }

    #[test]
    fn an_idempotency_key_is_a_quoted_string() {
        let parse =
            |value: &[u8]| idempotency_key(&headers(&[("idempotency-key", value)])).map_err(|problem| problem.code);
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
        assert_eq!(parse(b"\"retry 1\""), Ok(Some(Bytes::from_static(b"retry 1"))));
        assert_eq!(parse(b"\"a\\\"b\\\\\""), Ok(Some(Bytes::from_static(b"a\"b\\"))));
        let longest = format!("\"{}\"", "k".repeat(IDEMPOTENCY_KEY_BYTES_MAX));
        assert!(parse(longest.as_bytes()).is_ok());
        let longer = format!("\"{}\"", "k".repeat(IDEMPOTENCY_KEY_BYTES_MAX + 1));
        for bad in
            [&b"retry"[..], b"\"\"", b"\"", b"", b"\"a\"b\"", b"\"a\\n\"", b"\"\xe9\"", b"\"a\";p=1", longer.as_bytes()]
        {
            assert_eq!(parse(bad), Err(Code::BadParameter), "{:?}", String::from_utf8_lossy(bad));
        }
        let twice = headers(&[("idempotency-key", b"\"a\""), ("idempotency-key", b"\"a\"")]);
        assert!(idempotency_key(&twice).is_err());
    }

    #[test]
    fn a_content_type_is_kept_as_given_but_for_curls_default() {
        let parse = |value: &[u8]| content_type(&headers(&[("content-type", value)])).map_err(|problem| problem.code);
        assert_eq!(parse(b"text/plain; charset=utf-8"), Ok(Some("text/plain; charset=utf-8".to_string())));
        assert_eq!(parse("text/plain; name=\"é\"".as_bytes()), Ok(Some("text/plain; name=\"é\"".to_string())));
        assert_eq!(parse(b"Application/X-WWW-form-urlencoded; charset=x"), Ok(None));
        assert_eq!(parse(b"  "), Ok(None));
        assert_eq!(content_type(&HeaderMap::new()).unwrap(), None);
        let longest = "x".repeat(CONTENT_TYPE_BYTES_MAX);
        assert_eq!(parse(longest.as_bytes()), Ok(Some(longest.clone())));
        for bad in [format!("{longest}x").as_bytes(), b"text/\xff", b"a\tb"] {
            assert_eq!(parse(bad), Err(Code::BadParameter));
        }
    }

    #[test]
    fn what_a_browser_would_run_is_recognised() {
        for active in ["text/html", "Text/HTML; charset=utf-8", "image/svg+xml", "application/xhtml+xml", "text/xml"] {
            assert!(is_active_content(active), "{active}");
        }
        for passive in ["text/plain", "application/json", "image/png", "text/htmlx"] {
            assert!(!is_active_content(passive), "{passive}");
        }
    }

    #[test]
    fn preferences_are_read_and_unknown_ones_ignored() {
        let prefers = |value: &str| prefers_representation(&headers(&[("prefer", value.as_bytes())]));
        assert!(prefers("return=representation"));
        assert!(prefers("respond-async, Return = \"representation\" ; foo=1"));
        assert!(!prefers("return=minimal, return=representation"));
        assert!(!prefers("wait=30") && !prefers("representation") && !prefers(""));
    }

    #[test]
    fn json_is_given_to_whoever_prefers_it_by_name() {
        let prefers = |value: &str| prefers_json(&headers(&[("accept", value.as_bytes())]));
        assert!(prefers("application/json") && prefers("application/json, text/plain, */*"));
        assert!(prefers("text/html;q=0.4, Application/JSON;q=0.5"));
        assert!(!prefers("*/*") && !prefers("text/html, application/json;q=0.9") && !prefers("application/json;q=0"));
        assert!(!prefers_json(&HeaderMap::new()));
    }
}
