//! Rule 6 of docs/design.md, section 7: which nodes go once journal entries have fallen to the cutoff.
//!
//! An [`Expiry`] is the work that is left of one or more entries. Each step names a bounded number of nodes, which are read
//! without any lock ([`Found`]), and is then taken: what is stored and free is condemned and replaced in the work by the
//! children that go with it. A node that is not free (*many*, created since, or held by an older pin) is passed over, and
//! nothing below it is looked at; so is one of a tree that is not stored. A node that goes alone is not read: it was stored
//! when it lost its last place, and only a tree of the same entries can have taken it along.
//!
//! Ordering: taking a step, the delete of what it condemned and the save of [`Expiry::left`] are one stay under the commit
//! gate and one batch (I9, I10): a commit in between may have created a node, and a cursor saved apart forgets the
//! children of a deleted node. Children in the work are pending like what the entry names, else a node that is absent and
//! created anew would be condemned later (S21). Going on from what was saved condemns the same nodes.
//!
//! Costs: the work is depth first by batches: what is saved is at most sixteen children of each node condemned and not yet
//! followed, however long the entries are.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
};

use crate::{
    counting::Expiring,
    error::TreeError,
    hash::NodeHash,
    layout::NodeLayout,
    walk::{NodeSource, children_of},
};

/// What is left to do of some journal entries: at first all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Nodes that go alone; only after all trees, because a tree that shares one with them must still lead below it.
    alone: Vec<NodeHash>,
    /// Nodes that go with everything below them: what the entries name, then what was found below.
    trees: Vec<NodeHash>,
    /// How many of `trees` are named by the entries and were not taken yet.
    named: usize,
    /// Whether it was begun by somebody else: what goes alone may have gone with a tree already.
    resumed: bool,
}

/// What is left of entries, in the form to be saved beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// How many of the nodes that go alone, counted from the smallest hash.
    pub alone: usize,
    /// How many of the trees, counted from the smallest hash of a root.
    pub trees: usize,
    /// Nodes below trees that were begun.
    pub below: Vec<NodeHash>,
}

impl Left {
    /// What the entries name and was dealt with already.
    pub fn dealt_with<'a>(&self, entries: &'a Expiring) -> impl Iterator<Item = &'a NodeHash> {
        entries.stale.iter().skip(self.alone).chain(entries.dropped.iter().skip(self.trees))
    }
}

/// The next nodes of an expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiryStep {
    /// The nodes, sorted and unique.
    pub hashes: Vec<NodeHash>,
    /// What has to be read of them.
    read: Read,
    /// How long the work is once they are taken.
    rest: usize,
}

/// What has to be known of the nodes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// They go alone, and are there.
    Nothing,
    /// They go alone, if they are there.
    Presence,
    /// What lies below them goes too.
    Children,
}

/// What was found below the nodes of a step.
#[derive(Debug, Default)]
pub struct Found {
    /// The stored ones, for a deep step each with its children.
    nodes: BTreeMap<NodeHash, Vec<NodeHash>>,
    /// What was read, stored or not.
    read: BTreeSet<NodeHash>,
    /// Nodes whose children cannot be told: kept, with everything below them (I8).
    pub set_aside: Vec<(NodeHash, TreeError)>,
}

/// What a step is judged by, in the stay under the gate in which it is taken.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// Whether a node of the step may go.
    pub is_free: &'a dyn Fn(&NodeHash) -> bool,
    /// Whether a child is known to be *many* already: expansion stops there, so it need not be read to find out. Whoever
    /// does not know says no.
    pub is_shared: &'a dyn Fn(&NodeHash) -> bool,
}

/// What a step came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Nodes to delete, sorted.
    pub condemned: Vec<NodeHash>,
    /// Children that are work now: pending from here on.
    pub below: Vec<NodeHash>,
}

impl Expiry {
    /// All of some entries.
    pub fn new(entries: &Expiring) -> Self {
        let Expiring { stale, dropped } = entries.clone();
        Self { alone: stale, named: dropped.len(), trees: dropped, resumed: false }
    }

    /// What was left of the same entries, or nothing if it cannot have been.
    pub fn resume(entries: &Expiring, left: &Left) -> Option<Self> {
        let mut all = Self::new(entries);
        if left.alone > all.alone.len() || left.trees > all.named {
            return None;
        }
        all.alone.truncate(left.alone);
        all.trees.truncate(left.trees);
        (all.named, all.resumed) = (left.trees, true);
        all.trees.extend(&left.below);
        Some(all)
    }

