//! One value under one key, in a way that may be begun again at any point and never writes twice.
//!
//! A write says which revision it replaces (`If-Match`), or that it creates (`If-None-Match: *`), and carries an
//! idempotency key of its own. So of all attempts of one write, also of those that a killed node or an earlier run of the
//! same import left in doubt, at most one is carried out: once the key has changed, every late one is refused with 412.
//! After a 412 the key is read again: what has the wanted value is done, whoever wrote it.
//!
//! A key that has the wanted value already is not written. That is how an import goes on where another was cut off: what
//! is stored is asked of the cluster, no record of progress exists that could be lost, stale or on another machine.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{Method, StatusCode};

use super::caller::{GaveUp, Line, problem};
use crate::cli::client::{Answer, Request};
use crate::cli::exit::Failure;
use crate::cli::target;
use crate::clock;

/// How often a key may be changed by others between our read and our write before we give up.
const CONFLICTS_MAX: usize = 10;
/// curl's label for every body, which the server takes for none.
const NO_TYPE: &str = "application/x-www-form-urlencoded";

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What is to be stored.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) key: Vec<u8>,
    pub(super) value: Bytes,
    /// None: whatever type a value that is already there has is well.
    pub(super) content_type: Option<HeaderValue>,
}

/// What is known of a key before it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Unknown,
    Absent,
    Present { revision: String, size: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Written,
    /// It had this value before.
    Unchanged,
}

/// Gives each write of one run its idempotency key. A run's keys are its own: one derived from the content alone would be
/// answered with "done" for a value that was deleted or replaced since.
pub(super) struct Run {
    id: u128,
    writes: AtomicU64,
}

impl Run {
    pub(super) fn new() -> Self {
        Self { id: clock::random_u128(), writes: AtomicU64::new(0) }
    }

