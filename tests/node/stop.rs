//! The end of the real binary on a signal: in order whatever clients and reads hang on it, also while it opens, and at once
//! when it is told twice. What hangs is a file that is no file: a pipe whose other end the test holds.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use serde_json::{Value, json};
use state_tests::node::{self, Load, Node};

use crate::kill::{Acknowledged, SETTINGS, SLOW, hold_in, verified};

/// The exit code of a process that was told twice.
const TOLD_TWICE: i32 = 130;
/// What is logged before the disk hangs.
const IS_FLUSHING: &str = "stopping: the store is flushed";
/// More than the files that the engine makes before it waits for one of them.
const NEXT_FILES: u64 = 64;
/// Longer than the header of a journal, shorter than any journal.
const BEGINNING: usize = 64;

fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

fn journal(data: &Path) -> PathBuf {
    data.join("events/journal.events")
}

/// Code and outcome of each event, the oldest first.
fn told(data: &Path) -> Vec<(String, Option<String>)> {
    let (code, read) = node::json(&["journal", "show", "--state-dir", &data.display().to_string()]);
    assert_eq!((code, &read["damaged"], &read["torn_bytes"]), (0, &json!(0), &json!(0)), "{read}");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let events = read["events"].as_array().unwrap().iter();
    events.map(|event| (text(&event["code"]).unwrap(), text(&event["data"]["outcome"]))).collect()
}

fn acknowledged(node: &Node) -> Acknowledged {
    let (id, value) = (hex::encode([77; 32]), hex::encode([7]));
    let create = json!({ "create_object": { "id": id, "owner": "00".repeat(32), "value": value } });
    Acknowledged { order: node.submit(&create), id, value }
}

/// A file that hangs whoever reads it.
pub(crate) struct HungFile {
    aside: PathBuf,
    at: PathBuf,
}

impl HungFile {
    fn journal(data: &Path) -> Self {
        Self::at(journal(data), data.join("journal.aside"))
    }

    /// Puts a pipe in the place of a file; whoever has it open goes on with the file, which lies aside.
    pub(crate) fn at(at: PathBuf, aside: PathBuf) -> Self {
        let hung = Self { aside, at };
        fs::rename(&hung.at, &hung.aside).unwrap();
        pipe(&hung.at);
        hung
    }

    /// Returns when somebody reads; who waits until the returned end is dropped.
    pub(crate) fn held(&self) -> File {
        File::options().write(true).open(&self.at).unwrap()
    }

    /// Puts the file back in its place.
    pub(crate) fn put_back(self) {
        fs::rename(&self.aside, &self.at).unwrap();
    }
}

/// A client that begins a request and never ends it.
fn half_a_request(node: &Node) -> TcpStream {
    let mut client = TcpStream::connect(node.url().strip_prefix("http://").unwrap()).unwrap();
    client.write_all(b"POST /v1/transactions HTTP/1.1\r\nHost: node\r\nContent-Length: 9\r\n\r\n{").unwrap();
    client
}

/// A node with a cycle that holds in its sweep.
fn sweeping(data: &Path) -> Node {
    let node = Node::start(data, &[&SETTINGS[..], &[SLOW]].concat());
    let load = Load::on(&node, "tables", "21");
    let caught = (1..=20u64).any(|attempt| {
        node.until("orders", |status| status["head"]["order"].as_u64().unwrap() >= 40 * attempt);
        hold_in(&node, "sweep_expired")
    });
    assert!(caught, "no cycle was ever caught in its sweep");
    drop(load);
    node
}

#[test]
fn a_node_ends_in_order_beside_a_request_a_stream_and_a_read_that_never_end() {
    let data = tempfile::tempdir().unwrap();
    let node = sweeping(data.path());
    let acknowledged = acknowledged(&node);
    let request = half_a_request(&node);
    let stream = node.ask("/v1/events/stream?after=0"); // and is not read
    let hung = HungFile::journal(data.path());
    let url = format!("{}/v1/events", node.url());
    let asking = thread::Builder::new().spawn(move || reqwest::blocking::get(url).is_ok()).unwrap();
    let read = hung.held();
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{ended}\n{log}");
    assert!(!asking.join().unwrap(), "a read that never ended was answered");
    hung.put_back();
    drop((request, stream, read));

    let told = told(data.path());
    let begun = told.iter().rposition(|(code, _)| code == "cycle_begun").unwrap();
    let ends =
        |(code, outcome): &&(String, Option<String>)| code == "cycle_ended" && outcome.as_deref() == Some("stopped");
    assert!(told[begun..].iter().any(|event| ends(&event)), "the pruner ended before the journal: {told:?}\n{log}");
    assert_eq!(told.last().map(|(code, _)| code.as_str()), Some("stopped"), "{told:?}");
    verified(data.path());
    let node = Node::start(data.path(), &SETTINGS);
    acknowledged.is_there(&node);
    let status = node.cycle();
    assert_eq!(status["pruner"]["cycles_failed"], 0, "{}", node.log());
}

