//! What an import or export came to: for people a line, with `-o json` an object. Also when it did not come to its end.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::ndjson;
use super::progress::{mib, per_second};
use super::walk::LeftOut;
use crate::cli::output::printable;

#[derive(Debug, Default)]
pub(super) struct Summary {
    /// Written by this run, and their bytes.
    pub(super) written: u64,
    pub(super) bytes: u64,
    /// Was there before, as it should be.
    pub(super) unchanged: u64,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) retries: u64,
    pub(super) time: Duration,
    /// Whether everything was done that was not left out.
    pub(super) is_complete: bool,
}

impl Summary {
    /// `done` is what was done to each: `stored`, `written`.
    pub(super) fn line(&self, done: &str, unit: &str) -> String {
        let mut line = format!("{} {unit} {done}, {:.1} MiB", self.written, mib(self.bytes));
        if self.unchanged > 0 {
            line += &format!("; {} unchanged", self.unchanged);
        }
        if !self.left_out.is_empty() {
            line += &format!("; {} left out", self.left_out.len());
        }
        let seconds = self.time.as_secs_f64();
        let rate = per_second(self.written + self.unchanged, self.time);
        line += &format!("; {seconds:.1} s, {rate:.0} {unit}/s");
        if self.retries > 0 {
            line += &format!(", {} tried again", self.retries);
        }
        line
    }

    pub(super) fn json(&self) -> Value {
        let left_out: Vec<Value> = self
            .left_out
            .iter()
            .map(|left_out| {
                let mut object = Map::new();
                ndjson::insert(&mut object, "name", &left_out.what);
                object.insert("reason".to_string(), json!(left_out.why));
                Value::Object(object)
            })
            .collect();
        json!({
            "complete": self.is_complete,
            "written": self.written,
            "unchanged": self.unchanged,
            "bytes": self.bytes,
            "left_out": left_out,
            "retries": self.retries,
            "seconds": self.time.as_secs_f64(),
        })
    }
}

/// One line for each, as it goes to standard error.
pub(super) fn listed(left_out: &[LeftOut], verb: &str) -> String {
    let line = |out: &LeftOut| format!("{verb}: {}: {}", name(&out.what), printable(&out.why));
    left_out.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A path or key as a terminal may show it: what is no text as `\xff`.
pub(super) fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => printable(text),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_what_was_left_out_in_both_forms() {
        let summary = Summary {
            written: 3,
            bytes: 3 << 20,
            unchanged: 1,
            left_out: vec![
                LeftOut { what: b"a\x1b".to_vec(), why: "a socket".to_string() },
                LeftOut { what: b"\xff".to_vec(), why: "b".to_string() },
            ],
            retries: 2,
            time: Duration::from_secs(2),
            is_complete: true,
        };
        let line = summary.line("stored", "files");
        assert_eq!(line, "3 files stored, 3.0 MiB; 1 unchanged; 2 left out; 2.0 s, 2 files/s, 2 tried again");
        let json = summary.json();
        assert_eq!((&json["written"], &json["complete"], &json["retries"]), (&json!(3), &json!(true), &json!(2)));
        assert_eq!(json["left_out"][1], json!({"name_b64": "_w", "reason": "b"}));
        assert_eq!(listed(&summary.left_out, "left out"), "left out: a\\u{1b}: a socket\nleft out: \\xff: b");
    }
}
