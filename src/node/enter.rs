//! How a node comes into a cluster, once in the life of its data directory: it founds one or is taken in.
//!
//! A founder with seeds founds only when every seed answered that it knows no cluster: a silent seed is waited for, one
//! that knows a cluster is joined. So a founder that lost its disk never founds a second cluster (`architecture` §3).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::Error;
use super::directory::Directory;
use super::identity::{Founding, Identity};
use crate::api::peer::{Joined, WhoIs};
use crate::catalog::{Catalog, NodeProfile};
use crate::clock;
use crate::config::ClusterConfig;
use crate::method::Method;
use crate::storage::Disk;
use crate::transport::{CallError, HandshakeError, Lane, NotSent, Peers, Refusal};
use crate::types::{ClusterId, NodeId, Revision};
use crate::wire::Wire;

/// Longest time one seed is waited for.
const WHO_IS_TIMEOUT: Duration = Duration::from_secs(2);
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two rounds over the seeds.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// A round that fails is logged every so many rounds, not at each.
const LOG_EVERY_ROUNDS: u32 = 25;
/// The first node's id, given by the catalog's founding command.
const FIRST_NODE: NodeId = NodeId(1);

/// What the seeds say, taken together.
enum Seeds {
    /// This one knows a cluster.
    KnowCluster(String),
    /// All answered, none knows a cluster, and none with precedence would found one.
    Free,
    NotYet(String),
}

/// Returns once the identity says which cluster and node this is, durably. Says in `awaited` what it waits for.
pub(super) async fn enter(
    config: &ClusterConfig,
    profile: &NodeProfile,
    identity: &mut Identity,
    disk: &dyn Disk,
    peers: &Peers,
    directory: &Directory,
    awaited: &watch::Sender<String>,
) -> Result<(), Error> {
    if !config.bootstrap && config.join.is_empty() {
        return Err(Error::NoWayIn);
    }
    let mut round: u32 = 0;
    loop {
        let why = match ask_seeds(config, identity, peers).await {
            Seeds::KnowCluster(seed) => match join(&seed, profile, peers).await {
                Ok(joined) => return take_in(joined, identity, disk, directory),
                Err(why) => format!("{seed} did not take this node in: {why}"),
            },
            Seeds::Free if config.bootstrap => return found(config, identity, disk, directory),
            Seeds::Free => "no seed knows a cluster yet".into(),
            Seeds::NotYet(why) => why,
        };
        if round.is_multiple_of(LOG_EVERY_ROUNDS) {
            warn!(why, "not in a cluster yet; trying on");
        }
        awaited.send_replace(format!("this node is not in a cluster yet: {why}"));
        round = round.wrapping_add(1);
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

async fn ask_seeds(config: &ClusterConfig, identity: &Identity, peers: &Peers) -> Seeds {
    let mut silent = None;
    for seed in &config.join {
        match who_is(seed, peers).await {
            Ok(None) => {}
            Ok(Some(who)) if who.cluster.is_some() && who.node.is_some() => return Seeds::KnowCluster(seed.clone()),
            // Two founders that see each other: the lower store id founds, the other joins it.
            Ok(Some(who)) if who.would_found && who.store < identity.store => {
                silent = Some(format!("{seed} is about to found a cluster"));
            }
            Ok(Some(_)) => {}
            Err(why) => silent = Some(format!("{seed} does not answer: {why}")),
        }
    }
    silent.map_or(Seeds::Free, Seeds::NotYet)
}

/// Refuses where a seed answers for another cluster than the data directory's. Silent seeds are no reason: they may be down,
/// and are waited for up to [`WHO_IS_TIMEOUT`].
pub(super) async fn refuse_another_cluster(
    config: &ClusterConfig,
    ours: ClusterId,
    peers: &Peers,
) -> Result<(), Error> {
    let probes = config.join.iter().map(|seed| async move { (seed, peers.probe(seed, WHO_IS_TIMEOUT).await) });
    for (seed, probed) in futures::future::join_all(probes).await {
        let Err(NotSent::Handshake { error, .. }) = probed else { continue };
        if let Some(Refusal::WrongCluster { refuser, refused }) = error.refusal() {
            let theirs = if *refuser == ours { *refused } else { *refuser };
            return Err(Error::WrongCluster { ours, theirs, seed: seed.clone() });
        }
    }
    Ok(())
}

/// None when the seed is this node itself.
async fn who_is(seed: &str, peers: &Peers) -> Result<Option<WhoIs>, String> {
    match peers.call_address(seed, Lane::Control, Method::WhoIs as u8, bytes::Bytes::new(), WHO_IS_TIMEOUT).await {
        Ok(reply) => WhoIs::from_bytes(reply.body).map(Some).map_err(|error| error.to_string()),
        Err(CallError::NotSent(NotSent::Handshake {
            error:
                HandshakeError::RefusedByRemote(Refusal::SameStore { .. })
                | HandshakeError::RefusedRemote(Refusal::SameStore { .. }),
            ..
        })) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

async fn join(seed: &str, profile: &NodeProfile, peers: &Peers) -> Result<Joined, String> {
    let request = profile.to_bytes();
    match peers.call_address(seed, Lane::Data, Method::Join as u8, request, JOIN_TIMEOUT).await {
        Ok(reply) => Joined::from_bytes(reply.body).map_err(|error| error.to_string()),
        Err(CallError::Refused { body, .. }) => Err(String::from_utf8_lossy(&body).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn take_in(joined: Joined, identity: &mut Identity, disk: &dyn Disk, directory: &Directory) -> Result<(), Error> {
    let catalog = Catalog::from_bytes(joined.catalog).map_err(Error::UnreadableCatalog)?;
    identity.cluster = Some(joined.cluster);
    identity.node = Some(joined.node);
    identity.save(disk)?;
    directory.set_membership(joined.cluster, joined.node);
    directory.offer(Arc::new(catalog));
    info!(cluster = %joined.cluster, node = %joined.node, "joined");
    Ok(())
}

fn found(config: &ClusterConfig, identity: &mut Identity, disk: &dyn Disk, directory: &Directory) -> Result<(), Error> {
    /// Revisions of one millisecond at the founding: what a restored cluster may lie behind without meeting old ones.
    const REVISIONS_PER_MS_BITS: u32 = 20;
    let cluster = ClusterId(clock::random_u128());
    identity.cluster = Some(cluster);
    identity.node = Some(FIRST_NODE);
    identity.founding = Some(Founding {
        replication_factor: config.replication_factor,
        shards: config.shards,
        revision_base: Revision(clock::wall_ms() << REVISIONS_PER_MS_BITS),
    });
    identity.save(disk)?;
    directory.set_membership(cluster, FIRST_NODE);
    info!(%cluster, "founding a cluster");
    Ok(())
}
