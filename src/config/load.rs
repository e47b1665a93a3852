//! From a file, the environment and flags to one [`Config`]. Every value keeps where it came from until the last check,
//! so that each error names the key, its place, what was given and what is allowed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::Config;
use super::keys::{KEYS, Key, Kind, is_section, names_in};
use super::rules::broken_rule;

/// Every environment variable that begins so is ours, and an unknown one is refused: a typing error must not be silence.
pub(super) const VARIABLE_PREFIX: &str = "RINGRAFT_";

/// Variables of the client commands, which a node leaves alone.
const CLIENT_VARIABLES: &[&str] = &[
    "RINGRAFT_ENDPOINTS",
    #[cfg(feature = "mutants")]
    crate::mutants::VARIABLE,
    #[cfg(feature = "mutants")]
    crate::mutants::crash::VARIABLE,
];

/// Longest piece of a given value that an error repeats, in characters.
const GIVEN_CHARS_MAX: usize = 80;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// Line and column count from 1; columns are characters.
    File {
        path: PathBuf,
        line: usize,
        column: usize,
    },
    Variable(String),
    /// The dotted path of the key a flag stands for.
    Flag(String),
    /// Set by the program itself, not loaded.
    Program,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(key) => write!(f, "command line, {key}"),
            Self::Program => write!(f, "set by the program"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin}: {message}")]
    Syntax { origin: Origin, message: String },
    #[error("{origin}: unknown key {name:?}{}; allowed here: {}", in_section(section), allowed.join(", "))]
    UnknownKey { origin: Origin, section: String, name: String, allowed: Vec<&'static str> },
    #[error("unknown environment variable {name}; allowed: {}", allowed.join(", "))]
    UnknownVariable { name: String, allowed: Vec<String> },
    #[error("{origin}: {key} is {given}; expected {expected}")]
    BadValue { key: String, origin: Origin, given: String, expected: String },
    #[error("{must}: {}", listed(values))]
    Rule { must: String, values: Vec<(&'static str, String, Origin)> },
}

fn in_section(section: &str) -> String {
    if section.is_empty() { String::new() } else { format!(" in [{section}]") }
}

fn listed(values: &[(&'static str, String, Origin)]) -> String {
    let each = values.iter().map(|(key, given, origin)| format!("{key} is {given} ({origin})"));
    each.collect::<Vec<_>>().join(", ")
}

/// The variables of the process that begin with `RINGRAFT_`. Others may hold anything, also what is no text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.to_str()?.to_string();
        // A value that is no text keeps its marks, so that it is refused as what it is.
        name.starts_with(VARIABLE_PREFIX).then(|| (name, value.to_string_lossy().into_owned()))
    })
}

struct Setting {
    value: Value,
    origin: Origin,
}

type Settings = BTreeMap<&'static str, Setting>;

impl Config {
    /// Defaults, over them the file, over it the `RINGRAFT_…` variables of `env` (lists are separated by commas), over
    /// them `flags`, each the dotted path of a key and its value.
    pub fn load(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut settings = settings_of(&Self::default(), &Origin::Default);
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
            read_file(path, &text, &mut settings)?;
        }
        read_variables(env, &mut settings)?;
        read_flags(flags, &mut settings)?;
        let config = config_of(&settings);
        hold_to_rules(&config, &settings)?;
        Ok(config)
    }

    /// Holds a configuration that was built, not loaded, to the same limits and rules.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let settings = settings_of(self, &Origin::Program);
        for (path, setting) in &settings {
            let key = Key::find(path).expect("settings hold keys of the table alone");
            if !key.kind.allows(&setting.value) {
                return Err(bad_value(path, setting.origin.clone(), &setting.value.to_string(), key.kind));
            }
        }
        hold_to_rules(self, &settings)
    }
}

fn bad_value(key: &str, origin: Origin, given: &str, kind: Kind) -> ConfigError {
    wrong(key, origin, given, kind.expected())
}

fn wrong(key: &str, origin: Origin, given: &str, expected: String) -> ConfigError {
    let first_line = given.lines().next().unwrap_or("");
    let mut shown: String = first_line.chars().take(GIVEN_CHARS_MAX).collect();
    if shown.len() < given.len() {
        shown.push('…');
    }
    ConfigError::BadValue { key: key.to_string(), origin, given: shown, expected }
}

fn settings_of(config: &Config, origin: &Origin) -> Settings {
    let table = Table::try_from(config).expect("plain structs of strings, numbers and lists are always TOML");
    let setting = |key: &Key| {
        let value = match key.path.split_once('.') {
            None => table.get(key.path),
            Some((section, name)) => table.get(section).and_then(|section| section.get(name)),
        };
        let value = value.expect("every key of the table is a field").clone();
        (key.path, Setting { value, origin: origin.clone() })
    };
    KEYS.iter().map(setting).collect()
}

fn config_of(settings: &Settings) -> Config {
    let mut table = Table::new();
    for (path, setting) in settings {
        let (section, name) = path.split_once('.').unwrap_or(("", path));
        let target = if section.is_empty() {
            &mut table
        } else {
            let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            entry.as_table_mut().expect("no section is also a key")
        };
        target.insert(name.to_string(), setting.value.clone());
    }
    Config::deserialize(table).expect("the key table allows only what its field can hold")
}

