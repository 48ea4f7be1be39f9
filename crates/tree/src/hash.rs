//! The three names everything else is keyed by: node hash, state root, order.
//!
//! None of them has a default: a read that failed must never become "the zero root" (S14).

use std::{cmp::Ordering, fmt};

use crate::error::HexError;

/// The root of the empty tree and the hash of an absent child: 32 fixed ASCII bytes.
/// It is never stored, and it is the only hash that may legally be absent.
pub const PLACEHOLDER: NodeHash = NodeHash(*b"SPARSE_MERKLE_PLACEHOLDER_HASH\0\0");

/// The 32-byte content hash of one node, which is also its key on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeHash([u8; 32]);

impl Ord for NodeHash {
    /// By bytes; the first eight, which nearly always differ, in one step.
    fn cmp(&self, other: &Self) -> Ordering {
        self.fingerprint().cmp(&other.fingerprint()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for NodeHash {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl NodeHash {
    /// How long it is.
    pub const BYTES: usize = 32;

    /// Wraps 32 raw bytes, most significant first.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes: the key in the node family.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight bytes, big-endian: sorts like the hash itself.
    /// Equal fingerprints may only merge, never decide that a node need not be visited (I6).
    pub fn fingerprint(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Parses 64 hex digits, with or without `0x`.
    pub fn from_hex(text: &str) -> Result<Self, HexError> {
        let digits = text.strip_prefix("0x").map_or(text, |rest| rest);
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| HexError { text: text.chars().take(80).collect() })?;
        Ok(Self(bytes))
    }
}

impl TryFrom<&[u8]> for NodeHash {
    type Error = std::array::TryFromSliceError;

    /// Fails for every key that is not 32 bytes: a foreign row, kept (I8).
    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl fmt::Display for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeHash({self})")
    }
}

/// The root of one committed state. Unlike a [`NodeHash`] it may be the placeholder: the empty state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateRoot(NodeHash);

impl StateRoot {
    /// The state without any object.
    pub const EMPTY: Self = Self(PLACEHOLDER);

    /// Wraps a hash that some record names as a root.
    pub const fn new(hash: NodeHash) -> Self {
        Self(hash)
    }

    /// The hash as recorded, placeholder included.
    pub const fn hash(&self) -> NodeHash {
        self.0
    }

    /// The root node to read, or nothing when the state is empty.
    pub fn node(&self) -> Option<NodeHash> {
        (self.0 != PLACEHOLDER).then_some(self.0)
    }
}

impl fmt::Display for StateRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StateRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateRoot({self})")
    }
}

/// The position of one committed change in history (Rooch: transaction order; reference chain: block height).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u64);

impl Order {
    /// The first order of every chain.
    pub const GENESIS: Self = Self(0);

    /// Wraps a position.
    pub const fn new(position: u64) -> Self {
        Self(position)
    }

    /// The position as a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The order after this one, or nothing at the end of the number range.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// The order `distance` before this one, or nothing when history is shorter (S10: never a wrap).
    pub fn minus(self, distance: u64) -> Option<Self> {
        self.0.checked_sub(distance).map(Self)
    }

    /// The key of our own tables: eight bytes, big-endian, so that byte order is numeric order (S51).
    pub const fn to_key(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order({})", self.0)
    }
}
