//! Both sides together, over loopback TCP. Where one side must misbehave, a test plays it by hand ([`Fake`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::dial::{BoxedIo, Listener, Net, TcpNet};
use super::frame::{BODY_BYTES_MAX, CallId, FRAME_BYTES_MAX, Frame, FrameError, Kind};
use super::handshake;
use super::stream::{FrameReader, SILENCE_MAX};
use super::testing::{BLOCK, Caller, ECHO, FAIL, HOLD, PANIC, PATIENCE, Server, TestKeeper, WAIT, eventually};
use super::*;
use crate::clock;
use crate::types::{ClusterId, NodeId, ProtocolRange};

const B: NodeId = NodeId(2);

/// A time for calls that no test waits out: what ends before it has another cause.
const LONG: Duration = PATIENCE.saturating_mul(10);

fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A listening side played by hand.
struct Fake {
    listener: Box<dyn Listener>,
    address: String,
}

impl Fake {
    async fn listen() -> Self {
        let listener = TcpNet.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address().unwrap();
        Self { listener, address }
    }

    /// The next connection, with the handshake done as node 2.
    async fn accept(&mut self) -> BoxedIo {
        let (mut io, address) = timeout(PATIENCE, self.listener.accept()).await.expect("a dial").unwrap();
        handshake::accepted(&mut *io, &TestKeeper::node(2), &address).await.unwrap();
        io
    }
}

async fn read_frame(io: &mut BoxedIo) -> Frame {
    timeout(PATIENCE, FrameReader::new(io).next()).await.expect("a frame").unwrap()
}

async fn write_frame(io: &mut BoxedIo, frame: &Frame) {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    io.write_all(&bytes).await.unwrap();
}

/// A dialling side played by hand, handshake done as node 1.
async fn dial(server: &Server, lane: Lane) -> BoxedIo {
    let mut io = TcpNet.dial(&server.address).await.unwrap();
    handshake::dialled(&mut *io, &TestKeeper::node(1), lane, None, &server.address).await.unwrap();
    io
}

/// Whether the other end closes the connection, whatever it sends before, and sooner than it would for mere silence.
async fn is_closed(io: &mut BoxedIo) -> bool {
    let mut rest = Vec::new();
    // A close with bytes unread is a reset.
    timeout(SILENCE_MAX * 3 / 4, io.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_call_brings_the_handlers_answer_and_says_who_gave_it() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let reply = caller.peers.call(B, Lane::Data, ECHO, body("hello"), PATIENCE).await.unwrap();
    assert_eq!((reply.body, reply.remote.hello.node), (body("hello"), Some(B)));
    assert_eq!(server.keeper.heard_nodes(), [Some(NodeId(1))]);
    assert_eq!(caller.keeper.heard_nodes(), [Some(B)]);
    let deadline = server.handler.deadlines.lock().unwrap()[0];
    assert!(deadline <= PATIENCE && deadline > PATIENCE / 2, "{deadline:?}");
    let status = caller.peers.status();
    assert_eq!((status.len(), status[0].node, status[0].lane, status[0].calls_waiting), (1, B, Lane::Data, 0));
    assert_eq!(status[0].remote.as_ref().unwrap().address, server.address);
}

#[tokio::test]
async fn a_handlers_error_arrives_with_its_status_and_body_and_zero_is_no_success() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let error = caller.peers.call(B, Lane::Data, FAIL, body("why"), PATIENCE).await.unwrap_err();
    assert_eq!(error, CallError::Refused { status: 0, body: body("why") });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_share_a_connection_and_each_gets_its_own_answer() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let calls = (0..1500).map(|n| {
        let mut text = vec![b'x'; (n * 37) % 5000];
        text.extend_from_slice(n.to_string().as_bytes());
        let text = Bytes::from(text);
        let call = caller.peers.call(B, Lane::Data, ECHO, text.clone(), PATIENCE);
        tokio::spawn(async move { assert_eq!(call.await.unwrap().body, text) })
    });
    for call in join_all(calls).await {
        call.unwrap();
    }
    assert_eq!(server.keeper.heard_nodes().len(), 1, "one connection");
}

