//! The delta while it is being collected. Entries are tentative: a place that turns out unchanged is rewound.

use std::collections::BTreeMap;

use crate::{
    delta::{Created, Delta, Dropped, Replaced},
    hash::{NodeHash, StateRoot},
};

/// Everything noted so far, in the order of the pass: a replaced place before those below it.
#[derive(Default)]
pub(super) struct Log {
    created: Vec<(NodeHash, Vec<u8>)>,
    replaced: Vec<Replaced>,
    dropped: Vec<Dropped>,
    adopted: Vec<NodeHash>,
}

/// A moment to rewind to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    created: usize,
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
            created: self.created.len(),
            replaced: self.replaced.len(),
            dropped: self.dropped.len(),
            adopted: self.adopted.len(),
        }
    }

    /// Forgets everything noted since a moment: the place is as it was.
    pub(super) fn rewind(&mut self, moment: Moment) {
        self.created.truncate(moment.created);
        self.replaced.truncate(moment.replaced);
        self.dropped.truncate(moment.dropped);
        self.adopted.truncate(moment.adopted);
    }

    /// Notes an emitted node, present on disk or not (I4).
    pub(super) fn create(&mut self, hash: NodeHash, bytes: Vec<u8>) {
        self.created.push((hash, bytes));
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

    pub(super) fn drop_tree(&mut self, root: NodeHash, above: Option<usize>) {
        self.dropped.push(Dropped { root, above });
    }

    pub(super) fn adopt(&mut self, root: NodeHash) {
        self.adopted.push(root);
    }

    pub(super) fn into_delta(self, parent: StateRoot, root: StateRoot) -> Delta {
        let mut created: BTreeMap<NodeHash, Created> = BTreeMap::new();
        for (hash, bytes) in self.created {
            created.entry(hash).or_insert(Created { bytes, places: 0 }).places += 1;
        }
        let Self { replaced, dropped, adopted, .. } = Self { created: Vec::new(), ..self };
        Delta { parent, root, created, replaced, dropped, adopted }
    }
}
