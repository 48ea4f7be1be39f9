//! The rules of the house that no lint covers. Each failure names the file and the line.

mod invariants;
mod mutations;
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One file of the repository that is text.
struct Text {
    /// Relative to the repository.
    path: PathBuf,
    text: String,
}

impl Text {
    fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|end| end == "rs")
    }

    /// Whether the file only exists for tests.
    fn is_test(&self) -> bool {
        self.path.components().any(|part| part.as_os_str() == "tests") || self.path.ends_with("tests.rs")
    }

    /// Every line with its number, and its file for messages.
    fn lines(&self) -> impl Iterator<Item = (String, &str)> {
        let at = |(index, line)| (format!("{}:{}", self.path.display(), index + 1), line);
        self.text.lines().enumerate().map(at)
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every text that is ours; what is built or locked is not.
fn texts() -> Vec<Text> {
    let mut found = Vec::new();
    for part in ["crates", "tests", "benches", "docs", "config", "scripts", ".ci", "README.md", "Cargo.toml"] {
        add(&repository().join(part), &mut found);
    }
    assert!(found.len() > 50, "the repository is not where it is looked for");
    found
}

fn add(path: &Path, found: &mut Vec<Text>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            add(&entry.unwrap().path(), found);
        }
    } else if let Ok(text) = fs::read_to_string(path) {
        found.push(Text { path: path.strip_prefix(repository()).unwrap().to_owned(), text });
    }
}

fn rust() -> Vec<Text> {
    texts().into_iter().filter(Text::is_rust).collect()
}

/// Fails with everything that was found.
fn none(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}
