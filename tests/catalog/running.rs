//! Snapshots of a running node: made by the node, one at a time, with everything that was acknowledged.

use std::{ffi::OsStr, fs::File, os::unix::ffi::OsStrExt as _, path::Path, process::Command, thread};

use serde_json::{Value, json};
use state_tests::{
    folder,
    node::{self, Load, Node},
};

use crate::support::{id, staging};

const SETTINGS: [&str; 6] = [
    "chain.block_interval=10ms",
    "chain.durability=logged",
    "pruner.keep_last=20",
    "pruner.every_orders=200",
    "pruner.cooldown=1ms",
    "pruner.verify_sample=100",
];

/// Requests after which one that is tried again all the time has begun.
const ATTEMPTS: usize = 1000;

fn put(name: u64, value: &str) -> Value {
    json!({ "create_object": { "id": format!("{name:064x}"), "owner": "00".repeat(32), "value": hex::encode(value) } })
}

/// Makes a snapshot through the node, again while it is busy.
fn create(node: &Node, catalog: &Path) -> (Value, usize) {
    let words = ["snapshot", "create", "--url", node.url(), "--catalog", catalog.to_str().unwrap()];
    let mut refused = 0;
    loop {
        let (code, told) = node::json(&words);
        if code == 0 {
            return (told, refused);
        }
        assert_eq!(told["error"]["code"], "capture_busy", "{told:#}");
        refused += 1;
    }
}

#[test]
fn a_copy_made_while_the_chain_commits_has_every_order_acknowledged_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (data, catalog) = (dir.path().join("data"), dir.path().join("catalog"));
    let node = Node::start(&data, &[&SETTINGS[..], &["pruner.incremental=off"]].concat());
    let load = Load::on(&node, "mixed", "3");
    let mut made = Vec::new();
    for name in 0..4 {
        let acknowledged = node.submit(&put(1_000_000 + name, "acknowledged"));
        let (told, _) = create(&node, &catalog);
        assert!(told["manifest"]["state"]["head_order"].as_u64().unwrap() >= acknowledged, "{told:#}");
        assert_eq!(told["manifest"]["creator"]["through"], "node");
        made.push((id(&told), told["manifest"]["state"]["head_order"].as_u64().unwrap()));
    }
    drop(load);
    node.kill();
    for (number, (id, head)) in made.iter().enumerate() {
        let catalog = catalog.to_str().unwrap();
        let (code, verified) = node::json(&["snapshot", "verify", id, "--deep", "--catalog", catalog]);
        assert_eq!(code, 0, "{verified:#}");
        let to = dir.path().join(format!("restored-{number}"));
        std::fs::create_dir(&to).unwrap();
        let words = ["snapshot", "restore", id, "--to", to.join("store").to_str().unwrap(), "--catalog", catalog]
            .map(str::to_owned);
        let (code, restored) = node::json(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code, 0, "{restored:#}");
        let restored = Node::start(&to, &SETTINGS);
        assert!(restored.status()["head"]["order"].as_u64().unwrap() >= *head);
        let object = restored.get(&format!("/v1/objects/{:064x}", 1_000_000 + number));
        assert!(object.to_string().contains(&hex::encode("acknowledged")), "{object:#}");
    }
}

#[test]
fn five_processes_that_ask_one_node_all_get_their_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (data, catalog) = (dir.path().join("data"), dir.path().join("catalog"));
    let node = Node::start(&data, &SETTINGS);
    node.submit(&put(1, "one"));
    let refused: usize = thread::scope(|scope| {
        let asking: Vec<_> = (0..5).map(|_| scope.spawn(|| create(&node, &catalog).1)).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).sum()
    });
    println!("{refused} requests were told that the node was busy");
    let (code, listed) = node::json(&["snapshot", "list", "--catalog", catalog.to_str().unwrap()]);
    assert_eq!((code, listed["snapshots"].as_array().unwrap().len()), (0, 5), "{listed:#}");
}

