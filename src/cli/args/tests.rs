//! What is taken on the command line, and what is refused.

use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::config::Config;

pub(in crate::cli::args) fn parse(line: &[&str]) -> Result<Args, clap::Error> {
    Args::try_parse_from([&["ringraft"], line].concat())
}

#[track_caller]
pub(in crate::cli::args) fn refused(line: &[&str]) {
    match parse(line) {
        Ok(args) => panic!("{line:?} was taken as {args:?}"),
        Err(error) => assert_eq!(error.exit_code(), 2, "{line:?}: {error}"),
    }
}

#[test]
fn the_command_tree_is_sound() {
    use clap::CommandFactory;
    Args::command().debug_assert();
}

#[test]
fn client_flags_stand_before_or_after_the_command() {
    for line in [
        ["-o", "json", "--endpoints", "a:1,b:2", "--timeout", "500ms", "get", "k"],
        ["get", "k", "-o", "json", "--endpoints", "a:1,b:2", "--timeout", "500ms"],
    ] {
        let args = parse(&line).unwrap();
        assert_eq!(args.client.output(), Output::Json);
        assert_eq!(args.client.endpoints.as_deref(), Some("a:1,b:2"));
        assert_eq!(args.client.timeout, Some(Duration::from_millis(500)));
    }
}

#[test]
fn a_client_flag_is_refused_where_it_means_nothing() {
    let args = parse(&["serve", "-o", "json"]).unwrap();
    assert_eq!(args.client.refuse_for("serve").unwrap_err().exit(), super::super::exit::Exit::Usage);
    parse(&["serve"]).unwrap().client.refuse_for("serve").unwrap();
}

#[test]
fn a_key_is_any_bytes_up_to_its_limit() {
    let args = Args::try_parse_from(["ringraft".into(), "get".into(), OsString::from_vec(vec![0xff, b'/'])]).unwrap();
    let Command::Get(get) = args.command else { panic!() };
    assert_eq!(get.key, Key(vec![0xff, b'/']));
    parse(&["get", &"k".repeat(2048)]).unwrap();
    refused(&["get", ""]);
    refused(&["get", &"k".repeat(2049)]);
    refused(&["get"]);
}

#[test]
fn preconditions_are_revisions_as_they_are_printed() {
    let if_match = |text| match parse(&["put", "k", "v", "--if-match", text]) {
        Ok(Args { command: Command::Put(put), .. }) => put.if_match,
        other => panic!("{other:?}"),
    };
    let revision = Precondition::Revision(crate::types::Revision(0x0001_8f3c_5a2b_0001));
    assert_eq!(if_match("00018f3c5a2b0001"), Some(revision.clone()));
    assert_eq!(if_match("\"00018f3c5a2b0001\""), Some(revision));
    assert_eq!(if_match("*"), Some(Precondition::Exists));
    refused(&["put", "k", "v", "--if-match", "7"]);
    refused(&["put", "k", "v", "--if-match", "*", "--if-none-match"]);
    refused(&["put", "k", "v", "--file", "f"]);
    refused(&["put", "k", "v", "--idempotency-key", "é"]);
}

#[test]
fn a_value_may_be_a_negative_number_or_empty() {
    for value in ["-5", "", "-"] {
        let Command::Put(put) = parse(&["put", "k", value]).unwrap().command else { panic!() };
        assert_eq!(put.value.as_deref(), Some(std::ffi::OsStr::new(value)));
    }
}

#[test]
fn times_have_a_unit_and_limits() {
    assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
    for bad in ["0ms", "61s", "5", "s", "-1s", "1h", "5 s", "99999999999999999999s"] {
        refused(&["--timeout", bad, "status"]);
    }
    refused(&["dev", "--restart-after", "sometimes"]);
    let Command::Dev(dev) = parse(&["dev", "--restart-after", "5s"]).unwrap().command else { panic!() };
    assert_eq!(dev.restart_after, RestartAfter::After(Duration::from_secs(5)));
    let Command::Dev(dev) = parse(&["dev"]).unwrap().command else { panic!() };
    assert_eq!((dev.restart_after, dev.nodes, dev.data), (RestartAfter::Never, None, PathBuf::from("data")));
}

#[test]
fn unheard_of_flags_commands_and_values_are_usage_errors() {
    refused(&[]);
    refused(&["frobnicate"]);
    refused(&["get", "k", "--consistency", "eventual"]);
    refused(&["scan", "--prefix", "a", "--start", "b"]);
    refused(&["scan", "--limit", "0"]);
    refused(&["shard", "show", "one"]);
    refused(&["dev", "--nodes", "0"]);
    refused(&["dev", "--nodes", "33"]);
    refused(&["serve", "--confg", "f"]);
    assert_eq!(parse(&["--help"]).unwrap_err().exit_code(), 0);
}

#[test]
fn every_flag_of_serve_reaches_its_key() {
    let line = [
        "serve",
        "--bootstrap",
        "--rf",
        "5",
        "--shards",
        "7",
        "--join",
        "a:1,b:2",
        "--data",
        "d",
        "--http-listen",
        "0.0.0.0:1",
        "--http-advertise",
        "n1:1",
        "--peer-listen",
        "0.0.0.0:2",
        "--peer-advertise",
        "n1:2",
        "--insecure",
        "--weight",
        "50",
        "--zone",
        "z",
        "--host-label",
        "h",
        "--log-format",
        "json",
        "--log-filter",
        "debug",
    ];
    let Command::Serve(serve) = parse(&line).unwrap().command else { panic!() };
    let loaded = Config::load(None, std::iter::empty(), &serve.settings()).unwrap();
    let mut wanted = Config { data_dir: "d".into(), insecure: true, ..Config::default() };
    wanted.cluster.bootstrap = true;
    wanted.cluster.replication_factor = 5;
    wanted.cluster.shards = 7;
    wanted.cluster.join = vec!["a:1".to_string(), "b:2".to_string()];
    wanted.http.listen = "0.0.0.0:1".to_string();
    wanted.http.advertise = Some("n1:1".to_string());
    wanted.peer.listen = "0.0.0.0:2".to_string();
    wanted.peer.advertise = Some("n1:2".to_string());
    wanted.node.weight = 50;
    wanted.node.zone = "z".to_string();
    wanted.node.host = "h".to_string();
    wanted.log.format = crate::config::LogFormat::Json;
    wanted.log.filter = "debug".to_string();
    assert_eq!(loaded, wanted);
    let Command::Serve(bare) = parse(&["serve"]).unwrap().command else { panic!() };
    assert_eq!(bare.settings(), []);
}
