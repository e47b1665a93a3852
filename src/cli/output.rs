//! What the commands print: the server's JSON as it came, or tables made from it.
//!
//! Tables know the members that matter and live with any others, so that a client prints the answers of a newer server
//! too. Text from the cluster is escaped: a key must not be able to move a terminal's cursor. Nothing is coloured.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

use super::args::Output;
use super::client::Answer;
use super::exit::Failure;

/// Longest text in a cell of a list, in characters.
const CELL_CHARS_MAX: usize = 80;
/// What stands for "nothing" in a cell.
const NOTHING: &str = "-";

/// Where a command's results go, and in which form.
pub(super) struct Printer {
    format: Output,
    out: Box<dyn Write>,
}

impl Printer {
    pub(super) fn standard(format: Output) -> Self {
        Self::new(format, Box::new(io::stdout()))
    }

    pub(super) fn new(format: Output, out: Box<dyn Write>) -> Self {
        Self { format, out }
    }

    pub(super) fn format(&self) -> Output {
        self.format
    }

    /// Writes at once. A reader that went away ends the command without a fuss.
    pub(super) fn emit(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(|source| match source.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Io { what: "cannot write to standard output".to_string(), source },
        })
    }

    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.emit(format!("{}\n", text.trim_end_matches('\n')).as_bytes())
    }

    /// The server's own bytes, ended by a newline.
    pub(super) fn raw_json(&mut self, answer: &Answer) -> Result<(), Failure> {
        // Looked at once, so that something else than JSON is an error instead of output.
        answer.json()?;
        let mut bytes = answer.body.to_vec();
        if bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        self.emit(&bytes)
    }

    pub(super) fn version(&mut self) -> Result<(), Failure> {
        let version = env!("CARGO_PKG_VERSION");
        #[cfg(feature = "mutants")]
        let version = &format!("{version} {}", crate::mutants::MARKER);
        match self.format {
            Output::Table => self.line(&format!("ringraft {version}")),
            Output::Json => self.line(&json!({ "name": "ringraft", "version": version }).to_string()),
        }
    }
}

/// The list in an answer: under `name`, else the answer itself when it is one.
pub(super) fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().or_else(|| answer.as_array()).map_or(&[], Vec::as_slice)
}

/// A table of objects with those of `columns` that any of them has. `header` is left out for the later pages of a list.
pub(super) fn records(items: &[Value], columns: &[&str], header: bool) -> String {
    let columns: Vec<&str> =
        columns.iter().copied().filter(|column| items.iter().any(|item| item.get(column).is_some())).collect();
    let mut table = plain_table();
    if header {
        table.set_header(columns.iter().map(|column| column.replace('_', " ").to_uppercase()));
    }
    for item in items {
        table.add_row(columns.iter().map(|column| shortened(&cell(&item[*column]))));
    }
    finished(&table)
}

/// One object: its plain members as lines, those of objects within it under dotted names, then a table for each list of
/// objects, with those of `columns` that they have, or with all they have when that is none.
pub(super) fn facts(value: &Value, columns: &[&str]) -> String {
    let mut lines = Vec::new();
    let mut lists = Vec::new();
    collect_facts("", value, &mut lines, &mut lists);
    let mut table = plain_table();
    for (name, text) in lines {
        table.add_row([name, text]);
    }
    let mut text = finished(&table);
    for (name, items) in lists {
        let known = items.iter().any(|item| columns.iter().any(|column| item.get(column).is_some()));
        let all = columns_of(items);
        let rows = if known {
            records(items, columns, true)
        } else {
            records(items, &all.iter().map(String::as_str).collect::<Vec<_>>(), true)
        };
        text += &format!("\n{name}:\n{rows}");
    }
    text
}

fn collect_facts<'a>(
    name: &str,
    value: &'a Value,
    lines: &mut Vec<(String, String)>,
    lists: &mut Vec<(String, &'a [Value])>,
) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                let name = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
                collect_facts(&name, value, lines, lists);
            }
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            lists.push((name.to_string(), items));
        }
        _ => lines.push((name.to_string(), cell(value))),
    }
}

/// Every member of any of the objects.
fn columns_of(items: &[Value]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in items.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// One value as text for people.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_string(),
        Value::String(text) if text.is_empty() => NOTHING.to_string(),
        Value::String(text) => printable(text),
        Value::Array(items) if items.is_empty() => NOTHING.to_string(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(members) => {
            members.iter().map(|(name, value)| format!("{name}={}", cell(value))).collect::<Vec<_>>().join(" ")
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Text with everything escaped that is not meant to be seen.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|letter| -> Box<dyn Iterator<Item = char>> {
            if letter.is_control() { Box::new(letter.escape_debug()) } else { Box::new(std::iter::once(letter)) }
        })
        .collect()
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= CELL_CHARS_MAX {
        return text.to_string();
    }
    text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

fn finished(table: &Table) -> String {
    if table.is_empty() && table.header().is_none() {
        return String::new();
    }
    // Cells begin with a space of padding; lines begin with their text.
    table.trim_fmt().lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_table_of_the_columns_that_are_there() {
        let items = [json!({"id": "1", "http": "a:1", "extra": 3}), json!({"id": "12", "zone": ""})];
        let text = records(&items, &["id", "http", "zone", "weight"], true);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["ID", "HTTP", "ZONE"], vec!["1", "a:1", "-"], vec!["12", "-", "-"]]);
        assert!(text.lines().all(|line| !line.starts_with(' ') && !line.ends_with(' ')), "{text:?}");
        assert_eq!(records(&items, &["id"], false), "1\n12\n");
    }

    #[test]
    fn an_object_is_lines_and_a_table_for_each_list_in_it() {
        let value = json!({
            "id": "3",
            "leader": {"node": "1", "http": "a:1"},
            "replicas": [{"applied": 7, "node": "1"}, {"applied": 6, "node": "2"}],
            "labels": ["x", "y"],
            "others": [{"b": 1, "a": 2}],
        });
        let text = facts(&value, &["node", "missing", "applied"]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[..4],
            [vec!["id", "3"], vec!["labels", "x,", "y"], vec!["leader.http", "a:1"], vec!["leader.node", "1"]]
        );
        assert_eq!(lines[5..9], [vec!["others:"], vec!["A", "B"], vec!["2", "1"], vec![]]);
        assert_eq!(lines[9..], [vec!["replicas:"], vec!["NODE", "APPLIED"], vec!["1", "7"], vec!["2", "6"]]);
    }

    #[test]
    fn what_would_move_the_cursor_is_escaped_and_long_text_is_cut() {
        assert_eq!(printable("a\u{1b}[2Jé\n"), "a\\u{1b}[2Jé\\n");
        let text = records(&[json!({"key": "k".repeat(200)})], &["key"], false);
        assert_eq!(text.trim_end().chars().count(), CELL_CHARS_MAX);
        assert!(text.ends_with("…\n"));
    }

    #[test]
    fn a_list_is_found_under_its_name_or_as_the_answer_itself() {
        assert_eq!(list(&json!({"nodes": [1], "other": [2]}), "nodes"), [json!(1)]);
        assert_eq!(list(&json!([1, 2]), "nodes").len(), 2);
        assert!(list(&json!({"nodes": 3}), "nodes").is_empty());
    }
}
