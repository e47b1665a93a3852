//! What the machine does with an entry, and what a client is told.

use super::state::{Attempt, Entry, FAILED, Group, Log, OPS_MAX, RIGHT, Shard, State, Wrong};
use super::{Bug, Merge, Want, landmark};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Nothing,
    /// Not the owner, or frozen: nothing was applied, the router tries again.
    Refused,
    Told {
        code: u8,
        replayed: bool,
    },
}

impl Merge {
    /// Applies an entry to a replica's state. An Absorb that is taken is no work for here: see `steps`.
    pub(super) fn apply(&self, shard: &mut Shard, entry: Entry) -> Answer {
        shard.applied += 1;
        match entry {
            Entry::Write { op, .. } => return self.apply_write(shard, op),
            Entry::Freeze { merge } if shard.frozen == 0 => shard.frozen = merge,
            Entry::Unfreeze { merge } if shard.frozen == merge || (self.has(Bug::UnfreezeAny) && shard.frozen != 0) => {
                shard.frozen = 0;
                shard.epoch += 1;
            }
            Entry::Freeze { .. } | Entry::Unfreeze { .. } | Entry::Absorb { .. } | Entry::None => {}
        }
        Answer::Nothing
    }

    fn apply_write(&self, shard: &mut Shard, op: u8) -> Answer {
        let want = self.want(op);
        let token = usize::from(want.token());
        if !shard.owns(want.token()) || shard.frozen != 0 {
            return Answer::Refused;
        }
        let op = usize::from(op);
        let is_keyed = matches!(want, Want::KeyedPut(_));
        if is_keyed && shard.records[op] != 0 {
            return Answer::Told { code: shard.records[op], replayed: true };
        }
        // The compare-and-set names the revision that the key has at the start.
        let holds = !matches!(want, Want::CompareAndSet(_)) || shard.revisions[token] == first_revision(want.token());
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

    pub(super) fn takes_absorb(&self, left: &Shard) -> bool {
        (left.epoch == 1 && !left.absorbed) || self.has(Bug::AbsorbWithoutEpoch)
    }

    /// The left with the right's rows, records and range; the clock that is ahead goes on.
    pub(super) fn absorb(&self, left: &mut Shard, right: &Shard) {
        let token = usize::from(RIGHT);
        left.applied += 1;
        left.epoch = 2;
        left.absorbed = true;
        left.range |= right.range;
        left.revisions[token] = right.revisions[token];
        left.writers[token] = right.writers[token];
        if !self.has(Bug::ClockNotMaximum) {
            left.clock = left.clock.max(right.clock);
        }
        for op in (0..OPS_MAX).filter(|op| self.wants[*op].token() == RIGHT) {
            left.times[op] = right.times[op];
            if !self.has(Bug::RecordsNotTakenOver) {
                left.records[op] = right.records[op];
            }
        }
    }

    /// A replica as it will be once it has applied what is committed, up to an Absorb.
    pub(super) fn in_the_end(&self, log: &Log, mut shard: Shard) -> Shard {
        loop {
            match log.after(shard.applied) {
                Entry::None => return shard,
                Entry::Absorb { .. } if self.takes_absorb(&shard) => return shard,
                entry => {
                    self.apply(&mut shard, entry);
                }
            }
        }
    }

    pub(super) fn answer(&self, state: &mut State, op: u8, attempt: u8, group: Group, answer: Answer) {
        let place = &mut state.ops[usize::from(op)].attempts[usize::from(attempt)];
        match answer {
            Answer::Refused => {
                *place = Attempt::Sent(group);
                state.mark(landmark::REFUSED_WHILE_FROZEN);
            }
            Answer::Told { code, replayed } => {
                *place = Attempt::Over;
                if replayed && group == Group::Left {
                    state.mark(landmark::RETRY_ANSWERED_BY_LEFT);
                }
                self.tell(state, op, code);
            }
            Answer::Nothing => {}
        }
    }

    /// See the split's.
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
        for attempt in &mut client.attempts {
            if *attempt == Attempt::Unsent {
                *attempt = Attempt::Over;
            }
        }
        let told = &mut state.told[usize::from(token)];
        *told = (*told).max(revision);
    }
}

fn first_revision(token: u8) -> u8 {
    super::FIRST_REVISION + token
}
