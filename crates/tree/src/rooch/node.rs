//! One node of the Rooch tree: strict decoding, encoding, hash. `NodeView` borrows the bytes, `Node` owns its parts.
//!
//! Contract: `decode` accepts exactly the byte strings that `encode` produces (S4, S5). The hash does not cover
//! everything an internal node says: where only one leaf lies in a half, its nibble is not hashed, nor is the leaf
//! bit of two neighbours. Whoever needs those facts (update, get, proofs) checks them against the nodes below.

use crate::{
    error::NodeError,
    hash::{NodeHash, PLACEHOLDER},
    rooch::{
        bcs::{self, Reader},
        digest,
        key::Key,
    },
};

/// Children of an internal node.
pub const ARITY: u8 = 16;

const TAG_NULL: u8 = 0;
const TAG_INTERNAL: u8 = 1;
const TAG_LEAF: u8 = 2;

/// Tag and the two bitmaps.
const INTERNAL_HEADER: usize = 5;

/// What kind of node a child reference points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildKind {
    /// An internal node.
    Internal,
    /// A leaf.
    Leaf,
}

/// A reference from a place to the node that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// The key of the node.
    pub hash: NodeHash,
    /// What the node must be.
    pub kind: ChildKind,
}

/// A decoded node that borrows its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeView<'a> {
    /// Up to sixteen children.
    Internal(InternalView<'a>),
    /// One object.
    Leaf(LeafView<'a>),
}

/// The two bitmaps of an internal node and the hashes of its children, lowest nibble first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InternalView<'a> {
    exist: u16,
    leaf: u16,
    hashes: &'a [[u8; 32]],
}

/// The key of a leaf and its value, still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafView<'a> {
    /// The whole key, not only the part below the leaf's place.
    pub key: Key,
    /// BCS of an object state.
    pub value: &'a [u8],
}

impl<'a> NodeView<'a> {
    /// Decodes exactly one node without copying it.
    ///
    /// Errors: every byte string that no writer produces.
    #[inline(always)] // a view that is returned through memory costs a pass over a store a third of its decoding
    pub fn decode(bytes: &'a [u8]) -> Result<Self, NodeError> {
        match bytes.first() {
            None => Err(NodeError::Empty),
            Some(&TAG_NULL) => Err(NodeError::StoredNull),
            Some(&TAG_INTERNAL) => InternalView::decode(bytes).map(Self::Internal),
            Some(&TAG_LEAF) => LeafView::decode(bytes).map(Self::Leaf),
            Some(&tag) => Err(NodeError::UnknownTag(tag)),
        }
    }

    /// The hash the node is stored under.
    pub fn hash(&self) -> NodeHash {
        match self {
            Self::Internal(node) => node.hash(),
            Self::Leaf(leaf) => leaf.hash(),
        }
    }

    /// The kind that a reference to this node must name.
    pub fn kind(&self) -> ChildKind {
        match self {
            Self::Internal(_) => ChildKind::Internal,
            Self::Leaf(_) => ChildKind::Leaf,
        }
    }
}

impl<'a> InternalView<'a> {
    #[inline(always)]
    fn decode(bytes: &'a [u8]) -> Result<Self, NodeError> {
        let short = |need| NodeError::Short { need, got: bytes.len() };
        let Some(([_, e0, e1, l0, l1], rest)) = bytes.split_first_chunk::<INTERNAL_HEADER>() else {
            return Err(short(INTERNAL_HEADER));
        };
        let (exist, leaf) = (u16::from_le_bytes([*e0, *e1]), u16::from_le_bytes([*l0, *l1]));
        check_bitmaps(exist, leaf)?;
        let need = exist.count_ones() as usize;
        let (hashes, partial) = rest.as_chunks::<32>();
        if hashes.len() < need {
            return Err(short(INTERNAL_HEADER + need * 32));
        }
        if hashes.len() > need || !partial.is_empty() {
            return Err(NodeError::Trailing(rest.len() - need * 32));
        }
        Ok(Self { exist, leaf, hashes })
    }

