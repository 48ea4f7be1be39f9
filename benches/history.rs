//! A store with a realistic history: objects of the Rooch format, some with fields, created and then changed a few at
//! a time through the real tree update and the real commit gate, until the store holds as many nodes as asked for.
//! Its last commits are compacted like the rest, so that every run starts from the same bottom level.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
    path::Path,
    sync::Arc,
};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use state_pruner::{RetainedRoots, Retention, Window};
use state_store::{
    Base, Batch, Commit, Durability, KeyRange, NativeChain, RocksBackend, RocksConfig, Store, StoreConfig,
};
use state_tree::{
    Change, Changes, Delta, FieldsBase, Key, NodeHash, NodeReader, Object, ObjectId, Put, StateRoot, TypeTag, update,
};

use crate::{Arguments, Folder};

/// Whatever ends a bench.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Most nodes of the live tree per object, with the internal nodes and fields above and below it.
const NODES_PER_OBJECT: u64 = 3;
/// Nodes that a change of one object replaces, about: they stay live while an older order is retained.
const NODES_PER_CHANGE: u64 = 5;
/// Objects per commit while the state is filled.
const FILL: u64 = 20_000;
/// Objects per commit afterwards.
const CHANGED: u64 = 24;
/// Orders whose roots are retained.
const WINDOW: NonZeroU64 = NonZeroU64::new(10).expect("ten is not zero");

/// A store that is ready to be measured.
#[derive(Debug)]
pub struct Built {
    /// Its folder.
    pub folder: Folder,
    /// The database inside it.
    pub db: std::path::PathBuf,
}

impl Built {
    /// Opens it for writing.
    pub fn open(path: &Path) -> Result<Arc<Store>, Error> {
        let backend = RocksBackend::open(path, &RocksConfig::default())?;
        let config = StoreConfig { barrier_limit: 1 << 20, ..StoreConfig::new(Durability::Logged) };
        Ok(Arc::new(Store::open(Arc::new(backend), config)?))
    }

    /// Opens it for reading: nothing is compacted while it is measured.
    pub fn open_read_only(path: &Path) -> Result<Arc<Store>, Error> {
        let backend = RocksBackend::open_read_only(path, &RocksConfig::default())?;
        let config = StoreConfig { barrier_limit: 0, ..StoreConfig::new(Durability::Logged) };
        Ok(Arc::new(Store::open(Arc::new(backend), config)?))
    }

    /// The roots of the last orders.
    pub fn roots(store: &Store) -> Result<RetainedRoots, Error> {
        let retention = Retention { window: Window::Last(WINDOW), pins: Vec::new(), allowed_holes: [].into() };
        Ok(RetainedRoots::resolve(&NativeChain, &*store.view()?, &retention)?)
    }
}

/// Builds the store, unless the folder has it already.
pub fn build(arguments: &Arguments) -> Result<Built, Error> {
    let folder = Folder::open(arguments.dir.as_deref())?;
    let name = format!("{}-{}", arguments.nodes, arguments.live);
    let (db, aside) = (folder.path().join(&name), folder.path().join(format!("{name}.aside")));
    if !db.exists() {
        if aside.exists() {
            std::fs::remove_dir_all(&aside)?;
        }
        let store = Built::open(&aside)?;
        History::new(&store).run(arguments)?;
        store.backend().flush()?;
        store.backend().rewrite_nodes(&KeyRange::ALL)?;
        drop(store);
        std::fs::rename(&aside, &db)?; // a whole store or none
    }
    Ok(Built { folder, db })
}

/// The live nodes, in memory.
#[derive(Default)]
struct Live(HashMap<NodeHash, Vec<u8>>);

impl NodeReader for Live {
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(hash).cloned())
    }
}

struct History<'a> {
    store: &'a Store,
    live: Live,
    root: StateRoot,
    nodes: u64,
    dice: ChaCha8Rng,
    time: u64,
}

impl<'a> History<'a> {
    fn new(store: &'a Store) -> Self {
        Self {
            store,
            live: Live::default(),
            root: StateRoot::EMPTY,
            nodes: 0,
            dice: ChaCha8Rng::seed_from_u64(1),
            time: 0,
        }
    }

    fn run(&mut self, arguments: &Arguments) -> Result<(), Error> {
        let older = (WINDOW.get() - 1) * CHANGED * NODES_PER_CHANGE;
        let objects = self.fill((arguments.nodes * arguments.live / 100).saturating_sub(older))?;
        while self.nodes < arguments.nodes {
            let chosen: Vec<u64> = (0..CHANGED).map(|_| self.dice.random_range(0..objects)).collect();
            let changes = chosen.into_iter().map(|number| {
                let fields = self.some_fields(number);
                (key(number), self.object(number, fields))
            });
            let changes = changes.collect();
            self.commit(&Changes(changes))?;
        }
        Ok(())
    }

