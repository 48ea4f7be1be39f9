//! One pass over one tree.

use crate::{
    change::{Change, Changes},
    error::TreeError,
    hash::{NodeHash, PLACEHOLDER, StateRoot},
    read::{self, Toward},
    rooch::{
        key::Key,
        node::{ARITY, Child, ChildKind, Internal, InternalView, Joined, NodeView},
    },
    update::{
        Session,
        log::{Above, Emitted, Moment},
        object::Held,
    },
};

/// Where a tree hangs.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    /// It is the global tree.
    Global,
    /// It is new here: what it held elsewhere is not replaced at this place.
    Adopted,
    /// It stays below the place it was embedded in.
    Embedded(Above),
}

/// What became of a tree.
pub(super) struct Outcome {
    /// Its new root.
    pub(super) root: StateRoot,
    /// Whether its old root node is still in it, where it was or, as a leaf, elsewhere.
    pub(super) old_root: Fate,
    /// Objects that are new in it.
    pub(super) added: u64,
    /// Objects that are gone from it.
    pub(super) removed: u64,
}

/// Whether a node of the old tree is in the new one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// At its place, or, as a leaf, at another.
    Stays,
    /// Replaced or removed.
    Leaves,
}

/// A changed key and what happens to it, as the pass splits them.
type Changed<'c> = (&'c Key, &'c Change);

/// A place of the old tree.
#[derive(Clone, Copy)]
struct Place {
    depth: usize,
    above: Above,
}

/// What stands at a place after the pass.
pub(super) struct Stands {
    pub(super) now: Option<Child>,
    pub(super) old: Fate,
}

/// The pass over one tree.
pub(super) struct TreePass<'s, 'a> {
    pub(super) session: &'s mut Session<'a>,
    pub(super) added: u64,
    pub(super) removed: u64,
}

impl<'s, 'a> TreePass<'s, 'a> {
    /// Applies changes to the tree under `root`.
    pub(super) fn run(
        session: &'s mut Session<'a>,
        root: StateRoot,
        origin: Origin,
        changes: &Changes,
    ) -> Result<Outcome, TreeError> {
        let changes: Vec<Changed<'_>> = changes.0.iter().collect();
        let unchanged = Outcome { root, old_root: Fate::Stays, added: 0, removed: 0 };
        if changes.is_empty() {
            return Ok(unchanged);
        }
        session.check_nesting()?;
        let above = match origin {
            Origin::Global => Above { replaced: None, below_adoption: false },
            Origin::Adopted => Above { replaced: None, below_adoption: true },
            Origin::Embedded(above) => above,
        };
        let mut pass = Self { session, added: 0, removed: 0 };
        let place = Place { depth: 0, above };
        let stands = match root.node() {
            None => pass.empty(place, &changes)?,
            Some(hash) => pass.occupied(hash, None, place, &changes)?,
        };
        let root = StateRoot::new(stands.now.map_or(PLACEHOLDER, |child| child.hash));
        Ok(Outcome { root, old_root: stands.old, added: pass.added, removed: pass.removed })
    }

