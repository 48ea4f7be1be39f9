//! The pending index: which nodes unsettled journal entries name, and which of them may still go.
//!
//! A node that an entry names left its last place in that order, so no later state has it unless a later commit created it.
//! The index therefore forgets a node as soon as one does (S21), and whatever it does not know is never condemned (I8).
//! It is rebuilt from the journal alone: nothing of it is written. Keyed by fingerprint, because that is what the journal
//! keeps of created nodes; two nodes that share one are both forgotten, which only keeps more.
//!
//! Costs: about 60 bytes per node named by an unsettled entry, up to a limit; what comes after it is left to a major cycle.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
};

use state_tree::{NodeHash, Order};

use crate::{fingerprints::Fingerprints, lately::Lately};

/// What an order's entry still has in the index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Named {
    hashes: Vec<NodeHash>,
    /// Nothing where only nodes below trees are left.
    timestamp_ms: Option<u64>,
}

/// Where a node is in the index: an order and a position in its entry, in one word, since there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u64);

impl Place {
    const POSITION_BITS: u32 = 24;

    /// Nothing for more than 16 million nodes that wait for one order, or beyond a million million orders.
    fn new(order: Order, position: usize) -> Option<Self> {
        let fits = position < 1 << Self::POSITION_BITS && order.get().leading_zeros() >= Self::POSITION_BITS;
        fits.then_some(Self(order.get() << Self::POSITION_BITS | position as u64))
    }

    fn order(self) -> Order {
        Order::new(self.0 >> Self::POSITION_BITS)
    }

    fn position(self) -> usize {
        (self.0 & ((1 << Self::POSITION_BITS) - 1)) as usize
    }
}

/// How far the journal is ahead of the sweep of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Orders at or below the cutoff whose entries still name nodes.
    pub orders: u64,
    /// Nodes and roots of trees that they name, at least: what lies below a tree is named once that was read.
    pub nodes: u64,
    /// Milliseconds of chain time from the oldest of them to the cutoff.
    pub chain_ms: u64,
}

/// Where nodes are, by fingerprint.
type Places = Fingerprints<Place>;

/// The last of an entry moves to a place that is free now: an entry is as long as it has nodes that wait.
fn close_up(nodes: &mut Places, named: &mut Named, free: Place) {
    named.hashes.swap_remove(free.position());
    if named.hashes.len() < named.hashes.capacity() / 4 {
        named.hashes.shrink_to(2 * named.hashes.len()); // the limit counts nodes, so it must be of what they take
    }
    if let Some(moved) = named.hashes.get(free.position()) {
        nodes.insert(moved.fingerprint(), free);
    }
}

/// Nodes that wait to go.
#[derive(Debug)]
pub(crate) struct Pending {
    nodes: Places,
    orders: BTreeMap<Order, Named>,
    due: Due,
    limit: usize,
    /// Named by entries and not in the index: for want of room or of a fingerprint of their own, or for a commit on an older
    /// state.
    unindexed: u64,
    /// Everything that was ever put in.
    named: u64,
    /// What is known to be stored, whether or not an entry names it.
    lately: Lately,
}

/// What waits at or below the cutoff that was asked for last, so that nobody counts it again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Due {
    cutoff: Option<Order>,
    orders: u64,
    nodes: u64,
}

