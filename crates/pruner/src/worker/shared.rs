//! What the worker and its callers share, under one lock that nobody holds while touching the disk.

use std::sync::Arc;

use state_store::CountsLost;

use super::{PrunerParts, left::Leftover, reclaim::ReclaimShared, steady::SteadyShared, switch::SwitchedOff};
use crate::{
    certificate::Trigger,
    control::{Control, Progress},
    error::PruneError,
    events::Event,
    health::Validated,
    outcome::{Freeze, Outcome},
    records::Records,
    recovery::ErrorRecoveryManager,
    snapshot::AtomicSnapshotManager,
    trigger::{Coordinator, Ledger},
};

pub(super) struct Shared {
    pub(super) running: Option<Arc<Control>>,
    pub(super) progress: Option<Progress>,
    /// What set off what runs.
    pub(super) trigger: Option<Trigger>,
    /// The cycle that runs, once it has an id.
    pub(super) cycle: Option<u64>,
    /// Head of the snapshot of the cycle that runs, once it has one.
    pub(super) captured: Option<u64>,
    /// Background failures of the engine up to the last cycle that finished: it got over those.
    pub(super) settled_errors: u64,
    pub(super) last: Option<Outcome>,
    pub(super) freeze: Option<Freeze>,
    pub(super) poisoned: Option<String>,
    /// What the last validation came to.
    pub(super) validation: Option<Validated>,
    /// An operator has switched pruning off.
    pub(super) off: Option<SwitchedOff>,
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) deleted: u64,
    /// Says when the next cycle begins.
    pub(super) coordinator: Coordinator,
    /// The sweep between cycles.
    pub(super) steady: SteadyShared,
    /// The record of a cycle that is not at work.
    pub(super) left: Leftover,
    /// Space that is given back while the chain is idle.
    pub(super) reclaim: ReclaimShared,
    pub(super) head: u64,
    pub(super) life: Life,
    /// The ids of an operator's request for a cycle that has not begun, and of those that joined it.
    pub(super) asked: Option<Vec<String>>,
    /// Why commits are not counted exactly any more, as told last.
    pub(super) lost: Option<CountsLost>,
    /// Events for the worker to tell.
    pub(super) untold: Vec<Event>,
}

impl Shared {
    pub(super) fn new(recalled: Recalled, coordinator: Coordinator, steady: SteadyShared, head: u64) -> Self {
        let Recalled { last, freeze, poisoned, off, validation, .. } = recalled;
        Self {
            running: None,
            progress: None,
            trigger: None,
            cycle: None,
            captured: None,
            settled_errors: 0,
            last,
            freeze,
            poisoned,
            validation,
            off,
            finished: 0,
            failed: 0,
            cancelled: 0,
            deleted: 0,
            coordinator,
            steady,
            left: Leftover::default(),
            reclaim: ReclaimShared::default(),
            head,
            life: Life::Serving,
            asked: None,
            lost: None,
            untold: Vec::new(),
        }
    }
}

/// Whether a cycle may begin.
#[derive(PartialEq, Eq)]
pub(super) enum Life {
    Serving,
    /// A rollback is under way: nothing begins.
    RollingBack,
    Stopping,
}

/// What the end of a cycle changes in the status.
#[derive(Default)]
pub(super) struct Change {
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) deleted: u64,
    /// Nodes that its mark found live, if it finished.
    pub(super) live: Option<u64>,
    pub(super) freeze: Option<Freeze>,
    pub(super) poisoned: Option<String>,
    pub(super) settled_errors: Option<u64>,
}

impl Change {
    /// Takes the change over.
    pub(super) fn apply(self, shared: &mut Shared) {
        shared.finished += self.finished;
        shared.failed += self.failed;
        shared.cancelled += self.cancelled;
        shared.deleted += self.deleted;
        shared.freeze = self.freeze.or(shared.freeze.take());
        shared.poisoned = self.poisoned.or(shared.poisoned.take());
        shared.settled_errors = self.settled_errors.unwrap_or(shared.settled_errors);
    }
}

/// What earlier processes left.
pub(super) struct Recalled {
    pub(super) last: Option<Outcome>,
    pub(super) freeze: Option<Freeze>,
    pub(super) ledger: Option<Ledger>,
    pub(super) validation: Option<Validated>,
    pub(super) off: Option<SwitchedOff>,
    /// Why nothing is pruned: records that are unusable are a reason.
    pub(super) poisoned: Option<String>,
}

/// Loads the snapshot of an earlier process, or gives up its record where that alone is damaged.
fn recall_snapshot(snapshots: &AtomicSnapshotManager, recovery: &ErrorRecoveryManager) -> Result<(), PruneError> {
    match snapshots.initialize() {
        Err(error) if error.is_damaged_artefact() && recovery.config().enable_snapshot_recovery => {
            tracing::error!(%error, "the record of the snapshot is damaged; the next one takes its place");
            recovery.snapshot_given_up(&error);
            snapshots.forget_damaged()
        }
        other => other,
    }
}

/// Reads the records.
pub(super) fn recall(
    parts: &PrunerParts,
    snapshots: &AtomicSnapshotManager,
    recovery: &ErrorRecoveryManager,
) -> Recalled {
    let read = || -> Result<Recalled, PruneError> {
        recovery.initialize_or_tell()?;
        recall_snapshot(snapshots, recovery)?;
        let records = &*parts.records;
        let (last, freeze, ledger) = (Outcome::load(records)?, Freeze::load(records)?, Ledger::load(records)?);
        let (off, validation) = (SwitchedOff::load(records)?, recall_validation(records));
        Ok(Recalled { last, freeze, ledger, off, validation, poisoned: None })
    };
    match read() {
        Ok(recalled) => recalled,
        Err(error) => {
            tracing::error!(%error, "the records of the pruner are unusable; the node serves, nothing is pruned");
            let poisoned = Some(error.to_string());
            Recalled { last: None, freeze: None, ledger: None, off: None, validation: None, poisoned }
        }
    }
}

/// Nothing is deleted on the strength of this record: one that is unusable is a fault to tell, and no reason to stop.
fn recall_validation(records: &dyn Records) -> Option<Validated> {
    match Validated::load(records) {
        Ok(validated) => validated,
        Err(error) => {
            tracing::warn!(%error, "the outcome of the last validation is unusable");
            let failed = vec![format!("its own record is unusable: {error}")];
            Some(Validated { at: 0, passed: 0, skipped: 0, failed })
        }
    }
}
