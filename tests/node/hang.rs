//! C20: one thread of the real binary hangs at a named point, as on a disk that does not answer. The node ends when its time is
//! over, is no node that ended in order, names the step that hung, and leaves a store that opens and goes on.

use std::{fs, path::Path};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use serde_json::json;
use state_store::Point;
use state_tests::node::{self, Node};

use crate::kill::{Acknowledged, SETTINGS, verified};

/// More than a node needs on a busy machine to come to what hangs.
const LONG: &str = "10s";
/// Much less than the node would wait for its own load by itself, which is the first that it waits for.
const SHORT: &str = "1s";

fn submit(node: &Node, number: u8) -> Acknowledged {
    let (id, value) = (hex::encode([number; 32]), hex::encode([number, 7]));
    let create = json!({ "create_object": { "id": id, "owner": "00".repeat(32), "value": value } });
    Acknowledged { order: node.submit(&create), id, value }
}

fn within(load: Option<&str>) -> &'static str {
    load.map_or(LONG, |_| SHORT)
}

/// A node of which a thread hangs when it comes to a point first.
fn hung(data: &Path, point: Point, load: Option<&str>) -> Node {
    let stop = format!("node.stop_timeout={}", within(load));
    let settings = [&SETTINGS[..], &[stop.as_str(), "pruner.keep_last=4", "pruner.sweep=filter"]].concat();
    Node::hung_at(data, &settings, point, load)
}

/// Stops a node that hangs, and starts it again on what it left.
fn ends(node: Node, data: &Path, (step, within): (&str, &str), acknowledged: &Acknowledged) {
    let (ended, log) = node.stop(Signal::TERM);
    assert_eq!(ended.code(), Some(1), "{step}: {ended}\n{log}");
    assert!(log.contains(&format!("has not ended within {within} (node.stop_timeout)")), "{step}: {log}");
    assert!(log.contains(&format!("it waits for {step}. The process")), "{step}: {log}");
    verified(data);
    let node = Node::start(data, &SETTINGS);
    acknowledged.is_there(&node);
    let status = node.cycle();
    assert_eq!((status["verdict"].as_str(), status["pruner"]["cycles_failed"].as_u64()), (Some("healthy"), Some(0)));
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{step}: {log}");
    assert_eq!(verified(data)["leaked_nodes"], 0, "{step}");
}

#[test]
fn a_node_whose_pruner_hangs_ends_when_its_time_is_over_and_names_what_hung() {
    for (point, step) in [
        (Point::MarkWalked, "the pruner, which is at a cycle that marks"),
        (Point::RangeRewritten, "the pruner, which is at a cycle that sweeps"),
    ] {
        let data = tempfile::tempdir().unwrap();
        let node = hung(data.path(), point, None);
        let acknowledged = (1..=12).map(|number| submit(&node, number)).last().unwrap();
        assert!(node.prune("run"));
        node.until_logged(&format!("hangs at {}", point.name()));
        ends(node, data.path(), (step, LONG), &acknowledged);
    }
}

#[test]
fn a_node_whose_commit_hangs_names_its_own_load_or_the_last_blocks() {
    for (load, step) in
        [(None, "the last blocks to be written"), (Some("mixed:200"), "the last requests of its own load")]
    {
        let data = tempfile::tempdir().unwrap();
        let node = Node::start(data.path(), &SETTINGS);
        let acknowledged = submit(&node, 1);
        assert!(node.stop(Signal::TERM).0.success());
        let node = hung(data.path(), Point::CommitRecorded, load);
        let create =
            json!({ "create_object": { "id": hex::encode([2; 32]), "owner": "00".repeat(32), "value": "01" } });
        assert!(node.post("/v1/transactions?wait=false", &create).status().is_success());
        node.until_logged("hangs at commit::recorded");
        ends(node, data.path(), (step, within(load)), &acknowledged);
    }
}

/// O14: whoever reads a file of the store waits for ever, as on a disk that does not answer.
#[test]
fn the_health_of_a_store_whose_disk_hangs_cannot_be_told_and_is_not_waited_for() {
    let data = tempfile::tempdir().unwrap();
    let store = data.path().join("store");
    fs::create_dir(&store).unwrap();
    mknodat(CWD, store.join("CURRENT"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let (code, told) = node::json(&["health-check", "--db", &store.display().to_string(), "--within", "200ms"]);
    assert_eq!((code, told["error"]["code"].as_str()), (3, Some("timeout")), "{told}");
    assert!(told["error"]["message"].as_str().unwrap().contains("could not be read within 200ms"), "{told}");
}
