//! Trees whose nodes hash correctly and still cannot be: each is an error for reads, updates and proofs, never an
//! empty answer.

use std::collections::BTreeMap;

use state_tree::{
    Change, Changes, Child, ChildKind, FieldsBase, Internal, Joined, Key, Leaf, Node, NodeHash, ObjectState,
    ProofError, Put, StateRoot, TreeError, get, prove, update,
};

use crate::{
    model::{Entry, Tree, object},
    store::Store,
};

fn key(first: u8) -> Key {
    let mut bytes = [0; 32];
    bytes[0] = first;
    Key::new(bytes)
}

fn state(value: u64) -> ObjectState {
    let entry = Entry { object: object(value), fields: Tree::default() };
    entry.state(StateRoot::EMPTY)
}

fn put_leaf(store: &mut Store, key: Key, state: &ObjectState) -> Child {
    let leaf = Node::Leaf(Leaf { key, value: state.encode().unwrap() });
    Child { hash: store.put(&leaf.encode().unwrap()), kind: ChildKind::Leaf }
}

fn put_internal(store: &mut Store, children: &[(usize, Child)]) -> Child {
    let mut slots = [None; 16];
    children.iter().for_each(|(nibble, child)| slots[*nibble] = Some(*child));
    let Joined::Node(node) = Internal::join(&slots) else { panic!("not a node") };
    Child { hash: store.put(&node.encode()), kind: ChildKind::Internal }
}

fn change(key: Key, put: Put) -> Changes {
    Changes(BTreeMap::from([(key, Change::Put(put))]))
}

fn plain(value: u64) -> Put {
    Put { object: Some(object(value)), base: FieldsBase::Keep, fields: Changes::default() }
}

/// What a read, an update and a proof of one key say.
fn errors(store: &Store, root: NodeHash, key: Key) -> [TreeError; 3] {
    let root = StateRoot::new(root);
    [
        get(root, &[key], store).unwrap_err(),
        update(root, &change(key, plain(9)), store).unwrap_err(),
        prove(root, &[key], store).unwrap_err(),
    ]
}

#[test]
fn a_leaf_where_its_key_does_not_lead_is_refused() {
    let mut store = Store::default();
    let here = put_leaf(&mut store, key(0x00), &state(1));
    let stray = put_leaf(&mut store, key(0x30), &state(2));
    let root = put_internal(&mut store, &[(0, here), (8, stray)]).hash;
    for error in errors(&store, root, key(0x80)) {
        assert!(matches!(error, TreeError::Misplaced { hash } if hash == stray.hash), "{error}");
    }
}

/// The same tree, offered by somebody who does not check: the verifier does.
#[test]
fn a_proof_that_ends_at_a_leaf_of_another_place_is_refused() {
    let mut store = Store::default();
    let here = put_leaf(&mut store, key(0x00), &state(1));
    let stray = put_leaf(&mut store, key(0x30), &state(2));
    let root = StateRoot::new(put_internal(&mut store, &[(0, here), (8, stray)]).hash);
    let steps = vec![here.hash.as_bytes().to_vec(), store.0[&stray.hash].clone()];
    let proof = state_tree::Proof { segments: vec![steps] };
    assert_eq!(proof.verify(root, &[key(0x80)]), Err(ProofError::Misplaced { tree: 0 }));
}

#[test]
fn an_internal_node_below_the_last_nibble_is_refused() {
    let mut store = Store::default();
    let leaves = [(0, put_leaf(&mut store, key(1), &state(1))), (1, put_leaf(&mut store, key(2), &state(2)))];
    let lowest = put_internal(&mut store, &leaves);
    let root = (0..64).fold(lowest, |below, _| put_internal(&mut store, &[(1, below)])).hash;
    for error in errors(&store, root, Key::new([0x11; 32])) {
        assert!(matches!(error, TreeError::TooDeep { hash } if hash == lowest.hash), "{error}");
    }
}

#[test]
fn a_field_count_that_the_tree_contradicts_is_refused() {
    let mut store = Store::default();
    let field = put_leaf(&mut store, key(0x50), &state(1));
    let mut holder = state(2);
    holder.metadata.state_root = Some(StateRoot::new(field.hash));
    assert_eq!(holder.metadata.size, 0);
    let root = StateRoot::new(put_leaf(&mut store, key(0x10), &holder).hash);
    let fields = Changes(BTreeMap::from([(key(0x50), Change::Remove)]));
    let put = Put { object: None, base: FieldsBase::Keep, fields };
    let error = update(root, &change(key(0x10), put), &store).unwrap_err();
    assert!(matches!(error, TreeError::FieldCount { recorded: 0, .. }), "{error}");
}

/// Real stores hold both forms of "no fields"; rewriting one into the other would be a change nobody asked for.
#[test]
fn an_object_recorded_without_a_root_keeps_that_form_until_it_has_fields() {
    let mut store = Store::default();
    let mut bare = state(1);
    bare.metadata.state_root = None;
    let root = StateRoot::new(put_leaf(&mut store, key(0x10), &bare).hash);
    let path = [key(0x10)];
    let same = update(root, &change(path[0], plain(1)), &store).unwrap();
    assert!(same.created.is_empty() && same.replaced.is_empty());
    let changed = update(root, &change(path[0], plain(2)), &store).unwrap();
    store.apply(&changed);
    assert_eq!(get(changed.root, &path, &store).unwrap().unwrap().metadata.state_root, None);
    let with_field = Put { fields: change(key(0x50), plain(3)), ..plain(2) };
    let grown = update(changed.root, &change(path[0], with_field), &store).unwrap();
    store.apply(&grown);
    let metadata = get(grown.root, &path, &store).unwrap().unwrap().metadata;
    assert_eq!((metadata.size, metadata.state_root.is_some_and(|root| root.node().is_some())), (1, true));
}

