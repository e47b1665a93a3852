//! The lease trap: a voter that is restarted has forgotten the lease that it granted (`architecture` §4.2, row 3.2).
//!
//! One voter is cut from the leader until its own election time-out is long over, then the leader from everybody, and in
//! the same moment voters that still heard it are killed and started again, as many as a new leader needs. Without a
//! hold-off they vote at once, and the new leader acknowledges a write while the old one still answers reads by its
//! lease. So a key of that shard is read from the old leader all the time, by lease and from it alone, and written
//! through each of the others as soon as it leads; the history shows whether a read missed a write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use ringraft::clock::{self, Moment};

use super::{Aim, Fault, Field, Held, Kind, Observed, Standing, Way, look};
use crate::checker::UNKNOWN_WRITES_MAX;
use crate::client::{Client, Outcome, kv_path, revision};
use crate::history::{About, Answer, Call, Mode, Recorder, Request, Session};
use crate::real::world::Spoil;

/// Many times the longest election time-out.
const ALONE: Duration = Duration::from_secs(3);
/// Until the new leader acknowledges a write. Hold-off, elections and a start on a busy machine.
const NEW_LEADER_LIMIT: Duration = Duration::from_secs(10);
/// Readers of the old leader, and the pause of each between two reads: some hundreds a second.
const READERS: usize = 3;
const READ_PAUSE: Duration = Duration::from_millis(4);
const READ_TIMEOUT: &str = "200ms";
const LIMIT: Duration = Duration::from_millis(500);
/// Until the leader acknowledges the write before the trap.
const BEFORE_LIMIT: Duration = Duration::from_secs(1);
const WRITE_TIMEOUT: &str = "1s";
const WRITE_LIMIT: Duration = Duration::from_millis(1500);
/// Writes after the first acknowledged one, so that a read that misses them has a moment to do so.
const WRITES_AFTER: usize = 20;
/// Between two looks whether the restarted voters serve.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A leadership may be handed over at any time, which leaves a trap that is being set without its leader: it is let go
/// of, and another one set. So often in a row.
const ATTEMPTS: usize = 5;

/// Sets the trap, springs it and lets go of it again.
pub(super) async fn spring(field: &mut Field) -> Result<Standing, String> {
    for _ in 0..ATTEMPTS {
        if let Some(standing) = set_and_spring(field).await? {
            return Ok(standing);
        }
        field.figures.count("lease_traps_set_again", 1);
    }
    Err(format!("in {ATTEMPTS} attempts the shard's leader changed before the trap was sprung"))
}

/// None when it was not sprung, because its leader leads no more.
async fn set_and_spring(field: &mut Field) -> Result<Option<Standing>, String> {
    let aim = field.aim().await?;
    let others = field.others(&[aim.leader.place]);
    let alone = field.choose(&others)?;
    let rest: Vec<usize> = others.iter().copied().filter(|place| *place != alone).collect();
    let restarted = field.choose_some(&rest, field.majority() - 1);
    let on = [vec![aim.leader.place], restarted.clone()].concat();

    let number = field.figures.get_count("lease_traps");
    field.figures.count("lease_traps", 1);
    // A tag that is a whole other key is in that key's shard.
    let key = format!("{{{}}}trap-{number}", field.probe.key(aim.shard));
    let names = Names { key, value: format!("trap-{number}") };
    let mut before = Writer::new(&field.recorder, &names, reached_at(field, aim.leader.place));
    if !before.acknowledged_once().await? {
        return Ok(None);
    }
    let load = Load::start(field, &names, aim.leader.place, &others);
    field.world.spoil(&Way::both(alone, aim.leader.place), Spoil::Cut).await?;
    tokio::time::sleep(ALONE).await;
    let leads_still = look::survey(&field.world.nodes).await.leaders().get(&aim.shard).map(|now| now.place);
    if leads_still != Some(aim.leader.place) {
        load.stop().await?;
        field.world.mend_all().await?;
        return Ok(None);
    }
    field.announce(Fault::LeaseTrap, &on)?;
    let seen = spring_under(field, aim, &others, &restarted, &load).await;
    let reads = load.stop().await?;
    field.world.mend_all().await?;
    let seen = seen.and_then(|()| match (reads.in_window, reads.broken) {
        (_, Some(why)) => Err(why),
        (0, None) => Err("the old leader answered no read by its lease after it was cut off".to_string()),
        (_, None) => Ok(()),
    });
    field.figures.count("lease_reads_of_old_leaders_cut_off", reads.in_window);
    field.figures.count("lease_reads_of_old_leaders", reads.answered);
    let held = Held::Over { seen };
    Ok(Some(Standing { fault: Fault::LeaseTrap, on, hit_leader: true, hold: Duration::ZERO, held }))
}

