//! Random operations of several groups on one log, with crashes and restarts between and within them, held to a model.
//!
//! The model keeps every state since the last one that is known to be durable. A crash must leave one of them: so nothing
//! whose callback fired is lost, nothing that was cut off comes back, and no group is ahead of what another did before.

use proptest::prelude::*;

use super::tests::{bytes, reopen};
use super::*;
use crate::storage::mem::MemDisk;
use crate::storage::rocks::{RocksDisk, StorageOptions};

const STORE: StoreId = StoreId(7);
const GROUPS: usize = 3;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    entries: BTreeMap<u64, Bytes>,
    purged: Option<(u64, Bytes)>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
}

impl Group {
    fn first(&self) -> u64 {
        self.purged.as_ref().map_or(0, |(index, _)| index + 1)
    }

    fn last(&self) -> Option<u64> {
        self.entries.keys().next_back().copied().max(self.purged.as_ref().map(|(index, _)| *index))
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last + 1)
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Vec<(u64, Bytes)> {
        let mut found: Vec<(u64, Bytes)> = Vec::new();
        let mut bytes = 0;
        if start < end {
            for (index, entry) in self.entries.range(start..end) {
                if bytes >= bytes_max && !found.is_empty() {
                    break;
                }
                bytes += entry.len();
                found.push((*index, entry.clone()));
            }
        }
        found
    }

    fn observe(log: &GroupLog) -> Self {
        Self {
            entries: log.read(0, u64::MAX, usize::MAX).unwrap().into_iter().collect(),
            purged: log.purged(),
            vote: log.read_vote().unwrap(),
            committed: log.read_committed().unwrap(),
        }
    }
}

type World = [Group; GROUPS];

#[derive(Clone, Debug)]
enum Step {
    Append {
        group: usize,
        count: u64,
        bytes: usize,
        wait: bool,
    },
    /// `part` of 255 of the entries stay. Interrupted: the power fails while it is under way.
    Truncate {
        group: usize,
        part: u8,
        interrupted: bool,
    },
    Purge {
        group: usize,
        part: u8,
        beyond: u64,
    },
    Vote {
        group: usize,
        interrupted: bool,
    },
    Committed {
        group: usize,
    },
    Read {
        group: usize,
        from: u8,
        to: u8,
        bytes_max: usize,
    },
    /// Lets the writer run.
    Pause,
    Restart,
    Crash {
        lose_all: bool,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    let group = || 0..GROUPS;
    prop_oneof![
        8 => (group(), 1..60_u64, 0..40_usize, any::<bool>())
            .prop_map(|(group, count, bytes, wait)| Step::Append { group, count, bytes, wait }),
        3 => (group(), any::<u8>(), proptest::bool::weighted(0.2))
            .prop_map(|(group, part, interrupted)| Step::Truncate { group, part, interrupted }),
        3 => (group(), any::<u8>(), prop_oneof![4 => Just(0), 1 => 1..20_u64])
            .prop_map(|(group, part, beyond)| Step::Purge { group, part, beyond }),
        2 => (group(), proptest::bool::weighted(0.2)).prop_map(|(group, interrupted)| Step::Vote { group, interrupted }),
        2 => group().prop_map(|group| Step::Committed { group }),
        6 => (group(), any::<u8>(), any::<u8>(), prop_oneof![0..2000_usize, Just(usize::MAX)])
            .prop_map(|(group, from, to, bytes_max)| Step::Read { group, from, to, bytes_max }),
        3 => Just(Step::Pause),
        1 => Just(Step::Restart),
        3 => any::<bool>().prop_map(|lose_all| Step::Crash { lose_all }),
    ]
}

/// `part` of 255 of the way from `from` to `to`.
fn share(from: u64, to: u64, part: u8) -> u64 {
    from + (to - from) * u64::from(part) / 255
}

struct Run {
    /// None on a disk whose power does not fail; it is restarted then.
    crashes: Option<MemDisk>,
    tail_bytes_max: u64,
    store: Option<LogStore>,
    logs: Vec<GroupLog>,
    /// States after each operation since the last that is known to be durable, with the operation's number.
    states: Vec<(u64, World)>,
    /// The last operation known to be durable. Everything before it then is, too.
    durable: Arc<AtomicU64>,
    writes: u64,
    /// Last, because closing a real disk waits for the writer of the store.
    disk: Arc<dyn Disk>,
}

impl Run {
    fn new(disk: Arc<dyn Disk>, crashes: Option<MemDisk>, tail_bytes_max: u64) -> Self {
        let store = LogStore::open(disk.as_ref(), STORE, true, tail_bytes_max).unwrap();
        let mut run = Self {
            disk,
            crashes,
            tail_bytes_max,
            store: None,
            logs: Vec::new(),
            states: vec![(0, World::default())],
            durable: Arc::default(),
            writes: 0,
        };
        run.use_store(store);
        run
    }

