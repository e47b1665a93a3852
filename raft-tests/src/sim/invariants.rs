//! What must hold of all replicas of a group at once, looked at after every step: Raft's own invariants over logs, votes
//! and terms, with what is durable read from the disks and not from what a node says of itself; and that equal applied
//! indexes mean equal rows.
//!
//! Logs are compared as far as they are committed, each entry once in each life of each replica. The first replica that
//! says an entry is committed fixes its name and its bytes for all. What a replica has applied it says is committed, too.
//!
//! Ringraft's leaders are ordered by term and then by replica: a second leader of one term is a later one, and its entries
//! have other names. What must never be is that one of them leads in two of its lives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ringraft::raft::observe::{Ballot, EntryId, Observation, stored_entry_id, stored_vote};
use ringraft::raft::{Replica, snapshot};
use ringraft::storage::keys::{self, RaftState};
use ringraft::storage::registry::ReplicaLife;
use ringraft::types::{ReplicaId, ShardId};

use super::world::World;

/// Between two comparisons of rows.
const DIGEST_INTERVAL: Duration = Duration::from_millis(250);
/// How long a log may hold another entry than was committed. openraft tells of a commit before it has cut off what the new
/// leader replaced, and a suspended node does so only when it goes on.
const CUT_OFF_LIMIT: Duration = Duration::from_secs(10);
/// Violations kept; one fault soon shows in many ways.
const KEPT_MAX: usize = 20;

type Rows = BTreeMap<Bytes, Bytes>;

#[derive(Default)]
pub(super) struct Invariants {
    groups: BTreeMap<ShardId, Group>,
    /// Where each replica's log is. A replica never moves.
    homes: BTreeMap<ReplicaId, u64>,
    digests_due: Duration,
    pub(super) violations: Vec<String>,
    pub(super) counts: Counts,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) observations: u64,
    pub(super) entries_compared: u64,
    pub(super) commits_found_durable: u64,
    pub(super) digests_compared: u64,
    pub(super) leaders: u64,
    pub(super) votes: u64,
    /// Replicas that began to use another directory: a snapshot was installed.
    pub(super) snapshots: u64,
}

#[derive(Default)]
struct Group {
    /// In which of its lives a replica led in a term.
    leaders: BTreeMap<(u64, ReplicaId), u64>,
    /// Committed entries.
    entries: BTreeMap<u64, (EntryId, Bytes)>,
    committed: Option<EntryId>,
    /// The first index that nobody has said to be committed.
    claimed: u64,
    /// Those that were not destroyed.
    replicas: BTreeMap<ReplicaId, Known>,
    /// Rows at an applied index, and who was the first to have it.
    digests: BTreeMap<u64, (u64, ReplicaId)>,
    /// The last voters that a leader reported, and those before.
    voters: [Vec<BTreeSet<ReplicaId>>; 2],
}

/// The last that was seen of a replica.
struct Known {
    life: u64,
    seen: Observation,
    /// The first committed entry that was not compared in this life.
    next: u64,
    /// Since when that one is another than was committed.
    differs_since: Option<Duration>,
    directory: u64,
}

/// How far the comparison of a log has come.
struct Compared {
    next: u64,
    /// What stands under that index instead of what was committed.
    differs: Option<String>,
}

/// A replica as it is now, and its place.
struct Look<'a> {
    shard: ShardId,
    id: ReplicaId,
    number: u64,
    life: u64,
    now: &'a Observation,
}

impl Look<'_> {
    /// Up to where this replica says, by word or deed, that its log is committed.
    fn claims(&self) -> Option<u64> {
        self.now.committed.map(|id| id.index).max(self.now.applied_index)
    }

    fn name(&self) -> String {
        format!("replica {} of shard {} on n{}", self.id, self.shard, self.number)
    }
}

