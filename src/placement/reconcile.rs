//! From what is to what is wanted, one safe, idempotent step at a time. Nothing here remembers anything: each round reads
//! the catalog and the groups anew, so that a crash at any step is resumed by whoever looks next.
//!
//! Three parts, each with one owner:
//! - every node makes the replicas that the catalog places on it ([`Reconciler::local_round`]);
//! - the leader of a shard takes ordered replicas in, completes a half-done change, hands leadership to whom the catalog
//!   prefers ([`Reconciler::leader_round`]);
//! - the leader of the meta group decides what is wanted ([`Reconciler::meta_round`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::membership::{Change, next_change};
use super::operate::Operator;
use super::{plan, splits};
use crate::catalog::{
    Catalog, CatalogCommand, CatalogResponse, NodeDescriptor, NodeProfile, OperationCause, OperationKind,
    ReplicaDescriptor, ReplicaState, ShardDescriptor, ShardState,
};
use crate::clock::{self, Moment};
use crate::method::Method;
use crate::mutants::crash_at;
use crate::raft::{Member, MembershipView, Replica};
use crate::router::Router;
use crate::shard::Group;
use crate::shard::host::birth_command;
use crate::storage::reserve::Room;
use crate::transport::Lane;
use crate::types::{META_SHARD, NodeId, ReplicaId};
use crate::wire::Wire;

/// Between two rounds when nothing changed; a newer catalog starts one at once.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// One step's deadline.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a group's leader is asked who belongs to it.
const PROOF_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a target is asked whether it would lead.
const READY_TIMEOUT: Duration = Duration::from_millis(300);
/// After a hand-over was begun, the shard is left alone for so long.
const TRANSFER_PAUSE: Duration = Duration::from_secs(5);
/// A learner this many entries behind becomes a voter: the rest comes faster than a joint change.
const PROMOTION_LAG_MAX: u64 = 100;
/// Replicas that the meta leader orders in one round.
const ORDERS_PER_ROUND_MAX: usize = 16;

pub struct Reconciler {
    router: Router,
    /// What this node says of itself; the catalog is kept to it.
    profile: NodeProfile,
    transfers: BTreeMap<ReplicaId, Moment>,
    operator: Operator,
    /// The version of the catalog in which every replica was found where it is wanted: planning it again says the same.
    at_rest: Option<u64>,
}

impl Reconciler {
    pub fn new(router: Router, profile: NodeProfile) -> Self {
        Self { router, profile, transfers: BTreeMap::new(), operator: Operator::default(), at_rest: None }
    }

