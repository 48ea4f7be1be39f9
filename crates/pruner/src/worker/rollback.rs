//! Going back to an older order beside a worker: what works on a later state is abandoned first, and nothing begins meanwhile,
//! nor does the cycle that goes on capture anything (S37). What became of it is told by the worker: whoever goes back may hold what commits wait for.

use std::{sync::Arc, time::Duration};

use state_store::{Batch, RolledBack};
use state_tree::Order;

use super::{
    Inner, Pruner,
    shared::{Life, Shared},
};
use crate::{
    certificate::Trigger,
    control::Control,
    error::PruneError,
    rollback::{Fate, Rollback, stayed, went_back},
    snapshot::Captures,
    trigger::Ledger,
};

/// The most events that wait for the worker when a failure is told: further ones are in the log.
const MAX_UNTOLD: usize = 64;

impl Pruner {
    /// Makes a retained order the newest one, durably. A cycle that runs, or that an earlier process left, goes on if it captured
    /// this order or an older one; nobody waits for it but for a capture under way. Else it is abandoned, after a wait for its next
    /// checkpoint. Another one is owed afterwards. `rows` are further rows of the chain in the same batch.
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
        let alone = self.alone(to);
        let at_work = alone.beside.as_ref().map(|_| Fate::GoesOn);
        let _saving = inner.saving_ledger.lock(); // what waits meanwhile is in the ledger that is saved next
        let mut untold = Vec::new();
        let rolled = Rollback { store, records, policy, at_work }.run(to, rows, inner.ledger()?, &mut untold);
        let took = inner.parts.clock.monotonic().saturating_sub(begun);
        let mut shared = inner.shared.lock();
        let (rolled, fate) = match rolled {
            Ok(rolled) => rolled,
            Err(error) => {
                shared.untold.extend(untold);
                return Err(error);
            }
        };
        shared.coordinator.rolled_back(to.get(), fate);
        shared.steady.rolled_back(to.get());
        shared.untold.extend(untold);
        shared.untold.push(went_back(rolled, took));
        shared.head = inner.head_after(to); // somebody may have committed already
        Ok(rolled)
    }

    /// Ends what is at work, unless it may go on beside a rollback to this order, waits until it has ended, and lets nothing begin
    /// before the returned value is dropped.
    fn alone(&self, to: Order) -> Alone<'_> {
        let inner = &*self.inner;
        inner.shared.lock().goes_back(Fate::GoesOn); // what begins does so under the same lock, so nothing can begin unseen
        let mut alone = Alone { pruner: self, beside: None };
        inner.end(|shared| &shared.steady.control);
        let captures = inner.snapshots.hold_captures();
        if inner.fate_of_running(&captures, to) == Some(Fate::GoesOn) {
            alone.beside = Some(captures);
            return alone;
        }
        drop(captures); // the cycle may be waiting for them
        inner.shared.lock().goes_back(Fate::GivenUp);
        inner.end(|shared| &shared.running);
        alone
    }
}

impl Inner {
    /// What becomes of what runs, if something does. While records are read again what the triggers count is about to be replaced, so
    /// nothing goes on beside that.
    fn fate_of_running(&self, captures: &Captures<'_>, to: Order) -> Option<Fate> {
        let (trigger, is_read) = {
            let shared = self.shared.lock();
            shared.running.as_ref()?;
            (shared.trigger, shared.unread.is_none())
        };
        let captured = match trigger {
            Some(Trigger::Resumed) => captures.newest(),
            Some(_) | None => captures.of_open_cycle(),
        };
        Some(Fate::of(captured.filter(|_| is_read), to))
    }

    /// Tells what is at work to end, and waits until it has. One past its last checkpoint ends by itself.
    fn end(&self, at_work: impl Fn(&Shared) -> &Option<Arc<Control>>) {
        let control = at_work(&self.shared.lock()).clone();
        control.inspect(|control| {
            control.cancel();
        });
        let mut shared = self.shared.lock();
        while at_work(&shared).is_some() {
            self.rested.wait(&mut shared);
        }
    }

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
struct Alone<'a> {
    pruner: &'a Pruner,
    /// While a cycle goes on: what it has captured is all it captures.
    beside: Option<Captures<'a>>,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut shared = self.pruner.inner.shared.lock();
        if matches!(shared.life, Life::RollingBack(_)) {
            shared.life = Life::Serving; // a stop that came meanwhile stays one
        }
        drop(shared);
        self.pruner.wake();
    }
}
