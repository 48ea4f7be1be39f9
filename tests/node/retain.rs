//! What is retained, as a running node tells it, and times that keep nothing.

use rustix::process::Signal;
use serde_json::json;
use state_tests::node::{self, Node};

/// The policy in force and which of its bounds wins are printed at the start and served in the status.
#[test]
fn the_policy_in_force_and_the_bound_that_wins_are_printed_at_the_start_and_served() {
    let data = tempfile::tempdir().unwrap();
    let settings = ["pruner.keep_last=100", "pruner.keep_time=\"30d\"", "pruner.keep_every=7"];
    let node = Node::start(data.path(), &settings);
    node.until_logged("in force: the last 100 orders, the last 30days, every 7 orders; orders 0 to ");
    node.until_logged("; keep_last (100 orders) reaches lowest, to order 0");
    node.until_logged(
        "; keep_last (100 orders) is not filled yet: the chain is younger; keep_time (30days of chain time) is not",
    );
    let retention = &node.status()["retention"];
    let (winner, asks) = (&retention["winner"], &retention["asks"]);
    assert_eq!((&winner["bound"], &winner["orders"]), (&json!("last"), &json!(100)), "{retention}");
    assert_eq!((&winner["from"], &winner["fill"]), (&json!(0), &json!("young")), "{retention}");
    assert_eq!((&asks[1]["bound"], &asks[1]["time_ms"]), (&json!("time"), &json!(2_592_000_000u64)), "{retention}");
    assert_eq!((&retention["keep_every"], &retention["floor"]), (&json!(7), &json!(0)), "{retention}");
    assert!(retention["window_ms"].is_u64() && retention["floor_timestamp_ms"].is_u64(), "{retention}");
}

/// A pin or a word of a consumer that is over at once keeps nothing, so it is not acknowledged.
#[test]
fn a_time_of_nothing_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path(), &[]);
    for path in ["/v1/pins/audit", "/v1/consumers/indexer"] {
        let refused = node.post(path, &json!({ "order": 0, "ttl_ms": 0 }));
        assert_eq!(refused.status(), 400, "{path}");
        let told: serde_json::Value = refused.json().unwrap();
        assert_eq!(told["error"]["code"], "json", "{told}");
        assert!(told["error"]["message"].as_str().unwrap().contains("nonzero"), "{told}");
        assert!(node.post(path, &json!({ "order": 0, "ttl_ms": 1 })).status().is_success(), "{path}");
    }
}

/// A dry run and a verification of its store tell the roots of the window from those that are kept below it, and by whom.
#[test]
fn a_store_at_rest_tells_its_window_from_what_pins_and_keep_every_keep_below_it() {
    let data = tempfile::tempdir().unwrap();
    let settings =
        ["pruner.keep_last=3", "pruner.keep_every=4", "pruner.every_orders=1000000", "pruner.garbage_ratio=none"];
    let node = Node::start(data.path(), &settings);
    for number in 1..=12u8 {
        let id = hex::encode([number; 32]);
        let order = node.submit(&json!({ "create_object": { "id": id, "owner": "00".repeat(32), "value": "07" } }));
        assert_eq!(order, u64::from(number));
        if order == 5 {
            assert!(node.post("/v1/pins/audit", &json!({ "order": order, "owner": "me" })).status().is_success());
        }
    }
    node.cycle();
    assert!(node.stop(Signal::TERM).0.success());

    let db = data.path().join("store").display().to_string();
    let common = ["--db", &db, "--layout", "native", "--keep-last", "3"];
    let rows = [(&["prune", "--dry-run"][..], "/retained/kept_by"), (&["verify"][..], "/kept_below")];
    for (command, runs) in rows {
        let arguments = [command, &common[..]].concat();
        let text = String::from_utf8(node::run(&arguments).stdout).unwrap();
        let expected = "3 of the window, below it 3 of keep_every, 1 of pins (audit of me, order 5)";
        assert!(text.contains(expected), "{command:?}: {text}");
        let (code, told) = node::json(&arguments);
        assert_eq!(code, 0, "{told}");
        let below = &told.pointer(runs).unwrap().as_array().unwrap()[..3];
        let expected = json!([
            { "first": 0, "last": 4, "step": 4, "kept_by": "every" },
            { "first": 5, "last": 5, "step": 1, "kept_by": { "pin": "audit of me" } },
            { "first": 8, "last": 8, "step": 1, "kept_by": "every" },
        ]);
        assert_eq!(json!(below), expected, "{told}");
    }
}
