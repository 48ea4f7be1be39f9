//! How a node stands: which retained state has it, or what takes it and since when it waits for that.

use serde::{Deserialize, Serialize};
use state_store::{Lag, View, Waits};
use state_tree::{NodeHash, NodeLayout, Order, StateRoot};

use super::{HashExplained, LiveRetention, OrderExplained};
use crate::{
    error::PruneError,
    retention::{log::Gone, look::look},
};

/// Orders listed for one root, at most.
const LISTED: usize = 16;

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "node")]
pub enum NodeStanding {
    /// It is not in the store. Which orders had it once nothing tells.
    Absent {
        /// The oldest order of the readable range: what only older states had may be gone.
        floor: u64,
        /// Since when the order before it is gone, as far as it was written down.
        gone: Option<Gone>,
    },
    /// It is there, and a retained root reaches it.
    Reached {
        /// The newest order whose state reaches it, kept orders below the floor coming last.
        order: u64,
        /// Its root, in hex.
        root: String,
        /// Nodes looked at until it was found.
        looked_at: u64,
        /// Why that order is kept.
        kept: Box<OrderExplained>,
    },
    /// It is there, and no retained root reaches it: all of them were looked at to their end.
    Garbage {
        /// Nodes looked at.
        looked_at: u64,
        /// What takes it, and since when it waits for that.
        waits_for: WaitsFor,
    },
    /// It is there, and was not found under the nodes looked at, which are not all: nothing is known.
    NotFound {
        /// Nodes looked at.
        looked_at: u64,
        /// Nodes on the way that could not be read.
        faults: u64,
    },
}

/// What takes a node that no retained root reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum WaitsFor {
    /// The sweep between cycles, by the commit journal; a cycle that comes first takes it, too.
    Sweep {
        /// The order in which it left its last place.
        lost_in: u64,
        /// The oldest order of the readable range: what was lost there or before may go.
        floor: u64,
        /// Orders at or below the floor whose nodes wait.
        lag_orders: u64,
        /// Nodes that wait there.
        lag_nodes: u64,
    },
    /// A cycle: it was shared once, so no entry of the journal says which of its places was the last.
    Cycle,
    /// No entry of the journal names it by itself: it goes with a tree that is dropped with all below it, or with a cycle.
    Unlisted,
    /// Commits are not counted exactly, or nobody has read the journal here.
    Unknown,
}

impl LiveRetention {
    pub(super) fn explain_hash(
        &self,
        hash: NodeHash,
        layout: &dyn NodeLayout,
        limit: u64,
    ) -> Result<HashExplained, PruneError> {
        let root_of = self.parts.store.orders_of(StateRoot::new(hash), LISTED);
        let root_of = root_of.into_iter().map(|order| self.explain_order(order)).collect::<Result<_, _>>()?;
        let node = self.node(&*self.parts.store.view()?, layout, (hash, limit))?;
        Ok(HashExplained { hash: hash.to_string(), root_of, node })
    }

    /// Roots from the newest on, then the single orders below the floor, then what readers hold.
    fn node(
        &self,
        view: &dyn View,
        layout: &dyn NodeLayout,
        target: (NodeHash, u64),
    ) -> Result<NodeStanding, PruneError> {
        let (head, floor) = self.ends().ok_or(PruneError::NoHead)?;
        if view.node(&target.0)?.is_none() {
            let gone = match floor.get().checked_sub(1) {
                Some(before) => self.state()?.log.gone(before),
                None => None,
            };
            return Ok(NodeStanding::Absent { floor: floor.get(), gone });
        }
        let store = &self.parts.store;
        let range = (floor.get()..=head.order).rev().map(Order::new);
        // One that the floor passes meanwhile is in the view still, and no longer retained.
        let range = range.filter_map(|order| store.root(order).map_or(None, |root| Some((order, root))));
        let readers = store.pins().into_iter();
        let held = readers.flat_map(|(order, owners)| owners.into_iter().map(move |owner| (order, owner.root)));
        let roots = range.chain(store.kept().into_iter().rev()).chain(held);
        let looked = look(view, layout, roots, target)?;
        Ok(match looked.found {
            Some((order, root)) => {
                let kept = Box::new(self.explain_order(order)?);
                NodeStanding::Reached { order: order.get(), root: root.to_string(), looked_at: looked.nodes, kept }
            }
            None if looked.everything => {
                NodeStanding::Garbage { looked_at: looked.nodes, waits_for: self.waits_for(&target.0, floor)? }
            }
            None => NodeStanding::NotFound { looked_at: looked.nodes, faults: looked.faults },
        })
    }

    fn waits_for(&self, hash: &NodeHash, floor: Order) -> Result<WaitsFor, PruneError> {
        Ok(match self.parts.store.waits(hash)? {
            Waits::Unknown => WaitsFor::Unknown,
            Waits::Shared => WaitsFor::Cycle,
            Waits::Unlisted => WaitsFor::Unlisted,
            Waits::LostIn(order, Lag { orders, nodes, .. }) => {
                let (lost_in, floor) = (order.get(), floor.get());
                WaitsFor::Sweep { lost_in, floor, lag_orders: orders, lag_nodes: nodes }
            }
        })
    }
}
