//! What an update is asked to do: changes to one tree, nested as deep as objects are.
//!
//! A fields root is never given as a hash. It is kept, emptied, or taken from a named place of the parent state, so
//! that no value can re-attach nodes that the delta does not know of (S29).

use std::collections::BTreeMap;

use crate::rooch::{key::Key, object::ObjectId, type_tag::TypeTag};

/// Changes to one tree, by the key of the object they concern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes(pub BTreeMap<Key, Change>);

/// What happens to one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is created or changed.
    Put(Put),
    /// It ceases to exist with everything below it; nothing happens if there is no such object.
    Remove,
}

/// The new content of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The new metadata and value; none keeps those of the parent state, which must then have the object.
    pub object: Option<Object>,
    /// Where the fields start from.
    pub base: FieldsBase,
    /// Changes to the fields, applied to the base.
    pub fields: Changes,
}

/// The fields tree that the changes to fields are applied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldsBase {
    /// The fields the object has in the parent state; none if it is new.
    Keep,
    /// No fields.
    Empty,
    /// The fields, in the parent state, of the object at this path: keys from the global tree down.
    Adopt(Vec<Key>),
}

/// The content of an object without what the update computes: the root and the number of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Who the object is.
    pub id: ObjectId,
    /// The account that owns it.
    pub owner: [u8; 32],
    /// 1: shared, 2: frozen.
    pub flag: u8,
    /// When it was created, as the chain counts time.
    pub created_at: u64,
    /// When it was last changed.
    pub updated_at: u64,
    /// Its Move type.
    pub object_type: TypeTag,
    /// The value, opaque to the tree.
    pub value: Vec<u8>,
}
