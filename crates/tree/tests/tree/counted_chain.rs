//! A chain in memory that deletes by one-bit counts: rules 1 to 6 are the product's, rules 7 and 8 are plain here.
//!
//! It lives on deltas alone: it never looks at a state to learn what a commit did. A rule is switched off from outside,
//! by changing what the product is told or what it answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
};

use state_tree::{
    Changes, Counted, Delta, Expiring, Expiry, Found, Judge, Known, Left, NodeHash, Order, Questions, RoochLayout,
    Standing, StateRoot, count, update,
};

use crate::{model::Tree, store::Store};

/// Which rules a chain obeys: all of them, or all but one, to see that the histories would notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Without {
    Nothing,
    /// Rule 1: an adopted root becomes *many*.
    Adoption,
    /// Rule 1: a drop is no half of a move where something else still reaches its place.
    DropsBelowCopies,
    /// Rule 2: what is replaced at a shared place is not stale.
    SharedPlaces,
    /// Rule 2: the children that stay become *many*.
    PushDown,
    /// Rules 3 and 4: places are counted, not hashes.
    Multiplicity,
    /// Rule 4: what is created while present becomes *many*.
    Presence,
    /// Rule 6: what was marked after the commit is held.
    HeldMany,
    /// Rule 6: what an older pin reaches is held.
    HeldPins,
    /// Rule 7: entries at or below the cutoff of a major cycle are settled.
    Settling,
    /// Rule 7: marks of commits above the cutoff are kept.
    RecentMarks,
}

pub(crate) struct CountedChain {
    pub(crate) window: usize,
    without: Without,
    pub(crate) store: Store,
    pub(crate) states: Vec<(StateRoot, Tree)>,
    pub(crate) journal: BTreeMap<usize, Expiring>,
    /// What is left of the entry that is being swept.
    left: Option<(usize, Left)>,
    pending: BTreeMap<NodeHash, usize>,
    pub(crate) many: BTreeMap<NodeHash, usize>,
    pub(crate) pins: BTreeSet<usize>,
    pub(crate) cutoff: usize,
    pub(crate) swept: usize,
    /// Whether a major cycle traces every retained state, as the executable model does.
    traces_all: bool,
}

/// What the chain knows, refusing to answer what was not announced.
struct Answers<'a> {
    chain: &'a CountedChain,
    without: Without,
    asked: Questions,
}

impl Known for Answers<'_> {
    fn is_many(&self, hash: &NodeHash) -> bool {
        assert!(self.asked.counts.contains(hash), "the count of {hash} was not announced");
        self.chain.many.contains_key(hash)
    }

    fn standing(&self, hash: &NodeHash) -> Standing {
        assert!(self.asked.standings.contains(hash), "the standing of {hash} was not announced");
        match self.chain.pending.get(hash) {
            Some(_) if self.chain.many.contains_key(hash) => Standing::Present,
            Some(order) => Standing::Pending(Order::new(*order as u64)),
            None if self.without != Without::Presence && self.chain.store.0.contains_key(hash) => Standing::Present,
            None => Standing::Absent,
        }
    }
}

impl CountedChain {
    pub(crate) fn new(window: usize, without: Without) -> Self {
        Self {
            window,
            without,
            store: Store::default(),
            states: vec![(StateRoot::EMPTY, Tree::default())],
            journal: BTreeMap::new(),
            left: None,
            pending: BTreeMap::new(),
            many: BTreeMap::new(),
            pins: BTreeSet::new(),
            cutoff: 0,
            swept: 0,
            traces_all: false,
        }
    }

    /// The same with major cycles that trace every retained state.
    pub(crate) fn tracing_all(self) -> Self {
        Self { traces_all: true, ..self }
    }

    pub(crate) fn head(&self) -> usize {
        self.states.len() - 1
    }

    /// The first order of the window, which never goes back.
    pub(crate) fn floor(&self) -> usize {
        self.states.len().saturating_sub(self.window).max(self.cutoff)
    }

    pub(crate) fn retained(&self) -> BTreeSet<usize> {
        (self.floor()..self.states.len()).chain(self.pins.iter().copied()).collect()
    }

    pub(crate) fn commit(&mut self, changes: &Changes) {
        let delta = self.delta(changes);
        let counted = self.counted(&delta, self.without);
        self.write(changes, &delta, counted);
    }

