//! Is a delta enough for one-bit reference counts? A toy of IncrementalSweep lives on deltas alone: it never looks at a
//! state to learn what a commit did. Random histories of clones, moves, toggles, deletions at any depth, pins,
//! rollbacks and major cycles must never lose a node that a retained root reaches (S21, S22, S28, S36).

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use state_tree::{Change, Changes, Delta, Dropped, FieldsBase, Key, NodeHash, Put, StateRoot, update};

use crate::{
    model::{Pool, Tree, object},
    store::Store,
};

/// Which rules a history obeys: all of them, or all but one, to see that the histories would notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    SharedPlaces,
    PushDown,
    DropsBelowCopies,
}

/// What one commit may delete once its order falls to the cutoff.
#[derive(Default)]
struct Entry {
    stale: BTreeSet<NodeHash>,
    dropped: BTreeSet<NodeHash>,
}

struct Chain {
    window: usize,
    without: Without,
    store: Store,
    states: Vec<(StateRoot, Tree)>,
    journal: BTreeMap<usize, Entry>,
    pending: BTreeMap<NodeHash, usize>,
    many: BTreeMap<NodeHash, usize>,
    pins: BTreeSet<usize>,
    cutoff: usize,
    swept: usize,
}

impl Chain {
    fn new(window: usize, without: Without) -> Self {
        Self {
            window,
            without,
            store: Store::default(),
            states: vec![(StateRoot::EMPTY, Tree::default())],
            journal: BTreeMap::new(),
            pending: BTreeMap::new(),
            many: BTreeMap::new(),
            pins: BTreeSet::new(),
            cutoff: 0,
            swept: 0,
        }
    }

    fn retained(&self) -> BTreeSet<usize> {
        let head = self.states.len();
        let first = head.saturating_sub(self.window).max(self.cutoff);
        (first..head).chain(self.pins.iter().copied()).collect()
    }

    fn below_cutoff(&self) -> Option<usize> {
        self.states.len().checked_sub(self.window)
    }

    fn commit(&mut self, changes: &Changes) {
        let order = self.states.len();
        let (root, state) = self.states.last().unwrap().clone();
        let delta = update(root, changes, &self.store).unwrap();
        let mut after = state.clone();
        after.apply(changes, &state);
        let moves = self.adopt(order, &delta);
        let mut stale = self.share(order, &delta);
        let mut created: BTreeMap<NodeHash, u32> =
            delta.created.iter().map(|(hash, created)| (*hash, created.places)).collect();
        cancel(&mut created, &mut stale);
        self.create(order, &created);
        let dropped = self.dropped(&delta, &moves);
        self.store.apply(&delta);
        let kept = |hash: &NodeHash| !self.many.contains_key(hash);
        let stale = stale.into_keys().filter(kept).collect();
        let dropped = dropped.into_iter().filter(kept).collect();
        self.enter(order, Entry { stale, dropped });
        self.states.push((delta.root, after));
    }

    /// Rule 1: an adopted root is shared, unless the adoption is half of a move.
    fn adopt(&mut self, order: usize, delta: &Delta) -> BTreeMap<NodeHash, u32> {
        let mut moves = match self.without {
            Without::DropsBelowCopies => naive_moves(delta),
            Without::Nothing | Without::SharedPlaces | Without::PushDown => {
                delta.moves(&|dropped| self.shared(delta, dropped.above))
            }
        };
        let cancelled = moves.clone();
        for root in &delta.adopted {
            match moves.get_mut(root).filter(|left| **left > 0) {
                Some(left) => *left -= 1,
                None => drop(self.many.insert(*root, order)),
            }
        }
        cancelled
    }

    fn shared(&self, delta: &Delta, index: Option<usize>) -> bool {
        delta.above(index).any(|place| place.below_adoption || self.many.contains_key(&place.hash))
    }

    /// Rule 2: what is replaced at a shared place is not stale, and its children that stay are shared now.
    fn share(&mut self, order: usize, delta: &Delta) -> BTreeMap<NodeHash, u32> {
        let mut stale = BTreeMap::new();
        let shared: Vec<bool> = (0..delta.replaced.len()).map(|index| self.shared(delta, Some(index))).collect();
        for (place, shared) in delta.replaced.iter().zip(shared) {
            if !shared || self.without == Without::SharedPlaces {
                *stale.entry(place.hash).or_insert(0) += 1;
            }
            if shared && self.without != Without::PushDown {
                self.many.extend(place.unchanged.iter().map(|child| (*child, order)));
            }
        }
        stale
    }

