//! Code of a test that runs at fixed moments inside a cycle, through the seams an embedder has: records and observer.

use std::sync::Arc;

use parking_lot::Mutex;
use state_pruner::{Observer, Place, Progress, PruneError, RecordKey, Records};
use state_store::Batch;

/// A moment inside a cycle. None of them is under the commit gate, so the test may commit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Moment {
    /// The view is taken; its snapshot is persisted.
    Captured,
    /// The phase record was saved: the first time before marking, the second time before the first delete, then after
    /// each range of a filtered sweep.
    PhaseSaved,
    /// A delete batch was read and judged, and is about to be written.
    Deleting,
    /// The worker saved the ledger of the triggers: before the first run, when a run begins, and when it has ended.
    RunSaved,
    /// The outcome of the last cycle was saved.
    OutcomeSaved,
    /// A batch boundary of some stage.
    Progress(Progress),
}

type Hook = Arc<Mutex<dyn FnMut(Moment) + Send>>;

/// One hook, called from every seam it is put into.
#[derive(Clone)]
pub struct Hooks(Hook);

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

impl Hooks {
    /// Calls `hook` at every moment.
    pub fn new(hook: impl FnMut(Moment) + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(hook)))
    }

    /// Does nothing at any moment.
    pub fn none() -> Self {
        Self::new(|_| ())
    }

    /// Tells the hook that a moment has come.
    pub fn call(&self, moment: Moment) {
        (self.0.lock())(moment);
    }

    /// Records that call the hook after each save.
    pub fn over(&self, inner: Arc<dyn Records>) -> Arc<dyn Records> {
        Arc::new(HookedRecords { inner, hooks: self.clone() })
    }
}

impl Observer for Hooks {
    fn progress(&self, progress: Progress) {
        self.call(Moment::Progress(progress));
    }
}

#[derive(Debug)]
struct HookedRecords {
    inner: Arc<dyn Records>,
    hooks: Hooks,
}

impl HookedRecords {
    fn saved(&self, key: RecordKey) {
        match key {
            RecordKey::Snapshot => self.hooks.call(Moment::Captured),
            RecordKey::Phase => self.hooks.call(Moment::PhaseSaved),
            RecordKey::LastOutcome => self.hooks.call(Moment::OutcomeSaved),
            RecordKey::Triggers if of_worker() => self.hooks.call(Moment::RunSaved),
            RecordKey::Triggers // whoever asks for a run saves it, too, perhaps while the worker is held by the hook
            | RecordKey::LastCycle
            | RecordKey::Freeze
            | RecordKey::Doubt
            | RecordKey::Quarantine
            | RecordKey::LogCut
            | RecordKey::Reports
            | RecordKey::Floor
            | RecordKey::Holds
            | RecordKey::RetentionLog
            | RecordKey::Validation
            | RecordKey::Recovery
            | RecordKey::Lock
            | RecordKey::Switch
            | RecordKey::SnapshotFailures => {}
        }
    }
}

/// Whether this is the thread of a pruner.
fn of_worker() -> bool {
    std::thread::current().name() == Some("pruner")
}

impl Records for HookedRecords {
    fn place(&self, key: RecordKey) -> Place {
        self.inner.place(key)
    }

    fn load(&self, key: RecordKey) -> Result<Option<Vec<u8>>, PruneError> {
        self.inner.load(key)
    }

    fn save(&self, key: RecordKey, bytes: &[u8]) -> Result<(), PruneError> {
        self.inner.save(key, bytes)?;
        self.saved(key);
        Ok(())
    }

    fn stage(&self, key: RecordKey, bytes: &[u8]) -> Result<(), PruneError> {
        self.inner.stage(key, bytes)?;
        self.saved(key);
        Ok(())
    }

    fn remove(&self, key: RecordKey) -> Result<(), PruneError> {
        self.inner.remove(key)
    }

    fn batch(&self, key: RecordKey, bytes: &[u8]) -> Option<Batch> {
        if key == RecordKey::Phase {
            self.hooks.call(Moment::Deleting);
        }
        self.inner.batch(key, bytes)
    }
}
