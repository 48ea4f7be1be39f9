//! S7, life cycle row 19 with the real process: a live node is missing, deletes freeze, the node serves, its path is shown. And
//! damage that nothing but a read for a client meets.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use rocksdb::{
    BottommostLevelCompaction, ColumnFamilyDescriptor, CompactOptions, DB, DBCompressionType, IteratorMode, Options,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use state_tests::{
    damage,
    node::{self, Node},
};
use state_tree::{NodeHash, NodeLayout as _, RoochLayout};
use tempfile::TempDir;

const SETTINGS: [&str; 6] = [
    "pruner.incremental=off",
    "chain.block_interval=5ms",
    "chain.durability=logged",
    "pruner.keep_last=5",
    "pruner.every_orders=1000000", // cycles begin when the test says so
    "pruner.garbage_ratio=none",
];
const OBJECTS: u8 = 40;

fn name(n: u8) -> String {
    hex::encode([n; 32])
}

fn read(node: &Node, n: u8) -> u16 {
    let answer = node.ask(&format!("/v1/objects/{}", name(n)));
    let status = answer.status().as_u16();
    let body: Value = answer.json().unwrap();
    assert!(status == 200 || body["error"]["code"] == "state_unreadable", "{status}: {body}");
    status
}

/// The keys of the nodes on disk.
fn nodes(data: &Path) -> BTreeSet<Box<[u8]>> {
    let store = damage::open(&data.join("store"));
    let family = store.cf_handle("state_node").unwrap();
    store.iterator_cf(family, IteratorMode::Start).map(|row| row.unwrap().0).collect()
}

fn create(n: u8, bytes: usize) -> Value {
    json!({ "create_object": { "id": name(n), "owner": "00".repeat(32), "value": hex::encode(vec![n; bytes]) } })
}

/// The data of a node with some objects: its newest root.
fn with_objects(data: &Path) -> String {
    let node = Node::start(data, &SETTINGS);
    for n in 0..OBJECTS {
        node.submit(&create(n, 1));
    }
    let root = node.get("/v1/blocks/head")["state_root"].as_str().unwrap().to_owned();
    assert!(node.stop(Signal::TERM).0.success());
    root
}

/// The nodes below a root, and what is stored of them.
fn below(store: &Path, root: &str) -> Vec<(NodeHash, Vec<u8>)> {
    let store = damage::open(store);
    let row = |hash: &NodeHash| store.get_cf(store.cf_handle("state_node").unwrap(), hash.as_bytes()).unwrap().unwrap();
    let mut children = Vec::new();
    RoochLayout.children(&row(&NodeHash::from_hex(root).unwrap()), &mut children).unwrap();
    children.into_iter().map(|hash| (hash, row(&hash))).collect()
}

/// The data of a node whose newest state lacks a node below its root: that root, and the node.
fn lacking_a_node(data: &Path) -> (String, NodeHash) {
    let (root, store) = (with_objects(data), data.join("store"));
    let (missing, _) = below(&store, &root)[0];
    damage::remove_node(&store, missing.as_bytes());
    (root, missing)
}

/// The words of what is wrong, and the message of one of them.
fn told(node: &Node, code: &str) -> (Vec<String>, String) {
    let health: Value = node.ask("/healthz").json().unwrap();
    let reasons = health["reasons"].as_array().unwrap();
    let word = |reason: &Value| reason["code"].as_str().unwrap().to_owned();
    let message = reasons.iter().find(|reason| reason["code"] == code);
    let message = message.map_or_else(String::new, |reason| reason["message"].to_string());
    (reasons.iter().map(word).collect(), message)
}

/// What a read of a block that cannot be read is answered.
fn refused(node: &Node, order: u64) -> (u16, String) {
    let answer = node.ask(&format!("/v1/blocks/{order}"));
    let status = answer.status().as_u16();
    let body: Value = answer.json().unwrap();
    (status, body["error"]["code"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned())
}

/// The table file of the blocks, rewritten as the engine does by itself sooner or later: nothing but a read comes upon it then.
fn table_of_blocks(store: &Path) -> PathBuf {
    const BLOCKS: &str = "chain_block";
    let mut options = Options::default();
    options.set_disable_auto_compactions(true);
    options.set_compression_type(DBCompressionType::None);
    let families = DB::list_cf(&options, store).unwrap();
    let families = families.into_iter().map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
    let db = DB::open_cf_descriptors(&options, store, families).unwrap();
    let mut whole = CompactOptions::default();
    whole.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    db.compact_range_cf_opt(db.cf_handle(BLOCKS).unwrap(), None::<&[u8]>, None::<&[u8]>, &whole);
    let mut files = db.live_files().unwrap();
    files.retain(|file| file.column_family_name == BLOCKS);
    let [file] = files.as_slice() else { panic!("{files:?}") };
    store.join(file.name.trim_start_matches('/'))
}

/// The data of a node with some blocks, which lie far apart in their file.
fn with_blocks() -> (TempDir, PathBuf) {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path(), &SETTINGS);
    for n in 0..8 {
        node.submit(&create(n, 8 << 10));
    }
    assert!(node.stop(Signal::TERM).0.success());
    let store = data.path().join("store");
    (data, store)
}

