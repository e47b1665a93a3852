//! Applying a command. Every handler checks everything first and changes the catalog only when nothing can be refused
//! any more, so a refusal leaves no trace.

use std::collections::BTreeMap;

use super::Catalog;
use super::command::{CatalogCommand, CatalogResponse, Refusal};
use super::descriptor::{NodeDescriptor, NodeProfile, ReplicaDescriptor, ReplicaState, ShardDescriptor, ShardState};
use super::operation::Operations;
use crate::ring::TokenRange;
use crate::types::{ClusterId, Epoch, META_SHARD, NodeId, OperationId, ReplicaId, Revision, ShardId};

/// How many replicas a shard may be wanted to have.
pub const REPLICATION_FACTORS: [u8; 3] = [1, 3, 5];
/// Most data shards that a cluster may begin with. Splits make more.
pub const INITIAL_SHARDS_MAX: u32 = 4096;
/// The feature level of a new cluster.
pub const FEATURE_LEVEL_FIRST: u32 = 1;
/// Highest counter of a replica id: it has 48 bits.
pub(super) const REPLICA_COUNTER_MAX: u64 = (1 << 48) - 1;

/// What a command that was not refused did. `changed` decides alone over the catalog's version.
pub(super) struct Done {
    changed: bool,
    answer: Answer,
}

enum Answer {
    Nothing,
    Node(NodeId),
    Replica(ReplicaId),
    Operation { id: OperationId, begun: bool },
}

impl Done {
    pub(super) const NOTHING_TO_DO: Self = Self { changed: false, answer: Answer::Nothing };
    pub(super) const CHANGED: Self = Self { changed: true, answer: Answer::Nothing };

    pub(super) fn node(changed: bool, id: NodeId) -> Self {
        Self { changed, answer: Answer::Node(id) }
    }

    /// `begun` is false for one that was known already.
    pub(super) fn operation(begun: bool, id: OperationId) -> Self {
        Self { changed: begun, answer: Answer::Operation { id, begun } }
    }
}

pub(super) type Result<T, E = Refusal> = std::result::Result<T, E>;

/// Applies one command: the same catalog and command give the same catalog and response everywhere.
///
/// `catalog` is None until a cluster is founded, and Some for ever after.
pub fn apply(catalog: &mut Option<Catalog>, command: &CatalogCommand) -> CatalogResponse {
    let response = match (catalog, command) {
        (Some(catalog), command) => catalog.apply(command),
        (none, CatalogCommand::Found { cluster, replication_factor, initial_shards, revision_base, node }) => {
            found(*cluster, *replication_factor, *initial_shards, *revision_base, node).map(|founded| {
                let response = CatalogResponse::Node { id: FIRST_NODE, version: founded.version };
                *none = Some(founded);
                response
            })
        }
        (None, _) => Err(Refusal::NotFounded),
    };
    response.unwrap_or_else(|why| CatalogResponse::Refused { why })
}

const FIRST_NODE: NodeId = NodeId(1);

fn found(
    cluster: ClusterId,
    replication_factor: u8,
    initial_shards: u32,
    revision_base: Revision,
    node: &NodeProfile,
) -> Result<Catalog> {
    allow(REPLICATION_FACTORS.contains(&replication_factor), "replication_factor", || {
        format!("it is one of {REPLICATION_FACTORS:?}, not {replication_factor}")
    })?;
    allow((1..=INITIAL_SHARDS_MAX).contains(&initial_shards), "initial_shards", || {
        format!("there are 1 to {INITIAL_SHARDS_MAX} of them, not {initial_shards}")
    })?;
    super::nodes::check_profile(node, FEATURE_LEVEL_FIRST)?;
    let founder = ReplicaDescriptor { id: ReplicaId::new(0, 1), node: FIRST_NODE, state: ReplicaState::Voter };
    let meta = ShardDescriptor {
        id: META_SHARD,
        range: None,
        epoch: Epoch(1),
        // Its founder initialized the group, or this command would stand in no log.
        state: ShardState::Live,
        replicas: vec![founder],
        preferred_leader: None,
        leader_chosen: false,
        placement_chosen: false,
    };
    Ok(Catalog {
        version: 1,
        cluster,
        replication_factor,
        initial_shards,
        feature_level: FEATURE_LEVEL_FIRST,
        recovery_generation: 0,
        revision_base,
        next_node: FIRST_NODE.0 + 1,
        next_shard: META_SHARD.0 + 1,
        next_replica: 2,
        nodes: BTreeMap::from([(FIRST_NODE, NodeDescriptor::new(FIRST_NODE, node.clone()))]),
        shards: BTreeMap::from([(META_SHARD, meta)]),
        operations: Operations::default(),
        departed: Vec::new(),
        events: Vec::new(),
    })
}

