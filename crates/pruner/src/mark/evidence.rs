//! The evidence that a mark is complete. It is made here and by no cast, default or literal elsewhere (I7).

use state_tree::CompleteWalk;

use crate::mark::graph::Traversed;

/// Every retained root was walked to its end and no node was missing, undecodable or under a wrong hash.
#[derive(Debug)]
pub(crate) struct AllRootsWalked {
    live_nodes: u64,
}

impl AllRootsWalked {
    /// The walks from the roots, each from where those before it had been, ended without a fault; an earlier process had
    /// visited so many nodes before.
    pub(crate) fn by_walks(before: u64, walks: &[CompleteWalk]) -> Self {
        Self { live_nodes: before + walks.iter().map(|walk| walk.counts().nodes).sum::<u64>() }
    }

    /// The traversal of the scanned graph left nothing outstanding and met no fault.
    pub(crate) fn by_scan(traversed: &Traversed) -> Self {
        Self { live_nodes: traversed.live_nodes() }
    }

    /// Nodes that were reached.
    pub(crate) fn live_nodes(&self) -> u64 {
        self.live_nodes
    }

    /// Evidence out of nothing, for tests of the file alone.
    #[cfg(test)]
    pub(crate) fn assumed(live_nodes: u64) -> Self {
        Self { live_nodes }
    }
}
