//! Seeded changes to a state of nested objects, in three profiles that are hard on a pruner in different ways.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use state_tree::{Change, Changes, FieldsBase, Key, NodeReader, Object, ObjectId, Put, StateRoot, TypeTag, get};

/// What a history does to the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Fresh values everywhere: garbage stays garbage.
    Uniform,
    /// Few objects flip between two values or come and go: hashes die and come back (S21, S22).
    Toggle,
    /// Nested objects are cloned, moved and deleted: sub-trees are shared (S28).
    Tables,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Uniform, Self::Toggle, Self::Tables];

    fn objects(self) -> u64 {
        match self {
            Self::Uniform => 150,
            Self::Toggle => 24,
            Self::Tables => 12,
        }
    }
}

const FIELDS: u64 = 6;
const BELOW: u64 = 3;

/// Values of this length leave the table files and go to blob files.
const BLOB_BYTES: usize = 1500;

/// One source of changes. Two of them with the same seed and the same states make the same changes.
#[derive(Debug)]
pub struct Workload {
    rng: ChaCha8Rng,
    profile: Profile,
    /// Whether its fields have identities of objects of the global tree, whose leaves may then lie at other places, too.
    has_strays: bool,
}

impl Workload {
    /// A source of changes; what it prints is shown when the test fails.
    pub fn new(profile: Profile, seed: u64) -> Self {
        println!("workload {profile:?} seed {seed}");
        Self { rng: ChaCha8Rng::seed_from_u64(seed), profile, has_strays: seed.is_multiple_of(4) }
    }

    /// Changes that are legal on the given state.
    pub fn changes(&mut self, root: StateRoot, reader: &dyn NodeReader) -> Changes {
        let mut changes = Changes::default();
        for _ in 0..self.rng.random_range(1..=4) {
            match self.profile {
                Profile::Uniform => self.fresh(&mut changes),
                Profile::Toggle => self.flip(&mut changes),
                Profile::Tables => self.table(&mut changes, root, reader),
            }
        }
        changes
    }

    /// A change to a field, which is no object of the global tree.
    fn field(&self, change: Change) -> Change {
        let Change::Put(mut put) = change else { return change };
        let component = [7; 32];
        let id = ObjectId::from_components(vec![component; if self.has_strays { 1 } else { 2 }]);
        put.object = put.object.map(|object| Object { id: id.unwrap(), ..object });
        Change::Put(put)
    }

    fn pick(&mut self) -> u64 {
        self.rng.random_range(0..self.profile.objects())
    }

    fn fresh(&mut self, changes: &mut Changes) {
        let (object, value) = (self.pick(), self.rng.random());
        let field = self.rng.random_range(0..FIELDS);
        let fields = Changes([(key(field), self.field(leaf(value)))].into());
        let put = Put { object: Some(content(value)), base: FieldsBase::Keep, fields };
        changes.0.insert(key(object), Change::Put(put));
    }

    fn flip(&mut self, changes: &mut Changes) {
        let (object, field) = (self.pick(), self.rng.random_range(0..2));
        let change = match self.rng.random_range(0..5) {
            0 => Change::Remove,
            1 => leaf(self.rng.random_range(0..2)),
            _ => {
                let below = if self.rng.random() { leaf(self.rng.random_range(0..2)) } else { Change::Remove };
                let fields = Changes([(key(field), self.field(below))].into());
                Change::Put(Put { object: Some(content(1)), base: FieldsBase::Keep, fields })
            }
        };
        changes.0.insert(key(object), change);
    }

    fn table(&mut self, changes: &mut Changes, root: StateRoot, reader: &dyn NodeReader) {
        let (to, from) = (key(self.pick()), key(self.pick()));
        let nested = key(self.rng.random_range(0..FIELDS));
        let exists = |path: &[Key]| get(root, path, reader).unwrap().is_some();
        match self.rng.random_range(0..8) {
            0 => drop(changes.0.insert(to, Change::Remove)),
            1 if exists(&[from]) => drop(changes.0.insert(to, adopt(vec![from]))),
            2 if exists(&[from, nested]) => drop(changes.0.insert(to, adopt(vec![from, nested]))),
            3 if from != to && exists(&[from]) => {
                changes.0.insert(to, adopt(vec![from]));
                changes.0.insert(from, Change::Remove);
            }
            4 if exists(&[from]) => {
                let fields = Changes([(nested, self.field(adopt(vec![from])))].into());
                changes.0.insert(to, Change::Put(Put { object: Some(content(7)), base: FieldsBase::Keep, fields }));
            }
            _ => drop(changes.0.insert(to, self.row(nested))),
        }
    }

    /// One entry of a table two levels down.
    fn row(&mut self, field: Key) -> Change {
        let below = key(self.rng.random_range(0..BELOW));
        let entry = if self.rng.random_bool(0.3) { Change::Remove } else { leaf(self.rng.random_range(0..40)) };
        let inner = Put {
            object: Some(content(self.rng.random_range(0..4))),
            base: FieldsBase::Keep,
            fields: Changes([(below, self.field(entry))].into()),
        };
        let fields = Changes([(field, self.field(Change::Put(inner)))].into());
        Change::Put(Put { object: Some(content(3)), base: FieldsBase::Keep, fields })
    }
}

/// Every path at which a profile may have put an object, to a depth of two below the global tree.
pub fn paths(profile: Profile) -> Vec<Vec<Key>> {
    let mut paths = Vec::new();
    for object in (0..profile.objects()).map(key) {
        paths.push(vec![object]);
        for field in (0..FIELDS).map(key) {
            paths.push(vec![object, field]);
            if profile == Profile::Tables {
                paths.extend((0..BELOW).map(|below| vec![object, field, key(below)]));
            }
        }
    }
    paths
}

/// The key of the n-th object or field: spread like hashes.
pub fn key(n: u64) -> Key {
    Key::new(Sha256::digest(n.to_be_bytes()).into())
}

/// An object whose whole content follows from one number; some are large enough for a blob file.
pub fn content(value: u64) -> Object {
    let bytes = if value.is_multiple_of(16) { BLOB_BYTES } else { 24 };
    let pattern = Sha256::digest(value.to_le_bytes());
    Object {
        id: ObjectId::single([7; 32]),
        owner: [0; 32],
        flag: 0,
        created_at: 0,
        updated_at: 0,
        object_type: TypeTag::Bool,
        value: pattern.iter().copied().cycle().take(bytes).collect(),
    }
}

/// An object whose fields stay as they are.
pub fn leaf(value: u64) -> Change {
    Change::Put(Put { object: Some(content(value)), base: FieldsBase::Keep, fields: Changes::default() })
}

/// An object that takes over the fields of another one.
pub fn adopt(path: Vec<Key>) -> Change {
    Change::Put(Put { object: Some(content(5)), base: FieldsBase::Adopt(path), fields: Changes::default() })
}
