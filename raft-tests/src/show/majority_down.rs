//! Two of three nodes stopped, and then two of three killed: the one that is left refuses puts and linearizable gets in
//! time, with an outcome that proves true, and serves stale reads with their age. Once the others are back, all goes on.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use ringraft::clock::{self, Moment};
use rustix::process::Signal;
use serde_json::Value;

use super::{Options, Times, Verdict, ms};
use crate::client::{Client, Outcome, kv_path, outcome};
use crate::cluster::{Cluster, Plan};
use crate::fleet::{signal, since};

/// The deadline that requests ask for, and when their answers have to be there.
const TIMEOUT: &str = "2s";
const ANSWER_LIMIT: Duration = Duration::from_millis(2500);
/// When the client gives up: only to be able to tell of an answer that never comes.
const CLIENT_LIMIT: Duration = Duration::from_secs(15);
/// From the moment the nodes are back until everything serves.
const BACK_LIMIT: Duration = Duration::from_secs(10);
/// A signal takes effect a moment after it was sent; until then a majority may still confirm the leader.
const SIGNAL_TAKES: Duration = Duration::from_millis(100);
/// What is proven is a little older than what is true: heartbeats come every 100 ms, and take a round to prove something.
const AGE_EXCESS_MAX: Duration = Duration::from_secs(2);
const KEYS: usize = 60;
/// Rounds of requests while the majority is away: the first meets leaders that do not know yet, the last ones do.
const ROUNDS: usize = 4;

pub(super) async fn run(_options: Options) -> Verdict {
    let mut cluster = Cluster::start(Plan { shards: 12, ..Plan::default() }).await;
    cluster.wait_until_settled().await;
    let mut wrong = Vec::new();
    for (variant, by_kill) in [("stopped", false), ("killed", true)] {
        for left in 0..cluster.nodes.len() {
            let found = one(&mut cluster, left, by_kill).await.map_err(|why| format!("two {variant}: {why}"))?;
            wrong.extend(found.into_iter().map(|what| format!("two {variant}, {} left: {what}", left + 1)));
            cluster.wait_until_settled().await;
        }
    }
    for what in wrong.iter().take(20) {
        println!("  {what}");
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{} answers were wrong", wrong.len())) }
}

/// A write that was tried while the majority was away.
struct Tried {
    key: String,
    value: String,
    applied: Outcome,
}

async fn one(cluster: &mut Cluster, left: usize, by_kill: bool) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    let variant = if by_kill { "killed" } else { "stopped" };
    let keys: Vec<String> = (0..KEYS).map(|number| format!("down-{left}-{variant}-{number}")).collect();
    let address = cluster.http(left).address.clone();
    let mut client = Client::new(&address);
    for key in &keys {
        match client.put(&kv_path(key.as_bytes()), "before".into(), CLIENT_LIMIT).await {
            Outcome::Acknowledged { .. } => {}
            other => return Err(format!("with all nodes up: {other:?}")),
        }
    }

    let mut clients = connected(&address).await?;

    let others: Vec<usize> = (0..cluster.nodes.len()).filter(|&place| place != left).collect();
    for &place in &others {
        signal(&cluster.nodes[place], if by_kill { Signal::KILL } else { Signal::STOP });
    }
    let away = clock::now();
    let mut answers = Answers::default();
    let mut tried = Vec::new();
    for round in 0..ROUNDS {
        let asked = keys.iter().zip(&mut clients).map(|(key, trio)| ask(trio, key, format!("during-{round}"), away));
        for (key, asked) in keys.iter().zip(futures::future::join_all(asked).await) {
            answers.judge(key, &asked, &mut wrong);
            tried.push(Tried { key: key.clone(), value: format!("during-{round}"), applied: asked.put });
        }
    }
    answers.print(left, variant);

    let back = clock::now();
    for &place in &others {
        if by_kill {
            cluster.nodes[place].kill().await;
            cluster.nodes[place].start();
        } else {
            signal(&cluster.nodes[place], Signal::CONT);
        }
    }
    // What was refused must not be there, now or later: read through every node, before the keys are written again.
    let mut serves = Duration::ZERO;
    for node in &cluster.nodes {
        let mut client = Client::new(&node.http.address);
        for key in &keys {
            let found = read_when_back(&mut client, key, &mut wrong).await?;
            serves = serves.max(since(back));
            let known = |tried: &&Tried| tried.key == *key && tried.value == found;
            match tried.iter().find(known).map(|tried| &tried.applied) {
                None if found == "before" => {}
                None => wrong.push(format!("{key} holds {found:?}, which was never sent")),
                Some(Outcome::NotApplied { why }) => {
                    wrong.push(format!("{key} holds {found:?}, answered not_applied by {why}"))
                }
                Some(_) => {}
            }
        }
        for key in &keys {
            write_when_back(&mut client, key, &mut wrong).await?;
            serves = serves.max(since(back));
        }
        // Only the first reader sees what the time without a majority left behind.
        tried.clear();
        tried.extend(keys.iter().map(|key| Tried {
            key: key.clone(),
            value: "after".to_string(),
            applied: Outcome::Unknown { why: String::new() },
        }));
    }
    println!(
        "    all {KEYS} keys read and written through every node {:.2} s after the others were back",
        serves.as_secs_f64()
    );
    if serves > BACK_LIMIT {
        wrong.push(format!("everything served only {:.1} s after the others were back", serves.as_secs_f64()));
    }
    Ok(wrong)
}

