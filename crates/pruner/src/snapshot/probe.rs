//! Trying snapshots and their lock without getting into the way of whoever works.
//!
//! A rehearsal captures as a cycle does and lets go at once: the current snapshot, its lock and its record stay. A probe
//! takes the permit only while nobody has one, and gives way: a phase that comes takes its lock over a probe as if there
//! were none, and the permit of the probe is dead (S39).

use std::time::Duration;

use state_store::Permit;

use super::{
    lock::Lock,
    manager::{AtomicSnapshotManager, Held},
    types::AtomicSnapshot,
};
use crate::{error::PruneError, phase::PrunePhase};

/// Rehearsed snapshots are given out to nobody, so they need no id of their own: real ones begin at 1.
const REHEARSED: u64 = 0;

/// Why a probe was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotNow {
    /// A phase has the lock.
    Phase(PrunePhase),
    /// Another probe is at work.
    Probe,
}

impl std::fmt::Display for NotNow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Phase(phase) => write!(f, "phase {phase} of a cycle holds the lock"),
            Self::Probe => f.write_str("another validation probes the lock"),
        }
    }
}

/// The lock in the hands of nobody's phase; dropping it gives it back.
pub(crate) struct Probe<'a> {
    manager: &'a AtomicSnapshotManager,
    permit: Permit,
}

impl Probe<'_> {
    pub(crate) fn permit(&self) -> &Permit {
        &self.permit
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.manager.parts.store.revoke(&self.permit);
        let mut state = self.manager.state.lock();
        if state.probe.as_ref().is_some_and(|probe| probe.generation() == self.permit.generation()) {
            state.probe = None;
        }
    }
}

/// How the lock stands beside its permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockStanding {
    /// Nobody has it.
    Free,
    /// A phase has it, under the permit of this generation, and may delete.
    Held(PrunePhase, u64),
    /// A phase has it, and its permit is dead: for a moment while it is released, else because somebody issued permits
    /// beside this manager.
    Dead(PrunePhase, u64),
}

impl AtomicSnapshotManager {
    /// Takes a snapshot as a cycle would, and lets go of it.
    ///
    /// Errors: those of [`AtomicSnapshotManager::create_snapshot`], but for a lock that is held.
    pub(crate) fn rehearse(&self) -> Result<AtomicSnapshot, PruneError> {
        let held = self.fix(PrunePhase::Idle, REHEARSED)?;
        Ok(AtomicSnapshot::clone(&held.snapshot))
    }

    /// Takes the permit if nobody has it.
    pub(crate) fn probe(&self) -> Result<Probe<'_>, NotNow> {
        let mut state = self.state.lock();
        if let Some(lock) = state.lock.as_ref().filter(|lock| lock.is_alive()) {
            return Err(NotNow::Phase(lock.phase)); // an expired lock, too: its cycle may only be paused
        }
        if state.probe.as_ref().is_some_and(Permit::is_current) {
            return Err(NotNow::Probe);
        }
        // Without waiting for a commit, because the state is locked. Whoever has one all the same is no phase.
        let permit = self.parts.store.try_issue_permit().map_err(|_| NotNow::Probe)?;
        state.probe = Some(permit.clone());
        Ok(Probe { manager: self, permit })
    }

    /// How the lock stands.
    pub(crate) fn lock_standing(&self) -> LockStanding {
        let standing = |lock: &Lock| match lock.is_alive() {
            true => LockStanding::Held(lock.phase, lock.permit.generation()),
            false => LockStanding::Dead(lock.phase, lock.permit.generation()),
        };
        self.state.lock().lock.as_ref().map_or(LockStanding::Free, standing)
    }

    /// What a restart would find, and what is held now.
    ///
    /// Errors: a record that cannot be read or fails its integrity hash.
    pub(crate) fn saved_and_held(&self) -> Result<(Option<AtomicSnapshot>, Option<AtomicSnapshot>), PruneError> {
        Ok((self.saved()?, self.status().snapshot))
    }
    /// Whether snapshots survive a restart.
    pub(crate) fn persists(&self) -> bool {
        self.config.enable_persistence
    }

    /// For how long the view of the current snapshot is held without progress, if it is.
    pub(crate) fn view_age(&self) -> Option<Duration> {
        let (state, now) = (self.state.lock(), self.parts.clock.monotonic());
        let held: Option<&Held> = state.held.as_ref().filter(|held| held.view.is_some());
        held.map(|held| now.saturating_sub(held.renewed))
    }

    /// A snapshot that was not renewed for so long is not used any more.
    pub(crate) fn longest_age(&self) -> Duration {
        Duration::from_millis(self.config.max_snapshot_age_ms)
    }
}
