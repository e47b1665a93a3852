//! The hash ring: the token of a key, ranges of tokens, and a table that covers the whole ring. Pure.
//!
//! Every node of a cluster, and every client that routes by itself, must compute the same token for the same key for
//! ever: `testdata/ring_vectors.tsv`, written with the reference implementation of xxh3, pins it.
//!
//! The catalog gives ranges to shards; the router finds the shard of a key; placement puts nodes on the same ring.

use std::fmt;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

use crate::types::BadId;
use crate::wire::{Wire, WireError};

/// A place on the ring. Written as 16 lower-case hex digits everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token(pub u64);

impl Token {
    pub const FIRST: Token = Token(0);
    pub const LAST: Token = Token(u64::MAX);

    /// The token of bytes that are no user key: hash tags mean nothing in them.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(xxh3_64(bytes))
    }
}

/// The token of a user key: xxh3-64 of its hash tag, or of the whole key when it has none.
#[must_use]
pub fn token_of(key: &[u8]) -> Token {
    Token::of_bytes(hash_tag(key).unwrap_or(key))
}

/// The part of a key that alone decides its shard, by Redis Cluster's rule: from the first `{` to the next `}`. Nothing
/// between the two means that the key has no tag, also when another pair of braces follows.
#[must_use]
pub fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let after = &key[open + 1..];
    let length = after.iter().position(|byte| *byte == b'}')?;
    (length > 0).then(|| &after[..length])
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:016x})", self.0)
    }
}

impl FromStr for Token {
    type Err = BadId;
    /// All 16 lower-case hex digits, so that a token has one spelling.
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { kind: "Token", text: text.to_string() };
        if text.len() != 16 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        u64::from_str_radix(text, 16).map(Token).map_err(|_| bad())
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Wire for Token {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        u64::decode(input).map(Token)
    }
}

/// The tokens from `first` to `last`, both included.
///
/// Invariants: `first <= last`, so a range never wraps and is never empty. [`TokenRange::new`] and both decoders hold to
/// it; a range put together by hand the wrong way round contains nothing, and [`Ring::new`] refuses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "UncheckedRange")]
pub struct TokenRange {
    pub first: Token,
    pub last: Token,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the range {first}..={last} ends before it begins")]
pub struct BadRange {
    pub first: Token,
    pub last: Token,
}

impl TokenRange {
    pub fn new(first: Token, last: Token) -> Result<Self, BadRange> {
        if first <= last { Ok(Self { first, last }) } else { Err(BadRange { first, last }) }
    }

    /// The whole ring.
    #[must_use]
    pub const fn full() -> Self {
        Self { first: Token::FIRST, last: Token::LAST }
    }

    #[must_use]
    pub fn contains(self, token: Token) -> bool {
        self.first <= token && token <= self.last
    }

    /// How many tokens it holds. The full range holds one more than a `u64` can say.
    #[must_use]
    pub fn size(self) -> u128 {
        u128::from(self.last.0) - u128::from(self.first.0) + 1
    }

    /// Cuts the range into `count` ranges, in order, whose sizes differ by at most one token.
    ///
    /// # Panics
    /// When `count` is 0 or more than there are tokens.
    #[must_use]
    pub fn split_evenly(self, count: u32) -> Vec<TokenRange> {
        let (size, count) = (self.size(), u128::from(count));
        assert!(count > 0 && count <= size, "{size} tokens cannot be cut into {count} ranges");
        // Products stay below 2^64 * 2^32; a part begins where the one before it ends.
        let begin = |part: u128| u128::from(self.first.0) + part * size / count;
        let token = |place: u128| Token(u64::try_from(place).expect("a cut lies inside the range"));
        (0..count).map(|part| TokenRange { first: token(begin(part)), last: token(begin(part + 1) - 1) }).collect()
    }
}

impl fmt::Display for TokenRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.first, self.last)
    }
}

impl Wire for TokenRange {
    fn encode(&self, out: &mut BytesMut) {
        self.first.encode(out);
        self.last.encode(out);
    }
    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let (first, last) = (Token::decode(input)?, Token::decode(input)?);
        Self::new(first, last).map_err(|error| WireError::Invalid { what: "token range", why: error.to_string() })
    }
}

#[derive(Deserialize)]
struct UncheckedRange {
    first: Token,
    last: Token,
}

impl TryFrom<UncheckedRange> for TokenRange {
    type Error = BadRange;
    fn try_from(range: UncheckedRange) -> Result<Self, BadRange> {
        Self::new(range.first, range.last)
    }
}

