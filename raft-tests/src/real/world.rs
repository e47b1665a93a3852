//! Where a run takes place: its nodes, and the links between them that can be spoiled.
//!
//! Two worlds. As root each node has a network namespace of its own on a bridge ([`bridge`]), all of it inside
//! namespaces of the run, so that nothing outside is touched and everything is gone with the runner's process. Without
//! root the nodes are on loopback and dial each other through a proxy in the runner ([`proxy`]), which does less.
//! Clients reach every node directly in both: spoiled links are those between nodes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::node::{Launch, Node};
use super::profile::Needs;
use crate::cluster::free_addresses;
use crate::fleet::PeerOf;
use crate::http::Http;
use crate::powerfs;

pub mod bridge;
pub mod proxy;
pub mod tools;

use bridge::Bridge;
use proxy::Proxy;

pub const SHARDS: u32 = 4;
/// Replicas of each shard where nodes are spared; elsewhere every node has one of each.
pub const SPARED_REPLICATION: usize = 3;
const HTTP_PORT: u16 = 7401;
const PEER_PORT: u16 = 7501;
/// A few times what a node needs to start on a busy machine.
const LONG_LEASE_MS: u64 = 1_500;

/// One direction of the link between two nodes, by their places in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Way {
    pub from: usize,
    pub to: usize,
}

impl Way {
    pub fn both(one: usize, other: usize) -> [Self; 2] {
        [Self { from: one, to: other }, Self { from: other, to: one }]
    }
}

/// What can be wrong with a way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Spoil {
    /// Nothing gets through.
    Cut,
    /// So many of 100 packets are dropped.
    Loss { percent: u32 },
    /// Connections are reset: by so many of 1,000 packets in the bridge world, every `every_ms` in the proxy world.
    Reset { permille: u32, every_ms: u64 },
    /// All that the sender sends goes at so many kilobits a second.
    Slow { kbit: u32 },
    /// Bytes arrive so much later.
    Delay { ms: u64 },
}

/// All that is wrong at a time. One thing of a kind on a way.
pub type Weather = BTreeMap<(Way, Kind), Spoil>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Kind {
    Cut,
    Loss,
    Reset,
    Slow,
    Delay,
}

impl Spoil {
    pub fn kind(self) -> Kind {
        match self {
            Spoil::Cut => Kind::Cut,
            Spoil::Loss { .. } => Kind::Loss,
            Spoil::Reset { .. } => Kind::Reset,
            Spoil::Slow { .. } => Kind::Slow,
            Spoil::Delay { .. } => Kind::Delay,
        }
    }
}

/// Which world it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ground {
    Bridge,
    Proxy,
}

impl Ground {
    pub fn can(self, kind: Kind) -> bool {
        match self {
            // The kernel has no netem everywhere; tbf does not delay.
            Ground::Bridge => kind != Kind::Delay,
            // A proxy sees bytes of a stream, not packets.
            Ground::Proxy => kind != Kind::Loss,
        }
    }
}

enum Links {
    Bridge(Bridge),
    Proxy(Proxy),
}

/// What to build.
#[derive(Clone, Debug)]
pub struct Plan {
    pub ground: Ground,
    pub nodes: usize,
    pub needs: Needs,
    /// The run's directory, absolute. Each node gets one in it.
    pub directory: PathBuf,
    pub seed: u64,
}

pub struct World {
    pub nodes: Vec<Node>,
    pub ground: Ground,
    weather: Weather,
    links: Links,
    /// One for each node, where the profile needs them. Dropped after the nodes.
    disks: Vec<powerfs::Process>,
    clocks: Vec<PathBuf>,
    /// How long a leader may read by its lease.
    pub read_lease: Duration,
    /// There are more nodes than replicas of a shard.
    pub spare_nodes: bool,
}

