//! The state as plain nested maps, its canonical nodes built from scratch, and random changes to it.

use std::collections::BTreeMap;

use rand::{Rng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use state_tree::{
    Change, Changes, Child, ChildKind, FieldsBase, Internal, Joined, Key, Leaf, Node, Object, ObjectId, ObjectMeta,
    ObjectState, PLACEHOLDER, Put, StateRoot, TypeTag,
};

use crate::store::Store;

/// One tree of objects.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Tree(pub(crate) BTreeMap<Key, Entry>);

/// One object and its fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) object: Object,
    pub(crate) fields: Tree,
}

impl Tree {
    /// The root; every node of the tree and of the trees below it is added to `store`.
    pub(crate) fn build(&self, store: &mut Store) -> StateRoot {
        let leaves: Vec<(Key, Child)> = self.0.iter().map(|(key, entry)| (*key, entry.build(*key, store))).collect();
        StateRoot::new(canonical(&leaves, 0, store).map_or(PLACEHOLDER, |child| child.hash))
    }

    pub(crate) fn at(&self, path: &[Key]) -> Option<&Entry> {
        let (first, rest) = path.split_first()?;
        let entry = self.0.get(first)?;
        if rest.is_empty() { Some(entry) } else { entry.fields.at(rest) }
    }

    /// How many trees lie within each other, this one included, as far as they have objects.
    pub(crate) fn depth(&self) -> usize {
        self.0.values().map(|entry| 1 + entry.fields.depth()).max().unwrap_or(0)
    }

    /// The paths of all objects, at any depth.
    pub(crate) fn paths(&self) -> Vec<Vec<Key>> {
        let mut paths = Vec::new();
        for (key, entry) in &self.0 {
            paths.push(vec![*key]);
            paths.extend(entry.fields.paths().into_iter().map(|rest| [vec![*key], rest].concat()));
        }
        paths
    }

    /// Applies changes the way their documentation says; `parent` is the global tree they all start from.
    pub(crate) fn apply(&mut self, changes: &Changes, parent: &Tree) {
        for (key, change) in &changes.0 {
            match change {
                Change::Remove => drop(self.0.remove(key)),
                Change::Put(put) => {
                    let old = self.0.remove(key);
                    let mut fields = match &put.base {
                        FieldsBase::Keep => old.as_ref().map_or_else(Tree::default, |entry| entry.fields.clone()),
                        FieldsBase::Empty => Tree::default(),
                        FieldsBase::Adopt(path) => parent.at(path).unwrap().fields.clone(),
                    };
                    fields.apply(&put.fields, parent);
                    let object = put.object.clone().unwrap_or_else(|| old.unwrap().object);
                    self.0.insert(*key, Entry { object, fields });
                }
            }
        }
    }
}

impl Entry {
    /// The object as its leaf holds it.
    pub(crate) fn state(&self, fields: StateRoot) -> ObjectState {
        let Object { id, owner, flag, created_at, updated_at, object_type, value } = self.object.clone();
        let (state_root, size) = (Some(fields), self.fields.0.len() as u64);
        let metadata = ObjectMeta { id, owner, flag, state_root, size, created_at, updated_at, object_type };
        ObjectState { metadata, value }
    }

    pub(crate) fn build(&self, key: Key, store: &mut Store) -> Child {
        let fields = self.fields.build(store);
        let leaf = Node::Leaf(Leaf { key, value: self.state(fields).encode().unwrap() });
        Child { hash: store.put(&leaf.encode().unwrap()), kind: ChildKind::Leaf }
    }
}

/// The definition of the tree: a lone leaf stands at the highest free place, everything else is split by nibble.
fn canonical(leaves: &[(Key, Child)], depth: usize, store: &mut Store) -> Option<Child> {
    if leaves.len() < 2 {
        return leaves.first().map(|(_, child)| *child);
    }
    let slots = std::array::from_fn(|nibble| {
        let below: Vec<_> = leaves.iter().filter(|(key, _)| key.nibble(depth) == Some(nibble as u8)).copied().collect();
        canonical(&below, depth + 1, store)
    });
    let Joined::Node(node) = Internal::join(&slots) else { unreachable!("two leaves need a node") };
    Some(Child { hash: store.put(&node.encode()), kind: ChildKind::Internal })
}

/// An object whose whole content follows from one number.
pub(crate) fn object(value: u64) -> Object {
    Object {
        id: ObjectId::single([7; 32]),
        owner: [0; 32],
        flag: 0,
        created_at: 0,
        updated_at: 0,
        object_type: TypeTag::Bool,
        value: value.to_le_bytes().to_vec(),
    }
}

/// Where random changes draw from: few keys and few values make nodes meet again.
pub(crate) struct Pool {
    pub(crate) keys: Vec<Key>,
    pub(crate) values: u64,
    pub(crate) depth: usize,
    pub(crate) clones: Clones,
}

