//! `raft-tests check` as a script calls it: the exit code is the verdict.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

const WRITE: &str = concat!(
    r#"{"type":"invoke","op":1,"process":1,"f":"put","key":"k","value":"a","node":"n1","time":10}"#,
    "\n",
    r#"{"type":"ok","op":1,"time":20,"applied":true,"ver":"0000000000000005","status":204}"#,
    "\n",
);

fn check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raft-tests")).arg("check").args(arguments).output().unwrap()
}

#[test]
fn the_exit_code_of_check_is_the_verdict() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_string();
    let read = concat!(r#"{"type":"invoke","op":2,"process":2,"f":"get","key":"k","time":30}"#, "\n");
    let answered = |found: &str| format!("{WRITE}{read}{{\"type\":\"ok\",\"op\":2,\"time\":40,\"found\":{found}}}\n");
    let unknown =
        |process| format!(r#"{{"type":"invoke","op":{process},"process":{process},"f":"delete","key":"k","time":20}}"#);
    let many_unknown: String = (10..20).map(|process| unknown(process) + "\n").collect();
    for (text, code, says) in [
        (answered(r#"true,"ver":"0000000000000005","value":"a""#), 0, "good"),
        (answered("false"), 1, "VIOLATION key \"k\""),
        (format!("{WRITE}{many_unknown}"), 2, "UNDECIDED key \"k\": 10 writes"),
        (WRITE.replace("ver", "version"), 3, "line 2: no event"),
    ] {
        fs::write(path("history.jsonl"), text).unwrap();
        let output = check(&[&path("history.jsonl"), "--picture", &path("out.html")]);
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{said}");
        assert_eq!(fs::remove_file(path("out.html")).is_ok(), code != 3, "a picture of every history that can be read");
    }
    assert_eq!(check(&[]).status.code(), Some(3));
    assert_eq!(check(&[&path("no-such-file")]).status.code(), Some(3));
}
