//! What can be wrong with bytes, hashes and trees. Every variant is a fact about input, none is a guess.

use thiserror::Error;

use crate::hash::NodeHash;

/// Text that is not 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a hash: 64 hex digits are expected")]
pub struct HexError {
    /// What was given, cut to 80 characters.
    pub text: String,
}

/// Bytes that are not a node. A malformed node is never "a node without children" (S5).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NodeError {
    /// No bytes at all.
    #[error("the node is empty")]
    Empty,
    /// A first byte that names no kind of node.
    #[error("unknown node tag {0:#04x}")]
    UnknownTag(u8),
    /// Fewer bytes than the header promises.
    #[error("the node ends after {got} bytes, {need} are needed")]
    Short {
        /// Bytes needed.
        need: usize,
        /// Bytes present.
        got: usize,
    },
    /// Bytes after the end of the node, which no hash covers.
    #[error("{0} bytes follow the end of the node")]
    Trailing(usize),
    /// An internal node without a child.
    #[error("an internal node has no child")]
    NoChild,
    /// A leaf bit for a child that does not exist.
    #[error("leaf bits {leaf:#06x} lie outside the existing children {exist:#06x}")]
    LeafOutsideExist {
        /// The bitmap of existing children.
        exist: u16,
        /// The bitmap of children that are leaves.
        leaf: u16,
    },
    /// A single child that is a leaf: such a node is never written, the leaf is pulled up.
    #[error("the only child of an internal node is a leaf")]
    LoneLeaf,
    /// The null node, which is legal as an encoding and never stored.
    #[error("the null node is stored")]
    StoredNull,
    /// A field of the leaf that does not parse.
    #[error("leaf field `{field}` is malformed at byte {at}")]
    Field {
        /// The name of the field in the format.
        field: &'static str,
        /// Offset from the start of the bytes given.
        at: usize,
    },
}

/// A node that a tree needs and that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A node under a root is absent.
    #[error("node {0} is missing")]
    Missing(NodeHash),
    /// A node under a root does not decode.
    #[error("node {hash} does not decode: {source}")]
    Malformed {
        /// The key it was read under.
        hash: NodeHash,
        /// What is wrong with it.
        source: NodeError,
    },
    /// A node under a root hashes to something else than its key.
    #[error("node {key} hashes to {actual}")]
    WrongHash {
        /// The key it was read under.
        key: NodeHash,
        /// What its bytes hash to.
        actual: NodeHash,
    },
    /// The reader failed; nothing is known about the node.
    #[error("node {hash} could not be read: {source}")]
    Read {
        /// The node asked for.
        hash: NodeHash,
        /// What the reader reported.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A change names an object that the parent state does not have.
    #[error("the parent state has no object at {path}")]
    NoSuchObject {
        /// The keys from the global tree down, in hex, separated by `/`.
        path: String,
    },
    /// A reference says leaf where an internal node is, or the reverse.
    #[error("node {hash} is not of the kind that its parent says")]
    WrongKind {
        /// The node.
        hash: NodeHash,
    },
    /// A leaf whose key does not lead to the place it is at.
    #[error("leaf {hash} is not where its key leads")]
    Misplaced {
        /// The leaf.
        hash: NodeHash,
    },
    /// An internal node below the last nibble of every key.
    #[error("internal node {hash} lies below the last nibble of its keys")]
    TooDeep {
        /// The node.
        hash: NodeHash,
    },
    /// A path without any key: the root object has no leaf.
    #[error("an object path needs at least one key")]
    EmptyPath,
    /// Changes nest deeper than an update follows.
    #[error("the changes nest deeper than {limit} objects at {path}")]
    NestedTooDeep {
        /// The keys from the global tree down, in hex, separated by `/`.
        path: String,
        /// The deepest nesting allowed.
        limit: usize,
    },
    /// A new object that the format cannot express.
    #[error("the object at {path} cannot be encoded: {source}")]
    Unencodable {
        /// The keys from the global tree down, in hex, separated by `/`.
        path: String,
        /// What does not fit.
        source: NodeError,
    },
    /// An object says it has fewer fields than its tree just lost, or more than can be counted.
    #[error("the object at {path} counts {recorded} fields, which its tree contradicts")]
    FieldCount {
        /// The keys from the global tree down, in hex, separated by `/`.
        path: String,
        /// The number in its metadata.
        recorded: u64,
    },
    /// A batch of nodes could not be read; nothing is known about any of them.
    #[error("a batch of {nodes} nodes could not be read: {source}")]
    ReadBatch {
        /// How many nodes were asked for.
        nodes: usize,
        /// What the source reported.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A source did not answer for exactly the nodes it was asked for.
    #[error("a node source was asked for {asked} nodes and did not answer once for each")]
    Unanswered {
        /// How many nodes were asked for.
        asked: usize,
    },
    /// The work list failed, so the walk cannot know what is left to visit.
    #[error("the work list of a walk failed: {source}")]
    WorkList {
        /// What the list reported.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A search for a path gave up at its bound.
    #[error("no path was found within {visited} nodes")]
    SearchLimit {
        /// How many nodes were looked at.
        visited: usize,
    },
}
