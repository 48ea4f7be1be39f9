//! Life cycle row 3 with the real process: killed in each phase, it loses nothing and finishes its cycle afterwards.

use std::{fs, path::Path, sync::Arc};

use rustix::process::Signal;
use serde_json::{Value, json};
use state_pruner::{
    StoreRecords,
    phase::{PhaseRecord, PrunePhase},
};
use state_store::{RocksBackend, RocksConfig, Store};
use state_tests::{
    chain::STORE,
    node::{self, Load, Node},
};

pub(crate) const SETTINGS: [&str; 7] = [
    "pruner.incremental=off",
    "chain.block_interval=10ms",
    "chain.durability=logged",
    "pruner.keep_last=20",
    "pruner.every_orders=1000000", // cycles begin when the test says so
    "pruner.garbage_ratio=none",
    "pruner.verify_sample=100",
];

/// A sweep this slow is caught at its first range.
pub(crate) const SLOW: &str = "pruner.io_limit=256 KiB";

pub(crate) fn verified(data: &Path) -> Value {
    verified_window(data, 20)
}

/// The same of a node that keeps so many orders.
pub(crate) fn verified_window(data: &Path, keep_last: u64) -> Value {
    let (db, keep_last) = (data.join("store").display().to_string(), keep_last.to_string());
    let (code, report) =
        node::json(&["verify", "--db", &db, "--layout", "native", "--keep-last", &keep_last, "--leaks"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!((report["missing_nodes"].as_u64(), report["corrupt_nodes"].as_u64()), (Some(0), Some(0)));
    report
}

fn orders(node: &Node, at_least: u64) {
    node.until("orders", |status| status["head"]["order"].as_u64().unwrap() >= at_least);
}

/// Holds a cycle in the phase; whether it was caught there.
pub(crate) fn hold_in(node: &Node, phase: &str) -> bool {
    hold_where(node, |pruner| pruner["phase"] == phase)
}

/// Holds a cycle at the first of its checkpoints at which its status is as wanted; whether it was caught there.
pub(crate) fn hold_where(node: &Node, wanted: impl Fn(&Value) -> bool) -> bool {
    assert!(node.prune("run"));
    loop {
        let held = node.prune("pause");
        // One that is asked to pause goes on to its next checkpoint, which may be one of the next phase.
        let stands = |status: &Value| status["pruner"]["pause"] == "holding" || status["pruner"]["running"] == false;
        let pruner = if held { node.until("a cycle that stands", stands) } else { node.status() }["pruner"].clone();
        if pruner["pause"] == "holding" && wanted(&pruner) {
            return true;
        }
        if !held && pruner["running"] == false && pruner["cycles_finished"].as_u64().unwrap() > 0 {
            return false; // it was faster than we
        }
        node.prune("resume");
    }
}

/// The cycle that a dead node left in its sweep.
fn cycle_in_its_sweep(data: &Path) -> Option<u64> {
    let backend = RocksBackend::open_read_only(&data.join("store"), &RocksConfig::default()).unwrap();
    let records = StoreRecords(Arc::new(Store::foreign(Arc::new(backend), STORE).unwrap()));
    let record = PhaseRecord::load(&records).unwrap()?;
    (record.phase == PrunePhase::SweepExpired).then_some(record.cycle)
}

/// What health tells from outside of a lock that a dead process has left, if it tells of one.
fn lock_left(data: &Path) -> Option<String> {
    let db = data.join("store").display().to_string();
    let (_, health) = node::json(&["health-check", "--db", &db]);
    let reasons = health["reasons"].as_array().unwrap_or_else(|| panic!("{health}"));
    let left = reasons.iter().find(|reason| reason["code"] == "lock_left")?;
    Some(left["message"].as_str().unwrap().to_owned())
}

/// The lock of the dead in the words of the next process, which names it in its status and its log and does not obey it.
fn lock_told(node: &Node, phase: &str) -> String {
    let left = node.status()["pruner"]["lock_left"].clone();
    assert_eq!(left["phase"], phase, "{left}");
    let (pid, role, snapshot) = (&left["owner"]["pid"], left["owner"]["role"].as_str().unwrap(), &left["snapshot_id"]);
    let told = format!("process {pid} ({role}) took snapshot {snapshot} for {phase}");
    node.until_logged(&format!("a lock was left: {told}"));
    told
}

/// What set a cycle off, by its certificate.
fn trigger(data: &Path, cycle: u64) -> Option<String> {
    let path = data.join(format!("pruner/certificates/cycle-{cycle:08}.json"));
    if !path.exists() {
        return None;
    }
    let certificate: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    Some(certificate["trigger"].as_str().unwrap().to_owned())
}

/// What a node had acknowledged when it was killed.
pub(crate) struct Acknowledged {
    pub(crate) order: u64,
    pub(crate) id: String,
    pub(crate) value: String,
}

impl Acknowledged {
    pub(crate) fn is_there(&self, node: &Node) {
        let status = node.status();
        assert!(status["head"]["order"].as_u64().unwrap() >= self.order, "an acknowledged order is gone: {status}");
        let read = node.get(&format!("/v1/objects/{}", self.id));
        assert_eq!(read["object"]["value"].as_str(), Some(self.value.as_str()), "{read}");
    }
}

/// Kills a node under load in a phase.
fn die_in(data: &Path, phase: &str, profile: &str, seed: &str) -> Acknowledged {
    for attempt in 0..20u8 {
        let node = Node::start(data, &[&SETTINGS[..], &[SLOW]].concat());
        let load = Load::on(&node, profile, seed);
        let begun = node.status()["head"]["order"].as_u64().unwrap();
        orders(&node, begun + 40);
        let caught = match phase {
            "idle" => true,
            _ => hold_in(&node, phase),
        };
        let (id, value) = (hex::encode([attempt + 1; 32]), hex::encode([attempt, 7]));
        let create = json!({ "create_object": { "id": id, "owner": "00".repeat(32), "value": value } });
        let order = node.submit(&create);
        node.kill();
        drop(load);
        if caught {
            return Acknowledged { order, id, value };
        }
    }
    panic!("no cycle was ever caught in {phase}");
}

fn kill_in(phase: &str, profile: &str, seed: &str) {
    let data = tempfile::tempdir().unwrap();
    let acknowledged = die_in(data.path(), phase, profile, seed);
    let report = verified(data.path());
    println!("killed in {phase} after order {}: {report}", acknowledged.order);
    let interrupted = cycle_in_its_sweep(data.path());
    assert_eq!(interrupted.is_some(), phase == "sweep_expired", "{interrupted:?}");
    let left = lock_left(data.path());
    assert_eq!(left.is_some(), phase != "idle", "whoever died in a phase held its lock: {left:?}");

    let node = Node::start(data.path(), &SETTINGS);
    if let Some(left) = left {
        let told = lock_told(&node, phase);
        assert!(left.contains(&told), "{left:?} is not {told:?}");
    }
    acknowledged.is_there(&node);
    if let Some(cycle) = interrupted {
        node.until("the end of the interrupted sweep", |_| trigger(data.path(), cycle).is_some());
        assert_eq!(trigger(data.path(), cycle).as_deref(), Some("resumed"), "{}", node.log());
    }
    let status = node.cycle();
    assert_eq!((status["verdict"].as_str(), status["pruner"]["cycles_failed"].as_u64()), (Some("healthy"), Some(0)));
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{log}");
    assert_eq!(verified(data.path())["leaked_nodes"], 0, "a cycle without commits leaves nothing behind");
    assert_eq!(lock_left(data.path()), None, "the lock of the last cycle was let go");
}

#[test]
fn kill_nine_while_no_cycle_runs() {
    kill_in("idle", "toggle", "1");
}

#[test]
fn kill_nine_while_marking() {
    kill_in("build_reach", "tables", "2");
}

#[test]
fn kill_nine_while_sweeping() {
    kill_in("sweep_expired", "toggle", "3");
    kill_in("sweep_expired", "tables", "5");
}

/// IncrementalSweep at work, killed at some moment, three times in a row: nothing is lost, and a cycle finds all it left.
#[test]
fn kill_nine_while_slices_are_taken() {
    let data = tempfile::tempdir().unwrap();
    let settings: Vec<&str> = SETTINGS.into_iter().filter(|setting| *setting != "pruner.incremental=off").collect();
    let deleted = |status: &Value| status["pruner"]["incremental"]["deleted_total"].as_u64().unwrap();
    for seed in ["6", "7", "8"] {
        let node = Node::start(data.path(), &settings);
        let load = Load::on(&node, "tables", seed);
        node.until("slices", |status| deleted(status) >= 50);
        node.kill();
        drop(load);
        verified(data.path());
    }
    let node = Node::start(data.path(), &settings);
    let status = node.cycle();
    assert_eq!((status["verdict"].as_str(), status["pruner"]["cycles_failed"].as_u64()), (Some("healthy"), Some(0)));
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{log}");
    assert_eq!(verified(data.path())["leaked_nodes"], 0);
}

#[test]
fn sigterm_and_sigint_end_a_node_cleanly_in_the_middle_of_a_cycle() {
    for signal in [Signal::TERM, Signal::INT] {
        let data = tempfile::tempdir().unwrap();
        let node = Node::start(data.path(), &[&SETTINGS[..], &[SLOW]].concat());
        let load = Load::on(&node, "tables", "4");
        orders(&node, 60);
        assert!(node.prune("run"));
        node.until("a running cycle", |status| {
            status["pruner"]["running"] == true || status["pruner"]["cycles_finished"].as_u64().unwrap() > 0
        });
        let (ended, log) = node.stop(signal);
        drop(load);
        assert!(ended.success(), "{signal:?}: {ended:?}\n{log}");
        assert!(log.contains("stopping"), "{log}");
        verified(data.path());
        let node = Node::start(data.path(), &SETTINGS);
        let status = node.cycle();
        assert_eq!(status["pruner"]["cycles_failed"], 0, "{}", node.log());
    }
}
