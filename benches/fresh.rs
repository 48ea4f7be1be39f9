//! A fresh copy: the nodes that the retained roots reach, in a store that never held anything else.

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroU64,
    path::Path,
    sync::Arc,
};

use state_pruner::{RetainedRoots, Retention, Window};
use state_store::{
    Base, Batch, Commit, Durability, KeyRange, NativeChain, RocksBackend, RocksConfig, Store, StoreConfig,
};
use state_tree::{Created, Delta, NodeHash, NodeLayout as _, RoochLayout, StateRoot};

use crate::{Error, samples::Size};

/// Nodes per commit of the copy.
const PART: usize = 20_000;
/// Passes of compaction, at most.
const PASSES: u32 = 4;

/// Copies what the last `keep_last` orders of the store reach into a new one in `dir`, flushed and compacted. Of its size
/// the nodes are what counts: its journal says how the copy was made.
///
/// Errors: a store that does not work, a node that is missing.
pub fn fresh_copy(of: &Store, keep_last: NonZeroU64, rocks: &RocksConfig, dir: &Path) -> Result<Size, Error> {
    let view = of.view()?;
    let retention = Retention { window: Window::Last(keep_last), pins: Vec::new(), allowed_holes: [].into() };
    let roots = RetainedRoots::resolve(&NativeChain, &*view, &retention)?;
    let mut copy = Copy::create(dir, rocks, roots.head.root)?;
    let mut waiting: Vec<NodeHash> = roots.distinct().iter().filter_map(StateRoot::node).collect();
    let mut seen: HashSet<NodeHash> = waiting.iter().copied().collect();
    let mut children = Vec::new();
    while let Some(hash) = waiting.pop() {
        let bytes = view.node(&hash)?.ok_or_else(|| format!("node {hash} is missing"))?;
        RoochLayout.children(&bytes, &mut children)?;
        waiting.extend(children.drain(..).filter(|child| seen.insert(*child)));
        copy.take(hash, bytes)?;
    }
    copy.finish()
}

struct Copy {
    store: Store,
    root: StateRoot,
    part: BTreeMap<NodeHash, Created>,
}

impl Copy {
    fn create(dir: &Path, rocks: &RocksConfig, root: StateRoot) -> Result<Self, Error> {
        let backend = Arc::new(RocksBackend::open(&dir.join("fresh"), rocks)?);
        let config = StoreConfig { barrier_limit: 0, ..StoreConfig::new(Durability::Logged) };
        Ok(Self { store: Store::open(backend, config)?, root, part: BTreeMap::new() })
    }

    fn take(&mut self, hash: NodeHash, bytes: Vec<u8>) -> Result<(), Error> {
        self.part.insert(hash, Created { bytes, places: 1, below: None, sole: false });
        if self.part.len() == PART { self.write() } else { Ok(()) }
    }

    /// Puts a part of the nodes, as a commit that leaves the root as it is.
    fn write(&mut self) -> Result<(), Error> {
        let (parent, base) = match self.store.head() {
            None => (StateRoot::EMPTY, Base::Genesis),
            Some(_) => (self.root, Base::Head(self.root)),
        };
        let created = std::mem::take(&mut self.part);
        let (replaced, dropped, adopted) = (Vec::new(), Vec::new(), Vec::new());
        let delta = Delta { parent, root: self.root, created, replaced, dropped, adopted, astray: true };
        let (timestamp_ms, block_hash, rows) = (0, [0; 32], Batch::new());
        self.store.commit(Commit { base, delta: Arc::new(delta), timestamp_ms, block_hash, rows })?;
        Ok(())
    }

    /// Compacts until nothing gets smaller: one pass may leave blob files that are needed in part only.
    fn finish(mut self) -> Result<Size, Error> {
        self.write()?;
        let backend = self.store.backend();
        let mut least: Option<Size> = None;
        for _ in 0..PASSES {
            backend.rewrite_nodes(&KeyRange::ALL)?;
            let size = Size::of(backend)?;
            if least.is_some_and(|least| size.node_bytes >= least.node_bytes) {
                break;
            }
            least = Some(size);
        }
        least.ok_or_else(|| "the copy was not compacted".into())
    }
}
