//! Sources: sizes, names, words, characters.

use std::fs;

use crate::{Text, none, repository, rust, texts};

const MOST_LINES: usize = 400;

/// A word that this file must not contain itself.
fn word(parts: &[&str]) -> String {
    parts.concat()
}

/// The lines of a file before its unit tests.
fn code_lines(file: &Text) -> usize {
    let lines: Vec<&str> = file.text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests {"));
    tests.map_or(lines.len(), |at| at)
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let long = rust().into_iter().filter(|file| !file.is_test() && code_lines(file) > MOST_LINES);
    none("files over 400 lines", long.map(|file| format!("{}: {}", file.path.display(), code_lines(&file))).collect());
}

#[test]
fn no_word_puts_work_off() {
    let words = [word(&["TO", "DO"]), word(&["FIX", "ME"]), word(&["for", " now"]), word(&["in prod", "uction"])];
    let mut found = Vec::new();
    for file in texts() {
        for (at, line) in file.lines() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                found.push(format!("{at}: {line}"));
            }
        }
    }
    none("words that put work off", found);
}

#[test]
fn rust_sources_are_ascii() {
    let files = rust();
    let lines = files.iter().flat_map(Text::lines);
    none("characters that are not ASCII", lines.filter(|(_, line)| !line.is_ascii()).map(|(at, _)| at).collect());
}

#[test]
fn no_file_is_named_after_nothing() {
    let names = ["utils.rs", "util.rs", "helpers.rs", "helper.rs", "common.rs", "misc.rs"];
    let nameless = |file: &Text| {
        let parts = file.path.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        parts.into_iter().any(|part| names.iter().any(|name| part == *name || part == name.trim_end_matches(".rs")))
    };
    let found = rust().into_iter().filter(nameless).map(|file| file.path.display().to_string());
    none("files without a noun for a name", found.collect());
}

#[test]
fn nothing_is_exported_by_a_glob() {
    let files = rust();
    let glob = |line: &str| line.trim_start().starts_with("pub use") && line.contains('*');
    none(
        "glob re-exports",
        files.iter().flat_map(Text::lines).filter(|(_, line)| glob(line)).map(|(at, _)| at).collect(),
    );
}

/// Nothing here knows the machine it was written on.
#[test]
fn no_path_of_a_machine_and_no_unknown_host_is_named() {
    let paths = [word(&["/wo", "rk/"]), word(&["/ro", "ot/"]), word(&["/ho", "me/"]), word(&["/Us", "ers/"])];
    let hosts = ["127.0.0.1", "localhost", "github.com", "www.apache.org", "rustup.rs", "{", "HOST"];
    let foreign = |line: &str| {
        let urls = line.split("://").skip(1);
        urls.into_iter()
            .any(|rest| !hosts.iter().any(|host| rest.starts_with(host)) && rest.starts_with(char::is_alphanumeric))
    };
    let mut found = Vec::new();
    for file in texts() {
        for (at, line) in file.lines() {
            if (!file.is_test() && foreign(line)) || paths.iter().any(|path| line.contains(path.as_str())) {
                found.push(format!("{at}: {line}"));
            }
        }
    }
    none("paths and hosts of a machine", found);
}

/// O7: a key that nobody reads is a knob that lies. The shipped file names every key, also those left out by default.
#[test]
fn every_configuration_key_is_read_somewhere() {
    let shipped = fs::read_to_string(repository().join("config/node.toml")).unwrap();
    let node: Vec<Text> = rust().into_iter().filter(|file| file.path.starts_with("crates/node/src")).collect();
    let (mut section, mut keys, mut unread) = (String::new(), 0, Vec::new());
    for line in shipped.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        }
        let line = line.strip_prefix('#').map_or(line, |rest| rest);
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        if !key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_') {
            continue; // a sentence
        }
        keys += 1;
        let reads = |file: &Text| {
            let config = file.path.starts_with("crates/node/src/config") && !file.path.ends_with("mod.rs");
            !config && !file.is_test() && reads_field(&file.text, key)
        };
        if !node.iter().any(reads) {
            unread.push(format!("{section}.{key}"));
        }
    }
    assert!(keys > 20, "only {keys} keys were recognised");
    none("configuration keys that no source reads", unread);
}

/// Whether some expression takes the field of that name.
fn reads_field(text: &str, field: &str) -> bool {
    let access = format!(".{field}");
    text.match_indices(&access).any(|(at, _)| {
        let next = text[at + access.len()..].chars().next();
        next.is_none_or(|next| !next.is_alphanumeric() && next != '_')
    })
}
