//! The least a chain does to embed the pruner. README.md shows this file.

use std::{
    error::Error,
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

use state_pruner::{Pruner, PrunerConfig, PrunerParts, StoreRecords, SystemClock, events::EventSink};
use state_store::{
    Base, Batch, Commit, Committed, Durability, NativeChain, RocksBackend, RocksConfig, Store, StoreConfig, View,
};
use state_tree::{Changes, NodeHash, NodeReader, Order, RoochLayout, StateRoot, update};

/// Opens the store and starts its pruner, BEFORE the first commit of the process.
pub(crate) fn open(
    dir: &Path,
    keep_last: NonZeroU64,
    events: Arc<dyn EventSink>, // Arc::new(events::NoEvents), or an EventJournal, which writes down what happens
) -> Result<(Arc<Store>, Pruner), Box<dyn Error>> {
    let backend = Arc::new(RocksBackend::open(&dir.join("store"), &RocksConfig::default())?); // has the sweep filter
    let store = Arc::new(Store::open(backend, StoreConfig::new(Durability::Synced))?);
    let pruner = Pruner::start(parts(&store, events), config(dir.join("pruner"), keep_last))?;
    Ok((store, pruner))
}

pub(crate) fn parts(store: &Arc<Store>, events: Arc<dyn EventSink>) -> PrunerParts {
    PrunerParts {
        store: Arc::clone(store),
        chain: Arc::new(NativeChain),  // or your ChainView: head, order -> root, from a view
        layout: Arc::new(RoochLayout), // or your NodeLayout: bytes -> child hashes, hash
        records: Arc::new(StoreRecords(Arc::clone(store))),
        clock: Arc::new(SystemClock::new()),
        facts: None,
        floor_rows: None,
        events,
    }
}

pub(crate) fn config(state_dir: PathBuf, keep_last: NonZeroU64) -> PrunerConfig {
    // `node-7` is the name of this node alone, so that a fleet does not prune in step. Every field may be set otherwise.
    PrunerConfig::for_server("node-7", keep_last, state_dir)
}

/// Reads nodes from one instant of the store.
pub(crate) struct Reader(pub(crate) Arc<dyn View>);

impl NodeReader for Reader {
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, Box<dyn Error + Send + Sync>> {
        Ok(self.0.node(hash)?)
    }
}

/// What the chain agreed on.
pub(crate) struct Block {
    pub(crate) timestamp_ms: u64,
    pub(crate) hash: [u8; 32],
    pub(crate) changes: Changes,
}

/// Commits one block.
pub(crate) fn commit(store: &Arc<Store>, pruner: &Pruner, block: &Block) -> Result<Committed, Box<dyn Error>> {
    let pin = store.head().map(|head| store.pin(Order::new(head.order), "commit")).transpose()?; // what it reads stays
    let (base, root) = match &pin {
        Some(pin) => (Base::Head(pin.root()), pin.root()),
        None => (Base::Genesis, StateRoot::EMPTY),
    };
    let delta = update(root, &block.changes, &Reader(store.view()?))?; // pure
    let rows = Batch::new(); // further rows of the chain, such as the block
    let (timestamp_ms, block_hash) = (block.timestamp_ms, block.hash);
    let committed = store.commit(Commit { base, delta: Arc::new(delta), timestamp_ms, block_hash, rows })?;
    pruner.committed(committed.order); // returns at once
    Ok(committed)
}
