//! Pending changes as values: what puts are made of, and how a subtree of them is taken to another place.

use std::{iter::Sum, ops::Add};

use state_tree::{Change, Changes, FieldsBase, Key, Object, ObjectId, Put, StructTag, TypeTag};

use super::{bytes::HexBytes, overlay::ExecutionError, path::ObjectPath};

/// What a field becomes.
pub(super) enum Field {
    /// A new object without fields.
    Made(Object),
    /// An existing object with new content and the fields it has.
    Changed(Object),
}

pub(super) fn made(object: Object) -> Change {
    Change::Put(Put {
        object: Some(object),
        base: FieldsBase::Empty, // not Keep: an object that this block deleted here must not lend its fields
        fields: Changes::default(),
    })
}

pub(super) fn set_object(container: &mut Changes, key: Key, field: Option<Field>) {
    match field {
        None => {
            container.0.insert(key, Change::Remove);
        }
        Some(Field::Made(object)) => {
            container.0.insert(key, made(object));
        }
        Some(Field::Changed(object)) => match container.0.get_mut(&key) {
            Some(Change::Put(put)) => put.object = Some(object),
            Some(Change::Remove) | None => {
                let put = Put { object: Some(object), base: FieldsBase::Keep, fields: Changes::default() };
                container.0.insert(key, Change::Put(put));
            }
        },
    }
}

/// The fields of an object, which is at `origin` in the parent state, in a form that means the same at any other place.
pub(super) fn detach(pending: Option<&Put>, origin: Option<&[Key]>) -> (FieldsBase, Changes) {
    let own = || origin.map(<[Key]>::to_vec).map_or(FieldsBase::Empty, FieldsBase::Adopt);
    match pending {
        None => (own(), Changes::default()),
        Some(put) => {
            let base = match &put.base {
                FieldsBase::Keep => own(),
                FieldsBase::Empty => FieldsBase::Empty,
                FieldsBase::Adopt(path) => FieldsBase::Adopt(path.clone()),
            };
            (base, put.fields.clone())
        }
    }
}

/// A new object. Both times stay zero, so that equal content has an equal hash: values that flip back bring their
/// nodes back, which is what a pruner must survive (S21).
pub(super) fn new_object(id: &ObjectPath, owner: [u8; 32], value: &HexBytes) -> Result<Object, ExecutionError> {
    let id: ObjectId = id.object_id().ok_or(ExecutionError::Invariant("a path without names"))?;
    Ok(Object {
        id,
        owner,
        flag: 0,
        created_at: 0,
        updated_at: 0,
        object_type: TypeTag::Struct(Box::new(StructTag {
            address: [0; 32],
            module: "reference".to_owned(),
            name: "Object".to_owned(),
            type_params: Vec::new(),
        })),
        value: value.0.clone(),
    })
}

/// How much is pending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) objects: usize,
    /// Of their values.
    pub(super) bytes: usize,
}

impl Amount {
    /// Objects whose values are counted elsewhere, or that have none.
    pub(super) fn objects(objects: usize) -> Self {
        Self { objects, bytes: 0 }
    }

    /// One change with everything below it.
    pub(super) fn of(change: &Change) -> Self {
        match change {
            Change::Put(put) => Self { objects: 1, bytes: value_bytes(put.object.as_ref()) } + Self::below(&put.fields),
            Change::Remove => Self::objects(1),
        }
    }

    /// Everything at and below a level. Recursion is bounded by [`MAX_NESTING`].
    pub(super) fn below(changes: &Changes) -> Self {
        changes.0.values().map(Self::of).sum()
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { objects: self.objects + other.objects, bytes: self.bytes + other.bytes }
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Add::add)
    }
}

pub(super) fn value_bytes(object: Option<&Object>) -> usize {
    object.map_or(0, |object| object.value.len())
}

/// How deep pending objects nest. Recursion is bounded by [`MAX_NESTING`].
pub(super) fn depth(changes: &Changes) -> usize {
    let below = |change: &Change| match change {
        Change::Put(put) => 1 + depth(&put.fields),
        Change::Remove => 1,
    };
    changes.0.values().map(below).max().map_or(0, |depth| depth)
}