    fn use_store(&mut self, store: LogStore) {
        // With gaps between the ids: a group's keys end where they should.
        self.logs = (0..GROUPS).map(|group| store.open_group(ReplicaId(255 + group as u64)).unwrap()).collect();
        self.store = Some(store);
    }

    fn now(&self) -> &World {
        &self.states.last().expect("there is always a state").1
    }

    /// Takes note of an operation before it is carried out, and gives its number.
    fn begin(&mut self, change: impl FnOnce(&mut World)) -> u64 {
        let mut world = self.now().clone();
        change(&mut world);
        let number = self.states.last().expect("there is always a state").0 + 1;
        self.states.push((number, world));
        number
    }

    fn text(&mut self, what: &str) -> Bytes {
        self.writes += 1;
        bytes(&format!("{what} {}", self.writes))
    }

    fn is_durable(&self, number: u64) {
        self.durable.fetch_max(number, Ordering::SeqCst);
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append { group, count, bytes: size, wait } => {
                let next = self.now()[group].next();
                let made = self.text("entry");
                let entry = |index: u64| Bytes::from([&made[..], &index.to_be_bytes(), &vec![0; size]].concat());
                let entries: Vec<(u64, Bytes)> = (next..next + count).map(|index| (index, entry(index))).collect();
                let number = self.begin(|world| world[group].entries.extend(entries.clone()));
                let durable = self.durable.clone();
                let (told, heard) = tokio::sync::oneshot::channel();
                let done: Done = Box::new(move |result| {
                    if result.is_ok() {
                        durable.fetch_max(number, Ordering::SeqCst);
                    }
                    let _ = told.send(());
                });
                self.logs[group].append(entries, done).await.unwrap();
                if wait {
                    heard.await.expect("a callback is called");
                    assert!(self.durable.load(Ordering::SeqCst) >= number);
                }
            }
            Step::Truncate { group, part, interrupted } => {
                let (first, next) = (self.now()[group].first(), self.now()[group].next());
                let from = share(first, next, part);
                let number = self.begin(|world| drop(world[group].entries.split_off(&from)));
                let log = self.logs[group].clone();
                let truncated = async move { log.truncate_after(from.checked_sub(1)).await };
                self.finish(number, truncated, interrupted).await;
            }
            Step::Purge { group, part, beyond } => {
                let (first, next) = (self.now()[group].first(), self.now()[group].next());
                let before = if beyond > 0 { next + beyond } else { share(first, next, part) };
                let Some(index) = before.checked_sub(1).filter(|index| *index >= first) else { return };
                let marker = self.text("marker");
                self.begin(|world| {
                    world[group].entries = world[group].entries.split_off(&before);
                    world[group].purged = Some((index, marker.clone()));
                });
                self.logs[group].purge(index, marker).await.unwrap();
            }
            Step::Vote { group, interrupted } => {
                let vote = self.text("vote");
                let number = self.begin(|world| world[group].vote = Some(vote.clone()));
                let log = self.logs[group].clone();
                self.finish(number, async move { log.save_vote(vote).await }, interrupted).await;
            }
            Step::Committed { group } => {
                let committed = self.text("committed");
                self.begin(|world| world[group].committed = Some(committed.clone()));
                self.logs[group].save_committed(committed).await.unwrap();
            }
            Step::Read { group, from, to, bytes_max } => {
                let model = &self.now()[group];
                let (start, end) = (share(0, model.next() + 5, from), share(0, model.next() + 5, to));
                let expected = model.read(start, end, bytes_max);
                assert_eq!(self.logs[group].read(start, end, bytes_max).unwrap(), expected, "{start}..{end}");
            }
            Step::Pause => {
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            Step::Restart => self.restart().await,
            Step::Crash { lose_all } => match self.crashes.clone() {
                Some(disk) => self.crash(&disk, lose_all).await,
                None => self.restart().await,
            },
        }
        for (group, model) in self.now().iter().enumerate() {
            let log = &self.logs[group];
            assert_eq!((log.last_index(), log.purged()), (model.last(), model.purged.clone()));
        }
    }

