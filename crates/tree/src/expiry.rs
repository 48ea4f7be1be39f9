//! Rule 6 of design section 5: which nodes go when a journal entry has fallen to the cutoff.
//!
//! An [`Expiry`] is the work that is left of one entry. Each step condemns a bounded number of nodes and replaces them
//! in the work by the children that go with them. A node that is held (*many*, or in the mark of an older pin) or that
//! is not stored is passed over, and nothing below it is looked at.
//!
//! Ordering: a step, the delete of what it condemned and the save of [`Expiry::left`] as the entry of that order are one
//! stay under the commit gate and one batch (I9, I10): a commit in between may have marked a node *many*, and a cursor
//! saved apart forgets the children of a deleted node. What is saved is pending like the entry it replaces, else a node
//! that is absent and created anew would be condemned later (S21). Going on from what was saved condemns the same nodes.
//!
//! Costs: one batched read per step, of at most as many nodes as it may condemn. The work is depth first by batches:
//! at most sixteen children of each node condemned and not yet followed. What is left is copied whole when it is saved,
//! so an entry far larger than a step should be split when it is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
};

use crate::{counting::Expiring, error::TreeError, hash::NodeHash, layout::NodeLayout, walk::NodeSource};

/// What is left to do of one journal entry: at first the entry itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Nodes that go alone; only after all trees, because a tree that shares one with them must still lead below it.
    alone: Vec<NodeHash>,
    /// Nodes that go with everything below them.
    trees: Vec<NodeHash>,
}

/// What a step stands on: the nodes, and what must be kept.
#[derive(Clone, Copy)]
pub struct Reach<'a> {
    /// The stored nodes.
    pub source: &'a dyn NodeSource,
    /// How to read them.
    pub layout: &'a dyn NodeLayout,
    /// Whether a node must stay: *many*, or in the mark of a pin older than the entry. Unknown is yes (I8).
    pub is_held: &'a dyn Fn(&NodeHash) -> bool,
}

impl Expiry {
    /// All of an entry, or what was left of one.
    pub fn new(entry: &Expiring) -> Self {
        let list = |hashes: &BTreeSet<NodeHash>| hashes.iter().copied().collect();
        Self { alone: list(&entry.stale), trees: list(&entry.dropped) }
    }

    /// What is left, in the form to be saved: an entry whose trees have become smaller.
    pub fn left(&self) -> Expiring {
        Expiring { stale: self.alone.iter().copied().collect(), dropped: self.trees.iter().copied().collect() }
    }

    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.alone.is_empty() && self.trees.is_empty()
    }

    /// Condemns at most `most` nodes, returned sorted; none of them does not mean that nothing is left.
    ///
    /// Errors: a node cannot be read, does not decode or is not what its hash says; then nothing is condemned and the
    /// work is as it was (I11).
    pub fn step(&mut self, most: NonZeroUsize, reach: Reach<'_>) -> Result<Vec<NodeHash>, TreeError> {
        let trees = !self.trees.is_empty();
        let work = if trees { &mut self.trees } else { &mut self.alone };
        let rest = work.len().saturating_sub(most.get());
        let batch: BTreeSet<NodeHash> = work.iter().skip(rest).copied().collect();
        let free: Vec<NodeHash> = batch.into_iter().filter(|hash| !(reach.is_held)(hash)).collect();
        let found = reach.read(&free)?;
        work.truncate(rest);
        if trees {
            work.extend(found.values().flatten());
        }
        Ok(found.into_keys().collect())
    }
}

