//! What each request of a run is: put or get, of which key, with which value. Pure, and decided by seed and number of the
//! request alone: whichever client sends it, the same seed gives the same requests.
//!
//! Values are random bytes out of one pool, so that they do not compress; they begin with the number of their key
//! ([`Draw::value_is_of`]), so that a read sees when it was given another key's value.

use bytes::{BufMut, Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};

use super::args::{KEY_DIGITS, Settings, ValueSize};

/// Random bytes that values are cut from. Long against the blocks of a table file (16 KiB) and the window of their
/// compression (64 KiB), so that two values near each other have hardly ever bytes in common.
const POOL_BYTES_MIN: usize = 4 << 20;
/// Bytes of a key's number at the beginning of its values.
const MARK_BYTES: usize = 8;

/// Number of a key, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KeyNumber(pub(super) u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Get,
    /// Sent only when the keys are removed.
    Delete,
}

impl Kind {
    pub(super) fn is_write(self) -> bool {
        self != Self::Get
    }
}

/// A request before it is known whom it is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    pub(super) kind: Kind,
    pub(super) key: KeyNumber,
    /// Of a put; else empty.
    pub(super) value: Bytes,
}

enum Choice {
    Uniform,
    /// Ranks, and the step by which they are spread over the keys, so that the hot ones are no neighbours.
    Zipf {
        ranks: Zipf<f64>,
        step: u64,
    },
}

pub(super) struct Draw {
    seed: u64,
    read_percent: u8,
    keys: u64,
    choice: Choice,
    prefix: Bytes,
    value_size: ValueSize,
    pool: Bytes,
}

impl Draw {
    pub(super) fn new(settings: &Settings) -> Self {
        let choice = match settings.zipf {
            None => Choice::Uniform,
            Some(theta) => Choice::Zipf {
                ranks: Zipf::new(settings.keys as f64, theta).expect("keys and exponent were checked as arguments"),
                step: step(settings.keys),
            },
        };
        let mut pool = BytesMut::zeroed(POOL_BYTES_MIN.max(2 * settings.value_size.max));
        SmallRng::seed_from_u64(settings.seed).fill_bytes(&mut pool);
        Self {
            seed: settings.seed,
            read_percent: settings.read_percent,
            keys: settings.keys,
            choice,
            prefix: Bytes::copy_from_slice(settings.prefix.as_bytes()),
            value_size: settings.value_size,
            pool: pool.freeze(),
        }
    }

    /// The request of this number.
    pub(super) fn request(&self, number: u64) -> Drawn {
        let rng = &mut self.rng(number, 1);
        let is_read = rng.random_range(0..100) < self.read_percent;
        let key = self.key_number(rng);
        let value = if is_read { Bytes::new() } else { self.value(key, rng) };
        Drawn { kind: if is_read { Kind::Get } else { Kind::Put }, key, value }
    }

    /// The put that makes a key exist.
    pub(super) fn first_put(&self, key: KeyNumber) -> Drawn {
        let value = self.value(key, &mut self.rng(key.0, 2));
        Drawn { kind: Kind::Put, key, value }
    }

    /// A value of the greatest length, for the question whether the cluster takes it.
    pub(super) fn longest_put(&self, key: KeyNumber) -> Drawn {
        let value = self.value_of_length(key, self.value_size.max, &mut self.rng(key.0, 3));
        Drawn { kind: Kind::Put, key, value }
    }

    pub(super) fn key(&self, number: KeyNumber) -> Vec<u8> {
        let mut key = self.prefix.to_vec();
        key.extend_from_slice(format!("{:0KEY_DIGITS$}", number.0).as_bytes());
        key
    }

    /// Whether a key found under the prefix is one of a run's.
    pub(super) fn is_own_key(&self, key: &[u8]) -> bool {
        key.strip_prefix(&self.prefix[..])
            .is_some_and(|number| number.len() == KEY_DIGITS && number.iter().all(u8::is_ascii_digit))
    }

    /// Whether this can be a value of the key. Values too short to carry a mark can be anyone's.
    pub(super) fn value_is_of(key: KeyNumber, value: &[u8]) -> bool {
        value.len() < MARK_BYTES || value[..MARK_BYTES] == key.0.to_be_bytes()
    }

    fn rng(&self, number: u64, purpose: u64) -> SmallRng {
        // seed_from_u64 spreads neighbouring numbers over all of the state.
        SmallRng::seed_from_u64(self.seed.rotate_left(17) ^ number.wrapping_mul(4).wrapping_add(purpose))
    }

    fn key_number(&self, rng: &mut SmallRng) -> KeyNumber {
        match &self.choice {
            Choice::Uniform => KeyNumber(rng.random_range(0..self.keys)),
            Choice::Zipf { ranks, step } => {
                let rank = (ranks.sample(rng) as u64).clamp(1, self.keys) - 1;
                KeyNumber(rank * step % self.keys)
            }
        }
    }

    fn value(&self, key: KeyNumber, rng: &mut SmallRng) -> Bytes {
        let length = rng.random_range(self.value_size.min..=self.value_size.max);
        self.value_of_length(key, length, rng)
    }

