//! Which created leaves say that they are at one place only, and which fields could be objects of the global tree.

use state_tree::{
    Change, Changes, Created, Delta, FieldsBase, Key, NodeView, Object, ObjectId, Put, StateRoot, TypeTag, update,
};

use crate::store::Store;

fn key(n: u8) -> Key {
    Key::new([n; 32])
}

fn object(components: usize) -> Option<Object> {
    let id = ObjectId::from_components(vec![[7; 32]; components]).unwrap();
    let (owner, object_type, value) = ([0; 32], TypeTag::Bool, vec![1]);
    Some(Object { id, owner, flag: 0, created_at: 0, updated_at: 0, object_type, value })
}

fn put(object: Option<Object>, fields: Changes) -> Change {
    Change::Put(Put { object, base: FieldsBase::Keep, fields })
}

fn one(n: u8, change: Change) -> Changes {
    Changes([(key(n), change)].into())
}

/// The keys of the leaves that say so.
fn soles(delta: &Delta) -> Vec<Key> {
    let key = |created: &Created| match NodeView::decode(&created.bytes).unwrap() {
        NodeView::Leaf(leaf) => Some(leaf.key),
        NodeView::Internal(_) => None,
    };
    let mut keys: Vec<Key> = delta.created.values().filter(|created| created.sole).filter_map(key).collect();
    keys.sort();
    keys
}

#[test]
fn a_node_of_the_global_tree_is_at_one_place_and_an_object_with_an_identity_of_the_other_kind_is_told() {
    let mut store = Store::default();
    let mut after = |root: StateRoot, changes: Changes| {
        let delta = update(root, &changes, &store).unwrap();
        store.apply(&delta);
        assert!(delta.created[&delta.root.hash()].sole, "the root, whatever was put or removed");
        (delta.root, soles(&delta), delta.astray)
    };
    let plain = put(object(1), Changes::default());
    let odd = put(object(2), Changes::default());
    let first = Changes([(key(1), plain.clone()), (key(2), plain.clone()), (key(3), plain.clone())].into());
    let (root, sole, astray) = after(StateRoot::EMPTY, first);
    assert_eq!((sole, astray), (vec![key(1), key(2), key(3)], false), "an object of the global tree has one component");
    let (root, sole, astray) = after(root, one(1, put(None, one(4, odd.clone()))));
    assert_eq!((sole, astray), (vec![key(1)], false), "a field says nothing, the object above it is still one");
    let (root, sole, astray) = after(root, one(2, Change::Remove));
    assert_eq!((sole, astray), (vec![], false), "what lies above it");
    let (root, sole, astray) = after(root, one(5, odd));
    assert_eq!((sole, astray), (vec![key(5)], true), "an object has the identity of a field");
    let (root, sole, astray) = after(root, one(1, put(None, one(5, put(object(2), one(6, plain.clone()))))));
    assert_eq!((sole, astray), (vec![key(1)], true), "a field of a field has the identity of an object");
    let (_, sole, astray) = after(root, one(3, put(None, one(1, plain))));
    assert_eq!((sole, astray), (vec![key(3)], true), "a field has it");
}

/// The nodes of the global tree and those of the trees of fields are others.
#[test]
fn no_node_of_a_tree_of_fields_says_that_it_is_at_one_place() {
    let fields = Changes((1..60).map(|n| (key(n), put(object(2), Changes::default()))).collect());
    let delta = update(StateRoot::EMPTY, &one(9, put(object(1), fields)), &Store::default()).unwrap();
    assert_eq!(soles(&delta), [key(9)]);
    let sole = delta.created.values().filter(|created| created.sole).count();
    assert!(sole == 1 && delta.created.len() > 60, "{sole} of {}", delta.created.len());
}