impl Reach<'_> {
    /// The stored ones of some nodes, with their children.
    fn read(&self, hashes: &[NodeHash]) -> Result<BTreeMap<NodeHash, Vec<NodeHash>>, TreeError> {
        let mut found = BTreeMap::new();
        let mut fault = None;
        self.source.read(hashes, &mut |index, bytes| {
            let (Some(hash), Some(bytes)) = (hashes.get(index), bytes) else { return };
            match self.children(hash, bytes) {
                Ok(children) => drop(found.insert(*hash, children)),
                Err(error) => fault = Some(error),
            }
        })?;
        fault.map_or(Ok(found), Err)
    }

    fn children(&self, hash: &NodeHash, bytes: &[u8]) -> Result<Vec<NodeHash>, TreeError> {
        let mut children = Vec::new();
        let read = self.layout.read(bytes, &mut children);
        let actual = read.map_err(|source| TreeError::Malformed { hash: *hash, source })?;
        if actual != *hash {
            return Err(TreeError::WrongHash { key: *hash, actual });
        }
        Ok(children)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::NodeError;

    /// A node is its hash and those of its children.
    #[derive(Debug)]
    struct Lists;

    impl NodeLayout for Lists {
        fn name(&self) -> &'static str {
            "lists"
        }

        fn children(&self, bytes: &[u8], out: &mut Vec<NodeHash>) -> Result<(), NodeError> {
            out.extend(bytes.iter().skip(1).map(|n| hash(*n)));
            Ok(())
        }

        fn hash(&self, bytes: &[u8]) -> Result<NodeHash, NodeError> {
            bytes.first().map(|n| hash(*n)).ok_or(NodeError::Empty)
        }
    }

    struct Nodes(BTreeMap<NodeHash, Vec<u8>>);

    impl NodeSource for Nodes {
        fn read(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), TreeError> {
            hashes.iter().enumerate().for_each(|(at, hash)| each(at, self.0.get(hash).map(Vec::as_slice)));
            Ok(())
        }
    }

    fn hash(n: u8) -> NodeHash {
        NodeHash::new([n; 32])
    }

    fn nodes(lists: &[&[u8]]) -> Nodes {
        Nodes(lists.iter().map(|list| (hash(list[0]), list.to_vec())).collect())
    }

    fn entry(stale: &[u8], dropped: &[u8]) -> Expiring {
        let set = |list: &[u8]| list.iter().map(|n| hash(*n)).collect();
        Expiring { stale: set(stale), dropped: set(dropped) }
    }

    /// Steps to the end, saving and resuming after each; returns what was condemned.
    fn run(entry: &Expiring, nodes: &mut Nodes, held: &[u8]) -> BTreeSet<NodeHash> {
        let is_held = |hash: &NodeHash| held.contains(&hash.as_bytes()[0]);
        let mut expiry = Expiry::new(entry);
        let mut gone = BTreeSet::new();
        while !expiry.is_done() {
            let reach = Reach { source: nodes, layout: &Lists, is_held: &is_held };
            let condemned = expiry.step(NonZeroUsize::MIN, reach).unwrap();
            condemned.iter().for_each(|hash| drop(nodes.0.remove(hash)));
            gone.extend(condemned);
            expiry = Expiry::new(&expiry.left());
        }
        gone
    }

    #[test]
    fn a_tree_goes_with_everything_below_it_that_nothing_holds() {
        let mut nodes = nodes(&[&[1, 2, 3], &[2, 4], &[3, 5], &[4], &[5], &[6, 4]]);
        assert_eq!(run(&entry(&[6, 7], &[1]), &mut nodes, &[3]), [1, 2, 4, 6].map(hash).into());
        assert!(nodes.0.contains_key(&hash(5)), "it lies below a node that is held");
    }

    #[test]
    fn a_node_that_also_goes_alone_still_leads_below_it() {
        let mut nodes = nodes(&[&[1, 2], &[2, 3], &[3]]);
        assert_eq!(run(&entry(&[2], &[1]), &mut nodes, &[]), [1, 2, 3].map(hash).into());
    }

    #[test]
    fn a_fault_condemns_nothing_and_leaves_the_work() {
        let mut nodes = nodes(&[&[1, 2], &[2]]);
        nodes.0.insert(hash(3), vec![4]);
        let mut expiry = Expiry::new(&entry(&[], &[1, 3]));
        let before = expiry.clone();
        let reach = Reach { source: &nodes, layout: &Lists, is_held: &|_| false };
        let fault = expiry.step(NonZeroUsize::new(8).unwrap(), reach);
        assert!(matches!(fault, Err(TreeError::WrongHash { key, .. }) if key == hash(3)));
        assert_eq!(expiry, before);
    }
}
