//! Where values come from and which one holds, what every error says, and the reference file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::keys::{KEYS, Kind, names_in};
use super::*;

fn load_all(file: Option<&str>, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.toml");
    std::fs::write(&path, file.unwrap_or("")).unwrap();
    let chosen = file.is_some().then_some(path.as_path());
    let loaded = Config::load(chosen, pairs(env).into_iter(), &pairs(flags));
    loaded.map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

#[track_caller]
fn refused(file: &str, wanted: &[&str]) {
    refused_all(Some(file), &[], &[], wanted);
}

#[track_caller]
fn refused_all(file: Option<&str>, env: &[(&str, &str)], flags: &[(&str, &str)], wanted: &[&str]) {
    let error = load_all(file, env, flags).expect_err("must be refused");
    for part in wanted {
        assert!(error.contains(part), "wanted {part:?} in {error:?}");
    }
}

fn reference_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/node.toml")
}

/// Dotted paths of all leaves.
fn leaves(table: &toml::Table) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(section) => paths.extend(section.keys().map(|field| format!("{name}.{field}"))),
            _ => {
                paths.insert(name.clone());
            }
        }
    }
    paths
}

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(load_all(None, &[], &[]).unwrap(), Config::default());
    assert_eq!(load_all(Some(""), &[], &[]).unwrap(), Config::default());
    Config::default().validate().unwrap();
}

#[test]
fn the_reference_file_holds_every_key_at_its_default() {
    let loaded = Config::load(Some(&reference_path()), std::iter::empty(), &[]).unwrap();
    assert_eq!(loaded, Config::default());
    let text = std::fs::read_to_string(reference_path()).unwrap();
    let in_file = leaves(&text.parse().unwrap());
    let in_structs = leaves(&toml::Table::try_from(Config::default()).unwrap());
    assert_eq!(in_file, in_structs);
}

#[test]
fn the_reference_file_says_of_every_key_what_is_allowed() {
    let text = std::fs::read_to_string(reference_path()).unwrap();
    let mut section = String::new();
    let mut comment = String::new();
    let mut seen = 0;
    for line in text.lines() {
        if let Some(more) = line.strip_prefix('#') {
            comment.push_str(more);
        } else if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((name, _)) = line.split_once(" = ") {
            let path = format!("{section}{name}");
            let expected = keys::Key::find(&path).unwrap().kind.expected();
            assert!(comment.ends_with(&format!(": {expected}.")), "comment of {path}:{comment}; wanted {expected:?}");
            seen += 1;
        }
        if !line.starts_with('#') {
            comment.clear();
        }
    }
    assert_eq!(seen, KEYS.len());
}

#[test]
fn the_key_table_is_the_structs() {
    let in_table: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_string()).collect();
    assert_eq!(in_table.len(), KEYS.len(), "a key stands twice");
    assert_eq!(in_table, leaves(&toml::Table::try_from(Config::default()).unwrap()));
    let variables: BTreeSet<String> = KEYS.iter().map(keys::Key::variable).collect();
    assert_eq!(variables.len(), KEYS.len(), "two keys share a variable");
}

#[test]
fn a_field_holds_both_ends_of_its_limits_and_the_next_value_is_refused() {
    for key in KEYS {
        let Kind::Integer { min, max } = key.kind else { continue };
        for value in [min, max] {
            // Rules between values may refuse a lone extreme; the limits themselves must not, and the field must hold it.
            if let Err(error) = load_all(None, &[], &[(key.path, &value.to_string())]) {
                assert!(!error.contains("expected"), "{error}");
            }
        }
        for value in [min - 1, max + 1] {
            let given = value.to_string();
            refused_all(None, &[], &[(key.path, &given)], &[key.path, &given, &key.kind.expected()]);
        }
    }
}

