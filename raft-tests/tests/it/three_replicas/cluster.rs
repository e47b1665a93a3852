//! What a case sees of its group, in whichever world it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use ringraft::clock::{self, Moment};
use ringraft::machine::{Action, Birth, Command, Precondition, Response, Write, query};
use ringraft::raft::{Member, ProposeError, ReadError, ReadMode, Replica, Role, Timing, snapshot};
use ringraft::ring::TokenRange;
use ringraft::storage::{Disk, off_runtime};
use ringraft::types::{Epoch, NodeId, ReplicaId, Revision};

use super::node::{NODES, Piece, SHARD, Shared};

/// Longest wait for anything that must come about.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(1);
/// One attempt at something that is tried again.
const ATTEMPT: Duration = Duration::from_secs(2);

/// What one world does otherwise than the other.
pub(super) trait World: Send + Sync + 'static {
    /// Starts a node on its disk and returns when its replica runs.
    fn start(&self, number: u64) -> BoxFuture<'_, ()>;
    /// The node's process ends at once. A disk that can lose power does.
    fn kill(&self, number: u64) -> BoxFuture<'_, ()>;
    /// From now on nothing passes between two nodes.
    fn cut(&self, one: u64, other: u64);
    fn heal(&self, one: u64, other: u64);
    /// Nothing more of this node's log becomes durable, until it is killed.
    fn lag_log(&self, number: u64);
    /// The disk of a node that can lose power.
    fn disk(&self, number: u64) -> Arc<dyn Disk>;
}

/// Cheap to clone. Nodes are counted from 1, and the replica of a node has its number.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) world: Arc<dyn World>,
    shared: Arc<Shared>,
}

pub(super) fn soon() -> Moment {
    clock::now().after(PATIENCE)
}

pub(super) async fn pause() {
    tokio::time::sleep(LOOK).await;
}

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = soon();
    while !condition() {
        assert!(clock::now() < deadline, "not within {PATIENCE:?}: {what}");
        pause().await;
    }
}

pub(super) fn put(key: &str, value: impl Into<Bytes>) -> Command {
    Command::Write(Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        time_ms: 0,
        precondition: Precondition::default(),
        idempotency_key: None,
        action: Action::Put { content_type: None, value: value.into() },
    })
}

impl Cluster {
    pub(super) fn new(world: Arc<dyn World>, shared: Arc<Shared>) -> Self {
        Self { world, shared }
    }

    pub(super) fn timing(&self) -> Timing {
        self.shared.timing
    }

    /// The replica of a node that runs.
    pub(super) fn replica(&self, number: u64) -> Replica {
        self.shared.running(number).unwrap_or_else(|| panic!("node {number} does not run")).replica
    }

    pub(super) fn up(&self) -> BTreeMap<u64, Replica> {
        self.shared.all_running().into_iter().map(|(number, running)| (number, running.replica)).collect()
    }

    pub(super) async fn until_running(&self, number: u64) {
        until("the node runs", || self.shared.running(number).is_some()).await;
    }

    pub(super) fn others(&self, number: u64) -> [u64; 2] {
        let others: Vec<u64> = (1..=NODES).filter(|other| *other != number).collect();
        others.try_into().unwrap()
    }

    pub(super) fn isolate(&self, number: u64) {
        self.others(number).into_iter().for_each(|other| self.world.cut(number, other));
    }

    pub(super) fn rejoin(&self, number: u64) {
        self.others(number).into_iter().for_each(|other| self.world.heal(number, other));
    }

    /// Founds the group at node 1 and makes voters of all three. Node 1 leads afterwards, but need not for long.
    pub(super) async fn form(&self) {
        let founder = self.replica(1);
        founder.initialize().await.unwrap();
        until("the founder leads", || founder.is_leader()).await;
        let birth =
            Birth { shard: SHARD, range: TokenRange::full(), epoch: Epoch(1), revision_base: Revision(1 << 20) };
        assert_eq!(founder.propose(Command::Birth(birth), None, soon()).await.unwrap(), Response::Born);
        for number in 2..=NODES {
            let member = Member { replica: ReplicaId(number), node: NodeId(number) };
            founder.add_learner(member, &founder.members(), soon()).await.unwrap();
            assert_eq!(self.replica(number).status().role, Role::Learner);
            // What a replica says of itself follows a moment after its answers.
            let is_seen = || founder.members().learners.contains(&ReplicaId(number));
            until("the learner is among the members", is_seen).await;
        }
        let all: BTreeSet<ReplicaId> = (1..=NODES).map(ReplicaId).collect();
        founder.set_voters(all.clone(), &founder.members(), soon()).await.unwrap();
        until("all three are voters", || {
            let members = founder.members();
            (members.voters, members.learners, members.joint) == (all.clone(), BTreeSet::new(), false)
        })
        .await;
    }