#[tokio::test]
async fn answers_overtake_each_other() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let slow = caller.peers.call(B, Lane::Data, HOLD, body("slow"), PATIENCE);
    let fast = caller.peers.call(B, Lane::Data, ECHO, body("fast"), PATIENCE);
    assert_eq!(fast.await.unwrap().body, body("fast"));
    assert_eq!(server.handler.running(), 1);
    server.handler.release();
    assert_eq!(slow.await.unwrap().body, body("slow"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_handed_over_in_the_order_of_the_calls_not_of_the_polls() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let bodies: Vec<_> = (0..300).map(|n| body(&n.to_string())).collect();
    let mut calls: Vec<_> =
        bodies.iter().map(|body| caller.peers.call(B, Lane::Data, ECHO, body.clone(), PATIENCE)).collect();
    calls.reverse();
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(*server.handler.arrived.lock().unwrap(), bodies);
}

#[tokio::test]
async fn a_call_without_an_answer_is_lost_at_its_deadline_and_its_handler_stops() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let error = caller.peers.call(B, Lane::Data, HOLD, body("x"), Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, CallError::Lost(Lost::DeadlinePassed | Lost::Dropped)), "{error}");
    eventually("the handler is gone", || server.handler.running() == 0).await;
}

#[tokio::test]
async fn the_answering_side_ends_a_handler_at_the_deadline_by_itself() {
    let server = Server::start(TestKeeper::node(2)).await;
    let mut io = dial(&server, Lane::Data).await;
    let request = Frame { method: HOLD, remaining_ms: 30, ..Frame::bare(Kind::Request, CallId(5)) };
    write_frame(&mut io, &request).await;
    assert_eq!(read_frame(&mut io).await, Frame::bare(Kind::Dropped, CallId(5)));
    assert_eq!(server.handler.running(), 0);
}

/// Counts dials.
#[derive(Default)]
struct CountingNet(AtomicUsize);

impl Net for CountingNet {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, std::io::Result<BoxedIo>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        TcpNet.dial(address)
    }
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, std::io::Result<Box<dyn Listener>>> {
        TcpNet.listen(address)
    }
}

#[tokio::test]
async fn a_peer_that_does_not_listen_is_not_sent_to_is_not_hammered_and_is_found_when_it_is_back() {
    let Fake { listener, address } = Fake::listen().await;
    drop(listener);
    let net = Arc::new(CountingNet::default());
    let caller = Caller::knowing(2, &address);
    let peers = Peers::new(net.clone(), caller.keeper.clone(), caller.book.clone());
    let call = || peers.call(B, Lane::Data, ECHO, body("x"), PATIENCE);
    let begun = clock::now();
    let mut calls = 0;
    while clock::now().since(begun) < peers::REDIAL_PAUSE * 3 {
        let error = call().await.unwrap_err();
        assert!(matches!(error, CallError::NotSent(NotSent::Dial { .. })), "{error}");
        calls += 1;
        tokio::task::yield_now().await;
    }
    let dials = net.0.load(Ordering::SeqCst);
    let most = clock::now().since(begun).as_millis() / peers::REDIAL_PAUSE.as_millis() + 1;
    assert!(calls > 20 && dials >= 2 && dials as u128 <= most, "{calls} calls, {dials} dials");
    assert!(peers.status()[0].failure.as_ref().unwrap().contains("dialling"));

    let _server = Server::start_at(&address, TestKeeper::node(2)).await;
    let back = async {
        while call().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, back).await.expect("the peer is found again");
}

#[tokio::test]
async fn a_node_without_an_address_is_not_sent_to() {
    let caller = Caller::new(TestKeeper::node(1));
    let error = caller.peers.call(B, Lane::Data, ECHO, body("x"), PATIENCE).await.unwrap_err();
    assert_eq!(error, CallError::NotSent(NotSent::NoAddress(B)));
}

#[tokio::test]
async fn while_no_handshake_answers_calls_queue_up_to_the_limit_and_all_are_unsent() {
    // The kernel accepts the connection; nobody ever reads from it.
    let fake = Fake::listen().await;
    let caller = Caller::knowing(2, &fake.address);
    let call = || caller.peers.call(B, Lane::Bulk, ECHO, body("x"), Duration::from_millis(150));
    let queued: Vec<_> = (0..Lane::Bulk.queued_calls_max()).map(|_| call()).collect();
    let over = call().now_or_never().expect("it fails at once").unwrap_err();
    assert!(matches!(over, CallError::NotSent(NotSent::QueueFull { .. })), "{over}");
    for result in join_all(queued).await {
        assert_eq!(result.unwrap_err(), CallError::NotSent(NotSent::DeadlinePassed));
    }
}

