//! Clients that hold connections and ask for nothing, on the real binary: an engine that is not let open a file stops for good,
//! so none may be taken from it.

use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::json;
use state_tests::node::Node;

use crate::kill::SETTINGS;

fn held(node: &Node, connections: usize) -> Vec<TcpStream> {
    let address = node.url().strip_prefix("http://").unwrap();
    (0..connections).map(|_| TcpStream::connect(address).unwrap()).collect()
}

/// Commits, and a cycle that flushes and rewrites files.
fn works(node: &Node) {
    for number in 1..=30_u8 {
        let create =
            json!({ "create_object": { "id": hex::encode([number; 32]), "owner": "00".repeat(32), "value": "01" } });
        node.submit(&create);
    }
    let status = node.cycle();
    assert_eq!((status["verdict"].as_str(), status["pruner"]["cycles_failed"].as_u64()), (Some("healthy"), Some(0)));
}

fn ends(node: Node) {
    let (ended, log) = node.stop(Signal::TERM);
    assert!(ended.success(), "{ended}\n{log}");
    assert!(!log.contains("Too many open files"), "{log}");
}

#[test]
fn a_node_that_began_with_few_open_files_has_more_and_works_beside_connections_that_ask_for_nothing() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::limited(data.path(), &SETTINGS, "-S -n 128");
    let held = held(&node, 300);
    works(&node);
    drop(held);
    ends(node);
}

#[test]
fn a_node_that_may_open_few_files_says_so_and_gives_none_of_them_to_connections_beyond_its_bound() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::limited(data.path(), &SETTINGS, "-n 900");
    let held = held(&node, 900 - 512 - 256 + 16); // few enough for the system to keep those that wait
    node.until_logged("further ones wait until one ends");
    drop(held);
    works(&node);
    assert!(node.log().contains("open few files"), "{}", node.log());
    ends(node);
}