impl World {
    /// Everything but the nodes' processes.
    pub async fn build(plan: &Plan) -> Result<Self, String> {
        let (links, addresses) = match plan.ground {
            Ground::Bridge => {
                let links = Bridge::build(plan.nodes).await?;
                let addresses = (0..plan.nodes).map(|place| {
                    let ip = bridge::address(place);
                    let peer = format!("{ip}:{PEER_PORT}");
                    Addresses { http: format!("{ip}:{HTTP_PORT}"), advertised: peer.clone(), peer }
                });
                (Links::Bridge(links), addresses.collect::<Vec<_>>())
            }
            Ground::Proxy => {
                let free = free_addresses(2 * plan.nodes);
                let (https, peers) = free.split_at(plan.nodes);
                let links = Proxy::start(peers).await?;
                let addresses = https.iter().zip(peers).zip(links.addresses()).map(|((http, peer), advertised)| {
                    Addresses { http: http.clone(), peer: peer.clone(), advertised: advertised.clone() }
                });
                let addresses = addresses.collect();
                (Links::Proxy(links), addresses)
            }
        };
        let mut world = Self {
            nodes: Vec::new(),
            ground: plan.ground,
            weather: Weather::new(),
            links,
            disks: Vec::new(),
            clocks: Vec::new(),
            read_lease: read_lease(plan.needs),
            spare_nodes: plan.needs.spare_nodes,
        };
        for place in 0..plan.nodes {
            world.add_node(plan, place, &addresses).await?;
        }
        Ok(world)
    }

    async fn add_node(&mut self, plan: &Plan, place: usize, addresses: &[Addresses]) -> Result<(), String> {
        let name = format!("n{}", place + 1);
        let failed = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
        let directory = plan.directory.join(&name);
        fs::create_dir(&directory).map_err(|error| failed(&directory, error))?;
        let data = directory.join("data");
        if plan.needs.powerfs {
            let program = std::env::current_exe().map_err(|error| format!("this program has no path: {error}"))?;
            let options = powerfs::Options {
                backing: directory.join("backing"),
                mount: data.clone(),
                model: powerfs::Model::Strict,
                seed: plan.seed,
            };
            let disk = powerfs::Process::start(&program, &options).await;
            self.disks.push(disk.map_err(|error| failed(&data, error))?);
        }
        let mut launch = Launch::default();
        if plan.ground == Ground::Bridge {
            launch.before = bridge::enter(place);
        }
        if plan.needs.wall_clock {
            let file = directory.join("clock");
            fs::write(&file, tools::clock_offset(0)).map_err(|error| failed(&file, error))?;
            launch.environment = tools::clock_environment(&file)?;
            self.clocks.push(file);
        }
        let toml = directory.join("node.toml");
        let text = config(plan, place, &data, addresses);
        fs::write(&toml, text).map_err(|error| failed(&toml, error))?;
        let (http, peer) = (Http::new(&addresses[place].http), addresses[place].peer.clone());
        self.nodes.push(Node::new(name, http, peer, directory, data, launch));
        Ok(())
    }

    /// Adds to what is wrong. Takes effect at once, as one change.
    pub async fn spoil(&mut self, ways: &[Way], spoil: Spoil) -> Result<(), String> {
        if !self.ground.can(spoil.kind()) {
            return Err(format!("{spoil:?} cannot be made in the {:?} world", self.ground));
        }
        self.weather.extend(ways.iter().map(|way| ((*way, spoil.kind()), spoil)));
        self.change().await
    }

    /// Takes one kind of trouble away from these ways.
    pub async fn mend(&mut self, ways: &[Way], kind: Kind) -> Result<(), String> {
        self.weather.retain(|(way, other), _| *other != kind || !ways.contains(way));
        self.change().await
    }

    /// All links whole.
    pub async fn mend_all(&mut self) -> Result<(), String> {
        self.weather.clear();
        self.change().await
    }

    async fn change(&mut self) -> Result<(), String> {
        match &mut self.links {
            Links::Bridge(bridge) => bridge.apply(&self.weather).await,
            Links::Proxy(proxy) => {
                proxy.apply(&self.weather);
                Ok(())
            }
        }
    }

    /// How often each of these ways has met this kind of trouble since the world began: packets dropped, chunks held
    /// back, connections reset.
    pub async fn met(&mut self, ways: &[Way], kind: Kind) -> Result<Vec<u64>, String> {
        match &mut self.links {
            Links::Bridge(bridge) => bridge.met(ways, kind).await,
            Links::Proxy(proxy) => Ok(ways.iter().map(|way| proxy.met(*way, kind)).collect()),
        }
    }

