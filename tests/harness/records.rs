//! Records in whose way something stands: what a test says, before each use.

use std::sync::Arc;

use state_pruner::{Place, PruneError, RecordKey, Records};
use state_store::Batch;

/// What is done with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is read.
    Load,
    /// It is written, now or in a batch.
    Save,
    /// It is removed.
    Remove,
}

type Act = dyn Fn(Use, RecordKey) -> Result<(), PruneError> + Send + Sync;

/// Records that ask the test before each use; what it refuses is not done.
pub struct Acting {
    inner: Arc<dyn Records>,
    act: Box<Act>,
}

impl Acting {
    /// Records over others. A batch is told and cannot be refused.
    pub fn over(
        inner: Arc<dyn Records>,
        act: impl Fn(Use, RecordKey) -> Result<(), PruneError> + Send + Sync + 'static,
    ) -> Arc<dyn Records> {
        Arc::new(Self { inner, act: Box::new(act) })
    }
}

impl std::fmt::Debug for Acting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acting")
    }
}

impl Records for Acting {
    fn place(&self, key: RecordKey) -> Place {
        self.inner.place(key)
    }

    fn load(&self, key: RecordKey) -> Result<Option<Vec<u8>>, PruneError> {
        (self.act)(Use::Load, key)?;
        self.inner.load(key)
    }

    fn save(&self, key: RecordKey, bytes: &[u8]) -> Result<(), PruneError> {
        (self.act)(Use::Save, key)?;
        self.inner.save(key, bytes)
    }

    fn stage(&self, key: RecordKey, bytes: &[u8]) -> Result<(), PruneError> {
        (self.act)(Use::Save, key)?;
        self.inner.stage(key, bytes)
    }

    fn remove(&self, key: RecordKey) -> Result<(), PruneError> {
        (self.act)(Use::Remove, key)?;
        self.inner.remove(key)
    }

    fn batch(&self, key: RecordKey, bytes: &[u8]) -> Option<Batch> {
        (self.act)(Use::Save, key).expect("a batch is not refused");
        self.inner.batch(key, bytes)
    }
}
