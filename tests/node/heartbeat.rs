//! O14: a store that is not read in time, here because its disk hangs, is told by the heartbeat of its node, whether that runs, has
//! ended or was killed; and by nothing else.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use serde_json::Value;
use state_store::lock_holder;
use state_tests::{
    folder,
    node::{self, Node},
};

const SETTINGS: [&str; 3] = ["chain.block_interval=5ms", "pruner.keep_last=5", "pruner.every_orders=1000000"];

/// A file of a store that nobody can read: whoever opens the store waits for ever. A node that has it open does not notice, and its
/// folder looks as it did before.
struct Hanging {
    file: PathBuf,
    away: PathBuf,
}

fn as_if_untouched(folder: &Path, act: impl FnOnce()) {
    let before = fs::metadata(folder).unwrap().modified().unwrap();
    act();
    File::open(folder).unwrap().set_modified(before).unwrap();
}

impl Hanging {
    /// The list of files.
    fn of(store: &Path) -> Self {
        Self::at(store.join(fs::read_to_string(store.join("CURRENT")).unwrap().trim_end()))
    }

    fn at(file: PathBuf) -> Self {
        let store = file.parent().unwrap();
        let away = store.with_file_name("away");
        as_if_untouched(store, || {
            fs::rename(&file, &away).unwrap();
            mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        });
        Self { file, away }
    }

    fn answers(self) {
        as_if_untouched(self.file.parent().unwrap(), || fs::rename(&self.away, &self.file).unwrap());
    }
}

struct Place {
    data: tempfile::TempDir,
}

impl Place {
    fn store(&self) -> PathBuf {
        self.data.path().join("store")
    }

    fn start(&self) -> Node {
        Node::start(self.data.path(), &SETTINGS)
    }

    fn told(&self, within: &str) -> (i32, Value) {
        node::json(&["health-check", "--db", &self.store().display().to_string(), "--within", within])
    }

    /// What the store itself tells.
    fn exactly(&self) -> (i32, Value) {
        node::json(&["health-check", "--db", &self.store().display().to_string()])
    }

    /// A node that has written a heartbeat, and whose disk hangs for whoever looks.
    fn beating(&self) -> (Node, Hanging) {
        let node = self.start();
        let heartbeat = self.store().with_added_extension("heartbeat");
        node.until("its heartbeat", |_| heartbeat.exists());
        (node, Hanging::of(&self.store()))
    }
}

fn by(health: &Value) -> &Value {
    let reasons = health["reasons"].as_array().unwrap_or_else(|| panic!("{health}"));
    let of_it = |reason: &&Value| reason["code"] == "by_heartbeat" || reason["code"] == "heartbeat_cut";
    reasons.iter().find(of_it).unwrap_or_else(|| panic!("{health}"))
}

#[test]
fn the_heartbeat_of_a_node_that_runs_tells_its_health_where_its_disk_hangs() {
    let place = Place { data: tempfile::tempdir().unwrap() };
    let (node, hanging) = place.beating();
    let (code, health) = place.told("1m");
    assert_eq!((code, by(&health)["code"].as_str()), (0, Some("by_heartbeat")), "{health}");
    let (code, unheard) = place.told("300ms");
    assert_eq!((code, unheard["error"]["code"].as_str()), (3, Some("timeout")), "it was not asked for: {unheard}");
    hanging.answers();
    let (code, health) = place.exactly();
    assert_eq!((code, health["reasons"].as_array().map(Vec::len)), (0, Some(0)), "the store itself: {health}");
    assert!(node.stop(Signal::TERM).0.success());
}

#[test]
fn the_last_heartbeat_of_a_node_that_has_ended_tells_the_health_of_its_store() {
    let place = Place { data: tempfile::tempdir().unwrap() };
    let node = place.start();
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{log}");
    let hanging = Hanging::of(&place.store());
    let (code, health) = place.told("1m");
    assert_eq!((code, by(&health)["code"].as_str()), (0, Some("by_heartbeat")), "{health}");
    hanging.answers();
    let link = place.data.path().join("link");
    std::os::unix::fs::symlink(place.store(), &link).unwrap();
    let hanging = Hanging::of(&place.store());
    let (code, health) = node::json(&["health-check", "--db", &link.display().to_string(), "--within", "1m"]);
    assert_eq!((code, by(&health)["code"].as_str()), (0, Some("by_heartbeat")), "where the link leads: {health}");
    hanging.answers();
}

#[test]
fn a_node_that_was_killed_is_told_by_its_heartbeat_with_what_that_does_not_know() {
    let place = Place { data: tempfile::tempdir().unwrap() };
    let (node, hanging) = place.beating();
    node.kill();
    let (code, health) = place.told("1m");
    assert_eq!((code, by(&health)["code"].as_str()), (1, Some("heartbeat_cut")), "{health}");
    hanging.answers();
    let node = place.start();
    assert!(node.stop(Signal::TERM).0.success());
    let hanging = Hanging::of(&place.store());
    assert_eq!(place.told("1m").0, 0, "the node has written its last one since");
    hanging.answers();
    fs::remove_file(place.store().with_added_extension("heartbeat")).unwrap();
    let hanging = Hanging::of(&place.store());
    let (code, told) = place.told("5s");
    assert_eq!((code, told["error"]["code"].as_str()), (3, Some("timeout")), "without one: {told}");
    let message = told["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("The heartbeat of its node does not count: there is none"), "{message}");
    hanging.answers();
}

/// S39: whoever has the store open now is not whoever wrote the heartbeat.
#[test]
fn a_node_that_was_killed_does_not_seem_to_run_while_the_next_one_opens_its_store() {
    let place = Place { data: tempfile::tempdir().unwrap() };
    let (node, hanging) = place.beating();
    hanging.answers();
    node.kill();
    let logs = folder::with_ending(&place.store(), "log");
    let hanging = Hanging::at(logs.into_iter().max().unwrap()); // read behind the lock
    let mut next = Node::held(place.data.path(), &SETTINGS);
    while lock_holder(&place.store()).unwrap().is_none() {
        assert!(next.ended().is_none(), "{}", next.log());
    }
    let (code, told) = place.told("5s");
    let is_cut = || code == 1 && by(&told)["code"] == "heartbeat_cut";
    assert!(code == 3 || is_cut(), "nobody is told that all is well, however long the next one took to begin: {told}");
    next.kill();
    hanging.answers();
}
