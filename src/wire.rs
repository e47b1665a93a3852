//! The primitives of every byte format on disk and on the wire: big-endian integers, length-prefixed bytes, tagged
//! enums. Each record type builds its own format from these and pins it with a golden file in `testdata/golden/`.
//!
//! Rules (`style` 14): a record that stands alone begins with a format version; tags are written down, start at 1 and are
//! never reused; decoding refuses unknown tags, impossible lengths and left-over bytes, and never panics on any input.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::types::{
    ClusterId, Epoch, EventId, NodeId, OperationId, ProtocolRange, ReplicaId, Revision, ShardId, StoreId,
};

/// A type with a byte format of its own.
pub trait Wire: Sized {
    fn encode(&self, out: &mut BytesMut);
    fn decode(input: &mut Bytes) -> Result<Self, WireError>;

    fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    /// Decodes the whole of `input`: left-over bytes are an error.
    fn from_bytes(input: impl Into<Bytes>) -> Result<Self, WireError> {
        let mut input = input.into();
        let value = Self::decode(&mut input)?;
        if input.is_empty() { Ok(value) } else { Err(WireError::LeftOver { bytes: input.len() }) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the record ends {missing} bytes too early")]
    Short { missing: usize },
    #[error("{bytes} bytes are left over after the record")]
    LeftOver { bytes: usize },
    #[error("{what} has no tag {tag}")]
    UnknownTag { what: &'static str, tag: u8 },
    #[error("{what} has format version {found}; this release reads up to {known}")]
    UnknownFormat { what: &'static str, found: u8, known: u8 },
    #[error("{what} is not valid: {why}")]
    Invalid { what: &'static str, why: String },
}

impl From<WireError> for std::io::Error {
    fn from(error: WireError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Takes exactly `count` bytes.
pub fn take(input: &mut Bytes, count: usize) -> Result<Bytes, WireError> {
    if input.len() < count {
        return Err(WireError::Short { missing: count - input.len() });
    }
    Ok(input.split_to(count))
}

/// Reads a format version and refuses one from a later release.
pub fn take_format(input: &mut Bytes, what: &'static str, known: u8) -> Result<u8, WireError> {
    let found = u8::decode(input)?;
    if found == 0 || found > known {
        return Err(WireError::UnknownFormat { what, found, known });
    }
    Ok(found)
}

macro_rules! wire_integer {
    ($($integer:ty, $put:ident, $get:ident;)*) => {$(
        impl Wire for $integer {
            fn encode(&self, out: &mut BytesMut) {
                out.$put(*self);
            }
            fn decode(input: &mut Bytes) -> Result<Self, WireError> {
                Ok(take(input, size_of::<$integer>())?.$get())
            }
        }
    )*};
}

wire_integer! {
    u8, put_u8, get_u8;
    u16, put_u16, get_u16;
    u32, put_u32, get_u32;
    u64, put_u64, get_u64;
    u128, put_u128, get_u128;
}

macro_rules! wire_newtype {
    ($($name:ident($integer:ty);)*) => {$(
        impl Wire for $name {
            fn encode(&self, out: &mut BytesMut) {
                self.0.encode(out);
            }
            fn decode(input: &mut Bytes) -> Result<Self, WireError> {
                <$integer>::decode(input).map($name)
            }
        }
    )*};
}

wire_newtype! {
    NodeId(u64);
    ShardId(u64);
    OperationId(u64);
    EventId(u64);
    ReplicaId(u64);
    Epoch(u64);
    Revision(u64);
    ClusterId(u128);
    StoreId(u128);
}

impl Wire for bool {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        match u8::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(WireError::UnknownTag { what: "bool", tag }),
        }
    }
}

/// Length in 32 bits, then the bytes.
impl Wire for Bytes {
    fn encode(&self, out: &mut BytesMut) {
        put_length(out, self.len());
        out.put_slice(self);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let length = u32::decode(input)?;
        take(input, length as usize)
    }
}

impl Wire for String {
    fn encode(&self, out: &mut BytesMut) {
        put_length(out, self.len());
        out.put_slice(self.as_bytes());
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let text = Bytes::decode(input)?;
        String::from_utf8(text.into())
            .map_err(|error| WireError::Invalid { what: "text", why: error.utf8_error().to_string() })
    }
}

impl<T: Wire> Wire for Option<T> {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            None => out.put_u8(0),
            Some(value) => {
                out.put_u8(1);
                value.encode(out);
            }
        }
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        match u8::decode(input)? {
            0 => Ok(None),
            1 => T::decode(input).map(Some),
            tag => Err(WireError::UnknownTag { what: "option", tag }),
        }
    }
}

/// Count in 32 bits, then the items.
impl<T: Wire> Wire for Vec<T> {
    fn encode(&self, out: &mut BytesMut) {
        put_length(out, self.len());
        for item in self {
            item.encode(out);
        }
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let count = u32::decode(input)? as usize;
        // Every item takes at least a byte, so a count from damaged bytes cannot make us reserve the world.
        if count > input.len() {
            return Err(WireError::Short { missing: count - input.len() });
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(T::decode(input)?);
        }
        Ok(items)
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
        self.1.encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        Ok((A::decode(input)?, B::decode(input)?))
    }
}

/// A struct's fields in order: `wire_struct!(Name { a, b });`
#[macro_export]
macro_rules! wire_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn encode(&self, out: &mut bytes::BytesMut) {
                $($crate::wire::Wire::encode(&self.$field, out);)*
            }
            fn decode(input: &mut bytes::Bytes) -> Result<Self, $crate::wire::WireError> {
                $(let $field = $crate::wire::Wire::decode(input)?;)*
                Ok(Self { $($field),* })
            }
        }
    };
}

