//! What must hold of a store, against its archive.

use std::collections::{BTreeMap, BTreeSet};

use state_store::{Flow, KeyRange, Store, StoreError};
use state_tree::{Key, NodeHash, Order, StateRoot, get, prove};

use crate::{
    archive::orders,
    chain::{Chain, ViewReader},
};

/// Every node present, with its bytes; foreign keys left out.
pub fn nodes(store: &Store) -> BTreeMap<NodeHash, Vec<u8>> {
    let mut found = BTreeMap::new();
    let view = store.view().unwrap();
    view.scan_nodes(&KeyRange::ALL, &mut |key, value| {
        if let Ok(hash) = NodeHash::try_from(key) {
            found.insert(hash, value.to_vec());
        }
        Flow::Continue(())
    })
    .unwrap();
    found
}

/// The hash of every node present.
pub fn present(store: &Store) -> BTreeSet<NodeHash> {
    nodes(store).into_keys().collect()
}

/// The nodes that the readable orders of the store need, by the archive.
pub fn needed(chain: &Chain) -> BTreeSet<NodeHash> {
    chain.archive.live(orders(chain.floor(), chain.head()))
}

/// Every readable order has the root it was committed with, and every node below it with its bytes.
pub fn complete(chain: &Chain, context: &str) {
    for order in orders(chain.floor(), chain.head()) {
        match chain.store.root(order) {
            Err(StoreError::Pruned { .. }) if order < chain.floor() => {} // a pruner beside us has moved the floor
            root => assert_eq!(root.unwrap(), chain.archive.root(order), "{context}: root of order {order}"),
        }
    }
    let found = nodes(&chain.store);
    for hash in needed(chain) {
        let bytes = found.get(&hash);
        assert_eq!(bytes, Some(&chain.archive.bytes(&hash)), "{context}: live node {hash} is lost or changed");
    }
}

/// Exactly the nodes that the readable orders need are present.
pub fn exact(chain: &Chain, context: &str) {
    complete(chain, context);
    let leaked: Vec<NodeHash> = present(&chain.store).difference(&needed(chain)).copied().collect();
    assert!(leaked.is_empty(), "{context}: {} unreachable nodes are left, such as {:?}", leaked.len(), leaked.first());
}

/// Every path of every readable order is answered as the archive answers it, with a proof that verifies; an order
/// below the floor is refused as pruned, and one above the head as never committed.
pub fn alike(chain: &Chain, paths: &[Vec<Key>], context: &str) {
    let reader = ViewReader(chain.store.view().unwrap());
    let empty = |root: StateRoot| root.node().is_none();
    for order in orders(chain.floor(), chain.head()) {
        let root = chain.archive.root(order);
        for path in paths {
            let ours = get(root, path, &reader).unwrap_or_else(|error| panic!("{context}: order {order}: {error}"));
            let theirs = get(root, path, &*chain.archive).unwrap();
            assert_eq!(ours, theirs, "{context}: order {order}");
            let proof = prove(root, path, &reader).unwrap();
            assert_eq!(proof.verify(root, path).unwrap(), theirs, "{context}: proof at order {order}");
            assert!(!(empty(root) && theirs.is_some()));
        }
    }
    for below in orders(Order::GENESIS, chain.floor()).take_while(|order| *order < chain.floor()) {
        assert!(matches!(chain.store.root(below), Err(StoreError::Pruned { .. })), "{context}: order {below}");
    }
    let beyond = chain.head().next().unwrap();
    assert!(matches!(chain.store.root(beyond), Err(StoreError::NoSuchOrder { .. })), "{context}");
}