    /// What is left, to be saved.
    pub fn left(&self) -> Left {
        Left { alone: self.alone.len(), trees: self.named, below: self.below().copied().collect() }
    }

    /// How many of the nodes that go alone, and of the trees that the entries name, are left.
    pub fn named(&self) -> (usize, usize) {
        (self.alone.len(), self.named)
    }

    /// Nodes below trees that were begun.
    pub fn below(&self) -> impl Iterator<Item = &NodeHash> {
        self.trees.iter().skip(self.named)
    }

    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.alone.is_empty() && self.trees.is_empty()
    }

    /// The next nodes, at most so many; the work is as it was until they are taken.
    pub fn step(&self, most: NonZeroUsize) -> ExpiryStep {
        let (read, work) = match (self.trees.is_empty(), self.resumed) {
            (false, _) => (Read::Children, &self.trees),
            (true, true) => (Read::Presence, &self.alone),
            (true, false) => (Read::Nothing, &self.alone),
        };
        let rest = work.len().saturating_sub(most.get());
        let hashes: BTreeSet<NodeHash> = work.iter().skip(rest).copied().collect();
        ExpiryStep { hashes: hashes.into_iter().collect(), read, rest }
    }

    /// Takes a step: condemns what was found of it and is free. None condemned does not mean that nothing is left.
    pub fn take(&mut self, step: &ExpiryStep, found: &Found, judge: Judge<'_>) -> Taken {
        let mut taken = Taken::default();
        for hash in step.hashes.iter().filter(|hash| (judge.is_free)(hash)) {
            match found.nodes.get(hash) {
                Some(children) => taken.below.extend(children.iter().filter(|child| !(judge.is_shared)(child))),
                None if step.read == Read::Nothing => {}
                None => continue,
            }
            taken.condemned.push(*hash);
        }
        if step.read == Read::Children {
            self.trees.truncate(step.rest);
            self.named = self.named.min(step.rest);
            self.trees.extend(&taken.below);
        } else {
            self.alone.truncate(step.rest);
        }
        taken
    }
}

impl ExpiryStep {
    /// Whether nothing has to be read of its nodes.
    pub fn reads_nothing(&self) -> bool {
        self.read == Read::Nothing
    }

    /// Whether no longer step has more than this one.
    pub fn is_whole(&self) -> bool {
        self.rest == 0
    }
}

impl Found {
    /// Reads the nodes of a step, unless they go alone and the work is our own from its beginning. Those that are not stored are not found;
    /// those that do not decode, or are not what their hash says, are set aside.
    ///
    /// Errors: a failed read.
    pub fn read(step: &ExpiryStep, source: &dyn NodeSource, layout: &dyn NodeLayout) -> Result<Self, TreeError> {
        let mut found = Self::default();
        found.read_on(step, source, layout)?;
        Ok(found)
    }

    /// Reads what a longer step has more than the one that was read.
    ///
    /// Errors: a failed read.
    pub fn read_on(
        &mut self,
        step: &ExpiryStep,
        source: &dyn NodeSource,
        layout: &dyn NodeLayout,
    ) -> Result<(), TreeError> {
        if step.reads_nothing() {
            return Ok(());
        }
        let new: Vec<NodeHash> = step.hashes.iter().filter(|hash| !self.read.contains(hash)).copied().collect();
        source.read(&new, &mut |index, bytes| {
            let (Some(hash), Some(bytes)) = (new.get(index), bytes) else { return };
            let deep = step.read == Read::Children;
            let children = if deep { children(layout, hash, bytes) } else { Ok(Vec::new()) };
            match children {
                Ok(children) => drop(self.nodes.insert(*hash, children)),
                Err(error) => self.set_aside.push((*hash, error)),
            }
        })?;
        self.read.extend(new);
        Ok(())
    }

    /// How many nodes a step has, and children that were found below them.
    pub fn weight(&self, step: &ExpiryStep) -> usize {
        let below = step.hashes.iter().filter_map(|hash| self.nodes.get(hash)).map(Vec::len);
        step.hashes.len() + below.sum::<usize>()
    }

    /// Forgets what was read beyond a step: a later one reads it again, and tells what is set aside of it.
    pub fn keep_to(&mut self, step: &ExpiryStep) {
        let has = |hash: &NodeHash| step.hashes.binary_search(hash).is_ok();
        self.nodes.retain(|hash, _| has(hash));
        self.read.retain(has);
        self.set_aside.retain(|(hash, _)| has(hash));
    }
}