/// An enum's variants, each with its tag, once and for ever:
/// `wire_enum!(Name { 1 => A, 2 => B { x, y }, 3 => C(inner) });`
#[macro_export]
macro_rules! wire_enum {
    ($name:ident { $($tag:literal => $variant:ident $({ $($field:ident),* $(,)? })? $(( $($item:ident),* $(,)? ))?),* $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn encode(&self, out: &mut bytes::BytesMut) {
                match self {
                    $(Self::$variant $({ $($field),* })? $(( $($item),* ))? => {
                        $crate::wire::Wire::encode(&($tag as u8), out);
                        $($($crate::wire::Wire::encode($field, out);)*)?
                        $($($crate::wire::Wire::encode($item, out);)*)?
                    })*
                }
            }
            fn decode(input: &mut bytes::Bytes) -> Result<Self, $crate::wire::WireError> {
                match <u8 as $crate::wire::Wire>::decode(input)? {
                    $($tag => {
                        $($(let $field = $crate::wire::Wire::decode(input)?;)*)?
                        $($(let $item = $crate::wire::Wire::decode(input)?;)*)?
                        Ok(Self::$variant $({ $($field),* })? $(( $($item),* ))?)
                    })*
                    tag => Err($crate::wire::WireError::UnknownTag { what: stringify!($name), tag }),
                }
            }
        }
    };
}

crate::wire_struct!(ProtocolRange { min, max });

fn put_length(out: &mut BytesMut, length: usize) {
    out.put_u32(u32::try_from(length).expect("lengths are limited far below 4 GiB"));
}

/// Holds a format to its golden file: the bytes of `value` are those in `testdata/golden/NAME.hex` (one hex line per
/// value), and decode back to it. With `RINGRAFT_WRITE_GOLDEN=1` a missing file is written, an existing one never.
#[cfg(test)]
pub(crate) mod golden {
    use super::*;

    pub(crate) fn check<T: Wire + PartialEq + std::fmt::Debug>(name: &str, values: &[T]) {
        check_record(name, values, T::to_bytes, |bytes| T::from_bytes(bytes));
    }

    /// As [`check`], for a record that has something around its fields: a format version, a checksum.
    pub(crate) fn check_record<T: PartialEq + std::fmt::Debug>(
        name: &str,
        values: &[T],
        encode: impl Fn(&T) -> Bytes,
        decode: impl Fn(Bytes) -> Result<T, WireError>,
    ) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden").join(format!("{name}.hex"));
        let lines: Vec<String> = values.iter().map(|value| hex(&encode(value))).collect();
        let text = lines.join("\n") + "\n";
        if !path.exists() && std::env::var_os("RINGRAFT_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            text, golden,
            "the byte format of {name} changed: a released format never does, it gets a successor"
        );
        for (value, line) in values.iter().zip(golden.lines()) {
            let bytes = unhex(line);
            assert_eq!(&decode(bytes.clone()).unwrap(), value, "{name}");
            // Every cut and every appended byte is refused, without a panic.
            for length in 0..bytes.len() {
                assert!(decode(bytes.slice(..length)).is_err(), "{name} cut at {length} still decodes");
            }
            let mut longer = bytes.to_vec();
            longer.push(0);
            assert!(decode(longer.into()).is_err(), "{name} decodes with a byte left over");
            // A flipped bit may give another value, never a panic.
            for bit in 0..8 * bytes.len() {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = decode(flipped.into());
            }
        }
    }

    /// Every tag of an enum stands among these values: a variant that no golden file knows is found here.
    pub(crate) fn has_every_tag<T: Wire>(values: &[T]) {
        let pinned: Vec<u8> = values.iter().map(|value| value.to_bytes()[0]).collect();
        for tag in (0..=u8::MAX).filter(|tag| !pinned.contains(tag)) {
            let alone = T::from_bytes(vec![tag]).err();
            let unknown = matches!(alone, Some(WireError::UnknownTag { tag: refused, .. }) if refused == tag);
            assert!(unknown, "tag {tag} is read, and no value here has it");
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Bytes {
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Pair {
        left: u16,
        right: Option<String>,
    }
    wire_struct!(Pair { left, right });

    #[derive(Debug, PartialEq)]
    enum Shape {
        Dot,
        Line { from: u8, to: u8 },
        Many(Vec<u64>),
    }
    wire_enum!(Shape { 1 => Dot, 2 => Line { from, to }, 7 => Many(items) });

    #[test]
    fn formats_are_big_endian_and_tagged() {
        golden::check("wire_pair", &[Pair { left: 0x0102, right: Some("é".into()) }, Pair { left: 0, right: None }]);
        let shapes = [Shape::Dot, Shape::Line { from: 1, to: 255 }, Shape::Many(vec![1, u64::MAX])];
        golden::check("wire_shape", &shapes);
        golden::has_every_tag(&shapes);
        for without_one in [&shapes[1..], &shapes[..2]] {
            let noticed = std::panic::catch_unwind(|| golden::has_every_tag(without_one));
            assert!(noticed.is_err(), "only {without_one:?}, and nobody notices");
        }
    }

    #[test]
    fn an_unknown_tag_is_refused() {
        assert_eq!(Shape::from_bytes(vec![3]), Err(WireError::UnknownTag { what: "Shape", tag: 3 }));
    }

    #[test]
    fn an_impossible_count_is_refused_before_anything_is_reserved() {
        assert!(matches!(Vec::<u64>::from_bytes(vec![0xFF; 4]), Err(WireError::Short { .. })));
    }

    #[test]
    fn a_later_format_is_refused_by_name() {
        let error = take_format(&mut Bytes::from_static(&[9]), "catalog", 1).unwrap_err();
        assert_eq!(error.to_string(), "catalog has format version 9; this release reads up to 1");
    }
}
