//! `NodeLayout`: how to read a node that somebody else's format wrote. One of the two traits an embedder implements.
//!
//! Contract: both functions are pure and strict. Bytes that are not exactly one node are an error, never a node
//! without children (S5). `children` reports every outgoing edge except the placeholder, also those inside a value.

use crate::{error::NodeError, hash::NodeHash};

/// Reads nodes of one on-disk format.
pub trait NodeLayout: Send + Sync + std::fmt::Debug {
    /// The name by which the command line selects this layout.
    fn name(&self) -> &'static str;

    /// Appends the hash of each child of the node, in the order of the encoding; the placeholder is left out.
    ///
    /// Errors: whatever keeps `bytes` from being exactly one node.
    fn children(&self, bytes: &[u8], out: &mut Vec<NodeHash>) -> Result<(), NodeError>;

    /// The hash the node must be stored under.
    ///
    /// Errors: whatever keeps `bytes` from being exactly one node.
    fn hash(&self, bytes: &[u8]) -> Result<NodeHash, NodeError>;

    /// Appends the children and returns the hash, decoding the node once: what every pass over a store calls.
    ///
    /// Errors: whatever keeps `bytes` from being exactly one node; what was appended is then meaningless.
    fn read(&self, bytes: &[u8], out: &mut Vec<NodeHash>) -> Result<NodeHash, NodeError> {
        self.children(bytes, out)?;
        self.hash(bytes)
    }
}