impl Catalog {
    fn apply(&mut self, command: &CatalogCommand) -> Result<CatalogResponse> {
        let done = match command {
            CatalogCommand::Found { .. } => return Err(Refusal::AlreadyFounded { cluster: self.cluster }),
            CatalogCommand::JoinNode { node, time_ms } => self.join_node(node, *time_ms)?,
            CatalogCommand::CreateShards { placements } => self.create_shards(placements)?,
            CatalogCommand::ShardLive { shard } => self.shard_live(*shard)?,
            CatalogCommand::AddReplica { shard, node, expected_epoch } => {
                self.add_replica(*shard, *node, *expected_epoch)?
            }
            CatalogCommand::ReplicaIsVoter { shard, replica } => self.replica_is_voter(*shard, *replica)?,
            CatalogCommand::ReplicaLeaving { shard, replica } => self.replica_leaving(*shard, *replica)?,
            CatalogCommand::ForgetReplica { shard, replica } => self.forget_replica(*shard, *replica)?,
            CatalogCommand::PreferLeaders { leaders } => self.prefer_leaders(leaders)?,
            CatalogCommand::RaiseFeatureLevel { to } => self.raise_feature_level(*to)?,
            CatalogCommand::BeginOperation { kind, cause, expected_epoch, idempotency_key, time_ms } => {
                self.begin_operation(kind, *cause, *expected_epoch, idempotency_key.as_ref(), *time_ms)?
            }
            CatalogCommand::MarkNode { node, is_dead, time_ms } => self.mark_node(*node, *is_dead, *time_ms)?,
            CatalogCommand::PublishSplit { operation } => self.publish_split(*operation)?,
            CatalogCommand::GiveUpOperation { operation, why } => self.give_up_operation(*operation, why)?,
            CatalogCommand::EndOperation { operation, failure, time_ms } => {
                self.end_operation(*operation, failure.as_ref(), *time_ms)?
            }
        };
        self.version += u64::from(done.changed);
        let version = self.version;
        Ok(match done.answer {
            Answer::Nothing => CatalogResponse::Applied { version },
            Answer::Node(id) => CatalogResponse::Node { id, version },
            Answer::Replica(id) => CatalogResponse::Replica { id, version },
            Answer::Operation { id, begun } => CatalogResponse::Operation { id, begun, version },
        })
    }

