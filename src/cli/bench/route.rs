//! Whom a request is sent to: the leader of its key's shard by the shard map, or the nodes that were given.
//!
//! A leader is learned from the map, and from every 421; it is forgotten when it cannot be reached or says that it does
//! not lead, and the map is then fetched again, at most every [`REFRESH_PAUSE`]. Meanwhile requests go to any node, which
//! forwards them.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::super::client::{Endpoint, Request};
use super::super::exit::Failure;
use super::args;
use super::line::Node;
use crate::ring::{Ring, TokenRange, token_of};
use crate::transport::dial::Net;
use crate::types::ShardId;

pub(super) const SHARD_MAP: &str = "/v1/shardmap";
/// Between two questions for the shard map, in a cluster that changes.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);
/// Longest wait for one node's map.
const REFRESH_WAIT: Duration = Duration::from_secs(1);

/// `/v1/shardmap`, as far as it is needed.
#[derive(Debug, Deserialize)]
struct ShardMap {
    shards: Vec<MappedShard>,
}

#[derive(Debug, Deserialize)]
struct MappedShard {
    id: ShardId,
    range: TokenRange,
    leader_http: Option<String>,
}

/// Where a request goes.
pub(super) struct Choice {
    pub(super) node: Arc<Node>,
    pub(super) shard: Option<ShardId>,
    /// The node is the leader, as far as is known: it need not forward.
    pub(super) direct: bool,
}

struct Table {
    /// Those of `--endpoints` first.
    nodes: Vec<Arc<Node>>,
    ring: Option<Ring<ShardId>>,
    /// Places in `nodes`.
    leaders: HashMap<ShardId, usize>,
}

impl Table {
    fn place_of(&mut self, address: &str) -> Option<usize> {
        let endpoint = Endpoint::parse(address).ok()?;
        if let Some(place) = self.nodes.iter().position(|node| node.endpoint == endpoint) {
            return Some(place);
        }
        self.nodes.push(Node::new(endpoint));
        Some(self.nodes.len() - 1)
    }
}

pub(super) struct Route {
    table: RwLock<Table>,
    /// How many of the nodes were given by the user. Never zero.
    given: usize,
    leader_aware: bool,
    outdated: Notify,
    net: Arc<dyn Net>,
}

impl Route {
    /// Knows of no shard yet: with [`args::Route::Leader`], `install` comes next.
    pub(super) fn new(route: args::Route, endpoints: &[Endpoint], net: Arc<dyn Net>) -> Self {
        let nodes: Vec<_> = endpoints.iter().cloned().map(Node::new).collect();
        let given = nodes.len();
        assert!(given > 0, "a route without nodes leads nowhere");
        let table = RwLock::new(Table { nodes, ring: None, leaders: HashMap::new() });
        Self { table, given, leader_aware: route == args::Route::Leader, outdated: Notify::new(), net }
    }

    pub(super) fn net(&self) -> &dyn Net {
        &*self.net
    }

    /// Takes a shard map.
    pub(super) fn install(&self, map: &[u8]) -> Result<(), String> {
        let map: ShardMap = serde_json::from_slice(map).map_err(|error| error.to_string())?;
        let ring = Ring::new(map.shards.iter().map(|shard| (shard.range, shard.id)).collect())
            .map_err(|error| error.to_string())?;
        let mut table = self.table.write().expect("nobody panics while holding it");
        table.ring = Some(ring);
        let leaders = map.shards.iter().filter_map(|shard| Some((shard.id, shard.leader_http.as_deref()?)));
        table.leaders =
            leaders.filter_map(|(shard, address)| Some((shard, table.place_of(address)?))).collect::<HashMap<_, _>>();
        Ok(())
    }

    /// The first map, for which a run waits. Nothing to do where requests go to any node.
    pub(super) fn install_first(&self, answer: &super::super::client::Answer) -> Result<(), Failure> {
        self.install(&answer.body)
            .map_err(|reason| Failure::BadAnswer { endpoint: answer.endpoint.to_string(), reason })
    }

    pub(super) fn is_leader_aware(&self) -> bool {
        self.leader_aware
    }

    /// `seat` tells the senders apart; each has its node among those that were given.
    pub(super) fn choose(&self, key: &[u8], seat: usize) -> Choice {
        let table = self.table.read().expect("nobody panics while holding it");
        let shard = table.ring.as_ref().map(|ring| *ring.find(token_of(key)));
        let leader = shard.and_then(|shard| table.leaders.get(&shard));
        match leader {
            Some(place) => Choice { node: table.nodes[*place].clone(), shard, direct: true },
            None => Choice { node: table.nodes[seat % self.given].clone(), shard, direct: false },
        }
    }

