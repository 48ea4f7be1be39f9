//! Who may delete: permits, issued and taken back. Whoever waits for the gate here waits for at most one commit or batch.

use super::Store;
use crate::{
    error::StoreError,
    permit::{Occupied, Permit},
};

impl Store {
    /// Issues the only current permit; every earlier one is dead before this returns (S39).
    pub fn issue_permit(&self) -> Permit {
        if let Some(permit) = self.fence.issue_if_free() {
            return permit;
        }
        let _gate = self.gate.lock();
        self.fence.issue()
    }

    /// Issues the only current permit if nobody has one. Waits for nobody.
    ///
    /// Errors: who has one.
    pub fn try_issue_permit(&self) -> Result<Permit, Occupied> {
        loop {
            if let Some(permit) = self.fence.issue_if_free() {
                return Ok(permit);
            }
            if let Some(occupied) = self.fence.occupied() {
                return Err(occupied);
            }
        }
    }

    /// Makes that permit useless, as [`Store::revoke`] does; a later one stays what it is.
    pub fn vacate(&self, occupied: Occupied) {
        let _gate = self.gate.lock();
        if self.fence.occupied() == Some(occupied) {
            self.fence.revoke();
        }
    }

    /// Whether whoever has the permit may delete now. Call inside the gate (I10).
    pub(super) fn admit(&self, permit: &Permit) -> Result<(), StoreError> {
        if !permit.belongs_to(&self.fence) {
            return Err(StoreError::Invariant("permit of another store".to_owned()));
        }
        if permit.is_current() { Ok(()) } else { Err(StoreError::PermitRevoked) } // I10
    }

    /// Makes every permit useless: this store is no more.
    pub(super) fn revoke_all(&self) {
        let _gate = self.gate.lock();
        self.fence.revoke();
    }

    /// Makes the permit useless; once this returns its holders delete nothing (I10). A later one stays what it is.
    pub fn revoke(&self, permit: &Permit) {
        let _gate = self.gate.lock();
        if permit.belongs_to(&self.fence) && permit.is_current() {
            self.fence.revoke();
        }
    }
}
