//! Ages under clocks that have nothing in common, messages that are late or lost, and leaders that are cut off.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;

thread_local! {
    static TRUE_MS: Cell<u64> = const { Cell::new(0) };
    static OFFSET_MS: Cell<u64> = const { Cell::new(0) };
}

const LEADER_CLOCK: u64 = 9_000_000;
const FOLLOWER_CLOCK: u64 = 40_000;
const FOLLOWER: ReplicaId = ReplicaId(2);

/// Runs `act` at this true time, on a clock that is that much ahead of it.
fn at<T>(true_ms: u64, clock: u64, act: impl FnOnce() -> T) -> T {
    TRUE_MS.set(true_ms);
    OFFSET_MS.set(clock);
    clock::simulate(|| Duration::from_millis(TRUE_MS.get() + OFFSET_MS.get()), || 0, 1);
    act()
}

fn moment(true_ms: u64, clock: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(true_ms + clock))
}

/// What is true: which index was committed when, and since when nobody confirms the leader any more.
#[derive(Clone, Default)]
struct World {
    commits: Arc<Mutex<Vec<u64>>>,
    confirmed_ms: Arc<Mutex<Option<u64>>>,
}

impl World {
    fn new() -> (Self, Freshness, Freshness) {
        let world = Self::default();
        let (leader, follower) = (at(0, LEADER_CLOCK, Freshness::at_start), at(0, FOLLOWER_CLOCK, Freshness::at_start));
        let seen = world.clone();
        leader.prove_by(Box::new(move || {
            let confirmed = (*seen.confirmed_ms.lock().unwrap())?;
            let commit = seen.commits.lock().unwrap().len() as u64;
            Some(Proof { commit, confirmed: moment(confirmed, LEADER_CLOCK) })
        }));
        (world, leader, follower)
    }

    /// Commits the next index at this true time.
    fn commit(&self, true_ms: u64) -> u64 {
        let mut commits = self.commits.lock().unwrap();
        commits.push(true_ms);
        commits.len() as u64
    }

    fn committed(&self) -> u64 {
        self.commits.lock().unwrap().len() as u64
    }

    fn confirm(&self, true_ms: u64) {
        *self.confirmed_ms.lock().unwrap() = Some(true_ms);
    }

    fn committed_at(&self, true_ms: u64) -> u64 {
        self.commits.lock().unwrap().iter().filter(|committed| **committed < true_ms).count() as u64
    }
}

/// The true time that the follower claims to be complete up to.
fn claim(follower: &Freshness, applied: u64, now: u64) -> Option<u64> {
    let fresh_at = at(now, FOLLOWER_CLOCK, || follower.fresh_at(None, Some(applied)))?;
    Some(u64::try_from(fresh_at.since_origin().as_millis()).unwrap().saturating_sub(FOLLOWER_CLOCK))
}

#[test]
fn a_follower_is_as_old_as_what_its_leader_could_prove() {
    let (world, leader, follower) = World::new();
    let answer = |now| leader.answered(FOLLOWER, at(now, FOLLOWER_CLOCK, || follower.stamp()));
    let append = |now| {
        let commit = Some(world.committed());
        let vouch = at(now, LEADER_CLOCK, || leader.vouch(FOLLOWER, commit));
        at(now + 1, FOLLOWER_CLOCK, || follower.heard(vouch, commit, Some(world.committed())));
    };
    world.commit(1000);
    append(1000);
    assert_eq!(claim(&follower, 1, 1001), None, "the leader has had no answer yet, and nobody has confirmed it");
    answer(1010);
    append(1020);
    assert_eq!(claim(&follower, 1, 1021), None, "nobody has confirmed the leader");
    world.confirm(1020);
    append(1100);
    // Stamped at 1010, and the leader was confirmed 80 ms before it sent.
    assert_eq!(claim(&follower, 1, 1101), Some(929));
    for now in [1200, 1300, 5000] {
        answer(now - 90);
        append(now);
        let claimed = claim(&follower, 1, now + 1).unwrap();
        assert!(claimed <= 1020, "at {now} the leader was last confirmed at 1020, and yet {claimed} is claimed");
    }
}

#[test]
fn what_is_not_applied_yet_makes_nothing_fresh() {
    let (world, leader, follower) = World::new();
    leader.answered(FOLLOWER, at(500, FOLLOWER_CLOCK, || follower.stamp()));
    let commit = Some(world.commit(600));
    world.confirm(700);
    let vouch = at(700, LEADER_CLOCK, || leader.vouch(FOLLOWER, commit));
    at(700, FOLLOWER_CLOCK, || follower.heard(vouch, commit, Some(0)));
    assert_eq!(claim(&follower, 0, 800), None);
    assert_eq!(claim(&follower, 1, 900), Some(499), "proven when it came, true from when it is applied");
}

