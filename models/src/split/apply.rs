//! What the machine does with an entry, and what a client is told.

use super::state::{Attempt, Entry, FAILED, FIRST_REVISION, Group, Log, RIGHT, Shard, State, Wrong};
use super::{Bug, Split, Want, landmark};

/// What apply says of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Nothing,
    NotOwner,
    /// A revision, or a failed precondition.
    Told {
        code: u8,
        replayed: bool,
    },
    SplitRefused,
}

impl Split {
    /// Applies an entry to a replica's state. A split that is taken is no work for here: see `steps`.
    pub(super) fn apply(&self, shard: &mut Shard, entry: Entry) -> Answer {
        shard.applied += 1;
        match entry {
            Entry::Write { op, .. } => self.apply_write(shard, op),
            Entry::Split => Answer::SplitRefused,
            Entry::Fence => {
                if shard.epoch == 1 {
                    shard.epoch = 2;
                }
                Answer::Nothing
            }
            Entry::First | Entry::None => Answer::Nothing,
        }
    }

    /// In this order: ownership, idempotency record, precondition, write.
    fn apply_write(&self, shard: &mut Shard, op: u8) -> Answer {
        let want = self.want(op);
        let token = usize::from(want.token());
        if !self.has(Bug::OwnershipWhenProposed) && !shard.owns(want.token()) {
            return Answer::NotOwner;
        }
        let op = usize::from(op);
        let is_keyed = matches!(want, Want::KeyedPut(_));
        if is_keyed && shard.records[op] != 0 {
            return Answer::Told { code: shard.records[op], replayed: true };
        }
        let holds = !matches!(want, Want::CompareAndSet(_)) || shard.revisions[token] == FIRST_REVISION;
        let code = if holds {
            shard.clock += 1;
            shard.revisions[token] = shard.clock;
            shard.writers[token] = u8::try_from(op).expect("there are few operations") + 1;
            shard.times[op] += 1;
            shard.clock
        } else {
            FAILED | shard.revisions[token]
        };
        if is_keyed {
            shard.records[op] = code;
        }
        Answer::Told { code, replayed: false }
    }

    /// Whether this replica's state takes a split that its log holds next.
    pub(super) fn takes_split(&self, shard: &Shard) -> bool {
        shard.epoch == 1 || self.has(Bug::SplitWithoutEpoch)
    }

    /// The parent after the split.
    pub(super) fn narrow(&self, parent: &mut Shard) {
        parent.applied += 1;
        parent.epoch = 2;
        parent.split = true;
        if !self.has(Bug::ParentNotNarrowed) {
            parent.range &= !(1 << RIGHT);
        }
    }

    /// The child as a checkpoint of the parent at the split gives it.
    pub(super) fn born_of(&self, parent: &Shard) -> Shard {
        Shard {
            applied: 0,
            range: 1 << RIGHT,
            epoch: 2,
            clock: if self.has(Bug::ClockNotCarried) { 0 } else { parent.clock },
            records: if self.has(Bug::RecordsNotCarried) { Default::default() } else { parent.records },
            split: false,
            ..*parent
        }
    }

    /// The parent's replica as it will be once it has applied everything that is committed.
    pub(super) fn parent_in_the_end(&self, log: &Log, mut shard: Shard) -> Shard {
        while log.after(shard.applied) != Entry::None {
            let entry = log.after(shard.applied);
            if entry == Entry::Split && self.takes_split(&shard) {
                self.narrow(&mut shard);
            } else {
                self.apply(&mut shard, entry);
            }
        }
        shard
    }

    /// The child's replica as it will be once it has applied everything that is committed.
    pub(super) fn child_in_the_end(&self, log: &Log, mut shard: Shard) -> Shard {
        while log.after(shard.applied) != Entry::None {
            let entry = log.after(shard.applied);
            self.apply(&mut shard, entry);
        }
        shard
    }

    /// Brings one attempt's answer to its client.
    pub(super) fn answer(&self, state: &mut State, op: u8, attempt: u8, group: Group, answer: Answer) {
        let client = &mut state.ops[usize::from(op)];
        let place = &mut client.attempts[usize::from(attempt)];
        match answer {
            Answer::NotOwner => {
                // The refusal carries the owner's descriptor.
                *place = Attempt::Sent(Group::Child);
                client.knows_child = true;
                state.mark(landmark::STALE_ROUTE_CORRECTED);
            }
            Answer::Told { code, replayed } => {
                *place = Attempt::Over;
                if replayed && group == Group::Child {
                    state.mark(landmark::RETRY_ANSWERED_BY_CHILD);
                }
                self.tell(state, op, code);
            }
            Answer::Nothing | Answer::SplitRefused => {}
        }
    }

    /// The client hears an answer. Revisions are the order of a key's writes, so that a history is linearizable exactly if
    /// no revision is given twice, no write gets one at or below what anybody was told before it began, no read shows less
    /// than that, and a compare-and-set follows the revision that it names.
    pub(super) fn tell(&self, state: &mut State, op: u8, code: u8) {
        let want = self.want(op);
        let token = want.token();
        let client = state.ops[usize::from(op)];
        let revision = code & !FAILED;
        let wrote = !want.is_read() && code & FAILED == 0;
        if client.answer != 0 {
            if client.answer != code {
                state.wrong = Wrong::RetryAnsweredDifferently;
            }
            return;
        }
        if wrote && revision <= client.floor {
            state.wrong = Wrong::RevisionWentBack;
        }
        if !wrote && revision < client.floor {
            state.wrong = Wrong::StaleRead;
        }
        let given_before = (0..).zip(&state.ops).any(|(other, told)| {
            other != op && told.answer == code && self.want(other).token() == token && !self.want(other).is_read()
        });
        if wrote && given_before {
            state.wrong = Wrong::RevisionGivenTwice;
        }
        let client = &mut state.ops[usize::from(op)];
        client.answer = code;
        // The client has what it wanted: it does not ask again.
        for attempt in &mut client.attempts {
            if *attempt == Attempt::Unsent {
                *attempt = Attempt::Over;
            }
        }
        let told = &mut state.told[usize::from(token)];
        *told = (*told).max(revision);
    }
}
