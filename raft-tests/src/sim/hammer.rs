//! Clients of the lease traps: while a trap is set they read one key of its shard by lease through every node, many times
//! a second, and write it through every node, so that an answer that is old for some tens of milliseconds is in the
//! history.
//!
//! A writer that does not know what became of a write waits until it can read again: a key takes few unknown writes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::client::{Client, kv_path};
use crate::history::{Call, Mode, Request, Session};
use crate::workload::{Ended, Ground, Target, judge};

/// Readers of each node.
const READERS: usize = 2;
/// Between two reads of one of them.
const READ_PAUSE: Duration = Duration::from_millis(4);
const WRITE_PAUSE: Duration = Duration::from_millis(10);
/// While there is nothing to do, or nothing comes of it.
const IDLE_PAUSE: Duration = Duration::from_millis(15);
/// When the server has to have answered, and when the client gives up.
const READ_LIMITS: (Duration, Duration) = (Duration::from_millis(60), Duration::from_millis(90));
const WRITE_LIMITS: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(200));

/// The key that is asked for now, set by whoever sets the trap.
#[derive(Clone, Default)]
pub(super) struct Aim(Rc<RefCell<Option<String>>>);

impl Aim {
    pub(super) fn at(&self, key: Option<String>) {
        *self.0.borrow_mut() = key;
    }

    fn key(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

/// Starts all of them on the host that this is called on; they end with it.
pub(super) fn start(ground: &Ground, aim: &Aim) {
    let values = Rc::new(Cell::new(0));
    for target in &ground.targets {
        for _ in 0..READERS {
            tokio::task::spawn_local(read(Asker::new(ground, target), aim.clone()));
        }
        tokio::task::spawn_local(write(Asker::new(ground, target), aim.clone(), values.clone()));
    }
}

struct Asker {
    node: String,
    client: Client,
    session: Session,
}

impl Asker {
    fn new(ground: &Ground, target: &Target) -> Self {
        let client = Client::over(ground.net.clone(), &target.address);
        Self { node: target.name.clone(), client, session: ground.recorder.session() }
    }

    /// Nothing when the history takes no more, which the workload notices.
    async fn ask(&mut self, key: &str, request: Request, limits: (Duration, Duration)) -> Option<Ended> {
        let (method, body) = match &request {
            Request::Put { value, .. } => (Method::PUT, Bytes::copy_from_slice(value.as_bytes())),
            _ => (Method::GET, Bytes::new()),
        };
        let mode = if matches!(request, Request::Get { mode: Mode::Lease }) { "&consistency=lease" } else { "" };
        let path = format!("{}?timeout={}ms{mode}", kv_path(key.as_bytes()), limits.0.as_millis());
        let call = Call { node: Some(self.node.clone()), ..Call::new(key, request.clone()) };
        let running = self.session.invoke(call).ok()?;
        let sent = self.client.send_with(method, &path, HeaderMap::new(), body, limits.1).await;
        let judged = judge(&request, sent);
        let about = judged.about;
        let recorded = match &judged.ended {
            Ended::Ok(answer) => running.ok(answer.clone(), about),
            Ended::Fail => running.fail(about),
            Ended::Info => running.info(about),
        };
        recorded.ok().map(|()| judged.ended)
    }
}

async fn read(mut asker: Asker, aim: Aim) {
    loop {
        let Some(key) = aim.key() else {
            tokio::time::sleep(IDLE_PAUSE).await;
            continue;
        };
        if asker.ask(&key, Request::Get { mode: Mode::Lease }, READ_LIMITS).await.is_none() {
            return;
        }
        tokio::time::sleep(READ_PAUSE).await;
    }
}

async fn write(mut asker: Asker, aim: Aim, values: Rc<Cell<u64>>) {
    let mut knows = true;
    loop {
        let Some(key) = aim.key() else {
            knows = true;
            tokio::time::sleep(IDLE_PAUSE).await;
            continue;
        };
        let request = if knows {
            values.set(values.get() + 1);
            Request::Put { value: format!("trap{}", values.get()), expect: None }
        } else {
            Request::Get { mode: Mode::Linearizable }
        };
        let Some(ended) = asker.ask(&key, request, WRITE_LIMITS).await else { return };
        knows = matches!(ended, Ended::Ok(_));
        tokio::time::sleep(if knows { WRITE_PAUSE } else { IDLE_PAUSE }).await;
    }
}