#[tokio::test]
async fn a_peer_that_dies_in_mid_call_loses_what_was_written_and_only_that() {
    let mut fake = Fake::listen().await;
    let caller = Caller::knowing(2, &fake.address);
    let call = |bytes: usize| caller.peers.call(B, Lane::Bulk, ECHO, vec![7; bytes].into(), PATIENCE);
    let small = call(10);
    let mut io = fake.accept().await;
    assert_eq!(read_frame(&mut io).await.body.len(), 10);
    // Nobody reads any more: the next body fills the socket's buffers, and what follows stays in the queue.
    let (stuck, queued) = (call(BODY_BYTES_MAX), call(BODY_BYTES_MAX));
    let mut first = [0; 1];
    timeout(PATIENCE, io.read_exact(&mut first)).await.expect("the long body is being written").unwrap();
    drop(io);
    for lost in [small.await.unwrap_err(), stuck.await.unwrap_err()] {
        assert!(matches!(lost, CallError::Lost(Lost::ConnectionEnded(_))), "{lost}");
    }
    let unsent = queued.await.unwrap_err();
    assert!(matches!(unsent, CallError::NotSent(NotSent::ConnectionEnded(_))), "{unsent}");
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_connection_at_either_end() {
    let server = Server::start(TestKeeper::node(2)).await;
    let mut io = dial(&server, Lane::Data).await;
    io.write_all(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes()).await.unwrap();
    assert!(is_closed(&mut io).await);

    let mut fake = Fake::listen().await;
    let caller = Caller::knowing(2, &fake.address);
    let call = caller.peers.call(B, Lane::Data, ECHO, body("x"), PATIENCE);
    let mut io = fake.accept().await;
    read_frame(&mut io).await;
    io.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let ending = Ending::Frame(FrameError::TooLong { length: u32::MAX as usize });
    assert_eq!(call.await.unwrap_err(), CallError::Lost(Lost::ConnectionEnded(ending)));
}

#[tokio::test]
async fn a_flipped_bit_ends_the_connection_and_is_never_handed_on() {
    let server = Server::start(TestKeeper::node(2)).await;
    let mut io = dial(&server, Lane::Data).await;
    let mut bytes = BytesMut::new();
    let request =
        Frame { method: ECHO, remaining_ms: 9999, body: body("value"), ..Frame::bare(Kind::Request, CallId(1)) };
    request.encode(&mut bytes);
    *bytes.last_mut().unwrap() ^= 1;
    io.write_all(&bytes).await.unwrap();
    assert!(is_closed(&mut io).await);
    assert_eq!(server.handler.arrived(), 0);

    let mut fake = Fake::listen().await;
    let caller = Caller::knowing(2, &fake.address);
    let call = caller.peers.call(B, Lane::Data, ECHO, body("x"), PATIENCE);
    let mut io = fake.accept().await;
    let answer = Frame { kind: Kind::Answer, ..read_frame(&mut io).await };
    let mut bytes = BytesMut::new();
    answer.encode(&mut bytes);
    *bytes.last_mut().unwrap() ^= 1;
    io.write_all(&bytes).await.unwrap();
    let error = call.await.unwrap_err();
    assert!(
        matches!(error, CallError::Lost(Lost::ConnectionEnded(Ending::Frame(FrameError::Damaged { .. })))),
        "{error}"
    );
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let server = Server::start(TestKeeper::node(2)).await;
    let hold = Frame { method: HOLD, remaining_ms: u32::MAX, ..Frame::bare(Kind::Request, CallId(1)) };
    for frames in [vec![Frame::bare(Kind::Answer, CallId(1))], vec![hold.clone(), hold]] {
        let mut io = dial(&server, Lane::Data).await;
        for frame in &frames {
            write_frame(&mut io, frame).await;
        }
        assert!(is_closed(&mut io).await, "{frames:?}");
    }
    eventually("the held handler is gone", || server.handler.running() == 0).await;

    let mut fake = Fake::listen().await;
    let caller = Caller::knowing(2, &fake.address);
    let call = caller.peers.call(B, Lane::Data, ECHO, body("x"), PATIENCE);
    let mut io = fake.accept().await;
    let request = read_frame(&mut io).await;
    write_frame(&mut io, &Frame::bare(Kind::Answer, CallId(request.call.0 + 1))).await;
    let error = call.await.unwrap_err();
    assert!(matches!(error, CallError::Lost(Lost::ConnectionEnded(Ending::Protocol(_)))), "{error}");
}

async fn refused(caller: TestKeeper, server: TestKeeper) -> (CallError, HandshakeError) {
    let server = Server::start(server).await;
    let caller = Caller::new(caller);
    caller.book.set(2, &server.address);
    let error = caller.peers.call(B, Lane::Data, ECHO, body("x"), PATIENCE).await.unwrap_err();
    assert_eq!(server.handler.arrived(), 0);
    let again = caller.peers.call(B, Lane::Data, ECHO, body("x"), PATIENCE).now_or_never();
    assert_eq!(again.expect("inside the pause it fails at once").unwrap_err(), error);
    let CallError::NotSent(NotSent::Handshake { error: handshake, .. }) = error.clone() else {
        panic!("{error}");
    };
    (error, handshake)
}

#[tokio::test]
async fn another_cluster_is_refused_and_the_caller_gets_the_reason_typed() {
    let mut stranger = TestKeeper::node(1);
    stranger.hello.cluster = Some(ClusterId(8));
    let (_, error) = refused(stranger, TestKeeper::node(2)).await;
    let refusal = Refusal::WrongCluster { refuser: ClusterId(7), refused: ClusterId(8) };
    assert_eq!(error, HandshakeError::RefusedByRemote(refusal));
}

#[tokio::test]
async fn versions_without_a_common_one_and_differing_timing_are_refused() {
    let mut later = TestKeeper::node(2);
    later.hello.versions = ProtocolRange { min: 2, max: 3 };
    let (text, error) = refused(TestKeeper::node(1), later).await;
    assert!(matches!(error.refusal(), Some(Refusal::NoCommonVersion { .. })), "{error}");
    assert!(text.to_string().contains("the refusing node speaks 2-3, the refused one 1-1"), "{text}");

    let mut faster = TestKeeper::node(2);
    faster.hello.timing_hash = 1;
    let (_, error) = refused(TestKeeper::node(1), faster).await;
    assert_eq!(error.refusal(), Some(&Refusal::TimingDiffers { refuser: 1, refused: 77 }));
}

#[tokio::test]
async fn another_node_at_the_address_is_not_called() {
    let (_, error) = refused(TestKeeper::node(1), TestKeeper::node(3)).await;
    let refusal = Refusal::WrongNode { expected: B, found: Some(NodeId(3)) };
    assert_eq!(error, HandshakeError::RefusedRemote(refusal));
}

#[tokio::test]
async fn dropping_a_call_stops_its_handler_and_leaves_the_others_alone() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let kept = caller.peers.call(B, Lane::Data, HOLD, body("kept"), LONG);
    let dropped = caller.peers.call(B, Lane::Data, HOLD, body("dropped"), LONG);
    eventually("both are handled", || server.handler.running() == 2).await;
    drop(dropped);
    eventually("the handler of the dropped call is gone", || server.handler.running() == 1).await;
    server.handler.release();
    assert_eq!(kept.await.unwrap().body, body("kept"));
}

