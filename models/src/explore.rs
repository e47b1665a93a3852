//! The explorer: visits every state that a model can reach, breadth first, so that the first counterexample is a
//! shortest one.
//!
//! It decides three things of a model:
//! - **always**: no reachable state breaks a promise ([`Model::violation`]);
//! - **completes**: from every reachable state the goal can still be reached without one more fault. In a finite model
//!   this is the same as "every run in which faults stop and every possible step is taken in the end reaches the goal". It is
//!   decided on the whole graph, so that cycles and paths that join are no exception;
//! - **sometimes**: each landmark is seen at least once, so that a promise is not kept because nothing ever happened.
//!
//! States are told apart by 64-bit fingerprints of a 128-bit hash: among ten million states the chance that any two
//! share one is about 3 in a million. Paths are kept as (parent, number of the step) and replayed when one is printed.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};

pub trait Model {
    type State: Clone + Hash;
    type Step: Copy;

    fn start(&self) -> Self::State;

    /// Every step that may be taken in this state, always in the same order.
    fn steps(&self, state: &Self::State, steps: &mut Vec<Self::Step>);

    fn take(&self, state: &Self::State, step: Self::Step) -> Self::State;

    /// Faults are what must stop before an operation has to complete.
    fn is_fault(&self, step: Self::Step) -> bool;

    /// The promise that this state breaks.
    fn violation(&self, state: &Self::State) -> Option<&'static str>;

    /// The operation is over, one way or the other, and nothing is left to do.
    fn is_done(&self, state: &Self::State) -> bool;

    /// What must be seen happening; bit n of [`Model::landmarks_of`] is the n-th.
    fn landmarks(&self) -> &'static [&'static str];

    /// Asked after every step, also one that leads to a known state.
    fn landmarks_of(&self, state: &Self::State) -> u32;

    /// One line for people.
    fn describe(&self, state: &Self::State, step: Self::Step) -> String;

    /// The state for people, at the end of a counterexample.
    fn picture(&self, state: &Self::State) -> String;
}

/// Where an exploration ends when nothing is found.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Distinct states; more of them make the result [`Verdict::Cut`].
    pub states_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every reachable state was visited; every promise holds.
    Holds,
    /// A promise is broken by the last step of the path.
    Broken { promise: &'static str, path: Vec<String>, picture: String },
    /// From the end of the path the goal cannot be reached any more, although no further fault happens.
    Stuck { path: Vec<String>, picture: String },
    /// More states than allowed: nothing is proved, but nothing was found either.
    Cut,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub states: usize,
    pub transitions: usize,
    /// Steps from the start to the last state that was found.
    pub depth: usize,
    pub took: Duration,
    /// Of [`Model::landmarks`], those that no state showed.
    pub unseen: Vec<&'static str>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { states, transitions, depth, took, .. } = self;
        write!(f, "{states} states, {transitions} transitions, depth {depth}, {:.1} s", took.as_secs_f64())
    }
}

impl Verdict {
    /// The counterexample in words, none where there is none.
    #[must_use]
    pub fn story(&self) -> Option<String> {
        let (head, path, picture) = match self {
            Verdict::Holds | Verdict::Cut => return None,
            Verdict::Broken { promise, path, picture } => (format!("broken: {promise}"), path, picture),
            Verdict::Stuck { path, picture } => {
                ("stuck: without further faults it never ends".to_string(), path, picture)
            }
        };
        let mut story = head;
        for (number, step) in path.iter().enumerate() {
            write!(story, "\n  {:>2}. {step}", number + 1).expect("writing to a string cannot fail");
        }
        for line in picture.lines() {
            write!(story, "\n      {line}").expect("writing to a string cannot fail");
        }
        Some(story)
    }
}

/// The way to a state: whence, and by which of that state's steps.
#[derive(Clone, Copy)]
struct Origin {
    parent: u32,
    step: u16,
}

const NO_PARENT: u32 = u32::MAX;

struct Exploration<'m, M: Model> {
    model: &'m M,
    known: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    origins: Vec<Origin>,
    /// Steps that are no faults, for the way back from the goals.
    edges: Vec<(u32, u32)>,
    goals: Vec<u32>,
    landmarks: u32,
    transitions: usize,
}

/// Visits everything that can be reached within the bounds.
pub fn explore<M: Model>(model: &M, bounds: Bounds) -> Outcome {
    let began = now();
    let mut exploration = Exploration {
        model,
        known: HashMap::default(),
        origins: Vec::new(),
        edges: Vec::new(),
        goals: Vec::new(),
        landmarks: 0,
        transitions: 0,
    };
    let (verdict, depth) = exploration.run(bounds);
    let seen = exploration.landmarks;
    let unseen = model.landmarks().iter().enumerate().filter(|(bit, _)| seen & (1 << bit) == 0).map(|(_, name)| *name);
    Outcome {
        verdict,
        states: exploration.origins.len(),
        transitions: exploration.transitions,
        depth,
        took: began.elapsed(),
        unseen: unseen.collect(),
    }
}

