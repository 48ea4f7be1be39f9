//! Keys and values from a file and from the command line, and everything that is wrong with them, collected.
//!
//! Each known key is taken once by the code that owns it; what is left over is unknown. Nothing stops at the first
//! problem.

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use serde::de::DeserializeOwned;
use state_pruner::Share;
use toml::Value;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, with its section; absent if the text as a whole is no configuration.
    pub key: Option<String>,
    /// The file, or `--set`.
    pub origin: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Problem {
    /// Whether the value was given by `--set`.
    pub(crate) fn is_of_the_command_line(&self) -> bool {
        self.origin == ON_COMMAND_LINE
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key}: {}", self.origin, self.message),
            None => write!(f, "{}: {}", self.origin, self.message),
        }
    }
}

/// Values by `section.key`, with where each came from.
#[derive(Debug)]
pub(crate) struct Source {
    file: String,
    values: BTreeMap<String, (Value, String)>,
    given: BTreeMap<String, String>,
    empty_sections: Vec<String>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

/// Where values given on the command line come from.
const ON_COMMAND_LINE: &str = "--set";

impl Source {
    /// Reads the text of a configuration file.
    pub(crate) fn parse(file: &str, text: &str) -> Self {
        let mut source = Self {
            file: file.to_owned(),
            values: BTreeMap::new(),
            given: BTreeMap::new(),
            empty_sections: Vec::new(),
            known: Vec::new(),
            problems: Vec::new(),
        };
        match text.parse::<toml::Table>() {
            Ok(table) => table.into_iter().for_each(|(name, value)| source.section(name, value)),
            Err(error) => source.problem(None, error.to_string().trim_end().to_owned()),
        }
        source
    }

    fn section(&mut self, name: String, value: Value) {
        let file = self.file.clone();
        match value {
            Value::Table(keys) if keys.is_empty() => self.empty_sections.push(name),
            Value::Table(keys) => {
                for (key, value) in keys {
                    self.section(format!("{name}.{key}"), value);
                }
            }
            value @ (Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_)) => self.insert(name, value, file),
        }
    }

    fn insert(&mut self, key: String, value: Value, origin: String) {
        self.given.insert(key.clone(), origin.clone());
        self.values.insert(key, (value, origin));
    }

    /// Adds `section.key=value` of the command line, which wins over the file. A value that is no TOML is text.
    pub(crate) fn set(&mut self, assignment: &str) {
        let Some((key, text)) = assignment.split_once('=') else {
            let message = format!("`{assignment}` is not of the form section.key=value");
            self.problems.push(Problem { key: None, origin: ON_COMMAND_LINE.to_owned(), message });
            return;
        };
        let value = match format!("value = {}", text.trim()).parse::<toml::Table>() {
            Ok(mut table) => table.remove("value").unwrap_or_else(|| Value::String(text.to_owned())),
            Err(_) => Value::String(text.trim().to_owned()),
        };
        self.insert(key.trim().to_owned(), value, ON_COMMAND_LINE.to_owned());
    }

