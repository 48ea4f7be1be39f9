//! S46: a deep validation of the real binary: what it alone finds and ends, one at a time, and its end with whoever asked.

use std::{
    cell::RefCell,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    thread,
};

use reqwest::blocking::Response;
use rocksdb::IteratorMode;
use rustix::process::Signal;
use serde_json::{Value, json};
use state_store::Table;
use state_tests::{
    damage,
    node::{self, Node},
};

use crate::stop::HungFile;

const SETTINGS: [&str; 5] = [
    "pruner.incremental=off",
    "chain.block_interval=5ms",
    "pruner.keep_last=20",
    "pruner.every_orders=1000000", // cycles begin when the test says so
    "pruner.garbage_ratio=none",
];
/// More orders than a look reads of the commit journal.
const ORDERS: u8 = 40;

fn grown(data: &Path) -> Node {
    let node = Node::start(data, &SETTINGS);
    for n in 1..=ORDERS {
        node.submit(&json!({ "create_object": {
            "id": hex::encode([n; 32]), "owner": "00".repeat(32), "value": hex::encode([n; 8]) } }));
    }
    node
}

fn look(node: &Node) -> (i32, Value) {
    node::json(&["validate", "--url", node.url()])
}

fn deep(node: &Node) -> (i32, Value) {
    node::json(&["validate", "--deep", "--url", node.url()])
}

/// What health says of validations, if they found something that is not over.
fn told(node: &Node) -> Option<String> {
    let (_, health) = node::json(&["health-check", "--url", node.url()]);
    let reasons = health["reasons"].as_array().unwrap_or_else(|| panic!("{health}"));
    let reason = reasons.iter().find(|reason| reason["code"] == "validation_failed")?;
    Some(reason["message"].as_str().unwrap().to_owned())
}

fn result<'a>(report: &'a Value, check: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap_or_else(|| panic!("{report}"));
    &checks.iter().find(|it| it["check"] == check).unwrap_or_else(|| panic!("{report}"))["result"]
}

fn passed() -> Value {
    json!("passed")
}

fn stop(node: Node) {
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{log}");
}

/// The oldest row of the commit journal of a store at rest.
fn oldest(store: &Path) -> (Box<[u8]>, Box<[u8]>) {
    let db = damage::open(store);
    let family = db.cf_handle(Table::JOURNAL.name()).unwrap();
    let oldest = db.iterator_cf(family, IteratorMode::Start).next();
    oldest.unwrap().unwrap()
}

#[test]
fn an_old_row_that_is_damaged_is_found_and_forgotten_by_deep_validations_only() {
    let data = tempfile::tempdir().unwrap();
    let store = data.path().join("store");
    let db = store.display().to_string();
    let node = grown(data.path());
    let (code, whole) = deep(&node);
    assert_eq!((code, result(&whole, "integrity"), result(&whole, "events")), (0, &passed(), &passed()), "{whole}");
    stop(node);
    let at_rest = |words: &[&str]| node::json(&[&["validate", "--db", &db], words].concat());
    assert_eq!(at_rest(&["--deep"]).0, 0);

    let (key, value) = oldest(&store);
    let mut spoilt = value.to_vec();
    *spoilt.last_mut().unwrap() ^= 1;
    damage::put(&store, Table::JOURNAL.name(), &key, &spoilt);
    assert_eq!(at_rest(&[]).0, 0, "a look does not come to it");
    let (code, report) = at_rest(&["--deep"]);
    assert_eq!((code, result(&report, "integrity")), (1, &json!("failed")), "{report}");
    let words = node::run(&["validate", "--db", &db, "--deep"]);
    assert!(String::from_utf8(words.stdout).unwrap().starts_with("NOT SOUND"));

    let node = Node::start(data.path(), &SETTINGS);
    assert_eq!(told(&node), None, "what is asked of a store at rest is printed only");
    let (code, report) = deep(&node);
    assert_eq!((code, result(&report, "integrity")), (1, &json!("failed")), "{report}");
    assert_eq!(look(&node).0, 0);
    let still = told(&node).unwrap();
    assert!(still.contains("integrity: order ") && still.contains("`state-node validate --deep`"), "{still}");
    stop(node);
    let (code, health) = node::json(&["health-check", "--db", &db]);
    assert!(code == 1 && health.to_string().contains("validation_failed"), "{health}");

    damage::put(&store, Table::JOURNAL.name(), &key, &value);
    let node = Node::start(data.path(), &SETTINGS);
    assert_eq!((look(&node).0, told(&node)), (0, Some(still)), "a look says nothing of it");
    assert_eq!((deep(&node).0, told(&node)), (0, None));
    stop(node);
}

