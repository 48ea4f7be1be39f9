//! Going back to a retained order: what is given up before, and what is owed afterwards.
//!
//! A cycle that captured the target or an older order goes on: its mark holds what was reached when it captured, its barrier
//! protects what was created since, and the target is made of these two. The barrier protects the nodes of the branch that is
//! left, too. They are in no list, so a cycle is owed to them (L9), and the open one does not pay it.
//!
//! Order that must not change: the record of any other cycle goes BEFORE the history that its mark was made from (S37);
//! what is owed is saved in the batch of the rollback, or BEFORE it where records live outside the store: a cycle too many
//! loses nothing.

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

/// What becomes of a cycle that is open when the chain goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// For it the rollback is one more write among commits.
    GoesOn,
    /// It captured what goes, or nothing yet.
    GivenUp,
}

impl Fate {
    /// Of a cycle that captured this order (S37).
    pub(crate) fn of(captured: Option<u64>, to: Order) -> Self {
        match captured {
            Some(captured) if captured <= to.get() => Self::GoesOn,
            Some(_) | None => Self::GivenUp,
        }
    }
}

/// What a rollback works with.
pub(crate) struct Rollback<'a> {
    pub(crate) store: &'a Store,
    pub(crate) records: &'a dyn Records,
    pub(crate) policy: &'a dyn RetentionPolicy,
    /// What becomes of the cycle that is at work; nothing else may work on the store meanwhile.
    pub(crate) at_work: Option<Fate>,
}

impl Rollback<'_> {
    /// Goes back to an order, and answers with what becomes of the open cycle. `ledger` is what the triggers have counted until now.
    /// `untold` gets what is to be told: the end of a cycle that was left, also after an error, that of its run, and what became
    /// of those who keep orders.
    ///
    /// Errors: an order that cannot be gone back to, somebody who keeps a later one, a failed read or write. After an
    /// error the history is what it was.
    pub(crate) fn run(
        &self,
        to: Order,
        mut rows: Batch,
        mut ledger: Ledger,
        untold: &mut Vec<Event>,
    ) -> Result<(RolledBack, Fate), PruneError> {
        let fate = match self.at_work {
            Some(fate) => fate,
            None => self.settle_left(to, untold)?,
        };
        let given_up = ledger.rolled_back(to.get(), fate);
        let bytes = ledger.encode()?;
        match self.records.batch(RecordKey::Triggers, &bytes) {
            Some(row) => rows.append(row),
            None => self.records.save(RecordKey::Triggers, &bytes)?,
        }
        let (rolled, of_holds) = self.policy.roll_back(self.store, to, rows)?;
        untold.splice(0..0, given_up.map(|run| run.told()));
        untold.extend(of_holds);
        let goes_on = fate == Fate::GoesOn;
        tracing::warn!(
            to = rolled.to.get(),
            from = rolled.from.get(),
            goes_on,
            "the chain went back to an older order"
        );
        Ok((rolled, fate))
    }

    /// Gives up what an earlier process left, unless it may go on.
    fn settle_left(&self, to: Order, untold: &mut Vec<Event>) -> Result<Fate, PruneError> {
        let left = PhaseRecord::load_or_give_up(self.records, &mut |event| untold.push(event))?;
        let fate = Fate::of(left.as_ref().map(|left| left.head_order), to);
        if let (Fate::GivenUp, Some(left)) = (fate, left) {
            let PhaseRecord { cycle, head_order, .. } = left;
            self.records.remove(RecordKey::Phase)?;
            tracing::warn!(cycle, head = head_order, %to, "a rollback abandons an interrupted cycle");
            let why = format!("the chain goes back to order {to}");
            let error = PruneError::NotResumable { cycle, why };
            untold.push(Event::CycleEnded(CycleEnd::early(left.so_far(), &error)));
        }
        Ok(fate)
    }
}
