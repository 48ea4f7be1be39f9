//! Which retained root reaches a node, by looking at a bounded number of nodes.
//!
//! Roots are looked at one after the other, and what an earlier one reached is not read again: a node is therefore found
//! under the first root of the list that reaches it. A fault on the way is counted and ends nothing; it only means that
//! not finding proves nothing.

use std::collections::HashSet;

use state_store::View;
use state_tree::{
    NodeHash, NodeLayout, Order, Reading, Rehash, StateRoot, Step, TreeError, Visitor, Walked, WorkList, walk,
};

use crate::{control::Control, error::PruneError, mark::source::ViewSource};

/// Nodes looked at unless somebody asks for another number.
pub const LOOK_LIMIT: u64 = 100_000;

/// Nodes read at once.
const BATCH: usize = 256;

/// What a look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Looked {
    /// The root that reaches the node.
    pub(crate) found: Option<(Order, StateRoot)>,
    /// Nodes looked at.
    pub(crate) nodes: u64,
    /// Nodes on the way that could not be read.
    pub(crate) faults: u64,
    /// Whether every root was looked at to its end.
    pub(crate) everything: bool,
}

/// Looks for a node below these roots.
///
/// Errors: a read that failed.
pub(crate) fn look(
    view: &dyn View,
    layout: &dyn NodeLayout,
    roots: impl Iterator<Item = (Order, StateRoot)>,
    (target, limit): (NodeHash, u64),
) -> Result<Looked, PruneError> {
    let control = Control::default();
    let source = ViewSource { view, threads: 1, control: &control };
    let reading = Reading { layout, rehash: Rehash::Every };
    let (mut queue, mut seek) = (Queue::default(), Seek { target, limit, nodes: 0, faults: 0, found: false });
    for (order, root) in roots {
        if let Some(node) = root.node() {
            queue.push(node)?;
        }
        let walked = walk(&source, reading, &mut queue, &mut seek)?;
        let found = seek.found.then_some((order, root));
        if found.is_some() || matches!(walked, Walked::Stopped(_)) {
            return Ok(Looked { found, nodes: seek.nodes, faults: seek.faults, everything: false });
        }
    }
    Ok(Looked { found: None, nodes: seek.nodes, faults: seek.faults, everything: seek.faults == 0 })
}

/// What is to be looked at, in memory: at most the limit and the children of the nodes looked at.
#[derive(Default)]
struct Queue {
    seen: HashSet<NodeHash>,
    waiting: Vec<NodeHash>,
}

impl WorkList for Queue {
    fn push(&mut self, hash: NodeHash) -> Result<(), TreeError> {
        if self.seen.insert(hash) {
            self.waiting.push(hash);
        }
        Ok(())
    }

    fn take(&mut self, batch: &mut Vec<NodeHash>) -> Result<(), TreeError> {
        batch.clear();
        batch.extend(self.waiting.drain(self.waiting.len().saturating_sub(BATCH)..));
        batch.sort_unstable();
        Ok(())
    }
}

struct Seek {
    target: NodeHash,
    limit: u64,
    nodes: u64,
    faults: u64,
    found: bool,
}

impl Visitor for Seek {
    fn node(&mut self, hash: &NodeHash, _bytes: &[u8], children: &[NodeHash]) -> Step {
        self.nodes += 1;
        // A child that is named is reached, whether it can be read or not.
        self.found = *hash == self.target || children.contains(&self.target);
        if self.found || self.nodes >= self.limit { Step::Stop } else { Step::Descend }
    }

    fn fault(&mut self, _fault: TreeError) -> Step {
        self.faults += 1;
        Step::Skip
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::testing::{MapView, NamedLayout, hash_of as hash};

    /// Two states that share a sub-tree, and a node of neither.
    fn view() -> MapView {
        let mut view = MapView::default();
        let h = hash;
        for (node, children) in [(1, vec![3, 4]), (2, vec![4, 5]), (3, vec![]), (4, vec![6]), (5, vec![]), (6, vec![])]
        {
            view.put(h(node), &children.into_iter().map(h).collect::<Vec<_>>());
        }
        view.put(h(9), &[]);
        view
    }

    fn look_for(view: &MapView, target: u64, limit: u64) -> Looked {
        let roots = [(7, 1), (5, 2)].map(|(order, root)| (Order::new(order), StateRoot::new(hash(root))));
        look(view, &NamedLayout, roots.into_iter(), (hash(target), limit)).unwrap()
    }

    #[test]
    fn a_node_is_found_under_the_first_root_that_reaches_it() {
        let found = |target| look_for(&view(), target, 100).found.map(|(order, _)| order.get());
        assert_eq!([1, 3, 4, 6, 2, 5].map(found), [Some(7), Some(7), Some(7), Some(7), Some(5), Some(5)]);
        let none = look_for(&view(), 9, 100);
        assert_eq!(none, Looked { found: None, nodes: 6, faults: 0, everything: true });
    }

    #[test]
    fn a_look_ends_at_its_limit_and_claims_nothing_about_the_rest() {
        for limit in 1..6 {
            let looked = look_for(&view(), 9, limit);
            assert_eq!((looked.nodes, looked.everything), (limit, false));
        }
    }

    #[test]
    fn a_node_that_is_missing_on_the_way_makes_not_finding_no_proof() {
        let mut view = view();
        view.rows.remove(hash(4).as_bytes().as_slice());
        let looked = look_for(&view, 6, 100);
        assert_eq!((looked.found, looked.faults, looked.everything), (None, 1, false));
        assert!(look_for(&view, 4, 100).found.is_some(), "what a live node names is reached, there or not");
    }
}
