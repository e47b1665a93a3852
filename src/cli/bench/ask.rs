//! One request from its key to its outcome: sent, followed to the leader that a 421 names, judged.
//!
//! Nothing is tried a second time but after a 421, which says that nothing was done: an error that a client would see is
//! an error in the figures. A read's value is looked at; one that belongs to another key is never a success.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::timeout;

use super::super::args::Consistency;
use super::super::exit::{Failure, Problem};
use super::super::{client, target};
use super::draw::{Draw, Drawn, KeyNumber, Kind};
use super::line::{Fault, Reply};
use super::route::{Choice, Route};

/// Changes of leaders that one request follows.
const REDIRECTS_MAX: u32 = 3;

/// What became of a request.
#[derive(Debug)]
pub(super) enum Ended {
    Done,
    /// A read was answered with the value of another key.
    WrongValue,
    Failed(Box<Failed>),
}

#[derive(Debug)]
pub(super) struct Failed {
    /// None when there was no answer.
    pub(super) status: Option<u16>,
    /// The problem's code; without an answer `unreachable`, `connection-lost` or `no-answer`.
    pub(super) code: String,
    /// Of a write: whether it may have happened.
    pub(super) outcome_unknown: bool,
    /// When the node asks to come back.
    pub(super) retry_after: Option<Duration>,
    pub(super) failure: Failure,
}

impl Failed {
    /// Whether the same request may do better later. What was wrong with the request itself stays so.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        self.status.is_none_or(|status| status >= 500 || matches!(status, 421 | 429))
    }
}

pub(super) struct Asker {
    pub(super) route: Route,
    draw: std::sync::Arc<Draw>,
    /// `timeout=…`, where the user gave one.
    query: Vec<String>,
    consistency: Option<Consistency>,
    /// Until an answer is no longer waited for.
    wait_max: Duration,
}

impl Asker {
    pub(super) fn new(
        route: Route,
        draw: std::sync::Arc<Draw>,
        client: &client::Client,
        consistency: Option<Consistency>,
    ) -> Self {
        let query = client.timeout_pair().into_iter().collect();
        Self { route, draw, query, consistency, wait_max: client.answer_wait() }
    }

    /// Sends one request. `seat` says which of the given nodes is asked when no leader is known; it moves on when that
    /// node fails. Also returns how many 421 were followed.
    pub(super) async fn ask(&self, drawn: &Drawn, seat: &mut usize) -> (Ended, u32) {
        let mut progress = Progress::default();
        let ended = match timeout(self.wait_max, self.follow(drawn, seat, &mut progress)).await {
            Ok(ended) => ended,
            Err(_) => {
                let reason = format!("no answer within {} ms", self.wait_max.as_millis());
                let fault = if progress.sent { Fault::Lost(reason) } else { Fault::NotSent(reason) };
                if let Some(choice) = &progress.choice {
                    self.give_up_on(choice, seat);
                }
                no_answer(drawn.kind, progress.choice.as_ref(), fault, Some("no-answer"))
            }
        };
        (ended, progress.redirects)
    }

    async fn follow(&self, drawn: &Drawn, seat: &mut usize, progress: &mut Progress) -> Ended {
        let key = self.draw.key(drawn.key);
        loop {
            let choice = progress.choice.insert(self.route.choose(&key, *seat));
            let request = client::Request::new(method(drawn.kind), self.target(&key, drawn.kind, choice.direct))
                .body(drawn.value.clone());
            progress.sent = false;
            let reply = choice.node.exchange(self.route.net(), &request, &mut progress.sent).await;
            let reply = match reply {
                Ok(reply) => reply,
                Err(fault) => {
                    self.give_up_on(choice, seat);
                    return no_answer(drawn.kind, Some(choice), fault, None);
                }
            };
            let leader = reply.headers.get("kv-leader").and_then(|leader| leader.to_str().ok());
            if let (StatusCode::MISDIRECTED_REQUEST, Some(leader)) = (reply.status, leader)
                && progress.redirects < REDIRECTS_MAX
            {
                progress.redirects += 1;
                self.route.learn(choice.shard, leader);
                continue;
            }
            let ended = judge(drawn.kind, drawn.key, choice, &reply);
            if let Ended::Failed(failed) = &ended
                && is_the_node_s(&failed.code)
            {
                self.give_up_on(choice, seat);
            }
            return ended;
        }
    }

