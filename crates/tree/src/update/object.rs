//! One object within a pass: its leaf, and through it the pass over its fields.

use crate::{
    change::{Change, FieldsBase, Object, Put},
    error::{NodeError, TreeError},
    hash::{NodeHash, StateRoot},
    read,
    rooch::{
        key::Key,
        node::{Child, ChildKind, Leaf, LeafView},
        object::{ObjectMeta, ObjectState},
    },
    update::{
        Session,
        log::{Above, Emitted},
        tree::{Fate, Origin, Stands, TreePass},
    },
};

/// A leaf of the parent state.
#[derive(Clone, Copy)]
pub(super) struct Held<'b> {
    pub(super) hash: NodeHash,
    pub(super) leaf: LeafView<'b>,
}

impl Held<'_> {
    pub(super) fn child(&self) -> Child {
        Child { hash: self.hash, kind: ChildKind::Leaf }
    }
}

/// The fields tree of an object: its root and how many objects lie directly in it.
#[derive(Clone, Copy)]
struct Fields {
    root: StateRoot,
    size: u64,
}

impl Fields {
    const NONE: Self = Self { root: StateRoot::EMPTY, size: 0 };

    fn of(object: &ObjectState) -> Self {
        Self { root: object.fields(), size: object.metadata.size }
    }
}

/// The fields after the pass over them, and whether the root node they had is still in their tree.
struct FieldsAfter {
    fields: Fields,
    old_root: Fate,
}

impl TreePass<'_, '_> {
    /// Applies one change to the leaf of its key.
    pub(super) fn leaf(
        &mut self,
        key: &Key,
        change: &Change,
        old: Option<Held<'_>>,
        above: Above,
    ) -> Result<Stands, TreeError> {
        match (change, old) {
            (Change::Put(put), old) => self.put(key, put, old, above),
            (Change::Remove, Some(held)) => self.remove(held, above),
            (Change::Remove, None) => Ok(Stands { now: None, old: Fate::Leaves }),
        }
    }

    /// Removes a leaf; its whole fields tree goes with it (L1).
    fn remove(&mut self, held: Held<'_>, above: Above) -> Result<Stands, TreeError> {
        let object = read::object_state(&held.hash, held.leaf)?;
        let index = self.session.log.replace(held.hash, above);
        if let Some(root) = object.fields().node() {
            self.session.log.drop_tree(root, Some(index));
        }
        self.removed += 1;
        Ok(Stands { now: None, old: Fate::Leaves })
    }

    fn put(&mut self, key: &Key, put: &Put, old: Option<Held<'_>>, above: Above) -> Result<Stands, TreeError> {
        let was = old.map(|held| read::object_state(&held.hash, held.leaf)).transpose()?;
        let before = self.session.log.now();
        let index = old.map(|held| self.session.log.replace(held.hash, above));
        let above_fields = Above { replaced: index, ..above };
        let after = self.session.fields(key, put, was.as_ref(), above_fields)?;
        let own = was.as_ref().and_then(|object| object.fields().node());
        let object = compose(put.object.as_ref(), was, after.fields);
        let object = object.ok_or_else(|| TreeError::NoSuchObject { path: self.session.name(key) })?;
        let (child, bytes) =
            encode(*key, &object).map_err(|source| TreeError::Unencodable { path: self.session.name(key), source })?;
        if old.is_some_and(|held| held.hash == child.hash) {
            self.session.log.rewind(before);
            return Ok(Stands { now: Some(child), old: Fate::Stays });
        }
        self.session.look_at(&object);
        let sole = self.session.is_global();
        self.session.log.create(Emitted { hash: child.hash, bytes, sole }, before);
        match (index, own) {
            (Some(index), Some(root)) if after.old_root == Fate::Stays => self.session.log.unchanged(index, root),
            (Some(_), _) => {}
            (None, _) => self.added += 1,
        }
        Ok(Stands { now: Some(child), old: Fate::Leaves })
    }
}

