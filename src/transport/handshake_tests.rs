//! Handshakes over a pair of pipes: who is accepted, who is refused, and what each end is told.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::transport::testing::TestKeeper;
use crate::wire::golden;

fn hello() -> Hello {
    Hello {
        versions: ProtocolRange { min: 1, max: 3 },
        lane: Lane::Bulk,
        cluster: Some(ClusterId(0xC1)),
        node: Some(NodeId(5)),
        store: StoreId(0x5E),
        start_counter: 17,
        peer_address: "host-5:7001".into(),
        http_address: "host-5:8001".into(),
        catalog_version: 99,
        timing_hash: 0xABCD,
    }
}

fn other() -> Hello {
    Hello { node: Some(NodeId(6)), store: StoreId(0x60), ..hello() }
}

async fn shake(
    dialler: &TestKeeper,
    listener: &TestKeeper,
    expected: Option<NodeId>,
) -> (Result<Remote, HandshakeError>, Result<Remote, HandshakeError>) {
    let (mut near, mut far) = duplex(64);
    tokio::join!(dialled(&mut near, dialler, Lane::Data, expected, "far:1"), accepted(&mut far, listener, "near:2"),)
}

#[test]
fn the_formats_are_pinned() {
    let joining = Hello { lane: Lane::Control, cluster: None, node: None, ..hello() };
    golden::check("transport_hello", &[hello(), joining, Hello { lane: Lane::Data, ..hello() }]);
    let (store, node) = (StoreId(0x5E), NodeId(5));
    let refusals = [
        Refusal::NoCommonVersion {
            refuser: ProtocolRange { min: 2, max: 3 },
            refused: ProtocolRange { min: 1, max: 1 },
        },
        Refusal::WrongCluster { refuser: ClusterId(1), refused: ClusterId(2) },
        Refusal::TimingDiffers { refuser: 1, refused: 2 },
        Refusal::WrongNode { expected: node, found: None },
        Refusal::NodeIdTaken { node },
        Refusal::SameStore { store },
        Refusal::WrongStore { node, known: store, found: StoreId(1) },
        Refusal::StaleStart { node, known: 9, found: 8 },
        Refusal::Removed { node },
        Refusal::Other { why: "busy".into() },
    ];
    golden::check("transport_refusal", &refusals);
    golden::has_every_tag(&refusals);
    let refusal = Refusal::Removed { node };
    let answers = [Answer::Welcome(hello().to_bytes()), Answer::Refused(refusal.clone())];
    golden::check("transport_answer", &answers);
    golden::has_every_tag(&answers);
    let verdicts = [Verdict::Accepted, Verdict::Refused(refusal)];
    golden::check("transport_verdict", &verdicts);
    golden::has_every_tag(&verdicts);
    golden::has_every_tag(&Lane::ALL);
    let envelope: Vec<u8> = [&b"ringraft"[..], &[0, 0, 0, 1], &crc32c::crc32c(&[1]).to_be_bytes(), &[1]].concat();
    assert_eq!(sealed(&Verdict::Accepted.to_bytes()), envelope);
}

#[test]
fn the_highest_common_version_is_taken() {
    let range = |min, max| ProtocolRange { min, max };
    for (ours, theirs, common) in [
        (range(1, 1), range(1, 1), Some(1)),
        (range(1, 3), range(2, 5), Some(3)),
        (range(2, 5), range(1, 3), Some(3)),
        (range(1, 9), range(4, 6), Some(6)),
        (range(1, 2), range(3, 4), None),
        (range(3, 4), range(1, 2), None),
    ] {
        assert_eq!(ours.common(theirs), common, "{ours} and {theirs}");
    }
}

#[test]
fn the_fixed_rules_refuse_each_mistake_by_name() {
    assert_eq!(hello().accepts(&other()), Ok(()));
    let wrong_cluster = Hello { cluster: Some(ClusterId(0xC2)), ..other() };
    assert!(matches!(hello().accepts(&wrong_cluster), Err(Refusal::WrongCluster { .. })));
    let itself = Hello { node: Some(NodeId(6)), ..hello() };
    assert!(matches!(hello().accepts(&itself), Err(Refusal::SameStore { .. })));
    let twin = Hello { node: Some(NodeId(5)), ..other() };
    assert_eq!(hello().accepts(&twin), Err(Refusal::NodeIdTaken { node: NodeId(5) }));
    let faster = Hello { timing_hash: 1, ..other() };
    let refusal = hello().accepts(&faster).unwrap_err();
    assert!(refusal.to_string().contains("must be configured alike on every node"), "{refusal}");
    let later = Hello { versions: ProtocolRange { min: 4, max: 5 }, ..other() };
    assert!(matches!(hello().accepts(&later), Err(Refusal::NoCommonVersion { .. })));
}

#[test]
fn a_node_that_is_joining_is_not_held_to_cluster_and_timing() {
    let joining = Hello { cluster: None, node: None, timing_hash: 1, ..other() };
    assert_eq!(hello().accepts(&joining), Ok(()));
    assert_eq!(joining.accepts(&hello()), Ok(()));
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    let (dialler, listener) = (TestKeeper::node(1), TestKeeper::node(2));
    let (near, far) = shake(&dialler, &listener, Some(NodeId(2))).await;
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!((near.hello.node, far.hello.node), (Some(NodeId(2)), Some(NodeId(1))));
    assert_eq!((near.hello.lane, far.hello.lane), (Lane::Data, Lane::Data));
    assert_eq!((near.version, far.version), (1, 1));
    assert_eq!((near.address.as_str(), far.address.as_str()), ("far:1", "near:2"));
    assert_eq!(dialler.heard_nodes(), [Some(NodeId(2))]);
    assert_eq!(listener.heard_nodes(), [Some(NodeId(1))]);
}

