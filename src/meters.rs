//! What several layers share of what a node measures of itself: how meters are cut, and where the time of one request
//! went. Each part owns its meters and is asked to [`Meters::register`] them; `api` writes them out.
//!
//! The stages of a request are noted by whatever layer spends the time, into the request that the task works for
//! ([`traced`]); outside of one, notes go nowhere. A request that another node serves brings that node's stages back.

use std::cell::RefCell;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prometheus_client::registry::Registry;

use crate::wire::{Wire, WireError};

/// Upper bounds of times on one machine and between neighbours, in seconds: from a sync of a good disk to a time-out.
pub const SHORT_TIMES: [f64; 15] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Upper bounds of counts in a batch.
pub const COUNTS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// Upper bounds of sizes, in bytes.
pub const SIZES: [f64; 10] =
    [256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 8_388_608.0, 16_777_216.0];

/// A part's meters. Its names begin with `ringraft_`, which is added here and nowhere else.
pub trait Meters {
    fn register(&self, registry: &mut Registry);
}

/// A registry in which every name begins with `ringraft_`.
pub fn registry() -> Registry {
    Registry::with_prefix("ringraft")
}

/// Where the time of a request goes, in the order in which it passes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// To another node and back, without what it spent.
    Forward,
    /// From the proposal until the entry is given to the log.
    Queue,
    /// Until the leader's own log is synced.
    Fsync,
    /// Of a write: from then until a majority has it. Of a read: until a majority has confirmed the leader.
    Quorum,
    /// Of a write: until its batch is applied. Of a read: until what it must see is.
    Apply,
    /// Looking rows up.
    Read,
}

impl Stage {
    pub const ALL: [Self; 6] = [Self::Forward, Self::Queue, Self::Fsync, Self::Quorum, Self::Apply, Self::Read];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Queue => "queue",
            Self::Fsync => "fsync",
            Self::Quorum => "quorum",
            Self::Apply => "apply",
            Self::Read => "read",
        }
    }

    /// On the wire between nodes; never given to another stage.
    const fn number(self) -> u8 {
        match self {
            Self::Forward => 1,
            Self::Queue => 2,
            Self::Fsync => 3,
            Self::Quorum => 4,
            Self::Apply => 5,
            Self::Read => 6,
        }
    }
}

/// Time spent in each stage that the request came to. An attempt that was made again adds to it, and so does each shard that a
/// scan asks: they are asked at the same time, so that the stages of a scan may come to more than its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stages {
    times: [Option<Duration>; Stage::ALL.len()],
}

impl Stages {
    pub fn add(&mut self, stage: Stage, time: Duration) {
        let sum = self.times[stage as usize].unwrap_or_default().saturating_add(time);
        self.times[stage as usize] = Some(sum);
    }

    pub fn get(&self, stage: Stage) -> Option<Duration> {
        self.times[stage as usize]
    }

    /// Those that the request came to, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, Duration)> + '_ {
        Stage::ALL.into_iter().filter_map(|stage| Some((stage, self.get(stage)?)))
    }

    pub fn sum(&self) -> Duration {
        self.iter().map(|(_, time)| time).sum()
    }
}

/// Stages by number, in microseconds. One that a later version has is passed over.
impl Wire for Stages {
    fn encode(&self, out: &mut BytesMut) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let numbered: Vec<(u8, u64)> = self.iter().map(|(stage, time)| (stage.number(), micros(time))).collect();
        numbered.encode(out);
    }

    fn decode(input: &mut Bytes) -> Result<Self, WireError> {
        let mut stages = Self::default();
        for (number, micros) in Vec::<(u8, u64)>::decode(input)? {
            if let Some(stage) = Stage::ALL.into_iter().find(|stage| stage.number() == number) {
                stages.add(stage, Duration::from_micros(micros));
            }
        }
        Ok(stages)
    }
}

tokio::task_local! {
    static CURRENT: RefCell<Stages>;
}

/// Runs a request, and gives what its layers noted meanwhile.
pub fn traced<F: Future>(request: F) -> impl Future<Output = (F::Output, Stages)> {
    // A request is large, and would be copied from frame to frame.
    let request = Box::pin(request);
    CURRENT.scope(RefCell::new(Stages::default()), async {
        let output = request.await;
        (output, CURRENT.with(|stages| *stages.borrow()))
    })
}

/// Time that the request of this task spent in a stage.
pub fn note(stage: Stage, time: Duration) {
    // Raft's own tasks, and the reconciler's, work for no request.
    let _ = CURRENT.try_with(|stages| stages.borrow_mut().add(stage, time));
}

/// What another node spent on it.
pub fn note_all(theirs: &Stages) {
    for (stage, time) in theirs.iter() {
        note(stage, time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::golden;

    #[tokio::test]
    async fn a_request_gathers_what_was_noted_for_it_and_no_other() {
        let request = |time| {
            traced(async move {
                note(Stage::Queue, Duration::from_millis(time));
                tokio::task::yield_now().await;
                note(Stage::Queue, Duration::from_millis(time));
            })
        };
        let (one, two) = tokio::join!(request(1), request(10));
        assert_eq!(one.1.get(Stage::Queue), Some(Duration::from_millis(2)));
        assert_eq!(two.1.get(Stage::Queue), Some(Duration::from_millis(20)));
        assert_eq!(one.1.get(Stage::Apply), None);
        note(Stage::Queue, Duration::from_secs(1));
    }

    #[test]
    fn stages_keep_their_bytes_and_later_ones_are_passed_over() {
        let mut all = Stages::default();
        for (number, stage) in (1..).zip(Stage::ALL) {
            all.add(stage, Duration::from_micros(number));
            assert_eq!(stage as usize + 1, usize::try_from(number).unwrap(), "in the order of ALL");
        }
        golden::check("stages", &[all, Stages::default()]);
        let later: Vec<(u8, u64)> = vec![(2, 7), (200, 9)];
        let read = Stages::from_bytes(later.to_bytes()).unwrap();
        assert_eq!(read.iter().collect::<Vec<_>>(), [(Stage::Queue, Duration::from_micros(7))]);
    }
}
