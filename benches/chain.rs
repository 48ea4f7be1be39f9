//! A chain over a store of our own that commits at full rate while a pruner works, and one of flat objects.

#![expect(clippy::disallowed_methods, clippy::indexing_slicing, reason = "a bench measures time and may panic")]

use std::{
    num::{NonZeroU64, NonZeroUsize},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use state_pruner::{
    CycleConfig, Pruner, PrunerConfig, PrunerParts, StoreRecords, SystemClock, TriggerConfig, events::NoEvents,
    recovery::RecoveryConfig, snapshot::SnapshotManagerConfig,
};
use state_store::{
    Base, Batch, Commit, Committed, Durability, NativeChain, RocksBackend, RocksConfig, Store, StoreConfig, View,
};
use state_tree::{
    Change, Changes, Delta, FieldsBase, Key, NodeHash, NodeReader, Object, ObjectId, Order, Put, RoochLayout,
    StateRoot, TypeTag, update,
};

/// `pruner.io_limit` of config/node.toml, in MiB.
pub const NODE_IO_LIMIT_MIB: u64 = 24;

/// A store with a head.
pub struct Chain {
    /// The store.
    pub store: Arc<Store>,
    /// Nodes that commits created and that may be at more than one place.
    pub may_be_shared: u64,
    root: StateRoot,
    /// The delta of the newest commit: whether or not the store keeps it for a while, it is freed in the time of the next commit.
    newest: Option<Arc<Delta>>,
}

/// A chain of flat objects, and where its next changes come from.
pub struct Flat {
    /// The chain.
    pub chain: Chain,
    rng: ChaCha8Rng,
    objects: u64,
}

struct Reader(Arc<dyn View>);

impl NodeReader for Reader {
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.node(hash)?)
    }
}

fn key(number: u64) -> Key {
    // A fixed odd multiplier spreads the keys over the tree; the hash of the node does the rest.
    let top = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&top);
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    Key::new(bytes)
}

fn put(number: u64, value: u64) -> Change {
    let id = *key(number).as_bytes();
    let object = Object {
        id: ObjectId::single(id),
        owner: [7; 32],
        flag: 0,
        created_at: 0,
        updated_at: value,
        object_type: TypeTag::U64,
        value: value.to_le_bytes().repeat(12),
    };
    Change::Put(Put { object: Some(object), base: FieldsBase::Keep, fields: Changes::default() })
}

impl Chain {
    /// A new, empty store in `dir`.
    pub fn create(dir: &Path, rocks: &RocksConfig, config: StoreConfig) -> Self {
        let backend = Arc::new(RocksBackend::open(&dir.join("store"), rocks).expect("open"));
        Self {
            store: Arc::new(Store::open(backend, config).expect("store")),
            may_be_shared: 0,
            root: StateRoot::EMPTY,
            newest: None,
        }
    }

    /// The root of the newest order.
    pub fn root(&self) -> StateRoot {
        self.root
    }

    /// Updates the tree and commits it on the head.
    pub fn commit(&mut self, changes: &Changes) -> Committed {
        self.newest = None;
        let base = if self.store.head().is_none() { Base::Genesis } else { Base::Head(self.root) };
        let reader = Reader(self.store.view().expect("view"));
        let delta = Arc::new(update(self.root, changes, &reader).expect("update"));
        self.newest = Some(Arc::clone(&delta));
        self.may_be_shared += delta.created.values().filter(|created| !created.sole).count() as u64;
        let commit = Commit { base, delta, timestamp_ms: 0, block_hash: [0; 32], rows: Batch::new() };
        let committed = self.store.commit(commit).expect("commit");
        self.root = committed.root;
        committed
    }

    /// A pruner over the store, as a node starts it.
    pub fn pruner(&self, config: PrunerConfig) -> Pruner {
        let parts = PrunerParts {
            store: Arc::clone(&self.store),
            chain: Arc::new(NativeChain),
            layout: Arc::new(RoochLayout),
            records: Arc::new(StoreRecords(Arc::clone(&self.store))),
            clock: Arc::new(SystemClock::new()),
            facts: None,
            floor_rows: None,
            events: Arc::new(NoEvents),
        };
        Pruner::start(parts, config).expect("pruner")
    }
}

impl Flat {
    /// A new store in `dir` with `objects` objects.
    pub fn create(dir: &Path, durability: Durability, objects: u64) -> Self {
        let rocks = RocksConfig { subcompactions: 1, ..RocksConfig::default() };
        let mut chain = Chain::create(dir, &rocks, StoreConfig::new(durability));
        let numbers: Vec<u64> = (0..objects).collect();
        for part in numbers.chunks(20_000) {
            chain.commit(&Changes(part.iter().map(|number| (key(*number), put(*number, 0))).collect()));
        }
        Self { chain, rng: ChaCha8Rng::seed_from_u64(1), objects }
    }

    /// Commits new values for `count` random objects; returns the order and the time it took, update included.
    pub fn step(&mut self, count: usize) -> (Order, Duration) {
        let changes: Changes = Changes(
            (0..count)
                .map(|_| {
                    let number = self.rng.random_range(0..self.objects);
                    (key(number), put(number, self.rng.random()))
                })
                .collect(),
        );
        let start = Instant::now();
        let order = self.chain.commit(&changes).order;
        (order, start.elapsed())
    }

    /// A pruner over the store that retains `keep_last` orders and works when told to.
    pub fn pruner(&self, dir: &Path, keep_last: u64, io_limit: Option<NonZeroU64>) -> Pruner {
        let threads = NonZeroUsize::MIN;
        let cycle = CycleConfig { threads, io_limit, ..CycleConfig::new(dir.join("pruner")) };
        self.chain.pruner(PrunerConfig {
            keep_last: keep_last.try_into().expect("not zero"),
            every_orders: u64::MAX.try_into().expect("not zero"),
            incremental: None,
            triggers: TriggerConfig::default(),
            cycle,
            snapshots: SnapshotManagerConfig::default(),
            recovery: RecoveryConfig::default(),
        })
    }
}

/// The value below which `share` of the sorted samples lie.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
