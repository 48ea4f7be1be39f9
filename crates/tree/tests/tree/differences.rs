//! What one state has beside another, against both of them walked whole.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashSet},
};

use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use state_tree::{Between, Key, NodeHash, NodeSource, RoochLayout, StateRoot, TreeError, difference};

use crate::{
    model::{Clones, Entry, Pool, Tree, object},
    store::Store,
};

/// Counts the nodes that are read.
struct Counting<'a>(&'a Store, Cell<usize>);

impl NodeSource for Counting<'_> {
    fn read(&self, hashes: &[NodeHash], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<(), TreeError> {
        assert!(hashes.is_sorted(), "views take sorted hashes only");
        self.1.set(self.1.get() + hashes.len());
        self.0.read(hashes, each)
    }
}

fn told(store: &Store, (old, new): (StateRoot, StateRoot), most: usize) -> (Option<HashSet<NodeHash>>, usize) {
    let source = Counting(store, Cell::new(0));
    let told = difference(&source, &RoochLayout, Between { old, new }, most).unwrap();
    (told, source.1.get())
}

fn reach(store: &Store, root: StateRoot) -> BTreeSet<NodeHash> {
    let mut seen = BTreeSet::new();
    store.reach(root, &mut seen).unwrap();
    seen
}

#[test]
fn what_a_state_has_is_told_or_the_other_ones() {
    for seed in 0..300 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let pool = Pool { clones: Clones::Yes, ..Pool::random(rng) };
        let (mut store, mut states) = (Store::default(), vec![Tree::default()]);
        for _ in 0..8 {
            let mut next = states.last().unwrap().clone();
            next.apply(&pool.changes(rng, states.last().unwrap()), states.last().unwrap());
            states.push(next);
        }
        let roots: Vec<StateRoot> = states.iter().map(|state| state.build(&mut store)).collect();
        for _ in 0..8 {
            let [old, new] = [0, 1].map(|_| roots[rng.random_range(0..roots.len())]);
            let (has, had) = (reach(&store, new), reach(&store, old));
            let (told, read) = told(&store, (old, new), usize::MAX);
            let told: BTreeSet<NodeHash> = told.unwrap().into_iter().collect();
            assert!(told.is_subset(&has), "seed {seed}: told what the state does not have");
            assert!(has.is_subset(&(&told | &had)), "seed {seed}: {old} has not what was left out of {new}");
            assert!(old != new || read == 0, "seed {seed}: a state has nothing beside itself");
        }
    }
}

/// Two large states of which one object differs.
fn large() -> (Store, StateRoot, StateRoot) {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let (mut store, mut state) = (Store::default(), Tree::default());
    for value in 0..5_000 {
        state.0.insert(Key::new(rng.random()), Entry { object: object(value), fields: Tree::default() });
    }
    let old = state.build(&mut store);
    state.0.values_mut().next().unwrap().object = object(5_000);
    let new = state.build(&mut store);
    (store, old, new)
}

#[test]
fn one_change_in_a_large_state_costs_its_path_in_both() {
    let (store, old, new) = large();
    let (all, read) = told(&store, (old, new), 100);
    let all: BTreeSet<NodeHash> = all.unwrap().into_iter().collect();
    assert_eq!(all, &reach(&store, new) - &reach(&store, old));
    assert!(read <= 2 * 8, "{read} nodes of {} were read", store.0.len());
    assert_eq!(told(&store, (StateRoot::EMPTY, new), 100).0, None, "too many to follow");
}

#[test]
fn a_node_of_either_state_that_cannot_be_used_is_a_fault() {
    let (store, old, new) = large();
    let fails = |store: &Store| difference(store, &RoochLayout, Between { old, new }, usize::MAX).unwrap_err();
    for root in [old.hash(), new.hash()] {
        let mut damaged = store.clone();
        let bytes = damaged.0.remove(&root).unwrap();
        assert!(matches!(fails(&damaged), TreeError::Missing(hash) if hash == root));
        damaged.0.insert(root, bytes[..bytes.len() - 1].to_vec());
        assert!(matches!(fails(&damaged), TreeError::Malformed { hash, .. } if hash == root));
        let other = store.0.iter().find(|(hash, _)| **hash != root).unwrap().1;
        damaged.0.insert(root, other.clone());
        assert!(matches!(fails(&damaged), TreeError::WrongHash { key, .. } if key == root));
    }
}