    /// Sets a node's wall clock to the true time and so many seconds.
    pub fn set_wall_clock(&self, place: usize, seconds: i64) -> Result<(), String> {
        let file = self.clocks.get(place).ok_or("this profile's nodes have the machine's clock")?;
        // By rename: the node reads the file at any moment.
        let unfinished = file.with_extension("next");
        let written = fs::write(&unfinished, tools::clock_offset(seconds)).and_then(|()| fs::rename(&unfinished, file));
        written.map_err(|error| format!("{}: {error}", file.display()))
    }

    /// The file system of a node's data.
    pub fn disk(&self, place: usize) -> Result<&powerfs::Process, String> {
        self.disks.get(place).ok_or_else(|| "this profile's nodes have the machine's disk".to_string())
    }

    pub fn peers(&self) -> Vec<PeerOf> {
        let peer = |node: &Node| PeerOf { name: node.name.clone(), address: node.peer.clone() };
        self.nodes.iter().map(peer).collect()
    }

    pub fn names(&self, places: &[usize]) -> Vec<String> {
        places.iter().map(|place| self.nodes[*place].name.clone()).collect()
    }

    /// SIGKILL to these before any is waited for. Says of each whether that is what ended it.
    pub async fn kill(&mut self, places: &[usize]) -> Result<Vec<bool>, String> {
        for &place in places {
            self.nodes[place].signal(rustix::process::Signal::KILL)?;
        }
        let mut killed = Vec::new();
        for &place in places {
            killed.push(self.nodes[place].killed().await?);
        }
        Ok(killed)
    }

    pub fn start(&mut self, places: &[usize]) -> Result<(), String> {
        places.iter().try_for_each(|place| self.nodes[*place].start())
    }

    /// All nodes ready, within `limit` together.
    pub async fn ready_within(&mut self, limit: Duration) -> Result<(), String> {
        let waits = self.nodes.iter_mut().map(|node| node.ready_within(limit));
        let waited: Vec<String> = futures::future::join_all(waits).await.into_iter().filter_map(Result::err).collect();
        if waited.is_empty() { Ok(()) } else { Err(waited.join("; ")) }
    }
}

struct Addresses {
    http: String,
    peer: String,
    /// What the others are told to dial.
    advertised: String,
}

/// Longest election time-out of the nodes, which is the length of a lease, in milliseconds.
fn election_max_ms(needs: Needs) -> u64 {
    if needs.long_leases { LONG_LEASE_MS } else { ringraft::config::RaftConfig::default().election_max_ms }
}

/// A leader reads by 0.7 of a lease (`architecture` §4.1).
fn read_lease(needs: Needs) -> Duration {
    Duration::from_millis(election_max_ms(needs) * 7 / 10)
}

fn config(plan: &Plan, place: usize, data: &Path, addresses: &[Addresses]) -> String {
    let join: Vec<String> = addresses.iter().map(|node| format!("{:?}", node.advertised)).collect();
    let mine = &addresses[place];
    // Nothing is kept back: what a full disk does is what it does when something else fills it (`show full-disks` has the
    // rest). The logs are so small that one is purged within seconds; the values are the smallest that are taken.
    let small_logs = if plan.needs.small_logs {
        "flush_log_bytes = 1048576\nlog_tail_bytes = 1048576\nwrite_buffer_bytes = 1048576\n"
    } else {
        ""
    };
    let election_max = election_max_ms(plan.needs);
    format!(
        "data_dir = {data:?}\ninsecure = {insecure}\n\
         [cluster]\nbootstrap = {bootstrap}\njoin = [{join}]\nreplication_factor = {factor}\nshards = {SHARDS}\n\
         [http]\nlisten = {http:?}\n\
         [peer]\nlisten = {peer:?}\nadvertise = {advertised:?}\n\
         [raft]\nelection_max_ms = {election_max}\nquorum_loss_probe_ms = {probe}\n\
         [placement]\n{placement}\
         [storage]\ndisk_reserve_bytes = 0\n{small_logs}[log]\nfilter = \"info,openraft=warn\"\n",
        probe = 2 * election_max,
        insecure = plan.ground == Ground::Bridge,
        bootstrap = place == 0,
        join = join.join(", "),
        factor = if plan.needs.spare_nodes { SPARED_REPLICATION } else { plan.nodes },
        // So slow that faults meet a replica while it is filled.
        placement = if plan.needs.spare_nodes { "snapshot_bytes_per_s = 1048576\n" } else { "" },
        http = mine.http,
        peer = mine.peer,
        advertised = mine.advertised,
    )
}