    pub(crate) fn delta(&self, changes: &Changes) -> Delta {
        update(self.states[self.head()].0, changes, &self.store).unwrap()
    }

    /// What the product says of a commit, one rule aside.
    pub(crate) fn counted(&self, delta: &Delta, without: Without) -> Counted {
        let told = told(delta.clone(), without);
        let mut counted = count(&told, &Answers { chain: self, without, asked: Questions::of(&told) });
        if without == Without::SharedPlaces {
            let is_many = |hash: &NodeHash| self.many.contains_key(hash) || counted.many.contains(hash);
            let stale = delta.stale().into_keys().filter(|hash| !is_many(hash)).collect();
            counted.expiring.extend(Expiring { stale, dropped: Vec::new() });
        }
        counted
    }

    pub(crate) fn write(&mut self, changes: &Changes, delta: &Delta, counted: Counted) {
        let order = self.states.len();
        let Counted { many, expiring, cancelled } = counted;
        for (hash, order) in cancelled {
            assert_eq!(self.pending.remove(&hash), Some(order.get() as usize));
        }
        self.many.extend(many.into_iter().map(|hash| (hash, order)));
        let mut named = expiring.stale.iter().chain(&expiring.dropped);
        assert!(!named.any(|hash| self.many.contains_key(hash)), "the entry names a node that is many (rule 5)");
        self.store.apply(delta);
        self.enter(order, expiring);
        let parent = &self.states[order - 1].1;
        let mut after = parent.clone();
        after.apply(changes, parent);
        self.states.push((delta.root, after));
    }

    fn enter(&mut self, order: usize, entry: Expiring) {
        self.pending.extend(entry.stale.iter().chain(&entry.dropped).map(|hash| (*hash, order)));
        self.journal.insert(order, entry);
    }

    /// What the entries name that may still expire: without what was created since.
    pub(crate) fn entries(&self) -> BTreeMap<usize, Expiring> {
        let pending = |order: usize, hashes: &[NodeHash]| {
            hashes.iter().filter(|hash| self.pending.get(hash) == Some(&order)).copied().collect()
        };
        let entry = |(order, entry): (&usize, &Expiring)| {
            (*order, Expiring { stale: pending(*order, &entry.stale), dropped: pending(*order, &entry.dropped) })
        };
        self.journal.iter().map(entry).collect()
    }

    fn forget(&mut self, order: usize) -> Option<Expiring> {
        let entry = self.journal.remove(&order);
        self.pending.retain(|_, at| *at != order);
        self.left.take_if(|(at, _)| *at == order);
        entry
    }

    /// Rule 6, to the end.
    pub(crate) fn incremental_sweep(&mut self) {
        while self.sweep_step(NonZeroUsize::new(3).unwrap()) {}
    }

    /// Rule 6, one step: the oldest entry that has expired becomes smaller. False if there is none.
    pub(crate) fn sweep_step(&mut self, most: NonZeroUsize) -> bool {
        self.cutoff = self.floor();
        let expired = self.states.len().checked_sub(self.window);
        let Some((order, entry)) = self.journal.first_key_value().filter(|(order, _)| Some(**order) <= expired) else {
            return false;
        };
        let order = *order;
        let mut expiry = match &self.left {
            Some((at, left)) if *at == order => Expiry::resume(entry, left).unwrap(),
            _ => Expiry::new(entry),
        };
        let held = self.held(order);
        let step = expiry.step(most);
        let found = Found::read(&step, &self.store, &RoochLayout).unwrap();
        let is_pending = |hash: &NodeHash| self.pending.get(hash) == Some(&order);
        let is_free = |hash: &NodeHash| is_pending(hash) && !held.contains(hash);
        let knows = self.without != Without::HeldMany && order.is_multiple_of(2); // both ways must do
        let is_shared = |hash: &NodeHash| knows && self.many.contains_key(hash);
        let taken = expiry.take(&step, &found, Judge { is_free: &is_free, is_shared: &is_shared });
        assert!(taken.condemned.len() <= most.get());
        self.swept += taken.condemned.len();
        taken.condemned.iter().for_each(|hash| drop(self.store.0.remove(hash)));
        self.pending.extend(taken.below.into_iter().map(|hash| (hash, order)));
        self.left = Some((order, expiry.left()));
        if expiry.is_done() {
            self.forget(order);
        }
        true
    }