#[tokio::test]
async fn control_gets_through_while_every_place_of_the_data_lane_is_stuck() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let places = Lane::Data.handled_requests_max();
    let stuck: Vec<_> = (0..places).map(|_| caller.peers.call(B, Lane::Data, HOLD, body("x"), PATIENCE)).collect();
    eventually("every place is taken", || server.handler.running() == places).await;
    let behind = caller.peers.call(B, Lane::Data, ECHO, body("behind"), PATIENCE);
    let vote = caller.peers.call(B, Lane::Control, ECHO, body("vote"), PATIENCE).await.unwrap();
    assert_eq!(vote.body, body("vote"));
    assert_eq!(server.handler.arrived(), places + 1, "the call behind the stuck ones is not read");
    server.handler.release();
    assert_eq!(behind.await.unwrap().body, body("behind"));
    assert!(join_all(stuck).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_listener_that_reads_nothing_for_long_is_alive_while_its_keepalives_come() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let places = Lane::Bulk.handled_requests_max();
    let call = |method| caller.peers.call(B, Lane::Bulk, method, body("x"), PATIENCE);
    let stuck: Vec<_> = (0..places).map(|_| call(HOLD)).collect();
    let behind = call(ECHO);
    eventually("every place is taken", || server.handler.running() == places).await;
    tokio::time::sleep(SILENCE_MAX + Duration::from_secs(1)).await;
    server.handler.release();
    assert!(join_all(stuck).await.iter().all(Result::is_ok));
    assert!(behind.await.is_ok());
    assert_eq!(server.keeper.heard_nodes().len(), 1, "one connection");
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up_long_before_the_deadline() {
    let mut fake = Fake::listen().await;
    let caller = Caller::knowing(2, &fake.address);
    let call = caller.peers.call(B, Lane::Data, ECHO, body("x"), SILENCE_MAX * 10);
    let _silent = fake.accept().await;
    let begun = clock::now();
    let ending = Ending::Silent(SILENCE_MAX);
    let error = timeout(PATIENCE, call).await.expect("it is given up").unwrap_err();
    assert_eq!(error, CallError::Lost(Lost::ConnectionEnded(ending)));
    assert!(clock::now().since(begun) < SILENCE_MAX * 3);
}

#[tokio::test]
async fn an_answer_on_an_old_connection_never_answers_a_call_of_the_new_one() {
    let mut fake = Fake::listen().await;
    let caller = Caller::knowing(2, &fake.address);
    let first = caller.peers.call(B, Lane::Data, ECHO, body("first"), PATIENCE);
    let mut old = fake.accept().await;
    let first_request = read_frame(&mut old).await;
    caller.peers.disconnect(B);
    let ending = Ending::ShutDown;
    assert_eq!(first.await.unwrap_err(), CallError::Lost(Lost::ConnectionEnded(ending)));

    let second = caller.peers.call(B, Lane::Data, ECHO, body("second"), PATIENCE);
    let mut new = fake.accept().await;
    let second_request = read_frame(&mut new).await;
    assert_eq!(first_request.call, second_request.call, "the ids are the same, the connections are not");
    // The old connection may be gone already; then the late answer cannot even be written.
    let mut late = BytesMut::new();
    Frame { kind: Kind::Answer, ..first_request }.encode(&mut late);
    let _ = old.write_all(&late).await;
    let mut second = Box::pin(second);
    assert!(timeout(Duration::from_millis(50), &mut second).await.is_err(), "answered by the old connection");
    write_frame(&mut new, &Frame { kind: Kind::Answer, ..second_request }).await;
    assert_eq!(second.await.unwrap().body, body("second"));
}

#[tokio::test]
async fn a_connection_that_broke_is_opened_again_by_the_next_call() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let call = || caller.peers.call(B, Lane::Data, ECHO, body("x"), PATIENCE);
    call().await.unwrap();
    let address = server.address.clone();
    server.stop().await;
    let _server = Server::start_at(&address, TestKeeper::node(2)).await;
    let again = async {
        while call().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("the next connection opens");
}

#[tokio::test]
async fn a_newer_catalog_is_noticed_at_both_ends_until_it_is_caught_up_with() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let call = || async { caller.peers.call(B, Lane::Data, ECHO, body("x"), PATIENCE).await.unwrap() };
    let heard = |keeper: &TestKeeper| std::mem::take(&mut *keeper.heard_versions.lock().unwrap());
    call().await;
    assert!(heard(&server.keeper).is_empty() && heard(&caller.keeper).is_empty());
    caller.keeper.catalog.store(5, Ordering::SeqCst);
    call().await;
    call().await;
    assert_eq!((heard(&server.keeper), heard(&caller.keeper)), (vec![5, 5], vec![]));
    server.keeper.catalog.store(9, Ordering::SeqCst);
    call().await;
    assert_eq!((heard(&server.keeper), heard(&caller.keeper)), (vec![], vec![9]));
}

