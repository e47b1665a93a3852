//! The keys that clients of one kind share for a while. A key is retired after some hundred operations, or when so many
//! of its writes are of unknown outcome that the checker's search would grow: each unknown write doubles it.
//!
//! Invariant: the unknown writes of a key, together with its writes that are under way, are never more than
//! [`UNKNOWN_WRITES_MAX`]; so even if none of them is answered, the checker decides the key.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::checker::UNKNOWN_WRITES_MAX;

/// Operations after which a key is retired: a number from here, drawn for each key.
const OPERATIONS_MIN: u32 = 200;
const OPERATIONS_MAX: u32 = 300;
/// Unknown writes at which a key is retired.
const UNKNOWN_WRITES_RETIRED: usize = 6;

pub(super) struct Keys {
    prefix: String,
    slots: Vec<Slot>,
    made: u64,
}

struct Slot {
    key: String,
    operations_left: u32,
    unknown_writes: usize,
    open_writes: usize,
}

/// A key for the next operation.
pub(super) struct Drawn {
    pub(super) key: String,
    /// Where it stands among the current keys.
    pub(super) slot: usize,
    /// Whether the operation may be a write. Told to [`Keys::ended`] if it is.
    pub(super) may_write: bool,
}

impl Keys {
    /// Keys begin with `prefix`, and each is used by no one else.
    pub(super) fn new(prefix: String, count: usize, rng: &mut StdRng) -> Self {
        let mut keys = Self { prefix, slots: Vec::new(), made: 0 };
        for _ in 0..count {
            let slot = keys.fresh(rng);
            keys.slots.push(slot);
        }
        keys
    }

    fn fresh(&mut self, rng: &mut StdRng) -> Slot {
        self.made += 1;
        let key = format!("{}{}", self.prefix, self.made);
        let operations_left = rng.random_range(OPERATIONS_MIN..=OPERATIONS_MAX);
        Slot { key, operations_left, unknown_writes: 0, open_writes: 0 }
    }

    /// Any of the current keys. `wants_write` is granted or not.
    pub(super) fn draw(&mut self, wants_write: bool, rng: &mut StdRng) -> Drawn {
        let place = rng.random_range(0..self.slots.len());
        if self.slots[place].is_used_up() {
            self.slots[place] = self.fresh(rng);
        }
        let slot = &mut self.slots[place];
        slot.operations_left -= 1;
        let may_write = wants_write && slot.unknown_writes + slot.open_writes < UNKNOWN_WRITES_MAX;
        slot.open_writes += usize::from(may_write);
        Drawn { key: slot.key.clone(), slot: place, may_write }
    }

    /// Of a write that was granted. A key that was retired meanwhile is not counted on.
    pub(super) fn ended(&mut self, key: &str, is_unknown: bool) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.key == key) {
            slot.open_writes -= 1;
            slot.unknown_writes += usize::from(is_unknown);
        }
    }

    /// Every key there ever was, in order.
    pub(super) fn all(&self) -> Vec<String> {
        (1..=self.made).map(|number| format!("{}{number}", self.prefix)).collect()
    }
}

impl Slot {
    fn is_used_up(&self) -> bool {
        self.operations_left == 0 || self.unknown_writes >= UNKNOWN_WRITES_RETIRED
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_key_is_retired_after_its_operations_and_none_comes_back() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut keys = Keys::new("k/".into(), 3, &mut rng);
        let mut used: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..5000 {
            let drawn = keys.draw(true, &mut rng);
            assert!(drawn.may_write);
            *used.entry(drawn.key.clone()).or_default() += 1;
            keys.ended(&drawn.key, false);
        }
        let all = keys.all();
        assert!(all.len() >= 5000 / OPERATIONS_MAX as usize, "{}", all.len());
        let retired = all.len() - 3;
        let full = used.values().filter(|&&count| count >= OPERATIONS_MIN).count();
        assert!(full >= retired, "{full} of {retired}");
        assert!(used.values().all(|&count| count <= OPERATIONS_MAX));
    }

    /// However the writes end, and whenever.
    #[test]
    fn no_key_gets_more_unknown_writes_than_the_checker_takes() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut keys = Keys::new("k/".into(), 2, &mut rng);
        let mut open: Vec<String> = Vec::new();
        let mut unknown: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..20_000 {
            let drawn = keys.draw(true, &mut rng);
            open.extend(drawn.may_write.then_some(drawn.key));
            if open.len() > 30 || rng.random_bool(0.5) {
                let key = open.swap_remove(rng.random_range(0..open.len()));
                let is_unknown = rng.random_bool(0.8);
                *unknown.entry(key.clone()).or_default() += usize::from(is_unknown);
                keys.ended(&key, is_unknown);
            }
        }
        open.into_iter().for_each(|key| *unknown.entry(key).or_default() += 1);
        assert_eq!(unknown.values().max(), Some(&UNKNOWN_WRITES_MAX));
        assert!(unknown.len() > 100);
    }
}
