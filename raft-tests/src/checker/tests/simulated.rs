//! Histories of a register that is right, as clients with lost answers see it; and ways to spoil them.
//!
//! Every request takes effect at one moment between its two events, or, when its answer is lost, at one moment
//! afterwards or never. So what comes out is linearizable, whatever the checker says.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringraft::types::Revision;

use crate::history::{
    self, Answer, End, Event, Expect, Function, History, Invoke, Micros, Mode, OpId, ProcessId, Request,
};

#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) operations: usize,
    pub(super) processes: usize,
    pub(super) keys: usize,
    /// Of writes, in percent, as long as the key has fewer than `unknown_max`.
    pub(super) unknown_percent: u32,
    pub(super) unknown_max: usize,
    /// None: every write has a value of its own.
    pub(super) values: Option<u64>,
    pub(super) stale_reads: bool,
}

type Content = Option<(String, Revision)>;

struct Open {
    op: OpId,
    key: usize,
    request: Request,
    answer: Option<Answer>,
}

struct Simulated {
    rng: StdRng,
    plan: Plan,
    events: Vec<Event>,
    time: u64,
    revision: u64,
    ops: u64,
    /// What each key was at, from when on.
    pasts: BTreeMap<usize, Vec<(u64, Content)>>,
    unknown: BTreeMap<usize, usize>,
    /// Without an answer, and perhaps still to take effect.
    floating: Vec<(usize, Request)>,
}

pub(super) fn events(plan: Plan, seed: u64) -> Vec<Event> {
    let mut simulated = Simulated {
        rng: StdRng::seed_from_u64(seed),
        plan,
        events: Vec::new(),
        time: 0,
        revision: 0,
        ops: 0,
        pasts: (0..plan.keys).map(|key| (key, vec![(0, None)])).collect(),
        unknown: BTreeMap::new(),
        floating: Vec::new(),
    };
    simulated.run();
    simulated.events
}

/// Through the reader, so that nothing is checked that could not be recorded.
pub(super) fn history(events: &[Event]) -> History {
    let lines: String = events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
    history::read(lines.as_bytes()).unwrap_or_else(|malformed| panic!("{malformed}\n{lines}"))
}

