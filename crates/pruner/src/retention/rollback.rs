//! Named pins and consumers when the chain goes back to an older order.
//!
//! A pin is a promise, so a rollback that would take its order away is refused. A consumer that is ahead of the head asks
//! for nothing that is there, so it stays as it is, and the log says so.

use state_store::{Batch, RolledBack, Store, StoreError};
use state_tree::Order;

use super::{held::Now, live::LiveRetention, state::State};
use crate::{error::PruneError, rollback::Rollback, snapshot::RetentionPolicy as _, trigger::Ledger};

impl LiveRetention {
    /// Goes back to a retained order where no pruner works on the store: a cycle that an earlier process left is given
    /// up, and the next process owes one. `rows` are further rows of the chain in the same batch.
    ///
    /// Errors: an order that cannot be gone back to, somebody who keeps a later one, records that cannot be read, a failed
    /// write. After an error the history is what it was.
    pub fn rollback(&self, to: Order, rows: Batch) -> Result<RolledBack, PruneError> {
        let (store, records) = (&*self.parts.store, &*self.parts.records);
        let planned = self.check_rollback(store, to)?;
        if planned.to == planned.from {
            return Ok(planned);
        }
        let mut ledger = Ledger::load(records)?.unwrap_or_else(|| Ledger::new(self.parts.clock.unix_ms(), 0));
        ledger.rolled_back(to.get());
        Rollback { store, records, policy: self }.run(to, rows, &ledger)
    }

    /// Goes back in the lock in which pins are added.
    pub(super) fn rolled_back(&self, store: &Store, to: Order, rows: Batch) -> Result<RolledBack, PruneError> {
        let state = self.state()?;
        self.refuse_if_pinned(&state, to)?;
        let rolled = store.rollback(to, rows)?;
        for consumer in state.held.holds.consumers.iter().filter(|consumer| consumer.order > to.get()) {
            let (name, order) = (&consumer.name, consumer.order);
            tracing::warn!(name, order, head = to.get(), "a consumer is ahead of the head since a rollback");
        }
        Ok(rolled)
    }

    /// A pin whose time is over holds nothing.
    pub(super) fn refuse_if_pinned(&self, state: &State, to: Order) -> Result<(), PruneError> {
        let now = Now::of(&*self.parts.clock);
        let mut pins = state.held.holds.pins.iter();
        let Some(pin) = pins.find(|pin| pin.order > to.get() && !state.held.is_expired(pin, now)) else {
            return Ok(());
        };
        let owner = format!("pin `{}` of {}", pin.name, pin.owner);
        Err(StoreError::HeldAbove { order: Order::new(pin.order), owner }.into())
    }
}