impl Invariants {
    /// Looks at every replica of every node that serves.
    pub(super) fn step(&mut self, world: &World, log: &mut super::run::Log) {
        let time = world.sim.elapsed();
        for number in world.numbers() {
            let Some(router) = world.router(number) else { continue };
            let life = world.seat(number).borrow().life;
            for (replica, (shard, why)) in router.host().failed() {
                self.violated(time, format!("replica {replica} of shard {shard} on n{number} does not run: {why}"));
            }
            for group in router.host().groups() {
                let replica = group.replica();
                self.homes.insert(replica.id(), number);
                let now = replica.observe();
                self.counts.observations += 1;
                let look = Look { shard: replica.shard(), id: replica.id(), number, life, now: &now };
                self.look(world, &look, replica, log);
            }
            for (replica, record) in router.host().log().records() {
                if record.state == ReplicaLife::Tombstone
                    && let Some(group) = self.groups.get_mut(&record.shard)
                    && group.replicas.remove(&replica).is_some()
                {
                    log.say(
                        time,
                        format_args!("replica {replica} of shard {} on n{number} is destroyed", record.shard),
                    );
                }
            }
        }
        if time >= self.digests_due {
            self.digests_due = time + DIGEST_INTERVAL;
            self.compare_rows(world);
        }
    }

    fn violated(&mut self, time: Duration, what: String) {
        if self.violations.len() < KEPT_MAX {
            self.violations.push(format!("at {} ms: {what}", time.as_millis()));
        }
    }

    fn look(&mut self, world: &World, look: &Look<'_>, replica: &Replica, log: &mut super::run::Log) {
        let time = world.sim.elapsed();
        let group = self.groups.entry(look.shard).or_default();
        let known = group.replicas.get(&look.id);
        let is_same_life = known.is_some_and(|known| known.life == look.life);
        let directory = replica.machine().store.directory();
        let has_more = known.is_some_and(|known| Some(known.next) <= look.claims());
        if is_same_life
            && !has_more
            && known.is_some_and(|known| known.seen == *look.now && known.directory == directory)
        {
            return;
        }
        let before = known.map(|known| known.seen.clone());
        let directory_before = known.map(|known| known.directory);
        let (next, differed_since) =
            known.filter(|_| is_same_life).map_or((0, None), |known| (known.next, known.differs_since));
        if directory_before.is_some_and(|before| before < directory) {
            self.counts.snapshots += 1;
            log.say(time, format_args!("{} installed a snapshot: directory {directory}", look.name()));
        }
        let mut found = Vec::new();
        if let Some(failure) = &look.now.failure {
            found.push(format!("{} has stopped: {failure}", look.name()));
        }
        self.check_vote(world, look, before.as_ref(), &mut found);
        self.check_leader(world, look, before.as_ref().filter(|_| is_same_life), &mut found, log);
        self.check_committed(world, look, before.as_ref().filter(|_| is_same_life), &mut found);
        let compared = self.compare_log(world, look, next, &mut found);
        let differs_since = compared.differs.as_ref().map(|_| differed_since.unwrap_or(time));
        if let Some(what) = compared.differs.filter(|_| differs_since.is_some_and(|since| time > since + CUT_OFF_LIMIT))
        {
            found.push(format!("{}: {what}, for {} s", look.name(), CUT_OFF_LIMIT.as_secs()));
        }
        let group = self.groups.get_mut(&look.shard).expect("made above");
        let known = Known { life: look.life, seen: look.now.clone(), next: compared.next, differs_since, directory };
        group.replicas.insert(look.id, known);
        for what in found {
            self.violated(time, what);
        }
    }