/// Two leaves at nibbles 1 and a; the bitmap of the root says 2 and a, and its hash does not tell.
fn shifted(store: &mut Store) -> (StateRoot, Child) {
    let stray = put_leaf(store, key(0x10), &state(1));
    let other = put_leaf(store, key(0xa0), &state(2));
    let honest = put_internal(store, &[(1, stray), (10, other)]).hash;
    let root = put_internal(store, &[(2, stray), (10, other)]).hash;
    assert_eq!(root, honest, "the hash does not tell them apart");
    (StateRoot::new(root), stray)
}

#[test]
fn a_leaf_that_its_parent_puts_at_another_nibble_is_refused_wherever_that_matters() {
    let mut store = Store::default();
    let (root, stray) = shifted(&mut store);
    let misplaced = |error: TreeError| assert!(matches!(error, TreeError::Misplaced { hash } if hash == stray.hash));
    // Its own key, the nibble it is said to be at, and others of the run that it stands for.
    for asked in [0x10, 0x1f, 0x20, 0x30, 0x00, 0x70] {
        misplaced(get(root, &[key(asked)], &store).unwrap_err());
        misplaced(update(root, &change(key(asked), plain(9)), &store).unwrap_err());
        let removal = Changes(BTreeMap::from([(key(asked), Change::Remove)]));
        misplaced(update(root, &removal, &store).unwrap_err());
    }
    let path = [key(0x10)];
    let proof = prove(root, &path, &store).unwrap();
    assert!(proof.verify(root, &path).unwrap().is_some(), "a proof does not depend on the bitmap");
}

/// Where the leaf is does not matter there, so nothing is read for it.
#[test]
fn a_leaf_at_another_nibble_does_not_disturb_the_other_half() {
    let mut store = Store::default();
    let (root, stray) = shifted(&mut store);
    store.0.remove(&stray.hash);
    assert!(get(root, &[key(0xa0)], &store).unwrap().is_some());
    assert!(get(root, &[key(0xb0)], &store).unwrap().is_none());
    assert!(update(root, &change(key(0xb0), plain(9)), &store).is_ok());
}

/// The hash of two neighbours does not cover their leaf bits. Once one of them goes, it does.
#[test]
fn a_neighbour_of_another_kind_than_its_parent_says_is_not_left_alone() {
    let mut store = Store::default();
    let left = put_leaf(&mut store, key(0x20), &state(1));
    let below = [(1, put_leaf(&mut store, key(0x31), &state(2))), (2, put_leaf(&mut store, key(0x32), &state(3)))];
    let internal = put_internal(&mut store, &below);
    let leaf = put_leaf(&mut store, key(0x30), &state(4));
    let far = put_leaf(&mut store, key(0xf0), &state(5));
    let removal = Changes(BTreeMap::from([(key(0x20), Change::Remove)]));
    for (right, said) in [(internal, ChildKind::Leaf), (leaf, ChildKind::Internal)] {
        for others in [&[][..], &[(15, far)]] {
            let honest = put_internal(&mut store, &[&[(2, left), (3, right)], others].concat()).hash;
            assert!(update(StateRoot::new(honest), &removal, &store).is_ok());
            let lying = Child { kind: said, ..right };
            let root = put_internal(&mut store, &[&[(2, left), (3, lying)], others].concat()).hash;
            assert_eq!(root, honest, "the hash does not tell them apart");
            let error = update(StateRoot::new(root), &removal, &store).unwrap_err();
            assert!(matches!(error, TreeError::WrongKind { hash } if hash == right.hash), "{said:?}: {error}");
        }
    }
}

/// A run of two leaves hashes like one leaf with the hash of their pair.
#[test]
fn a_pair_that_passes_for_a_leaf_is_neither_an_absence_nor_pulled_up() {
    let mut store = Store::default();
    let (low, high) = (put_leaf(&mut store, key(0x20), &state(1)), put_leaf(&mut store, key(0x60), &state(2)));
    let far = (10, put_leaf(&mut store, key(0xa0), &state(3)));
    let honest = put_internal(&mut store, &[(2, low), (6, high), far]).hash;
    let alone = put_internal(&mut store, &[(2, low), (10, high)]).hash; // one in each half: the hash of the pair
    store.0.remove(&alone);
    let root = put_internal(&mut store, &[(2, Child { hash: alone, kind: ChildKind::Leaf }), far]).hash;
    assert_eq!(root, honest, "the hash does not tell them apart");
    let removal = Changes(BTreeMap::from([(key(0xa0), Change::Remove)]));
    for error in [
        get(StateRoot::new(root), &[key(0x60)], &store).unwrap_err(),
        update(StateRoot::new(root), &removal, &store).unwrap_err(),
    ] {
        assert!(matches!(error, TreeError::Missing(hash) if hash == alone), "{error}");
    }
}
