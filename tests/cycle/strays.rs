//! Leaves that are at one place only, and fields that have the identity of an object of the global tree, whose leaf then is not.

use state_tests::{
    rig::{Engine, Rig},
    workload::{content, key, leaf},
};
use state_tree::{Change, Changes, FieldsBase, Object, ObjectId, Put};

use crate::incremental::Swept;

/// The object of key 2 has a field with this content below key 1, where the global tree may have the same object.
fn owner_of(object: Object) -> Changes {
    let field = Change::Put(Put { object: Some(object), base: FieldsBase::Keep, fields: Changes::default() });
    let fields = Changes([(key(1), field)].into());
    Changes([(key(2), Change::Put(Put { object: Some(content(9)), base: FieldsBase::Keep, fields }))].into())
}

fn global(value: u64) -> Changes {
    Changes([(key(1), leaf(value))].into())
}

/// What a chain of one order is left with: how many nodes are marked, once an object of the global tree had a value, lost it,
/// had it again and lost it, while somebody's field has that value.
fn marks_after_coming_back(field: &Object, restarts: bool) -> u64 {
    let rig = Rig::new(Engine::Memory);
    rig.chain.put(&global(1));
    let mut swept = Swept::new(rig, 1);
    swept.cycle();
    let after = |swept: &mut Swept, changes: &Changes, what: &str| {
        swept.rig.chain.put(changes);
        swept.drain();
        swept.check(&[], what);
        assert_eq!(swept.leaks(&[]), 0, "{what}");
    };
    after(&mut swept, &global(2), "its leaf is gone");
    after(&mut swept, &owner_of(field.clone()), "a field has that value");
    if restarts {
        swept = swept.restart();
    }
    swept.rig.chain.put(&global(1));
    let marks = swept.rig.chain.store.marks().unwrap();
    swept.drain();
    swept.rig.chain.put(&global(3));
    swept.drain();
    swept.check(&[], "the object lost the value again, and the field has it");
    marks
}

/// S22, S57: two objects with one identity at one key are one leaf at two places. The store remembers that it has such a field, so it
/// asks whether the leaf is there when the global tree creates it again.
#[test]
fn a_field_that_could_be_an_object_of_the_global_tree_outlives_the_leaf_of_that_object() {
    for restarts in [false, true] {
        assert_eq!(marks_after_coming_back(&content(1), restarts), 1, "restarts: {restarts}");
    }
}

/// A field with an identity of its own is another leaf.
#[test]
fn a_field_with_an_identity_of_a_field_shares_no_leaf_with_the_global_tree() {
    let id = ObjectId::single([7; 32]).child(&key(1));
    assert_eq!(marks_after_coming_back(&Object { id, ..content(1) }, false), 0);
}
