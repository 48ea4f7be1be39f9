//! I4 and the delta that IncrementalSweep lives on: what an update emits, replaces, drops and adopts, against plain maps
//! from which the whole tree is built anew.

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use state_tree::{Change, Changes, Delta, FieldsBase, Key, MAX_NESTING, NodeHash, Put, StateRoot, TreeError, update};

use crate::{
    model::{Clones, Pool, Tree, object},
    oracle::{Account, difference},
    store::Store,
};

/// One step of a random history; returns the delta and the new state.
fn step(rng: &mut ChaCha8Rng, pool: &Pool, state: &Tree, store: &Store) -> (Changes, Delta, Tree) {
    let changes = pool.changes(rng, state);
    let root = state.build(&mut Store::default());
    let delta = update(root, &changes, store).unwrap();
    let mut after = state.clone();
    after.apply(&changes, state);
    (changes, delta, after)
}

/// Sees a seed, the state before and after, the changes and their delta.
type Check<'a> = dyn FnMut(u64, (&Tree, &Tree), &Changes, &Delta) + 'a;

/// Runs random histories and shows each step to `check`.
fn histories(count: u64, clones: Clones, check: &mut Check<'_>) {
    for seed in 0..count {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let pool = Pool { clones, ..Pool::random(rng) };
        let mut state = Tree::default();
        for _ in 0..12 {
            let mut store = Store::default();
            state.build(&mut store);
            let (changes, delta, after) = step(rng, &pool, &state, &store);
            check(seed, (&state, &after), &changes, &delta);
            state = after;
        }
    }
}

#[test]
fn an_update_yields_the_canonical_tree_of_the_new_state() {
    histories(300, Clones::Yes, &mut |seed, (old, new), changes, delta| {
        let (mut before, mut after) = (Store::default(), Store::default());
        assert_eq!(delta.parent, old.build(&mut before), "seed {seed}");
        assert_eq!(delta.root, new.build(&mut after), "seed {seed}: {changes:?}");
        before.apply(delta);
        for (hash, bytes) in &after.0 {
            assert_eq!(before.0.get(hash), Some(bytes), "seed {seed}: in neither the old state nor created");
        }
        assert!(delta.stale().keys().all(|hash| !delta.created.contains_key(hash)), "seed {seed}");
        for hash in delta.created.keys() {
            assert!(after.0.contains_key(hash), "seed {seed}: {hash} was created for nothing");
        }
    });
}

#[test]
fn a_delta_is_exactly_the_difference_of_places() {
    histories(300, Clones::Yes, &mut |seed, (old, new), changes, delta| {
        assert_eq!(Account::of(delta), difference(old, new, changes), "seed {seed}: {changes:?}");
    });
}

/// Places after = places before + created - replaced + below adopted roots - below dropped roots, for every hash.
#[test]
fn places_balance_for_every_hash() {
    histories(300, Clones::Yes, &mut |seed, (old, new), _, delta| {
        let (mut before, mut after) = (Store::default(), Store::default());
        let mut balance = {
            let root = old.build(&mut before);
            before.places(root)
        };
        let mut add = |hash: &NodeHash, count: i64| *balance.entry(*hash).or_insert(0) += count;
        delta.created.iter().for_each(|(hash, created)| add(hash, i64::from(created.places)));
        delta.replaced.iter().for_each(|place| add(&place.hash, -1));
        let whole = |root: &NodeHash| before.places(StateRoot::new(*root));
        delta.adopted.iter().for_each(|root| whole(root).iter().for_each(|(hash, count)| add(hash, *count)));
        delta.dropped.iter().for_each(|drop| whole(&drop.root).iter().for_each(|(hash, count)| add(hash, -count)));
        balance.retain(|_, count| *count != 0);
        let root = new.build(&mut after);
        assert_eq!(balance, after.places(root), "seed {seed}");
    });
}

#[test]
fn replaced_places_come_after_the_place_above_them() {
    histories(100, Clones::Yes, &mut |seed, _, _, delta| {
        for (index, place) in delta.replaced.iter().enumerate() {
            assert!(place.above.is_none_or(|above| above < index), "seed {seed}: place {index}");
        }
    });
}

/// Without clones and with values that never repeat, no node has two places, so stale means unreachable.
#[test]
fn no_stale_node_is_reachable_from_the_new_root() {
    let mut value = 1000;
    for seed in 0..150 {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let pool = Pool { clones: Clones::No, ..Pool::random(rng) };
        let mut state = Tree::default();
        for _ in 0..12 {
            let mut store = Store::default();
            let root = state.build(&mut store);
            let mut changes = pool.changes(rng, &state);
            number(&mut changes, &mut value);
            let delta = update(root, &changes, &store).unwrap();
            let before = state.clone();
            state.apply(&changes, &before);
            let mut live = BTreeSet::new();
            store.apply(&delta);
            store.reach(delta.root, &mut live).unwrap();
            for hash in delta.stale().keys() {
                assert!(!live.contains(hash), "seed {seed}: {hash} is stale and reachable");
                assert!(!delta.created.contains_key(hash), "seed {seed}: {hash} is stale and created");
            }
        }
    }
}

