//! Keys as the API takes them: where a key stands in a request target. Pure.
//!
//! Programs between a client and a node rewrite some paths (`.`, `..`, empty segments), and a path of bytes that are no
//! text upsets others; such keys go as `?key_b64=`, which means the same.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Everything but RFC 3986's unreserved characters.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same with `/`, which a path carries as it is.
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// Path, and query where needed, of one key; `query` follows, as `name=value` pairs that are encoded already.
pub(super) fn of_key(key: &[u8], query: &[String]) -> String {
    let mut pairs = query.to_vec();
    let path = if is_plain(key) {
        format!("/v1/kv/{}", percent_encode(key, PATH))
    } else {
        pairs.insert(0, pair("key_b64", URL_SAFE_NO_PAD.encode(key).as_bytes()));
        "/v1/kv".to_string()
    };
    with_query(&path, &pairs)
}

/// Target of the question where a key lives.
pub(super) fn of_route(key: &[u8]) -> String {
    let pair = match std::str::from_utf8(key) {
        Ok(_) => pair("key", key),
        Err(_) => pair("key_b64", URL_SAFE_NO_PAD.encode(key).as_bytes()),
    };
    with_query("/v1/admin/route", &[pair])
}

pub(super) fn pair(name: &str, value: &[u8]) -> String {
    format!("{name}={}", percent_encode(value, QUERY))
}

pub(super) fn with_query(path: &str, pairs: &[String]) -> String {
    if pairs.is_empty() { path.to_string() } else { format!("{path}?{}", pairs.join("&")) }
}

/// Whether a key survives as a path whatever stands between.
fn is_plain(key: &[u8]) -> bool {
    let segments = || key.split(|byte| *byte == b'/');
    std::str::from_utf8(key).is_ok() && segments().all(|segment| !matches!(segment, b"" | b"." | b".."))
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_key_is_percent_encoded_in_the_path_with_its_slashes() {
        assert_eq!(of_key(b"user/42", &[]), "/v1/kv/user/42");
        assert_eq!(of_key(b"a b?c#d%2F{t}", &[]), "/v1/kv/a%20b%3Fc%23d%252F%7Bt%7D");
        assert_eq!(of_key("é\0".as_bytes(), &["timeout=5ms".to_string()]), "/v1/kv/%C3%A9%00?timeout=5ms");
        assert_eq!(of_key(b"a.b/..c", &[]), "/v1/kv/a.b/..c");
    }

    #[test]
    fn a_key_that_others_would_rewrite_goes_as_base64() {
        for (key, encoded) in [
            (&b"."[..], "Lg"),
            (b"..", "Li4"),
            (b"a/../b", "YS8uLi9i"),
            (b"/", "Lw"),
            (b"//", "Ly8"),
            (b"a/", "YS8"),
            (b"\xff", "_w"),
            (b"\xfb\xff", "-_8"),
        ] {
            assert_eq!(of_key(key, &[]), format!("/v1/kv?key_b64={encoded}"), "{key:?}");
        }
        assert_eq!(of_key(b".", &["timeout=5ms".to_string()]), "/v1/kv?key_b64=Lg&timeout=5ms");
    }

    #[test]
    fn the_route_of_a_key_is_asked_by_text_or_base64() {
        assert_eq!(of_route(b"a/../b&c"), "/v1/admin/route?key=a%2F..%2Fb%26c");
        assert_eq!(of_route(b"\xff"), "/v1/admin/route?key_b64=_w");
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_its_target(key in proptest::collection::vec(any::<u8>(), 1..40)) {
            let target = of_key(&key, &[]);
            prop_assert!(target.parse::<http::uri::PathAndQuery>().is_ok(), "{}", target);
            let back = match target.strip_prefix("/v1/kv/") {
                Some(path) => percent_decode_str(path).collect(),
                None => URL_SAFE_NO_PAD.decode(target.strip_prefix("/v1/kv?key_b64=").unwrap()).unwrap(),
            };
            prop_assert_eq!(back, key);
        }
    }
}