    /// A vote never goes back, not over restarts either, and what a replica says it voted is on its disk.
    fn check_vote(&mut self, world: &World, look: &Look<'_>, before: Option<&Observation>, found: &mut Vec<String>) {
        let vote = look.now.vote;
        if before.is_some_and(|before| before.vote == vote) {
            return;
        }
        self.counts.votes += 1;
        if let Some(before) = before.filter(|before| before.vote > vote) {
            found.push(format!("{}: its vote went back from {:?} to {vote:?}", look.name(), before.vote));
        }
        if vote.term == 0 {
            return;
        }
        let key = keys::raft_state(look.id, RaftState::Vote);
        let stored = world.disk(look.number).with_log(|_, durable| durable.get(&key).cloned());
        let stored: Option<Ballot> = stored.and_then(|stored| stored_vote(stored).ok());
        if stored < Some(vote) {
            found.push(format!("{}: it acts on vote {vote:?}, and {stored:?} is on its disk", look.name()));
        }
    }

    /// A leader leads in one life, and has every entry that was committed by those before it.
    fn check_leader(
        &mut self,
        world: &World,
        look: &Look<'_>,
        before: Option<&Observation>,
        found: &mut Vec<String>,
        log: &mut super::run::Log,
    ) {
        if !look.now.leads {
            return;
        }
        let group = self.groups.entry(look.shard).or_default();
        if group.voters[0] != look.now.voters {
            group.voters.swap(0, 1);
            group.voters[0].clone_from(&look.now.voters);
        }
        if before.is_some_and(|before| before.leads && before.vote == look.now.vote) {
            return;
        }
        let term = look.now.vote.term;
        let life = *group.leaders.entry((term, look.id)).or_insert(look.life);
        self.counts.leaders += 1;
        log.say(world.sim.elapsed(), format_args!("{} leads in term {term}", look.name()));
        if look.now.vote.candidate != look.id {
            found.push(format!("{} leads by vote {:?}", look.name(), look.now.vote));
        }
        if life != look.life {
            found.push(format!("{} leads in term {term} again, in its life {} after {life}", look.name(), look.life));
        }
        let is_earlier = |committed: &EntryId| (committed.term, committed.leader) < (term, look.id);
        let Some(committed) = group.committed.filter(is_earlier) else { return };
        if look.now.last_index < Some(committed.index) {
            let last = look.now.last_index;
            found.push(format!(
                "{} leads in term {term} with {last:?} entries, and {committed:?} is committed",
                look.name()
            ));
        }
        let entries = &group.entries;
        let lost = world.disk(look.number).with_log(|rows, _| {
            let differs = |(index, (_, bytes)): (&u64, &(EntryId, Bytes))| {
                // What is applied stands in the rows; its entry may be waiting to be purged.
                let stored = rows.get(&keys::entry(look.id, *index)).filter(|_| Some(*index) > look.now.applied_index);
                stored.is_some_and(|stored| stored != bytes).then_some(*index)
            };
            entries.iter().find_map(differs)
        });
        if let Some(index) = lost {
            found.push(format!("{} leads in term {term} with another entry {index} than was committed", look.name()));
        }
    }

    /// What is committed stays so, has one name, is durable on a majority, and nothing else is applied.
    fn check_committed(
        &mut self,
        world: &World,
        look: &Look<'_>,
        before: Option<&Observation>,
        found: &mut Vec<String>,
    ) {
        let committed = look.now.committed;
        if before.is_some_and(|before| before.committed > committed) {
            let before = before.and_then(|before| before.committed);
            found.push(format!("{}: its commit went back from {before:?} to {committed:?}", look.name()));
        }
        let group = self.groups.entry(look.shard).or_default();
        if let Some(committed) = committed {
            if let Some((known, _)) = group.entries.get(&committed.index)
                && *known != committed
            {
                found.push(format!("{}: it has {committed:?} committed where others have {known:?}", look.name()));
            }
            if group.committed.is_none_or(|known| known.index < committed.index) {
                group.committed = Some(committed);
            }
        }
        let Some(claims) = look.claims() else { return };
        let first = group.claimed;
        group.claimed = first.max(claims + 1);
        if first > claims {
            return;
        }
        let voters: Vec<Vec<BTreeSet<ReplicaId>>> =
            [look.now.voters.clone()].into_iter().chain(group.voters.clone()).collect();
        for index in first..=claims {
            if voters.iter().any(|voters| self.is_durable(world, voters, index)) {
                self.counts.commits_found_durable += 1;
            } else {
                let voters = &look.now.voters;
                found.push(format!(
                    "{}: entry {index} is committed and not durable on a majority of {voters:?}",
                    look.name()
                ));
            }
        }
    }

