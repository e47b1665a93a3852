//! What `apply` may touch: reads that see the batch being built, and changes that go into it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::storage::{Batch, Change, Engine, Error, KeyRange, View};

/// Invariant: a read sees every change made through the transaction before it, whichever batch the engine will write
/// them in. Replicas cut their batches differently, so `apply` must not be able to tell.
pub struct Txn<'a> {
    engine: &'a dyn Engine,
    view: Option<Box<dyn View>>,
    changes: BTreeMap<Bytes, Option<Bytes>>,
}

impl<'a> Txn<'a> {
    pub fn new(engine: &'a dyn Engine) -> Self {
        Self { engine, view: None, changes: BTreeMap::new() }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.engine.get(key),
        }
    }

    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.insert(key, Some(value));
    }

    pub fn delete(&mut self, key: Bytes) {
        self.changes.insert(key, None);
    }

    /// The first `count` keys in `range`, in order.
    pub fn first_keys(&mut self, range: &KeyRange, count: usize) -> Result<Vec<Bytes>, Error> {
        let engine = self.engine;
        // Nothing else writes while a batch is built, so one view serves the whole transaction.
        let view = self.view.get_or_insert_with(|| engine.view());
        let mut stored = view.scan(range).map(|row| row.map(|(key, _)| key)).peekable();
        let end = range.before.clone().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut changed = self.changes.range((std::ops::Bound::Included(range.from.clone()), end)).peekable();
        let mut found = Vec::new();
        while found.len() < count {
            let next_stored = match stored.peek() {
                Some(Err(error)) => return Err(error.clone()),
                Some(Ok(key)) => Some(key.clone()),
                None => None,
            };
            match (next_stored, changed.peek()) {
                (None, None) => break,
                (Some(key), None) => {
                    stored.next();
                    found.push(key);
                }
                (Some(key), Some((changed_key, _))) if key < **changed_key => {
                    stored.next();
                    found.push(key);
                }
                (next_stored, Some((changed_key, change))) => {
                    if next_stored.as_ref() == Some(*changed_key) {
                        stored.next();
                    }
                    if change.is_some() {
                        found.push((*changed_key).clone());
                    }
                    changed.next();
                }
            }
        }
        Ok(found)
    }

    /// How many keys are in `range`. Reads them all.
    pub fn count_keys(&mut self, range: &KeyRange) -> Result<u64, Error> {
        let engine = self.engine;
        let view = self.view.get_or_insert_with(|| engine.view());
        let mut count = 0;
        for row in view.scan(range) {
            // One that was changed is counted with the changes.
            count += u64::from(!self.changes.contains_key(&row?.0));
        }
        let end = range.before.clone().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let changed = self.changes.range((std::ops::Bound::Included(range.from.clone()), end));
        Ok(count + changed.filter(|(_, change)| change.is_some()).count() as u64)
    }

    pub fn into_batch(self) -> Batch {
        let changes = self.changes.into_iter().map(|(key, change)| match change {
            Some(value) => Change::Put(key, value),
            None => Change::Delete(key),
        });
        Batch { changes: changes.collect() }
    }
}
