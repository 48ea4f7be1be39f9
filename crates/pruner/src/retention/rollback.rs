//! Named pins and consumers when the chain goes back to an older order.
//!
//! A pin is a promise, so a rollback that would take its order away is refused. A consumer that is ahead of the head asks
//! for nothing that is there, so it stays as it is; log, event and status say so, since what it has seen of the orders that are
//! gone it has to take back itself.

use std::sync::Arc;

use state_store::{Batch, RolledBack, Store};
use state_tree::Order;

use super::{held::Now, holds::Consumer, live::LiveRetention, log::RetentionLog, state::State};
use crate::{
    error::PruneError,
    events::Event,
    records::RecordKey,
    rollback::{Rollback, stayed, went_back},
    snapshot::RetentionPolicy as _,
    trigger::Ledger,
};

impl LiveRetention {
    /// Goes back to a retained order where no pruner works on the store, and tells what became of it. A cycle that an earlier
    /// process left is given up, unless it captured this order or an older one; the next process owes another one. `rows` are
    /// further rows of the chain in the same batch.
    ///
    /// Errors: an order that cannot be gone back to, somebody who keeps a later one, records that cannot be read, a failed
    /// write. After an error the history is what it was.
    pub fn rollback(&self, to: Order, rows: Batch) -> Result<RolledBack, PruneError> {
        let clock = &*self.parts.clock;
        let begun = clock.monotonic();
        let rolled = self.go_back(to, rows);
        let took = clock.monotonic().saturating_sub(begun);
        match &rolled {
            Ok(rolled) if rolled.to == rolled.from => {} // nothing was left to do
            Ok(rolled) => self.parts.events.emit(went_back(*rolled, took)),
            Err(error) => self.parts.events.emit(stayed(to, error, took)),
        }
        rolled
    }

    fn go_back(&self, to: Order, rows: Batch) -> Result<RolledBack, PruneError> {
        let (store, records) = (&*self.parts.store, &*self.parts.records);
        let planned = self.check_rollback(store, to)?;
        if planned.to == planned.from {
            return Ok(planned);
        }
        let ledger = Ledger::load(records)?.unwrap_or_else(|| Ledger::new(self.parts.clock.unix_ms(), 0));
        let mut untold = Vec::new();
        let rolled = Rollback { store, records, policy: self, at_work: None }.run(to, rows, ledger, &mut untold);
        untold.into_iter().for_each(|event| self.parts.events.emit(event));
        rolled.map(|(rolled, _)| rolled)
    }

    /// Goes back in the lock in which pins are added. What is to be told of consumers comes with the answer.
    pub(super) fn rolled_back(
        &self,
        store: &Store,
        to: Order,
        rows: Batch,
    ) -> Result<(RolledBack, Vec<Event>), PruneError> {
        let mut state = self.state()?;
        self.refuse_if_pinned(&state, to)?;
        let rolled = self.rolled_back_and_logged(&mut state, store, (to, rows))?;
        let (was, head) = (rolled.from.get(), to.get());
        let consumers = state.held.holds.consumers.iter();
        // One beyond what there was has seen nothing of it.
        let has_seen = |consumer: &&Consumer| consumer.order > head && consumer.order <= was.saturating_add(1);
        let ahead: Vec<Consumer> = consumers.filter(has_seen).filter(|_| was > head).cloned().collect();
        drop(state); // whoever logs may wait
        let untold = ahead.into_iter().map(|Consumer { name, order, .. }| {
            tracing::warn!(name, order, head, "a consumer is ahead of the head since a rollback");
            Event::ConsumerAhead { name, order, head }
        });
        Ok((rolled, untold.collect()))
    }

    /// The head that is gone back from is written down in the same batch, so that what was above is not told as never committed.
    fn rolled_back_and_logged(
        &self,
        state: &mut State,
        store: &Store,
        (to, mut rows): (Order, Batch),
    ) -> Result<RolledBack, PruneError> {
        let ends = store.head().zip(store.floor()).filter(|(head, _)| head.order > to.get());
        let Some((was, floor)) = ends else { return Ok(store.rollback(to, rows)?) };
        let log = RetentionLog::clone(&state.log).went_back(was.order, floor, self.parts.clock.unix_ms());
        let (bytes, records) = (log.encode()?, &*self.parts.records);
        let staged = records.batch(RecordKey::RetentionLog, &bytes);
        let outside = staged.is_none();
        staged.into_iter().for_each(|staged| rows.append(staged));
        let rolled = store.rollback(to, rows)?;
        let saved = if outside { records.stage(RecordKey::RetentionLog, &bytes) } else { Ok(()) };
        if let Err(error) = saved {
            tracing::warn!(%error, "the head that was gone back from could not be written down; the chain did go back");
        }
        state.log = Arc::new(log);
        self.publish(state);
        Ok(rolled)
    }

    /// A pin whose time is over holds nothing.
    pub(super) fn refuse_if_pinned(&self, state: &State, to: Order) -> Result<(), PruneError> {
        let now = Now::of(&*self.parts.clock);
        let mut pins = state.held.holds.pins.iter();
        let Some(pin) = pins.find(|pin| pin.order > to.get() && !state.held.is_expired(pin, now)) else {
            return Ok(());
        };
        Err(PruneError::PinnedAbove { name: pin.name.clone(), owner: pin.owner.clone(), order: pin.order })
    }
}
