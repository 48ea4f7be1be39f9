//! `journal` on a running node, on its file beside it, after it was killed and after it has stopped in order.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use state_tests::node::{self, Node};

fn codes(answer: &Value) -> Vec<&str> {
    answer["events"].as_array().unwrap().iter().map(|entry| entry["code"].as_str().unwrap()).collect()
}

fn object(number: u8) -> Value {
    json!({ "create_object": { "id": hex::encode([number; 32]), "owner": "00".repeat(32), "value": "01" } })
}

#[test]
fn what_happened_is_told_by_a_node_by_its_file_and_after_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (data, db) = (dir.path().display().to_string(), dir.path().join("store").display().to_string());
    let node = Node::start(dir.path(), &["pruner.keep_last=2", "chain.block_interval=10ms"]);
    for number in 0..5u8 {
        node.submit(&object(number));
    }
    let mut tail = Command::new(node::binary());
    tail.args(["journal", "tail", "--follow", "--json", "--url", node.url(), "--code", "pin_added"]);
    let mut tail = tail.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(tail.stdout.take().unwrap()).lines();
    assert!(node.post("/v1/pins/audit", &json!({ "order": 4 })).status().is_success());
    let live: Value = serde_json::from_str(&told.next().unwrap().unwrap()).unwrap();
    assert_eq!((live["code"].as_str(), live["data"]["name"].as_str()), (Some("pin_added"), Some("audit")));
    node.cycle();

    let (code, by_node) = node::json(&["journal", "show", "--url", node.url()]);
    assert_eq!(code, 0);
    for expected in ["started", "pin_added", "trigger_fired", "cycle_begun", "cycle_ended"] {
        assert!(codes(&by_node).contains(&expected), "{expected}: {by_node}");
    }
    let (code, by_file) = node::json(&["journal", "show", "--state-dir", &data, "--code", "cycle_ended"]);
    assert_eq!((code, codes(&by_file).first().copied()), (0, Some("cycle_ended")), "{by_file}");
    assert_eq!(node::json(&["journal", "verify", "--url", node.url()]).0, 0);
    let page = node.get("/v1/events?after=1&limit=2");
    assert_eq!(page["events"].as_array().unwrap().len(), 2);
    assert_eq!(page["events"][0]["seq"], 2);
    assert_eq!(node.ask("/v1/events?limit=0").status(), 400);
    let beyond = node.ask("/v1/events/stream?after=1000000");
    assert_eq!(beyond.status(), 409);
    let beyond: Value = beyond.json().unwrap();
    assert_eq!((&beyond["error"]["code"], beyond["error"]["last_seq"].is_u64()), (&json!("beyond_the_end"), true));
    let status = node.status();
    assert_eq!((status["events"]["lost_total"].as_u64(), &status["events"]["failure"]), (Some(0), &Value::Null));

    let (exit, log) = node.stop(Signal::TERM);
    assert!(exit.success(), "{log}");
    let ended: Vec<String> = told.map(Result::unwrap).collect();
    assert!(tail.wait().unwrap().success(), "the stream ends with the node: {ended:?}");
    let (code, after) = node::json(&["journal", "tail", "--db", &db, "--last", "3"]);
    assert_eq!((code, codes(&after).last().copied()), (0, Some("stopped")), "{after}");
    let (code, whole) = node::json(&["journal", "verify", "--db", &db]);
    assert_eq!(
        (code, &whole["damaged"], &whole["torn_bytes"], &whole["missing"]),
        (0, &json!(0), &json!(0), &json!(0))
    );

    let file = dir.path().join("events/journal.events");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (code, damaged) = node::json(&["journal", "verify", "--db", &db]);
    assert_eq!((code, &damaged["damaged"], &damaged["missing"]), (1, &json!(1), &json!(1)), "{damaged}");
    let place = &damaged["places"][0];
    let number = |key: &str| place[key].as_u64().unwrap_or_else(|| panic!("{damaged}"));
    assert!((number("from")..number("from") + number("length")).contains(&(middle as u64)), "{damaged}");
    assert_eq!(number("before"), number("after") + 2, "{damaged}");
    let lost = number("after") + 1;
    let place_words = format!("{} bytes at byte {}, where event {lost} is missing", number("length"), number("from"));
    let verified = String::from_utf8(node::run(&["journal", "verify", "--db", &db]).stdout).unwrap();
    assert!(verified.contains(&format!("1 damaged place ({place_words})")), "{verified}");
    let (code, since) = node::json(&["journal", "show", "--db", &db, "--since", "2h", "--after", "1"]);
    assert_eq!((code, since["events"][0]["seq"].as_u64()), (1, Some(2)), "it is not whole");
    for words in [["show", "--after"], ["tail", "--last"]] {
        let shown = node::run(&["journal", words[0], "--db", &db, words[1], "1"]);
        let [printed, told] = [shown.stdout, shown.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(shown.status.code(), Some(1), "{words:?}: {told}");
        assert!(printed.contains("stopped") && !printed.contains("damaged"), "{words:?}: {printed}");
        let where_it_is = format!("has 1 damaged place ({place_words}), 1 number missing");
        assert!(told.contains(&where_it_is), "{words:?}: {told}");
        let shown = node::run(&["journal", words[0], "--json", "--db", &db, words[1], "1"]);
        assert!(shown.stderr.is_empty(), "its object tells: {}", String::from_utf8_lossy(&shown.stderr));
    }
    follows_a_damaged_journal(dir.path(), place);
    let (code, absent) = node::json(&["journal", "show", "--state-dir", &db]);
    assert_eq!((code, absent["error"]["code"].as_str()), (1, Some("file")));
    let told = absent["error"]["message"].as_str().unwrap();
    let parts = ["journal.events: there is no event journal", "the data folder of a node has one"];
    assert!(parts.iter().all(|part| told.contains(part)), "{told}");

    let mut tail = Command::new(node::binary());
    tail.args(["journal", "tail", "--follow", "--state-dir", &data]);
    let mut tail = tail.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let first = BufReader::new(tail.stdout.take().unwrap()).lines().next();
    assert!(first.is_some_and(|line| line.is_ok()), "what there is comes first");
    fs::remove_file(&file).unwrap();
    let gone = tail.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert_eq!(gone.status.code(), Some(1), "{told}");
    assert!(told.contains(file.to_str().unwrap()) && told.contains("nothing follows"), "{told}");
}

