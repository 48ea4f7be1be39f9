//! What one state has and another may lack, told without walking either.
//!
//! Both are read level by level from their roots, each level in sorted batches. What a level of both has is the other's, with
//! everything below it, and is not followed: two nodes with one hash have the same children, and every node that is followed
//! is hashed again. So the work follows what differs between two states and not their size.
//!
//! Contract: every node that the new state reaches is told or reached by the old one. Take the way from the new root to a
//! node and on it the first one that was not told: the one above it was followed, so it was met at its level, and what is met
//! and not told was met at that level of the old state too, which therefore has all that lies below. A node that both states
//! have at different levels is told: more than needed, never less.
//!
//! Costs: one read and one hash per node that is followed in either state, and about 100 bytes of memory.

use std::collections::{BTreeSet, HashSet};

use crate::{
    error::TreeError,
    hash::{NodeHash, StateRoot},
    layout::NodeLayout,
    walk::{NodeSource, children_of, read_all},
};

/// Nodes that are read at once.
const BATCH: usize = 4096;

/// The two states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Between {
    /// The one whose nodes are known.
    pub old: StateRoot,
    /// The one whose other nodes are asked for.
    pub new: StateRoot,
}

/// The nodes of the new state that the old one may lack, or nothing once more than `most` nodes had to be followed.
///
/// Errors: the source failed, or a node of either state is missing, malformed or under a wrong hash.
pub fn difference(
    source: &dyn NodeSource,
    layout: &dyn NodeLayout,
    between: Between,
    most: usize,
) -> Result<Option<HashSet<NodeHash>>, TreeError> {
    let level = |root: StateRoot| root.node().into_iter().collect::<BTreeSet<NodeHash>>();
    let (mut old, mut new) = (level(between.old), level(between.new));
    let (mut told, mut followed) = (HashSet::new(), 0);
    loop {
        let only_old: Vec<NodeHash> = old.difference(&new).copied().collect();
        let only_new: Vec<NodeHash> = new.difference(&old).filter(|hash| !told.contains(*hash)).copied().collect();
        followed += only_old.len() + only_new.len();
        if followed > most {
            return Ok(None);
        }
        told.extend(only_new.iter().copied());
        new = children(source, layout, &only_new)?;
        if new.is_empty() {
            return Ok(Some(told));
        }
        old = children(source, layout, &only_old)?;
    }
}

/// The children of some nodes, which are sorted.
fn children(
    source: &dyn NodeSource,
    layout: &dyn NodeLayout,
    nodes: &[NodeHash],
) -> Result<BTreeSet<NodeHash>, TreeError> {
    let (mut all, mut some) = (BTreeSet::new(), Vec::new());
    for batch in nodes.chunks(BATCH) {
        let mut failed = None;
        read_all(source, batch, &mut |hash, bytes| {
            let read = bytes.ok_or(TreeError::Missing(*hash));
            match read.and_then(|bytes| children_of(layout, hash, bytes, &mut some)) {
                Ok(()) => all.extend(some.drain(..)),
                Err(error) => failed = Some(error),
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(all)
}
