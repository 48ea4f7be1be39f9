//! The pending index: which nodes unsettled journal entries name, and which of them may still go.
//!
//! A node that an entry names left its last place in that order, so no later state has it unless a later commit created it.
//! The index therefore forgets a node as soon as one does (S21), and whatever it does not know is never condemned (I8).
//! It is rebuilt from the journal alone: nothing of it is written. Keyed by fingerprint, because that is what the journal
//! keeps of created nodes; two nodes that share one are both forgotten, which only keeps more.
//!
//! Costs: about 100 bytes per node named by an unsettled entry, up to a limit; what comes after it is left to a major cycle.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    ops::RangeBounds,
};

use state_tree::{NodeHash, Order};

use crate::barrier::ByFingerprint;

/// What an order's entry still has in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    nodes: u64,
    /// Everything that was put in for the order, gone since or not.
    fingerprints: Vec<u64>,
    /// Nothing where only nodes below trees are left.
    timestamp_ms: Option<u64>,
}

/// How far the journal is ahead of the sweep of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Orders at or below the cutoff whose entries still name nodes.
    pub orders: u64,
    /// Nodes and roots of trees that they name.
    pub nodes: u64,
    /// Milliseconds of chain time from the oldest of them to the newest.
    pub chain_ms: u64,
}

/// Nodes that wait to go.
#[derive(Debug)]
pub(crate) struct Pending {
    nodes: HashMap<u64, (NodeHash, Order), ByFingerprint>,
    orders: BTreeMap<Order, Named>,
    limit: usize,
    /// Named by entries and not in the index: for want of room or of a fingerprint of their own, or for a commit on an older
    /// state.
    unindexed: u64,
    /// Everything that was ever put in.
    named: u64,
}

/// What the index holds and was told, since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PendingCounts {
    /// Nodes and roots of trees in the index.
    pub held: u64,
    /// Those that it was told of: what commits and the expansion of trees have named.
    pub named: u64,
    /// Those that it had no place for, or gave up: a major cycle finds them.
    pub unindexed: u64,
}

