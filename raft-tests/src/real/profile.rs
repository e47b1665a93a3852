//! Which faults a run makes: the profiles by name, and the order in which a seed makes them.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;

use super::faults::{Change, Clock, Disk, Fault, Length, Shape, Who};

/// What a world must have for some faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Every node's data is on a file system that can lose power.
    pub powerfs: bool,
    /// Every node has a wall clock that can be set.
    pub wall_clock: bool,
    /// Logs are purged within seconds.
    pub small_logs: bool,
    /// Leases are long enough for a voter to be restarted within one.
    pub long_leases: bool,
    /// More nodes than replicas of a shard: some of them have none.
    pub spare_nodes: bool,
}

/// Faults that stand at the same time, each begun after the one before it and ended before that.
pub type Card = &'static [Fault];

#[derive(Debug, PartialEq)]
pub struct Profile {
    pub name: &'static str,
    pub about: &'static str,
    pub cards: &'static [Card],
    /// Length of a run when none is said.
    pub seconds: u64,
}

const CHANGES: [Fault; 3] =
    [Fault::Change(Change::Split), Fault::Change(Change::Move), Fault::Change(Change::Transfer)];

pub const ALL: &[Profile] = &[
    Profile {
        name: "kill-pause",
        about: "kill -9 and SIGSTOP of a leader, one node, a majority, all; pauses shorter and longer than the lease",
        cards: &[
            &[Fault::Kill(Who::Leader)],
            &[Fault::Kill(Who::One)],
            &[Fault::Kill(Who::Majority)],
            &[Fault::Kill(Who::All)],
            &[Fault::Pause(Who::Leader, Length::Short)],
            &[Fault::Pause(Who::Leader, Length::Long)],
            &[Fault::Pause(Who::Follower, Length::Long)],
            &[Fault::Pause(Who::Majority, Length::Short)],
            &[Fault::Pause(Who::Majority, Length::Long)],
        ],
        seconds: 60,
    },
    Profile {
        name: "partitions",
        about: "a leader isolated, deaf or mute; halves; a bridge; one link",
        cards: &[
            &[Fault::Cut(Shape::IsolateLeader)],
            &[Fault::Cut(Shape::Halves)],
            &[Fault::Cut(Shape::Bridge)],
            &[Fault::Cut(Shape::OneLink)],
            &[Fault::Cut(Shape::DeafLeader)],
            &[Fault::Cut(Shape::MuteLeader)],
        ],
        seconds: 60,
    },
    Profile {
        name: "power-loss",
        about: "power lost on a leader, one node, a majority, all; unsynced pages torn on a minority",
        cards: &[
            &[Fault::Power(Who::All)],
            &[Fault::Power(Who::All)],
            &[Fault::Power(Who::Leader)],
            &[Fault::Power(Who::Majority)],
            &[Fault::Power(Who::One)],
            &[Fault::Torn],
        ],
        seconds: 60,
    },
    Profile {
        name: "lease-clock",
        about: "a voter restarted inside a lease, steps of the wall clock, pauses around the lease",
        cards: &[
            &[Fault::LeaseTrap],
            &[Fault::Clock(Clock::DayAhead)],
            &[Fault::Clock(Clock::DayBehind)],
            &[Fault::Clock(Clock::FarAhead)],
            &[Fault::Clock(Clock::Reset)],
            &[Fault::Pause(Who::Leader, Length::Short)],
            &[Fault::Pause(Who::Leader, Length::Long)],
        ],
        seconds: 60,
    },
    Profile {
        name: "lease-trap",
        about: "nothing but voters restarted inside a lease; --times 200 makes so many",
        cards: &[&[Fault::LeaseTrap]],
        seconds: 60,
    },
    Profile {
        name: "network",
        about: "lost packets, reset connections, slow and late links",
        cards: &[&[Fault::Loss], &[Fault::Reset], &[Fault::Slow], &[Fault::Delay], &[Fault::Cut(Shape::IsolateLeader)]],
        seconds: 60,
    },
    Profile {
        name: "disk",
        about: "a failed fsync, a full disk, slow fsyncs, a flipped bit in a log, torn pages: on one node at a time",
        cards: &[
            &[Fault::Disk(Disk::Eio)],
            &[Fault::Disk(Disk::Full)],
            &[Fault::Disk(Disk::SlowSync)],
            &[Fault::Disk(Disk::BitFlip)],
            &[Fault::Torn],
        ],
        seconds: 120,
    },
    Profile {
        name: "snapshot",
        about: "a follower down until the log it needs is purged, and leaders killed in between",
        cards: &[&[Fault::Snapshot], &[Fault::Kill(Who::Leader)]],
        seconds: 90,
    },
    Profile {
        name: "everything",
        about: "pairs of faults at the same time, of all kinds",
        cards: &[
            &[Fault::Cut(Shape::OneLink), Fault::Kill(Who::Leader)],
            &[Fault::Cut(Shape::Bridge), Fault::Pause(Who::Leader, Length::Long)],
            &[Fault::Cut(Shape::IsolateLeader), Fault::Kill(Who::One)],
            &[Fault::Cut(Shape::IsolateLeader), Fault::Power(Who::One)],
            &[Fault::Clock(Clock::DayAhead), Fault::Kill(Who::Leader)],
            &[Fault::Clock(Clock::DayBehind), Fault::Power(Who::All)],
            &[Fault::Disk(Disk::SlowSync), Fault::Kill(Who::Leader)],
            &[Fault::Disk(Disk::SlowSync), Fault::Pause(Who::Leader, Length::Short)],
            &[Fault::Loss, Fault::Kill(Who::Majority)],
            &[Fault::Reset, Fault::Pause(Who::Leader, Length::Long)],
            &[Fault::Slow, Fault::Power(Who::Leader)],
            &[Fault::Snapshot],
            &[Fault::LeaseTrap],
            &[Fault::Torn],
        ],
        seconds: 300,
    },
    Profile {
        name: "placement",
        about: "shards split, replicas moved, leaders transferred, nodes drained: alone, and while nodes die, are cut off, \
                lose power",
        cards: &[
            &[Fault::Change(Change::Split)],
            &[Fault::Change(Change::Split), Fault::Kill(Who::Leader)],
            &[Fault::Change(Change::Split), Fault::Kill(Who::One)],
            &[Fault::Change(Change::Split), Fault::Kill(Who::All)],
            &[Fault::Change(Change::Split), Fault::Cut(Shape::IsolateLeader)],
            &[Fault::Change(Change::Split), Fault::Cut(Shape::Bridge)],
            &[Fault::Change(Change::Split), Fault::Power(Who::Leader)],
            &[Fault::Change(Change::Split), Fault::Power(Who::All)],
            &[Fault::Change(Change::Split), Fault::Pause(Who::Leader, Length::Long)],
            &[Fault::Change(Change::Split), Fault::Change(Change::Move)],
            &[Fault::Change(Change::Split), Fault::Change(Change::Transfer)],
            &[Fault::Change(Change::Move)],
            &[Fault::Change(Change::Move), Fault::Kill(Who::Leader)],
            &[Fault::Change(Change::Move), Fault::Kill(Who::One)],
            &[Fault::Change(Change::Move), Fault::Kill(Who::All)],
            &[Fault::Change(Change::Move), Fault::Cut(Shape::IsolateLeader)],
            &[Fault::Change(Change::Move), Fault::Cut(Shape::Bridge)],
            &[Fault::Change(Change::Move), Fault::Power(Who::One)],
            &[Fault::Change(Change::Move), Fault::Power(Who::All)],
            &[Fault::Change(Change::Move), Fault::Pause(Who::Leader, Length::Long)],
            &[Fault::Change(Change::Transfer)],
            &[Fault::Change(Change::Transfer), Fault::Kill(Who::Leader)],
            &[Fault::Change(Change::Transfer), Fault::Cut(Shape::MuteLeader)],
            &[Fault::Change(Change::Transfer), Fault::Pause(Who::Leader, Length::Short)],
            &[Fault::Change(Change::Drain)],
            &[Fault::Change(Change::Drain), Fault::Kill(Who::Leader)],
            &[Fault::Change(Change::Drain), Fault::Kill(Who::Majority)],
            &[Fault::Change(Change::Drain), Fault::Power(Who::All)],
            &[Fault::Change(Change::Drain), Fault::Cut(Shape::Halves)],
        ],
        seconds: 120,
    },
    Profile {
        name: "operations",
        about: "a split, a move and a transfer at the same time, with a fault standing: many of them, for their totals",
        cards: &[
            &[CHANGES[0], CHANGES[1], CHANGES[2], Fault::Kill(Who::Leader)],
            &[CHANGES[1], CHANGES[0], CHANGES[2], Fault::Kill(Who::One)],
            &[CHANGES[2], CHANGES[1], CHANGES[0], Fault::Kill(Who::All)],
            &[CHANGES[0], CHANGES[2], CHANGES[1], Fault::Cut(Shape::IsolateLeader)],
            &[CHANGES[1], CHANGES[2], CHANGES[0], Fault::Cut(Shape::Halves)],
            &[CHANGES[2], CHANGES[0], CHANGES[1], Fault::Cut(Shape::Bridge)],
            &[CHANGES[0], CHANGES[1], CHANGES[2], Fault::Power(Who::Leader)],
            &[CHANGES[1], CHANGES[0], CHANGES[2], Fault::Power(Who::All)],
            &[CHANGES[2], CHANGES[1], CHANGES[0], Fault::Pause(Who::Leader, Length::Long)],
        ],
        seconds: 90,
    },
    Profile {
        name: "try",
        about: "a look at it: leaders killed, paused and cut off",
        cards: &[
            &[Fault::Kill(Who::Leader)],
            &[Fault::Pause(Who::Leader, Length::Short)],
            &[Fault::Pause(Who::Leader, Length::Long)],
            &[Fault::Cut(Shape::IsolateLeader)],
        ],
        seconds: 45,
    },
];