impl Due {
    fn has(&self, order: Order) -> bool {
        self.cutoff.is_some_and(|cutoff| order <= cutoff)
    }
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
        let (nodes, orders) = (Places::new(), BTreeMap::new());
        Self { nodes, orders, due: Due::default(), limit, unindexed: 0, named: 0, lately: Lately::default() }
    }

    /// The order in which, or before which, the node lost its last place, if it may still go.
    pub(crate) fn order(&self, hash: &NodeHash) -> Option<Order> {
        let place = self.nodes.get(hash.fingerprint())?;
        let there = self.orders.get(&place.order())?.hashes.get(place.position())?;
        (there == hash).then(|| place.order())
    }

    /// Nodes that left their last place in an order, at a time by the chain's clock.
    pub(crate) fn insert<'a>(
        &mut self,
        order: Order,
        timestamp_ms: Option<u64>,
        hashes: impl IntoIterator<Item = &'a NodeHash>,
    ) {
        let hashes = hashes.into_iter();
        let named = self.take_out(order);
        let mut named = named.map_or(Named { hashes: Vec::new(), timestamp_ms }, |named| named);
        named.hashes.reserve(hashes.size_hint().0.min(self.limit.saturating_sub(self.nodes.len())));
        for hash in hashes {
            self.named += 1;
            self.insert_one(hash, order, &mut named);
        }
        self.put_in(order, named);
    }

    /// `named` is that of the order, and out of the index meanwhile.
    fn insert_one(&mut self, hash: &NodeHash, order: Order, named: &mut Named) {
        let room = self.nodes.len() < self.limit;
        let Some(place) = self.nodes.get(hash.fingerprint()) else {
            match Place::new(order, named.hashes.len()).filter(|_| room) {
                Some(place) => {
                    self.nodes.insert(hash.fingerprint(), place);
                    named.hashes.push(*hash);
                }
                None => self.unindexed += 1,
            }
            return;
        };
        let of = if place.order() == order { Some(&*named) } else { self.orders.get(&place.order()) };
        if of.and_then(|of| of.hashes.get(place.position())) == Some(hash) {
            return; // below a tree, and named by itself
        }
        self.unindexed += 2; // which of the two is meant cannot be told any more
        self.nodes.remove(hash.fingerprint());
        if place.order() == order { close_up(&mut self.nodes, named, place) } else { self.vacate(place) }
    }

    /// What is known to be stored, whether or not it waits.
    pub(crate) fn lately(&mut self) -> &mut Lately {
        &mut self.lately
    }

    /// Whether the node is.
    pub(crate) fn is_stored(&self, hash: &NodeHash) -> bool {
        self.lately.has(hash)
    }

    /// A node with this fingerprint was created, or is dealt with.
    pub(crate) fn forget(&mut self, fingerprint: u64) {
        if let Some(place) = self.nodes.remove(fingerprint) {
            self.vacate(place);
        }
    }

    /// A place whose node is not looked up any more.
    fn vacate(&mut self, place: Place) {
        let order = place.order();
        let Some(named) = self.orders.get_mut(&order) else { return };
        close_up(&mut self.nodes, named, place);
        let is_empty = named.hashes.is_empty();
        if is_empty {
            self.orders.remove(&order);
        }
        if self.due.has(order) {
            self.due.nodes -= 1;
            self.due.orders -= u64::from(is_empty);
        }
    }

    fn take_out(&mut self, order: Order) -> Option<Named> {
        let named = self.orders.remove(&order)?;
        if self.due.has(order) {
            self.due.orders -= 1;
            self.due.nodes -= named.hashes.len() as u64;
        }
        Some(named)
    }

    fn put_in(&mut self, order: Order, named: Named) {
        if named.hashes.is_empty() {
            return;
        }
        if self.due.has(order) {
            self.due.orders += 1;
            self.due.nodes += named.hashes.len() as u64;
        }
        self.orders.insert(order, named);
    }

    /// Forgets a node unless it left its last place after the cutoff.
    pub(crate) fn settle(&mut self, hash: &NodeHash, cutoff: Order) {
        if self.order(hash).is_some_and(|order| order <= cutoff) {
            self.forget(hash.fingerprint());
        }
    }

    /// Forgets what the entries of some orders name, which is the caller's to free.
    pub(crate) fn forget_orders(&mut self, orders: impl RangeBounds<Order>) -> Vec<Named> {
        let gone: Vec<Order> = self.orders.range(orders).map(|(order, _)| *order).collect();
        let gone: Vec<Named> = gone.into_iter().filter_map(|order| self.take_out(order)).collect();
        for hash in gone.iter().flat_map(|named| &named.hashes) {
            self.nodes.remove(hash.fingerprint());
        }
        gone
    }

    /// The same of some of the entries up to a cutoff, about as many nodes as are given; whether there are more.
    pub(crate) fn forget_some(&mut self, cutoff: Order, most: usize) -> bool {
        let mut nodes = 0;
        let first = self.orders.range(..=cutoff).take_while(|(_, named)| {
            let goes = nodes < most;
            nodes += named.hashes.len();
            goes
        });
        let Some(last) = first.last().map(|(order, _)| *order) else { return false };
        self.forget_orders(..=last);
        self.orders.range(..=cutoff).next().is_some()
    }

    /// Forgets every entry: what they name is left to a major cycle. What it held is the caller's to free.
    pub(crate) fn give_up(&mut self) -> Self {
        let unindexed = self.unindexed + self.nodes.len() as u64;
        std::mem::replace(self, Self { unindexed, named: self.named, ..Self::new(self.limit) })
    }

    /// What waits at or below a cutoff, which is of this time by the chain's clock. Costs what came to it since it was asked last,
    /// of which it counts so many orders at most: nothing where there are more, and who asks again goes on with those.
    pub(crate) fn lag(&mut self, cutoff: Order, timestamp_ms: u64, most: usize) -> Option<Lag> {
        if self.due.cutoff > Some(cutoff) {
            self.due = Due::default();
        }
        let from = self.due.cutoff.map_or(Bound::Unbounded, Bound::Excluded);
        let mut uncounted = self.orders.range((from, Bound::Included(cutoff)));
        for (order, named) in uncounted.by_ref().take(most) {
            self.due.orders += 1;
            self.due.nodes += named.hashes.len() as u64;
            self.due.cutoff = Some(*order);
        }
        if uncounted.next().is_some() {
            return None;
        }
        self.due.cutoff = Some(cutoff);
        let oldest = self.orders.range(..=cutoff).find_map(|(_, named)| named.timestamp_ms);
        let chain_ms = oldest.map_or(0, |oldest| timestamp_ms.saturating_sub(oldest));
        Some(Lag { orders: self.due.orders, nodes: self.due.nodes, chain_ms })
    }

    pub(crate) fn counts(&self) -> PendingCounts {
        PendingCounts { held: self.nodes.len() as u64, named: self.named, unindexed: self.unindexed }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, ops::Bound};

    use proptest::prelude::*;

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
        assert_eq!(pending.lag(order(9), 9, 9), Some(Lag { orders: 1, nodes: 1, chain_ms: 4 }));
    }

    #[test]
    fn a_full_index_leaves_out_what_comes_later() {
        let mut pending = Pending::new(1);
        pending.insert(order(1), Some(5), &[hash(1, 1), hash(2, 1)]);
        assert_eq!((pending.order(&hash(1, 1)), pending.order(&hash(2, 1))), (Some(order(1)), None));
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_a_plain_map_and_holds_only_what_waits(
            steps in prop::collection::vec((0..10_u8, 0..40_u8, 0..12_u64), 1..300),
        ) {
            let (mut pending, mut plain) = (Pending::new(usize::MAX), BTreeMap::<NodeHash, Order>::new());
            for (what, node, at) in steps {
                let (node, at) = (hash(node, 1), order(at));
                match what {
                    0..6 => {
                        pending.insert(at, Some(at.get()), [&node]);
                        plain.entry(node).or_insert(at);
                    }
                    6 | 7 => {
                        pending.forget(node.fingerprint());
                        plain.remove(&node);
                    }
                    8 => {
                        pending.settle(&node, at);
                        plain.retain(|other, of| *other != node || *of > at);
                    }
                    _ => {
                        pending.forget_orders(..=at);
                        plain.retain(|_, of| *of > at);
                    }
                }
                let due = plain.values().filter(|of| **of <= at);
                let orders: BTreeSet<&Order> = due.clone().collect();
                let chain_ms = orders.first().map_or(0, |oldest| 30 - oldest.get());
                let lag = Lag { orders: orders.len() as u64, nodes: due.count() as u64, chain_ms };
                let asks = (0..30).find_map(|asks| pending.lag(at, 30, 2).map(|told| (asks, told)));
                prop_assert!(asks.is_some_and(|(asks, told)| told == lag && asks <= lag.orders / 2), "{asks:?}, not {lag:?}");
                prop_assert!(plain.iter().all(|(node, of)| pending.order(node) == Some(*of)));
                let held: usize = pending.orders.values().map(|named| named.hashes.len()).sum();
                prop_assert_eq!((held, pending.nodes.len()), (plain.len(), plain.len()));
            }
        }
    }

    #[test]
    fn a_full_index_takes_no_more_room_for_what_it_has_none_for() {
        let mut pending = Pending::new(100);
        let node = |n: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            NodeHash::new(bytes)
        };
        let first: Vec<NodeHash> = (0..100).map(node).collect();
        pending.insert(order(0), Some(0), &first);
        for n in 1..500 {
            let (gone, new): (u64, Vec<NodeHash>) = (n - 1, (0..1000).map(|i| node(100 * n + i)).collect());
            pending.forget(if gone < 100 { gone } else { 100 * (n - 100) });
            pending.insert(order(n), Some(n), &new);
        }
        let room: usize = pending.orders.values().map(|named| named.hashes.capacity()).sum();
        assert!(pending.nodes.len() <= 100 && room <= 8 * 100, "{} nodes have room for {room}", pending.nodes.len());
    }

    #[test]
    fn entries_are_forgotten_a_few_nodes_at_a_time() {
        let mut pending = Pending::new(99);
        for n in 0..5 {
            pending.insert(
                order(n),
                Some(n),
                &[hash(10 * n as u8, 1), hash(10 * n as u8 + 1, 1), hash(10 * n as u8 + 2, 1)],
            );
        }
        let mut left = Vec::new();
        while pending.forget_some(order(3), 4) {
            left.push(pending.counts().held);
        }
        assert_eq!((left, pending.counts().held), (vec![9], 3), "two entries at a time, and not the fifth");
        assert_eq!(pending.order(&hash(40, 1)), Some(order(4)));
    }

    #[test]
    fn what_has_no_place_in_the_index_is_left_out() {
        let mut pending = Pending::new(9);
        let last = order((1 << 40) - 1);
        pending.insert(last, Some(5), &[hash(1, 1), hash(2, 1)]);
        assert_eq!((pending.order(&hash(1, 1)), pending.order(&hash(2, 1))), (Some(last), Some(last)));
        pending.insert(order(1 << 40), Some(5), &[hash(3, 1)]);
        assert_eq!((pending.order(&hash(3, 1)), pending.counts().unindexed), (None, 1));
        assert_eq!(
            Place::new(order(7), (1 << 24) - 1).map(|at| (at.order(), at.position())),
            Some((order(7), (1 << 24) - 1))
        );
        assert_eq!(Place::new(order(7), 1 << 24), None);
    }

    #[test]
    fn the_lag_is_what_waits_at_or_below_the_cutoff() {
        let mut pending = Pending::new(9);
        pending.insert(order(1), Some(1000), &[hash(1, 1), hash(2, 1)]);
        pending.insert(order(3), Some(4000), &[hash(3, 1)]);
        pending.insert(order(4), Some(9000), &[hash(4, 1)]);
        pending.forget(hash(1, 1).fingerprint());
        assert_eq!(pending.lag(order(3), 4500, 9), Some(Lag { orders: 2, nodes: 2, chain_ms: 3500 }));
        pending.settle(&hash(4, 1), order(3));
        pending.settle(&hash(3, 1), order(3));
        assert_eq!(pending.lag(order(9), 9000, 9), Some(Lag { orders: 2, nodes: 2, chain_ms: 8000 }));
        pending.forget_orders((Bound::Excluded(order(1)), Bound::Unbounded));
        assert_eq!(pending.lag(order(9), 9000, 9), Some(Lag { orders: 1, nodes: 1, chain_ms: 8000 }));
    }
}