    /// Whether one and the same entry is on the disks of a majority of each set.
    fn is_durable(&self, world: &World, voters: &[BTreeSet<ReplicaId>], index: u64) -> bool {
        !voters.is_empty()
            && voters.iter().all(|set| {
                let held: Vec<Held> = set.iter().map(|voter| self.held(world, *voter, index)).collect();
                let agree =
                    |wanted: &Held| held.iter().filter(|held| *held == wanted || **held == Held::Purged).count();
                held.iter().any(|wanted| *wanted != Held::Nothing && agree(wanted) > set.len() / 2)
            })
    }

    fn held(&self, world: &World, replica: ReplicaId, index: u64) -> Held {
        let Some(home) = self.homes.get(&replica) else { return Held::Nothing };
        world.disk(*home).with_log(|_, durable| match durable.get(&keys::entry(replica, index)) {
            Some(entry) => Held::Entry(entry.clone()),
            None if purged_to(durable, replica) >= Some(index) => Held::Purged,
            None => Held::Nothing,
        })
    }

    /// Compares what is committed with what the others have. Gives the first index that could not be compared yet: what is
    /// still in memory alone stands in no engine.
    fn compare_log(&mut self, world: &World, look: &Look<'_>, from: u64, found: &mut Vec<String>) -> Compared {
        let Some(claims) = look.claims() else { return Compared { next: from, differs: None } };
        let entries = &mut self.groups.entry(look.shard).or_default().entries;
        let mut compared = 0;
        let done = world.disk(look.number).with_log(|rows, _| {
            let purged = purged_to(rows, look.id);
            let from = from.max(purged.map_or(0, |purged| purged + 1));
            for index in from..=claims {
                let Some(bytes) = rows.get(&keys::entry(look.id, index)) else {
                    return Compared { next: index, differs: None };
                };
                compared += 1;
                match entries.get(&index) {
                    Some((_, known)) if known == bytes => {}
                    Some((id, _)) => {
                        let own = stored_entry_id(bytes.clone());
                        let differs =
                            Some(format!("its entry {index} is {own:?}, and not the {id:?} that is committed"));
                        return Compared { next: index, differs };
                    }
                    // What is committed by its name fixes an entry for all, and the log below it in a replica that has it
                    // (Raft's Log Matching; where it did not hold, others differ): other bytes may be about to be cut off.
                    // A leader may end before anyone looks at what it committed, and its successor may have it purged.
                    None => match stored_entry_id(bytes.clone()) {
                        Ok(id) if id.index != index => {
                            found.push(format!("{}: its entry {index} is {id:?}", look.name()));
                        }
                        Ok(id) => {
                            if !look.now.leads && !holds_committed(rows, look) {
                                return Compared { next: index, differs: None };
                            }
                            entries.insert(index, (id, bytes.clone()));
                        }
                        Err(error) => found.push(format!("{}: its entry {index}: {error}", look.name())),
                    },
                }
            }
            Compared { next: from.max(claims + 1), differs: None }
        });
        self.counts.entries_compared += compared;
        done
    }

