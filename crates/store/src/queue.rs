//! The queue in front of the pending index: what commits created and lost, until it is in the index.
//!
//! A commit only puts its entry here, for the index is large and its places are far apart. Whoever asks the index gets it with
//! everything that is in the queue ([`Queue::index`]): nobody can ask an index that does not know the newest commits, which would
//! call a node that was created since free to go (S21). Somebody who has time takes entries in beforehand, a few nodes at a
//! time.
//!
//! Costs: 8 bytes for each created node, 16 for one that was asked for, and 32 for each that was lost, of the commits since the
//! index was asked last: in a store that commits, of one.

use std::collections::VecDeque;

use state_tree::{NodeHash, Order};

use crate::pending::Pending;

/// The index, and what is not in it yet.
#[derive(Debug)]
pub(crate) struct Queue {
    index: Pending,
    /// Oldest first.
    entries: VecDeque<Entry>,
}

/// What one commit did, as far as it is not in the index.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) order: Order,
    pub(crate) timestamp_ms: u64,
    /// Fingerprints of what it created: wherever they wait, they wait no more.
    pub(crate) created: Vec<u64>,
    /// What lost its last place.
    pub(crate) lost: Vec<NodeHash>,
    /// Fingerprints of those of the created that may come back while they are stored ([`crate::lately`]).
    pub(crate) lately: Vec<u64>,
}

impl Entry {
    /// Takes at most so many nodes into the index; how many.
    fn take_in(&mut self, index: &mut Pending, most: usize) -> usize {
        let created = self.created.split_off(self.created.len().saturating_sub(most));
        let lost = self.lost.split_off(self.lost.len().saturating_sub(most - created.len()));
        created.iter().for_each(|fingerprint| index.forget(*fingerprint)); // S21
        index.insert(self.order, Some(self.timestamp_ms), &lost); // AFTER: what the commit itself lost was not created by it
        let lately = self.lately.split_off(self.lately.len().saturating_sub(most - created.len() - lost.len()));
        lately.iter().for_each(|fingerprint| index.lately().add(*fingerprint));
        created.len() + lost.len() + lately.len()
    }

    fn is_empty(&self) -> bool {
        self.created.is_empty() && self.lost.is_empty() && self.lately.is_empty()
    }
}

impl Queue {
    /// Nothing in front of an index.
    pub(crate) fn of(index: Pending) -> Self {
        Self { index, entries: VecDeque::new() }
    }

    /// What the newest commit did.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// The index, with everything in it.
    pub(crate) fn index(&mut self) -> &mut Pending {
        self.take_in(usize::MAX);
        &mut self.index
    }

    /// Whether there is anything in it.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The order of the newest commit in it.
    pub(crate) fn newest(&self) -> Option<Order> {
        self.entries.back().map(|entry| entry.order)
    }

    /// Takes about so many nodes into the index; whether there are more.
    pub(crate) fn take_in(&mut self, most: usize) -> bool {
        let mut left = most;
        while let Some(entry) = self.entries.front_mut() {
            if entry.is_empty() {
                self.entries.pop_front();
            } else if left == 0 {
                return true;
            } else {
                left -= entry.take_in(&mut self.index, left);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(n: u8) -> NodeHash {
        NodeHash::new([n; 32])
    }

    proptest! {
        #[test]
        fn an_index_that_was_asked_late_is_as_one_that_was_told_at_once(
            commits in prop::collection::vec(
                (prop::collection::btree_set(0..40_u8, 0..8), prop::collection::btree_set(0..40_u8, 0..8), 0..12_usize), 1..40,
            ),
        ) {
            let (mut at_once, mut queue) = (Pending::new(100), Queue::of(Pending::new(100)));
            for (n, (created, lost, taken)) in commits.into_iter().enumerate() {
                let order = Order::new(n as u64);
                let lost: Vec<NodeHash> = lost.difference(&created).copied().map(hash).collect();
                let created: Vec<u64> = created.into_iter().map(|n| hash(n).fingerprint()).collect();
                created.iter().for_each(|fingerprint| at_once.forget(*fingerprint));
                at_once.insert(order, Some(7), &lost);
                queue.push(Entry { order, timestamp_ms: 7, created, lost, lately: vec![n as u64] });
                queue.take_in(taken);
            }
            let lag = at_once.lag(Order::new(20), 9, 99);
            prop_assert_eq!(queue.index().lag(Order::new(20), 9, 99), lag);
            prop_assert_eq!(queue.index().counts(), at_once.counts());
            for node in (0..40).map(hash) {
                prop_assert_eq!(queue.index().order(&node), at_once.order(&node));
            }
            prop_assert!(!queue.take_in(0));
        }
    }
}