/// Gives every put a value of its own.
fn number(changes: &mut Changes, value: &mut u64) {
    for change in changes.0.values_mut() {
        let Change::Put(put) = change else { continue };
        *value += 1;
        put.object = put.object.is_some().then(|| object(*value));
        number(&mut put.fields, value);
    }
}

fn key(nibbles: &[u8]) -> Key {
    let mut bytes = [0; 32];
    for (index, nibble) in nibbles.iter().enumerate() {
        bytes[index / 2] |= nibble << (4 * (1 - index % 2));
    }
    Key::new(bytes)
}

fn changes(list: Vec<(Key, Change)>) -> Changes {
    Changes(list.into_iter().collect())
}

fn put(value: u64, base: FieldsBase, fields: Changes) -> Change {
    Change::Put(Put { object: Some(object(value)), base, fields })
}

fn plain(value: u64) -> Change {
    put(value, FieldsBase::Keep, Changes::default())
}

/// Builds a state from nothing.
fn state(list: Vec<(Key, Change)>) -> (Store, StateRoot) {
    let mut store = Store::default();
    let delta = update(StateRoot::EMPTY, &changes(list), &store).unwrap();
    store.apply(&delta);
    (store, delta.root)
}

#[test]
fn deleting_an_object_makes_its_whole_field_tree_stale() {
    let fields = || changes(vec![(key(&[1]), plain(1)), (key(&[2]), plain(2))]);
    let list = vec![(key(&[3]), put(0, FieldsBase::Keep, fields())), (key(&[4]), plain(0))];
    let (store, root) = state(list);
    let object = state_tree::get(root, &[key(&[3])], &store).unwrap().unwrap();
    let delta = update(root, &changes(vec![(key(&[3]), Change::Remove)]), &store).unwrap();
    let [dropped] = &delta.dropped[..] else { panic!("{:?}", delta.dropped) };
    assert_eq!(Some(dropped.root), object.fields().node());
    let leaf = delta.above(dropped.above).next().unwrap().hash;
    assert_eq!(store.children(&leaf), [dropped.root], "the drop names the leaf that embedded the tree");
    let mut below = BTreeSet::new();
    store.reach(object.fields(), &mut below).unwrap();
    assert_eq!(below.len(), 3);
    let mut live = BTreeSet::new();
    let mut after = store.clone();
    after.apply(&delta);
    after.reach(delta.root, &mut live).unwrap();
    assert!(below.is_disjoint(&live));
    assert_eq!(store.0.len(), live.len() + below.len() + delta.stale().len(), "every other node is stale, no more");
}

#[test]
fn a_hash_created_twice_in_one_commit_is_counted_at_both_places() {
    let fields = || changes(vec![(key(&[1]), plain(1)), (key(&[2]), plain(2))]);
    let objects = vec![
        (key(&[3]), put(0, FieldsBase::Empty, fields())),
        (key(&[4]), put(0, FieldsBase::Empty, fields())),
        (key(&[5]), put(0, FieldsBase::Empty, changes(vec![(key(&[1]), plain(1))]))),
    ];
    let delta = update(StateRoot::EMPTY, &changes(objects), &Store::default()).unwrap();
    let mut places: Vec<u32> = delta.created.values().map(|created| created.places).collect();
    places.sort_unstable();
    // three object leaves and the root once; field 2 and the fields root twice; field 1 at three places
    assert_eq!(places, [1, 1, 1, 1, 2, 2, 3]);
}

#[test]
fn a_put_that_changes_nothing_leaves_no_trace() {
    let list =
        || vec![(key(&[3]), put(0, FieldsBase::Keep, changes(vec![(key(&[1]), plain(1))]))), (key(&[4]), plain(0))];
    let (store, root) = state(list());
    for base in [FieldsBase::Empty, FieldsBase::Keep, FieldsBase::Adopt(vec![key(&[3])])] {
        let same = put(0, base.clone(), changes(vec![(key(&[1]), plain(1))]));
        let delta = update(root, &changes(vec![(key(&[3]), same)]), &store).unwrap();
        assert_eq!(Account::of(&delta), Account::default(), "{base:?}");
        assert_eq!(delta.root, root);
    }
}

#[test]
fn a_move_is_one_drop_and_one_adoption_that_cancel() {
    let fields = changes(vec![(key(&[1]), plain(1)), (key(&[2]), plain(2))]);
    let (store, root) = state(vec![(key(&[3]), put(0, FieldsBase::Keep, fields)), (key(&[4]), plain(0))]);
    let taken = put(0, FieldsBase::Adopt(vec![key(&[3])]), Changes::default());
    let delta = update(root, &changes(vec![(key(&[3]), Change::Remove), (key(&[5]), taken)]), &store).unwrap();
    let tree = delta.adopted[0];
    assert_eq!(delta.dropped.iter().map(|dropped| dropped.root).collect::<Vec<_>>(), [tree]);
    assert_eq!(delta.moves(&|_| false), BTreeMap::from([(tree, 1)]));
    assert!(delta.moves(&|_| true).is_empty(), "a drop at a shared place loses nothing");
}