/// The certificate of the only cycle, which a validation reads behind all rows and before the journal of events.
fn certificate(data: &Path) -> PathBuf {
    data.join("pruner/certificates/cycle-00000001.json")
}

/// How often a validation was told by an event, and with what it found.
fn validations(node: &Node) -> Vec<Value> {
    let read = node.get("/v1/events?code=validated");
    read["events"].as_array().unwrap().iter().map(|event| event["data"].clone()).collect()
}

/// Asks, and returns when the work is held.
fn held(node: &Node, data: &Path, work: impl FnOnce(HungFile, fs::File, Response)) {
    let hung = HungFile::at(certificate(data), data.join("certificate.aside"));
    let asked = node.post("/v1/validate?deep=true", &Value::Null);
    assert!(asked.status().is_success(), "the answer begins before the work has ended");
    let read = hung.held();
    work(hung, read, asked);
}

/// Nobody else gets one meanwhile, also not where the client has gone and the work has not ended yet.
fn refused(node: &Node) {
    let (code, refused) = deep(node);
    assert_eq!((code, refused["error"]["code"].as_str()), (3, Some("validating")), "{refused}");
    let answer = node.post("/v1/validate?deep=true", &Value::Null);
    assert_eq!(answer.status(), 409, "{}", answer.text().unwrap());
}

/// The first deep validation after another one has ended.
fn next(node: &Node) -> Value {
    let report = RefCell::new(Value::Null);
    node.until("the end of a validation", |_| {
        let (code, answer) = deep(node);
        report.replace(answer);
        code == 0
    });
    report.into_inner()
}

const GONE: &str = "nobody waits any more for the deep validation under way";

#[test]
fn a_deep_validation_is_alone_until_it_ends_and_ends_when_its_client_has_gone() {
    let data = tempfile::tempdir().unwrap();
    let node = grown(data.path());
    node.cycle();
    let text = fs::read(certificate(data.path())).unwrap();

    held(&node, data.path(), |hung, mut read, asked| {
        refused(&node);
        hung.put_back();
        read.write_all(&text).unwrap();
        drop(read);
        let report: Value = asked.json().unwrap();
        assert_eq!(result(&report, "integrity"), &passed(), "{report}");
        assert!(!node.log().contains(GONE), "it was waited for");
    });
    assert_eq!(validations(&node).len(), 1);

    // What it would have come to is sound, and kept by nobody.
    held(&node, data.path(), |hung, mut read, asked| {
        drop(asked);
        node.until_logged(GONE);
        refused(&node);
        hung.put_back();
        read.write_all(&text).unwrap();
    });
    let whole = next(&node);
    let told_of = validations(&node);
    assert_eq!(told_of.len(), 2, "of the first and of the last one: {told_of:?}");
    assert_eq!((result(&whole, "integrity"), result(&whole, "events")), (&passed(), &passed()), "{whole}");
    stop(node);
}

/// The file that it reads hangs, and nothing else of the node does.
#[test]
fn a_deep_validation_that_hangs_is_given_up_by_its_command_and_ends_then() {
    let data = tempfile::tempdir().unwrap();
    let node = grown(data.path());
    node.cycle();
    let hung = HungFile::at(certificate(data.path()), data.path().join("certificate.aside"));
    let read = thread::scope(|scope| {
        // So long that it has come to the file by then: given up before, it never would.
        let words = ["validate", "--deep", "--within", "10s", "--url", node.url()];
        let asking = scope.spawn(move || node::json(&words));
        let read = hung.held();
        let (code, told) = asking.join().unwrap();
        assert_eq!((code, told["error"]["code"].as_str()), (3, Some("unfinished")), "{told}");
        read
    });
    node.until_logged(GONE);
    hung.put_back();
    drop(read);
    let whole = next(&node);
    assert_eq!(result(&whole, "events"), &passed(), "{whole}");
    stop(node);
}

/// Its client hears of what it had seen by then; that nothing was wrong is kept by nobody.
#[test]
fn a_node_that_is_told_to_stop_ends_the_deep_validation_at_work_and_answers() {
    let data = tempfile::tempdir().unwrap();
    let node = grown(data.path());
    node.cycle();
    let text = fs::read(certificate(data.path())).unwrap();
    let hung = HungFile::at(certificate(data.path()), data.path().join("certificate.aside"));
    let asked = node.post("/v1/validate?deep=true", &Value::Null);
    let mut read = hung.held();
    node.signal(Signal::TERM);
    node.until_logged("stopping: no copy is made any more");
    hung.put_back();
    read.write_all(&text).unwrap();
    drop(read);
    let report: Value = asked.json().unwrap();
    assert_eq!((result(&report, "integrity"), result(&report, "events")), (&passed(), &json!("skipped")), "{report}");
    let (ended, log) = node.wait();
    assert!(ended.success() && !log.contains(GONE), "{ended}\n{log}");
    let node = Node::start(data.path(), &SETTINGS);
    assert_eq!(validations(&node), Vec::<Value>::new());
    stop(node);
}

