//! Proofs that an object is, or is not, in the state under a root, checked without any store.
//!
//! A proof follows the binary tree that the node hash is defined over, because the encoding of an internal node says
//! more than its hash covers: with node encodings as steps, a shifted bitmap would "prove" that a present key is absent.
//! One segment per tree on the path. A segment is the 32-byte hash beside each step, from the root down, then where
//! the steps end: the encoding of the leaf there, or nothing when the run is empty. The path fixes every byte.
//!
//! The format has one tag for pairs and leaves. A leaf cannot pass for a pair or a pair for a leaf as long as object
//! values are longer than 64 bytes, which they are, and nobody can choose a key that is the tagged hash of a pair:
//! chains must derive keys by another hash.

use thiserror::Error;

use crate::{
    error::{NodeError, TreeError},
    hash::{NodeHash, PLACEHOLDER, StateRoot},
    read::{self, NodeReader},
    rooch::{
        self,
        key::{Key, NIBBLES},
        node::{LeafView, NodeView},
        object::ObjectState,
    },
};

/// The evidence for one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Per tree on the path: the hashes beside each step from the root down, then the leaf or an empty string.
    pub segments: Vec<Vec<Vec<u8>>>,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProofError {
    /// A path without any key: the root object has no leaf.
    #[error("an object path needs at least one key")]
    EmptyPath,
    /// Fewer or more segments than the path needs.
    #[error("the proof has {got} trees where its path ends after {need}")]
    Segments {
        /// How many the path goes through.
        need: usize,
        /// How many there are.
        got: usize,
    },
    /// A segment that is empty, longer than a key, or has a step that is not a hash.
    #[error("step {step} of tree {tree} is malformed")]
    Step {
        /// Which segment.
        tree: usize,
        /// Which of its items.
        step: usize,
    },
    /// A segment that leads to another root.
    #[error("tree {tree} has root {expected}, the proof leads to {actual}")]
    WrongRoot {
        /// Which segment.
        tree: usize,
        /// The root that the state or the object above commits to.
        expected: NodeHash,
        /// The root that the proof computes.
        actual: NodeHash,
    },
    /// A leaf that cannot be at the end of its steps.
    #[error("the leaf of tree {tree} is not on the path")]
    Misplaced {
        /// Which segment.
        tree: usize,
    },
    /// A leaf that does not decode.
    #[error("the leaf of tree {tree} does not decode: {source}")]
    Malformed {
        /// Which segment.
        tree: usize,
        /// What is wrong with it.
        source: NodeError,
    },
}

/// The evidence that the state under `root` has, or does not have, an object at `path`.
///
/// Errors: an empty path; a node that cannot be read or is not what its place requires.
pub fn prove(root: StateRoot, path: &[Key], reader: &dyn NodeReader) -> Result<Proof, TreeError> {
    if path.is_empty() {
        return Err(TreeError::EmptyPath);
    }
    let mut tree = root;
    let mut segments = Vec::with_capacity(path.len());
    for key in path {
        let (segment, fields) = prove_in(tree, key, reader)?;
        segments.push(segment);
        let Some(fields) = fields else { break };
        tree = fields;
    }
    Ok(Proof { segments })
}

/// The segment for one tree, and the fields of the object if it is there.
fn prove_in(
    tree: StateRoot,
    key: &Key,
    reader: &dyn NodeReader,
) -> Result<(Vec<Vec<u8>>, Option<StateRoot>), TreeError> {
    let mut beside = Vec::new();
    let Some(hash) = tree.node() else {
        return Ok((segment(&beside, Vec::new()), None));
    };
    let (mut next, mut expected) = (hash, None);
    for depth in 0..=NIBBLES {
        let bytes = read::fetch(&next, reader)?;
        let view = read::decode(&next, &bytes, expected)?;
        let node = match view {
            NodeView::Leaf(leaf) => {
                if leaf.key.common_bits(key) < beside.len() {
                    return Err(TreeError::Misplaced { hash: next });
                }
                let present = leaf.key == *key;
                let object = read::object_state(&next, leaf)?;
                return Ok((segment(&beside, bytes), present.then(|| object.fields())));
            }
            NodeView::Internal(node) => node,
        };
        let Some(nibble) = key.nibble(depth) else { break };
        match node.descend(nibble, &mut beside) {
            None => return Ok((segment(&beside, Vec::new()), None)),
            Some(child) => (next, expected) = (child.hash, Some(child.kind)),
        }
    }
    Err(TreeError::TooDeep { hash: next })
}

fn segment(beside: &[NodeHash], end: Vec<u8>) -> Vec<Vec<u8>> {
    let mut items: Vec<Vec<u8>> = beside.iter().map(|hash| hash.as_bytes().to_vec()).collect();
    items.push(end);
    items
}

impl Proof {
    /// The object at `path` in the state under `root`, or nothing when the proof shows that there is none.
    ///
    /// Errors: the proof is not exactly the evidence for this root and this path.
    pub fn verify(&self, root: StateRoot, path: &[Key]) -> Result<Option<ObjectState>, ProofError> {
        let mut tree = root;
        let mut found = None;
        for (index, key) in path.iter().enumerate() {
            let segments = ProofError::Segments { need: index + 1, got: self.segments.len() };
            let segment = self.segments.get(index).ok_or_else(|| segments.clone())?;
            found = verify_in(index, tree, key, segment)?;
            let Some(object) = &found else {
                return if self.segments.len() == index + 1 { Ok(None) } else { Err(segments) };
            };
            tree = object.fields();
        }
        if self.segments.len() != path.len() {
            return Err(ProofError::Segments { need: path.len(), got: self.segments.len() });
        }
        found.map(Some).ok_or(ProofError::EmptyPath)
    }
}

/// The object with `key` in the tree that one segment describes.
fn verify_in(tree: usize, root: StateRoot, key: &Key, segment: &[Vec<u8>]) -> Result<Option<ObjectState>, ProofError> {
    let Some((end, steps)) = segment.split_last() else {
        return Err(ProofError::Step { tree, step: 0 });
    };
    let (mut hash, found) = if end.is_empty() { (PLACEHOLDER, None) } else { leaf_at(tree, key, end, steps.len())? };
    for (step, item) in steps.iter().enumerate().rev() {
        let malformed = ProofError::Step { tree, step };
        let (Ok(beside), Some(bit)) = (NodeHash::try_from(item.as_slice()), key.bit(step)) else {
            return Err(malformed);
        };
        let (left, right) = if bit == 0 { (hash, beside) } else { (beside, hash) };
        hash = NodeHash::new(rooch::pair(left.as_bytes(), right.as_bytes()));
    }
    if hash != root.hash() {
        return Err(ProofError::WrongRoot { tree, expected: root.hash(), actual: hash });
    }
    Ok(found)
}

/// The hash of the leaf at the end of a segment, and its object if it has the key asked for.
fn leaf_at(tree: usize, key: &Key, bytes: &[u8], steps: usize) -> Result<(NodeHash, Option<ObjectState>), ProofError> {
    let malformed = |source| ProofError::Malformed { tree, source };
    let NodeView::Leaf(leaf) = NodeView::decode(bytes).map_err(malformed)? else {
        return Err(ProofError::Misplaced { tree });
    };
    if leaf.key.common_bits(key) < steps {
        return Err(ProofError::Misplaced { tree });
    }
    let object = ObjectState::decode(leaf.value).map_err(malformed)?;
    let LeafView { key: held, .. } = leaf;
    Ok((leaf.hash(), (held == *key).then_some(object)))
}