#[test]
fn a_store_in_use_is_copied_by_its_node_only() {
    let dir = tempfile::tempdir().unwrap();
    let (data, catalog) = (dir.path().join("data"), dir.path().join("catalog"));
    let node = Node::start(&data, &SETTINGS);
    let (db, to) = (data.join("store"), catalog.to_str().unwrap());
    let (code, told) =
        node::json(&["snapshot", "create", "--db", db.to_str().unwrap(), "--layout", "native", "--catalog", to]);
    assert_eq!((code, told["error"]["code"].as_str()), (1, Some("in_use")), "{told:#}");
    let message = told["error"]["message"].as_str().unwrap();
    assert!(message.contains("(state-node)") && message.contains("--url"), "{message}");
    assert!(!catalog.exists(), "nothing was made");
    for (catalog, why) in
        [("relative/catalog", "absolute"), (db.join("inside").to_str().unwrap(), "inside the database")]
    {
        let refused = node.post("/v1/snapshots", &json!({ "catalog": catalog }));
        assert_eq!(refused.status(), 400);
        let told = refused.json::<Value>().unwrap();
        assert_eq!(told["error"]["code"], "bad_place");
        assert!(told["error"]["message"].as_str().unwrap().contains(why), "{told:#}");
    }
}

#[test]
fn a_catalog_whose_name_is_no_text_cannot_be_named_to_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("data"), &SETTINGS);
    let catalog = dir.path().join(OsStr::from_bytes(b"bad\xff"));
    let mut command = Command::new(node::binary());
    command.args(["snapshot", "create", "--json", "--url", node.url(), "--catalog"]).arg(&catalog);
    let output = command.output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), told["error"]["code"].as_str()), (Some(2), Some("usage")), "{told:#}");
    assert!(told["error"]["message"].as_str().unwrap().contains("no text") && !catalog.exists(), "{told:#}");
}

/// Whoever asks may be in another folder than the node.
#[test]
fn a_node_whose_data_lie_at_a_relative_path_names_them_by_an_absolute_one() {
    let dir = tempfile::tempdir().unwrap();
    let (here, data) = (std::env::current_dir().unwrap(), dir.path().canonicalize().unwrap().join("data"));
    let up = "../".repeat(here.components().count() - 1);
    let relative = format!("{up}{}", data.strip_prefix("/").unwrap().display());
    let node = Node::start(Path::new(&relative), &SETTINGS);
    node.submit(&put(1, "one"));
    node.stop(rustix::process::Signal::TERM);
    let node = Node::start(Path::new(&relative), &SETTINGS); // what was in its log is in tables now
    for table in folder::with_ending(&data.join("store"), "sst") {
        std::fs::remove_file(table).unwrap();
    }
    let refused = node.post("/v1/snapshots", &json!({ "catalog": dir.path().join("catalog") }));
    let told = refused.json::<Value>().unwrap();
    let message = told["error"]["message"].as_str().unwrap();
    let absolute = format!("{}/{relative}/store", here.display());
    assert!(message.contains(&absolute), "{told:#}");
    assert!(!message.replace(&absolute, "").contains(&relative), "{told:#}");
}

/// Its engine would take what is put there for its own: it goes on with its files by their names, also where they were removed.
#[test]
fn nothing_is_restored_into_the_store_of_a_running_node_nor_in_its_place_when_its_files_were_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (data, catalog) = (dir.path().canonicalize().unwrap().join("data"), dir.path().join("catalog"));
    let node = Node::start(&data, &SETTINGS);
    node.submit(&put(1, "one"));
    let (id, db) = (id(&create(&node, &catalog).0), data.join("store"));
    let restore = |to: &Path| {
        let (to, catalog) = (to.to_str().unwrap(), catalog.to_str().unwrap());
        let (code, told) = node::json(&["snapshot", "restore", &id, "--to", to, "--catalog", catalog]);
        (code, told["error"]["code"] == "bad_place", told["error"]["message"].as_str().unwrap_or("").to_owned())
    };
    for to in [db.join("below"), db.join("deep/below")] {
        let (code, is_place, told) = restore(&to);
        assert!(code == 1 && is_place && told.contains("inside the database"), "{told}");
        assert!(!to.exists() && !db.join("deep").exists(), "nothing was made");
    }
    assert!(restore(&db).2.contains("is not empty"));

    std::fs::remove_dir_all(&db).unwrap();
    for to in [db.clone(), db.join("below"), data.clone()] {
        let (code, is_place, told) = restore(&to);
        assert!(code == 1 && is_place && told.contains("(state-node)"), "{told}");
        assert!(told.contains(db.to_str().unwrap()) && told.contains("stop that process first"), "{told}");
    }
    node.kill();
    assert_eq!(restore(&db).0, 0, "nobody has it open any more");
}

