//! Is there an order of the operations of one key that explains all answers? After Wing and Gong, with Lowe's memory of
//! configurations: the operations that took effect so far, together with the state that they led to, are never looked
//! at twice.
//!
//! Three things keep it short, and none of them loses an order:
//! - Answered writes carry their revisions, and those rise: of them only the one with the smallest is ever next.
//! - An observation that fits the exact state changes nothing, so it is taken at once, without a branch.
//! - A write without an answer is tried only right before something that goes otherwise without it.

use std::collections::HashSet;

use super::model::{Act, State};

/// One operation. `invoked` and `ended` are places in the history; without an end it may take effect at any time after
/// its invocation, or never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) invoked: usize,
    pub(super) ended: Option<usize>,
    pub(super) act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Order,
    NoOrder,
    /// The steps allowed were used up, or there are more unanswered writes than can be told apart.
    Undecided,
}

/// Unanswered writes that a configuration has room for.
const UNANSWERED_MAX: usize = 64;

/// Whether there is such an order. `steps` counts down; at none left the search gives up.
pub(super) fn search(operations: &[Step], steps: &mut u64) -> Found {
    let mut required: Vec<Step> = operations.iter().copied().filter(|step| step.ended.is_some()).collect();
    let optional: Vec<Step> = operations.iter().copied().filter(|step| step.ended.is_none()).collect();
    if optional.len() > UNANSWERED_MAX {
        return Found::Undecided;
    }
    required.sort_by_key(|step| step.invoked);
    let mut revised: Vec<(u64, usize)> = Vec::new();
    for (place, step) in required.iter().enumerate() {
        revised.extend(step.act.written_revision().map(|revision| (revision, place)));
    }
    revised.sort_unstable();
    let by_revision = revised.into_iter().map(|(_, place)| place).collect();
    Search { required, optional, by_revision }.run(steps)
}

struct Search {
    /// By invocation.
    required: Vec<Step>,
    optional: Vec<Step>,
    /// Required writes with a revision, the smallest first.
    by_revision: Vec<usize>,
}

/// Which operations took effect, and what the key is at then. Everything else follows from it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration {
    /// A bit for each required operation.
    done: Box<[u64]>,
    /// A bit for each optional one.
    used: u64,
    state: State,
}

impl Configuration {
    fn is_done(&self, place: usize) -> bool {
        self.done[place / 64] >> (place % 64) & 1 == 1
    }

    fn with_done(&self, place: usize, state: State) -> Self {
        let mut next = Self { state, ..self.clone() };
        next.done[place / 64] |= 1 << (place % 64);
        next
    }
}

/// Unanswered writes that take effect one after the other.
struct Chain {
    state: State,
    used: u64,
    /// The state before the last of them.
    shorter: Option<State>,
}

impl Chain {
    /// The state after the act, unless the chain without its last write gets as far with it.
    fn worth_it(&self, act: Act) -> Option<State> {
        let state = self.state.after(act)?;
        let without = self.shorter.and_then(|shorter| shorter.after(act));
        without.is_none_or(|without| !without.allows_all_of(state)).then_some(state)
    }
}

impl Search {
    fn run(&self, steps: &mut u64) -> Found {
        let words = self.required.len().div_ceil(64);
        let mut start = Configuration { done: vec![0; words].into(), used: 0, state: State::NEW };
        self.take_observations(&mut start);
        let mut seen = HashSet::new();
        seen.insert(start.clone());
        // The last one is looked at first: what ends soonest is pushed last.
        let mut open = vec![start];
        let mut nexts = Vec::new();
        while let Some(configuration) = open.pop() {
            let Some(first) = self.first_not_done(&configuration) else { return Found::Order };
            self.nexts(&configuration, first, &mut nexts, steps);
            if *steps == 0 {
                return Found::Undecided;
            }
            for mut next in nexts.drain(..) {
                self.take_observations(&mut next);
                if !seen.contains(&next) {
                    seen.insert(next.clone());
                    open.push(next);
                }
            }
        }
        Found::NoOrder
    }

    fn first_not_done(&self, configuration: &Configuration) -> Option<usize> {
        let word = configuration.done.iter().position(|&word| word != u64::MAX)?;
        let place = word * 64 + configuration.done[word].trailing_ones() as usize;
        (place < self.required.len()).then_some(place)
    }

    /// Required operations that may be next: invoked before any that is not done ended.
    fn ready(&self, configuration: &Configuration, first: usize) -> (Vec<usize>, usize) {
        let mut ready = Vec::new();
        let mut soonest_end = usize::MAX;
        for (place, step) in self.required.iter().enumerate().skip(first) {
            if step.invoked > soonest_end {
                break;
            }
            if !configuration.is_done(place) {
                ready.push(place);
                soonest_end = soonest_end.min(step.ended.unwrap_or(usize::MAX));
            }
        }
        (ready, soonest_end)
    }

    /// What may be next: any number of unanswered writes, then one required operation. A chain of unanswered writes is
    /// left as soon as it allows no more than the same chain without its last one.
    fn nexts(&self, configuration: &Configuration, first: usize, nexts: &mut Vec<Configuration>, steps: &mut u64) {
        let (mut ready, soonest_end) = self.ready(configuration, first);
        let next_by_revision = self.by_revision.iter().copied().find(|&place| !configuration.is_done(place));
        ready.retain(|&place| self.required[place].act.written_revision().is_none() || Some(place) == next_by_revision);
        ready.sort_by_key(|&place| std::cmp::Reverse(self.required[place].ended));
        let mut chains = vec![Chain { state: configuration.state, used: configuration.used, shorter: None }];
        while let Some(chain) = chains.pop() {
            *steps = steps.saturating_sub(1);
            if *steps == 0 {
                return;
            }
            for (place, step) in self.optional.iter().enumerate() {
                let is_used = chain.used >> place & 1 == 1;
                if !is_used
                    && step.invoked <= soonest_end
                    && let Some(state) = chain.worth_it(step.act)
                    && state != chain.state
                {
                    chains.push(Chain { state, used: chain.used | 1 << place, shorter: Some(chain.state) });
                }
            }
            for &place in &ready {
                if let Some(state) = chain.worth_it(self.required[place].act) {
                    nexts.push(Configuration { used: chain.used, ..configuration.with_done(place, state) });
                }
            }
        }
        // Those with the fewest unanswered writes last, to be looked at first.
        nexts.sort_by_key(|next| std::cmp::Reverse(next.used.count_ones()));
    }

    /// Every observation that may be next and leaves the state as it is.
    fn take_observations(&self, configuration: &mut Configuration) {
        while let Some(first) = self.first_not_done(configuration) {
            let (ready, _) = self.ready(configuration, first);
            let mut taken = false;
            for place in ready {
                let act = self.required[place].act;
                if act.is_observation() && configuration.state.after(act) == Some(configuration.state) {
                    configuration.done[place / 64] |= 1 << (place % 64);
                    taken = true;
                }
            }
            if !taken {
                return;
            }
        }
    }
}
