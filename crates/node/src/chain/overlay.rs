//! `Overlay`: one block's changes over the state of its parent, each transaction seeing those before it.
//!
//! The pending changes are the very [`Changes`] that `state_tree::update` takes. Every pending put stands for an
//! object that exists, and says where its fields start from: its own of the parent state, none, or those of a named
//! place of the parent state. Everything below is relative to that base, so a subtree with pending changes is copied
//! or moved exactly by copying the base and the changes; a base of "its own" then becomes the name of where they are.
//!
//! Bounds: at most [`MAX_ENTRIES`] pending objects with [`MAX_PENDING`] bytes of values, nested at most [`MAX_NESTING`]
//! deep. A copy that would exceed them answers [`Verdict::Full`] before anything is copied: once the block is committed,
//! the same copy is one adopted root.

use state_tree::{Change, Changes, FieldsBase, Key, MAX_NESTING, NodeReader, Object, Put, StateRoot, TreeError, get};
use thiserror::Error;

use super::{
    bytes::{Hex32, HexBytes},
    mempool::MAX_BLOCK_BYTES,
    path::{ObjectPath, key_of},
    pending::{Amount, Field, depth, detach, made, new_object, set_object, value_bytes},
    transaction::{Reason, Transaction},
};

/// The most pending objects of one block.
pub(crate) const MAX_ENTRIES: usize = 100_000;
/// The most bytes of their values: what the transactions of one block bring fits twice.
pub(crate) const MAX_PENDING: usize = 2 * MAX_BLOCK_BYTES;

/// A transaction that could not be judged; it is in no block.
#[derive(Debug, Error)]
pub enum ExecutionError {
    /// The state of the parent cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A promise of ours does not hold.
    #[error("internal error: {0}")]
    Invariant(&'static str),
}

/// What became of one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its changes are pending.
    Applied,
    /// It cannot be applied; nothing changed.
    Rejected(Reason),
    /// It needs a block of its own, or one with less in it; nothing changed.
    Full,
}

/// Pending changes over one parent state.
pub struct Overlay<'a> {
    parent: StateRoot,
    reader: &'a dyn NodeReader,
    changes: Changes,
    /// What was ever put, replaced or not: at least what is held.
    pending: Amount,
}

/// An object that exists after the pending changes.
struct Found<'c> {
    /// Where it is in the parent state; none if this block made it.
    origin: Option<Vec<Key>>,
    /// What is pending for it.
    pending: Option<&'c Put>,
    /// Its content in the parent state, if reading it was needed to know that it exists.
    read: Option<Object>,
}

impl<'a> Overlay<'a> {
    /// No changes over the state under `parent`.
    pub fn new(parent: StateRoot, reader: &'a dyn NodeReader) -> Self {
        Self { parent, reader, changes: Changes::default(), pending: Amount::default() }
    }

