//! The world of a root user: every node in a network namespace of its own, on one bridge.
//!
//! The runner itself is in the bridge's namespace, which is the run's own, as are its mounts and process ids
//! ([`inside`], [`enter_private_namespaces`]). Packets between nodes are forwarded by the bridge and can be dropped
//! there, each way for itself, by rules that are replaced in one transaction; what clients send comes from the bridge
//! itself and meets no rule. Every rule counts what it met.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::Value;

use super::tools::{missing_programs, run};
use super::{Kind, Spoil, Way, Weather};

/// Set for the runner once it is in namespaces of its own.
const INSIDE_VARIABLE: &str = "RAFT_TESTS_INSIDE";
const BRIDGE: &str = "br0";
const TABLE: &str = "ringraft";
/// Of a node's own interface, in its namespace.
const INTERFACE: &str = "eth0";
/// Bytes a slow way may send at once, and the longest wait in its queue.
const SLOW_BURST: &str = "8kb";
const SLOW_LATENCY: &str = "400ms";

/// Of a node, in a network that only the run has.
pub fn address(place: usize) -> Ipv4Addr {
    let host = u8::try_from(place + 1).expect("a cluster has a handful of nodes");
    Ipv4Addr::new(10, 77, 0, host)
}

fn namespace(place: usize) -> String {
    format!("n{}", place + 1)
}

/// What stands before a program that is to run in a node's namespace.
pub fn enter(place: usize) -> Vec<String> {
    vec!["nsenter".to_string(), format!("--net=/run/netns/{}", namespace(place)), "--".to_string()]
}

pub fn inside() -> bool {
    std::env::var_os(INSIDE_VARIABLE).is_some()
}

/// Why this world cannot be built here.
pub fn why_not_here() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_string());
    }
    missing_programs().map(|missing| format!("missing: {missing}"))
}

/// Runs this program again, with the same arguments, in namespaces of its own, in the place of this process. With its
/// first process, the runner, all others in there end, however it ends. Returns only when that cannot be done.
pub fn enter_private_namespaces() -> String {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return format!("this program has no path: {error}"),
    };
    let error = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE_VARIABLE, "1")
        .exec();
    format!("unshare: {error}")
}

pub(super) struct Bridge {
    nodes: usize,
    /// What rules met that have been replaced since.
    earlier: BTreeMap<(Way, Kind), u64>,
    /// What stands now.
    weather: Weather,
    slow: BTreeMap<usize, u32>,
}

impl Bridge {
    pub(super) async fn build(nodes: usize) -> Result<Self, String> {
        // The namespaces' names are files; they and shared memory go where nobody else sees them.
        run(&["mount", "-t", "tmpfs", "none", "/run"], "").await?;
        run(&["mount", "-t", "tmpfs", "none", "/dev/shm"], "").await?;
        let mut network = format!(
            "link set lo up\nlink add {BRIDGE} type bridge\naddr add 10.77.0.254/24 dev {BRIDGE}\nlink set {BRIDGE} up\n"
        );
        for place in 0..nodes {
            let name = namespace(place);
            network += &format!(
                "netns add {name}\nlink add v{name} type veth peer name {INTERFACE} netns {name}\n\
                 link set v{name} master {BRIDGE} up\n"
            );
        }
        run(&["ip", "-batch", "-"], &network).await?;
        for place in 0..nodes {
            let inside =
                format!("addr add {}/24 dev {INTERFACE}\nlink set {INTERFACE} up\nlink set lo up\n", address(place));
            run(&["ip", "-netns", &namespace(place), "-batch", "-"], &inside).await?;
            let chain = format!(
                "add table ip {TABLE}\n\
                 add chain ip {TABLE} input {{ type filter hook input priority 0; policy accept; }}\n"
            );
            Self::nft_at(place, &["-f", "-"], &chain).await?;
        }
        let chain = format!(
            "add table bridge {TABLE}\n\
             add chain bridge {TABLE} forward {{ type filter hook forward priority 0; policy accept; }}\n"
        );
        run(&["nft", "-f", "-"], &chain).await?;
        Ok(Self { nodes, earlier: BTreeMap::new(), weather: Weather::new(), slow: BTreeMap::new() })
    }

