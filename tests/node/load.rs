//! End to end: a node under load prunes itself several times, its disk stays bounded, and every proof verifies.
//!
//! E2E_SECONDS sets the length of the run; 60 is the one of the specification, the default is shorter.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use state_pruner::{Clock, SystemClock};
use state_tests::node::{self, Node, proven};
use state_tree::Key;

const KEEP: u64 = 40;

/// The key of a name, as the reference chain derives it.
pub(crate) fn key(name: &str) -> Key {
    Key::new(Sha256::digest([b"state-node object key 1".as_slice(), &hex::decode(name).unwrap()].concat()).into())
}

/// A load of one profile on a node, for some seconds.
fn drive(node: &Node, profile: &str, seconds: u64) -> Child {
    let mut command = Command::new(node::binary());
    command.args(["load", "--url", node.url(), "--profile", profile, "--seed", "9", "--json"]);
    command.args(["--for", &seconds.to_string(), "--rate", "1500", "--connections", "2"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn report(load: Child) -> Value {
    let output = load.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_load_whose_node_goes_away_tells_what_it_measured_until_then_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &["chain.block_interval=10ms"]);
    let mut load = Command::new(node::binary());
    load.args(["load", "--url", node.url(), "--rate", "500", "--json"]);
    let load = load.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    node.until("blocks of the load", |status| status["head"]["order"].as_u64().is_some_and(|order| order > 10));
    node.kill();
    let output = load.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told["transactions"].as_u64().unwrap() > 0 && told["latency_ms"]["p50"].is_number(), "{told}");
    assert_eq!(told["error"]["code"], "unreachable", "{told}");
    assert!(told["error"]["message"].as_str().unwrap().contains("the node went away under the load"), "{told}");
}

#[test]
fn a_load_whose_node_hangs_ends_when_its_time_is_over_with_what_it_measured_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), &["chain.block_interval=10ms"]);
    let mut load = Command::new(node::binary());
    load.args(["load", "--url", node.url(), "--rate", "500", "--for", "15", "--json"]);
    let load = load.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    node.until("blocks of the load", |status| status["head"]["order"].as_u64().is_some_and(|order| order > 10));
    node.suspend();
    let output = load.wait_with_output().unwrap();
    node.kill();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told["transactions"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(told["error"]["code"], "unreachable", "{told}");
    assert!(told["error"]["message"].as_str().unwrap().contains("does not answer within 10s"), "{told}");
}

/// What a node acknowledged to its own load is not there any more, here because its chain went back.
#[test]
fn a_node_whose_own_load_met_a_wrong_proof_exits_with_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["chain.block_interval=5ms", "pruner.keep_last=100000"];
    let node = Node::driven(dir.path(), &settings, "mixed:2000");
    node.until("orders", |status| status["head"]["order"].as_u64().is_some_and(|order| order > 200));
    let (code, told) = node::json(&["rollback", "--to", "20", "--url", node.url()]);
    assert_eq!(code, 0, "{told}");
    node.until_logged("a proof is wrong");
    let (ended, log) = node.stop(Signal::TERM);
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("wrong proofs"), "{log}");
}

fn name(n: u64) -> String {
    hex::encode(Sha256::digest(n.to_be_bytes()))
}

/// An object of ours whose value at each order is known.
struct Probe {
    name: String,
    /// Order and value, ascending.
    values: Vec<(u64, String)>,
}

impl Probe {
    fn create(node: &Node) -> Self {
        let (name, value) = (name(0), hex::encode([1]));
        let create = json!({ "create_object": { "id": name, "owner": "00".repeat(32), "value": value } });
        let order = node.submit(&create);
        Self { name, values: vec![(order, value)] }
    }

    fn set(&mut self, node: &Node) {
        let value = hex::encode(self.values.len().to_be_bytes());
        let order = node.submit(&json!({ "set_value": { "id": self.name, "value": value } }));
        self.values.push((order, value));
    }

    /// Reads at an order and checks the proof of what is there, and of what is not. Returns how many were checked: none
    /// where the window has moved on.
    fn check(&self, node: &Node, order: u64) -> u64 {
        let expected = self.values.iter().rev().find(|(at, _)| *at <= order).map(|(_, value)| value.as_str());
        let Some((status, answer)) = read(node, &self.name, order) else { return 0 };
        assert_eq!(status, if expected.is_some() { 200 } else { 404 }, "order {order}: {answer}");
        let proof = if expected.is_some() { &answer["proof"] } else { &answer["error"]["proof"] };
        let shown = proven(proof, &[key(&self.name)]).map(|object| hex::encode(object.value));
        assert_eq!(shown.as_deref(), expected, "order {order}");
        let nobody = name(1 + order);
        let Some((status, absent)) = read(node, &nobody, order) else { return 1 };
        assert_eq!((status, absent["error"]["code"].as_str()), (404, Some("not_found")), "order {order}: {absent}");
        assert_eq!(proven(&absent["error"]["proof"], &[key(&nobody)]), None);
        2
    }
}