    /// Takes one value, if it is given.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, key: &'static str, into: &mut T) {
        self.convert(key, into, |value| value.try_into().map_err(|error: toml::de::Error| error.message().to_owned()));
    }

    /// Takes one of a few words.
    pub(crate) fn take_choice<T: DeserializeOwned>(&mut self, key: &'static str, into: &mut T) {
        self.convert(key, into, choice);
    }

    /// Takes a number that may be zero.
    pub(crate) fn take_number<T: DeserializeOwned>(&mut self, key: &'static str, into: &mut T) {
        self.convert(key, into, number);
    }

    /// Takes an address to listen at.
    pub(crate) fn take_address(&mut self, key: &'static str, into: &mut SocketAddr) {
        self.convert(key, into, |value| address(&value));
    }

    /// Takes a number that is not zero.
    pub(crate) fn take_count<T: DeserializeOwned>(&mut self, key: &'static str, into: &mut T) {
        self.convert(key, into, count);
    }

    /// Takes a number that is not zero, and whose absence means something.
    pub(crate) fn take_optional_count<T: DeserializeOwned>(&mut self, key: &'static str, into: &mut Option<T>) {
        self.convert(key, into, |value| count(value).map(Some));
    }

    /// Takes a time such as `"200ms"`.
    pub(crate) fn take_duration(&mut self, key: &'static str, into: &mut Duration) {
        self.convert(key, into, |value| duration(&value));
    }

    /// Takes a time, or `"none"`.
    pub(crate) fn take_optional_duration(&mut self, key: &'static str, into: &mut Option<Duration>) {
        self.convert(key, into, |value| optional(value, |value| duration(&value)));
    }

    /// Takes a share such as `0.1` or `"10 %"`.
    pub(crate) fn take_share(&mut self, key: &'static str, into: &mut Share) {
        self.convert(key, into, |value| share(&value));
    }

    /// Takes a share, or `"none"`.
    pub(crate) fn take_optional_share(&mut self, key: &'static str, into: &mut Option<Share>) {
        self.convert(key, into, |value| optional(value, |value| share(&value)));
    }

    /// Takes a number of bytes such as `"512 MiB"`.
    pub(crate) fn take_bytes(&mut self, key: &'static str, into: &mut u64) {
        self.convert(key, into, bytes);
    }

    /// Takes a number of bytes, or `"none"`.
    pub(crate) fn take_optional_bytes(&mut self, key: &'static str, into: &mut Option<u64>) {
        self.convert(key, into, |value| optional(value, bytes));
    }

    fn convert<T>(&mut self, key: &'static str, into: &mut T, convert: impl FnOnce(Value) -> Result<T, String>) {
        self.known.push(key);
        let Some((value, _)) = self.values.remove(key) else {
            return;
        };
        match convert(value) {
            Ok(value) => *into = value,
            Err(message) => self.problem(Some(key), message),
        }
    }

    /// Notes a problem with a key, at the place that gave it a value.
    pub(crate) fn problem(&mut self, key: Option<&str>, message: String) {
        let origin = key.and_then(|key| self.given.get(key)).map_or_else(|| self.file.clone(), Clone::clone);
        self.problems.push(Problem { key: key.map(str::to_owned), origin, message });
    }

    /// Every key that was asked for.
    #[cfg(test)]
    pub(crate) fn known(&self) -> &[&'static str] {
        &self.known
    }

    /// Everything that is wrong, unknown keys included.
    pub(crate) fn finish(mut self) -> Vec<Problem> {
        let known = self.known;
        let sections = sections(&known);
        for section in self.empty_sections.into_iter().filter(|section| !sections.contains(&section.as_str())) {
            let message = unknown_section(&section, &sections);
            self.problems.push(Problem { key: Some(section), origin: self.file.clone(), message });
        }
        for (key, (_, origin)) in self.values {
            let message = unknown_key(&key, &known);
            self.problems.push(Problem { key: Some(key), origin, message });
        }
        self.problems
    }
}

/// The sections of the known keys, each once, in their order.
fn sections<'k>(known: &[&'k str]) -> Vec<&'k str> {
    let mut sections = Vec::new();
    for (section, _) in known.iter().filter_map(|key| key.rsplit_once('.')) {
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    sections
}

fn unknown_section(section: &str, sections: &[&str]) -> String {
    match nearest(section, sections) {
        Some(near) => format!("unknown section; the nearest known section is [{near}]"),
        None => format!("unknown section; there are {}", bracketed(sections)),
    }
}

/// What a key that nobody takes may have meant: one that is written much like it, one of the same name in another section, or
/// one of the few that its section has.
fn unknown_key(key: &str, known: &[&str]) -> String {
    let (section, name) = key.rsplit_once('.').map_or(("", key), |(section, name)| (section, name));
    let is_named = |known: &&&str| known.rsplit_once('.').is_some_and(|(_, of)| of == name);
    if let Some(near) = nearest(key, known).or_else(|| known.iter().find(is_named).copied()) {
        return format!("unknown key; the nearest known key is {near}");
    }
    let of = |known: &&&str| known.rsplit_once('.').is_some_and(|(of, _)| of == section);
    let beside: Vec<&str> = known.iter().filter(of).copied().collect();
    if beside.is_empty() {
        return format!("unknown key; there are the sections {}", bracketed(&sections(known)));
    }
    match beside.len() {
        ..=FEW => format!("unknown key; [{section}] has {}", beside.join(", ")),
        _ => format!("unknown key; no key of [{section}] is like it"),
    }
}

fn bracketed(sections: &[&str]) -> String {
    sections.iter().map(|section| format!("[{section}]")).collect::<Vec<_>>().join(", ")
}

/// So many keys of a section can be listed in a message.
const FEW: usize = 8;

/// What is no text is judged as the word that it would be: the message then names the words there are.
fn choice<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let word = if value.is_str() { value } else { Value::String(value.to_string()) };
    word.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}

fn number<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let message = format!("a whole number from 0 on is expected, and none beyond reason, not {value}");
    value.try_into().map_err(|_: toml::de::Error| message)
}

