//! The chain going back to an older order, between two blocks.
//!
//! A block names its height and its parent, and its commit only the root that it was computed on: where two orders have
//! one root, a block of the abandoned branch would fit on the older one. So none is in the making meanwhile. It is the
//! older head that the next one is computed on, and its time does not lie before that (C16).

use state_store::{Batch, RolledBack, Table};
use state_tree::Order;

use super::Chain;

impl Chain {
    /// Goes back between two blocks by what is given, which gets the rows that go with the orders after `to`. What
    /// waits for a block waits, and gets one on the older state.
    ///
    /// Errors: those of what is given.
    pub fn rollback<E>(
        &self,
        to: Order,
        go_back: impl FnOnce(Batch) -> Result<RolledBack, E>,
    ) -> Result<RolledBack, E> {
        let _between_blocks = self.producing.lock();
        go_back(rows_above(to))
    }
}

/// The rows that go with every order after `to`: its block.
pub(crate) fn rows_above(to: Order) -> Batch {
    let mut rows = Batch::new();
    if let Some(first) = to.next() {
        rows.delete_range(Table::BLOCK, first.to_key(), Order::new(u64::MAX).to_key());
    }
    rows
}