/// It says nothing of nodes.
#[test]
fn a_row_of_a_block_that_is_not_what_was_written_is_told_and_stops_no_deletes() {
    let (data, store) = with_blocks();
    let key = 3u64.to_be_bytes();
    let mut torn = {
        let store = damage::open(&store);
        store.get_cf(store.cf_handle("chain_block").unwrap(), key).unwrap().unwrap()
    };
    *torn.last_mut().unwrap() ^= 1;
    damage::put(&store, "chain_block", &key, &torn);

    let node = Node::start(data.path(), &SETTINGS);
    assert_eq!(told(&node, "store_damaged").0, Vec::<String>::new(), "nobody has read it");
    for reads in 1..=2 {
        assert_eq!(refused(&node, 3), (500, "record".to_owned()));
        let (codes, message) = told(&node, "store_damaged");
        assert_eq!(codes, ["store_damaged"], "{message}");
        assert!(message.contains("block 3") && message.contains(&format!("{reads} so far")), "{message}");
    }
    assert_eq!(node.ask("/healthz").status(), 503);
    assert!(node.until_told("damage_met")["data"]["what"].as_str().unwrap().contains("block 3"));
    assert!(node.cycle()["pruner"]["frozen"].is_null(), "deletes go on");
}

/// It may have damaged nodes, too.
#[test]
fn what_the_engine_finds_in_a_block_that_is_read_freezes_deletes() {
    let (data, store) = with_blocks();
    let table = table_of_blocks(&store);
    let mut bytes = fs::read(&table).unwrap();
    bytes[4000] ^= 1; // within the block of order 1
    fs::write(&table, bytes).unwrap();
    let node = Node::start(data.path(), &SETTINGS);
    assert!(node.status()["pruner"]["frozen"].is_null());
    assert_eq!(refused(&node, 1), (500, "corrupt".to_owned()));
    let (codes, message) = told(&node, "frozen");
    assert_eq!(codes, ["frozen", "store_damaged"], "{message}");
    let file = table.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(file) && message.contains("outside of a cycle"), "{message}");
    assert!(!node.prune("run"), "a frozen pruner takes no cycle");
    assert!(node.prune("unfreeze"));
    assert_eq!(refused(&node, 1), (500, "corrupt".to_owned()));
    let (codes, message) = told(&node, "unproven");
    assert_eq!(
        codes,
        ["unproven", "store_damaged"],
        "who lifted the freeze knows of it, and nothing has proved it wrong"
    );
    assert!(message.contains(file), "{message}");
    drop(node);
    let node = Node::start(data.path(), &SETTINGS);
    assert_eq!(refused(&node, 1), (500, "corrupt".to_owned()));
    assert_eq!(told(&node, "frozen").0, ["frozen", "store_damaged"], "and another process does not");
}

/// No cycle is needed to find out.
#[test]
fn a_read_that_misses_a_live_node_freezes_deletes() {
    let data = tempfile::tempdir().unwrap();
    let (_, missing) = lacking_a_node(data.path());
    let node = Node::start(data.path(), &SETTINGS);
    assert!(node.status()["pruner"]["frozen"].is_null());
    assert!((0..OBJECTS).any(|n| read(&node, n) == 500));
    let (codes, message) = told(&node, "frozen");
    assert_eq!(codes, ["frozen", "store_damaged"]);
    assert!(message.contains(&missing.to_string()), "{message}");
    let whole = (0..OBJECTS).find(|n| read(&node, *n) == 200);
    assert!(whole.is_some(), "what is not below the node is served");
}

/// Neither is a read.
#[test]
fn a_transaction_that_misses_a_live_node_freezes_deletes_whoever_waits_for_it() {
    for waits in ["true", "false"] {
        let data = tempfile::tempdir().unwrap();
        let (_, missing) = lacking_a_node(data.path());
        let node = Node::start(data.path(), &SETTINGS);
        assert!(node.status()["pruner"]["frozen"].is_null());
        let set = |n: u8| {
            let transaction = json!({ "set_value": { "id": name(n), "value": "ff" } });
            node.post(&format!("/v1/transactions?wait={waits}"), &transaction).status().as_u16()
        };
        let answers: BTreeSet<u16> = (0..OBJECTS).map(set).collect();
        match waits {
            "true" => assert_eq!(answers, BTreeSet::from([200, 500]), "what is not below the node is committed"),
            _ => {
                assert_eq!(answers, BTreeSet::from([202]), "nobody waits");
                node.until("a freeze", |status| !status["pruner"]["frozen"].is_null());
            }
        }
        let (codes, message) = told(&node, "frozen");
        assert_eq!(codes[..2], ["frozen", "store_damaged"], "{waits}");
        assert!(message.contains(&missing.to_string()) && message.contains("outside of a cycle"), "{message}");
        assert!(!node.prune("run"), "a frozen pruner takes no cycle");
        assert!(node.stop(Signal::TERM).0.success());
        let node = Node::start(data.path(), &SETTINGS);
        assert!(!node.status()["pruner"]["frozen"].is_null(), "{waits}: a restart lifts no freeze");
    }
}

