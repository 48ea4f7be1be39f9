//! The sweep filter while it is switched on.

use std::sync::Arc;

use super::Store;
use crate::{
    backend::KeyRange,
    error::StoreError,
    filter::{Sweep, SweepSlot, SweepTally},
};

/// The sweep filter switched on; dropping it switches it off. Compactions that began under it end under it.
pub struct ActiveSweep<'a> {
    pub(super) store: &'a Store,
    pub(super) slot: Arc<SweepSlot>,
    pub(super) sweep: Arc<Sweep>,
}

impl ActiveSweep<'_> {
    /// Rewrites the versions of the range through the filter and returns what the filter saw meanwhile.
    ///
    /// Errors: a permit revoked before or during it, a failed or cancelled rewrite; nothing live is lost by either.
    pub fn rewrite(&self, range: &KeyRange) -> Result<SweepTally, StoreError> {
        if !self.sweep.permit().is_current() {
            return Err(StoreError::PermitRevoked);
        }
        drop(self.store.gate.lock()); // judges the newest commit: what is written beside its view is written anew once that goes
        let before = self.sweep.tally();
        self.store.backend().rewrite_files(range)?;
        if !self.sweep.permit().is_current() {
            return Err(StoreError::PermitRevoked);
        }
        Ok(self.sweep.tally().since(&before))
    }

    /// Everything the filter saw under this sweep, compactions that the engine began by itself included.
    pub fn tally(&self) -> SweepTally {
        self.sweep.tally()
    }
}

impl Drop for ActiveSweep<'_> {
    fn drop(&mut self) {
        self.slot.deactivate(&self.sweep);
    }
}