#[test]
fn the_file_gives_way_to_the_environment_and_that_to_flags() {
    let file = "[cluster]\nshards = 5\njoin = ['a:1']\n[log]\nfilter = 'warn'\n";
    let env = [("RINGRAFT_CLUSTER_SHARDS", "6"), ("RINGRAFT_HTTP_LISTEN", "127.0.0.1:9001"), ("PATH", "/bin")];
    let config = load_all(Some(file), &env, &[("cluster.shards", "7"), ("cluster.bootstrap", "true")]).unwrap();
    assert_eq!((config.cluster.shards, config.cluster.bootstrap), (7, true));
    assert_eq!(config.http.listen, "127.0.0.1:9001");
    assert_eq!(config.cluster.join, ["a:1"]);
    assert_eq!(config.log.filter, "warn");
    assert_eq!(load_all(Some(file), &env, &[]).unwrap().cluster.shards, 6);
    assert_eq!(load_all(Some(file), &[], &[]).unwrap().cluster.shards, 5);
}

#[test]
fn every_key_can_be_given_by_file_variable_and_flag() {
    for key in KEYS {
        let (text, written) = match key.kind {
            Kind::Boolean => ("true".to_string(), "true".to_string()),
            // Next to the default, on the side where the rules between values hold.
            Kind::Integer { .. } => {
                let default = leaf(&Config::default(), key.path).as_integer().unwrap();
                let other = if key.path == "raft.election_max_ms" { default - 1 } else { default + 1 };
                (other.to_string(), other.to_string())
            }
            Kind::OneInteger(_) => ("5".to_string(), "5".to_string()),
            Kind::OneWord(_) => ("json".to_string(), "'json'".to_string()),
            Kind::Path => ("/var/lib/ringraft".to_string(), "'/var/lib/ringraft'".to_string()),
            Kind::Label => ("rack-1".to_string(), "'rack-1'".to_string()),
            Kind::Listen => ("[::1]:9000".to_string(), "'[::1]:9000'".to_string()),
            Kind::Advertise => ("node-1.example:80".to_string(), "'node-1.example:80'".to_string()),
            Kind::Addresses => ("a:1, b:2".to_string(), "['a:1', 'b:2']".to_string()),
            Kind::Filter => ("debug".to_string(), "'debug'".to_string()),
        };
        let by_flag = load_all(None, &[], &[(key.path, &text)]).unwrap();
        let by_variable = load_all(None, &[(&key.variable(), &text)], &[]).unwrap();
        let by_file = load_all(Some(&format!("{} = {written}", key.path)), &[], &[]).unwrap();
        assert_ne!(by_flag, Config::default(), "{}", key.path);
        assert_eq!(by_flag, by_variable, "{}", key.path);
        assert_eq!(by_flag, by_file, "{}", key.path);
    }
}

fn leaf(config: &Config, path: &str) -> toml::Value {
    let table = toml::Table::try_from(config).unwrap();
    match path.split_once('.') {
        None => table[path].clone(),
        Some((section, name)) => table[section][name].clone(),
    }
}

#[test]
fn an_unknown_key_is_refused_with_line_column_and_what_is_allowed() {
    refused(
        "data_dir = 'd'\n\n[http]\n  lisen = '127.0.0.1:1'\n",
        &["node.toml:4:3: ", "unknown key \"lisen\" in [http]", "listen, advertise, value_bytes_max"],
    );
    refused("datadir = 'd'\n", &["node.toml:1:1: unknown key \"datadir\";", "data_dir, insecure, cluster"]);
    refused("[htpp]\nlisten = 'x'\n", &["node.toml:1:2: unknown key \"htpp\";"]);
    refused("http.lisen = 'x'\n", &["node.toml:1:6: unknown key \"lisen\" in [http]"]);
    refused("'http.listen' = '127.0.0.1:1'\n", &["node.toml:1:1: unknown key \"http.listen\";"]);
    // Columns count characters, not bytes.
    let accented = "# é\nlog = { filter = 'é', 'è' = 1 }\n";
    refused(accented, &["node.toml:2:23: unknown key \"è\" in [log]; allowed here: format, filter"]);
}

#[test]
fn a_broken_file_is_refused_with_line_and_column() {
    refused("data_dir = 'd'\n[http\n", &["node.toml:2:"]);
    refused("[log]\nfilter = 'a'\nfilter = 'b'\n", &["node.toml:3:1: ", "duplicate key"]);
    let missing = Config::load(Some(Path::new("/nowhere/node.toml")), std::iter::empty(), &[]).unwrap_err();
    assert!(missing.to_string().contains("cannot read the configuration file /nowhere/node.toml: "), "{missing}");
}

