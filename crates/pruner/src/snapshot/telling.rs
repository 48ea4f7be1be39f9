//! What is told of snapshots and their locks, never under the lock of the manager.
//!
//! A round of the sweep between cycles takes its snapshot and its lock after each commit: those are told with the rounds,
//! and only what goes wrong with them is told here.

use std::{sync::Arc, time::Duration};

use super::{guard::SnapshotGuard, holder::Blocked, lock::Lock, manager::AtomicSnapshotManager, types::AtomicSnapshot};
use crate::{clock::millis, error::PruneError, events::Event, phase::PrunePhase};

/// Whether a phase comes too often to tell of each of its locks.
fn is_often(phase: PrunePhase) -> bool {
    match phase {
        PrunePhase::IncrementalSweep => true,
        PrunePhase::Idle | PrunePhase::BuildReach | PrunePhase::SweepExpired => false,
    }
}

impl AtomicSnapshotManager {
    fn tell(&self, event: Event) {
        self.parts.events.emit(event);
    }

    pub(super) fn telling_created(
        &self,
        phase: PrunePhase,
        created: Result<Arc<AtomicSnapshot>, PruneError>,
    ) -> Result<Arc<AtomicSnapshot>, PruneError> {
        match &created {
            Ok(_) if is_often(phase) => {}
            Ok(made) => {
                let (first_order, head_order) = (made.snapshot.first_order, made.snapshot.latest_order);
                self.tell(Event::SnapshotCreated { snapshot: made.snapshot_id, phase, first_order, head_order });
            }
            Err(error) => {
                let (code, message) = (error.code().to_owned(), error.to_string());
                self.tell(Event::SnapshotFailed { phase, error: code, message });
            }
        }
        created
    }

    pub(super) fn telling_refused<'a>(
        &self,
        phase: PrunePhase,
        taken: Result<SnapshotGuard<'a>, PruneError>,
    ) -> Result<SnapshotGuard<'a>, PruneError> {
        if let Err(
            PruneError::Blocked(Blocked::Held(lock)) | PruneError::LockTimeout { blocked: Blocked::Held(lock), .. },
        ) = &taken
        {
            self.tell(Event::LockRefused { phase, holder: lock.locked_by_phase, held_ms: lock.held_for_ms });
        }
        taken
    }

    /// A lock that was there before had expired, or its holder is about to let it go; its permit is dead.
    pub(super) fn tell_taken(&self, phase: PrunePhase, snapshot: u64, before: Option<Lock>) {
        if let Some(before) = before {
            let unrenewed_ms = millis(self.parts.clock.monotonic().saturating_sub(before.renewed));
            if unrenewed_ms > self.config.lock_timeout_ms {
                self.tell(Event::LockTakenOver { phase, from: before.phase, unrenewed_ms });
            } else {
                self.tell_released(before.phase); // its own release finds another lock, and tells nothing
            }
        }
        if !is_often(phase) {
            self.tell(Event::LockTaken { phase, snapshot });
        }
    }

    /// A phase that got its lock at once waited for nobody.
    pub(super) fn tell_waited(&self, phase: PrunePhase, holder: Option<PrunePhase>, begun: Duration) {
        if let Some(holder) = holder {
            let waited_ms = millis(self.parts.clock.monotonic().saturating_sub(begun));
            self.tell(Event::LockWaited { phase, holder, waited_ms });
        }
    }

    pub(super) fn tell_released(&self, phase: PrunePhase) {
        if !is_often(phase) {
            self.tell(Event::LockReleased { phase });
        }
    }
}
