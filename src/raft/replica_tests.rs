//! A replica that restarts: it may have forgotten a lease that it granted, and entries that others have.

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::vote::RaftLeaderId;

use super::super::freshness::Append;
use super::super::inbound::Refused;
use super::super::network::GroupHeader;
use super::super::snapshot::Chunk;
use super::super::testing::{SHARD, STORE, TAIL_BYTES, birth, blank, identity, put};
use super::super::{LeaderId, Vote};
use super::*;
use crate::machine::query;
use crate::method::Method;
use crate::ring::TokenRange;
use crate::storage::mem::MemDisk;
use crate::storage::registry::{RegistryRecord, ReplicaLife};
use crate::storage::reserve::Reserve;
use crate::storage::{Disk, keys};
use crate::transport::dial::TcpNet;
use crate::transport::{AddressBook, Gatekeeper, Hello, Lane, PROTOCOL, Refusal};
use crate::wire::Wire;

const PATIENCE: Duration = Duration::from_secs(20);
const REPLICA: ReplicaId = ReplicaId(1);
const RESERVE: u64 = 1 << 20;

/// A node that knows no other.
struct Alone;

impl Gatekeeper for Alone {
    fn hello(&self, lane: Lane) -> Hello {
        Hello {
            versions: PROTOCOL,
            lane,
            cluster: None,
            node: None,
            store: STORE,
            start_counter: 1,
            peer_address: String::new(),
            http_address: String::new(),
            catalog_version: 0,
            timing_hash: 0,
        }
    }
    fn check(&self, _remote: &Hello) -> Result<(), Refusal> {
        Ok(())
    }
    fn heard(&self, _remote: &Hello) {}
    fn catalog_version(&self) -> u64 {
        0
    }
    fn heard_catalog_version(&self, _remote: &Hello, _version: u64) {}
}

impl AddressBook for Alone {
    fn peer_address(&self, _node: NodeId) -> Option<String> {
        None
    }
}

/// Starts the replica on a disk, for the first time or again.
async fn start(disk: &MemDisk, is_new: bool) -> Replica {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let log = LogStore::open(disk, STORE, is_new, TAIL_BYTES).unwrap();
    let store = if is_new {
        let store = ReplicaStore::create(shared, identity(REPLICA.0), 1).unwrap();
        let record = RegistryRecord { shard: SHARD, state: ReplicaLife::Live { directory: 1 } };
        log.put_record(REPLICA, record).await.unwrap();
        store
    } else {
        ReplicaStore::open(shared, identity(REPLICA.0), 1).unwrap()
    };
    let peers = Peers::new(Arc::new(TcpNet), Arc::new(Alone), Arc::new(Alone));
    let parts = StartReplica {
        node: NodeId(1),
        timing: Timing::default(),
        store,
        log,
        peers,
        meters: RaftMeters::default(),
        rooms: Rooms::new(Reserve::open(Arc::new(disk.clone()), RESERVE).unwrap()),
        pace: Pace::new(u64::MAX),
        nursery: Nursery::new().0,
    };
    Replica::start(parts).await.unwrap()
}

fn soon() -> Moment {
    clock::now().after(PATIENCE)
}

