//! Nodes in the catalog: how they come, drain, are found dead, return and go.

use super::Catalog;
use super::apply::{Done, Result, allow};
use super::command::Refusal;
use super::descriptor::{DepartedNode, NODE_TEXT_BYTES_MAX, NODE_WEIGHT_MAX, NodeDescriptor, NodeProfile};
use super::event::EventKind;
use crate::types::{Epoch, NodeId, ProtocolRange};

impl Catalog {
    /// Taken in, or known by its store and brought up to date.
    pub(super) fn join_node(&mut self, profile: &NodeProfile, time_ms: u64) -> Result<Done> {
        check_profile(profile, self.feature_level)?;
        if let Some(gone) = self.departed.iter().find(|gone| gone.store == profile.store) {
            return Err(Refusal::Decommissioned { node: gone.id });
        }
        let (id, descriptor) = match self.node_by_store(profile.store) {
            Some(known) => (known.id, known.with_profile(profile.clone())),
            None => {
                let id = NodeId(self.next_node);
                self.next_node += 1;
                self.record(EventKind::NodeJoined { node: id }, time_ms);
                (id, NodeDescriptor::new(id, profile.clone()))
            }
        };
        let before = self.nodes.insert(id, descriptor.clone());
        Ok(Done::node(before != Some(descriptor), id))
    }

    pub(super) fn mark_node(&mut self, node: NodeId, is_dead: bool, time_ms: u64) -> Result<Done> {
        let descriptor = self.node_mut(node)?;
        if descriptor.is_dead == is_dead {
            return Ok(Done::NOTHING_TO_DO);
        }
        descriptor.is_dead = is_dead;
        descriptor.epoch.0 += 1;
        if is_dead {
            self.choose_no_longer(node);
        }
        let what = if is_dead { EventKind::NodeDead { node } } else { EventKind::NodeReturned { node } };
        self.record(what, time_ms);
        Ok(Done::CHANGED)
    }

    /// The node is to be empty: checked in full before anything is changed.
    pub(super) fn begin_drain(&mut self, node: NodeId) -> Result<()> {
        let left = self.nodes.values().filter(|other| other.id != node && other.takes_replicas()).count();
        let (left, wanted) = (u32::try_from(left).unwrap_or(u32::MAX), u32::from(self.replication_factor));
        if left < wanted {
            return Err(Refusal::TooFewNodesLeft { node, left, wanted });
        }
        self.set_draining(node, true)?;
        self.choose_no_longer(node);
        Ok(())
    }

    pub(super) fn check_draining(&self, node: NodeId) -> Result<()> {
        let descriptor = self.nodes.get(&node).ok_or(Refusal::NoSuchNode { node })?;
        if descriptor.is_draining { Ok(()) } else { Err(Refusal::NodeNotDraining { node }) }
    }

    pub(super) fn set_draining(&mut self, node: NodeId, is_draining: bool) -> Result<()> {
        let descriptor = self.node_mut(node)?;
        descriptor.epoch.0 += u64::from(descriptor.is_draining != is_draining);
        descriptor.is_draining = is_draining;
        Ok(())
    }

    /// Out for good. Its id and its store are never taken in again.
    pub(super) fn remove_node(&mut self, node: NodeId, time_ms: u64) -> Result<()> {
        let replicas = self.replicas_on(node).count();
        if replicas > 0 {
            return Err(Refusal::NodeNotEmpty { node, replicas: u32::try_from(replicas).unwrap_or(u32::MAX) });
        }
        let removed = self.nodes.remove(&node).ok_or(Refusal::NoSuchNode { node })?;
        self.departed.push(DepartedNode { id: node, store: removed.store });
        self.record(EventKind::NodeLeft { node }, time_ms);
        Ok(())
    }

    pub(super) fn check_takes_replicas(&self, node: NodeId) -> Result<()> {
        let descriptor = self.nodes.get(&node).ok_or(Refusal::NoSuchNode { node })?;
        if descriptor.takes_replicas() { Ok(()) } else { Err(Refusal::NodeTakesNoReplicas { node }) }
    }

    pub(super) fn check_node_epoch(&self, node: NodeId, expected: Option<Epoch>) -> Result<()> {
        let epoch = self.nodes.get(&node).ok_or(Refusal::NoSuchNode { node })?.epoch;
        match expected {
            Some(expected) if expected != epoch => Err(Refusal::NodeEpochMismatch { node, epoch }),
            _ => Ok(()),
        }
    }

    /// Leaders that somebody chose there are chosen no longer: the balance finds others.
    fn choose_no_longer(&mut self, node: NodeId) {
        for shard in self.shards.values_mut().filter(|shard| shard.preferred_leader == Some(node)) {
            (shard.preferred_leader, shard.leader_chosen) = (None, false);
        }
    }

    fn node_mut(&mut self, node: NodeId) -> Result<&mut NodeDescriptor> {
        self.nodes.get_mut(&node).ok_or(Refusal::NoSuchNode { node })
    }
}

/// Refuses what a node says of itself where placement, routing or handshakes could not work with it.
pub(super) fn check_profile(profile: &NodeProfile, feature_level: u32) -> Result<()> {
    allow((1..=NODE_WEIGHT_MAX).contains(&profile.weight), "weight", || {
        format!("it is 1 to {NODE_WEIGHT_MAX}, not {}", profile.weight)
    })?;
    for (name, text) in [("http", &profile.http), ("peer", &profile.peer)] {
        allow(!text.is_empty(), name, || "it is empty".into())?;
    }
    let texts = [&profile.http, &profile.peer, &profile.zone, &profile.host];
    for (name, text) in ["http", "peer", "zone", "host"].into_iter().zip(texts) {
        allow(text.len() <= NODE_TEXT_BYTES_MAX, name, || format!("it is longer than {NODE_TEXT_BYTES_MAX} bytes"))?;
    }
    let ProtocolRange { min, max } = profile.protocol;
    allow(min <= max, "protocol", || format!("{min} to {max} is no range"))?;
    if profile.feature_level_max < feature_level {
        return Err(Refusal::ReleaseTooOld { level: feature_level, known: profile.feature_level_max });
    }
    Ok(())
}
