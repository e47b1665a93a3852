//! Keys and values between bytes and text: percent-encoding in URLs, base64url where bytes are no text.

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE_NO_PAD, URL_SAFE_PAD_INDIFFERENT};
use bytes::Bytes;
use serde_json::{Map, Value, json};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("% is not followed by two hex digits at byte {at}")]
    BadEscape { at: usize },
    #[error("it is not base64url: {why}")]
    Base64 { why: String },
}

/// Decodes once and changes nothing else. A `%` that begins no escape is refused: taking it as it is would give one key
/// two spellings, of which one breaks when a client escapes properly.
pub(super) fn percent_decode(text: &str, plus_is_space: bool) -> Result<Bytes, DecodeError> {
    let raw = text.as_bytes();
    let mut decoded = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(byte) = raw.get(at) {
        match byte {
            b'%' => {
                let digit = |place: usize| raw.get(place).and_then(|digit| char::from(*digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
                    return Err(DecodeError::BadEscape { at });
                };
                decoded.push(u8::try_from(high * 16 + low).expect("two hex digits are a byte"));
                at += 3;
                continue;
            }
            b'+' if plus_is_space => decoded.push(b' '),
            byte => decoded.push(*byte),
        }
        at += 1;
    }
    Ok(decoded.into())
}

/// Base64url, padded or not.
pub(super) fn base64_decode(text: &[u8]) -> Result<Bytes, DecodeError> {
    let decoded = URL_SAFE_PAD_INDIFFERENT.decode(text);
    decoded.map(Bytes::from).map_err(|error| DecodeError::Base64 { why: error.to_string() })
}

pub(super) fn base64_encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Adds bytes to an object: under `name` when they are UTF-8, else in base64url under `name_b64`.
pub(super) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_string(), json!(text)),
        Err(_) => object.insert(format!("{name}_b64"), json!(base64_encode(bytes))),
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_escape_is_decoded_once_and_nothing_is_cleaned() {
        for (text, bytes) in [
            ("a%2Fb", &b"a/b"[..]),
            ("a%2fb", b"a/b"),
            ("%252F", b"%2F"),
            ("a/../b", b"a/../b"),
            ("//", b"//"),
            ("%00%ff", b"\x00\xff"),
            ("a+b", b"a+b"),
            ("", b""),
        ] {
            assert_eq!(percent_decode(text, false).unwrap(), bytes, "{text}");
        }
        assert_eq!(percent_decode("a+b%2B", true).unwrap(), &b"a b+"[..]);
    }

    #[test]
    fn a_percent_sign_that_begins_no_escape_is_refused() {
        for (text, at) in [("%", 0), ("a%2", 1), ("%zz", 0), ("%+1", 0), ("ab%%20", 2), ("%é", 0)] {
            assert_eq!(percent_decode(text, false), Err(DecodeError::BadEscape { at }), "{text}");
        }
    }

    #[test]
    fn base64url_is_read_with_and_without_padding() {
        for text in ["_-8", "_-8="] {
            assert_eq!(base64_decode(text.as_bytes()).unwrap(), &b"\xff\xef"[..]);
        }
        for text in ["/+8=", "_-8==", "_", "a b"] {
            assert!(base64_decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive_both_encodings(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let escaped: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(percent_decode(&escaped, true).unwrap(), bytes.clone());
            prop_assert_eq!(base64_decode(base64_encode(&bytes).as_bytes()).unwrap(), bytes.clone());
            let mut object = Map::new();
            insert_bytes(&mut object, "key", &bytes);
            match (object.get("key"), object.get("key_b64")) {
                (Some(Value::String(text)), None) => prop_assert_eq!(text.as_bytes(), bytes),
                (None, Some(Value::String(text))) => prop_assert_eq!(base64_decode(text.as_bytes()).unwrap(), bytes),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
