//! Which request is next, and when it is due.
//!
//! The rule that makes an open loop honest: a request's moment is fixed by the schedule before anything is sent, and its
//! latency counts from there, however late it starts. While all that may be outstanding is, the requests that fall due
//! wait in the schedule (which costs no memory) and start one after the other as answers come; one that could not start
//! within the patience is not sent any more but counted. What a client would have waited is therefore never left out
//! because the generator waited too (coordinated omission).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Exp};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::args::{Arrivals, Length, Loop, Settings};
use super::timer::Timer;
use crate::clock::{self, Moment};

/// A request that is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// From 0, over the whole run.
    pub(super) number: u64,
    /// Where its latency counts from: its moment in the schedule. In a closed loop the sender sets it anew when the
    /// request is drawn.
    pub(super) at: Moment,
    /// Not of the warm-up.
    pub(super) measured: bool,
}

/// From when to when, and how many.
#[derive(Clone, Copy, Debug)]
struct Window {
    measured_from: Moment,
    until: Option<Moment>,
    /// Of the measured part.
    requests: Option<u64>,
}

impl Window {
    fn new(settings: &Settings, begin: Moment) -> Self {
        let measured_from = begin.after(settings.warmup);
        match settings.length {
            Length::Time(time) => Self { measured_from, until: Some(measured_from.after(time)), requests: None },
            Length::Requests(requests) => Self { measured_from, until: None, requests: Some(requests) },
        }
    }

    /// Whether a request due `at` is of the run, with so many measured ones before it.
    fn holds(&self, at: Moment, measured_before: u64) -> bool {
        self.until.is_none_or(|until| at < until) && self.requests.is_none_or(|requests| measured_before < requests)
    }
}

/// The moments of an open loop, as times from its beginning. Endless.
struct Schedule {
    rate: f64,
    /// Times between arrivals, of an open loop at random.
    gaps: Option<(Exp<f64>, SmallRng)>,
    number: u64,
    next: Duration,
}

impl Schedule {
    fn new(rate: f64, arrivals: Arrivals, seed: u64) -> Self {
        let gaps = match arrivals {
            Arrivals::Even => None,
            Arrivals::Poisson => {
                Some((Exp::new(rate).expect("the rate is above zero"), SmallRng::seed_from_u64(!seed)))
            }
        };
        Self { rate, gaps, number: 0, next: Duration::ZERO }
    }

    fn advance(&mut self) {
        self.number += 1;
        let next = match &mut self.gaps {
            // From the beginning, so that roundings do not add up.
            None => self.number as f64 / self.rate,
            Some((gaps, rng)) => self.next.as_secs_f64() + gaps.sample(rng),
        };
        // Beyond all times: the run has ended by then.
        self.next = Duration::try_from_secs_f64(next).unwrap_or(Duration::MAX);
    }
}

/// What an open loop does at a moment. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    WaitUntil(Moment),
    Start(Due),
    /// Nothing could be started for so long that whoever wanted this has given up.
    Skip {
        measured: bool,
    },
    End,
}

struct Pacer {
    schedule: Schedule,
    begin: Moment,
    window: Window,
    patience: Duration,
    measured: u64,
}

impl Pacer {
    fn step(&mut self, now: Moment) -> Step {
        let at = self.begin.after(self.schedule.next);
        if !self.window.holds(at, self.measured) {
            return Step::End;
        }
        if at > now {
            return Step::WaitUntil(at);
        }
        let number = self.schedule.number;
        let measured = at >= self.window.measured_from;
        self.schedule.advance();
        self.measured += u64::from(measured);
        if now.since(at) > self.patience { Step::Skip { measured } } else { Step::Start(Due { number, at, measured }) }
    }
}

enum Kind {
    Closed {
        sent: AtomicU64,
        measured: AtomicU64,
    },
    /// Whoever holds it waits for the next moment; the others that are free wait for it, in order.
    Open(Box<Mutex<(Pacer, Timer)>>),
}

