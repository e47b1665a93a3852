//! A set of keys over the whole key space: each is inserted once, with and without a hash tag, and scans, during the run
//! and after it, have to give every acknowledged one exactly once, in order, with its revision and value, and none that
//! was refused. Pages are what the API promises to be of one moment for each shard, so each page is held to what had
//! been acknowledged before it was asked for.
//!
//! [`Members`] is what was told of each key; [`Scan`] holds the pages of one scan against it. Inserts are operations of
//! the history; pages are not, for a history speaks of one key at a time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use ringraft::types::Revision;

use super::answer::{Ended, Judged};
use crate::history::Answer;

/// Keys under one prefix; then the next is begun, so that scans during the run stay short.
pub(super) const KEYS_EACH_PREFIX: u32 = 1000;
/// Different tags under one prefix, each in one shard.
const TAGS: u32 = 8;

/// All keys of the set, with what is known of them.
pub(super) struct Members {
    root: String,
    made: u32,
    by_key: BTreeMap<String, Member>,
    acknowledged: Tick,
}

/// Acknowledgements so far: a moment between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u64);

struct Member {
    value: String,
    fate: Fate,
    /// What a scan showed of it.
    shown: Option<Revision>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Under way or unknown: it may be there or not.
    Open,
    Acknowledged {
        revision: Revision,
        tick: Tick,
    },
    Refused,
}

impl Members {
    /// All keys begin with `root`.
    pub(super) fn new(root: String) -> Self {
        Self { root, made: 0, by_key: BTreeMap::new(), acknowledged: Tick(0) }
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn all_keys(&self) -> Vec<String> {
        self.by_key.keys().cloned().collect()
    }

    /// A key that was never inserted, to be inserted with this value.
    pub(super) fn insert(&mut self, value: String) -> String {
        let number = self.made;
        self.made += 1;
        let within = self.current();
        // Keys with a tag lie between the others in the order of the bytes.
        let key = if number.is_multiple_of(2) {
            format!("{within}{number:06}")
        } else {
            format!("{}{number}", tagged(&within, number / 2 % TAGS))
        };
        let member = Member { value, fate: Fate::Open, shown: None };
        self.by_key.insert(key.clone(), member);
        key
    }

    /// The prefix of the keys that are inserted now.
    pub(super) fn current(&self) -> String {
        format!("{}{}/", self.root, self.made.saturating_sub(1) / KEYS_EACH_PREFIX)
    }

    /// The same with a tag, which fixes one shard.
    pub(super) fn current_tagged(&self, draw: u32) -> String {
        tagged(&self.current(), draw % TAGS)
    }

    /// What came of an insert. What is wrong with it together with what scans showed.
    pub(super) fn inserted(&mut self, key: &str, judged: &Judged) -> Option<String> {
        let member = self.by_key.get_mut(key).expect("what is inserted is a member");
        match &judged.ended {
            Ended::Ok(Answer::Written { ver }) => {
                self.acknowledged.0 += 1;
                member.fate = Fate::Acknowledged { revision: *ver, tick: self.acknowledged };
                let other = member.shown.filter(|shown| shown != ver)?;
                Some(format!("{key:?} was inserted at {ver}, and a scan showed it at {other}"))
            }
            Ended::Info => None,
            Ended::Ok(_) | Ended::Fail => {
                member.fate = Fate::Refused;
                let shown = member.shown?;
                Some(format!("{key:?} was refused ({}), and a scan showed it at {shown}", judged.code))
            }
        }
    }

    pub(super) fn now(&self) -> Tick {
        self.acknowledged
    }
}

fn tagged(within: &str, tag: u32) -> String {
    // The tag differs from prefix to prefix, so that all shards get some.
    format!("{within}{{{within}{tag}}}/")
}

/// One row of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: String,
    pub(super) revision: Revision,
    /// None when only keys were asked for.
    pub(super) value: Option<String>,
}

/// One scan of all keys with a prefix, page by page.
pub(super) struct Scan {
    prefix: String,
    last: Option<String>,
    pub(super) keys: usize,
}

impl Scan {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, last: None, keys: 0 }
    }

    /// Holds the next page against the members; `asked` is when it was asked for, and `is_last` whether there is no
    /// further one.
    pub(super) fn take(&mut self, members: &mut Members, items: &[Item], is_last: bool, asked: Tick) -> Vec<String> {
        let mut wrong = Vec::new();
        let from = self.last.clone();
        let mut given: BTreeMap<&str, usize> = BTreeMap::new();
        for (place, item) in items.iter().enumerate() {
            if let Some(last) = &self.last
                && *last >= item.key
            {
                let what = if *last == item.key { "twice" } else { "out of order" };
                wrong.push(format!("{:?} comes {what}, after {last:?}", item.key));
            }
            match given.entry(&item.key) {
                Entry::Vacant(vacant) => drop(vacant.insert(place)),
                Entry::Occupied(_) => wrong.push(format!("{:?} is twice in one page", item.key)),
            }
            wrong.extend(self.judge(members, item));
            self.last = Some(item.key.clone());
        }
        self.keys += items.len();
        for (key, member) in members.by_key.range(from.clone().unwrap_or_else(|| self.prefix.clone())..) {
            if !key.starts_with(&self.prefix) || (!is_last && Some(key) > self.last.as_ref()) {
                break;
            }
            if let Fate::Acknowledged { revision, tick } = member.fate
                && tick <= asked
                && from.as_ref() != Some(key)
                && !given.contains_key(key.as_str())
            {
                wrong.push(format!(
                    "{key:?} was inserted at {revision} before the page was asked for, and is not in it"
                ));
            }
        }
        wrong
    }

    fn judge(&self, members: &mut Members, item: &Item) -> Option<String> {
        let Item { key, revision, value } = item;
        if !key.starts_with(&self.prefix) {
            return Some(format!("{key:?} does not begin with the prefix {:?}", self.prefix));
        }
        let Some(member) = members.by_key.get_mut(key) else {
            return Some(format!("{key:?} was never inserted"));
        };
        if let Some(value) = value.as_ref().filter(|value| **value != member.value) {
            return Some(format!("{key:?} was inserted with {:?} and has {value:?}", member.value));
        }
        let known = match member.fate {
            Fate::Refused => return Some(format!("{key:?} was refused, and is there at {revision}")),
            Fate::Acknowledged { revision, .. } => Some(revision),
            Fate::Open => member.shown,
        };
        member.shown = Some(*revision);
        let other = known.filter(|known| known != revision)?;
        Some(format!("{key:?} was at {other}, and is at {revision} though nobody wrote it again"))
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