#[test]
fn a_wrong_value_is_refused_with_its_place_the_value_and_what_is_allowed() {
    refused(
        "[cluster]\nshards = 5000\n",
        &["node.toml:2:10: cluster.shards is 5000; expected an integer from 1 to 4096"],
    );
    refused("[cluster]\nshards = '12'\n", &["node.toml:2:10: cluster.shards is '12'; expected an integer"]);
    refused("[cluster]\nreplication_factor = 2\n", &["cluster.replication_factor is 2; expected 1 or 3 or 5"]);
    refused("insecure = 1\n", &["node.toml:1:12: insecure is 1; expected true or false"]);
    refused("http = 3\n", &["node.toml:1:8: http is 3; expected a section [http]"]);
    refused("[data_dir]\n", &["node.toml:1:1: data_dir is a section; expected a path"]);
    refused("log.filter.x = 1\n", &["log.filter is a section; expected log directives"]);
    refused("[raft]\nheartbeat_ms = 99999999999999999999\n", &["raft.heartbeat_ms is 99999999999999999999; expected"]);
    refused("[raft]\nheartbeat_ms = 1.5\n", &["raft.heartbeat_ms is 1.5; expected"]);
    refused("[log]\nformat = 'xml'\n", &["log.format is 'xml'; expected \"text\" or \"json\""]);
    refused("[log]\nfilter = 'ringraft=loud'\n", &["log.filter is 'ringraft=loud'; expected log directives"]);
    refused("[cluster]\njoin = ['a:1', 'b']\n", &["node.toml:2:8: cluster.join is ['a:1', 'b']; expected a list"]);
    refused("[cluster]\njoin = 'a:1'\n", &["cluster.join is 'a:1'; expected a list of host:port"]);
    refused_all(
        None,
        &[("RINGRAFT_CLUSTER_SHARDS", "many")],
        &[],
        &[
            "environment variable RINGRAFT_CLUSTER_SHARDS: cluster.shards is \"many\"; expected an integer from 1 to 4096",
        ],
    );
    refused_all(None, &[("RINGRAFT_INSECURE", "1")], &[], &["insecure is \"1\"; expected true or false"]);
    refused_all(
        None,
        &[],
        &[("cluster.replication_factor", "4")],
        &["command line, cluster.replication_factor: cluster.replication_factor is \"4\"; expected 1 or 3 or 5"],
    );
}

#[test]
fn an_unknown_variable_is_refused_by_name_and_a_clients_is_left_alone() {
    refused_all(
        None,
        &[("RINGRAFT_HTTP_LISTN", "x")],
        &[],
        &["unknown environment variable RINGRAFT_HTTP_LISTN; allowed: RINGRAFT_HTTP_LISTEN, RINGRAFT_HTTP_ADVERTISE"],
    );
    refused_all(None, &[("RINGRAFT_LOG", "debug")], &[], &["RINGRAFT_LOG;", "RINGRAFT_LOG_FILTER"]);
    refused_all(None, &[("RINGRAFT_", "")], &[], &["variable RINGRAFT_;"]);
    let left_alone = [("RINGRAFT_ENDPOINTS", "http://127.0.0.1:7401"), ("HOME", "/"), ("ringraft_http", "x")];
    assert_eq!(load_all(None, &left_alone, &[]).unwrap(), Config::default());
    refused_all(None, &[], &[("http.lisen", "x")], &["unknown key \"lisen\" in [http]"]);
}

#[test]
fn listening_beyond_loopback_needs_insecure() {
    for (key, other) in [("http", "peer"), ("peer", "http")] {
        let listen = format!("[{key}]\nlisten = '10.0.0.1:7000'\n");
        let place = format!("{key}.listen is \"10.0.0.1:7000\" (");
        refused(&listen, &["insecure = true", &place, "node.toml:2:10", "insecure is false (default)"]);
        let accepted = load_all(Some(&listen), &[("RINGRAFT_INSECURE", "true")], &[]).unwrap();
        assert!(accepted.insecure);
        let local = format!("{key}.listen = 'localhost:7000'\n{other}.listen = '[::1]:7000'\n");
        load_all(Some(&local), &[], &[]).unwrap();
    }
    refused("http.listen = '[::]:7401'\n", &["insecure = true"]);
    refused("http.listen = '192.168.1.1:7401'\n", &["insecure = true"]);
    refused("http.listen = '[::ffff:10.0.0.1]:7401'\n", &["insecure = true"]);
}