    /// Carries out an operation that is durable on return, or lets the power fail in the middle of it.
    async fn finish(&mut self, number: u64, operation: impl Future<Output = Result<(), Error>>, interrupted: bool) {
        let mut operation = Box::pin(operation);
        match (self.crashes.clone(), interrupted) {
            (Some(disk), true) => {
                assert!(futures::poll!(&mut operation).is_pending());
                self.crash(&disk, number.is_multiple_of(2)).await;
            }
            _ => {
                operation.await.unwrap();
                self.is_durable(number);
            }
        }
    }

    async fn restart(&mut self) {
        self.logs.clear();
        self.store = None;
        let store = reopen(self.disk.as_ref(), self.tail_bytes_max).await;
        self.use_store(store);
        let found: World = std::array::from_fn(|group| Group::observe(&self.logs[group]));
        assert_eq!(&found, self.now(), "a restart keeps everything");
    }

    async fn crash(&mut self, disk: &MemDisk, lose_all: bool) {
        // Right now, whatever the writer has still to do.
        if lose_all {
            disk.crash_losing_everything_unsynced();
        } else {
            disk.crash();
        }
        let durable = self.durable.load(Ordering::SeqCst);
        self.logs.clear();
        self.store = None;
        let store = reopen(self.disk.as_ref(), self.tail_bytes_max).await;
        self.use_store(store);
        let found: World = std::array::from_fn(|group| Group::observe(&self.logs[group]));
        let allowed: Vec<&World> =
            self.states.iter().filter(|(number, _)| *number >= durable).map(|(_, world)| world).collect();
        assert!(allowed.contains(&&found), "the crash left {found:#?}\nallowed {allowed:#?}");
        let number = self.states.last().expect("there is always a state").0 + 1;
        self.states = vec![(number, found)];
        self.is_durable(number);
    }
}

fn run(disk: Arc<dyn Disk>, crashes: Option<MemDisk>, tail_bytes_max: u64, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut run = Run::new(disk, crashes, tail_bytes_max);
        for step in steps {
            run.step(step).await;
            let durable = run.durable.load(Ordering::SeqCst);
            run.states.retain(|(number, _)| *number >= durable);
        }
        run.restart().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_leaves_a_state_that_existed_and_holds_everything_that_was_told_durable(
        seed in any::<u64>(),
        tail_bytes_max in prop_oneof![Just(0_u64), 0..20_000_u64, Just(64 << 20)],
        steps in proptest::collection::vec(steps(), 1..60),
    ) {
        let disk = MemDisk::new(seed);
        run(Arc::new(disk.clone()), Some(disk), tail_bytes_max, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_real_disk_keeps_everything_over_restarts(
        tail_bytes_max in prop_oneof![Just(0_u64), Just(64 << 20)],
        steps in proptest::collection::vec(steps(), 1..50),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let disk = RocksDisk::open(directory.path(), &StorageOptions::default()).unwrap();
        run(Arc::new(disk), None, tail_bytes_max, steps);
    }
}