pub fn find(name: &str) -> Option<&'static Profile> {
    ALL.iter().find(|profile| profile.name == name)
}

impl Profile {
    /// The cards that this world can play.
    pub fn playable(&self, can: impl Fn(Fault) -> bool) -> Vec<Card> {
        self.cards.iter().copied().filter(|card| card.iter().all(|fault| can(*fault))).collect()
    }
}

pub fn needs(cards: &[Card]) -> Needs {
    let has = |wanted: fn(&Fault) -> bool| cards.iter().any(|card| card.iter().any(wanted));
    Needs {
        powerfs: has(|fault| matches!(fault, Fault::Power(_) | Fault::Torn | Fault::Disk(_))),
        wall_clock: has(|fault| matches!(fault, Fault::Clock(_))),
        small_logs: has(|fault| matches!(fault, Fault::Snapshot)),
        long_leases: has(|fault| matches!(fault, Fault::LeaseTrap)),
        spare_nodes: has(|fault| matches!(fault, Fault::Change(_))),
    }
}

/// Deals cards: always of the class that was dealt least so far, and of that the card that was dealt least; the seed
/// decides between equals. So every class comes up about equally often, and no order is fixed.
pub struct Dealer {
    cards: Vec<Card>,
    dealt: Vec<u64>,
}