#[tokio::test]
async fn a_refusal_by_the_listener_reaches_the_dialler_typed_and_nobody_was_heard() {
    let (dialler, listener) = (TestKeeper::node(1), TestKeeper::node(2));
    listener.refuse(Refusal::Removed { node: NodeId(1) });
    let (near, far) = shake(&dialler, &listener, None).await;
    assert_eq!(near, Err(HandshakeError::RefusedByRemote(Refusal::Removed { node: NodeId(1) })));
    assert_eq!(far, Err(HandshakeError::RefusedRemote(Refusal::Removed { node: NodeId(1) })));
    assert!(dialler.heard_nodes().is_empty() && listener.heard_nodes().is_empty());
}

#[tokio::test]
async fn a_refusal_by_the_dialler_reaches_the_listener_typed_and_nobody_was_heard() {
    let (dialler, listener) = (TestKeeper::node(1), TestKeeper::node(2));
    let (near, far) = shake(&dialler, &listener, Some(NodeId(3))).await;
    let refusal = Refusal::WrongNode { expected: NodeId(3), found: Some(NodeId(2)) };
    assert_eq!(near, Err(HandshakeError::RefusedRemote(refusal.clone())));
    assert_eq!(far, Err(HandshakeError::RefusedByRemote(refusal)));
    assert!(dialler.heard_nodes().is_empty() && listener.heard_nodes().is_empty());
}

#[tokio::test]
async fn versions_without_a_common_one_are_refused_naming_both_ranges() {
    let mut dialler = TestKeeper::node(1);
    dialler.hello.versions = ProtocolRange { min: 2, max: 4 };
    let (near, _) = shake(&dialler, &TestKeeper::node(2), None).await;
    let error = near.unwrap_err();
    assert!(matches!(error.refusal(), Some(Refusal::NoCommonVersion { .. })));
    assert!(error.to_string().contains("speaks 1-1, the refused one 2-4"), "{error}");
}

#[tokio::test]
async fn a_range_of_versions_settles_on_the_highest_common_one() {
    let (mut dialler, mut listener) = (TestKeeper::node(1), TestKeeper::node(2));
    dialler.hello.versions = ProtocolRange { min: 1, max: 4 };
    listener.hello.versions = ProtocolRange { min: 2, max: 3 };
    let (near, far) = shake(&dialler, &listener, None).await;
    assert_eq!((near.unwrap().version, far.unwrap().version), (3, 3));
}

/// Writes `bytes` to a listener and gives what it makes of them.
async fn listener_given(bytes: &[u8]) -> (Result<Remote, HandshakeError>, DuplexStream) {
    let (mut near, mut far) = duplex(64 << 10);
    near.write_all(bytes).await.unwrap();
    let keeper = Arc::new(TestKeeper::node(2));
    let judged =
        tokio::time::timeout(std::time::Duration::from_millis(100), accepted(&mut far, keeper.as_ref(), "near:2"));
    (judged.await.unwrap_or(Err(HandshakeError::Broken("it waits for more".into()))), near)
}

#[tokio::test]
async fn a_hello_of_unknown_versions_is_answered_though_the_rest_cannot_be_read() {
    let payload = [&ProtocolRange { min: 7, max: 9 }.to_bytes()[..], b"a layout of the future"].concat();
    let (judged, mut near) = listener_given(&sealed(&payload)).await;
    assert!(matches!(judged.unwrap_err().refusal(), Some(Refusal::NoCommonVersion { .. })));
    let answer = Answer::from_bytes(receive(&mut near).await.unwrap()).unwrap();
    assert!(matches!(answer, Answer::Refused(Refusal::NoCommonVersion { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_hello_that_has_grown_is_read_up_to_what_is_known() {
    let grown = [&TestKeeper::node(1).hello.to_bytes()[..], b"a later field"].concat();
    let bytes = [sealed(&grown), sealed(&Verdict::Accepted.to_bytes())].concat();
    let (judged, _near) = listener_given(&bytes).await;
    assert_eq!(judged.unwrap().hello.node, Some(NodeId(1)));
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_by_name() {
    let (judged, _near) = listener_given(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(judged.unwrap_err().to_string().contains("not a Ringraft peer: it sent GET / HT"));
    let mut long = sealed(&[]);
    long[8..12].copy_from_slice(&(MESSAGE_BYTES_MAX as u32 + 1).to_be_bytes());
    let (judged, _near) = listener_given(&long).await;
    assert_eq!(judged, Err(HandshakeError::TooLong { bytes: MESSAGE_BYTES_MAX + 1 }));
}

#[tokio::test]
async fn a_flipped_bit_in_a_hello_is_noticed() {
    let whole = sealed(&TestKeeper::node(1).hello.to_bytes());
    for byte in ENVELOPE_BYTES..whole.len() {
        let mut damaged = whole.clone();
        damaged[byte] ^= 4;
        let (judged, _near) = listener_given(&damaged).await;
        assert_eq!(judged, Err(HandshakeError::Damaged), "byte {byte}");
    }
}

#[tokio::test]
async fn the_handshake_takes_no_byte_of_the_first_frame() {
    let (mut near, mut far) = duplex(64 << 10);
    let sent = [
        sealed(&TestKeeper::node(1).hello.to_bytes()),
        sealed(&Verdict::Accepted.to_bytes()),
        BytesMut::from(&b"frame"[..]),
    ]
    .concat();
    near.write_all(&sent).await.unwrap();
    accepted(&mut far, &TestKeeper::node(2), "near:2").await.unwrap();
    drop(near);
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"frame");
}