    fn value_of_length(&self, key: KeyNumber, length: usize, rng: &mut SmallRng) -> Bytes {
        let from = rng.random_range(0..=self.pool.len() - length);
        let mut value = BytesMut::with_capacity(length);
        value.put_slice(&self.pool[from..from + length]);
        if length >= MARK_BYTES {
            value[..MARK_BYTES].copy_from_slice(&key.0.to_be_bytes());
        }
        value.freeze()
    }
}

/// A step that visits every key once: near the golden part of `keys`, and without a common factor. Both are below 2^30,
/// so that a rank times a step fits 64 bits.
fn step(keys: u64) -> u64 {
    let mut step = (keys * 618 / 1000).max(1);
    while gcd(step, keys) != 1 {
        step += 1;
    }
    step
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::testing::settings;
    use super::*;

    fn counts(line: &str, draws: u64) -> BTreeMap<KeyNumber, u64> {
        let draw = Draw::new(&settings(line));
        let mut counts = BTreeMap::new();
        for number in 0..draws {
            *counts.entry(draw.request(number).key).or_default() += 1;
        }
        counts
    }

    #[test]
    fn uniform_keys_are_all_as_likely() {
        let counts = counts("put --keys 100 --seed 1", 100_000);
        assert_eq!(counts.len(), 100);
        // 1,000 each; the standard deviation is 31.
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(counts.keys().next_back(), Some(&KeyNumber(99)));
    }

    #[test]
    fn zipf_keys_are_as_likely_as_the_law_says_and_the_hot_ones_are_no_neighbours() {
        let draws = 200_000;
        let counts = counts("put --keys 1000 --zipf 0.99 --seed 1", draws);
        let sum: f64 = (1..=1000).map(|rank| f64::from(rank).powf(-0.99)).sum();
        let mut hottest: Vec<(u64, KeyNumber)> = counts.iter().map(|(key, count)| (*count, *key)).collect();
        hottest.sort_unstable_by(|a, b| b.cmp(a));
        for (rank, (count, _)) in (1..=10).zip(&hottest) {
            let wanted = draws as f64 * f64::from(rank).powf(-0.99) / sum;
            let found = *count as f64;
            assert!((found - wanted).abs() < 0.1 * wanted, "rank {rank}: {found} of {wanted}");
        }
        let (first, second) = (hottest[0].1.0, hottest[1].1.0);
        assert!(first.abs_diff(second) > 100, "{first} and {second}");
    }

    #[test]
    fn reads_are_as_many_as_was_asked_for() {
        for (line, wanted) in [("put", 0..=0), ("get", 10_000..=10_000), ("mixed --read-percent 95", 9_400..=9_600)] {
            let draw = Draw::new(&settings(line));
            let reads = (0..10_000).filter(|number| draw.request(*number).kind == Kind::Get).count();
            assert!(wanted.contains(&reads), "{line}: {reads}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_requests_again_and_another_gives_others() {
        let requests = |line| (0..50).map(|number| Draw::new(&settings(line)).request(number)).collect::<Vec<_>>();
        let line = "mixed --keys 1000 --value-size 1..64 --seed 5";
        assert_eq!(requests(line), requests(line));
        assert_ne!(requests(line), requests("mixed --keys 1000 --value-size 1..64 --seed 6"));
    }

    #[test]
    fn values_have_the_lengths_asked_for_and_carry_their_key() {
        let draw = Draw::new(&settings("put --value-size 6..10"));
        let mut lengths = BTreeSet::new();
        for number in 0..1000 {
            let drawn = draw.request(number);
            lengths.insert(drawn.value.len());
            assert!(Draw::value_is_of(drawn.key, &drawn.value));
            assert!(drawn.value.len() < MARK_BYTES || !Draw::value_is_of(KeyNumber(drawn.key.0 + 1), &drawn.value));
        }
        assert_eq!(lengths, (6..=10).collect());
        assert_eq!(draw.longest_put(KeyNumber(3)).value.len(), 10);
    }

    #[test]
    fn values_do_not_compress() {
        // Two neighbours in 16 KiB would be found by any compressor: no eight bytes in them stand twice.
        let draw = Draw::new(&settings("put --value-size 256 --seed 1"));
        let mut seen = BTreeSet::new();
        for number in 0..64 {
            let value = draw.request(number).value;
            for eight in value[MARK_BYTES..].chunks_exact(8) {
                assert!(seen.insert(eight.to_vec()), "{eight:?} stands twice");
            }
        }
    }

    #[test]
    fn only_keys_of_its_own_shape_are_its_own() {
        let draw = Draw::new(&settings("put --prefix p/"));
        assert_eq!(draw.key(KeyNumber(42)), b"p/0000000042");
        assert!(draw.is_own_key(b"p/0000000042"));
        for foreign in ["p/42", "p/00000000042", "p/000000004x", "q/0000000042", "p/run", "p/"] {
            assert!(!draw.is_own_key(foreign.as_bytes()), "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn every_key_is_in_range_and_every_rank_has_a_key_of_its_own(keys in 1_u64..5000, seed: u64) {
            let line = format!("put --keys {keys} --zipf 1.2 --seed {seed}");
            let draw = Draw::new(&settings(&line));
            for number in 0..100 {
                prop_assert!(draw.request(number).key.0 < keys);
            }
            let step = step(keys);
            let all: BTreeSet<u64> = (0..keys).map(|rank| rank * step % keys).collect();
            prop_assert_eq!(all.len() as u64, keys);
        }
    }
}
