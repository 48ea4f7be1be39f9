//! Going back to an older order beside a worker: whatever works is abandoned first, and nothing begins meanwhile (S37).
//! What became of it is told by the worker: whoever goes back may hold what commits wait for.

use std::time::Duration;

use state_store::{Batch, RolledBack};
use state_tree::Order;

use super::{Inner, Pruner, shared::Life};
use crate::{
    error::PruneError,
    rollback::{Rollback, stayed, went_back},
    trigger::Ledger,
};

/// The most events that wait for the worker when a failure is told: further ones are in the log.
const MAX_UNTOLD: usize = 64;

impl Pruner {
    /// Makes a retained order the newest one, durably. A cycle that runs, or that an earlier process left, is abandoned,
    /// and one is owed afterwards. `rows` are further rows of the chain in the same batch. Waits for what is at work to
    /// reach its next checkpoint.
    ///
    /// Errors: an order that is pruned or does not exist, a pin or a reader on a later one, records that cannot be read, a
    /// failed write. After an error the history is what it was; a refusal that is known before abandons nothing.
    pub fn rollback(&self, to: Order, rows: Batch) -> Result<RolledBack, PruneError> {
        let inner = &*self.inner;
        let begun = inner.parts.clock.monotonic();
        let rolled = self.go_back(to, rows, begun);
        if let Err(error) = &rolled {
            tracing::warn!(%to, code = error.code(), "the chain did not go back: {error}");
            let event = stayed(to, error, inner.parts.clock.monotonic().saturating_sub(begun));
            let mut shared = inner.shared.lock();
            if shared.untold.len() < MAX_UNTOLD {
                shared.untold.push(event);
            }
            drop(shared);
            self.wake();
        }
        rolled
    }

    fn go_back(&self, to: Order, rows: Batch, begun: Duration) -> Result<RolledBack, PruneError> {
        let inner = &*self.inner;
        let _single = inner.rolling_back.lock();
        let (store, records) = (&*inner.parts.store, &*inner.parts.records);
        let policy = &*inner.snapshot_parts.policy;
        let planned = policy.check_rollback(store, to)?;
        if planned.to == planned.from {
            return Ok(planned);
        }
        Ledger::load(records)?; // one that is unusable is not written over
        let _alone = self.alone();
        let _saving = inner.saving_ledger.lock(); // what waits meanwhile is in the ledger that is saved next
        let mut ledger = inner.ledger()?;
        let given_up = ledger.rolled_back(to.get());
        let mut untold = Vec::new();
        let rolled = Rollback { store, records, policy }.run(to, rows, &ledger, &mut untold);
        let took = inner.parts.clock.monotonic().saturating_sub(begun);
        let mut shared = inner.shared.lock();
        let rolled = match rolled {
            Ok(rolled) => rolled,
            Err(error) => {
                shared.untold.extend(untold);
                return Err(error);
            }
        };
        shared.coordinator.rolled_back(to.get());
        shared.steady.rolled_back(to.get());
        shared.untold.extend(given_up.map(|run| run.told()).into_iter().chain(untold));
        shared.untold.push(went_back(rolled, took));
        shared.head = inner.head_after(to); // somebody may have committed already
        Ok(rolled)
    }

    /// Ends what is at work, waits until it has ended, and lets nothing begin before the returned value is dropped.
    fn alone(&self) -> Alone<'_> {
        let inner = &*self.inner;
        let at_work = {
            let mut shared = inner.shared.lock();
            if shared.life == Life::Serving {
                shared.life = Life::RollingBack; // what begins does so under the same lock, so nothing can begin unseen
            }
            [shared.running.clone(), shared.steady.control.clone()]
        };
        let alone = Alone(self);
        at_work.iter().flatten().for_each(|control| {
            control.cancel(); // one past its last checkpoint ends by itself, and is waited for like the others
        });
        let mut shared = inner.shared.lock();
        while shared.running.is_some() || shared.steady.control.is_some() {
            inner.rested.wait(&mut shared);
        }
        drop(shared);
        alone
    }
}

impl Inner {
    /// What the triggers count from; that of an earlier process as long as it was not taken over.
    fn ledger(&self) -> Result<Ledger, PruneError> {
        {
            let shared = self.shared.lock();
            if shared.unread.is_none() {
                return Ok(shared.coordinator.ledger().clone());
            }
        }
        let saved = Ledger::load(&*self.parts.records)?;
        Ok(saved.unwrap_or_else(|| Ledger::new(self.parts.clock.unix_ms(), 0)))
    }
}

/// The time of a rollback.
struct Alone<'a>(&'a Pruner);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut shared = self.0.inner.shared.lock();
        if shared.life == Life::RollingBack {
            shared.life = Life::Serving; // a stop that came meanwhile stays one
        }
        drop(shared);
        self.0.wake();
    }
}