fn count<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let message = match value.as_integer() {
        Some(number) if number < 1 => "must be at least 1",
        Some(_) | None => "a whole number is expected",
    };
    value.try_into().map_err(|_: toml::de::Error| message.to_owned())
}

fn optional<T>(value: Value, convert: impl FnOnce(Value) -> Result<T, String>) -> Result<Option<T>, String> {
    if value.as_str() == Some("none") { Ok(None) } else { convert(value).map(Some) }
}

fn address(value: &Value) -> Result<SocketAddr, String> {
    let expected = || "an address with its port such as 127.0.0.1:8645 or [::1]:8645 is expected".to_owned();
    value.as_str().ok_or_else(expected)?.parse().map_err(|_| expected())
}

fn duration(value: &Value) -> Result<Duration, String> {
    match value.as_str().map(humantime::parse_duration) {
        Some(Ok(time)) => Ok(time),
        Some(Err(_)) | None => Err("a time such as \"200ms\" is expected".to_owned()),
    }
}

fn share(value: &Value) -> Result<Share, String> {
    let number = match value {
        Value::Float(number) => Some(*number),
        Value::Integer(number) => Some(*number as f64),
        Value::String(text) => text.strip_suffix('%').and_then(|text| match text.trim().parse::<f64>() {
            Ok(percent) => Some(percent / 100.0),
            Err(_) => None,
        }),
        Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    };
    number.and_then(Share::new).ok_or_else(|| "a share from 0 to 1 such as 0.1 or \"10 %\" is expected".to_owned())
}

fn bytes(value: Value) -> Result<u64, String> {
    let expected = || "a number of bytes such as \"512 MiB\" is expected".to_owned();
    match &value {
        Value::String(text) => text.parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| expected()),
        Value::Integer(number) => u64::try_from(*number).map_err(|_| expected()),
        Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => Err(expected()),
    }
}

/// The known key that takes the fewest edits, if they are few beside what stays.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let distances = known.iter().map(|candidate| (edits(key, candidate), *candidate));
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance * CLOSE <= candidate.len().max(key.len())).then_some(candidate)
}

/// A suggestion takes at most one edit in so many letters: a key that is farther away was meant otherwise.
const CLOSE: usize = 3;

/// Insertions, deletions and replacements between two keys.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, mine) in from.bytes().enumerate() {
        let mut next = vec![at + 1];
        for (index, theirs) in to.bytes().enumerate() {
            let cell = |row: &[usize], index: usize| row.get(index).copied().map_or(usize::MAX - 1, |cost| cost);
            let replaced = cell(&row, index) + usize::from(mine != theirs);
            let cheapest = replaced.min(cell(&row, index + 1) + 1).min(cell(&next, index) + 1);
            next.push(cheapest);
        }
        row = next;
    }
    row.last().copied().map_or(0, |cost| cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_what_separates_two_keys() {
        for (from, to, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("abc", "abc", 0)] {
            assert_eq!(edits(from, to), expected, "{from} {to}");
        }
        assert_eq!(nearest("pruner.keep", &["node.id", "pruner.keep_last"]), Some("pruner.keep_last"));
        assert_eq!(nearest("pruner.colour", &["node.id", "pruner.keep_last", "pruner.enabled"]), None);
    }

    #[test]
    fn what_is_no_address_is_told_with_one_that_is() {
        assert_eq!(address(&Value::from("[::1]:80")), Ok(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80))));
        for value in [Value::from("foo"), Value::from("127.0.0.1"), Value::from(8645)] {
            let told = address(&value).unwrap_err();
            assert_eq!(told, "an address with its port such as 127.0.0.1:8645 or [::1]:8645 is expected");
        }
    }

    #[test]
    fn an_unknown_key_or_section_is_told_with_what_it_may_have_meant() {
        let known = ["node.id", "node.listen", "pruner.keep_last", "log.filter", "log.format", "node.data_dir"];
        let rows = [
            ("log.fliter", "the nearest known key is log.filter"),
            ("listen", "the nearest known key is node.listen"),
            ("retention.keep_last", "the nearest known key is pruner.keep_last"),
            ("log.level", "[log] has log.filter, log.format"),
            ("colour.red", "there are the sections [node], [pruner], [log]"),
        ];
        for (key, told) in rows {
            assert_eq!(unknown_key(key, &known), format!("unknown key; {told}"), "{key}");
        }
        let sections = sections(&known);
        assert_eq!(unknown_section("prunr", &sections), "unknown section; the nearest known section is [pruner]");
        assert_eq!(unknown_section("nothing", &sections), "unknown section; there are [node], [pruner], [log]");
    }
}
