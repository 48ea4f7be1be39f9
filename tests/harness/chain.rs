//! A store with its archive: commits go to both, and what they read comes from the store that is pruned.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use state_store::{Backend, Base, Batch, Commit, Committed, Durability, Store, StoreConfig, StoreError, View};
use state_tree::{Changes, Delta, NodeHash, NodeReader, Order, StateRoot, TreeError, update};

use crate::{
    archive::Archive,
    workload::{Profile, Workload},
};

/// Commits are logged, not synced, and the barrier is larger than any test needs.
pub const STORE: StoreConfig =
    StoreConfig { barrier_limit: 1 << 20, shared_per_presumed: 0, ..StoreConfig::new(Durability::Logged) };

/// A chain under test.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The store that is pruned.
    pub store: Arc<Store>,
    /// What the store would hold if it were not.
    pub archive: Arc<Archive>,
}

/// Reads nodes from one view of a store.
pub struct ViewReader(pub Arc<dyn View>);

impl NodeReader for ViewReader {
    fn node(&self, hash: &NodeHash) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.node(hash)?)
    }
}

impl Chain {
    /// Opens the store on a backend with an archive that knows nothing yet.
    pub fn open(backend: Arc<dyn Backend>) -> Self {
        Self::open_with(backend, STORE)
    }

    /// As [`Chain::open`].
    pub fn open_with(backend: Arc<dyn Backend>, config: StoreConfig) -> Self {
        Self { store: Arc::new(Store::open(backend, config).unwrap()), archive: Arc::default() }
    }

    /// The same history on another backend, with an archive of its own from here on.
    pub fn fork(&self, backend: Arc<dyn Backend>) -> Self {
        self.fork_with(backend, STORE)
    }

    /// As [`Chain::fork`], with a store that behaves in a given way.
    pub fn fork_with(&self, backend: Arc<dyn Backend>, config: StoreConfig) -> Self {
        Self { store: Arc::new(Store::open(backend, config).unwrap()), archive: Arc::new(self.archive.copy()) }
    }

    /// The newest order.
    pub fn head(&self) -> Order {
        Order::new(self.store.head().unwrap().order)
    }

    /// The oldest readable order.
    pub fn floor(&self) -> Order {
        self.store.floor().unwrap()
    }

    /// Commits `count` changes of the workload.
    pub fn run(&self, workload: &mut Workload, count: u64) {
        for _ in 0..count {
            self.commit(|root, reader| workload.changes(root, reader));
        }
    }

    /// A fresh history of `count` orders.
    pub fn grow(&self, profile: Profile, seed: u64, count: u64) {
        self.run(&mut Workload::new(profile, seed), count);
    }

    /// Commits these changes on the head.
    pub fn put(&self, changes: &Changes) -> Committed {
        self.commit(|_, _| changes.clone())
    }

    /// Commits changes that are made for the head, and makes them again if another committer was faster.
    pub fn commit(&self, changes: impl FnMut(StateRoot, &dyn NodeReader) -> Changes) -> Committed {
        self.try_commit(changes).unwrap()
    }

    /// As [`Chain::commit`], for stores that fail.
    pub fn try_commit(
        &self,
        mut changes: impl FnMut(StateRoot, &dyn NodeReader) -> Changes,
    ) -> Result<Committed, StoreError> {
        loop {
            match self.attempt(&mut changes) {
                // Another committer was faster, or so fast that the base left the window before it was pinned.
                Err(StoreError::HeadMoved { .. } | StoreError::Pruned { .. }) => {}
                other => return other,
            }
        }
    }

    /// As [`Chain::try_commit`] with changes that are made from the archive: nothing but the commit touches the store.
    pub fn try_commit_from_archive(
        &self,
        mut changes: impl FnMut(StateRoot, &dyn NodeReader) -> Changes,
    ) -> Result<Committed, StoreError> {
        let order = self.head();
        let root = self.archive.root(order);
        let delta = delta(root, &*self.archive, &mut changes);
        self.write(Base::Head(root), order.get() + 1, delta)
    }

    /// As [`Chain::fork_at`] with changes that are made from the archive, for stores that fail.
    pub fn try_fork_from_archive(
        &self,
        order: Order,
        mut changes: impl FnMut(StateRoot, &dyn NodeReader) -> Changes,
    ) -> Result<Committed, StoreError> {
        let root = self.archive.root(order);
        let delta = delta(root, &*self.archive, &mut changes);
        self.write(Base::Retained(order, root), self.head().get() + 1, delta)
    }

    fn attempt(
        &self,
        changes: &mut impl FnMut(StateRoot, &dyn NodeReader) -> Changes,
    ) -> Result<Committed, StoreError> {
        let Some(head) = self.store.head() else {
            let delta = delta(StateRoot::EMPTY, &*self.archive, changes);
            return self.write(Base::Genesis, 0, delta);
        };
        let pin = self.store.pin(Order::new(head.order), "committer")?;
        let delta = delta(pin.root(), &ViewReader(self.store.view()?), changes);
        self.write(Base::Head(pin.root()), head.order + 1, delta)
    }

    /// Commits changes on an older readable order: it becomes the newest one's base.
    pub fn fork_at(&self, order: Order, changes: impl FnOnce(StateRoot, &dyn NodeReader) -> Changes) -> Committed {
        let root = self.store.root(order).unwrap();
        let reader = ViewReader(self.store.view().unwrap());
        let delta = update(root, &changes(root, &reader), &reader).unwrap();
        self.write(Base::Retained(order, root), self.head().get() + 1, delta).unwrap()
    }

    fn write(&self, base: Base, order: u64, delta: Delta) -> Result<Committed, StoreError> {
        let delta = Arc::new(delta);
        let committed = self.store.commit(Commit {
            base,
            delta: Arc::clone(&delta),
            timestamp_ms: 1000 * order,
            block_hash: block_hash(order),
            rows: Batch::new(),
        })?;
        self.archive.keep(committed.order, &delta);
        Ok(committed)
    }
}

fn delta(
    root: StateRoot,
    reader: &dyn NodeReader,
    changes: &mut impl FnMut(StateRoot, &dyn NodeReader) -> Changes,
) -> Delta {
    let made = changes(root, reader);
    match update(root, &made, reader) {
        Ok(delta) => delta,
        // A frozen store still reads, so a fault here is a lost node whatever else goes on.
        Err(error @ TreeError::Missing(_)) => panic!("a commit on a pinned root lost a node: {error}"),
        Err(error) => panic!("{error}"),
    }
}

/// The hash of the block of an order: a function of it, so that a snapshot that mixes two orders shows.
pub fn block_hash(order: u64) -> [u8; 32] {
    Sha256::digest([b"block".as_slice(), &order.to_be_bytes()].concat()).into()
}
