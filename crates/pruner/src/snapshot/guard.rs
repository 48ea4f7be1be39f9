//! The right of one phase to work on one snapshot.
//!
//! It answers for its own snapshot only: once another one took its place, what belongs to it is gone, not exchanged.

use std::{ops::Deref, sync::Arc};

use state_store::{BarrierHold, Permit, View};
use state_tree::Order;

use super::{
    manager::{AtomicSnapshotManager, Roots},
    types::{AtomicSnapshot, PruneSnapshot},
};
use crate::{
    error::PruneError,
    phase::PrunePhase,
    roots::{RetainedRoots, Retention},
};

/// The right of one phase to work on one snapshot; dropping it releases the lock.
pub struct SnapshotGuard<'a> {
    manager: &'a AtomicSnapshotManager,
    pub(super) snapshot: Arc<AtomicSnapshot>,
    pub(super) phase: PrunePhase,
    pub(super) permit: Permit,
}

impl std::fmt::Debug for SnapshotGuard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotGuard")
            .field("phase", &self.phase)
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}

impl Deref for SnapshotGuard<'_> {
    type Target = AtomicSnapshot;

    fn deref(&self) -> &AtomicSnapshot {
        &self.snapshot
    }
}

impl<'a> SnapshotGuard<'a> {
    pub(super) fn new(
        manager: &'a AtomicSnapshotManager,
        snapshot: Arc<AtomicSnapshot>,
        phase: PrunePhase,
        permit: Permit,
    ) -> Self {
        Self { manager, snapshot, phase, permit }
    }
}

impl SnapshotGuard<'_> {
    /// The right to delete; dead once the lock is lost (I10).
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Says that the phase makes progress: neither its lock nor its snapshot grows old (P12).
    ///
    /// Errors: the lock was lost.
    pub fn renew(&self) -> Result<(), PruneError> {
        let mut state = self.manager.state.lock();
        if !self.permit.is_current() {
            return Err(PruneError::Store(state_store::StoreError::PermitRevoked));
        }
        let now = self.manager.parts.clock.monotonic();
        if let Some(lock) = state.lock.as_mut() {
            lock.renewed = now;
        }
        if let Some(held) = state.of(self.snapshot.snapshot_id) {
            held.renewed = now;
        }
        Ok(())
    }

    /// The view of the snapshot.
    ///
    /// Errors: it was let go, or the snapshot comes from an earlier process.
    pub fn view(&self) -> Result<Arc<dyn View>, PruneError> {
        let mut state = self.manager.state.lock();
        let view = state.of(self.snapshot.snapshot_id).and_then(|held| held.view.clone());
        view.ok_or_else(|| self.unusable("its view is gone"))
    }

    /// The retained roots of the snapshot, read from its view by whoever asks first, and held against what the snapshot
    /// was sealed over.
    ///
    /// Errors: the snapshot comes from an earlier process; records that cannot be read, holes, roots that differ.
    pub fn roots(&self) -> Result<Arc<RetainedRoots>, PruneError> {
        let held = self.manager.state.lock().of(self.snapshot.snapshot_id).map(|held| held.roots.clone());
        match held {
            Some(Roots::Read(roots)) => Ok(roots),
            Some(Roots::Unread(retention)) => self.read_roots(&retention),
            Some(Roots::Gone) | None => Err(self.unusable("its roots are gone")),
        }
    }

    /// Without the state locked: a long window takes its time.
    fn read_roots(&self, retention: &Retention) -> Result<Arc<RetainedRoots>, PruneError> {
        let view = self.view()?;
        let roots = Arc::new(RetainedRoots::resolve(&*self.manager.parts.chain, &*view, retention)?);
        if PruneSnapshot::of(&roots, view.sequence()) != self.snapshot.snapshot {
            return Err(self.unusable("its roots are not those it was sealed over"));
        }
        if let Some(held) = self.manager.state.lock().of(self.snapshot.snapshot_id) {
            held.roots = Roots::Read(Arc::clone(&roots));
        }
        Ok(roots)
    }

    /// The barrier of the snapshot: reopened from the commit journal if the snapshot comes from an earlier process
    /// (S20), which must happen before that snapshot's cycle deletes anything.
    ///
    /// Errors: the journal does not cover what was committed since; abandon the cycle then.
    pub fn barrier(&self) -> Result<BarrierHold, PruneError> {
        let id = self.snapshot.snapshot_id;
        let kept = self.manager.state.lock().of(id).and_then(|held| held.barrier.clone());
        if let Some(barrier) = kept {
            return Ok(barrier);
        }
        let since = Order::new(self.snapshot.snapshot.latest_order);
        let barrier = self.manager.parts.store.reopen_barrier(since)?;
        if let Some(held) = self.manager.state.lock().of(id) {
            held.barrier = Some(barrier.clone());
        }
        Ok(barrier)
    }

    /// Gives the snapshot of an earlier process a view again, for whoever goes on with its mark: everything that it had is
    /// there, for nothing is deleted before the mark is sealed, and what came since is in the barrier, which is reopened BEFORE
    /// (I5, S20).
    ///
    /// Errors: those of [`SnapshotGuard::barrier`], which may be full; roots other than those it was sealed over.
    pub(crate) fn take_up(&self, roots: RetainedRoots) -> Result<(), PruneError> {
        if !self.snapshot.is_sealed_over(&roots) {
            return Err(self.unusable("its roots are not those it was sealed over"));
        }
        if self.barrier()?.overflow().is_some() {
            return Err(self.unusable("more was created since than its barrier remembers")); // P22, before hours of work
        }
        let view = self.manager.parts.store.view()?;
        match self.manager.state.lock().of(self.snapshot.snapshot_id) {
            Some(held) => (held.view, held.roots) = (Some(view), Roots::Read(Arc::new(roots))),
            None => return Err(self.unusable("another one took its place")),
        }
        Ok(())
    }

    /// Lets go of the view, which keeps bytes on disk; the barrier stays (L4).
    pub fn let_go_of_view(&self) {
        if let Some(held) = self.manager.state.lock().of(self.snapshot.snapshot_id) {
            held.view = None;
        }
    }

    fn unusable(&self, why: &str) -> PruneError {
        PruneError::BadSnapshot { id: self.snapshot.snapshot_id, why: why.to_owned() }
    }
}

impl Drop for SnapshotGuard<'_> {
    fn drop(&mut self) {
        self.manager.release(self.phase, &self.permit);
    }
}