    /// Rule 4: created while present, or at two places, is shared; a pending entry of the same hash is cancelled.
    fn create(&mut self, order: usize, created: &BTreeMap<NodeHash, u32>) {
        for (hash, places) in created {
            if let Some(entry) = self.pending.remove(hash) {
                let entry = self.journal.get_mut(&entry).unwrap();
                entry.stale.remove(hash);
                entry.dropped.remove(hash);
            } else if self.store.0.contains_key(hash) {
                self.many.insert(*hash, order);
            }
            if *places > 1 {
                self.many.insert(*hash, order);
            }
        }
    }

    /// Rule 5: dropped roots that lost their place and did not move.
    fn dropped(&self, delta: &Delta, moves: &BTreeMap<NodeHash, u32>) -> BTreeSet<NodeHash> {
        let mut lost: BTreeMap<NodeHash, u32> = BTreeMap::new();
        for dropped in &delta.dropped {
            if !self.shared(delta, dropped.above) {
                *lost.entry(dropped.root).or_insert(0) += 1;
            }
        }
        lost.retain(|root, count| moves.get(root).is_none_or(|moved| *moved < *count));
        lost.into_keys().collect()
    }

    fn enter(&mut self, order: usize, entry: Entry) {
        self.pending.extend(entry.stale.iter().chain(&entry.dropped).map(|hash| (*hash, order)));
        self.journal.insert(order, entry);
    }

    fn forget(&mut self, order: usize) -> Option<Entry> {
        let entry = self.journal.remove(&order);
        self.pending.retain(|_, at| *at != order);
        entry
    }

    /// Rule 6.
    fn incremental_sweep(&mut self) {
        let Some(cutoff) = self.below_cutoff() else { return };
        for order in self.cutoff..=cutoff {
            let Some(entry) = self.forget(order) else { continue };
            let mut pinned = BTreeSet::new();
            for pin in self.pins.iter().filter(|pin| **pin < order) {
                self.store.reach(self.states[*pin].0, &mut pinned).unwrap();
            }
            let mut stack: Vec<(NodeHash, bool)> = entry.stale.iter().map(|hash| (*hash, false)).collect();
            stack.extend(entry.dropped.iter().map(|hash| (*hash, true)));
            while let Some((hash, expand)) = stack.pop() {
                if self.many.contains_key(&hash) || pinned.contains(&hash) || !self.store.0.contains_key(&hash) {
                    continue;
                }
                if expand {
                    stack.extend(self.store.children(&hash).into_iter().map(|child| (child, true)));
                }
                self.store.0.remove(&hash);
                self.swept += 1;
            }
        }
        self.cutoff = self.cutoff.max(cutoff);
    }

    /// Rule 7.
    fn major_cycle(&mut self) {
        self.cutoff = self.cutoff.max(self.below_cutoff().unwrap_or(0));
        let mut live = BTreeSet::new();
        for order in self.retained() {
            self.store.reach(self.states[order].0, &mut live).unwrap();
        }
        self.store.0.retain(|hash, _| live.contains(hash));
        let settled = self.below_cutoff();
        let orders: Vec<usize> = self.journal.keys().copied().filter(|order| Some(*order) <= settled).collect();
        orders.into_iter().for_each(|order| drop(self.forget(order)));
        let mut traced = BTreeMap::new();
        for order in self.retained() {
            let mut seen = BTreeSet::new();
            let mut stack: Vec<NodeHash> = self.states[order].0.node().into_iter().collect();
            while let Some(hash) = stack.pop() {
                if seen.insert(hash) {
                    stack.extend(self.store.children(&hash));
                } else {
                    traced.insert(hash, self.many.get(&hash).copied().unwrap_or(self.cutoff));
                }
            }
        }
        let cutoff = self.cutoff;
        let recent = self.many.iter().filter(|(_, order)| **order > cutoff).map(|(hash, order)| (*hash, *order));
        traced.extend(recent);
        self.many = traced;
    }

    /// Rule 8.
    fn rollback(&mut self, order: usize) {
        (order + 1..self.states.len()).for_each(|above| drop(self.forget(above)));
        self.states.truncate(order + 1);
        self.pins.retain(|pin| *pin <= order);
    }

    /// The node that a retained root misses.
    fn lost(&self) -> Option<NodeHash> {
        let mut seen = BTreeSet::new();
        self.retained().into_iter().find_map(|order| self.store.reach(self.states[order].0, &mut seen).err())
    }
}