    fn give_up_on(&self, choice: &Choice, seat: &mut usize) {
        if choice.direct {
            self.route.forget(choice);
        } else {
            *seat = seat.wrapping_add(1);
        }
    }

    fn target(&self, key: &[u8], kind: Kind, direct: bool) -> String {
        let mut query = self.query.clone();
        if let (Kind::Get, Some(consistency)) = (kind, self.consistency) {
            query.push(target::pair("consistency", consistency.name().as_bytes()));
        }
        if direct {
            // So that a change of leader is seen, and not hidden by a forwarded request.
            query.push("forward=never".to_string());
        }
        target::of_key(key, &query)
    }
}

/// Whether another node, or another leader, may do better.
fn is_the_node_s(code: &str) -> bool {
    matches!(
        code,
        "wrong-node"
            | "no-leader"
            | "no-quorum"
            | "leadership-lost"
            | "deadline-exceeded"
            | "draining"
            | "starting"
            | "internal"
    )
}

/// How far a request came, also when it was given up.
#[derive(Default)]
struct Progress {
    choice: Option<Choice>,
    sent: bool,
    redirects: u32,
}

fn method(kind: Kind) -> Method {
    match kind {
        Kind::Put => Method::PUT,
        Kind::Get => Method::GET,
        Kind::Delete => Method::DELETE,
    }
}

fn judge(kind: Kind, key: KeyNumber, choice: &Choice, reply: &Reply) -> Ended {
    if reply.status.is_success() {
        return if kind == Kind::Get && !Draw::value_is_of(key, &reply.body) { Ended::WrongValue } else { Ended::Done };
    }
    let endpoint = choice.node.endpoint.to_string();
    let problem = Problem::read(reply.status, kind.is_write(), &endpoint, None, &reply.body);
    Ended::Failed(Box::new(Failed {
        status: Some(problem.status),
        code: problem.code.clone(),
        outcome_unknown: problem.outcome_unknown(),
        retry_after: problem.retry_after_ms.map(Duration::from_millis),
        failure: Failure::Refused(Box::new(problem)),
    }))
}

