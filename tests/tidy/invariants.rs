//! docs/invariants.md names tests that exist, each once, and misses no invariant and no known way to fail.

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
    let tests = last.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    is_id(id).then(|| Row { id: (*id).to_owned(), tests })
}

/// A capital and a number, or a row of the life cycle.
fn is_id(text: &str) -> bool {
    let number = match text.strip_prefix("life cycle ") {
        Some(number) => number,
        None => text.strip_prefix(char::is_uppercase).unwrap_or(""),
    };
    !number.is_empty() && number.chars().all(|digit| digit.is_ascii_digit())
}

/// The ids that the last table leaves to issues to come.
fn left() -> Vec<String> {
    let page = fs::read_to_string(repository().join("docs/invariants.md")).unwrap();
    let (_, after) = page.split_once(NOT_YET).unwrap();
    let cells = after.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|')?.rsplit_once('|'));
    let ids = cells.flat_map(|(_, ids)| ids.split(',').map(str::trim).filter(|id| is_id(id)));
    ids.map(str::to_owned).collect()
}

const NOT_YET: &str = "## Not yet";

/// How many ids each family has: I of design.md, the others of the hazards.
const FAMILIES: [(&str, usize); 8] =
    [("I", 13), ("S", 58), ("L", 16), ("P", 23), ("C", 21), ("O", 21), ("F", 15), ("life cycle ", 20)];

/// What has a test already must keep it: an id leaves this list only by a decision, not with a deleted row.
const KEPT: &str = "\
    I1 I2 I3 I4 I5 I6 I7 I8 I9 I10 I11 I12 I13 \
    S1 S2 S3 S4 S5 S6 S7 S8 S9 S10 S11 S12 S13 S14 S15 S16 S17 S18 S19 S20 S21 S22 S23 S24 S25 S26 S27 S28 S29 S30 S31 \
    S32 S33 S34 S35 S36 S37 S38 S39 S40 S41 S42 S43 S44 S45 S46 S47 S51 S53 S54 S56 S57 S58 \
    L1 L2 L3 L4 L5 L6 L7 L8 L9 L10 L11 L12 L13 L15 L16 \
    P1 P2 P3 P4 P5 P6 P7 P8 P9 P10 P11 P12 P13 P14 P15 P16 P17 P18 P19 P20 P21 P22 P23 \
    C1 C2 C3 C4 C5 C6 C7 C8 C9 C10 C11 C12 C13 C14 C15 C16 C17 C19 C20 C21 \
    O1 O2 O3 O4 O5 O6 O7 O8 O9 O10 O11 O12 O13 O14 O15 O16 O17 O18 O19 O20 O21 \
    F3 F4 F10 F15 \
    life_cycle_1 life_cycle_2 life_cycle_3 life_cycle_4 life_cycle_5 life_cycle_6 life_cycle_7 life_cycle_8 life_cycle_9 \
    life_cycle_12 life_cycle_13 life_cycle_14 life_cycle_15 life_cycle_16 life_cycle_17 life_cycle_18 life_cycle_19";

/// How often each test function is there that a plain run runs.
pub(crate) fn tests_of_the_repository() -> BTreeMap<String, usize> {
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
    let (mut is_test, mut ignored) = (false, false);
    for line in file.text.lines().map(str::trim_start) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        ignored |= line.starts_with("#[ignore");
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        if let Some((name, _)) = function.and_then(|rest| rest.split_once('(')) {
            if is_test && !ignored {
                names.push(name.to_owned());
            }
            (is_test, ignored) = (false, false);
        }
    }
    names
}

#[test]
fn every_invariant_is_listed_with_a_test() {
    let rows = rows();
    let kept = KEPT.split_whitespace().map(|id| id.replace('_', " "));
    none("ids that have lost their row", kept.filter(|id| !rows.iter().any(|row| row.id == *id)).collect());
    none("rows without a test", rows.iter().filter(|row| row.tests.is_empty()).map(|row| row.id.clone()).collect());
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids.len(), rows.len(), "an id is listed twice");
}

/// A known way to fail has a test, or is left to an issue by name: nothing is forgotten.
#[test]
fn every_known_way_to_fail_is_listed_once() {
    let rows = rows();
    let mut listed: BTreeMap<String, usize> = BTreeMap::new();
    for id in rows.into_iter().map(|row| row.id).chain(left()) {
        *listed.entry(id).or_insert(0) += 1;
    }
    let mut wrong = Vec::new();
    for (family, count) in FAMILIES {
        let ids = (1..=count).map(|n| format!("{family}{n}"));
        wrong.extend(ids.filter_map(|id| match listed.remove(&id) {
            Some(1) => None,
            count => Some(format!("{id}: {} times", count.unwrap_or(0))),
        }));
    }
    wrong.extend(listed.into_keys().map(|id| format!("{id}: unknown")));
    none("ids that are not listed once", wrong);
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