/// Begins a snapshot that waits until the lock of the catalog is let go; returns once it has begun.
fn held_capture<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    node: &Node,
    catalog: &Path,
) -> (thread::ScopedJoinHandle<'scope, Option<Value>>, Value) {
    let (url, body) = (format!("{}/v1/snapshots", node.url()), json!({ "catalog": catalog }));
    let first = scope.spawn(move || {
        let client = reqwest::blocking::Client::builder().no_proxy().build().unwrap();
        loop {
            // A node that stops may close the connection.
            let Ok(answer) = client.post(&url).json(&body).send() else { return None };
            if answer.status() != 409 {
                return Some(answer.json().unwrap());
            }
        }
    });
    for _ in 0..ATTEMPTS {
        let second = node.post("/v1/snapshots", &json!({ "catalog": catalog.with_file_name("other") }));
        if second.status() == 409 {
            return (first, second.json().unwrap());
        }
        assert!(second.status().is_success(), "the first one had not begun");
    }
    panic!("{ATTEMPTS} snapshots were made while one was being made");
}

#[test]
fn a_second_capture_is_told_who_is_at_work_and_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (data, catalog) = (dir.path().join("data"), dir.path().join("catalog"));
    let node = Node::start(&data, &SETTINGS);
    node.submit(&put(1, "one"));
    create(&node, &catalog);
    let lock = File::open(catalog.join("catalog.lock")).unwrap();
    lock.lock().unwrap();
    thread::scope(|scope| {
        let (first, told) = held_capture(scope, &node, &catalog);
        assert_eq!(told["error"]["code"], "capture_busy");
        let message = told["error"]["message"].as_str().unwrap();
        let (capture, pid) = (told["error"]["capture"].as_str().unwrap(), told["error"]["pid"].as_u64().unwrap());
        assert!(message.starts_with(&format!("busy: capture {capture} by process {pid} since 20")), "{message}");
        drop(lock);
        assert_eq!(id(&first.join().unwrap().unwrap()), capture, "it was that one");
    });
    create(&node, &catalog);
}

#[test]
fn a_node_that_stops_ends_its_capture_and_leaves_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (data, catalog) = (dir.path().join("data"), dir.path().join("catalog"));
    let node = Node::start(&data, &SETTINGS);
    node.submit(&put(1, "one"));
    create(&node, &catalog);
    let lock = File::open(catalog.join("catalog.lock")).unwrap();
    lock.lock().unwrap();
    thread::scope(|scope| {
        let (first, _) = held_capture(scope, &node, &catalog);
        node.signal(rustix::process::Signal::TERM);
        node.until_logged("stopping: no copy is made any more");
        let (status, log) = node.wait(); // while the lock is held: the capture waits for it no longer
        assert!(status.success(), "{log}");
        let told = first.join().unwrap();
        assert!(told.is_none_or(|told| told["error"]["code"] == "stopped"), "it was not made");
    });
    drop(lock);
    let shown = ["journal", "show", "--state-dir", data.to_str().unwrap(), "--code", "catalog_snapshot_refused"];
    let (_, shown) = node::json(&shown);
    let told = &shown["events"].as_array().unwrap().last().unwrap()["data"];
    assert_eq!(told["error"], "stopped", "{told:#}");
    let message = told["message"].as_str().unwrap();
    assert!(message.starts_with("the node stopped before the copy was done; nothing is left"), "{message}");
    assert!(staging(&catalog).is_none());
    let (code, listed) = node::json(&["snapshot", "list", "--catalog", catalog.to_str().unwrap()]);
    assert_eq!((code, listed["snapshots"].as_array().unwrap().len()), (0, 1), "{listed:#}");
}
