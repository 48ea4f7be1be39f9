//! The archive: everything that was ever committed, in plain maps, and the live set by plain recursion.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::RwLock;
use state_tree::{Delta, NodeHash, NodeLayout, NodeReader, Order, RoochLayout, StateRoot};

/// A twin of a store that is never pruned.
#[derive(Debug, Default)]
pub struct Archive {
    nodes: RwLock<BTreeMap<NodeHash, Vec<u8>>>,
    roots: RwLock<BTreeMap<Order, StateRoot>>,
    created: RwLock<BTreeMap<Order, BTreeSet<NodeHash>>>,
}

impl NodeReader for Archive {
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.nodes.read().get(hash).cloned())
    }
}

impl Archive {
    /// Another archive that knows the same so far.
    pub fn copy(&self) -> Self {
        Self {
            nodes: RwLock::new(self.nodes.read().clone()),
            roots: RwLock::new(self.roots.read().clone()),
            created: RwLock::new(self.created.read().clone()),
        }
    }

    /// Keeps what a commit created, and its root.
    pub fn keep(&self, order: Order, delta: &Delta) {
        let created = delta.created.iter().map(|(hash, created)| (*hash, created.bytes.clone()));
        self.nodes.write().extend(created);
        self.roots.write().insert(order, delta.root);
        self.created.write().insert(order, delta.created.keys().copied().collect());
    }

    /// Forgets the orders after `last`, as a power loss does.
    pub fn forget_after(&self, last: Order) {
        self.roots.write().retain(|order, _| *order <= last);
    }

    /// The root after an order.
    pub fn root(&self, order: Order) -> StateRoot {
        self.roots.read()[&order]
    }

    /// Every node that the commit of an order emitted.
    pub fn created(&self, order: Order) -> BTreeSet<NodeHash> {
        self.created.read()[&order].clone()
    }

    /// The nodes that two references of an order's state lead to.
    pub fn referred_twice(&self, order: Order) -> BTreeSet<NodeHash> {
        let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
        let mut stack: Vec<NodeHash> = self.root(order).node().into_iter().collect();
        while let Some(hash) = stack.pop() {
            if seen.insert(hash) {
                RoochLayout.children(&self.bytes(&hash), &mut stack).unwrap();
            } else {
                twice.insert(hash);
            }
        }
        twice
    }

    /// These nodes with everything below them; where `stops` says so, a node is left out with what only it leads to.
    pub fn below(
        &self,
        roots: impl IntoIterator<Item = NodeHash>,
        stops: impl Fn(&NodeHash) -> bool,
    ) -> BTreeSet<NodeHash> {
        let (mut found, mut stack) = (BTreeSet::new(), roots.into_iter().collect::<Vec<_>>());
        while let Some(hash) = stack.pop() {
            if !stops(&hash) && found.insert(hash) {
                RoochLayout.children(&self.bytes(&hash), &mut stack).unwrap();
            }
        }
        found
    }

    /// The newest order.
    pub fn head(&self) -> Option<Order> {
        self.roots.read().keys().next_back().copied()
    }

    /// Every node ever created.
    pub fn all(&self) -> BTreeSet<NodeHash> {
        self.nodes.read().keys().copied().collect()
    }

    /// The bytes of a node.
    pub fn bytes(&self, hash: &NodeHash) -> Vec<u8> {
        self.nodes.read()[hash].clone()
    }

    /// Every node that the roots of these orders reach.
    pub fn live(&self, orders: impl IntoIterator<Item = Order>) -> BTreeSet<NodeHash> {
        let nodes = self.nodes.read();
        let mut live = BTreeSet::new();
        for order in orders {
            if let Some(root) = self.root(order).node() {
                reach(&nodes, root, &mut live);
            }
        }
        live
    }
}

fn reach(nodes: &BTreeMap<NodeHash, Vec<u8>>, hash: NodeHash, live: &mut BTreeSet<NodeHash>) {
    if !live.insert(hash) {
        return;
    }
    let mut children = Vec::new();
    RoochLayout.children(&nodes[&hash], &mut children).unwrap();
    for child in children {
        reach(nodes, child, live);
    }
}

/// The orders from `first` to `last`, both included.
pub fn orders(first: Order, last: Order) -> impl Iterator<Item = Order> {
    (first.get()..=last.get()).map(Order::new)
}
