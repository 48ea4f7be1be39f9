//! How a chain embeds the pruner: a small chain of one's own that commits, prunes, goes back and stops.
//!
//! README.md shows `start.rs` and docs/embedding.md `node.rs`, so what they show compiles and runs.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod node;
mod start;

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use state_pruner::{
    Command, KeepPolicy, NewPin, Reply, Trigger, Verdict,
    events::{Event, EventSink, Filter, RunEnd},
};
use state_store::{Durability, StoreError};
use state_tree::{Change, Changes, FieldsBase, Key, Object, ObjectId, Order, Put, TypeTag, get};

use node::Node;
use start::{Block, Reader, commit, open};

/// A few objects that every block writes again.
fn block(number: u64) -> Block {
    let put = |index: u8| {
        let object = Object {
            id: ObjectId::single([index; 32]),
            owner: [0; 32],
            flag: 0,
            created_at: 0,
            updated_at: number,
            object_type: TypeTag::U64,
            value: number.to_le_bytes().to_vec(),
        };
        let put = Put { object: Some(object), base: FieldsBase::Keep, fields: Changes::default() };
        (Key::new([index; 32]), Change::Put(put))
    };
    Block { timestamp_ms: 1000 * number, hash: [0; 32], changes: Changes((0..20).map(put).collect()) }
}

/// Hands on what happens.
#[derive(Debug)]
struct Told(std::sync::mpsc::Sender<Event>);

impl EventSink for Told {
    fn emit(&self, event: Event) {
        self.0.send(event).unwrap();
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

fn window(orders: u64) -> NonZeroU64 {
    NonZeroU64::new(orders).unwrap()
}

#[test]
fn a_small_chain_that_embeds_the_pruner_commits_prunes_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, told) = std::sync::mpsc::channel();
    let (store, pruner) = open(dir.path(), window(8), Arc::new(Told(sender))).unwrap();
    for number in 0..60 {
        assert_eq!(commit(&store, &pruner, &block(number)).unwrap().order, Order::new(number));
    }
    assert!(matches!(pruner.command(Command::Run), Reply::Accepted | Reply::FollowUp));
    let asked_for = |event| matches!(event, Event::RunEnded(RunEnd { trigger: Trigger::Operator, .. }));
    while !asked_for(told.recv_timeout(PATIENCE).unwrap()) {}
    pruner.stop_within(PATIENCE).unwrap();

    let root = store.root(Order::new(59)).unwrap();
    let object = get(root, &[Key::new([3; 32])], &Reader(store.view().unwrap())).unwrap().unwrap();
    assert_eq!(object.value, 59u64.to_le_bytes(), "what is retained is whole");
    assert!(matches!(store.root(Order::new(51)), Err(StoreError::Pruned { .. })));
    assert!(store.root(Order::new(52)).is_ok(), "the last eight are retained");
    let certificates = std::fs::read_dir(dir.path().join("pruner").join("certificates")).unwrap();
    assert!(certificates.count() > 0, "the cycle left a certificate");
}

#[test]
fn an_embedding_node_keeps_its_pins_goes_back_and_writes_down_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let keep = KeepPolicy { every: Some(window(20)), ..KeepPolicy::last(window(8)) };
    let node = Node::open(dir.path(), keep).unwrap();
    for number in 0..60 {
        commit(&node.store, &node.pruner, &block(number)).unwrap();
        if number == 15 {
            let pin = NewPin { name: "audit".into(), owner: "me".into(), order: Order::new(15), ttl: None };
            node.retention.add_pin(pin).unwrap();
        }
    }
    node.rollback(Order::new(55)).unwrap();
    assert_eq!(commit(&node.store, &node.pruner, &block(60)).unwrap().order, Order::new(56));
    assert_ne!(node.health().verdict, Verdict::Critical, "{:?}", node.health());
    let (store, retention, events) = (Arc::clone(&node.store), Arc::clone(&node.retention), Arc::clone(&node.events));
    node.stop(PATIENCE).unwrap();
    retention.advance_under(Durability::Synced).unwrap(); // as far as the pruner has not come
    for order in [15, 20, 40, 52, 56] {
        assert!(store.root(Order::new(order)).is_ok(), "{order}");
    }
    assert!(matches!(store.root(Order::new(30)), Err(StoreError::Pruned { .. })));
    let read = events.read(&Filter::default()).unwrap();
    let happened: Vec<&str> = read.events.iter().map(|entry| entry.code.as_str()).collect();
    for code in ["pin_added", "rolled_back", "stopped"] {
        assert!(happened.contains(&code), "{code}: {happened:?}");
    }
}

/// The first Rust block of a document.
fn first_block(document: &str) -> &str {
    document.split_once("```rust\n").unwrap().1.split_once("```").unwrap().0
}

/// A file without its header.
fn body(file: &str) -> &str {
    file.split_once("\n\n").unwrap().1
}

#[test]
fn the_documents_show_the_example_of_embedding_that_runs() {
    let readme = include_str!("../../../../README.md");
    let embedding = include_str!("../../../../docs/embedding.md");
    assert_eq!(first_block(readme), body(include_str!("start.rs")), "README.md shows start.rs");
    assert_eq!(first_block(embedding), body(include_str!("node.rs")), "docs/embedding.md shows node.rs");
    for document in [readme, embedding] {
        assert_eq!(document.matches("```rust").count(), 1, "one block, which is compiled");
    }
}
