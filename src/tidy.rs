//! Style as a unit test: reads every file of `src/` and holds it to the layer table of `ARCHITECTURE.md` and to the
//! rules that no lint covers. Text is enough for that: comments and string literals are taken out, `use` trees are
//! spelled out, and what is left is compared with the tables below.
//!
//! What each rule is for stands at [`check`]; the samples in the tests show each of them firing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Longest file, in lines: what is longer becomes a folder.
const FILE_LINES_MAX: usize = 700;

/// Layers with their height: a layer imports only lower ones. Layers of one height do not import each other.
const LAYERS: &[(&str, u8)] = &[
    ("cli", 100),
    ("node", 90),
    ("api", 80),
    ("placement", 70),
    ("router", 60),
    ("shard", 50),
    ("raft", 40),
    ("machine", 30),
    ("transport", 20),
    ("storage", 20),
    ("catalog", 20),
    ("ring", 10),
];

/// Imported by every layer; among themselves each imports only those before it.
const FOUNDATION: &[&str] =
    &["mutants", "types", "clock", "wire", "method", "config", "telemetry", "meters", "admission"];

/// Macros stand at the crate's root whatever file makes them; these are of `wire`.
const WIRE_MACROS: &[&str] = &["wire_enum", "wire_struct"];

/// The one import that heights allow and the table does not: of its row, only the catalog knows the ring.
const RING_IMPORTERS_OF_ITS_ROW: &[&str] = &["catalog"];

/// Modules without a place in the order: they hold it together, or hold it to the rules.
const FREE: &[&str] = &["main", "lib", "tidy"];

/// A file of `src/`, as the rules see it.
struct Source<'a> {
    /// Path below `src/`, with forward slashes.
    path: &'a str,
    text: &'a str,
    tokens: Vec<Token<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Token<'a> {
    line: usize,
    /// An identifier, `::`, `""` or `"…"` for an empty or a filled string literal, or one character.
    text: &'a str,
}

/// A path as written in code, `use` trees spelled out: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
#[derive(PartialEq, Eq, Debug)]
struct CodePath<'a> {
    line: usize,
    segments: Vec<&'a str>,
}

/// Every rule over one file; each finding begins with `file:line`.
fn check(path: &str, text: &str) -> Vec<String> {
    let source = Source { path, text, tokens: tokenize(text) };
    let paths = code_paths(&source.tokens);
    let mut found = Vec::new();
    check_layers(&source, &paths, &mut found);
    check_seams(&source, &paths, &mut found);
    check_markers(&source, &mut found);
    check_shape(&source, &mut found);
    found
}

/// The module directly below the crate that a file belongs to: `storage/rocks.rs` is part of `storage`.
fn layer_of(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

fn height_of(layer: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == layer).map(|(_, height)| *height)
}

fn may_import(from: &str, to: &str) -> bool {
    let to = if WIRE_MACROS.contains(&to) { "wire" } else { to };
    if from == to || FREE.contains(&from) {
        return true;
    }
    let place_in_foundation = |name: &str| FOUNDATION.iter().position(|each| *each == name);
    match (place_in_foundation(from), place_in_foundation(to)) {
        (Some(from), Some(to)) => return to < from,
        (None, Some(_)) => return true,
        (Some(_), None) => return false,
        (None, None) => {}
    }
    let (Some(from_height), Some(to_height)) = (height_of(from), height_of(to)) else { return false };
    if to == "ring" && Some(from_height) == height_of("catalog") {
        return RING_IMPORTERS_OF_ITS_ROW.contains(&from);
    }
    to_height < from_height
}

/// `crate::x` follows the table. So does `super::x` where x is the name of a layer: it may reach the crate's root.
fn check_layers(source: &Source<'_>, paths: &[CodePath<'_>], found: &mut Vec<String>) {
    let from = layer_of(source.path);
    if height_of(from).is_none() && !FOUNDATION.contains(&from) && !FREE.contains(&from) {
        found.push(format!("{}:1: module {from} stands in no layer: give it a place in src/tidy.rs", source.path));
        return;
    }
    for path in paths {
        let to = match path.segments.as_slice() {
            ["crate", to, ..] => *to,
            ["super", ..] => match path.segments.iter().find(|segment| **segment != "super") {
                Some(to) if height_of(to).is_some() || FOUNDATION.contains(to) => to,
                _ => continue,
            },
            _ => continue,
        };
        if !may_import(from, to) {
            found.push(format!("{}:{}: {from} must not import {to}", source.path, path.line));
        }
    }
}

/// One importer for each of the two engines, and no way around the clock, thread and randomness seams.
fn check_seams(source: &Source<'_>, paths: &[CodePath<'_>], found: &mut Vec<String>) {
    let layer = layer_of(source.path);
    let real_world = matches!(layer, "storage" | "clock" | "main");
    for token in &source.tokens {
        let names_openraft = token.text == "openraft" || token.text.starts_with("openraft_");
        if names_openraft && layer != "raft" {
            found.push(format!("{}:{}: only raft/ names {}", source.path, token.line, token.text));
        }
        if matches!(token.text, "rocksdb" | "librocksdb_sys") && layer != "storage" {
            found.push(format!("{}:{}: only storage/ names {}", source.path, token.line, token.text));
        }
        if token.text == "SystemTime" && !real_world {
            found.push(format!("{}:{}: SystemTime goes around the clock seam", source.path, token.line));
        }
    }
    if real_world {
        return;
    }
    for path in paths {
        let has = |wanted: &[&str]| path.segments.windows(wanted.len()).any(|window| window == wanted);
        if has(&["thread", "spawn"]) || has(&["thread", "Builder"]) || has(&["thread", "scope"]) {
            found.push(format!("{}:{}: threads live in storage/ and main alone", source.path, path.line));
        }
        if has(&["std", "time", "Instant"]) {
            found.push(format!("{}:{}: std::time::Instant goes around the clock seam", source.path, path.line));
        }
    }
}

