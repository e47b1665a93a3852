//! Who waits for an entry: the proposer's channel, and the permit that bounds what is in flight.
//!
//! The permit is given back when the entry is resolved, not when its client stops waiting: entries that nobody waits for
//! still fill the log of a leader that has lost its quorum.

use std::sync::Arc;

use openraft::OptionalSend;
use openraft::raft::responder::Responder;
use tokio::sync::oneshot;

use super::TypeConfig;
use super::meters::{Passed, Timeline};
use crate::clock::{self, Moment};

/// Held until the entry is resolved.
pub type Permit = Box<dyn Send>;

pub struct Waiter<T> {
    answer: oneshot::Sender<(T, Passed)>,
    proposed: Moment,
    timeline: Arc<Timeline>,
    _permit: Option<Permit>,
}

impl<T> Waiter<T> {
    pub(super) fn new(permit: Option<Permit>, timeline: Arc<Timeline>) -> (Self, oneshot::Receiver<(T, Passed)>) {
        let (answer, receiver) = oneshot::channel();
        (Self { answer, proposed: clock::now(), timeline, _permit: permit }, receiver)
    }
}

impl<T> Responder<TypeConfig, T> for Waiter<T>
where
    T: OptionalSend + 'static,
{
    fn on_complete(self, result: T) {
        let apply_begun = self.timeline.apply_begun();
        let passed = Passed { proposed: self.proposed, apply_begun, applied: clock::now() };
        // The proposer may have given up at its deadline.
        let _ = self.answer.send((result, passed));
    }
}