    /// Equal applied indexes, equal rows; and no two shards own the same token.
    pub(super) fn compare_rows(&mut self, world: &World) {
        let mut found = Vec::new();
        let mut owned = BTreeMap::new();
        for number in world.numbers() {
            let Some(router) = world.router(number) else { continue };
            for group in router.host().groups() {
                let (replica, shard) = (group.replica(), group.shard());
                match snapshot::digest(replica.machine().store.view().as_ref(), shard) {
                    Ok((Some(applied), digest)) => {
                        self.counts.digests_compared += 1;
                        let digests = &mut self.groups.entry(shard).or_default().digests;
                        let (known, by) = *digests.entry(applied).or_insert((digest, replica.id()));
                        if known != digest {
                            let id = replica.id();
                            found.push(format!(
                                "shard {shard} at index {applied}: replicas {id} and {by} hold other rows"
                            ));
                        }
                    }
                    Ok((None, _)) => {}
                    Err(error) => found.push(format!("replica {} cannot be read: {error}", replica.id())),
                }
                let state = replica.machine().state.lock().expect("no panic while the state is copied").clone();
                if let Some(range) = state.range {
                    let known = *owned.entry(shard).or_insert((range, state.epoch));
                    if known != (range, state.epoch) {
                        found.push(format!(
                            "replicas of shard {shard} own {known:?} and {range:?} at {:?}",
                            state.epoch
                        ));
                    }
                }
            }
        }
        for (shard, (range, _)) in &owned {
            for (other, (others, _)) in owned.range(..shard) {
                if range.first <= others.last && others.first <= range.last {
                    found.push(format!("shards {other} and {shard} own the same tokens: {others:?} and {range:?}"));
                }
            }
        }
        for what in found {
            self.violated(world.sim.elapsed(), what);
        }
    }

    /// Why the cluster is not at rest, whole and equal; none when it is.
    pub(super) fn unsettled(&self, world: &World, replicas: usize) -> Option<String> {
        for (shard, group) in &self.groups {
            let Some(committed) = group.committed else { continue };
            let at_rest = |known: &Known| known.seen.applied_index == Some(committed.index);
            if group.replicas.len() != replicas {
                return Some(format!("shard {shard} has {} replicas, not {replicas}", group.replicas.len()));
            }
            if let Some((replica, known)) = group.replicas.iter().find(|(_, known)| !at_rest(known)) {
                let applied = known.seen.applied_index;
                return Some(format!("replica {replica} of shard {shard} has applied {applied:?} of {committed:?}"));
            }
            if let Some((replica, known)) = group.replicas.iter().find(|(_, known)| known.next <= committed.index) {
                let next = known.next;
                return Some(format!("entry {next} of replica {replica} of shard {shard} could not be compared"));
            }
        }
        let serves = |number: &u64| world.router(*number).is_some();
        world.numbers().find(|number| !serves(number)).map(|number| format!("n{number} does not serve"))
    }

    /// A line for each replica: what a run comes to in the end, to be compared with another run of the same seed.
    pub(super) fn tell(&self, time: Duration, log: &mut super::run::Log) {
        for (shard, group) in &self.groups {
            for (replica, known) in &group.replicas {
                log.say(time, format_args!("shard {shard} replica {replica}: {:?}", known.seen));
            }
            if let Some((applied, (digest, _))) = group.digests.last_key_value() {
                log.say(time, format_args!("shard {shard} at index {applied}: {digest:016x}"));
            }
        }
        log.say(time, format_args!("{:?}", self.counts));
    }
}

/// What a disk holds of an index.
#[derive(PartialEq, Eq)]
enum Held {
    Entry(Bytes),
    /// It is part of what was flushed or installed.
    Purged,
    Nothing,
}

/// Whether the last entry that the replica knows as committed stands in its own log under that name.
fn holds_committed(rows: &Rows, look: &Look<'_>) -> bool {
    look.now.committed.is_some_and(|committed| {
        let stored = rows.get(&keys::entry(look.id, committed.index));
        stored.is_some_and(|stored| stored_entry_id(stored.clone()).ok() == Some(committed))
    })
}

fn purged_to(rows: &Rows, replica: ReplicaId) -> Option<u64> {
    let marker = rows.get(&keys::raft_state(replica, RaftState::Purged))?;
    Some(u64::from_be_bytes(marker.get(..8)?.try_into().ok()?))
}