/// Something for every token.
///
/// Invariants: the entries are in token order and cover the whole ring, each token exactly once. So [`Ring::find`]
/// always has one answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ring<T> {
    entries: Vec<(TokenRange, T)>,
}

/// Why ranges make no ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    #[error("no entry covers {missing}")]
    Gap { missing: TokenRange },
    #[error("{left} and {right} overlap")]
    Overlap { left: TokenRange, right: TokenRange },
    #[error(transparent)]
    BadRange(#[from] BadRange),
}

impl<T> Ring<T> {
    /// Takes the entries in any order; refuses them unless they cover the ring exactly once.
    pub fn new(mut entries: Vec<(TokenRange, T)>) -> Result<Self, RingError> {
        entries.sort_by_key(|(range, _)| *range);
        let token = |place: u128| Token(u64::try_from(place).expect("a gap lies on the ring"));
        let gap = |from: u128, to: u128| RingError::Gap { missing: TokenRange { first: token(from), last: token(to) } };
        // The first token that is not covered yet: one past the ring's end when all are.
        let mut next = 0;
        let mut before: Option<TokenRange> = None;
        for (range, _) in &entries {
            let range = TokenRange::new(range.first, range.last)?;
            let first = u128::from(range.first.0);
            if first > next {
                return Err(gap(next, first - 1));
            }
            if let Some(left) = before
                && first < next
            {
                return Err(RingError::Overlap { left, right: range });
            }
            next = u128::from(range.last.0) + 1;
            before = Some(range);
        }
        let last = u128::from(u64::MAX);
        if next <= last { Err(gap(next, last)) } else { Ok(Self { entries }) }
    }

    #[must_use]
    pub fn find(&self, token: Token) -> &T {
        let after = self.entries.partition_point(|(range, _)| range.first <= token);
        // The first entry begins at token 0, so at least one begins at or before any token.
        &self.entries[after - 1].1
    }

    /// In token order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (TokenRange, &T)> {
        self.entries.iter().map(|(range, item)| (*range, item))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::golden;

