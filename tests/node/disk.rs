//! C12, C13, life cycle row 12 with the real process: its data lie on a device that is really full before a cycle, while one
//! sweeps, after the last delete, and between cycles. The node refuses what it cannot write and answers everything else,
//! health names the cause, the room of the reserve lets a cycle free space, and once there is room nothing is lost and
//! nothing left behind.

use std::{path::Path, time::Duration};

use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use state_pruner::{Clock, SystemClock};
use state_tests::{
    device::Device,
    node::{Node, proven},
};

use crate::{
    kill::{hold_where, verified, verified_window},
    load::key,
};

/// Room for the reserve twice, as it is taken, beside the log of the engine, which takes 70 MiB at once.
const DEVICE_MIB: u32 = 384;

const SETTINGS: [&str; 11] = [
    "pruner.incremental=off",
    "chain.block_interval=10ms",
    "chain.keep_blocks=20",
    "pruner.keep_last=20",
    "pruner.every_orders=1000000", // cycles begin when the test says so
    "pruner.garbage_ratio=none",
    "pruner.verify_sample=100",
    "pruner.io_limit=8 MiB", // slow enough to be caught in its sweep
    "pruner.recovery.base_retry_delay_ms=200",
    "pruner.recovery.max_retry_delay_ms=500",
    "pruner.recovery.max_phase_retries=100", // a phase waits for room as long as the test keeps the device full
];

/// Objects with long values, for bytes, and one with many fields, for nodes.
const LONG: u8 = 8;
const LONG_BYTES: usize = 64 << 10;
const FIELDS: u8 = 128;
/// Orders that make enough of both.
const ORDERS: u64 = 50;
/// More than the engine takes into its memory before it wants a new file.
const MOST_SUBMISSIONS: u64 = 400;

/// The longest wait for commits to go on.
const PATIENCE: Duration = Duration::from_secs(60);

fn name(n: u8) -> String {
    hex::encode([n; 32])
}

/// A state that each transaction replaces whole, and what of it is acknowledged.
struct State {
    version: u64,
    acknowledged: u64,
}

impl State {
    /// Makes the objects.
    fn on(node: &Node) -> Self {
        let create = |n| json!({ "create_object": { "id": name(n), "owner": name(0), "value": "00" } });
        let created = node.post("/v1/transactions", &json!((0..=LONG).map(create).collect::<Vec<_>>()));
        assert!(created.status().is_success(), "{}", created.text().unwrap());
        let mut state = Self { version: 0, acknowledged: 0 };
        state.grow(node, 1);
        state
    }

    /// The value that an object has in a version: nothing to compress.
    fn value(n: u8, version: u64) -> String {
        let mut bytes = vec![0; LONG_BYTES];
        ChaCha8Rng::seed_from_u64(version << 8 | u64::from(n)).fill_bytes(&mut bytes);
        hex::encode(bytes)
    }

    /// Replaces everything; the error, if the node refuses.
    fn replace(&mut self, node: &Node) -> Result<(), (StatusCode, Value)> {
        self.version += 1;
        let set = |n| json!({ "set_value": { "id": name(n), "value": Self::value(n, self.version) } });
        let field = |n: u8| json!([name(n), hex::encode(self.version.to_be_bytes())]);
        let put = (1..=FIELDS).map(field).collect::<Vec<_>>();
        let fields = json!({ "set_fields": { "id": name(0), "put": put, "remove": [] } });
        let all = (1..=LONG).map(set).chain([fields]).collect::<Vec<_>>();
        let answer = node.post("/v1/transactions", &json!(all));
        let (status, answer) = (answer.status(), answer.json::<Value>().unwrap());
        if !status.is_success() {
            return Err((status, answer["error"].clone()));
        }
        self.acknowledged = self.version;
        Ok(())
    }

    fn grow(&mut self, node: &Node, orders: u64) {
        (0..orders).for_each(|_| self.replace(node).unwrap());
    }

    /// What was acknowledged is there, and what was refused is not.
    fn is_there(&self, node: &Node) {
        for n in [1, LONG] {
            let read = node.get(&format!("/v1/objects/{}?proof=true", name(n)));
            let value = Self::value(n, self.acknowledged);
            assert!(read["object"]["value"] == value.as_str(), "object {n} is not of version {}", self.acknowledged);
            let proven = proven(&read["proof"], &[key(&name(n))]).map(|object| hex::encode(object.value));
            assert!(proven == Some(value), "the proof of object {n} shows something else");
        }
    }