/// Whatever file the engine makes next hangs it for ever.
fn hang_the_next_files(store: &Path) {
    let names = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let numbers = names.filter_map(|name| {
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        (!digits.is_empty()).then(|| digits.parse::<u64>().unwrap())
    });
    let newest = numbers.max().unwrap();
    (newest + 1..newest + NEXT_FILES).for_each(|number| pipe(&store.join(format!("{number:06}.sst"))));
}

fn let_go_of_files(store: &Path) {
    let entries = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let pipes = entries.filter(|path| std::os::unix::fs::FileTypeExt::is_fifo(&path.metadata().unwrap().file_type()));
    pipes.for_each(|path| fs::remove_file(path).unwrap());
}

/// The engine waits for its threads wherever its own end is reached, so a process that ran its exit handlers would never end.
#[test]
fn a_second_signal_ends_a_node_at_once_whose_disk_hangs() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path(), &SETTINGS);
    let acknowledged = acknowledged(&node);
    let store = data.path().join("store");
    hang_the_next_files(&store);
    node.signal(Signal::TERM);
    node.until_logged(IS_FLUSHING);
    let (ended, log) = node.insist(Signal::TERM);
    assert_eq!(ended.code(), Some(TOLD_TWICE), "{ended}\n{log}");
    let_go_of_files(&store);
    acknowledged.is_there(&Node::start(data.path(), &SETTINGS));
}

/// So do `timeout` and others that tell a process and then its group. Both come at once, whatever the machine is at; but one
/// that keeps the node from a processor between its two handlers makes two moments of it, now and then.
#[test]
fn a_node_that_is_told_twice_in_one_moment_ends_in_order() {
    let data = tempfile::tempdir().unwrap();
    let ends_in_order = || {
        let node = Node::start(data.path(), &SETTINGS);
        node.suspend();
        [Signal::TERM, Signal::INT, Signal::CONT].into_iter().for_each(|signal| node.signal(signal));
        let (ended, log) = node.wait();
        assert!(ended.success() || ended.code() == Some(TOLD_TWICE), "{ended}\n{log}");
        ended.success()
    };
    assert!((0..5).any(|_| ends_in_order()), "each time it took them for somebody who has waited");
}

/// Nobody tells it twice: it waits as long as it may, says what for, and is no node that ended in order.
#[test]
fn a_node_whose_disk_hangs_ends_without_it_when_its_time_is_over_and_says_so() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path(), &[&SETTINGS[..], &["node.stop_timeout=10s"]].concat());
    let acknowledged = acknowledged(&node);
    let store = data.path().join("store");
    hang_the_next_files(&store);
    let (ended, log) = node.stop(Signal::TERM);
    assert_eq!(ended.code(), Some(1), "{ended}\n{log}");
    assert!(log.contains("has not ended within 10s") && log.contains("waits for the flush of the store"), "{log}");
    let told = told(data.path());
    assert!(told.iter().all(|(code, _)| code != "stopped"), "an end in order is claimed: {told:?}");
    let_go_of_files(&store);
    acknowledged.is_there(&Node::start(data.path(), &SETTINGS));
}

/// A node with a journal of an earlier run, held while it opens that.
fn opening(data: &Path) -> (Node, HungFile, File) {
    let (ended, log) = Node::start(data, &SETTINGS).stop(Signal::TERM);
    assert!(ended.success(), "{log}");
    let hung = HungFile::journal(data);
    let node = Node::held(data, &SETTINGS);
    let held = hung.held();
    (node, hung, held)
}

const CLOSES_AGAIN: &str = "told to stop while the node opens";

#[test]
fn a_signal_while_a_node_opens_ends_it_in_order() {
    let data = tempfile::tempdir().unwrap();
    let (node, hung, mut held) = opening(data.path());
    node.signal(Signal::TERM);
    node.until_logged(CLOSES_AGAIN);
    let mut beginning = [0; BEGINNING];
    File::open(&hung.aside).unwrap().read_exact(&mut beginning).unwrap();
    hung.put_back();
    held.write_all(&beginning).unwrap();
    drop(held);
    let (ended, log) = node.wait();
    assert!(ended.success(), "{ended}\n{log}");
    let told = told(data.path());
    let starts = told.iter().filter(|(code, _)| code == "started").count();
    assert_eq!((starts, told.last().map(|(code, _)| code.as_str())), (2, Some("stopped")), "{told:?}");
}

#[test]
fn a_second_signal_while_a_node_opens_ends_it_at_once() {
    let data = tempfile::tempdir().unwrap();
    let (node, hung, held) = opening(data.path());
    node.signal(Signal::TERM);
    node.until_logged(CLOSES_AGAIN);
    let (ended, log) = node.insist(Signal::INT);
    assert_eq!(ended.code(), Some(TOLD_TWICE), "{ended}\n{log}");
    hung.put_back();
    drop(held);
    assert!(Node::start(data.path(), &SETTINGS).stop(Signal::TERM).0.success());
}
