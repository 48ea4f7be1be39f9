//! How a node stands: which retained state has it, or what takes it and since when it waits for that.
//!
//! What costs little is asked first. A node that is no key of the store is gone. The root of a retained order is in its state.
//! The index of what waits proves this much, where commits are counted exactly and the node is not marked: no state from
//! the order it gives on has the node, since whatever brings a node back takes it out of the index or marks it. Above the
//! floor, where no slice has begun with the entries, it is the order that lost the node, and the state before it has it. At
//! or below the floor the node may have been lost earlier. Of other states the index proves nothing, and a mark, or a node
//! that is in no list, proves nothing at all: there the states are walked.

use serde::{Deserialize, Serialize};
use state_store::{Lag, Waits};
use state_tree::{NodeHash, NodeLayout, Order, StateRoot};

use super::{HashExplained, LiveRetention, OrderExplained, Standstill, Standstills};
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
    /// It stands for the state without any object, which no node is stored for.
    Empty,
    /// It is not in the store. Which orders had it once nothing tells.
    Absent {
        /// The oldest order of the readable range: what only older states had may be gone.
        floor: u64,
        /// Since when the order before it is gone, as far as it was written down.
        gone: Option<Gone>,
    },
    /// It is there, and a retained root reaches it.
    Reached {
        /// The newest order that was found to have it in its state, kept orders below the floor coming last.
        order: u64,
        /// Its root, in hex.
        root: String,
        /// Nodes looked at until it was found; none where it is that root, or where the commit journal tells.
        looked_at: u64,
        /// By the commit journal it left its last place in this order or before: no state from there on has it. It was in
        /// this order itself if `order` is the one before.
        lost_in: Option<u64>,
        /// Why that order is kept.
        kept: Box<OrderExplained>,
    },
    /// It is there, and no retained root reaches it: all of them were looked at to their end, but for those of which the
    /// commit journal tells that they do not.
    Garbage {
        /// Nodes looked at.
        looked_at: u64,
        /// What takes it, and since when it waits for that.
        waits_for: WaitsFor,
        /// What has to end before that; absent where nothing has, as far as is known.
        held_by: Option<Standstill>,
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
        /// The order in which it left its last place; where the floor has come to that, maybe an order before.
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
    /// A cycle: no round begins before one has made the counts of commits exact.
    CountsOwed,
    /// A cycle: there is no sweep between cycles.
    IncrementalOff,
    /// This process has not read the journal, or commits are not counted exactly.
    Unknown,
}

impl NodeStanding {
    /// Adds what holds back that which is to go.
    pub(super) fn held_back(&mut self, by: &dyn Fn() -> Result<Standstills, PruneError>) -> Result<(), PruneError> {
        match self {
            Self::Reached { kept, .. } => kept.held_back(by),
            Self::Garbage { waits_for, held_by, .. } => {
                (*waits_for, *held_by) = by()?.of_node(waits_for.clone());
                Ok(())
            }
            Self::Empty | Self::Absent { .. } | Self::NotFound { .. } => Ok(()),
        }
    }
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
        let node = self.node(layout, (hash, limit))?;
        Ok(HashExplained { hash: hash.to_string(), root_of, node })
    }

    fn node(&self, layout: &dyn NodeLayout, target: (NodeHash, u64)) -> Result<NodeStanding, PruneError> {
        if StateRoot::new(target.0).node().is_none() {
            return Ok(NodeStanding::Empty);
        }
        let store = &self.parts.store;
        let waits = store.waits(&target.0)?;
        let (head, floor) = self.ends().ok_or(PruneError::NoHead)?; // AFTER it: what brings the node back later is too late
        let view = store.view()?; // AFTER the head: it has every order up to there
        if view.node(&target.0)?.is_none() {
            let gone = match floor.get().checked_sub(1) {
                Some(before) => self.state()?.log.gone(before),
                None => None,
            };
            return Ok(NodeStanding::Absent { floor: floor.get(), gone });
        }
        let lost_in = match waits {
            Waits::LostIn(order, _) => Some(order),
            Waits::Unknown | Waits::Shared | Waits::Unlisted => None,
        };
        if let Some(found) = self.reached_by(target.0, lost_in.filter(|lost_in| *lost_in > floor)) {
            return self.reached(found, 0, lost_in);
        }
        let looked = look(&*view, layout, self.roots_before(lost_in, (floor, Order::new(head.order))), target)?;
        match looked.found {
            Some(found) => self.reached(found, looked.nodes, lost_in),
            None if looked.everything => {
                let waits_for = waits_for(waits, floor);
                Ok(NodeStanding::Garbage { looked_at: looked.nodes, waits_for, held_by: None })
            }
            None => Ok(NodeStanding::NotFound { looked_at: looked.nodes, faults: looked.faults }),
        }
    }

    /// The newest order that has the node, where that is told without looking at any: it is the root of one, or one is
    /// readable from just before the node was lost, of which `lost_in` is the very order.
    fn reached_by(&self, hash: NodeHash, lost_in: Option<Order>) -> Option<(Order, StateRoot)> {
        let store = &self.parts.store;
        let of_root = store.orders_of(StateRoot::new(hash), 1).into_iter().next();
        let order = of_root.or_else(|| lost_in.and_then(|lost_in| lost_in.minus(1)))?;
        store.root(order).map_or(None, |root| Some((order, root)))
    }

    /// The roots that may reach a node, from the newest on, then those of the single orders below the floor, then what
    /// readers hold; only of states from before it was lost.
    fn roots_before(
        &self,
        lost_in: Option<Order>,
        (floor, head): (Order, Order),
    ) -> impl Iterator<Item = (Order, StateRoot)> {
        let store = &*self.parts.store;
        let (kept, pins) = (store.kept(), store.pins());
        let may_have_it = move |order: &Order| lost_in.is_none_or(|lost_in| *order < lost_in);
        let range = (floor.get()..=head.get()).rev().map(Order::new).filter(may_have_it);
        // One that the floor passes meanwhile is in the view still, and no longer retained.
        let range = range.filter_map(move |order| store.root(order).map_or(None, |root| Some((order, root))));
        let held =
            pins.into_iter().flat_map(|(order, owners)| owners.into_iter().map(move |owner| (order, owner.root)));
        range.chain(kept.into_iter().rev().chain(held).filter(move |(order, _)| may_have_it(order)))
    }

    fn reached(
        &self,
        (order, root): (Order, StateRoot),
        looked_at: u64,
        lost_in: Option<Order>,
    ) -> Result<NodeStanding, PruneError> {
        let kept = Box::new(self.explain_order(order)?);
        let (order, root, lost_in) = (order.get(), root.to_string(), lost_in.map(Order::get));
        Ok(NodeStanding::Reached { order, root, looked_at, lost_in, kept })
    }
}

/// What takes a node that no retained state has.
fn waits_for(waits: Waits, floor: Order) -> WaitsFor {
    match waits {
        Waits::Unknown => WaitsFor::Unknown,
        Waits::Shared => WaitsFor::Cycle,
        Waits::Unlisted => WaitsFor::Unlisted,
        Waits::LostIn(order, Lag { orders, nodes, .. }) => {
            let (lost_in, floor) = (order.get(), floor.get());
            WaitsFor::Sweep { lost_in, floor, lag_orders: orders, lag_nodes: nodes }
        }
    }
}
