//! The table of calls, without a network: what is written, and what each caller is told.

use super::*;
use crate::transport::testing::TestKeeper;

fn connection() -> Arc<Connection> {
    Connection::new(Lane::Data, Arc::new(TestKeeper::node(1)), CancellationToken::new())
}

fn begin(connection: &Arc<Connection>, body: &'static [u8], time: Duration) -> Waiting {
    let deadline = clock::now().after(time);
    connection.begin(Request { method: 1, body: Bytes::from_static(body), deadline }).unwrap_or_else(|e| panic!("{e}"))
}

fn written(connection: &Connection) -> Vec<Frame> {
    let mut buffer = BytesMut::new();
    connection.fill(&mut buffer);
    let mut frames = Vec::new();
    while let Some(frame) = Frame::take(&mut buffer).unwrap() {
        frames.push(frame);
    }
    frames
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn calls_are_written_in_the_order_in_which_they_were_made() {
    let connection = connection();
    let _waiting: Vec<_> = [&b"a"[..], b"b", b"c"].map(|body| begin(&connection, body, LONG)).into();
    let bodies: Vec<_> = written(&connection).into_iter().map(|frame| frame.body).collect();
    assert_eq!(bodies, [&b"a"[..], b"b", b"c"]);
    assert!(written(&connection).is_empty(), "a call is written once");
}

#[tokio::test]
async fn a_call_taken_back_before_it_was_written_never_leaves_and_needs_no_cancel() {
    let connection = connection();
    drop(begin(&connection, b"gone", LONG));
    assert!(written(&connection).is_empty());
    assert_eq!((connection.calls_waiting(), connection.lock().queued_bytes), (0, 0));
}

#[tokio::test]
async fn a_written_call_that_is_dropped_is_cancelled_once() {
    let connection = connection();
    let waiting = begin(&connection, b"body", LONG);
    let sent = written(&connection);
    assert_eq!(sent.len(), 1);
    drop(waiting);
    assert_eq!(written(&connection), [Frame::bare(Kind::Cancel, sent[0].call)]);
    assert!(written(&connection).is_empty());
}

#[tokio::test]
async fn a_call_whose_deadline_has_passed_is_not_written() {
    let connection = connection();
    let waiting = begin(&connection, b"late", Duration::ZERO);
    assert!(written(&connection).is_empty());
    assert_eq!(waiting.result().await.unwrap_err(), CallError::NotSent(NotSent::DeadlinePassed));
}

#[tokio::test]
async fn the_deadline_is_told_apart_by_whether_the_call_was_written() {
    let connection = connection();
    let time = Duration::from_millis(80);
    let sent = begin(&connection, b"sent", time);
    assert_eq!(written(&connection).len(), 1);
    let unsent = begin(&connection, b"unsent", time);
    let (sent, unsent) = tokio::join!(sent.result(), unsent.result());
    assert_eq!(sent.unwrap_err(), CallError::Lost(Lost::DeadlinePassed));
    assert_eq!(unsent.unwrap_err(), CallError::NotSent(NotSent::DeadlinePassed));
}

#[tokio::test]
async fn the_end_of_a_connection_is_told_apart_by_whether_the_call_was_written() {
    let connection = connection();
    let sent = begin(&connection, b"sent", LONG);
    assert_eq!(written(&connection).len(), 1);
    let unsent = begin(&connection, b"unsent", LONG);
    connection.end(Ended::AfterOpen(Ending::Closed));
    assert_eq!(sent.result().await.unwrap_err(), CallError::Lost(Lost::ConnectionEnded(Ending::Closed)));
    let not_sent = CallError::NotSent(NotSent::ConnectionEnded(Ending::Closed));
    assert_eq!(unsent.result().await.unwrap_err(), not_sent);
    let late = Request { method: 1, body: Bytes::new(), deadline: clock::now().after(LONG) };
    assert_eq!(connection.begin(late).err(), Some(not_sent));
    assert!(written(&connection).is_empty());
}

#[tokio::test]
async fn the_remaining_time_is_what_is_left_when_the_frame_is_made() {
    let connection = connection();
    let deadline = clock::now().after(LONG);
    let _waiting = connection.begin(Request { method: 1, body: Bytes::new(), deadline });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let remaining = Duration::from_millis(written(&connection)[0].remaining_ms.into());
    assert!(remaining <= LONG - Duration::from_millis(20) && remaining > LONG / 2, "{remaining:?}");
}

#[tokio::test]
async fn the_queue_is_bounded_in_calls_and_in_bytes() {
    let full = |connection: &Arc<Connection>, bytes: usize| {
        let request = Request { method: 1, body: vec![0; bytes].into(), deadline: clock::now().after(LONG) };
        connection.begin(request)
    };
    let by_calls = connection();
    let mut waiting: Vec<_> =
        (0..Lane::Data.queued_calls_max()).map(|_| full(&by_calls, 0).unwrap_or_else(|e| panic!("{e}"))).collect();
    assert!(matches!(full(&by_calls, 0).err(), Some(CallError::NotSent(NotSent::QueueFull { .. }))));
    waiting.pop();
    let again = full(&by_calls, 0);
    assert!(again.is_ok(), "a call taken back makes room");

    let by_bytes = connection();
    let most = Lane::Data.queued_bytes_max() / BODY_BYTES_MAX;
    let _waiting: Vec<_> =
        (0..most).map(|_| full(&by_bytes, BODY_BYTES_MAX).unwrap_or_else(|e| panic!("{e}"))).collect();
    assert!(matches!(full(&by_bytes, BODY_BYTES_MAX).err(), Some(CallError::NotSent(NotSent::QueueFull { .. }))));
    let too_long = full(&connection(), BODY_BYTES_MAX + 1).err();
    assert_eq!(too_long, Some(CallError::NotSent(NotSent::BodyTooLong { bytes: BODY_BYTES_MAX + 1 })));
}

#[tokio::test]
async fn an_answer_is_taken_only_for_a_call_that_was_written() {
    let connection = connection();
    let waiting = begin(&connection, b"body", LONG);
    let answer = |id| connection.answer(CallId(id), Err(CallError::Lost(Lost::Dropped)));
    assert!(!answer(1), "it is still queued");
    assert!(!answer(2), "it was never made");
    assert_eq!(written(&connection).len(), 1);
    assert!(answer(1));
    assert!(answer(1), "a second answer finds nobody, as one that crossed a cancel does");
    assert_eq!(waiting.result().await.unwrap_err(), CallError::Lost(Lost::Dropped));
}
