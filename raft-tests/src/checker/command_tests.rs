use tempfile::TempDir;

use super::*;

const GOOD: &str = concat!(
    r#"{"type":"invoke","op":1,"process":1,"f":"put","key":"k","value":"a","time":0}"#,
    "\n",
    r#"{"type":"nemesis","fault":"kill","what":"begin","on":["n1"],"confirmed":true,"time":1000}"#,
    "\n",
    r#"{"type":"ok","op":1,"time":2000,"applied":true,"ver":"0000000000000005"}"#,
    "\n",
    r#"{"type":"invoke","op":2,"process":1,"f":"get","key":"k","time":3000}"#,
    "\n",
    r#"{"type":"ok","op":2,"time":4000,"found":true,"ver":"0000000000000005","value":"a"}"#,
    "\n",
);

/// The read sees nothing of the write.
fn bad() -> String {
    GOOD.replace(r#""found":true,"ver":"0000000000000005","value":"a""#, r#""found":false"#)
}

fn undecided() -> String {
    let open =
        |op| format!(r#"{{"type":"invoke","op":{op},"process":{op},"f":"delete","key":"k","time":9000}}"#) + "\n";
    GOOD.to_string() + &(10..19).map(open).collect::<String>()
}

/// The exit code for a file with this text.
fn exit_code_of(text: &str) -> u8 {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("history.jsonl");
    fs::write(&file, text).unwrap();
    command(&[file.to_str().unwrap()])
}

#[test]
fn each_verdict_has_its_exit_code() {
    assert_eq!(exit_code_of(GOOD), 0);
    assert_eq!(exit_code_of(&bad()), 1);
    assert_eq!(exit_code_of(&undecided()), 2);
    for malformed in ["", "{}\n", &GOOD[..GOOD.len() - 1]] {
        assert_eq!(exit_code_of(malformed), 3, "{malformed}");
    }
    for words in [&[][..], &["--picture"], &["a", "b"], &["/no/such/file"], &["--help"]] {
        assert_eq!(command(words), 3, "{words:?}");
    }
}

#[test]
fn a_violation_beside_something_undecided_is_a_violation() {
    let text = bad() + undecided()[GOOD.len()..].replace(r#""k""#, r#""other""#).as_str();
    assert_eq!(exit_code_of(&text), 1);
}

#[test]
fn the_picture_is_written_where_it_is_wanted() {
    let directory = TempDir::new().unwrap();
    let (file, out) = (directory.path().join("history.jsonl"), directory.path().join("out.html"));
    fs::write(&file, bad()).unwrap();
    let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    assert_eq!(command(&[file, "--picture", out]), 1);
    assert!(fs::read_to_string(out).unwrap().contains("<svg"));
    // Nowhere to write it: the verdict comes first, unless there is nothing wrong.
    assert_eq!(command(&[file, "--picture", "/no/such/directory/out.html"]), 1);
    fs::write(file, GOOD).unwrap();
    assert_eq!(command(&["--picture", "/no/such/directory/out.html", file]), 3);
}

#[test]
fn the_summary_tells_counts_and_the_shortest_bad_prefix_line_by_line() {
    let history = history::read(bad().as_bytes()).unwrap();
    let text = summary(&history, &check(&history));
    let expected = "\
2 operations on 1 keys
  writes: 0 of unknown outcome, 0 failed, 0 refused (412)
  reads: 1 linearizable, 0 without an answer, not checked
  violations: 1, undecided keys: 0

VIOLATION key \"k\": no order of the operations before it lets operation 2 be answered: absent
  the shortest bad prefix, 4 of 4 events of the key:
        ms  process      op  event
     0.000        1       1        put \"a\"
     1.000        -       -  fault kill begins n1
     2.000        1       1  ok    written at 0000000000000005
     3.000        1       2        get
>>   4.000        1       2  ok    absent
bad
";
    assert_eq!(text, expected);
}
