//! Going back to a retained order: what came after it is taken away, with what was journalled for it (rule 8).
//!
//! Promise: head, roots, journal, the marks that the branch made first, and the chain's own rows change in one batch (S36). Orders
//! are used again, so whatever becomes of the counts, no mark stays that says it was made first by an order that is gone. The
//! nodes of the branch that is left are in no list and wait for a major cycle, which the caller owes (L9).
//! A cycle that captured an order above the target must have been abandoned (S37): whoever owns the cycles sees to it. For any
//! other a rollback is one more write among commits: what it traced is still there, and what was created since is protected.
//!
//! Costs: the gate is held for one scan of the marks, one synced write, and taking what the branch lost out of the index.

use state_tree::Order;

use super::Store;
use crate::{
    backend::{Batch, Durability},
    bundle,
    chain::{HeadRecord, native},
    counting::{CountsRecord, Mode},
    error::{HeadOrder, StoreError},
    gate::ChainState,
    lost::{CountsLost, LostBy},
    many, record,
    schema::Table,
};

/// What a rollback did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolledBack {
    /// The newest order now.
    pub to: Order,
    /// The newest order before.
    pub from: Order,
}

impl Store {
    /// What a rollback to this order would do as things stand, without doing it. Does not wait for a commit.
    ///
    /// Errors: an order that is pruned, kept below the range or does not exist, a reader that holds a later one.
    pub fn check_rollback(&self, to: Order) -> Result<RolledBack, StoreError> {
        let head = self.admit_rollback(to)?;
        match self.look(|chain| chain.held_above(to))? {
            Some((order, owner)) => Err(StoreError::HeldAbove { order, owner }),
            None => Ok(RolledBack { to, from: Order::new(head.order) }),
        }
    }

    /// The head, if the chain can go back to this order as far as the order itself goes.
    fn admit_rollback(&self, to: Order) -> Result<HeadRecord, StoreError> {
        let (head, floor, known) = self.look(|chain| (chain.head(), chain.floor(), chain.root(to)))?;
        known?;
        if to < floor {
            return Err(StoreError::KeptBelow { order: to, floor }); // nothing can be built on it
        }
        head.ok_or(StoreError::NoSuchOrder { order: to, head: HeadOrder(None) })
    }

    /// Makes a retained order the newest one, durably. `rows` are further rows of the chain in the same batch.
    ///
    /// Errors: an order that is pruned or does not exist, a reader that holds a later one, a failed write. After an error
    /// nothing has changed.
    pub fn rollback(&self, to: Order, rows: Batch) -> Result<RolledBack, StoreError> {
        let mut gate = self.caught_up();
        let head = self.admit_rollback(to)?;
        let from = Order::new(head.order);
        if to == from {
            return Ok(RolledBack { to, from });
        }
        let mut marks = many::first_made_above(&*self.view()?, to)?;
        marks.extend(gate.marks.bundles().above(to));
        if let Some((order, owner)) = self.change(|chain| chain.close_above(to))? {
            return Err(StoreError::HeldAbove { order, owner });
        }
        let inexact = matches!(gate.mode, Mode::Exact(counts) if counts.since > to.get());
        let lost = inexact.then(|| CountsLost { by: LostBy::Rollback, order: to.get() });
        let rolled = match self.write_rollback((to, head), rows, (lost, &marks)) {
            Ok(rolled) => rolled,
            Err(error) => {
                if !marks.is_empty() {
                    gate.marks.forget(); // what is marked on disk now is not known
                }
                self.change(ChainState::open_above)?;
                return Err(error);
            }
        };
        gate.roll_back(to, lost, &marks);
        self.note(&gate);
        self.change(|chain| chain.rolled_back(rolled))?;
        Ok(RolledBack { to, from })
    }

    /// Everything a rollback writes, in one batch (S36).
    fn write_rollback(
        &self,
        (to, head): (Order, HeadRecord),
        rows: Batch,
        (lost, marks): (Option<CountsLost>, &[u64]),
    ) -> Result<HeadRecord, StoreError> {
        let record = native::read_root(&*self.view()?, to)?;
        let at = record.ok_or_else(|| StoreError::Invariant(format!("order {to} is retained without a record")))?;
        let rolled = HeadRecord { order: to.get(), at, ..head }; // commit ids and totals go on: they are never reused
        let mut batch = rows;
        batch.put(Table::CHAIN, native::HEAD_KEY, record::encode(&rolled)?);
        for table in [Table::ROOT, Table::JOURNAL] {
            let (first, behind) = (to.next(), Order::new(head.order).next());
            let (Some(first), Some(behind)) = (first, behind) else { continue };
            batch.delete_range(table, first.to_key(), behind.to_key());
        }
        marks.iter().for_each(|fingerprint| many::delete(&mut batch, *fingerprint));
        bundle::delete_above(&mut batch, to);
        if let Some(lost) = lost {
            CountsRecord::lose(&mut batch, lost)?;
        }
        self.backend().write(&batch, Durability::Synced)?;
        Ok(rolled)
    }
}