impl Simulated {
    fn run(&mut self) {
        let mut processes: Vec<(ProcessId, Option<Open>)> =
            (1..).take(self.plan.processes).map(|number| (ProcessId(number), None)).collect();
        let mut last_process = processes.len() as u64;
        // Sometimes the history ends while operations are open.
        let is_cut_off = self.chance(30);
        while (self.ops as usize) < self.plan.operations
            || (!is_cut_off && processes.iter().any(|(_, open)| open.is_some()))
        {
            self.time += self.rng.random_range(0..400);
            if !self.floating.is_empty() && self.chance(10) {
                let place = self.rng.random_range(0..self.floating.len());
                let (key, request) = self.floating.swap_remove(place);
                self.take_effect(key, &request);
            }
            let place = self.rng.random_range(0..processes.len());
            let (process, open) = &mut processes[place];
            *open = match open.take() {
                None if (self.ops as usize) < self.plan.operations => Some(self.invoke(*process)),
                None => None,
                Some(mut one) if one.answer.is_none() => {
                    if self.loses(&one) || self.chance(5) {
                        let is_unknown = self.end_without_answer(&one);
                        if is_unknown {
                            last_process += 1;
                            *process = ProcessId(last_process);
                        }
                        None
                    } else {
                        one.answer = Some(self.take_effect(one.key, &one.request));
                        Some(one)
                    }
                }
                Some(one) => {
                    if self.loses(&one) {
                        *self.unknown.entry(one.key).or_default() += 1;
                        self.events.push(Event::Info(End::new(one.op, Micros(self.time))));
                        last_process += 1;
                        *process = ProcessId(last_process);
                    } else {
                        self.answer(one);
                    }
                    None
                }
            };
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn loses(&mut self, open: &Open) -> bool {
        let is_write = !matches!(open.request, Request::Get { .. });
        let unknown = self.unknown.get(&open.key).copied().unwrap_or_default();
        is_write && unknown < self.plan.unknown_max && self.chance(self.plan.unknown_percent)
    }

    /// Before it took effect. Whether it may do so later.
    fn end_without_answer(&mut self, open: &Open) -> bool {
        let end = End::new(open.op, Micros(self.time));
        let is_write = !matches!(open.request, Request::Get { .. });
        let unknown = self.unknown.entry(open.key).or_default();
        if is_write && *unknown < self.plan.unknown_max {
            *unknown += 1;
            self.floating.push((open.key, open.request.clone()));
            self.events.push(Event::Info(end));
            return true;
        }
        self.events.push(Event::Fail(end));
        false
    }

    fn invoke(&mut self, process: ProcessId) -> Open {
        self.ops += 1;
        let (op, key) = (OpId(self.ops), self.rng.random_range(0..self.plan.keys));
        let request = self.request(key);
        let (f, value, mode) = match &request {
            Request::Get { mode } => (Function::Get, None, Some(*mode)),
            Request::Put { value, expect: None } => (Function::Put, Some(value.clone()), None),
            Request::Put { value, .. } => (Function::Cas, Some(value.clone()), None),
            Request::Delete { .. } => (Function::Delete, None, None),
        };
        self.events.push(Event::Invoke(Invoke {
            op,
            process,
            f,
            key: format!("k{key}"),
            value,
            expect: request.expect(),
            mode,
            node: None,
            shard: None,
            idempotency: None,
            time: Micros(self.time),
            note: None,
        }));
        Open { op, key, request, answer: None }
    }

    fn request(&mut self, key: usize) -> Request {
        let value = match self.plan.values {
            Some(values) => self.rng.random_range(0..values).to_string(),
            None => self.ops.to_string(),
        };
        let expect = self.expect(key);
        match self.rng.random_range(0..100) {
            0..35 => {
                let stale = self.plan.stale_reads && self.chance(50);
                let mode =
                    if stale { Mode::Stale } else { [Mode::Linearizable, Mode::Lease][usize::from(self.chance(30))] };
                Request::Get { mode }
            }
            35..60 => Request::Put { value, expect: None },
            60..85 => Request::Put { value, expect: Some(expect) },
            85..95 => Request::Delete { expect: None },
            _ => Request::Delete { expect: Some(expect) },
        }
    }

    fn expect(&mut self, key: usize) -> Expect {
        let current = self.current(key).map(|(_, revision)| revision);
        match (self.rng.random_range(0..10), current) {
            (0..6, Some(current)) => Expect::Revision(current),
            (0..2, None) | (6, _) => Expect::Revision(Revision(self.rng.random_range(0..=self.revision + 2))),
            (7, _) => Expect::Exists,
            _ => Expect::Absent,
        }
    }

    fn current(&self, key: usize) -> Content {
        self.pasts[&key].last().unwrap().1.clone()
    }

    fn take_effect(&mut self, key: usize, request: &Request) -> Answer {
        let current = self.current(key);
        let revision = current.as_ref().map(|(_, revision)| *revision);
        if request.expect().is_some_and(|expect| !expect.holds(revision)) {
            return Answer::Refused { current: revision };
        }
        let next = Revision(self.revision + self.rng.random_range(1..=2));
        let (content, answer) = match request {
            Request::Get { .. } => {
                let told = self.chance(85);
                return current
                    .map_or(Answer::Absent, |(value, ver)| Answer::Found { ver, value: told.then_some(value) });
            }
            Request::Put { value, .. } => (Some((value.clone(), next)), Answer::Written { ver: next }),
            Request::Delete { .. } if current.is_none() => return Answer::Deleted { ver: None },
            Request::Delete { .. } => (None, Answer::Deleted { ver: self.chance(30).then_some(next) }),
        };
        self.revision = next.0;
        self.pasts.get_mut(&key).unwrap().push((self.time, content));
        answer
    }

    fn answer(&mut self, open: Open) {
        let mut end = End::new(open.op, Micros(self.time));
        let mut answer = open.answer.unwrap();
        if open.request == (Request::Get { mode: Mode::Stale }) {
            let (content, age_ms) = self.some_past(open.key);
            answer = content.map_or(Answer::Absent, |(value, ver)| Answer::Found { ver, value: Some(value) });
            end.age_ms = age_ms;
        }
        answer.write_to(&mut end);
        self.events.push(Event::Ok(end));
    }

    /// One of the key's states, and an age that is true of it, or none.
    fn some_past(&mut self, key: usize) -> (Content, Option<u64>) {
        let past = &self.pasts[&key];
        let place = self.rng.random_range(0..past.len());
        let until = past.get(place + 1).map_or(self.time, |(from, _)| *from);
        (past[place].1.clone(), self.chance(70).then(|| (self.time - until).div_ceil(1000)))
    }
}

/// One answer made wrong, or one event moved before its neighbour: mostly, but not always, no longer linearizable.
pub(super) fn spoil(events: &mut [Event], rng: &mut StdRng) {
    let place = rng.random_range(0..events.len());
    if rng.random_range(0..4) == 0 && place > 0 && process(events, place) != process(events, place - 1) {
        let (earlier, later) = (events[place - 1].time(), events[place].time());
        events.swap(place - 1, place);
        set_time(&mut events[place - 1], earlier);
        set_time(&mut events[place], later);
        return;
    }
    if let Event::Ok(end) = &mut events[place] {
        let is_read = end.applied.is_none();
        match rng.random_range(0..4) {
            0 if end.value.is_some() => end.value = Some(rng.random_range(0..3).to_string()),
            1 if is_read && end.found == Some(true) => (end.found, end.ver, end.value) = (Some(false), None, None),
            2 if !is_read && end.applied == Some(true) => events[place] = Event::Fail(End::new(end.op, end.time)),
            _ => {
                if let Some(ver) = &mut end.ver {
                    *ver = Revision((ver.0 + rng.random_range(1..=3)).saturating_sub(2).max(1));
                }
            }
        }
    }
}

fn process(events: &[Event], place: usize) -> Option<ProcessId> {
    let op = match &events[place] {
        Event::Invoke(invoke) => return Some(invoke.process),
        Event::Ok(end) | Event::Fail(end) | Event::Info(end) => end.op,
        Event::Nemesis(_) => return None,
    };
    events.iter().find_map(|event| match event {
        Event::Invoke(invoke) if invoke.op == op => Some(invoke.process),
        _ => None,
    })
}

fn set_time(event: &mut Event, time: Micros) {
    match event {
        Event::Invoke(invoke) => invoke.time = time,
        Event::Ok(end) | Event::Fail(end) | Event::Info(end) => end.time = time,
        Event::Nemesis(nemesis) => nemesis.time = time,
    }
}
