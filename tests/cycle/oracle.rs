//! What has to be readable, told by the bounds, the times of the chain, and who asked for what until when. It asks the product
//! for nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use state_pruner::{ConsumerStatus, KeepPolicy};
use state_tests::chain::Chain;
use state_tree::Order;

/// Milliseconds between two blocks of the chain under test.
const BLOCK_MS: u64 = 1000;
/// So long somebody who reads the chain is waited for after a start, at most.
const GRACE_MS: u64 = 3_600_000;

/// The oldest order of the range, and the single ones below it.
pub(crate) type Readable = (u64, BTreeSet<u64>);

/// The model. Time is the wall clock's, in milliseconds; the other clock is never behind it.
#[derive(Debug, Clone)]
pub(crate) struct Oracle {
    pub(crate) keep: KeepPolicy,
    pub(crate) now_ms: u64,
    /// Pins that are over and consumers that are silent, each time that the floor moved on without them.
    pub(crate) lapsed: u64,
    readable: Readable,
    /// By name: the order, and when it is over.
    pins: BTreeMap<String, (u64, Option<u64>)>,
    /// By name, what each said since the disk is known to have it: the newest counts.
    consumers: BTreeMap<String, Vec<Consumer>>,
}

/// Who needs every order from a watermark on.
#[derive(Debug, Clone, Copy)]
struct Consumer {
    from: u64,
    heard_ms: u64,
    ttl_ms: u64,
    /// When it is silent.
    end: u64,
}

impl Oracle {
    pub(crate) fn new(keep: KeepPolicy) -> Self {
        let readable = (0, BTreeSet::new());
        Self { keep, now_ms: 0, lapsed: 0, readable, pins: BTreeMap::new(), consumers: BTreeMap::new() }
    }

    pub(crate) fn pin(&mut self, name: &str, order: Order, ttl: Option<Duration>) {
        let end = ttl.map(|ttl| self.now_ms + ttl.as_millis() as u64);
        self.pins.insert(name.to_owned(), (order.get(), end));
    }

    pub(crate) fn unpin(&mut self, name: &str) {
        assert!(self.pins.remove(name).is_some());
    }

    pub(crate) fn hear(&mut self, name: &str, order: Order, ttl: Duration) {
        let (from, ttl_ms) = (order.get(), ttl.as_millis() as u64);
        let word = Consumer { from, heard_ms: self.now_ms, ttl_ms, end: self.now_ms + ttl_ms };
        self.consumers.entry(name.to_owned()).or_default().push(word);
    }

    /// A process begins. Who can still be served had nobody to speak to, and is waited for again.
    pub(crate) fn starts(&mut self) {
        for Consumer { from, ttl_ms, end, .. } in self.consumers.values_mut().filter_map(|words| words.last_mut()) {
            if *from >= self.readable.0 {
                *end = (*end).max(self.now_ms + (*ttl_ms).min(GRACE_MS));
            }
        }
    }

    pub(crate) fn forget(&mut self, name: &str) {
        assert!(self.consumers.remove(name).is_some());
    }

    /// The disk has everything.
    pub(crate) fn is_synced(&mut self) {
        self.consumers.values_mut().for_each(|words| drop(words.drain(..words.len() - 1)));
    }

    /// The machine has died: a consumer that went on may be found where it was a few words ago.
    pub(crate) fn finds(&mut self, consumers: &[ConsumerStatus], context: &str) {
        for (name, words) in &mut self.consumers {
            let found = consumers.iter().find(|found| found.consumer.name == *name);
            let found = &found.unwrap_or_else(|| panic!("{context}: {name} is forgotten")).consumer;
            let said = |word: &Consumer| (word.from, word.heard_ms, word.ttl_ms);
            let at = words.iter().rposition(|word| said(word) == (found.order, found.heard_ms, found.ttl_ms));
            words.truncate(1 + at.unwrap_or_else(|| panic!("{context}: {found:?} is none of {words:?}")));
        }
    }

    fn words(&self) -> impl Iterator<Item = &Consumer> {
        self.consumers.values().filter_map(|words| words.last())
    }

    /// What is readable once the pruner has looked at a head.
    pub(crate) fn after_a_look(&self, head: Order) -> Readable {
        let (head, (floor, below)) = (head.get(), &self.readable);
        let is_within = |order: u64| {
            let last = order + self.keep.last.get() > head;
            let time = |time: Duration| (head - order) * BLOCK_MS <= time.as_millis() as u64;
            let heard = |Consumer { from, end, .. }: &Consumer| *end > self.now_ms && *from <= order;
            last || order == head || self.keep.time.is_some_and(time) || self.words().any(heard)
        };
        let to = (*floor..=head).find(|order| is_within(*order)).unwrap_or(*floor);
        let pinned =
            |order: u64| self.pins.values().any(|(at, end)| *at == order && end.is_none_or(|end| end > self.now_ms));
        let every = |order: u64| self.keep.every.is_some_and(|every| order.is_multiple_of(every.get()));
        let below = below.iter().copied().chain(*floor..to).filter(|order| pinned(*order) || every(*order));
        (to, below.collect())
    }

    /// The pruner has looked at a head.
    pub(crate) fn looks(&mut self, head: Order) {
        let before = self.readable.0;
        self.readable = self.after_a_look(head);
        let (pins, now) = (self.pins.len(), self.now_ms);
        self.pins.retain(|_, (_, end)| end.is_none_or(|end| end > now));
        let passed = before..self.readable.0;
        let silent = self.words().filter(|consumer| consumer.end <= now && passed.contains(&consumer.from)).count();
        self.lapsed += (pins - self.pins.len() + silent) as u64;
    }

    pub(crate) fn readable(&self) -> &Readable {
        &self.readable
    }

    /// It looked at some head, or at none: what is readable must be one of these.
    pub(crate) fn is_one_of(&mut self, chain: &Chain, allowed: &[Readable], context: &str) {
        let found = found(chain);
        assert!(allowed.contains(&found), "{context}: {found:?} is none of {allowed:?}");
        self.readable = found;
    }

    pub(crate) fn agrees(&self, chain: &Chain, context: &str) {
        assert_eq!(found(chain), self.readable, "{context}: under {:?} at head {}", self.keep, chain.head());
    }
}

/// What the store says.
fn found(chain: &Chain) -> Readable {
    (chain.floor().get(), chain.store.kept().into_iter().map(|(order, _)| order.get()).collect())
}
