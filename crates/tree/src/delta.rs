//! `Delta`: everything one update does to the set of nodes, complete enough for the commit gate and for IncrementalSweep. One that is not
//! whole loses state, and nobody can tell (docs/embedding.md).
//!
//! A *place* is a position in one object's tree, or the position where an object's value embeds a fields root.
//! `created` and `replaced` count places, not hashes: the same hash may be created twice, or replaced here and created
//! there. Since every node above a replaced place is itself replaced, the replaced places form a forest and each names
//! its parent; that forest is the path along which sharing is judged (docs/design.md, section 7).

use std::collections::BTreeMap;

use crate::hash::{NodeHash, StateRoot};

/// A node that the update emits, whether or not the store has it already (I4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The bytes to store under its hash.
    pub bytes: Vec<u8>,
    /// At how many places of the new state it was created: at least one.
    pub places: u32,
    /// A node just below it that was created too, if one is known. Where that one is not stored, no
    /// retained state has this one, for what a state has it has with everything below.
    pub below: Option<NodeHash>,
    /// Whether no state has it at any other place, as long as no object was ever put [`Delta::astray`]: it is a node of the
    /// global tree, where each key has one place, and whose objects have the identity of one of that tree.
    pub sole: bool,
}

/// One place of the parent state whose node is not there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// The node that was at the place.
    pub hash: NodeHash,
    /// Index in [`Delta::replaced`] of the place above, through embedding values; none at a root.
    pub above: Option<usize>,
    /// Whether the place lies in a tree that was adopted by this update and then modified.
    pub below_adoption: bool,
    /// Children of the node that the new state still has in the same tree: at the same place, or, for a leaf, pulled
    /// up or pushed down. If this place was shared they now have one place more, so they are what becomes *many*.
    pub unchanged: Vec<NodeHash>,
}

/// A whole fields tree that lost the place which embedded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The root of the tree.
    pub root: NodeHash,
    /// Index in [`Delta::replaced`] of the leaf that embedded it.
    pub above: Option<usize>,
}

/// The effect of one update on the set of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The root the changes were applied to.
    pub parent: StateRoot,
    /// The root afterwards.
    pub root: StateRoot,
    /// Every emitted node by hash: all nodes of the new state that are at no place of the parent state where they
    /// were before, except leaves that only moved up or down unchanged.
    pub created: BTreeMap<NodeHash, Created>,
    /// Every place of the parent state that lost its node, parents before children; leaves that only moved are no loss.
    pub replaced: Vec<Replaced>,
    /// Fields trees that lost a place and were not walked.
    pub dropped: Vec<Dropped>,
    /// Fields roots of the parent state that gained a place, once per place gained.
    pub adopted: Vec<NodeHash>,
    /// Whether a field was put that has the identity of an object of the global tree, or an object of that tree that has the
    /// identity of a field: its leaf may be one of the other tree, too.
    pub astray: bool,
}

impl Delta {
    /// Roots that lost a place and gained one in the same update, with how often: moves, which need no counting.
    ///
    /// A drop is no loss, and so no half of a move, if something else still reaches the place it happened at: the
    /// place lies in a tree that this update adopted, or below a root that it adopted elsewhere, or `shared` says so,
    /// which the caller answers from its own *many* marks along [`Delta::above`].
    pub fn moves(&self, shared: &dyn Fn(&Dropped) -> bool) -> BTreeMap<NodeHash, u32> {
        let mut gained: BTreeMap<NodeHash, u32> = BTreeMap::new();
        for root in &self.adopted {
            *gained.entry(*root).or_insert(0) += 1;
        }
        let copied = |place: &Replaced| place.below_adoption || gained.contains_key(&place.hash);
        let mut moves: BTreeMap<NodeHash, u32> = BTreeMap::new();
        for dropped in &self.dropped {
            let Some(most) = gained.get(&dropped.root) else {
                continue;
            };
            if !self.above(dropped.above).any(copied) && !shared(dropped) {
                let count = moves.entry(dropped.root).or_insert(0);
                *count = (*count + 1).min(*most);
            }
        }
        moves
    }

    /// A replaced place and those above it, upward: start with an index from [`Replaced`] or [`Dropped`].
    pub fn above(&self, index: Option<usize>) -> impl Iterator<Item = &Replaced> {
        let at = |index: Option<usize>| index.and_then(|index| self.replaced.get(index));
        std::iter::successors(at(index), move |place| at(place.above))
    }

    /// Nodes that lost places, with how many, and were created nowhere: stale and created are disjoint (S30).
    ///
    /// A node that lost more places than it was created at had several, so it is *many* and no candidate anyway.
    pub fn stale(&self) -> BTreeMap<NodeHash, u32> {
        let mut lost: BTreeMap<NodeHash, u32> = BTreeMap::new();
        for place in self.replaced.iter().filter(|place| !self.created.contains_key(&place.hash)) {
            *lost.entry(place.hash).or_insert(0) += 1;
        }
        lost
    }
}