    /// The children, lowest nibble first.
    pub fn children(&self) -> impl Iterator<Item = (u8, Child)> + use<'a> {
        let (exist, leaf) = (self.exist, self.leaf);
        let nibbles = (0..ARITY).filter(move |nibble| exist & (1 << nibble) != 0);
        nibbles.zip(self.hashes).map(move |(nibble, hash)| (nibble, child(hash, leaf & (1 << nibble))))
    }

    /// The hashes of the children, lowest nibble first.
    pub(crate) fn hashes(&self) -> &'a [[u8; 32]] {
        self.hashes
    }

    /// The child at a nibble.
    pub fn child(&self, nibble: u8) -> Option<Child> {
        let bit = 1u16.checked_shl(u32::from(nibble))?;
        if self.exist & bit == 0 {
            return None;
        }
        let before = (self.exist & (bit - 1)).count_ones() as usize;
        self.hashes.get(before).map(|hash| child(hash, self.leaf & bit))
    }

    /// The hash the node is stored under.
    pub fn hash(&self) -> NodeHash {
        NodeHash::new(self.range(0, ARITY))
    }

    /// f(start, width) of the format: the hash of a run of slots seen as a binary tree.
    fn range(&self, start: u8, width: u8) -> [u8; 32] {
        let present = self.exist & slots(start, width);
        if present == 0 {
            return *PLACEHOLDER.as_bytes();
        }
        if let Some(only) = self.shortcut(present, width).and_then(|nibble| self.child(nibble)) {
            return *only.hash.as_bytes();
        }
        let half = width / 2;
        digest::pair(&self.range(start, half), &self.range(start + half, half))
    }

    /// The nibble of the child that stands for a whole run of slots: the only one there, if it is a leaf or the run is
    /// one slot.
    fn shortcut(&self, present: u16, width: u8) -> Option<u8> {
        let alone = present.is_power_of_two() && (width == 1 || self.leaf & present != 0);
        alone.then(|| present.trailing_zeros() as u8)
    }

    /// Goes down the binary tree of the node toward `nibble`, showing the run beside each step, until it meets an
    /// empty run (nothing) or a child, which may lie at another nibble if it is a leaf alone in its run.
    fn toward(&self, nibble: u8, mut beside: impl FnMut(u8, u8)) -> Option<(u8, Child)> {
        let (mut start, mut width) = (0, ARITY);
        loop {
            let present = self.exist & slots(start, width);
            if present == 0 {
                return None;
            }
            if let Some(only) = self.shortcut(present, width) {
                return self.child(only).map(|child| (only, child));
            }
            width /= 2;
            let upper = start + width;
            let (chosen, other) = if nibble >= upper { (upper, start) } else { (start, upper) };
            beside(other, width);
            start = chosen;
        }
    }

    /// Goes down toward `nibble`, appending the hash beside each step: the way of a proof.
    pub(crate) fn descend(&self, nibble: u8, beside: &mut Vec<NodeHash>) -> Option<Child> {
        let found = self.toward(nibble, |start, width| beside.push(NodeHash::new(self.range(start, width))));
        found.map(|(_, child)| child)
    }

    /// The leaf, with the nibble it is said to be at, whose place decides whether `nibble` is really empty: the one
    /// that stands for the run around it. Nothing if the hash of the node shows that the nibble is empty.
    pub(crate) fn decides(&self, nibble: u8) -> Option<(u8, Child)> {
        self.toward(nibble, |_, _| ())
    }
}

impl<'a> LeafView<'a> {
    #[inline(always)]
    fn decode(bytes: &'a [u8]) -> Result<Self, NodeError> {
        let mut reader = Reader::new(bytes);
        reader.byte()?;
        let key = Key::new(reader.hash_text("key")?);
        let value = reader.sized("value")?;
        reader.finish()?;
        Ok(Self { key, value })
    }

    /// The hash the node is stored under: it covers the 32-byte key, not its text.
    pub fn hash(&self) -> NodeHash {
        NodeHash::new(digest::pair(self.key.as_bytes(), &digest::tagged(self.value)))
    }
}

/// A decoded node that owns its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Up to sixteen children.
    Internal(Internal),
    /// One object.
    Leaf(Leaf),
}

/// The children of an internal node, legal by construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Internal {
    exist: u16,
    leaf: u16,
    hashes: Vec<[u8; 32]>,
}

/// What the children of one place come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// There are none: the place is empty.
    Nothing,
    /// There is only a leaf, which takes the place itself.
    Lone(Child),
    /// An internal node.
    Node(Internal),
}

