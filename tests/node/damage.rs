//! S7, life cycle row 19 with the real process: a live node is missing, deletes freeze, the node serves, its path is shown.

use std::{collections::BTreeSet, path::Path};

use rocksdb::IteratorMode;
use rustix::process::Signal;
use serde_json::{Value, json};
use state_tests::{
    damage,
    node::{self, Node},
};
use state_tree::{NodeHash, NodeLayout as _, RoochLayout};

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

#[test]
fn a_node_with_a_missing_live_node_freezes_deletes_serves_and_shows_the_path() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path(), &SETTINGS);
    for n in 0..OBJECTS {
        node.submit(
            &json!({ "create_object": { "id": name(n), "owner": "00".repeat(32), "value": hex::encode([n]) } }),
        );
    }
    let root = node.get("/v1/blocks/head")["state_root"].as_str().unwrap().to_owned();
    assert!(node.stop(Signal::TERM).0.success());
    let missing = {
        let store = damage::open(&data.path().join("store"));
        let root = NodeHash::from_hex(&root).unwrap();
        let bytes = store.get_cf(store.cf_handle("state_node").unwrap(), root.as_bytes()).unwrap().unwrap();
        let mut children = Vec::new();
        RoochLayout.children(&bytes, &mut children).unwrap();
        children[0]
    };
    damage::remove_node(&data.path().join("store"), missing.as_bytes());
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
