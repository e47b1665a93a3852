//! After all faults are healed: every key that was ever used is read back, linearizably and through every node in turn,
//! and the reads are part of the history.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use ringraft::clock::{self, Moment};
use ringraft::types::Revision;

use super::answer::Ended;
use super::asker::{Ask, Asker, Limits};
use super::{Kind, Shared};
use crate::history::{Answer, Mode};

/// Readers for each node.
const READERS_EACH: usize = 4;
const LIMITS: Limits = Limits { server: Duration::from_secs(2), client: Duration::from_secs(4) };

/// What each key holds in the end: its revision and value, or nothing.
pub(super) type Held = BTreeMap<String, Option<(Revision, String)>>;

/// Reads until `deadline`. The second are those that could not be read, with the last refusal.
pub(super) async fn read_back(
    shared: &Arc<Shared>,
    keys: Vec<(Kind, String)>,
    deadline: Moment,
) -> (Held, Vec<String>) {
    let readers = READERS_EACH * shared.ground.targets.len();
    let mut shares: Vec<Vec<(Kind, String)>> = (0..readers).map(|_| Vec::new()).collect();
    for (place, key) in keys.into_iter().enumerate() {
        shares[place % readers].push(key);
    }
    let held = Arc::new(Mutex::new(Held::new()));
    let unread = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (number, share) in shares.into_iter().enumerate() {
        let (shared, held, unread) = (Arc::clone(shared), Arc::clone(&held), Arc::clone(&unread));
        tasks.push(tokio::spawn(async move {
            for (kind, key) in share {
                match read(&shared, kind, &key, number, deadline).await {
                    Ok(found) => drop(held.lock().expect("no panic").insert(key, found)),
                    Err(why) => unread.lock().expect("no panic").push(format!("{key}: {why}")),
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("a reader does not panic");
    }
    let held = std::mem::take(&mut *held.lock().expect("no panic"));
    let mut unread = std::mem::take(&mut *unread.lock().expect("no panic"));
    unread.sort_unstable();
    (held, unread)
}

/// Asks one node after the other until one answers.
async fn read(
    shared: &Arc<Shared>,
    kind: Kind,
    key: &str,
    first: usize,
    deadline: Moment,
) -> Result<Option<(Revision, String)>, String> {
    let mut asker = Asker::new(shared, kind, first, LIMITS);
    loop {
        let judged = asker.ask(Ask::get(key, Mode::Linearizable)).await;
        match judged.ended {
            Ended::Ok(Answer::Found { ver, value: Some(value) }) => return Ok(Some((ver, value))),
            Ended::Ok(Answer::Absent) => return Ok(None),
            Ended::Ok(other) => return Err(format!("{other:?} is no answer to a read of a value")),
            Ended::Fail | Ended::Info => {}
        }
        if clock::now() >= deadline || shared.is_broken() {
            return Err(judged.about.why.unwrap_or(judged.code));
        }
        asker.turn_to(asker.target() + 1);
        tokio::time::sleep(shared.load.pause_after_refusal).await;
    }
}