    async fn nft_at(place: usize, arguments: &[&str], input: &str) -> Result<String, String> {
        let enter = enter(place);
        let mut words: Vec<&str> = enter.iter().map(String::as_str).collect();
        words.push("nft");
        words.extend_from_slice(arguments);
        run(&words, input).await
    }

    /// Replaces what is wrong by `weather`.
    pub(super) async fn apply(&mut self, weather: &Weather) -> Result<(), String> {
        let kinds = |kind: Kind| weather.iter().filter(move |((_, other), _)| *other == kind);
        self.keep_counts().await?;
        let mut rules = format!("flush chain bridge {TABLE} forward\n");
        for ((way, kind), spoil) in weather {
            let matches = match spoil {
                Spoil::Cut => "counter drop".to_string(),
                Spoil::Loss { percent } => format!("numgen random mod 100 < {percent} counter drop"),
                _ => continue,
            };
            rules += &format!(
                "add rule bridge {TABLE} forward ip saddr {} ip daddr {} {matches} comment \"{}\"\n",
                address(way.from),
                address(way.to),
                comment(*way, *kind)
            );
        }
        run(&["nft", "-f", "-"], &rules).await?;
        for place in 0..self.nodes {
            let had = self.weather.keys().any(|(way, kind)| way.to == place && *kind == Kind::Reset);
            let mut rules = format!("flush chain ip {TABLE} input\n");
            let mut has = false;
            for ((way, kind), spoil) in kinds(Kind::Reset).filter(|((way, _), _)| way.to == place) {
                let Spoil::Reset { permille, .. } = spoil else { continue };
                has = true;
                rules += &format!(
                    "add rule ip {TABLE} input ip saddr {} ip protocol tcp numgen random mod 1000 < {permille} counter \
                     reject with tcp reset comment \"{}\"\n",
                    address(way.from),
                    comment(*way, *kind)
                );
            }
            if had || has {
                Self::nft_at(place, &["-f", "-"], &rules).await?;
            }
            let slow = kinds(Kind::Slow).find(|((way, _), _)| way.from == place).map(|(_, spoil)| *spoil);
            self.slow_down(place, slow).await?;
        }
        self.weather = weather.clone();
        Ok(())
    }