/// The tree that holds a dropped tree is cloned in the same update: what was dropped here is still there.
#[test]
fn a_drop_below_a_root_adopted_elsewhere_is_no_half_of_a_move() {
    let inner = changes(vec![(key(&[1]), plain(1)), (key(&[2]), plain(2))]);
    let outer = changes(vec![(key(&[6]), put(0, FieldsBase::Keep, inner))]);
    let (store, root) = state(vec![(key(&[3]), put(0, FieldsBase::Keep, outer)), (key(&[4]), plain(0))]);
    let without =
        Change::Put(Put { object: None, base: FieldsBase::Keep, fields: changes(vec![(key(&[6]), Change::Remove)]) });
    let list = vec![
        (key(&[3]), without),
        (key(&[7]), put(0, FieldsBase::Adopt(vec![key(&[3])]), Changes::default())),
        (key(&[8]), put(0, FieldsBase::Adopt(vec![key(&[3]), key(&[6])]), Changes::default())),
    ];
    let delta = update(root, &changes(list), &store).unwrap();
    assert_eq!(delta.dropped.len(), 1);
    assert!(delta.adopted.contains(&delta.dropped[0].root));
    assert!(delta.moves(&|_| false).is_empty());
}

#[test]
fn what_is_not_there_cannot_be_kept_or_adopted() {
    let (store, root) = state(vec![(key(&[3]), plain(0))]);
    let keep = Change::Put(Put { object: None, base: FieldsBase::Keep, fields: Changes::default() });
    let adopt = put(0, FieldsBase::Adopt(vec![key(&[3]), key(&[1])]), Changes::default());
    for (change, name) in [(keep, key(&[9]).to_string()), (adopt, format!("{}/{}", key(&[3]), key(&[1])))] {
        let error = update(root, &changes(vec![(key(&[9]), change)]), &store).unwrap_err();
        assert!(matches!(&error, TreeError::NoSuchObject { path } if *path == name), "{error}");
    }
}

#[test]
fn every_node_an_update_reads_is_checked() {
    let (store, root) = state(vec![(key(&[3]), plain(0)), (key(&[4]), plain(1))]);
    let change = changes(vec![(key(&[4]), plain(2))]);
    let mut missing = store.clone();
    missing.0.remove(&root.hash());
    assert!(matches!(update(root, &change, &missing), Err(TreeError::Missing(hash)) if hash == root.hash()));
    let mut other = store.clone();
    let leaf = store.children(&root.hash())[0];
    other.0.insert(root.hash(), store.0[&leaf].clone());
    assert!(matches!(update(root, &change, &other), Err(TreeError::WrongHash { key, .. }) if key == root.hash()));
    let mut broken = store;
    broken.0.insert(root.hash(), vec![0xff]);
    assert!(matches!(update(root, &change, &broken), Err(TreeError::Malformed { .. })));
}

/// Two neighbours hash the same whether they are called leaves or not; the node below tells.
#[test]
fn a_flipped_leaf_bit_that_the_hash_does_not_cover_is_found() {
    let (mut store, root) = state(vec![(key(&[2]), plain(0)), (key(&[3]), plain(1))]);
    let bytes = store.0.get_mut(&root.hash()).unwrap();
    bytes[3] ^= 0x04; // leaf bit of nibble 2
    let change = changes(vec![(key(&[2]), plain(2))]);
    assert!(matches!(update(root, &change, &store), Err(TreeError::WrongKind { .. })));
}

/// The worst case of both bounds: keys that part at the last nibble in every one of the nested trees.
#[test]
fn the_deepest_nesting_fits_a_small_stack_and_one_more_is_refused() {
    let nested = |depth: usize| {
        let pair = |inner| changes(vec![(Key::new([0x11; 32]), inner), (twin(), plain(0))]);
        (1..depth).fold(pair(plain(1)), |below, _| pair(put(1, FieldsBase::Keep, below)))
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let run = move || {
        let store = Store::default();
        let created = update(StateRoot::EMPTY, &nested(MAX_NESTING), &store).unwrap();
        let mut store = store;
        store.apply(&created);
        let emptied = (1..MAX_NESTING).fold(changes(vec![(twin(), Change::Remove)]), |below, _| {
            let put = Put { object: None, base: FieldsBase::Keep, fields: below };
            changes(vec![(Key::new([0x11; 32]), Change::Put(put)), (twin(), Change::Remove)])
        });
        let delta = update(created.root, &emptied, &store).unwrap();
        assert_eq!(delta.replaced.len(), MAX_NESTING * 66 - 1, "64 internal nodes, two leaves; the lowest moved");
        assert_eq!(delta.created.len(), MAX_NESTING - 1, "only the leaves above the lowest are written again");
        update(StateRoot::EMPTY, &nested(MAX_NESTING + 1), &store)
    };
    let error = thread.spawn(run).unwrap().join().unwrap().unwrap_err();
    assert!(matches!(error, TreeError::NestedTooDeep { limit: MAX_NESTING, .. }), "{error}");
}

fn twin() -> Key {
    let mut bytes = [0x11; 32];
    bytes[31] = 0x1f;
    Key::new(bytes)
}