/// What it lacks comes first, and it is no success however it ends.
fn follows_a_damaged_journal(folder: &Path, place: &Value) {
    let node = Node::start(folder, &["chain.block_interval=10ms"]);
    let mut tail = Command::new(node::binary());
    tail.args(["journal", "tail", "--follow", "--json", "--url", node.url(), "--code", "consumer_added"]);
    let mut tail = tail.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&told.next().unwrap().unwrap()).unwrap();
    assert_eq!(next(), json!({ "damaged": 1, "missing": 1, "places": [place] }));
    let (code, verified) = node::json(&["journal", "verify", "--url", node.url()]);
    assert_eq!((code, &verified["places"]), (1, &json!([place])), "{verified}");
    let order = node.status()["head"]["order"].clone();
    assert!(node.post("/v1/consumers/indexer", &json!({ "order": order })).status().is_success());
    assert_eq!(next()["code"], "consumer_added");
    let (exit, log) = node.stop(Signal::TERM);
    assert!(exit.success(), "{log}");
    assert_eq!((tail.wait().unwrap().code(), told.next().is_none()), (Some(1), true), "the stream ends with the node");
}

#[test]
fn a_journal_that_cannot_be_read_is_named_with_the_error_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store").display().to_string();
    let told = |words: &[&str]| {
        let (code, told) = node::json(&[&["journal"], words, &["--db", &db]].concat());
        assert_eq!((code, told["error"]["code"].as_str()), (1, Some("file")), "{told}");
        told["error"]["message"].as_str().unwrap().to_owned()
    };
    let says = |words: &[&str], parts: &[&str]| {
        let told = told(words);
        assert!(parts.iter().all(|part| told.contains(part)), "{words:?}: {told}");
    };
    let beside = dir.path().join("store.pruner/events/journal.events").display().to_string();
    let of_node = dir.path().join("events/journal.events").display().to_string();
    for words in [&["show"][..], &["tail"], &["tail", "--follow"], &["verify"]] {
        says(words, &["there is no folder", "no event journal beside it", &beside, &of_node, "--state-dir"]);
    }
    fs::create_dir(&db).unwrap();
    says(&["show"], &["there is no event journal beside", &beside, &of_node, "give the data folder of its node"]);
    fs::create_dir(dir.path().join("store/events")).unwrap();
    fs::write(dir.path().join("store/events/journal.events"), b"").unwrap();
    says(&["show"], &["the folder itself has one, so give it with --state-dir"]);
    let (code, absent) = node::json(&["journal", "show", "--state-dir", "/nonexistent"]);
    assert_eq!((code, absent["error"]["code"].as_str()), (1, Some("file")), "{absent}");
    assert!(absent.to_string().contains("no event journal and no folder /nonexistent; "), "{absent}");
    fs::write(dir.path().join("events"), b"no folder").unwrap();
    for words in [&["show"][..], &["tail"], &["tail", "--follow"], &["verify"]] {
        let told = told(words);
        let says = ["events/journal.events", "Not a directory", "cannot be read", "--state-dir"];
        assert!(says.iter().all(|part| told.contains(part)), "{words:?}: {told}");
    }
}