struct Asked {
    put: Outcome,
    put_took: Duration,
    /// Status, code and outcome of the linearizable get.
    get: String,
    get_refused: bool,
    get_took: Duration,
    /// The age that the stale get told of, or what was wrong with it.
    stale: Result<Duration, String>,
    stale_took: Duration,
}

/// For each key a client that puts, one that gets, and one that gets stale.
type Trio = [Client; 3];

/// Opens all connections, one after the other: what is measured is the answer, not how many can connect at once.
async fn connected(address: &str) -> Result<Vec<Trio>, String> {
    let mut clients = Vec::new();
    for _ in 0..KEYS {
        let mut trio = [Client::new(address), Client::new(address), Client::new(address)];
        for client in &mut trio {
            client.get("/livez", CLIENT_LIMIT).await.map_err(|trouble| format!("{address}: {trouble:?}"))?;
        }
        clients.push(trio);
    }
    Ok(clients)
}

/// A put, a linearizable get and a stale get of one key, at once; the majority has been away since `away`.
async fn ask([putter, getter, stale_getter]: &mut Trio, key: &str, value: String, away: Moment) -> Asked {
    let path = kv_path(key.as_bytes());
    let (put_target, stale_target) = (format!("{path}?timeout={TIMEOUT}"), format!("{path}?consistency=stale"));
    let put = async {
        let began = clock::now();
        let reply = putter.send(Method::PUT, &put_target, Bytes::from(value), CLIENT_LIMIT).await;
        (outcome(reply), since(began))
    };
    let get = async {
        let began = clock::now();
        let reply = getter.get(&put_target, CLIENT_LIMIT).await;
        let (text, refused) = match reply {
            Ok(reply) => {
                let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                (
                    format!("{} {}", reply.status, problem["code"].as_str().unwrap_or("-")),
                    matches!(reply.status, 503 | 504),
                )
            }
            Err(trouble) => (format!("{trouble:?}"), false),
        };
        (text, refused, since(began))
    };
    let stale = async {
        let (began, at_least) = (clock::now(), since(away).saturating_sub(SIGNAL_TAKES));
        let reply = stale_getter.get(&stale_target, CLIENT_LIMIT).await;
        let told = match reply {
            Ok(reply) if reply.status == 200 => {
                let told = reply.header("kv-staleness-ms").unwrap_or("without Kv-Staleness-Ms").to_string();
                let age = told.parse().map(Duration::from_millis).map_err(|_| format!("200 {told}"));
                let at_most = since(away) + AGE_EXCESS_MAX;
                age.and_then(|age| match age {
                    age if age < at_least => Err(format!("of {}, younger than {}", ms(age), ms(at_least))),
                    age if age > at_most => Err(format!("of {}, older than {}", ms(age), ms(at_most))),
                    age => Ok(age),
                })
            }
            Ok(reply) => Err(format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body))),
            Err(trouble) => Err(format!("{trouble:?}")),
        };
        (told, since(began))
    };
    let ((put, put_took), (get, get_refused, get_took), (stale, stale_took)) = futures::join!(put, get, stale);
    Asked { put, put_took, get, get_refused, get_took, stale, stale_took }
}