#[test]
fn a_leader_that_steps_down_keeps_what_it_proved() {
    let (world, leader, _) = World::new();
    let fresh_at = |now, applied| at(now, LEADER_CLOCK, || leader.fresh_at(None, Some(applied)));
    world.commit(600);
    world.confirm(700);
    assert_eq!(at(710, LEADER_CLOCK, || leader.vouch(FOLLOWER, Some(1))), None, "the follower has not answered yet");
    world.commit(720);
    world.confirm(800);
    at(810, LEADER_CLOCK, || leader.vouch(FOLLOWER, Some(2)));
    *world.confirmed_ms.lock().unwrap() = None;
    assert_eq!(fresh_at(2000, 0), None);
    assert_eq!(fresh_at(2000, 1), Some(moment(700, LEADER_CLOCK)), "the second write is not applied here");
    assert_eq!(fresh_at(2100, 2), Some(moment(800, LEADER_CLOCK)));
}

#[test]
fn a_stamp_of_an_earlier_start_proves_nothing() {
    let (world, leader, before) = World::new();
    leader.answered(FOLLOWER, at(500, FOLLOWER_CLOCK, || before.stamp()));
    world.commit(600);
    world.confirm(700);
    let vouch = at(700, LEADER_CLOCK, || leader.vouch(FOLLOWER, Some(1)));
    // After a reboot its clock begins anew.
    clock::simulate(|| Duration::from_millis(TRUE_MS.get() + OFFSET_MS.get()), || 0, 2);
    let after = Freshness::at_start();
    assert_ne!(after.run, before.run);
    at(800, 0, || after.heard(vouch, Some(1), Some(1)));
    assert_eq!(at(800, 0, || after.fresh_at(None, Some(1))), None);
}

#[derive(Clone, Debug)]
enum Step {
    Commit,
    /// The leader was confirmed that long ago.
    Confirm {
        ago: u64,
    },
    /// The leader builds a request, sends it later, and it arrives later still; the follower has applied all but so many.
    Append {
        held_back: u64,
        under_way: u64,
        lag: u64,
    },
    /// The follower's answer arrives that much later, or never.
    Answer {
        under_way: u64,
        lost: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        3 => Just(Step::Commit),
        2 => (0..300_u64).prop_map(|ago| Step::Confirm { ago }),
        3 => (0..400_u64, 0..200_u64, 0..3_u64)
            .prop_map(|(held_back, under_way, lag)| Step::Append { held_back, under_way, lag }),
        2 => (0..200_u64, any::<bool>()).prop_map(|(under_way, lost)| Step::Answer { under_way, lost }),
    ];
    prop::collection::vec((0..50_u64, step), 1..120)
}

/// What happens at a true time that a step has set.
enum Due {
    Send { lag: u64, under_way: u64, commit: u64 },
    Arrive { lag: u64, commit: u64, vouch: Option<Vouch> },
    Answered(Stamp),
}

proptest! {
    /// A claim to be complete up to a moment is true: nothing that was committed before it is missing.
    #[test]
    fn nothing_committed_before_the_claimed_moment_is_missing(steps in steps()) {
        let (world, leader, follower) = World::new();
        let (mut now, mut applied) = (1000, 0);
        let mut due: BTreeMap<(u64, usize), Due> = BTreeMap::new();
        for (number, (pause, step)) in steps.into_iter().enumerate() {
            let next = now + pause;
            while let Some(first) = due.first_entry().filter(|first| first.key().0 <= next) {
                let ((when, order), what) = first.remove_entry();
                match what {
                    Due::Send { lag, under_way, commit } => {
                        let vouch = at(when, LEADER_CLOCK, || leader.vouch(FOLLOWER, Some(commit)));
                        due.insert((when + under_way, order), Due::Arrive { lag, commit, vouch });
                    }
                    Due::Arrive { lag, commit, vouch } => {
                        applied = applied.max(commit.saturating_sub(lag));
                        at(when, FOLLOWER_CLOCK, || follower.heard(vouch, Some(commit), Some(applied)));
                    }
                    Due::Answered(stamp) => leader.answered(FOLLOWER, stamp),
                }
                if let Some(claimed) = claim(&follower, applied, when) {
                    prop_assert!(claimed <= when, "{claimed} is claimed at {when}");
                    prop_assert!(world.committed_at(claimed) <= applied, "{applied} applied, {claimed} claimed at {when}");
                }
            }
            now = next;
            match step {
                Step::Commit => {
                    world.commit(now);
                }
                Step::Confirm { ago } => world.confirm(now - ago),
                Step::Append { held_back, under_way, lag } => {
                    let commit = world.committed();
                    due.insert((now + held_back, number), Due::Send { lag, under_way, commit });
                }
                Step::Answer { lost: true, .. } => {}
                Step::Answer { under_way, lost: false } => {
                    let stamp = at(now, FOLLOWER_CLOCK, || follower.stamp());
                    due.insert((now + under_way, number), Due::Answered(stamp));
                }
            }
        }
    }
}