impl Dealer {
    pub fn new(cards: Vec<Card>) -> Self {
        let dealt = vec![0; cards.len()];
        Self { cards, dealt }
    }

    /// None when there are no cards.
    pub fn deal(&mut self, rng: &mut StdRng) -> Option<Card> {
        let mut of_class: BTreeMap<&str, u64> = BTreeMap::new();
        for (card, dealt) in self.cards.iter().zip(&self.dealt) {
            *of_class.entry(class(card)).or_default() += dealt;
        }
        let rank = |place: usize| (of_class[class(self.cards[place])], self.dealt[place]);
        let least = (0..self.cards.len()).map(rank).min()?;
        let equal: Vec<usize> = (0..self.cards.len()).filter(|place| rank(*place) == least).collect();
        let place = equal[rng.random_range(0..equal.len())];
        self.dealt[place] += 1;
        Some(self.cards[place])
    }
}

fn class(card: Card) -> &'static str {
    card[0].class()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_class_and_every_card_of_it_is_dealt_equally_often() {
        let profile = find("lease-clock").unwrap();
        let mut dealer = Dealer::new(profile.cards.to_vec());
        let mut rng = StdRng::seed_from_u64(7);
        let mut classes: BTreeMap<&str, u32> = BTreeMap::new();
        for _ in 0..30 {
            *classes.entry(dealer.deal(&mut rng).unwrap()[0].class()).or_default() += 1;
        }
        assert_eq!(classes, BTreeMap::from([("clock", 10), ("lease-trap", 10), ("pause", 10)]));
        let dealt = dealer.cards.iter().zip(&dealer.dealt);
        let clocks: Vec<u64> = dealt.filter(|(card, _)| class(card) == "clock").map(|(_, dealt)| *dealt).collect();
        assert!(clocks.len() == 4 && clocks.iter().all(|dealt| (2..=3).contains(dealt)), "{clocks:?}");
    }

    #[test]
    fn a_seed_deals_the_same_cards_again_and_another_one_others() {
        let deal = |seed| {
            let mut dealer = Dealer::new(find("kill-pause").unwrap().cards.to_vec());
            let mut rng = StdRng::seed_from_u64(seed);
            (0..9).map(|_| dealer.deal(&mut rng).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(deal(1), deal(1));
        assert_ne!(deal(1), deal(2));
    }

    #[test]
    fn names_are_unique_and_a_card_holds_as_many_faults_as_can_be_told_apart() {
        let names: std::collections::BTreeSet<&str> = ALL.iter().map(|profile| profile.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().flat_map(|profile| profile.cards).all(|card| (1..=4).contains(&card.len())));
    }
}
