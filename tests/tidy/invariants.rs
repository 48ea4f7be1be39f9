//! docs/invariants.md names tests that exist, each once, and misses no invariant.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::{Text, none, repository, rust};

/// One row of a table: its id and the tests in its last cell.
struct Row {
    id: String,
    tests: Vec<String>,
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(repository().join("docs/invariants.md")).unwrap();
    page.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let (id, last) = (cells.first()?, cells.last()?);
    let is_id =
        id.starts_with(char::is_uppercase) && id[1..].chars().all(|digit| digit.is_ascii_digit()) && id.len() > 1;
    let tests = last.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    is_id.then(|| Row { id: (*id).to_owned(), tests })
}

/// How often each test function is there.
fn tests_of_the_repository() -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for file in rust() {
        for name in tests_of(&file) {
            *found.entry(name).or_insert(0) += 1;
        }
    }
    found
}

fn tests_of(file: &Text) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in file.text.lines().map(str::trim_start) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        if let Some((name, _)) = function.and_then(|rest| rest.split_once('(')) {
            if is_test {
                names.push(name.to_owned());
            }
            is_test = false;
        }
    }
    names
}

#[test]
fn every_invariant_is_listed_with_a_test() {
    let rows = rows();
    let missing = (1..=13).map(|n| format!("I{n}")).filter(|id| !rows.iter().any(|row| row.id == *id));
    none("invariants that are not listed", missing.collect());
    none("rows without a test", rows.iter().filter(|row| row.tests.is_empty()).map(|row| row.id.clone()).collect());
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids.len(), rows.len(), "an id is listed twice");
}

#[test]
fn every_test_that_is_named_exists_exactly_once() {
    let tests = tests_of_the_repository();
    let mut wrong = Vec::new();
    for row in rows() {
        for name in row.tests {
            match tests.get(&name) {
                Some(1) => {}
                count => wrong.push(format!("{}: `{name}` exists {} times", row.id, count.map_or(0, |count| *count))),
            }
        }
    }
    none("tests that are not there once", wrong);
}

#[test]
fn no_two_tests_share_a_sentence() {
    let twice = tests_of_the_repository().into_iter().filter(|(name, count)| *count > 1 && name.contains('_'));
    none("names of several tests", twice.map(|(name, count)| format!("{name}: {count}")).collect());
}
