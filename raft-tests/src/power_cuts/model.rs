//! What a log store must hold after a power cut: what each of its users was told, and what each had asked for.
//!
//! A user asks for one thing after the other and may ask on before it is answered. An answer counts for everything that
//! this user asked for up to it, because the store promises its order. So what is there must be what was answered plus
//! some first part of what was still under way: no more, no less, and no part of one request.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// One request of a user.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Entries from this index on, each carrying the generation.
    Append {
        first: u64,
        count: u64,
        generation: u64,
    },
    /// Every entry from this index on is gone.
    Truncate {
        from: u64,
    },
    /// Every entry up to this index is gone. Not answered for by itself.
    Purge {
        index: u64,
    },
    Vote(u64),
    /// Not answered for by itself.
    Committed(u64),
    Directory(u64),
    Identity(u64),
}

/// What one user's part of the store holds.
#[derive(Serialize, Deserialize, Clone, Default, Debug, PartialEq, Eq)]
pub struct Held {
    /// Generation by index.
    pub entries: BTreeMap<u64, u64>,
    pub purged: Option<u64>,
    pub vote: u64,
    pub committed: u64,
    pub directory: u64,
    pub identity: u64,
}

impl Held {
    fn apply(&mut self, request: Request) {
        match request {
            Request::Append { first, count, generation } => {
                self.entries.extend((first..first + count).map(|index| (index, generation)));
            }
            Request::Truncate { from } => drop(self.entries.split_off(&from)),
            Request::Purge { index } => {
                self.entries = self.entries.split_off(&(index + 1));
                self.purged = self.purged.max(Some(index));
            }
            Request::Vote(vote) => self.vote = vote,
            Request::Committed(index) => self.committed = index,
            Request::Directory(number) => self.directory = number,
            Request::Identity(number) => self.identity = number,
        }
    }

    /// Where it differs, in few words.
    fn difference(&self, found: &Self) -> String {
        let mut differing = Vec::new();
        let indexes: Vec<u64> = self.entries.keys().chain(found.entries.keys()).copied().collect();
        let wrong = indexes.iter().filter(|index| self.entries.get(index) != found.entries.get(index));
        if let Some(first) = wrong.clone().min() {
            differing.push(format!(
                "entry {first} has generation {:?} and not {:?}, one of {} that differ",
                found.entries.get(first),
                self.entries.get(first),
                wrong.collect::<std::collections::BTreeSet<_>>().len()
            ));
        }
        let values = |held: &Self| [held.vote, held.committed, held.directory, held.identity];
        for ((name, found), wanted) in
            ["vote", "committed", "directory", "identity"].iter().zip(values(found)).zip(values(self))
        {
            if found != wanted {
                differing.push(format!("{name} is {found} and not {wanted}"));
            }
        }
        if found.purged != self.purged {
            differing.push(format!("purged is {:?} and not {:?}", found.purged, self.purged));
        }
        differing.join(", ")
    }
}

/// One user's requests, and what the store owes it.
#[derive(Default, Debug)]
pub struct Owed {
    answered: Held,
    /// With their numbers, which grow.
    under_way: VecDeque<(u64, Request)>,
}

impl Owed {
    pub fn asks(&mut self, number: u64, request: Request) {
        self.under_way.push_back((number, request));
    }

    /// Says how many requests the answer counts for.
    pub fn answered(&mut self, number: u64) -> u64 {
        let mut counted = 0;
        while let Some(&(_, request)) = self.under_way.front().filter(|(asked, _)| *asked <= number) {
            self.answered.apply(request);
            self.under_way.pop_front();
            counted += 1;
        }
        counted
    }

    pub fn under_way(&self) -> u64 {
        self.under_way.len() as u64
    }

    /// Holds what is there after a cut against what is owed, and goes on from it. Gives how many of the requests that were
    /// under way took effect.
    ///
    /// # Errors
    /// What is missing or too much.
    pub fn settle(&mut self, found: Held) -> Result<u64, String> {
        let mut may_be = self.answered.clone();
        let mut taken = 0;
        let under_way: Vec<Request> = self.under_way.drain(..).map(|(_, request)| request).collect();
        for request in &under_way {
            if may_be == found {
                break;
            }
            may_be.apply(*request);
            taken += 1;
        }
        if may_be == found {
            self.answered = found;
            return Ok(taken);
        }
        let missing = self.answered.difference(&found);
        Err(format!("of what was acknowledged, {missing}; under way were {under_way:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(first: u64, count: u64) -> Request {
        Request::Append { first, count, generation: 1 }
    }

    /// Two appends answered, then a purge, a vote and an append under way.
    fn owed() -> Owed {
        let mut owed = Owed::default();
        for (number, request) in
            [append(0, 3), append(3, 2), Request::Purge { index: 1 }, Request::Vote(4), append(5, 1)]
                .into_iter()
                .enumerate()
        {
            owed.asks(number as u64, request);
        }
        assert_eq!(owed.answered(1), 2);
        owed
    }

    fn held(entries: std::ops::Range<u64>, purged: Option<u64>, vote: u64) -> Held {
        Held { entries: entries.map(|index| (index, 1)).collect(), purged, vote, ..Held::default() }
    }

    #[test]
    fn what_was_answered_and_any_first_part_of_the_rest_may_be_there() {
        for (found, taken) in [
            (held(0..5, None, 0), 0),
            (held(2..5, Some(1), 0), 1),
            (held(2..5, Some(1), 4), 2),
            (held(2..6, Some(1), 4), 3),
        ] {
            assert_eq!(owed().settle(found), Ok(taken));
        }
    }

    #[test]
    fn a_lost_answer_a_part_of_a_request_and_one_without_those_before_it_are_seen() {
        for (found, why) in [
            (held(0..4, None, 0), "an answered append is cut short"),
            (held(0..0, None, 0), "nothing is there"),
            (held(0..5, Some(1), 0), "a purge without its deletion"),
            (held(2..5, None, 0), "a deletion without its purge"),
            (held(0..5, None, 4), "a vote without the purge before it"),
            (held(2..7, Some(1), 4), "an entry that nobody wrote"),
        ] {
            assert!(owed().settle(found).is_err(), "{why}");
        }
    }

    #[test]
    fn an_entry_of_an_earlier_generation_is_not_the_one_that_replaced_it() {
        let mut owed = Owed::default();
        owed.asks(0, append(0, 2));
        owed.asks(1, Request::Truncate { from: 1 });
        owed.asks(2, Request::Append { first: 1, count: 1, generation: 2 });
        owed.answered(2);
        assert!(owed.settle(held(0..2, None, 0)).is_err());
    }

    #[test]
    fn what_took_effect_at_one_cut_is_owed_at_the_next() {
        let mut owed = owed();
        owed.settle(held(2..5, Some(1), 4)).unwrap();
        assert!(owed.settle(held(2..5, Some(1), 0)).is_err());
    }
}