    /// A place that was empty.
    fn empty(&mut self, place: Place, changes: &[Changed<'_>]) -> Result<Stands, TreeError> {
        let mut leaves = Vec::new();
        for (key, change) in changes {
            leaves.extend(self.leaf(key, change, None, place.above)?.now.map(|child| (**key, child)));
        }
        Ok(Stands { now: self.grow(&leaves, place.depth)?, old: Fate::Leaves })
    }

    /// A place that had a node.
    fn occupied(
        &mut self,
        hash: NodeHash,
        expected: Option<ChildKind>,
        place: Place,
        changes: &[Changed<'_>],
    ) -> Result<Stands, TreeError> {
        let bytes = read::fetch(&hash, self.session.reader)?;
        match read::decode(&hash, &bytes, expected)? {
            NodeView::Leaf(leaf) => self.beside_leaf(Held { hash, leaf }, place, changes),
            NodeView::Internal(node) => self.through(hash, node, place, changes),
        }
    }

    /// A place that had a leaf: whatever is put beside it pushes it down, and it is not written again.
    fn beside_leaf(&mut self, held: Held<'_>, place: Place, changes: &[Changed<'_>]) -> Result<Stands, TreeError> {
        let Some((toward, _)) = changes.first() else {
            return Ok(stays(held.child()));
        };
        let own = held.leaf.key;
        read::check_place(&held.hash, &held.leaf, toward, place.depth)?;
        let mut leaves = Vec::with_capacity(changes.len() + 1);
        let mut old = Fate::Stays;
        for (key, change) in changes {
            let landed = if **key == own {
                let landed = self.leaf(key, change, Some(held), place.above)?;
                old = landed.old;
                landed
            } else {
                self.leaf(key, change, None, place.above)?
            };
            leaves.extend(landed.now.map(|child| (**key, child)));
        }
        if !changes.iter().any(|(key, _)| **key == own) {
            let at = leaves.partition_point(|(key, _)| *key < own);
            leaves.insert(at, (own, held.child()));
        }
        Ok(Stands { now: self.grow(&leaves, place.depth)?, old })
    }

    /// A place that had an internal node.
    fn through(
        &mut self,
        hash: NodeHash,
        node: InternalView<'_>,
        place: Place,
        changes: &[Changed<'_>],
    ) -> Result<Stands, TreeError> {
        let before = self.session.log.now();
        let index = self.session.log.replace(hash, place.above);
        let below = Place { depth: place.depth + 1, above: place.above.below(index) };
        let mut slots = Slots::of(node);
        for group in changes.chunk_by(|(a, _), (b, _)| a.nibble(place.depth) == b.nibble(place.depth)) {
            let Some((key, _)) = group.first() else { continue };
            let toward = Toward { key, depth: place.depth };
            let stands = match read::child_toward(&hash, node, toward, self.session.reader)? {
                None => self.empty(below, group)?,
                Some(child) => self.occupied(child.hash, Some(child.kind), below, group)?,
            };
            slots.set(key.nibble(place.depth), stands);
        }
        if let Some((key, _)) = changes.first() {
            self.check_left_alone(node, &slots, Toward { key, depth: place.depth })?;
        }
        Ok(self.rebuild(Was { hash, index, before }, node, &slots))
    }

    /// Reads each untouched child that now stands alone where the hash of the node did not bind what it is: of two
    /// neighbours it does not cover the leaf bits, and a leaf may be pulled up only if it is one.
    fn check_left_alone(&self, node: InternalView<'_>, slots: &Slots, toward: Toward<'_>) -> Result<(), TreeError> {
        let lone = slots.now.iter().flatten().count() == 1;
        for (nibble, child) in node.children().filter(|(nibble, _)| slots.touched & (1 << nibble) == 0) {
            let beside = nibble ^ 1;
            let left = node.child(beside).is_some() && slots.is_empty(beside);
            let pulled_up = lone && child.kind == ChildKind::Leaf;
            if left || pulled_up {
                read::check_child((nibble, child), toward, self.session.reader)?;
            }
        }
        Ok(())
    }

    /// Builds the node of a place anew from what stands below it.
    fn rebuild(&mut self, was: Was, node: InternalView<'_>, slots: &Slots) -> Stands {
        let sole = self.session.is_global();
        let log = &mut self.session.log;
        let now = match Internal::join(&slots.now) {
            Joined::Nothing => None,
            Joined::Lone(leaf) => Some(leaf),
            Joined::Node(built) => {
                let child = Child { hash: built.view().hash(), kind: ChildKind::Internal };
                if child.hash == was.hash {
                    log.rewind(was.before);
                    return stays(child);
                }
                log.create(Emitted { hash: child.hash, bytes: built.encode(), sole }, was.before);
                Some(child)
            }
        };
        for (_, child) in node.children().filter(|(nibble, _)| slots.stay & (1 << nibble) != 0) {
            log.unchanged(was.index, child.hash);
        }
        Stands { now, old: Fate::Leaves }
    }

    /// Builds a tree of leaves below a place, all its internal nodes new.
    fn grow(&mut self, leaves: &[(Key, Child)], depth: usize) -> Result<Option<Child>, TreeError> {
        let [(_, first), _, ..] = leaves else {
            return Ok(leaves.first().map(|(_, child)| *child));
        };
        let before = self.session.log.now(); // the leaves were emitted earlier
        let mut slots = empty_slots();
        for group in leaves.chunk_by(|(a, _), (b, _)| a.nibble(depth) == b.nibble(depth)) {
            let nibble = group.first().and_then(|(key, _)| key.nibble(depth));
            let slot = nibble.and_then(|nibble| slots.get_mut(usize::from(nibble)));
            *slot.ok_or(TreeError::TooDeep { hash: first.hash })? = self.grow(group, depth + 1)?;
        }
        Ok(match Internal::join(&slots) {
            Joined::Nothing => None,
            Joined::Lone(leaf) => Some(leaf),
            Joined::Node(built) => {
                let child = Child { hash: built.view().hash(), kind: ChildKind::Internal };
                let node = Emitted { hash: child.hash, bytes: built.encode(), sole: self.session.is_global() };
                self.session.log.create(node, before);
                Some(child)
            }
        })
    }
}

/// The node a place had.
#[derive(Clone, Copy)]
struct Was {
    hash: NodeHash,
    /// Its entry among the replaced places.
    index: usize,
    /// The moment before that entry.
    before: Moment,
}

/// The children of an internal node while they change; boxed, because passes nest.
struct Slots {
    now: Box<[Option<Child>; ARITY as usize]>,
    /// Bitmap of the old children that are still in the tree.
    stay: u16,
    /// Bitmap of the nibbles that changes lead to.
    touched: u16,
}

impl Slots {
    fn of(node: InternalView<'_>) -> Self {
        let mut now = empty_slots();
        for (nibble, child) in node.children() {
            if let Some(slot) = now.get_mut(usize::from(nibble)) {
                *slot = Some(child);
            }
        }
        Self { now, stay: u16::MAX, touched: 0 }
    }

    fn is_empty(&self, nibble: u8) -> bool {
        self.now.get(usize::from(nibble)).is_none_or(Option::is_none)
    }

    fn set(&mut self, nibble: Option<u8>, stands: Stands) {
        let Some(nibble) = nibble else { return };
        self.touched |= 1 << nibble;
        if let Some(slot) = self.now.get_mut(usize::from(nibble)) {
            *slot = stands.now;
        }
        if stands.old == Fate::Leaves {
            self.stay &= !(1 << nibble);
        }
    }
}

fn empty_slots() -> Box<[Option<Child>; ARITY as usize]> {
    Box::new([None; ARITY as usize])
}

/// A place that is as it was.
fn stays(child: Child) -> Stands {
    Stands { now: Some(child), old: Fate::Stays }
}