/// Gives the requests of a run to those who send them. Shared by them all.
pub(super) struct Source {
    kind: Kind,
    window: Window,
    stop: CancellationToken,
    not_started: AtomicU64,
}

impl Source {
    /// Begins at this moment. `patience` is how late an open loop still starts a request.
    pub(super) fn start(settings: &Settings, patience: Duration, stop: CancellationToken) -> io::Result<Self> {
        let begin = clock::now();
        let window = Window::new(settings, begin);
        let kind = match settings.pattern {
            Loop::Closed { .. } => Kind::Closed { sent: AtomicU64::new(0), measured: AtomicU64::new(0) },
            Loop::Open { rate, arrivals, .. } => {
                let schedule = Schedule::new(rate, arrivals, settings.seed);
                let pacer = Pacer { schedule, begin, window, patience, measured: 0 };
                Kind::Open(Box::new(Mutex::new((pacer, Timer::new()?))))
            }
        };
        Ok(Self { kind, window, stop, not_started: AtomicU64::new(0) })
    }

    /// Waits until a request is due. None when the run is over.
    pub(super) async fn next(&self) -> io::Result<Option<Due>> {
        match &self.kind {
            Kind::Closed { sent, measured } => Ok(self.next_at_once(sent, measured)),
            Kind::Open(open) => self.next_in_time(open).await,
        }
    }

    fn next_at_once(&self, sent: &AtomicU64, measured_so_far: &AtomicU64) -> Option<Due> {
        let at = clock::now();
        let measured = at >= self.window.measured_from;
        let before = if measured { measured_so_far.fetch_add(1, Ordering::Relaxed) } else { 0 };
        if self.stop.is_cancelled() || !self.window.holds(at, before) {
            return None;
        }
        Some(Due { number: sent.fetch_add(1, Ordering::Relaxed), at, measured })
    }

    async fn next_in_time(&self, open: &Mutex<(Pacer, Timer)>) -> io::Result<Option<Due>> {
        let (pacer, timer) = &mut *open.lock().await;
        loop {
            if self.stop.is_cancelled() {
                return Ok(None);
            }
            match pacer.step(clock::now()) {
                Step::WaitUntil(at) => {
                    tokio::select! {
                        () = self.stop.cancelled() => return Ok(None),
                        waited = timer.until(at) => waited?,
                    }
                }
                Step::Start(due) => return Ok(Some(due)),
                Step::Skip { measured } => {
                    self.not_started.fetch_add(u64::from(measured), Ordering::Relaxed);
                }
                Step::End => return Ok(None),
            }
        }
    }

    /// Where the measured part begins.
    pub(super) fn measured_from(&self) -> Moment {
        self.window.measured_from
    }

    /// Measured requests that were due and could not be started in time.
    pub(super) fn not_started(&self) -> u64 {
        self.not_started.load(Ordering::Relaxed)
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.kind, Kind::Open(_))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::settings;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn origin() -> Moment {
        Moment::from_origin(Duration::from_secs(1000))
    }

    fn pacer(line: &str) -> Pacer {
        let settings = settings(line);
        let Loop::Open { rate, arrivals, .. } = settings.pattern else { panic!("an open loop") };
        let schedule = Schedule::new(rate, arrivals, settings.seed);
        let window = Window::new(&settings, origin());
        Pacer { schedule, begin: origin(), window, patience: PATIENCE, measured: 0 }
    }

