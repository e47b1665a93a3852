//! Requests that are tried again until they are answered: over kept connections, over all endpoints, with pauses.
//!
//! Invariants:
//! - Every request that goes through here may be carried out twice without harm: a read, or a write with an idempotency
//!   key and a precondition ([`super::store`] makes no others).
//! - An answer that will not change is given back whatever its status; everything else is tried again, elsewhere first,
//!   until `retry_for` has passed or the command is told to stop.
//! - A doubt whether an earlier attempt of a write was carried out stays until an answer settles it: success, or 412.
//! - A pause is never shorter than the server asked for (`retry_after_ms`, `Retry-After`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http::header::RETRY_AFTER;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cli::client::{ANSWER_BYTES_MAX, Answer, Client, DIAL_WAIT_MAX, Endpoint, Request, chain, plain};
use crate::cli::exit::{Failure, Problem};
use crate::clock::{self, Moment};
use crate::transport::dial::Net;

/// Pause after every endpoint has failed once; doubled from round to round.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long an endpoint that could not be reached, or does not serve, is asked after all others only.
const AVOIDED_FOR: Duration = Duration::from_secs(1);

/// What all requests of one command share.
pub(super) struct Caller {
    net: Arc<dyn Net>,
    endpoints: Vec<Endpoint>,
    /// For one endpoint to answer.
    answer_wait: Duration,
    retry_for: Duration,
    /// Until when each endpoint is avoided.
    avoided: Mutex<Vec<Option<Moment>>>,
    retries: AtomicU64,
    stop: CancellationToken,
}

/// A request that nobody took.
#[derive(Debug)]
pub(super) struct GaveUp {
    pub(super) why: Failure,
    /// An attempt of this write may have been, or may yet be, carried out.
    pub(super) outcome_unknown: bool,
}

impl From<Failure> for GaveUp {
    fn from(why: Failure) -> Self {
        Self { why, outcome_unknown: false }
    }
}

impl Caller {
    /// `stop` ends waiting: what is under way is answered, and nothing is tried again.
    pub(super) fn new(client: &Client, retry_for: Duration, stop: CancellationToken) -> Arc<Self> {
        let endpoints = client.endpoints().to_vec();
        Arc::new(Self {
            net: client.net(),
            avoided: Mutex::new(vec![None; endpoints.len()]),
            endpoints,
            answer_wait: client.answer_wait(),
            retry_for,
            retries: AtomicU64::new(0),
            stop,
        })
    }

    /// Requests that were sent once more, or to another endpoint.
    pub(super) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// The next endpoint in turn that is not avoided, else the one that is soonest worth a try.
    fn pick(&self, turn: usize) -> usize {
        let now = clock::now();
        let avoided = self.avoided.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.endpoints.len();
        let in_turn = || (0..count).map(|step| (turn + step) % count);
        let until = |place: &usize| avoided[*place].filter(|until| *until > now);
        in_turn().find(|place| until(place).is_none()).or_else(|| in_turn().min_by_key(until)).unwrap_or_default()
    }

    fn avoid(&self, place: usize) {
        let until = clock::now().after(AVOIDED_FOR);
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(until);
    }
}

/// One request after another, each on a connection that is kept per endpoint.
pub(super) struct Line {
    caller: Arc<Caller>,
    open: Vec<Option<Open>>,
    turn: usize,
}

struct Open {
    sender: SendRequest<Full<bytes::Bytes>>,
    _task: AbortOnDropHandle<Result<(), hyper::Error>>,
}

enum Attempt {
    Answered(Answer),
    /// No byte of the request left this process.
    NotSent(String),
    /// It may have arrived, and there is no answer.
    Lost(String),
}

impl Line {
    /// `number` spreads the lines of a command over the endpoints.
    pub(super) fn new(caller: &Arc<Caller>, number: usize) -> Self {
        let open = caller.endpoints.iter().map(|_| None).collect();
        Self { caller: caller.clone(), open, turn: number }
    }

