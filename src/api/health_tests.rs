//! Readiness: what each check looks at.

use std::collections::BTreeMap;

use super::*;
use crate::catalog::{Operations, ReplicaDescriptor, ShardDescriptor};
use crate::ring::TokenRange;
use crate::types::{ClusterId, Epoch, META_SHARD, ReplicaId, Revision, ShardId};

const NODE: NodeId = NodeId(1);

fn shard(id: u64, state: ReplicaState, shard_state: ShardState) -> ShardDescriptor {
    ShardDescriptor {
        id: ShardId(id),
        range: (id > 0).then(TokenRange::full),
        epoch: Epoch(1),
        state: shard_state,
        replicas: vec![ReplicaDescriptor { id: ReplicaId(id + 1), node: NODE, state }],
        preferred_leader: None,
        leader_chosen: false,
        placement_chosen: false,
    }
}

fn catalog(shards: Vec<ShardDescriptor>) -> Catalog {
    Catalog {
        version: 1,
        cluster: ClusterId(1),
        replication_factor: 1,
        initial_shards: 1,
        feature_level: 1,
        recovery_generation: 0,
        revision_base: Revision(0),
        next_node: 2,
        next_shard: 9,
        next_replica: 9,
        nodes: BTreeMap::new(),
        shards: shards.into_iter().map(|shard| (shard.id, shard)).collect(),
        departed: Vec::new(),
        events: Vec::new(),
        operations: Operations::default(),
    }
}

fn report(shard: u64, role: ReportedRole, leader: Option<u64>) -> ReplicaReport {
    ReplicaReport {
        shard: ShardId(shard),
        replica: ReplicaId(shard + 1),
        role,
        failure: None,
        term: 1,
        leader: leader.map(ReplicaId),
        voters: Vec::new(),
        learners: Vec::new(),
        last_index: None,
        committed_index: None,
        applied_index: None,
        flushed_index: None,
        purged_index: None,
        range: None,
        epoch: Epoch(1),
        revision: Revision(0),
        disk_bytes: 0,
        memory_bytes: 0,
    }
}

/// The names of the conditions that are missing.
fn missing(catalog: Option<&Catalog>, reports: &[ReplicaReport], draining: bool) -> Vec<&'static str> {
    let checks = checks(catalog, reports, NODE, draining);
    checks.iter().filter(|check| check.missing.is_some()).map(|check| check.name).collect()
}

#[test]
fn a_node_is_ready_when_every_replica_it_has_knows_its_leader() {
    let live = |state| catalog(vec![shard(META_SHARD.0, state, ShardState::Live), shard(1, state, ShardState::Live)]);
    let voters = live(ReplicaState::Voter);
    let good = [report(0, ReportedRole::Leader, Some(1)), report(1, ReportedRole::Follower, Some(2))];
    assert_eq!(missing(Some(&voters), &good, false), Vec::<&str>::new());
    assert_eq!(missing(Some(&voters), &good, true), ["not-draining"]);
    assert_eq!(missing(Some(&voters), &good[..1], false), ["replicas"], "a voter is not here");
    let leaderless = [good[0].clone(), report(1, ReportedRole::Candidate, None)];
    assert_eq!(missing(Some(&voters), &leaderless, false), ["replicas"]);
    let failed = [good[0].clone(), report(1, ReportedRole::Failed, Some(2))];
    assert_eq!(missing(Some(&voters), &failed, false), ["replicas"]);
    // One on its way out does not count, whatever it knows.
    assert_eq!(missing(Some(&live(ReplicaState::Leaving)), &leaderless, false), Vec::<&str>::new());
}

#[test]
fn a_node_without_replicas_is_ready() {
    let mut elsewhere = catalog(vec![shard(1, ReplicaState::Voter, ShardState::Live)]);
    elsewhere.shards.get_mut(&ShardId(1)).unwrap().replicas[0].node = NodeId(2);
    assert_eq!(missing(Some(&elsewhere), &[], false), Vec::<&str>::new());
}

#[test]
fn a_cluster_that_is_being_made_is_not_ready() {
    assert_eq!(missing(None, &[], false), ["catalog"]);
    let only_meta = catalog(vec![shard(META_SHARD.0, ReplicaState::Voter, ShardState::Live)]);
    let meta = [report(0, ReportedRole::Leader, Some(1))];
    assert_eq!(missing(Some(&only_meta), &meta, false), ["shards"]);
    let creating = ShardState::Creating { founder: ReplicaId(2) };
    let founding = catalog(vec![shard(1, ReplicaState::Joining, creating)]);
    assert_eq!(missing(Some(&founding), &[], false), ["shards"]);
}

#[test]
fn a_cluster_is_ready_when_each_shard_has_as_many_voters_as_were_asked_for() {
    use ReplicaState::{Joining, Voter};
    let others = |states: [ReplicaState; 2]| {
        (2..).zip(states).map(|(node, state)| ReplicaDescriptor { id: ReplicaId(10 * node), node: NodeId(node), state })
    };
    let reports = [report(0, ReportedRole::Leader, Some(1)), report(1, ReportedRole::Leader, Some(2))];
    for (meta, data, filling) in [
        ([Joining, Joining], [Joining, Joining], Some("0, 1")),
        ([Voter, Voter], [Joining, Voter], Some("1")),
        ([Voter, Voter], [Voter, Voter], None),
    ] {
        let mut shards = [META_SHARD.0, 1].map(|id| shard(id, Voter, ShardState::Live));
        shards[0].replicas.extend(others(meta));
        shards[1].replicas.extend(others(data));
        let growing = Catalog { replication_factor: 3, ..catalog(shards.into()) };
        let told = missing_shards(&growing);
        assert_eq!(told.as_deref().and_then(|told| told.rsplit(": ").next()), filling);
        assert_eq!(missing(Some(&growing), &reports, false).is_empty(), filling.is_none());
    }
}

#[test]
fn a_node_that_is_not_ready_says_what_is_missing() {
    let checks = checks(None, &[], NODE, false);
    let response = answer(&checks, false).unwrap_err();
    assert_eq!(response.code, Code::Starting);
    assert!(format!("{response:?}").contains("has not heard the catalog"), "{response:?}");
    assert_eq!(response.into_response().status(), 503);
    let ready: Vec<Check> = checks.into_iter().map(|check| Check { missing: None, ..check }).collect();
    assert_eq!(answer(&ready, true).unwrap().status(), 200);
}
