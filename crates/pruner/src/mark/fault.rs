//! From what a traversal met to what the operator reads: the fault, with the path from a retained root (I11).

use std::num::NonZeroUsize;

use state_store::StoreError;
use state_tree::{NodeHash, Search, StateRoot, TreeError, find_path};

use crate::{error::PruneError, mark::source::ViewSource};

/// Bytes that a search for a path needs per node it looked at.
const SEARCH_BYTES: u64 = 128;

/// Finds the way from a retained root to a faulty node.
pub(crate) struct Locator<'a> {
    /// Where nodes are read.
    pub(crate) source: ViewSource<'a>,
    /// The format of the nodes.
    pub(crate) layout: &'a dyn state_tree::NodeLayout,
    /// The retained roots.
    pub(crate) roots: &'a [StateRoot],
    /// Bytes of memory a search may use.
    pub(crate) budget: u64,
}

impl Locator<'_> {
    /// Gives the error its final form: a fault of a node gets its path, an error of ours comes out of its wrapping.
    pub(crate) fn lift(&self, error: TreeError) -> PruneError {
        if let TreeError::Missing(hash) = error {
            return PruneError::MissingLiveNode { hash, path: self.path(&hash) };
        }
        if let TreeError::WrongHash { key, actual } = error {
            return PruneError::WrongHash { hash: key, actual, path: self.path(&key) };
        }
        if let TreeError::Malformed { hash, source } = error {
            return PruneError::BadNode { hash, fault: source, path: self.path(&hash) };
        }
        unwrap(error)
    }

    /// From a retained root down to the node; empty when the search failed, for the fault itself matters more.
    pub(crate) fn path(&self, hash: &NodeHash) -> Vec<NodeHash> {
        let limit = usize::try_from(self.budget / SEARCH_BYTES).map_or(usize::MAX, |limit| limit);
        let search =
            Search { source: &self.source, layout: self.layout, limit: NonZeroUsize::MIN.saturating_add(limit) };
        match find_path(self.roots, hash, search) {
            Ok(Some(path)) => path,
            Ok(None) => Vec::new(),
            Err(error) => {
                tracing::warn!(%hash, %error, "the path to a faulty node was not found");
                Vec::new()
            }
        }
    }
}

/// Takes an error of ours out of the box that the tree carried it in.
pub(crate) fn unwrap(error: TreeError) -> PruneError {
    if let TreeError::ReadBatch { source, nodes } = error {
        return unbox(source, |source| TreeError::ReadBatch { nodes, source });
    }
    if let TreeError::WorkList { source } = error {
        return unbox(source, |source| TreeError::WorkList { source });
    }
    PruneError::Tree(error)
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

fn unbox(source: Boxed, back: impl FnOnce(Boxed) -> TreeError) -> PruneError {
    match source.downcast::<PruneError>() {
        Ok(error) => *error,
        Err(source) => match source.downcast::<StoreError>() {
            Ok(error) => PruneError::Store(*error),
            Err(source) => PruneError::Tree(back(source)),
        },
    }
}
