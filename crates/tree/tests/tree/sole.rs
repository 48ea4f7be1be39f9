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

/// The keys of the leaves that say so. What says so beside them lies above one that does.
fn soles(delta: &Delta) -> Vec<Key> {
    let sole = delta.created.values().filter(|created| created.sole);
    let key = |created: &Created| match NodeView::decode(&created.bytes).unwrap() {
        NodeView::Leaf(leaf) => Some(leaf.key),
        NodeView::Internal(_) => {
            let below = &delta.created[&created.below.unwrap()];
            assert!(below.sole, "it is above that one");
            None
        }
    };
    sole.filter_map(key).collect()
}

#[test]
fn a_leaf_of_the_global_tree_is_at_one_place_and_a_field_with_such_an_identity_is_told() {
    let mut store = Store::default();
    let mut after = |root: StateRoot, changes: Changes| {
        let delta = update(root, &changes, &store).unwrap();
        store.apply(&delta);
        let mut soles = soles(&delta);
        soles.sort();
        let is_above = delta.created[&delta.root.hash()].sole;
        assert!(is_above || root == StateRoot::EMPTY, "the root lies above the leaf");
        (delta.root, soles, delta.astray)
    };
    let plain = put(object(1), Changes::default());
    let odd = put(object(2), Changes::default());
    let first = Changes([(key(1), plain.clone()), (key(2), odd.clone()), (key(3), plain.clone())].into());
    let (root, sole, astray) = after(StateRoot::EMPTY, first);
    assert_eq!((sole, astray), (vec![key(1), key(3)], false), "an object of the global tree has one component");
    let (root, sole, astray) = after(root, one(1, put(None, one(4, odd))));
    assert_eq!((sole, astray), (vec![key(1)], false), "a field says nothing, the object above it is still one");
    let (root, sole, astray) = after(root, one(1, put(None, one(5, put(object(2), one(6, plain.clone()))))));
    assert_eq!((sole, astray), (vec![key(1)], true), "a field of a field has the identity of an object");
    let (_, sole, astray) = after(root, one(3, put(None, one(1, plain))));
    assert_eq!((sole, astray), (vec![key(3)], true), "a field has it");
}