#[derive(Default)]
struct Answers {
    times: Times,
    stale_times: Times,
    oldest: Duration,
    told: std::collections::BTreeMap<String, usize>,
}

impl Answers {
    fn judge(&mut self, key: &str, asked: &Asked, wrong: &mut Vec<String>) {
        let put = match &asked.put {
            Outcome::NotApplied { why } => format!("put {why}, not_applied"),
            Outcome::Unknown { why } => format!("put {why}, unknown"),
            Outcome::Acknowledged { .. } => "put acknowledged".to_string(),
        };
        if !put.starts_with("put 503 ") && !put.starts_with("put 504 ") {
            wrong.push(format!("{key}: {put}"));
        }
        if !asked.get_refused {
            wrong.push(format!("{key}: linearizable get answered {}", asked.get));
        }
        match &asked.stale {
            Ok(age) => self.oldest = self.oldest.max(*age),
            Err(why) => wrong.push(format!("{key}: stale get {why}")),
        }
        for (what, took) in [("put", asked.put_took), ("get", asked.get_took), ("stale get", asked.stale_took)] {
            if took > ANSWER_LIMIT {
                wrong.push(format!("{key}: {what} answered after {}", ms(took)));
            }
        }
        self.times.add(asked.put_took);
        self.times.add(asked.get_took);
        self.stale_times.add(asked.stale_took);
        *self.told.entry(put).or_default() += 1;
        *self.told.entry(format!("get {}", asked.get)).or_default() += 1;
    }

    fn print(&mut self, left: usize, variant: &str) {
        println!(
            "  two {variant}, {} left: refused after p50 {}, max {}; stale reads p50 {}, max {}, oldest {}",
            left + 1,
            ms(self.times.at(0.5)),
            ms(self.times.at(1.0)),
            ms(self.stale_times.at(0.5)),
            ms(self.stale_times.at(1.0)),
            ms(self.oldest)
        );
        for (told, count) in &self.told {
            println!("    {count:>4} × {told}");
        }
    }
}

/// The key's value, once a linearizable read is answered.
async fn read_when_back(client: &mut Client, key: &str, wrong: &mut Vec<String>) -> Result<String, String> {
    let began = clock::now();
    let target = format!("{}?timeout={TIMEOUT}", kv_path(key.as_bytes()));
    loop {
        let why = match client.get(&target, CLIENT_LIMIT).await {
            Ok(reply) if reply.status == 200 => return Ok(String::from_utf8_lossy(&reply.body).into_owned()),
            Ok(reply) if reply.status == 404 => {
                wrong.push(format!("{key} was acknowledged and is gone"));
                return Ok("before".to_string());
            }
            Ok(reply) => format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body)),
            Err(trouble) => format!("{trouble:?}"),
        };
        if since(began) > 3 * BACK_LIMIT {
            return Err(format!("{key} cannot be read through {} with all nodes back: {why}", client.address()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn write_when_back(client: &mut Client, key: &str, wrong: &mut Vec<String>) -> Verdict {
    let began = clock::now();
    let target = format!("{}?timeout={TIMEOUT}", kv_path(key.as_bytes()));
    loop {
        let why = match client.put(&target, "after".into(), CLIENT_LIMIT).await {
            Outcome::Acknowledged { .. } => return Ok(()),
            other => format!("{other:?}"),
        };
        if since(began) > 3 * BACK_LIMIT {
            wrong.push(format!("{key} cannot be written"));
            return Err(format!("{key} cannot be written through {} with all nodes back: {why}", client.address()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
