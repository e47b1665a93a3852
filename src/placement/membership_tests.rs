//! The leader's changes of its group's membership, one after the other, until the group has what the catalog wants.

use super::*;
use crate::catalog::testing::profile;
use crate::catalog::{CatalogCommand, CatalogResponse, OperationCause, apply};
use crate::types::{ClusterId, Epoch, NodeId, OperationId, Revision};

const SHARD: ShardId = ShardId(1);
/// The first replica of the shard; the meta shard's has id 1.
const FIRST: u64 = 2;

/// The catalog of four nodes with one data shard, with voters on the first nodes: replicas 2, 3 and so on.
struct Bench(Option<Catalog>);

impl Bench {
    fn with_voters(count: u64) -> Self {
        let mut bench = Self(None);
        bench.send(CatalogCommand::Found {
            cluster: ClusterId(1),
            replication_factor: 3,
            initial_shards: 1,
            revision_base: Revision(1),
            node: profile(1),
        });
        for store in 2..=4 {
            bench.send(CatalogCommand::JoinNode { time_ms: 3, node: profile(store) });
        }
        bench.send(CatalogCommand::CreateShards { placements: vec![NodeId(1)] });
        bench.send(CatalogCommand::ShardLive { shard: SHARD });
        for node in 2..=count {
            let replica = bench.order(node);
            bench.send(CatalogCommand::ReplicaIsVoter { shard: SHARD, replica });
        }
        bench
    }

    fn catalog(&self) -> &Catalog {
        self.0.as_ref().unwrap()
    }

    fn send(&mut self, command: CatalogCommand) -> CatalogResponse {
        let response = apply(&mut self.0, &command);
        assert!(!matches!(response, CatalogResponse::Refused { .. }), "{command:?}: {response:?}");
        response
    }

    fn order(&mut self, node: u64) -> ReplicaId {
        let expected_epoch = self.catalog().shards[&SHARD].epoch;
        match self.send(CatalogCommand::AddReplica { shard: SHARD, node: NodeId(node), expected_epoch }) {
            CatalogResponse::Replica { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    fn begin_move(&mut self, from: u64, to: u64) {
        self.send(CatalogCommand::BeginOperation {
            kind: OperationKind::Move { shard: SHARD, from: NodeId(from), to: NodeId(to) },
            cause: OperationCause::Asked,
            expected_epoch: None::<Epoch>,
            idempotency_key: None,
            time_ms: 1,
        });
    }

    fn give_up(&mut self) {
        self.send(CatalogCommand::GiveUpOperation { operation: OperationId(1), why: "why".into() });
    }

    fn next(&self, own: u64, seen: &MembershipView, caught_up: bool) -> Change {
        next_change(ReplicaId(own), seen, self.catalog(), SHARD, |_| caught_up)
    }
}

fn ids(ids: &[u64]) -> BTreeSet<ReplicaId> {
    ids.iter().copied().map(ReplicaId).collect()
}

fn seen(voters: &[u64], learners: &[u64]) -> MembershipView {
    MembershipView::settled(voters, learners)
}

#[test]
fn an_ordered_replica_learns_then_votes_then_is_told_of() {
    let mut bench = Bench::with_voters(1);
    assert_eq!(bench.next(FIRST, &seen(&[2], &[]), true), Change::Nothing);
    let second = bench.order(2);
    let joins = Change::AddLearner(Member { replica: second, node: NodeId(2) });
    assert_eq!(bench.next(FIRST, &seen(&[2], &[]), true), joins);
    assert_eq!(bench.next(FIRST, &seen(&[2], &[3]), false), Change::Nothing, "it is still behind");
    assert_eq!(bench.next(FIRST, &seen(&[2], &[3]), true), Change::SetVoters(ids(&[2, 3])));
    assert_eq!(bench.next(FIRST, &seen(&[2, 3], &[]), true), Change::TellVoter(second));
    bench.send(CatalogCommand::ReplicaIsVoter { shard: SHARD, replica: second });
    assert_eq!(bench.next(FIRST, &seen(&[2, 3], &[]), true), Change::Nothing);
}

#[test]
fn a_change_that_is_half_done_is_completed_whatever_the_catalog_says() {
    let bench = Bench::with_voters(3);
    let mut half = seen(&[2, 3, 4, 9], &[]);
    (half.joint, half.target) = (true, ids(&[3, 4, 9]));
    assert_eq!(bench.next(3, &half, false), Change::Complete);
    assert!(!Change::Complete.hangs_on_the_catalog());
}

#[test]
fn a_move_exchanges_voters_in_one_change_and_the_leader_that_goes_hands_over_first() {
    let mut bench = Bench::with_voters(3);
    bench.begin_move(1, 4);
    let comes = Change::AddLearner(Member { replica: ReplicaId(5), node: NodeId(4) });
    assert_eq!(bench.next(3, &seen(&[2, 3, 4], &[]), false), comes);
    assert_eq!(bench.next(3, &seen(&[2, 3, 4], &[5]), false), Change::Nothing);
    assert_eq!(bench.next(FIRST, &seen(&[2, 3, 4], &[5]), false), Change::Nothing, "nor before the new one is filled");
    assert_eq!(bench.next(FIRST, &seen(&[2, 3, 4], &[5]), true), Change::HandOver);
    assert_eq!(bench.next(3, &seen(&[2, 3, 4], &[5]), true), Change::SetVoters(ids(&[3, 4, 5])));
    assert_eq!(bench.next(3, &seen(&[3, 4, 5], &[]), true), Change::Nothing, "the catalog is told by another");
    // A voter that is kept as a learner, by whatever way, goes.
    bench.send(CatalogCommand::EndOperation { operation: OperationId(1), failure: None, time_ms: 2 });
    assert_eq!(bench.next(3, &seen(&[3, 4, 5], &[2]), true), Change::RemoveLearners(ids(&[2])));
}

#[test]
fn the_only_voter_is_joined_before_it_hands_over_and_goes() {
    let mut bench = Bench::with_voters(1);
    bench.begin_move(1, 4);
    assert_eq!(bench.next(FIRST, &seen(&[2], &[3]), true), Change::SetVoters(ids(&[2, 3])));
    assert_eq!(bench.next(FIRST, &seen(&[2, 3], &[]), true), Change::HandOver);
    assert_eq!(bench.next(3, &seen(&[2, 3], &[]), true), Change::SetVoters(ids(&[3])));
    assert_eq!(bench.next(3, &seen(&[3], &[]), true), Change::Nothing);
}

#[test]
fn a_move_that_was_given_up_goes_back_unless_the_new_replica_votes() {
    let mut bench = Bench::with_voters(3);
    bench.begin_move(1, 4);
    bench.give_up();
    assert_eq!(bench.next(3, &seen(&[2, 3, 4], &[5]), true), Change::RemoveLearners(ids(&[5])));
    assert_eq!(bench.next(3, &seen(&[2, 3, 4], &[]), true), Change::Nothing, "and is not begun again");
    assert_eq!(bench.next(3, &seen(&[3, 4, 5], &[]), true), Change::Nothing, "too late: it is done");
    assert_eq!(bench.next(3, &seen(&[2, 3, 4, 5], &[]), true), Change::SetVoters(ids(&[3, 4, 5])));
}

#[test]
fn a_learner_that_the_catalog_does_not_know_yet_is_left_alone() {
    let mut bench = Bench::with_voters(3);
    let old = Bench(bench.0.clone());
    bench.begin_move(1, 4);
    assert_eq!(old.next(3, &seen(&[2, 3, 4], &[5]), true), Change::Nothing, "this catalog is older than the order");
}