/// Any mark finds missing nodes; those that hash to another key are found by hashing all, which a node that samples does as
/// long as one is in doubt.
#[test]
fn a_second_fault_beside_a_freeze_stays_in_doubt_until_a_mark_has_looked_for_it() {
    let data = tempfile::tempdir().unwrap();
    let (root, store) = (with_objects(data.path()), data.path().join("store"));
    let [(missing, whole), (wrong, right), ..] = &below(&store, &root)[..] else { panic!("{root}") };
    damage::remove_node(&store, missing.as_bytes());
    let node = Node::start(data.path(), &SETTINGS);
    let below_missing: Vec<u8> = (0..OBJECTS).filter(|n| read(&node, *n) == 500).collect();
    assert!(!below_missing.is_empty() && told(&node, "frozen").1.contains(&missing.to_string()));
    assert!(node.stop(Signal::TERM).0.success());

    let mut other = right.clone();
    *other.last_mut().unwrap() ^= 1; // still a node
    damage::put_node(&store, wrong.as_bytes(), &other);
    let node = Node::start(data.path(), &SETTINGS);
    assert!((0..OBJECTS).filter(|n| !below_missing.contains(n)).any(|n| read(&node, n) == 500));
    let (_, met) = told(&node, "store_damaged");
    assert!(met.contains(&wrong.to_string()) && met.contains("hashes to"), "{met}");
    assert!(told(&node, "frozen").1.contains(&missing.to_string()), "what is in force is not replaced");
    assert!(node.stop(Signal::TERM).0.success());

    damage::put_node(&store, missing.as_bytes(), whole);
    damage::put_node(&store, wrong.as_bytes(), right);
    let is_in_doubt = || {
        let store = damage::open(&store);
        store.get_cf(store.cf_handle("prune_meta").unwrap(), "doubt").unwrap().is_some()
    };
    let settings = [&SETTINGS[..], &["pruner.mark=scan", "pruner.rehash=sample"]].concat();
    let node = Node::start(data.path(), &settings);
    assert!(node.prune("unfreeze"));
    assert!(node.stop(Signal::TERM).0.success());
    assert!(is_in_doubt(), "a word ends a freeze, and no doubt");
    let node = Node::start(data.path(), &settings);
    node.cycle();
    let certificates = data.path().join("pruner/certificates");
    assert!(node.stop(Signal::TERM).0.success());
    assert!(!is_in_doubt(), "a cycle has looked for both");
    let last = std::fs::read_dir(certificates).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let mark = serde_json::from_slice::<Value>(&std::fs::read(last).unwrap()).unwrap()["mark"].take();
    assert!(mark["nodes_rehashed"].as_u64() >= mark["nodes_read"].as_u64() && mark["nodes_read"].is_u64(), "{mark}");
}

#[test]
fn a_node_with_a_missing_live_node_freezes_deletes_serves_and_shows_the_path() {
    let data = tempfile::tempdir().unwrap();
    let (root, missing) = lacking_a_node(data.path());
    let there = nodes(data.path());

    let node = Node::start(data.path(), &SETTINGS);
    assert!(node.prune("run"));
    let status = node.until("a freeze", |status| status["verdict"] == "critical");
    let told = status["pruner"]["frozen"].as_str().unwrap();
    assert!(told.contains(&missing.to_string()) && told.contains(&format!("{root} > this node")), "{told}");
    let health = node.ask("/healthz");
    assert_eq!(health.status(), 503);
    let health: Value = health.json().unwrap();
    let reason = &health["reasons"][0];
    assert_eq!(reason["code"], "frozen");
    assert!(reason["message"].as_str().unwrap().contains(&format!("{root} > this node")), "{health}");
    let (code, asked) = node::json(&["health-check", "--url", node.url()]);
    assert_eq!((code, &asked["reasons"][0]), (2, reason));

    let whole: Vec<u8> = (0..OBJECTS).filter(|n| read(&node, *n) == 200).collect();
    assert!(!whole.is_empty() && whole.len() < OBJECTS.into(), "{whole:?}: what is not below the node is served");
    let before = node.status()["head"]["order"].as_u64().unwrap();
    let order = node.submit(&json!({ "set_value": { "id": name(whole[0]), "value": "ff" } }));
    assert!(order > before, "what does not need the node is committed");
    assert_eq!(node.get(&format!("/v1/objects/{}", name(whole[0])))["object"]["value"], "ff");

    assert!(!node.prune("run"), "a frozen pruner takes no cycle");
    let status = node.status();
    let pruner = &status["pruner"];
    assert_eq!((pruner["running"].as_bool(), pruner["cycles_finished"].as_u64()), (Some(false), Some(0)));
    assert!(!pruner["frozen"].is_null(), "{status:#}");
    drop(node);
    let node = Node::start(data.path(), &SETTINGS);
    assert!(!node.status()["pruner"]["frozen"].is_null(), "a restart lifts no freeze");
    assert!(node.stop(Signal::TERM).0.success());
    assert!(nodes(data.path()).is_superset(&there), "nothing was deleted");
}
