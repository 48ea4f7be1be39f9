//! `update`: changes to a state in, the new root and everything that happens to nodes out. It reads, it never writes.
//!
//! One pass per tree: down along the changed keys, which are sorted and split by nibble, and up again building nodes.
//! Only nodes of the parent state are read. A place that ends as it was leaves no trace, however much was asked for.

mod log;
mod object;
mod tree;

use crate::{
    change::Changes,
    delta::Delta,
    error::TreeError,
    hash::StateRoot,
    read::NodeReader,
    rooch::key::{Key, path_text},
    update::{
        log::Log,
        tree::{Origin, TreePass},
    },
};

/// How many trees deep changes may nest, the global tree included. With at most 64 nibbles per tree it bounds the
/// stack that an update needs; objects themselves may nest deeper.
pub const MAX_NESTING: usize = 32;

/// Applies `changes` to the state under `root`.
///
/// Errors: a change names an object that the parent state does not have; the changes nest deeper than
/// [`MAX_NESTING`]; an object cannot be encoded; a node cannot be read or is not what its place requires.
pub fn update(root: StateRoot, changes: &Changes, reader: &dyn NodeReader) -> Result<Delta, TreeError> {
    let mut session = Session { parent: root, reader, log: Log::default(), path: Vec::new() };
    let outcome = TreePass::run(&mut session, root, Origin::Global, changes)?;
    Ok(session.log.into_delta(root, outcome.root))
}

/// What all trees of one update share.
struct Session<'a> {
    parent: StateRoot,
    reader: &'a dyn NodeReader,
    log: Log,
    /// The keys of the objects whose fields are being updated.
    path: Vec<Key>,
}

impl Session<'_> {
    /// The path of one object in the tree being updated, for errors.
    fn name(&self, key: &Key) -> String {
        let keys: Vec<Key> = self.path.iter().chain([key]).copied().collect();
        path_text(&keys)
    }

    fn check_nesting(&self) -> Result<(), TreeError> {
        if self.path.len() < MAX_NESTING {
            return Ok(());
        }
        Err(TreeError::NestedTooDeep { path: path_text(&self.path), limit: MAX_NESTING })
    }
}