    fn create_shards(&mut self, founders: &[NodeId]) -> Result<Done> {
        if self.data_shards().next().is_some() {
            return Err(Refusal::ShardsExist);
        }
        allow(u32::try_from(founders.len()) == Ok(self.initial_shards), "placements", || {
            format!("{} shards need a founder each, {} are given", self.initial_shards, founders.len())
        })?;
        let wanted = u32::from(self.replication_factor);
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        if nodes < wanted {
            return Err(Refusal::TooFewNodes { nodes, wanted });
        }
        if let Some(node) = founders.iter().find(|node| !self.nodes.contains_key(node)) {
            return Err(Refusal::NoSuchNode { node: *node });
        }
        self.check_replica_ids(u64::from(self.initial_shards))?;
        for (range, node) in TokenRange::full().split_evenly(self.initial_shards).into_iter().zip(founders) {
            let id = ShardId(self.next_shard);
            self.next_shard += 1;
            let founder = self.take_replica_id();
            let replica = ReplicaDescriptor { id: founder, node: *node, state: ReplicaState::Joining };
            let shard = ShardDescriptor {
                id,
                range: Some(range),
                epoch: Epoch(1),
                state: ShardState::Creating { founder },
                replicas: vec![replica],
                preferred_leader: None,
                leader_chosen: false,
                placement_chosen: false,
            };
            self.shards.insert(id, shard);
        }
        Ok(Done::CHANGED)
    }

    fn shard_live(&mut self, shard: ShardId) -> Result<Done> {
        let shard = self.shard_mut(shard)?;
        let ShardState::Creating { founder } = shard.state else { return Ok(Done::NOTHING_TO_DO) };
        shard.state = ShardState::Live;
        replica_mut(shard, founder)?.state = ReplicaState::Voter;
        Ok(Done::CHANGED)
    }

    fn add_replica(&mut self, shard: ShardId, node: NodeId, expected_epoch: Epoch) -> Result<Done> {
        self.check_takes_replicas(node)?;
        let descriptor = self.live_shard_mut(shard)?;
        if descriptor.epoch != expected_epoch {
            return Err(Refusal::EpochMismatch { shard, epoch: descriptor.epoch });
        }
        if let Some(replica) = descriptor.replica_on(node) {
            return Err(Refusal::NodeHoldsReplica { shard, node, replica: replica.id });
        }
        self.refuse_held(shard)?;
        self.check_replica_ids(1)?;
        let id = self.take_replica_id();
        let descriptor = self.live_shard_mut(shard)?;
        // Fresh ids are the highest, so the list stays in order.
        descriptor.replicas.push(ReplicaDescriptor { id, node, state: ReplicaState::Joining });
        descriptor.epoch.0 += 1;
        Ok(Done { changed: true, answer: Answer::Replica(id) })
    }

    fn replica_is_voter(&mut self, shard: ShardId, replica: ReplicaId) -> Result<Done> {
        let descriptor = replica_mut(self.live_shard_mut(shard)?, replica)?;
        match descriptor.state {
            ReplicaState::Voter => Ok(Done::NOTHING_TO_DO),
            // Late news of a replica whose leaving was decided meanwhile must not bring it back.
            ReplicaState::Leaving => Err(Refusal::ReplicaIsLeaving { shard, replica }),
            ReplicaState::Joining => {
                descriptor.state = ReplicaState::Voter;
                Ok(Done::CHANGED)
            }
        }
    }

    fn replica_leaving(&mut self, shard: ShardId, replica: ReplicaId) -> Result<Done> {
        let descriptor = self.live_shard_mut(shard)?;
        let another_stays = descriptor.voters().any(|voter| voter.id != replica);
        let leaving = replica_mut(descriptor, replica)?;
        if leaving.state == ReplicaState::Leaving {
            return Ok(Done::NOTHING_TO_DO);
        }
        self.refuse_held(shard)?;
        let descriptor = self.live_shard_mut(shard)?;
        let leaving = replica_mut(descriptor, replica)?;
        if !another_stays {
            return Err(Refusal::LastVoter { shard, replica });
        }
        leaving.state = ReplicaState::Leaving;
        let node = leaving.node;
        if descriptor.preferred_leader == Some(node) {
            (descriptor.preferred_leader, descriptor.leader_chosen) = (None, false);
        }
        Ok(Done::CHANGED)
    }