    /// A node says who leads the shard.
    pub(super) fn learn(&self, shard: Option<ShardId>, leader: &str) {
        let Some(shard) = shard else { return };
        let mut table = self.table.write().expect("nobody panics while holding it");
        if let Some(place) = table.place_of(leader) {
            table.leaders.insert(shard, place);
        }
    }

    /// The node did not lead the shard, or was not there.
    pub(super) fn forget(&self, choice: &Choice) {
        let Some(shard) = choice.shard.filter(|_| choice.direct) else { return };
        let mut table = self.table.write().expect("nobody panics while holding it");
        let leads = table.leaders.get(&shard).map(|place| Arc::ptr_eq(&table.nodes[*place], &choice.node));
        // Somebody else may have learned of another since.
        if leads == Some(true) {
            table.leaders.remove(&shard);
        }
        self.outdated.notify_one();
    }

    /// Fetches the map again whenever a leader was forgotten. Never ends.
    pub(super) async fn keep_fresh(&self) {
        let mut first = 0;
        loop {
            self.outdated.notified().await;
            let nodes = self.table.read().expect("nobody panics while holding it").nodes.clone();
            // Another one first each time: one that is not up to date must not be asked for ever.
            first += 1;
            for node in nodes.iter().cycle().skip(first % nodes.len()).take(nodes.len()) {
                let (request, mut sent) = (Request::get(SHARD_MAP), false);
                let asked = timeout(REFRESH_WAIT, node.exchange(self.net(), &request, &mut sent)).await;
                if let Ok(Ok(reply)) = asked
                    && reply.status.is_success()
                    && self.install(&reply.body).is_ok()
                {
                    break;
                }
            }
            tokio::time::sleep(REFRESH_PAUSE).await;
            let table = self.table.read().expect("nobody panics while holding it");
            let known = table.ring.as_ref().is_some_and(|ring| table.leaders.len() == ring.iter().len());
            if !known {
                self.outdated.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::dial::TcpNet;

    fn map(first: &str, second: &str) -> String {
        format!(
            r#"{{"version": "3", "shards": [
                {{"id": "1", "range": {{"first": "0000000000000000", "last": "7fffffffffffffff"}}, "leader_http": {first}}},
                {{"id": "2", "range": {{"first": "8000000000000000", "last": "ffffffffffffffff"}}, "leader_http": {second}}}]}}"#
        )
    }

    fn route() -> Route {
        let endpoints = ["a:1", "b:1"].map(|text| Endpoint::parse(text).unwrap());
        Route::new(args::Route::Leader, &endpoints, Arc::new(TcpNet))
    }

    /// A key of each shard.
    fn keys() -> [Vec<u8>; 2] {
        let in_first = |key: &Vec<u8>| token_of(key).0 < 1 << 63;
        let all = || (0..100_u32).map(|number| number.to_string().into_bytes());
        [all().find(in_first).unwrap(), all().find(|key| !in_first(key)).unwrap()]
    }

    fn chosen(route: &Route, key: &[u8], seat: usize) -> (String, bool) {
        let choice = route.choose(key, seat);
        (choice.node.endpoint.to_string(), choice.direct)
    }

    #[test]
    fn requests_go_to_the_leader_of_their_shard_and_without_one_to_a_node_that_was_given() {
        let route = route();
        let [first, second] = keys();
        assert_eq!(chosen(&route, &first, 0), ("http://a:1".to_string(), false));
        route.install(map(r#""c:1""#, "null").as_bytes()).unwrap();
        assert_eq!(chosen(&route, &first, 0), ("http://c:1".to_string(), true));
        for (seat, node) in [(0, "http://a:1"), (1, "http://b:1"), (2, "http://a:1"), (3, "http://b:1")] {
            assert_eq!(chosen(&route, &second, seat), (node.to_string(), false), "c was not given");
        }
    }

    #[test]
    fn a_leader_is_learned_and_forgotten_and_no_other_one_by_mistake() {
        let route = route();
        let [first, _] = keys();
        route.install(map(r#""a:1""#, r#""b:1""#).as_bytes()).unwrap();
        let old = route.choose(&first, 0);
        route.learn(old.shard, "d:1");
        assert_eq!(chosen(&route, &first, 0), ("http://d:1".to_string(), true));
        route.forget(&old);
        assert_eq!(chosen(&route, &first, 0), ("http://d:1".to_string(), true), "a late answer of the old one");
        route.forget(&route.choose(&first, 0));
        assert_eq!(chosen(&route, &first, 1), ("http://b:1".to_string(), false));
    }

    #[test]
    fn a_map_with_a_hole_is_refused() {
        let hole = map("null", "null").replace("8000", "9000");
        assert!(route().install(hole.as_bytes()).unwrap_err().contains("no entry covers"));
        assert!(route().install(b"<html>").is_err());
    }
}
