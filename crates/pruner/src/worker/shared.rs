//! What the worker and its callers share, under one lock that nobody holds while touching the disk.

use std::sync::Arc;

use super::PrunerParts;
use crate::{
    certificate::Trigger,
    control::{Control, Progress},
    outcome::{Freeze, Outcome},
    snapshot::AtomicSnapshotManager,
};

#[derive(Default)]
pub(super) struct Shared {
    pub(super) running: Option<Arc<Control>>,
    pub(super) progress: Option<Progress>,
    /// What set off what runs.
    pub(super) trigger: Option<Trigger>,
    /// The cycle that runs, once it has an id.
    pub(super) cycle: Option<u64>,
    /// Background failures of the engine up to the last cycle that finished: it got over those.
    pub(super) settled_errors: u64,
    pub(super) last: Option<Outcome>,
    pub(super) freeze: Option<Freeze>,
    pub(super) poisoned: Option<String>,
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) deleted: u64,
    /// Head order of the last snapshot that a cycle finished or failed on.
    pub(super) base: u64,
    pub(super) head: u64,
    pub(super) life: Life,
    /// An operator asked for a cycle that has not begun.
    pub(super) asked: Asked,
}

/// Whether an operator's request waits.
#[derive(Default, PartialEq, Eq)]
pub(super) enum Asked {
    #[default]
    No,
    Yes,
}

/// Whether a cycle may begin.
#[derive(Default, PartialEq, Eq)]
pub(super) enum Life {
    #[default]
    Serving,
    Stopping,
}

/// What the end of a cycle changes in the status.
#[derive(Default)]
pub(super) struct Change {
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) deleted: u64,
    pub(super) freeze: Option<Freeze>,
    pub(super) poisoned: Option<String>,
    pub(super) last: Option<Outcome>,
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
        if let Some(last) = self.last {
            shared.base = last.head_order.unwrap_or(shared.base);
            shared.last = Some(last);
        }
    }
}

/// What earlier processes left; records that are unusable are a reason not to prune.
pub(super) fn recall(
    parts: &PrunerParts,
    snapshots: &AtomicSnapshotManager,
) -> (Option<Outcome>, Option<Freeze>, Option<String>) {
    let recalled =
        snapshots.initialize().and_then(|()| Ok((Outcome::load(&*parts.records)?, Freeze::load(&*parts.records)?)));
    match recalled {
        Ok((last, freeze)) => (last, freeze, None),
        Err(error) => {
            tracing::error!(%error, "the records of the pruner are unusable; the node serves, nothing is pruned");
            (None, None, Some(error.to_string()))
        }
    }
}