    fn next_key(&self) -> String {
        format!("\"import-{:032x}-{}\"", self.id, self.writes.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a read says of the key, compared with what is wanted.
enum Found {
    Wanted,
    Absent,
    Other { revision: String },
}

/// `query` goes with every request: `timeout=…` where the user gave one.
pub(super) async fn store(
    line: &mut Line,
    run: &Run,
    wanted: &Wanted,
    seen: Seen,
    query: &[String],
) -> Result<Stored, GaveUp> {
    let target = target::of_key(&wanted.key, query);
    // What is known to be of another size needs no reading.
    let mut found = match seen {
        Seen::Absent => Found::Absent,
        Seen::Present { revision, size } if size != wanted.value.len() as u64 => Found::Other { revision },
        Seen::Present { .. } | Seen::Unknown => look(line, wanted, &target).await?,
    };
    for _ in 0..CONFLICTS_MAX {
        let precondition = match &found {
            Found::Wanted => return Ok(Stored::Unchanged),
            Found::Absent => (IF_NONE_MATCH, HeaderValue::from_static("*")),
            Found::Other { revision } => (IF_MATCH, header(&format!("\"{revision}\""))?),
        };
        let mut request = Request::new(Method::PUT, target.clone())
            .body(wanted.value.clone())
            .header_value(precondition.0, precondition.1)
            .header_value(IDEMPOTENCY_KEY, header(&run.next_key())?);
        if let Some(content_type) = &wanted.content_type {
            request = request.header_value(CONTENT_TYPE, content_type.clone());
        }
        let answer = line.call(&request).await?;
        if answer.status.is_success() {
            return Ok(Stored::Written);
        }
        if answer.status != StatusCode::PRECONDITION_FAILED {
            return Err(Failure::Refused(Box::new(problem(&answer, &request))).into());
        }
        found = look(line, wanted, &target).await?;
    }
    let why = format!("others changed the key each time it was to be written, {CONFLICTS_MAX} times in a row");
    Err(Failure::Run(why).into())
}

async fn look(line: &mut Line, wanted: &Wanted, target: &str) -> Result<Found, GaveUp> {
    let request = Request::get(target);
    let answer = line.call(&request).await?;
    if answer.status == StatusCode::NOT_FOUND {
        let problem = problem(&answer, &request);
        // Any other "not found" comes from something that is no such server, and says nothing of the key.
        return if problem.code == "key-not-found" {
            Ok(Found::Absent)
        } else {
            Err(Failure::Refused(Box::new(problem)).into())
        };
    }
    if !answer.status.is_success() {
        return Err(Failure::Refused(Box::new(problem(&answer, &request))).into());
    }
    if answer.body == wanted.value && has_wanted_type(&answer, wanted) {
        return Ok(Found::Wanted);
    }
    let Some(revision) = answer.revision() else {
        let reason = "a value without a revision (ETag)".to_string();
        return Err(Failure::BadAnswer { endpoint: answer.endpoint.to_string(), reason }.into());
    };
    Ok(Found::Other { revision: revision.to_string() })
}

fn has_wanted_type(answer: &Answer, wanted: &Wanted) -> bool {
    let Some(wanted) = &wanted.content_type else { return true };
    answer.headers.get(CONTENT_TYPE) == Some(wanted)
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text).map_err(|_| Failure::Run(format!("{text:?} cannot be sent as a header")))
}

/// A content type as the server keeps it; none when it means none.
pub(super) fn content_type(text: &str) -> Result<Option<HeaderValue>, String> {
    let text = text.trim();
    if text.is_empty() || text.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(NO_TYPE)) {
        return Ok(None);
    }
    let longest = crate::machine::command::CONTENT_TYPE_BYTES_MAX;
    if text.len() > longest {
        return Err(format!("content_type has {} bytes; {longest} are the most", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("content_type holds a control character".to_string());
    }
    HeaderValue::from_bytes(text.as_bytes()).map(Some).map_err(|_| "content_type cannot be sent".to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::cli::client::Client;
    use crate::cli::files::caller::Caller;
    use crate::cli::testing::{Canned, Received, Server, problem as canned};
    use crate::transport::dial::TcpNet;

    /// How a value "v" is stored against canned answers, and what was sent.
    async fn run(
        seen: Seen,
        content_type: Option<&str>,
        answers: Vec<Canned>,
    ) -> (Result<Stored, GaveUp>, Vec<Received>) {
        let server = Server::start(answers).await;
        let client = Client::new(Arc::new(TcpNet), vec![server.endpoint().clone()], None);
        let caller = Caller::new(&client, Duration::from_secs(60), CancellationToken::new());
        let content_type = content_type.map(|text| HeaderValue::from_str(text).unwrap());
        let wanted = Wanted { key: b"k".to_vec(), value: Bytes::from_static(b"v"), content_type };
        let stored = store(&mut Line::new(&caller, 0), &Run::new(), &wanted, seen, &[]).await;
        (stored, server.requests())
    }

    fn value(revision: &str, value: &str) -> Canned {
        Canned::answer(200, &[("etag", &format!("\"{revision}\"")), ("content-type", "text/plain")], value)
    }

    fn absent() -> Canned {
        canned(404, "key-not-found", "")
    }

    fn mismatch() -> Canned {
        canned(412, "revision-mismatch", r#""outcome":"not_applied","retryable":false"#)
    }

    fn lines(sent: &[Received]) -> Vec<&str> {
        sent.iter().map(|request| request.line.split(' ').next().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_new_key_is_created_and_an_old_one_replaced_at_its_revision() {
        let (stored, sent) = run(Seen::Absent, Some("text/x"), vec![Canned::status(201)]).await;
        assert_eq!((stored.unwrap(), lines(&sent)), (Stored::Written, vec!["PUT"]));
        assert_eq!((sent[0].header("if-none-match"), sent[0].header("content-type")), (Some("*"), Some("text/x")));
        assert!(sent[0].header("idempotency-key").unwrap().starts_with("\"import-"));
        let seen = Seen::Present { revision: "000000000000000a".to_string(), size: 2 };
        let (stored, sent) = run(seen, None, vec![Canned::status(204)]).await;
        assert_eq!((stored.unwrap(), lines(&sent)), (Stored::Written, vec!["PUT"]));
        assert_eq!(sent[0].header("if-match"), Some("\"000000000000000a\""));
    }

    #[tokio::test]
    async fn a_key_with_the_wanted_value_is_not_written() {
        for seen in [Seen::Unknown, Seen::Present { revision: "000000000000000a".to_string(), size: 1 }] {
            for content_type in [None, Some("text/plain")] {
                let (stored, sent) = run(seen.clone(), content_type, vec![value("000000000000000a", "v")]).await;
                assert_eq!((stored.unwrap(), lines(&sent)), (Stored::Unchanged, vec!["GET"]));
            }
        }
        let answers = vec![value("000000000000000a", "v"), Canned::status(204)];
        let (stored, sent) = run(Seen::Unknown, Some("text/html"), answers).await;
        assert_eq!((stored.unwrap(), lines(&sent)), (Stored::Written, vec!["GET", "PUT"]), "of another type");
    }

    #[tokio::test]
    async fn equal_size_is_not_taken_for_equal_content() {
        let seen = Seen::Present { revision: "000000000000000a".to_string(), size: 1 };
        let (stored, sent) = run(seen, None, vec![value("000000000000000b", "w"), Canned::status(204)]).await;
        assert_eq!((stored.unwrap(), lines(&sent)), (Stored::Written, vec!["GET", "PUT"]));
        assert_eq!(sent[1].header("if-match"), Some("\"000000000000000b\""), "the newest revision that was read");
    }

    #[tokio::test]
    async fn a_retry_repeats_the_very_request_and_its_idempotency_key() {
        let (stored, sent) = run(Seen::Absent, None, vec![Canned::Cut, Canned::status(201)]).await;
        assert_eq!(stored.unwrap(), Stored::Written);
        assert_eq!(sent[0].header("idempotency-key"), sent[1].header("idempotency-key"));
        assert_eq!(sent[0].header("if-none-match"), sent[1].header("if-none-match"));
    }

    #[tokio::test]
    async fn a_write_that_an_earlier_run_left_in_doubt_and_that_came_first_is_not_written_again() {
        let (stored, sent) = run(Seen::Absent, None, vec![mismatch(), value("000000000000000a", "v")]).await;
        assert_eq!((stored.unwrap(), lines(&sent)), (Stored::Unchanged, vec!["PUT", "GET"]));
    }

    #[tokio::test]
    async fn a_key_that_others_changed_meanwhile_is_replaced_at_its_new_revision_by_a_new_write() {
        let answers = vec![mismatch(), value("000000000000000b", "w"), mismatch(), absent(), Canned::status(201)];
        let (stored, sent) = run(Seen::Absent, None, answers).await;
        assert_eq!((stored.unwrap(), lines(&sent)), (Stored::Written, vec!["PUT", "GET", "PUT", "GET", "PUT"]));
        assert_eq!(sent[2].header("if-match"), Some("\"000000000000000b\""));
        assert_eq!(sent[4].header("if-none-match"), Some("*"));
        assert_ne!(sent[0].header("idempotency-key"), sent[2].header("idempotency-key"));
        // The last canned answer comes again and again: nobody ever gets through.
        let (stored, sent) = run(Seen::Unknown, None, vec![value("000000000000000b", "w"), mismatch()]).await;
        assert!(
            matches!(stored.unwrap_err().why, Failure::Refused(_)) && sent.len() == 3,
            "412 to a read is no answer"
        );
    }

    #[tokio::test]
    async fn an_answer_that_says_nothing_of_the_key_ends_it() {
        for (status, code) in [(404, "no-such-route"), (404, ""), (400, "bad-key"), (413, "too-large")] {
            let (stored, _) = run(Seen::Unknown, None, vec![canned(status, code, "")]).await;
            assert!(matches!(stored.unwrap_err().why, Failure::Refused(_)), "{status} {code}");
        }
        let (stored, _) = run(Seen::Unknown, None, vec![Canned::answer(200, &[], "w")]).await;
        assert!(matches!(stored.unwrap_err().why, Failure::BadAnswer { .. }));
    }

    #[test]
    fn content_types_are_kept_as_the_server_keeps_them() {
        assert_eq!(content_type(" text/plain "), Ok(Some(HeaderValue::from_static("text/plain"))));
        for none in ["", "  ", NO_TYPE, "Application/X-WWW-form-urlencoded; charset=utf-8"] {
            assert_eq!(content_type(none), Ok(None), "{none:?}");
        }
        assert!(content_type("text/\u{e9}").unwrap().is_some());
        for bad in ["a\nb", "a\u{85}b", &"x".repeat(256)] {
            assert!(content_type(bad).is_err(), "{bad:?}");
        }
    }
}