/// Rule 3: both lists count places, and cancel per hash.
fn cancel(created: &mut BTreeMap<NodeHash, u32>, stale: &mut BTreeMap<NodeHash, u32>) {
    for (hash, lost) in stale.iter_mut() {
        if let Some(gained) = created.get_mut(hash) {
            let both = (*gained).min(*lost);
            *gained -= both;
            *lost -= both;
        }
    }
    created.retain(|_, count| *count > 0);
    stale.retain(|_, count| *count > 0);
}

/// Every drop taken for half of a move, as if nothing could still reach the place.
fn naive_moves(delta: &Delta) -> BTreeMap<NodeHash, u32> {
    let count = |root: &NodeHash| {
        let dropped = delta.dropped.iter().filter(|dropped: &&Dropped| dropped.root == *root).count();
        dropped.min(delta.adopted.iter().filter(|adopted| *adopted == root).count()) as u32
    };
    delta.adopted.iter().map(|root| (*root, count(root))).filter(|(_, count)| *count > 0).collect()
}

fn history(seed: u64, without: Without, steps: usize) -> Result<usize, String> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let mut chain = Chain::new(rng.random_range(1..=6), without);
    let pool = Pool::random(rng);
    for step in 0..steps {
        let head = chain.states.len() - 1;
        let retained: Vec<usize> = chain.retained().into_iter().collect();
        match rng.random_range(0..100) {
            0..70 => chain.commit(&pool.changes(rng, &chain.states[head].1)),
            70..85 => chain.incremental_sweep(),
            85..90 => chain.major_cycle(),
            90..94 => drop(chain.pins.insert(*retained.choose(rng).unwrap())),
            94..97 => drop(chain.pins.pop_first()),
            _ => chain.rollback(rng.random_range((head + 1).saturating_sub(chain.window).max(chain.cutoff)..=head)),
        }
        if let Some(hash) = chain.lost() {
            return Err(format!("seed {seed} step {step}: {hash} is gone"));
        }
    }
    Ok(chain.swept)
}

#[test]
fn one_bit_counts_fed_by_deltas_alone_lose_nothing() {
    let swept: usize = (0..count(120)).map(|seed| history(seed, Without::Nothing, 120).unwrap()).sum();
    assert!(swept > 1000, "only {swept} nodes were ever swept: the histories test nothing");
}

#[test]
fn each_part_of_a_delta_is_needed() {
    for without in [Without::SharedPlaces, Without::PushDown] {
        let lost = (0..count(200)).find_map(|seed| history(seed, without, 120).err());
        assert!(lost.is_some(), "{without:?}: no history noticed");
    }
}

/// An object is cloned while one of its fields moves away: the clone still has that field, so nothing moved.
#[test]
fn a_field_that_moves_out_of_an_object_being_cloned_is_shared() {
    for (without, survives) in [(Without::Nothing, true), (Without::DropsBelowCopies, false)] {
        let mut chain = Chain::new(1, without);
        clone_while_a_field_moves().iter().for_each(|changes| chain.commit(changes));
        chain.incremental_sweep();
        assert_eq!(chain.lost().is_none(), survives, "{without:?}");
    }
}

fn clone_while_a_field_moves() -> [Changes; 3] {
    let key = |first: u8| Key::new([first; 32]);
    let put = |value: Option<u64>, base, fields| Change::Put(Put { object: value.map(object), base, fields });
    let of = |list: Vec<(u8, Change)>| Changes(list.into_iter().map(|(first, change)| (key(first), change)).collect());
    let none = Changes::default;
    let plain = |value| put(Some(value), FieldsBase::Keep, none());
    let inner = of(vec![(0x10, plain(1)), (0x20, plain(2))]);
    let outer = of(vec![(0x60, put(Some(0), FieldsBase::Keep, inner))]);
    let adopt = |path: Vec<Key>| put(Some(0), FieldsBase::Adopt(path), none());
    let copies = vec![
        (0x30, put(None, FieldsBase::Keep, of(vec![(0x60, Change::Remove)]))),
        (0x70, adopt(vec![key(0x30)])),
        (0x80, adopt(vec![key(0x30), key(0x60)])),
    ];
    let later = vec![(0x80, put(None, FieldsBase::Keep, of(vec![(0x10, plain(3))])))];
    [of(vec![(0x30, put(Some(0), FieldsBase::Keep, outer))]), of(copies), of(later)]
}

/// More histories than a test run needs: `STATE_TREE_HISTORIES=5000`.
fn count(usual: u64) -> u64 {
    std::env::var("STATE_TREE_HISTORIES").map_or(usual, |text| text.parse().unwrap())
}