    /// Goes on until cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut catalog = self.router.watch_catalog();
        loop {
            let known = catalog.borrow_and_update().clone();
            if let Some(known) = known {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.round(&known) => {}
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _ = catalog.changed() => {}
                () = tokio::time::sleep(ROUND_PAUSE) => {}
            }
        }
    }

    async fn round(&mut self, catalog: &Arc<Catalog>) {
        self.local_round(catalog).await;
        let own_room = self.router.host().rooms().own();
        for group in self.router.host().groups() {
            // The meta group is led from wherever it is: what it writes is little.
            if own_room >= Room::BelowHard && group.shard() != META_SHARD && group.replica().is_leader() {
                self.give_away(group.replica()).await;
            }
            if group.replica().is_leader()
                && let Some(shard) = catalog.shards.get(&group.shard())
                && shard.state == ShardState::Live
            {
                self.leader_round(&group, catalog, shard).await;
            }
        }
        // The meta leader decides on its own catalog, not on a copy that may be older.
        let meta = self.router.host().group(META_SHARD).filter(|group| group.replica().is_leader());
        let own = self.router.host().meta_catalog().borrow().clone();
        if let (Some(_), Some(own)) = (meta, own) {
            self.meta_round(&own).await;
        }
    }

    /// Makes what the catalog places on this node.
    async fn local_round(&self, catalog: &Catalog) {
        let host = self.router.host();
        let me = host.node();
        if let Some(descriptor) = catalog.nodes.get(&me)
            && *descriptor != descriptor.with_profile(self.profile.clone())
        {
            let node = self.profile.clone();
            self.propose(CatalogCommand::JoinNode { node, time_ms: clock::wall_ms() }).await;
        }
        for (shard, replica) in catalog.replicas_on(me) {
            let made = match shard.state {
                ShardState::Creating { founder } if founder == replica.id => {
                    self.found(catalog, shard, replica.id).await
                }
                ShardState::Live
                    if replica.state == ReplicaState::Joining
                        || (replica.state == ReplicaState::Voter
                            && shard.range.is_some_and(|range| host.missed_birth(replica.id, range))) =>
                {
                    host.add_empty(shard.id, replica.id).await.map_err(|error| error.to_string())
                }
                _ => Ok(()),
            };
            if let Err(error) = made {
                warn!(shard = %shard.id, replica = %replica.id, error, "this replica could not be made yet");
            }
        }
    }

    async fn found(&self, catalog: &Catalog, shard: &ShardDescriptor, replica: ReplicaId) -> Result<(), String> {
        let Some(birth) = birth_command(catalog, shard.id) else {
            return Err("the catalog gives it no range".into());
        };
        // A shard that was born needs no second birth, only the catalog's notice: this node may no longer lead it.
        let host = self.router.host();
        let born = host.by_replica(replica).is_some_and(|group| group.replica().is_born());
        if !born {
            host.found(shard.id, replica, birth).await.map_err(|error| error.to_string())?;
        }
        self.propose(CatalogCommand::ShardLive { shard: shard.id }).await;
        Ok(())
    }

    /// What the leader of a shard does for it: one step a round.
    async fn leader_round(&mut self, group: &Group, catalog: &Catalog, shard: &ShardDescriptor) {
        let replica = group.replica();
        let members = replica.members();
        // What is half done, or left over, is settled first: a split wants settled members.
        if splits::is_due(catalog, shard.id) && !members.joint && members.learners.is_empty() {
            if let Some(command) = splits::step(&self.router, group, catalog).await {
                self.propose(command).await;
            }
            return;
        }
        let is_caught_up = |learner| is_caught_up(replica, learner);
        let next =
            |seen: &MembershipView, catalog: &Catalog| next_change(replica.id(), seen, catalog, shard.id, is_caught_up);
        let seen = replica.members();
        let change = next(&seen, catalog);
        if change.hangs_on_the_catalog() {
            // What is asked for is asked for by the newest catalog, read after the membership: an older one might begin a
            // move again that was given up (`models` §14).
            if !replica.may_change_members() {
                return;
            }
            let seen = replica.members();
            let deadline = clock::now().after(STEP_TIMEOUT);
            match self.router.newest_catalog(deadline).await {
                Ok(newest) => self.change(replica, &seen, next(&seen, &newest)).await,
                Err(error) => debug!(shard = %shard.id, %error, "the newest catalog is not known"),
            }
            return;
        }
        match change {
            Change::Nothing if catalog.moves_away_from(shard.id).is_some() => return,
            Change::Nothing => {}
            change => return self.change(replica, &seen, change).await,
        }
        if let Some(preferred) = shard.preferred_leader
            && preferred != self.router.host().node()
            && self.router.host().rooms().of(preferred) == Room::Ample
        {
            self.hand_over(replica, |member| member.node == preferred).await;
        }
    }

    async fn change(&mut self, replica: &Replica, seen: &MembershipView, change: Change) {
        let deadline = clock::now().after(STEP_TIMEOUT);
        let shard = replica.shard();
        let done = match change.clone() {
            Change::Nothing => return,
            Change::Complete => replica.set_voters(seen.target.clone(), seen, deadline).await,
            Change::AddLearner(member) => replica.add_learner(member, seen, deadline).await,
            Change::RemoveLearners(learners) => replica.remove_learners(learners, seen, deadline).await,
            Change::SetVoters(voters) => replica.set_voters(voters, seen, deadline).await,
            Change::HandOver => {
                let own = replica.id();
                return self.hand_over(replica, |member| member.replica != own).await;
            }
            Change::TellVoter(voter) => {
                return self.propose(CatalogCommand::ReplicaIsVoter { shard, replica: voter }).await;
            }
        };
        // The membership is read again in the next round, whatever came of it.
        match done {
            Ok(()) => {
                info!(%shard, ?change, "membership changed");
                if matches!(change, Change::AddLearner(_)) {
                    crash_at!("learner-added");
                }
                if matches!(change, Change::SetVoters(_)) {
                    crash_at!("voters-changed");
                }
            }
            Err(error) => debug!(%shard, ?change, %error, "a membership step will be tried again"),
        }
    }

    /// Gives leadership to whoever has more room on its disk than this node (`architecture` §8).
    async fn give_away(&mut self, replica: &Replica) {
        let rooms = self.router.host().rooms().clone();
        self.hand_over(replica, |member| rooms.of(member.node) < rooms.own()).await;
    }

    /// Gives leadership to the best placed of the voters that are wanted, if that would succeed now.
    async fn hand_over(&mut self, replica: &Replica, is_wanted: impl Fn(&Member) -> bool) {
        let now = clock::now();
        self.transfers.retain(|_, left_alone_until| *left_alone_until > now);
        if self.transfers.contains_key(&replica.id()) {
            return;
        }
        let Some(target) = replica.transfer_candidates().into_iter().find(is_wanted) else { return };
        let to = target.node;
        if ready_to_lead(&self.router, target).await && replica.transfer_leader(target.replica).await.is_ok() {
            self.transfers.insert(replica.id(), clock::now().after(TRANSFER_PAUSE));
            debug!(shard = %replica.shard(), %to, "handing leadership over");
            crash_at!("handing-over");
        }
    }

    /// What the leader of the meta group decides for all.
    async fn meta_round(&mut self, catalog: &Catalog) {
        let nodes = catalog.nodes.len();
        if catalog.data_shards().next().is_none() {
            if nodes >= usize::from(catalog.replication_factor) {
                self.propose(CatalogCommand::CreateShards { placements: plan::founders(catalog) }).await;
            }
            self.order_replicas(catalog).await;
            return;
        }
        if self.at_rest != Some(catalog.version) {
            let is_ordered = self.order_replicas(catalog).await;
            let moves = plan::next_moves(catalog);
            self.at_rest = (is_ordered && moves.is_empty()).then_some(catalog.version);
            for step in moves {
                self.begin_move(catalog, step).await;
            }
        }
        self.replace_orders(catalog).await;
        self.prefer_leaders(catalog).await;
        for end in self.operator.round(&self.router, catalog).await {
            self.propose(end).await;
            crash_at!("operation-ended");
        }
    }

    /// Orders replicas for shards that have fewer than wanted. Says whether none has.
    async fn order_replicas(&self, catalog: &Catalog) -> bool {
        let wanted = plan::wanted(catalog);
        let mut orders = 0;
        for shard in catalog.shards.values().filter(|shard| shard.state == ShardState::Live) {
            let want = wanted.get(&shard.id).map(Vec::as_slice).unwrap_or_default();
            if shard.replicas.len() >= want.len() {
                continue;
            }
            let Some(node) = want.iter().find(|node| shard.replica_on(**node).is_none()) else { continue };
            let order = CatalogCommand::AddReplica { shard: shard.id, node: *node, expected_epoch: shard.epoch };
            self.propose(order).await;
            orders += 1;
            if orders == ORDERS_PER_ROUND_MAX {
                break;
            }
        }
        orders == 0
    }

    /// A replica that was ordered and is not in its group yet, on a node that is dead or drains by now, is ordered
    /// elsewhere: first it leaves, then, on proof that its group is without it, it is forgotten.
    async fn replace_orders(&self, catalog: &Catalog) {
        let free = |shard: &&ShardDescriptor| {
            shard.state == ShardState::Live && catalog.operations.on_shard(shard.id).is_none()
        };
        let takes = |node: &NodeId| catalog.nodes.get(node).is_some_and(NodeDescriptor::takes_replicas);
        let mut ordered = Vec::new();
        for shard in catalog.shards.values().filter(free) {
            ordered.extend(shard.replicas.iter().map(|replica| (shard.id, *replica)));
        }
        // All at once: a group that does not answer is not to hold the others up.
        let steps = ordered.into_iter().map(|(shard, ReplicaDescriptor { id: replica, node, state })| {
            let leaves = state == ReplicaState::Joining && !takes(&node);
            async move {
                if leaves {
                    self.propose(CatalogCommand::ReplicaLeaving { shard, replica }).await;
                } else if state == ReplicaState::Leaving {
                    let members = self.router.members(shard, clock::now().after(PROOF_TIMEOUT)).await;
                    if members.is_ok_and(|members| members.are_without(replica)) {
                        self.propose(CatalogCommand::ForgetReplica { shard, replica }).await;
                    }
                }
            }
        });
        futures::future::join_all(steps).await;
    }

    async fn begin_move(&self, catalog: &Catalog, step: plan::Move) {
        let plan::Move { shard, from, to } = step;
        self.propose(CatalogCommand::BeginOperation {
            kind: OperationKind::Move { shard, from, to },
            cause: OperationCause::Placement,
            // Planned on a catalog in which the shard looked like this.
            expected_epoch: catalog.shards.get(&shard).map(|shard| shard.epoch),
            idempotency_key: None,
            time_ms: clock::wall_ms(),
        })
        .await;
    }

    async fn prefer_leaders(&self, catalog: &Catalog) {
        // Leaders are spread once the shards are whole; before that they would move with every new replica.
        let whole = |shard: &ShardDescriptor| shard.voters().count() >= usize::from(catalog.replication_factor);
        if !catalog.shards.values().all(whole) {
            return;
        }
        let stay = |shard: &ShardDescriptor| {
            let goes = catalog.moves_away_from(shard.id);
            shard.voters().map(|voter| voter.node).filter(|node| Some(*node) != goes).collect()
        };
        let voters = catalog.shards.values().map(|shard| (shard.id, stay(shard)));
        let leaders = plan::wanted_leaders(catalog, &voters.collect());
        let differs = |(shard, node): &(_, NodeId)| catalog.shards[shard].preferred_leader != Some(*node);
        if leaders.iter().any(differs) {
            self.propose(CatalogCommand::PreferLeaders { leaders }).await;
        }
    }

    async fn propose(&self, command: CatalogCommand) {
        let deadline = clock::now().after(STEP_TIMEOUT);
        match self.router.propose_catalog(command.clone(), deadline).await {
            Ok(CatalogResponse::Refused { why }) => debug!(%why, ?command, "the catalog refused a step"),
            Ok(_) => info!(?command, "catalog changed"),
            Err(error) => debug!(%error, ?command, "a step will be tried again"),
        }
    }
}

/// Whether a replica would accept leadership now: asked first, because a failed transfer costs an election.
pub async fn ready_to_lead(router: &Router, target: Member) -> bool {
    let request = target.replica.to_bytes();
    let method = Method::ReadyToLead as u8;
    let asked = router.host().peers().call(target.node, Lane::Control, method, request, READY_TIMEOUT).await;
    asked.is_ok_and(|reply| bool::from_bytes(reply.body) == Ok(true))
}

fn is_caught_up(leader: &Replica, learner: ReplicaId) -> bool {
    let status = leader.status();
    let matched = status.matched.get(&learner).copied().flatten();
    matched.is_some_and(|matched| matched + PROMOTION_LAG_MAX >= status.last_index.unwrap_or(0))
}