    /// The changes of everything applied.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Applies one transaction, whole or not at all.
    ///
    /// Errors: the parent state cannot be read; nothing changed.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<Verdict, ExecutionError> {
        match transaction {
            Transaction::CreateObject { id, owner, value } => self.create(id, owner.0, value),
            Transaction::SetValue { id, value } => self.set_value(id, value),
            Transaction::SetFields { id, put, remove } => self.set_fields(id, put, remove),
            Transaction::DeleteObject { id } => {
                if self.find(&id.keys())?.is_none() {
                    return Ok(Verdict::Rejected(Reason::NoSuchObject));
                }
                if self.is_full(Amount::objects(id.names().len())) {
                    return Ok(Verdict::Full);
                }
                self.insert(&id.keys(), Change::Remove)
            }
            Transaction::MoveObject { from, to } => self.move_object(from, to),
            Transaction::CloneFields { from, to } => self.clone_fields(from, to),
        }
    }

    fn create(&mut self, id: &ObjectPath, owner: [u8; 32], value: &HexBytes) -> Result<Verdict, ExecutionError> {
        if let Some(reason) = self.obstacle(&id.keys())? {
            return Ok(Verdict::Rejected(reason));
        }
        if self.is_full(Amount { objects: id.names().len(), bytes: value.0.len() }) {
            return Ok(Verdict::Full);
        }
        let object = new_object(id, owner, value)?;
        self.insert(&id.keys(), made(object))
    }

    fn set_fields(
        &mut self,
        id: &ObjectPath,
        put: &[(Hex32, HexBytes)],
        remove: &[Hex32],
    ) -> Result<Verdict, ExecutionError> {
        let Some(owner) = self.owner(id)? else {
            return Ok(Verdict::Rejected(Reason::NoSuchObject));
        };
        let bytes = put.iter().map(|(_, value)| value.0.len()).sum();
        let added = Amount { objects: put.len() + remove.len(), bytes };
        if self.is_full(added + Amount::objects(id.names().len())) {
            return Ok(Verdict::Full);
        }
        let mut changes = Vec::with_capacity(put.len() + remove.len());
        for (name, value) in put {
            let child = id.child(*name).map_err(|_| ExecutionError::Invariant("unchecked fields"))?;
            changes.push((key_of(name), Some(self.field(&child, owner, value)?)));
        }
        changes.extend(remove.iter().map(|name| (key_of(name), None)));
        let fields = self.container(&id.keys())?;
        for (key, object) in changes {
            set_object(fields, key, object);
        }
        self.pending = self.pending + added;
        Ok(Verdict::Applied)
    }

    fn set_value(&mut self, id: &ObjectPath, value: &HexBytes) -> Result<Verdict, ExecutionError> {
        let keys = id.keys();
        let Some(found) = self.find(&keys)? else {
            return Ok(Verdict::Rejected(Reason::NoSuchObject));
        };
        let mut object = self.content(&found)?;
        object.value.clone_from(&value.0);
        if self.is_full(Amount { objects: keys.len(), bytes: value.0.len() }) {
            return Ok(Verdict::Full);
        }
        let (last, parents) = split(&keys)?;
        let container = self.container(parents)?;
        set_object(container, last, Some(Field::Changed(object)));
        self.pending = self.pending + Amount { objects: 1, bytes: value.0.len() };
        Ok(Verdict::Applied)
    }

    fn move_object(&mut self, from: &ObjectPath, to: &ObjectPath) -> Result<Verdict, ExecutionError> {
        let Some(found) = self.find(&from.keys())? else {
            return Ok(Verdict::Rejected(Reason::NoSuchObject));
        };
        if from.holds(to) {
            return Ok(Verdict::Rejected(Reason::IntoItself));
        }
        if let Some(reason) = self.obstacle(&to.keys())? {
            return Ok(Verdict::Rejected(reason));
        }
        let object = Some(self.content(&found)?);
        if !self.has_room(&[from, to], object.as_ref(), found.pending) {
            return Ok(Verdict::Full);
        }
        let (base, fields) = detach(found.pending, found.origin.as_deref());
        self.insert(&from.keys(), Change::Remove)?;
        self.insert(&to.keys(), Change::Put(Put { object, base, fields }))
    }

    fn clone_fields(&mut self, from: &ObjectPath, to: &ObjectPath) -> Result<Verdict, ExecutionError> {
        if from == to {
            return Ok(Verdict::Rejected(Reason::OntoItself));
        }
        let (keys, target) = (from.keys(), to.keys());
        let (Some(source), Some(taker)) = (self.find(&keys)?, self.find(&target)?) else {
            return Ok(Verdict::Rejected(Reason::NoSuchObject));
        };
        let object = taker.pending.and_then(|pending| pending.object.as_ref());
        if !self.has_room(&[to], object, source.pending) {
            return Ok(Verdict::Full);
        }
        let object = object.cloned();
        let (base, fields) = detach(source.pending, source.origin.as_deref());
        self.insert(&target, Change::Put(Put { object, base, fields }))
    }

    /// Why no object can be made at a place, if so.
    fn obstacle(&self, keys: &[Key]) -> Result<Option<Reason>, ExecutionError> {
        let (_, parents) = split(keys)?;
        if !parents.is_empty() && self.find(parents)?.is_none() {
            return Ok(Some(Reason::NoParent));
        }
        Ok(self.find(keys)?.map(|_| Reason::AlreadyExists))
    }

    /// The object at a path as the pending changes leave it.
    fn find(&self, keys: &[Key]) -> Result<Option<Found<'_>>, ExecutionError> {
        let mut tree = Some(Vec::new()); // where the tree being looked into is in the parent state
        let mut changes = Some(&self.changes);
        let (mut origin, mut pending) = (None, None);
        for key in keys {
            origin = tree.map(|mut at: Vec<Key>| {
                at.push(*key);
                at
            });
            match changes.and_then(|changes| changes.0.get(key)) {
                Some(Change::Remove) => return Ok(None),
                Some(Change::Put(put)) => {
                    tree = match &put.base {
                        FieldsBase::Keep => origin.clone(),
                        FieldsBase::Empty => None,
                        FieldsBase::Adopt(path) => Some(path.clone()),
                    };
                    (changes, pending) = (Some(&put.fields), Some(put));
                }
                None if origin.is_none() => return Ok(None),
                None => (tree, changes, pending) = (origin.clone(), None, None),
            }
        }
        let mut found = Found { origin, pending, read: None };
        if pending.is_none() {
            found.read = self.read(found.origin.as_deref())?;
            return Ok(found.read.is_some().then_some(found));
        }
        Ok(Some(found))
    }

    /// The content of an object at a place of the parent state.
    fn read(&self, origin: Option<&[Key]>) -> Result<Option<Object>, ExecutionError> {
        let Some(path) = origin else { return Ok(None) };
        let state = get(self.parent, path, self.reader)?;
        Ok(state.map(|state| Object {
            id: state.metadata.id,
            owner: state.metadata.owner,
            flag: state.metadata.flag,
            created_at: state.metadata.created_at,
            updated_at: state.metadata.updated_at,
            object_type: state.metadata.object_type,
            value: state.value,
        }))
    }

    fn content(&self, found: &Found<'_>) -> Result<Object, ExecutionError> {
        let pending = found.pending.and_then(|put| put.object.clone());
        if let Some(object) = pending.or_else(|| found.read.clone()) {
            return Ok(object);
        }
        let read = self.read(found.origin.as_deref())?;
        read.ok_or(ExecutionError::Invariant("a pending object has no content"))
    }

    fn owner(&self, id: &ObjectPath) -> Result<Option<[u8; 32]>, ExecutionError> {
        let Some(found) = self.find(&id.keys())? else {
            return Ok(None);
        };
        self.content(&found).map(|object| Some(object.owner))
    }

    /// What putting a field leaves at its place.
    fn field(&self, child: &ObjectPath, owner: [u8; 32], value: &HexBytes) -> Result<Field, ExecutionError> {
        let Some(found) = self.find(&child.keys())? else {
            return new_object(child, owner, value).map(Field::Made);
        };
        let mut object = self.content(&found)?;
        object.value.clone_from(&value.0);
        Ok(Field::Changed(object))
    }

    fn insert(&mut self, keys: &[Key], change: Change) -> Result<Verdict, ExecutionError> {
        let added = Amount::of(&change);
        let (last, parents) = split(keys)?;
        self.container(parents)?.0.insert(last, change);
        self.pending = self.pending + added;
        Ok(Verdict::Applied)
    }

    /// The pending changes to the fields of an object that exists.
    fn container(&mut self, keys: &[Key]) -> Result<&mut Changes, ExecutionError> {
        let mut at = &mut self.changes;
        for key in keys {
            let untouched = || Change::Put(Put { object: None, base: FieldsBase::Keep, fields: Changes::default() });
            if !at.0.contains_key(key) {
                self.pending.objects += 1;
            }
            match at.0.entry(*key).or_insert_with(untouched) {
                Change::Put(put) => at = &mut put.fields,
                Change::Remove => return Err(ExecutionError::Invariant("a change below a removed object")),
            }
        }
        Ok(at)
    }

    /// Whether so much more is too much for this block.
    fn is_full(&self, more: Amount) -> bool {
        let all = self.pending + more;
        all.objects + 1 > MAX_ENTRIES || all.bytes > MAX_PENDING
    }

    /// Whether an object fits into this block at the last of the paths, with the pending fields of `source`.
    fn has_room(&self, touched: &[&ObjectPath], object: Option<&Object>, source: Option<&Put>) -> bool {
        let names: usize = touched.iter().map(|path| path.names().len()).sum();
        let (fields, levels) =
            source.map_or_else(Default::default, |put| (Amount::below(&put.fields), depth(&put.fields)));
        let deepest = touched.last().map_or(0, |path| path.names().len()) + levels;
        let own = Amount { objects: names + 1, bytes: value_bytes(object) };
        !self.is_full(own + fields) && deepest < MAX_NESTING
    }
}

fn split(keys: &[Key]) -> Result<(Key, &[Key]), ExecutionError> {
    let (last, parents) = keys.split_last().ok_or(ExecutionError::Invariant("a path without names"))?;
    Ok((*last, parents))
}

#[cfg(test)]
mod tests;