/// What it found by then is kept; what it had not begun is skipped.
#[test]
fn a_deep_validation_whose_client_has_gone_keeps_what_it_found_by_then() {
    let data = tempfile::tempdir().unwrap();
    let node = grown(data.path());
    node.cycle();
    held(&node, data.path(), |hung, read, asked| {
        drop(asked);
        node.until_logged(GONE);
        hung.put_back();
        drop(read); // an empty certificate
    });
    let first = {
        node.until("what was found", |status| status["validation"]["failed"][0]["check"] == "integrity");
        validations(&node).remove(0)
    };
    assert!(told(&node).is_some());
    let whole = next(&node);
    assert_eq!((told(&node), result(&whole, "events")), (None, &passed()), "{whole}");
    let last = validations(&node).pop().unwrap();
    let counts = |data: &Value| (data["passed"].as_u64().unwrap(), data["skipped"].as_u64().unwrap());
    let (passed, skipped) = counts(&last);
    assert_eq!(counts(&first), (passed - 2, skipped + 1), "integrity failed and the journal was not read: {first}");
    stop(node);
}

/// What `validate --db` says of a check, and its words.
fn at_rest(db: &Path, check: &str) -> (String, String) {
    let (_, report) = node::json(&["validate", "--db", &db.display().to_string()]);
    let checks = report["checks"].as_array().unwrap_or_else(|| panic!("{report}"));
    let it = checks.iter().find(|it| it["check"] == check).unwrap();
    let words = ["evidence", "reason"].into_iter().find_map(|key| it[key].as_str());
    (it["result"].as_str().unwrap().to_owned(), words.unwrap_or_else(|| panic!("{it}")).to_owned())
}

#[test]
fn a_node_s_store_is_validated_at_rest_by_all_that_it_retains() {
    let data = tempfile::tempdir().unwrap();
    let node = grown(data.path());
    assert!(node.post("/v1/pins/audit", &json!({ "order": 3 })).status().is_success());
    node.cycle();
    let (floor, head) = (node.status()["floor"].as_u64().unwrap(), node.status()["head"]["order"].as_u64().unwrap());
    assert!(floor > 3 && floor < head, "{floor} {head}");
    let words = format!("two captures, the second retains orders {floor} to {head}, its head, and 1 below");
    let (_, report) = look(&node);
    assert!(report.to_string().contains(&words), "{report}");
    stop(node);
    assert_eq!(at_rest(&data.path().join("store"), "creation"), ("passed".to_owned(), words));
}

/// It has none, wherever it lies, and that of the node beside it is not its own.
#[test]
fn the_journal_of_a_restored_store_is_looked_for_where_its_node_will_keep_it() {
    let data = tempfile::tempdir().unwrap();
    let node = grown(data.path());
    let folder = tempfile::tempdir().unwrap();
    let catalog = folder.path().join("catalog").display().to_string();
    let (code, made) = node::json(&["snapshot", "create", "--url", node.url(), "--catalog", &catalog]);
    assert_eq!(code, 0, "{made}");
    let id = made["manifest"]["id"].as_str().unwrap_or_else(|| panic!("{made}"));
    stop(node);
    let rows = [
        (folder.path().join("node/store"), folder.path().join("node/events/journal.events")),
        (data.path().join("restored"), data.path().join("restored.pruner/events/journal.events")),
    ];
    for (store, journal) in rows {
        let to = store.display().to_string();
        let (code, restored) = node::json(&["snapshot", "restore", id, "--to", &to, "--catalog", &catalog]);
        assert_eq!(code, 0, "{restored}");
        let (result, words) = at_rest(&store, "events");
        assert_eq!(result, "skipped", "{words}");
        let says = [journal.to_str().unwrap(), "as beside a store that was copied, restored or never pruned"];
        assert!(says.iter().all(|part| words.contains(part)), "{words}");
        assert_eq!(node::json(&["journal", "show", "--db", &to]).0, 1, "no other journal is shown for it");
    }
    let own = at_rest(&data.path().join("store"), "events");
    assert_eq!(own.0, "passed", "{}", own.1);
    let linked = folder.path().join("link");
    std::os::unix::fs::symlink(data.path().join("store"), &linked).unwrap();
    assert_eq!(at_rest(&linked, "events").0, "passed", "by a link to it");
}