    /// What an entry must spare.
    fn held(&self, order: usize) -> BTreeSet<NodeHash> {
        let mut held = BTreeSet::new();
        for pin in self.pins.iter().filter(|pin| **pin < order && self.without != Without::HeldPins) {
            let pinned = self.store.reach(self.states[*pin].0, &mut held);
            assert!(pinned.is_ok() || self.without != Without::Nothing, "{pinned:?} is gone from a pin");
        }
        held.extend(self.many.keys().filter(|_| self.without != Without::HeldMany));
        held
    }

    /// Rule 7.
    pub(crate) fn major_cycle(&mut self) {
        self.cutoff = self.floor();
        let mut live = BTreeSet::new();
        for order in self.retained() {
            self.store.reach(self.states[order].0, &mut live).unwrap();
        }
        self.store.0.retain(|hash, _| live.contains(hash));
        let cutoff = if self.traces_all { self.states.len().checked_sub(self.window) } else { Some(self.cutoff) };
        let settled = cutoff.filter(|_| self.without != Without::Settling);
        let orders: Vec<usize> = self.journal.keys().copied().filter(|order| Some(*order) <= settled).collect();
        orders.into_iter().for_each(|order| drop(self.forget(order)));
        self.retrace();
    }

    /// The marks made exact again: two places of the oldest state of the window, or a mark of a later commit. Each later
    /// state then has its marks by the promise of the counts, and an older pin is held by what it reaches.
    fn retrace(&mut self) {
        let recent = |order: &usize| *order > self.cutoff && self.without != Without::RecentMarks;
        let mut many: BTreeMap<NodeHash, usize> = BTreeMap::new();
        let traced = if self.traces_all { self.retained() } else { [self.floor()].into() };
        for order in traced {
            let shared = self.store.referred_twice(self.states[order].0);
            many.extend(shared.into_iter().map(|hash| (hash, self.many.get(&hash).map_or(self.cutoff, |at| *at))));
        }
        many.extend(self.many.iter().filter(|(_, order)| recent(order)).map(|(hash, order)| (*hash, *order)));
        self.many = many;
    }

    /// Rule 8.
    pub(crate) fn rollback(&mut self, order: usize) {
        (order + 1..self.states.len()).for_each(|above| drop(self.forget(above)));
        self.states.truncate(order + 1);
        self.pins.retain(|pin| *pin <= order);
    }

    /// The node that a retained root misses.
    pub(crate) fn lost(&self) -> Option<NodeHash> {
        let mut seen = BTreeSet::new();
        self.retained().into_iter().find_map(|order| self.store.reach(self.states[order].0, &mut seen).err())
    }

    /// What the product promises of the head, whether or not it does harm: the node that breaks it.
    pub(crate) fn broken(&self) -> Option<NodeHash> {
        let root = self.states[self.head()].0;
        let unmarked = |hash: &NodeHash| !self.many.contains_key(hash);
        let mut live = BTreeSet::new();
        self.store.reach(root, &mut live).unwrap();
        let condemned = |hash: &NodeHash| unmarked(hash) && self.pending.contains_key(hash);
        self.store.referred_twice(root).into_iter().find(unmarked).or_else(|| live.into_iter().find(condemned))
    }
}

/// A delta as the product is told it, with what one rule needs taken out.
fn told(mut delta: Delta, without: Without) -> Delta {
    if without == Without::Adoption {
        delta.adopted.clear();
    }
    if without == Without::DropsBelowCopies {
        cancel_moves(&mut delta);
    }
    if without == Without::PushDown {
        delta.replaced.iter_mut().for_each(|place| place.unchanged.clear());
    }
    if without == Without::Multiplicity {
        delta.created.values_mut().for_each(|created| created.places = 1);
    }
    delta
}

/// Takes every pair of a drop and an adoption out, as if nothing could still reach the place of the drop.
fn cancel_moves(delta: &mut Delta) {
    let adopted = std::mem::take(&mut delta.adopted);
    for root in adopted {
        match delta.dropped.iter().position(|dropped| dropped.root == root) {
            Some(at) => drop(delta.dropped.remove(at)),
            None => delta.adopted.push(root),
        }
    }
}
