//! docs/fields.md tells every field that a node and the commands on its store answer.

use std::{collections::BTreeSet, fs, path::Path};

use rustix::process::Signal;
use serde_json::{Value, json};
use state_tests::node::{self, Node};

const FIELDS: &str = include_str!("../../docs/fields.md");

/// Fields whose own are told in words.
const WHOLE: [&str; 5] = ["figure", "bytes_before", "bytes_after", "by", "data"];
/// What is told once for several places.
const SAME: [(&str, &str); 5] = [
    ("pruner.last.", "outcome."),
    ("pruner.triggers.runs.outcome.", "outcome."),
    ("retention.winner.", "retention.asks."),
    ("root_of.", ""),
    ("kept.", ""),
];

/// Every path of an answer, those of the elements of a list once.
fn paths(answer: &Value, path: &str, into: &mut BTreeSet<String>) {
    match answer {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let is_whole = WHOLE.contains(&name.as_str()) || (name == "kept_by" && value.is_object());
                if !is_whole {
                    paths(value, &path, into);
                }
                into.insert(path);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| paths(element, path, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// By its path, or by its name in the row of what it is a field of.
fn is_told(section: &str, path: &str) -> bool {
    let names = |row: &str, name: &str| row.contains(&format!("`{name}`"));
    let in_a_row = |(parent, name): (&str, &str)| section.lines().any(|row| names(row, parent) && names(row, name));
    names(section, path) || path.rsplit_once('.').is_some_and(in_a_row)
}

fn untold(heading: &str, answer: &Value) -> Vec<String> {
    let (_, rest) = FIELDS.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let mut all = BTreeSet::new();
    paths(answer, "", &mut all);
    assert!(all.len() > 3, "{heading}: {answer}");
    let once = |path: &String| match SAME.iter().find_map(|(of, as_of)| Some((as_of, path.strip_prefix(of)?))) {
        Some((as_of, rest)) => format!("{as_of}{rest}"),
        None => path.clone(),
    };
    all.iter().map(once).filter(|path| !is_told(section, path)).collect()
}

fn certificate(data: &Path) -> Value {
    let mut files = fs::read_dir(data.join("pruner/certificates")).unwrap();
    serde_json::from_slice(&fs::read(files.next().unwrap().unwrap().path()).unwrap()).unwrap()
}

#[test]
fn every_field_of_an_answer_is_in_the_documents() {
    let data = tempfile::tempdir().unwrap();
    let settings = ["pruner.keep_last=3", "pruner.low_disk=\"1 MiB\"", "pruner.keep_every=4"];
    let node = Node::start(data.path(), &settings);
    for number in 1..=12u8 {
        let id = hex::encode([number; 32]);
        node.submit(&json!({ "create_object": { "id": id, "owner": "00".repeat(32), "value": "07" } }));
        if number == 5 {
            assert!(node.post("/v1/pins/audit", &json!({ "order": number, "owner": "me" })).status().is_success());
            assert!(node.post("/v1/consumers/indexer", &json!({ "order": number })).status().is_success());
        }
    }
    node.cycle();
    let status = node.until("an outcome", |status| status["pruner"]["last"].is_object());
    let root = status["head"]["root"].as_str().unwrap();
    let asked =
        [format!("hash={root}"), format!("hash={}", "0".repeat(64)), "order=2".to_owned(), "order=12".to_owned()];
    let explained = asked.map(|asked| node.get(&format!("/v1/explain?{asked}")));
    let journal = node.get("/v1/events?last=5");
    assert!(node.stop(Signal::TERM).0.success());
    let db = data.path().join("store").display().to_string();
    let (code, verified) = node::json(&["verify", "--db", &db, "--layout", "native", "--keep-last", "3"]);
    assert_eq!(code, 0, "{verified}");
    let of_each = [
        untold("Status", &status),
        untold("Certificate", &certificate(data.path())),
        untold("Verification", &verified),
        untold("Journal", &journal),
    ];
    let of_explanations = explained.iter().map(|explained| untold("Explanation", explained));
    let untold: Vec<String> = of_each.into_iter().chain(of_explanations).flatten().collect();
    assert!(untold.is_empty(), "docs/fields.md does not tell {untold:#?}");
}