#[test]
fn an_address_that_nobody_can_dial_is_not_advertised() {
    let everywhere = "insecure = true\nhttp.listen = '0.0.0.0:7401'\n";
    refused(everywhere, &["nobody can dial 0.0.0.0", "http.advertise is \"\" (default)"]);
    let config = load_all(Some(&format!("{everywhere}http.advertise = 'n1:7401'\n")), &[], &[]).unwrap();
    assert_eq!(config.http.advertise.as_deref(), Some("n1:7401"));
    for bad in ["0.0.0.0:1", "[::]:1", "n1", "n1:0", "n1:99999", ":1", "n 1:1", "1.2.3:1", "::1:1", "n1:+1", "n1:"] {
        refused_all(None, &[], &[("peer.advertise", bad)], &["expected host:port"]);
    }
    for good in ["n1:1", "10.0.0.1:65535", "[fe80::1]:7501", "node_1.rack-2.example:7501"] {
        load_all(None, &[], &[("peer.advertise", good)]).unwrap();
    }
    for bad in ["n1:7401", ":7401", "127.0.0.1", "127.0.0.1:", "localhost", "127.0.0.1:70000"] {
        refused_all(None, &[], &[("http.listen", bad)], &["expected ip:port"]);
    }
}

#[test]
fn the_two_listeners_do_not_share_an_address() {
    refused(
        "http.listen = '127.0.0.1:7501'\n",
        &["addresses of their own", "peer.listen is \"127.0.0.1:7501\" (default)"],
    );
    load_all(Some("http.listen = '127.0.0.1:0'\npeer.listen = '127.0.0.1:0'\n"), &[], &[]).unwrap();
}

#[test]
fn timing_that_would_unseat_healthy_leaders_is_refused() {
    // The latest heartbeat with 100 ms is 2 × 100 + ceil(100 × 13 / 64) = 221 ms.
    refused("raft.election_min_ms = 221\n", &["221 ms apart", "raft.heartbeat_ms is 100 (default)"]);
    load_all(Some("raft.election_min_ms = 222\n"), &[], &[]).unwrap();
    refused("raft.election_min_ms = 600\n", &["longer than the shortest"]);
    load_all(Some("raft.election_min_ms = 599\n"), &[], &[]).unwrap();
    refused("raft.quorum_loss_probe_ms = 1199\n", &["at least twice the longest election timeout"]);
    refused("raft.election_max_ms = 601\n", &["at least twice the longest election timeout"]);
}

#[test]
fn one_shard_cannot_have_more_in_flight_than_its_node() {
    refused("limits.proposals_per_node = 1023\n", &["at least the limit of one shard"]);
    load_all(Some("limits.proposals_per_node = 1024\n"), &[], &[]).unwrap();
}

#[test]
fn a_configuration_built_by_the_program_is_held_to_the_same() {
    let mut config = Config::default();
    config.cluster.replication_factor = 2;
    let error = config.validate().unwrap_err().to_string();
    assert_eq!(error, "set by the program: cluster.replication_factor is 2; expected 1 or 3 or 5");
    let mut config = Config::default();
    config.http.listen = "10.0.0.1:7401".to_string();
    assert!(matches!(config.validate(), Err(ConfigError::Rule { .. })));
}

#[test]
fn what_is_written_loads_to_the_same() {
    let mut config = Config { data_dir: PathBuf::from("/tmp/a b/\"é\\"), ..Config::default() };
    config.cluster.join = vec!["a:1".to_string(), "[::1]:2".to_string()];
    config.http.advertise = Some("n1:7401".to_string());
    config.log.format = LogFormat::Json;
    assert_eq!(load_all(Some(&config.to_toml()), &[], &[]).unwrap(), config);
}

#[test]
fn serde_alone_refuses_unknown_keys_too() {
    for section in names_in("").into_iter().filter(|name| keys::is_section(name)) {
        assert!(toml::from_str::<Config>(&format!("[{section}]\nunheard_of = 1\n")).is_err(), "{section}");
    }
    assert!(toml::from_str::<Config>("unheard_of = 1\n").is_err());
}