#[test]
fn a_file_in_place_of_a_journal_is_told_as_what_it_is_and_what_to_do_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().display().to_string(), dir.path().join("events/journal.events"));
    fs::create_dir(dir.path().join("events")).unwrap();
    fs::write(&file, b"").unwrap();
    for words in ["show", "tail", "verify"] {
        let told = node::run(&["journal", words, "--state-dir", &data]);
        let printed = [told.stdout, told.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert_eq!(told.status.code(), Some(1), "{words}: {printed}");
        let says = ["no events", "no header at byte 0", file.to_str().unwrap()];
        assert!(says.iter().all(|part| printed.contains(part)), "{words}: {printed}");
    }
    let noise: Vec<u8> = (0..5_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(&file, &noise).unwrap();
    for words in [&["show"][..], &["tail"], &["tail", "--follow"], &["verify"]] {
        let (code, told) = node::json(&[&["journal"], words, &["--state-dir", &data]].concat());
        assert_eq!((code, told["error"]["code"].as_str()), (1, Some("record")), "{words:?}: {told}");
        let says = [file.to_str().unwrap(), "it is no event journal", "5000 bytes", "move it away"];
        assert!(says.iter().all(|part| told.to_string().contains(part)), "{words:?}: {told}");
    }
}

#[test]
fn a_node_that_opened_a_damaged_journal_is_degraded_until_somebody_has_seen_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events/journal.events");
    let node = Node::start(dir.path(), &[]);
    for name in ["one", "two", "three"] {
        assert!(node.post(&format!("/v1/pins/{name}"), &json!({ "order": 0 })).status().is_success());
    }
    assert!(node.stop(Signal::TERM).0.success());
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let judged = |node: &Node| {
        let (code, health) = node::json(&["health-check", "--url", node.url()]);
        let reason = health["reasons"].as_array().unwrap().iter().find(|reason| reason["code"] == "events_damaged");
        (code, reason.map(|reason| reason["message"].as_str().unwrap().to_owned()))
    };
    for _ in 0..2 {
        let node = Node::start(dir.path(), &[]);
        let (code, told) = judged(&node);
        let told = told.unwrap();
        let says = [file.to_str().unwrap(), "1 damaged place (", " bytes at byte ", " is missing", "journal verify"];
        assert!(code == 1 && says.iter().all(|part| told.contains(part)), "{code}: {told}");
        let acknowledge = || node::json(&["acknowledge", "events_damaged", "--url", node.url()]);
        assert_eq!(acknowledge(), (0, json!({ "acknowledged": "events_damaged" })));
        assert_eq!(judged(&node), (0, None));
        let (code, refused) = acknowledge();
        assert_eq!(code, 1, "there is nothing to acknowledge any more: {refused}");
        assert!(node.stop(Signal::TERM).0.success());
    }
    fs::rename(&file, dir.path().join("journal.damaged")).unwrap();
    let node = Node::start(dir.path(), &[]);
    assert_eq!(judged(&node), (0, None), "a new one is whole");
    assert!(node.stop(Signal::TERM).0.success());
}

/// What a record begins with.
const MARKER: [u8; 4] = [0xE5, b'E', b'V', 0xF8];

