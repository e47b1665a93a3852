//! Reads by lease at a fixed pace through every node, while one writer for each key goes on wherever it is acknowledged.
//! A read that begins after a write was acknowledged has to see it or something newer; how late one came is
//! [`super::stale_windows()`]' to say.
//!
//! The pace is kept whatever the answers do: each node has lanes, each lane has its moments, and what a slow answer
//! makes a lane miss is left out rather than made up for. Several keys are used at a time, and new ones go on all the
//! time; their shards follow from their hash, so at one moment some shard may have none. A key is left after so many
//! operations that the checker stays quick.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringraft::clock;

use super::answer::Ended;
use super::asker::{Ask, Asker, Limits};
use super::{Kind, Shared};
use crate::history::{Mode, Request};

/// Short, so that a node which does not answer leaves the other reads their moments.
const READ_LIMITS: Limits = Limits { server: Duration::from_millis(300), client: Duration::from_millis(500) };
/// A writer is to find the majority soon.
const WRITE_LIMITS: Limits = Limits { server: Duration::from_millis(500), client: Duration::from_millis(700) };
/// Reads under way through one node at most.
const LANES: u32 = 16;
/// Before the writer asks another node.
const PAUSE_BEFORE_NEXT_NODE: Duration = Duration::from_millis(20);
/// Operations after which a key is left, reads and writes.
const OPERATIONS_MAX: u32 = 1500;
/// Unknown writes after which it is left.
const UNKNOWN_WRITES_LEFT: u32 = 5;

/// The keys in use, each with its one writer.
pub(super) struct Streams {
    streams: Vec<Mutex<Stream>>,
    prefix: String,
}

#[derive(Default)]
struct Stream {
    keys_made: u32,
    operations: u32,
}

impl Streams {
    pub(super) fn new(shared: &Shared) -> Self {
        let streams = (0..shared.load.lease_keys).map(|_| Mutex::new(Stream { keys_made: 1, operations: 0 })).collect();
        Self { streams, prefix: shared.key_prefix(Kind::LeaseReads) }
    }

    fn key(&self, place: usize, number: u32) -> String {
        format!("{}{place}.{number}", self.prefix)
    }

    /// The key of now, for one more operation.
    fn draw(&self, place: usize) -> String {
        let mut stream = self.streams[place].lock().expect("no panic");
        stream.operations += 1;
        let number = stream.keys_made;
        drop(stream);
        self.key(place, number)
    }

    /// Goes on with a new key where the old one is used up. Called by the key's writer alone, between two writes.
    fn renew(&self, place: usize, is_unknown: bool) {
        let mut stream = self.streams[place].lock().expect("no panic");
        if is_unknown || stream.operations >= OPERATIONS_MAX {
            *stream = Stream { keys_made: stream.keys_made + 1, operations: 0 };
        }
    }

    pub(super) fn all_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for (place, stream) in self.streams.iter().enumerate() {
            let made = stream.lock().expect("no panic").keys_made;
            keys.extend((1..=made).map(|number| self.key(place, number)));
        }
        keys
    }
}

pub(super) async fn write(shared: Arc<Shared>, streams: Arc<Streams>, place: usize) {
    let mut asker = Asker::new(&shared, Kind::LeaseReads, place, WRITE_LIMITS);
    let mut unknown = 0;
    while !shared.stopped() {
        let request = Request::Put { value: shared.new_value(Kind::LeaseReads), expect: None };
        let judged = asker.ask(Ask::new(streams.draw(place), request)).await;
        unknown += u32::from(judged.ended == Ended::Info);
        let is_unknown = unknown >= UNKNOWN_WRITES_LEFT;
        streams.renew(place, is_unknown);
        if is_unknown {
            unknown = 0;
        }
        if matches!(judged.ended, Ended::Ok(_)) {
            shared.pause(shared.load.lease_write_pause).await;
        } else {
            asker.turn_to(asker.target() + 1);
            shared.pause(PAUSE_BEFORE_NEXT_NODE).await;
        }
    }
}

/// One lane of a node: of all moments at the node's pace, every [`LANES`]th is this lane's.
async fn read(shared: Arc<Shared>, streams: Arc<Streams>, target: usize, lane: u32, begun: clock::Moment) {
    let mut asker = Asker::new(&shared, Kind::LeaseReads, target, READ_LIMITS);
    let between = Duration::from_secs(1) / shared.load.lease_reads_per_second;
    let mut moment = lane;
    while !shared.stopped() {
        let past = clock::now().since(begun);
        if let Some(wait) = (between * moment).checked_sub(past).filter(|wait| !wait.is_zero()) {
            shared.pause(wait).await;
            continue;
        }
        let place = moment as usize % streams.streams.len();
        asker.ask(Ask::get(streams.draw(place), Mode::Lease)).await;
        let past = clock::now().since(begun);
        while between * moment <= past {
            moment += LANES;
        }
    }
}

/// Starts the lanes of one node.
pub(super) fn lanes(shared: &Arc<Shared>, streams: &Arc<Streams>, target: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let begun = clock::now();
    let lane = |lane| tokio::spawn(read(Arc::clone(shared), Arc::clone(streams), target, lane, begun));
    (0..LANES).map(lane).collect()
}
