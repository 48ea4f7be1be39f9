//! A node store in memory, and counts over what a root unfolds to.

use std::collections::{BTreeMap, BTreeSet};

use state_tree::{Delta, NodeHash, NodeLayout, NodeReader, NodeSource, RoochLayout, StateRoot, TreeError};

/// Nodes by hash.
#[derive(Clone, Default)]
pub(crate) struct Store(pub(crate) BTreeMap<NodeHash, Vec<u8>>);

impl NodeReader for Store {
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.get(hash).cloned())
    }
}

impl NodeSource for Store {
    fn read(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), TreeError> {
        for (index, hash) in hashes.iter().enumerate() {
            each(index, self.0.get(hash).map(Vec::as_slice));
        }
        Ok(())
    }
}

impl Store {
    /// Stores a node under the hash it has.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> NodeHash {
        let hash = RoochLayout.hash(bytes).unwrap();
        self.0.insert(hash, bytes.to_vec());
        hash
    }

    pub(crate) fn apply(&mut self, delta: &Delta) {
        self.0.extend(delta.created.iter().map(|(hash, created)| (*hash, created.bytes.clone())));
    }

    pub(crate) fn children(&self, hash: &NodeHash) -> Vec<NodeHash> {
        let mut children = Vec::new();
        RoochLayout.children(&self.0[hash], &mut children).unwrap();
        children
    }

    /// Every node reachable from a root; the error names one that is absent.
    pub(crate) fn reach(&self, root: StateRoot, seen: &mut BTreeSet<NodeHash>) -> Result<(), NodeHash> {
        let mut stack: Vec<NodeHash> = root.node().into_iter().collect();
        while let Some(hash) = stack.pop() {
            if !seen.insert(hash) {
                continue;
            }
            if !self.0.contains_key(&hash) {
                return Err(hash);
            }
            stack.extend(self.children(&hash));
        }
        Ok(())
    }

    /// The nodes below a root that two references of this state lead to.
    pub(crate) fn referred_twice(&self, root: StateRoot) -> BTreeSet<NodeHash> {
        let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
        let mut stack: Vec<NodeHash> = root.node().into_iter().collect();
        while let Some(hash) = stack.pop() {
            if seen.insert(hash) {
                stack.extend(self.children(&hash));
            } else {
                twice.insert(hash);
            }
        }
        twice
    }

    /// At how many places below a root each node is, the sharing of sub-trees unfolded.
    pub(crate) fn places(&self, root: StateRoot) -> BTreeMap<NodeHash, i64> {
        let mut places = BTreeMap::new();
        let mut stack: Vec<NodeHash> = root.node().into_iter().collect();
        while let Some(hash) = stack.pop() {
            *places.entry(hash).or_insert(0) += 1;
            stack.extend(self.children(&hash));
        }
        places
    }
}