/// A torn tail is what a kill leaves; any other place that is no event is damage.
#[test]
fn verify_and_validate_say_the_same_of_the_same_journal_whole_torn_or_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store").display().to_string();
    let node = Node::start(dir.path(), &[]);
    for number in 1..=6u8 {
        node.submit(&object(number));
        assert!(node.post(&format!("/v1/pins/pin-{number}"), &json!({ "order": number })).status().is_success());
    }
    assert!(node.stop(Signal::TERM).0.success());
    let file = dir.path().join("events/journal.events");
    let whole = fs::read(&file).unwrap();
    let begins = whole.windows(MARKER.len()).enumerate().filter(|(_, bytes)| *bytes == MARKER).map(|(at, _)| at);
    let begins: Vec<usize> = begins.collect();
    let (middle, last) = (begins[begins.len() / 2] + 20, *begins.last().unwrap());
    let flipped = |places: &[usize], length: usize| {
        let mut bytes = whole[..length].to_vec();
        places.iter().for_each(|at| bytes[*at] ^= 1);
        bytes
    };
    let end = whole.len();
    let rows = [
        ("whole", flipped(&[], end), 0, 0),
        ("torn", flipped(&[], last + 20), 0, 20),
        ("torn behind its first byte", flipped(&[], last + 1), 0, 1),
        ("its header", flipped(&[12], end), 1, 0),
        ("in the middle", flipped(&[middle], end), 1, 0),
        ("its header and in the middle", flipped(&[12, middle], end), 2, 0),
        ("its last byte", flipped(&[end - 1], end), 1, end - last),
        ("in the middle and torn", flipped(&[middle], last + 20), 1, 20),
    ];
    for (what, bytes, damaged, tail) in &rows {
        fs::write(&file, bytes).unwrap();
        let (exit, result) = if *damaged == 0 { (0, "passed") } else { (1, "failed") };
        let (code, verified) = node::json(&["journal", "verify", "--db", &db]);
        let counts = (code, &verified["damaged"], &verified["torn_bytes"]);
        assert_eq!(counts, (exit, &json!(damaged), &json!(tail)), "{what}: {verified}");
        let words = String::from_utf8(node::run(&["journal", "verify", "--db", &db]).stdout).unwrap();
        assert_eq!(words.contains("bytes behind the last event, which the next start cuts off"), *tail > 0, "{words}");
        let (code, report) = node::json(&["validate", "--db", &db]);
        let events = report["checks"].as_array().unwrap().iter().find(|check| check["check"] == "events").unwrap();
        assert_eq!((code, &events["result"]), (exit, &json!(result)), "{what}: {report}");
        let told = if exit == 0 { &events["evidence"] } else { &events["reasons"][0] };
        assert_eq!(told.as_str(), Some(words.trim()), "{what}");
    }
    let (_, torn, ..) = &rows[1];
    fs::write(&file, torn).unwrap();
    assert!(Node::start(dir.path(), &[]).stop(Signal::TERM).0.success());
    let (code, whole) = node::json(&["journal", "verify", "--db", &db]);
    assert_eq!((code, &whole["damaged"], &whole["torn_bytes"]), (0, &json!(0), &json!(0)), "{whole}");
    let (_, started) = node::json(&["journal", "show", "--db", &db, "--code", "started"]);
    assert_eq!(started["events"][1]["data"]["torn_bytes"], 20, "{started}");
}

#[test]
fn a_killed_node_leaves_a_journal_that_the_next_one_goes_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().display().to_string();
    let node = Node::start(dir.path(), &["events.sync=each"]);
    node.submit(&object(1));
    assert!(node.post("/v1/pins/audit", &json!({ "order": 0 })).status().is_success());
    node.until("a pin in the journal", |status| status["events"]["written_total"].as_u64().unwrap() >= 2);
    node.kill();
    let (code, read) = node::json(&["journal", "show", "--state-dir", &data]);
    assert_eq!((code, codes(&read)), (0, vec!["started", "pin_added"]), "with sync = each nothing is lost");
    let node = Node::start(dir.path(), &[]);
    assert!(node.stop(Signal::TERM).0.success());
    let (_, read) = node::json(&["journal", "show", "--state-dir", &data]);
    assert_eq!(codes(&read).last(), Some(&"stopped"));
    assert_eq!(codes(&read).iter().filter(|code| **code == "started").count(), 2);
}

#[test]
fn a_journal_of_a_newer_program_degrades_the_node_and_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("events")).unwrap();
    let file = dir.path().join("events/journal.events");
    fs::write(&file, [b'x'; 100]).unwrap();
    let node = Node::start(dir.path(), &[]);
    let health: Value = node.get("/healthz");
    assert_eq!(health["reasons"][0]["code"], "events_unwritten", "{health}");
    assert!(node.stop(Signal::TERM).0.success());
    assert_eq!(fs::read(&file).unwrap(), [b'x'; 100]);
}
