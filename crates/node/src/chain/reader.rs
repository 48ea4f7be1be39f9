//! Nodes of one view for execution, each read from the store once per block.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use state_store::View;
use state_tree::{NodeHash, NodeReader};

/// The most bytes remembered; beyond it nodes are read again.
const REMEMBERED: usize = 32 << 20;
/// What a remembered node costs beside its bytes, about.
const OVERHEAD: usize = 96;

/// Reads through a view and remembers.
pub(crate) struct ViewReader {
    view: Arc<dyn View>,
    seen: RefCell<Seen>,
}

#[derive(Default)]
struct Seen {
    nodes: HashMap<NodeHash, Option<Vec<u8>>>,
    bytes: usize,
}

impl Seen {
    fn remember(&mut self, hash: NodeHash, node: Option<&Vec<u8>>) {
        let bytes = self.bytes + OVERHEAD + node.map_or(0, Vec::len);
        if bytes <= REMEMBERED {
            self.nodes.insert(hash, node.cloned());
            self.bytes = bytes;
        }
    }
}

impl ViewReader {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self { view, seen: RefCell::default() }
    }
}

impl NodeReader for ViewReader {
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        if let Some(known) = self.seen.borrow().nodes.get(hash) {
            return Ok(known.clone());
        }
        let read = self.view.node(hash)?;
        self.seen.borrow_mut().remember(*hash, read.as_ref());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_by_bytes_and_the_rest_is_forgotten() {
        let (mut seen, long) = (Seen::default(), vec![0; 1 << 20]);
        (0..64).for_each(|n| seen.remember(NodeHash::new([n; 32]), Some(&long)));
        seen.remember(NodeHash::new([100; 32]), Some(&vec![1]));
        assert!(seen.bytes <= REMEMBERED);
        assert_eq!(seen.nodes.len(), 31 + 1, "and a short one still fits");
    }
}