    /// Submits until nothing can be written any more, by nobody: the reserve is let go, and its room is taken.
    fn until_refused(&mut self, node: &Node, device: &Device) {
        for _ in 0..MOST_SUBMISSIONS {
            device.fill_to(0);
            let Err((status, error)) = self.replace(node) else { continue };
            assert_eq!((status, &error["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("disk_full")), "{error}");
            if node.status()["pruner"]["reserve"]["kept"] == false && device.free() == 0 {
                return;
            }
        }
        panic!("the device is full, and the node still writes: {:#}\n{}", node.status(), node.log());
    }

    /// Submits until the node commits again: the engine looks for room by itself every few seconds.
    fn until_committed(&mut self, node: &Node) {
        let clock = SystemClock::new();
        while let Err((_, error)) = self.replace(node) {
            assert!(clock.monotonic() < PATIENCE, "there is room, and commits fail: {error}\n{}", node.log());
        }
    }
}

/// The reasons of a node that is degraded, with their messages.
fn reasons(node: &Node) -> Vec<(String, String)> {
    let health = node.get("/healthz");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let reasons = health["reasons"].as_array().unwrap().iter();
    reasons.map(|reason| (text(&reason["code"]), text(&reason["message"]))).collect()
}

fn has(reasons: &[(String, String)], code: &str, words: &str) -> bool {
    reasons.iter().any(|(known, message)| known == code && message.contains(words))
}

/// Everything that needs no room is answered, and health says what is wrong.
fn serves(node: &Node, state: &State) {
    let status = node.status();
    assert_eq!(status["verdict"], "degraded", "{status:#}");
    assert_eq!(node.get("/v1/blocks/head")["height"], status["head"]["order"]);
    state.is_there(node);
    let reasons = reasons(node);
    assert!(has(&reasons, "commits_failing", "the disk is full"), "{reasons:#?}");
    assert!(has(&reasons, "reserve_released", "make room"), "{reasons:#?}");
}

/// The node is as if nothing had happened, and so is its store.
fn recovered(node: Node, state: &State, data: &Path) {
    ends_healthy(node, state);
    assert_eq!(verified(data)["leaked_nodes"], 0, "a cycle without commits leaves nothing behind");
}

/// The node is as if nothing had happened.
fn ends_healthy(node: Node, state: &State) {
    let status = node.until("health", |status| status["verdict"] == "healthy");
    assert_eq!(status["pruner"]["reserve"]["kept"], true, "{status:#}");
    state.is_there(&node);
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{log}");
}

/// When the device fills up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// No cycle runs.
    Before,
    /// A cycle has deleted some nodes, and has others to delete.
    Sweeping,
    /// A cycle has deleted its last node, and gives space back.
    Swept,
}

impl Moment {
    fn sweep(self) -> &'static str {
        match self {
            Self::Before => "pruner.sweep=auto",
            Self::Sweeping | Self::Swept => "pruner.sweep=delete",
        }
    }

    /// Whether a cycle that holds is at this moment.
    fn is_now(self, pruner: &Value) -> bool {
        let (progress, is_sweeping) = (&pruner["progress"], pruner["phase"] == "sweep_expired");
        let share = progress["share"].as_f64().filter(|_| is_sweeping && progress["stage"] == "sweep");
        match self {
            Self::Before => false,
            Self::Sweeping => share.is_some_and(|share| 0.0 < share && share < 1.0),
            Self::Swept => share == Some(1.0) || is_sweeping && progress["stage"] == "reclaim",
        }
    }
}

/// A cycle is asked for, or goes on, while the device is full.
fn meets_the_full_device(node: &Node, moment: Moment) {
    match moment {
        Moment::Before => {
            let refused: Value = node.post("/v1/prune/run", &Value::Null).json().unwrap();
            assert_eq!(refused["error"]["code"], "disk_full", "a request that cannot be written down: {refused}");
            assert_eq!(node.status()["pruner"]["triggers"]["requested"], false);
        }
        Moment::Sweeping | Moment::Swept => {
            assert!(node.prune("resume"));
            let retries = |status: &Value| status["pruner"]["recovery"]["retries_total"].as_u64().unwrap();
            node.until("a sweep that waits for room", |status| retries(status) > 1);
            let status = node.status();
            assert_eq!(status["pruner"]["running"], true, "{status:#}");
            let attempt = &status["pruner"]["recovery"]["attempts"][0];
            assert_eq!((&attempt["came"], &attempt["phase"]), (&json!("awaited_room"), &json!("sweep_expired")));
        }
    }
}

fn fills_up(moment: Moment) {
    let Some(device) = Device::mount(&format!("a node whose device fills up: {moment:?}"), DEVICE_MIB) else { return };
    let data = device.path().join("node");
    let node = Node::start(&data, &[&SETTINGS[..], &[moment.sweep()]].concat());
    let mut state = State::on(&node);
    state.grow(&node, ORDERS);
    if moment != Moment::Before {
        assert!(hold_where(&node, |pruner| moment.is_now(pruner)), "{moment:?}: it was faster than we\n{}", node.log());
    }
    state.until_refused(&node, &device);
    serves(&node, &state);
    meets_the_full_device(&node, moment);
    serves(&node, &state);

    device.empty();
    state.until_committed(&node);
    let pruner = &node.cycle()["pruner"];
    let ended = (pruner["cycles_finished"].as_u64(), pruner["cycles_failed"].as_u64());
    let expected = match moment {
        Moment::Before => (Some(1), Some(0)), // none began while nothing could be written
        Moment::Sweeping | Moment::Swept => (Some(2), Some(0)), // the one that waited for room, and the next one
    };
    assert_eq!(ended, expected, "{moment:?}: {pruner:#}\n{}", node.log());
    recovered(node, &state, &data);
}

#[test]
fn a_node_whose_device_is_full_before_a_cycle_serves_and_goes_on_once_there_is_room() {
    fills_up(Moment::Before);
}

#[test]
fn a_node_whose_device_fills_up_in_a_sweep_serves_and_the_sweep_goes_on_once_there_is_room() {
    fills_up(Moment::Sweeping);
}

#[test]
fn a_node_whose_device_fills_up_after_the_last_delete_serves_and_its_cycle_ends_once_there_is_room() {
    fills_up(Moment::Swept);
}

/// Less than marking and sweeping want.
const NEARLY_FULL: u64 = 1 << 20;

#[test]
fn a_node_on_a_device_that_is_nearly_full_frees_space_with_the_room_of_its_reserve() {
    let Some(device) = Device::mount("a node on a nearly full device", DEVICE_MIB) else { return };
    let data = device.path().join("node");
    let node = Node::start(&data, &SETTINGS);
    let mut state = State::on(&node);
    state.grow(&node, ORDERS);
    let (ended, log) = node.stop(Signal::TERM); // what it made is in files then
    assert!(ended.success(), "{log}");

    let node = Node::start(&data, &SETTINGS);
    let taken = |status: &Value| status["space"]["blobs"].as_u64().unwrap();
    let before = node.until("the reserve", |status| status["pruner"]["reserve"]["kept"] == true);
    device.fill_to(NEARLY_FULL);
    let status = node.cycle();
    assert!(taken(&status) < taken(&before) * 3 / 4, "{} bytes became {}", taken(&before), taken(&status));
    assert_eq!((&status["pruner"]["reserve"]["kept"], &status["verdict"]), (&json!(false), &json!("degraded")));
    let reasons = reasons(&node);
    assert!(has(&reasons, "reserve_released", "make room"), "{reasons:#?}");
    state.grow(&node, 1);
    state.is_there(&node);

    device.empty();
    let status = node.cycle();
    assert_eq!(status["pruner"]["cycles_failed"], 0, "{status:#}\n{}", node.log());
    recovered(node, &state, &data);
}

/// Opening the store writes, too.
#[test]
fn a_node_that_died_on_a_full_device_starts_with_the_room_of_its_reserve() {
    let Some(device) = Device::mount("a node that died on a full device", DEVICE_MIB) else { return };
    let data = device.path().join("node");
    let node = Node::start(&data, &SETTINGS);
    let mut state = State::on(&node);
    state.grow(&node, 5);
    node.until("the reserve", |status| status["pruner"]["reserve"]["kept"] == true);
    node.kill();
    device.fill_to(0);

    let node = Node::start(&data, &SETTINGS);
    let reasons = reasons(&node);
    assert!(has(&reasons, "reserve_released", "was let go"), "{reasons:#?}");
    state.is_there(&node);
    device.empty();
    state.until_committed(&node);
    let let_go = node.until_told("reserve_let_go");
    assert_eq!(let_go["data"]["bytes"], 96 << 20, "{let_go:#}");
    node.cycle();
    recovered(node, &state, &data);
}

/// A round begins at every sixteenth order, so a chain that stops in between owes one, which comes without a commit.
const WINDOW: u64 = 256;
/// A chain that stops owes no round about every sixteenth time.
const MOST_STOPS: usize = 3;

const BETWEEN_CYCLES: [&str; 7] = [
    "chain.block_interval=10ms",
    "chain.keep_blocks=256",
    "pruner.keep_last=256",
    "pruner.every_orders=1000000", // but for the first cycle, which a full window makes due, they begin when the test says so
    "pruner.jitter=0",
    "pruner.garbage_ratio=none",
    "pruner.verify_sample=100",
];

fn incremental(status: &Value) -> &Value {
    &status["pruner"]["incremental"]
}

fn deleted(status: &Value) -> u64 {
    incremental(status)["deleted_total"].as_u64().unwrap()
}

fn has_failed(status: &Value) -> bool {
    !incremental(status)["failure"].is_null()
}

/// Whether the floor is where the window wants it.
fn is_at_the_window(status: &Value) -> bool {
    status["floor"].as_u64().unwrap() + WINDOW == status["head"]["order"].as_u64().unwrap() + 1
}

/// Commits so many orders of a few bytes each.
fn light_orders(node: &Node, orders: u64) {
    for n in 0..orders {
        let put = [json!([name(1), hex::encode(n.to_be_bytes())])];
        node.submit(&json!({ "set_fields": { "id": name(0), "put": put, "remove": [] } }));
    }
}

/// Fills the device until a round, too, finds no room.
fn until_a_round_fails(node: &Node, device: &Device, state: &mut State) {
    for _ in 0..MOST_STOPS {
        state.until_refused(node, device);
        let status = node.until("a round, if one is owed", |status| has_failed(status) || is_at_the_window(status));
        if has_failed(&status) {
            return;
        }
        device.empty();
        state.until_committed(node);
    }
    panic!("the device is full, and no round has met that: {:#}\n{}", node.status(), node.log());
}

#[test]
fn a_node_whose_device_fills_up_between_cycles_serves_and_its_rounds_go_on_once_there_is_room() {
    let Some(device) = Device::mount("a node whose device fills up between cycles", DEVICE_MIB) else { return };
    let data = device.path().join("node");
    let node = Node::start(&data, &BETWEEN_CYCLES);
    let mut state = State::on(&node);
    light_orders(&node, WINDOW + ORDERS);
    node.until("rounds", |status| deleted(status) > 0);
    until_a_round_fails(&node, &device, &mut state);
    serves(&node, &state);
    let reasons = reasons(&node);
    assert!(has(&reasons, "incremental_failed", "the disk is full"), "{reasons:#?}");
    let before = node.status();
    assert!(before["pruner"]["frozen"].is_null(), "{before:#}");

    device.empty();
    state.until_committed(&node);
    let status = node.until("rounds that go on", |status| {
        let has_done_all = is_at_the_window(status) && incremental(status)["lag_nodes"] == 0;
        has_done_all && !has_failed(status) && deleted(status) > deleted(&before)
    });
    assert_eq!(status["pruner"]["cycles_finished"], 1, "but the first one no cycle was needed: {status:#}");
    state.is_there(&node);
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{log}");
    verified_window(&data, WINDOW);

    let node = Node::start(&data, &BETWEEN_CYCLES);
    let status = node.cycle();
    assert_eq!(status["pruner"]["cycles_failed"], 0, "{status:#}\n{}", node.log());
    ends_healthy(node, &state);
    assert_eq!(verified_window(&data, WINDOW)["leaked_nodes"], 0, "a cycle without commits leaves nothing behind");
}