/// Nothing unfinished lands, and a test that is left out says why.
fn check_markers(source: &Source<'_>, found: &mut Vec<String>) {
    // Put together here, so that this file does not find itself.
    let markers = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    for (index, line) in source.text.lines().enumerate() {
        let mut words = line.split(|character: char| !character.is_alphanumeric() && character != '_');
        if let Some(marker) = words.find(|word| markers.iter().any(|marker| marker == word)) {
            found.push(format!("{}:{}: left-over marker {marker}", source.path, index + 1));
        }
    }
    for window in source.tokens.windows(2) {
        if matches!(window[0].text, "todo" | "unimplemented" | "dbg") && window[1].text == "!" {
            found.push(format!("{}:{}: left-over {}!", source.path, window[0].line, window[0].text));
        }
    }
    for (index, token) in source.tokens.iter().enumerate().filter(|(_, token)| token.text == "ignore") {
        let before = index.checked_sub(1).map(|index| source.tokens[index].text);
        let after = |distance: usize| source.tokens.get(index + distance).map(|token| token.text);
        let attribute = matches!(before, Some("[" | ","));
        let bare = matches!(after(1), Some("]" | ")"));
        let empty = after(1) == Some("=") && after(2) == Some("\"\"");
        if attribute && (bare || empty) {
            found.push(format!("{}:{}: an ignored test says why", source.path, token.line));
        }
    }
}

fn check_shape(source: &Source<'_>, found: &mut Vec<String>) {
    if !source.text.starts_with("//!") {
        found.push(format!("{}:1: a file opens with //! and its one job", source.path));
    }
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!("{}:{lines}: {lines} lines; the limit is {FILE_LINES_MAX}", source.path));
    }
}

/// Splits code into tokens and drops comments, the content of literals, and lifetimes.
fn tokenize(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (taken, token) = if first.is_whitespace() {
            (first.len_utf8(), None)
        } else if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (block_comment_length(rest), None)
        } else if let Some((length, empty)) = string_length(rest) {
            (length, Some(if empty { "\"\"" } else { "\"…\"" }))
        } else if first == '\'' {
            (quote_length(rest), None)
        } else if rest.starts_with("::") {
            (2, Some("::"))
        } else if first.is_alphanumeric() || first == '_' {
            let length = word_length(rest);
            (length, Some(&rest[..length]))
        } else {
            (first.len_utf8(), Some(&rest[..first.len_utf8()]))
        };
        if let Some(token) = token {
            tokens.push(Token { line, text: token });
        }
        line += rest[..taken].matches('\n').count();
        rest = &rest[taken..];
    }
    tokens
}

fn word_length(text: &str) -> usize {
    text.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(text.len())
}

/// Block comments nest.
fn block_comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Length of the string literal that `text` begins with, if it does, and whether it is empty: plain, byte, C and raw.
fn string_length(text: &str) -> Option<(usize, bool)> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| {
            rest.starts_with('"') || (prefix.ends_with('r') && rest.trim_start_matches('#').starts_with('"'))
        })
    })?;
    let rest = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let content = &rest[hashes + 1..];
        let length = content.find(&end).unwrap_or(content.len());
        return Some(((prefix.len() + hashes + 1 + length + end.len()).min(text.len()), length == 0));
    }
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some((prefix.len() + at + 1, at == 1)),
            _ => {}
        }
    }
    Some((text.len(), false))
}

/// Length of the character literal or lifetime that `text` begins with.
fn quote_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((escaped_at, escaped))) => {
            let after = escaped_at + escaped.len_utf8();
            text[after..].find('\'').map_or(text.len(), |end| after + end + 1)
        }
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 1 + word_length(&text[1..]),
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|character: char| character.is_alphabetic() || character == '_')
}

/// All paths of two segments or more.
fn code_paths<'a>(tokens: &[Token<'a>]) -> Vec<CodePath<'a>> {
    let mut paths = Vec::new();
    // The prefixes of the braces of `use` trees we are inside of: `use a::{b::{` is [[a], [a, b]].
    let mut prefixes: Vec<Vec<&'a str>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let line = tokens[at].line;
        if tokens[at].text == "}" {
            prefixes.pop();
            at += 1;
            continue;
        }
        if !is_word(tokens[at].text) {
            at += 1;
            continue;
        }
        // The new name of `use a::{b as c}` is no path.
        if tokens[at].text == "as" && !prefixes.is_empty() {
            at += 2;
            continue;
        }
        let mut segments = prefixes.last().cloned().unwrap_or_default();
        segments.push(tokens[at].text);
        at += 1;
        while at + 1 < tokens.len() && tokens[at].text == "::" && is_word(tokens[at + 1].text) {
            segments.push(tokens[at + 1].text);
            at += 2;
        }
        let opens_tree = at + 1 < tokens.len() && tokens[at].text == "::" && tokens[at + 1].text == "{";
        if opens_tree {
            prefixes.push(segments);
            at += 2;
        } else if segments.len() > 1 {
            paths.push(CodePath { line, segments });
        }
    }
    paths
}

fn rust_files(root: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).expect("the source folder can be read");
        for entry in entries {
            let path = entry.expect("the source folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.insert(path);
            }
        }
    }
    files
}

#[test]
fn the_sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&root);
    assert!(files.contains(&root.join("lib.rs")), "no lib.rs below {}: wrong folder?", root.display());
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        found.extend(check(&path, &text));
    }
    assert!(found.is_empty(), "src/ breaks {} rules:\nsrc/{}", found.len(), found.join("\nsrc/"));
}

mod tests;