#[expect(clippy::disallowed_methods, reason = "how long an exploration took is printed and decides nothing")]
fn now() -> Instant {
    Instant::now()
}

impl<M: Model> Exploration<'_, M> {
    fn run(&mut self, bounds: Bounds) -> (Verdict, usize) {
        let start = self.model.start();
        self.known.insert(fingerprint(&start), 0);
        self.origins.push(Origin { parent: NO_PARENT, step: 0 });
        if let Some(promise) = self.look_at(&start, 0) {
            return (self.broken(promise, 0), 0);
        }
        let mut level = vec![(start, 0_u32)];
        let mut depth = 0;
        let mut steps = Vec::new();
        while !level.is_empty() {
            let mut next_level = Vec::new();
            for (state, index) in level {
                steps.clear();
                self.model.steps(&state, &mut steps);
                for (number, step) in steps.iter().copied().enumerate() {
                    self.transitions += 1;
                    let next = self.model.take(&state, step);
                    self.landmarks |= self.model.landmarks_of(&next);
                    let fresh = u32::try_from(self.origins.len()).expect("fewer than 2^32 states fit in memory");
                    let target = *self.known.entry(fingerprint(&next)).or_insert(fresh);
                    if !self.model.is_fault(step) {
                        self.edges.push((index, target));
                    }
                    if target != fresh {
                        continue;
                    }
                    let number = u16::try_from(number).expect("a state has fewer than 65,536 steps");
                    self.origins.push(Origin { parent: index, step: number });
                    if let Some(promise) = self.look_at(&next, fresh) {
                        return (self.broken(promise, fresh), depth + 1);
                    }
                    if self.origins.len() > bounds.states_max {
                        return (Verdict::Cut, depth + 1);
                    }
                    next_level.push((next, fresh));
                }
            }
            depth += usize::from(!next_level.is_empty());
            level = next_level;
        }
        (self.completes(), depth)
    }

    fn look_at(&mut self, state: &M::State, index: u32) -> Option<&'static str> {
        if self.model.is_done(state) {
            self.goals.push(index);
        }
        self.model.violation(state)
    }

    /// Walks from the goals backwards over steps that are no faults; what is not met is stuck.
    fn completes(&mut self) -> Verdict {
        let count = self.origins.len();
        let mut begins = vec![0_u32; count + 1];
        for (_, target) in &self.edges {
            begins[*target as usize + 1] += 1;
        }
        for target in 0..count {
            begins[target + 1] += begins[target];
        }
        let mut sources = vec![0_u32; self.edges.len()];
        let mut fill = begins.clone();
        for (source, target) in std::mem::take(&mut self.edges) {
            let place = &mut fill[target as usize];
            sources[*place as usize] = source;
            *place += 1;
        }
        let mut ends_well = vec![false; count];
        let mut work = std::mem::take(&mut self.goals);
        for goal in &work {
            ends_well[*goal as usize] = true;
        }
        while let Some(target) = work.pop() {
            let range = begins[target as usize] as usize..begins[target as usize + 1] as usize;
            for source in &sources[range] {
                if !std::mem::replace(&mut ends_well[*source as usize], true) {
                    work.push(*source);
                }
            }
        }
        // Indices are in the order of depth: the first one is a shortest way into the dead end.
        match ends_well.iter().position(|well| !well) {
            None => Verdict::Holds,
            Some(stuck) => {
                let (path, picture) = self.replay(u32::try_from(stuck).expect("indices are 32 bits"));
                Verdict::Stuck { path, picture }
            }
        }
    }

    fn broken(&self, promise: &'static str, index: u32) -> Verdict {
        let (path, picture) = self.replay(index);
        Verdict::Broken { promise, path, picture }
    }

    fn replay(&self, mut index: u32) -> (Vec<String>, String) {
        let mut numbers = Vec::new();
        while self.origins[index as usize].parent != NO_PARENT {
            let origin = self.origins[index as usize];
            numbers.push(usize::from(origin.step));
            index = origin.parent;
        }
        let mut state = self.model.start();
        let mut path = Vec::new();
        let mut steps = Vec::new();
        for number in numbers.into_iter().rev() {
            steps.clear();
            self.model.steps(&state, &mut steps);
            path.push(self.model.describe(&state, steps[number]));
            state = self.model.take(&state, steps[number]);
        }
        (path, self.model.picture(&state))
    }
}

fn fingerprint(state: &impl Hash) -> u64 {
    let mut mixer = Mixer::default();
    state.hash(&mut mixer);
    mixer.finish()
}

/// Collects small fields into words and mixes each word into two independent halves. The standard library's hasher does
/// the same at three times the cost, which is most of the time of an exploration.
#[derive(Default)]
struct Mixer {
    word: u64,
    filled: u32,
    words: u64,
    left: u64,
    right: u64,
}

