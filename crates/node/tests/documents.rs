//! Everything a script or an operator can be told by name has a heading in docs/operations.md: each `code` of an error,
//! each reason of health; and each metric is in its table there. The names are taken from the sources, so a new one without a heading fails here.
//! docs/recovery.md has a row for each crash point. The JSON in docs/operations.md is what the node takes and answers. Links between headings lead somewhere.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that meets the unexpected has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use state_node::{
    chain::{Hex32, HexBytes, Transaction},
    http::WireAnswer,
};
use state_pruner::events::Event;
use state_store::{CatalogPoint, Point};
use state_tree::{Key, Node, ObjectState};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const RECOVERY: &str = include_str!("../../../docs/recovery.md");

/// What stands before the name of an error as the first, or as the second argument; before that of a reason as the second.
const FIRST: [&str; 4] = ["Failure::new(", "Failure::whole(", "code: ", "OUTCOME_UNKNOWN: &str = "];
const SECOND: [&str; 2] = ["ApiError::new(", "Self::new("];
const REASON: &str = "reason(";

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
            into.push(path);
        }
    }
}

/// A string literal that stands here, if it is a name.
fn name(text: &str) -> Option<&str> {
    let (name, _) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    let is_name = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    is_name.then_some(name)
}

fn second_of(rest: &str) -> Option<&str> {
    rest.split_once(',').and_then(|(_, argument)| name(argument))
}

fn reasons_in(product: &str) -> BTreeSet<String> {
    product.split(REASON).skip(1).filter_map(second_of).map(str::to_owned).collect()
}

fn errors_in(product: &str) -> BTreeSet<String> {
    let after = |mark: &'static str| product.split(mark).skip(1);
    let first = FIRST.into_iter().flat_map(after).filter_map(name);
    let second = SECOND.into_iter().flat_map(after).filter_map(second_of);
    let bodies = after("fn code(&self) -> &'static str {").map(|rest| rest.split("\n    }").next().unwrap());
    let arms = bodies.flat_map(|body| body.split("=> ").skip(1)).filter_map(name);
    first.chain(second).chain(arms).map(str::to_owned).collect()
}

#[test]
fn every_code_and_every_reason_of_health_has_a_heading_for_operators() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for name in ["node", "pruner", "store"] {
        sources(&crates.join(name).join("src"), &mut files);
    }
    let products: Vec<String> = files.iter().map(|file| product(file)).collect();
    let all = |names_in: fn(&str) -> BTreeSet<String>| products.iter().flat_map(|text| names_in(text)).collect();
    let events: BTreeSet<String> = Event::CODES.iter().map(|code| (*code).to_owned()).collect();
    let rows: [(&str, BTreeSet<String>, &[&str]); 3] = [
        ("## Events", events, &["cycle_ended", "lock_taken_over", "unknown"]),
        ("## Health states", all(reasons_in), &["frozen", "lagging", "commits_failing", "log_cut"]),
        ("## Errors", all(errors_in), &["outcome_unknown", "too_many", "missing_live_node", "locked", "log_cut"]),
    ];
    for (section, names, known) in rows {
        let lost: Vec<&&str> = known.iter().filter(|known| !names.contains(**known)).collect();
        assert!(lost.is_empty() && names.len() > 30, "{section}: {lost:?} are not found in the sources: {names:?}");
        let headings = headings_of(section);
        let missing: Vec<&String> = names.iter().filter(|name| !headings.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{section} of docs/operations.md has no heading for {missing:?}");
    }
}

/// The names in the headings of a section: of a health state the heading itself, of others what is in brackets.
fn headings_of(section: &str) -> BTreeSet<&'static str> {
    let lines = OPERATIONS.lines().skip_while(|line| *line != section).skip(1);
    let headings = lines.take_while(|line| !line.starts_with("## ")).filter_map(|line| line.strip_prefix("### "));
    let named = |heading: &'static str| match section {
        "## Health states" => heading.split(' ').take(1).collect::<Vec<_>>(),
        _ => heading
            .split('(')
            .skip(1)
            .flat_map(|rest| rest.split(')').take(1))
            .flat_map(|all| all.split(", "))
            .collect(),
    };
    headings.flat_map(named).collect()
}

/// A source without its tests.
fn product(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.split("#[cfg(test)]").next().unwrap().to_owned()
}

#[test]
fn every_metric_is_in_the_table_for_operators() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    ["node", "pruner"].iter().for_each(|name| sources(&crates.join(name).join("src"), &mut files));
    let texts: Vec<String> = files.iter().map(|file| product(file)).collect();
    let literals = texts.iter().flat_map(|text| text.split('"'));
    let begins = |name: &str| name.starts_with("state_node_") || name.starts_with("state_pruner_");
    let is_metric = |name: &&str| begins(name) && !name.contains('{'); // a name, not a pattern of several
    let metrics: BTreeSet<&str> = literals.filter(is_metric).collect();
    assert!(metrics.len() > 30, "{metrics:?}");
    let listed = |name: &str| ["`", "{"].iter().any(|end| OPERATIONS.contains(&format!("`{name}{end}")));
    let missing: Vec<&&str> = metrics.iter().filter(|name| !listed(name)).collect();
    assert!(missing.is_empty(), "docs/operations.md does not list {missing:?}");
}

