//! Nodes of one view for execution, each read from the store once per block.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use state_store::View;
use state_tree::{NodeHash, NodeReader};

/// The most nodes remembered, at a few hundred bytes each; beyond it nodes are read again.
const REMEMBERED: usize = 50_000;

/// Reads through a view and remembers.
pub(crate) struct ViewReader {
    view: Arc<dyn View>,
    seen: RefCell<HashMap<NodeHash, Option<Vec<u8>>>>,
}

impl ViewReader {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self { view, seen: RefCell::default() }
    }
}

impl NodeReader for ViewReader {
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        if let Some(known) = self.seen.borrow().get(hash) {
            return Ok(known.clone());
        }
        let read = self.view.node(hash)?;
        let mut seen = self.seen.borrow_mut();
        if seen.len() < REMEMBERED {
            seen.insert(*hash, read.clone());
        }
        Ok(read)
    }
}