fn children(layout: &dyn NodeLayout, hash: &NodeHash, bytes: &[u8]) -> Result<Vec<NodeHash>, TreeError> {
    let mut children = Vec::new();
    children_of(layout, hash, bytes, &mut children).map(|()| children)
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

    fn free_but(held: &[u8]) -> impl Fn(&NodeHash) -> bool {
        move |hash| !held.contains(&hash.as_bytes()[0])
    }

    fn judge(is_free: &dyn Fn(&NodeHash) -> bool) -> Judge<'_> {
        Judge { is_free, is_shared: &|_| false }
    }

    fn read(expiry: &Expiry, nodes: &Nodes) -> (ExpiryStep, Found) {
        let step = expiry.step(NonZeroUsize::MIN);
        let found = Found::read(&step, nodes, &Lists).unwrap();
        (step, found)
    }

    /// Steps to the end, saving and resuming after each; returns what was condemned.
    fn run(entry: &Expiring, nodes: &mut Nodes, held: &[u8]) -> BTreeSet<NodeHash> {
        let mut expiry = Expiry::new(entry);
        let mut gone = BTreeSet::new();
        while !expiry.is_done() {
            let (step, found) = read(&expiry, nodes);
            let taken = expiry.take(&step, &found, judge(&free_but(held)));
            taken.condemned.iter().for_each(|hash| drop(nodes.0.remove(hash)));
            gone.extend(taken.condemned);
            expiry = Expiry::resume(entry, &expiry.left()).unwrap();
        }
        gone
    }

    #[test]
    fn a_tree_goes_with_everything_below_it_that_nothing_holds() {
        let mut nodes = nodes(&[&[1, 2, 3], &[2, 4], &[3, 5], &[4], &[5], &[6, 4]]);
        assert_eq!(run(&entry(&[6], &[1, 7]), &mut nodes, &[3]), [1, 2, 4, 6].map(hash).into());
        assert!(nodes.0.contains_key(&hash(5)), "it lies below a node that is held");
    }

    #[test]
    fn a_child_that_is_shared_is_no_work() {
        let mut expiry = Expiry::new(&entry(&[], &[1]));
        let (step, found) = read(&expiry, &nodes(&[&[1, 2, 3]]));
        let shared = |child: &NodeHash| *child == hash(2);
        let taken = expiry.take(&step, &found, Judge { is_free: &free_but(&[]), is_shared: &shared });
        assert_eq!(taken, Taken { condemned: vec![hash(1)], below: vec![hash(3)] });
        assert_eq!(expiry.left().below, [hash(3)]);
    }

    #[test]
    fn a_node_that_also_goes_alone_still_leads_below_it() {
        let mut nodes = nodes(&[&[1, 2], &[2, 3], &[3]]);
        assert_eq!(run(&entry(&[2], &[1]), &mut nodes, &[]), [1, 2, 3].map(hash).into());
    }

    #[test]
    fn a_node_that_is_not_what_its_hash_says_is_set_aside_with_what_lies_below_it() {
        let mut nodes = nodes(&[&[1, 2], &[2]]);
        nodes.0.insert(hash(3), vec![4]);
        let mut expiry = Expiry::new(&entry(&[], &[1, 3]));
        let (step, found) = read(&expiry, &nodes);
        assert!(matches!(found.set_aside[..], [(node, TreeError::WrongHash { .. })] if node == hash(3)));
        assert_eq!(expiry.take(&step, &found, judge(&free_but(&[]))), Taken::default());
        assert_eq!(expiry.left(), Left { alone: 0, trees: 1, below: vec![] }, "it does not block what comes behind it");
    }

    #[test]
    fn what_is_saved_does_not_grow_with_the_entries() {
        let entry = entry(&[], &[1, 2, 3, 4, 5, 6]);
        let mut expiry = Expiry::new(&entry);
        let (step, found) = read(&expiry, &nodes(&[&[6, 8, 9]]));
        assert_eq!(expiry.take(&step, &found, judge(&free_but(&[]))).condemned, [hash(6)]);
        assert_eq!(expiry.left(), Left { alone: 0, trees: 5, below: vec![hash(8), hash(9)] });
        assert_eq!(expiry.left().dealt_with(&entry).collect::<Vec<_>>(), [&hash(6)]);
        let too_much = Left { alone: 1, trees: 5, below: vec![] };
        assert_eq!(Expiry::resume(&entry, &too_much), None, "it is of other entries");
    }
}
