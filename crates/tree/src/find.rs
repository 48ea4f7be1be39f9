//! Names the way from a root to one node, whose own bytes may be missing: how a fault is reported (S7, I11).

use std::{collections::HashMap, num::NonZeroUsize};

use crate::{
    error::TreeError,
    hash::{NodeHash, StateRoot},
    layout::NodeLayout,
    walk::NodeSource,
};

/// Nodes asked for at once: enough for a source to read them side by side.
const BATCH: usize = 256;

/// Where and how far to look for a node.
#[derive(Clone, Copy)]
pub struct Search<'a> {
    /// Where nodes are read.
    pub source: &'a dyn NodeSource,
    /// The format of the nodes.
    pub layout: &'a dyn NodeLayout,
    /// How many nodes may be remembered, at about 100 bytes each.
    pub limit: NonZeroUsize,
}

/// The hashes from a root down to `target`, both included, or nothing when no root reaches it.
///
/// Nodes that are themselves missing or malformed are passed over: this names a fault, it proves nothing.
///
/// Errors: the source failed, or the limit was reached before the node was found.
pub fn find_path(
    roots: &[StateRoot],
    target: &NodeHash,
    search: Search<'_>,
) -> Result<Option<Vec<NodeHash>>, TreeError> {
    let mut above: HashMap<NodeHash, Option<NodeHash>> = HashMap::new();
    let mut waiting = Vec::new();
    for root in roots.iter().filter_map(StateRoot::node) {
        if above.insert(root, None).is_none() {
            waiting.push(root);
        }
    }
    while !waiting.is_empty() && !above.contains_key(target) {
        if above.len() > search.limit.get() {
            return Err(TreeError::SearchLimit { visited: above.len() });
        }
        let batch = waiting.split_off(waiting.len().saturating_sub(BATCH));
        for (parent, child) in edges(&batch, &search)? {
            above.entry(child).or_insert_with(|| {
                waiting.push(child);
                Some(parent)
            });
        }
    }
    Ok(above.contains_key(target).then(|| ascend(&above, *target)))
}

/// The references that leave the nodes of a batch.
fn edges(batch: &[NodeHash], search: &Search<'_>) -> Result<Vec<(NodeHash, NodeHash)>, TreeError> {
    let mut edges = Vec::new();
    let mut children = Vec::new();
    search.source.read(batch, &mut |index, bytes| {
        let (Some(parent), Some(bytes)) = (batch.get(index), bytes) else {
            return;
        };
        children.clear();
        if search.layout.children(bytes, &mut children).is_ok() {
            edges.extend(children.iter().map(|child| (*parent, *child)));
        }
    })?;
    Ok(edges)
}

fn ascend(above: &HashMap<NodeHash, Option<NodeHash>>, target: NodeHash) -> Vec<NodeHash> {
    let mut path = vec![target];
    let mut at = target;
    while let Some(Some(parent)) = above.get(&at) {
        path.push(*parent);
        at = *parent;
    }
    path.reverse();
    path
}