impl Session<'_> {
    /// Whether nodes of the tree at work can be at no other place: those of the global tree.
    pub(super) fn is_global(&self) -> bool {
        self.path.is_empty()
    }

    /// Notes a field that could be an object of the global tree, and an object of that tree that could be a field.
    fn look_at(&mut self, object: &ObjectState) {
        let is_single = object.metadata.id.components().len() == 1;
        if self.is_global() != is_single {
            self.log.stray();
        }
    }

    /// The fields that a put leaves the object with.
    fn fields(
        &mut self,
        key: &Key,
        put: &Put,
        was: Option<&ObjectState>,
        above: Above,
    ) -> Result<FieldsAfter, TreeError> {
        let own = was.map_or(Fields::NONE, Fields::of);
        let base = match &put.base {
            FieldsBase::Keep => own,
            FieldsBase::Empty => Fields::NONE,
            FieldsBase::Adopt(path) => self.fields_at(path)?,
        };
        if base.root == own.root {
            return self.changed(key, put, own, Origin::Embedded(above));
        }
        self.switched(key, put, (own, base), above)
    }

    /// The fields, in the parent state, of the object at a path.
    fn fields_at(&self, path: &[Key]) -> Result<Fields, TreeError> {
        let object = read::get(self.parent, path, self.reader)?;
        let object = object.ok_or_else(|| TreeError::NoSuchObject { path: crate::rooch::key::path_text(path) })?;
        Ok(Fields::of(&object))
    }

    /// Drops the fields an object had and takes others, which are then changed.
    fn switched(
        &mut self,
        key: &Key,
        put: &Put,
        (own, base): (Fields, Fields),
        above: Above,
    ) -> Result<FieldsAfter, TreeError> {
        let before = self.log.now();
        if let Some(root) = own.root.node() {
            self.log.drop_tree(root, above.replaced);
        }
        if let Some(root) = base.root.node() {
            self.log.adopt(root);
        }
        let after = self.changed(key, put, base, Origin::Adopted)?;
        if after.fields.root == own.root {
            self.log.rewind(before); // the place embeds what it did before
            return Ok(FieldsAfter { old_root: Fate::Stays, ..after });
        }
        Ok(FieldsAfter { old_root: Fate::Leaves, ..after })
    }

    /// Applies the changes to fields to the tree they start from.
    fn changed(&mut self, key: &Key, put: &Put, base: Fields, origin: Origin) -> Result<FieldsAfter, TreeError> {
        self.path.push(*key);
        let outcome = TreePass::run(self, base.root, origin, &put.fields)?;
        self.path.pop();
        let size = base.size.checked_add(outcome.added).and_then(|size| size.checked_sub(outcome.removed));
        let size = size.ok_or_else(|| TreeError::FieldCount { path: self.name(key), recorded: base.size })?;
        Ok(FieldsAfter { fields: Fields { root: outcome.root, size }, old_root: outcome.old_root })
    }
}

/// The object after a put: new content or the old, and always the fields as they now are.
fn compose(new: Option<&Object>, was: Option<ObjectState>, fields: Fields) -> Option<ObjectState> {
    let recorded = was.as_ref().filter(|object| object.fields() == fields.root).map(|o| o.metadata.state_root);
    // A root that did not change keeps the form in which it was recorded: absent or placeholder.
    let state_root = recorded.unwrap_or(Some(fields.root));
    let size = fields.size;
    match (new, was) {
        (None, None) => None,
        (None, Some(ObjectState { metadata, value })) => {
            Some(ObjectState { metadata: ObjectMeta { state_root, size, ..metadata }, value })
        }
        (Some(new), _) => {
            let Object { id, owner, flag, created_at, updated_at, object_type, value } = new.clone();
            let metadata = ObjectMeta { id, owner, flag, state_root, size, created_at, updated_at, object_type };
            Some(ObjectState { metadata, value })
        }
    }
}

fn encode(key: Key, object: &ObjectState) -> Result<(Child, Vec<u8>), NodeError> {
    let leaf = Leaf { key, value: object.encode()? };
    let child = Child { hash: leaf.view().hash(), kind: ChildKind::Leaf };
    Ok((child, leaf.encode()?))
}
