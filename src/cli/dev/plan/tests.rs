//! What a directory and the flags make of a cluster, and what is written.

use super::*;

fn args(folder: &Path) -> DevArgs {
    DevArgs { data: folder.to_path_buf(), ..DevArgs::default() }
}

fn error(args: &DevArgs) -> String {
    Plan::make(args).unwrap_err().to_string()
}

#[test]
fn a_new_directory_gets_three_nodes_on_the_documented_ports() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::make(&args(folder.path())).unwrap();
    let addresses: Vec<_> =
        plan.nodes.iter().map(|node| (node.name.as_str(), node.http.as_str(), node.peer.as_str())).collect();
    assert_eq!(
        addresses,
        [
            ("n1", "127.0.0.1:7401", "127.0.0.1:7501"),
            ("n2", "127.0.0.1:7402", "127.0.0.1:7502"),
            ("n3", "127.0.0.1:7403", "127.0.0.1:7503"),
        ]
    );
    assert!(!folder.path().join("n1").exists(), "nothing is written by planning");
}

#[test]
fn what_is_written_is_read_back_by_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let plan =
        Plan::make(&DevArgs { nodes: Some(5), rf: Some(5), shards: Some(7), port: Some(8000), ..args(folder.path()) })
            .unwrap();
    plan.write().unwrap();
    for (place, node) in plan.nodes.iter().enumerate() {
        let loaded = Config::load(Some(&node.config_path), std::iter::empty(), &[]).unwrap();
        assert_eq!(loaded, node.config);
        assert_eq!(loaded.cluster.bootstrap, place == 0);
        assert_eq!((loaded.cluster.replication_factor, loaded.cluster.shards), (5, 7));
        assert_eq!(loaded.data_dir, folder.path().join(&node.name).join("data"));
        assert_eq!(loaded.cluster.join.len(), 4);
        assert!(!loaded.cluster.join.contains(&node.peer), "a node does not join itself");
    }
    let text = fs::read_to_string(&plan.nodes[1].config_path).unwrap();
    assert!(text.contains("listen = \"127.0.0.1:8102\"") && !text.contains("heartbeat_ms"), "{text}");
}

#[test]
fn a_later_run_takes_everything_from_the_directory_and_leaves_the_files_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = DevArgs { nodes: Some(5), shards: Some(7), port: Some(8000), ..args(folder.path()) };
    Plan::make(&first).unwrap().write().unwrap();
    let path = folder.path().join("n2").join(CONFIG_FILE);
    let edited = format!("{}\n[log]\nfilter = 'debug'\n", fs::read_to_string(&path).unwrap());
    fs::write(&path, &edited).unwrap();
    let plan = Plan::make(&args(folder.path())).unwrap();
    assert_eq!((plan.nodes.len(), plan.shards, plan.replicas), (5, 7, 3));
    assert_eq!(plan.nodes[4].http, "127.0.0.1:8005");
    assert!(plan.nodes.iter().all(|node| node.kept));
    plan.write().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), edited);
    assert!(Plan::make(&first).unwrap().nodes.iter().all(|node| node.kept), "the same flags are fine too");
}

#[test]
fn another_shape_than_the_directorys_is_refused_with_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    Plan::make(&args(folder.path())).unwrap().write().unwrap();
    for (args, wanted) in [
        (DevArgs { nodes: Some(5), ..args(folder.path()) }, "holds a cluster of 3 nodes, and 5 were asked for"),
        (DevArgs { rf: Some(1), ..args(folder.path()) }, "holds a cluster of 3 replicas, and 1 were"),
        (DevArgs { shards: Some(6), ..args(folder.path()) }, "holds a cluster of 12 shards, and 6 were"),
    ] {
        assert!(error(&args).contains(wanted), "{}", error(&args));
    }
}

#[test]
fn ports_may_move_and_the_rest_of_the_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    Plan::make(&args(folder.path())).unwrap().write().unwrap();
    let path = folder.path().join("n2").join(CONFIG_FILE);
    let edited = format!("{}\n[log]\nfilter = 'debug'\n", fs::read_to_string(&path).unwrap());
    fs::write(&path, edited).unwrap();
    let plan = Plan::make(&DevArgs { port: Some(9000), ..args(folder.path()) }).unwrap();
    plan.write().unwrap();
    let loaded = Config::load(Some(&path), std::iter::empty(), &[]).unwrap();
    assert_eq!(loaded.http.listen, "127.0.0.1:9002");
    assert_eq!(loaded.cluster.join, ["127.0.0.1:9101", "127.0.0.1:9103"]);
    assert_eq!(loaded.log.filter, "debug");
}

#[test]
fn a_node_whose_folder_was_removed_comes_back_and_founds_nothing_beside_the_others() {
    let folder = tempfile::tempdir().unwrap();
    Plan::make(&args(folder.path())).unwrap().write().unwrap();
    fs::remove_dir_all(folder.path().join("n1")).unwrap();
    let plan = Plan::make(&args(folder.path())).unwrap();
    assert_eq!(plan.nodes.len(), 3);
    let founder = &plan.nodes[0].config.cluster;
    assert!(founder.bootstrap);
    assert_eq!(founder.join, ["127.0.0.1:7502", "127.0.0.1:7503"], "seeds are what keeps it from founding again");
}

#[test]
fn a_directory_that_was_copied_does_not_run_on_the_originals_data() {
    let folder = tempfile::tempdir().unwrap();
    Plan::make(&args(&folder.path().join("a"))).unwrap().write().unwrap();
    fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
    let error = error(&args(&folder.path().join("b")));
    assert!(error.contains("n1/node.toml has data_dir = ") && error.contains("a/n1/data"), "{error}");
}

#[test]
fn impossible_clusters_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let with = |nodes, rf, port| DevArgs { nodes, rf, port, ..args(folder.path()) };
    assert!(error(&with(Some(1), Some(3), None)).contains("3 replicas of each shard need as many nodes"));
    assert!(error(&with(Some(2), Some(2), None)).contains("expected 1 or 3 or 5"));
    assert!(error(&with(Some(9), None, Some(65_430))).contains("leaves no room"));
    assert_eq!(Plan::make(&with(Some(2), None, None)).unwrap().replicas, 1);
    assert_eq!(Plan::make(&with(Some(1), None, None)).unwrap().nodes[0].config.cluster.join, Vec::<String>::new());
}

#[test]
fn the_welcome_has_every_url_and_three_curl_lines() {
    let folder = tempfile::tempdir().unwrap();
    let text = Plan::make(&args(folder.path())).unwrap().welcome();
    for wanted in ["http://127.0.0.1:7401\n", "http://127.0.0.1:7402\n", "http://127.0.0.1:7403\n"] {
        assert!(text.contains(wanted), "{text}");
    }
    assert_eq!(text.lines().filter(|line| line.trim_start().starts_with("curl ")).count(), 3, "{text}");
    assert!(text.contains("-H 'If-Match: \"0000000000000000\"'"), "{text}");
}
