//! Proofs: an honest one verifies, and a changed one proves nothing, whatever was changed.

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use state_tree::{Key, NodeLayout, Proof, ProofError, RoochLayout, StateRoot, TreeError, get, prove};

use crate::{
    model::{Entry, Pool, Tree, object},
    store::Store,
};

/// A state with several levels, and its nodes.
fn random_state(rng: &mut ChaCha8Rng) -> (Tree, StateRoot, Store) {
    let pool = Pool { depth: 3, ..Pool::random(rng) };
    let mut state = Tree::default();
    for _ in 0..10 {
        let before = state.clone();
        state.apply(&pool.changes(rng, &before), &before);
    }
    let mut store = Store::default();
    let root = state.build(&mut store);
    (state, root, store)
}

/// Paths of objects, and of places where none is: beside one, below one, below nothing.
fn paths(rng: &mut ChaCha8Rng, state: &Tree) -> Vec<Vec<Key>> {
    let mut paths = state.paths();
    for path in paths.clone() {
        let mut bytes = *path.last().unwrap().as_bytes();
        bytes[rng.random_range(0..32)] ^= 1 << rng.random_range(0..8);
        let other = Key::new(bytes);
        paths.push([&path[..path.len() - 1], &[other]].concat());
        paths.push([&path[..], &[other]].concat());
        paths.push([&path[..path.len() - 1], &[other, other]].concat());
    }
    paths.push(vec![Key::new([0xff; 32])]);
    paths
}

fn expected(state: &Tree, path: &[Key]) -> Option<Vec<u8>> {
    let object = |entry: &Entry| entry.state(entry.fields.build(&mut Store::default())).encode().unwrap();
    state.at(path).map(object)
}

#[test]
fn an_honest_proof_gives_the_answer_of_a_read_and_of_the_model() {
    for seed in 0..60 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let (state, root, store) = random_state(rng);
        for path in paths(rng, &state) {
            let proof = prove(root, &path, &store).unwrap();
            let proven = proof.verify(root, &path).unwrap();
            assert_eq!(proven, get(root, &path, &store).unwrap(), "seed {seed} {path:?}");
            let bytes = proven.map(|object| object.encode().unwrap());
            assert_eq!(bytes, expected(&state, &path), "seed {seed} {path:?}");
        }
    }
}

#[test]
fn no_changed_byte_leaves_a_proof_valid() {
    for seed in 0..12 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let (state, root, store) = random_state(rng);
        for path in paths(rng, &state).iter().take(12) {
            let proof = prove(root, path, &store).unwrap();
            let step = if seed % 4 == 0 { 1 } else { 7 };
            for (tree, item, at) in positions(&proof).into_iter().step_by(step) {
                let mut changed = proof.clone();
                changed.segments[tree][item][at] ^= 1 << rng.random_range(0..8);
                assert!(changed.verify(root, path).is_err(), "seed {seed}: byte {at} of {item} of {tree}");
            }
        }
    }
}

fn positions(proof: &Proof) -> Vec<(usize, usize, usize)> {
    let mut positions = Vec::new();
    for (tree, segment) in proof.segments.iter().enumerate() {
        for (item, bytes) in segment.iter().enumerate() {
            positions.extend((0..bytes.len()).map(|at| (tree, item, at)));
        }
    }
    positions
}

/// What a proof is made of.
type Segments = Vec<Vec<Vec<u8>>>;

/// Every proof with one item or segment dropped, added, doubled, cut or swapped.
fn deformed(proof: &Proof) -> Vec<Proof> {
    let mut all = vec![Proof { segments: Vec::new() }];
    let mut with = |change: &dyn Fn(&mut Segments)| {
        let mut changed = proof.clone();
        change(&mut changed.segments);
        all.push(changed);
    };
    with(&|segments| segments.push(vec![Vec::new()]));
    with(&|segments| segments.push(Vec::new()));
    with(&|segments| segments.push(segments[0].clone()));
    for tree in 0..proof.segments.len() {
        with(&|segments| drop(segments.remove(tree)));
        for item in 0..proof.segments[tree].len() {
            with(&|segments| drop(segments[tree].remove(item)));
            with(&|segments| segments[tree].insert(item, vec![0; 32]));
            let same = proof.segments[tree][item].clone();
            with(&|segments| segments[tree].insert(item, same.clone()));
            with(&|segments| segments[tree][item].push(0));
            with(&|segments| segments[tree][item].truncate(proof.segments[tree][item].len().saturating_sub(1)));
            with(&|segments| segments[tree][item].clear());
            with(&|segments| segments[tree].swap(item, item.saturating_sub(1)));
            with(&|segments| segments[tree].swap(item, 0));
        }
    }
    all.retain(|changed| changed != proof);
    all
}

#[test]
fn no_dropped_added_or_swapped_step_leaves_a_proof_valid() {
    for seed in 0..25 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let (state, root, store) = random_state(rng);
        for path in paths(rng, &state).into_iter().take(16) {
            let proof = prove(root, &path, &store).unwrap();
            if proof.segments.iter().any(|segment| segment.len() > 40) {
                continue; // keys that part at their last nibble: the same shapes, two hundred times longer
            }
            for changed in deformed(&proof) {
                assert!(changed.verify(root, &path).is_err(), "seed {seed} {path:?} {changed:?}");
            }
        }
    }
}

/// A proof may fit another path only by telling the truth about it, as when both end at the same empty place.
#[test]
fn a_proof_says_nothing_false_about_another_path_or_root() {
    for seed in 0..25 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let (state, root, store) = random_state(rng);
        let (_, other_root, _) = random_state(rng);
        let paths = paths(rng, &state);
        for path in &paths {
            let proof = prove(root, path, &store).unwrap();
            if other_root != root {
                assert!(proof.verify(other_root, path).is_err(), "seed {seed}");
            }
            let other = paths.choose(rng).unwrap();
            if let Ok(claim) = proof.verify(root, other) {
                assert_eq!(claim, get(root, other, &store).unwrap(), "seed {seed} {path:?} {other:?}");
            }
        }
    }
}

/// The encoding of an internal node does not bind the nibble of a lone leaf to the hash: shifting it gives other bytes
/// with the same hash, which must not make a present object look absent.
#[test]
fn a_shifted_bitmap_does_not_hide_an_object() {
    let mut state = Tree::default();
    for first in [0x10, 0xa0] {
        state.0.insert(Key::new([first; 32]), Entry { object: object(u64::from(first)), fields: Tree::default() });
    }
    let mut store = Store::default();
    let root = state.build(&mut store);
    let honest = store.0[&root.hash()].clone();
    assert_eq!(honest[..5], [1, 0x02, 0x04, 0x02, 0x04]);
    let shifted = [&[1, 0x04, 0x04, 0x04, 0x04], &honest[5..]].concat();
    assert_eq!(RoochLayout.hash(&shifted).unwrap(), root.hash(), "the hash does not tell them apart");
    store.0.insert(root.hash(), shifted);
    let path = [Key::new([0x10; 32])];
    let proof = prove(root, &path, &store).unwrap();
    assert!(proof.verify(root, &path).unwrap().is_some());
}

#[test]
fn a_path_needs_a_key() {
    let store = Store::default();
    assert!(matches!(prove(StateRoot::EMPTY, &[], &store), Err(TreeError::EmptyPath)));
    assert!(matches!(get(StateRoot::EMPTY, &[], &store), Err(TreeError::EmptyPath)));
    let empty = Proof { segments: Vec::new() };
    assert_eq!(empty.verify(StateRoot::EMPTY, &[]), Err(ProofError::EmptyPath));
}
