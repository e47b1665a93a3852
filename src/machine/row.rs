//! A row's value on disk: a versioned header, then the bytes as the client sent them.
//!
//! | field | size |
//! |---|---|
//! | format | 1 |
//! | revision | 8 |
//! | flags: bit 0 = content type follows; bit 1 is kept for an expiry; any other is refused | 1 |
//! | content type (if flagged) | 1 + n |
//! | value | the rest |

use bytes::{BufMut, Bytes, BytesMut};

use super::command::CONTENT_TYPE_BYTES_MAX;
use crate::types::Revision;
use crate::wire::{Wire, WireError, take, take_format};

const FORMAT: u8 = 1;
const HAS_CONTENT_TYPE: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowValue {
    pub revision: Revision,
    pub content_type: Option<String>,
    pub value: Bytes,
}

impl RowValue {
    pub fn encode(revision: Revision, content_type: Option<&str>, value: &[u8]) -> Bytes {
        // A longer one is refused by the API; here it is left out rather than stored wrongly.
        let content_type = content_type.filter(|text| text.len() <= CONTENT_TYPE_BYTES_MAX);
        let header = 10 + content_type.map_or(0, |text| 1 + text.len());
        let mut out = BytesMut::with_capacity(header + value.len());
        out.put_u8(FORMAT);
        out.put_u64(revision.0);
        match content_type {
            None => out.put_u8(0),
            Some(text) => {
                out.put_u8(HAS_CONTENT_TYPE);
                out.put_u8(u8::try_from(text.len()).expect("filtered above"));
                out.put_slice(text.as_bytes());
            }
        }
        out.put_slice(value);
        out.freeze()
    }

    pub fn decode(mut row: Bytes) -> Result<Self, WireError> {
        take_format(&mut row, "row", FORMAT)?;
        let revision = Revision::decode(&mut row)?;
        let content_type = match u8::decode(&mut row)? {
            0 => None,
            HAS_CONTENT_TYPE => {
                let length = u8::decode(&mut row)?;
                let text = take(&mut row, usize::from(length))?;
                let text = String::from_utf8(text.into())
                    .map_err(|error| WireError::Invalid { what: "content type", why: error.to_string() })?;
                Some(text)
            }
            tag => return Err(WireError::UnknownTag { what: "row flags", tag }),
        };
        Ok(Self { revision, content_type, value: row })
    }

    /// The revision alone, without looking at the value.
    pub fn revision(mut row: Bytes) -> Result<Revision, WireError> {
        take_format(&mut row, "row", FORMAT)?;
        Revision::decode(&mut row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_its_bytes() {
        let plain = RowValue::encode(Revision(0x0102), None, b"v\x00");
        assert_eq!(plain.as_ref(), b"\x01\0\0\0\0\0\0\x01\x02\x00v\x00");
        let typed = RowValue::encode(Revision(1), Some("text/plain"), b"");
        assert_eq!(typed.as_ref(), b"\x01\0\0\0\0\0\0\0\x01\x01\x0atext/plain");
        for (revision, content_type, value) in [(0x0102, None, &b"v\x00"[..]), (1, Some("text/plain"), b"")] {
            let row = RowValue::encode(Revision(revision), content_type, value);
            let decoded = RowValue::decode(row.clone()).unwrap();
            assert_eq!(decoded.revision, Revision(revision));
            assert_eq!(decoded.content_type.as_deref(), content_type);
            assert_eq!(decoded.value.as_ref(), value);
            assert_eq!(RowValue::revision(row), Ok(Revision(revision)));
        }
    }

    #[test]
    fn a_row_whose_header_is_cut_is_refused() {
        for (content_type, header) in [(None, 10), (Some("text/plain"), 21)] {
            let row = RowValue::encode(Revision(7), content_type, b"");
            assert_eq!(row.len(), header);
            for length in 0..header {
                assert!(RowValue::decode(row.slice(..length)).is_err(), "{length} of {header} bytes");
                assert_eq!(RowValue::revision(row.slice(..length)).is_err(), length < 9, "{length} of {header} bytes");
            }
        }
    }

    #[test]
    fn a_row_of_a_later_format_is_refused() {
        assert!(matches!(
            RowValue::decode(Bytes::from_static(b"\x02\0\0\0\0\0\0\0\x01\0")),
            Err(WireError::UnknownFormat { .. })
        ));
        assert!(matches!(
            RowValue::decode(Bytes::from_static(b"\x01\0\0\0\0\0\0\0\x01\x80")),
            Err(WireError::UnknownTag { .. })
        ));
    }
}
