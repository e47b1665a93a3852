//! The reference: tries every order of the operations of one key, on a register with the real revisions, one by one.
//!
//! It shares nothing with the checker but the history. Where a revision is unknown it tries all that there may be; what
//! the register answers is compared with what was recorded.

use ringraft::types::Revision;

use crate::history::{Answer, History, Operation, Outcome, Request};

/// More would take too long: the orders alone are 5,040.
pub(super) const OPERATIONS_MAX: usize = 7;

type Content<'a> = Option<(&'a str, u64)>;

struct BruteForce<'a> {
    operations: Vec<&'a Operation>,
    revision_max: u64,
}

/// Whether some order explains every answer.
pub(super) fn is_linearizable(history: &History) -> bool {
    let counts = |one: &&Operation| match one.outcome {
        Outcome::Ok(_) => true,
        Outcome::Info => one.is_write(),
        Outcome::Fail => false,
    };
    let operations: Vec<&Operation> = history.operations.iter().filter(counts).collect();
    assert!(operations.len() <= OPERATIONS_MAX);
    let told = operations.iter().filter_map(|one| match (&one.outcome, one.request.expect()) {
        (Outcome::Ok(Answer::Found { ver, .. } | Answer::Written { ver }), _) => Some(ver.0),
        (Outcome::Ok(Answer::Deleted { ver } | Answer::Refused { current: ver }), _) => ver.map(|ver| ver.0),
        _ => None,
    });
    let expected = operations.iter().filter_map(|one| match one.request.expect() {
        Some(crate::history::Expect::Revision(revision)) => Some(revision.0),
        _ => None,
    });
    let revision_max = told.chain(expected).max().unwrap_or_default() + operations.len() as u64;
    BruteForce { operations, revision_max }.goes_on(0, None, 0)
}

impl<'a> BruteForce<'a> {
    /// `done` has a bit for each operation that took effect. Recursion is as deep as there are operations.
    fn goes_on(&self, done: u32, content: Content<'a>, revision: u64) -> bool {
        let is_open = |place: usize| done >> place & 1 == 0;
        let answered = |place: usize| matches!(self.operations[place].outcome, Outcome::Ok(_));
        let all = || 0..self.operations.len();
        if all().all(|place| !is_open(place) || !answered(place)) {
            return true;
        }
        all().filter(|&place| is_open(place)).any(|place| {
            let operation = self.operations[place];
            let comes_too_early = all().any(|other| {
                let ended = self.operations[other].ended.map(|ended| ended.event);
                is_open(other) && answered(other) && ended < Some(operation.invoked.event)
            });
            !comes_too_early
                && (revision + 1..=self.revision_max).any(|next| {
                    let (content, answer) = serve(&operation.request, content, next);
                    let changed = matches!(answer, Answer::Written { .. } | Answer::Deleted { ver: Some(_) });
                    let fits = match &operation.outcome {
                        Outcome::Ok(told) => agree(told, &answer),
                        // What changes nothing need not be tried.
                        _ => changed,
                    };
                    fits && self.goes_on(done | 1 << place, content, if changed { next } else { revision })
                })
        })
    }
}

fn serve<'a>(request: &'a Request, content: Content<'a>, next: u64) -> (Content<'a>, Answer) {
    let current = content.map(|(_, revision)| Revision(revision));
    if request.expect().is_some_and(|expect| !expect.holds(current)) {
        return (content, Answer::Refused { current });
    }
    match (request, content) {
        (Request::Get { .. }, None) => (content, Answer::Absent),
        (Request::Get { .. }, Some((value, revision))) => {
            (content, Answer::Found { ver: Revision(revision), value: Some(value.to_string()) })
        }
        (Request::Put { value, .. }, _) => (Some((value, next)), Answer::Written { ver: Revision(next) }),
        (Request::Delete { .. }, None) => (None, Answer::Deleted { ver: None }),
        (Request::Delete { .. }, Some(_)) => (None, Answer::Deleted { ver: Some(Revision(next)) }),
    }
}

/// Whether this may have been told for that: a value or a delete's revision may be left out.
fn agree(told: &Answer, true_answer: &Answer) -> bool {
    match (told, true_answer) {
        (Answer::Found { ver: told, value: None }, Answer::Found { ver, .. }) => told == ver,
        (Answer::Deleted { ver: None }, Answer::Deleted { .. }) => true,
        _ => told == true_answer,
    }
}
