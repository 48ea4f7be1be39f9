//! A store of our own in a temporary folder, and deltas whose nodes are made up: the store never decodes a node.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use state_store::{
    ActiveSweep, Backend, Base, Batch, Capture, Commit, Committed, Corrected, Correction, Durability, Flow, KeyRange,
    LiveReader, LiveSet, RocksBackend, RocksConfig, Store, StoreConfig, StoreError,
};
use state_tree::{Created, Delta, NodeHash, Order, StateRoot};
use tempfile::TempDir;

pub(crate) const CONFIG: StoreConfig =
    StoreConfig { barrier_limit: 1_000_000, shared_per_presumed: 0, ..StoreConfig::new(Durability::Logged) };

/// Small buffers: files come early and several levels fill.
pub(crate) const SMALL: RocksConfig = RocksConfig {
    block_cache_bytes: 8 << 20,
    write_buffer_bytes: 1 << 20,
    max_open_files: 256,
    background_jobs: 2,
    subcompactions: 2,
};

pub(crate) struct Rig {
    pub(crate) store: Store,
    pub(crate) backend: Arc<RocksBackend>,
    dir: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend = Arc::new(RocksBackend::open(&dir.path().join("store"), &SMALL).unwrap());
        Self { store: Store::open(backend.clone(), CONFIG).unwrap(), backend, dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Closes and opens again, as a restart does.
    pub(crate) fn reopen(self) -> Self {
        let Self { store, backend, dir } = self;
        drop((store, backend));
        let backend = Arc::new(RocksBackend::open(&dir.path().join("store"), &SMALL).unwrap());
        Self { store: Store::open(backend.clone(), CONFIG).unwrap(), backend, dir }
    }

    pub(crate) fn commit(&self, nodes: impl IntoIterator<Item = (NodeHash, Vec<u8>)>) -> Committed {
        let committed = commit(&self.store, nodes).unwrap();
        self.store.catch_up().unwrap(); // holds no view
        committed
    }

    pub(crate) fn present(&self) -> BTreeSet<NodeHash> {
        present(&self.store)
    }
}

pub(crate) fn commit(
    store: &Store,
    nodes: impl IntoIterator<Item = (NodeHash, Vec<u8>)>,
) -> Result<Committed, StoreError> {
    let (base, parent, next) = match store.head() {
        None => (Base::Genesis, StateRoot::EMPTY, 0),
        Some(head) => {
            let root = StateRoot::new(NodeHash::new(head.at.root));
            (Base::Head(root), root, head.order + 1)
        }
    };
    commit_on(store, base, &delta(parent, root(next), nodes))
}

pub(crate) fn commit_on(store: &Store, base: Base, delta: &Delta) -> Result<Committed, StoreError> {
    let delta = Arc::new(delta.clone());
    store.commit(Commit { base, delta, timestamp_ms: 7, block_hash: [9; 32], rows: Batch::new() })
}

pub(crate) fn delta(parent: StateRoot, root: StateRoot, nodes: impl IntoIterator<Item = (NodeHash, Vec<u8>)>) -> Delta {
    let created = nodes.into_iter().map(|(hash, bytes)| (hash, Created { bytes, places: 1, below: None, sole: false }));
    Delta {
        parent,
        root,
        created: created.collect::<BTreeMap<_, _>>(),
        replaced: Vec::new(),
        dropped: Vec::new(),
        adopted: Vec::new(),
        astray: false,
    }
}

/// What a cycle that traced an order and found these nodes shared leaves of marks.
pub(crate) fn correct(store: &Store, traced: u64, shared: &[u64]) -> Result<Corrected, StoreError> {
    let (permit, mut correction) = (store.issue_permit(), Correction::new(order(traced), shared));
    loop {
        if let ControlFlow::Break(corrected) = store.correct_marks(&permit, &mut correction, NonZeroUsize::MIN)? {
            return Ok(corrected);
        }
    }
}

/// The root that the commit of an order is given.
pub(crate) fn root(order: u64) -> StateRoot {
    StateRoot::new(hash(order | 1 << 60))
}

/// A made-up hash, spread evenly over all keys.
pub(crate) fn hash(n: u64) -> NodeHash {
    let mut bytes = [0; 32];
    let mut state = n;
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&(word ^ (word >> 31)).to_be_bytes());
    }
    NodeHash::new(bytes)
}