impl Mixer {
    fn push(&mut self, byte: u8) {
        self.word |= u64::from(byte) << self.filled;
        self.filled += 8;
        if self.filled == u64::BITS {
            self.mix();
        }
    }

    fn mix(&mut self) {
        self.words += 1;
        self.left = fold(self.left ^ self.word, 0x9e37_79b9_7f4a_7c15) ^ self.words;
        self.right = fold(self.right.rotate_left(29) ^ self.word, 0xd6e8_feb8_6659_fd93).wrapping_add(self.left);
        self.word = 0;
        self.filled = 0;
    }
}

fn fold(value: u64, factor: u64) -> u64 {
    let product = u128::from(value ^ 0x2d35_8dcc_aa6c_78a5) * u128::from(factor);
    // The shift takes the upper half; truncation takes the lower one.
    (product as u64) ^ ((product >> 64) as u64)
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.push(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.push(byte);
    }

    /// Lengths of arrays. All parts of a state have fixed shapes, so that a byte tells them apart.
    fn write_usize(&mut self, value: usize) {
        self.push(u8::try_from(value).expect("arrays in a state are short"));
    }

    /// Which variant of an enum.
    fn write_isize(&mut self, value: isize) {
        self.push(u8::try_from(value).expect("enums in a state have few variants"));
    }

    fn finish(&self) -> u64 {
        let mut last = Mixer { ..*self };
        last.mix();
        fold(last.left ^ last.right.rotate_left(32), 0xa076_1d64_78bd_642f)
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are looked up");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers below 16: two ways up, and a trap at 13 from which only a fault leads out.
    struct Ladder {
        forbidden: Option<u8>,
        trap: bool,
    }

    impl Model for Ladder {
        type State = u8;
        type Step = u8;

        fn start(&self) -> u8 {
            0
        }

        fn steps(&self, state: &u8, steps: &mut Vec<u8>) {
            let ups: &[u8] = if self.trap && *state == 13 { &[3] } else { &[1, 2, 3] };
            steps.extend(ups.iter().filter(|up| *state + **up <= 16));
            // A way back makes cycles.
            if *state == 5 {
                steps.push(0);
            }
        }

        fn take(&self, state: &u8, step: u8) -> u8 {
            if step == 0 { 1 } else { state + step }
        }

        fn is_fault(&self, step: u8) -> bool {
            step == 3
        }

        fn violation(&self, state: &u8) -> Option<&'static str> {
            (self.forbidden == Some(*state)).then_some("forbidden")
        }

        fn is_done(&self, state: &u8) -> bool {
            *state == 16
        }

        fn landmarks(&self) -> &'static [&'static str] {
            &["reached 16", "reached 17"]
        }

        fn landmarks_of(&self, state: &u8) -> u32 {
            u32::from(*state == 16) | u32::from(*state == 17) << 1
        }

        fn describe(&self, state: &u8, step: u8) -> String {
            format!("{state} + {step}")
        }

        fn picture(&self, state: &u8) -> String {
            format!("at {state}")
        }
    }

    const BOUNDS: Bounds = Bounds { states_max: 1000 };

    #[test]
    fn everything_is_visited_once_and_the_unseen_landmark_is_named() {
        let outcome = explore(&Ladder { forbidden: None, trap: false }, BOUNDS);
        assert_eq!(outcome.verdict, Verdict::Holds);
        assert_eq!((outcome.states, outcome.depth), (17, 6));
        assert_eq!(outcome.unseen, ["reached 17"]);
    }

    #[test]
    fn a_broken_promise_is_found_by_a_shortest_path() {
        let outcome = explore(&Ladder { forbidden: Some(7), trap: false }, BOUNDS);
        let Verdict::Broken { promise: "forbidden", path, picture } = outcome.verdict else { panic!("{outcome:?}") };
        assert_eq!(path.len(), 3, "{path:?}");
        assert_eq!(picture, "at 7");
    }

    #[test]
    fn a_state_that_only_a_fault_leaves_is_stuck_although_paths_cycle_and_join() {
        let outcome = explore(&Ladder { forbidden: None, trap: true }, BOUNDS);
        let Verdict::Stuck { path, picture } = outcome.verdict else { panic!("{outcome:?}") };
        assert_eq!((path.len(), picture.as_str()), (5, "at 13"));
    }

    #[test]
    fn too_many_states_prove_nothing() {
        let outcome = explore(&Ladder { forbidden: None, trap: false }, Bounds { states_max: 5 });
        assert_eq!(outcome.verdict, Verdict::Cut);
    }

    #[test]
    fn fingerprints_tell_neighbouring_states_apart() {
        let mut seen = std::collections::HashSet::new();
        for first in 0..=255_u8 {
            for second in 0..=255_u8 {
                for pad in 0..4 {
                    let mut state = [0_u8; 12];
                    (state[0], state[7 + pad]) = (first, second);
                    seen.insert(fingerprint(&state));
                }
            }
        }
        // For second = 0 the four states are one.
        assert_eq!(seen.len(), 256 * (255 * 4 + 1));
    }
}