    fn forget_replica(&mut self, shard: ShardId, replica: ReplicaId) -> Result<Done> {
        // An id that was given out and stands nowhere any more was forgotten before.
        let forgotten = self.replica(replica).is_none() && self.has_given_out(replica);
        let descriptor = self.live_shard_mut(shard)?;
        if forgotten {
            return Ok(Done::NOTHING_TO_DO);
        }
        if replica_mut(descriptor, replica)?.state != ReplicaState::Leaving {
            return Err(Refusal::ReplicaNotLeaving { shard, replica });
        }
        self.refuse_held(shard)?;
        let descriptor = self.live_shard_mut(shard)?;
        descriptor.replicas.retain(|other| other.id != replica);
        descriptor.epoch.0 += 1;
        Ok(Done::CHANGED)
    }

    fn prefer_leaders(&mut self, leaders: &[(ShardId, NodeId)]) -> Result<Done> {
        for (shard, node) in leaders {
            if !self.shard_mut(*shard)?.may_lead(*node) {
                return Err(Refusal::NodeHoldsNoReplica { shard: *shard, node: *node });
            }
        }
        let mut changed = false;
        // Where a shard is named twice, the last one counts and the first one is no change.
        for (shard, node) in leaders.iter().copied().collect::<BTreeMap<_, _>>() {
            let descriptor = self.shard_mut(shard)?;
            // Decided on a catalog in which nobody had chosen yet.
            if descriptor.leader_chosen {
                continue;
            }
            changed |= descriptor.preferred_leader != Some(node);
            descriptor.preferred_leader = Some(node);
        }
        Ok(Done { changed, answer: Answer::Nothing })
    }

    fn raise_feature_level(&mut self, to: u32) -> Result<Done> {
        if to < self.feature_level {
            return Err(Refusal::FeatureLevelLower { level: self.feature_level });
        }
        if let Some(node) = self.nodes.values().find(|node| node.feature_level_max < to) {
            return Err(Refusal::FeatureLevelUnknown { node: node.id, known: node.feature_level_max });
        }
        let changed = self.feature_level != to;
        self.feature_level = to;
        Ok(Done { changed, answer: Answer::Nothing })
    }

    fn shard_mut(&mut self, shard: ShardId) -> Result<&mut ShardDescriptor> {
        self.shards.get_mut(&shard).ok_or(Refusal::NoSuchShard { shard })
    }

    pub(super) fn live_shard_mut(&mut self, shard: ShardId) -> Result<&mut ShardDescriptor> {
        let descriptor = self.shard_mut(shard)?;
        match descriptor.state {
            ShardState::Live => Ok(descriptor),
            ShardState::Creating { .. } => Err(Refusal::ShardNotLive { shard }),
        }
    }

    /// Refuses where an operation has the shard: its replicas are that operation's until it ends.
    fn refuse_held(&self, shard: ShardId) -> Result<()> {
        match self.operations.on_shard(shard) {
            Some(running) => Err(Refusal::OperationRunning { shard, operation: running.id }),
            None => Ok(()),
        }
    }

    /// Refuses unless `count` more replica ids are left. One is always kept back, so that the counter itself stays valid.
    pub(super) fn check_replica_ids(&self, count: u64) -> Result<()> {
        if self.next_replica + count <= REPLICA_COUNTER_MAX { Ok(()) } else { Err(Refusal::ReplicaIdsUsedUp) }
    }

    pub(super) fn take_replica_id(&mut self) -> ReplicaId {
        let id = ReplicaId::new(self.recovery_generation, self.next_replica);
        self.next_replica += 1;
        id
    }
}

fn replica_mut(shard: &mut ShardDescriptor, replica: ReplicaId) -> Result<&mut ReplicaDescriptor> {
    let missing = Refusal::NoSuchReplica { shard: shard.id, replica };
    shard.replicas.iter_mut().find(|descriptor| descriptor.id == replica).ok_or(missing)
}

pub(super) fn allow(allowed: bool, parameter: &str, why: impl FnOnce() -> String) -> Result<()> {
    if allowed { Ok(()) } else { Err(Refusal::BadParameter { parameter: parameter.into(), why: why() }) }
}