/// Waits until the replica leads; `while_waiting` sees it each time, and whether it was held off before it was looked at.
async fn until_leader(replica: &Replica, while_waiting: impl Fn(&Replica, bool)) {
    let deadline = soon();
    loop {
        let leads = replica.is_leader();
        // Asked after: a hold-off that is not over now was not over then.
        while_waiting(replica, leads && replica.is_held_off());
        if leads {
            return;
        }
        assert!(clock::now() < deadline, "no leader: {:?}", replica.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ask(replica: &Replica, method: Method, request: &impl Wire) -> Result<(), Refused> {
    let header = GroupHeader { shard: SHARD, from: ReplicaId(2), to: REPLICA };
    replica.handle(header, method, request.to_bytes()).await.map(drop)
}

fn vote_of(term: u64, committed: bool) -> Vote {
    Vote { leader_id: LeaderId::new(term, ReplicaId(2)), committed }
}

/// The requests that a replica refuses while it is held off.
async fn votes_asked(replica: &Replica) -> [Result<(), Refused>; 3] {
    let request = VoteRequest::<TypeConfig>::new(vote_of(1, false), None);
    let transfer = TransferLeaderRequest::<TypeConfig>::new(vote_of(1, true), ReplicaId(9), None);
    [
        ask(replica, Method::PreVote, &request).await,
        ask(replica, Method::Vote, &request).await,
        ask(replica, Method::TransferLeader, &transfer).await,
    ]
}

#[tokio::test]
async fn a_replica_that_never_voted_is_not_held_off() {
    let disk = MemDisk::new(1);
    let replica = start(&disk, true).await;
    assert!(!replica.is_held_off());
    for answer in votes_asked(&replica).await {
        answer.unwrap();
    }
    replica.shutdown().await;
}

#[tokio::test]
async fn a_restarted_voter_grants_nothing_until_every_lease_it_may_have_granted_is_over() {
    let disk = MemDisk::new(1);
    let replica = start(&disk, true).await;
    ask(&replica, Method::Vote, &VoteRequest::<TypeConfig>::new(vote_of(1, false), None)).await.unwrap();
    replica.shutdown().await;
    disk.crash_losing_everything_unsynced();
    let begun = clock::now();
    let replica = start(&disk, false).await;
    assert!(replica.is_held_off());
    for answer in votes_asked(&replica).await {
        assert!(matches!(answer, Err(Refused::HeldOff)), "{answer:?}");
    }
    // What a leader sends is taken all the same.
    let request =
        AppendEntriesRequest { vote: vote_of(1, true), prev_log_id: None, leader_commit: None, entries: Vec::new() };
    ask(&replica, Method::Append, &Append { request, vouch: None }).await.unwrap();
    let deadline = soon();
    while votes_asked(&replica).await.iter().any(Result::is_err) {
        assert!(clock::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let held_off = clock::now().since(begun);
    assert!(held_off >= Timing::default().election_max.mul_f64(1.1), "only for {held_off:?}");
    replica.shutdown().await;
}

#[tokio::test]
async fn a_restarted_leader_leads_again_only_after_its_hold_off_and_in_a_new_term() {
    let disk = MemDisk::new(1);
    let replica = start(&disk, true).await;
    replica.initialize().await.unwrap();
    until_leader(&replica, |_, _| {}).await;
    let term = replica.status().term;
    replica.shutdown().await;
    disk.crash_losing_everything_unsynced();
    let replica = start(&disk, false).await;
    until_leader(&replica, |replica, leads_too_early| {
        assert!(!leads_too_early, "{:?}", replica.status());
    })
    .await;
    assert!(replica.status().term > term, "under its old vote it would give the ids of lost entries to others");
    replica.shutdown().await;
}

#[tokio::test]
async fn acknowledged_writes_survive_a_crash_whatever_was_flushed_and_purged() {
    const WRITES: usize = 60;
    for flush_at in [None, Some(0), Some(30), Some(WRITES - 1)] {
        let disk = MemDisk::new(1);
        let replica = start(&disk, true).await;
        replica.initialize().await.unwrap();
        until_leader(&replica, |_, _| {}).await;
        replica.propose(birth(TokenRange::full()), None, soon()).await.unwrap();
        for number in 0..WRITES {
            let answer = replica.propose(put(&format!("k{number}"), format!("v{number}")), None, soon()).await.unwrap();
            assert!(matches!(answer, Response::Written { replayed: false, .. }), "{answer:?}");
            if flush_at == Some(number) {
                replica.flush(true).await.unwrap();
                let deadline = soon();
                while replica.status().purged_index < replica.machine().flushed_index() {
                    assert!(clock::now() < deadline, "{:?}", replica.status());
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                assert_eq!(replica.status().purged_index, replica.machine().flushed_index());
            }
        }
        replica.shutdown().await;
        disk.crash_losing_everything_unsynced();
        let replica = start(&disk, false).await;
        until_leader(&replica, |_, _| {}).await;
        replica.read_barrier(ReadMode::ReadIndex, soon()).await.unwrap();
        let view = replica.machine().store.view();
        for number in 0..WRITES {
            let row = query::get(view.as_ref(), SHARD, format!("k{number}").as_bytes()).unwrap().unwrap();
            assert_eq!(row.unwrap().value, format!("v{number}"));
        }
        let again = replica.propose(put("k3", "v3"), None, soon()).await.unwrap();
        assert!(matches!(again, Response::Written { replayed: true, .. }), "{again:?}");
        replica.shutdown().await;
    }
}

#[tokio::test]
async fn a_request_for_another_replica_or_shard_is_refused() {
    let disk = MemDisk::new(1);
    let replica = start(&disk, true).await;
    let request = VoteRequest::<TypeConfig>::new(vote_of(1, false), None).to_bytes();
    let right = GroupHeader { shard: SHARD, from: ReplicaId(2), to: REPLICA };
    for wrong in [GroupHeader { to: ReplicaId(7), ..right }, GroupHeader { shard: ShardId(9), ..right }] {
        let refused = replica.handle(wrong, Method::Vote, request.clone()).await;
        assert!(matches!(refused, Err(Refused::OtherReplica { .. })), "{refused:?}");
    }
    replica.handle(right, Method::Vote, request).await.unwrap();
    replica.shutdown().await;
}

#[test]
fn a_leader_proves_nothing_before_an_entry_of_its_own_term_is_committed() {
    let committed = |term, index| Some(LogId::new(LeaderId::new(term, REPLICA).to_committed(), index));
    let mut metrics = RaftMetrics::<TypeConfig>::new_initial(REPLICA);
    (metrics.state, metrics.current_term) = (ServerState::Leader, 5);
    (metrics.local_committed, metrics.cluster_committed) = (committed(4, 7), committed(4, 8));
    assert_eq!(known_commit(&metrics), None, "an earlier leader may have committed more than 8");
    metrics.local_committed = committed(5, 9);
    assert_eq!(known_commit(&metrics), Some(9));
    metrics.state = ServerState::Follower;
    assert_eq!(known_commit(&metrics), None);
}

#[tokio::test]
async fn a_replica_that_stops_gives_up_the_snapshot_that_was_on_its_way_in() {
    let disk = MemDisk::new(1);
    let replica = start(&disk, true).await;
    let row = (keys::row(b"k"), Bytes::from_static(b"v"));
    let piece = Chunk { stream: 5, position: 0, rows: vec![row], end: None };
    ask(&replica, Method::SnapshotChunk, &piece).await.unwrap();
    assert_eq!(disk.replica_directories().unwrap(), ["1.1", "1.2"]);
    replica.shutdown().await;
    // The handle lives on: it is not its end that ends the attempt.
    let deadline = soon();
    while disk.replica_directories().unwrap() != ["1.1"] {
        assert!(clock::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let next = Chunk { position: 1, ..piece };
    assert!(matches!(ask(&replica, Method::SnapshotChunk, &next).await, Err(Refused::Snapshot(_))));
}

#[tokio::test]
async fn a_replica_without_room_takes_no_entries_and_no_snapshot_and_is_heard_all_the_same() {
    let disk = MemDisk::new(1);
    let replica = start(&disk, true).await;
    let append = |entries| {
        let vote = vote_of(1, true);
        let request = AppendEntriesRequest { vote, prev_log_id: None, leader_commit: None, entries };
        Append { request, vouch: None }
    };
    let begun = clock::now();
    let room = |second: u64, free: u64| {
        disk.set_free_bytes(free);
        replica.rooms().reserve().measure_at(begun.after(Duration::from_secs(second))).unwrap();
        replica.rooms().own()
    };
    let piece = Chunk { stream: 1, position: 0, rows: Vec::new(), end: None };
    ask(&replica, Method::Append, &append(Vec::new())).await.unwrap();

    // The reserve is given back, so that what was free beside it and what it held is there.
    assert_eq!(room(1, RESERVE / 2), Room::BelowHard);
    ask(&replica, Method::Append, &append(Vec::new())).await.unwrap();
    ask(&replica, Method::Append, &append(vec![blank(0)])).await.unwrap();

    assert_eq!(room(2, RESERVE / 4), Room::Spent);
    let refused = ask(&replica, Method::Append, &append(vec![blank(0)])).await.unwrap_err();
    assert!(matches!(refused, Refused::NoRoom), "{refused}");
    let refused = ask(&replica, Method::SnapshotChunk, &piece).await.unwrap_err();
    assert!(matches!(refused, Refused::NoRoom), "{refused}");
    ask(&replica, Method::Append, &append(Vec::new())).await.unwrap();

    assert_eq!(room(60, 1 << 40), Room::Ample);
    ask(&replica, Method::Append, &append(vec![blank(0)])).await.unwrap();
    ask(&replica, Method::SnapshotChunk, &piece).await.unwrap();
    replica.shutdown().await;
}