impl Pending {
    /// An empty index for at most so many nodes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { nodes: HashMap::default(), orders: BTreeMap::new(), limit, unindexed: 0, named: 0 }
    }

    /// The order in which the node lost its last place, if it may still go.
    pub(crate) fn order(&self, hash: &NodeHash) -> Option<Order> {
        self.nodes.get(&hash.fingerprint()).filter(|(at, _)| at == hash).map(|(_, order)| *order)
    }

    /// Nodes that left their last place in an order, at a time by the chain's clock.
    pub(crate) fn insert<'a>(
        &mut self,
        order: Order,
        timestamp_ms: Option<u64>,
        hashes: impl IntoIterator<Item = &'a NodeHash>,
    ) {
        let (mut nodes, mut fingerprints) = (0, Vec::new());
        for hash in hashes {
            self.named += 1;
            let room = self.nodes.len() < self.limit;
            match self.nodes.entry(hash.fingerprint()) {
                Entry::Occupied(known) if known.get().0 == *hash => {} // below a tree, and named by itself
                Entry::Occupied(other) => {
                    // Which of the two is meant cannot be told any more.
                    let (_, of) = other.remove();
                    self.unindexed += 2;
                    if of == order && nodes > 0 { nodes -= 1 } else { self.one_less(of) }
                }
                Entry::Vacant(place) if room => {
                    place.insert((*hash, order));
                    fingerprints.push(hash.fingerprint());
                    nodes += 1;
                }
                Entry::Vacant(_) => self.unindexed += 1,
            }
        }
        if nodes > 0 {
            let none = Named { nodes: 0, fingerprints: Vec::new(), timestamp_ms };
            let named = self.orders.entry(order).or_insert(none);
            named.nodes += nodes;
            named.fingerprints.append(&mut fingerprints);
        }
    }

    /// A node with this fingerprint was created, or is dealt with.
    pub(crate) fn forget(&mut self, fingerprint: u64) {
        if let Some((_, order)) = self.nodes.remove(&fingerprint) {
            self.one_less(order);
        }
    }

    fn one_less(&mut self, order: Order) {
        let Some(named) = self.orders.get_mut(&order) else { return };
        named.nodes -= 1;
        if named.nodes == 0 {
            self.orders.remove(&order);
        }
    }

    /// Forgets a node unless it left its last place after the cutoff.
    pub(crate) fn settle(&mut self, hash: &NodeHash, cutoff: Order) {
        if self.order(hash).is_some_and(|order| order <= cutoff) {
            self.forget(hash.fingerprint());
        }
    }

    /// Forgets what the entries of some orders name.
    pub(crate) fn forget_orders(&mut self, orders: impl RangeBounds<Order>) {
        let gone: Vec<Order> = self.orders.range(orders).map(|(order, _)| *order).collect();
        for order in gone {
            let Some(named) = self.orders.remove(&order) else { continue };
            for fingerprint in named.fingerprints {
                if let Entry::Occupied(node) = self.nodes.entry(fingerprint)
                    && node.get().1 == order
                {
                    node.remove();
                }
            }
        }
    }

    /// Forgets every entry: what they name is left to a major cycle.
    pub(crate) fn give_up(&mut self) {
        self.unindexed += self.nodes.len() as u64;
        self.nodes.clear();
        self.orders.clear();
    }

    /// What waits at or below a cutoff.
    pub(crate) fn lag(&self, cutoff: Order) -> Lag {
        let mut lag = Lag::default();
        let (mut first, mut last) = (None, None);
        for (_, named) in self.orders.range(..=cutoff) {
            lag.orders += 1;
            lag.nodes += named.nodes;
            first = first.or(named.timestamp_ms);
            last = named.timestamp_ms.or(last);
        }
        lag.chain_ms = first.zip(last).map_or(0, |(first, last)| u64::saturating_sub(last, first));
        lag
    }

    pub(crate) fn counts(&self) -> PendingCounts {
        PendingCounts { held: self.nodes.len() as u64, named: self.named, unindexed: self.unindexed }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use super::*;

    fn hash(fingerprint: u8, rest: u8) -> NodeHash {
        let mut bytes = [rest; 32];
        bytes[..8].fill(fingerprint);
        NodeHash::new(bytes)
    }

    fn order(n: u64) -> Order {
        Order::new(n)
    }

    #[test]
    fn two_nodes_with_one_fingerprint_are_both_forgotten() {
        let mut pending = Pending::new(9);
        pending.insert(order(1), Some(5), &[hash(1, 1), hash(2, 1)]);
        pending.insert(order(2), Some(6), &[hash(1, 2)]);
        assert_eq!((pending.order(&hash(1, 1)), pending.order(&hash(1, 2))), (None, None));
        assert_eq!((pending.order(&hash(2, 1)), pending.counts().unindexed), (Some(order(1)), 2));
    }

    #[test]
    fn a_node_that_is_named_again_keeps_the_order_in_which_it_was_lost() {
        let mut pending = Pending::new(9);
        pending.insert(order(2), Some(5), &[hash(1, 1)]);
        pending.insert(order(1), None, &[hash(1, 1), hash(2, 1)]);
        pending.insert(order(1), None, &[hash(2, 1), hash(2, 2)]);
        assert_eq!((pending.order(&hash(1, 1)), pending.order(&hash(2, 1))), (Some(order(2)), None));
        assert_eq!(pending.lag(order(9)), Lag { orders: 1, nodes: 1, chain_ms: 0 });
    }

    #[test]
    fn a_full_index_leaves_out_what_comes_later() {
        let mut pending = Pending::new(1);
        pending.insert(order(1), Some(5), &[hash(1, 1), hash(2, 1)]);
        assert_eq!((pending.order(&hash(1, 1)), pending.order(&hash(2, 1))), (Some(order(1)), None));
    }

    #[test]
    fn the_lag_is_what_waits_at_or_below_the_cutoff() {
        let mut pending = Pending::new(9);
        pending.insert(order(1), Some(1000), &[hash(1, 1), hash(2, 1)]);
        pending.insert(order(3), Some(4000), &[hash(3, 1)]);
        pending.insert(order(4), Some(9000), &[hash(4, 1)]);
        pending.forget(hash(1, 1).fingerprint());
        assert_eq!(pending.lag(order(3)), Lag { orders: 2, nodes: 2, chain_ms: 3000 });
        pending.settle(&hash(4, 1), order(3));
        pending.settle(&hash(3, 1), order(3));
        assert_eq!(pending.lag(order(9)), Lag { orders: 2, nodes: 2, chain_ms: 8000 });
        pending.forget_orders((Bound::Excluded(order(1)), Bound::Unbounded));
        assert_eq!(pending.lag(order(9)), Lag { orders: 1, nodes: 1, chain_ms: 0 });
    }
}