fn no_answer(kind: Kind, choice: Option<&Choice>, fault: Fault, code: Option<&str>) -> Ended {
    let endpoint = choice.map_or_else(|| "no node".to_string(), |choice| choice.node.endpoint.to_string());
    let is_write = kind.is_write();
    let (default, outcome_unknown, failure) = match fault {
        Fault::Lost(reason) if is_write => ("connection-lost", true, Failure::Lost { endpoint, reason }),
        Fault::Lost(reason) => {
            ("connection-lost", false, Failure::Unreachable { tried: vec![(endpoint, reason)], is_write })
        }
        Fault::NotSent(reason) => {
            ("unreachable", false, Failure::Unreachable { tried: vec![(endpoint, reason)], is_write })
        }
    };
    let code = code.unwrap_or(default).to_string();
    Ended::Failed(Box::new(Failed { status: None, code, outcome_unknown, retry_after: None, failure }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::client::{Client, Endpoint};
    use super::super::super::testing::{Canned, Server, problem, refusing_endpoint};
    use super::super::args;
    use super::super::testing::settings;
    use super::*;
    use crate::transport::dial::TcpNet;

    fn asker(route: args::Route, endpoints: &[&Endpoint], map: Option<&str>) -> Asker {
        let endpoints: Vec<_> = endpoints.iter().map(|endpoint| (*endpoint).clone()).collect();
        let client = Client::new(Arc::new(TcpNet), endpoints.clone(), Some(Duration::from_millis(200)));
        let route = Route::new(route, &endpoints, Arc::new(TcpNet));
        if let Some(leader) = map {
            let range = r#"{"first": "0000000000000000", "last": "ffffffffffffffff"}"#;
            let map = format!(r#"{{"shards": [{{"id": "1", "range": {range}, "leader_http": "{leader}"}}]}}"#);
            route.install(map.as_bytes()).unwrap();
        }
        let draw = Arc::new(Draw::new(&settings("put --prefix p/ --value-size 16")));
        Asker::new(route, draw, &client, Some(Consistency::Lease))
    }

    fn drawn(kind: Kind) -> Drawn {
        let put = Draw::new(&settings("put --value-size 16")).first_put(KeyNumber(7));
        Drawn { kind, ..put }
    }

    fn failed(ended: Ended) -> Box<Failed> {
        match ended {
            Ended::Failed(failed) => failed,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_421_is_followed_and_its_leader_asked_directly_from_then_on() {
        let new = Server::start([Canned::status(204)]).await;
        let leader = new.endpoint().authority().to_string();
        let moved = Canned::answer(421, &[("kv-leader", &leader)], r#"{"code":"wrong-node"}"#);
        let old = Server::start([moved]).await;
        let asker = asker(args::Route::Leader, &[old.endpoint()], Some(old.endpoint().authority()));
        let mut seat = 0;
        let (ended, redirects) = asker.ask(&drawn(Kind::Put), &mut seat).await;
        assert!(matches!(ended, Ended::Done), "{ended:?}");
        assert_eq!(redirects, 1);
        assert_eq!(old.requests()[0].line, "PUT /v1/kv/p/0000000007?timeout=200ms&forward=never");
        asker.ask(&drawn(Kind::Get), &mut seat).await;
        assert_eq!((old.requests().len(), new.requests().len()), (1, 2));
        assert_eq!(
            new.requests()[1].line,
            "GET /v1/kv/p/0000000007?timeout=200ms&consistency=lease&forward=never",
            "only reads have a consistency"
        );
    }

    #[tokio::test]
    async fn nodes_that_send_a_request_in_a_circle_end_it_with_an_error() {
        let moved = Canned::answer(421, &[("kv-leader", "127.0.0.1:1")], r#"{"code":"wrong-node"}"#);
        let server = Server::start([moved]).await;
        let asker = asker(args::Route::Any, &[server.endpoint()], None);
        let (ended, redirects) = asker.ask(&drawn(Kind::Put), &mut 0).await;
        assert_eq!((failed(ended).status, redirects), (Some(421), REDIRECTS_MAX));
        assert_eq!(server.requests().len(), 1 + REDIRECTS_MAX as usize);
    }

    #[tokio::test]
    async fn each_way_to_fail_has_its_code_and_says_whether_the_write_may_have_happened() {
        let unknown = problem(504, "deadline-exceeded", r#""outcome":"unknown","retryable":true"#);
        let full = problem(503, "overloaded", r#""outcome":"not_applied","retryable":true,"retry_after_ms":70"#);
        let late = problem(413, "too-large", r#""outcome":"not_applied""#);
        let server = Server::start([unknown, full, late, Canned::Cut, Canned::Silence]).await;
        let asker = asker(args::Route::Any, &[server.endpoint()], None);
        let mut seen = Vec::new();
        for _ in 0..5 {
            let (ended, _) = asker.ask(&drawn(Kind::Put), &mut 0).await;
            let failed = failed(ended);
            seen.push((failed.status, failed.code.clone(), failed.outcome_unknown, failed.is_worth_a_retry()));
        }
        let wanted = [
            (Some(504), "deadline-exceeded", true, true),
            (Some(503), "overloaded", false, true),
            (Some(413), "too-large", false, false),
            (None, "connection-lost", true, true),
            (None, "no-answer", true, true),
        ];
        let wanted = wanted.map(|(status, code, unknown, retry)| (status, code.to_string(), unknown, retry));
        assert_eq!(seen, wanted);
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_left_for_the_next_one() {
        let (dead, good) = (refusing_endpoint().await, Server::start([Canned::status(204)]).await);
        let asker = asker(args::Route::Any, &[&dead, good.endpoint()], None);
        let mut seat = 0;
        let first = failed(asker.ask(&drawn(Kind::Put), &mut seat).await.0);
        assert_eq!((first.code.as_str(), first.outcome_unknown, seat), ("unreachable", false, 1));
        let (second, _) = asker.ask(&drawn(Kind::Put), &mut seat).await;
        assert!(matches!(second, Ended::Done), "{second:?}");
    }

    #[tokio::test]
    async fn a_read_that_gives_another_keys_value_is_no_success() {
        let value = |key: u64| [&key.to_be_bytes()[..], b"12345678"].concat();
        let server = Server::start([Canned::answer(200, &[], value(7)), Canned::answer(200, &[], value(8))]).await;
        let asker = asker(args::Route::Any, &[server.endpoint()], None);
        assert!(matches!(asker.ask(&drawn(Kind::Get), &mut 0).await.0, Ended::Done));
        assert!(matches!(asker.ask(&drawn(Kind::Get), &mut 0).await.0, Ended::WrongValue));
    }
}