/// Reads an object at an order with its proof; nothing once the order is pruned.
fn read(node: &Node, name: &str, order: u64) -> Option<(u16, Value)> {
    let response = node.ask(&format!("/v1/objects/{name}?order={order}&proof=true"));
    let status = response.status().as_u16();
    let answer: Value = response.json().unwrap();
    if status == 410 {
        assert_eq!(answer["error"]["code"], "pruned", "{answer}");
        return None;
    }
    Some((status, answer))
}

fn seconds() -> u64 {
    std::env::var("E2E_SECONDS").map_or(20, |text| text.parse().unwrap())
}

#[test]
fn a_node_under_load_prunes_itself_and_every_proof_verifies() {
    let data = tempfile::tempdir().unwrap();
    let settings = [
        "chain.block_interval=20ms".to_owned(),
        "chain.durability=logged".to_owned(),
        format!("pruner.keep_last={KEEP}"),
        format!("chain.keep_blocks={KEEP}"), // blocks are kept for ever otherwise, and grow for ever
        "pruner.every_orders=60".to_owned(),
    ];
    let node = Node::start(data.path(), &settings.each_ref().map(String::as_str));
    let mut probe = Probe::create(&node);
    let (mut sizes, mut checks) = (Vec::new(), 0);
    for profile in ["mixed", "toggle", "tables"] {
        let (load, clock) = (drive(&node, profile, seconds().div_ceil(3)), SystemClock::new());
        while clock.monotonic() < Duration::from_secs(seconds().div_ceil(3)) {
            probe.set(&node);
            let status = node.status();
            let (floor, head) = (status["floor"].as_u64().unwrap(), status["head"]["order"].as_u64().unwrap());
            for order in [floor, (floor + head) / 2, head] {
                checks += probe.check(&node, order);
            }
            sizes.push(status["space"]["total"].as_u64().unwrap());
            thread::yield_now();
        }
        let report = report(load);
        println!("{profile}: {report}");
        assert_eq!(report["proofs_wrong"], 0, "{report}");
        assert!(report["proofs_verified"].as_u64().unwrap() > 0 && report["applied"].as_u64().unwrap() > 0, "{report}");
    }
    let status = node.cycle();
    assert!(status["pruner"]["cycles_finished"].as_u64().unwrap() >= 3, "{status:#}");
    assert_eq!(status["pruner"]["cycles_failed"], 0, "{status:#}\n{}", node.log());
    assert_eq!(status["verdict"], "healthy");
    let (size, put) = (status["space"]["total"].as_u64().unwrap(), status["counts"]["bytes_put"].as_u64().unwrap());
    println!(
        "{checks} proofs of ours; {} samples of the size, most {:?}; {put} bytes put, {size} left",
        sizes.len(),
        sizes.iter().max()
    );

    let floor = status["floor"].as_u64().unwrap();
    let below: Value = node.ask(&format!("/v1/objects/{}?order={}", probe.name, floor - 1)).json().unwrap();
    assert_eq!((below["error"]["code"].as_str(), below["error"]["floor"].as_u64()), (Some("pruned"), Some(floor)));
    let (ended, log) = node.stop(rustix::process::Signal::TERM);
    assert!(ended.success(), "{log}");
    let (code, verified) = verify(&data.path().join("store"));
    assert_eq!((code, verified["missing_nodes"].as_u64(), verified["corrupt_nodes"].as_u64()), (0, Some(0), Some(0)));
    let live = verified["live_nodes"].as_u64().unwrap();
    println!("{verified}");
    // A node is at most 600 bytes here, and the engine may hold each live node twice while it rewrites.
    let bound = 16 * (1 << 20) + live * 1200;
    assert!(size < bound, "{size} bytes for {live} live nodes");
    let most = sizes.iter().max().copied().unwrap();
    assert!(most < bound, "{most} bytes at its largest, {bound} allowed");
    assert!(seconds() < 60 || put > 2 * bound, "{put} bytes were put: {bound} would have held most of them");
    let nodes = status["counts"]["nodes_put"].as_u64().unwrap();
    assert!(nodes > 4 * live, "{nodes} nodes were put where {live} are live: there was little to prune");
    assert!(checks > 0, "every order that was asked for was pruned");
    assert!(verified["leaked_nodes"].as_u64().unwrap() <= live, "{verified}");
}

fn verify(db: &std::path::Path) -> (i32, Value) {
    let (db, keep) = (db.display().to_string(), KEEP.to_string());
    node::json(&["verify", "--db", &db, "--layout", "native", "--keep-last", &keep, "--leaks"])
}
