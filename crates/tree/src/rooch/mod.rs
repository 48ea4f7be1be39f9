//! The tree of Rooch and MoveOS, byte for byte: keys, nodes, object states, and the layout that reads them.

mod bcs;
mod digest;
pub(crate) mod key;
pub(crate) mod node;
pub(crate) mod object;
pub(crate) mod type_tag;

use crate::{
    error::NodeError,
    hash::{NodeHash, PLACEHOLDER},
    layout::NodeLayout,
    rooch::node::NodeView,
};

pub(crate) use digest::pair;

/// The layout of a Rooch store: the children of an internal node, or the fields root inside a leaf's object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoochLayout;

impl NodeLayout for RoochLayout {
    fn name(&self) -> &'static str {
        "rooch"
    }

    fn children(&self, bytes: &[u8], out: &mut Vec<NodeHash>) -> Result<(), NodeError> {
        append_children(&NodeView::decode(bytes)?, out)
    }

    fn hash(&self, bytes: &[u8]) -> Result<NodeHash, NodeError> {
        NodeView::decode(bytes).map(|view| view.hash())
    }

    fn read(&self, bytes: &[u8], out: &mut Vec<NodeHash>) -> Result<NodeHash, NodeError> {
        let view = NodeView::decode(bytes)?;
        append_children(&view, out)?;
        Ok(view.hash())
    }
}

fn append_children(view: &NodeView<'_>, out: &mut Vec<NodeHash>) -> Result<(), NodeError> {
    match view {
        NodeView::Internal(node) => {
            // Copied as one piece: no writer makes a reference to the placeholder, so hardly ever is one taken out.
            let from = out.len();
            out.extend(node.hashes().iter().copied().map(NodeHash::new));
            if node.hashes().contains(PLACEHOLDER.as_bytes()) {
                let kept: Vec<NodeHash> = out.drain(from..).filter(|hash| *hash != PLACEHOLDER).collect();
                out.extend(kept);
            }
        }
        NodeView::Leaf(leaf) => out.extend(object::embedded_root(leaf.value)?),
    }
    Ok(())
}