/// A key and the encoded object state under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The whole key.
    pub key: Key,
    /// BCS of an object state.
    pub value: Vec<u8>,
}

impl Node {
    /// Decodes exactly one node.
    ///
    /// Errors: every byte string that no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, NodeError> {
        NodeView::decode(bytes).map(|view| match view {
            NodeView::Internal(InternalView { exist, leaf, hashes }) => {
                Self::Internal(Internal { exist, leaf, hashes: hashes.to_vec() })
            }
            NodeView::Leaf(LeafView { key, value }) => Self::Leaf(Leaf { key, value: value.to_vec() }),
        })
    }

    /// The bytes to store.
    ///
    /// Errors: a value longer than BCS can express.
    pub fn encode(&self) -> Result<Vec<u8>, NodeError> {
        match self {
            Self::Internal(node) => Ok(node.encode()),
            Self::Leaf(leaf) => leaf.encode(),
        }
    }

    /// The hash the node is stored under.
    pub fn hash(&self) -> NodeHash {
        match self {
            Self::Internal(node) => node.view().hash(),
            Self::Leaf(leaf) => leaf.view().hash(),
        }
    }
}

impl Internal {
    /// What the children of one place come to: nothing, a lone leaf that is pulled up, or a node.
    pub fn join(slots: &[Option<Child>; ARITY as usize]) -> Joined {
        let present = (0..ARITY).zip(slots).filter_map(|(nibble, slot)| slot.as_ref().map(|child| (nibble, child)));
        let (mut exist, mut leaf, mut hashes) = (0u16, 0u16, Vec::new());
        let mut lone = None;
        for (nibble, child) in present {
            exist |= 1 << nibble;
            match child.kind {
                ChildKind::Leaf => leaf |= 1 << nibble,
                ChildKind::Internal => {}
            }
            hashes.push(*child.hash.as_bytes());
            lone = Some(*child);
        }
        match (check_bitmaps(exist, leaf), lone) {
            (Ok(()), _) => Joined::Node(Self { exist, leaf, hashes }),
            (Err(_), Some(child)) => Joined::Lone(child),
            (Err(_), None) => Joined::Nothing,
        }
    }

    /// The same node as a view.
    pub fn view(&self) -> InternalView<'_> {
        InternalView { exist: self.exist, leaf: self.leaf, hashes: &self.hashes }
    }

    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(INTERNAL_HEADER + self.hashes.len() * 32);
        bytes.push(TAG_INTERNAL);
        bytes.extend_from_slice(&self.exist.to_le_bytes());
        bytes.extend_from_slice(&self.leaf.to_le_bytes());
        bytes.extend_from_slice(self.hashes.as_flattened());
        bytes
    }
}

impl Leaf {
    /// The same leaf as a view.
    pub fn view(&self) -> LeafView<'_> {
        LeafView { key: self.key, value: &self.value }
    }

    /// The bytes to store.
    ///
    /// Errors: a value longer than BCS can express.
    pub fn encode(&self) -> Result<Vec<u8>, NodeError> {
        let mut bytes = Vec::with_capacity(1 + bcs::HASH_TEXT + 5 + self.value.len());
        bytes.push(TAG_LEAF);
        bcs::put_hash_text(&mut bytes, self.key.as_bytes());
        bcs::put_sized(&mut bytes, &self.value, "value")?;
        Ok(bytes)
    }
}

/// The rules that both bitmaps of an internal node keep.
fn check_bitmaps(exist: u16, leaf: u16) -> Result<(), NodeError> {
    if exist == 0 {
        return Err(NodeError::NoChild);
    }
    if leaf & !exist != 0 {
        return Err(NodeError::LeafOutsideExist { exist, leaf });
    }
    if exist.is_power_of_two() && leaf != 0 {
        return Err(NodeError::LoneLeaf);
    }
    Ok(())
}

/// The bitmap of `width` slots from `start`.
fn slots(start: u8, width: u8) -> u16 {
    (u16::MAX >> (ARITY - width)) << start
}

fn child(hash: &[u8; 32], leaf_bit: u16) -> Child {
    let kind = if leaf_bit == 0 { ChildKind::Internal } else { ChildKind::Leaf };
    Child { hash: NodeHash::new(*hash), kind }
}
