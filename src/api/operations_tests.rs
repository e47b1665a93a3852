//! What a refusal of the catalog is to a client.

use super::*;
use crate::types::{ClusterId, Epoch, ReplicaId, Revision};

#[test]
fn each_reason_not_to_begin_is_a_client_error_that_names_what_stands() {
    let (shard, node, operation) = (ShardId(1), NodeId(2), OperationId(3));
    let cases = [
        (Refusal::NoSuchShard { shard }, 404, "no-such-shard", None),
        (Refusal::NoSuchNode { node }, 404, "no-such-node", None),
        (Refusal::OperationRunning { shard, operation }, 409, "operation-running", Some(("operation", "3"))),
        (Refusal::EpochMismatch { shard, epoch: Epoch(7) }, 409, "epoch-mismatch", Some(("current_epoch", "7"))),
        (Refusal::OperationKeyReused { operation }, 422, "idempotency-key-reuse", Some(("operation", "3"))),
        (Refusal::ShardNotLive { shard }, 422, "cannot-transfer", None),
        (Refusal::NodeHoldsNoReplica { shard, node }, 422, "cannot-transfer", None),
        (Refusal::NodeHoldsReplica { shard, node, replica: ReplicaId(4) }, 422, "cannot-transfer", None),
        (Refusal::ReplicaNotVoter { shard, replica: ReplicaId(4) }, 422, "cannot-transfer", None),
    ];
    for (why, status, code, member) in cases {
        let problem = refused(&why, Code::CannotTransfer);
        assert_eq!(problem.code.status(), status, "{why}");
        let body = problem.body();
        assert_eq!((body["code"].as_str(), body["outcome"].as_str()), (Some(code), Some("not_applied")), "{why}");
        assert_eq!(body["detail"], why.to_string());
        if let Some((name, value)) = member {
            assert_eq!(body[name], value, "{why}");
        }
    }
}

#[test]
fn an_operation_is_told_with_its_progress() {
    let running = Operation {
        id: OperationId(1),
        kind: OperationKind::TransferLeader { shard: ShardId(2), to: NodeId(3) },
        state: OperationState::Running,
        split: None,
        cause: OperationCause::Asked,
        idempotency_key: None,
        begun_ms: 4,
        ended_ms: None,
    };
    let expected = json!({
        "id": "1", "kind": "transfer-leader", "shard": "2", "to": "3", "state": "running", "step": "handing-over",
        "done": 0, "total": 1, "cause": "asked", "idempotency_key": null, "begun_ms": 4, "ended_ms": null,
    });
    let catalog = catalog_of_one_node();
    assert_eq!(told(&catalog, &running), expected);
    let state = OperationState::Failed { why: "no".into() };
    let body = told(&catalog, &Operation { state, ended_ms: Some(5), ..running.clone() });
    assert_eq!((&body["state"], &body["why"], &body["done"]), (&json!("failed"), &json!("no"), &json!(1)));
    let kind = OperationKind::Move { shard: ShardId(2), from: NodeId(3), to: NodeId(4) };
    let state = OperationState::GivingUp { why: "no".into() };
    let body = told(&catalog, &Operation { kind, state, ..running.clone() });
    assert_eq!((&body["state"], &body["step"], &body["done"]), (&json!("giving_up"), &json!("taking-back"), &json!(0)));
    let kind = OperationKind::Drain { node: NodeId(1) };
    let body = told(&catalog, &Operation { kind, ..running });
    assert_eq!((&body["step"], &body["replicas_left"]), (&json!("emptying"), &json!(1)));
}

/// Its meta shard has a replica on it.
fn catalog_of_one_node() -> Catalog {
    let node = catalog::testing::profile(1);
    let (replication_factor, initial_shards, revision_base) = (1, 1, Revision(1));
    let found =
        CatalogCommand::Found { cluster: ClusterId(1), replication_factor, initial_shards, revision_base, node };
    let mut founded = None;
    catalog::apply(&mut founded, &found);
    founded.unwrap()
}