fn hold_to_rules(config: &Config, settings: &Settings) -> Result<(), ConfigError> {
    let Some(rule) = broken_rule(config) else { return Ok(()) };
    let value = |key: &'static str| {
        let setting = &settings[key];
        (key, setting.value.to_string(), setting.origin.clone())
    };
    Err(ConfigError::Rule { must: rule.must, values: rule.keys.into_iter().map(value).collect() })
}

/// A file's name and text, to say where in it something stands.
struct SourceFile<'a> {
    path: &'a Path,
    text: &'a str,
}

impl SourceFile<'_> {
    fn origin(&self, span: &Range<usize>) -> Origin {
        let before = &self.text[..span.start.min(self.text.len())];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Origin::File {
            path: self.path.to_path_buf(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn given(&self, span: &Range<usize>) -> &str {
        self.text.get(span.clone()).unwrap_or("")
    }
}

fn read_file(path: &Path, text: &str, settings: &mut Settings) -> Result<(), ConfigError> {
    let file = SourceFile { path, text };
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        origin: file.origin(&error.span().unwrap_or(0..0)),
        message: error.message().to_string(),
    })?;
    for (name, value) in document.get_ref() {
        if !is_section(name.get_ref()) {
            read_file_key(&file, "", name, value, settings)?;
            continue;
        }
        let DeValue::Table(section) = value.get_ref() else {
            let expected = format!("a section [{}]", name.get_ref());
            return Err(wrong(name.get_ref(), file.origin(&value.span()), file.given(&value.span()), expected));
        };
        for (field, value) in section {
            read_file_key(&file, name.get_ref(), field, value, settings)?;
        }
    }
    Ok(())
}

fn read_file_key(
    file: &SourceFile<'_>,
    section: &str,
    name: &Spanned<std::borrow::Cow<'_, str>>,
    value: &Spanned<DeValue<'_>>,
    settings: &mut Settings,
) -> Result<(), ConfigError> {
    let path = if section.is_empty() { name.get_ref().to_string() } else { format!("{section}.{}", name.get_ref()) };
    // A quoted top-level key with a dot in it must not pass for a field of a section.
    let Some(key) = Key::find(&path).filter(|_| !name.get_ref().contains('.')) else {
        return Err(ConfigError::UnknownKey {
            origin: file.origin(&name.span()),
            section: section.to_string(),
            name: name.get_ref().to_string(),
            allowed: names_in(section),
        });
    };
    let origin = file.origin(&value.span());
    match plain_value(value.get_ref()).filter(|value| key.kind.allows(value)) {
        Some(value) => settings.insert(key.path, Setting { value, origin }),
        // The text of a section is its header, or a piece of one: its kind says more.
        None if value.get_ref().is_table() => return Err(bad_value(key.path, origin, "a section", key.kind)),
        None => return Err(bad_value(key.path, origin, file.given(&value.span()), key.kind)),
    };
    Ok(())
}

/// The kinds of TOML values that keys take. `None` for the others, and for an integer beyond 64 bits.
fn plain_value(value: &DeValue<'_>) -> Option<Value> {
    match value {
        DeValue::String(text) => Some(Value::String(text.to_string())),
        DeValue::Boolean(value) => Some(Value::Boolean(*value)),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(Value::Integer),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(Value::String(text.to_string())),
                _ => None,
            });
            texts.collect::<Option<Vec<_>>>().map(Value::Array)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn read_variables(env: impl Iterator<Item = (String, String)>, settings: &mut Settings) -> Result<(), ConfigError> {
    for (name, text) in env {
        let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
        if CLIENT_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let Some(key) = KEYS.iter().find(|key| key.variable() == name) else {
            return Err(ConfigError::UnknownVariable { allowed: variables_like(rest), name });
        };
        read_text(key, &text, Origin::Variable(name), settings)?;
    }
    Ok(())
}

/// The variables of the section that an unknown one seems to mean, else all.
fn variables_like(rest: &str) -> Vec<String> {
    let section = rest.split('_').next().unwrap_or("").to_lowercase();
    let in_section = |key: &&Key| key.path.strip_prefix(&section).is_some_and(|rest| rest.starts_with('.'));
    let wanted = |key: &&Key| !is_section(&section) || in_section(key);
    KEYS.iter().filter(wanted).map(Key::variable).collect()
}

fn read_flags(flags: &[(String, String)], settings: &mut Settings) -> Result<(), ConfigError> {
    for (path, text) in flags {
        let origin = Origin::Flag(path.clone());
        let Some(key) = Key::find(path) else {
            let (section, name) = path.split_once('.').unwrap_or(("", path));
            return Err(ConfigError::UnknownKey {
                origin,
                section: section.to_string(),
                name: name.to_string(),
                allowed: names_in(section),
            });
        };
        read_text(key, text, origin, settings)?;
    }
    Ok(())
}

fn read_text(key: &Key, text: &str, origin: Origin, settings: &mut Settings) -> Result<(), ConfigError> {
    match key.kind.read(text).filter(|value| key.kind.allows(value)) {
        Some(value) => settings.insert(key.path, Setting { value, origin }),
        None => return Err(bad_value(key.path, origin, &format!("{text:?}"), key.kind)),
    };
    Ok(())
}