/// Whether changes take the fields of other objects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clones {
    Yes,
    No,
}

impl Pool {
    pub(crate) fn random(rng: &mut ChaCha8Rng) -> Self {
        let count = rng.random_range(2..=7);
        let mut keys: Vec<Key> = (0..count).map(|_| short_key(rng)).collect();
        if rng.random_bool(0.3) {
            keys.extend(twins(rng));
        }
        Self { keys, values: rng.random_range(1..=4), depth: rng.random_range(1..=3), clones: Clones::Yes }
    }

    /// Few keys and many levels: objects within objects within objects.
    pub(crate) fn deep(rng: &mut ChaCha8Rng) -> Self {
        let keys = (0..rng.random_range(2..=3)).map(|_| short_key(rng)).collect();
        Self { keys, values: rng.random_range(1..=3), depth: rng.random_range(3..=5), clones: Clones::Yes }
    }

    /// Changes to a state, biased toward what makes trees hard: clones, moves, deletions, changes that change nothing.
    pub(crate) fn changes(&self, rng: &mut ChaCha8Rng, parent: &Tree) -> Changes {
        let mut changes = self.tree_changes(rng, (parent, parent), 1);
        if self.clones == Clones::Yes && rng.random_bool(0.2) {
            self.add_move(rng, parent, &mut changes);
        }
        changes
    }

    fn tree_changes(&self, rng: &mut ChaCha8Rng, (base, parent): (&Tree, &Tree), depth: usize) -> Changes {
        let mut changes = Changes::default();
        for _ in 0..rng.random_range(1..=3) {
            let key = *self.keys.choose(rng).unwrap();
            let old = base.0.get(&key);
            let change = if rng.random_bool(0.25) { Change::Remove } else { self.put(rng, (old, parent), depth) };
            changes.0.insert(key, change);
        }
        changes
    }

    fn put(&self, rng: &mut ChaCha8Rng, (old, parent): (Option<&Entry>, &Tree), depth: usize) -> Change {
        let base = self.base(rng, parent, depth);
        let empty = Tree::default();
        let fields = match &base {
            FieldsBase::Keep => old.map_or(&empty, |entry| &entry.fields),
            FieldsBase::Empty => &empty,
            FieldsBase::Adopt(path) => &parent.at(path).unwrap().fields,
        };
        let deeper = depth < self.depth && rng.random_bool(0.6);
        let fields = if deeper { self.tree_changes(rng, (fields, parent), depth + 1) } else { Changes::default() };
        let keeps = old.is_some() && rng.random_bool(0.6);
        let object = if keeps { None } else { Some(object(rng.random_range(0..self.values))) };
        Change::Put(Put { object, base, fields })
    }

    fn base(&self, rng: &mut ChaCha8Rng, parent: &Tree, depth: usize) -> FieldsBase {
        let dice: f64 = rng.random();
        let paths: Vec<Vec<Key>> = parent.paths().into_iter().filter(|path| path.len() + depth <= 6).collect();
        match paths.choose(rng) {
            Some(path) if dice < 0.2 && self.clones == Clones::Yes => FieldsBase::Adopt(path.clone()),
            _ if dice > 0.92 => FieldsBase::Empty,
            _ => FieldsBase::Keep,
        }
    }

    /// Moves an object of the global tree: its fields are adopted elsewhere, changed or not, and it is removed.
    fn add_move(&self, rng: &mut ChaCha8Rng, parent: &Tree, changes: &mut Changes) {
        let from: Vec<Key> = parent.0.keys().copied().collect();
        let (Some(from), Some(to)) = (from.choose(rng), self.keys.choose(rng)) else {
            return;
        };
        if from == to {
            return;
        }
        let base = FieldsBase::Adopt(vec![*from]);
        let object = Some(parent.0[from].object.clone());
        let fields = &parent.0[from].fields;
        let changed = self.depth > 1 && rng.random_bool(0.4);
        let fields = if changed { self.tree_changes(rng, (fields, parent), 2) } else { Changes::default() };
        changes.0.insert(*from, Change::Remove);
        changes.0.insert(*to, Change::Put(Put { object, base, fields }));
    }
}

/// A key that differs from others in its first three nibbles only, each one of three.
fn short_key(rng: &mut ChaCha8Rng) -> Key {
    let mut bytes = [0; 32];
    bytes[0] = rng.random_range(0..3) << 4 | rng.random_range(0..3);
    bytes[1] = rng.random_range(0..3) << 4;
    Key::new(bytes)
}

/// Two keys that part at the last nibble.
fn twins(rng: &mut ChaCha8Rng) -> [Key; 2] {
    let mut bytes = [0x11; 32];
    bytes[0] = rng.random_range(0..3) << 4;
    let mut other = bytes;
    other[31] = 0x1f;
    [Key::new(bytes), Key::new(other)]
}
