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

/// What the header of that file promises: a disk that fails is met wherever the catalog asks for something.
#[test]
fn one_file_of_the_catalog_asks_the_disk_for_files() {
    let of_catalog = |file: &Text| {
        file.path.starts_with("crates/pruner/src/catalog") && !file.path.ends_with("folder.rs") && !file.is_test()
    };
    let words = ["fs::", "ask(", "OpenOptions", "File::", ".metadata()", ".exists()", ".read("];
    let of_what_was_found =
        ["use std::fs::{File, TryLockError};", "use std::{fs::File,", "fs::File,", "fs::{File, TryLockError},"];
    let asks = |line: &str| {
        let line = line.trim();
        !of_what_was_found.iter().any(|known| line.starts_with(known)) && words.iter().any(|word| line.contains(word))
    };
    let mut found = Vec::new();
    for file in rust().into_iter().filter(of_catalog) {
        let lines = file.lines().take(code_lines(&file));
        found.extend(lines.filter(|(_, line)| asks(line)).map(|(at, line)| format!("{at}: {line}")));
    }
    none("files asked for beside catalog/folder.rs", found);
}

/// Nothing here knows the machine it was written on.
#[test]
fn no_path_of_a_machine_and_no_unknown_host_is_named() {
    let paths = [word(&["/wo", "rk/"]), word(&["/ro", "ot/"]), word(&["/ho", "me/"]), word(&["/Us", "ers/"])];
    let hosts = ["127.0.0.1", "localhost", "github.com", "www.apache.org", "www.w3.org", "rustup.rs", "{", "HOST"];
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

/// The library that the scripts compile is the one that cargo links against it.
#[test]
fn the_scripts_build_the_rocksdb_of_the_workspace() {
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let script = fs::read_to_string(repository().join("scripts/lib/setup.sh")).unwrap();
    let entry = manifest.lines().find_map(|line| line.strip_prefix("librocksdb-sys = ")).unwrap();
    let between = |text: &str, before: &str, after: &str| {
        let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}"));
        rest.split_once(after).unwrap().0.to_owned()
    };
    let version = between(&script, "ROCKSDB_SYS_VERSION=\"", "\"");
    let features = between(&script, "ROCKSDB_SYS_FEATURES='", "'");
    assert_eq!(between(entry, "version = \"=", "\""), version);
    assert_eq!(between(entry, "features = [", "]"), features);
    assert!(entry.contains("default-features = false"), "{entry}");
}