    /// An answer of status 2xx, or one that no further try will change. After an attempt in doubt also the latter is an
    /// error, but for 412.
    pub(super) async fn call(&mut self, request: &Request) -> Result<Answer, GaveUp> {
        let caller = self.caller.clone();
        let give_up_at = clock::now().after(caller.retry_for);
        let mut pause = PAUSE_MIN;
        let mut outcome_unknown = false;
        let mut tried: Vec<(String, String)> = Vec::new();
        let mut failed = 0;
        loop {
            let place = caller.pick(self.turn);
            self.turn = self.turn.wrapping_add(1);
            let endpoint = caller.endpoints[place].to_string();
            let mut asked_to_wait = None;
            let why = match self.attempt(place, request).await? {
                Attempt::Answered(answer) if answer.status.is_success() => return Ok(answer),
                Attempt::Answered(answer) => {
                    let problem = problem(&answer, request);
                    if !is_worth_another_try(&problem) {
                        // A refusal of this attempt says nothing of those before it.
                        if outcome_unknown && answer.status != StatusCode::PRECONDITION_FAILED {
                            return Err(GaveUp { why: Failure::Refused(Box::new(problem)), outcome_unknown });
                        }
                        return Ok(answer);
                    }
                    if matches!(problem.code.as_str(), "draining" | "starting") {
                        caller.avoid(place);
                    } else {
                        asked_to_wait = wait_asked_for(&problem, &answer);
                    }
                    outcome_unknown |= problem.outcome_unknown();
                    Failure::Refused(Box::new(problem))
                }
                Attempt::NotSent(reason) => unreachable(&mut tried, endpoint, reason, request),
                Attempt::Lost(reason) => {
                    outcome_unknown |= request.is_write();
                    unreachable(&mut tried, endpoint, reason, request)
                }
            };
            failed += 1;
            let another_is_untried = failed % caller.endpoints.len() != 0;
            let wait = match asked_to_wait {
                None if another_is_untried => Duration::ZERO,
                asked => asked.unwrap_or_default().max(jittered(pause)),
            };
            if caller.stop.is_cancelled() || clock::now().after(wait) >= give_up_at {
                return Err(GaveUp { why, outcome_unknown });
            }
            if !another_is_untried {
                pause = (pause * 2).min(PAUSE_MAX);
            }
            tokio::select! {
                () = clock::sleep(wait) => {}
                () = caller.stop.cancelled() => return Err(GaveUp { why, outcome_unknown }),
            }
            caller.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks one endpoint, once; twice when it had closed the kept connection before it was sent anything.
    async fn attempt(&mut self, place: usize, request: &Request) -> Result<Attempt, Failure> {
        let deadline = clock::now().after(self.caller.answer_wait);
        if let Some(open) = self.open[place].take() {
            match self.ask(open, place, request, deadline).await? {
                Attempt::NotSent(_) => {}
                other => return Ok(other),
            }
        }
        match self.connect(place, deadline).await {
            Ok(open) => self.ask(open, place, request, deadline).await,
            Err(reason) => {
                self.caller.avoid(place);
                Ok(Attempt::NotSent(reason))
            }
        }
    }

    async fn connect(&self, place: usize, deadline: Moment) -> Result<Open, String> {
        let wait = deadline.since(clock::now()).min(DIAL_WAIT_MAX);
        let dialled = timeout(wait, self.caller.net.dial(self.caller.endpoints[place].authority())).await;
        let io = dialled
            .map_err(|_| format!("no connection within {} ms", wait.as_millis()))?
            .map_err(|error| plain(&error))?;
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|error| error.to_string())?;
        Ok(Open { sender, _task: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    async fn ask(
        &mut self,
        mut open: Open,
        place: usize,
        request: &Request,
        deadline: Moment,
    ) -> Result<Attempt, Failure> {
        let endpoint = self.caller.endpoints[place].clone();
        let http_request = request
            .to_http(&endpoint)
            .map_err(|error| Failure::Usage(format!("{} cannot be sent: {error}", request.target())))?;
        let left = || deadline.since(clock::now());
        match timeout(left(), open.sender.ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Ok(Attempt::NotSent(chain(&error))),
            Err(_) => {
                self.caller.avoid(place);
                return Ok(Attempt::NotSent("it took no request in time".to_string()));
            }
        }
        let response = match timeout(left(), open.sender.try_send_request(http_request)).await {
            Err(_) => {
                self.caller.avoid(place);
                return Ok(Attempt::Lost("no answer in time".to_string()));
            }
            Ok(Ok(response)) => response,
            Ok(Err(mut error)) => {
                // The connection hands a request back only when it wrote nothing of it.
                let not_sent = error.take_message().is_some();
                let reason = chain(&error.into_error());
                return Ok(if not_sent { Attempt::NotSent(reason) } else { Attempt::Lost(reason) });
            }
        };
        let (head, body) = response.into_parts();
        let body = match timeout(left(), Limited::new(body, ANSWER_BYTES_MAX).collect()).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(error)) => return Ok(Attempt::Lost(format!("the answer was cut off: {error}"))),
            Err(_) => {
                self.caller.avoid(place);
                return Ok(Attempt::Lost("the answer did not end in time".to_string()));
            }
        };
        self.open[place] = Some(open);
        Ok(Attempt::Answered(Answer { endpoint, status: head.status, headers: head.headers, body }))
    }
}

/// An error answer as a failure says it.
pub(super) fn problem(answer: &Answer, request: &Request) -> Problem {
    let revision = answer.revision().map(str::to_string);
    Problem::read(answer.status, request.is_write(), &answer.endpoint.to_string(), revision, &answer.body)
}

/// Also a write that may have happened: it does no harm to send it again.
fn is_worth_another_try(problem: &Problem) -> bool {
    problem.retryable || problem.outcome_unknown() || (!problem.is_write && problem.status >= 500)
}

/// `Retry-After` has whole seconds; the problem document has the exact time.
fn wait_asked_for(problem: &Problem, answer: &Answer) -> Option<Duration> {
    let header = || answer.header(RETRY_AFTER.as_str())?.parse().ok().map(Duration::from_secs);
    problem.retry_after_ms.map(Duration::from_millis).or_else(header)
}

/// The newest reason of each endpoint.
fn unreachable(tried: &mut Vec<(String, String)>, endpoint: String, reason: String, request: &Request) -> Failure {
    tried.retain(|(other, _)| *other != endpoint);
    tried.push((endpoint, reason));
    Failure::Unreachable { tried: tried.clone(), is_write: request.is_write() }
}

/// Half of it to all of it, so that many that failed at once do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(clock::random_u64() % spread)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;

    use super::*;
    use crate::cli::testing::{Canned, Server, problem as canned, refusing_endpoint};
    use crate::transport::dial::TcpNet;

    fn caller(endpoints: &[&Endpoint], retry_for: Duration) -> Arc<Caller> {
        let endpoints = endpoints.iter().map(|endpoint| (*endpoint).clone()).collect();
        let client = Client::new(Arc::new(TcpNet), endpoints, Some(Duration::from_secs(10)));
        Caller::new(&client, retry_for, CancellationToken::new())
    }

    fn put() -> Request {
        Request::new(Method::PUT, "/v1/kv/k").body(Bytes::from_static(b"v"))
    }

    const MINUTE: Duration = Duration::from_secs(60);
    const RETRYABLE: &str = r#""outcome":"not_applied","retryable":true,"retry_after_ms":1"#;

    #[tokio::test]
    async fn a_write_is_sent_again_until_it_is_answered_whatever_became_of_it_before() {
        let unknown = canned(504, "deadline-exceeded", r#""outcome":"unknown","retryable":true"#);
        let internal = canned(500, "internal", r#""outcome":"unknown""#);
        let answers = [canned(503, "no-leader", RETRYABLE), Canned::Cut, unknown, internal, Canned::status(204)];
        let server = Server::start(answers).await;
        let caller = caller(&[server.endpoint()], MINUTE);
        let answer = Line::new(&caller, 0).call(&put()).await.unwrap();
        assert_eq!(answer.status.as_u16(), 204);
        assert_eq!((server.requests().len(), caller.retries()), (5, 4));
        assert!(server.requests().iter().all(|request| request.body == b"v"));
    }

    #[tokio::test]
    async fn a_final_answer_is_given_back_at_once() {
        for (status, code) in [(412, "revision-mismatch"), (413, "too-large"), (400, "bad-key"), (404, "key-not-found")]
        {
            let server = Server::start([canned(status, code, r#""outcome":"not_applied","retryable":false"#)]).await;
            let caller = caller(&[server.endpoint()], MINUTE);
            let answer = Line::new(&caller, 0).call(&put()).await.unwrap();
            assert_eq!((answer.status.as_u16(), server.requests().len()), (status, 1));
        }
    }

    #[tokio::test]
    async fn a_doubt_is_settled_by_success_and_by_412_and_by_no_other_answer() {
        let refused = |status| canned(status, "c", r#""outcome":"not_applied","retryable":false"#);
        for status in [413, 400, 404] {
            let server = Server::start([Canned::Cut, refused(status)]).await;
            let gave_up = Line::new(&caller(&[server.endpoint()], MINUTE), 0).call(&put()).await.unwrap_err();
            assert!(gave_up.outcome_unknown && matches!(gave_up.why, Failure::Refused(_)), "{status}: {gave_up:?}");
        }
        for settled in [refused(412), Canned::status(204)] {
            let server = Server::start([Canned::Cut, settled]).await;
            Line::new(&caller(&[server.endpoint()], MINUTE), 0).call(&put()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_cannot_be_reached_is_passed_over_and_then_avoided() {
        let (dead, good) = (refusing_endpoint().await, Server::start([Canned::status(204)]).await);
        let caller = caller(&[&dead, good.endpoint()], MINUTE);
        let mut line = Line::new(&caller, 0);
        line.call(&put()).await.unwrap();
        let avoided = caller.avoided.lock().unwrap().clone();
        assert!(avoided[0].is_some() && avoided[1].is_none(), "{avoided:?}");
        // For longer than this test takes on any machine.
        caller.avoided.lock().unwrap()[0] = Some(clock::now().after(60 * MINUTE));
        for _ in 0..3 {
            line.call(&put()).await.unwrap();
        }
        assert_eq!((good.requests().len(), caller.retries()), (4, 1), "one dial that failed tells for some time");
    }

    #[tokio::test]
    async fn when_its_time_is_over_it_gives_up_and_says_whether_the_write_may_have_happened() {
        let dead = refusing_endpoint().await;
        let gave_up = Line::new(&caller(&[&dead], Duration::from_millis(200)), 0).call(&put()).await.unwrap_err();
        assert!(!gave_up.outcome_unknown, "nobody was ever sent it");
        assert!(gave_up.why.to_string().contains("connection refused"), "{}", gave_up.why);
        let cut = Server::start([Canned::Cut]).await;
        let gave_up =
            Line::new(&caller(&[cut.endpoint()], Duration::from_millis(200)), 0).call(&put()).await.unwrap_err();
        assert!(gave_up.outcome_unknown && cut.requests().len() > 1);
        let gave_up =
            Line::new(&caller(&[cut.endpoint()], Duration::ZERO), 0).call(&Request::get("/")).await.unwrap_err();
        assert!(!gave_up.outcome_unknown, "a read changes nothing");
    }

    #[tokio::test]
    async fn it_waits_as_long_as_it_is_asked_to() {
        for asked in [
            canned(503, "overloaded", r#""outcome":"not_applied","retryable":true,"retry_after_ms":400"#),
            Canned::answer(503, &[("retry-after", "1")], r#"{"retryable":true,"outcome":"not_applied"}"#),
        ] {
            let server = Server::start([asked, Canned::status(204)]).await;
            let other = Server::start([Canned::status(204)]).await;
            let began = clock::now();
            Line::new(&caller(&[server.endpoint(), other.endpoint()], MINUTE), 0).call(&put()).await.unwrap();
            assert!(clock::now().since(began) >= Duration::from_millis(400));
        }
    }

    #[tokio::test]
    async fn told_to_stop_it_waits_for_no_further_try() {
        let server = Server::start([canned(503, "no-leader", r#""retryable":true,"retry_after_ms":50000"#)]).await;
        let endpoints = vec![server.endpoint().clone()];
        let stop = CancellationToken::new();
        let client = Client::new(Arc::new(TcpNet), endpoints, Some(Duration::from_secs(10)));
        let caller = Caller::new(&client, MINUTE, stop.clone());
        let calling = tokio::spawn(async move { Line::new(&caller, 0).call(&Request::get("/")).await });
        while server.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        let ended = timeout(Duration::from_secs(10), calling).await.expect("it ends when it is told to").unwrap();
        assert!(matches!(ended.unwrap_err().why, Failure::Refused(_)));
    }
}
