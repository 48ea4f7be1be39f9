//! Going back to a retained order, once nothing is at work: what is given up before, and what is owed afterwards.
//!
//! Order that must not change: the record of a cycle that an earlier process left goes BEFORE the history that its mark
//! was made from (S37); that a cycle is owed to the nodes of the abandoned branch, which are in no list (L9), is saved in
//! the batch of the rollback, or BEFORE it where records live outside the store: a cycle too many loses nothing.

use std::time::Duration;

use state_store::{Batch, RolledBack, Store};
use state_tree::Order;

use crate::{
    clock::millis,
    error::PruneError,
    events::{CycleEnd, Event},
    phase::PhaseRecord,
    records::{RecordKey, Records},
    snapshot::RetentionPolicy,
    trigger::Ledger,
};

/// What is told of a rollback that took so long.
pub(crate) fn went_back(rolled: RolledBack, took: Duration) -> Event {
    Event::RolledBack { from: rolled.from.get(), to: rolled.to.get(), duration_ms: Some(millis(took)) }
}

/// The same of one that was refused or failed. Whoever answers nobody logs it, too.
pub(crate) fn stayed(to: Order, error: &PruneError, took: Duration) -> Event {
    let (error, message) = (error.code().to_owned(), error.to_string());
    Event::RollbackFailed { to: to.get(), error, message, duration_ms: millis(took) }
}

/// What a rollback works with.
pub(crate) struct Rollback<'a> {
    pub(crate) store: &'a Store,
    pub(crate) records: &'a dyn Records,
    pub(crate) policy: &'a dyn RetentionPolicy,
}

impl Rollback<'_> {
    /// Goes back to an order; `ledger` is what the triggers count from then on. Nobody may work on the store meanwhile. `untold`
    /// gets what is to be told: the end of a cycle that was left, also after an error, and what became of those who keep orders.
    ///
    /// Errors: an order that cannot be gone back to, somebody who keeps a later one, a failed read or write. After an
    /// error the history is what it was.
    pub(crate) fn run(
        &self,
        to: Order,
        mut rows: Batch,
        ledger: &Ledger,
        untold: &mut Vec<Event>,
    ) -> Result<RolledBack, PruneError> {
        let left = PhaseRecord::load_or_give_up(self.records, &mut |event| untold.push(event))?;
        if let Some(left) = left {
            let PhaseRecord { cycle, head_order, .. } = left;
            self.records.remove(RecordKey::Phase)?;
            tracing::warn!(cycle, head = head_order, %to, "a rollback abandons an interrupted cycle");
            let why = format!("the chain goes back to order {to}");
            let error = PruneError::NotResumable { cycle, why };
            untold.push(Event::CycleEnded(CycleEnd::early(left.so_far(), &error)));
        }
        let bytes = ledger.encode()?;
        match self.records.batch(RecordKey::Triggers, &bytes) {
            Some(row) => rows.append(row),
            None => self.records.save(RecordKey::Triggers, &bytes)?,
        }
        let (rolled, of_holds) = self.policy.roll_back(self.store, to, rows)?;
        untold.extend(of_holds);
        tracing::warn!(to = rolled.to.get(), from = rolled.from.get(), "the chain went back to an older order");
        Ok(rolled)
    }
}
