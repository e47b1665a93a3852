//! The words every layer shares: identities, revisions, outcomes. Each id is its own type, so that a shard can never be
//! passed where a replica is meant.
//!
//! In JSON every id is a string (JavaScript loses numbers above 2^53).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest key, in bytes (`http-api`: a key is 1–2048 bytes, any bytes).
pub const KEY_BYTES_MAX: usize = 2048;
/// Default longest value, in bytes.
pub const VALUE_BYTES_MAX_DEFAULT: usize = 1 << 20;
/// Highest configurable value limit, in bytes. The disk and wire formats are sized for it.
pub const VALUE_BYTES_MAX_CEILING: usize = 8 << 20;

macro_rules! decimal_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            /// Decimal digits alone: `+1` and ` 1` are refused, so that an id has one spelling.
            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = || BadId { kind: stringify!($name), text: text.to_string() };
                if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(bad());
                }
                text.parse().map($name).map_err(|_| bad())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

decimal_id!(
    /// A process with a data directory. Allocated by the catalog at join, never reused, never an address.
    NodeId
);
decimal_id!(
    /// A token range with its Raft group. Shard 0 is the meta group, which keeps the catalog.
    ShardId
);
decimal_id!(
    /// One placement of a shard on a node: the Raft member id. Allocated by the catalog, fresh for every placement,
    /// never reused: recovery generation (16 bits) ‖ counter (48 bits).
    ReplicaId
);
decimal_id!(
    /// Version of a shard's range and replica set.
    Epoch
);
decimal_id!(
    /// A change of the cluster that somebody asked for. Allocated by the catalog, never reused.
    OperationId
);
decimal_id!(
    /// Something that happened to the cluster. Counted by the catalog, without a gap.
    EventId
);

/// The meta group's shard.
pub const META_SHARD: ShardId = ShardId(0);

impl ReplicaId {
    const COUNTER_BITS: u32 = 48;

    /// # Panics
    /// When `counter` is 0 or does not fit 48 bits: ids are counted from 1 by the catalog.
    pub fn new(recovery_generation: u16, counter: u64) -> Self {
        assert!(counter > 0 && counter >> Self::COUNTER_BITS == 0, "replica counter {counter} out of range");
        Self((u64::from(recovery_generation) << Self::COUNTER_BITS) | counter)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a {kind}")]
pub struct BadId {
    pub kind: &'static str,
    pub text: String,
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = || BadId { kind: stringify!($name), text: text.to_string() };
                if text.len() != 32 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(bad());
                }
                u128::from_str_radix(text, 16).map($name).map_err(|_| bad())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

random_id!(
    /// One cluster, for ever: drawn at `--bootstrap`, carried by every data directory and handshake.
    ClusterId
);
random_id!(
    /// One incarnation of a node's disk: drawn when the data directory is made. It stands in the log store and in every
    /// replica's directory, so that a lost or restored half is noticed (`architecture` §3).
    StoreId
);

/// Version of a key: strictly increasing within a shard, never reused after delete and create, never lowered by
/// restart, move or restore. No safety property depends on a wall clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// # Panics
    /// When the 64-bit clock is used up, which a base of wall milliseconds ‖ 20 bits leaves several hundred years for.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("revision clock exhausted"))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revision({:016x})", self.0)
    }
}

impl FromStr for Revision {
    type Err = BadId;
    /// The same 16 lower-case hex digits everywhere.
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { kind: "Revision", text: text.to_string() };
        if text.len() != 16 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        u64::from_str_radix(text, 16).map(Revision).map_err(|_| bad())
    }
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What an error says about the write it answers. A promise the fault tests hold us to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Certainly not applied, now or later.
    NotApplied,
    /// May have been applied, or may yet be.
    Unknown,
}

/// Versions of the peers' protocol from `min` to `max`, both spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProtocolRange {
    pub min: u16,
    pub max: u16,
}

impl ProtocolRange {
    /// The highest version that both speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

impl fmt::Display for ProtocolRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_has_one_spelling() {
        let revision = Revision(0x0001_8f3c_5a2b_0001);
        assert_eq!(revision.to_string(), "00018f3c5a2b0001");
        assert_eq!("00018f3c5a2b0001".parse(), Ok(revision));
        for bad in ["", "18f3c5a2b0001", "00018F3C5A2B0001", "+0018f3c5a2b0001", "00018f3c5a2b00010"] {
            assert!(bad.parse::<Revision>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_decimal_id_has_one_kind_of_digits() {
        assert_eq!("42".parse(), Ok(ShardId(42)));
        for bad in ["", "+1", "-1", " 1", "1 ", "0x1", "18446744073709551616"] {
            assert!(bad.parse::<ShardId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_replica_id_keeps_generation_and_counter_apart() {
        assert_eq!(ReplicaId::new(0, 1).0, 1);
        assert_eq!(ReplicaId::new(1, 1).0, (1 << 48) | 1);
        assert!(ReplicaId::new(1, 1) > ReplicaId::new(0, (1 << 48) - 1));
    }
}
