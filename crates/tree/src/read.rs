//! Reads one object by its path: the keys from the global tree down through nested fields trees.
//!
//! Every node read is hashed again and compared with its key; a node that is absent, malformed or out of place is an
//! error and never "no such object" (S5, S7, S45).

use crate::{
    error::TreeError,
    hash::{NodeHash, StateRoot},
    rooch::{
        key::{Key, NIBBLES},
        node::{Child, ChildKind, InternalView, LeafView, NodeView},
        object::ObjectState,
    },
};

/// Reads single nodes of one state.
pub trait NodeReader {
    /// The bytes stored under `hash`, or nothing when there are none.
    ///
    /// Errors: the read failed, so nothing is known.
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>>;
}

/// The object at `path` in the state under `root`, or nothing when the state has none.
///
/// Errors: an empty path; a node that cannot be read or is not what its place requires.
pub fn get(root: StateRoot, path: &[Key], reader: &dyn NodeReader) -> Result<Option<ObjectState>, TreeError> {
    let mut tree = root;
    let mut found = None;
    for key in path {
        found = object_in(tree, key, reader)?;
        let Some(object) = &found else { return Ok(None) };
        tree = object.fields();
    }
    found.map(Some).ok_or(TreeError::EmptyPath)
}

/// The object with `key` in one tree.
fn object_in(tree: StateRoot, key: &Key, reader: &dyn NodeReader) -> Result<Option<ObjectState>, TreeError> {
    let Some(hash) = tree.node() else { return Ok(None) };
    let mut expected = None;
    let mut next = hash;
    for depth in 0..=NIBBLES {
        let bytes = fetch(&next, reader)?;
        let child = match decode(&next, &bytes, expected)? {
            NodeView::Leaf(leaf) => return object_of(&next, leaf, key, depth),
            NodeView::Internal(node) => child_toward(&next, node, Toward { key, depth }, reader)?,
        };
        let Some(Child { hash, kind }) = child else { return Ok(None) };
        (next, expected) = (hash, Some(kind));
    }
    Err(TreeError::TooDeep { hash: next })
}

/// The object in a leaf that stands where `key` would be.
fn object_of(hash: &NodeHash, leaf: LeafView<'_>, key: &Key, depth: usize) -> Result<Option<ObjectState>, TreeError> {
    check_place(hash, &leaf, key, depth)?;
    if leaf.key != *key {
        return Ok(None);
    }
    object_state(hash, leaf).map(Some)
}

/// Reads a node that a tree needs.
pub(crate) fn fetch(hash: &NodeHash, reader: &dyn NodeReader) -> Result<Vec<u8>, TreeError> {
    let read = reader.node(hash).map_err(|source| TreeError::Read { hash: *hash, source })?;
    read.ok_or(TreeError::Missing(*hash))
}

/// Decodes a node, hashes it again, and checks it against the reference that led to it.
pub(crate) fn decode<'a>(
    hash: &NodeHash,
    bytes: &'a [u8],
    expected: Option<ChildKind>,
) -> Result<NodeView<'a>, TreeError> {
    let view = NodeView::decode(bytes).map_err(|source| TreeError::Malformed { hash: *hash, source })?;
    let actual = view.hash();
    if actual != *hash {
        return Err(TreeError::WrongHash { key: *hash, actual });
    }
    if expected.is_some_and(|kind| kind != view.kind()) {
        return Err(TreeError::WrongKind { hash: *hash });
    }
    Ok(view)
}

/// A place on the way of a key: `depth` nibbles down.
#[derive(Clone, Copy)]
pub(crate) struct Toward<'k> {
    pub(crate) key: &'k Key,
    pub(crate) depth: usize,
}

/// The child of a node on the way of a key. The bitmap of the node is not taken at its word where its hash does not
/// bind it: "no child" depends on where the leaf alone in the run around it really is, so that leaf is read.
///
/// Errors: the node is below the last nibble of the key; that leaf cannot be read or is not where the node says.
pub(crate) fn child_toward(
    hash: &NodeHash,
    node: InternalView<'_>,
    toward: Toward<'_>,
    reader: &dyn NodeReader,
) -> Result<Option<Child>, TreeError> {
    let nibble = toward.key.nibble(toward.depth).ok_or(TreeError::TooDeep { hash: *hash })?;
    let child = node.child(nibble);
    if let (None, Some(leaf)) = (child, node.decides(nibble)) {
        check_child(leaf, toward, reader)?;
    }
    Ok(child)
}

/// Reads a child of the node at a place and refuses it unless it is of the kind, and if it is a leaf at the nibble,
/// that the node says.
pub(crate) fn check_child(
    (nibble, child): (u8, Child),
    toward: Toward<'_>,
    reader: &dyn NodeReader,
) -> Result<(), TreeError> {
    let bytes = fetch(&child.hash, reader)?;
    let NodeView::Leaf(leaf) = decode(&child.hash, &bytes, Some(child.kind))? else { return Ok(()) };
    check_place(&child.hash, &leaf, toward.key, toward.depth)?;
    if leaf.key.nibble(toward.depth) == Some(nibble) { Ok(()) } else { Err(TreeError::Misplaced { hash: child.hash }) }
}

/// Refuses a leaf whose key does not lead to its place, which is `depth` nibbles down the way of `toward`.
pub(crate) fn check_place(hash: &NodeHash, leaf: &LeafView<'_>, toward: &Key, depth: usize) -> Result<(), TreeError> {
    if leaf.key.common_bits(toward) < depth * 4 { Err(TreeError::Misplaced { hash: *hash }) } else { Ok(()) }
}

/// The object in a leaf.
pub(crate) fn object_state(hash: &NodeHash, leaf: LeafView<'_>) -> Result<ObjectState, TreeError> {
    ObjectState::decode(leaf.value).map_err(|source| TreeError::Malformed { hash: *hash, source })
}