    /// Waits until a replica among `from` leads and a quorum says so.
    pub(super) async fn leader_among(&self, from: &[u64]) -> u64 {
        let deadline = soon();
        loop {
            for (number, replica) in self.up() {
                let attempt = clock::now().after(ATTEMPT);
                if from.contains(&number)
                    && replica.is_leader()
                    && replica.read_barrier(ReadMode::ReadIndex, attempt).await.is_ok()
                {
                    return number;
                }
            }
            let seen: Vec<_> = self.up().values().map(Replica::status).collect();
            assert!(clock::now() < deadline, "no leader among {from:?}: {seen:#?}");
            pause().await;
        }
    }

    pub(super) async fn leader(&self) -> u64 {
        self.leader_among(&[1, 2, 3]).await
    }

    /// Writes through whoever leads, until it is acknowledged.
    pub(super) async fn put(&self, key: &str, value: impl Into<Bytes>) {
        let (value, deadline) = (value.into(), soon());
        loop {
            for replica in self.up().into_values().filter(Replica::is_leader) {
                match replica.propose(put(key, value.clone()), None, clock::now().after(ATTEMPT)).await {
                    Ok(Response::Written { .. }) => return,
                    // The same value once more changes nothing that a case asks about.
                    Err(ProposeError::NotLeader { .. } | ProposeError::Unknown { .. }) => {}
                    other => panic!("{key}: {other:?}"),
                }
            }
            assert!(clock::now() < deadline, "{key} was never acknowledged");
            pause().await;
        }
    }

    /// One read at one replica.
    pub(super) async fn read(
        &self,
        number: u64,
        key: &str,
        mode: ReadMode,
        deadline: Moment,
    ) -> Result<(Option<Bytes>, ReadMode), ReadError> {
        let replica = self.replica(number);
        let served = replica.read_barrier(mode, deadline).await?;
        let view = replica.machine().store.view();
        let row = query::get(view.as_ref(), SHARD, key.as_bytes()).unwrap().expect("the shard owns every key");
        Ok((row.map(|row| row.value), served))
    }

    /// Checks a value by a linearizable read at whoever leads.
    pub(super) async fn expect(&self, key: &str, value: &[u8]) {
        let deadline = soon();
        loop {
            let leader = self.leader().await;
            match self.read(leader, key, ReadMode::ReadIndex, clock::now().after(ATTEMPT)).await {
                Ok((found, _)) => return assert_eq!(found.as_deref(), Some(value), "{key} at node {leader}"),
                // It led a moment ago.
                Err(error) => assert!(clock::now() < deadline, "{key}: {error}"),
            }
        }
    }

    /// Waits until all three have applied the same entries, and checks that they hold the same rows.
    pub(super) async fn expect_equal_replicas(&self) {
        let deadline = soon();
        loop {
            let mut digests = BTreeMap::new();
            for (number, replica) in self.up() {
                let store = replica.machine().store.clone();
                let disk = store.disk().clone();
                let hashed = off_runtime(disk.as_ref(), move || snapshot::digest(store.view().as_ref(), SHARD)).await;
                digests.insert(number, hashed.unwrap());
            }
            let (applied, hashes): (BTreeSet<_>, BTreeSet<_>) = digests.values().copied().unzip();
            if digests.len() as u64 == NODES && applied.len() == 1 {
                assert_eq!(hashes.len(), 1, "the replicas diverged: (applied, hash of rows) is {digests:?}");
                return;
            }
            let seen: Vec<_> = self.up().values().map(Replica::status).collect();
            assert!(clock::now() < deadline, "the replicas do not come to one state: {digests:?} {seen:#?}");
            pause().await;
        }
    }

    /// The pieces of snapshots that came to a node, in order.
    pub(super) fn pieces_to(&self, number: u64) -> Vec<Piece> {
        self.shared.pieces().into_iter().filter(|piece| piece.to == number).collect()
    }

    /// Breaks the connections of a snapshot's sender to this node between this piece and its answer. Once.
    pub(super) fn sever_snapshot(&self, to: u64, position: u64) {
        self.shared.sever_snapshot(to, position);
    }
}