#[test]
fn every_crash_point_has_one_row_that_says_what_a_kill_there_leaves() {
    let points = Point::ALL.iter().copied().map(Point::name);
    let mut names: Vec<&str> = points.chain(CatalogPoint::ALL.iter().copied().map(CatalogPoint::name)).collect();
    let cells = RECOVERY.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let mut rows: Vec<&str> = cells.map(|(name, _)| name).filter(|name| name.contains("::")).collect();
    let missing: Vec<&&str> = names.iter().filter(|name| !rows.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/recovery.md has no row for {missing:?}");
    names.sort_unstable();
    rows.sort_unstable();
    assert_eq!(rows, names, "docs/recovery.md has another row, or one of them twice");
}

/// The documents by name.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|kind| kind == "md")).chain([root.join("README.md")]);
    let name = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
    files.map(|file| (name(&file), fs::read_to_string(&file).unwrap())).collect()
}

/// What a link to this heading says, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = |letter: &char| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter);
    heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_to_a_heading_of_the_documents_leads_to_one() {
    let documents = documents();
    let headings =
        |text: &str| -> BTreeSet<String> { text.lines().filter(|line| line.starts_with('#')).map(anchor).collect() };
    let known: BTreeMap<&str, BTreeSet<String>> =
        documents.iter().map(|(name, text)| (name.as_str(), headings(text))).collect();
    let (mut links, mut dead) = (0, Vec::new());
    for (name, text) in &documents {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            let Some((file, heading)) = target.split_once('#') else { continue };
            let file = file.rsplit('/').next().filter(|file| !file.is_empty()).map_or(name.as_str(), |file| file);
            links += 1;
            if !known.get(file).is_some_and(|headings| headings.contains(heading)) {
                dead.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(links > 50, "{links}");
    assert!(dead.is_empty(), "{dead:?}");
}

#[test]
fn the_page_for_operators_lists_each_of_its_sections() {
    let sections = OPERATIONS.lines().filter_map(|line| line.strip_prefix("## "));
    let missing: Vec<&str> =
        sections.filter(|title| !OPERATIONS.contains(&format!("- [{title}](#{})\n", anchor(title)))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The JSON blocks of the documents for operators.
fn examples() -> Vec<&'static str> {
    OPERATIONS.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_transactions_in_the_documents_are_taken_and_there_is_one_of_each_kind() {
    let transactions: Vec<Transaction> = serde_json::from_str(examples().first().unwrap()).unwrap();
    let mut kinds = BTreeSet::new();
    for transaction in &transactions {
        transaction.check().unwrap();
        kinds.insert(match transaction {
            Transaction::CreateObject { .. } => "create_object",
            Transaction::SetValue { .. } => "set_value",
            Transaction::SetFields { .. } => "set_fields",
            Transaction::DeleteObject { .. } => "delete_object",
            Transaction::MoveObject { .. } => "move_object",
            Transaction::CloneFields { .. } => "clone_fields",
        });
    }
    assert_eq!(kinds.len(), 6, "{kinds:?}");
    let unexplained: Vec<&&str> = kinds.iter().filter(|kind| !OPERATIONS.contains(&format!("| `{kind}` |"))).collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

#[test]
fn the_proof_in_the_documents_is_one_and_no_other_passes_for_it() {
    let mut answer: WireAnswer = serde_json::from_str(examples().get(1).unwrap()).unwrap();
    let proof = answer.proof.as_mut().unwrap();
    assert_eq!(proof.root, answer.root);
    let object = proof.verify(&answer.path).unwrap().unwrap();
    assert_eq!(object.value, answer.object.unwrap().value.0);
    let leaf = proof.segments.last_mut().and_then(|segment| segment.last_mut()).unwrap();
    *leaf.0.last_mut().unwrap() ^= 1;
    assert!(proof.verify(&answer.path).is_err());
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    Sha256::digest(parts.concat()).into()
}

/// T of the documents.
fn tagged(parts: &[&[u8]]) -> [u8; 32] {
    let tag = digest(&[b"SMTNode"]);
    digest(&[&tag, &tag, &parts.concat()])
}

/// Steps 1, 3 and 4 of the documents, for a segment that ends in a leaf: the root that it leads to.
fn root_by_hand(name: &Hex32, segment: &[HexBytes]) -> [u8; 32] {
    let key = digest(&[b"state-node object key 1", &name.0]);
    let (leaf, beside) = segment.split_last().unwrap();
    let Node::Leaf(leaf) = Node::decode(&leaf.0).unwrap() else { panic!("no leaf") };
    assert_eq!(leaf.key, Key::new(key));
    let end = tagged(&[&key, &tagged(&[&leaf.value])]);
    let bit = |step: usize| key[step / 8] >> (7 - step % 8) & 1;
    beside.iter().enumerate().rev().fold(end, |hash, (step, other)| match bit(step) {
        0 => tagged(&[&hash, &other.0]),
        _ => tagged(&[&other.0, &hash]),
    })
}

#[test]
fn the_proof_in_the_documents_is_checked_by_the_steps_in_the_documents() {
    let answer: WireAnswer = serde_json::from_str(examples().get(1).unwrap()).unwrap();
    let segments = answer.proof.unwrap().segments;
    let [global, fields] = &segments[..] else { panic!("{} trees", segments.len()) };
    let names = answer.path.names();
    assert_eq!(root_by_hand(&names[0], global), answer.root.0);
    let Node::Leaf(object) = Node::decode(&global.last().unwrap().0).unwrap() else { panic!("no leaf") };
    let fields_root = ObjectState::decode(&object.value).unwrap().fields();
    assert_eq!(root_by_hand(&names[1], fields), *fields_root.hash().as_bytes());
}