#[tokio::test]
async fn a_caller_that_goes_away_frees_its_handlers() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let held: Vec<_> = (0..5).map(|_| caller.peers.call(B, Lane::Data, HOLD, body("x"), LONG)).collect();
    eventually("all are handled", || server.handler.running() == 5).await;
    timeout(PATIENCE, caller.peers.shutdown()).await.expect("the tasks end");
    eventually("the handlers are gone", || server.handler.running() == 0).await;
    for lost in join_all(held).await {
        assert_eq!(lost.unwrap_err(), CallError::Lost(Lost::ConnectionEnded(Ending::ShutDown)));
    }
    let later = caller.peers.call(B, Lane::Data, ECHO, body("x"), PATIENCE).await.unwrap_err();
    assert_eq!(later, CallError::NotSent(NotSent::ConnectionEnded(Ending::ShutDown)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_of_the_answering_side_ends_handlers_and_connections_before_it_returns() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let held: Vec<_> = (0..1000).map(|_| caller.peers.call(B, Lane::Data, HOLD, body("x"), LONG)).collect();
    // One connection stands in its handshake.
    let _mute = TcpNet.dial(&server.address).await.unwrap();
    let handler = server.handler.clone();
    eventually("all are handled", || handler.running() == held.len()).await;
    server.stop().await;
    assert_eq!(handler.running(), 0);
    for lost in join_all(held).await {
        let error = lost.unwrap_err();
        assert!(matches!(error, CallError::Lost(Lost::ConnectionEnded(_))), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn shutdown_of_the_answering_side_waits_for_a_handler_that_cannot_be_dropped_yet() {
    let mut server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let _call = caller.peers.call(B, Lane::Data, BLOCK, body("x"), LONG);
    eventually("it is handled", || server.handler.running() == 1).await;
    server.shutdown.cancel();
    let early = timeout(Duration::from_millis(100), &mut server.task).await;
    server.handler.unblock();
    assert!(early.is_err(), "it returned while a handler was running");
    timeout(PATIENCE, server.task).await.expect("serve ends").unwrap();
    assert_eq!(server.handler.running(), 0);
}

#[tokio::test]
async fn a_handler_that_dies_loses_its_call_and_no_other() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let held = caller.peers.call(B, Lane::Data, HOLD, body("held"), PATIENCE);
    let error = caller.peers.call(B, Lane::Data, PANIC, body("x"), PATIENCE).await.unwrap_err();
    assert_eq!(error, CallError::Lost(Lost::Dropped));
    server.handler.release();
    assert_eq!(held.await.unwrap().body, body("held"));
}

#[tokio::test]
async fn the_longest_body_goes_there_and_back() {
    let server = Server::start(TestKeeper::node(2)).await;
    let caller = Caller::knowing(2, &server.address);
    let long = Bytes::from(vec![3; BODY_BYTES_MAX]);
    let reply = caller.peers.call(B, Lane::Bulk, ECHO, long.clone(), PATIENCE).await.unwrap();
    assert!(reply.body == long);
}

#[tokio::test]
async fn a_node_that_joins_calls_seeds_by_address_and_learns_who_they_are() {
    let mut founder = TestKeeper::node(2);
    founder.hello.cluster = None;
    founder.hello.node = None;
    let (member, blank) = (Server::start(TestKeeper::node(3)).await, Server::start(founder).await);
    let mut joining = TestKeeper::node(1);
    joining.hello.cluster = None;
    joining.hello.node = None;
    let caller = Caller::new(joining);
    let reply = caller.peers.call_address(&member.address, Lane::Data, ECHO, body("join"), PATIENCE).await.unwrap();
    assert_eq!((reply.body, reply.remote.hello.cluster), (body("join"), Some(ClusterId(7))));
    let knows = |server: &Server| {
        let (peers, address) = (caller.peers.clone(), server.address.clone());
        async move { peers.probe(&address, PATIENCE).await.map(|remote| remote.hello.cluster) }
    };
    assert_eq!(knows(&member).await, Ok(Some(ClusterId(7))));
    assert_eq!(knows(&blank).await, Ok(None));
    let silent = Fake::listen().await;
    let probed = caller.peers.probe(&silent.address, Duration::from_millis(50)).await;
    assert_eq!(probed, Err(NotSent::DeadlinePassed));
    timeout(PATIENCE, caller.peers.shutdown()).await.expect("no connection is left open");
}

#[tokio::test]
async fn a_call_by_address_closes_its_connection_when_it_is_over() {
    let mut fake = Fake::listen().await;
    let caller = Caller::new(TestKeeper::node(1));
    let call = caller.peers.call_address(&fake.address, Lane::Data, ECHO, body("x"), PATIENCE);
    let mut io = fake.accept().await;
    let request = read_frame(&mut io).await;
    write_frame(&mut io, &Frame { kind: Kind::Answer, ..request }).await;
    assert!(call.await.is_ok());
    assert!(is_closed(&mut io).await);
}

#[tokio::test]
async fn random_bytes_after_the_handshake_end_that_connection_and_nothing_else() {
    let server = Server::start(TestKeeper::node(2)).await;
    for seed in 0..50u8 {
        let mut io = dial(&server, Lane::Data).await;
        let noise: Vec<u8> = (0..200u8).map(|at| at.wrapping_mul(seed | 1).wrapping_add(seed)).collect();
        let _ = io.write_all(&noise).await;
        let _ = io.shutdown().await;
        assert!(is_closed(&mut io).await);
    }
    let caller = Caller::knowing(2, &server.address);
    let reply = caller.peers.call(B, Lane::Data, WAIT, body("1"), PATIENCE).await.unwrap();
    assert_eq!(reply.body, body("1"));
}
