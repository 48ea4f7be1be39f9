//! C14, the real binary: what runs count while objects come as fast as they are taken, also where its process is killed.

use std::os::unix::process::ExitStatusExt as _;

use serde_json::{Value, json};
use state_store::Point;
use state_tests::node::Node;

const OBJECTS: u64 = 600;
const SETTINGS: [&str; 8] = [
    "chain.block_interval=1ms",
    "pruner.every_orders=100",
    "pruner.jitter=0",
    "pruner.cooldown=0s",
    "pruner.keep_last=5",
    "pruner.incremental=off",
    "pruner.garbage_ratio=none",
    "pruner.sweep=delete",
];

/// Creates objects, each an order of its own, until the head is order 600: whether the node lived to take the last.
fn create(node: &Node, life: u8) -> bool {
    for number in 0.. {
        let id = hex::encode([[life; 30].as_slice(), &u16::to_be_bytes(number)].concat());
        let object = json!({ "create_object": { "id": id, "owner": "00".repeat(32), "value": "07" } });
        match node.try_post("/v1/transactions", &object) {
            Ok(taken) if taken["order"].as_u64().unwrap() == OBJECTS => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

fn of(told: &Value, field: &str) -> u64 {
    told[field].as_u64().unwrap()
}

/// The runs and what they counted, once none is at work or due and the pruner has heard of the last order.
fn runs(node: &Node) -> Vec<Value> {
    let settled = |status: &Value| {
        let (pruner, triggers) = (&status["pruner"], &status["pruner"]["triggers"]);
        let uncounted = of(triggers, "uncounted");
        pruner["running"] == false && uncounted < 100 && of(triggers, "counted_to") + uncounted == OBJECTS
    };
    let status = node.until("no run that works or is due", settled);
    let triggers = &status["pruner"]["triggers"];
    let runs = triggers["runs"].as_array().unwrap().clone();
    let counted: u64 = runs.iter().map(|run| of(run, "counted")).sum();
    assert_eq!(counted + of(triggers, "uncounted"), OBJECTS, "{triggers:#}");
    assert!(runs.iter().all(|run| run["trigger"] == "orders"), "{triggers:#}");
    runs
}

#[test]
fn six_hundred_objects_in_a_real_node_set_off_one_to_six_runs_and_each_is_counted_once() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path(), &SETTINGS);
    assert!(create(&node, 1));
    let runs = runs(&node);
    assert!((1..=6).contains(&runs.len()), "{runs:#?}");
    for (run, next) in runs.iter().zip(&runs[1..]) {
        let ended = of(run, "began_ms") + of(run, "duration_ms");
        assert!(ended <= of(next, "began_ms") + 1, "two runs overlap: {runs:#?}"); // both are cut to milliseconds
    }
}

/// Before a run has done anything, in its sweep, and at its end.
#[test]
fn six_hundred_objects_are_counted_once_also_where_the_node_is_killed_in_the_middle_of_a_run() {
    for (life, point) in (1..).zip([Point::RunBegins, Point::BatchWritten, Point::CycleEnded]) {
        let data = tempfile::tempdir().unwrap();
        let node = Node::killed_at(data.path(), &SETTINGS, (point, 1));
        assert!(!create(&node, life), "{}: never reached\n{}", point.name(), node.log());
        let (ended, log) = node.wait();
        assert_eq!(ended.signal(), Some(9), "{}: {log}", point.name());
        let node = Node::start(data.path(), &SETTINGS);
        assert!(create(&node, 100 + life));
        runs(&node);
    }
}