    /// Creates objects until the newest state has so many nodes; returns how many objects that took. Later changes
    /// replace nodes and add none, so the share of live nodes is settled here.
    fn fill(&mut self, live: u64) -> Result<u64, Error> {
        let mut objects = 0;
        while objects == 0 || (self.live.0.len() as u64) < live {
            let missing = live.saturating_sub(self.live.0.len() as u64);
            let end = objects + (missing / NODES_PER_OBJECT).clamp(1, FILL);
            let changes =
                (objects..end).map(|number| (key(number), self.object(number, whole_fields(number)))).collect();
            self.commit(&Changes(changes))?;
            objects = end;
        }
        Ok(objects)
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), Error> {
        let delta = Arc::new(update(self.root, changes, &self.live)?);
        let base = if self.time == 0 { Base::Genesis } else { Base::Head(self.root) };
        self.store.commit(Commit {
            base,
            delta: Arc::clone(&delta),
            timestamp_ms: self.time,
            block_hash: [0; 32],
            rows: Batch::new(),
        })?;
        self.take(&delta);
        Ok(())
    }

    /// Values never repeat, so no node has two places and whatever is stale is dead.
    fn take(&mut self, delta: &Delta) {
        for hash in delta.stale().keys() {
            self.live.0.remove(hash);
        }
        self.nodes += delta.created.len() as u64;
        self.root = delta.root;
        self.live.0.extend(delta.created.iter().map(|(hash, created)| (*hash, created.bytes.clone())));
        self.time += 1;
    }

    fn object(&mut self, number: u64, fields: Vec<u64>) -> Change {
        let object = self.content(ObjectId::single(*key(number).as_bytes()));
        let fields = fields.into_iter().map(|field| {
            let id = ObjectId::single(*key(number).as_bytes()).child(&key(field));
            let put = Put { object: Some(self.content(id)), base: FieldsBase::Keep, fields: Changes::default() };
            (key(field), Change::Put(put))
        });
        let fields = Changes(fields.collect::<BTreeMap<_, _>>());
        Change::Put(Put { object: Some(object), base: FieldsBase::Keep, fields })
    }

    /// A value of 40 to 200 bytes; one in two hundred is large enough for a blob file.
    fn content(&mut self, id: ObjectId) -> Object {
        let length = match self.dice.random_range(0..200) {
            0 => self.dice.random_range(1100..2000),
            _ => self.dice.random_range(40..200),
        };
        let mut value = vec![0; length];
        self.dice.fill(value.as_mut_slice());
        Object {
            id,
            owner: [7; 32],
            flag: 0,
            created_at: 1_700_000_000_000,
            updated_at: 1_700_000_000_000 + self.time,
            object_type: TypeTag::U64,
            value,
        }
    }

    fn some_fields(&mut self, number: u64) -> Vec<u64> {
        match fields_of(number) {
            0 => Vec::new(),
            count => (0..2).map(|_| self.dice.random_range(0..count)).collect(),
        }
    }
}

/// One object in ten has fields.
fn fields_of(number: u64) -> u64 {
    if number.is_multiple_of(10) { 10 } else { 0 }
}

fn whole_fields(number: u64) -> Vec<u64> {
    (0..fields_of(number)).collect()
}

/// A uniform key: the output function of splitmix64, four times.
pub(crate) fn key(number: u64) -> Key {
    let mut bytes = [0; 32];
    let mut state = number.wrapping_mul(0x2545_f491_4f6c_dd1d);
    for chunk in bytes.as_chunks_mut::<8>().0 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *chunk = (mixed ^ (mixed >> 31)).to_be_bytes();
    }
    Key::new(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use state_tree::{NodeLayout as _, RoochLayout};

    use super::*;

    #[test]
    fn the_share_of_live_nodes_is_the_one_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = Arguments { nodes: 60_000, live: 25, rounds: 1, dir: Some(dir.path().to_owned()) };
        let store = Built::open_read_only(&build(&arguments).unwrap().db).unwrap();
        let view = store.view().unwrap();
        let (mut present, mut live) = (0u64, HashSet::new());
        view.scan_nodes(&KeyRange::ALL, &mut |_, _| {
            present += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        let mut waiting: Vec<NodeHash> =
            Built::roots(&store).unwrap().distinct().iter().filter_map(StateRoot::node).collect();
        while let Some(hash) = waiting.pop() {
            if live.insert(hash) {
                RoochLayout.children(&view.node(&hash).unwrap().unwrap(), &mut waiting).unwrap();
            }
        }
        let percent = live.len() as f64 * 100.0 / present as f64;
        assert!((24.0..=26.0).contains(&percent), "{percent} % of {present} nodes are live");
    }
}