    /// tbf shapes an interface: a node is slow towards all, clients too.
    async fn slow_down(&mut self, place: usize, slow: Option<Spoil>) -> Result<(), String> {
        let name = namespace(place);
        match slow {
            Some(Spoil::Slow { kbit }) if self.slow.get(&place) != Some(&kbit) => {
                let rate = format!("{kbit}kbit");
                let qdisc = ["tc", "-netns", &name, "qdisc", "replace", "dev", INTERFACE, "root", "tbf"];
                let shape = ["rate", &rate, "burst", SLOW_BURST, "latency", SLOW_LATENCY];
                run(&[&qdisc[..], &shape[..]].concat(), "").await?;
                self.slow.insert(place, kbit);
            }
            None if self.slow.remove(&place).is_some() => {
                run(&["tc", "-netns", &name, "qdisc", "del", "dev", INTERFACE, "root"], "").await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds the counts of the rules that stand to those of earlier ones, before they are replaced.
    async fn keep_counts(&mut self) -> Result<(), String> {
        let ways: Vec<(Way, Kind)> = self.weather.keys().copied().collect();
        for (key, count) in self.counts(&ways).await? {
            *self.earlier.entry(key).or_default() += count;
        }
        Ok(())
    }

    pub(super) async fn met(&mut self, ways: &[Way], kind: Kind) -> Result<Vec<u64>, String> {
        let keys: Vec<(Way, Kind)> = ways.iter().map(|way| (*way, kind)).collect();
        let now = self.counts(&keys).await?;
        let of = |counts: &BTreeMap<(Way, Kind), u64>, key| counts.get(key).copied().unwrap_or_default();
        Ok(keys.iter().map(|key| of(&now, key) + of(&self.earlier, key)).collect())
    }

    /// What the rules that stand now have met.
    async fn counts(&self, keys: &[(Way, Kind)]) -> Result<BTreeMap<(Way, Kind), u64>, String> {
        let mut counts = BTreeMap::new();
        let mut read = |keys: &[(Way, Kind)], text: &str| {
            let rules = rule_counters(text)?;
            for (way, kind) in keys {
                let count = rules.get(&comment(*way, *kind)).copied().unwrap_or_default();
                counts.insert((*way, *kind), count);
            }
            Ok::<(), String>(())
        };
        let dropped: Vec<_> = keys.iter().filter(|(_, kind)| matches!(kind, Kind::Cut | Kind::Loss)).copied().collect();
        if !dropped.is_empty() {
            read(&dropped, &run(&["nft", "-j", "list", "chain", "bridge", TABLE, "forward"], "").await?)?;
        }
        for place in 0..self.nodes {
            let reset = |(way, kind): &&(Way, Kind)| way.to == place && *kind == Kind::Reset;
            let reset: Vec<_> = keys.iter().filter(reset).copied().collect();
            if !reset.is_empty() {
                read(&reset, &Self::nft_at(place, &["-j", "list", "chain", "ip", TABLE, "input"], "").await?)?;
            }
        }
        for (way, kind) in keys.iter().filter(|(_, kind)| *kind == Kind::Slow) {
            let name = namespace(way.from);
            let text = run(&["tc", "-netns", &name, "-s", "-j", "qdisc", "show", "dev", INTERFACE], "").await?;
            counts.insert((*way, *kind), overlimits(&text)?);
        }
        Ok(counts)
    }
}

/// By which a rule is found again.
fn comment(way: Way, kind: Kind) -> String {
    format!("{kind:?} {}>{}", way.from, way.to)
}

/// Packets of each rule, by its comment, from nft's JSON.
fn rule_counters(text: &str) -> Result<BTreeMap<String, u64>, String> {
    let listed: Value = serde_json::from_str(text).map_err(|error| format!("nft -j: {error}"))?;
    let items = listed["nftables"].as_array().ok_or("nft -j: no list")?;
    let rules = items.iter().map(|item| &item["rule"]).filter_map(|rule| {
        let packets = rule["expr"].as_array()?.iter().find_map(|part| part["counter"]["packets"].as_u64())?;
        Some((rule["comment"].as_str()?.to_string(), packets))
    });
    Ok(rules.collect())
}

/// How often a packet had to wait, from tc's JSON.
fn overlimits(text: &str) -> Result<u64, String> {
    let listed: Value = serde_json::from_str(text).map_err(|error| format!("tc -j: {error}"))?;
    let shaped = listed.as_array().into_iter().flatten().find(|qdisc| qdisc["kind"] == "tbf");
    Ok(shaped.and_then(|qdisc| qdisc["overlimits"].as_u64()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_the_comment_of_their_rule() {
        let text = r#"{"nftables": [{"metainfo": {}}, {"chain": {"name": "forward"}}, {"rule": {"comment": "Cut 0>1",
            "expr": [{"match": {}}, {"counter": {"packets": 7, "bytes": 9}}, {"drop": null}]}}, {"rule": {"expr": []}}]}"#;
        let way = Way { from: 0, to: 1 };
        assert_eq!(rule_counters(text).unwrap(), BTreeMap::from([(comment(way, Kind::Cut), 7)]));
        assert!(rule_counters("nothing").is_err());
    }

    #[test]
    fn packets_that_waited_are_those_of_the_shaper() {
        let text = r#"[{"kind":"noqueue","overlimits":9},{"kind":"tbf","overlimits":4}]"#;
        assert_eq!(overlimits(text).unwrap(), 4);
        assert_eq!(overlimits("[]").unwrap(), 0);
    }
}
