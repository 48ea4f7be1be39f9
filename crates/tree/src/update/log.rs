//! The delta while it is being collected. Entries are tentative: a place that turns out unchanged is rewound.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::{
    delta::{Created, Delta, Dropped, Replaced},
    hash::{NodeHash, StateRoot},
};

/// Everything noted so far, in the order of the pass: a replaced place before those below it.
#[derive(Default)]
pub(super) struct Log {
    /// The emitted nodes, each held once at however many places it was created.
    created: BTreeMap<NodeHash, Created>,
    /// Their hashes, once per place and in order, for rewinding.
    places: Vec<NodeHash>,
    replaced: Vec<Replaced>,
    dropped: Vec<Dropped>,
    adopted: Vec<NodeHash>,
    astray: bool,
}

/// A node to be emitted.
pub(super) struct Emitted {
    pub(super) hash: NodeHash,
    pub(super) bytes: Vec<u8>,
    /// As [`Created::sole`].
    pub(super) sole: bool,
}

/// A moment to rewind to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    places: usize,
    replaced: usize,
    dropped: usize,
    adopted: usize,
}

/// Where a place lies: what was replaced above it, and whether its tree was adopted in this update.
#[derive(Clone, Copy)]
pub(super) struct Above {
    pub(super) replaced: Option<usize>,
    pub(super) below_adoption: bool,
}

impl Above {
    /// The position just below a replaced place.
    pub(super) fn below(self, replaced: usize) -> Self {
        Self { replaced: Some(replaced), ..self }
    }
}

impl Log {
    pub(super) fn now(&self) -> Moment {
        Moment {
            places: self.places.len(),
            replaced: self.replaced.len(),
            dropped: self.dropped.len(),
            adopted: self.adopted.len(),
        }
    }

    /// Forgets everything noted since a moment: the place is as it was.
    pub(super) fn rewind(&mut self, moment: Moment) {
        for hash in self.places.drain(moment.places.min(self.places.len())..) {
            forget(&mut self.created, hash);
        }
        self.replaced.truncate(moment.replaced);
        self.dropped.truncate(moment.dropped);
        self.adopted.truncate(moment.adopted);
    }

    /// Notes an emitted node, present on disk or not (I4). Whatever was emitted since the moment lies below it.
    pub(super) fn create(&mut self, node: Emitted, since: Moment) {
        let Emitted { hash, bytes, sole } = node;
        let below = self.places.last().filter(|_| self.places.len() > since.places).copied(); // emitted last: just below
        self.created.entry(hash).or_insert(Created { bytes, places: 0, below, sole }).places += 1;
        self.places.push(hash);
    }

    /// Notes that a place lost its node; returns its index.
    pub(super) fn replace(&mut self, hash: NodeHash, above: Above) -> usize {
        let index = self.replaced.len();
        let Above { replaced: above, below_adoption } = above;
        self.replaced.push(Replaced { hash, above, below_adoption, unchanged: Vec::new() });
        index
    }

    /// Notes a child of a replaced node that the new state still has in the same tree.
    pub(super) fn unchanged(&mut self, index: usize, child: NodeHash) {
        if let Some(place) = self.replaced.get_mut(index) {
            place.unchanged.push(child);
        }
    }

    /// Notes an object with the identity of one of the other kind of tree, for good: what is rewound only makes it too careful.
    pub(super) fn stray(&mut self) {
        self.astray = true;
    }

    pub(super) fn drop_tree(&mut self, root: NodeHash, above: Option<usize>) {
        self.dropped.push(Dropped { root, above });
    }

    pub(super) fn adopt(&mut self, root: NodeHash) {
        self.adopted.push(root);
    }

    pub(super) fn into_delta(self, parent: StateRoot, root: StateRoot) -> Delta {
        let Self { created, replaced, dropped, adopted, astray, .. } = self;
        Delta { parent, root, created, replaced, dropped, adopted, astray }
    }
}

/// Takes one place from a node, and with the last one the node.
fn forget(created: &mut BTreeMap<NodeHash, Created>, hash: NodeHash) {
    if let Entry::Occupied(mut node) = created.entry(hash) {
        node.get_mut().places -= 1;
        if node.get().places == 0 {
            node.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_created_at_many_places_is_held_once_and_rewound_place_by_place() {
        let (big, small) = (NodeHash::new([1; 32]), NodeHash::new([2; 32]));
        let node = |hash, bytes| Emitted { hash, bytes, sole: false };
        let mut log = Log::default();
        log.create(node(big, vec![7; 1 << 20]), log.now());
        let one = log.now();
        for _ in 0..100 {
            log.create(node(big, vec![7; 1 << 20]), log.now());
            log.create(node(small, vec![8]), one);
        }
        let held: usize = log.created.values().map(|node| node.bytes.len()).sum();
        assert_eq!((held, log.created[&big].places), ((1 << 20) + 1, 101));
        log.rewind(one);
        assert_eq!((log.created.len(), log.created[&big].places), (1, 1));
        let delta = log.into_delta(StateRoot::EMPTY, StateRoot::EMPTY);
        assert_eq!(delta.created.into_keys().collect::<Vec<_>>(), [big]);
    }
}
