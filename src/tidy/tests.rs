//! Each rule of the tidy test seen to fire on a planted sample, and to leave the innocent look-alike alone.

use super::{FILE_LINES_MAX, check, code_paths, may_import, tokenize};

fn findings(path: &str, code: &str) -> Vec<String> {
    check(path, &format!("//! A sample.\n{code}"))
}

#[track_caller]
fn fires(path: &str, code: &str, wanted: &str) {
    let found = findings(path, code);
    assert!(found.iter().any(|finding| finding.contains(wanted)), "wanted {wanted:?} in {found:?}");
}

#[track_caller]
fn silent(path: &str, code: &str) {
    assert_eq!(findings(path, code), Vec::<String>::new());
}

#[test]
fn an_import_of_a_higher_layer_is_found_in_every_spelling() {
    fires("storage/keys.rs", "use crate::raft::Codec;", "storage/keys.rs:2: storage must not import raft");
    fires("router.rs", "fn f() { crate::api::serve() }", "router must not import api");
    fires("shard/host.rs", "use crate::{types::ShardId, router::Router};", "shard must not import router");
    fires("machine/apply.rs", "use crate::{\n    ring::Token,\n    raft::{a, b},\n};", "apply.rs:4: machine must not");
    fires("node.rs", "use super::cli::Arguments;", "node must not import cli");
    fires("raft/network.rs", "use super::super::shard;", "raft must not import shard");
    fires("types.rs", "pub(in crate::api) struct A;", "types must not import api");
}

#[test]
fn an_import_of_a_lower_layer_is_fine() {
    silent("cli/serve.rs", "use crate::{node::Node, config::Config, types::NodeId};");
    silent("raft/log_store.rs", "use crate::storage::Engine; use crate::{wire::Wire, clock};");
    silent("api/kv.rs", "use super::error::Problem; use crate::api::admin;");
    silent("main.rs", "use crate::cli::main; fn f() { crate::raft::x() }");
    silent(
        "ring.rs",
        "// not crate::raft::x\n/* nor /* crate::raft */ crate::raft::y */ const A: &str = \"crate::raft::z\";",
    );
}

#[test]
fn the_layers_of_one_row_do_not_know_each_other() {
    let row = ["transport", "storage", "catalog"];
    for from in row {
        for to in row {
            assert_eq!(may_import(from, to), from == to, "{from} to {to}");
        }
        assert_eq!(may_import(from, "ring"), from == "catalog", "{from} to ring");
        assert!(may_import("machine", from));
        assert!(!may_import("ring", from));
    }
    assert!(may_import("machine", "ring"));
}

#[test]
fn the_foundation_imports_no_layer_and_nothing_after_itself() {
    assert!(may_import("config", "types") && may_import("config", "wire") && may_import("telemetry", "config"));
    assert!(may_import("storage", "config") && may_import("ring", "types"));
    assert!(may_import("storage", "mutants") && may_import("types", "mutants"));
    for (from, to) in
        [("config", "ring"), ("types", "wire"), ("config", "telemetry"), ("wire", "storage"), ("mutants", "types")]
    {
        assert!(!may_import(from, to), "{from} to {to}");
    }
}

#[test]
fn a_module_without_a_place_is_found_on_both_sides() {
    fires("gossip.rs", "", "module gossip stands in no layer");
    fires("router.rs", "use crate::gossip::Rumour;", "router must not import gossip");
}

#[test]
fn each_engine_has_one_importer() {
    fires("shard/group.rs", "use openraft::Raft;", "only raft/ names openraft");
    fires("node.rs", "type A = openraft_rt::Runtime;", "only raft/ names openraft_rt");
    fires("raft/log_store.rs", "use rocksdb::DB;", "only storage/ names rocksdb");
    silent("raft/mod.rs", "//! Speaks of rocksdb.\nuse openraft::Raft;");
    silent("storage/rocks.rs", "use rocksdb::{DB, Options};");
}

#[test]
fn threads_and_clocks_stay_behind_their_seams() {
    for code in [
        "fn f() { std::thread::spawn(|| ()); }",
        "use std::thread; fn f() { thread::Builder::new(); }",
        "fn f() { std::thread::scope(|_| ()); }",
        "use std::{thread::{self, spawn}, io};",
    ] {
        fires("transport/dial.rs", code, "threads live in storage/ and main alone");
        silent("storage/log_writer.rs", code);
        silent("main.rs", code);
    }
    fires("raft/mod.rs", "use std::time::{Duration, Instant};", "std::time::Instant goes around");
    fires("raft/mod.rs", "fn f() -> std::time::Instant { g() }", "std::time::Instant goes around");
    fires("raft/mod.rs", "use std::time::SystemTime;", "SystemTime goes around");
    silent("clock.rs", "use std::time::{Instant, SystemTime};");
    silent("raft/mod.rs", "use std::time::Duration; fn f() { tokio::task::spawn_blocking(g); thread_spawn() }");
}

#[test]
fn left_over_markers_are_found() {
    let marker = ["FIX", "ME"].concat();
    fires("ring.rs", &format!("// {marker}: later\n"), "left-over marker");
    fires("ring.rs", &format!("// ({}) later\n", ["XX", "X"].concat()), "left-over marker");
    fires("ring.rs", &format!("/// {} x\n", ["TO", "DO"].concat()), "left-over marker");
    for name in ["todo", "unimplemented", "dbg"] {
        fires("ring.rs", &format!("fn f() {{ {name}!() }}"), "left-over");
    }
    silent("ring.rs", "fn todo() { dbg() } const A: &str = \"todo!()\"; // dbg! is a macro\n");
}

#[test]
fn an_ignored_test_needs_a_reason() {
    fires("ring.rs", "#[test]\n#[ignore]\nfn f() {}", "ring.rs:3: an ignored test says why");
    fires("ring.rs", "#[ignore = \"\"]\nfn f() {}", "an ignored test says why");
    fires("ring.rs", "#[cfg_attr(miri, ignore)]\nfn f() {}", "an ignored test says why");
    silent("ring.rs", "#[ignore = \"takes an hour\"]\nfn f() { g(ignore); }");
}

#[test]
fn a_file_opens_with_its_job_and_ends_in_time() {
    assert_eq!(check("ring.rs", "use std::fmt;\n").len(), 1);
    assert_eq!(check("ring.rs", &"//!\n".repeat(FILE_LINES_MAX)), Vec::<String>::new());
    assert_eq!(check("ring.rs", &"//!\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
}

#[test]
fn literals_and_lifetimes_do_not_derail_the_reader() {
    let code = r####"fn f<'a>(x: &'a str) -> char { let q = ['"', '\'', '\\', '\u{1F600}', b'"' as char, 'x'];
        let s = r#"a " crate::x::y"#; let t = "\" crate::x::y \\"; let u = br"\"; let é = 'é'; crate::end::here() }"####;
    let tokens = tokenize(code);
    let paths = code_paths(&tokens);
    assert_eq!(paths.len(), 1, "{paths:?}");
    assert_eq!((paths[0].line, paths[0].segments.as_slice()), (2, ["crate", "end", "here"].as_slice()));
}

#[test]
fn use_trees_are_spelled_out() {
    let tokens = tokenize("use a::{b, c::{d, e::f as g}, h::*}; fn x() { if y { z::w() } } use k::l;");
    let spelled: Vec<String> = code_paths(&tokens).iter().map(|path| path.segments.join("::")).collect();
    assert_eq!(spelled, ["a::b", "a::c::d", "a::c::e::f", "a::h", "z::w", "k::l"]);
}