async fn spring_under(field: &mut Field, aim: Aim, others: &[usize], restarted: &[usize], load: &Load) -> Observed {
    let leader = aim.leader.place;
    let ways: Vec<Way> = others.iter().flat_map(|other| Way::both(*other, leader)).collect();
    let met = field.world.met(&ways, Kind::Cut).await?;
    field.world.spoil(&ways, Spoil::Cut).await?;
    let cut_at = clock::now();
    load.cut_off();
    let killed = field.world.kill(restarted).await?.into_iter().all(|killed| killed);
    field.world.start(restarted)?;
    let serving_after = serving(field, restarted, cut_at).await?;
    let acknowledged = load.first_acknowledged_after(cut_at, NEW_LEADER_LIMIT).await;
    let Some(acknowledged) = acknowledged else {
        return Err(format!("no new leader of shard {} acknowledged a write within {NEW_LEADER_LIMIT:?}", aim.shard));
    };
    load.some_more(WRITES_AFTER).await;
    let leads = |now: look::Leader| now.place != leader && now.term > aim.leader.term;
    let deposed = look::leader(&field.world.nodes, aim.shard, NEW_LEADER_LIMIT, leads).await;
    let met_after = field.world.met(&ways, Kind::Cut).await?;
    field.figures.time("lease_trap_first_write_ms", acknowledged.since(cut_at));
    field.figures.time("lease_trap_restart_ms", serving_after);
    if serving_after >= field.world.read_lease {
        return Err(format!("the voters were back only after {serving_after:?}, when the lease was over"));
    }
    if !killed {
        return Err("a voter had ended before SIGKILL reached it".to_string());
    }
    if deposed.is_none() {
        return Err(format!("nobody else came to lead shard {}", aim.shard));
    }
    if met_after.iter().zip(&met).any(|(after, before)| after <= before) {
        return Err("a way that was cut met nothing".to_string());
    }
    Ok(())
}