/// `count` nodes from number `from` on, each with a value of `bytes` that does not compress to nothing.
pub(crate) fn nodes(from: u64, count: u64, bytes: usize) -> Vec<(NodeHash, Vec<u8>)> {
    (from..from + count).map(|n| (hash(n), value(n, bytes))).collect()
}

pub(crate) fn value(n: u64, bytes: usize) -> Vec<u8> {
    (0..bytes.div_ceil(32) as u64).flat_map(|block| *hash(n ^ block << 32).as_bytes()).take(bytes).collect()
}

pub(crate) fn present(store: &Store) -> BTreeSet<NodeHash> {
    let mut found = BTreeSet::new();
    let view = store.view().unwrap();
    view.scan_nodes(&KeyRange::ALL, &mut |key, _| {
        found.insert(NodeHash::try_from(key).unwrap());
        Flow::Continue(())
    })
    .unwrap();
    found
}

/// The simplest mark.
#[derive(Clone)]
pub(crate) struct Live(pub(crate) BTreeSet<NodeHash>);

impl LiveSet for Live {
    fn reader(&self) -> Box<dyn LiveReader> {
        Box::new(self.clone())
    }
}

impl LiveReader for Live {
    fn contains(&mut self, hash: &NodeHash) -> bool {
        self.0.contains(hash)
    }
}

/// Activates a sweep that keeps `live` and what is created since the capture.
pub(crate) fn sweep<'a>(
    store: &'a Store,
    capture: &Capture,
    live: impl IntoIterator<Item = NodeHash>,
) -> ActiveSweep<'a> {
    let live = Arc::new(Live(live.into_iter().collect()));
    store.sweep(store.issue_permit(), capture.barrier.clone(), live, None).unwrap()
}

pub(crate) fn order(n: u64) -> Order {
    Order::new(n)
}

/// The key range of one of sixteen equal parts.
pub(crate) fn sixteenth(n: u8) -> KeyRange {
    KeyRange { start: Some(vec![n << 4]), end: (n < 15).then(|| vec![(n + 1) << 4]) }
}

pub(crate) fn files(backend: &dyn Backend) -> u64 {
    backend.node_files().unwrap().iter().map(|file| file.entries).sum()
}

/// Copies the files of one folder as they are at one instant; links nothing.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    loop {
        let before = contents(from);
        std::fs::create_dir_all(to).unwrap();
        for (name, bytes) in before.iter().filter(|(name, _)| *name != "LOCK") {
            std::fs::write(to.join(name), bytes).unwrap();
        }
        if contents(from) == before {
            return;
        }
        std::fs::remove_dir_all(to).unwrap(); // the engine put files in the place of others meanwhile
    }
}

/// Every file of a folder with its bytes; one that the engine removes meanwhile is not there.
pub(crate) fn contents(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: std::fs::DirEntry| match std::fs::read(entry.path()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        bytes => Some((entry.file_name().into_string().unwrap(), bytes.unwrap())),
    };
    std::fs::read_dir(path).unwrap().filter_map(|entry| read(entry.unwrap())).collect()
}

/// Waits until the thread sleeps: the caller knows on what.
pub(crate) fn await_sleep(thread: &Path) {
    let state = || std::fs::read_to_string(Path::new("/proc").join(thread).join("stat")).unwrap();
    let is_asleep = || state().rsplit(')').next().unwrap().trim_start().starts_with('S');
    while !(0..20).all(|_| is_asleep()) {
        std::thread::yield_now();
    }
}
