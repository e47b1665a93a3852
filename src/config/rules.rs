//! The rules between values: what each value's own limits cannot say.

use super::Config;
use super::keys::listen_address;

/// A broken rule: what must hold, and the keys it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BrokenRule {
    pub(super) must: String,
    pub(super) keys: Vec<&'static str>,
}

/// openraft's timer tick is this share of the heartbeat interval.
const TICK_NUMERATOR: u64 = 13;
const TICK_DENOMINATOR: u64 = 64;

/// The first broken rule, if any. Every single value is within its limits already.
pub(super) fn broken_rule(config: &Config) -> Option<BrokenRule> {
    listeners(config).or_else(|| raft_timing(config)).or_else(|| proposals(config))
}

fn broken(must: impl Into<String>, keys: &[&'static str]) -> Option<BrokenRule> {
    Some(BrokenRule { must: must.into(), keys: keys.to_vec() })
}

fn listeners(config: &Config) -> Option<BrokenRule> {
    let http = listen_address(&config.http.listen);
    let peer = listen_address(&config.peer.listen);
    let sides = [
        (http, config.http.advertise.is_some(), "http.listen", "http.advertise"),
        (peer, config.peer.advertise.is_some(), "peer.listen", "peer.advertise"),
    ];
    for (address, advertises, listen_key, advertise_key) in sides {
        let Some(address) = address else { continue };
        if !address.ip().is_loopback() && !config.insecure {
            return broken(
                "there is no TLS yet, so listening beyond loopback must be accepted with insecure = true (--insecure)",
                &[listen_key, "insecure"],
            );
        }
        if address.ip().is_unspecified() && !advertises {
            return broken(
                format!("nobody can dial {}: an advertise address must say how this node is reached", address.ip()),
                &[listen_key, advertise_key],
            );
        }
    }
    if http.is_some_and(|address| address.port() != 0) && http == peer {
        return broken("the two listeners must have addresses of their own", &["http.listen", "peer.listen"]);
    }
    None
}

fn raft_timing(config: &Config) -> Option<BrokenRule> {
    let raft = &config.raft;
    // A busy group skips heartbeats for up to one interval (the minimum between them is the interval itself), and the
    // timer is late by up to one tick. A follower must not campaign before the latest one is due.
    let tick_ms = (raft.heartbeat_ms * TICK_NUMERATOR).div_ceil(TICK_DENOMINATOR);
    let latest_heartbeat_ms = 2 * raft.heartbeat_ms + tick_ms;
    if latest_heartbeat_ms >= raft.election_min_ms {
        return broken(
            format!("a heartbeat can be {latest_heartbeat_ms} ms apart, so that elections must wait longer than that"),
            &["raft.heartbeat_ms", "raft.election_min_ms"],
        );
    }
    // Equal ones would let all followers campaign at once, every time.
    if raft.election_min_ms >= raft.election_max_ms {
        return broken(
            "the longest election timeout must be longer than the shortest",
            &["raft.election_min_ms", "raft.election_max_ms"],
        );
    }
    // The lease is election_max: a leader must not step down before a follower could have taken over.
    if raft.quorum_loss_probe_ms < 2 * raft.election_max_ms {
        return broken(
            "the quorum-loss probe must be at least twice the longest election timeout",
            &["raft.quorum_loss_probe_ms", "raft.election_max_ms"],
        );
    }
    None
}

fn proposals(config: &Config) -> Option<BrokenRule> {
    if config.limits.proposals_per_node < config.limits.proposals_per_shard {
        return broken(
            "the node's limit must be at least the limit of one shard",
            &["limits.proposals_per_node", "limits.proposals_per_shard"],
        );
    }
    None
}
