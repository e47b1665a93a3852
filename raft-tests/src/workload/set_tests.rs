use super::*;
use crate::client::Trouble;
use crate::history::{Expect, Request};
use crate::workload::judge;

/// Keys of the set in order, all acknowledged with rising revisions, the first ones before [`Fixture::asked`].
struct Fixture {
    members: Members,
    items: Vec<Item>,
    asked: Tick,
}

fn acknowledged(revision: u64) -> Judged {
    let ended = Ended::Ok(Answer::Written { ver: Revision(revision) });
    Judged { ended, ..unanswered(Trouble::Late) }
}

fn unanswered(trouble: Trouble) -> Judged {
    judge(&Request::Put { value: "v".into(), expect: Some(Expect::Absent) }, Err(trouble))
}

fn fixture(before: u64, after: u64) -> Fixture {
    let mut members = Members::new("set/".into());
    let mut asked = Tick(0);
    for number in 1..=before + after {
        let key = members.insert(format!("v{number}"));
        assert_eq!(members.inserted(&key, &acknowledged(number)), None);
        if number == before {
            asked = members.now();
        }
    }
    let item = |(key, member): (&String, &Member)| {
        let Fate::Acknowledged { revision, .. } = member.fate else { panic!("acknowledged") };
        Item { key: key.clone(), revision, value: Some(member.value.clone()) }
    };
    let items = members.by_key.iter().map(item).collect();
    Fixture { members, items, asked }
}

/// What is found in a scan of these pages.
fn scan(fixture: &mut Fixture, pages: &[&[Item]]) -> Vec<String> {
    let mut scan = Scan::new("set/0/".into());
    let mut wrong = Vec::new();
    for (place, page) in pages.iter().enumerate() {
        wrong.extend(scan.take(&mut fixture.members, page, place + 1 == pages.len(), fixture.asked));
    }
    wrong
}

#[track_caller]
fn found(fixture: &mut Fixture, pages: &[&[Item]], what: &str) {
    let wrong = scan(fixture, pages);
    assert!(wrong.iter().any(|one| one.contains(what)), "{wrong:?}");
}

#[test]
fn keys_lie_in_the_order_of_their_bytes_with_and_without_tags() {
    let fixture = fixture(20, 0);
    let tagged: Vec<bool> = fixture.items.iter().map(|item| item.key.contains('{')).collect();
    assert_eq!(tagged.iter().filter(|tagged| **tagged).count(), 10);
    let prefix = fixture.members.current_tagged(3);
    assert!(ringraft::ring::hash_tag(prefix.as_bytes()).is_some(), "{prefix} fixes one shard");
    assert!(fixture.items.iter().any(|item| item.key.starts_with(&prefix)));
}

#[test]
fn every_acknowledged_key_once_and_in_order_is_right() {
    let mut fixture = fixture(40, 0);
    let items = fixture.items.clone();
    assert_eq!(scan(&mut fixture, &[&items]), Vec::<String>::new());
    assert_eq!(scan(&mut fixture, &[&items[..7], &[], &items[7..20], &items[20..]]), Vec::<String>::new());
    let keys_only: Vec<Item> = items.iter().map(|item| Item { value: None, ..item.clone() }).collect();
    assert_eq!(scan(&mut fixture, &[&keys_only]), Vec::<String>::new());
}

#[test]
fn a_key_that_is_missing_is_found_wherever_the_pages_end() {
    let mut fixture = fixture(40, 0);
    let items = fixture.items.clone();
    for gone in 0..items.len() {
        let left = [&items[..gone], &items[gone + 1..]].concat();
        for cut in 0..left.len() {
            let wrong = scan(&mut fixture, &[&left[..cut], &left[cut..]]);
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert!(wrong[0].contains("is not in it") && wrong[0].contains(&items[gone].key), "{wrong:?}");
        }
    }
}

#[test]
fn a_key_that_was_acknowledged_later_may_be_missing() {
    let mut fixture = fixture(20, 20);
    let items = fixture.items.clone();
    let number = |item: &Item| item.revision.0;
    let early: Vec<Item> = items.iter().filter(|item| number(item) <= 20).cloned().collect();
    assert_eq!(scan(&mut fixture, &[&early]), Vec::<String>::new());
    assert_eq!(scan(&mut fixture, &[&items]), Vec::<String>::new());
    fixture.asked = fixture.members.now();
    assert_eq!(scan(&mut fixture, &[&early]).len(), 20);
}

#[test]
fn duplicates_disorder_and_strangers_are_found() {
    let mut fixture = fixture(10, 0);
    let items = fixture.items.clone();
    found(&mut fixture, &[&items, &items[9..]], "twice");
    found(&mut fixture, &[&[&items[..3], &items[2..]].concat()], "twice");
    let mut swapped = items.clone();
    swapped.swap(3, 4);
    found(&mut fixture, &[&swapped], "out of order");
    let stranger = Item { key: "set/0/x".into(), ..items[9].clone() };
    found(&mut fixture, &[&items, &[stranger]], "never inserted");
    let outside = Item { key: "set/1/000001".into(), ..items[9].clone() };
    found(&mut fixture, &[&items, &[outside]], "does not begin with");
    let mut changed = items.clone();
    changed[4].value = Some("damaged".into());
    found(&mut fixture, &[&changed], "has \"damaged\"");
    let mut rewritten = items.clone();
    rewritten[4].revision = Revision(99);
    found(&mut fixture, &[&rewritten], "nobody wrote it again");
}

#[test]
fn a_refused_key_is_found_whether_it_is_shown_before_or_after_the_refusal() {
    let refused = unanswered(Trouble::NotSent("refused".into()));
    for shown_first in [true, false] {
        let mut fixture = fixture(4, 0);
        let key = fixture.members.insert("w".into());
        let item = Item { key: key.clone(), revision: Revision(9), value: Some("w".into()) };
        let mut items = [fixture.items.clone(), vec![item]].concat();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        if shown_first {
            assert_eq!(scan(&mut fixture, &[&items]), Vec::<String>::new(), "it may have been under way");
            assert!(fixture.members.inserted(&key, &refused).unwrap().contains("was refused (not-sent)"));
        } else {
            assert_eq!(fixture.members.inserted(&key, &refused), None);
            found(&mut fixture, &[&items], "was refused, and is there");
        }
    }
}

#[test]
fn a_key_of_unknown_outcome_may_be_there_or_not_and_keeps_its_revision() {
    let mut fixture = fixture(4, 0);
    let key = fixture.members.insert("w".into());
    assert_eq!(fixture.members.inserted(&key, &unanswered(Trouble::Late)), None);
    let without = fixture.items.clone();
    let with = |revision| {
        let item = Item { key: key.clone(), revision: Revision(revision), value: Some("w".into()) };
        let mut items = [without.clone(), vec![item]].concat();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        items
    };
    assert_eq!(scan(&mut fixture, &[&without]), Vec::<String>::new());
    assert_eq!(scan(&mut fixture, &[&with(9)]), Vec::<String>::new());
    found(&mut fixture, &[&with(10)], "nobody wrote it again");
    assert!(fixture.members.inserted(&key, &acknowledged(8)).unwrap().contains("a scan showed it at"));
}