    fn range(first: u64, last: u64) -> TokenRange {
        TokenRange { first: Token(first), last: Token(last) }
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn every_key_has_the_token_of_the_reference_implementation() {
        let vectors = include_str!("../testdata/ring_vectors.tsv");
        let mut count = 0;
        for line in vectors.lines().filter(|line| !line.starts_with('#')) {
            let (key, token) = line.split_once('\t').unwrap();
            assert_eq!(token_of(&unhex(key)), token.parse().unwrap(), "key {key}");
            count += 1;
        }
        assert!(count >= 30, "{count} vectors");
    }

    #[test]
    fn the_hash_tag_is_redis_clusters() {
        let cases: [(&[u8], Option<&[u8]>); 12] = [
            (b"{user1000}.following", Some(b"user1000")),
            (b"foo{}{bar}", None),
            (b"foo{{bar}}zap", Some(b"{bar")),
            (b"foo{bar}{zap}", Some(b"bar")),
            (b"a}{b}", Some(b"b")),
            (b"{a", None),
            (b"a}", None),
            (b"}{", None),
            (b"{}", None),
            (b"{\0}", Some(b"\0")),
            (b"plain", None),
            (b"", None),
        ];
        for (key, tag) in cases {
            assert_eq!(hash_tag(key), tag, "{:?}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn keys_that_share_a_tag_share_a_token() {
        assert_eq!(token_of(b"{order 7}.lines"), token_of(b"header of {order 7}"));
        assert_eq!(token_of(b"{order 7}.lines"), token_of(b"order 7"));
        assert_ne!(token_of(b"{}a"), token_of(b"{}b"));
    }

    #[test]
    fn a_token_has_one_spelling() {
        assert_eq!(Token(0xAB).to_string(), "00000000000000ab");
        assert_eq!(serde_json::to_string(&Token(0xAB)).unwrap(), "\"00000000000000ab\"");
        for bad in ["", "ab", "00000000000000AB", "+0000000000000ab", "00000000000000ab0"] {
            assert!(bad.parse::<Token>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn formats_are_pinned() {
        golden::check("token_range", &[range(0, u64::MAX), range(7, 7), range(0x0102, 0x0203)]);
    }

    #[test]
    fn a_range_the_wrong_way_round_is_refused_by_every_door() {
        let wrong = range(2, 1);
        assert!(TokenRange::new(wrong.first, wrong.last).is_err());
        assert!(matches!(TokenRange::from_bytes(wrong.to_bytes()), Err(WireError::Invalid { .. })));
        let json = serde_json::to_string(&wrong).unwrap();
        assert!(serde_json::from_str::<TokenRange>(&json).is_err());
        let right = range(1, 2);
        assert_eq!(serde_json::from_str::<TokenRange>(&serde_json::to_string(&right).unwrap()).unwrap(), right);
        assert!(matches!(Ring::new(vec![(wrong, ())]), Err(RingError::BadRange(_))));
    }

    #[test]
    fn a_ring_names_the_gap_or_the_overlap_it_refuses() {
        let of = |ranges: &[TokenRange]| Ring::new(ranges.iter().map(|range| (*range, ())).collect::<Vec<_>>());
        let gap = |missing| Err(RingError::Gap { missing });
        assert_eq!(of(&[]), gap(TokenRange::full()));
        assert_eq!(of(&[range(1, u64::MAX)]), gap(range(0, 0)));
        assert_eq!(of(&[range(0, u64::MAX - 1)]), gap(range(u64::MAX, u64::MAX)));
        assert_eq!(of(&[range(10, u64::MAX), range(0, 7)]), gap(range(8, 9)));
        let overlap = |left, right| Err(RingError::Overlap { left, right });
        assert_eq!(of(&[range(0, 8), range(8, u64::MAX)]), overlap(range(0, 8), range(8, u64::MAX)));
        assert_eq!(of(&[range(0, u64::MAX), range(9, 9)]), overlap(range(0, u64::MAX), range(9, 9)));
        assert_eq!(of(&[range(0, 5), range(0, 5), range(6, u64::MAX)]), overlap(range(0, 5), range(0, 5)));
        let error = of(&[range(0, 7), range(10, u64::MAX)]).unwrap_err();
        assert_eq!(error.to_string(), "no entry covers 0000000000000008..=0000000000000009");
    }

    /// Ranges that tile the ring, from the places where they begin.
    fn tiles(mut cuts: Vec<u64>) -> Vec<TokenRange> {
        cuts.push(0);
        cuts.sort_unstable();
        cuts.dedup();
        let lasts = cuts.iter().skip(1).map(|cut| cut - 1).chain([u64::MAX]);
        cuts.iter().zip(lasts).map(|(first, last)| range(*first, last)).collect()
    }

    proptest! {
        #[test]
        fn every_token_is_found_in_the_one_range_that_holds_it(
            cuts in prop::collection::vec(any::<u64>(), 0..40), tokens in prop::collection::vec(any::<u64>(), 1..40),
        ) {
            let ranges = tiles(cuts);
            let ring = Ring::new(ranges.iter().rev().map(|range| (*range, *range)).collect()).unwrap();
            prop_assert_eq!(ring.iter().map(|(range, _)| range).collect::<Vec<_>>(), ranges.clone());
            let edges = ranges.iter().flat_map(|range| [range.first, range.last]);
            for token in tokens.into_iter().map(Token).chain(edges) {
                prop_assert!(ring.find(token).contains(token));
                prop_assert_eq!(ranges.iter().filter(|range| range.contains(token)).count(), 1);
            }
        }

        #[test]
        fn a_ring_with_one_range_removed_or_grown_is_refused(
            cuts in prop::collection::vec(1..=u64::MAX, 1..40), pick in any::<prop::sample::Index>(),
        ) {
            let ranges = tiles(cuts);
            let victim = pick.index(ranges.len());
            let mut fewer = ranges.clone();
            let missing = fewer.remove(victim);
            prop_assert_eq!(
                Ring::new(fewer.into_iter().map(|range| (range, ())).collect()), Err(RingError::Gap { missing })
            );
            let mut grown = ranges;
            if victim == 0 { grown[1].first.0 -= 1 } else { grown[victim - 1].last.0 += 1 }
            let refused = Ring::new(grown.into_iter().map(|range| (range, ())).collect());
            prop_assert!(matches!(refused, Err(RingError::Overlap { .. })), "{refused:?}");
        }

        #[test]
        fn an_even_split_tiles_its_range_with_sizes_that_differ_by_at_most_one(
            ends in any::<(u64, u64)>(), count in 1u32..5000,
        ) {
            let whole = range(ends.0.min(ends.1), ends.0.max(ends.1));
            prop_assume!(whole.size() >= u128::from(count));
            for whole in [whole, TokenRange::full()] {
                let parts = whole.split_evenly(count);
                prop_assert_eq!(parts.len(), count as usize);
                prop_assert_eq!((parts[0].first, parts[parts.len() - 1].last), (whole.first, whole.last));
                prop_assert!(parts.windows(2).all(|pair| pair[0].last.0 + 1 == pair[1].first.0));
                let sizes = parts.iter().map(|part| part.size());
                prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
            }
        }
    }
}