    #[test]
    fn a_stall_moves_no_request_in_the_schedule() {
        let mut pacer = pacer("put --rate 1000 --duration 1s --warmup 0s");
        let mut now = origin();
        let mut waits = Vec::new();
        for number in 0..1000 {
            // The one who sends is away for half a second with request 100.
            if number == 101 {
                now = now.after(ms(500));
            }
            let due = loop {
                match pacer.step(now) {
                    Step::WaitUntil(at) => now = at,
                    Step::Start(due) => break due,
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!((due.number, due.at), (number, origin().after(ms(number))));
            waits.push(now.since(due.at));
        }
        assert_eq!(pacer.step(now), Step::End);
        // Of the 500 requests that fell due in the stall each counts what is left of it.
        assert_eq!(waits.iter().filter(|wait| **wait > ms(400)).count(), 99, "{waits:?}");
        assert_eq!(waits.iter().filter(|wait| **wait > ms(100)).count(), 399);
        assert_eq!((waits[100], waits[101], waits[700]), (ms(0), ms(499), ms(0)));
    }

    #[test]
    fn what_cannot_start_within_the_patience_is_counted_and_the_rest_starts() {
        let mut pacer = pacer("put --rate 10 --duration 8s --warmup 1s");
        let now = origin().after(Duration::from_secs(20));
        let mut steps = Vec::new();
        loop {
            match pacer.step(now) {
                Step::End => break,
                step => steps.push(step),
            }
        }
        assert_eq!(steps.len(), 90, "every arrival of the nine seconds is accounted for");
        assert_eq!(steps.iter().filter(|step| **step == Step::Skip { measured: false }).count(), 10);
        assert_eq!(steps.iter().filter(|step| **step == Step::Skip { measured: true }).count(), 80);
        let mut late = self::pacer("put --rate 10 --duration 8s --warmup 0s");
        let started = (0..80).filter(|_| matches!(late.step(origin().after(ms(8000))), Step::Start(_))).count();
        assert_eq!(started, 50, "those of the last five seconds, both ends included but the end of the run");
    }

    #[test]
    fn even_arrivals_keep_their_rate_without_drift_and_random_ones_on_average() {
        let mut even = Schedule::new(3.0, Arrivals::Even, 1);
        (0..3_000_000).for_each(|_| even.advance());
        assert_eq!(even.next, Duration::from_secs(1_000_000));
        let mut poisson = Schedule::new(1000.0, Arrivals::Poisson, 1);
        let mut gaps = Vec::new();
        for _ in 0..100_000 {
            let before = poisson.next;
            poisson.advance();
            gaps.push((poisson.next - before).as_secs_f64() * 1000.0);
        }
        let seconds = poisson.next.as_secs_f64();
        assert!((99.0..101.0).contains(&seconds), "{seconds}");
        // Of an exponential distribution a part of 1/e is longer than the mean.
        let longer = gaps.iter().filter(|gap| **gap > 1.0).count();
        assert!((36_000..37_600).contains(&longer), "{longer}");
    }

    #[test]
    fn a_number_of_requests_counts_the_measured_ones_alone() {
        let mut pacer = pacer("put --rate 10 --requests 7 --warmup 1s");
        let mut measured = Vec::new();
        let mut now = origin();
        loop {
            match pacer.step(now) {
                Step::WaitUntil(at) => now = at,
                Step::Start(due) => measured.push(due.measured),
                Step::Skip { .. } => panic!("nobody is late"),
                Step::End => break,
            }
        }
        assert_eq!(measured, [vec![false; 10], vec![true; 7]].concat());
    }

    #[tokio::test]
    async fn a_closed_loop_ends_after_its_requests_and_when_it_is_stopped() {
        let stop = CancellationToken::new();
        let counted = Source::start(&settings("put --requests 3"), PATIENCE, stop.clone()).unwrap();
        for number in 0..3 {
            let due = counted.next().await.unwrap().expect("three requests");
            assert_eq!((due.number, due.measured), (number, true));
        }
        assert_eq!(counted.next().await.unwrap(), None);
        for line in ["put --duration 1m --warmup 0s", "put --rate 0.001 --duration 1m"] {
            let source = Source::start(&settings(line), PATIENCE, stop.clone()).unwrap();
            assert!(source.next().await.unwrap().is_some(), "{line}: the first is due at once");
        }
        let slow = Source::start(&settings("put --rate 0.001"), PATIENCE, stop.clone()).unwrap();
        slow.next().await.unwrap().expect("the first is due at once");
        let (ended, ()) = tokio::join!(slow.next(), async { stop.cancel() });
        assert_eq!(ended.unwrap(), None, "also while it waits for the second");
    }
}