/// Waits until all of these serve, and so would vote. Gives how long after `since` that was.
async fn serving(field: &Field, restarted: &[usize], since: Moment) -> Result<Duration, String> {
    let deadline = since.after(NEW_LEADER_LIMIT);
    for place in restarted {
        let http = &field.world.nodes[*place].http;
        let is_serving = async || http.get("/v1/status").try_send().await.is_ok_and(|reply| reply.status == 200);
        while !is_serving().await {
            if clock::now() >= deadline {
                return Err(format!("{} does not serve after {NEW_LEADER_LIMIT:?}", field.world.nodes[*place].name));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    Ok(super::since(since))
}

/// Readers of the old leader, and a writer through each of the others.
struct Load {
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

/// Of one trap. Its values begin with one word that no other's do.
#[derive(Clone)]
struct Names {
    key: String,
    value: String,
}

struct Shared {
    ended: AtomicBool,
    is_cut_off: AtomicBool,
    answered: AtomicU64,
    in_window: AtomicU64,
    acknowledged: tokio::sync::watch::Sender<(u64, Option<Moment>)>,
}

struct Reads {
    answered: u64,
    in_window: u64,
    broken: Option<String>,
}

impl Load {
    fn start(field: &Field, names: &Names, leader: usize, others: &[usize]) -> Self {
        let shared = Arc::new(Shared {
            ended: AtomicBool::new(false),
            is_cut_off: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            in_window: AtomicU64::new(0),
            acknowledged: tokio::sync::watch::Sender::new((0, None)),
        });
        let node = |place: usize| reached_at(field, place);
        let mut tasks: Vec<_> = (0..READERS)
            .map(|_| tokio::spawn(read(Arc::clone(&shared), field.recorder.clone(), names.clone(), node(leader))))
            .collect();
        // One writer for each node, so that one that hangs holds nobody up. Their values differ. One unknown outcome may be
        // that of the write before.
        let unknown_max = (UNKNOWN_WRITES_MAX - 1) / others.len();
        tasks.extend(others.iter().map(|place| {
            let writer = Writer::new(&field.recorder, names, node(*place));
            tokio::spawn(write(Arc::clone(&shared), writer, unknown_max))
        }));
        Self { shared, tasks }
    }

    fn cut_off(&self) {
        self.shared.is_cut_off.store(true, Ordering::SeqCst);
    }

    /// When the first write that was asked for after `moment` was acknowledged.
    async fn first_acknowledged_after(&self, moment: Moment, limit: Duration) -> Option<Moment> {
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let after = acknowledged.wait_for(|(_, asked)| asked.is_some_and(|asked| asked > moment));
        tokio::time::timeout(limit, after).await.ok()?.ok()?;
        Some(clock::now())
    }

    async fn some_more(&self, writes: usize) {
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let wanted = acknowledged.borrow().0 + writes as u64;
        // Whether they come is not what is tested here.
        let _ = tokio::time::timeout(LIMIT, acknowledged.wait_for(|(count, _)| *count >= wanted)).await;
    }

    async fn stop(self) -> Result<Reads, String> {
        self.shared.ended.store(true, Ordering::SeqCst);
        let mut broken = None;
        for task in self.tasks {
            if let Err(why) = task.await.map_err(|error| format!("a client of the trap: {error}"))? {
                broken = Some(why);
            }
        }
        let answered = self.shared.answered.load(Ordering::SeqCst);
        Ok(Reads { answered, in_window: self.shared.in_window.load(Ordering::SeqCst), broken })
    }
}

fn reached_at(field: &Field, place: usize) -> (String, String) {
    let node = &field.world.nodes[place];
    (node.name.clone(), node.http.address.clone())
}

/// Until told to end; by lease, and from this node alone.
async fn read(shared: Arc<Shared>, recorder: Recorder, names: Names, node: (String, String)) -> Result<(), String> {
    let (name, address) = node;
    let key = names.key;
    let path = format!("{}?consistency=lease&forward=never&timeout={READ_TIMEOUT}", kv_path(key.as_bytes()));
    let broken = |error: std::io::Error| format!("the history: {error}");
    let mut client = Client::new(address);
    let mut session = recorder.session();
    while !shared.ended.load(Ordering::SeqCst) {
        let mut call = Call::new(key.clone(), Request::Get { mode: Mode::Lease });
        call.node = Some(name.clone());
        let was_cut_off = shared.is_cut_off.load(Ordering::SeqCst);
        let running = session.invoke(call).map_err(broken)?;
        let reply = client.get(&path, LIMIT).await;
        let status = reply.as_ref().ok().map(|reply| reply.status);
        let served = reply.as_ref().ok().and_then(|reply| reply.headers.get("kv-consistency")).and_then(served_as);
        let about = About { status, served, ..About::default() };
        let answer = reply.ok().and_then(|reply| match (reply.status, revision(&reply)) {
            (200, Some(ver)) => {
                let value = Some(String::from_utf8_lossy(&reply.body).into_owned());
                Some(Answer::Found { ver: ringraft::types::Revision(ver), value })
            }
            (404, _) => Some(Answer::Absent),
            _ => None,
        });
        match answer {
            Some(answer) => {
                let by_lease = served == Some(Mode::Lease);
                running.ok(answer, about).map_err(broken)?;
                shared.answered.fetch_add(1, Ordering::SeqCst);
                shared.in_window.fetch_add(u64::from(was_cut_off && by_lease), Ordering::SeqCst);
            }
            None => running.fail(About { served: None, ..about }).map_err(broken)?,
        }
        tokio::time::sleep(READ_PAUSE).await;
    }
    Ok(())
}

fn served_as(value: &HeaderValue) -> Option<Mode> {
    match value.as_bytes() {
        b"lease" => Some(Mode::Lease),
        b"linearizable" => Some(Mode::Linearizable),
        _ => None,
    }
}

/// Writes to the trap's key through one node, and no further.
struct Writer {
    client: Client,
    session: Session,
    names: Names,
    node: String,
    written: usize,
    unknown: usize,
}

impl Writer {
    fn new(recorder: &Recorder, names: &Names, (node, address): (String, String)) -> Self {
        let (client, session) = (Client::new(address), recorder.session());
        Self { client, session, names: names.clone(), node, written: 0, unknown: 0 }
    }

    /// Whether a write was acknowledged within a second: who leads may have just begun to, and refuse.
    async fn acknowledged_once(&mut self) -> Result<bool, String> {
        let deadline = clock::now().after(BEFORE_LIMIT);
        while self.unknown == 0 && clock::now() < deadline {
            if self.write().await?.is_some() {
                return Ok(true);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(false)
    }

    /// When it was asked for, if it was acknowledged.
    async fn write(&mut self) -> Result<Option<Moment>, String> {
        let broken = |error: std::io::Error| format!("the history: {error}");
        self.written += 1;
        let value = format!("{}.{}.{}", self.names.value, self.node, self.written);
        // A node that does not lead would hand the write to the leader that it knows, the old one, and never learn what
        // became of it; and of few keys can so many outcomes be unknown.
        let path = format!("{}?forward=never&timeout={WRITE_TIMEOUT}", kv_path(self.names.key.as_bytes()));
        let mut call = Call::new(self.names.key.clone(), Request::Put { value: value.clone(), expect: None });
        call.node = Some(self.node.clone());
        let running = self.session.invoke(call).map_err(broken)?;
        let asked = clock::now();
        let sent = self.client.send(Method::PUT, &path, Bytes::from(value), WRITE_LIMIT).await;
        match crate::client::outcome(sent) {
            Outcome::Acknowledged { revision } => {
                let ver = ringraft::types::Revision(revision);
                running.ok(Answer::Written { ver }, About::default()).map_err(broken)?;
                return Ok(Some(asked));
            }
            Outcome::NotApplied { why } => {
                running.fail(About { why: Some(why), ..About::default() }).map_err(broken)?;
            }
            Outcome::Unknown { why } => {
                self.unknown += 1;
                running.info(About { why: Some(why), ..About::default() }).map_err(broken)?;
            }
        }
        Ok(None)
    }
}

/// From the moment at which the leader is cut off until told to end, or until so many writes' outcomes are unknown that the
/// checker could not decide the key.
async fn write(shared: Arc<Shared>, mut writer: Writer, unknown_max: usize) -> Result<(), String> {
    while !shared.ended.load(Ordering::SeqCst) && writer.unknown < unknown_max {
        if shared.is_cut_off.load(Ordering::SeqCst)
            && let Some(asked) = writer.write().await?
        {
            shared.acknowledged.send_modify(|(count, last)| {
                *count += 1;
                *last = (*last).max(Some(asked));
            });
        }
        tokio::time::sleep(READ_PAUSE).await;
    }
    Ok(())
}
